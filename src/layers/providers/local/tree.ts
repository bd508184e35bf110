/**
 * Copies of directory trees that keep what programs rely on: modes, times, symlinks, hard links, FIFOs and holes; and the
 * manifest that proves a copy. Names are bytes: a file name need not be UTF-8.
 */
import { execFile } from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import { promisify } from "node:util"
import { errorCode } from "./os.ts"

const run = promisify(execFile)

/** One entry of a manifest. `mtime` is in ns; hard links of one file share a `link` number. */
export interface Entry {
  /** Relative, in UTF-8 where that is exact, else `base64:` and the bytes. */
  readonly path: string
  readonly type: "file" | "directory" | "symlink" | "fifo" | "other"
  readonly mode: number
  readonly mtime: string
  readonly size: number
  readonly target?: string
  readonly sha256?: string
  readonly hardLink?: number
}

const nameOf = (bytes: Buffer): string => {
  const text = bytes.toString("utf8")
  return Buffer.from(text, "utf8").equals(bytes) && !text.startsWith("base64:")
    ? text
    : `base64:${bytes.toString("base64")}`
}

const slash = Buffer.from("/")
const join = (directory: Buffer, name: Buffer): Buffer =>
  directory.length === 0 ? name : Buffer.concat([directory, slash, name])

interface Visit {
  readonly path: Buffer
  readonly relative: Buffer
  readonly stat: Fs.BigIntStats
}

/** Every entry below a directory, parents first, in the order of the bytes of their names. */
const walk = async function* (root: Buffer, relative: Buffer, signal: AbortSignal): AsyncGenerator<Visit> {
  const names = await FsPromises.readdir(join(root, relative), { encoding: "buffer" })
  for (const name of names.sort((a, b) => Buffer.compare(a, b))) {
    signal.throwIfAborted()
    const at = join(relative, name)
    const path = join(root, at)
    const stat = await FsPromises.lstat(path, { bigint: true })
    yield { path, relative: at, stat }
    if (stat.isDirectory()) yield* walk(root, at, signal)
  }
}

const everything = (root: string, signal: AbortSignal) => walk(Buffer.from(root), Buffer.alloc(0), signal)

const hashOf = async (path: Buffer, signal: AbortSignal): Promise<string> => {
  const hash = Crypto.createHash("sha256")
  for await (const chunk of Fs.createReadStream(path, { signal, highWaterMark: 256 * 1024 })) hash.update(chunk)
  return hash.digest("hex")
}

const entryOf = async (
  { path, relative, stat }: Visit,
  links: Map<string, number>,
  signal: AbortSignal
): Promise<Entry> => {
  const base = {
    path: nameOf(relative),
    mode: Number(stat.mode & 0o7777n),
    mtime: String(stat.mtimeNs),
    size: Number(stat.size)
  }
  if (stat.isSymbolicLink()) {
    return { ...base, type: "symlink", target: nameOf(await FsPromises.readlink(path, { encoding: "buffer" })) }
  }
  if (stat.isDirectory()) return { ...base, size: 0, type: "directory" }
  if (stat.isFIFO()) return { ...base, type: "fifo" }
  if (!stat.isFile()) return { ...base, type: "other" }
  const inode = `${stat.dev}:${stat.ino}`
  if (stat.nlink > 1n && !links.has(inode)) links.set(inode, links.size)
  const hardLink = links.get(inode)
  return { ...base, type: "file", sha256: await hashOf(path, signal), ...(hardLink === undefined ? {} : { hardLink }) }
}

/** The manifest of a tree, entry by entry. */
export const manifest = async function* (root: string, signal: AbortSignal): AsyncGenerator<Entry> {
  const links = new Map<string, number>()
  for await (const visit of everything(root, signal)) yield entryOf(visit, links, signal)
}

/** Sockets cannot be brought back to life: they are taken out of a copy and listed. */
export const removeSockets = async (root: string, signal: AbortSignal): Promise<ReadonlyArray<string>> => {
  const sockets: Array<string> = []
  for await (const { path, relative, stat } of everything(root, signal)) {
    if (!stat.isSocket()) continue
    // The directory's time is part of what is saved.
    const parent = Path.dirname(path.toString("latin1"))
    const before = await FsPromises.stat(Buffer.from(parent, "latin1"))
    await FsPromises.rm(path)
    await FsPromises.utimes(Buffer.from(parent, "latin1"), before.atime, before.mtime)
    sockets.push(nameOf(relative))
  }
  return sockets
}

/** GNU `cp` knows clones, holes and times to the ns. False when this system's cannot. */
const copyWithCp = async (from: string, to: string, signal: AbortSignal): Promise<boolean> => {
  if (process.platform !== "linux") return false
  try {
    await run("cp", ["-a", "--reflink=auto", "--sparse=always", "--", from, to], { cwd: "/", signal })
    return true
  } catch (error) {
    const stderr = typeof error === "object" && error !== null && "stderr" in error ? String(error.stderr) : ""
    // No `cp`, or one (busybox) that refuses the options before it does anything.
    if (errorCode(error) === "ENOENT" || /unrecognized option|invalid option|Usage:/i.test(stderr)) return false
    throw Object.assign(new Error(`cp: ${stderr.slice(0, 300)}`), {
      code: /No space left/.test(stderr) ? "ENOSPC" : /Permission denied/.test(stderr) ? "EACCES" : "EIO"
    })
  }
}

/**
 * The same without `cp`. Holes are kept where the file system clones; times to the µs.
 */
export const copyByHand = async (from: string, to: string, signal: AbortSignal): Promise<void> => {
  const target = Buffer.from(to)
  const links = new Map<string, Buffer>()
  const times: Array<() => Promise<void>> = []
  const finish = (path: Buffer, stat: Fs.BigIntStats) => {
    times.push(async () => {
      if (!stat.isSymbolicLink()) await FsPromises.chmod(path, Number(stat.mode & 0o7777n))
      await FsPromises.lutimes(path, Number(stat.atimeNs) / 1e9, Number(stat.mtimeNs) / 1e9)
    })
  }
  const own = async (path: Buffer, stat: Fs.BigIntStats) => {
    // Only root can give files away, and only then can they be somebody else's.
    if (process.getuid?.() === 0) await FsPromises.lchown(path, Number(stat.uid), Number(stat.gid))
  }
  const root = await FsPromises.lstat(from, { bigint: true })
  await FsPromises.mkdir(target, { mode: 0o700 })
  await own(target, root)
  finish(target, root)
  for await (const { path, relative, stat } of everything(from, signal)) {
    const at = join(target, relative)
    const inode = `${stat.dev}:${stat.ino}`
    const first = links.get(inode)
    if (first !== undefined) {
      await FsPromises.link(first, at)
      continue
    }
    if (stat.nlink > 1n && !stat.isDirectory()) links.set(inode, at)
    if (stat.isDirectory()) await FsPromises.mkdir(at, { mode: 0o700 })
    else if (stat.isSymbolicLink())
      await FsPromises.symlink(await FsPromises.readlink(path, { encoding: "buffer" }), at)
    else if (stat.isFIFO()) await run("mkfifo", ["--", at.toString("utf8")], { cwd: "/" })
    else if (stat.isFile()) await FsPromises.copyFile(path, at, Fs.constants.COPYFILE_FICLONE)
    else continue
    await own(at, stat)
    finish(at, stat)
  }
  // Children before their directories, whose times they would change.
  for (const set of times.toReversed()) await set()
}

/** Copies a directory to a name that does not exist yet. */
export const copy = async (from: string, to: string, signal: AbortSignal): Promise<void> => {
  if (!(await copyWithCp(from, to, signal))) await copyByHand(from, to, signal)
}

/** Everything below a directory is on the disk when this resolves. */
export const sync = async (root: string, signal: AbortSignal): Promise<void> => {
  try {
    if (process.platform === "linux") return void (await run("sync", ["-f", "--", root], { cwd: "/", signal }))
  } catch (error) {
    signal.throwIfAborted()
    // Only the slow way is left.
    if (errorCode(error) === "ABORT_ERR") throw error
  }
  const one = async (path: string | Buffer) => {
    const handle = await FsPromises.open(path, "r")
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  }
  for await (const { path, stat } of everything(root, signal)) if (stat.isFile() || stat.isDirectory()) await one(path)
  await one(root)
}
