/**
 * Contents of files for guests whose vendors can upload a file and run a command: each file is whole or untouched, with a reason for
 * each that failed. Parts are uploaded beside each other, and a script that runs once for many files puts them in place.
 */
import * as Effect from "effect/Effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as PlatformError from "effect/PlatformError"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import type { FileFailure, WriteFileEntry } from "../../services/SandboxProvider.ts"

/** What a file operation fails with. */
export type Failure = SandboxError | PlatformError.PlatformError

/** The last line of a script of ours that came to its end. */
export const done = "effect-sandbox-done"

/** What a guest can do for this. */
export interface Guest {
  /** The base of relative paths. */
  readonly home: string
  /** Absolute: where we keep things in the guest. */
  readonly directory: string
  /** How much of contents one upload holds, and one part. */
  readonly partBytes: number
  /** Uploads files of ours under names of ours, which nobody else reads: sending them twice changes nothing. */
  readonly upload: (files: ReadonlyArray<Part>) => Effect.Effect<void, SandboxError>
  /** Puts files in place by a script, and yields the lines that it said before {@link done}. */
  readonly place: (script: string, args: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<string>, SandboxError>
  /** Runs a script that takes things away. */
  readonly clear: (script: string, args: ReadonlyArray<string>) => Effect.Effect<unknown, SandboxError>
}

/** How many files one run of the script puts in place: its arguments must fit a command line. */
const filesPerRun = 100

/** A path that no file can have. */
export const badArgument = (method: string) =>
  PlatformError.badArgument({ module: "FileSystem", method, description: "The path contains a NUL character" })

/** What a script says is wrong with a path, as Effect's Node layer says it. */
export const failureOf = (method: string, path: string, word: string | undefined): PlatformError.PlatformError => {
  const system = (_tag: PlatformError.SystemErrorTag, description?: string) =>
    PlatformError.systemError({
      _tag,
      module: "FileSystem",
      method,
      pathOrDescriptor: path,
      ...(description === undefined ? {} : { description })
    })
  switch (word) {
    case "missing":
      return system("NotFound")
    case "directory":
      return system("BadResource", "it is a directory")
    case "notdir":
      return system("BadResource", "a part of the path is no directory")
    case "loop":
      return system("BadResource", "too many symbolic links")
    case "special":
      return system("BadResource", "it is no regular file")
    case "denied":
      return system("PermissionDenied")
    case "full":
      return system("Unknown", "no space is left")
    default:
      return system("Unknown", word)
  }
}

/** The path from the root. */
export const absolute = (home: string, path: string): string => (path.startsWith("/") ? path : `${home}/${path}`)

/** `missing` says why there is nothing to read at `$1`. */
export const missingFunction = `
missing() {
  q=$1 w=missing
  while [ "$q" != "\${q%/*}" ]; do
    q=\${q%/*}
    [ -n "$q" ] || break
    if [ -e "$q" ] || [ -L "$q" ]; then
      if [ -d "$q" ]; then [ -x "$q" ] || w=denied; elif [ -e "$q" ]; then w=notdir; fi
      break
    fi
  done
  echo "$w"
}`

/** Says of each path what reading it would meet. */
export const probeScript = `${missingFunction}
for p do
  if [ -d "$p" ]; then echo directory
  elif [ -f "$p" ]; then if [ -r "$p" ]; then echo file; else echo denied; fi
  elif [ -e "$p" ]; then echo special
  else missing "$p"
  fi
done
echo ${done}
`

/**
 * `word` says why `$1` could not be written, `$2` if nothing else is known. `landing` follows the path `$1` to where a write
 * lands, `$t` in the directory `$d`, which it makes; or it says why not, and fails.
 */
export const landingFunctions = `
word() {
  if [ -d "$1" ]; then echo directory; return; fi
  q=$1
  while [ -n "\${q%/*}" ] && [ "$q" != "\${q%/*}" ]; do
    q=\${q%/*}
    if [ -d "$q" ]; then if [ -w "$q" ]; then echo "$2"; else echo denied; fi; return; fi
    if [ -e "$q" ] || [ -L "$q" ]; then echo notdir; return; fi
  done
  echo "$2"
}
landing() {
  case $1 in */) echo directory; return 1 ;; esac
  t=$1 n=0
  while [ -L "$t" ]; do
    n=$((n + 1))
    [ $n -le 40 ] || { echo loop; return 1; }
    l=$(readlink "$t" && echo x)
    l=\${l%??}
    case $l in /*) t=$l ;; *) t=\${t%/*}/$l ;; esac
  done
  if [ -d "$t" ]; then echo directory; return 1; fi
  d=\${t%/*}
  mkdir -p "\${d:-/}" 2>/dev/null || { word "$t" denied; return 1; }
}`

/**
 * Puts uploaded parts in place. Arguments: the folder of the parts, then for each file its number, its mode or nothing, and its path.
 * Each file is put together beside its target and renamed over it.
 */
export const placeScript = `${landingFunctions}
umask 022
S=$1
shift
place() {
  landing "$3" || return
  T=\${d}/.effect-sandbox-\${S##*/}-$1
  m=$2
  if [ -z "$m" ] && [ -f "$t" ]; then m=$(stat -c %a "$t" 2>/dev/null); fi
  # A part of a file that only its owner may read is nobody else's either.
  if ! { [ -z "$m" ] || umask 077; cat "$S/$1".* >"$T"; } 2>/dev/null; then
    umask 022
    rm -f "$T"
    word "$t" full
    return
  fi
  umask 022
  if { [ -z "$m" ] || chmod "$m" "$T" 2>/dev/null; } && mv -f "$T" "$t" 2>/dev/null; then echo ok; return; fi
  rm -f "$T"
  word "$t" denied
}
while [ $# -gt 0 ]; do
  place "$1" "$2" "$3"
  rm -f "$S/$1".*
  shift 3
done
rmdir "$S" 2>/dev/null
echo ${done}
`

/** Out of the way at once: a script that still puts parts in place finds all parts of a file or none. */
const removeScript = `mv "$1" "$1.gone" 2>/dev/null; rm -rf "$1.gone"; echo ${done}`

/** A piece of a file. */
export interface Part {
  readonly path: string
  readonly content: Uint8Array
}

/** A file whose contents are uploaded. */
interface Uploaded {
  readonly index: number
  readonly entry: WriteFileEntry
}

/** Writes and yields those that could not be written: each file is whole or untouched, parents are made. */
export const write = Effect.fnUntraced(function* (guest: Guest, entries: ReadonlyArray<WriteFileEntry>) {
  if (entries.length === 0) return []
  const stage = `${guest.directory}/${SecureRandom.uuidV4Unsafe()}`
  const failures = new Map<number, FileFailure>()
  const fail = (index: number, path: string, error: Failure) => failures.set(index, { path, error })

  let waiting: Array<Part> = []
  let bytes = 0
  let staged = false
  /** The vendor's failure, which is that of all files; what else fails in an upload is its own source. */
  let broken: SandboxError | undefined
  const flush = Effect.suspend(() => {
    if (waiting.length === 0) return Effect.void
    const files = waiting
    waiting = []
    bytes = 0
    staged = true
    return Effect.tapError(guest.upload(files), (error) =>
      Effect.sync(() => {
        broken = error
      })
    )
  })
  const add = (index: number, part: number, content: Uint8Array): Effect.Effect<void, SandboxError> =>
    Effect.gen(function* () {
      if (bytes + content.length > guest.partBytes) yield* flush
      waiting.push({ path: `${stage}/${index}.${String(part).padStart(8, "0")}`, content })
      bytes += content.length
      if (bytes >= guest.partBytes) yield* flush
    })

  const upload = (index: number, content: WriteFileEntry["content"]): Effect.Effect<void, Failure> => {
    let part = 0
    const pieces = (whole: Uint8Array) =>
      Array.from({ length: Math.max(1, Math.ceil(whole.length / guest.partBytes)) }, (_, at) =>
        whole.subarray(at * guest.partBytes, (at + 1) * guest.partBytes)
      )
    if (content instanceof Uint8Array) {
      return Effect.forEach(pieces(content), (piece) => add(index, part++, piece), { discard: true })
    }
    // An empty first part, so that a file of no bytes has one.
    return Effect.andThen(
      add(index, part++, new Uint8Array(0)),
      Stream.runForEach(content, (chunk) =>
        // The chunk may be reused by whoever made it once we have said that we have it.
        Effect.forEach(pieces(chunk.slice()), (piece) => add(index, part++, piece), { discard: true })
      )
    )
  }

  const place = (files: ReadonlyArray<Uploaded>) =>
    Effect.gen(function* () {
      const words = yield* guest.place(placeScript, [
        stage,
        ...files.flatMap(({ entry, index }) => [
          String(index),
          entry.mode === undefined ? "" : entry.mode.toString(8),
          absolute(guest.home, entry.path)
        ])
      ])
      for (const [at, { entry, index }] of files.entries()) {
        if (words[at] !== "ok") fail(index, entry.path, failureOf("writeFile", entry.path, words[at]))
      }
    })

  const uploaded: Array<Uploaded> = []
  const all = Effect.gen(function* () {
    for (const [index, entry] of entries.entries()) {
      if (entry.path.includes("\0")) {
        fail(index, entry.path, badArgument("writeFile"))
        continue
      }
      if (entry.path === "") {
        fail(index, entry.path, failureOf("writeFile", entry.path, "missing"))
        continue
      }
      const outcome = yield* Effect.result(upload(index, entry.content))
      if (outcome._tag === "Success") {
        uploaded.push({ index, entry })
        continue
      }
      if (broken !== undefined) return yield* broken
      fail(index, entry.path, outcome.failure)
    }
    yield* flush
    for (let at = 0; at < uploaded.length; at += filesPerRun) yield* place(uploaded.slice(at, at + filesPerRun))
  })
  yield* all.pipe(
    Effect.onExit((exit) =>
      // The script takes away what it has put in place.
      staged && (exit._tag === "Failure" || uploaded.length < entries.length)
        ? Effect.ignore(guest.clear(removeScript, [stage]))
        : Effect.void
    )
  )
  return [...failures.entries()].toSorted(([a], [b]) => a - b).map(([, failure]) => failure)
})
