/** How the fibers of one service share the way to the server: equal reads are asked once, writes of one record take turns. */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Semaphore from "effect/Semaphore"

interface Asked<A, E> {
  readonly answer: Deferred.Deferred<A, E>
  waiting: number
  fiber: Fiber.Fiber<unknown> | undefined
}

/**
 * Asks once for all who want the same at the same moment: only until the request is sent, because what was sent may miss what its
 * asker has been told of. It is interrupted when nobody waits for it any more. `copy` is for all but the first.
 */
export const joined = <A, E>(copy: (value: A) => A) => {
  const open = new Map<string, Asked<A, E>>()
  return (key: string, ask: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      const there = open.get(key)
      const asked: Asked<A, E> = there ?? { answer: Deferred.makeUnsafe(), waiting: 0, fiber: undefined }
      const close = () => {
        if (open.get(key) === asked) open.delete(key)
      }
      asked.waiting++
      if (there === undefined) open.set(key, asked)
      const begin =
        there === undefined
          ? Effect.yieldNow.pipe(
              Effect.andThen(Effect.sync(close)),
              Effect.andThen(ask),
              Effect.exit,
              Effect.flatMap((exit) => Deferred.done(asked.answer, exit)),
              // Not a child of the first, which may leave while others wait.
              Effect.forkDetach,
              Effect.map((fiber) => {
                asked.fiber = fiber
              })
            )
          : Effect.void
      return begin.pipe(
        Effect.andThen(Deferred.await(asked.answer)),
        Effect.map((value) => (there === undefined ? value : copy(value))),
        Effect.onInterrupt(() => {
          asked.waiting--
          if (asked.waiting > 0 || asked.fiber === undefined) return Effect.void
          close()
          return Fiber.interrupt(asked.fiber)
        })
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

/** Rivals in one process would only make each other fail at the server. `limit` is for the wait and the write together. */
export const inTurn = (limit: Duration.Duration): InTurn => {
  const turns = new Map<string, { readonly semaphore: Semaphore.Semaphore; users: number }>()
  return (id, write, late) =>
    Effect.suspend(() => {
      const turn = turns.get(id) ?? { semaphore: Semaphore.makeUnsafe(1), users: 0 }
      turns.set(id, turn)
      turn.users++
      let begun = false
      const begin = Effect.suspend(() => {
        begun = true
        return write
      })
      return turn.semaphore.withPermit(begin).pipe(
        Effect.timeoutOrElse({ duration: limit, orElse: () => Effect.fail(late(begun)) }),
        Effect.ensuring(
          Effect.sync(() => {
            turn.users--
            if (turn.users === 0) turns.delete(id)
          })
        )
      )
    })
}
