/**
 * Datasets in the file storage of InstantDB: the rows of `$files` whose paths begin with `<prefix>/<datasetId>/`.
 *
 * It takes the database of the SDK `@instantdb/admin` as it is and imports nothing of that. The vendor keeps no hash of a file, so
 * they are kept in a file beside the others, `.hashes.json`: whatever it has of a file that was uploaded anew since is not taken, and
 * that one file is read and hashed again.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import type { SandboxErrorReason } from "../../errors.ts"
import {
  Authentication,
  InvalidArgument,
  Permission,
  RateLimited,
  SandboxError,
  Timeout,
  Unavailable,
  Unknown
} from "../../errors.ts"
import { DatasetFile } from "../../model/Dataset.ts"
import { DatasetSource } from "../../services/DatasetSource.ts"

/** What is used of the SDK's database: that of `init({ appId, adminToken })`. Where it is given a schema, `$files` must be in that. */
export interface Database {
  readonly query: (query: object, options?: object) => Promise<unknown>
  readonly storage: {
    readonly uploadFile: (
      path: string,
      file: Uint8Array,
      metadata?: { readonly contentType?: string }
    ) => Promise<unknown>
  }
}

/** Options of {@link make}. */
export interface Options {
  readonly db: Database
  /** What the paths of all datasets begin with; `datasets`. */
  readonly prefix?: string | undefined
  /** Of one question, of a whole upload, and of a pause in a download; 30 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
  /** Downloads the files; the default is the global one. */
  readonly fetch?: typeof globalThis.fetch | undefined
}

const Row = Schema.Struct({
  id: Schema.String,
  path: Schema.String,
  url: Schema.String,
  size: Schema.optionalKey(Schema.Number),
  /** Another one for each upload. */
  "location-id": Schema.optionalKey(Schema.String)
})
type Row = typeof Row.Type

const decodeRows = Schema.decodeUnknownOption(Schema.Struct({ $files: Schema.Array(Row) }))

const Hashes = Schema.Record(Schema.String, Schema.Struct({ upload: Schema.String, file: DatasetFile }))
type Hashes = typeof Hashes.Type
const decodeHashes = Schema.decodeUnknownOption(Schema.fromJsonString(Hashes))

const hashesName = ".hashes.json"

const property = (value: unknown, key: string): unknown => (Predicate.hasProperty(value, key) ? value[key] : undefined)

/** Types whose 400 says that the app does not know the token, or got none. It has no 401 for that. */
const unauthenticated: ReadonlySet<unknown> = new Set(["param-missing", "param-malformed", "session-missing"])

/** Types with which an app takes no writes, or nothing at all. */
const closed: ReadonlySet<unknown> = new Set([
  "app-read-only",
  "app-disabled",
  "app-creation-disabled",
  "signups-closed",
  "permission-denied",
  "permission-evaluation-failed"
])

/** What the SDK throws before it sends, or where no answer came. */
const ofSilence = (error: unknown, accepted: "no" | "unknown"): SandboxErrorReason => {
  if (property(error, "name") === "QueryValidationError") {
    return new InvalidArgument({ argument: "db", problem: "its schema lacks $files" })
  }
  if (String(property(error, "message")).startsWith("Admin token required")) {
    return new Authentication({ detail: "the client has no admin token" })
  }
  return new Unavailable({ accepted, detail: "no answer" })
}

const reasonOf = (error: unknown, accepted: "no" | "unknown"): SandboxErrorReason => {
  const status = property(error, "status")
  if (!Predicate.isNumber(status)) return ofSilence(error, accepted)
  const type = property(property(error, "body"), "type")
  const hint = property(property(error, "body"), "hint")
  // Neither message nor hint: they may repeat what was sent, and with it the token.
  const detail = `InstantDB answers ${status}${Predicate.isString(type) && /^[a-z-]{1,40}$/.test(type) ? ` ${type}` : ""}`
  if (closed.has(type)) return new Permission({ detail })
  if (unauthenticated.has(type)) return new Authentication({ detail })
  // Of an app that does not exist the token does not, either.
  if (type === "record-not-found" && /^app(-admin-token)?$/.test(String(property(hint, "record-type")))) {
    return new Authentication({ detail })
  }
  // A statement passed 30 s, and everything was rolled back.
  if (type === "timeout") return new Unavailable({ accepted: "no", detail })
  // Also a success of another status than 200, which the SDK takes for an error.
  if (status < 400 || status === 408 || status >= 500) return new Unavailable({ accepted, detail })
  switch (status) {
    case 400:
    case 404:
    case 413:
      return new InvalidArgument({ argument: "request", problem: detail })
    case 401:
      return new Authentication({ detail })
    case 403:
      return new Permission({ detail })
    case 429: {
      const seconds = property(hint, "retry-after")
      return new RateLimited({
        detail,
        ...(Predicate.isNumber(seconds) && seconds >= 0 ? { retryAfter: Duration.seconds(seconds) } : {})
      })
    }
    default:
      return new Unknown({ detail })
  }
}

/** A source over the storage of a database. */
export const make = (options: Options): DatasetSource["Service"] => {
  const { db } = options
  const fetch = options.fetch ?? globalThis.fetch
  const deadline = Duration.fromInputUnsafe(options.requestTimeout ?? Duration.seconds(30))
  const prefixOf = (datasetId: string) => `${options.prefix ?? "datasets"}/${datasetId}/`
  const fail = (operation: string, reason: SandboxErrorReason) =>
    new SandboxError({ operation: `instantFiles.${operation}`, reason })

  const ask = <A>(
    operation: string,
    accepted: "no" | "unknown",
    evaluate: (signal: AbortSignal) => Promise<A>
  ): Effect.Effect<A, SandboxError> =>
    Effect.tryPromise({ try: evaluate, catch: (error) => fail(operation, reasonOf(error, accepted)) }).pipe(
      Effect.timeoutOrElse({
        duration: deadline,
        orElse: () => Effect.fail(fail(operation, new Timeout({ clock: "request", duration: deadline, accepted })))
      })
    )

  const rowsOf = (operation: string, where: object): Effect.Effect<ReadonlyArray<Row>, SandboxError> =>
    Effect.flatMap(
      ask(operation, "no", (signal) => db.query({ $files: { $: { where } } }, { fetchOpts: { signal } })),
      (answer) =>
        Option.match(decodeRows(answer), {
          onNone: () => Effect.fail(fail(operation, new Unknown({ detail: "an answer that does not decode" }))),
          onSome: ({ $files }) => Effect.succeed($files)
        })
    )

  const found = (path: string, row: Row | undefined): Effect.Effect<Row, SandboxError> =>
    row === undefined
      ? Effect.fail(fail("read", new InvalidArgument({ argument: "path", problem: `there is no ${path}` })))
      : Effect.succeed(row)

  const get = (row: Row) =>
    Effect.map(
      ask("read", "no", (signal) => fetch(row.url, { signal })),
      (response) => ({ response, row })
    )

  /** Else its connection stays taken. */
  const discarded = (response: Response) => Effect.ignore(Effect.tryPromise(async () => response.body?.cancel()))

  /** A URL that ran out, or whose file was replaced since it was asked for, is asked for once more. */
  const opened = (row: Row) =>
    Effect.flatMap(get(row), (first) =>
      [400, 403, 404, 410].includes(first.response.status)
        ? discarded(first.response).pipe(
            Effect.andThen(rowsOf("read", { path: row.path })),
            Effect.flatMap(([fresh]) => found(row.path, fresh)),
            Effect.flatMap(get)
          )
        : Effect.succeed(first)
    )

  const download = (from: Row): Stream.Stream<Uint8Array, SandboxError> => {
    const broken = () => fail("read", new Unavailable({ accepted: "no", detail: "a download broke off" }))
    const bytes = Stream.unwrap(
      Effect.flatMap(opened(from), ({ response, row }) => {
        const { body, ok, status } = response
        if (!ok || body === null) {
          return Effect.andThen(discarded(response), Effect.fail(fail("read", reasonOf({ status }, "no"))))
        }
        let length = 0
        const content = Stream.fromReadableStream<Uint8Array, SandboxError>({ evaluate: () => body, onError: broken })
        const counted = Stream.map(content, (chunk) => {
          length += chunk.length
          return chunk
        })
        // Not every way that a body is cut shows as an error.
        const complete = Effect.suspend(() =>
          row.size === undefined || row.size === length ? Effect.void : Effect.fail(broken())
        )
        return Effect.succeed(Stream.concat(counted, Stream.fromEffectDrain(complete)))
      })
    )
    return Stream.transformPull(bytes, (pull) =>
      Effect.succeed(
        Effect.timeoutOrElse(pull, {
          duration: deadline,
          orElse: () => Effect.fail(fail("read", new Timeout({ clock: "request", duration: deadline, accepted: "no" })))
        })
      )
    )
  }

  const upload = (operation: string, path: string, content: Buffer): Effect.Effect<void, SandboxError> =>
    // It travels in a header, which loses spaces at its ends.
    // eslint-disable-next-line no-control-regex -- what a header can hold
    /^[\x20-\x7e\xa0-\xff]+$/.test(path) && !/^ | $/.test(path)
      ? Effect.asVoid(
          ask(operation, "unknown", () =>
            db.storage.uploadFile(path, content, { contentType: "application/octet-stream" })
          )
        )
      : Effect.fail(
          fail(
            operation,
            new InvalidArgument({
              argument: "path",
              problem: "InstantDB takes Latin-1 paths only, without spaces at the ends"
            })
          )
        )

  /** Changes with each upload. */
  const uploadOf = (row: Row): string => row["location-id"] ?? row.url.replace(/\?.*$/, "")

  const hashed = (path: string, row: Row): Effect.Effect<DatasetFile, SandboxError> =>
    Effect.suspend(() => {
      const hash = Crypto.createHash("sha256")
      let bytes = 0
      return Effect.map(
        Stream.runForEach(download(row), (chunk) =>
          Effect.sync(() => {
            hash.update(chunk)
            bytes += chunk.length
          })
        ),
        () => ({ path, sha256: hash.digest("hex"), bytes })
      )
    })

  const collect = (content: Stream.Stream<Uint8Array, SandboxError>) =>
    Effect.map(Stream.runCollect(content), (chunks) => Buffer.concat(chunks))

  const list = (datasetId: string): Effect.Effect<ReadonlyArray<DatasetFile>, SandboxError> =>
    Effect.gen(function* () {
      const prefix = prefixOf(datasetId)
      // Any character stands for those that mean something in a pattern: not all engines of the vendor know how to escape them.
      const rows = yield* rowsOf("list", { path: { $like: `${prefix.replace(/[%_\\]/g, "_")}%` } })
      const byPath = new Map(
        rows.filter(({ path }) => path.startsWith(prefix)).map((row) => [row.path.slice(prefix.length), row])
      )
      const kept = byPath.get(hashesName)
      byPath.delete(hashesName)
      const known: Hashes =
        kept === undefined
          ? {}
          : Option.getOrElse(decodeHashes((yield* collect(download(kept))).toString()), () => ({}))
      const entries = yield* Effect.forEach(
        byPath,
        ([path, row]) => {
          const before = known[path]
          const current = uploadOf(row)
          return before?.upload === current
            ? Effect.succeed([path, before] as const)
            : Effect.map(hashed(path, row), (file) => [path, { upload: current, file }] as const)
        },
        { concurrency: 4 }
      )
      const hashes: Hashes = Object.fromEntries(entries)
      const isNew = entries.some(([path, entry]) => known[path] !== entry)
      if (isNew || Object.keys(known).length !== entries.length) {
        // Only a memory of what can be had again.
        yield* Effect.ignore(upload("list", `${prefix}${hashesName}`, Buffer.from(JSON.stringify(hashes))), {
          log: true
        })
      }
      return entries.map(([, { file }]) => file)
    })

  return DatasetSource.of({
    list: (datasetId) => Stream.unwrap(Effect.map(list(datasetId), (files) => Stream.fromIterable(files))),
    read: (datasetId, path) =>
      Stream.unwrap(
        Effect.map(
          Effect.flatMap(rowsOf("read", { path: `${prefixOf(datasetId)}${path}` }), ([row]) => found(path, row)),
          download
        )
      ),
    // The vendor wants to know the size before, so that a result is in memory once.
    write: (datasetId, path, content) =>
      Effect.flatMap(
        Effect.map(Stream.runCollect(content), (chunks) => Buffer.concat(chunks)),
        (bytes) => upload("write", `${prefixOf(datasetId)}${path}`, bytes)
      )
  })
}

/** The same as the `DatasetSource` of a program. */
export const layer = (options: Options): Layer.Layer<DatasetSource> => Layer.sync(DatasetSource, () => make(options))
