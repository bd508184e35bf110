/**
 * Datasets on a volume, so that each sandbox that mounts it has them without another download.
 *
 * It is a program for the inside of a sandbox: it takes Effect's `FileSystem`, such as `Sandbox.platform(id)` has it. A volume is object
 * storage, so files are written whole, from their beginning to their end, and never renamed, appended to or locked; no time or mode is
 * set. The manifest says what is there: what is about to change is out of it before it changes, and in it only when it is whole, so
 * that whoever is interrupted, or killed, leaves no file that the manifest vouches for wrongly. Two that synchronise one dataset at
 * once do the same work twice; the last writer wins.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import { InvalidArgument, SandboxError, Unavailable } from "../errors.ts"
import type { SandboxErrorReason } from "../errors.ts"
import { DatasetFile, DatasetManifest } from "../model/Dataset.ts"
import type { DatasetSource, Failure } from "../services/DatasetSource.ts"

/** Which dataset, from where, and where on the volume. */
export interface Options {
  readonly source: DatasetSource["Service"]
  readonly datasetId: string
  /** Where the volume, or the part of it that is for this, is mounted; `/home/daytona/.ekairos`. */
  readonly root?: string | undefined
  /** How many files are moved at once; 4. */
  readonly concurrency?: number | undefined
}

/** Where the parts of a dataset are. */
export interface Places {
  readonly directory: string
  readonly manifest: string
  /** The files of the source, as they are there. */
  readonly raw: string
  /** What programs made of them: {@link publish} takes it back to the source. */
  readonly normalized: string
  /** Whatever can be made again. */
  readonly cache: string
}

/** What {@link sync} did. */
export interface Synced extends Places {
  /** `unchanged`: the volume had all of it already. */
  readonly outcome: "unchanged" | "updated"
  readonly downloaded: ReadonlyArray<string>
  readonly deleted: ReadonlyArray<string>
  readonly files: ReadonlyArray<DatasetFile>
}

const defaultRoot = "/home/daytona/.ekairos"

/** What in a source is no input but a result. */
const resultPrefix = "normalized/"

const failure = (operation: string, reason: SandboxErrorReason): SandboxError =>
  new SandboxError({ operation: `volumeCache.${operation}`, reason })

/** Where the parts of a dataset are on the volume. */
export const placesOf = (options: Pick<Options, "datasetId" | "root">): Places => {
  const directory = `${options.root ?? defaultRoot}/datasets/${options.datasetId}`
  return {
    directory,
    manifest: `${directory}/manifest.json`,
    raw: `${directory}/raw`,
    normalized: `${directory}/normalized`,
    cache: `${directory}/cache`
  }
}

const checked = (operation: string, { datasetId }: Options): Effect.Effect<void, SandboxError> =>
  /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(datasetId)
    ? Effect.void
    : Effect.fail(
        failure(
          operation,
          new InvalidArgument({ argument: "datasetId", problem: "expected A-Z, a-z, 0-9, _, - and . within" })
        )
      )

const decodeManifest = Schema.decodeUnknownOption(Schema.fromJsonString(DatasetManifest))
const decodeFile = Schema.decodeUnknownOption(DatasetFile)

/** What the volume vouches for; nothing, where there is no manifest or none that can be read. */
const known = Effect.fnUntraced(function* (places: Places, datasetId: string) {
  const fs = yield* FileSystem.FileSystem
  const text = yield* Effect.catchReason(fs.readFileString(places.manifest), "PlatformError", "NotFound", () =>
    Effect.succeed("")
  )
  return Option.match(decodeManifest(text), {
    onNone: (): ReadonlyArray<DatasetFile> => [],
    onSome: (manifest) => (manifest.datasetId === datasetId ? manifest.files : [])
  })
})

const isSame = (a: DatasetFile, b: DatasetFile | undefined): boolean =>
  b !== undefined && a.sha256 === b.sha256 && a.bytes === b.bytes

const parentOf = (path: string): string => path.slice(0, path.lastIndexOf("/"))

const writeManifest = Effect.fnUntraced(function* (
  places: Places,
  datasetId: string,
  files: ReadonlyArray<DatasetFile>
) {
  const fs = yield* FileSystem.FileSystem
  const manifest: DatasetManifest = { version: 1, datasetId, files, writtenAt: yield* Clock.currentTimeMillis }
  yield* fs.writeFileString(places.manifest, `${JSON.stringify(manifest)}\n`)
})

/** Counts and hashes what passes. */
const digesting = (content: Stream.Stream<Uint8Array, Failure>) => {
  const hash = Crypto.createHash("sha256")
  let bytes = 0
  return {
    content: Stream.map(content, (chunk) => {
      hash.update(chunk)
      bytes += chunk.length
      return chunk
    }),
    told: () => ({ sha256: hash.digest("hex"), bytes })
  }
}

/**
 * Brings the volume to what the source has: with equal hashes it is used as it is, else only what differs is downloaded. The manifest
 * is written last; what it no longer lists is deleted.
 */
export const sync = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<Synced, Failure, FileSystem.FileSystem> {
  yield* checked("sync", options)
  const { datasetId, source } = options
  const places = placesOf(options)
  const fs = yield* FileSystem.FileSystem
  const concurrency = options.concurrency ?? 4
  const listed = yield* source.list(datasetId).pipe(
    Stream.filter(({ path }) => !path.startsWith(resultPrefix)),
    Stream.mapEffect((file) =>
      Option.match(decodeFile(file), {
        onNone: () =>
          Effect.fail(
            failure(
              "sync",
              new InvalidArgument({ argument: "source", problem: `it lists ${JSON.stringify(file.path)}` })
            )
          ),
        onSome: Effect.succeed
      })
    ),
    Stream.runCollect
  )
  const files = listed.toSorted((a, b) => (a.path < b.path ? -1 : 1))
  const there = new Map((yield* known(places, datasetId)).map((file) => [file.path, file]))
  const wanted = new Set(files.map(({ path }) => path))
  const missing = files.filter((file) => !isSame(file, there.get(file.path)))
  const obsolete = [...there.keys()].filter((path) => !wanted.has(path))
  if (missing.length === 0 && obsolete.length === 0 && there.size > 0) {
    return { ...places, outcome: "unchanged", downloaded: [], deleted: [], files }
  }
  for (const directory of [places.raw, places.normalized, places.cache]) {
    yield* fs.makeDirectory(directory, { recursive: true })
  }
  if (there.size > 0) {
    // Whatever becomes of this, nobody vouches for what it changes.
    yield* writeManifest(
      places,
      datasetId,
      files.filter((file) => isSame(file, there.get(file.path)))
    )
  }

  const parents = new Set(
    missing.flatMap(({ path }) => (path.includes("/") ? [parentOf(`${places.raw}/${path}`)] : []))
  )
  yield* Effect.forEach(parents, (parent) => fs.makeDirectory(parent, { recursive: true }), { discard: true })
  yield* Effect.forEach(
    missing,
    (file) =>
      Effect.gen(function* () {
        const digest = digesting(source.read(datasetId, file.path))
        yield* Stream.run(digest.content, fs.sink(`${places.raw}/${file.path}`))
        if (isSame(file, { ...file, ...digest.told() })) return
        return yield* failure(
          "sync",
          new Unavailable({ accepted: "no", detail: `${file.path} is not what its source says it is` })
        )
      }),
    { concurrency, discard: true }
  )

  // Also what an attempt that was cut off has left.
  const present = yield* fs.readDirectory(places.raw, { recursive: true })
  const deleted = yield* Effect.filter(
    present.filter((path) => !wanted.has(path)),
    (path) => Effect.map(fs.stat(`${places.raw}/${path}`), ({ type }) => type === "File"),
    { concurrency }
  )
  yield* Effect.forEach(deleted, (path) => fs.remove(`${places.raw}/${path}`, { force: true }), { concurrency })
  yield* writeManifest(places, datasetId, files)
  return {
    ...places,
    outcome: "updated",
    downloaded: missing.map(({ path }) => path),
    deleted: deleted.toSorted(),
    files
  }
})

/** Takes the results, the files below `normalized`, back to the source: those that it does not have so already. */
export const publish = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<ReadonlyArray<string>, Failure, FileSystem.FileSystem> {
  yield* checked("publish", options)
  const { datasetId, source } = options
  const { normalized } = placesOf(options)
  const fs = yield* FileSystem.FileSystem
  const concurrency = options.concurrency ?? 4
  const listed = yield* source.list(datasetId).pipe(
    Stream.filter(({ path }) => path.startsWith(resultPrefix)),
    Stream.runCollect
  )
  const there = new Map(listed.map((file) => [file.path, file]))
  const present = yield* Effect.catchReason(
    fs.readDirectory(normalized, { recursive: true }),
    "PlatformError",
    "NotFound",
    () => Effect.succeed<Array<string>>([])
  )
  const changed = yield* Effect.filter(
    present.toSorted(),
    (path) =>
      Effect.gen(function* () {
        const from = `${normalized}/${path}`
        if ((yield* fs.stat(from)).type !== "File") return false
        const target = `${resultPrefix}${path}`
        const digest = digesting(fs.stream(from))
        yield* Stream.runDrain(digest.content)
        if (isSame({ path: target, ...digest.told() }, there.get(target))) return false
        yield* source.write(datasetId, target, fs.stream(from))
        return true
      }),
    { concurrency }
  )
  return changed.map((path) => `${resultPrefix}${path}`)
})
