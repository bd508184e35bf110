/** The metrics of the service, by Effect's own `Metric`. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"

/** Commands that were waited for, by mode (`plain`, `recorded`) and outcome (`exit`, or the tag of the failure's reason). */
const commands = Metric.counter("sandbox_commands_total", { description: "Commands run", incremental: true })

/** How long commands took, from the call to the exit, in ms. */
const commandDuration = Metric.timer("sandbox_command_duration", { description: "Duration of commands" })

/** Recoveries by outcome: `Connected`, `Resumed`, `Restored`, `Recreated`, or the tag of the failure. */
const recoveries = Metric.counter("sandbox_recoveries_total", {
  description: "Recoveries of sandboxes",
  incremental: true
})

/** Output written to durable logs, in bytes. */
const logged = Metric.counter("sandbox_log_bytes_total", { description: "Bytes of logged output", incremental: true })

/** Appends to durable logs. */
const appends = Metric.counter("sandbox_log_appends_total", { description: "Appends to logs", incremental: true })

export const command = (mode: "plain" | "recorded", outcome: string, durationMs: number): Effect.Effect<void> =>
  Effect.andThen(
    Metric.update(Metric.withAttributes(commands, { mode, outcome }), 1),
    Metric.update(commandDuration, Duration.millis(durationMs))
  )

export const recovered = (outcome: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(recoveries, { outcome }), 1)

export const appended = (bytes: number): Effect.Effect<void> =>
  Effect.andThen(Metric.update(appends, 1), Metric.update(logged, bytes))
