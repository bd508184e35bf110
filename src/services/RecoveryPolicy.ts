/**
 * When and how often to try again: Schedules whose input is the typed error. Replace any of them; nothing in this library
 * sleeps in a loop of its own.
 *
 * Precedence: a call's `{ recovery }` over the provider's `make({ recovery })` over this Reference, which is read once, when
 * `SandboxService.layer` is built.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { SandboxError } from "../errors.ts"

/** A schedule over failures. It decides the delays and when to give up; whether a failure may be retried at all is ours. */
export type RecoverySchedule = Schedule.Schedule<unknown, SandboxError>

/** One schedule for each thing that is tried again. */
export interface RecoverySchedules {
  /** Connecting to a machine: transient reasons. */
  readonly connect: RecoverySchedule
  /** Polling something that boots or comes up: a machine, a port. */
  readonly ready: RecoverySchedule
  /** Making a new machine for a vanished one. */
  readonly recreate: RecoverySchedule
  /** Starting a command: only failures that prove it was not accepted. */
  readonly start: RecoverySchedule
  /** Writes and reads of the store: a locked or unreachable database. */
  readonly store: RecoverySchedule
}

/** Makes a schedule wait at least as long as the failure's `retryAfter` asks. */
export const respectRetryAfter = (schedule: RecoverySchedule): RecoverySchedule =>
  Schedule.modifyDelay(schedule, ({ duration, input }) =>
    Effect.succeed(input.retryAfter === undefined ? duration : Duration.max(duration, input.retryAfter))
  )

/**
 * A total deadline: no attempt begins later than this after the first failure. What the wait for it would go beyond, also one that
 * `retryAfter` asks for, is not waited for.
 */
export const within =
  (limit: Duration.Input) =>
  (schedule: RecoverySchedule): RecoverySchedule =>
    Schedule.while(
      schedule,
      ({ duration, elapsed }) => elapsed + Duration.toMillis(duration) <= Duration.toMillis(limit)
    )

const backoff = (options: {
  readonly base: Duration.Input
  readonly cap: Duration.Input
  readonly times: number
}): RecoverySchedule =>
  Schedule.exponential(options.base).pipe(
    Schedule.setInputType<SandboxError>(),
    Schedule.modifyDelay(({ duration }) =>
      Effect.succeed(Duration.min(duration, Duration.fromInputUnsafe(options.cap)))
    ),
    Schedule.jittered,
    Schedule.upTo({ times: options.times }),
    respectRetryAfter
  )

/** The defaults: exponential backoff with jitter (80–120 %), a cap on the delay, and a bounded number of retries. */
export const defaults: RecoverySchedules = {
  connect: backoff({ base: "200 millis", cap: "5 seconds", times: 6 }),
  ready: backoff({ base: "50 millis", cap: "1 second", times: 60 }),
  recreate: backoff({ base: "500 millis", cap: "10 seconds", times: 3 }),
  start: backoff({ base: "200 millis", cap: "5 seconds", times: 4 }),
  store: backoff({ base: "20 millis", cap: "1 second", times: 8 })
}

/** The layer-wide schedules: `Effect.provideService(RecoveryPolicy, { ...RecoveryPolicy.defaults, connect: … })`. */
export const RecoveryPolicy: Context.Reference<RecoverySchedules> = Context.Reference(
  "effect-sandbox/services/RecoveryPolicy",
  { defaultValue: () => defaults }
)

/** Retries what is retryable, on that schedule. */
export const retryTransient =
  (schedule: RecoverySchedule) =>
  <A, R>(effect: Effect.Effect<A, SandboxError, R>): Effect.Effect<A, SandboxError, R> =>
    Effect.retry(effect, { schedule, while: (error) => error.isRetryable })
