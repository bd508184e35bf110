/**
 * Files of a sprite. Contents go through the vendor's file endpoints, byte for byte; what those cannot do (a file that is whole or
 * untouched, a reason for each that failed) a script does that runs once for many files.
 */
import * as Effect from "effect/Effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { isSandboxError } from "../../../errors.ts"
import type { FileFailure, WriteFileEntry } from "../../../services/SandboxProvider.ts"
import * as Contents from "../../internal/guestContents.ts"
import { absolute, badArgument, type Failure, failureOf, probeScript } from "../../internal/guestContents.ts"
import type { FileTrouble } from "./api.ts"
import { pathOf } from "./api.ts"
import * as Guest from "./guest.ts"
import type { Guest as GuestOf } from "./guest.ts"
import { slow } from "./lifecycle.ts"
import { upload } from "./processes.ts"

/** How much of contents one upload holds. */
const partBytes = 4 * 1024 * 1024

/**
 * The bytes of a file. It is asked for below the link of this generation, so that a later one does not answer. What is wrong with a
 * path is a second question, asked only then.
 */
export const read = (guest: GuestOf, path: string): Stream.Stream<Uint8Array, Failure> => {
  if (path.includes("\0")) return Stream.fail(badArgument("readFile"))
  if (path === "") return Stream.fail(failureOf("readFile", path, "missing"))
  const target = absolute(guest.home, path)
  const request = HttpClientRequest.get(pathOf(guest.name, "fs/read"), {
    urlParams: { path: `${guest.fence}${target}`, workingDir: "/" }
  })
  const why: Effect.Effect<never, Failure> = Effect.flatMap(
    Guest.run(guest, "readFile", probeScript, [target]),
    ([word]) => Effect.fail(failureOf("readFile", path, word))
  )
  const bytes = guest.api.bytes(guest.question("readFile"), request)
  let begun = false
  const explained = (error: SandboxError | FileTrouble): Effect.Effect<never, Failure> =>
    isSandboxError(error) ? Effect.flatMap(guest.explain(error), Effect.fail) : why
  const again = Stream.catch(bytes, (error) => Stream.fromEffect(explained(error)))
  return Stream.tap(bytes, () =>
    Effect.sync(() => {
      begun = true
    })
  ).pipe(
    Stream.catch((error): Stream.Stream<Uint8Array, Failure> => {
      // What was handed out cannot be asked for again.
      if (begun || !isSandboxError(error)) return Stream.fromEffect(explained(error))
      return Stream.unwrap(
        Effect.map(Guest.woken(guest, error), (failure) => (failure === undefined ? again : Stream.fail(failure)))
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
