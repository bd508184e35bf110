/** The processes that this service owns: each has one fiber, which starts it or takes it over, and writes its log. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberMap from "effect/FiberMap"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import { isSandboxError, OutcomeUnknown, ProcessEnded, SandboxError } from "../../errors.ts"
import type { ProcessId, SandboxId } from "../../model/Ids.ts"
import type { ProcessRecord } from "../../model/Process.ts"
import type { MachineProcess } from "../SandboxProvider.ts"
import type { Core, LivePump } from "./core.ts"
import type { Writer } from "./pump.ts"

/** A process that this service owns: its pump runs in a fiber of the service. */
export interface Entry extends LivePump {
  /** Done once the command is accepted, or with the reason why it was not. */
  readonly accepted: Deferred.Deferred<MachineProcess, SandboxError | PlatformError.PlatformError>
  /** Fails when the log can no longer be written. */
  readonly outcome: Deferred.Deferred<void, SandboxError>
}

export const ended = (processId: ProcessId, status: string) =>
  new SandboxError({
    operation: "SandboxService.process",
    processId,
    reason: new ProcessEnded({ processId, status })
  })

export const isLeaseLost = (error: SandboxError | PlatformError.PlatformError): boolean =>
  isSandboxError(error) && error.reason._tag === "Store" && error.reason.kind === "LeaseLost"

/** Their fibers end with the Scope. */
export const make = (self: Core) =>
  Effect.gen(function* () {
    const fibers = yield* FiberMap.make<ProcessId, void, never>()
    const entries = new Map<ProcessId, Entry>()
    const { pumps, store } = self

    /** Runs the body as this process's one fiber, which outlives the caller and ends with the service. */
    const own = (
      processId: ProcessId,
      sandboxId: SandboxId,
      body: (
        entry: Entry,
        isAbandoned: () => boolean
      ) => Effect.Effect<void, SandboxError | PlatformError.PlatformError>
    ): Effect.Effect<Entry> =>
      Effect.gen(function* () {
        let abandoned = false
        const accepted = yield* Deferred.make<MachineProcess, SandboxError | PlatformError.PlatformError>()
        const outcome = yield* Deferred.make<void, SandboxError>()
        const entry: Entry = {
          sandboxId,
          accepted,
          outcome,
          isStarting: () => !Deferred.isDoneUnsafe(accepted),
          abandon: Effect.suspend(() => {
            abandoned = true
            return FiberMap.remove(fibers, processId)
          }),
          ended: Effect.ignore(Deferred.await(outcome))
        }
        entries.set(processId, entry)
        pumps.set(processId, entry)
        yield* FiberMap.run(
          fibers,
          processId,
          Effect.onExit(
            body(entry, () => abandoned),
            (exit) =>
              Effect.gen(function* () {
                if (entries.get(processId) === entry) {
                  entries.delete(processId)
                  pumps.delete(processId)
                }
                const error = Exit.findErrorOption(exit)
                const started = Deferred.isDoneUnsafe(accepted)
                // Whoever took it over writes the log now, and it is followed like any other.
                const handedOver = abandoned || (Option.isSome(error) && isLeaseLost(error.value))
                // The service goes away, and whoever waits here with it.
                if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) && !handedOver) {
                  yield* Deferred.interrupt(accepted)
                  yield* Deferred.interrupt(outcome)
                  return
                }
                const failed =
                  Exit.isFailure(exit) && started && !handedOver
                    ? new SandboxError({
                        operation: "SandboxService.pump",
                        sandboxId,
                        processId,
                        reason: new OutcomeUnknown({ detail: "this service does not follow the process any more" })
                      })
                    : undefined
                yield* Deferred.fail(
                  accepted,
                  Option.getOrElse(error, () => failed ?? ended(processId, "lost"))
                )
                yield* failed === undefined
                  ? Deferred.succeed(outcome, undefined)
                  : Deferred.fail(outcome, Option.isSome(error) && isSandboxError(error.value) ? error.value : failed)
                if (Option.isSome(error) && failed !== undefined) {
                  yield* Effect.logWarning(
                    `the log of process ${processId} is not written any more: ${error.value.message}`
                  )
                }
              })
          ).pipe(Effect.ignore),
          // So that it has taken its responsibility before anybody can interrupt it.
          { startImmediately: true }
        )
        return entry
      })

    /**
     * Gives the process up when this service goes away, at whatever point of its life that is: the lease is returned, so that
     * the next service need not wait for its end.
     */
    const detaching =
      (record: ProcessRecord, epoch: number, writer: Writer, isRunning: () => boolean, isAbandoned: () => boolean) =>
      <A, E, R>(effect: Effect.Effect<A, E, R>) =>
        Effect.onInterrupt(effect, () => {
          if (isAbandoned() || writer.hasEnded()) return Effect.void
          const lease = { owner: self.owner, epoch, expiresAt: 0 }
          // What is only about to start keeps its status: whoever attaches asks the machine.
          if (!isRunning()) return Effect.ignore(store.releaseProcessLease(record.id, lease))
          return Effect.gen(function* () {
            const now = yield* Clock.currentTimeMillis
            yield* writer.append(
              [{ _tag: "status", at: now, sandboxId: record.sandboxId, processId: record.id, status: "detached" }],
              { status: "detached", updatedAt: now, lease }
            )
          }).pipe(Effect.ignore)
        })

    return { entries, own, detaching }
  })
