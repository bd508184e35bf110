import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema, Stream } from "effect"
import type { ProcessId, SandboxId } from "../../src/model/Ids.ts"
import * as Ids from "../../src/model/Ids.ts"
import * as ProcessEvent from "../../src/model/ProcessEvent.ts"

const sandboxId: SandboxId = Schema.decodeSync(Ids.SandboxId)("00000000-0000-4000-8000-000000000001")
const processId: ProcessId = Schema.decodeSync(Ids.ProcessId)("00000000-0000-4000-8000-000000000002")
const base = { at: 5, sandboxId, processId }

const encode = Schema.encodeSync(ProcessEvent.ProcessEvent)
const decode = Schema.decodeUnknownEffect(ProcessEvent.ProcessEvent)

const stdout = (bytes: Uint8Array, seq = 1, offset = 0): ProcessEvent.ProcessEvent => ({
  ...base,
  _tag: "stdout",
  seq,
  offset,
  bytes
})
const text = (value: string) => new TextEncoder().encode(value)

describe("ProcessEvent", () => {
  it("writes well-formed text as text", () => {
    assert.deepStrictEqual(encode(stdout(text("grüße\n"), 3, 10)), {
      version: 1,
      at: 5,
      seq: 3,
      type: "stdout",
      sandboxId,
      processId,
      data: { offset: 10, text: "grüße\n" }
    })
  })

  it("writes NUL, malformed and cut UTF-8 as base64", () => {
    for (const bytes of [Uint8Array.of(0), Uint8Array.of(0xff, 0xfe), text("ü").subarray(0, 1)]) {
      const { data } = encode(stdout(bytes))
      assert.hasAllKeys(data, ["offset", "base64"])
    }
  })

  it.effect.prop(
    "keeps every byte through JSON",
    [Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 })))],
    ([numbers]) =>
      Effect.gen(function* () {
        const event = stdout(Uint8Array.from(numbers))
        const back = yield* decode(JSON.parse(JSON.stringify(encode(event))))
        assert.deepStrictEqual(back, event)
      })
  )

  it.effect("keeps a byte order mark", () =>
    Effect.gen(function* () {
      const event = stdout(Uint8Array.of(0xef, 0xbb, 0xbf, 0x61))
      assert.deepStrictEqual(yield* decode(JSON.parse(JSON.stringify(encode(event)))), event)
    })
  )

  it.effect("round-trips every other kind", () =>
    Effect.gen(function* () {
      const events: ReadonlyArray<ProcessEvent.ProcessEvent> = [
        { ...base, _tag: "status", seq: 1, status: "lost", reason: "stop" },
        { ...base, _tag: "exit", seq: 2, exit: { _tag: "Exited", code: 3 } },
        {
          ...base,
          _tag: "exit",
          seq: 3,
          exit: { _tag: "Signalled", signal: "SIGKILL", code: 137, reason: "deadline" }
        },
        { ...base, _tag: "error", seq: 4, text: "no" },
        { ...base, _tag: "heartbeat", seq: 5 },
        { ...base, _tag: "metadata", seq: 6, metadata: { a: [1] }, key: "k" }
      ]
      for (const event of events) {
        assert.deepStrictEqual(yield* decode(JSON.parse(JSON.stringify(encode(event)))), event)
      }
    })
  )

  it.effect("refuses data that does not fit its type", () =>
    Effect.gen(function* () {
      const { data: _, ...bare } = encode(stdout(text("x")))
      for (const data of [undefined, { offset: 0 }, { offset: 0, base64: "%%%" }, { offset: -1, text: "x" }]) {
        const exit = yield* Effect.exit(decode({ ...bare, ...(data === undefined ? {} : { data }) }))
        assert.strictEqual(exit._tag, "Failure")
      }
    })
  )

  it.effect("joins lines and characters across chunks", () =>
    Effect.gen(function* () {
      const bytes = text("eins\nzwöi\ndrei")
      const chunks = Array.from(bytes, (byte, index) => stdout(Uint8Array.of(byte), index + 1, index))
      const lines = yield* Stream.runCollect(ProcessEvent.lines(Stream.fromIterable(chunks)))
      assert.deepStrictEqual(lines, ["eins", "zwöi", "drei"])
    })
  )
})
