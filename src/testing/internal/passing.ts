/**
 * Virtual time for a program that may do real work besides: it goes on to the next moment that somebody sleeps until, and only
 * when nothing else is under way.
 */
import * as Process from "node:process"
import * as Timers from "node:timers"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Predicate from "effect/Predicate"
import type * as TestClock from "effect/testing/TestClock"
import { isLoading } from "../../layers/providers/fake/loading.ts"

/** What is known of one `TestClock`. */
interface Watched {
  readonly clock: TestClock.TestClock
  /** The moments that somebody sleeps until. */
  readonly sleeps: Set<{ readonly until: number }>
  /** What Node has had open ever since it was first seen: the pipes of the test runner. */
  standing: ReadonlyMap<string, number>
}

const watched = new WeakMap<Clock.Clock, Watched>()

const isTestClock = (clock: Clock.Clock): clock is TestClock.TestClock =>
  Predicate.hasProperty(clock, "setTime") && Predicate.hasProperty(clock, "withLive")

/** By kind, what Node has under way or open. */
const resources = (): ReadonlyMap<string, number> => {
  const counts = new Map<string, number>()
  for (const kind of Process.getActiveResourcesInfo()) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  return counts
}

const watch = (clock: TestClock.TestClock): Watched => {
  const known = watched.get(clock)
  if (known !== undefined) return known
  const { sleep } = clock
  // Neither a request, which may be the one in whose callback this runs, nor a timer stands for the runner: that of vitest's
  // time limit is not shown, and what is would go in the middle and hide one of the program's.
  const standing = new Map([...resources()].filter(([kind]) => !kind.includes("Req") && kind !== "Timeout"))
  const made: Watched = { clock, sleeps: new Set(), standing }
  // In its place, as it tells nobody who sleeps, and those who hold it already sleep by it too.
  clock.sleep = (asked) => {
    // Whole milliseconds, as real timers: whoever sleeps for what is left of a fraction would find the clock where it was, for ever.
    const duration = Duration.millis(Math.ceil(Duration.toMillis(asked)))
    return Effect.acquireUseRelease(
      Effect.sync(() => {
        const own = { until: clock.currentTimeMillisUnsafe() + Duration.toMillis(duration) }
        made.sleeps.add(own)
        return own
      }),
      () => sleep(duration),
      (own) => Effect.sync(() => made.sleeps.delete(own))
    )
  }
  watched.set(clock, made)
  return made
}

/** Watches the clock of the fiber from now on, if it is a `TestClock`. */
export const watching: Effect.Effect<void> = Effect.clockWith((clock) =>
  Effect.sync(() => {
    if (isTestClock(clock)) watch(clock)
  })
)

/** The next turn of the event loop, after whatever is ready to run. */
const turn: Effect.Effect<void> = Effect.callback((resume) => {
  const immediate = Timers.setImmediate(() => resume(Effect.void))
  return Effect.sync(() => Timers.clearImmediate(immediate))
})

/** How many turns in which nothing is ready to run make a program a quiet one. */
const quietTurns = 5

/** Resolves once no fiber is ready to run, not even one that yields. */
const quiet: Effect.Effect<void> = Effect.gen(function* () {
  for (let turns = 0; turns < quietTurns; turns++) {
    yield* turn
    if (resources().has("Immediate")) turns = -1
  }
})

/** Whether something real is under way: a request, a child process, a connection, a timer. */
const isBusy = (all: Watched): boolean => {
  const now = resources()
  const { standing } = all
  // What has gone since was not the runner's.
  all.standing = new Map([...standing].map(([kind, count]) => [kind, Math.min(count, now.get(kind) ?? 0)]))
  return isLoading() || [...now].some(([kind, count]) => kind !== "Immediate" && count > (all.standing.get(kind) ?? 0))
}

export interface Limits {
  readonly limit: Duration.Duration
  readonly patience: Duration.Duration
}

/** Lets the time of the fiber's `TestClock` pass while the effect needs it. */
export const passing = <A, E, R>(effect: Effect.Effect<A, E, R>, limits: Limits): Effect.Effect<A, E, R> =>
  Effect.scoped(
    Effect.gen(function* () {
      const clock = yield* Clock.Clock
      if (!isTestClock(clock)) return yield* Effect.die(new Error("there is no TestClock whose time could pass"))
      const all = watch(clock)
      const patience = Duration.toMillis(limits.patience)
      const end = clock.currentTimeMillisUnsafe() + Duration.toMillis(limits.limit)
      // Or its warning that nobody moves it would be a real timer.
      yield* clock.adjust(0)
      const fiber = yield* Effect.forkScoped(effect, { startImmediately: true })
      const isDone = () => fiber.pollUnsafe() !== undefined
      const next = () => [...all.sleeps].reduce((least, { until }) => Math.min(least, until), Infinity)

      /** Resolves when the effect has ended, or nothing but time seems to bring it further. */
      const settled = Effect.gen(function* () {
        const from = yield* Clock.currentTimeMillis
        for (;;) {
          yield* quiet
          if (isDone()) return
          const patient = (yield* Clock.currentTimeMillis) - from < patience
          if (!isLoading() && !(patient && (isBusy(all) || next() === Infinity))) return
          yield* Effect.sleep(1)
        }
      }).pipe(clock.withLive)

      while (!isDone()) {
        yield* settled
        if (isDone()) break
        const until = next()
        if (until > end && until < Infinity) {
          return yield* Effect.die(new Error(`still waiting after ${Duration.format(limits.limit)} of virtual time`))
        }
        if (until < Infinity) yield* clock.setTime(Math.max(until, clock.currentTimeMillisUnsafe()))
        else if (!isBusy(all)) return yield* Effect.die(new Error("it waits for something that time does not bring"))
      }
      return yield* Fiber.join(fiber)
    })
  )
