/** Some seeds of the chaos suite; `npm run chaos` runs more. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { replay, run } from "./chaos/chaos.ts"

const operations = 100

describe("chaos", () => {
  for (const seed of [1]) {
    it.effect(
      `seed ${seed}: nothing is lost`,
      () =>
        Effect.map(run({ seed, operations }), ({ violations, ...rest }) => {
          console.log(rest)
          assert.deepStrictEqual(violations, [], `again: ${replay({ seed, operations })}`)
        }),
      120_000
    )
  }
})
