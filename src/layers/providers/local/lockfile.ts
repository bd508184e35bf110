/**
 * A lock that a dead owner cannot hold: a file that names its owner by pid, start time and boot. Imports `node:*` only,
 * because the supervisor does too.
 */
import * as FsPromises from "node:fs/promises"
import type { Identity } from "./os.ts"
import { bootId, errorCode, identity, isRunning } from "./os.ts"

interface Holder extends Identity {
  readonly token: string
  readonly bootId: string
}

const parse = (text: string): Holder | undefined => {
  const [token, pid, startTime, boot] = text.split("\n")
  return token === undefined || pid === undefined || startTime === undefined || boot === undefined
    ? undefined
    : { token, pid: Number(pid), startTime, bootId: boot }
}

const optional = async <A>(evaluate: () => Promise<A>): Promise<A | undefined> => {
  try {
    return await evaluate()
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined
    throw error
  }
}

/** True if the lock was free and is held with this token now. A lock whose owner is dead is taken aside first. */
export const tryAcquire = async (path: string, token: string): Promise<boolean> => {
  const mine = `${path}.${token}`
  const { pid, startTime } = identity()
  await FsPromises.writeFile(mine, [token, pid, startTime, bootId()].join("\n"), { mode: 0o600 })
  try {
    for (let attempts = 0; attempts < 3; attempts++) {
      try {
        // A link appears whole or not at all.
        await FsPromises.link(mine, path)
        return true
      } catch (error) {
        if (errorCode(error) !== "EEXIST") throw error
      }
      const text = await optional(() => FsPromises.readFile(path, "utf8"))
      if (text === undefined) continue
      const holder = parse(text)
      if (holder !== undefined && holder.bootId === bootId() && isRunning(holder)) return false
      const aside = `${path}.dead.${token}`
      await optional(() => FsPromises.rename(path, aside))
      const taken = await optional(() => FsPromises.readFile(aside, "utf8"))
      if (taken !== undefined && taken !== text) {
        // Somebody was faster and this is a living lock: it goes back, unless there is another already.
        await FsPromises.link(aside, path).catch((error: unknown) => {
          if (errorCode(error) !== "EEXIST") throw error
        })
      }
      await FsPromises.rm(aside, { force: true })
    }
    return false
  } finally {
    await FsPromises.rm(mine, { force: true })
  }
}

/** Gives the lock back if it is still held with this token. */
export const release = async (path: string, token: string): Promise<void> => {
  const text = await optional(() => FsPromises.readFile(path, "utf8"))
  if (text !== undefined && parse(text)?.token === token) await FsPromises.rm(path, { force: true })
}
