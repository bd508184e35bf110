/** Whole files and streams of bytes, each through one command: as fast as it is read or written, and no faster. */
import * as ByteSize from "effect/ByteSize"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as FileSystem from "effect/FileSystem"
import type * as PlatformError from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { isSandboxError } from "../../../errors.ts"
import type { MachineProcess } from "../../SandboxProvider.ts"
import type { Identities } from "./identities.ts"
import * as Scripts from "./scripts.ts"
import type { Shell, Subject } from "./shell.ts"
import { badArgument, checked, failureOf, outcome, succeeded, systemError, toPlatform, Words } from "./shell.ts"

const defaultChunk = 64 * 1024
/** What is written at once of a large array. */
const piece = 256 * 1024
/** How long a command may take to write what it was given when its source has failed. */
const drain = Duration.seconds(5)

/** A command that writes its input somewhere. */
export interface Writing {
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, PlatformError.PlatformError>
  /** Ends the input; yields what the command printed, once it has ended well. */
  readonly finish: Effect.Effect<Uint8Array, PlatformError.PlatformError>
}

/** The command's end says whether it has written; its input only ever says that it has gone. */
export const writing = Effect.fnUntraced(function* (
  subject: Subject,
  process: MachineProcess
): Effect.fn.Return<Writing, never, Scope.Scope> {
  const ended = yield* Effect.forkScoped(outcome(subject, process))
  const finish = Effect.ignore(process.closeInput).pipe(
    Effect.andThen(Fiber.join(ended)),
    Effect.flatMap((end) => succeeded(subject, end))
  )
  yield* Effect.addFinalizer((exit) =>
    // What came before a failure is written, as by a system call; who interrupts does not wait for it.
    Exit.isFailure(exit) && !Exit.hasInterrupts(exit)
      ? Effect.interruptible(Effect.raceFirst(Effect.ignore(finish), Effect.sleep(drain)))
      : Effect.void
  )
  const gone = (error: SandboxError | PlatformError.PlatformError) =>
    isSandboxError(error) && error.reason._tag === "ProcessEnded"
      ? Effect.flatMap(Fiber.join(ended), (end) =>
          Effect.fail(failureOf(subject, end) ?? systemError(subject, "Unknown", "The command took no more input"))
        )
      : Effect.fail(toPlatform(subject)(error))
  return {
    finish,
    write: (bytes) =>
      Effect.suspend(() => {
        if (bytes.length <= piece) return bytes.length === 0 ? Effect.void : process.write(bytes)
        const pieces: Array<Uint8Array> = []
        for (let at = 0; at < bytes.length; at += piece) pieces.push(bytes.subarray(at, at + piece))
        return Effect.forEach(pieces, process.write, { discard: true })
      }).pipe(Effect.catch(gone))
  }
})

interface WriteOptions {
  readonly flag?: FileSystem.OpenFlag | undefined
  readonly mode?: number | undefined
}

/** A mode as the scripts take it; empty for the default. */
export const modeArgument = (
  method: string,
  mode: number | undefined
): Effect.Effect<string, PlatformError.PlatformError> =>
  mode === undefined
    ? Effect.succeed("")
    : Number.isInteger(mode) && mode >= 0 && mode <= 0xffffffff
      ? Effect.succeed((mode & 0o7777).toString(8))
      : Effect.fail(badArgument(method, "The mode is not an unsigned number of 32 bits"))

export const make = (shell: Shell, identities: Identities) => {
  const begin = Effect.fnUntraced(function* (subject: Subject, options: WriteOptions | undefined) {
    yield* checked(subject)
    const mode = yield* modeArgument(subject.method, options?.mode)
    const flag = (options?.flag ?? "w").replace(/(?<!r)\+$/, "")
    const { format, note } = yield* identities.noting(subject)
    const process = yield* shell.start(subject, Scripts.write, [subject.path, flag, mode, format], true)
    const { finish, write } = yield* writing(subject, process)
    return { write, finish: Effect.map(finish, note) }
  })

  const writeFile: FileSystem.FileSystem["writeFile"] = (path, data, options) =>
    begin({ method: "writeFile", path }, options).pipe(
      Effect.tap((file) => file.write(data)),
      Effect.flatMap((file) => file.finish),
      Effect.scoped
    )

  const sink: FileSystem.FileSystem["sink"] = (path, options) =>
    Sink.unwrap(
      Effect.map(begin({ method: "sink", path }, options), (file) =>
        Sink.mapEffect(
          Sink.forEach((bytes: Uint8Array) => file.write(bytes)),
          () => file.finish
        )
      )
    )

  const read = (
    subject: Subject,
    options: Parameters<FileSystem.FileSystem["stream"]>[1]
  ): Stream.Stream<Uint8Array, PlatformError.PlatformError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        yield* checked(subject)
        const size = options?.chunkSize ?? defaultChunk
        if (!Number.isInteger(size) || size < 0) {
          return yield* badArgument("readAlloc", "size must be a non-negative integer")
        }
        const offset = options?.offset === undefined ? 0n : ByteSize.fromInputUnsafe(options.offset)
        const count =
          size === 0 ? 0n : options?.bytesToRead === undefined ? "" : ByteSize.fromInputUnsafe(options.bytesToRead)
        const process = yield* shell.start(subject, Scripts.read, [subject.path, String(offset), String(count)], false)
        const words = new Words()
        const bytes = process.output.pipe(
          Stream.map(({ bytes, stream }) => {
            const parts: Array<Uint8Array> = []
            if (stream === "stderr") words.add(bytes)
            else for (let at = 0; at < bytes.length; at += size) parts.push(bytes.subarray(at, at + size))
            return parts
          }),
          Stream.flattenIterable
        )
        const end = process.exit.pipe(
          Effect.mapError(toPlatform(subject)),
          Effect.flatMap((exit) => succeeded(subject, { exit, stdout: new Uint8Array(0), stderr: words.toString() }))
        )
        return Stream.concat(Stream.mapError(bytes, toPlatform(subject)), Stream.drain(Stream.fromEffect(end)))
      })
    )

  const stream: FileSystem.FileSystem["stream"] = (path, options) => read({ method: "open", path }, options)

  return { writeFile, sink, stream, read }
}
