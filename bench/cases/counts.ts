/** What recorded commands write: few times, however much they say. */
import * as Effect from "effect/Effect"
import { Counts } from "../../test/support/counting.ts"
import { countedServices } from "../counted.ts"
import type { Bench } from "../harness.ts"
import { atMost } from "../harness.ts"
import { sandbox } from "../support.ts"

export const storeWrites: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  const counts = yield* Counts
  yield* sandboxes.runCommandProcess(sandboxId, "true", [], { mode: "foreground" })
  const each: Array<number> = []
  let calls = ""
  for (let i = 0; i < 20; i++) {
    counts.reset()
    yield* sandboxes.runCommandProcess(sandboxId, "true", [], { mode: "foreground" })
    each.push(counts.writes())
    if (counts.writes() === Math.max(...each)) {
      calls = [...counts.calls].map(([method, count]) => `${method} ${count}`).join(", ")
    }
  }
  return [
    atMost(4, {
      name: "store-writes",
      value: Math.max(...each),
      unit: "writes",
      note: `the most of ${each.length} commands, reads too: ${calls}`
    })
  ]
}).pipe(Effect.scoped, Effect.provide(countedServices))

const lines = 100_000
/** Each line is a write of its own: nothing is gathered before it reaches the pipe. */
const burstProgram = `const { writeSync } = require("node:fs"); for (let i = 0; i < ${lines}; i++) writeSync(1, "line " + i + "\\n")`

export const burst: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  const counts = yield* Counts
  const appends: Array<number> = []
  for (let round = 0; round < 7; round++) {
    counts.reset()
    yield* sandboxes.runCommandProcess(sandboxId, process.execPath, ["-e", burstProgram], { mode: "foreground" })
    appends.push(counts.calls.get("append") ?? 0)
  }
  return [
    atMost(200, {
      name: "burst",
      value: Math.max(...appends),
      unit: "appends",
      note: `the most of ${appends.length} bursts; ${Math.min(...appends)} at least`
    })
  ]
}).pipe(Effect.scoped, Effect.provide(countedServices))
