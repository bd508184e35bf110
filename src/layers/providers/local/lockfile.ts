/**
 * A lock that a dead owner cannot hold: a file that names its owner by pid, start time and boot. Imports `node:*` only,
 * because the supervisor does too.
 */
import { randomUUID } from "node:crypto"
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

const write = (path: string, token: string): Promise<void> => {
  const { pid, startTime } = identity()
  return FsPromises.writeFile(path, [token, pid, startTime, bootId()].join("\n"), { mode: 0o600 })
}

/** A link appears whole or not at all, and only one. */
const linked = async (from: string, to: string): Promise<boolean> => {
  try {
    await FsPromises.link(from, to)
    return true
  } catch (error) {
    if (errorCode(error) !== "EEXIST") throw error
    return false
  }
}

/**
 * `base` is where the files for this are named. Who replaces a dead owner must hold the right to replace that very token, a lock
 * of its own: so what was read under that right stays until it is replaced, by a rename that leaves no gap. Tokens are used
 * once, so the right to replace one is of no use for any other; when its owner dies too, the same goes for it.
 */
const acquire = async (path: string, token: string, base: string): Promise<boolean> => {
  const mine = `${base}.${token}`
  await write(mine, token)
  try {
    for (let attempts = 0; attempts < 3; attempts++) {
      if (await linked(mine, path)) return true
      const text = await optional(() => FsPromises.readFile(path, "utf8"))
      if (text === undefined) continue
      const holder = parse(text)
      if (holder !== undefined && holder.bootId === bootId() && isRunning(holder)) return false
      // What does not parse was torn by a power failure.
      const dead = holder !== undefined && /^[\w-]+$/.test(holder.token) ? holder.token : "torn"
      const right = `${base}.dead.${dead}`
      const claim = randomUUID()
      if (!(await acquire(right, claim, base))) return false
      try {
        if ((await optional(() => FsPromises.readFile(path, "utf8"))) !== text) continue
        await FsPromises.rename(mine, path)
        return true
      } finally {
        await release(right, claim)
      }
    }
    return false
  } finally {
    await FsPromises.rm(mine, { force: true })
  }
}

/** True if the lock was free, or its owner dead, and it is held with this token now. A token is used once. */
export const tryAcquire = (path: string, token: string): Promise<boolean> => acquire(path, token, path)

/** Gives the lock back if it is still held with this token. */
export const release = async (path: string, token: string): Promise<void> => {
  const text = await optional(() => FsPromises.readFile(path, "utf8"))
  if (text !== undefined && parse(text)?.token === token) await FsPromises.rm(path, { force: true })
}
