/**
 * How a follower hears of appends: of its own process's at once; of others' by polling, or where a database can announce them, by
 * one session that listens for all followers of a layer.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { SqlError } from "effect/sql/SqlError"
import type { SandboxError } from "../../errors.ts"
import type { ProcessId } from "../../model/Ids.ts"
import type { Primitives } from "../../services/ProcessLog.ts"
import * as LogWakeups from "./logWakeups.ts"
import { toSandboxError } from "./sqlErrors.ts"

export interface News extends Pick<Primitives, "changed" | "poll"> {
  /** To be said of every append of this process's own. */
  readonly notify: LogWakeups.LogWakeups["notify"]
}

/** What a session hears: the ids of processes whose logs have changed. Its scope ends the session. */
export type Listen = Effect.Effect<
  Queue.Dequeue<{ readonly payload: string }, SqlError>,
  SqlError | SandboxError,
  Scope.Scope
>

/** Quick while there is news, then at rest: another process's appends are seen within 100 ms. */
const quick = Schedule.exponential("5 millis", 1.5).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.millis(100))))
)

/** Followers that poll. */
export const polling: Effect.Effect<News> = Effect.sync(() => ({ ...LogWakeups.make(), poll: quick }))

/** What a lost announcement may delay. */
const slow = Schedule.spaced("5 seconds")

const reconnect = Schedule.exponential("100 millis", 2).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(5)))),
  Schedule.jittered
)

/** Followers that are told. The session begins with the first of them and is renewed until the scope ends. */
export const listening = Effect.fnUntraced(function* (listen: Listen): Effect.fn.Return<News, never, Scope.Scope> {
  const wakeups = LogWakeups.make()
  const scope = yield* Scope.Scope

  let isHeard = false

  const session = Effect.gen(function* () {
    const heard = yield* listen
    isHeard = true
    // What was appended while nobody listened.
    yield* wakeups.notifyAll
    return yield* Effect.forever(
      Effect.flatMap(
        Queue.takeAll(heard),
        // A payload that is no id wakes nobody.
        Effect.forEach(({ payload }) => wakeups.notify(payload as ProcessId), { discard: true })
      )
    )
  })

  const listener = session.pipe(
    Effect.scoped,
    // Without a session followers read for themselves, as often as a new one is tried.
    Effect.tapError((error) =>
      Effect.andThen(
        Effect.logDebug("The session that hears of appends ended", toSandboxError("ProcessLog.listen")(error)),
        Effect.suspend(() => {
          isHeard = false
          return wakeups.notifyAll
        })
      )
    ),
    Effect.retry(reconnect),
    Effect.ignore
  )
  const begin = yield* Effect.cached(Effect.forkIn(listener, scope))

  return {
    // The session hears of this process's appends too: a follower need not read twice.
    notify: (processId) => Effect.suspend(() => (isHeard ? Effect.void : wakeups.notify(processId))),
    changed: (processId) => Effect.tap(wakeups.changed(processId), () => begin),
    poll: slow
  }
})
