/** What is done to a sandbox by one holder at a time, across all services that share its record. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { SandboxError } from "../../errors.ts"
import { Store } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { Lease } from "../../model/Lease.ts"
import type { SandboxRecord } from "../../model/SandboxRecord.ts"
import type { SandboxPatch } from "../SandboxStore.ts"
import type { Core } from "./core.ts"
import * as core from "./core.ts"

/** A record under our lease. `update` fails `Store(LeaseLost)` once somebody took it over. */
export interface Held {
  readonly record: SandboxRecord
  readonly update: (patch: SandboxPatch) => Effect.Effect<SandboxRecord, SandboxError>
}

const renewEvery = Duration.millis(Duration.toMillis(core.leaseTtl) / 3)

/**
 * Runs `f` on the record as it is under the sandbox's lease, which is renewed meanwhile: whoever takes it over interrupts `f`.
 * `waiting` repeats the attempt to get it, which fails `Busy` while somebody has it; `identity` waits for nobody.
 */
export const underLease = (
  self: Pick<Core, "store" | "policy" | "owner" | "isDead">,
  waiting: (attempt: Effect.Effect<SandboxRecord, SandboxError>) => Effect.Effect<SandboxRecord, SandboxError>
) => {
  const retryStore = core.retryStore(self)

  const update = (id: SandboxId, lease: Lease, patch: SandboxPatch): Effect.Effect<SandboxRecord, SandboxError> =>
    Effect.gen(function* () {
      const current = yield* self.store.getSandbox(id)
      if (current.lease?.epoch !== lease.epoch) {
        return yield* core.failure(current, "SandboxStore.updateSandbox", new Store({ kind: "LeaseLost" }))
      }
      return yield* retryStore(self.store.updateSandbox(id, current.version ?? 0, patch))
    }).pipe(
      // Only our own renewals can come in between, and our own write whose answer was lost.
      Effect.retry({ while: core.isConflict, times: 20 })
    )

  return <A, E, R>(id: SandboxId, f: (held: Held) => Effect.Effect<A, E, R>): Effect.Effect<A, E | SandboxError, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const release = (lease: Lease) => Effect.ignore(retryStore(self.store.releaseSandboxLease(id, lease)))
        let acquired: Lease | undefined
        // One attempt is not interrupted, the wait for the next one is.
        const attempt = core
          .acquire(self, (options) => self.store.acquireSandboxLease(id, options))
          .pipe(
            Effect.tap((held) =>
              Effect.sync(() => {
                acquired = core.leaseOf(held)
              })
            ),
            Effect.uninterruptible
          )
        const record = yield* restore(waiting(retryStore(attempt))).pipe(
          // The interruption comes through once the attempt is done, which may have taken the lease.
          Effect.onInterrupt(() => (acquired === undefined ? Effect.void : release(acquired)))
        )
        const lease = core.leaseOf(record)
        const renew = retryStore(self.store.renewSandboxLease(id, lease, core.leaseTtl)).pipe(
          Effect.repeat(Schedule.spaced(renewEvery)),
          Effect.andThen(Effect.never),
          Effect.delay(renewEvery)
        )
        const held: Held = { record, update: (patch) => update(id, lease, patch) }
        return yield* restore(Effect.raceFirst(f(held), renew)).pipe(Effect.ensuring(release(lease)))
      })
    )
}
