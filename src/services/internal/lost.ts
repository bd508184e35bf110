/** Ends the records of processes that nobody can know any more. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import type { ProcessId, SandboxId } from "../../model/Ids.ts"
import type { ProcessRecord } from "../../model/Process.ts"
import { isTerminal } from "../../model/Process.ts"
import type { Core } from "./core.ts"
import { leaseTtl, retryStore } from "./core.ts"

/**
 * Writes the end of a process as `lost`, with the reason, taking the lease from whoever has it: the caller has ended the
 * process or knows that it cannot be found again. What has ended meanwhile stays as it is.
 */
export const markLost = (self: Core, processId: ProcessId, reason: string): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    yield* self.pumps.get(processId)?.abandon ?? Effect.void
    const record = yield* retryStore(self)(
      self.store.acquireProcessLease(processId, { owner: self.owner, ttl: leaseTtl, steal: true })
    )
    if (isTerminal(record.status)) return
    const now = yield* Clock.currentTimeMillis
    const position = yield* self.log.lastPosition(processId)
    const epoch = record.lease?.epoch ?? 0
    const end = self.log.append(
      processId,
      epoch,
      [
        {
          _tag: "status",
          at: now,
          seq: position.seq + 1,
          sandboxId: record.sandboxId,
          processId,
          status: "lost",
          reason
        }
      ],
      {
        status: "lost",
        streamAbortReason: reason,
        streamFinishedAt: now,
        exitedAt: now,
        updatedAt: now,
        lease: { owner: self.owner, epoch, expiresAt: 0 }
      }
    )
    yield* retryStore(self)(end)
  }).pipe(
    // Whoever attaches meanwhile takes the lease too, and finds out the same.
    Effect.retry({
      while: (error) => error.reason._tag === "Store" && error.reason.kind === "LeaseLost",
      times: 3
    })
  )

const open: ReadonlyArray<ProcessRecord["status"]> = ["starting", "running", "detached"]

/**
 * All open processes of a sandbox, or only those of another incarnation than the one that runs now. One that is just being
 * started is left to its start, which finds out for itself (and may be what has led here).
 */
export const markOpenProcessesLost = (
  self: Core,
  sandboxId: SandboxId,
  reason: string,
  runningIncarnation?: string
): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    self.store.listProcesses({ sandboxId, status: open }).pipe(
      Stream.filter((record) => runningIncarnation === undefined || record.incarnation !== runningIncarnation),
      Stream.filter((record) => self.pumps.get(record.id)?.isStarting() !== true),
      Stream.runForEach((record) =>
        Effect.gen(function* () {
          const { id, lease, status } = record
          const isBeingStarted = status === "starting" && lease !== undefined && lease.expiresAt > now
          if (isBeingStarted && !(yield* self.isDead(lease.owner))) return
          yield* markLost(self, id, reason)
        })
      )
    )
  )

/** Lets the pumps of this service write what their processes said last, for a short while. */
export const settlePumps = (self: Core, sandboxId: SandboxId): Effect.Effect<void> =>
  Effect.forEach(
    [...self.pumps.values()].filter((pump) => pump.sandboxId === sandboxId),
    (pump) => pump.ended,
    { discard: true, concurrency: "unbounded" }
  ).pipe(Effect.timeoutOption(Duration.seconds(5)), Effect.asVoid)
