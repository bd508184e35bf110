/** How the fibers of one service share the way to the server: equal reads are asked once, writes of one record take turns. */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as RcMap from "effect/RcMap"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"

/**
 * Asks once for all who want the same at the same moment: only until the request is sent, because what was sent may miss what its
 * asker has been told of. `copy` is for all but the first.
 */
export const joined = <A, E>(scope: Scope.Scope, copy: (value: A) => A) => {
  const waiting = new Map<string, Deferred.Deferred<A, E>>()
  return (key: string, ask: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      const there = waiting.get(key)
      if (there !== undefined) return Effect.map(Deferred.await(there), copy)
      const asked = Deferred.makeUnsafe<A, E>()
      waiting.set(key, asked)
      return Effect.yieldNow.pipe(
        Effect.andThen(Effect.sync(() => waiting.delete(key))),
        Effect.andThen(ask),
        Effect.exit,
        Effect.flatMap((exit) => Deferred.done(asked, exit)),
        // Not a child of the first, which may leave while others wait.
        Effect.forkIn(scope),
        Effect.andThen(Deferred.await(asked))
      )
    })
}

/** Runs the writes of one record one after the other. */
export type InTurn = <A, E>(
  id: string,
  write: Effect.Effect<A, E>,
  /** When it has taken too long, its wait included; whether it had begun. */
  late: (begun: boolean) => E
) => Effect.Effect<A, E>

/**
 * Rivals in one process would only make each other fail at the server. `limit` is for the wait and the write together.
 */
export const inTurn = (limit: Duration.Duration): Effect.Effect<InTurn, never, Scope.Scope> =>
  Effect.map(
    RcMap.make({ lookup: (_id: string) => Semaphore.make(1) }),
    (turns): InTurn =>
      (id, write, late) =>
        Effect.suspend(() => {
          let begun = false
          const begin = Effect.suspend(() => {
            begun = true
            return write
          })
          return RcMap.get(turns, id).pipe(
            Effect.flatMap((turn) => turn.withPermit(begin)),
            Effect.scoped,
            Effect.timeoutOrElse({ duration: limit, orElse: () => Effect.fail(late(begun)) })
          )
        })
  )
