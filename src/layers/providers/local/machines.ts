/** The local provider's primitives: sandboxes by their directories, machines by their incarnations. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as PlatformError from "effect/PlatformError"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import * as FsPromises from "node:fs/promises"
import * as Os from "node:os"
import { setTimeout as delay } from "node:timers/promises"
import type { SandboxError } from "../../../errors.ts"
import {
  Gone,
  InvalidConfig,
  NameInUse,
  NotFound,
  NotRunning,
  OutcomeUnknown,
  PortNotExposed,
  StopIncomplete,
  Superseded,
  UnsupportedCapability
} from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import type { RecoverySchedules } from "../../../services/RecoveryPolicy.ts"
import type {
  CreateRequest,
  Machine,
  MachineInfo,
  MachineRef,
  Primitives,
  ResolvedConfig
} from "../../../services/SandboxProvider.ts"
import * as Checkpoints from "./checkpoints.ts"
import type { Client } from "./client.ts"
import { toSandboxError } from "./client.ts"
import { problemOfEnv } from "../../internal/commandChecks.ts"
import { toLaunch } from "./command.ts"
import * as Disk from "./disk.ts"
import { failWith, io } from "./failures.ts"
import * as Files from "./files.ts"
import * as LocalFileSystem from "./fileSystem.ts"
import { withLock } from "./lock.ts"
import { bootId, formatCookie, hostVariables, identity, isRunning, killByCookie, wallClock } from "./os.ts"
import type { Pipes } from "./pipes.ts"
import * as Recorded from "./recorded.ts"
import * as Scoped from "./scoped.ts"
import type { Paths, Root, SandboxState } from "./state.ts"
import * as State from "./state.ts"
import type { LocalSubstrate } from "./substrate.ts"

/** What the provider was made with. */
export interface Context {
  readonly root: Root
  readonly pipes: Pipes
  readonly client: Client
  readonly substrate: LocalSubstrate
  /** Node's. */
  readonly fileSystem: FileSystem.FileSystem
  readonly name: string | undefined
  readonly recovery: Partial<RecoverySchedules> | undefined
  /** ms. */
  readonly killGrace: number
  readonly spoolQuota: number
  readonly allowSecretArguments: boolean
  /** See {@link Checkpoints.OnStep}. */
  readonly onStep: Checkpoints.OnStep
}

const plain = (config: SandboxConfig): Record<string, string> => {
  const env: Record<string, string> = {}
  for (const [name, value] of Object.entries(config.env ?? {})) {
    env[name] = Redacted.isRedacted(value) ? Redacted.value(value) : value
  }
  return env
}

/** The types let a `Redacted` through whatever it holds; a program cannot be given everything. */
const checkEnv = (config: SandboxConfig): Effect.Effect<void, InvalidConfig> =>
  Effect.suspend(() => {
    const problem = problemOfEnv(Object.entries(config.env ?? {}))
    return problem === undefined ? Effect.void : Effect.fail(new InvalidConfig({ issue: `env: ${problem}` }))
  })

const requireEnv = (operation: string, request: CreateRequest): Effect.Effect<void, SandboxError> =>
  Effect.mapError(checkEnv(request.config), (reason) => failWith(operation, reason, request.sandboxId))

const resolve = (
  context: Context,
  config: SandboxConfig
): Effect.Effect<ResolvedConfig, InvalidConfig | UnsupportedCapability> => {
  const vcpus = config.resources?.vcpus
  const cores = Os.availableParallelism()
  const { isolation } = context.substrate
  const wanted = config.local
  if (vcpus !== undefined && vcpus > cores) {
    return Effect.fail(new InvalidConfig({ issue: `resources.vcpus: this host has ${cores}` }))
  }
  if (wanted?.isolation !== undefined && wanted.isolation !== "auto" && wanted.isolation !== isolation) {
    return Effect.fail(
      new UnsupportedCapability({
        capability: `local.isolation: ${wanted.isolation}`,
        detail: `the provider was made with isolation ${isolation}`
      })
    )
  }
  if (isolation === "none" && (wanted?.network === "none" || (wanted?.readOnlyPaths ?? []).length > 0)) {
    return Effect.fail(
      new UnsupportedCapability({
        capability: wanted?.network === "none" ? "local.network: none" : "local.readOnlyPaths",
        detail: "it needs isolation: bubblewrap"
      })
    )
  }
  const persistent = config.persistent ?? true
  return Effect.as(checkEnv(config), {
    persistent,
    deleteOnStop: config.deleteOnStop ?? !persistent,
    ports: config.ports ?? [],
    ...(config.timeout === undefined ? {} : { timeout: config.timeout }),
    ...(vcpus === undefined ? {} : { vcpus }),
    ...(config.runtime === undefined ? {} : { runtime: config.runtime })
  })
}

/** The handle of one incarnation. */
const machineOf = Effect.fnUntraced(function* (context: Context, paths: Paths, state: SandboxState, operation: string) {
  const { pipes, root, substrate } = context
  const { incarnation, sandboxId } = state
  const place = yield* substrate.open(paths, state)
  const environment = {
    // All that a command gets of the host's environment.
    ...hostVariables("PATH", "LANG", "TERM"),
    HOME: place.workspaceRoot,
    TMPDIR: place.temporary,
    ...(yield* State.readEnv(operation, paths))
  }
  const ref: MachineRef = { externalId: State.externalIdOf(sandboxId), incarnation }
  const runFile = State.runFile(paths, incarnation)
  const refuse = (method: string) =>
    Effect.flatMap(State.refusal(method, root, sandboxId, incarnation), (error) => Effect.fail(error))
  const checked = <A, E, R>(method: string, effect: Effect.Effect<A, E, R>) =>
    Effect.suspend((): Effect.Effect<A, E | SandboxError, R> =>
      State.isMarkedRunning(runFile) ? effect : refuse(method)
    )
  /** What the disk of a vanished machine gives as a missing file is a machine that is gone. */
  const orGone = <A, E, R>(method: string, effect: Effect.Effect<A, E, R>) =>
    Effect.catchIf(
      effect,
      (error) => isNotFound(error) && !existsWorkspace(paths),
      () => refuse(method)
    )
  /** An operation on files. Asked first too, because some of them make the directories that they miss. */
  const onDisk = <A, E, R>(method: string, effect: Effect.Effect<A, E, R>) =>
    checked(
      method,
      Effect.suspend((): Effect.Effect<A, E | SandboxError, R> =>
        existsWorkspace(paths) ? orGone(method, effect) : refuse(method)
      )
    )
  const cookie = { root: root.tag, sandboxId, owner: identity(), lifetime: "scoped" as const }
  const secretArguments = context.allowSecretArguments || !substrate.argumentsVisible
  const scopedOptions: Scoped.Options = {
    pipes,
    incarnation,
    killGrace: context.killGrace,
    sandboxEnd: () => State.endOf(paths, incarnation)
  }

  const recordedOptions: Recorded.Options = {
    root,
    client: context.client,
    sandboxId,
    incarnation,
    killGrace: context.killGrace,
    spoolQuota: context.spoolQuota
  }

  const machine: Machine = {
    ref,
    url: Option.none(),
    workspaceRoot: place.workspaceRoot,
    metadata: { isolation: substrate.isolation },
    start: (command) =>
      checked(
        "start",
        toLaunch(
          command,
          place,
          environment,
          formatCookie({ ...cookie, processId: command.processId }),
          secretArguments
        ).pipe(
          Effect.flatMap((launch) =>
            command.lifetime === "recorded"
              ? Recorded.start(recordedOptions, command, launch, refuse("start"))
              : Scoped.start(command, launch, scopedOptions)
          ),
          Effect.tap(() => context.onStep("start:started")),
          // A stop that came in between has counted the processes before this one was there. It was started all the same, so
          // that nobody may start it again elsewhere. A scoped one ends with its Scope, a recorded one by its supervisor.
          Effect.tap(() =>
            State.isMarkedRunning(runFile)
              ? Effect.void
              : Effect.fail(
                  failWith(
                    "start",
                    new OutcomeUnknown({ detail: "the machine was stopped during the start" }),
                    sandboxId
                  )
                )
          ),
          (starting) => orGone("start", starting)
        )
      ),
    findProcess: (processId) => checked("findProcess", Recorded.find(recordedOptions, processId)),
    resume: (process, from) => checked("resume", Recorded.resume(recordedOptions, process, from)),
    readFile: (path) =>
      Stream.unwrap(
        onDisk(
          "readFile",
          Effect.sync(() => Files.read(place.workspaceRoot, path))
        )
      ),
    writeFiles: (entries) => onDisk("writeFiles", Files.write(place.workspaceRoot, entries)),
    fileSystem: LocalFileSystem.of(context.fileSystem, place, onDisk),
    createCheckpoint: Option.some((options) =>
      checked(
        "createCheckpoint",
        // Whoever held the lock before may have stopped or restored this machine.
        checked(
          "createCheckpoint",
          recoverHeld(context, paths).pipe(
            Effect.andThen(Checkpoints.create(root, paths, sandboxId, options, context.onStep))
          )
        ).pipe(withLock("createCheckpoint", paths))
      )
    ),
    portUrl: Option.some((port) =>
      checked(
        "portUrl",
        state.ports.includes(port)
          ? Effect.succeed({ port, url: `http://127.0.0.1:${port}`, headers: {} })
          : Effect.fail(failWith("portUrl", new PortNotExposed({ port, exposed: state.ports }), sandboxId))
      )
    ),
    extendTimeout: Option.some((duration) => checked("extendTimeout", extend(context, ref, sandboxId, duration))),
    stop: (mode) => stop(context, ref, mode, true)
  }
  return machine
})

const isNotFound = (error: unknown): boolean =>
  error instanceof PlatformError.PlatformError && error.reason._tag === "NotFound"

const existsWorkspace = (paths: Paths): boolean => State.isMarkedRunning(paths.workspace)

/**
 * Ends every process of a sandbox and proves it. The supervisor first, where one runs: it writes down why. One that does not
 * answer, because it is frozen, writes that down when it goes on; the kill does not wait for it.
 */
const killAll = (context: Context, operation: string, sandboxId: SandboxId): Effect.Effect<void, SandboxError> =>
  Effect.andThen(
    context.client.requestIfRunning({ op: "stop", sandboxId, killGrace: context.killGrace }).pipe(
      // One that dies meanwhile leaves its processes to the cookies.
      Effect.catchReason("SandboxError", "Unavailable", () => Effect.succeedNone),
      Effect.mapError(toSandboxError(operation, sandboxId)),
      within(context.killGrace + answerMillis)
    ),
    killByCookies(context, operation, sandboxId)
  )

/** How long the supervisor may take for what it does at once, in ms. */
const answerMillis = 10_000

/** Native time: a kill that waits for a virtual clock is no kill. */
const within =
  (millis: number) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Option.Option<A>, E, R> =>
    Effect.raceFirst(
      Effect.asSome(effect),
      Effect.promise((signal) => delay(millis, Option.none<A>(), { signal }))
    )

const killByCookies = (context: Context, operation: string, sandboxId: SandboxId): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(
    io(operation, () =>
      killByCookie((cookie) => cookie.root === context.root.tag && cookie.sandboxId === sandboxId, context.killGrace)
    ),
    (survivors) =>
      survivors.length === 0
        ? Effect.void
        : Effect.fail(
            failWith(
              operation,
              new StopIncomplete({ detail: `these processes survived SIGKILL: ${survivors.slice(0, 20).join(", ")}` }),
              sandboxId
            )
          )
  )

/** Kills scoped processes whose service died without its finalizers. */
const killOrphans = (context: Context, operation: string, sandboxId: SandboxId): Effect.Effect<void, SandboxError> =>
  Effect.asVoid(
    io(operation, () =>
      killByCookie(
        (cookie) =>
          cookie.root === context.root.tag &&
          cookie.sandboxId === sandboxId &&
          cookie.lifetime === "scoped" &&
          !isRunning(cookie.owner),
        context.killGrace
      )
    )
  )

/** Lets the supervisor, which is started for it, know of a lease. */
const announceLease = (context: Context, operation: string, state: SandboxState): Effect.Effect<void, SandboxError> =>
  state.deadline === undefined
    ? Effect.void
    : Effect.asVoid(
        Effect.mapError(
          context.client.request({ op: "lease", sandboxId: state.sandboxId }),
          toSandboxError(operation, state.sandboxId)
        )
      )

/**
 * Where something is left to watch, a supervisor must live: a new one settles what the last one left behind before it
 * answers, kills included.
 */
const attend = (
  context: Context,
  operation: string,
  paths: Paths,
  state: SandboxState
): Effect.Effect<void, SandboxError> =>
  Effect.suspend(() =>
    state.deadline !== undefined || Recorded.hasOpen(paths.processes)
      ? Effect.asVoid(
          Effect.mapError(
            context.client.request({ op: "lease", sandboxId: state.sandboxId }),
            toSandboxError(operation, state.sandboxId)
          )
        )
      : Effect.void
  )

/** What a dead service left half done. The caller holds the lock. */
const recoverHeld = (context: Context, paths: Paths): Effect.Effect<void, SandboxError> =>
  Effect.suspend(() => (Checkpoints.needsRecovery(paths) ? Checkpoints.recover(paths, context.onStep) : Effect.void))

const extend = (context: Context, ref: MachineRef, sandboxId: SandboxId, duration: Duration.Duration) => {
  const paths = State.pathsOf(context.root, sandboxId)
  return Effect.gen(function* () {
    const now = yield* State.standing("extendTimeout", context.root, paths)
    if (now._tag !== "Running" || now.state.incarnation !== ref.incarnation) {
      return yield* yield* State.refusal("extendTimeout", context.root, sandboxId, ref.incarnation)
    }
    const deadline = wallClock() + Duration.toMillis(duration)
    const state = { ...now.state, deadline }
    yield* State.writeState("extendTimeout", paths, state)
    yield* announceLease(context, "extendTimeout", state)
    return deadline
  }).pipe(withLock("extendTimeout", paths))
}

const locate = (context: Context, operation: string, ref: MachineRef) =>
  Option.match(State.sandboxIdOf(ref.externalId), {
    onNone: () => Effect.fail(failWith(operation, new NotFound({ kind: "machine", id: ref.externalId }))),
    onSome: (sandboxId) => Effect.succeed({ sandboxId, paths: State.pathsOf(context.root, sandboxId) })
  })

const newState = Effect.fnUntraced(function* (request: CreateRequest) {
  const now = wallClock()
  const { ports, persistent, timeout } = request.resolved
  const millis = timeout === undefined ? undefined : Duration.toMillis(timeout)
  const state: SandboxState = {
    kind: "effect-sandbox/local",
    version: 1,
    sandboxId: request.sandboxId,
    namespace: request.namespace,
    incarnation: Crypto.randomUUID(),
    bootId: bootId(),
    createdAt: now,
    persistent,
    ports,
    ...(millis === undefined ? {} : { timeout: millis, deadline: now + millis })
  }
  return state
})

const create = Effect.fnUntraced(function* (context: Context, request: CreateRequest) {
  const { root } = context
  const { sandboxId } = request
  const paths = State.pathsOf(root, sandboxId)
  yield* requireEnv("create", request)
  const state = yield* newState(request)
  const env = plain(request.config)
  if (!(yield* Disk.create(root, paths, state, env))) {
    yield* Effect.gen(function* () {
      const existing = yield* State.readState("create", paths)
      if (Option.isNone(existing)) return yield* Disk.foreign(paths, State.externalIdOf(sandboxId))
      const now = yield* State.standing("create", root, paths)
      if (now._tag !== "Gone") {
        return yield* failWith("create", new NameInUse({ name: State.externalIdOf(sandboxId) }), sandboxId)
      }
      yield* State.markStopped("create", paths)
      yield* killAll(context, "create", sandboxId)
      yield* Disk.recreate(paths, state, env)
    }).pipe(withLock("create", paths))
  }
  // A lease that nobody keeps must not exist.
  yield* announceLease(context, "create", state).pipe(Effect.onError(() => Effect.ignore(Disk.remove(root, paths))))
  return yield* machineOf(context, paths, state, "create")
})

/** A new incarnation over the same disk. The caller holds the lock. */
const boot = Effect.fnUntraced(function* (context: Context, paths: Paths, state: SandboxState) {
  // A stop that did not finish is finished first.
  yield* State.markStopped("connect", paths)
  yield* killAll(context, "connect", state.sandboxId)
  const now = wallClock()
  const { deadline: _deadline, ended: _ended, ...rest } = state
  const next: SandboxState = {
    ...rest,
    incarnation: Crypto.randomUUID(),
    bootId: bootId(),
    ...(state.timeout === undefined ? {} : { deadline: now + state.timeout })
  }
  yield* State.writeState("connect", paths, next)
  yield* State.markRunning("connect", paths, next.incarnation)
  return next
})

const connect = Effect.fnUntraced(function* (context: Context, ref: MachineRef, wanted: SandboxId, mayBoot: boolean) {
  const { paths, sandboxId } = yield* locate(context, "connect", ref)
  if (sandboxId !== wanted)
    return yield* failWith("connect", new NotFound({ kind: "machine", id: ref.externalId }), wanted)
  // What dead services and supervisors left behind is settled first, whatever the machine has come to.
  const known = yield* State.readState("connect", paths)
  if (Option.isSome(known)) {
    yield* killOrphans(context, "connect", sandboxId)
    if (Checkpoints.needsRecovery(paths)) yield* recoverHeld(context, paths).pipe(withLock("connect", paths))
    yield* attend(context, "connect", paths, known.value)
  }
  const found = yield* State.standing("connect", context.root, paths)
  const gone = (evidence: string) => failWith("connect", new Gone({ evidence }), sandboxId)
  if (found._tag === "Gone") return yield* gone(found.evidence)
  if (!mayBoot) {
    if (found._tag === "Stopped") return yield* failWith("connect", new NotRunning({ detail: found.detail }), sandboxId)
    if (found.state.incarnation !== ref.incarnation) {
      return yield* failWith("connect", new Superseded({ incarnation: ref.incarnation }), sandboxId)
    }
  }
  if (found._tag === "Running") return yield* machineOf(context, paths, found.state, "connect")
  const state = yield* Effect.gen(function* () {
    yield* recoverHeld(context, paths)
    // Somebody else may have booted it while this one waited.
    const now = yield* State.standing("connect", context.root, paths)
    if (now._tag === "Gone") return yield* gone(now.evidence)
    if (now._tag === "Running") return now.state
    const booted = yield* boot(context, paths, now.state)
    yield* announceLease(context, "connect", booted)
    return booted
  }).pipe(withLock("connect", paths))
  return yield* machineOf(context, paths, state, "connect")
})

/** `strict`: a handle must not stop the machine that replaced its own. */
const stop = Effect.fnUntraced(function* (context: Context, ref: MachineRef, mode: "stop" | "delete", strict: boolean) {
  const { paths, sandboxId } = yield* locate(context, "stop", ref)
  yield* Effect.gen(function* () {
    yield* recoverHeld(context, paths)
    const found = yield* State.readState("stop", paths)
    if (Option.isNone(found)) return
    const state = found.value
    if (strict && state.incarnation !== ref.incarnation) {
      return yield* failWith("stop", new Superseded({ incarnation: ref.incarnation }), sandboxId)
    }
    yield* State.markStopped("stop", paths)
    yield* killAll(context, "stop", sandboxId)
    if (mode === "delete") return yield* Disk.remove(context.root, paths)
    if (state.ended !== undefined) return
    const { deadline: _deadline, ...rest } = state
    yield* State.writeState("stop", paths, { ...rest, ended: { at: wallClock(), reason: "stop" } })
  }).pipe(
    withLock("stop", paths),
    // What does not exist needs no stop.
    Effect.catchReason("SandboxError", "Gone", () => Effect.void)
  )
})

const restore = Effect.fnUntraced(function* (context: Context, checkpointId: string, request: CreateRequest) {
  const { sandboxId } = request
  const operation = "restoreCheckpoint"
  const paths = State.pathsOf(context.root, sandboxId)
  const missing = failWith(operation, new NotFound({ kind: "checkpoint", id: checkpointId }), sandboxId)
  yield* requireEnv(operation, request)
  const state = yield* newState(request)
  yield* Effect.gen(function* () {
    if (Option.isNone(yield* State.readState(operation, paths))) return yield* missing
    yield* recoverHeld(context, paths)
    yield* Checkpoints.require(paths, sandboxId, checkpointId)
    yield* State.markStopped(operation, paths)
    yield* killAll(context, operation, sandboxId)
    yield* context.onStep("restore:stopped")
    yield* Checkpoints.prepare(paths, checkpointId, state, context.onStep)
    const env = plain(request.config)
    // A variable whose secret was not supplied again keeps its value.
    yield* State.writeEnv(operation, paths, { ...(yield* State.readEnv(operation, paths)), ...env })
    yield* Checkpoints.swap(paths, context.onStep)
    yield* State.markRunning(operation, paths, state.incarnation)
    yield* announceLease(context, operation, state)
  }).pipe(
    withLock(operation, paths),
    Effect.catchReason("SandboxError", "Gone", () => Effect.fail(missing))
  )
  return yield* machineOf(context, paths, state, operation)
})

const removeCheckpoint = (context: Context, sandboxId: SandboxId, id: string): Effect.Effect<void, SandboxError> => {
  const paths = State.pathsOf(context.root, sandboxId)
  return Effect.andThen(recoverHeld(context, paths), Checkpoints.remove(paths, sandboxId, id)).pipe(
    withLock("deleteCheckpoint", paths),
    Effect.catchReason("SandboxError", "Gone", () =>
      Effect.fail(failWith("deleteCheckpoint", new NotFound({ kind: "checkpoint", id }), sandboxId))
    )
  )
}

const infoOf = (root: Root, state: SandboxState): MachineInfo => ({
  ref: { externalId: State.externalIdOf(state.sandboxId), incarnation: state.incarnation },
  sandboxId: state.sandboxId,
  running:
    state.ended === undefined &&
    state.bootId === bootId() &&
    State.isMarkedRunning(State.runFile(State.pathsOf(root, state.sandboxId), state.incarnation)),
  createdAt: state.createdAt
})

const list = (context: Context, namespace: string): Stream.Stream<MachineInfo, SandboxError> =>
  Stream.fromIterableEffect(io("list", () => FsPromises.readdir(context.root.sandboxes))).pipe(
    Stream.mapEffect((name) => {
      const id = State.sandboxIdOf(`local:${name}`)
      return Option.isNone(id) ? Effect.succeedNone : State.readState("list", State.pathsOf(context.root, id.value))
    }),
    Stream.filter(Option.isSome),
    Stream.filter(({ value }) => value.namespace === namespace),
    Stream.map(({ value }) => infoOf(context.root, value))
  )

const find = (context: Context, id: SandboxId): Stream.Stream<MachineInfo, SandboxError> =>
  Stream.fromIterableEffect(
    Effect.map(State.readState("find", State.pathsOf(context.root, id)), (state) =>
      Option.toArray(Option.map(state, (value) => infoOf(context.root, value)))
    )
  )

/** The vendor's part of the contract. */
export const primitives = (context: Context): Primitives => ({
  kind: "local",
  name: context.name,
  recovery: context.recovery,
  capabilities: {
    processes: { stdin: true, signalsObservable: true, recorded: true, additionalFds: true },
    files: {
      openSurvivesRename: true,
      atomicExclusiveCreate: true,
      watchEvents: true,
      inodes: true,
      subSecondTimes: true
    },
    ports: 65535,
    checkpoints: { stopsProcesses: false, comments: true },
    extendTimeout: true,
    persistent: true
  },
  resolve: (config) => resolve(context, config),
  create: (request) => create(context, request),
  connect: (ref, options) => connect(context, ref, options.sandboxId, options.boot),
  find: (id) => find(context, id),
  list: (namespace) => list(context, namespace),
  stop: (ref, mode) => stop(context, ref, mode, false),
  checkpoints: Option.some({
    list: (id) => Checkpoints.list(State.pathsOf(context.root, id)),
    restore: (checkpointId, request) => restore(context, checkpointId, request),
    remove: (checkpointId, id) => removeCheckpoint(context, id, checkpointId)
  })
})
