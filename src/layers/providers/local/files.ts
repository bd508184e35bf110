/** Files of a sandbox: read as a stream, written whole or not at all. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as PlatformError from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import type * as Fs from "node:fs"
import { constants } from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import type { SandboxError } from "../../../errors.ts"
import type { FileFailure, WriteFileEntry } from "../../../services/SandboxProvider.ts"
import { codeOf, platformError } from "./failures.ts"

/** How much is read at once, and so held. */
const chunkBytes = 256 * 1024

/**
 * An absolute path of this host. Without isolation an absolute path is taken as it is: there is no boundary that could be
 * kept, and the commands of the sandbox reach it as well.
 */
const resolve = (method: string, base: string, path: string): Effect.Effect<string, PlatformError.PlatformError> => {
  if (path.includes("\0")) {
    return Effect.fail(
      PlatformError.badArgument({ module: "FileSystem", method, description: "The path contains a NUL character" })
    )
  }
  if (path === "") {
    return Effect.fail(
      PlatformError.systemError({ _tag: "NotFound", module: "FileSystem", method, pathOrDescriptor: path })
    )
  }
  // Not by its text: `..` behind a symlink, and a slash behind a file, mean something to the system.
  return Effect.succeed(Path.isAbsolute(path) ? path : `${base}/${path}`)
}

const attempt = <A>(method: string, path: string, evaluate: () => Promise<A>) =>
  Effect.tryPromise({ try: evaluate, catch: (error) => platformError("FileSystem", method, path, error) })

/** `shown` is the path that a failure names. */
const open = (
  method: string,
  shown: string,
  path: string,
  flags: number | string,
  mode?: number
): Effect.Effect<FsPromises.FileHandle, PlatformError.PlatformError, Scope.Scope> =>
  Effect.acquireRelease(
    attempt(method, shown, () => FsPromises.open(path, flags, mode)),
    (handle) => Effect.ignore(Effect.tryPromise(() => handle.close()))
  )

/** The bytes of a file. A directory or a FIFO is `BadResource`, a missing file `NotFound`. */
export const read = (base: string, path: string): Stream.Stream<Uint8Array, PlatformError.PlatformError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const absolute = yield* resolve("readFile", base, path)
      // Not to wait for the writer of a FIFO: a blocked thread cannot be interrupted.
      const handle = yield* open("readFile", absolute, absolute, constants.O_RDONLY | constants.O_NONBLOCK)
      const stat = yield* attempt("readFile", path, () => handle.stat())
      if (stat.isFIFO()) {
        return yield* PlatformError.systemError({
          _tag: "BadResource",
          module: "FileSystem",
          method: "readFile",
          pathOrDescriptor: path,
          description: "it is a FIFO"
        })
      }
      return Stream.fromPull(
        Effect.succeed(
          Effect.flatMap(
            attempt("readFile", path, () => {
              const buffer = Buffer.allocUnsafeSlow(chunkBytes)
              return handle.read(buffer, 0, chunkBytes, null)
            }),
            ({ buffer, bytesRead }): Effect.Effect<readonly [Uint8Array], Cause.Done> =>
              bytesRead === 0
                ? Cause.done()
                : Effect.succeed([
                    // A small rest must not keep a large buffer alive.
                    bytesRead * 2 < chunkBytes
                      ? Uint8Array.prototype.slice.call(buffer, 0, bytesRead)
                      : buffer.subarray(0, bytesRead)
                  ])
          )
        )
      )
    })
  )

/** Where a write lands: through symlinks, also to a target that does not exist yet, as an ordinary write does. */
const follow = async (path: string): Promise<string> => {
  let target = path
  for (let links = 0; links < 40; links++) {
    try {
      target = Path.resolve(Path.dirname(target), await FsPromises.readlink(target))
    } catch (error) {
      // EINVAL: no link. ENOENT: nothing there yet.
      if (codeOf(error) === "EINVAL" || codeOf(error) === "ENOENT") return target
      throw error
    }
  }
  throw Object.assign(new Error(`too many symbolic links`), { code: "ELOOP" })
}

const writeOne = (
  base: string,
  entry: WriteFileEntry
): Effect.Effect<void, SandboxError | PlatformError.PlatformError> =>
  Effect.scoped(
    Effect.gen(function* () {
      const absolute = yield* resolve("writeFile", base, entry.path)
      const use = <A>(evaluate: () => Promise<A>) => attempt("writeFile", entry.path, evaluate)
      if (absolute.endsWith("/")) {
        return yield* platformError(
          "FileSystem",
          "writeFile",
          entry.path,
          Object.assign(new Error("a directory's name"), { code: "EISDIR" })
        )
      }
      const target = yield* use(() => follow(absolute))
      const directory = Path.dirname(target)
      yield* use(() => FsPromises.mkdir(directory, { recursive: true }))
      const existing = yield* use(() =>
        FsPromises.lstat(target).catch((error: unknown): Fs.Stats | undefined => {
          if (codeOf(error) === "ENOENT") return undefined
          throw error
        })
      )
      if (existing?.isDirectory() === true) {
        return yield* platformError(
          "FileSystem",
          "writeFile",
          entry.path,
          Object.assign(new Error("a directory"), { code: "EISDIR" })
        )
      }
      // A rename would put a file in the place of a device, which for root may be the host's `/dev/null`.
      if (existing?.isFile() === false) {
        return yield* PlatformError.systemError({
          _tag: "BadResource",
          module: "FileSystem",
          method: "writeFile",
          pathOrDescriptor: entry.path,
          description: "it is no file"
        })
      }
      const temporary = Path.join(directory, `.${Crypto.randomUUID()}.tmp`)
      // Registered first, so that it runs after the handle was closed; after the rename there is nothing left to remove.
      yield* Effect.addFinalizer(() =>
        Effect.ignore(Effect.tryPromise(() => FsPromises.rm(temporary, { force: true })))
      )
      // What a file that is overwritten was allowed, it stays allowed; `umask` does not cut a mode that was asked for.
      const mode = entry.mode ?? (existing === undefined ? undefined : existing.mode & 0o7777)
      // A part of a file that only its owner may read is nobody else's either, also if nobody comes to finish it.
      const handle = yield* open("writeFile", entry.path, temporary, "wx", mode === undefined ? 0o666 : 0o600)
      const write = (bytes: Uint8Array) => use(() => handle.writeFile(bytes))
      if (entry.content instanceof Uint8Array) yield* write(entry.content)
      else yield* Stream.runForEach(entry.content, write)
      if (mode !== undefined) yield* use(() => handle.chmod(mode))
      yield* use(() => FsPromises.rename(temporary, target))
    })
  )

/** Writes in order and yields those that could not be written: each file is whole or untouched, parents are made. */
export const write = (
  base: string,
  entries: ReadonlyArray<WriteFileEntry>
): Effect.Effect<ReadonlyArray<FileFailure>> =>
  Effect.map(
    Effect.forEach(entries, (entry) =>
      Effect.match(writeOne(base, entry), {
        onSuccess: () => [],
        onFailure: (error): ReadonlyArray<FileFailure> => [{ path: entry.path, error }]
      })
    ),
    (failures) => failures.flat()
  )
