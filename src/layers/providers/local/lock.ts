/** One writer at a time for the life of a sandbox: boot, stop, checkpoint and restore, across processes. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Crypto from "node:crypto"
import type { SandboxError } from "../../../errors.ts"
import { Busy, Gone } from "../../../errors.ts"
import { codeOf, failWith, io } from "./failures.ts"
import { release, tryAcquire } from "./lockfile.ts"
import type { Paths } from "./state.ts"

const poll = Schedule.spaced(Duration.millis(25))

/** Runs the effect while nobody else, in this or another process, does the same for this sandbox. Waits for its turn. */
export const withLock =
  (operation: string, paths: Paths) =>
  <A, R>(effect: Effect.Effect<A, SandboxError, R>): Effect.Effect<A, SandboxError, R> =>
    Effect.suspend(() => {
      const token = Crypto.randomUUID()
      const acquire = io(operation, () => tryAcquire(paths.lock, token)).pipe(
        Effect.catchReason("SandboxError", "Unknown", (reason) =>
          Effect.fail(
            failWith(
              operation,
              codeOf(reason.cause) === "ENOENT" ? new Gone({ evidence: `${paths.directory} does not exist` }) : reason
            )
          )
        ),
        Effect.filterOrFail(
          (won) => won,
          () => failWith(operation, new Busy({ owner: "another operation on this sandbox" }))
        )
      )
      return Effect.acquireUseRelease(
        Effect.interruptible(Effect.retry(acquire, { schedule: poll, while: (error) => error.reason._tag === "Busy" })),
        () => effect,
        () => Effect.ignore(io(operation, () => release(paths.lock, token)))
      )
    })
