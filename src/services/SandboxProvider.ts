/**
 * The port that a vendor fills: a provider yields machines, a machine runs processes and holds files.
 *
 * A provider is a plain record made by a scoped `make`, never a tag: there may be two accounts of one vendor. What a vendor
 * must write is {@link Primitives}; {@link make} adds spans and deadlines around it. The rules that every
 * provider keeps are the conformance suite in `effect-sandbox/testing`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type { SandboxErrorReason } from "../errors.ts"
import { SandboxError, Timeout, UnsupportedCapability } from "../errors.ts"
import type { Checkpoint } from "../model/Checkpoint.ts"
import type { JsonObject } from "../model/Common.ts"
import type { ProcessId, SandboxId } from "../model/Ids.ts"
import type { OutputPosition, ProcessExit } from "../model/Process.ts"
import type { SandboxConfig } from "../model/SandboxConfig.ts"
import { checked } from "./internal/forceAfter.ts"
import type { RecoverySchedules } from "./RecoveryPolicy.ts"

/** What a provider can do: plain data, read by the README, by failover and by the suites. */
export interface ProviderCapabilities {
  readonly processes: {
    /** Bytes reach a running process. */
    readonly stdin: boolean
    /** A death by signal is told apart from an exit with a code above 128. */
    readonly signalsObservable: boolean
    /** Recorded processes run on, and are found again, when this service is gone. */
    readonly recorded: boolean
    /** A scoped process can have file descriptors above 2. */
    readonly additionalFds: boolean
  }
  /** How the files of `SandboxService.platform` differ from Node's; everything else about them does not. */
  readonly files: FileCapabilities
  /** How many ports can be exposed; 0 for none. */
  readonly ports: number
  readonly checkpoints:
    | false
    | {
        /** Creating one ends the processes. */
        readonly stopsProcesses: boolean
        /** The vendor keeps the comment. */
        readonly comments: boolean
      }
  readonly extendTimeout: boolean
  /** The disk can outlive a stop. */
  readonly persistent: boolean
}

/** What the `FileSystem` of a sandbox does as Node's does; without one of these its docstring says what happens instead. */
export interface FileCapabilities {
  /** An open file stays that file when its name is taken away; else later operations on it fail `NotFound` or `Busy`. */
  readonly openSurvivesRename: boolean
  /** Of several that create a file with the flag `x` at once, one succeeds. */
  readonly atomicExclusiveCreate: boolean
  /** `watch` is told of changes; else it looks once a second, and what comes and goes in between is missed. */
  readonly watchEvents: boolean
  /** `ino`, `dev` and `nlink` are those of the files. */
  readonly inodes: boolean
  /** Times are finer than a second. */
  readonly subSecondTimes: boolean
}

/** A machine at the vendor. `incarnation` is opaque and differs between two boots or two machines of one name. */
export interface MachineRef {
  readonly externalId: string
  readonly incarnation: string
}

/** What a listing tells about a machine. `sandboxId` is absent when the vendor's tag does not name one. */
export interface MachineInfo {
  readonly ref: MachineRef
  readonly sandboxId?: SandboxId
  /** Where the vendor tells it: another deployment may have a sandbox of the same id. */
  readonly namespace?: string
  readonly running: boolean
  /** ms since the epoch. */
  readonly createdAt?: number
}

/** What a provider makes of a config, before any call to the vendor; everything that a record keeps of it. */
export interface ResolvedConfig {
  readonly persistent: boolean
  readonly deleteOnStop: boolean
  /** The lease; absent when the machine lives until it is stopped. */
  readonly timeout?: Duration.Duration
  readonly vcpus?: number
  readonly runtime?: string
  readonly ports: ReadonlyArray<number>
  /** A name of the user's, and whether creating it again returns the sandbox that has it. */
  readonly name?: { readonly externalId: string; readonly reuse: boolean }
}

/**
 * One creation. `version` counts the machines of the sandbox, so that the names of two differ; a creation that is tried again, by
 * whomever, has the same.
 */
export interface CreateRequest {
  readonly sandboxId: SandboxId
  readonly version: number
  readonly namespace: string
  readonly config: SandboxConfig
  readonly resolved: ResolvedConfig
  /** Secrets that the config lacks, of a restore: it may do without where it has to make no machine. */
  readonly missingSecrets?: ReadonlyArray<string>
}

/** One start. `processId` is the nonce: a second start with the same id on the same machine starts nothing. */
export interface StartCommand {
  readonly processId: ProcessId
  readonly command: string
  readonly args: ReadonlyArray<string | Redacted.Redacted<string>>
  /** Absolute, or relative to the machine's `workspaceRoot`, which is the default. */
  readonly cwd?: string
  /** Merged over the sandbox's own; `undefined` removes a variable. */
  readonly env?: Readonly<Record<string, string | Redacted.Redacted<string> | undefined>>
  /** Whether `env` is merged over the sandbox's own environment (the default) or is all there is. */
  readonly extendEnv?: boolean
  /** `scoped` dies with the Scope of `start` and is written nowhere; `recorded` never does. */
  readonly lifetime: "scoped" | "recorded"
  /** Whether `stdin` will be written to; otherwise the process reads the end of input at once. */
  readonly stdin: boolean
  /** Absolute time (ms since the epoch) at which the process group is killed, service or no service. */
  readonly deadline?: number
  /** File descriptors above 2, for a scoped process where the provider has them; in {@link MachineProcess.additionalFds}. */
  readonly additionalFds?: ReadonlyArray<AdditionalFd>
}

/** A file descriptor above 2: `input` is written by us, `output` by the process, `duplex` by both. */
export interface AdditionalFd {
  readonly fd: number
  readonly type: "input" | "output" | "duplex"
}

/** What finds a recorded process again: plain data, kept in its record. */
export interface ExternalProcess {
  readonly processId: ProcessId
  readonly externalId: string
  readonly incarnation: string
}

/** A piece of output. `offset` counts the raw bytes of that stream before it. */
export interface OutputChunk {
  readonly stream: "stdout" | "stderr"
  readonly offset: number
  readonly bytes: Uint8Array
}

/** Options of a signal: after `forceAfter` what is left of the process group gets KILL, and its death is verified. */
export interface SignalOptions {
  readonly forceAfter?: Duration.Input | undefined
}

/** A started process. */
export interface MachineProcess {
  readonly external: ExternalProcess
  /**
   * The output from the position that it was opened at, live, pulled: what is not consumed is not read. The chunks of one stream
   * come in order, without gap or repetition. Ends after the exit and the last byte. Can be run once.
   */
  readonly output: Stream.Stream<OutputChunk, SandboxError | PlatformError.PlatformError>
  /**
   * The end, from the vendor's status or the launcher's exit file only, never from the end of a stream; otherwise it fails
   * with `OutcomeUnknown`.
   */
  readonly exit: Effect.Effect<ProcessExit, SandboxError | PlatformError.PlatformError>
  /** Live input; the end of the sink's input is the end of the process's. Fails once the process has ended. */
  readonly stdin: Sink.Sink<void, Uint8Array, never, SandboxError | PlatformError.PlatformError>
  /** Writes input without ending it. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, SandboxError>
  /** Ends the input. */
  readonly closeInput: Effect.Effect<void, SandboxError>
  /** Signals the process group. `ProcessEnded` when there is nothing left to signal. */
  readonly signal: (signal: string, options?: SignalOptions) => Effect.Effect<void, SandboxError>
  /**
   * Says that the output before this position is stored elsewhere and will not be asked for again, so that a provider that
   * keeps it may free it: at its spool quota a command waits for this.
   */
  readonly release?: (position: OutputPosition) => Effect.Effect<void, SandboxError>
  /** Our ends of {@link StartCommand.additionalFds}, by number. The end of a sink's input closes that descriptor. */
  readonly additionalFds?: ReadonlyMap<number, AdditionalFdEnds>
  /**
   * Lets this program end while a scoped process runs, and its Scope leave it alone; the inner effect takes that back. Absent
   * where a scoped process always ends with its Scope.
   */
  readonly unref?: Effect.Effect<Effect.Effect<void>>
}

/** Our ends of a file descriptor: a sink unless it is an `output`, a stream unless it is an `input`. */
export interface AdditionalFdEnds {
  readonly sink?: Sink.Sink<void, Uint8Array, never, SandboxError | PlatformError.PlatformError>
  readonly stream?: Stream.Stream<Uint8Array, SandboxError | PlatformError.PlatformError>
}

/**
 * What a machine can do with files by itself, in Effect's own terms. Every path is absolute; only the target of a symlink is
 * as the caller wrote it. A failure of the machine itself is a `PlatformError` whose `cause` is the `SandboxError`.
 */
export type MachineFileSystem = Partial<Omit<FileSystem.FileSystem, "~effect/FileSystem">>

/** One file to write. `mode` defaults to the system's; parents are made. */
export interface WriteFileEntry {
  readonly path: string
  readonly content: Uint8Array | Stream.Stream<Uint8Array, SandboxError | PlatformError.PlatformError>
  readonly mode?: number
}

/** A file that could not be written. */
export interface FileFailure {
  readonly path: string
  readonly error: SandboxError | PlatformError.PlatformError
}

/** Where a port of the machine can be reached; `headers` must go with every request. */
export interface PortUrl {
  readonly port: number
  readonly url: string
  readonly headers: Readonly<Record<string, Redacted.Redacted<string>>>
  /** ms since the epoch. */
  readonly expiresAt?: number
}

/** A running machine. Every operation belongs to this incarnation and fails `Superseded` on a later one. */
export interface Machine {
  readonly ref: MachineRef
  readonly url: Option.Option<string>
  /** Asked once from the guest: the default cwd and the base of every relative path. */
  readonly workspaceRoot: string
  /** What the record keeps besides, without secrets. */
  readonly metadata: JsonObject
  /** Missing program, bad cwd and denied permission are `PlatformError`s as Node's layer gives them. */
  readonly start: (
    command: StartCommand
  ) => Effect.Effect<MachineProcess, SandboxError | PlatformError.PlatformError, Scope.Scope>
  /** A recorded process that this machine knows, running or ended. */
  readonly findProcess: (processId: ProcessId) => Effect.Effect<Option.Option<ExternalProcess>, SandboxError>
  /** Goes on with a recorded process from that position. Starts nothing. */
  readonly resume: (
    process: ExternalProcess,
    from: OutputPosition
  ) => Effect.Effect<MachineProcess, SandboxError, Scope.Scope>
  readonly readFile: (path: string) => Stream.Stream<Uint8Array, SandboxError | PlatformError.PlatformError>
  /** Each file is whole or untouched. Yields the files that could not be written; fails when the machine could not be asked. */
  readonly writeFiles: (
    entries: ReadonlyArray<WriteFileEntry>
  ) => Effect.Effect<ReadonlyArray<FileFailure>, SandboxError>
  /**
   * The operations of `FileSystem` for which this machine has something better than commands; all others are derived from
   * `start`. Empty for a guest that can only run commands.
   */
  readonly fileSystem: MachineFileSystem
  readonly createCheckpoint: Option.Option<
    (options: { readonly comment?: string; readonly id?: string }) => Effect.Effect<Checkpoint, SandboxError>
  >
  readonly portUrl: Option.Option<(port: number) => Effect.Effect<PortUrl, SandboxError>>
  /** Sets the lease to end `duration` from now; yields the new end in ms since the epoch. */
  readonly extendTimeout: Option.Option<(duration: Duration.Duration) => Effect.Effect<number, SandboxError>>
  /** Ends all processes and verifies it. `delete` takes the disk too. Idempotent. */
  readonly stop: (mode: "stop" | "delete") => Effect.Effect<void, SandboxError>
}

/** The checkpoints of a provider. */
export interface ProviderCheckpoints {
  /** Newest first. */
  readonly list: (id: SandboxId, ref: Option.Option<MachineRef>) => Stream.Stream<Checkpoint, SandboxError>
  /** Stops the processes and yields the machine with that state; `request.version` is a new one. */
  readonly restore: (
    checkpointId: string,
    request: CreateRequest,
    ref: Option.Option<MachineRef>
  ) => Effect.Effect<Machine, SandboxError>
  readonly remove: (
    checkpointId: string,
    id: SandboxId,
    ref: Option.Option<MachineRef>
  ) => Effect.Effect<void, SandboxError>
}

/** What a vendor writes. The names of operations in errors are `<kind>.<operation>`. */
export interface Primitives {
  /** The vendor: `local`, `vercel`, … */
  readonly kind: string
  /** The registered name; the default is the kind. Two accounts are two names. */
  readonly name?: string | undefined
  readonly capabilities: ProviderCapabilities
  /** Schedules that override the layer's `RecoveryPolicy` for this provider. */
  readonly recovery?: Partial<RecoverySchedules> | undefined
  /** The deadline of one call; a provider's `make` reads `SANDBOX_REQUEST_TIMEOUT` for it. The default is 30 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
  /** The deadline of a create, a boot, a checkpoint or a restore; the default is 5 minutes. */
  readonly slowTimeout?: Duration.Input | undefined
  /** Pure: checks the config and fills in what the provider decides. */
  readonly resolve: (config: SandboxConfig) => Effect.Effect<ResolvedConfig, SandboxErrorReason>
  readonly create: (request: CreateRequest) => Effect.Effect<Machine, SandboxError>
  /** `boot: false` boots nothing: a machine that does not run is `NotRunning`, one that does not exist `Gone`. */
  readonly connect: (ref: MachineRef, options: ConnectOptions) => Effect.Effect<Machine, SandboxError>
  /**
   * Every machine with this tag, also of earlier incarnations. With a `namespace` none that is known to be of another one, be it left
   * out or told by its `MachineInfo.namespace`.
   */
  readonly find: (id: SandboxId, namespace?: string) => Stream.Stream<MachineInfo, SandboxError>
  /** All machines of a namespace. Fails rather than yield a part that looks whole. */
  readonly list: (namespace: string) => Stream.Stream<MachineInfo, SandboxError>
  /** Ends a machine that may not run and is not booted for it; one that does not exist is no error. */
  readonly stop: (ref: MachineRef, mode: "stop" | "delete") => Effect.Effect<void, SandboxError>
  readonly checkpoints: Option.Option<ProviderCheckpoints>
}

/** Whose machine it is, and whether it may be booted. */
export interface ConnectOptions {
  readonly sandboxId: SandboxId
  readonly boot: boolean
}

/** A provider as the library uses it: {@link make} of a vendor's {@link Primitives}. */
export interface SandboxProvider extends Required<Pick<Primitives, "kind" | "capabilities">> {
  readonly name: string
  readonly recovery: Partial<RecoverySchedules>
  readonly resolve: (config: SandboxConfig) => Effect.Effect<ResolvedConfig, SandboxError>
  readonly create: Primitives["create"]
  readonly connect: Primitives["connect"]
  readonly find: Primitives["find"]
  readonly list: Primitives["list"]
  readonly stop: Primitives["stop"]
  readonly checkpoints: Primitives["checkpoints"]
}

/**
 * Derives a provider: a span of kind `client` around each call, and a deadline for each that is one question and answer. What
 * streams (`find`, `list`, output, files) has its deadline, if any, from the provider.
 */
export const make = (primitives: Primitives): SandboxProvider => {
  const name = primitives.name ?? primitives.kind
  const request = Duration.fromInputUnsafe(primitives.requestTimeout ?? Duration.seconds(30))
  const slow = Duration.fromInputUnsafe(primitives.slowTimeout ?? Duration.minutes(5))
  const attributes = { "sandbox.provider": name }

  const call = (operation: string, deadline: Duration.Duration, sandboxId?: SandboxId) => {
    const expired = new SandboxError({
      operation: `${name}.${operation}`,
      provider: name,
      ...(sandboxId === undefined ? {} : { sandboxId }),
      reason: new Timeout({ clock: "request", duration: deadline, accepted: "unknown" })
    })
    return <A, R>(effect: Effect.Effect<A, SandboxError, R>): Effect.Effect<A, SandboxError, R> =>
      effect.pipe(
        Effect.timeoutOrElse({ duration: deadline, orElse: () => Effect.fail(expired) }),
        Effect.withSpan(`SandboxProvider.${operation}`, {
          kind: "client",
          attributes: sandboxId === undefined ? attributes : { ...attributes, "sandbox.id": sandboxId }
        })
      )
  }

  /** What is no time to wait is refused before anything is sent. */
  const checking = (process: MachineProcess): MachineProcess => ({
    ...process,
    signal: (signal, options) =>
      options?.forceAfter === undefined
        ? process.signal(signal)
        : Effect.flatMap(checked(name, options.forceAfter), (forceAfter) => process.signal(signal, { forceAfter }))
  })

  /** The machine's own calls, but for those that last as long as what they stream. */
  const guard = (machine: Machine): Machine => ({
    ...machine,
    start: (command) =>
      Effect.withSpan(Effect.map(machine.start(command), checking), "SandboxProvider.start", {
        kind: "client",
        attributes
      }),
    resume: (process, from) => Effect.map(machine.resume(process, from), checking),
    findProcess: (processId) => call("findProcess", request)(machine.findProcess(processId)),
    createCheckpoint: Option.map(
      machine.createCheckpoint,
      (create) => (options) => call("createCheckpoint", slow)(create(options))
    ),
    portUrl: Option.map(machine.portUrl, (portUrl) => (port) => call("portUrl", request)(portUrl(port))),
    extendTimeout: Option.map(
      machine.extendTimeout,
      (extend) => (duration) => call("extendTimeout", request)(extend(duration))
    ),
    stop: (mode) => call("stop", slow)(machine.stop(mode))
  })

  return {
    name,
    kind: primitives.kind,
    capabilities: primitives.capabilities,
    recovery: primitives.recovery ?? {},
    resolve: (config) =>
      Effect.mapError(
        primitives.resolve(config),
        (reason) => new SandboxError({ operation: `${name}.resolve`, provider: name, reason })
      ),
    create: (createRequest) =>
      call("create", slow, createRequest.sandboxId)(Effect.map(primitives.create(createRequest), guard)),
    connect: (ref, options) =>
      call(
        "connect",
        options.boot ? slow : request,
        options.sandboxId
      )(Effect.map(primitives.connect(ref, options), guard)),
    find: (id, namespace) =>
      Stream.withSpan(primitives.find(id, namespace), "SandboxProvider.find", {
        kind: "client",
        attributes: { ...attributes, "sandbox.id": id }
      }),
    list: (namespace) =>
      Stream.withSpan(primitives.list(namespace), "SandboxProvider.list", { kind: "client", attributes }),
    stop: (ref, mode) => call("stop", slow)(primitives.stop(ref, mode)),
    checkpoints: Option.map(primitives.checkpoints, (checkpoints) => ({
      list: checkpoints.list,
      restore: (id, restoreRequest, ref) =>
        call(
          "restoreCheckpoint",
          slow,
          restoreRequest.sandboxId
        )(Effect.map(checkpoints.restore(id, restoreRequest, ref), guard)),
      remove: (id, sandboxId, ref) =>
        call("deleteCheckpoint", request, sandboxId)(checkpoints.remove(id, sandboxId, ref))
    }))
  }
}

/** The value of an optional power, or `UnsupportedCapability` for the method that needs it. */
export const capability = <A>(
  provider: SandboxProvider,
  operation: string,
  option: Option.Option<A>,
  sandboxId?: SandboxId
): Effect.Effect<A, SandboxError> =>
  Option.isSome(option)
    ? Effect.succeed(option.value)
    : Effect.fail(
        new SandboxError({
          operation,
          provider: provider.name,
          ...(sandboxId === undefined ? {} : { sandboxId }),
          reason: new UnsupportedCapability({
            capability: operation.slice(operation.lastIndexOf(".") + 1),
            detail: `the provider ${provider.name} cannot do this`
          })
        })
      )
