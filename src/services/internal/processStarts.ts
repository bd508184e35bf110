/** How a recorded process is started at most once, whatever of its start goes wrong. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import type * as Schedule from "effect/Schedule"
import { isSandboxError, OutcomeUnknown, SandboxError, Superseded } from "../../errors.ts"
import type { ProcessRecord } from "../../model/Process.ts"
import { outputStart } from "../../model/Process.ts"
import type { StartCommand } from "../SandboxProvider.ts"
import type { Core } from "./core.ts"
import * as core from "./core.ts"
import type { Machines } from "./Machines.ts"
import { isLeaseLost } from "./owned.ts"
import type { ProcessOptions } from "./Processes.ts"
import type { Writer } from "./pump.ts"

export const make = (self: Core, machines: Machines) => {
  /**
   * The start of whoever inserted the record. It may come to another machine than the record names, as one that was found stale
   * has accepted nothing; the record says so first, under its epoch: whoever has taken the process over meanwhile starts it on
   * the machine of the record only, and so at most one of the two gets that far.
   */
  const startFirst = (record: ProcessRecord, writer: Writer, command: StartCommand, options: ProcessOptions) => {
    let incarnation = record.incarnation
    return machines
      .use(
        record.sandboxId,
        ({ machine }) =>
          Effect.gen(function* () {
            if (machine.ref.incarnation !== incarnation) {
              yield* writer.append([], { incarnation: machine.ref.incarnation })
              incarnation = machine.ref.incarnation
            }
            return yield* machine.start(command)
          }),
        options.recovery
      )
      .pipe(
        Effect.catchIf(
          (error): error is SandboxError => isSandboxError(error) && !error.provesNotAccepted && !isLeaseLost(error),
          (error) => resolveStart(record, error)
        )
      )
  }

  /**
   * The start of a process that its service has recorded and, as the machine says, not started. What that service sent last may
   * still arrive, so this happens on the machine of the record only, which starts an id once, whoever asks. If it cannot be
   * started there, nobody knows whether it was.
   */
  const startAgain = (record: ProcessRecord, command: StartCommand, options: ProcessOptions) =>
    Effect.gen(function* () {
      const { machine, provider } = yield* machines.connected(record.sandboxId)
      if (machine.ref.incarnation !== record.incarnation) {
        return yield* new SandboxError({
          operation: "SandboxService.runCommandProcess",
          reason: new Superseded({ incarnation: record.incarnation ?? "" })
        })
      }
      const schedule = options.recovery?.start ?? provider.recovery?.start ?? self.policy.start
      return yield* Effect.retry(machine.start(command), {
        // `mayRetryStart` lets only a SandboxError through to the schedule.
        schedule: schedule as Schedule.Schedule<unknown, SandboxError | PlatformError.PlatformError>,
        while: core.mayRetryStart
      })
    }).pipe(
      Effect.catchIf(isSandboxError, (error) =>
        Effect.catch(resolveStart(record, error), (failure) => Effect.fail(unknownOutcome(record, failure)))
      )
    )

  /** A start whose answer was lost: the machine is asked whether it has the process. */
  const resolveStart = (record: ProcessRecord, error: SandboxError) =>
    Effect.gen(function* () {
      const { machine } = yield* machines.connected(record.sandboxId)
      const found = yield* machine.findProcess(record.id)
      return Option.isSome(found) ? yield* machine.resume(found.value, outputStart) : yield* error
    }).pipe(
      Effect.catchIf(
        (failure) => failure !== error && failure.reason._tag !== "OutcomeUnknown",
        (failure) => Effect.fail(unknownOutcome(record, failure, error))
      )
    )

  const unknownOutcome = (record: ProcessRecord, failure: SandboxError, cause: SandboxError = failure) =>
    failure.reason._tag === "OutcomeUnknown"
      ? failure
      : new SandboxError({
          operation: "SandboxService.runCommandProcess",
          provider: record.provider,
          sandboxId: record.sandboxId,
          processId: record.id,
          reason: new OutcomeUnknown({ startedAt: record.startedAt, detail: failure.message, cause })
        })

  return { startFirst, startAgain }
}
