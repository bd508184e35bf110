/** The emulator's live half under the vendor's own SDK: subscribed queries, streams, files, users. */
import { assert, describe, it } from "@effect/vitest"
import { id, init } from "@instantdb/admin"
import { Effect, type Scope } from "effect"
import { Readable } from "node:stream"
import type { InstantDbEmulator } from "./instantdb/server.ts"
import * as F from "./instantdb/faults.ts"
import { at, emulated, failing, posted, refused, row, sdk, spin, untyped } from "./instantdbSupport.ts"

type Payload = Readonly<Record<string, unknown>>

/** The payloads of a subscription so far, and the way to the next ones; closed with the scope. */
const subscribed = (
  open: (deliver: (payload: Payload) => void) => { readonly close: () => void; readonly isClosed: boolean }
) =>
  Effect.gen(function* () {
    const payloads: Array<Payload> = []
    const subscription = yield* Effect.acquireRelease(
      Effect.sync(() => open((payload) => payloads.push(payload))),
      (subscription) => Effect.sync(() => subscription.close())
    )
    const until = (count: number) => spin(() => payloads.length >= count).pipe(Effect.as(payloads))
    return { subscription, payloads, until }
  })

describe("instantdb emulator: subscribed queries", () => {
  it.live("a subscription has the result, and again when it became another one", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const { payloads, subscription, until } = yield* subscribed((deliver) =>
        db.subscribeQuery({ claims: { $: { where: { key: "a" } } } }, deliver)
      )
      yield* until(1)
      assert.deepInclude(payloads[0], { type: "ok", data: { claims: [] } })
      assert.isString(at(payloads[0], "sessionInfo", "sessionId"))
      yield* sdk(() => db.transact(row(db.tx.claims, id()).create({ key: "b" })))
      const a = id()
      yield* sdk(() => db.transact(row(db.tx.claims, a).create({ key: "a" })))
      yield* until(2)
      assert.lengthOf(payloads, 2)
      assert.deepStrictEqual(payloads[1]?.data, { claims: [{ id: a, key: "a" }] })
      assert.strictEqual(emulator.connections("subscribe"), 1)
      subscription.close()
      yield* spin(() => emulator.connections() === 0)
    })
  )

  it.live("cursors come with subscriptions only, and lead through the pages", () =>
    Effect.gen(function* () {
      const { db } = yield* emulated()
      const sandbox = id()
      yield* sdk(() =>
        db.transact([
          row(db.tx.sandboxes, sandbox).create({ name: "a", state: "new" }),
          ...[0, 1, 2, 3, 4].map((seq) =>
            row(db.tx.processes, id())
              .create({ command: `c${seq}`, seq })
              .link({ sandbox })
          )
        ])
      )
      const page = (bounds: Readonly<Record<string, unknown>>, order: "asc" | "desc" = "asc") =>
        Effect.scoped(
          Effect.gen(function* () {
            const query = { processes: { $: { order: { seq: order }, ...bounds } } }
            const { until } = yield* subscribed((deliver) => init(db.config).subscribeQuery(query as never, deliver))
            const [payload] = yield* until(1)
            const rows = at(payload, "data", "processes")
            const info = at(payload, "pageInfo", "processes")
            return {
              seqs: Array.isArray(rows) ? rows.map((row: unknown) => at(row, "seq")) : [],
              more: [at(info, "hasPreviousPage"), at(info, "hasNextPage")],
              start: at(info, "startCursor"),
              end: at(info, "endCursor")
            }
          })
        )
      const first = yield* page({ first: 2 })
      assert.deepStrictEqual(
        [first.seqs, first.more],
        [
          [0, 1],
          [false, true]
        ]
      )
      const second = yield* page({ first: 2, after: first.end })
      assert.deepStrictEqual(
        [second.seqs, second.more],
        [
          [2, 3],
          [true, true]
        ]
      )
      const third = yield* page({ first: 2, after: second.end })
      assert.deepStrictEqual([third.seqs, third.more], [[4], [true, false]])
      assert.deepStrictEqual((yield* page({ first: 2, after: first.end, afterInclusive: true })).seqs, [1, 2])
      assert.deepStrictEqual((yield* page({ last: 2, before: third.start })).seqs, [2, 3])
      assert.deepStrictEqual((yield* page({ last: 2, before: third.start, beforeInclusive: true })).seqs, [3, 4])
      assert.deepStrictEqual((yield* page({ first: 2, after: third.end }, "desc")).seqs, [3, 2])
      // A cursor is a place, also when its row is gone.
      yield* sdk(() => untyped(db, { processes: { $: { where: { seq: 1 } } } })).pipe(
        Effect.flatMap(({ processes }) =>
          sdk(() => db.transact(row(db.tx.processes, String(processes?.[0]?.id)).delete()))
        )
      )
      assert.deepStrictEqual((yield* page({ first: 2, after: first.end })).seqs, [2, 3])
      assert.deepStrictEqual((yield* page({ first: 2, after: third.end })).seqs, [])
    })
  )

  it.live("what is refused: by HTTP it is final, in the query it is told on the open connection", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const wrong = init({ ...emulator.config, adminToken: id() })
      const bad = yield* subscribed((deliver) => wrong.subscribeQuery({ claims: {} }, deliver))
      yield* bad.until(1)
      assert.deepInclude(bad.payloads[0], { type: "error", isClosed: true })
      assert.strictEqual(at(bad.payloads[0], "error", "body", "type"), "record-not-found")
      const unknown = init(emulator.config)
      const told = yield* subscribed((deliver) =>
        unknown.subscribeQuery({ claims: { $: { where: { key: { $near: 1 } } } } } as never, deliver)
      )
      yield* told.until(1)
      assert.deepInclude(told.payloads[0], { type: "error", isClosed: false })
      assert.strictEqual(at(told.payloads[0], "error", "status"), 400)
      assert.strictEqual(emulator.connections("subscribe"), 1)
    })
  )

  it.live("a cut connection comes back by itself, with the query afresh", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const { payloads, until } = yield* subscribed((deliver) => db.subscribeQuery({ claims: {} }, deliver))
      yield* until(1)
      emulator.cut("subscribe")
      yield* until(2)
      assert.deepStrictEqual(
        payloads.map(({ type }) => type),
        ["ok", "ok"]
      )
      assert.strictEqual(emulator.requests.count("subscribe"), 2)
    })
  )
})

/** A writer of a stream, and the promise of its end that the SDK hands to `waitUntil`. */
const written = (db: ReturnType<typeof init>, clientId: string) => {
  let ended = false
  const stream = db.streams.createWriteStream({
    clientId,
    waitUntil: (promise) => void promise.then(() => (ended = true))
  })
  return { stream, writer: stream.getWriter(), ended: () => ended }
}

const all = async (stream: ReadableStream<string>): Promise<string> => {
  let text = ""
  for await (const chunk of stream) text += chunk
  return text
}

/** A client whose connections are gone with the emulator, which the scope closes after it. */
const client = (emulator: InstantDbEmulator): Effect.Effect<ReturnType<typeof init>, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => init(emulator.config)),
    () => Effect.sync(() => emulator.cut())
  )

describe("instantdb emulator: streams", () => {
  it.live("what is written is read live and afterwards, by client id and by stream id, from any offset", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const [one, two] = [init(emulator.config), init(emulator.config)]
      const { ended, stream, writer } = written(one, "log")
      const streamId = yield* sdk(() => stream.streamId())
      const live = two.streams.createReadStream({ clientId: "log" })
      const read = all(live)
      assert.strictEqual(yield* sdk(() => live.streamId()), streamId)
      yield* sdk(async () => {
        await writer.write("hällo ")
        await writer.write("w\0rld")
        await writer.close()
      })
      yield* spin(ended)
      assert.strictEqual(yield* sdk(() => read), "hällo w\0rld")
      assert.strictEqual(yield* sdk(() => all(two.streams.createReadStream({ streamId }))), "hällo w\0rld")
      assert.strictEqual(
        yield* sdk(() => all(two.streams.createReadStream({ clientId: "log", byteOffset: 7 }))),
        "w\0rld"
      )
      assert.strictEqual(yield* sdk(() => all(two.streams.createReadStream({ clientId: "log", byteOffset: 99 }))), "")
      assert.deepStrictEqual(emulator.query({ $streams: {} }), {
        $streams: [{ id: streamId, clientId: "log", done: true, size: 12 }]
      })
      emulator.cut()
    })
  )

  it.live("messages may come in lists", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated({ lists: true })
      const db = yield* client(emulator)
      const { ended, writer } = written(db, "log")
      yield* sdk(async () => {
        await writer.write("a")
        await writer.close()
      })
      yield* spin(ended)
      assert.strictEqual(yield* sdk(() => all(db.streams.createReadStream({ clientId: "log" }))), "a")
    })
  )

  it.live("a wrong token is told to nobody: the SDK connects again and again", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const { ended } = written(init({ ...emulator.config, adminToken: id() }), "log")
      yield* spin(() => emulator.requests.count("sse") === 2)
      assert.isTrue(emulator.requests.of("sse").every(({ status }) => status === 400))
      assert.isFalse(ended())
    })
  )

  it.live("a mebibyte is a file; the acknowledgement can be held", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const db = yield* client(emulator)
      const { ended, stream, writer } = written(db, "big")
      yield* sdk(() => stream.streamId())
      const release = emulator.holdFlushes()
      yield* sdk(async () => {
        for (let n = 0; n < 3; n++) await writer.write(String(n).repeat(524_288))
      })
      yield* spin(() => emulator.streams()[0]?.files.length === 1)
      yield* sdk(() => writer.close())
      yield* spin(() => emulator.streams()[0]?.done === true)
      assert.isFalse(ended())
      release()
      yield* spin(ended)
      const sizes = emulator.streams()[0]?.files.map(({ size }) => size)
      assert.strictEqual(
        sizes?.reduce((sum, size) => sum + size, 0),
        3 * 524_288
      )
      const text = yield* sdk(() => all(db.streams.createReadStream({ clientId: "big" })))
      assert.strictEqual(text, ["0", "1", "2"].map((digit) => digit.repeat(524_288)).join(""))
    })
  )

  it.live("one writer: another client with the id is refused, and nobody goes on with what is done", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const [one, two] = [yield* client(emulator), yield* client(emulator)]
      const first = written(one, "log")
      yield* sdk(() => first.stream.streamId())
      const second = written(two, "log")
      const failure = yield* failing(() => second.stream.streamId())
      assert.include(failure.message, "already exists")
      assert.strictEqual(failure.status, undefined)
      yield* failing(() => all(two.streams.createReadStream({ clientId: "nobody" })))
      yield* sdk(() => first.writer.close())
      yield* spin(first.ended)
      yield* sdk(() => first.writer.closed)
    })
  )

  it.live("an abort looks like an end to readers; the record has its reason", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const db = yield* client(emulator)
      const { stream, writer } = written(db, "log")
      yield* sdk(() => stream.streamId())
      yield* sdk(async () => {
        await writer.write("a")
        await writer.abort("no more")
      })
      yield* spin(() => emulator.streams()[0]?.done === true)
      assert.strictEqual(yield* sdk(() => all(db.streams.createReadStream({ clientId: "log" }))), "a")
      assert.deepInclude(emulator.query({ $streams: {} }).$streams?.[0], {
        abortReason: "no more",
        done: true,
        size: 1
      })
    })
  )

  it.live(
    "a connection cut in the middle: the writer goes on from what was flushed, readers lose and double nothing",
    () =>
      Effect.gen(function* () {
        const { emulator } = yield* emulated()
        const [one, two] = [yield* client(emulator), yield* client(emulator)]
        const { ended, stream, writer } = written(one, "log")
        yield* sdk(() => stream.streamId())
        const read = all(two.streams.createReadStream({ clientId: "log" }))
        yield* sdk(() => writer.write("one "))
        yield* spin(() => emulator.streams()[0]?.buffer.length === 1 && emulator.streams()[0]?.readers.size === 1)
        emulator.cut()
        // Until it is acknowledged that the writer is back, an end marker would be lost.
        yield* sdk(() => writer.write("two "))
        yield* spin(() => emulator.streams()[0]?.flushed === 4 && emulator.streams()[0]?.buffer.length === 1)
        yield* sdk(async () => {
          await writer.write("three")
          await writer.close()
        })
        yield* spin(ended)
        assert.strictEqual(yield* sdk(() => read), "one two three")
      })
  )

  it.live("cut with the end marker under way, the marker is lost for good", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const db = yield* client(emulator)
      const { ended, stream, writer } = written(db, "log")
      yield* sdk(() => stream.streamId())
      emulator.faults.inject("sse.push", F.cut({ executed: false }), {
        when: ({ json }) => JSON.stringify(json).includes('"done":true')
      })
      yield* sdk(async () => {
        await writer.write("a")
        await writer.close()
      })
      yield* spin(() => emulator.faults.pending === 0)
      yield* spin(() => emulator.streams()[0]?.writer !== undefined)
      assert.isFalse(ended())
      assert.isFalse(emulator.streams()[0]?.done)
    })
  )

  it.live("a failed flush: the writer starts again and sends what was not flushed", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const db = yield* client(emulator)
      const { stream, writer } = written(db, "log")
      yield* sdk(() => stream.streamId())
      emulator.failFlushes(1)
      yield* sdk(() => writer.write("x".repeat(1_048_576)))
      yield* spin(() => emulator.streams()[0]?.flushed === 1_048_576)
      assert.isFalse(emulator.streams()[0]?.done)
    })
  )

  it.live("a lone surrogate is one byte for the server and three for the SDK, which then never gets on", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const db = yield* client(emulator)
      const { ended, stream, writer } = written(db, "log")
      yield* sdk(() => stream.streamId())
      const starts = () => emulator.requests.of("sse.push").filter(({ body }) => body.includes("start-stream")).length
      yield* sdk(async () => {
        await writer.write("\u{d83d}")
        await writer.write("b")
      })
      // The second was refused for its offset; both were sent again together.
      yield* spin(() => starts() === 2 && emulator.streams()[0]?.buffer.length === 1)
      assert.strictEqual(String(emulator.streams()[0]?.buffer[0]), "?b")
      yield* sdk(() => writer.close())
      yield* spin(() => starts() === 3)
      assert.isFalse(ended())
      assert.isFalse(emulator.streams()[0]?.done)
    })
  )

  it.live("readers are told to subscribe again, and do", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const [one, two] = [yield* client(emulator), yield* client(emulator)]
      const { stream, writer } = written(one, "log")
      yield* sdk(() => stream.streamId())
      const read = all(two.streams.createReadStream({ clientId: "log" }))
      yield* sdk(() => writer.write("a"))
      yield* spin(() => emulator.streams()[0]?.buffer.length === 1 && emulator.streams()[0]?.readers.size === 1)
      emulator.resubscribeReaders()
      yield* sdk(async () => {
        await writer.write("b")
        await writer.close()
      })
      assert.strictEqual(yield* sdk(() => read), "ab")
    })
  )

  it.live(
    "files of a stream: characters cut between chunks are lost to its reader; one that is refused is asked for again",
    () =>
      Effect.gen(function* () {
        const { emulator } = yield* emulated()
        const db = yield* client(emulator)
        const { ended, stream, writer } = written(db, "log")
        yield* sdk(() => stream.streamId())
        yield* sdk(async () => {
          await writer.write("aäb")
          await writer.close()
        })
        yield* spin(ended)
        emulator.faults.inject("file.download", F.split)
        assert.strictEqual(yield* sdk(() => all(db.streams.createReadStream({ clientId: "log" }))), "a\uFFFD\uFFFDb")
        emulator.faults.inject("file.download", F.status(403, undefined))
        assert.strictEqual(yield* sdk(() => all(db.streams.createReadStream({ clientId: "log" }))), "aäb")
        assert.strictEqual(emulator.requests.count("file.download"), 3)
      })
  )

  it.live("the record of a stream may be linked and deleted, not made or changed", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const db = yield* client(emulator)
      const { ended, stream, writer } = written(db, "log")
      const streamId = yield* sdk(() => stream.streamId())
      yield* sdk(async () => {
        await writer.write("a")
        await writer.close()
      })
      yield* spin(ended)
      const tx = row(db.tx.$streams, streamId)
      yield* refused(400, "validation-failed", () => db.transact(tx.update({ done: false })))
      yield* refused(400, "validation-failed", () => db.transact(row(db.tx.$streams, id()).update({ mine: 1 })))
      yield* sdk(() => db.transact(tx.update({ mine: 1 })))
      yield* sdk(() => db.transact(tx.link({ things: id() })))
      assert.strictEqual(emulator.files(), 1)
      yield* sdk(() => db.transact(tx.delete()))
      assert.strictEqual(emulator.files(), 0)
      assert.deepStrictEqual(emulator.streams(), [])
    })
  )

  it.live("messages for a session that is not there are refused", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const { body, status } = yield* posted(emulator, "/admin/sse/push", { session_id: id(), messages: [] })
      assert.deepStrictEqual([status, at(body, "type")], [400, "session-missing"])
    })
  )
})

describe("instantdb emulator: files and users", () => {
  it.live("a file is uploaded, found, read, replaced and deleted", () =>
    Effect.gen(function* () {
      const { emulator, loose } = yield* emulated()
      const { data } = yield* sdk(() =>
        loose.storage.uploadFile("a/b.txt", Buffer.from("one"), { contentType: "text/plain" })
      )
      const found = () =>
        sdk(() => untyped(loose, { $files: { $: { where: { path: "a/b.txt" } } } })).pipe(
          Effect.map(({ $files }) => $files?.[0])
        )
      const get = (url: unknown) =>
        sdk(async () => {
          const response = await fetch(String(url))
          return [response.status, response.headers.get("content-type"), await response.text()]
        })
      const first = yield* found()
      assert.deepInclude(first, { id: data.id, size: 3, "content-type": "text/plain" })
      assert.deepStrictEqual(yield* get(first?.url), [200, "text/plain", "one"])
      const again = yield* sdk(() => loose.storage.uploadFile("a/b.txt", Readable.from(["second"]), { fileSize: 6 }))
      assert.strictEqual(again.data.id, data.id)
      const second = yield* found()
      assert.strictEqual((yield* get(second?.url))[2], "second")
      assert.strictEqual((yield* get(first?.url))[0], 404)
      assert.strictEqual(yield* sdk(() => loose.storage.getDownloadUrl("a/b.txt")), second?.url)
      yield* refused(400, "validation-failed", () => loose.transact(row(loose.tx.$files, data.id).update({ size: 9 })))
      yield* refused(400, "validation-failed", () => loose.transact(row(loose.tx.$files, id()).update({ path: "x" })))
      yield* sdk(() => loose.transact(row(loose.tx.$files, data.id).update({ path: "c.txt" })))
      yield* sdk(() => loose.transact(row(loose.tx.$files, data.id).delete()))
      assert.strictEqual((yield* get(second?.url))[0], 404)
      assert.strictEqual(emulator.files(), 0)
    })
  )

  it.live("files are deleted by their paths", () =>
    Effect.gen(function* () {
      const { emulator, loose } = yield* emulated()
      for (const path of ["a", "b", "c"]) yield* sdk(() => loose.storage.uploadFile(path, Buffer.from(path)))
      assert.isString(at(yield* sdk(() => loose.storage.delete("a")), "data", "id"))
      assert.isNull(at(yield* sdk(() => loose.storage.delete("a")), "data", "id"))
      const many = yield* sdk(() => loose.storage.deleteMany(["b", "x"]))
      assert.lengthOf(many.data.ids ?? [], 1)
      assert.deepStrictEqual(
        (yield* sdk(() => loose.storage.list())).map(({ name }) => name),
        ["c"]
      )
      assert.strictEqual(emulator.files(), 1)
    })
  )

  it.live("users: tokens make them, are verified and revoked", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const token = yield* sdk(() => db.auth.createToken({ email: "a@b.c" }))
      const user = yield* sdk(() => db.auth.verifyToken(token))
      assert.strictEqual(user.email, "a@b.c")
      assert.strictEqual((yield* sdk(() => db.auth.getUser({ refresh_token: token })))?.id, user.id)
      assert.isNull(yield* sdk(() => db.auth.getUser({ email: "x@y.z" })))
      const second = yield* sdk(() => db.auth.createToken({ id: user.id }))
      yield* sdk(() => db.auth.signOut({ email: "a@b.c" }))
      yield* refused(400, "record-not-found", () => db.auth.verifyToken(second))
      yield* refused(400, "record-not-found", () => db.auth.createToken({ id: id() }))
      const sandbox = id()
      yield* sdk(() =>
        db.transact(row(db.tx.sandboxes, sandbox).create({ name: "a", state: "new" }).link({ user: user.id }))
      )
      assert.strictEqual(at(emulator.query({ sandboxes: { user: {} } }), "sandboxes", 0, "user", "email"), "a@b.c")
      assert.strictEqual((yield* sdk(() => db.auth.deleteUser({ id: user.id })))?.id, user.id)
      assert.isNull(at(emulator.query({ sandboxes: { user: {} } }), "sandboxes", 0, "user"))
      assert.isNull(yield* sdk(() => db.auth.deleteUser({ id: user.id })))
    })
  )
})
