/**
 * What the local provider keeps on disk. One data directory (the root) holds:
 *
 * ```
 * root.json                       marks the root as ours
 * pipes/<pid>.<start>/            stocks of FIFOs, one for each living service
 * supervisor.*                    see Supervisor
 * sandboxes/<id>/
 *   sandbox.json                  marker and state; nothing without it is ever deleted
 *   run/<incarnation>             exists while the machine runs as that incarnation
 *   env.json                      the sandbox's environment with its secrets, 0600: what a vendor's storage would hold
 *   workspace/  tmp/              the disk of the sandbox
 *   processes/<processId>/        recorded processes: process.json, out, err, exit.json
 *   checkpoints/<checkpointId>/
 *   restore/                      a restore that is under way, with its journal
 * ```
 *
 * Directories are 0700. Whatever is read back is decoded.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import type { SandboxError } from "../../../errors.ts"
import { Gone, InvalidArgument, NotRunning, Store, Superseded, Unavailable } from "../../../errors.ts"
import { Count, Millis, Port } from "../../../model/Common.ts"
import { SandboxId } from "../../../model/Ids.ts"
import { codeOf, failWith, io } from "./failures.ts"
import { bootId, wallClock, writeAtomic } from "./os.ts"
import { rootTag } from "./wire.ts"

/** Why a machine does not run any more. */
export const Ended = Schema.Struct({
  at: Millis,
  reason: Schema.Literals(["stop", "timeout"])
})

/** `sandbox.json`. Times are ms since the epoch. */
export const SandboxState = Schema.Struct({
  kind: Schema.Literal("effect-sandbox/local"),
  version: Schema.Literal(1),
  sandboxId: SandboxId,
  namespace: Schema.String,
  incarnation: Schema.String,
  /** The host's boot in which this incarnation started: nothing outlives it. */
  bootId: Schema.String,
  createdAt: Millis,
  persistent: Schema.Boolean,
  ports: Schema.Array(Port),
  /** The lease given at create and at each boot, in ms. */
  timeout: Schema.optionalKey(Count),
  /** When the lease ends. */
  deadline: Schema.optionalKey(Millis),
  ended: Schema.optionalKey(Ended)
})
export type SandboxState = typeof SandboxState.Type

const StateJson = Schema.fromJsonString(SandboxState)
const decodeState = Schema.decodeUnknownEffect(StateJson)
const decodeStateNow = Schema.decodeUnknownOption(StateJson)
const encodeState = Schema.encodeSync(StateJson)
const EnvJson = Schema.fromJsonString(Schema.Record(Schema.String, Schema.String))
const decodeEnv = Schema.decodeUnknownEffect(EnvJson)
const encodeEnv = Schema.encodeSync(EnvJson)

/** The paths of one data directory. */
export interface Root {
  readonly path: string
  readonly marker: string
  readonly sandboxes: string
  readonly pipes: string
  /** What cookies say of it: two roots may hold the same sandbox id. */
  readonly tag: string
}

/** The paths of one sandbox. */
export interface Paths {
  readonly directory: string
  readonly state: string
  readonly lock: string
  readonly env: string
  readonly run: string
  readonly workspace: string
  readonly tmp: string
  readonly processes: string
  readonly checkpoints: string
  /** Where a restore builds the new trees. */
  readonly restore: string
  /** Exists while a restore is between two trees: then a missing workspace proves nothing. */
  readonly journal: string
}

const rootOf = (path: string): Root => ({
  path,
  marker: Path.join(path, "root.json"),
  sandboxes: Path.join(path, "sandboxes"),
  pipes: Path.join(path, "pipes"),
  tag: rootTag(path)
})

const rootKind = "effect-sandbox/local-root"
const RootJson = Schema.fromJsonString(Schema.Struct({ kind: Schema.Literal(rootKind) }))
const decodeRoot = Schema.decodeUnknownOption(RootJson)

/**
 * True when the directory is ours, or empty and ours from now on. The marker is the first thing in it, so that a directory that
 * another service is making right now is not taken for somebody else's.
 */
const claim = async (root: Root): Promise<boolean> => {
  const names = await FsPromises.readdir(root.path)
  if (names.length > 0) {
    const text = await FsPromises.readFile(root.marker, "utf8").catch((error: unknown) => {
      if (codeOf(error) === "ENOENT" || codeOf(error) === "EISDIR") return undefined
      throw error
    })
    if (text === undefined) return false
    // A marker that is alone may still be written; with anything beside it, it is whole.
    return names.length === 1 && text === "" ? true : Option.isSome(decodeRoot(text))
  }
  try {
    // To the disk: what lies beside a marker that a power failure emptied would be nobody's.
    await FsPromises.writeFile(root.marker, `{"kind":"${rootKind}","version":1}\n`, {
      flag: "wx",
      mode: 0o600,
      flush: true
    })
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error
  }
  return true
}

/**
 * Makes the data directory where it is missing, and resolves its symlinks once. A directory that holds something and not our
 * marker is `InvalidArgument`, and nothing is written there.
 */
export const openRoot = (path: string): Effect.Effect<Root, SandboxError> =>
  Effect.gen(function* () {
    const root = yield* io("make", async () => {
      await FsPromises.mkdir(path, { recursive: true, mode: 0o700 })
      return rootOf(await FsPromises.realpath(path))
    })
    if (!(yield* io("make", () => claim(root)))) {
      return yield* failWith(
        "make",
        new InvalidArgument({
          argument: "root",
          problem: `${root.path} is not empty and has no marker of ours (root.json): give a directory of its own`
        })
      )
    }
    yield* io("make", async () => {
      await FsPromises.mkdir(root.sandboxes, { recursive: true, mode: 0o700 })
      await FsPromises.mkdir(root.pipes, { recursive: true, mode: 0o700 })
    })
    return root
  })

/** The paths of a sandbox. */
export const pathsOf = (root: Root, id: SandboxId): Paths => inside(Path.join(root.sandboxes, id))

/** The same below any directory: a sandbox is built aside and renamed. */
export const inside = (directory: string): Paths => ({
  directory,
  state: Path.join(directory, "sandbox.json"),
  lock: Path.join(directory, "lock"),
  env: Path.join(directory, "env.json"),
  run: Path.join(directory, "run"),
  workspace: Path.join(directory, "workspace"),
  tmp: Path.join(directory, "tmp"),
  processes: Path.join(directory, "processes"),
  checkpoints: Path.join(directory, "checkpoints"),
  restore: Path.join(directory, "restore"),
  journal: Path.join(directory, "restore", "journal.json")
})

/** What the vendor's id of a sandbox is. */
export const externalIdOf = (id: SandboxId): string => `local:${id}`

const decodeId = Schema.decodeUnknownOption(SandboxId)

/** The sandbox of an external id, none for what we never made. */
export const sandboxIdOf = (externalId: string): Option.Option<SandboxId> =>
  externalId.startsWith("local:") ? decodeId(externalId.slice("local:".length)) : Option.none()

/** The file that exists while a machine runs as this incarnation. */
export const runFile = (paths: Paths, incarnation: string): string => Path.join(paths.run, incarnation)

const readOptional = (operation: string, path: string): Effect.Effect<Option.Option<string>, SandboxError> =>
  io(operation, async () => {
    try {
      return Option.some(await FsPromises.readFile(path, "utf8"))
    } catch (error) {
      if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return Option.none()
      throw error
    }
  })

const malformed = (operation: string, path: string, cause: unknown): SandboxError =>
  failWith(operation, new Store({ kind: "Malformed", detail: `${path} does not decode`, cause }))

/** The state of a sandbox, none when its directory or marker is missing. */
export const readState = (operation: string, paths: Paths): Effect.Effect<Option.Option<SandboxState>, SandboxError> =>
  Effect.flatMap(readOptional(operation, paths.state), (text) =>
    Option.isNone(text)
      ? Effect.succeedNone
      : Effect.mapError(Effect.asSome(decodeState(text.value)), (cause) => malformed(operation, paths.state, cause))
  )

/** Writes the state; a crash leaves the old or the new one. */
export const writeState = (operation: string, paths: Paths, state: SandboxState): Effect.Effect<void, SandboxError> =>
  io(operation, () => writeAtomic(paths.state, encodeState(state)))

/** The sandbox's own environment. */
export const readEnv = (
  operation: string,
  paths: Paths
): Effect.Effect<Readonly<Record<string, string>>, SandboxError> =>
  Effect.flatMap(readOptional(operation, paths.env), (text) =>
    Option.isNone(text)
      ? Effect.succeed({})
      : // The cause would repeat a secret.
        Effect.mapError(decodeEnv(text.value), () => malformed(operation, paths.env, "not shown: it holds secrets"))
  )

/** Writes the environment, readable by this user only. */
export const writeEnv = (
  operation: string,
  paths: Paths,
  env: Readonly<Record<string, string>>
): Effect.Effect<void, SandboxError> => io(operation, () => writeAtomic(paths.env, encodeEnv(env)))

/** Marks the incarnation as the running one, and no other. */
export const markRunning = (operation: string, paths: Paths, incarnation: string): Effect.Effect<void, SandboxError> =>
  io(operation, async () => {
    await FsPromises.mkdir(paths.run, { recursive: true, mode: 0o700 })
    for (const name of await FsPromises.readdir(paths.run)) {
      if (name !== incarnation) await FsPromises.rm(Path.join(paths.run, name), { force: true })
    }
    await FsPromises.writeFile(runFile(paths, incarnation), "", { mode: 0o600 })
  })

/** From here on no command starts in any incarnation. */
export const markStopped = (operation: string, paths: Paths): Effect.Effect<void, SandboxError> =>
  io(operation, async () => {
    await FsPromises.rm(paths.run, { recursive: true, force: true })
  })

/** True while this incarnation runs: the one `stat` that a warm command costs. */
export const isMarkedRunning = (file: string): boolean => Fs.statSync(file, { throwIfNoEntry: false }) !== undefined

/**
 * What has ended a process that a signal killed, if its sandbox did: whoever stops one takes its mark away before it kills. At
 * once, because it is asked when the process exits.
 */
export const endOf = (paths: Paths, incarnation: string): "timeout" | "stop" | undefined => {
  if (isMarkedRunning(runFile(paths, incarnation))) return undefined
  try {
    const state = decodeStateNow(Fs.readFileSync(paths.state, "utf8"))
    if (Option.isNone(state) || state.value.incarnation !== incarnation) return "stop"
    // Written down once all of it is dead; before that, only the time says it.
    const { deadline, ended } = state.value
    return ended?.reason ?? (deadline !== undefined && deadline <= wallClock() ? "timeout" : "stop")
  } catch {
    // A delete has taken it away already, or it is being written.
    return "stop"
  }
}

/** How a sandbox stands, decided by nothing but files. */
export type Standing =
  | { readonly _tag: "Gone"; readonly evidence: string }
  | { readonly _tag: "Stopped"; readonly state: SandboxState; readonly detail: string }
  | { readonly _tag: "Running"; readonly state: SandboxState }

/**
 * `Gone` needs proof: the workspace is missing while the root is there, or a sandbox that was not to persist has ended. A
 * root that is missing itself (an unmounted disk) is `Unavailable`.
 */
export const standing = (operation: string, root: Root, paths: Paths): Effect.Effect<Standing, SandboxError> =>
  Effect.gen(function* () {
    if (!Fs.existsSync(root.marker)) {
      return yield* failWith(
        operation,
        new Unavailable({ accepted: "no", detail: `the data directory ${root.path} is missing` })
      )
    }
    const found = yield* readState(operation, paths)
    if (Option.isNone(found)) return { _tag: "Gone", evidence: `${paths.directory} does not exist` }
    const state = found.value
    if (Fs.existsSync(paths.journal)) return { _tag: "Stopped", state, detail: "a restore of it is not finished" }
    if (!Fs.existsSync(paths.workspace)) return { _tag: "Gone", evidence: `${paths.workspace} does not exist` }
    if (state.ended !== undefined && !state.persistent) {
      return { _tag: "Gone", evidence: `it was not persistent and ended (${state.ended.reason})` }
    }
    if (state.ended !== undefined) return { _tag: "Stopped", state, detail: `it ended (${state.ended.reason})` }
    if (state.deadline !== undefined && state.deadline <= wallClock()) {
      // The supervisor is about to write that down.
      return state.persistent
        ? { _tag: "Stopped", state, detail: "its lease has ended" }
        : { _tag: "Gone", evidence: "it was not persistent and its lease has ended" }
    }
    if (state.bootId !== bootId()) {
      return state.persistent
        ? { _tag: "Stopped", state, detail: "this host was started anew" }
        : { _tag: "Gone", evidence: "it was not persistent and this host was started anew" }
    }
    if (!isMarkedRunning(runFile(paths, state.incarnation))) {
      return { _tag: "Stopped", state, detail: "a stop of it did not finish" }
    }
    return { _tag: "Running", state }
  })

/** Why an operation of this incarnation cannot be done. */
export const refusal = (
  operation: string,
  root: Root,
  id: SandboxId,
  incarnation: string
): Effect.Effect<SandboxError, SandboxError> =>
  Effect.map(standing(operation, root, pathsOf(root, id)), (now) => {
    if (now._tag === "Gone") return failWith(operation, new Gone({ evidence: now.evidence }), id)
    if (now.state.incarnation !== incarnation) return failWith(operation, new Superseded({ incarnation }), id)
    return now._tag === "Stopped"
      ? failWith(operation, new NotRunning({ detail: now.detail }), id)
      : failWith(operation, new Unavailable({ accepted: "no", detail: "the machine just came up" }), id)
  })
