/**
 * The front door: sandboxes by their durable ids, whatever provider runs them and whatever store keeps them.
 *
 * Every method checks its arguments first, fails with a typed error, and is one span `SandboxService.<method>`. Which reasons
 * a method can fail with is {@link methodReasons}; files and program starts fail with Effect's `PlatformError` besides.
 *
 * Plain commands (`runCommand`, `streamCommand`, `spawn`) are scoped and written nowhere. Recorded ones
 * (`runCommandProcess`, `runCommandWithProcessStream`) have a durable log and survive this service.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import type * as PlatformError from "effect/PlatformError"
import type * as ChildProcess from "effect/process/ChildProcess"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { ReasonTag, SandboxError } from "../errors.ts"
import { isSandboxError, Unknown } from "../errors.ts"
import type { Checkpoint } from "../model/Checkpoint.ts"
import type { ProcessId, SandboxId } from "../model/Ids.ts"
import type { CommandResult, OutputEvent, ProcessRecord, ProcessRunResult } from "../model/Process.ts"
import { ProcessStatus } from "../model/Process.ts"
import type { ProcessEvent } from "../model/ProcessEvent.ts"
import type { RecoveryEvent } from "../model/RecoveryEvent.ts"
import type { SandboxConfigInput } from "../model/SandboxConfig.ts"
import type { SandboxRecord } from "../model/SandboxRecord.ts"
import { SandboxStatus } from "../model/SandboxRecord.ts"
import type { SandboxRef } from "../model/SandboxRef.ts"
import * as CheckpointsPart from "./internal/Checkpoints.ts"
import type { CheckpointOptions } from "./internal/Checkpoints.ts"
import * as CommandsPart from "./internal/Commands.ts"
import type { Argument, CommandOptions } from "./internal/Commands.ts"
import type { Core, RecoveryOverrides } from "./internal/core.ts"
import * as core from "./internal/core.ts"
import * as FilesPart from "./internal/Files.ts"
import type { FileEntry, PortOptions } from "./internal/Files.ts"
import { insideOf } from "./internal/inside.ts"
import * as LifecyclePart from "./internal/Lifecycle.ts"
import type { Created, CreateOptions } from "./internal/Lifecycle.ts"
import * as MachinesPart from "./internal/Machines.ts"
import type { Reconnected } from "./internal/Machines.ts"
import * as ObservedPart from "./internal/Observed.ts"
import type { ObservedChunk, ObservedFinish, ObservedStart } from "./internal/Observed.ts"
import * as PlatformPart from "./internal/Platform.ts"
import type { PlatformServices } from "./internal/Platform.ts"
import * as ProcessesPart from "./internal/Processes.ts"
import type { ProcessOptions, SandboxProcess } from "./internal/Processes.ts"
import * as Skills from "./internal/skills.ts"
import { logCalls, storeCalls } from "./internal/storeCalls.ts"
import * as spawner from "./internal/spawner.ts"
import type { SandboxProcessHandle } from "./internal/spawner.ts"
import { LeaseOwner } from "./LeaseOwner.ts"
import type { ReadOptions } from "./ProcessLog.ts"
import { ProcessLog } from "./ProcessLog.ts"
import { ProviderRegistry } from "./ProviderRegistry.ts"
import { RecoveryPolicy } from "./RecoveryPolicy.ts"
import { Repopulate } from "./Repopulate.ts"
import type { PortUrl, SignalOptions } from "./SandboxProvider.ts"
import { SandboxSecrets } from "./SandboxSecrets.ts"
import { serviceSettings } from "./SandboxSettings.ts"
import type { ProcessFilter, SandboxFilter } from "./SandboxStore.ts"
import { SandboxStore } from "./SandboxStore.ts"

export type {
  Argument,
  CheckpointOptions,
  CommandOptions,
  Created,
  CreateOptions,
  FileEntry,
  ObservedChunk,
  ObservedFinish,
  ObservedStart,
  PlatformServices,
  PortOptions,
  ProcessOptions,
  Reconnected,
  RecoveryOverrides,
  SandboxProcess,
  SandboxProcessHandle
}

type Failure = SandboxError | PlatformError.PlatformError

/** Sandboxes by their durable ids. */
export class SandboxService extends Context.Service<
  SandboxService,
  {
    /**
     * Makes a sandbox. The record is written before the vendor is asked, so that a crash in between is found and finished.
     * With a `sandboxId` of the caller's it is idempotent: the same id and config return the sandbox that there is, also one at
     * rest; one whose disk is gone for good is `Stopped`. Skills of the config are in place before anybody gets it; if they cannot be, the creation has failed.
     */
    readonly createSandbox: (
      config?: SandboxConfigInput,
      options?: CreateOptions
    ) => Effect.Effect<Created, SandboxError>
    /** The record as it stands in the store; asks no vendor. */
    readonly getSandbox: (id: string) => Effect.Effect<SandboxRecord, SandboxError>
    /** The records, newest first, read in pages as the stream is pulled. */
    readonly listSandboxes: (filter?: SandboxFilter) => Stream.Stream<SandboxRecord, SandboxError>
    /**
     * Brings the sandbox back, also one that was stopped if it is persistent, and tells what survived. With `ifStatus` it changes
     * nothing, and fails `Store(Conflict)`, when the record has another status by then.
     */
    readonly reconnectToSandbox: (
      id: string,
      options?: { readonly recovery?: RecoveryOverrides | undefined; readonly ifStatus?: SandboxStatus | undefined }
    ) => Effect.Effect<Reconnected, SandboxError>
    /**
     * The recoveries of this service as they happen, from when the stream is run; it ends with the service. A reader that falls 256
     * events behind misses the oldest.
     */
    readonly recoveries: Stream.Stream<RecoveryEvent>
    /**
     * Stops the sandbox and boots nothing for it. Deletes the machine if that was resolved at create, or with `delete`. Open
     * recorded processes become `lost`. A second stop succeeds; a failed one is `StopIncomplete` and can be repeated. With `ifStatus` it
     * changes nothing, and fails `Store(Conflict)`, when the record has another status by then.
     */
    readonly stopSandbox: (
      id: string,
      options?: { readonly delete?: boolean | undefined; readonly ifStatus?: SandboxStatus | undefined }
    ) => Effect.Effect<void, SandboxError>
    /** Lets the lease of the machine end `duration` from now. */
    readonly extendTimeout: (id: string, duration: Duration.Input) => Effect.Effect<void, SandboxError>
    /**
     * Runs a program to its end: never a shell, every argument arrives byte for byte. A non-zero exit is a value. Interrupting
     * kills its process group. What the sandbox took with it has no exit: `OutcomeUnknown` when it was stopped, `Timeout` with the
     * clock `sandbox` when its lease ended; so for all plain commands, where the provider tells such an end apart.
     */
    readonly runCommand: (
      id: string,
      command: string,
      args?: ReadonlyArray<Argument>,
      options?: CommandOptions
    ) => Effect.Effect<CommandResult, Failure>
    /** The output as it comes and, last, the exit. What is not pulled is not read; ending the stream early kills. */
    readonly streamCommand: (
      id: string,
      command: string,
      args?: ReadonlyArray<Argument>,
      options?: CommandOptions
    ) => Stream.Stream<OutputEvent, Failure>
    /** Runs Effect's own `ChildProcess` command in the sandbox; its handle also names the process by its own ids. */
    readonly spawn: (
      id: string,
      command: ChildProcess.Command
    ) => Effect.Effect<SandboxProcessHandle, Failure, Scope.Scope>
    /**
     * Starts a recorded process. The default `mode` is `background`, which returns once it is accepted; `foreground` returns
     * when it has ended.
     */
    readonly runCommandProcess: (
      id: string,
      command: string,
      args?: ReadonlyArray<Argument>,
      options?: ProcessOptions
    ) => Effect.Effect<SandboxProcess, Failure>
    /** Runs a recorded process to its end and yields its result; in `background` mode, without one and at once. */
    readonly runCommandWithProcessStream: (
      id: string,
      command: string,
      args?: ReadonlyArray<Argument>,
      options?: ProcessOptions
    ) => Effect.Effect<ProcessRunResult, Failure>
    /**
     * Goes on with a recorded process, from any service: writes its log if nobody does, follows it otherwise. Never starts
     * anything. A process that its machine does not know any more becomes `lost`.
     */
    readonly attachProcess: (
      processId: string,
      options?: { readonly after?: number | undefined }
    ) => Effect.Effect<SandboxProcess, SandboxError>
    /**
     * Signals the process group; with `forceAfter`, KILL to what is left of it then. Only SIGKILL is tried again when it fails in
     * passing: `ProcessEnded` can be its own doing.
     */
    readonly signalProcess: (
      processId: string,
      signal: string,
      options?: SignalOptions
    ) => Effect.Effect<void, SandboxError>
    /** Writes to the input of a process that was started with `stdin: "open"`. */
    readonly writeProcessInput: (processId: string, bytes: Uint8Array | string) => Effect.Effect<void, SandboxError>
    readonly closeProcessInput: (processId: string) => Effect.Effect<void, SandboxError>
    /**
     * The log of a process. With `follow` it ends when the process has ended; the log of a process that no service is attached
     * to does not grow.
     */
    readonly readProcessStream: (processId: string, options?: ReadOptions) => Stream.Stream<ProcessEvent, SandboxError>
    readonly getProcessSnapshot: (processId: string) => Effect.Effect<ProcessRecord, SandboxError>
    readonly listProcesses: (
      id: string,
      filter?: Omit<ProcessFilter, "sandboxId">
    ) => Stream.Stream<ProcessRecord, SandboxError>
    /** Records a process that somebody else runs in the sandbox, which must be `active`. */
    readonly startObservedProcess: (id: string, options: ObservedStart) => Effect.Effect<ProcessRecord, SandboxError>
    /** Appends a report. The same `key` is appended once; after the end it is `ProcessEnded`. */
    readonly appendObservedProcessChunk: (
      processId: string,
      chunk: ObservedChunk
    ) => Effect.Effect<ProcessEvent, SandboxError>
    /** Ends it. The same end once more changes nothing, another one is `ProcessEnded`. */
    readonly finishObservedProcess: (
      processId: string,
      options?: ObservedFinish
    ) => Effect.Effect<ProcessRecord, SandboxError>
    /** Writes files, each whole or not at all, and makes their parents. With several, `WriteFailed` lists those that failed. */
    readonly writeFiles: (id: string, files: ReadonlyArray<FileEntry>) => Effect.Effect<void, Failure>
    /** The bytes of a file. A missing one is a `PlatformError` with the reason `NotFound`, never empty. */
    readonly readFile: (id: string, path: string) => Effect.Effect<Uint8Array, Failure>
    /** Where a port of the config can be reached. */
    readonly getPortUrl: (id: string, port: number, options?: PortOptions) => Effect.Effect<PortUrl, SandboxError>
    /** Saves the files. Where that ends the processes, open recorded ones must be allowed to with `stopProcesses`. */
    readonly createCheckpoint: (id: string, options?: CheckpointOptions) => Effect.Effect<Checkpoint, SandboxError>
    /** Newest first. */
    readonly listCheckpoints: (id: string) => Stream.Stream<Checkpoint, SandboxError>
    /** Brings the files back under the same id, also of a stopped sandbox. Always ends the processes. */
    readonly restoreCheckpoint: (id: string, checkpointId: string) => Effect.Effect<SandboxRef, SandboxError>
    readonly deleteCheckpoint: (id: string, checkpointId: string) => Effect.Effect<void, SandboxError>
    /**
     * The sandbox as Effect's own platform: a program written against these services runs inside it unchanged. Relative paths,
     * and those of `Path.resolve`, start at the workspace. Connects when it is built; a machine that is replaced meanwhile is
     * found again by the next operation. Where only a `PlatformError` can pass, a failure of the sandbox is its `cause`.
     *
     * **Gotchas**: what a guest cannot do is refused with `BadArgument`, never ignored: `detached: false`, and file descriptors
     * above 2 unless `capabilities.processes.additionalFds`. To `inherit` takes the `Stdio` of the program that spawns. How files
     * may differ from Node's is `capabilities.files`.
     */
    readonly platform: (id: string) => Layer.Layer<PlatformServices, SandboxError>
  }
>()("effect-sandbox/services/SandboxService") {
  /** Needs a registry of providers, a record store and a process log; reads `SandboxSettings` and `RecoveryPolicy` once. */
  static readonly layer: Layer.Layer<SandboxService, SandboxError, ProviderRegistry | SandboxStore | ProcessLog> =
    Layer.effect(
      SandboxService,
      Effect.suspend(() => make)
    )
}

/** Fills a machine that is not anybody's yet: with the skills of its config, and by the hook if it was made anew. */
const populated =
  (self: Core, repopulate: Repopulate): MachinesPart.Populate =>
  (connection, anew) => {
    const { record } = connection
    const operation = "SandboxService.recreate"
    const machines: MachinesPart.InUse = {
      get: () => Effect.succeed(connection),
      use: (_, f) => f(connection)
    }
    const commands = CommandsPart.make(self, machines)
    const notFilled = (cause: Failure | SandboxError["reason"]) =>
      core.failure(
        record,
        operation,
        new Unknown({ detail: `the new machine could not be filled: ${cause.message}`, cause })
      )
    const told = (error: Failure) =>
      isSandboxError(error) ? core.named(error.operation, { sandboxId: record.id })(error) : notFilled(error)
    const attributes = { "sandbox.id": record.id }
    const skills = record.config?.skills ?? []
    const installing = Effect.suspend(() => {
      const files = FilesPart.make(self, machines)
      const inside = insideOf(
        {
          runCommand: (_, command, args = [], options = {}) => commands.run(record.id, command, args, options),
          writeFiles: (_, entries) => files.write(record.id, entries)
        },
        record.id
      )
      return Skills.install(inside, operation, skills).pipe(
        Effect.mapError(told),
        // Writing them twice changes nothing, so that what may have happened may be tried again too.
        Effect.retry({
          schedule: self.policy.connect,
          while: ({ isRetryable, reason }) => isRetryable || reason._tag === "OutcomeUnknown"
        }),
        // Whoever gets a machine by any method hears of these.
        Effect.mapError((error) =>
          error.reason._tag === "WriteFailed" || error.reason._tag === "OutcomeUnknown"
            ? notFilled(error.reason)
            : error
        ),
        Effect.withSpan("SandboxService.installSkills", { attributes })
      )
    })
    const refilling = Effect.suspend(() =>
      Effect.flatMap(PlatformPart.make(machines, spawner.make(self, commands))(record.id), (context) =>
        Effect.provideContext(repopulate(record), context)
      )
    ).pipe(Effect.scoped, Effect.mapError(told), Effect.withSpan("SandboxService.repopulate", { attributes }))
    return Effect.andThen(skills.length === 0 ? Effect.void : installing, anew ? refilling : Effect.void)
  }

const make = Effect.gen(function* () {
  const owner = yield* LeaseOwner
  const policy = yield* RecoveryPolicy
  const settings = yield* serviceSettings
  const self: Core = {
    store: storeCalls(yield* SandboxStore, policy.store, settings.requestTimeout),
    log: logCalls(yield* ProcessLog, policy.store, settings.requestTimeout),
    registry: yield* ProviderRegistry,
    settings,
    policy,
    secrets: yield* SandboxSecrets,
    owner: yield* owner.name,
    isDead: owner.isDead,
    pumps: new Map(),
    recoveries: yield* Effect.acquireRelease(PubSub.sliding<RecoveryEvent>(256), PubSub.shutdown)
  }
  const repopulate = yield* Repopulate
  const machines = yield* MachinesPart.make(self, populated(self, repopulate))
  const commands = CommandsPart.make(self, machines)
  const processes = yield* ProcessesPart.make(self, machines)
  const lifecycle = LifecyclePart.make(self, machines)
  const checkpoints = CheckpointsPart.make(self, machines)
  const observed = ObservedPart.make(self)
  const files = FilesPart.make(self, machines)
  const spawn = spawner.make(self, commands)
  const platform = PlatformPart.make(machines, spawn)

  type Ids = { readonly sandboxId?: string; readonly processId?: string }

  const attributesOf = (ids: Ids) => ({
    ...(ids.sandboxId === undefined ? {} : { "sandbox.id": ids.sandboxId }),
    ...(ids.processId === undefined ? {} : { "process.id": ids.processId })
  })

  /** Renames errors after the method that was called; a `PlatformError` stays what it is. */
  const rename =
    <E extends Failure>(operation: string, ids: Ids) =>
    (error: E): E =>
      // Only a SandboxError is replaced, and by one.
      isSandboxError(error) ? (core.named(operation, ids)(error) as E) : error

  const method = <A, E extends Failure, R>(operation: string, ids: Ids, effect: Effect.Effect<A, E, R>) =>
    effect.pipe(Effect.mapError(rename(operation, ids)), Effect.withSpan(operation, { attributes: attributesOf(ids) }))

  const streaming = <A, E extends Failure, R>(operation: string, ids: Ids, stream: Stream.Stream<A, E, R>) =>
    stream.pipe(Stream.mapError(rename(operation, ids)), Stream.withSpan(operation, { attributes: attributesOf(ids) }))

  const onSandbox = <A, E extends Failure, R>(
    name: string,
    id: string,
    f: (id: SandboxId, operation: string) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | SandboxError, R> => {
    const operation = `SandboxService.${name}`
    return Effect.flatMap(core.toSandboxId(operation, id), (checked) =>
      method(operation, { sandboxId: checked }, f(checked, operation))
    )
  }

  const onProcess = <A, E extends Failure, R>(
    name: string,
    processId: string,
    f: (processId: ProcessId, operation: string) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | SandboxError, R> => {
    const operation = `SandboxService.${name}`
    return Effect.flatMap(core.toProcessId(operation, processId), (checked) =>
      method(operation, { processId: checked }, f(checked, operation))
    )
  }

  const streamOfSandbox = <A, E extends Failure, R>(
    name: string,
    id: string,
    f: (id: SandboxId) => Stream.Stream<A, E, R>
  ): Stream.Stream<A, E | SandboxError, R> => {
    const operation = `SandboxService.${name}`
    return Stream.unwrap(
      Effect.map(core.toSandboxId(operation, id), (checked) => streaming(operation, { sandboxId: checked }, f(checked)))
    )
  }

  return SandboxService.of({
    createSandbox: (config = {}, options = {}) =>
      method("SandboxService.createSandbox", {}, lifecycle.create(config, options)),
    getSandbox: (id) => onSandbox("getSandbox", id, self.store.getSandbox),
    listSandboxes: (filter) =>
      streaming(
        "SandboxService.listSandboxes",
        {},
        checkedFilter(
          "SandboxService.listSandboxes",
          filter,
          sandboxFilterFields,
          SandboxStatus.literals,
          self.store.listSandboxes(filter)
        )
      ),
    reconnectToSandbox: (id, options = {}) =>
      onSandbox("reconnectToSandbox", id, (checked) => machines.reconnect(checked, options)),
    recoveries: Stream.fromPubSub(self.recoveries),
    stopSandbox: (id, options = {}) => onSandbox("stopSandbox", id, (checked) => lifecycle.stop(checked, options)),
    extendTimeout: (id, duration) =>
      onSandbox("extendTimeout", id, (checked) => lifecycle.extendTimeout(checked, duration)),
    runCommand: (id, command, args = [], options = {}) =>
      onSandbox("runCommand", id, (checked) => commands.run(checked, command, args, options)),
    streamCommand: (id, command, args = [], options = {}) =>
      streamOfSandbox("streamCommand", id, (checked) => commands.stream(checked, command, args, options)),
    spawn: (id, command) => onSandbox("spawn", id, (checked) => spawn(checked, command)),
    runCommandProcess: (id, command, args = [], options = {}) =>
      onSandbox("runCommandProcess", id, (checked, operation) =>
        processes.run(operation, checked, command, args, options, options.mode ?? "background")
      ),
    runCommandWithProcessStream: (id, command, args = [], options = {}) =>
      onSandbox("runCommandWithProcessStream", id, (checked) => processes.runToEnd(checked, command, args, options)),
    attachProcess: (processId, options = {}) =>
      onProcess("attachProcess", processId, (checked, operation) =>
        Effect.flatMap(checkedAfter(operation, options.after), (after) => processes.attach(checked, after))
      ),
    signalProcess: (processId, signal, options) =>
      onProcess("signalProcess", processId, (checked) => processes.signal(checked, signal, options)),
    writeProcessInput: (processId, bytes) =>
      onProcess("writeProcessInput", processId, (checked) =>
        processes.write(checked, typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes)
      ),
    closeProcessInput: (processId) => onProcess("closeProcessInput", processId, processes.closeInput),
    readProcessStream: (processId, options) => {
      const operation = "SandboxService.readProcessStream"
      return Stream.unwrap(
        Effect.map(
          Effect.andThen(checkedAfter(operation, options?.after), core.toProcessId(operation, processId)),
          (checked) => streaming(operation, { processId: checked }, processes.read(checked, options))
        )
      )
    },
    getProcessSnapshot: (processId) => onProcess("getProcessSnapshot", processId, self.store.getProcess),
    listProcesses: (id, filter) =>
      streamOfSandbox("listProcesses", id, (checked) =>
        checkedFilter(
          "SandboxService.listProcesses",
          filter,
          processFilterFields,
          ProcessStatus.literals,
          processes.list(checked, filter)
        )
      ),
    startObservedProcess: (id, options) =>
      onSandbox("startObservedProcess", id, (checked) => observed.start(checked, options)),
    appendObservedProcessChunk: (processId, chunk) =>
      onProcess("appendObservedProcessChunk", processId, (checked) => observed.append(checked, chunk)),
    finishObservedProcess: (processId, options = {}) =>
      onProcess("finishObservedProcess", processId, (checked) => observed.finish(checked, options)),
    writeFiles: (id, entries) => onSandbox("writeFiles", id, (checked) => files.write(checked, entries)),
    readFile: (id, path) => onSandbox("readFile", id, (checked) => files.read(checked, path)),
    getPortUrl: (id, port, options = {}) =>
      onSandbox("getPortUrl", id, (checked) => files.portUrl(checked, port, options)),
    createCheckpoint: (id, options = {}) =>
      onSandbox("createCheckpoint", id, (checked) => checkpoints.create(checked, options)),
    listCheckpoints: (id) => streamOfSandbox("listCheckpoints", id, checkpoints.list),
    restoreCheckpoint: (id, checkpointId) =>
      onSandbox("restoreCheckpoint", id, (checked) => checkpoints.restore(checked, checkpointId)),
    deleteCheckpoint: (id, checkpointId) =>
      onSandbox("deleteCheckpoint", id, (checked) => checkpoints.remove(checked, checkpointId)),
    platform: (id) => Layer.effectContext(onSandbox("platform", id, platform))
  })
})

const sandboxFilterFields: ReadonlyArray<keyof SandboxFilter> = [
  "status",
  "provider",
  "purpose",
  "externalSandboxId",
  "createdBefore",
  "createdAfter"
]
const processFilterFields: ReadonlyArray<keyof Omit<ProcessFilter, "sandboxId">> = ["status", "kind"]

/** A misspelt condition would match everything, a status that does not exist nothing: whoever deletes by a filter must know. */
const checkedFilter = <A>(
  operation: string,
  filter: { readonly status?: unknown } | undefined,
  fields: ReadonlyArray<string>,
  statuses: ReadonlyArray<string>,
  stream: Stream.Stream<A, SandboxError>
): Stream.Stream<A, SandboxError> => {
  const unknown = Object.keys(filter ?? {}).filter((key) => !fields.includes(key))
  if (unknown.length > 0) {
    return Stream.fail(
      core.invalid(operation, "filter", `unknown: ${unknown.join(", ")}; there are ${fields.join(", ")}`)
    )
  }
  const wanted = filter?.status
  return wanted === undefined || (Array.isArray(wanted) && wanted.every((status) => statuses.includes(status)))
    ? stream
    : Stream.fail(core.invalid(operation, "status", `expected a list of ${statuses.join(", ")}`))
}

const checkedAfter = (operation: string, after: number | undefined): Effect.Effect<number, SandboxError> =>
  after === undefined || (Number.isSafeInteger(after) && after >= 0)
    ? Effect.succeed(after ?? 0)
    : Effect.fail(core.invalid(operation, "after", "expected a seq: a whole number from 0"))

/** What any method that reads the store can fail with. */
const ofStore = ["NotFound", "RecordTooNew", "InvalidArgument", "Store"] as const

/** What any call to a vendor can fail with. */
const ofVendor = [
  "MissingPackage",
  "MissingSetting",
  "Authentication",
  "Permission",
  "Quota",
  "RateLimited",
  "Unavailable",
  "Timeout",
  "Unresponsive",
  "Unknown"
] as const

/** What reaching the machine, and recovering it, can fail with. */
const ofMachine = [
  ...ofStore,
  ...ofVendor,
  "Stopped",
  "NotActive",
  "Gone",
  "NotRunning",
  "Superseded",
  "Busy",
  "LegacyRecord",
  "ProviderNotSelected",
  "InvalidConfig",
  "SecretsRequired",
  "UnsupportedCapability",
  "VolumeFailed"
] as const

const ofLog = ["NotFound", "InvalidArgument", "Store"] as const

/** Which reasons each method can fail with; the README's table is made of it. */
export const methodReasons = {
  createSandbox: [...ofMachine, "ConfigMismatch", "NameInUse", "OutcomeUnknown"],
  getSandbox: ofStore,
  listSandboxes: ["InvalidArgument", "RecordTooNew", "Store"],
  reconnectToSandbox: ofMachine,
  recoveries: [],
  stopSandbox: [...ofStore, "Busy", "StopIncomplete", "ProviderNotSelected"],
  extendTimeout: [...ofMachine, "LeaseTooShort"],
  runCommand: [...ofMachine, "OutcomeUnknown"],
  streamCommand: [...ofMachine, "OutcomeUnknown"],
  spawn: [...ofMachine, "OutcomeUnknown"],
  runCommandProcess: [...ofMachine, "OutcomeUnknown", "ConfigMismatch", "LeaseTooShort"],
  runCommandWithProcessStream: [...ofMachine, "OutcomeUnknown", "ConfigMismatch", "LeaseTooShort"],
  attachProcess: [...ofMachine, "OutcomeUnknown"],
  signalProcess: [...ofMachine, "ProcessEnded"],
  writeProcessInput: [...ofMachine, "ProcessEnded", "OutcomeUnknown"],
  closeProcessInput: [...ofMachine, "ProcessEnded"],
  readProcessStream: [...ofMachine, "OutcomeUnknown"],
  getProcessSnapshot: [...ofLog, "RecordTooNew"],
  listProcesses: ["InvalidArgument", "RecordTooNew", "Store"],
  startObservedProcess: [...ofStore, "NotActive", "ConfigMismatch"],
  appendObservedProcessChunk: [...ofLog, "RecordTooNew", "ProcessEnded"],
  finishObservedProcess: [...ofLog, "RecordTooNew", "ProcessEnded"],
  writeFiles: [...ofMachine, "WriteFailed"],
  readFile: ofMachine,
  getPortUrl: [...ofMachine, "PortNotExposed"],
  createCheckpoint: [...ofMachine, "ProcessesRunning", "OutcomeUnknown"],
  listCheckpoints: [...ofStore, ...ofVendor, "UnsupportedCapability", "ProviderNotSelected"],
  restoreCheckpoint: ofMachine,
  deleteCheckpoint: [...ofStore, ...ofVendor, "Busy", "UnsupportedCapability", "ProviderNotSelected"],
  platform: ofMachine
} as const satisfies Record<keyof SandboxService["Service"], ReadonlyArray<ReasonTag>>
