/** Virtual time for tests that share their process with others, where `Testing.passing` would wait for what those have open. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"

/** Runs an effect while the clock of the test goes on, half a second at a time. */
export const advancing = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const running = yield* Effect.forkChild(effect)
    while (running.pollUnsafe() === undefined) {
      // What is ready to run gets its turn.
      yield* TestClock.withLive(Effect.sleep("1 millis"))
      yield* TestClock.adjust("500 millis")
    }
    return yield* Fiber.join(running)
  })
