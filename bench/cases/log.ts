/** Recorded output: how fast it becomes durable, and in how much memory. */
import { isOutput } from "../../src/model/ProcessEvent.ts"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Bench } from "../harness.ts"
import { atLeast, below, format, median, residentGrowth, timed } from "../harness.ts"
import { sandbox, services } from "../support.ts"

const mebi = 1024 * 1024
const each = 128 * mebi

/** Text, as programs write it: lines of 100 bytes. */
const text = (bytes: number) => ["-c", `yes ${"a line of a log ".repeat(6)}abc | head -c ${bytes}`]

export const durableLog: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  const record = Effect.fnUntraced(function* (bytes: number) {
    const process = yield* sandboxes.runCommandProcess(sandboxId, "sh", text(bytes), { mode: "foreground" })
    return process.processId
  })
  const rates: Array<number> = []
  const recorded: Array<string> = []
  // As much garbage as V8 lets lie about is there before the measuring starts.
  yield* record(each)
  const growth = yield* residentGrowth(
    Effect.gen(function* () {
      for (let round = 0; round < 7; round++) {
        const millis = yield* timed(Effect.map(record(each), (processId) => recorded.push(processId)))
        rates.push(each / 1e6 / (millis / 1000))
      }
    })
  )
  for (const processId of recorded) {
    const logged = yield* Stream.runFold(
      sandboxes.readProcessStream(processId),
      () => 0,
      (sum, event) => sum + (isOutput(event) ? event.bytes.length : 0)
    )
    if (logged !== each) return yield* Effect.die(new Error(`a log holds ${logged} bytes out of ${each}`))
  }
  return [
    atLeast(60, {
      name: "durable-log/rate",
      value: median(rates),
      unit: "MB/s",
      note: `7 times ${each / mebi} MiB of text; ${format(Math.min(...rates))} to ${format(Math.max(...rates))}`
    }),
    below(64, {
      name: "durable-log/memory",
      value: growth,
      unit: "MiB",
      note: "peak over all of these rounds, above what a warm-up of one left"
    })
  ]
}).pipe(Effect.scoped, Effect.provide(services))
