/** Making and removing the directories of sandboxes. Nothing is removed that does not carry our marker. */
import * as Effect from "effect/Effect"
import * as Crypto from "node:crypto"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import type { SandboxError } from "../../../errors.ts"
import { NameInUse } from "../../../errors.ts"
import { codeOf, failWith, io } from "./failures.ts"
import { identity, isRunning } from "./os.ts"
import type { Paths, Root, SandboxState } from "./state.ts"
import { inside, markRunning, writeEnv, writeState } from "./state.ts"

const makePrivate = (path: string) => FsPromises.mkdir(path, { recursive: true, mode: 0o700 })

/** Gives back the right to remove what a command took it from; never through a symlink. */
const unlock = async (path: string): Promise<void> => {
  const stat = await FsPromises.lstat(path)
  if (!stat.isDirectory()) return
  await FsPromises.chmod(path, 0o700)
  for (const name of await FsPromises.readdir(path)) await unlock(Path.join(path, name))
}

/** Removes a tree and follows no symlink. */
export const removeTree = async (path: string): Promise<void> => {
  try {
    await FsPromises.rm(path, { recursive: true, force: true, maxRetries: 3 })
  } catch (error) {
    if (codeOf(error) !== "EACCES" && codeOf(error) !== "EPERM") throw error
    await unlock(path)
    await FsPromises.rm(path, { recursive: true, force: true, maxRetries: 3 })
  }
}

const scratch = (root: Root): string => Path.join(root.path, "scratch")

/** A name that tells who is at work there, so that what a dead service left is found. */
const scratchName = (root: Root): string => {
  const { pid, startTime } = identity()
  return Path.join(scratch(root), `${pid}.${startTime}.${Crypto.randomUUID()}`)
}

const ownerOf = (name: string) => {
  const [pid, startTime] = name.split(".")
  return { pid: Number(pid), startTime: startTime ?? "" }
}

/** Removes what services that are dead left behind: half-made sandboxes, deleted ones, stocks of pipes. */
export const sweep = (root: Root): Effect.Effect<void, SandboxError> =>
  io("make", async () => {
    for (const parent of [scratch(root), root.pipes]) {
      await makePrivate(parent)
      for (const name of await FsPromises.readdir(parent)) {
        if (/^\d+\./.test(name) && !isRunning(ownerOf(name))) await removeTree(Path.join(parent, name))
      }
    }
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
