/**
 * Counts who waits for the interpreter to be loaded. Where a bundler or a test runner loads it, nothing of Node's own shows that
 * something is under way, and `Testing.passing` would take the program for one that waits for time.
 */
import * as Effect from "effect/Effect"

let waiting = 0

export const isLoading = (): boolean => waiting > 0

export const loading = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.sync(() => void waiting++),
    () => effect,
    () => Effect.sync(() => void waiting--)
  )
