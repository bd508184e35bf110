/** Checkpoints: files saved and brought back. Those of one sandbox happen one after the other. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import { Gone, NotActive, NotRunning, ProcessesRunning } from "../../errors.ts"
import type { Checkpoint } from "../../model/Checkpoint.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { ProcessRecord } from "../../model/Process.ts"
import * as Config from "../../model/SandboxConfig.ts"
import type { SandboxRecord } from "../../model/SandboxRecord.ts"
import type { SandboxRef } from "../../model/SandboxRef.ts"
import type { SandboxProvider } from "../SandboxProvider.ts"
import { capability } from "../SandboxProvider.ts"
import * as SandboxSecrets from "../SandboxSecrets.ts"
import type { Core } from "./core.ts"
import * as core from "./core.ts"
import { markOpenProcessesLost } from "./lost.ts"
import type { Held } from "./lease.ts"
import type { Machines } from "./Machines.ts"
import { nextGeneration } from "./Machines.ts"

export interface CheckpointOptions {
  /** For people; kept by the vendor where it can. */
  readonly comment?: string | undefined
  /** Creating a checkpoint ends the processes on some vendors: allow it. */
  readonly stopProcesses?: boolean | undefined
}

export interface Checkpoints {
  readonly create: (id: SandboxId, options: CheckpointOptions) => Effect.Effect<Checkpoint, SandboxError>
  readonly list: (id: SandboxId) => Stream.Stream<Checkpoint, SandboxError>
  readonly restore: (id: SandboxId, checkpointId: string) => Effect.Effect<SandboxRef, SandboxError>
  readonly remove: (id: SandboxId, checkpointId: string) => Effect.Effect<void, SandboxError>
}

/** Whether the vendor keeps the comment of a checkpoint; else the record does. */
const keepsComments = ({ capabilities }: SandboxProvider): boolean =>
  capabilities.checkpoints !== false && capabilities.checkpoints.comments

const open: ReadonlyArray<ProcessRecord["status"]> = ["starting", "running", "detached"]

export const make = (self: Core, machines: Machines): Checkpoints => {
  const providerOf = (operation: string, record: SandboxRecord) =>
    Effect.gen(function* () {
      const provider = yield* self.registry.get(record.provider)
      const checkpoints = yield* capability(provider, operation, provider.checkpoints, record.id)
      return { provider, checkpoints }
    })

  const create: Checkpoints["create"] = (id, options) => {
    let generation: number | undefined
    const attempt = machines.withLease(id, (held) =>
      Effect.suspend(() => {
        const before = generation ?? held.record.generation ?? 1
        generation = before
        return before === (held.record.generation ?? 1)
          ? createHeld(id, options, held)
          : Effect.fail(
              core.failure(
                held.record,
                "SandboxService.createCheckpoint",
                new Gone({ evidence: "another machine has taken its place" })
              )
            )
      })
    )
    // What sleeps is woken, as for any other use of it, but not under the lease, which that needs. What is gone is not made anew: a
    // checkpoint of an empty machine would pass for one of the files that there were.
    return Effect.catchIf(
      attempt,
      (error) => error.reason._tag === "NotRunning" || error.reason._tag === "Superseded",
      () => machines.forget(id).pipe(Effect.andThen(Effect.scoped(machines.get(id))), Effect.andThen(attempt))
    )
  }

  const createHeld = (id: SandboxId, options: CheckpointOptions, held: Held): Effect.Effect<Checkpoint, SandboxError> =>
    Effect.gen(function* () {
      const operation = "SandboxService.createCheckpoint"
      const { record } = held
      if (record.status === "shutdown") return yield* core.stopped(record, operation)
      if (record.status !== "active") {
        return yield* core.failure(record, operation, new NotActive({ status: record.status }))
      }
      const provider = yield* self.registry.get(record.provider)
      const stops = provider.capabilities.checkpoints !== false && provider.capabilities.checkpoints.stopsProcesses
      if (stops) {
        const running = yield* Stream.runCollect(self.store.listProcesses({ sandboxId: id, status: open }))
        if (running.length > 0 && options.stopProcesses !== true) {
          return yield* core.failure(
            record,
            operation,
            new ProcessesRunning({ processIds: running.map((process) => process.id) })
          )
        }
      }
      // Not through the cache: this holds the lease, which a recovery would need.
      const ref = yield* core.machineRef(record, operation)
      const machine = yield* provider
        .connect(ref, { sandboxId: id, boot: false })
        .pipe(Effect.retry({ schedule: self.policy.connect, while: (error) => error.isRetryable }))
      if (machine.ref.incarnation !== record.incarnation) {
        return yield* core.failure(record, operation, new NotRunning({ detail: "the machine was booted anew" }))
      }
      const checkpoint = yield* capability(provider, operation, machine.createCheckpoint, id)
      const { comment } = options
      const kept = (made: Checkpoint) =>
        Effect.gen(function* () {
          if (stops) {
            yield* machines.forget(id)
            yield* markOpenProcessesLost(self, id, "checkpoint")
          }
          if (comment === undefined || keepsComments(provider)) return made
          yield* held.update({ checkpointComments: { ...record.checkpointComments, [made.id]: comment } })
          return { ...made, comment }
        }).pipe(
          // It is there, and its id is what the caller needs: without it a second one would be made.
          Effect.catch((error) =>
            Effect.as(Effect.logWarning(`checkpoint ${made.id} of sandbox ${id} was made, but not noted`, error), made)
          )
        )
      return yield* Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(
          Effect.mapError(restore(checkpoint(comment === undefined ? {} : { comment })), core.atMostOnce()),
          kept
        )
      )
    })

  const list: Checkpoints["list"] = (id) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const record = yield* self.store.getSandbox(id)
        const { checkpoints } = yield* providerOf("SandboxService.listCheckpoints", record)
        const ref = yield* Effect.option(core.machineRef(record, "SandboxService.listCheckpoints"))
        const ours = record.checkpointComments ?? {}
        return Stream.map(checkpoints.list(id, ref), (checkpoint) => {
          const comment = checkpoint.comment ?? ours[checkpoint.id]
          return comment === undefined ? checkpoint : { ...checkpoint, comment }
        })
      })
    )

  const restore: Checkpoints["restore"] = (id, checkpointId) =>
    machines.withLease(id, (held) =>
      Effect.gen(function* () {
        const operation = "SandboxService.restoreCheckpoint"
        const { record } = held
        if (record.status === "creating" || record.status === "error") {
          return yield* core.failure(record, operation, new NotActive({ status: record.status }))
        }
        const { checkpoints, provider } = yield* providerOf(operation, record)
        const stored = yield* core.storedConfigOf(record)
        let missingSecrets: ReadonlyArray<string> = []
        const secrets = yield* SandboxSecrets.supply(operation, id, Config.secretNames(stored)).pipe(
          Effect.provideService(SandboxSecrets.SandboxSecrets, self.secrets),
          // A vendor that keeps the environment itself restores without it; the provider says so where it does not.
          Effect.catch((error) => {
            if (error.reason._tag !== "SecretsRequired") return Effect.fail(error)
            missingSecrets = error.reason.names
            return Effect.succeed({})
          })
        )
        const config = Config.fromStored(stored, secrets)
        const resolved = yield* provider.resolve(config)
        const namespace = yield* self.store.namespace
        const ref = yield* Effect.option(core.machineRef(record, operation))
        const before = record.status
        const generation = nextGeneration(record)
        yield* held.update({ status: "recreating", generation, restoring: checkpointId })
        const machine = yield* checkpoints
          .restore(
            checkpointId,
            { sandboxId: id, version: generation, namespace, config, resolved, missingSecrets },
            ref
          )
          .pipe(
            // Nothing was changed, so the record is what it was.
            Effect.tapError((error) =>
              error.provesNotAccepted
                ? Effect.ignore(held.update({ status: before, restoring: undefined }))
                : Effect.void
            ),
            // Also when it was interrupted: which machine there is now, the next use finds out.
            Effect.onError(() => machines.forget(id))
          )
        yield* machines.forget(id)
        const updated = yield* machines.activate(held, provider, machine, Option.some("restore"))
        return core.refOf(updated)
      })
    )

  const remove: Checkpoints["remove"] = (id, checkpointId) =>
    machines.withLease(id, (held) =>
      Effect.gen(function* () {
        const operation = "SandboxService.deleteCheckpoint"
        const { record } = held
        const { checkpoints } = yield* providerOf(operation, record)
        const ref = yield* Effect.option(core.machineRef(record, operation))
        yield* checkpoints.remove(checkpointId, id, ref)
        const { [checkpointId]: comment, ...others } = record.checkpointComments ?? {}
        if (comment !== undefined) yield* held.update({ checkpointComments: others })
      })
    )

  return { create, list, restore, remove }
}
