/** Making and removing the directories of sandboxes. Nothing is removed that does not carry our marker. */
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import * as Crypto from "node:crypto"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import { promisify } from "node:util"
import type { SandboxError } from "../../../errors.ts"
import { NameInUse } from "../../../errors.ts"
import { codeOf, failWith, io } from "./failures.ts"
import { identity, isRunning } from "./os.ts"
import type { Paths, Root, SandboxState } from "./state.ts"
import { inside, markRunning, writeEnv, writeState } from "./state.ts"

const makePrivate = (path: string) => FsPromises.mkdir(path, { recursive: true, mode: 0o700 })

/** Gives back the right to remove what a command took it from; never through a symlink. Names are bytes, as in `tree.ts`. */
const unlock = async (path: Buffer): Promise<void> => {
  const stat = await FsPromises.lstat(path)
  if (!stat.isDirectory()) return
  await FsPromises.chmod(path, 0o700)
  for (const name of await FsPromises.readdir(path, { encoding: "buffer" })) {
    await unlock(Buffer.concat([path, Buffer.from("/"), name]))
  }
}

const run = promisify(execFile)

/** Removes a tree and follows no symlink. */
export const removeTree = async (path: string): Promise<void> => {
  try {
    await FsPromises.rm(path, { recursive: true, force: true, maxRetries: 3 })
  } catch (error) {
    switch (codeOf(error)) {
      case "EACCES":
      case "EPERM":
        await unlock(Buffer.from(path))
        return await FsPromises.rm(path, { recursive: true, force: true, maxRetries: 3 })
      case "ENAMETOOLONG":
        // Who changes into directories makes them deeper than a path can name; `rm` changes into them as well.
        return void (await run("rm", ["-rf", "--", path], { cwd: "/" }))
      default:
        throw error
    }
  }
}

const scratch = (root: Root): string => Path.join(root.path, "scratch")

/** A name that tells who is at work there, so that what a dead service left is found. */
const scratchName = (root: Root): string => {
  const { pid, startTime } = identity()
  return Path.join(scratch(root), `${pid}.${startTime}.${Crypto.randomUUID()}`)
}

const uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
const scratchPattern = new RegExp(`^(\\d+)\\.([^.]+)\\.${uuid}$`)
const stockPattern = new RegExp(`^(\\d+)\\.([^.]+)\\.(?:${uuid}|supervisor)$`)
const fifoPattern = new RegExp(`^${uuid}$`)

/** The names in a directory that its owner, whom the name tells and who is dead, left behind; no other name is ours. */
const leftBehind = async (parent: string, pattern: RegExp): Promise<ReadonlyArray<string>> =>
  (await FsPromises.readdir(parent)).flatMap((name) => {
    const [, pid, startTime] = pattern.exec(name) ?? []
    return pid === undefined || startTime === undefined || isRunning({ pid: Number(pid), startTime })
      ? []
      : [Path.join(parent, name)]
  })

/** Half made and half removed sandboxes may lack the marker, but hold nothing that a sandbox does not. */
const isSandbox = async (path: string): Promise<boolean> => {
  const stat = await FsPromises.lstat(path)
  if (!stat.isDirectory()) return false
  const marker = await FsPromises.readFile(inside(path).state, "utf8").catch(() => "")
  if (marker.includes(`"effect-sandbox/local"`)) return true
  const own = new Set(Object.values(inside(path)).map((known) => Path.basename(known)))
  const names = await FsPromises.readdir(path)
  // What comes after the name of a file is the token of its writer.
  return names.every((name) => own.has(name) || own.has(name.split(/\.(?:tmp|dead|[0-9a-f]{8}-)/)[0] ?? ""))
}

/** Nothing but FIFOs lies in a stock. */
const removeStock = async (path: string): Promise<void> => {
  if (!(await FsPromises.lstat(path)).isDirectory()) return
  for (const entry of await FsPromises.readdir(path, { withFileTypes: true })) {
    if (entry.isFIFO() && fifoPattern.test(entry.name))
      await FsPromises.rm(Path.join(path, entry.name), { force: true })
  }
  try {
    await FsPromises.rmdir(path)
  } catch (error) {
    if (codeOf(error) !== "ENOTEMPTY" && codeOf(error) !== "EEXIST") throw error
  }
}

/** Another service sweeps at the same time; and what cannot be removed, for whatever reason, is none to be of no use. */
const ifPossible = (evaluate: () => Promise<void>): Promise<void> => evaluate().catch(() => {})

/** Removes what services that are dead left behind: half-made sandboxes, deleted ones, stocks of pipes. */
export const sweep = (root: Root): Effect.Effect<void, SandboxError> =>
  io("make", async () => {
    await makePrivate(scratch(root))
    await makePrivate(root.pipes)
    for (const path of await leftBehind(scratch(root), scratchPattern)) {
      await ifPossible(async () => {
        if (await isSandbox(path)) await removeTree(path)
      })
    }
    for (const path of await leftBehind(root.pipes, stockPattern)) await ifPossible(() => removeStock(path))
  })

const fill = Effect.fnUntraced(function* (paths: Paths, state: SandboxState, env: Readonly<Record<string, string>>) {
  yield* io("create", async () => {
    for (const path of [paths.directory, paths.run, paths.workspace, paths.tmp, paths.processes, paths.checkpoints]) {
      await makePrivate(path)
    }
  })
  yield* writeEnv("create", paths, env)
  yield* writeState("create", paths, state)
  yield* markRunning("create", paths, state.incarnation)
})

/**
 * Makes a sandbox aside and moves it into place, so that there is none or a whole one. False when there is something of
 * this id already.
 */
export const create = (
  root: Root,
  paths: Paths,
  state: SandboxState,
  env: Readonly<Record<string, string>>
): Effect.Effect<boolean, SandboxError> =>
  Effect.suspend(() => {
    const aside = scratchName(root)
    return Effect.ensuring(
      Effect.andThen(
        fill(inside(aside), state, env),
        io("create", async () => {
          try {
            await FsPromises.rename(aside, paths.directory)
            return true
          } catch (error) {
            if (codeOf(error) === "ENOTEMPTY" || codeOf(error) === "EEXIST" || codeOf(error) === "ENOTDIR") return false
            throw error
          }
        })
      ),
      Effect.ignore(io("create", () => removeTree(aside)))
    )
  })

/** A new machine in the place of one that is gone; its checkpoints stay. The caller holds the lock. */
export const recreate = (
  paths: Paths,
  state: SandboxState,
  env: Readonly<Record<string, string>>
): Effect.Effect<void, SandboxError> =>
  Effect.andThen(
    io("create", async () => {
      // The workspace first: from here on the old machine is gone whatever happens next.
      for (const path of [paths.workspace, paths.tmp, paths.run, paths.processes, paths.env]) await removeTree(path)
    }),
    fill(paths, state, env)
  )

/** Takes a sandbox away: out of sight at once, then from the disk. */
export const remove = (root: Root, paths: Paths): Effect.Effect<void, SandboxError> =>
  io("stop", async () => {
    const aside = scratchName(root)
    try {
      // Proof that this is ours.
      await FsPromises.access(paths.state)
      await FsPromises.rename(paths.directory, aside)
    } catch (error) {
      if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return
      throw error
    }
    await removeTree(aside)
  })

/** A directory without our marker is somebody else's. */
export const foreign = (paths: Paths, externalId: string): SandboxError =>
  failWith("create", new NameInUse({ name: `${externalId} (${paths.directory} exists and is not ours)` }))
