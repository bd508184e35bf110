import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Capped } from "../../src/services/internal/capped.ts"

const collect = (cap: number, chunks: ReadonlyArray<Uint8Array>) => {
  const capped = new Capped(cap)
  for (const chunk of chunks) capped.push(chunk)
  return capped.finish()
}
const bytes = (text: string) => new TextEncoder().encode(text)

describe("Capped", () => {
  it("keeps everything up to the cap", () => {
    assert.deepStrictEqual(collect(6, [bytes("abc"), bytes("def")]), { text: "abcdef", truncated: 0 })
    assert.deepStrictEqual(collect(0, []), { text: "", truncated: 0 })
  })

  it("keeps the first and the last half and counts what is missing", () => {
    assert.deepStrictEqual(collect(6, [bytes("abcdefghij")]), { text: "abchij", truncated: 4 })
    assert.deepStrictEqual(collect(0, [bytes("abc")]), { text: "", truncated: 3 })
    assert.deepStrictEqual(collect(1, [bytes("abc")]), { text: "a", truncated: 2 })
  })

  it("cuts at character borders, not inside them", () => {
    // Each ü is two bytes, so halves of three bytes end inside one.
    const kept = collect(6, [bytes("üüüüüüüü")])
    assert.strictEqual(kept.text, "üü")
    assert.strictEqual(kept.truncated, 12)
    assert.strictEqual(collect(10, [bytes("😀😀😀😀😀😀")]).text, "😀😀")
  })

  it.prop(
    "agrees with slicing, however the bytes are chunked",
    [
      Schema.String,
      Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 })),
      Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9 })))
    ],
    ([text, cap, sizes]) => {
      const all = bytes(text)
      const chunks: Array<Uint8Array> = []
      let at = 0
      for (const size of sizes) {
        chunks.push(all.slice(at, at + size))
        at += size
      }
      chunks.push(all.slice(Math.min(at, all.length)))
      const kept = collect(cap, chunks)
      assert.deepStrictEqual(kept, collect(cap, [all]))
      if (all.length <= cap)
        assert.deepStrictEqual(kept, { text: new TextDecoder("utf-8", { ignoreBOM: true }).decode(all), truncated: 0 })
      else {
        assert.isAtLeast(kept.truncated, all.length - cap)
        assert.strictEqual(bytes(kept.text).length + kept.truncated, all.length)
      }
    }
  )
})
