/** What `stat` and `find` say about files, as Effect's `File.Info`. */
import * as ByteSize from "effect/ByteSize"
import * as DateTime from "effect/DateTime"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type { Toolbox } from "./scripts.ts"
import { statEnd } from "./scripts.ts"

/** Numbers only, but for the times of busybox: seconds, and a text that has the fraction. */
export const format = (toolbox: Toolbox): string =>
  toolbox.stat === "gnu"
    ? "%f %s %d %i %h %u %g %t %T %o %b|%.9X|%.9Y|%.9W"
    : "%f %s %d %i %h %u %g %t %T %o %b|%X %x|%Y %y|"

/** Where an entry's times and identity come from. */
export interface Parsed {
  readonly info: FileSystem.File.Info
  /** The device and the inode. */
  readonly key: string
  /** When the file was made, as `stat` says it; nothing where nobody knows. */
  readonly birth: string | undefined
  /** The modification time and the size, as {@link changeFormat} has them. */
  readonly change: string
}

/** Which file it is. */
export const keyFormat = "%d:%i"
/** Which file it is, though another one may have got its inode since. */
export const birthFormat = "%d:%i:%.9W"
/** Whether somebody has written to it. */
export const changeFormat = (toolbox: Toolbox): string => (toolbox.stat === "gnu" ? "%d:%i:%.9Y:%s" : "%d:%i:%Y %y:%s")

const types: Readonly<Record<number, FileSystem.File.Type>> = {
  0o010000: "FIFO",
  0o020000: "CharacterDevice",
  0o040000: "Directory",
  0o060000: "BlockDevice",
  0o100000: "File",
  0o120000: "SymbolicLink",
  0o140000: "Socket"
}

const typeOf = (mode: number): FileSystem.File.Type => types[mode & 0o170000] ?? "Unknown"

const letters: Readonly<Record<string, FileSystem.File.Type>> = {
  p: "FIFO",
  c: "CharacterDevice",
  d: "Directory",
  b: "BlockDevice",
  f: "File",
  l: "SymbolicLink",
  s: "Socket"
}

/** ms since the epoch, of GNU's `-1.500000000` or of busybox's `-2 1969-12-31 23:59:58.500000000 +0000`. */
const time = (text: string): Option.Option<Date> => {
  const gnu = /^(-?)(\d+)\.(\d{3})\d*$/.exec(text)
  const busybox = /^(-?\d+) \S+ [\d:]+(?:\.(\d{3}))?/.exec(text)
  const millis =
    gnu !== null
      ? (gnu[1] === "-" ? -1 : 1) * (Number(gnu[2]) * 1000 + Number(gnu[3]))
      : busybox === null
        ? Number.NaN
        : Number(busybox[1]) * 1000 + Number(busybox[2] ?? 0)
  return Option.map(DateTime.make(millis), DateTime.toDateUtc)
}

/** `makedev` of the C library: `stat` shows the number of a device in halves, and in hexadecimal. */
const device = (major: bigint, minor: bigint): bigint =>
  ((major & 0xfffff000n) << 32n) | ((major & 0xfffn) << 8n) | ((minor & 0xffffff00n) << 12n) | (minor & 0xffn)

/** Reads what {@link format} prints; undefined for anything else. */
export const parse = (text: string): Parsed | undefined => {
  const [numbers = "", accessed = "", modified = "", born = ""] = text.trimEnd().split("|")
  const fields = numbers.split(" ")
  const [mode, size, dev, ino, nlink, uid, gid, major, minor, blksize, blocks] = fields
  if (
    fields.length !== 11 ||
    mode === undefined ||
    size === undefined ||
    dev === undefined ||
    ino === undefined ||
    nlink === undefined ||
    blksize === undefined ||
    blocks === undefined ||
    !fields.every((field, index) => (index === 0 || index === 7 || index === 8 ? /^[\da-f]+$/ : /^\d+$/).test(field))
  ) {
    return undefined
  }
  const bits = Number.parseInt(mode, 16)
  const birth = /^0?(?:\.0*)?$|^-$/.test(born) ? undefined : born
  return {
    key: `${dev}:${ino}`,
    birth,
    change: `${dev}:${ino}:${modified}:${size}`,
    info: {
      type: typeOf(bits),
      mode: bits,
      size: ByteSize.bytes(BigInt(size)),
      dev: BigInt(dev),
      ino: Option.some(BigInt(ino)),
      nlink: Option.some(BigInt(nlink)),
      uid: Option.some(Number(uid)),
      gid: Option.some(Number(gid)),
      rdev: Option.some(device(BigInt(`0x${major}`), BigInt(`0x${minor}`))),
      blksize: Option.some(ByteSize.bytes(BigInt(blksize))),
      blocks: Option.some(BigInt(blocks)),
      atime: time(accessed),
      mtime: time(modified),
      birthtime: birth === undefined ? Option.none() : time(birth)
    }
  }
}

/** A file after an operation, and what was under its path before it. */
export interface Transition {
  readonly before: Parsed | "nothing" | "unknown"
  readonly after: Parsed
}

/** Reads one line of {@link format}, or two: the first is of what was there before, and empty if that was nothing. */
export const transition = (text: string): Transition | undefined => {
  const lines = text.replace(/\n$/, "").split("\n")
  const after = parse(lines.at(-1) ?? "")
  if (after === undefined || lines.length > 2) return undefined
  if (lines.length === 1) return { before: "unknown", after }
  return { before: parse(lines[0] ?? "") ?? "nothing", after }
}

/** Names as Node's layer shows them: what is no UTF-8 becomes U+FFFD, and a byte order mark is part of the name. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

/** Text of a guest. */
export const decode = (bytes: Uint8Array): string => decoder.decode(bytes)

const withoutDot = (path: string): string => (path.startsWith("./") ? path.slice(2) : path)

/** Paths below the directory that was listed. */
export const names = (bytes: Uint8Array): Array<string> => {
  const parts = decode(bytes).split("\0")
  parts.pop()
  return parts.map(withoutDot)
}

/** The records of a listing, of either kind. */
const records = (bytes: Uint8Array): ReadonlyArray<string> => {
  const text = decode(bytes)
  const parts = text.split(text.includes("\0") ? "\0" : statEnd)
  parts.pop()
  return parts
}

/** What `readDirectoryEntries` lists. */
export const entries = (bytes: Uint8Array): ReadonlyArray<FileSystem.DirectoryEntry> =>
  records(bytes).map((record) => {
    const space = record.indexOf(" ")
    const kind = record.slice(0, space)
    return {
      name: withoutDot(record.slice(space + 1)),
      type: kind.length === 1 ? (letters[kind] ?? "Unknown") : typeOf(Number.parseInt(kind, 16))
    }
  })

/** What `survey` tells of one entry: which file it is, and what changes when the file does. */
export interface Surveyed {
  readonly file: string
  readonly state: string
}

/** The entries of a survey by their paths; a file that is watched by itself has the empty one. */
export const surveyed = (bytes: Uint8Array): ReadonlyMap<string, Surveyed> => {
  const start = bytes.indexOf(10) + 1
  return new Map(
    records(bytes.subarray(start)).map((record): readonly [string, Surveyed] => {
      const [mode = "", ino = "", size = "", modified = "", changed = ""] = record.split("|", 5)
      const name = record.slice([mode, ino, size, modified, changed].join("|").length + 1)
      const isDirectory = mode.includes(" ") ? mode.startsWith("d") : typeOf(Number.parseInt(mode, 16)) === "Directory"
      return [
        withoutDot(name),
        {
          file: `${ino} ${mode.slice(0, 1)}`,
          // What is in a directory is told by its own entries.
          state: isDirectory ? mode : [mode, size, modified, changed].join("|")
        }
      ]
    })
  )
}
