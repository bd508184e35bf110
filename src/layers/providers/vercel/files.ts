/**
 * Files of a session. Contents go through the vendor's file endpoints, byte for byte; what those cannot do (a file that is whole or
 * untouched, a reason for each that failed) a script does that runs once for many files.
 *
 * The vendor's upload is an archive that the SDK builds in memory, so contents go in parts: what waits there is at most
 * {@link partBytes} of contents, and about three times that with the archive. A download is pulled: beyond what the consumer has
 * taken, only the buffers of the connection and of one Node stream are filled, well below a mebibyte.
 *
 * The vendor writes as the user that runs commands, and parts are readable to nobody else. What is put in place belongs to that
 * user, with the mode that was asked for, else that of the file that it replaces, else 0644.
 */
import * as NodeStream from "@effect/platform-node/NodeStream"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { Timeout } from "../../../errors.ts"
import type { WriteFileEntry } from "../../../services/SandboxProvider.ts"
import * as Contents from "../../internal/guestContents.ts"
import { absolute, badArgument, type Failure, failureOf, probeScript } from "../../internal/guestContents.ts"
import type { Guest } from "./guest.ts"
import { run } from "./guest.ts"
import { slow } from "./lifecycle.ts"

/** How much of contents one upload holds. */
export const partBytes = 4 * 1024 * 1024

/** The bytes of a file. Missing and unreadable ones are told apart by a second question, asked only then. */
export const read = (guest: Guest, path: string): Stream.Stream<Uint8Array, Failure> => {
  if (path.includes("\0")) return Stream.fail(badArgument("readFile"))
  if (path === "") return Stream.fail(failureOf("readFile", path, "missing"))
  const target = absolute(guest.session.cwd, path)
  const { requestTimeout } = guest.sdk
  const why = run(guest, "readFile", probeScript, [target], { effects: false }).pipe(
    Effect.flatMap(([word]) => Effect.fail(failureOf("readFile", path, word)))
  )
  const bytes = Stream.unwrap(
    guest
      .ask("readFile", {}, (signal) => guest.session.readFile({ path: target }, { signal }))
      .pipe(
        // The vendor refuses a directory with a 400.
        Effect.catchIf(
          (error) => error.reason._tag === "InvalidArgument",
          () => Effect.succeed(null)
        ),
        Effect.flatMap((readable) => (readable === null ? why : Effect.succeed(readable))),
        Effect.map((readable) =>
          NodeStream.fromReadable<Uint8Array, SandboxError>({
            evaluate: () => readable,
            onError: (error) =>
              guest.sdk.classify(error, {
                operation: "readFile",
                about: "session",
                id: guest.session.sessionId,
                effects: false,
                sandboxId: guest.sandboxId
              })
          })
        )
      )
  )
  // A connection that has died says nothing of it. For each pull by itself: nothing is read ahead.
  return Stream.transformPull(bytes, (pull) =>
    Effect.succeed(
      Effect.timeoutOrElse(pull, {
        duration: requestTimeout,
        orElse: () =>
          Effect.fail(
            guest.sdk.fail(
              "readFile",
              new Timeout({ clock: "request", duration: requestTimeout, accepted: "no" }),
              guest.sandboxId
            )
          )
      })
    )
  )
}

/** Writes and yields those that could not be written: each file is whole or untouched, parents are made. */
export const write = (guest: Guest, entries: ReadonlyArray<WriteFileEntry>) =>
  Contents.write(
    {
      home: guest.session.cwd,
      directory: guest.directory,
      partBytes,
      upload: (parts) => {
        const files = parts.map((part) => ({ ...part, mode: 0o600 }))
        return guest.ask("writeFiles", { deadline: slow }, (signal) => guest.session.writeFiles(files, { signal }))
      },
      place: (script, args) => run(guest, "writeFiles", script, args, { effects: true, deadline: slow }),
      clear: (script, args) => run(guest, "writeFiles", script, args, { effects: false })
    },
    entries
  )
