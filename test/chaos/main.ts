/** `npm run chaos`: seeds of the chaos suite, as many as asked for. Ends non-zero when one of them has lost anything. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as TestClock from "effect/testing/TestClock"
import type { Outcome } from "./chaos.ts"
import { replay } from "./chaos.ts"
import { runOnFake } from "./onFake.ts"
import { runOnLocal } from "./onLocal.ts"

const sum = (all: ReadonlyArray<Readonly<Record<string, number>>>): Record<string, number> => {
  const total: Record<string, number> = {}
  for (const one of all) for (const [key, value] of Object.entries(one)) total[key] = (total[key] ?? 0) + value
  return total
}

/** A table of what the runs came to, in Markdown. */
const figures = (outcomes: ReadonlyArray<Outcome>, operations: number): string => {
  const faults = sum(outcomes.map((outcome) => outcome.faults))
  const row = (...cells: ReadonlyArray<unknown>) => `| ${cells.join(" | ")} |`
  const total = (of: (outcome: Outcome) => number) => outcomes.reduce((all, outcome) => all + of(outcome), 0)
  return [
    row("figure", "value"),
    row("---", "---"),
    row("runs", outcomes.length),
    row("operations", outcomes.length * operations),
    row(
      "services killed",
      total(({ kills }) => kills)
    ),
    ...Object.entries(faults)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([kind, count]) => row(`faults: ${kind}`, count)),
    row(
      "recorded processes",
      total((outcome) => outcome.processes)
    ),
    row(
      "bytes of output in logs",
      total(({ bytes }) => bytes)
    ),
    row(
      "losses",
      total(({ violations }) => violations.length)
    )
  ].join("\n")
}

const command = Command.make(
  "chaos",
  {
    seed: Flag.Int("seed").pipe(Flag.withDefault(1), Flag.withDescription("The first seed")),
    seeds: Flag.Int("seeds").pipe(Flag.withDefault(1), Flag.withDescription("How many, one after the other")),
    on: Flag.Literals("on", ["fake", "local"]).pipe(
      Flag.withDefault("fake"),
      Flag.withDescription("Machines and records in memory, in virtual time; or processes of this machine over SQLite")
    ),
    operations: Flag.Int("operations").pipe(Flag.withDefault(1000), Flag.withDescription("How many of each seed")),
    verbose: Flag.Boolean("verbose").pipe(
      Flag.withDefault(false),
      Flag.withDescription("How often each operation ended how")
    )
  },
  Effect.fnUntraced(function* ({ on, operations, seed: first, seeds, verbose }) {
    const outcomes: Array<Outcome> = []
    for (let seed = first; seed < first + seeds; seed++) {
      const outcome = yield* on === "fake"
        ? Effect.provide(runOnFake({ seed, operations }), TestClock.layer())
        : runOnLocal({ seed, operations })
      outcomes.push(outcome)
      if (verbose) yield* Console.log(outcome.operations)
      if (outcome.violations.length === 0) continue
      yield* Console.error(
        `seed ${seed}:\n  ${outcome.violations.join("\n  ")}\n  again: ${replay({ seed, operations }, on)}`
      )
    }
    yield* Console.log(figures(outcomes, operations))
    if (outcomes.some(({ violations }) => violations.length > 0)) return yield* Effect.fail("something was lost")
  })
)

// Not `runMain`, which keeps a timer of its own: virtual time does not pass over what is real.
const exit = await Effect.runPromiseExit(Effect.provide(Command.run(command, { version: "1" }), NodeServices.layer))
process.exitCode = Exit.isSuccess(exit) ? 0 : 1
