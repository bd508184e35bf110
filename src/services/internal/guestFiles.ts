/**
 * All of Effect's `FileSystem` for a guest that can only run commands: each operation is one start of a fixed script (see
 * `guestFiles/scripts.ts`), after one that asks which tools the guest has.
 *
 * It differs from Node's layer where a command cannot do better: an open file is its path and which file that was (see
 * `guestFiles/identities.ts`), so that later operations fail `NotFound` or `Busy` when the name is another file's, and need
 * the permissions of a new open; watching looks once a second; a FIFO can be streamed but not opened; `rename` never copies;
 * and with busybox's tools times are set to whole seconds and there is no time of birth.
 */
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import type * as PlatformError from "effect/PlatformError"
import * as Predicate from "effect/Predicate"
import * as Stream from "effect/Stream"
import { isSandboxError } from "../../errors.ts"
import type { Machine } from "../SandboxProvider.ts"
import * as Contents from "./guestFiles/contents.ts"
import * as Identities from "./guestFiles/identities.ts"
import * as Info from "./guestFiles/info.ts"
import * as OpenFile from "./guestFiles/openFile.ts"
import * as Scripts from "./guestFiles/scripts.ts"
import type { Subject } from "./guestFiles/shell.ts"
import * as Shell from "./guestFiles/shell.ts"
import * as Watch from "./guestFiles/watch.ts"

type Fs = FileSystem.FileSystem
type TemporaryOptions = NonNullable<Parameters<Fs["makeTempFile"]>[0]>

const flag = (value: boolean | undefined): string => (value === true ? "1" : "")

/** Without `.`, `..` and double slashes, by the text alone. */
const normalize = (path: string): string => {
  const parts: Array<string> = []
  for (const part of path.split("/")) {
    if (part === "..") parts.pop()
    else if (part !== "" && part !== ".") parts.push(part)
  }
  return `/${parts.join("/")}`
}

/** Seconds since the epoch as `touch` takes them; empty for now. Node takes a negative number for now. */
const seconds = (time: Date | number, whole: boolean): Effect.Effect<string, PlatformError.PlatformError> => {
  const value = Predicate.isDate(time) ? time.getTime() / 1000 : time
  if (!Number.isFinite(value)) return Effect.fail(Shell.badArgument("utime", "The time is not a number of seconds"))
  if (value < 0 && !Predicate.isDate(time)) return Effect.succeed("")
  if (whole) return Effect.succeed(String(BigInt(Math.floor(value))))
  const micros = BigInt(Math.trunc(value * 1e6))
  const size = micros < 0n ? -micros : micros
  return Effect.succeed(`${micros < 0n ? "-" : ""}${size / 1_000_000n}.${String(size % 1_000_000n).padStart(6, "0")}`)
}

const owner = (method: string, id: number): Effect.Effect<string, PlatformError.PlatformError> =>
  Number.isInteger(id) && id >= -1 && id <= 0xffffffff
    ? Effect.succeed(id === -1 || id === 0xffffffff ? "" : String(id))
    : Effect.fail(Shell.badArgument(method, "An owner or group is not a number that the system has"))

/** Derives the file system of a machine; what the machine does better itself comes before what is derived. */
export const derive = (machine: Machine): Fs => {
  const shell = Shell.make(machine)
  const identities = Identities.make(shell)
  const contents = Contents.make(shell, identities)

  const run = (subject: Subject, script: Scripts.Script, args: ReadonlyArray<string>) =>
    Effect.andThen(Shell.checked(subject), shell.run(subject, script, args))
  /** Of one path. */
  const one = (method: string, path: string, script: Scripts.Script, ...args: ReadonlyArray<string>) =>
    run({ method, path }, script, [path, ...args])
  /** From one path to another. */
  const two = (method: string, from: string, to: string, script: Scripts.Script, ...args: ReadonlyArray<string>) =>
    Effect.andThen(
      Shell.checked({ method, path: from }),
      Effect.asVoid(
        Effect.andThen(
          Shell.checked({ method, path: to }),
          shell.run({ method, path: from }, script, [from, to, ...args])
        )
      )
    )

  const info = (method: "stat" | "lstat", path: string) =>
    Effect.gen(function* () {
      const subject = { method, path }
      const format = Info.format(yield* shell.toolbox(subject))
      const bytes = yield* one(method, path, method === "stat" ? Scripts.stat : Scripts.lstat, format)
      return (yield* OpenFile.parsed(subject, bytes)).info
    })

  const temporaryDirectory = Effect.fnUntraced(function* (
    method: string,
    options: TemporaryOptions | undefined,
    withFile: boolean
  ) {
    const random = SecureRandom.uuidV4Unsafe().replaceAll("-", "")
    const prefix = options?.prefix ?? ""
    // The guest's own directory for them is asked for by the script that uses it.
    const directory = options?.directory === undefined ? "" : normalize(options.directory)
    for (const part of [prefix, directory, options?.suffix ?? ""]) {
      if (part.includes("\0")) return yield* Shell.badArgument(method, "The path contains a NUL character")
    }
    const subject = { method, path: `${directory === "/" ? "" : directory}/${prefix}${random.slice(0, 12)}` }
    yield* Shell.checked(subject)
    const made = yield* shell.run(subject, Scripts.makeTemporary, [
      directory,
      `${prefix}${random.slice(0, 12)}`,
      withFile ? `${random.slice(12, 24)}${options?.suffix ?? ""}` : ""
    ])
    return Info.decode(made)
  })

  const remove = (method: string, path: string, options?: Parameters<Fs["remove"]>[1]) =>
    path === "" && options?.force === true
      ? Effect.void
      : Effect.asVoid(one(method, path, Scripts.remove, flag(options?.recursive), flag(options?.force)))

  const temporaryFile = (method: string, options: TemporaryOptions | undefined) =>
    temporaryDirectory(method, options, true)

  /** With the machine its files are out of reach; that is no reason for a Scope to fail. */
  const removeTemporary = (method: string, path: string) =>
    remove(method, path, { recursive: true, force: true }).pipe(
      Effect.catchIf(
        ({ reason }) => isSandboxError(reason.cause),
        (error) => Effect.logDebug(`a temporary directory may be left: ${error.message}`)
      ),
      Effect.orDie
    )

  const base: Omit<
    Fs,
    "~effect/FileSystem" | "exists" | "glob" | "readFileString" | "stream" | "sink" | "writeFileString"
  > = {
    access: (path, options) =>
      Effect.asVoid(
        one(
          "access",
          path,
          Scripts.access,
          `${options?.readable === true ? "r" : ""}${options?.writable === true ? "w" : ""}`
        )
      ),
    copy: (from, to, options) =>
      two("copy", from, to, Scripts.copy, flag(options?.overwrite), flag(options?.preserveTimestamps)),
    copyFile: (from, to) => two("copyFile", from, to, Scripts.copyFile),
    chmod: Effect.fnUntraced(function* (path, mode) {
      const bits = yield* Contents.modeArgument("chmod", mode)
      // With fewer digits GNU's keeps the set-id bits of directories.
      yield* one("chmod", path, Scripts.chmod, bits.padStart(5, "0"))
    }),
    chown: Effect.fnUntraced(function* (path, uid, gid) {
      const [user, group] = [yield* owner("chown", uid), yield* owner("chown", gid)]
      yield* one("chown", path, Scripts.chown, group === "" ? user : `${user}:${group}`)
    }),
    link: (from, to) => two("link", from, to, Scripts.link),
    lstat: (path) => info("lstat", path),
    stat: (path) => info("stat", path),
    makeDirectory: Effect.fnUntraced(function* (path, options) {
      const mode = yield* Contents.modeArgument("makeDirectory", options?.mode)
      yield* one("makeDirectory", path, Scripts.makeDirectory, flag(options?.recursive), mode)
    }),
    makeTempDirectory: (options) => temporaryDirectory("makeTempDirectory", options, false),
    makeTempDirectoryScoped: (options) =>
      Effect.acquireRelease(temporaryDirectory("makeTempDirectoryScoped", options, false), (directory) =>
        removeTemporary("makeTempDirectoryScoped", directory)
      ),
    makeTempFile: (options) => temporaryFile("makeTempFile", options),
    makeTempFileScoped: (options) =>
      Effect.acquireRelease(temporaryFile("makeTempFileScoped", options), (file) =>
        removeTemporary("makeTempFileScoped", file.slice(0, file.lastIndexOf("/")))
      ),
    open: OpenFile.make(shell, identities),
    readDirectory: (path, options) =>
      Effect.map(one("readDirectory", path, Scripts.readDirectory, flag(options?.recursive)), Info.names),
    readDirectoryEntries: (path) =>
      Effect.map(one("readDirectoryEntries", path, Scripts.readDirectoryEntries), Info.entries),
    readFile: (path) => {
      const subject = { method: "readFile", path }
      const byCommand = Shell.collect(contents.read(subject, {}))
      // Whoever resolves a path by its text comes out elsewhere: `..` after a symlink, a slash behind a file.
      const bytes =
        path.split("/").includes("..") || path.endsWith("/")
          ? byCommand
          : Effect.catchIf(
              Shell.collect(Stream.mapError(machine.readFile(path), Shell.toPlatform(subject))),
              // A vendor may know regular files only, or not say what is wrong; a machine that failed is not asked again.
              (error) => error.reason._tag !== "BadArgument" && !isSandboxError(error.reason.cause),
              () => byCommand
            )
      return Effect.andThen(Shell.checked(subject), bytes)
    },
    readLink: (path) => Effect.map(one("readLink", path, Scripts.readLink), Info.decode),
    realPath: (path) => Effect.map(one("realPath", path, Scripts.realPath), Info.decode),
    remove: (path, options) => remove("remove", path, options),
    rename: (from, to) => two("rename", from, to, Scripts.rename),
    symlink: (target, path) =>
      Effect.gen(function* () {
        if (target.includes("\0")) return yield* Shell.badArgument("symlink", "The target contains a NUL character")
        yield* Shell.checked({ method: "symlink", path })
        yield* shell.run({ method: "symlink", path }, Scripts.symlink, [target, path])
      }),
    truncate: Effect.fnUntraced(function* (path, length) {
      const subject = { method: "truncate", path }
      const argument = yield* OpenFile.lengthArgument("truncate", length)
      const { format, note } = yield* identities.noting(subject)
      note(yield* one("truncate", path, Scripts.truncate, argument, format))
    }),
    utimes: Effect.fnUntraced(function* (path, atime, mtime) {
      const subject = { method: "utime", path }
      yield* Shell.checked(subject)
      const whole = (yield* shell.toolbox(subject)).touch === "busybox"
      const [accessed, modified] = [yield* seconds(atime, whole), yield* seconds(mtime, whole)]
      const { format, note } = yield* identities.noting(subject)
      note(yield* shell.run(subject, Scripts.utimes, [path, accessed, modified, format]))
    }),
    watch: Watch.make(shell),
    writeFile: contents.writeFile
  }

  const own = machine.fileSystem
  const made = FileSystem.make({ ...base, ...own })
  return FileSystem.FileSystem.of({
    ...made,
    // On an `open` of the machine's own Effect's are as good; on ours they would be a command for each chunk.
    ...(own.open === undefined ? { stream: contents.stream, sink: contents.sink } : {}),
    ...own
  })
}
