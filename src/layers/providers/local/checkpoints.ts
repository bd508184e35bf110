/**
 * Checkpoints of a sandbox's disk, its workspace and its temporary directory: plain copies beside it.
 *
 * A crash at any point leaves the old state or the new one. Creating builds `<id>.tmp` and renames it. Restoring builds the new
 * trees aside, writes a journal (`prepared`), exchanges the directories, notes that (`swapped`) and removes the journal; without a
 * journal whoever comes next throws the half away, with one it finishes what was begun.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import type { SandboxError } from "../../../errors.ts"
import { InvalidArgument, NotFound, Store, Unknown } from "../../../errors.ts"
import { Checkpoint } from "../../../model/Checkpoint.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import { removeTree } from "./disk.ts"
import { codeOf, failWith, reasonOf } from "./failures.ts"
import { freeze, thaw, wallClock, writeAtomic } from "./os.ts"
import type { Frozen } from "./os.ts"
import type { Paths, Root } from "./state.ts"
import { SandboxState, writeState } from "./state.ts"
import * as Tree from "./tree.ts"

/** Where a crash is tried in tests; does nothing otherwise. */
export type OnStep = (step: string) => Effect.Effect<void>

/** The directories that a checkpoint holds. */
const parts = ["workspace", "tmp"] as const

const CheckpointFile = Schema.fromJsonString(
  Schema.Struct({
    version: Schema.Literal(1),
    checkpoint: Checkpoint,
    /** Sockets that were left out, relative to the sandbox's directory. */
    skipped: Schema.Array(Schema.String)
  })
)
const decodeCheckpoint = Schema.decodeUnknownEffect(CheckpointFile)
const encodeCheckpoint = Schema.encodeSync(CheckpointFile)

const Journal = Schema.fromJsonString(
  Schema.Struct({
    version: Schema.Literal(1),
    step: Schema.Literals(["prepared", "swapped"]),
    state: SandboxState
  })
)
const decodeJournal = Schema.decodeUnknownEffect(Journal)
const encodeJournal = Schema.encodeSync(Journal)

const FrozenFile = Schema.fromJsonString(Schema.Array(Schema.Struct({ pid: Schema.Int, startTime: Schema.String })))
const decodeFrozen = Schema.decodeUnknownOption(FrozenFile)
const encodeFrozen = Schema.encodeSync(FrozenFile)

const isId = (id: string): boolean => /^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$/.test(id) && !id.endsWith(".tmp")

const fresh = (paths: Paths) => Path.join(paths.restore, "new")
const old = (paths: Paths) => Path.join(paths.restore, "old")

const frozenPath = (paths: Paths): string => Path.join(paths.directory, "frozen.json")

/** A promise that stops its work when it is interrupted. */
const work = <A>(operation: string, evaluate: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, SandboxError> =>
  Effect.tryPromise({ try: evaluate, catch: (cause) => failWith(operation, reasonOf(cause)) })

const fileOf = (directory: string): string => Path.join(directory, "checkpoint.json")

const readCheckpoint = (operation: string, directory: string): Effect.Effect<Option.Option<Checkpoint>, SandboxError> =>
  Effect.gen(function* () {
    const text = yield* work(operation, () =>
      FsPromises.readFile(fileOf(directory), "utf8").catch((error: unknown) => {
        if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined
        throw error
      })
    )
    if (text === undefined) return Option.none()
    const file = yield* Effect.mapError(decodeCheckpoint(text), (cause) =>
      failWith(operation, new Store({ kind: "Malformed", detail: `${fileOf(directory)} does not decode`, cause }))
    )
    return Option.some(file.checkpoint)
  })

const missing = (operation: string, id: string, sandboxId: SandboxId): SandboxError =>
  failWith(operation, new NotFound({ kind: "checkpoint", id }), sandboxId)

/** The processes of the sandbox stand still for the Scope. What a crash leaves standing, {@link recover} finds on disk. */
const frozen = (root: Root, paths: Paths, sandboxId: SandboxId) =>
  Effect.acquireRelease(
    work("createCheckpoint", async () => {
      const stopped: Array<Frozen> = []
      await freeze(
        (cookie) => cookie.root === root.tag && cookie.sandboxId === sandboxId,
        async (more) => {
          stopped.push(...more)
          await writeAtomic(frozenPath(paths), encodeFrozen(stopped))
        }
      ).catch((error: unknown) => {
        thaw(stopped)
        throw error
      })
      return stopped
    }),
    (stopped) =>
      Effect.ignore(
        work("createCheckpoint", async () => {
          thaw(stopped)
          await FsPromises.rm(frozenPath(paths), { force: true })
        })
      )
  )

const writeManifest = async (directory: string, files: string, signal: AbortSignal): Promise<number> => {
  const handle = await FsPromises.open(Path.join(directory, "manifest.ndjson"), "wx", 0o600)
  let size = 0
  try {
    for await (const entry of Tree.manifest(files, signal)) {
      if (entry.type === "file") size += entry.size
      await handle.writeFile(`${JSON.stringify(entry)}\n`)
    }
  } finally {
    await handle.close()
  }
  return size
}

/** Node's own reader of lines ends them at U+2028 as well, which a name may hold and JSON does not escape. */
const linesOf = async function* (path: string): AsyncGenerator<string> {
  let rest = ""
  for await (const text of Fs.createReadStream(path, "utf8")) {
    const lines = `${rest}${text}`.split("\n")
    rest = lines.pop() ?? ""
    yield* lines
  }
  if (rest !== "") yield rest
}

/** True when the tree is what the manifest says. */
const matches = async (manifest: string, files: string, signal: AbortSignal): Promise<boolean> => {
  const expected = linesOf(manifest)
  try {
    for await (const entry of Tree.manifest(files, signal)) {
      const line = await expected.next()
      if (line.done === true || line.value !== JSON.stringify(entry)) return false
    }
    return (await expected.next()).done === true
  } finally {
    await expected.return(undefined)
  }
}

/** Saves the disk. The caller holds the lock and has settled what was left behind. */
export const create = (
  root: Root,
  paths: Paths,
  sandboxId: SandboxId,
  options: { readonly comment?: string; readonly id?: string },
  onStep: OnStep
): Effect.Effect<Checkpoint, SandboxError> =>
  Effect.gen(function* () {
    const operation = "createCheckpoint"
    const id = options.id ?? Crypto.randomUUID()
    if (!isId(id)) {
      return yield* failWith(
        operation,
        new InvalidArgument({
          argument: "id",
          problem: "expected up to 100 letters, digits, dots, dashes and underscores"
        }),
        sandboxId
      )
    }
    const directory = Path.join(paths.checkpoints, id)
    const existing = yield* readCheckpoint(operation, directory)
    if (Option.isSome(existing)) return existing.value
    const aside = `${directory}.tmp`
    const files = Path.join(aside, "files")
    yield* Effect.addFinalizer(() => Effect.ignore(work(operation, () => removeTree(aside))))
    yield* work(operation, async () => {
      await removeTree(aside)
      await FsPromises.mkdir(files, { recursive: true, mode: 0o700 })
    })
    yield* onStep("create:aside")
    const skipped = yield* Effect.scoped(
      Effect.gen(function* () {
        yield* frozen(root, paths, sandboxId)
        yield* onStep("create:frozen")
        return yield* work(operation, async (signal) => {
          const sockets: Array<string> = []
          for (const part of parts) {
            const target = Path.join(files, part)
            await Tree.copy(paths[part], target, signal)
            for (const socket of await Tree.removeSockets(target, signal)) sockets.push(`${part}/${socket}`)
          }
          return sockets
        })
      })
    )
    yield* onStep("create:copied")
    const sizeBytes = yield* work(operation, (signal) => writeManifest(aside, files, signal))
    yield* onStep("create:manifest")
    const checkpoint: Checkpoint = {
      id,
      sandboxId,
      createdAt: wallClock(),
      sizeBytes,
      ...(options.comment === undefined ? {} : { comment: options.comment })
    }
    yield* work(operation, async (signal) => {
      await writeAtomic(fileOf(aside), encodeCheckpoint({ version: 1, checkpoint, skipped }))
      await Tree.sync(aside, signal)
    })
    yield* onStep("create:synced")
    yield* work(operation, async (signal) => {
      await FsPromises.rename(aside, directory)
      await Tree.sync(paths.checkpoints, signal)
    })
    yield* onStep("create:renamed")
    return checkpoint
  }).pipe(Effect.scoped)

/** Newest first. One that cannot be read fails the listing. */
export const list = (paths: Paths): Stream.Stream<Checkpoint, SandboxError> =>
  Stream.fromIterableEffect(
    Effect.gen(function* () {
      const names = yield* work("listCheckpoints", () =>
        FsPromises.readdir(paths.checkpoints).catch((error: unknown): ReadonlyArray<string> => {
          if (codeOf(error) === "ENOENT") return []
          throw error
        })
      )
      const found = yield* Effect.forEach(names.filter(isId), (name) =>
        readCheckpoint("listCheckpoints", Path.join(paths.checkpoints, name))
      )
      return found
        .flatMap((checkpoint) => Option.toArray(checkpoint))
        .sort((a, b) => b.createdAt - a.createdAt || (a.id < b.id ? 1 : -1))
    })
  )

/** Deletes one. The caller holds the lock. */
export const remove = (paths: Paths, sandboxId: SandboxId, id: string): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    const directory = Path.join(paths.checkpoints, id)
    if (!isId(id) || Option.isNone(yield* readCheckpoint("deleteCheckpoint", directory))) {
      return yield* missing("deleteCheckpoint", id, sandboxId)
    }
    yield* work("deleteCheckpoint", async () => {
      await FsPromises.rename(directory, `${directory}.tmp`)
      await removeTree(`${directory}.tmp`)
    })
  })

/** That the checkpoint is there, before anything is stopped for it. */
export const require = (paths: Paths, sandboxId: SandboxId, id: string): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(
    isId(id) ? readCheckpoint("restoreCheckpoint", Path.join(paths.checkpoints, id)) : Effect.succeedNone,
    (found) => (Option.isSome(found) ? Effect.void : Effect.fail(missing("restoreCheckpoint", id, sandboxId)))
  )

/**
 * Builds the trees of a checkpoint aside and proves them. From the journal on the restore happens, whoever finishes it. The
 * caller holds the lock and has stopped the machine.
 */
export const prepare = (
  paths: Paths,
  id: string,
  state: SandboxState,
  onStep: OnStep
): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    const operation = "restoreCheckpoint"
    const source = Path.join(paths.checkpoints, id)
    const sound = yield* work(operation, async (signal) => {
      await removeTree(paths.restore)
      await FsPromises.mkdir(fresh(paths), { recursive: true, mode: 0o700 })
      await FsPromises.mkdir(old(paths), { mode: 0o700 })
      for (const part of parts) {
        await Tree.copy(Path.join(source, "files", part), Path.join(fresh(paths), part), signal)
      }
      await Tree.sync(fresh(paths), signal)
      return await matches(Path.join(source, "manifest.ndjson"), fresh(paths), signal)
    })
    if (!sound) {
      return yield* failWith(
        operation,
        new Unknown({ detail: `checkpoint ${id} is damaged: it differs from its manifest` }),
        state.sandboxId
      )
    }
    yield* onStep("restore:built")
    yield* work(operation, () => writeAtomic(paths.journal, encodeJournal({ version: 1, step: "prepared", state })))
    yield* onStep("restore:prepared")
  }).pipe(
    // Half a copy may be what fills the disk. With a journal it is no half any more.
    Effect.onError(() =>
      Fs.existsSync(paths.journal)
        ? Effect.void
        : Effect.ignore(work("restoreCheckpoint", () => removeTree(paths.restore)))
    )
  )

/** Exchanges the trees as the journal says; every step can be done again. */
export const swap = (paths: Paths, onStep: OnStep): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    const operation = "restoreCheckpoint"
    const text = yield* work(operation, () => FsPromises.readFile(paths.journal, "utf8"))
    const journal = yield* Effect.mapError(decodeJournal(text), (cause) =>
      failWith(operation, new Store({ kind: "Malformed", detail: `${paths.journal} does not decode`, cause }))
    )
    if (journal.step === "prepared") {
      for (const part of parts) {
        const next = Path.join(fresh(paths), part)
        yield* work(operation, async () => {
          if (Fs.existsSync(next) && Fs.existsSync(paths[part])) {
            await FsPromises.rename(paths[part], Path.join(old(paths), part))
          }
        })
        yield* onStep(`restore:out:${part}`)
        yield* work(operation, async () => {
          if (Fs.existsSync(next)) await FsPromises.rename(next, paths[part])
        })
        yield* onStep(`restore:in:${part}`)
      }
      yield* work(operation, () => writeAtomic(paths.journal, encodeJournal({ ...journal, step: "swapped" })))
      yield* onStep("restore:swapped")
    }
    yield* writeState(operation, paths, journal.state)
    yield* onStep("restore:state")
    // The journal first: without it the rest is only rubbish.
    yield* work(operation, async () => {
      await FsPromises.rm(paths.journal, { force: true })
      await removeTree(paths.restore)
    })
    yield* onStep("restore:done")
  })

/** Whether a dead service left a checkpoint or a restore half done. */
export const needsRecovery = (paths: Paths): boolean => Fs.existsSync(paths.restore) || Fs.existsSync(frozenPath(paths))

/** Finishes or undoes it. The caller holds the lock, so nobody is at it. */
export const recover = (paths: Paths, onStep: OnStep): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    yield* work("recover", async () => {
      const text = await FsPromises.readFile(frozenPath(paths), "utf8").catch((error: unknown) => {
        if (codeOf(error) === "ENOENT") return undefined
        throw error
      })
      if (text === undefined) return
      thaw(Option.getOrElse(decodeFrozen(text), () => []))
      await FsPromises.rm(frozenPath(paths), { force: true })
    })
    if (Fs.existsSync(paths.journal)) yield* swap(paths, onStep)
    yield* work("recover", async () => {
      await removeTree(paths.restore)
      for (const name of await FsPromises.readdir(paths.checkpoints)) {
        if (name.endsWith(".tmp")) await removeTree(Path.join(paths.checkpoints, name))
      }
    })
  })
