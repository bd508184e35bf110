/**
 * Files of a sandbox. Contents go through the toolbox's file endpoints as streams, byte for byte; what those cannot do (a file that
 * is whole or untouched, a reason for each that failed, only in this boot) a script does that runs once for many files.
 *
 * All contents of a write are one upload, which the script takes apart: it counts the bytes first, so that no upload that was cut,
 * or refused without anybody saying so, passes for a success.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Stream from "effect/Stream"
import { Timeout, Unavailable } from "../../../errors.ts"
import type { FileFailure, WriteFileEntry } from "../../../services/SandboxProvider.ts"
import type { Failure } from "../../internal/guestContents.ts"
import {
  absolute,
  badArgument,
  done,
  failureOf,
  landingFunctions,
  missingFunction
} from "../../internal/guestContents.ts"
import type { Guest } from "./guest.ts"
import { run } from "./guest.ts"
import { slow } from "./lifecycle.ts"
import type { Question } from "./sdk.ts"
import * as Transfer from "./transfer.ts"

/** A file of at most so many bytes comes with the answer to what it is. */
const inlineBytes = 256 * 1024

/** How many files one run of the script puts in place: its arguments must fit a command line. */
const filesPerRun = 100

/** Says what reading \`$1\` would meet; of a small file also what is in it. */
const readScript = `${missingFunction}
p=$1
if [ -d "$p" ]; then echo directory
elif [ -f "$p" ]; then
  if ! [ -r "$p" ]; then echo denied
  else
    z=$(wc -c <"$p")
    if [ "$z" -gt ${inlineBytes} ]; then echo large
    else
      echo small
      base64 <"$p"
    fi
  fi
elif [ -e "$p" ]; then echo special
else missing "$p"
fi
echo ${done}
`

/** The bytes of a file: in one request, or as a stream for a large one. */
export const read = (guest: Guest, path: string): Stream.Stream<Uint8Array, Failure> => {
  if (path.includes("\0")) return Stream.fail(badArgument("readFile"))
  if (path === "") return Stream.fail(failureOf("readFile", path, "missing"))
  const target = absolute(guest.workspaceRoot, path)
  const { requestTimeout } = guest.sdk
  const asked: Question = {
    operation: "readFile",
    about: "guest",
    id: guest.dto.id,
    effects: false,
    sandboxId: guest.sandboxId
  }
  const download = Stream.unwrap(
    guest
      .ask("readFile", { deadline: requestTimeout }, (sandbox, client, options) =>
        // Its deadline is for the beginning; for the rest there is one a piece.
        Transfer.download(client, sandbox, target, { ...options, timeout: 0 })
      )
      .pipe(
        Effect.tap(({ close }) => Effect.addFinalizer(() => Effect.sync(close))),
        Effect.map(({ content }) => Stream.fromAsyncIterable(content, (error) => guest.sdk.classify(error, asked)))
      )
  )
  // A connection that has died says nothing of it. For each pull by itself: nothing is read ahead.
  const patient = Stream.transformPull(download, (pull) =>
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
  return Stream.unwrap(
    Effect.map(
      Effect.retry(run(guest, "readFile", readScript, [target], { effects: false }), {
        schedule: guest.sdk.retry,
        while: (error) => error.isRetryable
      }),
      ([word, ...base64]): Stream.Stream<Uint8Array, Failure> => {
        if (word === "small") {
          const bytes = Buffer.from(base64.join(""), "base64")
          return bytes.length === 0 ? Stream.empty : Stream.make(new Uint8Array(bytes))
        }
        return word === "large" ? patient : Stream.fail(failureOf("readFile", path, word))
      }
    )
  )
}

/**
 * Puts files in place. Arguments: the upload and how many bytes it must have, whether it goes then, and for each file its number,
 * its mode or nothing, its path, and where it begins and how long it is in the upload. Each file is put together beside its target
 * and renamed over it, but for volumes, which cannot rename.
 */
export const placeScript = `${landingFunctions}
umask 022
S=$1 Z=$2 X=$3
shift 3
place() {
  landing "$3" || return
  T=\${d}/.effect-sandbox-\${S##*/}-$1
  m=$2
  if [ -z "$m" ] && [ -f "$t" ]; then m=$(stat -c %a "$t" 2>/dev/null); fi
  # A part of a file that only its owner may read is nobody else's either.
  if ! { [ -z "$m" ] || umask 077; tail -c +$(($4 + 1)) "$S" | head -c "$5" >"$T"; } 2>/dev/null; then
    umask 022
    rm -f "$T"
    word "$t" full
    return
  fi
  umask 022
  if [ "$(wc -c <"$T")" -ne "$5" ]; then
    rm -f "$T"
    echo full
    return
  fi
  if { [ -z "$m" ] || chmod "$m" "$T" 2>/dev/null; } && mv -f "$T" "$t" 2>/dev/null; then echo ok; return; fi
  w=denied
  case $(stat -f -c %T "$d" 2>/dev/null) in
    # A volume knows neither rename nor modes. What it has of a file is what was written last from begin to end.
    fuse* | UNKNOWN*)
      if { cat "$T" >"$t"; } 2>/dev/null && [ "$(wc -c <"$t")" -eq "$5" ]; then w=ok; fi
      ;;
  esac
  rm -f "$T"
  if [ $w = ok ]; then echo ok; else word "$t" denied; fi
}
if [ "$(wc -c <"$S" 2>/dev/null || echo 0)" -ne "$Z" ]; then
  echo incomplete
else
  while [ $# -gt 0 ]; do
    place "$1" "$2" "$3" "$4" "$5"
    shift 5
  done
  [ -z "$X" ] || rm -f "$S"
fi
echo ${done}
`

/** A file, and where in the upload it is. */
interface Piece {
  readonly index: number
  readonly entry: WriteFileEntry
  readonly offset: number
  readonly length: number
}

/** Writes and yields those that could not be written: each file is whole or untouched, parents are made. */
export const write = Effect.fnUntraced(function* (guest: Guest, entries: ReadonlyArray<WriteFileEntry>) {
  const failures = new Map<number, FileFailure>()
  const fail = (index: number, path: string, error: Failure) => failures.set(index, { path, error })
  const wanted = entries.flatMap((entry, index) => {
    if (entry.path.includes("\0")) fail(index, entry.path, badArgument("writeFile"))
    else if (entry.path === "") fail(index, entry.path, failureOf("writeFile", entry.path, "missing"))
    else return [{ entry, index }]
    return []
  })
  const pieces: Array<Piece> = []
  let total = 0
  const counted = (bytes: Uint8Array) => {
    total += bytes.length
    // The chunk may be reused by whoever made it once we have said that we have it.
    return bytes.slice()
  }
  /** The contents of one file; a source that breaks leaves a part that belongs to none. */
  const contentOf = ({ entry, index }: (typeof wanted)[number]): Stream.Stream<Uint8Array> =>
    Stream.suspend(() => {
      const offset = total
      const source = entry.content instanceof Uint8Array ? Stream.make(entry.content) : entry.content
      const broken = (error: Failure) => {
        fail(index, entry.path, error)
        return Stream.empty
      }
      const whole = Effect.sync(() => {
        if (!failures.has(index)) pieces.push({ index, entry, offset, length: total - offset })
      })
      return source.pipe(
        Stream.map(counted),
        Stream.catch(broken),
        Stream.concat(Stream.drain(Stream.fromEffect(whole)))
      )
    })
  const target = `${guest.directory}/up-${SecureRandom.uuidV4Unsafe()}`
  const upload = Effect.gen(function* () {
    // A defect of a caller's stream is the caller's; the SDK would print it, or throw it where nobody can catch it.
    let defect: Exit.Exit<never> | undefined
    const contents = Stream.fromIterable(wanted).pipe(
      Stream.flatMap(contentOf),
      Stream.catchCause((cause) => {
        defect = Exit.failCause(cause)
        return Stream.empty
      })
    )
    const body = yield* Stream.toAsyncIterableEffect(contents)
    yield* guest.ask("writeFiles", { deadline: Duration.hours(24) }, (sandbox, client, options) =>
      Transfer.upload(client, sandbox, target, body, options)
    )
    if (defect !== undefined) return yield* defect
  })

  const place = (files: ReadonlyArray<Piece>, last: boolean) =>
    Effect.gen(function* () {
      const words = yield* run(
        guest,
        "writeFiles",
        placeScript,
        [
          target,
          String(total),
          last ? "1" : "",
          ...files.flatMap(({ entry, index, length, offset }) => [
            String(index),
            entry.mode === undefined ? "" : entry.mode.toString(8),
            absolute(guest.workspaceRoot, entry.path),
            String(offset),
            String(length)
          ])
        ],
        { effects: true, deadline: slow }
      )
      if (words[0] === "incomplete") {
        return yield* guest.sdk.fail(
          "writeFiles",
          new Unavailable({ accepted: "no", detail: "the upload did not arrive whole" }),
          guest.sandboxId
        )
      }
      for (const [at, { entry, index }] of files.entries()) {
        if (words[at] !== "ok") fail(index, entry.path, failureOf("writeFile", entry.path, words[at]))
      }
    })

  /** In whatever boot the upload has landed. */
  const discard = Effect.ignore(guest.ask("writeFiles", {}, (sandbox) => sandbox.fs.deleteFile(target)))
  if (wanted.length > 0) {
    yield* Effect.gen(function* () {
      yield* upload
      for (let at = 0; at < pieces.length; at += filesPerRun) {
        yield* place(pieces.slice(at, at + filesPerRun), at + filesPerRun >= pieces.length)
      }
    }).pipe(
      Effect.onExit((exit) =>
        // The script takes away what it has put in place.
        Exit.isFailure(exit) || pieces.length === 0 ? discard : Effect.void
      )
    )
  }
  return [...failures.entries()].toSorted(([a], [b]) => a - b).map(([, failure]) => failure)
})
