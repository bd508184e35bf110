/** Effect's `FileSystem` over the disk of a fake machine, with the errors of Node's layer. */
import * as ByteSize from "effect/ByteSize"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type { PlatformError } from "effect/PlatformError"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { inPlatform } from "../../../services/internal/platformErrors.ts"
import { badArgument, onFiles } from "./failures.ts"
import type { SandboxError } from "../../../errors.ts"
import type { Directory, File, Inode } from "./tree.ts"
import { basename, dateOf, FsError, hasCode, join, normalize, type Tree } from "./tree.ts"

const types = { file: "File", directory: "Directory", link: "SymbolicLink" } as const
const typeBits = { file: 0o100000, directory: 0o040000, link: 0o120000 } as const

/** How many events a watcher may be behind; what comes beyond is dropped, as inotify does at the same number. */
const watchBacklog = 16_384

const sizeOf = (inode: Inode): number =>
  inode.kind === "file" ? inode.size : inode.kind === "link" ? new TextEncoder().encode(inode.target).length : 4096

const nlinkOf = (inode: Inode): number =>
  inode.kind === "directory"
    ? 2 + [...inode.entries.values()].filter((entry) => entry.kind === "directory").length
    : inode.names.length

const infoOf = (inode: Inode): FileSystem.File.Info => ({
  type: types[inode.kind],
  mtime: Option.some(dateOf(inode.mtime)),
  atime: Option.some(dateOf(inode.atime)),
  birthtime: Option.some(dateOf(inode.birthtime)),
  dev: 1n,
  rdev: Option.some(0n),
  ino: Option.some(BigInt(inode.ino)),
  mode: inode.mode | typeBits[inode.kind],
  nlink: Option.some(BigInt(nlinkOf(inode))),
  uid: Option.some(inode.uid),
  gid: Option.some(inode.gid),
  size: ByteSize.bytes(sizeOf(inode)),
  blksize: Option.some(ByteSize.bytes(4096)),
  blocks: Option.some(BigInt(Math.ceil(sizeOf(inode) / 4096) * 8))
})

const millis = (time: Date | number): number => (typeof time === "number" ? Math.round(time * 1000) : time.getTime())

interface Flags {
  readonly read: boolean
  readonly write: boolean
  readonly append: boolean
  readonly create: boolean
  readonly exclusive: boolean
  readonly truncate: boolean
}

const flagsOf = (flag: FileSystem.OpenFlag): Flags => ({
  read: flag.startsWith("r") || flag.endsWith("+"),
  write: flag !== "r",
  append: flag.startsWith("a"),
  create: !flag.startsWith("r"),
  exclusive: flag.includes("x"),
  truncate: flag.startsWith("w")
})

/** An open file: it stays that file whatever becomes of its name. */
class OpenFile implements FileSystem.File {
  readonly [FileSystem.FileTypeId]: typeof FileSystem.FileTypeId = FileSystem.FileTypeId
  private readonly tree: Tree
  private readonly inode: File | Directory
  private readonly path: string
  private readonly flags: Flags
  private readonly checked: Checked
  private position = 0n
  private open = true

  constructor(tree: Tree, inode: File | Directory, path: string, flags: Flags, checked: Checked) {
    this.tree = tree
    this.inode = inode
    this.path = path
    this.flags = flags
    this.checked = checked
  }

  close(): void {
    this.open = false
  }

  get stat() {
    return this.run("stat", () => infoOf(this.inode))
  }

  get sync() {
    return this.run("sync", () => {})
  }

  seek(offset: bigint, from: FileSystem.SeekMode) {
    return Effect.suspend(() => {
      const position = from === "start" ? offset : this.position + offset
      if (position < 0n)
        return Effect.fail(badArgument("FileSystem", "seek", "Cannot seek before the start of the file"))
      this.position = position
      return Effect.succeed(position)
    })
  }

  read(buffer: Uint8Array, options?: FileSystem.File.ReadOptions) {
    return this.readAt("read", buffer, options)
  }

  readAlloc(size: number, options?: FileSystem.File.ReadOptions) {
    return Effect.suspend(() => {
      if (!Number.isInteger(size) || size < 0) {
        return Effect.fail(badArgument("FileSystem", "readAlloc", "size must be a non-negative integer"))
      }
      // No more than is there: a caller may ask for far more than the file holds.
      const left = this.inode.kind === "file" ? Math.max(0, this.inode.size) : 0
      const buffer = new Uint8Array(Math.min(size, left))
      return Effect.map(this.readAt("readAlloc", buffer, options), (count) =>
        count === 0 ? Option.none() : Option.some(count === buffer.length ? buffer : buffer.slice(0, count))
      )
    })
  }

  truncate(length = 0) {
    return this.run("truncate", (now) => {
      this.tree.truncate(this.writable("ftruncate"), Math.max(0, length), now)
      if (!this.flags.append && this.position > BigInt(length)) this.position = BigInt(length)
    })
  }

  write(buffer: Uint8Array) {
    return this.writeAt("write", buffer)
  }

  writeAll(buffer: Uint8Array) {
    return Effect.asVoid(this.writeAt("writeAll", buffer))
  }

  private readAt(method: string, buffer: Uint8Array, options: FileSystem.File.ReadOptions | undefined) {
    return Effect.suspend(() => {
      const position = options?.position ?? this.position
      if (position < 0n) {
        return Effect.fail(badArgument("FileSystem", method, "Cannot read before the start of the file"))
      }
      return this.run(method, () => {
        if (!this.flags.read) throw new FsError("EBADF", "read", this.path)
        if (this.inode.kind !== "file") throw new FsError("EISDIR", "read", this.path)
        const count = this.tree.read(this.inode, buffer, Number(position))
        if (options?.position === undefined) this.position = position + BigInt(count)
        return count
      })
    })
  }

  private writeAt(method: string, buffer: Uint8Array) {
    return Effect.suspend(() => {
      if (this.position > Number.MAX_SAFE_INTEGER) {
        return Effect.fail(badArgument("FileSystem", method, "position exceeds the safe integer range"))
      }
      return this.run(method, (now) => {
        const file = this.writable("write")
        const position = this.flags.append ? file.size : Number(this.position)
        this.tree.write(file, buffer, position, now)
        if (!this.flags.append) this.position += BigInt(buffer.length)
        return buffer.length
      })
    })
  }

  private writable(syscall: string): File {
    if (!this.flags.write || this.inode.kind !== "file") throw new FsError("EBADF", syscall, this.path)
    return this.inode
  }

  private run<A>(method: string, evaluate: (now: number) => A): Effect.Effect<A, PlatformError> {
    return this.checked(
      method,
      onFiles(method, this.path, (now) => {
        if (!this.open) throw new FsError("EBADF", method, this.path)
        return evaluate(now)
      })
    )
  }
}

type Checked = <A, R>(method: string, effect: Effect.Effect<A, PlatformError, R>) => Effect.Effect<A, PlatformError, R>

/** How what is there already gives way to a copy: not at all, to a new file, or to new content in the same file. */
export type Overwrite = "never" | "anew" | "inPlace"

/** As `cp` of Node does, recursively; symlinks become absolute as there, except in place, where the guest's own `cp` asks. */
export const copy = (
  tree: Tree,
  from: string,
  to: string,
  options: { readonly overwrite: Overwrite; readonly preserveTimestamps: boolean },
  now: number
): void => {
  const source = tree.lstat(from, "cp")
  let target: Inode | undefined
  try {
    target = tree.lstat(to, "cp")
  } catch (error) {
    if (!hasCode(error, "ENOENT")) throw error
    tree.mkdir(normalize("/", `${to}/..`), { recursive: true }, now)
  }
  if (target === source) throw new FsError("ERR_FS_CP_EINVAL", "cp", to)
  const preserve = () => {
    if (options.preserveTimestamps) tree.utimes(tree.lstat(to), source.atime, source.mtime)
  }
  switch (source.kind) {
    case "directory": {
      if (target !== undefined && target.kind !== "directory") {
        throw new FsError("ERR_FS_CP_DIR_TO_NON_DIR", "cp", to)
      }
      if (tree.isBelow(to, source)) throw new FsError("ERR_FS_CP_EINVAL", "cp", to)
      if (target === undefined) {
        tree.mkdir(to, {}, now)
        tree.chmod(tree.stat(to), source.mode)
      }
      for (const name of [...source.entries.keys()]) copy(tree, `${from}/${name}`, `${to}/${name}`, options, now)
      return preserve()
    }
    case "link": {
      const resolve = (path: string, to: string) => normalize(normalize("/", `${path}/..`), to)
      const absolute = resolve(from, source.target)
      if (options.overwrite === "inPlace") {
        if (target !== undefined) tree.unlink(to, now)
        return tree.symlink(source.target, to, now)
      }
      // Whatever `overwrite` says, Node replaces a symlink and nothing else.
      if (target?.kind === "link") {
        const other = resolve(to, target.target)
        const isDirectory = tree.exists(from) && tree.stat(from).kind === "directory"
        if (isDirectory && (`${other}/`.startsWith(`${absolute}/`) || `${absolute}/`.startsWith(`${other}/`))) {
          throw new FsError("ERR_FS_CP_EINVAL", "cp", to)
        }
        tree.unlink(to, now)
      }
      return tree.symlink(absolute, to, now)
    }
    case "file": {
      if (target?.kind === "directory") throw new FsError("ERR_FS_CP_NON_DIR_TO_DIR", "cp", to)
      if (target !== undefined) {
        if (options.overwrite === "never") return
        if (options.overwrite === "anew") tree.unlink(to, now)
      }
      const file = tree.writeFile(to, source.data.subarray(0, source.size).slice(), now)
      if (target === undefined || options.overwrite === "anew") tree.chmod(file, source.mode)
      return preserve()
    }
  }
}

export const copyFile = (tree: Tree, from: string, to: string, now: number): void => {
  const source = tree.stat(from, "copyfile")
  if (source.kind !== "file") throw new FsError("EISDIR", "copyfile", from)
  if (tree.exists(to) && tree.stat(to) === source) return
  const file = tree.writeFile(to, source.data.slice(0, source.size), now)
  tree.chmod(file, source.mode)
}

const entriesBelow = (tree: Tree, path: string, prefix = ""): Array<string> =>
  [...tree.readdir(path)].flatMap(([name, inode]) =>
    inode.kind === "directory"
      ? [prefix + name, ...entriesBelow(tree, `${path}/${name}`, `${prefix}${name}/`)]
      : [prefix + name]
  )

/** What the file system of one incarnation, or of one command, is made of. */
export interface Options {
  readonly tree: Tree
  /** The base of relative paths. */
  readonly cwd: string
  /** Where temporary files go. */
  readonly temporary: string
  /** Fails once the machine is not this one any more. */
  readonly checked: <A, E, R>(method: string, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | SandboxError, R>
}

export const make = (options: Options): FileSystem.FileSystem => {
  const { tree } = options
  // An empty path stays one: it names nothing.
  const at = (path: string) => (path === "" ? path : join(options.cwd, path))
  const checked: Checked = (method, effect) =>
    Effect.mapError(options.checked(method, effect), inPlatform("FileSystem", method))
  const run = <A>(method: string, path: string, evaluate: (now: number) => A) =>
    checked(method, onFiles(method, path, evaluate))
  const both = <A>(method: string, from: string, to: string, evaluate: (now: number) => A) =>
    to.includes("\0") ? run(method, to, evaluate) : run(method, from, evaluate)

  const open =
    (method: string): FileSystem.FileSystem["open"] =>
    (path, openOptions) =>
      Effect.acquireRelease(
        run(method, path, (now) => {
          const flags = flagsOf(openOptions?.flag ?? "r")
          const inode = tree.open(
            at(path),
            { ...flags, noFollow: openOptions?.noFollow ?? false, mode: openOptions?.mode },
            now
          )
          return new OpenFile(tree, inode, path, flags, checked)
        }),
        (file) => Effect.sync(() => file.close())
      )

  let temporaries = 0
  const temporary = (
    method: string,
    where: { readonly directory?: string | undefined; readonly prefix?: string | undefined } | undefined
  ) =>
    run(method, (where?.directory ?? "") + (where?.prefix ?? ""), (now) => {
      for (;;) {
        const name = `${where?.prefix ?? ""}${(++temporaries).toString(36).padStart(6, "0")}`
        const path = normalize("/", `${at(where?.directory ?? options.temporary)}/${name}`)
        try {
          tree.mkdir(path, { mode: 0o700 }, now)
          return path
        } catch (error) {
          if (!hasCode(error, "EEXIST")) throw error
        }
      }
    })
  const temporaryFile = (
    method: string,
    where?: {
      readonly directory?: string | undefined
      readonly prefix?: string | undefined
      readonly suffix?: string | undefined
    }
  ) =>
    Effect.flatMap(temporary(method, where), (directory) => {
      const path = `${directory}/file${where?.suffix ?? ""}`
      return Effect.as(
        run(method, path, (now) => tree.writeFile(path, new Uint8Array(0), now)),
        path
      )
    })
  const discard = (directory: string) =>
    // A machine that is gone has taken it along.
    Effect.ignore(run("remove", directory, (now) => tree.remove(directory, { recursive: true, force: true }, now)))

  return FileSystem.make({
    access: (path) => run("access", path, () => void tree.stat(at(path), "access")),
    chmod: (path, mode) => run("chmod", path, () => tree.chmod(tree.stat(at(path), "chmod"), mode)),
    chown: (path, uid, gid) => run("chown", path, () => tree.chown(tree.stat(at(path), "chown"), uid, gid)),
    copy: (from, to, copyOptions) =>
      both("copy", from, to, (now) =>
        copy(
          tree,
          at(from),
          at(to),
          {
            overwrite: copyOptions?.overwrite === true ? "anew" : "never",
            preserveTimestamps: copyOptions?.preserveTimestamps ?? false
          },
          now
        )
      ),
    copyFile: (from, to) => both("copyFile", from, to, (now) => copyFile(tree, at(from), at(to), now)),
    link: (from, to) => both("link", from, to, (now) => tree.link(at(from), at(to), now)),
    lstat: (path) => run("lstat", path, () => infoOf(tree.lstat(at(path)))),
    makeDirectory: (path, makeOptions) =>
      run("makeDirectory", path, (now) =>
        tree.mkdir(at(path), { recursive: makeOptions?.recursive ?? false, mode: makeOptions?.mode }, now)
      ),
    makeTempDirectory: (where) => temporary("makeTempDirectory", where),
    makeTempDirectoryScoped: (where) => Effect.acquireRelease(temporary("makeTempDirectoryScoped", where), discard),
    makeTempFile: (where) => temporaryFile("makeTempFile", where),
    makeTempFileScoped: (where) =>
      Effect.acquireRelease(temporaryFile("makeTempFileScoped", where), (path) => discard(normalize(path, ".."))),
    open: open("open"),
    readDirectory: (path, readOptions) =>
      run("readDirectory", path, () =>
        readOptions?.recursive === true ? entriesBelow(tree, at(path)) : [...tree.readdir(at(path)).keys()]
      ),
    readDirectoryEntries: (path) =>
      run("readDirectoryEntries", path, () =>
        [...tree.readdir(at(path))].map(([name, inode]) => ({ name, type: types[inode.kind] }))
      ),
    readFile: (path) => run("readFile", path, () => tree.readFile(at(path))),
    readLink: (path) => run("readLink", path, () => tree.readlink(at(path))),
    realPath: (path) => run("realPath", path, () => tree.realpath(at(path))),
    remove: (path, removeOptions) =>
      run("remove", path, (now) =>
        tree.remove(
          at(path),
          { recursive: removeOptions?.recursive ?? false, force: removeOptions?.force ?? false },
          now
        )
      ),
    rename: (from, to) => both("rename", from, to, (now) => tree.rename(at(from), at(to), now)),
    stat: (path) => run("stat", path, () => infoOf(tree.stat(at(path)))),
    symlink: (target, path) => both("symlink", target, path, (now) => tree.symlink(target, at(path), now)),
    truncate: (path, length) =>
      run("truncate", path, (now) => {
        const file = tree.open(at(path), { write: true }, now)
        if (file.kind === "file") tree.truncate(file, Math.max(0, length ?? 0), now)
      }),
    utimes: (path, atime, mtime) =>
      run("utime", path, () => tree.utimes(tree.stat(at(path), "utime"), millis(atime), millis(mtime))),
    watch: (path, watchOptions) =>
      Stream.unwrap(
        Effect.map(
          run("watch", path, () => tree.stat(at(path), "watch")),
          (watched) =>
            Stream.callback<FileSystem.WatchEvent, PlatformError>(
              (queue) =>
                Effect.acquireRelease(
                  Effect.sync(() =>
                    tree.listen((change) => {
                      const name = watchedName(tree, watched, basename(normalize("/", at(path))), change)
                      if (name === undefined || (watchOptions?.recursive !== true && name.includes("/"))) return
                      Queue.offerUnsafe(queue, { _tag: change.type, path: name })
                    })
                  ),
                  (stop) => Effect.sync(stop)
                ).pipe(Effect.tap(() => Effect.sync(() => watchOptions?.onReady?.()))),
              { bufferSize: watchBacklog, strategy: "dropping" }
            )
        )
      ),
    writeFile: (path, data, writeOptions) =>
      run("writeFile", path, (now) => {
        const flags = flagsOf(writeOptions?.flag ?? "w")
        const file = tree.open(at(path), { ...flags, mode: writeOptions?.mode }, now)
        if (!flags.write || file.kind !== "file") throw new FsError("EBADF", "write", path)
        tree.write(file, data, flags.append ? file.size : 0, now)
      })
  })
}

const watchedName = (
  tree: Tree,
  watched: Inode,
  own: string,
  change: Parameters<Parameters<Tree["listen"]>[0]>[0]
): string | undefined =>
  watched.kind === "directory" ? tree.relativeTo(watched, change) : change.inode === watched ? own : undefined
