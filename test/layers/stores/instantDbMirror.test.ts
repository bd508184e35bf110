/** The copy of a log in an Instant stream, read with the vendor's own reader. */
import { init } from "@instantdb/admin"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Logger, Schema, Stream } from "effect"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import type { ProcessId } from "../../../src/model/Ids.ts"
import type * as InstantDb from "../../../src/layers/stores/InstantDb.ts"
import * as Fake from "../../../src/layers/providers/Fake.ts"
import { Copy, lineOf } from "../../../src/layers/stores/instantdb/mirror.ts"
import { schema } from "../../../src/layers/stores/InstantDbSchema.ts"
import { encode, Encoded, type ProcessEvent } from "../../../src/model/ProcessEvent.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import * as ProviderRegistry from "../../../src/services/ProviderRegistry.ts"
import { SandboxService } from "../../../src/services/SandboxService.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { chunk, chunks, failure, leasedProcess } from "../../../src/testing/internal/stores.ts"
import * as Faults from "../../emulators/instantdb/faults.ts"
import { instance, Server, server, store } from "./instantDbSupport.ts"

const decodeLine = Schema.decodeUnknownEffect(Schema.fromJsonString(Encoded))

/** For what tells nobody; a look takes the server's time, so that there is a moment between them. */
const until = <E, R>(holds: Effect.Effect<boolean, E, R>) =>
  Effect.gen(function* () {
    while (!(yield* holds)) yield* Effect.sleep("3 millis")
  }).pipe(Effect.timeout("20 seconds"))

/** The stream's record, as a query shows it. */
const streamOf = (processId: ProcessId) =>
  Effect.map(Server, ({ query }) => {
    const [stream] =
      query({ $streams: { $: { where: { clientId: `sandbox-process:${processId}` } } } })["$streams"] ?? []
    return stream
  })

const isDone = (processId: ProcessId) => Effect.map(streamOf(processId), (stream) => stream?.["done"] === true)

/** The events that a browser of the original's would see: the vendor's reader, to the end. */
const readStream = (processId: ProcessId) =>
  Effect.gen(function* () {
    const { config } = yield* Server
    const text = yield* Effect.promise(async () => {
      const db = init({ ...config, schema })
      let text = ""
      for await (const part of db.streams.createReadStream({ clientId: `sandbox-process:${processId}` })) text += part
      return text
    })
    const lines = text.split("\n")
    assert.strictEqual(lines.pop(), "")
    return yield* Effect.forEach(lines, (line) => decodeLine(line))
  })

const another = (options: InstantDb.ConfigOptions = {}) =>
  Effect.map(Layer.build(Layer.fresh(instance({ mirror: true, ...options }))), (context) => ({
    store: Context.get(context, SandboxStore),
    log: Context.get(context, ProcessLog)
  }))

const mirrored = store({ mirror: true })

const service = SandboxService.layer.pipe(
  Layer.provide(
    ProviderRegistry.layer([
      Fake.make({ commands: { say: () => Stream.make(Fake.stdout("hello\n"), Fake.stdout("ä")) } })
    ])
  )
)

describe("the mirror", () => {
  it.live("holds the same events, and the record says where it is", () =>
    Effect.gen(function* () {
      const { query } = yield* Server
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const process = yield* store.insertProcess(leasedProcess({ streamId: "none yet" }))
      const bytes = [[0], [0xc3, 0x28], [...new TextEncoder().encode("ä\u{1F600}\n")], []]
      const events: ReadonlyArray<ProcessEvent> = [
        ...chunks(
          process,
          1,
          bytes.map((one) => Uint8Array.from(one))
        ),
        { _tag: "error", at: 1, seq: 5, sandboxId: process.sandboxId, processId: process.id, text: "lone \ud800" }
      ]
      yield* log.append(process.id, 1, events.slice(0, 2))
      yield* log.append(process.id, 1, events.slice(2), { status: "exited", exitCode: 0 })
      yield* until(isDone(process.id))
      const stream = yield* streamOf(process.id)
      yield* until(Effect.map(store.getProcess(process.id), ({ streamId }) => streamId === stream?.id))
      const record = yield* store.getProcess(process.id)
      assert.deepInclude(record, { streamClientId: `sandbox-process:${process.id}`, status: "exited", version: 2 })
      const [linked] =
        query({ sandbox_processes: { $: { where: { id: process.id } }, stream: {} } })["sandbox_processes"] ?? []
      assert.include(JSON.stringify(linked?.["stream"]), record.streamId ?? "no stream")
      assert.deepStrictEqual(yield* readStream(process.id), events.map(encode))
    }).pipe(Effect.provide(mirrored))
  )

  it.live("is where the result of a run says, also of one that goes on", () =>
    Effect.gen(function* () {
      const { config } = yield* Server
      const log = yield* ProcessLog
      const store = yield* SandboxStore
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ provider: "fake" })
      for (const mode of ["foreground", "background"] as const) {
        const { processId, streamClientId, streamId } = yield* sandboxes.runCommandWithProcessStream(
          sandboxId,
          "say",
          [],
          {
            mode
          }
        )
        assert.strictEqual(streamId, (yield* store.getProcess(processId)).streamId)
        assert.strictEqual(streamClientId, `sandbox-process:${processId}`)
        const db = init({ ...config, schema })
        const read = yield* Effect.promise(async () => {
          let text = ""
          for await (const part of db.streams.createReadStream({ streamId })) text += part
          return text
        })
        const events = yield* Stream.runCollect(log.read(processId))
        assert.strictEqual(read, events.map(lineOf).join(""))
        assert.include(
          events.map(({ _tag }) => _tag),
          "exit"
        )
      }
    }).pipe(Effect.provide(Layer.provideMerge(service, mirrored)))
  )

  it.live("goes on through connections that break, without loss or repetition", () =>
    Effect.gen(function* () {
      const { faults } = yield* Server
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const process = yield* store.insertProcess(leasedProcess())
      const text = "0123456789abcdef".repeat(4096)
      // In the middle of its first message, and then of its second.
      faults.inject("sse", Faults.torn(60))
      faults.inject("sse", Faults.torn(300))
      let pushes = 0
      const breaks: ReadonlyArray<Faults.Fault> = [Faults.resetAfter, Faults.serverError(502), Faults.resetBefore]
      faults.choose((endpoint) =>
        endpoint === "sse.push" && ++pushes % 4 === 0 ? breaks[(pushes / 4) % breaks.length] : undefined
      )
      for (let seq = 1; seq <= 40; seq++) {
        yield* log.append(process.id, 1, [chunk(process, seq, text, (seq - 1) * text.length)])
      }
      yield* log.append(process.id, 1, [chunk(process, 41, "end", 40 * text.length)], { status: "exited" })
      yield* until(isDone(process.id))
      assert.isAbove(pushes, 8)
      assert.strictEqual(faults.pending, 0)
      const read = yield* readStream(process.id)
      assert.deepStrictEqual(
        read.map(({ seq }) => seq),
        Array.from({ length: 41 }, (_, index) => index + 1)
      )
      assert.deepStrictEqual(read, (yield* Stream.runCollect(log.read(process.id))).map(encode))
    }).pipe(Effect.provide(mirrored))
  )

  it.live("is gone on with by another service, from the byte that the server has kept", () =>
    Effect.gen(function* () {
      const first = yield* another().pipe(
        Effect.flatMap(({ log, store }) =>
          Effect.gen(function* () {
            const process = yield* store.insertProcess(leasedProcess())
            yield* log.append(process.id, 1, [chunk(process, 1, "one"), chunk(process, 2, "two", 3)])
            yield* until(Effect.map(store.getProcess(process.id), ({ streamId }) => streamId !== undefined))
            yield* log.append(process.id, 1, [chunk(process, 3, "three", 6)])
            return process
          })
        ),
        Effect.scoped
      )
      const { log, store } = yield* another()
      yield* store.acquireProcessLease(first.id, { owner: "second", ttl: "1 minute", steal: true })
      yield* log.append(first.id, 2, [chunk(first, 4, "four", 11)], { status: "exited" })
      yield* until(isDone(first.id))
      assert.deepStrictEqual(yield* readStream(first.id), (yield* Stream.runCollect(log.read(first.id))).map(encode))
    }).pipe(Effect.provide(server))
  )

  it.live("is ended by the next service that starts, where the one that ended the process could not", () =>
    Effect.gen(function* () {
      const { faults } = yield* Server
      const long = leasedProcess({ updatedAt: 1 })
      const justNow = leasedProcess({ updatedAt: Date.now() })
      const events = [chunk(long, 1, "one"), chunk(long, 2, "two", 3)]
      faults.choose((endpoint, { json }) =>
        endpoint === "sse.push" && /"done":true|two/.test(JSON.stringify(json)) ? Faults.resetBefore : undefined
      )
      yield* another().pipe(
        Effect.flatMap(({ log, store }) =>
          Effect.forEach([long, justNow], (process) =>
            Effect.gen(function* () {
              yield* store.insertProcess(process)
              yield* log.append(process.id, 1, [chunk(process, 1, "one")])
              yield* until(Effect.map(store.getProcess(process.id), ({ streamId }) => streamId !== undefined))
              yield* log.append(process.id, 1, [chunk(process, 2, "two", 3)], { status: "exited" })
            })
          )
        ),
        Effect.scoped
      )
      faults.choose(undefined)
      assert.isFalse(yield* isDone(long.id))
      yield* another()
      yield* until(isDone(long.id))
      assert.deepStrictEqual(yield* readStream(long.id), events.map(encode))
      // Its own service may be at it.
      assert.isFalse(yield* isDone(justNow.id))
    }).pipe(Effect.provide(server))
  )

  it.live("is ended once by services that do it at once, and none of them complains", () =>
    Effect.gen(function* () {
      const { holdFlushes } = yield* Server
      const warnings: Array<unknown> = []
      const logger = Logger.make(({ message }) => void warnings.push(message))
      const process = leasedProcess({ updatedAt: 1 })
      const events = [chunk(process, 1, "one"), chunk(process, 2, "two", 3)]
      yield* Effect.gen(function* () {
        const { log, store } = yield* another()
        yield* store.insertProcess(process)
        yield* log.append(process.id, 1, events.slice(0, 1))
        yield* log.streamOf(process.id)
        const release = holdFlushes()
        yield* log.append(process.id, 1, events.slice(1), { status: "exited" })
        // Whose clocks, as it were, go ahead.
        const others = yield* Effect.forEach([1, 2], () => Effect.forkScoped(another()))
        yield* Effect.forEach(others, Fiber.join)
        yield* Effect.sleep("50 millis")
        release()
        yield* until(isDone(process.id))
        // Whoever has lost it connects anew, and is told.
        yield* Effect.sleep("600 millis")
      }).pipe(Effect.provide(Logger.layer([logger])), Effect.scoped)
      assert.deepStrictEqual(yield* readStream(process.id), events.map(encode))
      assert.deepStrictEqual(warnings, [])
    }).pipe(Effect.provide(server))
  )

  it.live("is left to the service that has taken the process over", () =>
    Effect.gen(function* () {
      const first = yield* another()
      const second = yield* another()
      const process = yield* first.store.insertProcess(leasedProcess())
      yield* first.log.append(process.id, 1, [chunk(process, 1, "one")])
      yield* until(Effect.map(first.store.getProcess(process.id), ({ streamId }) => streamId !== undefined))
      yield* second.store.acquireProcessLease(process.id, { owner: "second", ttl: "1 minute", steal: true })
      yield* second.log.append(process.id, 2, [chunk(process, 2, "two", 3)])
      assert.strictEqual(
        yield* failure(first.log.append(process.id, 1, [chunk(process, 3, "late", 6)])),
        "Store(LeaseLost)"
      )
      yield* second.log.append(process.id, 2, [chunk(process, 3, "three", 6)], { status: "exited" })
      yield* until(isDone(process.id))
      assert.deepStrictEqual(
        (yield* readStream(process.id)).map(({ seq }) => seq),
        [1, 2, 3]
      )
    }).pipe(Effect.provide(server))
  )

  it.live("is of one namespace, also where another one has a process of that id", () =>
    Effect.gen(function* () {
      const staging = yield* another({ namespace: "staging" })
      const production = yield* another({ namespace: "production" })
      const process = leasedProcess()
      const events = [chunk(process, 1, "of staging"), chunk(process, 2, "its end", 10)]
      for (const { store } of [staging, production]) yield* store.insertProcess(process)
      yield* staging.log.append(process.id, 1, events.slice(0, 1))
      const streamId = yield* staging.log.streamOf(process.id)
      yield* production.log.append(process.id, 1, [chunk(process, 1, "of production")], { status: "exited" })
      // Once it is known that it gets none.
      assert.strictEqual((yield* production.log.streamOf(process.id))._tag, "None")
      assert.isFalse(yield* isDone(process.id))
      yield* staging.log.append(process.id, 1, events.slice(1), { status: "exited" })
      yield* until(isDone(process.id))
      assert.deepStrictEqual(yield* readStream(process.id), events.map(encode))
      assert.deepInclude(yield* streamOf(process.id), { id: streamId._tag === "Some" ? streamId.value : "" })
    }).pipe(Effect.provide(server))
  )

  it.live("leaves nothing open for a process that was deleted", () =>
    Effect.gen(function* () {
      const { connections, transact } = yield* Server
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const process = yield* store.insertProcess(leasedProcess())
      yield* log.append(process.id, 1, [chunk(process, 1, "one")])
      yield* until(Effect.map(store.getProcess(process.id), ({ streamId }) => streamId !== undefined))
      transact([["delete", "sandbox_processes", process.id, null]])
      assert.strictEqual(yield* failure(log.append(process.id, 1, [chunk(process, 2, "two", 3)])), "NotFound")
      yield* until(Effect.sync(() => connections() === 0))
    }).pipe(Effect.provide(mirrored))
  )

  it.live("never fails the process, nor holds it up: without a stream server it is a log like any other", () =>
    Effect.gen(function* () {
      const { faults, requests } = yield* Server
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      faults.choose((endpoint) =>
        endpoint === "sse" ? Faults.silent({ executed: false }) : endpoint === "sse.push" ? Faults.html() : undefined
      )
      const process = yield* store.insertProcess(leasedProcess())
      for (let seq = 1; seq <= 20; seq++) yield* log.append(process.id, 1, [chunk(process, seq, "x", seq - 1)])
      yield* log.append(process.id, 1, [], { status: "exited" })
      assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 20)
      assert.strictEqual(requests.count("transact"), 23)
      assert.strictEqual((yield* store.getProcess(process.id)).status, "exited")
    }).pipe(Effect.provide(mirrored))
  )

  it("remembers a MiB of what is to be sent and a thousand lines' ends, however much is appended", () => {
    const copy = new Copy()
    const process = leasedProcess()
    const stored = { entityId: process.id, revision: 1, row: { id: process.id, version: 1, status: "running" } }
    const bytes = [new Uint8Array(100_000)]
    for (let seq = 1; seq <= 5000; seq++) {
      copy.add(chunks(process, seq, bytes), { ...stored, log: { seq, stdout: 0, stderr: 0 } })
      assert.isAtMost(copy.weight, 1 << 20)
      assert.isAtMost(copy.pending.length, 11)
      copy.mark(seq, seq * 10, 0)
    }
    assert.deepStrictEqual([copy.lastSeq, copy.hasEnded], [5000, false])
    assert.isAtMost(copy.markCount, 1024)
    // Whatever was thinned out, there is a place to go on from.
    for (const offset of [0, 5, 777, 49_999, 50_000]) assert.isAtMost(copy.before(offset).offset, offset)
    copy.mark(5001, 50_010, 50_000)
    assert.isAtMost(copy.markCount, 3)
    assert.isAtMost(copy.before(50_009).offset, 50_000)
  })

  it.live(
    "holds back while the server takes nothing, and reads the log for what it left out",
    () =>
      Effect.gen(function* () {
        const { faults, requests } = yield* Server
        const store = yield* SandboxStore
        const log = yield* ProcessLog
        let open: () => void = () => {}
        faults.inject("sse.push", Faults.gate({ before: new Promise<void>((resolve) => (open = resolve)) }), {
          skip: 1
        })
        const process = yield* store.insertProcess(leasedProcess())
        const part = new Uint8Array(1 << 20).fill(97)
        for (let seq = 1; seq <= 8; seq++) {
          yield* log.append(process.id, 1, chunks(process, seq, [part], (seq - 1) * part.length))
        }
        // The start of the stream, and one message that has no answer yet: nothing is piled up behind it.
        assert.isAtMost(requests.count("sse.push"), 2)
        open()
        yield* log.append(process.id, 1, [], { status: "exited" })
        yield* until(isDone(process.id))
        const read = yield* readStream(process.id)
        assert.deepStrictEqual(
          read.map(({ seq }) => seq),
          Array.from({ length: 8 }, (_, index) => index + 1)
        )
      }).pipe(Effect.provide(mirrored)),
    60_000
  )

  it.live("lets a program exit at once, with a process that is still open, and a write that was never answered", () =>
    Effect.gen(function* () {
      const { config, faults } = yield* Server
      let isDead = false
      faults.choose((endpoint, { json }) => {
        isDead ||= endpoint === "transact" && JSON.stringify(json).includes('"sandbox_sandboxes"')
        return isDead ? Faults.silent({ executed: false }) : undefined
      })
      const script = fileURLToPath(new URL("../../fixtures/instantDbMirror.ts", import.meta.url))
      const { stdout } = yield* Effect.promise(() =>
        promisify(execFile)(process.execPath, [script, config.apiURI, config.appId, config.adminToken], {
          timeout: 25_000
        })
      )
      const [failed, ...times] = stdout.trim().split("\n")
      assert.strictEqual(failed, "Store(OutcomeUnknown)")
      const [closed = 0, exited = 0] = times.map(Number)
      assert.isAbove(closed, 0)
      assert.isBelow(exited - closed, 1000, "nothing kept it")
    }).pipe(Effect.provide(server))
  )
})
