/** What the parts of `SandboxService` share: the services they stand on, and small helpers over records. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PubSub from "effect/PubSub"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as SecureRandom from "effect/crypto/SecureRandom"
import type { SandboxErrorReason } from "../../errors.ts"
import type { RecoveryEvent } from "../../model/RecoveryEvent.ts"
import {
  InvalidArgument,
  isSandboxError,
  LegacyRecord,
  NotRunning,
  OutcomeUnknown,
  SandboxError,
  Stopped,
  Store
} from "../../errors.ts"
import { expectedDuration } from "../../model/Common.ts"
import { ProcessId, SandboxId } from "../../model/Ids.ts"
import type { Lease } from "../../model/Lease.ts"
import type { StoredConfig } from "../../model/SandboxConfig.ts"
import * as Config from "../../model/SandboxConfig.ts"
import type { SandboxRecord, SandboxStatus } from "../../model/SandboxRecord.ts"
import type { SandboxRef } from "../../model/SandboxRef.ts"
import type { ProcessLog } from "../ProcessLog.ts"
import type { ProviderRegistry } from "../ProviderRegistry.ts"
import type { RecoverySchedules } from "../RecoveryPolicy.ts"
import type { Machine, MachineInfo, MachineRef, SandboxProvider } from "../SandboxProvider.ts"
import type * as SandboxSecrets from "../SandboxSecrets.ts"
import type { ServiceSettings } from "../SandboxSettings.ts"
import type { AcquireLease, SandboxStore } from "../SandboxStore.ts"

/** Schedules that a call overrides. */
export type RecoveryOverrides = Partial<RecoverySchedules>

/** A recorded process that this service writes the log of. */
export interface LivePump {
  readonly sandboxId: SandboxId
  /** True until the machine has accepted the command: what becomes of it is for its start to say. */
  readonly isStarting: () => boolean
  /** Ends the pump without a further write: somebody else decides about the record. */
  readonly abandon: Effect.Effect<void>
  /** Waits until the pump has ended by itself. */
  readonly ended: Effect.Effect<void>
}

export interface Core {
  /** Reads of the store and the log are retried in there. */
  readonly store: SandboxStore["Service"]
  readonly log: ProcessLog["Service"]
  readonly registry: ProviderRegistry["Service"]
  readonly settings: ServiceSettings
  readonly policy: RecoverySchedules
  readonly secrets: SandboxSecrets.Supply
  /** The name under which this service holds leases: new with each build of the layer. */
  readonly owner: string
  readonly isDead: (owner: string) => Effect.Effect<boolean>
  readonly pumps: Map<ProcessId, LivePump>
  readonly recoveries: PubSub.PubSub<RecoveryEvent>
}

/** A connected machine and what its record said then. */
export interface Connection {
  readonly record: SandboxRecord
  readonly provider: SandboxProvider
  readonly machine: Machine
}

/**
 * A write of the store that failed in passing, once more: one that can be repeated, or whose repetition its caller understands. A
 * lease that somebody holds is not waited for.
 */
export const retryStore =
  (self: Pick<Core, "policy">) =>
  <A>(write: Effect.Effect<A, SandboxError>): Effect.Effect<A, SandboxError> =>
    Effect.retry(write, {
      schedule: self.policy.store,
      while: (error) => error.reason._tag === "Store" && error.isRetryable
    })

/** How long a lease lives without renewal; a holder renews at a third of it. */
export const leaseTtl = Duration.seconds(30)

/**
 * The failure of what must happen at most once: one that would be worth another attempt, but does not prove that nothing was done,
 * says that its outcome is unknown. After `accepted` none proves that.
 */
export const atMostOnce =
  (startedAt?: number, accepted = false) =>
  <E>(error: E): E | SandboxError =>
    isSandboxError(error) && error.isRetryable && (accepted || !error.provesNotAccepted)
      ? new SandboxError({
          ...error,
          reason: new OutcomeUnknown({
            detail: error.reason.message,
            cause: error.reason,
            ...(startedAt === undefined ? {} : { startedAt })
          })
        })
      : error

/** Why nothing runs in a sandbox that was stopped, and whether there is a way back. */
export const stopped = (record: SandboxRecord, operation: string): SandboxError =>
  failure(
    record,
    operation,
    new Stopped(
      isResolved(record) || record.externalSandboxId === undefined || record.stopPending === "delete"
        ? {
            diskKept:
              record.persistent === true && record.externalSandboxId !== undefined && record.stopPending !== "delete"
          }
        : {}
    )
  )

/** The failure of what was asked for of a sandbox in this status only; undefined for one that has it, or when nothing was asked. */
export const changedStatus = (
  record: SandboxRecord,
  operation: string,
  ifStatus: SandboxStatus | undefined
): SandboxError | undefined =>
  ifStatus === undefined || record.status === ifStatus
    ? undefined
    : failure(record, operation, new Store({ kind: "Conflict", detail: `its status is ${record.status}` }))

/** A sandbox at rest, also while, or after, a restore of it was cut off: only an activation takes `shutdownAt` away. */
export const wasStopped = (record: SandboxRecord): boolean => record.shutdownAt !== undefined

/** How much the vendor's clock may differ from ours. */
const clockSkew = Duration.minutes(5)

/**
 * False for a machine that was there before its record: that was adopted, and is nothing that a creation has left behind. And for a
 * checkpoint of such a one.
 */
export const mayBeMadeFor = (record: SandboxRecord, { createdAt }: { readonly createdAt?: number }): boolean =>
  createdAt === undefined || createdAt >= record.createdAt - Duration.toMillis(clockSkew)

/** The machines that carry the tag of a sandbox, of this deployment. */
export const machinesOf = (
  self: Core,
  provider: SandboxProvider,
  id: SandboxId
): Stream.Stream<MachineInfo, SandboxError> =>
  Stream.unwrap(
    Effect.map(self.store.namespace, (own) =>
      Stream.filter(provider.find(id, own), ({ namespace }) => namespace === undefined || namespace === own)
    )
  )

export const newUuid = Effect.sync(() => SecureRandom.uuidV4Unsafe())

/** Acquires a lease; that of an owner which is known to be dead at once. */
export const acquire = <A>(
  self: Pick<Core, "owner" | "isDead">,
  lease: (options: AcquireLease) => Effect.Effect<A, SandboxError>
): Effect.Effect<A, SandboxError> => {
  const options = { owner: self.owner, ttl: leaseTtl }
  return Effect.catchIf(
    lease(options),
    (error) => error.reason._tag === "Busy",
    (error) => {
      const holder = error.reason._tag === "Busy" ? error.reason.owner : ""
      return Effect.flatMap(self.isDead(holder), (dead) =>
        dead ? lease({ ...options, stealFrom: holder }) : Effect.fail(error)
      )
    }
  )
}

const sandboxId = Schema.decodeUnknownOption(SandboxId)
const processId = Schema.decodeUnknownOption(ProcessId)

export const invalid = (operation: string, argument: string, problem: string): SandboxError =>
  new SandboxError({ operation, reason: new InvalidArgument({ argument, problem }) })

/** Refuses what an options object does not have: of callers without types, a misspelt field would not be heard of otherwise. */
export const onlyKnown = <O extends object>(
  operation: string,
  options: O,
  known: { readonly [K in keyof O]-?: true }
): Effect.Effect<void, SandboxError> => {
  const unknown = Object.keys(options).filter((key) => !Object.hasOwn(known, key))
  return unknown.length === 0
    ? Effect.void
    : Effect.fail(
        invalid(operation, "options", `unknown: ${unknown.join(", ")}; there are ${Object.keys(known).join(", ")}`)
      )
}

/** Checks an id of a caller's. */
export const toSandboxId = (operation: string, id: string): Effect.Effect<SandboxId, SandboxError> => {
  const decoded = sandboxId(id)
  return Option.isSome(decoded)
    ? Effect.succeed(decoded.value)
    : Effect.fail(invalid(operation, "sandboxId", "expected a UUID in lower case"))
}

/** Checks an id of a caller's. */
export const toProcessId = (operation: string, id: string): Effect.Effect<ProcessId, SandboxError> => {
  const decoded = processId(id)
  return Option.isSome(decoded)
    ? Effect.succeed(decoded.value)
    : Effect.fail(invalid(operation, "processId", "expected a UUID in lower case"))
}

/** A deadline of a caller's: above zero and at most 366 days. */
export const toDuration = (
  operation: string,
  argument: string,
  input: Duration.Input
): Effect.Effect<Duration.Duration, SandboxError> => {
  // None for what is no duration, whatever a caller without types has passed.
  const parsed = Duration.fromInput(input)
  return Option.isSome(parsed) &&
    Duration.isFinite(parsed.value) &&
    Duration.isGreaterThan(parsed.value, Duration.zero) &&
    Duration.isLessThanOrEqualTo(parsed.value, Duration.days(366))
    ? Effect.succeed(parsed.value)
    : Effect.fail(invalid(operation, argument, expectedDuration))
}

/** The same error under the name of the method that the user called, and with the ids it is about. */
export const named =
  (operation: string, ids: { readonly sandboxId?: string; readonly processId?: string }) =>
  (error: SandboxError): SandboxError =>
    new SandboxError({
      operation,
      reason: error.reason,
      ...(error.provider === undefined ? {} : { provider: error.provider }),
      ...((ids.sandboxId ?? error.sandboxId) === undefined
        ? {}
        : { sandboxId: ids.sandboxId ?? error.sandboxId ?? "" }),
      ...((ids.processId ?? error.processId) === undefined ? {} : { processId: ids.processId ?? error.processId ?? "" })
    })

/** Fails for a sandbox. */
export const failure = (record: SandboxRecord, operation: string, reason: SandboxErrorReason): SandboxError =>
  new SandboxError({ operation, provider: record.provider, sandboxId: record.id, reason })

/** Older Vercel records hold a session's id, which ends with the session. */
export const isSessionId = (externalId: string): boolean => externalId.startsWith("sbx_")

/** The machine that the record names, or why there is none. */
export const machineRef = (record: SandboxRecord, operation: string): Effect.Effect<MachineRef, SandboxError> => {
  const externalId = record.externalSandboxId
  if (externalId === undefined) {
    return Effect.fail(failure(record, operation, new NotRunning({ detail: "the record names no machine" })))
  }
  if (record.incarnation === undefined && isSessionId(externalId)) {
    return Effect.fail(failure(record, operation, new LegacyRecord({ externalSandboxId: externalId })))
  }
  return Effect.succeed({ externalId, incarnation: record.incarnation ?? "" })
}

/** The lease of a record that was acquired. */
export const leaseOf = (record: SandboxRecord): Lease => record.lease ?? { owner: "", epoch: 0, expiresAt: 0 }

export const refOf = (record: SandboxRecord): SandboxRef => ({
  version: 1,
  sandboxId: record.id,
  provider: record.provider,
  ...(record.externalSandboxId === undefined ? {} : { externalSandboxId: record.externalSandboxId }),
  ...(record.runtime === undefined ? {} : { runtime: record.runtime }),
  ...(record.ports === undefined ? {} : { ports: record.ports }),
  ...(record.purpose === undefined ? {} : { purpose: record.purpose }),
  ...(record.workspaceRoot === undefined ? {} : { workspaceRoot: record.workspaceRoot })
})

/** A record of the original has no `config`: what it has instead is what recreate uses. */
export const storedConfigOf = (record: SandboxRecord): Effect.Effect<StoredConfig, SandboxError> => {
  if (record.config !== undefined) return Effect.succeed(record.config)
  const { params, ports, provider, purpose, runtime, timeout, vcpus } = record
  const stored = Config.fromOriginal({
    provider,
    runtime,
    timeout,
    resources: vcpus === undefined ? undefined : { vcpus },
    ports,
    purpose,
    params
  })
  return Result.isSuccess(stored)
    ? Effect.succeed(stored.success)
    : Effect.fail(failure(record, "SandboxService.recreate", stored.failure))
}

/** Whether what becomes of its disk was resolved when it was created: the original wrote nothing of that. */
const isResolved = ({ deleteOnStop, persistent }: SandboxRecord): boolean =>
  deleteOnStop !== undefined || persistent !== undefined

/**
 * What becomes of its disk: what was resolved at create. For a record of the original it is resolved now, by the provider's rules
 * and settings; where that cannot be, the disk stays.
 */
export const diskOf = (
  self: Core,
  record: SandboxRecord
): Effect.Effect<{ readonly persistent: boolean; readonly deleteOnStop: boolean }> =>
  isResolved(record)
    ? Effect.succeed({
        persistent: record.persistent === true,
        deleteOnStop: record.deleteOnStop ?? record.persistent !== true
      })
    : Effect.gen(function* () {
        const provider = yield* self.registry.get(record.provider)
        const config = Config.fromStored(yield* storedConfigOf(record), {})
        const { deleteOnStop, persistent } = yield* provider.resolve(config)
        return { persistent, deleteOnStop }
      }).pipe(Effect.orElseSucceed(() => ({ persistent: true, deleteOnStop: false })))

/** The machine was not there in the incarnation that we had; nothing was accepted. */
export const isStale = (error: unknown): error is SandboxError =>
  isSandboxError(error) &&
  (error.reason._tag === "Gone" || error.reason._tag === "NotRunning" || error.reason._tag === "Superseded")

/** Failed in a way that is safe to try again: transient, and surely not accepted. */
export const mayRetryStart = (error: unknown): boolean =>
  isSandboxError(error) && error.isRetryable && error.provesNotAccepted

export const isConflict = (error: SandboxError): boolean =>
  error.reason._tag === "Store" && error.reason.kind === "Conflict"
