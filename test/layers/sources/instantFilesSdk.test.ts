/** Datasets in InstantDB's storage by the vendor's real SDK, and the cache of a volume over them. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { i, init } from "@instantdb/admin"
import { Effect, Fiber, FileSystem, Logger, type Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { randomBytes } from "node:crypto"
import { inspect } from "node:util"
import type { SandboxError } from "../../../src/errors.ts"
import * as InstantFiles from "../../../src/layers/sources/InstantFiles.ts"
import * as VolumeCache from "../../../src/programs/volumeCache.ts"
import type { Call } from "../../emulators/instantdb/http.ts"
import * as F from "../../emulators/instantdb/faults.ts"
import type { Options } from "../../emulators/instantdb/server.ts"
import { emulated, sdk, spin } from "../../emulators/instantdbSupport.ts"

/** An underscore means something in the pattern of a filter. */
const dataset = "num_bers"
const pathOf = (path: string) => `datasets/${dataset}/${path}`

const world = Effect.fnUntraced(function* (options?: Options) {
  const fs = yield* FileSystem.FileSystem
  const { emulator, loose } = yield* emulated(options)
  const source = InstantFiles.make({ db: loose })
  const cache = { source, root: yield* fs.makeTempDirectoryScoped(), datasetId: dataset }
  const places = VolumeCache.placesOf(cache)
  return {
    emulator,
    db: loose,
    fs,
    source,
    places,
    put: (path: string, content: Uint8Array | string) =>
      sdk(() => loose.storage.uploadFile(pathOf(path), Buffer.from(content))),
    /** What the app has, by path. */
    stored: () =>
      new Map((emulator.query({ $files: {} }).$files ?? []).map(({ path, size }) => [String(path), Number(size)])),
    list: Effect.map(Stream.runCollect(source.list(dataset)), (files) =>
      Object.fromEntries(files.map(({ bytes, path }) => [path, bytes]))
    ),
    read: (path: string) =>
      Effect.map(Stream.runCollect(source.read(dataset, path)), (chunks) => Buffer.concat(chunks)),
    write: (path: string, content: string) => source.write(dataset, path, Stream.make(Buffer.from(content))),
    sync: VolumeCache.sync(cache),
    publish: VolumeCache.publish(cache),
    vouched: Effect.map(fs.readFileString(places.manifest), (text) =>
      JSON.parse(text).files.map(({ path }: { readonly path: string }) => path)
    )
  }
})
type World = Effect.Success<ReturnType<typeof world>>

const within = <A, E>(
  body: (world: World) => Effect.Effect<A, E, FileSystem.FileSystem | Scope.Scope>,
  options?: Options
) => Effect.scoped(Effect.flatMap(world(options), body)).pipe(Effect.provide(NodeServices.layer))

const test = <A, E>(name: string, body: (world: World) => Effect.Effect<A, E, FileSystem.FileSystem | Scope.Scope>) =>
  it.effect(name, () => within(body))

describe("datasets in InstantDB's storage, by its SDK", () => {
  test("are listed by dataset, whatever is in its name, and read byte for byte", ({ db, emulator, list, put, read }) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* list, {})
      const large = randomBytes(3 * 1024 * 1024 + 1)
      yield* put("large.bin", large)
      yield* put("deep/é b", "ü\0\r\n")
      yield* put("empty", "")
      for (const other of ["datasets/numXbers/a", "datasets/num_bers2/a", "other/num_bers/a"]) {
        yield* sdk(() => db.storage.uploadFile(other, Buffer.from("x")))
      }
      const expected = { "large.bin": large.length, "deep/é b": 5, empty: 0 }
      assert.deepStrictEqual(yield* list, expected)
      assert.strictEqual(emulator.requests.count("file.download"), 3)
      emulator.requests.reset()
      // What it remembers of them is one file.
      assert.deepStrictEqual(yield* list, expected)
      assert.strictEqual(emulator.requests.count("file.download"), 1)
      assert.strictEqual(emulator.requests.count("storage.upload"), 0)
      assert.isTrue(large.equals(yield* read("large.bin")))
      assert.strictEqual((yield* read("deep/é b")).toString(), "ü\0\r\n")
      assert.lengthOf(yield* read("empty"), 0)
    }))

  test("are on the volume after a sync, and results back in the app after a publish", (w) =>
    Effect.gen(function* () {
      const content = randomBytes(300_000)
      yield* w.put("a.bin", content)
      yield* w.put("deep/b", "2")
      assert.deepInclude(yield* w.sync, { outcome: "updated", downloaded: ["a.bin", "deep/b"] })
      assert.isTrue(content.equals(yield* w.fs.readFile(`${w.places.raw}/a.bin`)))
      assert.strictEqual((yield* w.sync).outcome, "unchanged")
      const result = randomBytes(70_000)
      yield* w.fs.makeDirectory(`${w.places.normalized}/deep`, { recursive: true })
      yield* w.fs.writeFile(`${w.places.normalized}/deep/sum`, result)
      assert.deepStrictEqual(yield* w.publish, ["normalized/deep/sum"])
      assert.isTrue(result.equals(yield* w.read("normalized/deep/sum")))
      w.emulator.requests.reset()
      assert.deepStrictEqual(yield* w.publish, [])
      // It hashed the one that it had just written, and remembers it.
      assert.strictEqual(w.emulator.requests.count("storage.upload"), 1)
      assert.strictEqual((yield* w.sync).outcome, "unchanged")
      assert.strictEqual(w.stored().get(pathOf("normalized/deep/sum")), 70_000)
    }))

  test("follow what is changed, new and deleted", (w) =>
    Effect.gen(function* () {
      for (const path of ["a", "b", "c"]) yield* w.put(path, path)
      yield* w.sync
      yield* w.put("a", "A")
      yield* w.put("d", "d")
      yield* sdk(() => w.db.storage.delete(pathOf("b")))
      w.emulator.requests.reset()
      assert.deepInclude(yield* w.sync, { outcome: "updated", downloaded: ["a", "d"], deleted: ["b"] })
      // The hashes, a and d to be hashed, a and d to be kept: c was read by none.
      assert.strictEqual(w.emulator.requests.count("file.download"), 5)
      assert.strictEqual(yield* w.fs.readFileString(`${w.places.raw}/a`), "A")
      assert.deepStrictEqual(yield* w.vouched, ["a", "c", "d"])
      const gone = yield* Effect.flip(w.read("b"))
      assert.deepInclude(gone.reason, { _tag: "InvalidArgument", argument: "path" })
    }))

  test("are asked for again by a new URL where one ran out or its file was replaced", (w) =>
    Effect.gen(function* () {
      yield* w.put("a", "first")
      w.emulator.faults.inject("file.download", F.raw(403, "<Error><Code>AccessDenied</Code></Error>"))
      assert.strictEqual((yield* w.read("a")).toString(), "first")
      assert.deepStrictEqual([w.emulator.requests.count("query"), w.emulator.requests.count("file.download")], [2, 2])
      // Replaced between the question and the download: the old URL has no bytes any more.
      const replacing = InstantFiles.make({
        db: w.db,
        fetch: async (input, init) => {
          if (w.stored().get(pathOf("a")) === 5) await w.db.storage.uploadFile(pathOf("a"), Buffer.from("second"))
          return fetch(input, init)
        }
      })
      const [file] = yield* Stream.runCollect(replacing.list(dataset))
      assert.deepInclude(file, { path: "a", bytes: 6 })
      w.emulator.faults.inject("file.download", F.raw(403, ""), { times: 2 })
      const refused = yield* Effect.flip(w.read("a"))
      assert.deepInclude(refused.reason, { _tag: "Permission", detail: "InstantDB answers 403" })
      w.emulator.faults.inject("file.download", F.serverError(503))
      const down = yield* Effect.flip(w.read("a"))
      assert.deepInclude(down.reason, { _tag: "Unavailable", accepted: "no" })
      // Deleted between them.
      w.emulator.faults.inject("file.download", F.raw(404, ""))
      w.emulator.faults.inject("query", F.raw(200, '{"$files":[]}'), { skip: 1 })
      assert.strictEqual((yield* Effect.flip(w.read("a"))).reason._tag, "InvalidArgument")
    }))

  test("torn, or short without an error, are typed, vouched for by nothing, and mended by the next sync", (w) =>
    Effect.gen(function* () {
      const stray: Array<unknown> = []
      const listen = (error: unknown) => void stray.push(error)
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on("unhandledRejection", listen)),
        () => Effect.sync(() => process.off("unhandledRejection", listen))
      )
      const content = randomBytes(200_000)
      yield* w.put("a", content)
      yield* w.put("b", "b")
      const isOf = (path: string) => {
        const { $files } = w.emulator.query({ $files: { $: { where: { path: pathOf(path) } } } })
        const location = String($files?.[0]?.["location-id"])
        return { when: ({ param }: Call) => param === location }
      }
      // While it is hashed: no hash of a part is ever remembered.
      for (const fault of [F.torn(100_000), F.raw(200, "short"), F.resetBefore]) {
        w.emulator.faults.inject("file.download", fault, isOf("a"))
        const error = yield* Effect.flip(w.sync)
        assert.deepInclude(error.reason, { _tag: "Unavailable", accepted: "no" })
        assert.isFalse(w.stored().has(pathOf(".hashes.json")))
        assert.isFalse(yield* w.fs.exists(w.places.directory))
      }
      // While it is written to the volume.
      yield* w.list
      for (const fault of [F.torn(100_000), F.raw(200, "short")]) {
        w.emulator.faults.inject("file.download", fault, isOf("a"))
        const error = yield* Effect.flip(w.sync)
        assert.deepInclude(error.reason, { _tag: "Unavailable", accepted: "no" })
        assert.isFalse(yield* w.fs.exists(w.places.manifest))
      }
      assert.strictEqual((yield* w.sync).outcome, "updated")
      // A newer one: the manifest vouches for the other file meanwhile.
      const newer = randomBytes(150_000)
      yield* w.put("a", newer)
      yield* w.list
      w.emulator.faults.inject("file.download", F.torn(100_000), isOf("a"))
      assert.strictEqual((yield* Effect.flip(w.sync)).reason._tag, "Unavailable")
      assert.deepStrictEqual(yield* w.vouched, ["b"])
      assert.deepInclude(yield* w.sync, { downloaded: ["a"] })
      assert.isTrue(newer.equals(yield* w.fs.readFile(`${w.places.raw}/a`)))
      yield* sdk(() => new Promise(setImmediate))
      assert.deepStrictEqual(stray, [])
      assert.strictEqual(w.emulator.faults.pending, 0)
    }))

  test("an upload whose answer is lost may have happened, and is not done twice", (w) =>
    Effect.gen(function* () {
      yield* w.fs.makeDirectory(w.places.normalized, { recursive: true })
      yield* w.fs.writeFileString(`${w.places.normalized}/sum`, "3")
      const ofResult = { when: ({ headers }: Call) => headers["path"] === pathOf("normalized/sum") }
      for (const fault of [F.resetAfter, F.invalidJson, F.otherSuccess, F.serverError(502, { executed: true })]) {
        w.emulator.faults.inject("storage.upload", fault, ofResult)
        const lost = yield* Effect.flip(w.publish)
        assert.deepInclude(lost.reason, { _tag: "Unavailable", accepted: "unknown" })
        assert.strictEqual(w.stored().get(pathOf("normalized/sum")), 1)
        assert.deepStrictEqual(yield* w.publish, [])
        yield* sdk(() => w.db.storage.delete(pathOf("normalized/sum")))
      }
      w.emulator.faults.inject("storage.upload", F.resetBefore, ofResult)
      assert.strictEqual((yield* Effect.flip(w.publish)).reason._tag, "Unavailable")
      assert.isFalse(w.stored().has(pathOf("normalized/sum")))
      assert.deepStrictEqual(yield* w.publish, ["normalized/sum"])
      w.emulator.faults.inject("query", F.resetAfter)
      assert.deepInclude((yield* Effect.flip(w.list)).reason, { _tag: "Unavailable", accepted: "no" })
    }))

  test("what is never answered ends by its deadline", (w) =>
    Effect.gen(function* () {
      yield* w.put("a", "a")
      const timed = Effect.fnUntraced(function* (
        endpoint: F.Endpoint,
        effect: Effect.Effect<unknown, SandboxError | { readonly reason: unknown }>
      ) {
        w.emulator.requests.reset()
        w.emulator.faults.inject(endpoint, F.silent({ executed: true }))
        const fiber = yield* Effect.forkChild(Effect.flip(effect))
        yield* spin(() => w.emulator.requests.of(endpoint)[0]?.executed === true)
        yield* TestClock.adjust("30 seconds")
        return (yield* Fiber.join(fiber)).reason
      })
      assert.deepInclude(yield* timed("query", w.list), { _tag: "Timeout", clock: "request", accepted: "no" })
      assert.deepInclude(yield* timed("file.download", w.read("a")), { _tag: "Timeout", accepted: "no" })
      const upload = w.write("normalized/b", "b")
      assert.deepInclude(yield* timed("storage.upload", upload), { _tag: "Timeout", accepted: "unknown" })
      assert.strictEqual((yield* w.read("normalized/b")).toString(), "b")
    }))

  test("a download that stops in the middle ends by the same, and is cancelled", (w) =>
    Effect.gen(function* () {
      yield* w.put("a", "abc")
      let cancelled = false
      const body = () =>
        new ReadableStream<Uint8Array>({
          start: (controller) => controller.enqueue(Buffer.from("ab")),
          cancel: () => {
            cancelled = true
          }
        })
      const source = InstantFiles.make({ db: w.db, fetch: () => Promise.resolve(new Response(body())) })
      let bytes = 0
      const reading = Stream.runForEach(source.read(dataset, "a"), (chunk) =>
        Effect.sync(() => {
          bytes += chunk.length
        })
      )
      const fiber = yield* Effect.forkChild(Effect.flip(reading))
      yield* spin(() => bytes === 2)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* Fiber.join(fiber)).reason._tag, "Timeout")
      assert.isTrue(cancelled)
    }))

  test("a read-only app gives its datasets and takes no results", (w) =>
    Effect.gen(function* () {
      yield* w.put("a", "1")
      w.emulator.setState("read-only")
      // The emulator takes uploads all the same, the server may not.
      w.emulator.faults.inject("storage.upload", F.status(400, "app-read-only"), { times: 3 })
      assert.deepInclude(yield* w.sync, { outcome: "updated", downloaded: ["a"] })
      assert.strictEqual((yield* w.sync).outcome, "unchanged")
      yield* w.fs.writeFileString(`${w.places.normalized}/sum`, "3")
      w.emulator.faults.clear()
      w.emulator.faults.inject("storage.upload", F.status(400, "app-read-only"), { times: 2 })
      const refused = yield* Effect.flip(w.publish)
      assert.deepInclude(refused.reason, { _tag: "Permission", detail: "InstantDB answers 400 app-read-only" })
      assert.isFalse(w.stored().has(pathOf("normalized/sum")))
      w.emulator.setState("disabled")
      const disabled = yield* Effect.flip(w.sync)
      assert.deepInclude(disabled.reason, { _tag: "Permission", detail: "InstantDB answers 400 app-disabled" })
      assert.strictEqual(yield* w.fs.readFileString(`${w.places.raw}/a`), "1")
    }))

  test("failures are typed by what the SDK really throws", (w) =>
    Effect.gen(function* () {
      const listing = (db: InstantFiles.Database) =>
        Effect.map(Effect.flip(Stream.runDrain(InstantFiles.make({ db }).list(dataset))), ({ reason }) => reason)
      const { config } = w.emulator
      const stranger = init({ ...config, adminToken: "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee" })
      assert.strictEqual((yield* listing(stranger))._tag, "Authentication")
      assert.strictEqual((yield* listing(init({ ...config, adminToken: "no uuid" })))._tag, "Authentication")
      const { adminToken: _, ...open } = config
      assert.strictEqual((yield* listing(init(open)))._tag, "Authentication")
      // The SDK itself refuses to ask for what its schema lacks.
      const lacking = init({ ...config, schema: i.schema({ entities: { a: i.entity({}) } }) })
      assert.deepInclude(yield* listing(lacking), { _tag: "InvalidArgument", argument: "db" })
      const schema = i.schema({
        entities: { $files: i.entity({ path: i.string().unique().indexed(), url: i.string() }) }
      })
      yield* Stream.runDrain(InstantFiles.make({ db: init({ ...config, schema }) }).list(dataset))
      for (const [fault, expected] of [
        [F.rateLimited(7), "RateLimited"],
        [F.rateLimited(), "RateLimited"],
        [F.timeout, "Unavailable"],
        [F.deadlock, "Unavailable"],
        [F.html(502), "Unavailable"],
        [F.html(200), "Unavailable"],
        [F.nullBody(), "Unavailable"],
        [F.raw(200, "[]"), "Unknown"],
        [F.raw(418, "{}"), "Unknown"],
        [F.status(400, "validation-failed"), "InvalidArgument"],
        [F.status(400, "permission-denied"), "Permission"]
      ] as const) {
        w.emulator.faults.inject("query", fault)
        assert.strictEqual((yield* listing(w.db))._tag, expected, inspect(fault))
      }
      // A header would lose the space: the file would be another one.
      for (const path of ["日", "a ", "a\tb"]) {
        const refused = yield* Effect.flip(w.write(path, "x"))
        assert.deepInclude(refused.reason, { _tag: "InvalidArgument", argument: "path" })
      }
      assert.deepStrictEqual(w.stored(), new Map())
    }))

  it.effect("the admin token is in no error, no log, no URL, and goes to no download", () => {
    const adminToken = "5ec2e7aa-9999-4ccc-8ddd-0123456789ab"
    return within(
      (w) =>
        Effect.gen(function* () {
          const said: Array<unknown> = []
          const logger = Logger.make((entry) => void said.push(inspect(entry, { depth: 12 })))
          yield* w.put("a", "a")
          yield* w.put("b", "b")
          const attempts = [w.list, w.read("a"), w.write("b", "b")]
          const faults = [
            ...[400, 401, 403, 404, 429, 500].map((code) => F.status(code, "validation-failed", { echoToken: true })),
            F.status(400, "record-not-found", { echoToken: true, hint: { "record-type": "app-admin-token" } }),
            F.status(400, adminToken, { echoToken: true })
          ]
          yield* Effect.gen(function* () {
            for (const fault of faults) {
              for (const endpoint of ["query", "storage.upload", "file.download"] as const) {
                for (const attempt of attempts) {
                  w.emulator.faults.clear()
                  w.emulator.faults.inject(endpoint, fault, { times: 9 })
                  said.push(yield* Effect.result(attempt))
                }
              }
            }
          }).pipe(Effect.provide(Logger.layer([logger])))
          const all = said.map((entry) => `${inspect(entry, { depth: 12 })}${JSON.stringify(entry)}`).join("\n")
          assert.include(all, "InstantDB answers")
          assert.notInclude(all, adminToken)
          assert.notInclude(all, "signature=")
          assert.deepStrictEqual(w.emulator.requests.find(adminToken), [])
          const downloads = w.emulator.requests.of("file.download")
          assert.isAbove(downloads.length, 0)
          for (const { headers } of downloads) assert.notInclude(inspect(headers), adminToken)
        }),
      { credentials: { adminToken } }
    )
  })
})
