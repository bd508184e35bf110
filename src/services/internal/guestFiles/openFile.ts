/** An open file: a path, which file that must be, and a cursor. Every operation opens it again, in one command. */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import { modeArgument, writing } from "./contents.ts"
import type { Identities, Identity } from "./identities.ts"
import * as Info from "./info.ts"
import * as Scripts from "./scripts.ts"
import type { Shell, Subject } from "./shell.ts"
import { badArgument, checked, systemError } from "./shell.ts"

/** The whole number that a length is, as the C library takes it. */
export const lengthArgument = (
  method: string,
  length: number | undefined
): Effect.Effect<string, PlatformError.PlatformError> =>
  length === undefined || Number.isInteger(length)
    ? Effect.succeed(String(BigInt(Math.max(0, length ?? 0))))
    : Effect.fail(badArgument(method, "The length is not a whole number"))

/** What a script has printed about a file. */
export const parsed = (
  subject: Subject,
  bytes: Uint8Array
): Effect.Effect<Info.Parsed, PlatformError.PlatformError> => {
  const info = Info.parse(Info.decode(bytes))
  return info === undefined ? Effect.fail(unreadable(subject)) : Effect.succeed(info)
}

const unreadable = (subject: Subject) => systemError(subject, "Unknown", "The guest's stat printed what cannot be read")

const makeFile = (
  shell: Shell,
  path: string,
  flag: FileSystem.OpenFlag,
  format: string,
  identity: Identity
): FileSystem.File => {
  const append = flag.startsWith("a")
  const reads = flag.startsWith("r") || flag.endsWith("+")
  const writes = flag !== "r"
  let cursor = 0n

  const locked = <A>(effect: Effect.Effect<A, PlatformError.PlatformError>) => identity.lock.withPermits(1)(effect)
  const notOpenFor = (method: string) =>
    Effect.fail(systemError({ method, path }, "Unknown", "The file is not open for this"))
  /** Runs what changes the file; printed at its end is what it has become. */
  const changing = (
    subject: Subject,
    effect: Effect.Effect<Uint8Array, PlatformError.PlatformError>
  ): Effect.Effect<void, PlatformError.PlatformError> =>
    effect.pipe(
      Effect.flatMap((bytes) => parsed(subject, bytes)),
      Effect.map(identity.saw),
      Effect.onError((cause) =>
        Effect.sync(() => {
          // Refused before anything was done, or cut off: only a refusal leaves the file as it was.
          const refused = cause.reasons.some(
            (reason) =>
              reason._tag === "Fail" && (reason.error.reason._tag === "Busy" || reason.error.reason._tag === "NotFound")
          )
          if (!refused) identity.doubt()
        })
      )
    )

  const readAt = (method: string, size: number, position: bigint | undefined) =>
    Effect.gen(function* () {
      const subject = { method, path }
      if (position !== undefined && position < 0n) {
        return yield* badArgument(method, "Cannot read before the start of the file")
      }
      if (!reads) return yield* notOpenFor(method)
      const [expectedFormat, expected] = identity.expected()
      const bytes = yield* shell.run(subject, Scripts.readHeld, [
        path,
        expectedFormat,
        expected,
        String(position ?? cursor),
        String(size)
      ])
      if (position === undefined) cursor += BigInt(bytes.length)
      return bytes
    }).pipe(locked)

  const write = (method: string, buffer: Uint8Array): Effect.Effect<void, PlatformError.PlatformError> =>
    Effect.suspend(() => {
      if (!writes) return notOpenFor(method)
      if (buffer.length === 0) return Effect.void
      const subject = { method, path }
      const [expectedFormat, expected] = identity.expected()
      const at = append ? "end" : String(cursor)
      return changing(
        subject,
        shell
          .start(subject, Scripts.writeHeld, [path, expectedFormat, expected, at, String(buffer.length), format], true)
          .pipe(
            Effect.flatMap((process) => writing(subject, process)),
            Effect.tap((command) => command.write(buffer)),
            Effect.flatMap((command) => command.finish),
            Effect.scoped
          )
      ).pipe(
        Effect.andThen(
          Effect.sync(() => {
            if (!append) cursor += BigInt(buffer.length)
          })
        )
      )
    }).pipe(locked)

  return {
    [FileSystem.FileTypeId]: FileSystem.FileTypeId,
    stat: Effect.suspend(() => {
      const subject = { method: "stat", path }
      return shell.run(subject, Scripts.stat, [path, format]).pipe(
        Effect.flatMap((bytes) => parsed(subject, bytes)),
        Effect.flatMap((found) =>
          identity.matches(found)
            ? Effect.succeed(found.info)
            : Effect.fail(systemError(subject, "Busy", "The file that was opened has this name no longer"))
        )
      )
    }).pipe(locked),
    seek: (offset, from) =>
      Effect.suspend(() => {
        const position = from === "start" ? offset : cursor + offset
        if (position < 0n) return Effect.fail(badArgument("seek", "Cannot seek before the start of the file"))
        cursor = position
        return Effect.succeed(position)
      }).pipe(locked),
    sync: Effect.suspend(() => {
      const [expectedFormat, expected] = identity.expected()
      return Effect.asVoid(shell.run({ method: "sync", path }, Scripts.syncHeld, [path, expectedFormat, expected]))
    }).pipe(locked),
    read: (buffer, options) =>
      Effect.map(readAt("read", buffer.length, options?.position), (bytes) => {
        buffer.set(bytes)
        return bytes.length
      }),
    readAlloc: (size, options) =>
      Number.isInteger(size) && size >= 0
        ? Effect.map(readAt("readAlloc", size, options?.position), (bytes) =>
            bytes.length === 0 ? Option.none() : Option.some(bytes)
          )
        : Effect.fail(badArgument("readAlloc", "size must be a non-negative integer")),
    truncate: (length) =>
      Effect.gen(function* () {
        if (!writes) return yield* notOpenFor("truncate")
        const argument = yield* lengthArgument("truncate", length)
        const [expectedFormat, expected] = identity.expected()
        const subject = { method: "truncate", path }
        yield* changing(
          subject,
          shell.run(subject, Scripts.truncateHeld, [path, expectedFormat, expected, argument, format])
        )
        if (!append && cursor > BigInt(argument)) cursor = BigInt(argument)
      }).pipe(locked),
    write: (buffer) => Effect.as(write("write", buffer), buffer.length),
    writeAll: (buffer) => write("writeAll", buffer)
  }
}

export const make =
  (shell: Shell, identities: Identities): FileSystem.FileSystem["open"] =>
  (path, options) =>
    Effect.gen(function* () {
      const subject = { method: "open", path }
      yield* checked(subject)
      const flag = options?.flag ?? "r"
      const mode = yield* modeArgument("open", options?.mode)
      const toolbox = yield* shell.toolbox(subject)
      const format = Info.format(toolbox)
      const opening = identities.opening(toolbox)
      const bytes = yield* shell.run(subject, Scripts.open, [
        path,
        flag === "r+" ? flag : flag.replace("+", ""),
        mode,
        options?.noFollow === true ? "1" : "",
        format,
        opening.format
      ])
      const opened = Info.transition(Info.decode(bytes))
      if (opened === undefined) return yield* unreadable(subject)
      const identity = yield* opening.remember(opened)
      return makeFile(shell, path, flag, format, identity)
    })
