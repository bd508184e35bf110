/**
 * Files of a sprite. Contents go through the vendor's file endpoints, byte for byte; what those cannot do (a file that is whole or
 * untouched, a reason for each that failed) a script does that runs once for many files.
 */
import * as Effect from "effect/Effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { isSandboxError, Unknown } from "../../../errors.ts"
import type { FileFailure, WriteFileEntry } from "../../../services/SandboxProvider.ts"
import * as Contents from "../../internal/guestContents.ts"
import { absolute, badArgument, type Failure, failureOf, probeScript } from "../../internal/guestContents.ts"
import type { FileTrouble } from "./api.ts"
import { pathOf } from "./api.ts"
import * as Exec from "./exec.ts"
import * as Guest from "./guest.ts"
import type { Guest as GuestOf } from "./guest.ts"
import { slow } from "./lifecycle.ts"
import { upload } from "./processes.ts"

/** How much of contents one upload holds. */
const partBytes = 4 * 1024 * 1024

/** The bytes of a file by a command: for what the endpoint cannot be asked for, or refuses though it can be read. */
const byCommand = (guest: GuestOf, target: string): Stream.Stream<Uint8Array, SandboxError> => {
  const question = guest.question("readFile")
  let stderr = ""
  return Exec.run(
    guest.api,
    guest.name,
    { text: guest.text(["cat", "--", target]), afterDisconnect: "1s" },
    question
  ).pipe(
    Stream.mapEffect((frame): Effect.Effect<Uint8Array, SandboxError> => {
      if (frame._tag === "Output" && frame.stream === "stdout") return Effect.succeed(frame.bytes)
      if (frame._tag === "Output") {
        if (stderr.length < 500) stderr += Buffer.from(frame.bytes).toString()
        return Effect.succeed(new Uint8Array(0))
      }
      if (guest.isFenced(frame.code, stderr)) return Effect.flatMap(guest.fenced("readFile"), Effect.fail)
      return frame.code === 0
        ? Effect.succeed(new Uint8Array(0))
        : Effect.fail(guest.api.fail("readFile", new Unknown({ detail: stderr }), guest.sandboxId))
    }),
    Stream.catch((error) => Stream.unwrap(Effect.map(guest.explain(error), Stream.fail))),
    Stream.filter((bytes) => bytes.length > 0)
  )
}

/** True of what the endpoint says of a path, rather than of the machine. */
const isRefusal = (error: SandboxError | FileTrouble): boolean =>
  !isSandboxError(error) || error.reason._tag === "InvalidArgument" || error.reason._tag === "Permission"

/**
 * The bytes of a file. It is asked for below the link of this generation, so that a later one does not answer. What is wrong with a
 * path is a second question, asked only then.
 */
export const read = (guest: GuestOf, path: string): Stream.Stream<Uint8Array, Failure> => {
  if (path.includes("\0")) return Stream.fail(badArgument("readFile"))
  if (path === "") return Stream.fail(failureOf("readFile", path, "missing"))
  const target = absolute(guest.home, path)
  const second = Stream.unwrap(
    Effect.map(Guest.run(guest, "readFile", probeScript, [target]), ([word]): Stream.Stream<Uint8Array, Failure> =>
      word === "file" ? byCommand(guest, target) : Stream.fail(failureOf("readFile", path, word))
    )
  )
  // Whoever cleans such a path by its words would leave the link.
  if (target.split("/").includes("..")) return second
  const request = HttpClientRequest.get(pathOf(guest.name, "fs/read"), {
    urlParams: { path: `${guest.fence}${target}`, workingDir: "/" }
  })
  const bytes = guest.api.bytes(guest.question("readFile"), request)
  const explained = (error: SandboxError | FileTrouble): Stream.Stream<Uint8Array, Failure> =>
    !isSandboxError(error) || isRefusal(error) ? second : Stream.unwrap(Effect.map(guest.explain(error), Stream.fail))
  let begun = false
  return Stream.tap(bytes, () =>
    Effect.sync(() => {
      begun = true
    })
  ).pipe(
    Stream.catch((error): Stream.Stream<Uint8Array, Failure> => {
      // What was handed out cannot be asked for again.
      if (begun || !isSandboxError(error) || isRefusal(error)) return explained(error)
      return Stream.unwrap(
        Effect.map(Guest.woken(guest, error), (failure) =>
          failure === undefined ? Stream.catch(bytes, explained) : Stream.fail(failure)
        )
      )
    })
  )
}

/** Writes and yields those that could not be written: each file is whole or untouched, parents are made. */
export const write = (
  guest: GuestOf,
  entries: ReadonlyArray<WriteFileEntry>
): Effect.Effect<ReadonlyArray<FileFailure>, SandboxError> =>
  Contents.write(
    {
      home: guest.home,
      directory: guest.directory,
      partBytes,
      upload: (parts) =>
        Effect.forEach(
          parts,
          ({ content, path }) => upload(guest, "writeFiles", { path, bytes: content, mode: 0o600 }),
          { concurrency: 4, discard: true }
        ),
      place: (script, args) => Guest.run(guest, "writeFiles", script, args, { effects: true, deadline: slow }),
      // Also where this generation is over: what was uploaded is ours.
      clear: (script, args) => Guest.anyway(guest, guest.question("writeFiles"), script, args)
    },
    entries
  )
