/** The disk of a fake machine as `just-bash` wants it, with the streams of one process as files. */
import type { IFileSystem } from "just-bash"
import { copy, copyFile } from "./fileSystem.ts"
import type { Inode } from "./tree.ts"
import { dateOf, FsError, normalize, type Tree } from "./tree.ts"

/** Each character is one byte. */
export const toLatin1 = (bytes: Uint8Array): string => {
  const parts: Array<string> = []
  for (let at = 0; at < bytes.length; at += 8192) parts.push(String.fromCharCode(...bytes.subarray(at, at + 8192)))
  return parts.join("")
}

export const fromLatin1 = (text: string): Uint8Array => {
  const bytes = new Uint8Array(text.length)
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at)
  return bytes
}

const toBytes = (content: string | Uint8Array, options: unknown): Uint8Array => {
  if (typeof content !== "string") return content
  const encoding = typeof options === "string" ? options : encodingOf(options)
  // What is called binary and has a character that is no byte is text after all.
  const binary = (encoding === "binary" || encoding === "latin1") && !/[^\0-\xff]/.test(content)
  return binary ? fromLatin1(content) : new TextEncoder().encode(content)
}

const encodingOf = (options: unknown): unknown =>
  typeof options === "object" && options !== null && "encoding" in options ? options.encoding : undefined

/** A file that is no file of the disk. */
export interface Special {
  readonly read: () => Promise<Uint8Array>
  readonly write: (bytes: Uint8Array) => Promise<void>
}

const statOf = (inode: Inode) => ({
  isFile: inode.kind === "file",
  isDirectory: inode.kind === "directory",
  isSymbolicLink: inode.kind === "link",
  mode: inode.mode,
  size: inode.kind === "file" ? inode.size : 0,
  mtime: dateOf(inode.mtime),
  dev: 1,
  ino: inode.ino
})

/** `special` by path; `now` is the time of the process. */
export const make = (tree: Tree, special: ReadonlyMap<string, Special>, now: () => number): IFileSystem => {
  const specialAt = (path: string) => special.get(normalize("/", path))
  const specialStat = () => ({
    isFile: true,
    isDirectory: false,
    isSymbolicLink: false,
    mode: 0o666,
    size: 0,
    mtime: dateOf(now())
  })
  const read = async (path: string): Promise<Uint8Array> => specialAt(path)?.read() ?? tree.readFile(path)
  const write = async (path: string, content: string | Uint8Array, options: unknown, append: boolean) => {
    const bytes = toBytes(content, options)
    const target = specialAt(path)
    if (target === undefined) tree.writeFile(path, bytes, now(), append)
    else await target.write(bytes)
  }
  const below = (path: string): Array<string> =>
    [...tree.readdir(path)].flatMap(([name, inode]) => {
      const own = `${path === "/" ? "" : path}/${name}`
      return inode.kind === "directory" ? [own, ...below(own)] : [own]
    })

  return {
    readFile: async (path, options) => {
      const bytes = await read(path)
      const encoding = typeof options === "string" ? options : options?.encoding
      return encoding === "binary" || encoding === "latin1" ? toLatin1(bytes) : new TextDecoder().decode(bytes)
    },
    readFileBuffer: read,
    writeFile: (path, content, options) => write(path, content, options, false),
    appendFile: (path, content, options) => write(path, content, options, true),
    exists: async (path) => specialAt(path) !== undefined || tree.exists(path),
    stat: async (path) => (specialAt(path) === undefined ? statOf(tree.stat(path)) : specialStat()),
    lstat: async (path) => (specialAt(path) === undefined ? statOf(tree.lstat(path)) : specialStat()),
    mkdir: async (path, options) => tree.mkdir(path, { recursive: options?.recursive ?? false }, now()),
    readdir: async (path) => [...tree.readdir(path).keys()].sort(),
    readdirWithFileTypes: async (path) =>
      [...tree.readdir(path)]
        .map(([name, inode]) => ({
          name,
          isFile: inode.kind === "file",
          isDirectory: inode.kind === "directory",
          isSymbolicLink: inode.kind === "link"
        }))
        .sort((one, other) => (one.name < other.name ? -1 : 1)),
    rm: async (path, options) => {
      if (options?.recursive === true)
        return tree.remove(path, { recursive: true, force: options.force ?? false }, now())
      if (options?.force === true && !tree.exists(path)) {
        return tree.remove(path, { force: true }, now())
      }
      tree.unlink(path, now())
    },
    cp: async (from, to, options) => {
      if (tree.stat(from).kind === "directory" && options?.recursive !== true) throw new FsError("EISDIR", "cp", from)
      if (options?.recursive !== true) return copyFile(tree, from, to, now())
      copy(tree, from, to, { overwrite: "inPlace", preserveTimestamps: false }, now())
    },
    mv: async (from, to) => tree.rename(from, to, now()),
    resolvePath: (base, path) => normalize(base, path),
    getAllPaths: () => ["/", ...below("/")],
    chmod: async (path, mode) => tree.chmod(tree.stat(path), mode),
    symlink: async (target, path) => tree.symlink(target, path, now()),
    link: async (from, to) => tree.link(from, to, now()),
    readlink: async (path) => tree.readlink(path),
    realpath: async (path) => (specialAt(path) === undefined ? tree.realpath(path) : path),
    utimes: async (path, atime, mtime) => tree.utimes(tree.stat(path), atime.getTime(), mtime.getTime())
  }
}
