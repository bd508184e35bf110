/** The fake provider's primitives: machines by their names at the vendor, and handles by their incarnations. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import {
  Gone,
  InvalidConfig,
  NameInUse,
  NotFound,
  NotRunning,
  PortNotExposed,
  Superseded,
  type UnsupportedCapability
} from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import { NoNul } from "../../../model/Common.ts"
import type { RecoverySchedules } from "../../../services/RecoveryPolicy.ts"
import type {
  CreateRequest,
  FileFailure,
  Machine,
  MachineInfo,
  MachineRef,
  Primitives,
  ProviderCapabilities,
  ResolvedConfig,
  WriteFileEntry
} from "../../../services/SandboxProvider.ts"
import * as Bash from "./bash.ts"
import type { MachineState, State } from "./cloud.ts"
import { endAll, expire, halt, keepLease } from "./cloud.ts"
import type { Command } from "./command.ts"
import { failWith, onFiles } from "./failures.ts"
import * as FakeFileSystem from "./fileSystem.ts"
import { problemOfEnv } from "../../internal/commandChecks.ts"
import * as Start from "./start.ts"
import { join, Tree } from "./tree.ts"

/** What the provider was made with. */
export interface Context {
  readonly state: State
  readonly name: string | undefined
  readonly recovery: Partial<RecoverySchedules> | undefined
  readonly commands: ReadonlyMap<string, Command>
  readonly load: Bash.Load
  readonly bootDelay: Duration.Duration
  readonly killGrace: Duration.Duration
  readonly stopsProcesses: boolean
  readonly persistent: boolean
  readonly portUrl: (port: number, sandboxId: SandboxId) => string
}

export const capabilities = (stopsProcesses: boolean): ProviderCapabilities => ({
  processes: { stdin: true, signalsObservable: true, recorded: true, additionalFds: false },
  files: {
    openSurvivesRename: true,
    atomicExclusiveCreate: true,
    watchEvents: true,
    inodes: true,
    subSecondTimes: true
  },
  ports: 65535,
  checkpoints: { stopsProcesses, comments: true },
  extendTimeout: true,
  persistent: true
})

/** The section of `providerOptions`. */
const FakeConfig = Schema.Struct({
  /** A name of the user's own for the machine. */
  name: Schema.optionalKey(NoNul.check(Schema.isMinLength(1))),
  /** Whether creating it again returns the sandbox that has the name. */
  reuse: Schema.optionalKey(Schema.Boolean)
})
const decodeConfig = Schema.decodeUnknownResult(FakeConfig, { onExcessProperty: "error" })

const checkEnv = (config: SandboxConfig): Effect.Effect<void, InvalidConfig> =>
  Effect.suspend(() => {
    const problem = problemOfEnv(Object.entries(config.env ?? {}))
    return problem === undefined ? Effect.void : Effect.fail(new InvalidConfig({ issue: `env: ${problem}` }))
  })

const resolve = Effect.fnUntraced(function* (
  context: Context,
  config: SandboxConfig
): Effect.fn.Return<ResolvedConfig, InvalidConfig | UnsupportedCapability> {
  const name = context.name ?? "fake"
  const own = decodeConfig(config.providerOptions?.[name] ?? {})
  if (own._tag === "Failure") {
    return yield* new InvalidConfig({ issue: `providerOptions.${name}: ${own.failure.message}` })
  }
  yield* checkEnv(config)
  const persistent = config.persistent ?? context.persistent
  const vcpus = config.resources?.vcpus
  return {
    persistent,
    deleteOnStop: config.deleteOnStop ?? !persistent,
    ports: config.ports ?? [],
    ...(config.timeout === undefined ? {} : { timeout: config.timeout }),
    ...(vcpus === undefined ? {} : { vcpus }),
    ...(config.runtime === undefined ? {} : { runtime: config.runtime }),
    ...(own.success.name === undefined
      ? {}
      : { name: { externalId: own.success.name, reuse: own.success.reuse ?? false } })
  }
})

/** Takes what a lease has ended out of the world, should its timer not have run yet. */
const settle = (context: Context): Effect.Effect<void> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.forEach(
      [...context.state.machines.values()].filter(
        (machine) => machine.running && machine.deadline !== undefined && machine.deadline <= now
      ),
      (machine) => expire(context.state, machine),
      { discard: true }
    )
  )

/** The machine of a handle, or why it cannot be used any more. */
const standing = Effect.fnUntraced(function* (context: Context, operation: string, ref: MachineRef) {
  yield* settle(context)
  const machine = context.state.machines.get(ref.externalId)
  if (machine === undefined) {
    return yield* failWith(operation, new Gone({ evidence: "the vendor knows no machine of this name" }))
  }
  const { sandboxId } = machine
  if (machine.incarnation !== ref.incarnation) {
    return yield* failWith(operation, new Superseded({ incarnation: ref.incarnation }), sandboxId)
  }
  if (!machine.running) return yield* failWith(operation, new NotRunning({ detail: "it was stopped" }), sandboxId)
  if (machine.readyAt > (yield* Clock.currentTimeMillis)) {
    return yield* failWith(operation, new NotRunning({ detail: "it is booting" }), sandboxId)
  }
  return machine
})

const refOf = (machine: MachineState): MachineRef => ({
  externalId: machine.externalId,
  incarnation: machine.incarnation
})

const collect = (
  content: WriteFileEntry["content"]
): Effect.Effect<Uint8Array, SandboxError | PlatformError.PlatformError> =>
  content instanceof Uint8Array
    ? Effect.succeed(content)
    : Effect.flatMap(Stream.runCollect(content), (chunks) => Bash.bytesOf(Stream.fromIterable(chunks)))

const writeOne = Effect.fnUntraced(function* (
  machine: MachineState,
  entry: WriteFileEntry
): Effect.fn.Return<void, SandboxError | PlatformError.PlatformError> {
  const path = entry.path === "" ? "" : join(Start.workspaceRoot, entry.path)
  // A name that cannot be one is refused before its content is read.
  yield* onFiles("writeFile", path, () => void machine.tree.exists(path, "open"))
  const content = yield* collect(entry.content)
  yield* onFiles("writeFile", path, (now) => {
    machine.tree.mkdir(path.endsWith("/") ? path : path.slice(0, path.lastIndexOf("/") + 1), { recursive: true }, now)
    machine.tree.replace(path, content, entry.mode, now)
  })
})

const machineOf = (context: Context, machine: MachineState): Machine => {
  const { state } = context
  const { sandboxId } = machine
  const ref = refOf(machine)
  const checked: FakeFileSystem.Options["checked"] = (method, effect) =>
    Effect.andThen(standing(context, method, ref), effect)
  const called: FakeFileSystem.Options["checked"] = (method, effect) =>
    Effect.andThen(state.call(method, sandboxId), checked(method, effect))
  const options: Start.Options = {
    state,
    machine,
    incarnation: ref.incarnation,
    commands: context.commands,
    load: context.load,
    killGrace: context.killGrace,
    checked
  }
  return {
    ref,
    url: Option.none(),
    workspaceRoot: Start.workspaceRoot,
    metadata: {},
    start: (command) => called("start", Start.start(options, command)),
    findProcess: (processId) =>
      called(
        "findProcess",
        Effect.sync(() =>
          Option.map(Option.fromNullishOr(machine.processes.get(processId)), ({ external }) => external)
        )
      ),
    resume: (process, from) =>
      called(
        "resume",
        Effect.suspend(() => {
          const known = machine.processes.get(process.processId)
          return known === undefined
            ? Effect.fail(failWith("resume", new NotFound({ kind: "process", id: process.processId }), sandboxId))
            : Effect.succeed(known.handle(from))
        })
      ),
    readFile: (path) =>
      Stream.fromEffect(
        called(
          "readFile",
          onFiles("readFile", path, () => machine.tree.readFile(path === "" ? "" : join(Start.workspaceRoot, path)))
        )
      ),
    writeFiles: (entries) =>
      called(
        "writeFiles",
        Effect.map(
          Effect.forEach(entries, (entry) =>
            Effect.match(writeOne(machine, entry), {
              onSuccess: () => [],
              onFailure: (error): ReadonlyArray<FileFailure> => [{ path: entry.path, error }]
            })
          ),
          (failures) => failures.flat()
        )
      ),
    fileSystem: FakeFileSystem.make({
      tree: machine.tree,
      cwd: Start.workspaceRoot,
      temporary: Start.temporary,
      checked: called
    }),
    createCheckpoint: Option.some((wanted) =>
      called(
        "createCheckpoint",
        Effect.gen(function* () {
          const known = state.checkpoints.find(
            ({ checkpoint }) => checkpoint.sandboxId === sandboxId && checkpoint.id === wanted.id
          )
          if (known !== undefined) return known.checkpoint
          if (context.stopsProcesses) yield* endAll(machine, "stop")
          const checkpoint = {
            id: wanted.id ?? state.nextCheckpoint(),
            sandboxId,
            createdAt: yield* Clock.currentTimeMillis,
            ...(wanted.comment === undefined ? {} : { comment: wanted.comment })
          }
          state.checkpoints.push({ checkpoint, tree: machine.tree.clone() })
          return checkpoint
        })
      )
    ),
    portUrl: Option.some((port) =>
      called(
        "portUrl",
        Effect.suspend(() =>
          machine.ports.includes(port)
            ? Effect.succeed({ port, url: context.portUrl(port, sandboxId), headers: {} })
            : Effect.fail(failWith("portUrl", new PortNotExposed({ port, exposed: machine.ports }), sandboxId))
        )
      )
    ),
    extendTimeout: Option.some((duration) =>
      called(
        "extendTimeout",
        Effect.gen(function* () {
          const deadline = (yield* Clock.currentTimeMillis) + Duration.toMillis(duration)
          machine.deadline = deadline
          yield* keepLease(state, machine)
          return deadline
        })
      )
    ),
    stop: (mode) => stop(context, ref, mode, true)
  }
}

/** Ends a machine; `strict` when a handle asks, which must not end what replaced its own machine. */
const stop = Effect.fnUntraced(function* (context: Context, ref: MachineRef, mode: "stop" | "delete", strict: boolean) {
  const { state } = context
  const machine = state.machines.get(ref.externalId)
  yield* state.call("stop", machine?.sandboxId)
  if (machine === undefined) return
  if (strict && machine.incarnation !== ref.incarnation) {
    return yield* failWith("stop", new Superseded({ incarnation: ref.incarnation }), machine.sandboxId)
  }
  if (mode === "delete" || !machine.persistent) state.machines.delete(machine.externalId)
  if (mode === "delete") {
    const kept = state.checkpoints.filter(({ checkpoint }) => checkpoint.sandboxId !== machine.sandboxId)
    state.checkpoints.splice(0, state.checkpoints.length, ...kept)
  }
  yield* halt(machine, "stop")
})

const valuesOf = (config: SandboxConfig) => {
  // Any name is one, `__proto__` too.
  const env = new Map<string, string>()
  const secrets = new Set<string>()
  for (const [name, value] of Object.entries(config.env ?? {})) {
    env.set(name, Redacted.isRedacted(value) ? Redacted.value(value) : value)
    if (Redacted.isRedacted(value)) secrets.add(Redacted.value(value))
  }
  return { env: Object.fromEntries(env), secrets }
}

/** A new incarnation: it boots for a while, and its lease runs from then on. */
const boot = Effect.fnUntraced(function* (context: Context, machine: MachineState) {
  const now = yield* Clock.currentTimeMillis
  machine.incarnation = context.state.nextIncarnation()
  machine.running = true
  machine.readyAt = now + Duration.toMillis(context.bootDelay)
  machine.deadline = machine.timeout === undefined ? undefined : machine.readyAt + machine.timeout
  yield* keepLease(context.state, machine)
})

const booted = (machine: MachineState): Effect.Effect<void> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    machine.readyAt > now ? Effect.sleep(machine.readyAt - now) : Effect.void
  )

const emptyDisk = (now: number): Tree => {
  const tree = new Tree(now)
  for (const directory of [
    Start.workspaceRoot,
    Start.temporary,
    "/usr/bin",
    "/usr/local/bin",
    "/dev",
    "/etc",
    "/proc/self/fd"
  ]) {
    tree.mkdir(directory, { recursive: true }, now)
  }
  tree.chmod(tree.stat(Start.temporary), 0o1777)
  tree.symlink("usr/bin", "/bin", now)
  return tree
}

/** The row of a request over a disk, in the place of what may have had its name. */
const insert = Effect.fnUntraced(function* (context: Context, request: CreateRequest, externalId: string, tree: Tree) {
  const { resolved, sandboxId } = request
  const before = context.state.machines.get(externalId)
  if (before !== undefined) yield* halt(before, "stop")
  const machine: MachineState = {
    externalId,
    sandboxId,
    namespace: request.namespace,
    createdAt: yield* Clock.currentTimeMillis,
    persistent: resolved.persistent,
    ports: resolved.ports,
    timeout: resolved.timeout === undefined ? undefined : Duration.toMillis(resolved.timeout),
    tree,
    ...valuesOf(request.config),
    incarnation: "",
    running: false,
    readyAt: 0,
    deadline: undefined,
    lease: undefined,
    programs: new Set(),
    processes: new Map(before?.processes),
    byPid: new Map(),
    pids: before?.pids ?? 100
  }
  context.state.machines.set(externalId, machine)
  yield* boot(context, machine)
  yield* booted(machine)
  return machine
})

const requireEnv = (operation: string, request: CreateRequest) =>
  Effect.mapError(checkEnv(request.config), (reason) => failWith(operation, reason, request.sandboxId))

const externalIdOf = (request: CreateRequest): string =>
  request.resolved.name?.externalId ?? `fake:${request.sandboxId}`

const create = Effect.fnUntraced(function* (context: Context, request: CreateRequest) {
  yield* context.state.call("create", request.sandboxId)
  yield* settle(context)
  yield* requireEnv("create", request)
  const externalId = externalIdOf(request)
  if (context.state.machines.has(externalId)) {
    return yield* failWith("create", new NameInUse({ name: externalId }), request.sandboxId)
  }
  const machine = yield* insert(context, request, externalId, emptyDisk(yield* Clock.currentTimeMillis))
  return machineOf(context, machine)
})

const connect = Effect.fnUntraced(function* (context: Context, ref: MachineRef, wanted: SandboxId, mayBoot: boolean) {
  yield* context.state.call("connect", wanted)
  if (!mayBoot) {
    const machine = yield* Effect.mapError(standing(context, "connect", ref), (error) =>
      error.reason._tag === "Superseded" && context.state.machines.get(ref.externalId)?.running === false
        ? failWith("connect", new NotRunning({ detail: "it was stopped" }), wanted)
        : error
    )
    if (machine.sandboxId === wanted) return machineOf(context, machine)
    return yield* failWith("connect", new NotFound({ kind: "machine", id: ref.externalId }), wanted)
  }
  yield* settle(context)
  const machine = context.state.machines.get(ref.externalId)
  if (machine === undefined) {
    return yield* failWith("connect", new Gone({ evidence: "the vendor knows no machine of this name" }), wanted)
  }
  if (machine.sandboxId !== wanted) {
    return yield* failWith("connect", new NotFound({ kind: "machine", id: ref.externalId }), wanted)
  }
  if (!machine.running) yield* boot(context, machine)
  yield* booted(machine)
  return machineOf(context, machine)
})

const restore = Effect.fnUntraced(function* (context: Context, checkpointId: string, request: CreateRequest) {
  const { sandboxId } = request
  const operation = "restoreCheckpoint"
  yield* context.state.call(operation, sandboxId)
  yield* requireEnv(operation, request)
  const saved = context.state.checkpoints.find(
    ({ checkpoint }) => checkpoint.sandboxId === sandboxId && checkpoint.id === checkpointId
  )
  if (saved === undefined) {
    return yield* failWith(operation, new NotFound({ kind: "checkpoint", id: checkpointId }), sandboxId)
  }
  const externalId = context.state.bySandbox(sandboxId)?.externalId ?? externalIdOf(request)
  return machineOf(context, yield* insert(context, request, externalId, saved.tree.clone()))
})

const removeCheckpoint = Effect.fnUntraced(function* (context: Context, checkpointId: string, sandboxId: SandboxId) {
  yield* context.state.call("deleteCheckpoint", sandboxId)
  const index = context.state.checkpoints.findIndex(
    ({ checkpoint }) => checkpoint.sandboxId === sandboxId && checkpoint.id === checkpointId
  )
  if (index < 0) {
    return yield* failWith("deleteCheckpoint", new NotFound({ kind: "checkpoint", id: checkpointId }), sandboxId)
  }
  context.state.checkpoints.splice(index, 1)
})

/** The machines that fit, as a listing shows them. */
const listing = (
  context: Context,
  operation: string,
  fits: (machine: MachineState) => boolean,
  sandboxId?: SandboxId
): Stream.Stream<MachineInfo> =>
  Stream.fromIterableEffect(
    Effect.gen(function* () {
      yield* context.state.call(operation, sandboxId)
      yield* settle(context)
      const now = yield* Clock.currentTimeMillis
      return [...context.state.machines.values()].filter(fits).map((machine) => ({
        ref: refOf(machine),
        sandboxId: machine.sandboxId,
        running: machine.running && machine.readyAt <= now,
        createdAt: machine.createdAt
      }))
    })
  )

/** The vendor's part of the contract. */
export const primitives = (context: Context): Primitives => ({
  kind: "fake",
  name: context.name,
  recovery: context.recovery,
  capabilities: capabilities(context.stopsProcesses),
  resolve: (config) => resolve(context, config),
  create: (request) => create(context, request),
  connect: (ref, options) => connect(context, ref, options.sandboxId, options.boot),
  find: (id) => listing(context, "find", (machine) => machine.sandboxId === id, id),
  list: (namespace) => listing(context, "list", (machine) => machine.namespace === namespace),
  stop: (ref, mode) => stop(context, ref, mode, false),
  checkpoints: Option.some({
    list: (id) =>
      Stream.fromIterableEffect(
        Effect.map(context.state.call("listCheckpoints", id), () =>
          context.state.checkpoints
            .filter(({ checkpoint }) => checkpoint.sandboxId === id)
            .map(({ checkpoint }) => checkpoint)
            .toReversed()
        )
      ),
    restore: (checkpointId, request) => restore(context, checkpointId, request),
    remove: (checkpointId, id) => removeCheckpoint(context, checkpointId, id)
  })
})
