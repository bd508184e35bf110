/**
 * Wakes the followers of a log in this process. Processes share a fixed number of slots, so that memory is bounded however many
 * logs were ever read; a follower that is woken by a neighbour finds nothing new and waits again.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type { ProcessId } from "../../model/Ids.ts"

const slotCount = 512

export interface LogWakeups {
  /** Registers at once; the inner effect completes with the next `notify` for this process. */
  readonly changed: (processId: ProcessId) => Effect.Effect<Effect.Effect<void>>
  readonly notify: (processId: ProcessId) => Effect.Effect<void>
  /** Wakes everybody: for whoever may have missed a change. */
  readonly notifyAll: Effect.Effect<void>
}

export const make = (): LogWakeups => {
  const slots: Array<Deferred.Deferred<void> | undefined> = Array.from({ length: slotCount }, () => undefined)
  // The last digits of a UUID are random.
  const slotOf = (processId: ProcessId): number => Number.parseInt(processId.slice(-4), 16) % slotCount
  const wake = (slot: number): void => {
    const waiting = slots[slot]
    slots[slot] = undefined
    if (waiting !== undefined) Deferred.doneUnsafe(waiting, Effect.void)
  }
  return {
    changed: (processId) =>
      Effect.sync(() => Deferred.await((slots[slotOf(processId)] ??= Deferred.makeUnsafe<void>()))),
    notify: (processId) => Effect.sync(() => wake(slotOf(processId))),
    notifyAll: Effect.sync(() => {
      for (let slot = 0; slot < slotCount; slot++) wake(slot)
    })
  }
}
