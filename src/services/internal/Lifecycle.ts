/** Creating and stopping sandboxes. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { ConfigMismatch, NameInUse, NotActive, SandboxError, StopIncomplete } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { SandboxConfigInput, StoredConfig } from "../../model/SandboxConfig.ts"
import * as Config from "../../model/SandboxConfig.ts"
import type { SandboxRecord, SandboxStatus } from "../../model/SandboxRecord.ts"
import type { SandboxRef } from "../../model/SandboxRef.ts"
import type { ResolvedConfig, SandboxProvider } from "../SandboxProvider.ts"
import { capability } from "../SandboxProvider.ts"
import type { Core } from "./core.ts"
import * as core from "./core.ts"
import { markOpenProcessesLost, settlePumps } from "./lost.ts"
import type { Machines } from "./Machines.ts"

/** What `createSandbox` yields: `resumed` when the id or the name existed already. */
export interface Created {
  readonly sandboxId: SandboxId
  readonly ref: SandboxRef
  readonly outcome: "created" | "resumed"
}

/** What belongs to the record of a sandbox rather than to its machine. */
export interface CreateOptions {
  /** Makes the call idempotent: the same id and config are the same sandbox. */
  readonly sandboxId?: string | undefined
  /**
   * Whose it is, for the record; with the store `InstantDb` an id of `$users`, to which it is linked. A sandbox that there is already,
   * by its id or its name, must be theirs.
   */
  readonly sandboxUserId?: string | undefined
}

export interface Lifecycle {
  readonly create: (config: SandboxConfigInput, options: CreateOptions) => Effect.Effect<Created, SandboxError>
  readonly stop: (
    id: SandboxId,
    options: { readonly delete?: boolean | undefined; readonly ifStatus?: SandboxStatus | undefined }
  ) => Effect.Effect<void, SandboxError>
  readonly extendTimeout: (id: SandboxId, duration: Duration.Input) => Effect.Effect<void, SandboxError>
}

export const make = (self: Core, machines: Machines): Lifecycle => {
  const operation = "SandboxService.createSandbox"

  const create: Lifecycle["create"] = Effect.fnUntraced(function* (input, options) {
    const decoded = Config.decode(input)
    if (Result.isFailure(decoded)) return yield* new SandboxError({ operation, reason: decoded.failure })
    const config = decoded.success
    const provider = yield* self.registry.select(config.provider ?? Option.getOrUndefined(self.settings.provider))
    const resolved = yield* provider.resolve(config)
    // The provider that was selected belongs to what was asked for, however it was selected.
    const stored: StoredConfig = { ...Config.toStored(config), provider: provider.name }

    if (resolved.name !== undefined) {
      const owner = yield* self.store
        .listSandboxes({
          provider: provider.name,
          externalSandboxId: resolved.name.externalId
        })
        .pipe(Stream.runHead)
      if (Option.isSome(owner)) {
        // The same id once more is no second claim to the name, and a creation that was cut off needs the secrets of this call.
        const isReplay = resolved.name.reuse ? isUnfinished(owner.value) : owner.value.id === options.sandboxId
        return yield* isReplay
          ? again(owner.value, config, stored, options)
          : reuse(owner.value, stored, resolved.name, options)
      }
    }

    const sandboxId =
      options.sandboxId === undefined
        ? yield* Effect.flatMap(core.newUuid, (uuid) => core.toSandboxId(operation, uuid))
        : yield* core.toSandboxId(operation, options.sandboxId)
    if (options.sandboxId !== undefined) {
      const existing = yield* find(sandboxId)
      if (Option.isSome(existing)) return yield* again(existing.value, config, stored, options)
    }
    return yield* insertAndCreate(sandboxId, provider, resolved, config, stored, options)
  })

  const isUnfinished = ({ status }: SandboxRecord): boolean => status === "creating" || status === "error"

  const find = (id: SandboxId) =>
    self.store.getSandbox(id).pipe(
      Effect.map(Option.some),
      Effect.catchIf(
        (error) => error.reason._tag === "NotFound",
        () => Effect.succeed(Option.none<SandboxRecord>())
      )
    )

  const sameOrMismatch = (record: SandboxRecord, stored: StoredConfig, { sandboxUserId }: CreateOptions) =>
    Effect.gen(function* () {
      const fields = Config.differences(yield* core.storedConfigOf(record), stored)
      if (sandboxUserId !== undefined && sandboxUserId !== record.sandboxUserId) fields.push("sandboxUserId")
      if (fields.length > 0) return yield* core.failure(record, operation, new ConfigMismatch({ fields }))
    })

  /** The same id once more: a workflow's replay. A creation that was cut off is finished, what is there left as it is. */
  const again = (
    record: SandboxRecord,
    config: Config.SandboxConfig,
    stored: StoredConfig,
    options: CreateOptions
  ): Effect.Effect<Created, SandboxError> =>
    Effect.gen(function* () {
      yield* sameOrMismatch(record, stored, options)
      if (isUnfinished(record)) {
        // With the secrets that this call brings: nobody else may have them.
        const { ref } = yield* machines.reconnect(record.id, { config })
        return { sandboxId: record.id, ref, outcome: "resumed" }
      }
      // One that can never be used again is nothing to go on with, nor may its id be another's.
      const stopped = core.stopped(record, operation)
      const isOver = record.status === "shutdown" && stopped.reason._tag === "Stopped" && !stopped.reason.diskKept
      if (isOver) return yield* stopped
      return { sandboxId: record.id, ref: core.refOf(record), outcome: "resumed" }
    })

  /** A name that a record owns. */
  const reuse = (
    record: SandboxRecord,
    stored: StoredConfig,
    name: NonNullable<ResolvedConfig["name"]>,
    options: CreateOptions
  ): Effect.Effect<Created, SandboxError> =>
    Effect.gen(function* () {
      if (!name.reuse) return yield* core.failure(record, operation, new NameInUse({ name: name.externalId }))
      yield* sameOrMismatch(record, stored, options)
      const { ref } = yield* machines.reconnect(record.id)
      return { sandboxId: record.id, ref, outcome: "resumed" }
    })

  const insertAndCreate = (
    id: SandboxId,
    provider: SandboxProvider,
    resolved: ResolvedConfig,
    config: Config.SandboxConfig,
    stored: StoredConfig,
    options: CreateOptions
  ): Effect.Effect<Created, SandboxError> =>
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const record: SandboxRecord = {
        id,
        provider: provider.name,
        status: "creating",
        createdAt: now,
        persistent: resolved.persistent,
        deleteOnStop: resolved.deleteOnStop,
        ports: resolved.ports,
        ...(resolved.timeout === undefined ? {} : { timeout: Duration.toMillis(resolved.timeout) }),
        ...(resolved.runtime === undefined ? {} : { runtime: resolved.runtime }),
        ...(resolved.vcpus === undefined ? {} : { vcpus: resolved.vcpus }),
        ...(resolved.name === undefined ? {} : { externalSandboxId: resolved.name.externalId }),
        ...(options.sandboxUserId === undefined ? {} : { sandboxUserId: options.sandboxUserId }),
        ...(config.purpose === undefined ? {} : { purpose: config.purpose }),
        ...(config.params === undefined ? {} : { params: config.params }),
        config: stored,
        lease: { owner: self.owner, epoch: 1, expiresAt: now + Duration.toMillis(core.leaseTtl) }
      }
      // The intent, before anything is asked of the vendor.
      const inserted = yield* self.store.insertSandbox(record).pipe(
        core.retryStore(self),
        Effect.map(Option.some),
        Effect.catchIf(
          (error) => error.reason._tag === "Store" && error.reason.kind === "AlreadyExists",
          () => Effect.succeed(Option.none<SandboxRecord>())
        )
      )
      if (Option.isNone(inserted)) {
        // Another creation of this id, or of this name, came first a moment ago.
        const existing = yield* find(id)
        if (Option.isSome(existing)) return yield* again(existing.value, config, stored, options)
        return yield* core.failure(record, operation, new NameInUse({ name: resolved.name?.externalId ?? id }))
      }
      const made = yield* machines.withLease(id, ({ record, ...held }) =>
        record.status === "creating"
          ? Effect.map(machines.create({ record, ...held }, config), (connection) => connection.record)
          : // A second call with this id came in between and has finished the creation.
            record.status === "active"
            ? Effect.succeed(record)
            : Effect.fail(core.failure(record, operation, new NotActive({ status: record.status })))
      )
      return { sandboxId: id, ref: core.refOf(made), outcome: "created" as const }
    })

  const stop: Lifecycle["stop"] = (id, options) =>
    machines.withLease(id, (held) =>
      Effect.gen(function* () {
        const { record } = held
        const changed = core.changedStatus(record, "SandboxService.stopSandbox", options.ifStatus)
        if (changed !== undefined) return yield* changed
        const disk = yield* core.diskOf(self, record)
        // A delete that was asked for once stays asked for.
        const mode = options.delete === true || record.stopPending === "delete" || disk.deleteOnStop ? "delete" : "stop"
        const finished = record.status === "shutdown" && record.stopPending === undefined
        if (finished && (mode === "stop" || record.externalSandboxId === undefined)) {
          // Whoever ended it may not have come to its processes.
          return yield* markOpenProcessesLost(self, id, "stop")
        }
        const provider = yield* self.registry.get(record.provider)
        yield* machines.forget(id)
        const now = yield* Clock.currentTimeMillis
        yield* held.update({ status: "shutdown", shutdownAt: record.shutdownAt ?? now, stopPending: mode, ...disk })
        // Unless it was active, or is at rest, the record may not know every machine that carries its tag; and one that was made
        // in the place of another has that one beside it.
        const sweep = (record.status !== "active" && !finished) || (mode === "delete" && (record.generation ?? 1) > 1)
        yield* end(record, provider, mode, sweep).pipe(
          Effect.retry({ schedule: self.policy.connect, while: (error) => error.isRetryable }),
          Effect.mapError((cause) =>
            core.failure(
              record,
              "SandboxService.stopSandbox",
              new StopIncomplete({ detail: cause.message, cause: cause.reason })
            )
          )
        )
        yield* settlePumps(self, id)
        yield* markOpenProcessesLost(self, id, "stop")
        yield* held.update(
          mode === "delete"
            ? { stopPending: undefined, externalSandboxId: undefined, incarnation: undefined }
            : { stopPending: undefined }
        )
      })
    )

  /**
   * Without an incarnation an id is but a name that was asked for, and the machine of that name may be another's; unless the original
   * wrote it, which knew no incarnations. Its ids of sessions end with these.
   */
  const namesItsMachine = ({ externalSandboxId, incarnation, schemaVersion, status }: SandboxRecord): boolean =>
    externalSandboxId !== undefined &&
    (incarnation !== undefined ||
      ((status === "active" || schemaVersion === undefined) && !core.isSessionId(externalSandboxId)))

  /** Ends the record's machine and, with `sweep`, whatever else carries its tag. Boots nothing. */
  const end = (record: SandboxRecord, provider: SandboxProvider, mode: "stop" | "delete", sweep: boolean) =>
    Effect.gen(function* () {
      if (namesItsMachine(record)) {
        const ref = yield* core.machineRef(record, "SandboxService.stopSandbox")
        yield* provider.stop(ref, mode)
      }
      if (!sweep) return
      yield* Stream.runForEach(core.machinesOf(self, provider, record.id), (info) => {
        // The disk of a sandbox that was active once is its own, whichever incarnation holds it now; and one that was there before
        // the record was adopted.
        const own = record.incarnation !== undefined && info.ref.externalId === record.externalSandboxId
        return provider.stop(info.ref, own || !core.mayBeMadeFor(record, info) ? mode : "delete")
      })
    })

  const extendTimeout: Lifecycle["extendTimeout"] = (id, input) =>
    Effect.gen(function* () {
      const name = "SandboxService.extendTimeout"
      const duration = yield* core.toDuration(name, "duration", input)
      yield* Effect.scoped(
        machines.use(id, ({ machine, provider }) =>
          Effect.flatMap(capability(provider, name, machine.extendTimeout, id), (extend) => extend(duration))
        )
      )
    })

  return { create, stop, extendTimeout }
}
