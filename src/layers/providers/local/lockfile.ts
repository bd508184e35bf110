/**
 * A lock that a dead owner cannot hold: a symbolic link whose target names its owner. A link appears whole or not at all, and it
 * costs neither a block nor a descriptor: what has filled the disk, or opened all that can be open, can still be stopped. Imports
 * `node:*` only, because the supervisor does too.
 */
import { createHash, randomUUID } from "node:crypto"
import * as FsPromises from "node:fs/promises"
import { bootId, errorCode, identity, isRunning, startTimeOf } from "./os.ts"

interface Holder {
  readonly token: string
  readonly pid: number
  readonly life: string
}

/** One life of a pid, in few characters: up to 59 of a target lie in the inode itself where blocks are counted (ext4). */
const lifeOf = (startTime: string): string =>
  createHash("sha256").update(`${startTime}\n${bootId()}`).digest("base64url").slice(0, 12)

const formatHolder = (token: string): string => {
  const { pid, startTime } = identity()
  return `${token}.${pid}.${lifeOf(startTime)}`
}

const parse = (text: string): Holder | undefined => {
  const [, token, pid, life] = /^([\w-]+)\.(\d+)\.([\w-]{12})$/.exec(text) ?? []
  return token === undefined || pid === undefined || life === undefined ? undefined : { token, pid: Number(pid), life }
}

const isAlive = ({ life, pid }: Holder): boolean => {
  const startTime = startTimeOf(pid)
  return startTime !== undefined && lifeOf(startTime) === life && isRunning({ pid, startTime })
}

/** The target; undefined when there is nothing, empty for what is no link. */
const read = async (path: string): Promise<string | undefined> => {
  try {
    return await FsPromises.readlink(path)
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined
    if (errorCode(error) === "EINVAL") return ""
    throw error
  }
}

const linked = async (target: string, path: string): Promise<boolean> => {
  try {
    await FsPromises.symlink(target, path)
    return true
  } catch (error) {
    if (errorCode(error) !== "EEXIST") throw error
    return false
  }
}

const replace = async (path: string, target: string, temporary: string): Promise<void> => {
  try {
    await FsPromises.symlink(target, temporary)
    await FsPromises.rename(temporary, path)
  } catch (error) {
    await FsPromises.rm(temporary, { force: true })
    throw error
  }
}

/**
 * `base` is where the files for this are named. Who replaces a dead owner must hold the right to replace that very token, a lock
 * of its own: so what was read under that right stays until it is replaced, by a rename that leaves no gap. Tokens are used
 * once, so the right to replace one is of no use for any other; when its owner dies too, the same goes for it.
 */
const acquire = async (path: string, token: string, base: string): Promise<boolean> => {
  const mine = formatHolder(token)
  for (let attempts = 0; attempts < 3; attempts++) {
    if (await linked(mine, path)) return true
    const text = await read(path)
    if (text === undefined) continue
    const holder = parse(text)
    if (holder !== undefined && isAlive(holder)) return false
    // What does not parse was torn by a power failure.
    const right = `${base}.dead.${holder?.token ?? "torn"}`
    const claim = randomUUID()
    if (!(await acquire(right, claim, base))) return false
    try {
      if ((await read(path)) !== text) continue
      await replace(path, mine, `${base}.${token}`)
      return true
    } finally {
      await release(right, claim)
    }
  }
  return false
}

/** True if the lock was free, or its owner dead, and it is held with this token now. A token is used once. */
export const tryAcquire = (path: string, token: string): Promise<boolean> => acquire(path, token, path)

/** Gives the lock back if it is still held with this token. */
export const release = async (path: string, token: string): Promise<void> => {
  const text = await read(path)
  if (text !== undefined && parse(text)?.token === token) await FsPromises.rm(path, { force: true })
}
