/** Some seeds of the chaos suite; `npm run chaos` runs more. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { replay, run } from "./chaos/chaos.ts"

const operations = 1000

describe("chaos", () => {
  for (const seed of [1, 2]) {
    it.effect(
      `seed ${seed}: nothing is lost`,
      () =>
        Effect.map(run({ seed, operations }), ({ kills, operations: ended, violations }) => {
          assert.deepStrictEqual(violations, [], `again: ${replay({ seed, operations })}`)
          // A run in which nothing works, or nothing goes wrong, proves nothing.
          assert.isAbove(kills, 10)
          assert.isAbove(ended["command ok"] ?? 0, 30)
          assert.isAbove(ended["process ok"] ?? 0, 30)
        }),
      120_000
    )
  }
})
