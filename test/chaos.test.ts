/** Some seeds of the chaos suite; `npm run chaos` runs more. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Outcome } from "./chaos/chaos.ts"
import { replay } from "./chaos/chaos.ts"
import { runOnFake } from "./chaos/onFake.ts"
import { runOnLocal } from "./chaos/onLocal.ts"
import { some } from "./support/full.ts"

const proves = ({ kills, operations: ended, violations }: Outcome, again: string, many: number) => {
  assert.strictEqual(violations.join("\n"), "", `again: ${again}`)
  // A run in which nothing works, or nothing goes wrong, proves nothing.
  assert.isAbove(kills, many / 3)
  assert.isAbove(ended["command ok"] ?? 0, many)
  assert.isAbove(ended["process ok"] ?? 0, many)
}

describe("chaos", () => {
  for (const seed of some([1], [2])) {
    const options = { seed, operations: 1000 }
    it.effect(
      `seed ${seed}: nothing is lost`,
      () => Effect.map(runOnFake(options), (outcome) => proves(outcome, replay(options, "fake"), 30)),
      120_000
    )
  }

  const options = { seed: 1, operations: 150 }
  it.live(
    "on this machine over SQLite: nothing is lost, and nothing is left",
    () => Effect.map(runOnLocal(options), (outcome) => proves(outcome, replay(options, "local"), 3)),
    120_000
  )
})
