/**
 * The disk of a fake machine: inodes in memory, with the rules and error codes of Linux. Permissions are kept and not enforced:
 * the guest is root. Everything here is synchronous, so each operation is atomic.
 */
import * as DateTime from "effect/DateTime"
import * as Predicate from "effect/Predicate"

/** A failure with the code that Node gives. */
export class FsError extends Error {
  readonly code: string
  readonly syscall: string
  constructor(code: string, syscall: string, path: string) {
    super(`${code}: ${descriptions[code] ?? "failed"}, ${syscall} '${path}'`)
    this.code = code
    this.syscall = syscall
  }
}

const descriptions: Record<string, string> = {
  ENOENT: "no such file or directory",
  EEXIST: "file already exists",
  ENOTDIR: "not a directory",
  EISDIR: "illegal operation on a directory",
  ENOTEMPTY: "directory not empty",
  ELOOP: "too many symbolic links encountered",
  EINVAL: "invalid argument",
  EPERM: "operation not permitted",
  EBADF: "bad file descriptor",
  EBUSY: "resource busy or locked",
  ENAMETOOLONG: "name too long"
}

/** Whether somebody failed with this code. */
export const hasCode = (error: unknown, code: string): boolean =>
  Predicate.hasProperty(error, "code") && error.code === code

interface Common {
  readonly ino: number
  /** The permission bits. */
  mode: number
  uid: number
  gid: number
  /** ms since the epoch. */
  atime: number
  mtime: number
  readonly birthtime: number
  /** Every name that this has; an open file can have none. */
  readonly names: Array<{ readonly directory: Directory; readonly name: string }>
}

export interface File extends Common {
  readonly kind: "file"
  /** With room to grow; only the first `size` bytes count. */
  data: Uint8Array
  size: number
  /** Set where this is a program of the guest's: the name by which it is found. */
  readonly program?: string | undefined
}

export interface Directory extends Common {
  readonly kind: "directory"
  readonly entries: Map<string, Inode>
}

export interface Link extends Common {
  readonly kind: "link"
  readonly target: string
}

export type Inode = File | Directory | Link

/** What happened to a name of a directory. */
export interface Change {
  readonly type: "Create" | "Update" | "Remove"
  readonly directory: Directory
  readonly name: string
  readonly inode: Inode
}

export interface OpenOptions {
  readonly write?: boolean
  readonly create?: boolean
  readonly exclusive?: boolean
  readonly truncate?: boolean
  readonly noFollow?: boolean
  readonly mode?: number | undefined
}

interface Found {
  readonly directory: Directory
  readonly name: string
  readonly inode: Inode | undefined
}

/** Of every process of the guest. */
export const umask = 0o022
const maxLinks = 40
const maxPath = 4095

/** An absolute path without `.`, `..`, doubled and trailing slashes; by text alone. */
export const normalize = (base: string, path: string): string => {
  const parts: Array<string> = []
  for (const part of (path.startsWith("/") ? path : `${base}/${path}`).split("/")) {
    if (part === "..") parts.pop()
    else if (part !== "" && part !== ".") parts.push(part)
  }
  return `/${parts.join("/")}`
}

/** Like {@link normalize}, but only joins: `..` behind a symlink is the parent of its target. */
export const join = (base: string, path: string): string => (path.startsWith("/") ? path : `${base}/${path}`)

/** A time of an inode as others want it. */
export const dateOf = (millis: number): Date => DateTime.toDateUtc(DateTime.makeUnsafe(millis))

/** Whether these are more bytes than that; what is too short for it is not encoded. */
const isLonger = (text: string, bytes: number): boolean =>
  text.length * 3 > bytes && new TextEncoder().encode(text).length > bytes

/** Whether a path ends with no name, but with `.` or `..`. */
const isNameless = (path: string): boolean => /(^|\/)\.\.?\/*$/.test(path)

export const basename = (path: string): string => path.slice(path.lastIndexOf("/") + 1)

export class Tree {
  readonly root: Directory
  private inodes = 1
  private readonly listeners = new Set<(change: Change) => void>()

  constructor(now: number) {
    this.root = { ...this.common(0o755, now), kind: "directory", entries: new Map() }
  }

  /** A copy that shares nothing with this one; hard links stay hard links, inode numbers stay. */
  clone(): Tree {
    const copy = new Tree(this.root.birthtime)
    copy.inodes = this.inodes
    const copies = new Map<Inode, Inode>()
    const fill = (from: Directory, to: Directory) => {
      Object.assign(to, { mode: from.mode, uid: from.uid, gid: from.gid, atime: from.atime, mtime: from.mtime })
      for (const [name, inode] of from.entries) {
        const known = copies.get(inode)
        const next: Inode =
          known ??
          (inode.kind === "directory"
            ? { ...inode, names: [], entries: new Map() }
            : inode.kind === "file"
              ? { ...inode, names: [], data: inode.data.slice(0, inode.size) }
              : { ...inode, names: [] })
        copies.set(inode, next)
        to.entries.set(name, next)
        next.names.push({ directory: to, name })
        if (inode.kind === "directory" && next.kind === "directory") fill(inode, next)
      }
    }
    fill(this.root, copy.root)
    return copy
  }

  /** Tells of every change until the returned function is called. */
  listen(listener: (change: Change) => void): () => void {
    this.listeners.add(listener)
    return () => void this.listeners.delete(listener)
  }

  /** What is there; a symlink at the end is followed. */
  stat(path: string, syscall = "stat"): Inode {
    return this.need(this.find(path, true, syscall), path, syscall)
  }

  lstat(path: string, syscall = "lstat"): Inode {
    return this.need(this.find(path, false, syscall), path, syscall)
  }

  /** False also for what cannot be reached; with a call to blame, only for what is missing. */
  exists(path: string, syscall?: string): boolean {
    try {
      this.stat(path, syscall)
      return true
    } catch (error) {
      if (syscall !== undefined && !hasCode(error, "ENOENT")) throw error
      return false
    }
  }

  open(path: string, options: OpenOptions, now: number): File | Directory {
    const syscall = "open"
    const exclusive = options.create === true && options.exclusive === true
    const found = this.find(path, !exclusive && options.noFollow !== true, syscall, options.create === true)
    const { inode } = found
    if (inode === undefined) {
      if (options.create !== true) throw new FsError("ENOENT", syscall, path)
      if (path.endsWith("/")) throw new FsError("EISDIR", syscall, path)
      return this.add(found, this.newFile((options.mode ?? 0o666) & ~umask, now), now)
    }
    if (exclusive) throw new FsError("EEXIST", syscall, path)
    if (inode.kind === "link") throw new FsError("ELOOP", syscall, path)
    if (inode.kind === "directory") {
      if (options.write === true || options.create === true) throw new FsError("EISDIR", syscall, path)
      return inode
    }
    if (options.truncate === true) this.truncate(inode, 0, now)
    return inode
  }

  /** At most `buffer.length` bytes from there; yields how many. */
  read(file: File, buffer: Uint8Array, position: number): number {
    const bytes = file.data.subarray(Math.min(position, file.size), Math.min(position + buffer.length, file.size))
    buffer.set(bytes)
    return bytes.length
  }

  write(file: File, bytes: Uint8Array, position: number, now: number): void {
    if (bytes.length === 0) return
    this.reserve(file, position + bytes.length)
    file.data.set(bytes, position)
    file.size = Math.max(file.size, position + bytes.length)
    this.touched(file, now)
  }

  truncate(file: File, length: number, now: number): void {
    if (length > file.size) this.reserve(file, length)
    else file.data.fill(0, length, file.size)
    file.size = length
    this.touched(file, now)
  }

  /** The whole content of a file, as a copy. */
  readFile(path: string, syscall = "open"): Uint8Array {
    const inode = this.stat(path, syscall)
    if (inode.kind !== "file") throw new FsError("EISDIR", "read", path)
    return inode.data.slice(0, inode.size)
  }

  /** Replaces the content in one step, or appends to it. */
  writeFile(path: string, bytes: Uint8Array, now: number, append = false): File {
    const file = this.open(path, { write: true, create: true, truncate: !append }, now)
    if (file.kind !== "file") throw new FsError("EISDIR", "open", path)
    this.write(file, bytes, append ? file.size : 0, now)
    return file
  }

  /** Puts a whole new file under this name, as `rename` over it does. */
  replace(path: string, bytes: Uint8Array, mode: number | undefined, now: number): void {
    const found = this.find(path, true, "rename", true)
    if (found.inode?.kind === "directory" || path.endsWith("/")) throw new FsError("EISDIR", "rename", path)
    const kept = found.inode?.kind === "file" ? found.inode.mode : undefined
    const file = this.newFile(mode ?? kept ?? 0o666 & ~umask, now)
    file.data = bytes.slice()
    file.size = bytes.length
    if (found.inode !== undefined) this.drop(found, now)
    this.add(found, file, now)
  }

  /** A file that stands for a program of the guest's. */
  addProgram(path: string, program: string, now: number): void {
    const found = this.find(path, false, "open", true)
    if (found.inode !== undefined) return
    const data = new TextEncoder().encode(`#!/bin/sh\n# ${program} is a program of this guest's\n`)
    this.add(found, { ...this.newFile(0o755, now), data, size: data.length, program }, now)
  }

  mkdir(
    path: string,
    options: { readonly recursive?: boolean; readonly mode?: number | undefined },
    now: number
  ): void {
    const syscall = "mkdir"
    if (options.recursive === true) {
      if (path === "") throw new FsError("ENOENT", syscall, path)
      if (isLonger(path, maxPath)) throw new FsError("ENAMETOOLONG", syscall, path)
      let current = ""
      const parts = path.split("/").filter((part) => part !== "" && part !== ".")
      for (const [index, part] of parts.entries()) {
        current += `/${part}`
        const there = this.find(current, true, syscall, true)
        if (there.inode === undefined) {
          // A symlink to nothing is no place for a directory.
          if (this.find(current, false, syscall, true).inode !== undefined) {
            throw new FsError(index === parts.length - 1 ? "ENOENT" : "ENOTDIR", syscall, path)
          }
          this.mkdir(current, { mode: options.mode }, now)
        } else if (there.inode.kind !== "directory") {
          const whole = !path.endsWith("/") && normalize("/", path) === normalize("/", current)
          throw new FsError(whole ? "EEXIST" : "ENOTDIR", syscall, path)
        }
      }
      return
    }
    const found = this.find(path.replace(/(?<=.)\/+$/, ""), false, syscall, true)
    if (found.inode !== undefined) throw new FsError("EEXIST", syscall, path)
    const mode = (options.mode ?? 0o777) & ~umask
    this.add(found, { ...this.common(mode, now), kind: "directory", entries: new Map() }, now)
  }

  readdir(path: string): ReadonlyMap<string, Inode> {
    const inode = this.stat(path, "scandir")
    if (inode.kind !== "directory") throw new FsError("ENOTDIR", "scandir", path)
    return inode.entries
  }

  symlink(target: string, path: string, now: number): void {
    if (target === "") throw new FsError("ENOENT", "symlink", path)
    this.add(this.vacant(path, "symlink"), { ...this.common(0o777, now), kind: "link", target }, now)
  }

  link(from: string, to: string, now: number): void {
    const inode = this.lstat(from, "link")
    if (inode.kind === "directory") throw new FsError("EPERM", "link", from)
    this.add(this.vacant(to, "link"), inode, now)
  }

  readlink(path: string): string {
    const inode = this.lstat(path, "readlink")
    if (inode.kind !== "link") throw new FsError("EINVAL", "readlink", path)
    return inode.target
  }

  realpath(path: string): string {
    let inode: Inode = this.stat(path, "lstat")
    // A file may have several names: the one that the path leads to is found by its directory.
    if (inode.kind !== "directory") {
      const found = this.find(path, true, "lstat")
      return normalize("/", `${this.pathOf(found.directory)}/${found.name}`)
    }
    return this.pathOf(inode)
  }

  rename(from: string, to: string, now: number): void {
    const syscall = "rename"
    // Neither a symlink with a slash behind it nor what has no name of its own can be moved.
    if (this.isSlashedLink(from)) throw new FsError("ENOTDIR", syscall, from)
    if (isNameless(from)) throw new FsError("EBUSY", syscall, from)
    const source = this.find(from, false, syscall)
    const inode = this.need(source, from, syscall)
    const target = this.find(inode.kind === "directory" ? to.replace(/(?<=.)\/+$/, "") : to, false, syscall, true)
    if (inode === this.root || target.inode === this.root) throw new FsError("EBUSY", syscall, from)
    if (inode.kind === "directory") {
      if (this.isWithin(target.directory, inode)) throw new FsError("EINVAL", syscall, from)
      if (target.inode !== undefined && target.inode.kind !== "directory") throw new FsError("ENOTDIR", syscall, to)
    } else if (target.inode?.kind === "directory") {
      throw new FsError(this.isWithin(source.directory, target.inode) ? "ENOTEMPTY" : "EISDIR", syscall, to)
    }
    if (inode.kind !== "directory" && to.endsWith("/")) throw new FsError("ENOTDIR", syscall, to)
    // Two names of one file: POSIX wants that nothing happens.
    if (target.inode === inode) return
    if (target.inode?.kind === "directory" && target.inode.entries.size > 0) throw new FsError("ENOTEMPTY", syscall, to)
    if (target.inode !== undefined) this.drop(target, now)
    this.drop(source, now)
    this.add(target, inode, now)
  }

  /** Takes one name away; a directory must be empty. */
  unlink(path: string, now: number): void {
    const found = this.find(path, false, "unlink")
    const inode = this.need(found, path, "unlink")
    if (inode.kind === "directory" && inode.entries.size > 0) throw new FsError("ENOTEMPTY", "rmdir", path)
    if (inode === this.root) throw new FsError("EBUSY", "rmdir", path)
    this.drop(found, now)
  }

  /** As `rm` does; a directory needs `recursive`. */
  remove(path: string, options: { readonly recursive?: boolean; readonly force?: boolean }, now: number): void {
    let found: Found
    try {
      found = this.find(path, false, "rm")
    } catch (error) {
      if (options.force === true && hasCode(error, "ENOENT")) return
      throw error
    }
    if (found.inode === undefined) {
      if (options.force === true) return
      throw new FsError("ENOENT", "rm", path)
    }
    if (found.inode.kind === "directory") {
      if (options.recursive !== true) throw new FsError("ERR_FS_EISDIR", "rm", path)
      if (isNameless(path)) throw new FsError("EINVAL", "rmdir", path)
      // A symlink with a slash behind it is neither followed nor removed.
      if (this.isSlashedLink(path)) return
      for (const name of [...found.inode.entries.keys()]) this.remove(`${path}/${name}`, options, now)
      if (found.inode === this.root) return
    }
    this.drop(found, now)
  }

  chmod(inode: Inode, mode: number): void {
    inode.mode = mode & 0o7777
    this.changed("Update", inode)
  }

  chown(inode: Inode, uid: number, gid: number): void {
    inode.uid = uid
    inode.gid = gid
    this.changed("Update", inode)
  }

  utimes(inode: Inode, atime: number, mtime: number): void {
    inode.atime = atime
    inode.mtime = mtime
    this.changed("Update", inode)
  }

  /** The path of a directory; the root's own when it has been removed. */
  pathOf(directory: Directory): string {
    const parts: Array<string> = []
    let current = directory
    for (;;) {
      const [name] = current.names
      if (name === undefined) return `/${parts.join("/")}`
      parts.unshift(name.name)
      current = name.directory
    }
  }

  /** What a change is called from this directory, if it happened in it. */
  relativeTo(directory: Directory, change: Change): string | undefined {
    const parts = [change.name]
    let current = change.directory
    while (current !== directory) {
      const [name] = current.names
      if (name === undefined) return undefined
      parts.unshift(name.name)
      current = name.directory
    }
    return parts.join("/")
  }

  /**
   * Where a path leads. With `missing` its last name may be absent, also as the target of a symlink; otherwise `inode` is
   * undefined only when the last name is.
   */
  private find(path: string, follow: boolean, syscall: string, missing = false, links = 0): Found {
    if (path === "") throw new FsError("ENOENT", syscall, path)
    if (isLonger(path, maxPath)) throw new FsError("ENAMETOOLONG", syscall, path)
    if (links > maxLinks) throw new FsError("ELOOP", syscall, path)
    const parts = path.split("/").filter((part) => part !== "" && part !== ".")
    const slash = /\/\.?$/.test(path)
    let current: Directory = this.root
    for (let index = 0; index < parts.length; index++) {
      const name = parts[index] ?? ""
      if (isLonger(name, 255)) throw new FsError("ENAMETOOLONG", syscall, path)
      const last = index === parts.length - 1
      if (name === "..") {
        current = current.names[0]?.directory ?? current
        continue
      }
      const inode = current.entries.get(name)
      if (inode === undefined) {
        if (!last) throw new FsError("ENOENT", syscall, path)
        if (!missing) throw new FsError("ENOENT", syscall, path)
        return { directory: current, name, inode }
      }
      if (inode.kind === "link" && (!last || follow || slash)) {
        const rest = parts.slice(index + 1).join("/")
        const target = join(this.pathOf(current), inode.target)
        return this.find(
          rest === "" ? `${target}${slash ? "/" : ""}` : `${target}/${rest}${slash ? "/" : ""}`,
          follow,
          syscall,
          missing,
          links + 1
        )
      }
      if (inode.kind !== "directory" && (!last || slash)) throw new FsError("ENOTDIR", syscall, path)
      if (last && parts[index] !== "..") {
        return { directory: current, name, inode }
      }
      if (inode.kind === "directory") current = inode
    }
    const [own] = current.names
    return { directory: own?.directory ?? current, name: own?.name ?? "", inode: current }
  }

  /** A name for something that is no directory; a slash behind it makes it none. */
  private vacant(path: string, syscall: string): Found {
    const found = this.find(path.replace(/(?<=.)\/+$/, ""), false, syscall, true)
    if (found.inode !== undefined) throw new FsError("EEXIST", syscall, path)
    if (path.endsWith("/")) throw new FsError("ENOENT", syscall, path)
    return found
  }

  private need(found: Found, path: string, syscall: string): Inode {
    if (found.inode === undefined) throw new FsError("ENOENT", syscall, path)
    return found.inode
  }

  private isSlashedLink(path: string): boolean {
    return path.endsWith("/") && this.find(path.replace(/(?<=.)\/+$/, ""), false, "lstat").inode?.kind === "link"
  }

  /** Whether what has, or would have, this path lies in that directory, at whatever depth. */
  isBelow(path: string, ancestor: Directory): boolean {
    return this.isWithin(this.find(path.replace(/(?<=.)\/+$/, ""), false, "cp", true).directory, ancestor)
  }

  private isWithin(directory: Directory, ancestor: Directory): boolean {
    let current: Directory | undefined = directory
    while (current !== undefined) {
      if (current === ancestor) return true
      current = current.names[0]?.directory
    }
    return false
  }

  private common(mode: number, now: number): Common {
    return { ino: this.inodes++, mode, uid: 0, gid: 0, atime: now, mtime: now, birthtime: now, names: [] }
  }

  private newFile(mode: number, now: number): File {
    return { ...this.common(mode, now), kind: "file", data: new Uint8Array(0), size: 0 }
  }

  private add<A extends Inode>({ directory, name }: Found, inode: A, now: number): A {
    directory.entries.set(name, inode)
    inode.names.push({ directory, name })
    directory.mtime = now
    this.emit({ type: "Create", directory, name, inode })
    return inode
  }

  private drop({ directory, inode, name }: Found, now: number): void {
    if (inode === undefined) return
    directory.entries.delete(name)
    const index = inode.names.findIndex((at) => at.directory === directory && at.name === name)
    if (index >= 0) inode.names.splice(index, 1)
    directory.mtime = now
    this.emit({ type: "Remove", directory, name, inode })
  }

  private touched(file: File, now: number): void {
    file.mtime = now
    this.changed("Update", file)
  }

  private changed(type: "Update", inode: Inode): void {
    for (const { directory, name } of inode.names) this.emit({ type, directory, name, inode })
  }

  private emit(change: Change): void {
    for (const listener of this.listeners) listener(change)
  }

  private reserve(file: File, size: number): void {
    if (size <= file.data.length) return
    const data = new Uint8Array(Math.max(size, 2 * file.data.length))
    data.set(file.data.subarray(0, file.size))
    file.data = data
  }
}
