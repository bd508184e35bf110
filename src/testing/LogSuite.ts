/**
 * What every `ProcessLog` promises, as tests: call {@link suite} in a test file of yours with the layer of your store and log.
 * Peers: `vitest` and `@effect/vitest`. Nothing is deleted afterwards: give it a store of its own.
 */
import { assert, layer as sharedLayer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { ProcessRecord } from "../model/Process.ts"
import type { ProcessEvent } from "../model/ProcessEvent.ts"
import { isOutput } from "../model/ProcessEvent.ts"
import { ProcessLog } from "../services/ProcessLog.ts"
import { SandboxStore } from "../services/SandboxStore.ts"
import { chunk, chunks, failure, leasedProcess, newProcessId, processRecord } from "./internal/stores.ts"

const MiB = 1 << 20

const insert = (fields: Partial<ProcessRecord> = {}) =>
  Effect.flatMap(SandboxStore, (store) => store.insertProcess(leasedProcess(fields)))

const seqs = (events: ReadonlyArray<ProcessEvent>): Array<number> => events.map((event) => event.seq)

const range = (from: number, to: number): Array<number> =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index)

/** One event of every kind, numbered from 1. */
const everyKind = (process: ProcessRecord): Array<ProcessEvent> => {
  const base = { sandboxId: process.sandboxId, processId: process.id }
  return [
    { ...base, _tag: "status", seq: 1, at: 1, status: "running" },
    { ...base, _tag: "stdout", seq: 2, at: 2.5, offset: 0, bytes: new Uint8Array([0, 255, 10]), key: "k2" },
    { ...base, _tag: "stderr", seq: 3, at: 3, offset: 0, bytes: new TextEncoder().encode("ä\u{1F600}") },
    { ...base, _tag: "heartbeat", seq: 4, at: 4 },
    { ...base, _tag: "metadata", seq: 5, at: 5, metadata: { a: [1, null, { b: "c\u0000" }] } },
    { ...base, _tag: "error", seq: 6, at: 6, text: "it broke" },
    { ...base, _tag: "exit", seq: 7, at: 7, exit: { _tag: "Exited", code: 3 } },
    {
      ...base,
      _tag: "exit",
      seq: 8,
      at: 8,
      exit: { _tag: "Signalled", signal: "SIGTERM", code: 143, reason: "deadline" }
    },
    { ...base, _tag: "status", seq: 9, at: 9, status: "killed", reason: "deadline" }
  ]
}

/** What the suite may be told of the store. */
export interface Options {
  /** How many appends 20 followers read as they come; default 300. Each read may be a request over a network. */
  readonly quickAppends?: number | undefined
  /** How many appends race for the same seq, 20 at a time; default 100. */
  readonly racingAppends?: number | undefined
}

/** Registers the tests under `name`. */
export const suite = <E, R = never>(
  name: string,
  layer: Layer.Layer<SandboxStore | ProcessLog | R, E>,
  options: Options = {}
): void => {
  const quick = options.quickAppends ?? 300
  const racing = options.racingAppends ?? 100
  sharedLayer(layer)(`ProcessLog: ${name}`, (it) => {
    it.effect("every kind of event comes back as it was", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const events = everyKind(process)
        yield* log.append(process.id, 1, events)
        assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id)), events)
        assert.deepStrictEqual(
          yield* Stream.runCollect(log.read(process.id, { after: 4 })),
          events.filter((event) => event.seq > 4)
        )
        assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id, { after: 9 })), [])
        assert.deepStrictEqual(yield* log.lastPosition(process.id), { seq: 9, stdout: 3, stderr: 6 })
      })
    )

    it.effect("bytes are exact: NUL, invalid UTF-8, nothing at all, 5 MiB", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const large = new Uint8Array(5 * MiB)
        for (let index = 0; index < large.length; index++) large[index] = (index * 31 + (index >> 8)) & 255
        const all = [
          new Uint8Array([0]),
          new Uint8Array([0xc3, 0x28, 0xff, 0xfe, 0xed, 0xa0, 0x80]),
          new Uint8Array(0),
          Uint8Array.from({ length: 256 }, (_, index) => index),
          large,
          // A view into the middle of a buffer: only its own bytes count.
          large.subarray(1000, 1010)
        ]
        yield* log.append(process.id, 1, chunks(process, 1, all))
        const read = (yield* Stream.runCollect(log.read(process.id))).filter(isOutput)
        assert.strictEqual(read.length, all.length)
        for (const [index, event] of read.entries()) {
          const expected = all[index] ?? new Uint8Array(0)
          assert.strictEqual(event.bytes.length, expected.length)
          assert.isTrue(
            event.bytes.every((byte, at) => byte === expected[at]),
            `chunk ${index}`
          )
        }
        assert.strictEqual((yield* log.lastPosition(process.id)).stdout, 5 * MiB + 274)
      })
    )

    it.effect("what is read or was appended is not the log's own memory", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const bytes = new TextEncoder().encode("original")
        yield* log.append(process.id, 1, chunks(process, 1, [bytes]))
        bytes.fill(0)
        for (const event of (yield* Stream.runCollect(log.read(process.id))).filter(isOutput)) {
          assert.strictEqual(new TextDecoder().decode(event.bytes), "original")
          event.bytes.fill(0)
        }
        for (const event of (yield* Stream.runCollect(log.read(process.id))).filter(isOutput)) {
          assert.strictEqual(new TextDecoder().decode(event.bytes), "original")
        }
      })
    )

    it.effect("an unknown process is NotFound", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const unknown = leasedProcess()
        assert.strictEqual(yield* failure(log.append(unknown.id, 1, [chunk(unknown, 1, "a")])), "NotFound")
        assert.strictEqual(yield* failure(Stream.runDrain(log.read(unknown.id))), "NotFound")
        assert.strictEqual(yield* failure(Stream.runDrain(log.read(unknown.id, { follow: true }))), "NotFound")
        assert.strictEqual(yield* failure(log.lastPosition(unknown.id)), "NotFound")
        assert.strictEqual(yield* failure(log.findKey(unknown.id, "k")), "NotFound")
      })
    )

    it.effect("an empty log ends at 0", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        assert.deepStrictEqual(yield* log.lastPosition(process.id), { seq: 0, stdout: 0, stderr: 0 })
        assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id)), [])
      })
    )

    it.effect("the same events again are a no-op, alone and in front of new ones", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const events = everyKind(process)
        yield* log.append(process.id, 1, events.slice(0, 6))
        yield* log.append(process.id, 1, events.slice(0, 6))
        yield* log.append(process.id, 1, events.slice(2, 4))
        yield* log.append(process.id, 1, events.slice(3))
        assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id)), events)
        assert.deepStrictEqual(yield* log.lastPosition(process.id), { seq: 9, stdout: 3, stderr: 6 })
      })
    )

    it.effect("another content under a known seq, a gap or a disorder is LogConflict and writes nothing", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const first = chunk(process, 1, "one")
        const second = chunk(process, 2, "two", 3)
        yield* log.append(process.id, 1, [first, second])
        const third = chunk(process, 3, "three", 6)
        const conflicts: ReadonlyArray<ReadonlyArray<ProcessEvent>> = [
          [chunk(process, 2, "TWO", 3)],
          [{ ...second, at: 1 }],
          [chunk(process, 2, "two", 4)],
          [{ ...second, key: "k" }],
          [{ ...second, _tag: "stderr" }],
          [{ _tag: "heartbeat", at: second.at, seq: 2, sandboxId: process.sandboxId, processId: process.id }],
          [chunk(process, 4, "gap")],
          [chunk(process, 0, "zero")],
          [chunk(process, -1, "negative")],
          [third, chunk(process, 5, "gap inside", 11)],
          [third, third],
          [third, second],
          // The conflict is in the second; the first of them must not stay.
          [chunk(process, 1, "ONE"), second, third],
          [{ ...third, processId: newProcessId() }]
        ]
        for (const [index, events] of conflicts.entries()) {
          assert.strictEqual(yield* failure(log.append(process.id, 1, events)), "Store(LogConflict)", `case ${index}`)
        }
        assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id)), [first, second])
        assert.deepStrictEqual(yield* log.lastPosition(process.id), { seq: 2, stdout: 6, stderr: 0 })
      })
    )

    it.effect("of racing appends of one seq one wins, and the log has no gap", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const appendOne = (index: number) =>
          Effect.gen(function* () {
            const { seq, stdout } = yield* log.lastPosition(process.id)
            yield* Effect.yieldNow
            yield* log.append(process.id, 1, [chunk(process, seq + 1, `<${index}>`, stdout)])
          }).pipe(Effect.retry({ while: ({ reason }) => reason._tag === "Store" && reason.kind === "LogConflict" }))
        yield* Effect.forEach(range(1, racing), appendOne, { concurrency: 20, discard: true })
        const events = (yield* Stream.runCollect(log.read(process.id))).filter(isOutput)
        assert.deepStrictEqual(seqs(events), range(1, racing))
        const texts = events.map((event) => new TextDecoder().decode(event.bytes))
        assert.strictEqual(new Set(texts).size, racing, "nothing is there twice")
        let offset = 0
        for (const event of events) {
          assert.strictEqual(event.offset, offset)
          offset += event.bytes.length
        }
      })
    )

    it.effect("an append of an older epoch is LeaseLost, also one of a newer or of none", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const store = yield* SandboxStore
        const process = yield* insert()
        yield* store.acquireProcessLease(process.id, { owner: "successor", ttl: "1 minute", steal: true })
        for (const epoch of [1, 3, 0]) {
          assert.strictEqual(
            yield* failure(log.append(process.id, epoch, [chunk(process, 1, "late")], { status: "exited" })),
            "Store(LeaseLost)"
          )
        }
        yield* log.append(process.id, 2, [chunk(process, 1, "mine")])
        assert.deepInclude(yield* store.getProcess(process.id), { status: "running", version: 2 })
        const free = yield* store.insertProcess(processRecord())
        assert.strictEqual(yield* failure(log.append(free.id, 1, [chunk(free, 1, "a")])), "Store(LeaseLost)")
        yield* log.append(free.id, 0, [chunk(free, 1, "a")])
      })
    )

    it.effect("a paused owner can add nothing once its successor has begun", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const store = yield* SandboxStore
        const process = yield* insert()
        const paused = yield* Deferred.make<void>()
        const written = yield* Deferred.make<void>()
        const owner = yield* Effect.gen(function* () {
          for (const seq of range(1, 10)) yield* log.append(process.id, 1, [chunk(process, seq, `a${seq}`)])
          yield* Deferred.succeed(written, undefined)
          yield* Deferred.await(paused)
          return yield* failure(log.append(process.id, 1, [chunk(process, 11, "after the pause")]))
        }).pipe(Effect.forkChild)
        yield* Deferred.await(written)
        const taken = yield* store.acquireProcessLease(process.id, { owner: "successor", ttl: "1 minute", steal: true })
        const { seq } = yield* log.lastPosition(process.id)
        assert.strictEqual(seq, 10)
        yield* log.append(process.id, taken.lease?.epoch ?? 0, [chunk(process, seq + 1, "successor")])
        yield* Deferred.succeed(paused, undefined)
        assert.strictEqual(yield* Fiber.join(owner), "Store(LeaseLost)")
        const events = yield* Stream.runCollect(log.read(process.id))
        assert.deepStrictEqual(seqs(events), range(1, 11))
        assert.deepStrictEqual(events.at(-1), chunk(process, 11, "successor"))
      })
    )

    it.effect("an owner and its successor that race leave no gap and no event twice", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const store = yield* SandboxStore
        const process = yield* insert()
        const write = (epoch: number, owner: string) =>
          Effect.gen(function* () {
            let wrote = 0
            while (wrote < 50) {
              const { seq } = yield* log.lastPosition(process.id)
              yield* Effect.yieldNow
              yield* log.append(process.id, epoch, [chunk(process, seq + 1, `${owner}${wrote}`)])
              wrote++
            }
          }).pipe(Effect.result)
        const first = yield* Effect.forkChild(write(1, "first"), { startImmediately: true })
        yield* Effect.yieldNow
        yield* store.acquireProcessLease(process.id, { owner: "successor", ttl: "1 minute", steal: true })
        const second = yield* write(2, "second")
        assert.strictEqual(second._tag, "Success")
        yield* Fiber.join(first)
        const events = (yield* Stream.runCollect(log.read(process.id))).filter(isOutput)
        assert.deepStrictEqual(seqs(events), range(1, events.length))
        const owners = events.map((event) => new TextDecoder().decode(event.bytes).startsWith("first"))
        assert.isFalse(
          owners.slice(owners.indexOf(false)).includes(true),
          "nothing of the first after the second began"
        )
      })
    )

    it.effect("events and the patch of the record are written together, or neither is", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const store = yield* SandboxStore
        const process = yield* insert({ externalProcessId: "pid" })
        yield* log.append(process.id, 1, [chunk(process, 1, "a")])
        assert.strictEqual((yield* store.getProcess(process.id)).version, 1, "events alone are no new version")
        yield* log.append(process.id, 1, [chunk(process, 2, "b")], {
          status: "exited",
          exitCode: 0,
          externalProcessId: undefined,
          lease: { owner: "writer", epoch: 1, expiresAt: 0 }
        })
        const record = yield* store.getProcess(process.id)
        assert.deepInclude(record, { version: 2, status: "exited", exitCode: 0 })
        assert.isFalse("externalProcessId" in record)
        assert.deepStrictEqual(record.lease, { owner: "writer", epoch: 1, expiresAt: 0 })
        assert.strictEqual(
          yield* failure(log.append(process.id, 1, [chunk(process, 4, "gap")], { status: "lost" })),
          "Store(LogConflict)"
        )
        assert.strictEqual(
          yield* failure(
            log.append(process.id, 1, [chunk(process, 3, "new"), chunk(process, 9, "gap")], { status: "lost" })
          ),
          "Store(LogConflict)"
        )
        assert.deepStrictEqual(yield* store.getProcess(process.id), record)
        assert.strictEqual((yield* log.lastPosition(process.id)).seq, 2)
        // A version that somebody read before is a Conflict now.
        assert.strictEqual(yield* failure(store.updateProcess(process.id, 1, { status: "lost" })), "Store(Conflict)")
        // Without events it is a patch that the epoch fences.
        yield* log.append(process.id, 1, [], { streamAbortReason: "why" })
        assert.deepInclude(yield* store.getProcess(process.id), { version: 3, streamAbortReason: "why" })
        assert.deepStrictEqual(
          yield* Effect.map(
            Stream.runCollect(store.listProcesses({ sandboxId: process.sandboxId, status: ["exited"] })),
            (list) => list.map((one) => one.id)
          ),
          [process.id]
        )
      })
    )

    it.effect("an event is found by its key, and a key is there once", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const other = yield* insert()
        const keyed: ProcessEvent = { ...chunk(process, 1, "a"), key: 'Schlüssel "1"' }
        yield* log.append(process.id, 1, [keyed, chunk(process, 2, "b"), { ...chunk(process, 3, "c"), key: "" }])
        assert.deepStrictEqual(yield* log.findKey(process.id, 'Schlüssel "1"'), Option.some(keyed))
        assert.deepStrictEqual(yield* log.findKey(process.id, ""), Option.some({ ...chunk(process, 3, "c"), key: "" }))
        assert.deepStrictEqual(yield* log.findKey(process.id, "unknown"), Option.none())
        assert.deepStrictEqual(yield* log.findKey(other.id, 'Schlüssel "1"'), Option.none())
        yield* log.append(other.id, 1, [{ ...chunk(other, 1, "a"), key: 'Schlüssel "1"' }])
        for (const events of [
          [{ ...chunk(process, 4, "d"), key: 'Schlüssel "1"' }],
          [
            { ...chunk(process, 4, "d"), key: "twice" },
            { ...chunk(process, 5, "e"), key: "twice" }
          ]
        ]) {
          assert.strictEqual(
            yield* failure(log.append(process.id, 1, events, { status: "lost" })),
            "Store(LogConflict)"
          )
        }
        assert.strictEqual((yield* log.lastPosition(process.id)).seq, 3)
        assert.strictEqual((yield* (yield* SandboxStore).getProcess(process.id)).status, "running")
      })
    )

    it.effect("a large log is read in bounded pages", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const size = 256 * 1024
        for (let batch = 0; batch < 10; batch++) {
          // Printable: what a log makes of other bytes is another test's.
          const bytes = range(1, 8).map((index) => new Uint8Array(size).fill(40 + batch * 8 + index))
          yield* log.append(process.id, 1, chunks(process, batch * 8 + 1, bytes, batch * 8 * size))
        }
        // Many small ones in one append, behind the large ones.
        const small = range(1, 2500).map((index) => new TextEncoder().encode(`${index}\n`))
        yield* log.append(process.id, 1, chunks(process, 81, small, 80 * size))
        const pages: Array<number> = []
        let next = 0
        yield* Stream.runForEachArray(log.read(process.id), (events) =>
          Effect.sync(() => {
            pages.push(events.filter(isOutput).reduce((sum, event) => sum + event.bytes.length, 0))
            for (const event of events) assert.strictEqual(event.seq, ++next)
          })
        )
        assert.strictEqual(next, 2580)
        assert.isAtLeast(pages.length, 20)
        assert.isAtMost(Math.max(...pages), 1.25 * MiB)
        assert.strictEqual(
          pages.reduce((sum, bytes) => sum + bytes, 0),
          (yield* log.lastPosition(process.id)).stdout
        )
        const early = yield* Stream.runCollect(Stream.take(log.read(process.id, { after: 79 }), 2))
        assert.deepStrictEqual(seqs(early), [80, 81])
      })
    )

    // The test clock stands still in what follows, so that nothing but a wake-up gets a follower on.

    it.effect("a follower sees every append as it comes and ends when the process is terminal", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        yield* log.append(process.id, 1, [chunk(process, 1, "before")])
        const seen = yield* Queue.unbounded<number>()
        const follower = yield* log.read(process.id, { follow: true }).pipe(
          Stream.runForEach((event) => Queue.offer(seen, event.seq)),
          Effect.forkChild
        )
        assert.strictEqual(yield* Queue.take(seen), 1)
        for (const seq of range(2, 30)) {
          yield* log.append(process.id, 1, [chunk(process, seq, "live")])
          assert.strictEqual(yield* Queue.take(seen), seq)
        }
        const last = chunk(process, 31, "last")
        yield* log.append(process.id, 1, [last], { status: "exited" })
        yield* Fiber.join(follower)
        assert.deepStrictEqual(yield* Queue.takeAll(seen), [31])
      })
    )

    it.effect("following a process that has ended yields its log and ends", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        yield* log.append(process.id, 1, [chunk(process, 1, "a"), chunk(process, 2, "b")], { status: "lost" })
        assert.deepStrictEqual(seqs(yield* Stream.runCollect(log.read(process.id, { follow: true }))), [1, 2])
        assert.deepStrictEqual(seqs(yield* Stream.runCollect(log.read(process.id, { follow: true, after: 2 }))), [])
      })
    )

    it.effect("an end without an event ends a follower too", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const follower = yield* Effect.forkChild(Stream.runCollect(log.read(process.id, { follow: true })), {
          startImmediately: true
        })
        yield* Effect.yieldNow
        yield* log.append(process.id, 1, [], { status: "killed" })
        assert.deepStrictEqual(yield* Fiber.join(follower), [])
      })
    )

    it.effect("no wake-up is lost: many followers of many quick appends", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        const followers = yield* Effect.forEach(range(1, 20), (index) =>
          log.read(process.id, { follow: true, after: index % 3 }).pipe(
            // Some read slower than others, so that appends fall between their reads.
            Stream.tap(() => (index % 2 === 0 ? Effect.yieldNow : Effect.void)),
            Stream.runCollect,
            Effect.map((events) => [index % 3, seqs(events)] as const),
            Effect.forkChild({ startImmediately: true })
          )
        )
        for (const seq of range(1, quick)) {
          yield* log.append(process.id, 1, [chunk(process, seq, "x")])
          if (seq % 7 === 0) yield* Effect.yieldNow
        }
        yield* log.append(process.id, 1, [chunk(process, quick + 1, "end")], { status: "exited" })
        for (const follower of followers) {
          const [after, read] = yield* Fiber.join(follower)
          assert.deepStrictEqual(read, range(after + 1, quick + 1))
        }
      })
    )

    it.effect("a follower that is interrupted, or has enough, ends at once and harms nobody", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const process = yield* insert()
        yield* log.append(process.id, 1, [chunk(process, 1, "a")])
        const follow = log.read(process.id, { follow: true })
        const stopped = yield* Effect.forkChild(Stream.runDrain(follow), { startImmediately: true })
        const stays = yield* Effect.forkChild(Stream.runCollect(follow), { startImmediately: true })
        assert.deepStrictEqual(seqs(yield* Stream.runCollect(Stream.take(follow, 1))), [1])
        yield* Effect.yieldNow
        yield* Fiber.interrupt(stopped)
        yield* log.append(process.id, 1, [chunk(process, 2, "b")], { status: "exited" })
        assert.deepStrictEqual(seqs(yield* Fiber.join(stays)), [1, 2])
      })
    )

    it.effect("the log of a process that is deleted goes with it, and no other", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const log = yield* ProcessLog
        const gone = yield* insert()
        const kept = yield* insert()
        for (const process of [gone, kept]) yield* log.append(process.id, 1, [chunk(process, 1, "text")])
        yield* store.deleteProcess(gone.id, gone.version ?? 0)
        assert.strictEqual(yield* failure(Stream.runCollect(log.read(gone.id))), "NotFound")
        assert.strictEqual(yield* failure(log.lastPosition(gone.id)), "NotFound")
        assert.strictEqual(yield* failure(log.append(gone.id, 1, [chunk(gone, 2, "late", 4)])), "NotFound")
        assert.deepStrictEqual(yield* Stream.runCollect(log.read(kept.id)), [chunk(kept, 1, "text")])
      })
    )

    it.effect("logs of different processes do not mix", () =>
      Effect.gen(function* () {
        const log = yield* ProcessLog
        const processes = yield* Effect.forEach(range(1, 10), () => insert())
        yield* Effect.forEach(
          processes,
          (process) =>
            Effect.forEach(range(1, 20), (seq) => log.append(process.id, 1, [chunk(process, seq, process.id)])),
          { concurrency: "unbounded", discard: true }
        )
        for (const process of processes) {
          const events = yield* Stream.runCollect(log.read(process.id))
          assert.deepStrictEqual(
            events,
            range(1, 20).map((seq) => chunk(process, seq, process.id))
          )
        }
      })
    )
  })
}
