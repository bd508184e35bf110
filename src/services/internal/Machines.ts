/**
 * The machines of sandboxes: connected once and kept while they are used, recovered when they are gone.
 *
 * Recovery of one sandbox runs once at a time: in this process by a semaphore, across processes by the record's lease. Every
 * decision is made on a record that was read under that lease, so that nobody revives what somebody else has stopped.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as PubSub from "effect/PubSub"
import * as RcMap from "effect/RcMap"
import type * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { Busy, Gone, NotActive, NotRunning, SandboxError } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import { RecoveryEvent } from "../../model/RecoveryEvent.ts"
import * as Config from "../../model/SandboxConfig.ts"
import type { SandboxRecord, SandboxStatus } from "../../model/SandboxRecord.ts"
import type { SandboxRef } from "../../model/SandboxRef.ts"
import type { RecoverySchedules } from "../RecoveryPolicy.ts"
import type { Machine, SandboxProvider } from "../SandboxProvider.ts"
import { capability } from "../SandboxProvider.ts"
import * as SandboxSecrets from "../SandboxSecrets.ts"
import * as core from "./core.ts"
import type { Connection, Core, RecoveryOverrides } from "./core.ts"
import type { Held } from "./lease.ts"
import { underLease } from "./lease.ts"
import { markOpenProcessesLost } from "./lost.ts"
import * as Metrics from "./metrics.ts"

/** What a reconnect found or made. `ref` is what the sandbox is now. */
export type Reconnected =
  /** The same machine, running: its processes too. */
  | { readonly _tag: "Connected"; readonly ref: SandboxRef }
  /** The same disk; the processes are lost. */
  | { readonly _tag: "Resumed"; readonly ref: SandboxRef }
  /** A new machine from the newest checkpoint. */
  | { readonly _tag: "Restored"; readonly ref: SandboxRef; readonly checkpointId: string }
  /** A new, empty machine. */
  | { readonly _tag: "Recreated"; readonly ref: SandboxRef; readonly lost: ReadonlyArray<"disk" | "processes"> }

export interface Machines {
  /** The connected machine, recovered if need be. */
  readonly get: (id: SandboxId, overrides?: RecoveryOverrides) => Effect.Effect<Connection, SandboxError, Scope.Scope>
  /** The connected machine if it runs; boots, recovers and changes nothing. */
  readonly connected: (id: SandboxId) => Effect.Effect<Connection, SandboxError, Scope.Scope>
  /**
   * Runs an operation on the machine. One that finds it stale, which proves that nothing was accepted, enters recovery and
   * runs once more; one that failed in transit before it was accepted is retried on the `start` schedule.
   */
  readonly use: <A, E extends SandboxError | PlatformError.PlatformError, R>(
    id: SandboxId,
    f: (connection: Connection) => Effect.Effect<A, E, R>,
    overrides?: RecoveryOverrides
  ) => Effect.Effect<A, E | SandboxError, R | Scope.Scope>
  /** Forgets the machine: the next use connects anew. */
  readonly forget: (id: SandboxId) => Effect.Effect<void>
  /** `config` brings the values of the secrets, for a creation that is finished by its own caller. */
  readonly reconnect: (
    id: SandboxId,
    options?: {
      readonly recovery?: RecoveryOverrides | undefined
      readonly ifStatus?: SandboxStatus | undefined
      readonly config?: Config.SandboxConfig | undefined
    }
  ) => Effect.Effect<Reconnected, SandboxError>
  /** Runs `f` on the record, held under the sandbox's lease, which is renewed meanwhile. */
  readonly withLease: <A, E, R>(
    id: SandboxId,
    f: (held: Held) => Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | SandboxError, R>
  /** Makes the machine of a record that has none, under its lease, and writes it down as `active`. */
  readonly create: (held: Held, config: Config.SandboxConfig) => Effect.Effect<Connection, SandboxError>
  /** Writes down that the record's machine is this one now. */
  readonly activate: (
    held: Held,
    provider: SandboxProvider,
    machine: Machine,
    lost: Option.Option<string>
  ) => Effect.Effect<SandboxRecord, SandboxError>
}

const merge = (base: RecoverySchedules, ...overrides: ReadonlyArray<RecoveryOverrides | undefined>) =>
  overrides.reduce<RecoverySchedules>((all, one) => (one === undefined ? all : { ...all, ...one }), base)

/** What becomes of a sandbox whose machine is gone or does not run. */
const strategyOf = (record: SandboxRecord): Config.Recovery =>
  record.config?.recovery ?? (record.persistent === true ? "resume" : "recreate")

/** It was active once: a new machine lacks what was on its disk. */
const hadDisk = (record: SandboxRecord): boolean => record.incarnation !== undefined

/** Which machine of the sandbox it is: the first is 1. */
const generationOf = (record: SandboxRecord): number => record.generation ?? 1

/**
 * That of the machine to be made. One whose making was cut off is made again under the same number, and so under the same name:
 * should the first attempt arrive after all, the vendor has one machine.
 */
export const nextGeneration = (record: SandboxRecord): number =>
  generationOf(record) + (record.status === "active" || record.status === "shutdown" ? 1 : 0)

/** A holder may be done long before its lease would expire, so the wait is the schedule's alone. */
const withoutRetryAfter = (error: SandboxError): SandboxError =>
  error.reason._tag === "Busy" ? new SandboxError({ ...error, reason: new Busy({ owner: error.reason.owner }) }) : error

const isBusy = (error: SandboxError): boolean => error.reason._tag === "Busy"

/** What commands and files need of them. */
export type InUse = Pick<Machines, "get" | "use">

/** Fills a machine before anybody gets it; one that was made `anew`, in the place of one whose disk is gone, with more. */
export type Populate = (connection: Connection, anew: boolean) => Effect.Effect<void, SandboxError>

export const make = (self: Core, populate: Populate): Effect.Effect<Machines, never, Scope.Scope> =>
  Effect.gen(function* () {
    const operation = "SandboxService.connect"

    const schedulesOf = (provider: SandboxProvider, overrides?: RecoveryOverrides) =>
      merge(self.policy, provider.recovery, overrides)

    const connect = (record: SandboxRecord, provider: SandboxProvider, boot: boolean) =>
      Effect.flatMap(core.machineRef(record, operation), (ref) => provider.connect(ref, { sandboxId: record.id, boot }))

    const lookup = (id: SandboxId): Effect.Effect<Connection, SandboxError> =>
      Effect.gen(function* () {
        const record = yield* self.store.getSandbox(id)
        const now = yield* Clock.currentTimeMillis
        const leased = record.lease !== undefined && record.lease.expiresAt > now ? record.lease : undefined
        switch (record.status) {
          case "shutdown":
            return yield* core.stopped(record, operation)
          case "error":
            return yield* core.failure(
              record,
              operation,
              new NotActive({ status: "error", ...(record.error === undefined ? {} : { detail: record.error }) })
            )
          case "creating":
          case "recreating": {
            if (leased !== undefined && !(yield* self.isDead(leased.owner))) {
              return yield* core.failure(record, operation, new Busy({ owner: leased.owner }))
            }
            if (core.wasStopped(record)) return yield* core.stopped(record, operation)
            return yield* core.failure(
              record,
              operation,
              record.status === "creating"
                ? new NotActive({
                    status: "creating",
                    detail: "its creation was cut off; reconnectToSandbox finishes it"
                  })
                : new NotRunning({ detail: "a recreate was cut off" })
            )
          }
          case "active":
        }
        const provider = yield* self.registry.get(record.provider)
        const machine = yield* connect(record, provider, false)
        if (machine.ref.incarnation === record.incarnation) return { record, provider, machine }
        // The machine was booted by somebody who could not write it down.
        return yield* withLease(id, (held) => {
          const { externalSandboxId, incarnation, status } = held.record
          const isAsRead =
            status === "active" && incarnation === record.incarnation && externalSandboxId === record.externalSandboxId
          return isAsRead
            ? Effect.map(activate(held, provider, machine, Option.some("resume")), (updated) => ({
                record: updated,
                provider,
                machine
              }))
            : // What was written meanwhile is newer than what this has found; recovery looks at it.
              Effect.fail(core.failure(held.record, operation, new NotRunning({ detail: "its record has changed" })))
        })
      })

    const connections = yield* RcMap.make({ lookup, idleTimeToLive: self.settings.idleTtl })
    const mutexes = yield* RcMap.make({ lookup: (_: SandboxId) => Semaphore.make(1) })

    const exclusively =
      (id: SandboxId) =>
      <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
        Effect.scoped(Effect.flatMap(RcMap.get(mutexes, id), (mutex) => mutex.withPermit(effect)))

    /** A failed lookup must not be what the next caller gets. */
    const open = (id: SandboxId) => Effect.onError(RcMap.get(connections, id), () => RcMap.invalidate(connections, id))

    const forget = (id: SandboxId) => RcMap.invalidate(connections, id)

    /** Invalidates only the entry that was found stale, not the one that somebody has put in its place meanwhile. */
    const forgetStale = (id: SandboxId, stale: Connection) =>
      Effect.scoped(
        Effect.flatMap(Effect.option(Effect.flatMap(RcMap.getOption(connections, id), Effect.fromOption)), (current) =>
          Option.isSome(current) && current.value.machine !== stale.machine ? Effect.void : forget(id)
        )
      )

    const connected = (id: SandboxId) =>
      open(id).pipe(
        Effect.retry({ schedule: self.policy.connect, while: (error) => error.isRetryable && !isBusy(error) })
      )

    const get = (id: SandboxId, overrides?: RecoveryOverrides) => {
      const schedules = merge(self.policy, overrides)
      const patient = open(id).pipe(
        Effect.retry({ schedule: schedules.connect, while: (error) => error.isRetryable && !isBusy(error) }),
        // Somebody else creates or recovers it: theirs is as good as ours.
        Effect.retry({ schedule: schedules.ready, while: isBusy })
      )
      return Effect.catchIf(patient, core.isStale, () => Effect.andThen(recover(id, overrides), patient))
    }

    const use = <A, E extends SandboxError | PlatformError.PlatformError, R>(
      id: SandboxId,
      f: (connection: Connection) => Effect.Effect<A, E, R>,
      overrides?: RecoveryOverrides
    ): Effect.Effect<A, E | SandboxError, R | Scope.Scope> => {
      const attempt = (connection: Connection) =>
        f(connection).pipe(
          Effect.retry({
            // `mayRetryStart` lets only a SandboxError through to the schedule.
            schedule: schedulesOf(connection.provider, overrides).start as Schedule.Schedule<unknown, E>,
            while: core.mayRetryStart
          }),
          Effect.tapError((error) => (core.isStale(error) ? forgetStale(id, connection) : Effect.void))
        )
      return Effect.flatMap(get(id, overrides), (connection) =>
        // Only a machine that was found stale in use is recovered here: what `get` fails with, recovery has decided.
        Effect.catchIf(attempt(connection), core.isStale, () => Effect.flatMap(get(id, overrides), attempt))
      )
    }

    const held = underLease(self, (attempt) =>
      Effect.retry(Effect.mapError(attempt, withoutRetryAfter), { schedule: self.policy.ready, while: isBusy })
    )
    const withLease = <A, E, R>(id: SandboxId, f: (held: Held) => Effect.Effect<A, E, R>) =>
      exclusively(id)(held(id, f))

    const activate = (
      held: Held,
      provider: SandboxProvider,
      machine: Machine,
      lost: Option.Option<string>
    ): Effect.Effect<SandboxRecord, SandboxError> =>
      Effect.gen(function* () {
        const record = yield* held.update({
          status: "active",
          externalSandboxId: machine.ref.externalId,
          incarnation: machine.ref.incarnation,
          workspaceRoot: machine.workspaceRoot,
          sandboxUrl: Option.getOrUndefined(machine.url),
          shutdownAt: undefined,
          goneAt: undefined,
          stopPending: undefined,
          restoring: undefined,
          error: undefined
        })
        if (Option.isSome(lost)) {
          yield* markOpenProcessesLost(self, record.id, lost.value, machine.ref.incarnation)
        }
        yield* Effect.logDebug(`sandbox ${record.id} is active on ${provider.name}`)
        return record
      })

    /** The stored config with the values of its secrets. */
    const configOf = (record: SandboxRecord) =>
      Effect.gen(function* () {
        const stored = yield* core.storedConfigOf(record)
        const secrets = yield* SandboxSecrets.supply(
          "SandboxService.recreate",
          record.id,
          Config.secretNames(stored)
        ).pipe(Effect.provideService(SandboxSecrets.SandboxSecrets, self.secrets))
        return Config.fromStored(stored, secrets)
      })

    /**
     * Deletes whatever a failed or cut off creation may have left behind, but not what there was before the record, or its own machine:
     * that may hold checkpoints. Where that machine has vanished nobody can tell which of the others were before it, so that those
     * are only stopped. True when that is certain.
     */
    const sweep = (record: SandboxRecord, provider: SandboxProvider) =>
      Effect.gen(function* () {
        const all = yield* Stream.runCollect(core.machinesOf(self, provider, record.id))
        const own = all.find((info) => info.ref.incarnation === record.incarnation)
        const since = own?.createdAt ?? 0
        const left = all.filter(
          (info) => info !== own && (info.createdAt ?? since) >= since && core.mayBeMadeFor(record, info)
        )
        const mode = own === undefined && record.incarnation !== undefined ? "stop" : "delete"
        yield* Effect.forEach(left, (info) => provider.stop(info.ref, mode), { discard: true })
        return true
      }).pipe(Effect.catch(() => Effect.succeed(false)))

    const create = (held: Held, config: Config.SandboxConfig): Effect.Effect<Connection, SandboxError> =>
      Effect.gen(function* () {
        const { record } = held
        const failed = (error: SandboxError, isNothingMade: boolean) =>
          Effect.gen(function* () {
            const clean = isNothingMade || (yield* sweep(record, provider))
            yield* held.update({
              status: "error",
              error: error.message,
              stopPending: clean ? undefined : "delete",
              // A name that nothing of ours has is free for whoever asks next.
              ...(clean && record.incarnation === undefined ? { externalSandboxId: undefined } : {})
            })
          }).pipe(Effect.ignore, Effect.uninterruptible)
        const provider = yield* self.registry.get(record.provider)
        const resolved = yield* provider.resolve(config)
        const namespace = yield* self.store.namespace
        const schedules = schedulesOf(provider)
        const machine = yield* provider
          .create({
            sandboxId: record.id,
            version: generationOf(record),
            namespace,
            config,
            resolved
          })
          .pipe(
            Effect.retry({ schedule: schedules.recreate, while: core.mayRetryStart }),
            Effect.tapError((error) => failed(error, error.provesNotAccepted))
          )
        yield* populate({ record, provider, machine }, hadDisk(record)).pipe(
          // What was made in the place of another is kept: the next use fills it.
          Effect.tapError((error) => (hadDisk(record) ? Effect.void : failed(error, false)))
        )
        const updated = yield* activate(held, provider, machine, Option.none())
        return { record: updated, provider, machine }
      })

    const recreate = (held: Held, supplied?: Config.SandboxConfig): Effect.Effect<Reconnected, SandboxError> =>
      Effect.gen(function* () {
        const config = supplied ?? (yield* configOf(held.record))
        // The intent first, with the number that the machine's name will carry.
        const record = yield* held.update({
          status: held.record.status === "creating" ? "creating" : "recreating",
          generation: nextGeneration(held.record),
          error: undefined
        })
        const connection = yield* create({ ...held, record }, config)
        // Only those of machines before this one: it may be in use by now.
        yield* markOpenProcessesLost(self, record.id, "recreate", connection.machine.ref.incarnation)
        return { _tag: "Recreated" as const, ref: core.refOf(connection.record), lost: ["disk", "processes"] as const }
      })

    const restoreNewest = (held: Held, provider: SandboxProvider): Effect.Effect<Reconnected, SandboxError> =>
      Effect.gen(function* () {
        const { record } = held
        const checkpoints = Option.getOrUndefined(provider.checkpoints)
        const ref = yield* Effect.option(core.machineRef(record, operation))
        const newest =
          checkpoints === undefined
            ? Option.none()
            : yield* checkpoints.list(record.id, ref).pipe(
                // A vendor's name may have had another sandbox before: nobody asked for that one's disk.
                Stream.filter((checkpoint) => core.mayBeMadeFor(record, checkpoint)),
                Stream.runHead
              )
        if (checkpoints === undefined || Option.isNone(newest)) {
          return yield* giveUp(held, "there is no checkpoint to restore")
        }
        return yield* restore(held, provider, newest.value.id)
      })

    const restore = (
      held: Held,
      provider: SandboxProvider,
      checkpointId: string
    ): Effect.Effect<Reconnected, SandboxError> =>
      Effect.gen(function* () {
        const { record } = held
        const checkpoints = yield* capability(provider, operation, provider.checkpoints, record.id)
        const ref = yield* Effect.option(core.machineRef(record, operation))
        const config = yield* configOf(record)
        const resolved = yield* provider.resolve(config)
        const namespace = yield* self.store.namespace
        const generation = nextGeneration(record)
        yield* held.update({ status: "recreating", generation, restoring: checkpointId })
        const request = { sandboxId: record.id, version: generation, namespace, config, resolved }
        const machine = yield* checkpoints.restore(checkpointId, request, ref).pipe(
          Effect.retry({ schedule: schedulesOf(provider).recreate, while: core.mayRetryStart }),
          // Nothing was changed, so the record is what it was, and the next use decides anew.
          Effect.tapError((error) =>
            error.provesNotAccepted
              ? Effect.ignore(held.update({ status: record.status, restoring: record.restoring }))
              : Effect.void
          )
        )
        const updated = yield* activate(held, provider, machine, Option.some("restore"))
        return { _tag: "Restored" as const, ref: core.refOf(updated), checkpointId }
      })

    const giveUp = (held: Held, evidence: string): Effect.Effect<never, SandboxError> =>
      Effect.gen(function* () {
        const now = yield* Clock.currentTimeMillis
        yield* held.update({ status: "shutdown", shutdownAt: now, restoring: undefined })
        yield* markOpenProcessesLost(self, held.record.id, "gone")
        return yield* core.failure(held.record, operation, new Gone({ evidence }))
      })

    const resume = (held: Held, provider: SandboxProvider): Effect.Effect<Reconnected, SandboxError> =>
      Effect.gen(function* () {
        const machine = yield* connect(held.record, provider, true).pipe(
          Effect.retry({
            schedule: schedulesOf(provider).connect,
            while: (error) => error.isRetryable
          })
        )
        const updated = yield* activate(held, provider, machine, Option.some("resume"))
        return { _tag: "Resumed" as const, ref: core.refOf(updated) }
      })

    /** The machine of a sandbox that is supposed to be active. */
    const revive = (held: Held, overrides?: RecoveryOverrides): Effect.Effect<Reconnected, SandboxError> =>
      Effect.gen(function* () {
        const { record } = held
        const provider = yield* self.registry.get(record.provider)
        const strategy = strategyOf(record)
        const probe = yield* connect(record, provider, false).pipe(
          Effect.retry({ schedule: schedulesOf(provider, overrides).connect, while: (error) => error.isRetryable }),
          Effect.result
        )
        if (probe._tag === "Success") {
          if (record.status === "active" && probe.success.ref.incarnation === record.incarnation) {
            return { _tag: "Connected" as const, ref: core.refOf(record) }
          }
          const updated = yield* activate(held, provider, probe.success, Option.some("resume"))
          return { _tag: "Resumed" as const, ref: core.refOf(updated) }
        }
        const { reason } = probe.failure
        if (strategy === "none" && reason._tag !== "Gone") return yield* probe.failure
        // Superseded: somebody booted it who could not write it down, or outside of this library.
        if (reason._tag === "NotRunning" || reason._tag === "Superseded") {
          const resumed = yield* Effect.result(resume(held, provider))
          if (resumed._tag === "Success") return resumed.success
          if (resumed.failure.reason._tag !== "Gone") return yield* resumed.failure
          return yield* replace(held, provider, strategy, resumed.failure.reason.evidence)
        }
        if (reason._tag === "Gone") return yield* replace(held, provider, strategy, reason.evidence)
        return yield* probe.failure
      })

    const replace = (
      held: Held,
      provider: SandboxProvider,
      strategy: Config.Recovery,
      evidence: string
    ): Effect.Effect<Reconnected, SandboxError> => {
      switch (strategy) {
        case "recreate":
          return recreate(held)
        case "restore":
          return restoreNewest(held, provider)
        case "resume":
        case "none":
          return giveUp(held, evidence)
      }
    }

    /** Finishes or repeats a creation that was cut off: the machine is found by its tag, or made. */
    const finishCreation = (held: Held, supplied?: Config.SandboxConfig): Effect.Effect<Reconnected, SandboxError> =>
      Effect.gen(function* () {
        const { record } = held
        const provider = yield* self.registry.get(record.provider)
        const orphans = yield* Stream.runCollect(core.machinesOf(self, provider, record.id))
        // The newest may be booting still, and is the one that this is about.
        const likely = orphans.toSorted(
          (a, b) => Number(b.running) - Number(a.running) || (b.createdAt ?? 0) - (a.createdAt ?? 0)
        )
        let adopted = likely[0]
        let machine = Option.none<Machine>()
        for (const info of likely) {
          if (Option.isSome(machine)) break
          adopted = info
          machine = yield* provider.connect(info.ref, { sandboxId: record.id, boot: true }).pipe(
            Effect.map(Option.some),
            // One whose disk is gone is as good as none: it may be the one that was to be replaced.
            Effect.catchIf(
              (error) => error.reason._tag === "Gone",
              () => Effect.succeed(Option.none<Machine>())
            )
          )
        }
        if (Option.isNone(machine) && record.restoring !== undefined) {
          // A restore ended the session, and was cut off before it booted the next: its checkpoint, and nothing empty.
          return yield* restore(held, provider, record.restoring).pipe(
            Effect.catchIf(
              ({ reason }) => reason._tag === "NotFound" && reason.kind === "checkpoint",
              () =>
                replace(
                  held,
                  provider,
                  core.wasStopped(record) ? "resume" : strategyOf(record),
                  "no machine carries its tag, and the checkpoint that was being restored is gone"
                )
            )
          )
        }
        if (Option.isNone(machine)) {
          // What was active once had a disk: whether it may be replaced is the strategy's to say.
          return yield* record.incarnation === undefined || supplied !== undefined
            ? recreate(held, supplied)
            : // Nobody asked for an empty machine in the place of one that was stopped.
              replace(
                held,
                provider,
                core.wasStopped(record) ? "resume" : strategyOf(record),
                "no machine with a disk carries its tag"
              )
        }
        // Whoever made it may not have come to filling it.
        if (record.restoring === undefined && machine.value.ref.incarnation !== record.incarnation) {
          yield* populate({ record, provider, machine: machine.value }, hadDisk(record))
        }
        const updated = yield* activate(held, provider, machine.value, Option.some("recreate"))
        // Those of a sandbox that was active once may hold its checkpoints; they go with it.
        const mode = record.incarnation === undefined ? "delete" : "stop"
        yield* Effect.forEach(
          orphans.filter((info) => info !== adopted),
          (info) => provider.stop(info.ref, mode),
          { discard: true }
        )
        return { _tag: "Connected" as const, ref: core.refOf(updated) }
      })

    const tell = (
      sandboxId: SandboxId,
      trigger: RecoveryEvent["trigger"],
      event: (base: { sandboxId: SandboxId; trigger: RecoveryEvent["trigger"]; at: number }) => RecoveryEvent
    ) =>
      Effect.flatMap(Clock.currentTimeMillis, (at) =>
        PubSub.publish(self.recoveries, event({ sandboxId, trigger, at }))
      )

    const observed =
      (id: SandboxId, trigger: RecoveryEvent["trigger"]) =>
      <A extends Reconnected>(effect: Effect.Effect<A, SandboxError>) =>
        tell(id, trigger, RecoveryEvent.Started).pipe(
          Effect.andThen(effect),
          Effect.onExit((exit) => {
            if (Exit.isSuccess(exit)) {
              const { _tag: outcome } = exit.value
              return Effect.andThen(
                Metrics.recovered(outcome),
                tell(id, trigger, (base) => RecoveryEvent.Recovered({ ...base, outcome }))
              )
            }
            const error = Option.getOrUndefined(Exit.findErrorOption(exit))
            return Effect.andThen(
              error === undefined ? Effect.void : Metrics.recovered(error.reason._tag),
              tell(id, trigger, (base) => RecoveryEvent.Failed({ ...base, ...(error === undefined ? {} : { error }) }))
            )
          }),
          Effect.withSpan("SandboxService.recover", { attributes: { "sandbox.id": id, "sandbox.recovery": trigger } })
        )

    /** Entered when a machine was found stale. Never revives what was stopped. */
    const recover = (id: SandboxId, overrides?: RecoveryOverrides): Effect.Effect<Reconnected, SandboxError> =>
      withLease(id, (held) => {
        switch (held.record.status) {
          case "active":
            return revive(held, overrides)
          case "recreating":
            return core.wasStopped(held.record)
              ? Effect.fail(core.stopped(held.record, operation))
              : finishCreation(held)
          case "shutdown":
            return Effect.fail(core.stopped(held.record, operation))
          case "creating":
          case "error":
            return Effect.fail(core.failure(held.record, operation, new NotActive({ status: held.record.status })))
        }
      }).pipe(
        observed(id, "automatic"),
        Effect.tap(() => forget(id))
      )

    const reconnect: Machines["reconnect"] = (id, { config, ifStatus, recovery: overrides } = {}) =>
      withLease(id, (held): Effect.Effect<Reconnected, SandboxError> => {
        const { record } = held
        const changed = core.changedStatus(record, operation, ifStatus)
        if (changed !== undefined) return Effect.fail(changed)
        switch (record.status) {
          case "active":
            return revive(held, overrides)
          case "creating":
          case "recreating":
          case "error":
            return finishCreation(held, config)
          case "shutdown":
            return Effect.gen(function* () {
              const { persistent } = yield* core.diskOf(self, record)
              if (!persistent || record.externalSandboxId === undefined) return yield* core.stopped(record, operation)
              const provider = yield* self.registry.get(record.provider)
              return yield* resume(held, provider)
            })
        }
      }).pipe(
        observed(id, "explicit"),
        Effect.tap(() => forget(id))
      )

    return { get, connected, use, forget, reconnect, withLease, create, activate }
  })
