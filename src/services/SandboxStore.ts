/**
 * Sandbox and process records. Every write is a compare-and-set on `version`, which grows by one with each; leases are built
 * on it. A layer writes {@link Primitives}; {@link make} adds decoding, versions, leases, paging streams and spans.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Struct from "effect/Struct"
import { Busy, NotFound, RecordTooNew, SandboxError, Store } from "../errors.ts"
import type { SandboxErrorReason } from "../errors.ts"
import type { ProcessId, SandboxId } from "../model/Ids.ts"
import type { Lease } from "../model/Lease.ts"
import type { ProcessKind, ProcessStatus } from "../model/Process.ts"
import { ProcessRecord } from "../model/Process.ts"
import type { SandboxStatus } from "../model/SandboxRecord.ts"
import { SandboxRecord, schemaVersion } from "../model/SandboxRecord.ts"

/** All given conditions must hold. Times are ms since the epoch. */
export interface SandboxFilter {
  readonly status?: ReadonlyArray<SandboxStatus> | undefined
  readonly provider?: string | undefined
  readonly purpose?: string | undefined
  readonly externalSandboxId?: string | undefined
  readonly createdBefore?: number | undefined
  readonly createdAfter?: number | undefined
}

/** All given conditions must hold. */
export interface ProcessFilter {
  readonly sandboxId?: SandboxId | undefined
  readonly status?: ReadonlyArray<ProcessStatus> | undefined
  readonly kind?: ProcessKind | undefined
}

/** How a list is read. */
export interface ListOptions {
  /**
   * Is told of each record that this version cannot read (`RecordTooNew`, `Store(Malformed)`), which is left out. Without it the
   * stream fails there: a list that lacks something does not look whole.
   */
  readonly onUnreadable?: ((error: SandboxError) => Effect.Effect<void>) | undefined
}

/** A change: a key with `undefined` removes the field. `id`, `version` and `schemaVersion` are not yours to change. */
export type Patch<A extends object> = {
  readonly [K in Exclude<keyof A, "id" | "version" | "schemaVersion">]?: A[K] | undefined
}
/** A change of a sandbox record. */
export type SandboxPatch = Patch<SandboxRecord>
/** A change of a process record. */
export type ProcessPatch = Patch<ProcessRecord>

/** A record as a backend keeps it: plain JSON. `version` is always there. */
export type Row = { readonly [field: string]: Schema.Json | undefined } & {
  readonly id: string
  readonly version: number
}

/** A change as a backend applies it: `undefined` removes the field. `version` is always there. */
export type RowPatch = { readonly [field: string]: Schema.Json | undefined } & { readonly version: number }

/**
 * One entity of a backend. All of it sees only rows of the store's namespace. Failures are `SandboxError`s with the reason
 * `Store`, without a partial write.
 */
export interface RecordBackend<Filter> {
  /** Fails `Store(AlreadyExists)` for an id, or a (provider, externalSandboxId), that is there. */
  readonly insert: (row: Row) => Effect.Effect<void, SandboxError>
  readonly get: (id: string) => Effect.Effect<Option.Option<Row>, SandboxError>
  /**
   * Applies the patch if the row's version is `expectedVersion`, in one atomic step, and yields the row as it is then.
   * `None` if there is no such row; `Store(Conflict)` for another version.
   */
  readonly update: (
    id: string,
    expectedVersion: number,
    patch: RowPatch
  ) => Effect.Effect<Option.Option<Row>, SandboxError>
  /**
   * Takes the row away if its version is `expectedVersion`, in one atomic step and with everything that belongs to it: the log
   * of a process. False if there is no such row; `Store(Conflict)` for another version. A backend may refuse the id for good.
   */
  readonly remove: (id: string, expectedVersion: number) => Effect.Effect<boolean, SandboxError>
  /** Rows newest first (`createdAt` or `startedAt`, then `id`, both descending) that come after the cursor row. */
  readonly page: (options: {
    readonly filter: Filter
    readonly after: Option.Option<Row>
    readonly limit: number
  }) => Effect.Effect<ReadonlyArray<Row>, SandboxError>
}

/** What a layer writes. */
export interface Primitives {
  /** For spans and errors: `memory`, `sqlite`, … */
  readonly kind: string
  /** The namespace, created once and kept; see `SANDBOX_NAMESPACE`. */
  readonly namespace: Effect.Effect<string, SandboxError>
  readonly sandboxes: RecordBackend<SandboxFilter>
  readonly processes: RecordBackend<ProcessFilter>
}

/** Options of {@link SandboxStore} `acquireLease`. */
export interface AcquireLease {
  /** Who asks: an id of this service's lifetime. */
  readonly owner: string
  readonly ttl: Duration.Input
  /** Takes the lease from a live holder: for whoever has the authority to end what the holder does. */
  readonly steal?: boolean | undefined
  /** Takes the lease from this holder only: for whoever knows that it is dead. */
  readonly stealFrom?: string | undefined
}

/** Sandbox and process records, of one namespace; every failure is a `SandboxError`, mostly with the reason `Store`. */
export class SandboxStore extends Context.Service<
  SandboxStore,
  {
    /** For spans and messages: the layer's name. */
    readonly kind: string
    /** The id that keeps this store's machines apart from another's at the same vendor account. */
    readonly namespace: Effect.Effect<string, SandboxError>
    /** Inserts with `version` 1 and the current `schemaVersion`. `Store(AlreadyExists)` if the id or the machine is taken. */
    readonly insertSandbox: (record: SandboxRecord) => Effect.Effect<SandboxRecord, SandboxError>
    /** `NotFound`, `RecordTooNew`, or `Store(Malformed)` for a row that does not decode. */
    readonly getSandbox: (id: SandboxId) => Effect.Effect<SandboxRecord, SandboxError>
    /** Newest first; pages of 100 are read as the stream is pulled. */
    readonly listSandboxes: (
      filter?: SandboxFilter,
      options?: ListOptions
    ) => Stream.Stream<SandboxRecord, SandboxError>
    /** Compare-and-set; yields the new record. `Store(Conflict)` when somebody wrote in between. */
    readonly updateSandbox: (
      id: SandboxId,
      expectedVersion: number,
      patch: SandboxPatch
    ) => Effect.Effect<SandboxRecord, SandboxError>
    /** Forgets a sandbox: only its record, no machine. Compare-and-set; one that is not there is no error. */
    readonly deleteSandbox: (id: SandboxId, expectedVersion: number) => Effect.Effect<void, SandboxError>
    /**
     * Takes the lease with the next epoch, or fails `Busy` while another owner's has not expired. Its owner takes it anew
     * with a new epoch.
     */
    readonly acquireSandboxLease: (id: SandboxId, options: AcquireLease) => Effect.Effect<SandboxRecord, SandboxError>
    /** Prolongs it. `Store(LeaseLost)` when a newer epoch exists. */
    readonly renewSandboxLease: (
      id: SandboxId,
      lease: Lease,
      ttl: Duration.Input
    ) => Effect.Effect<SandboxRecord, SandboxError>
    /** Gives it back, keeping the epoch. A lease that was lost meanwhile is no error. */
    readonly releaseSandboxLease: (id: SandboxId, lease: Lease) => Effect.Effect<void, SandboxError>
    readonly insertProcess: (record: ProcessRecord) => Effect.Effect<ProcessRecord, SandboxError>
    readonly getProcess: (id: ProcessId) => Effect.Effect<ProcessRecord, SandboxError>
    readonly listProcesses: (
      filter?: ProcessFilter,
      options?: ListOptions
    ) => Stream.Stream<ProcessRecord, SandboxError>
    readonly updateProcess: (
      id: ProcessId,
      expectedVersion: number,
      patch: ProcessPatch
    ) => Effect.Effect<ProcessRecord, SandboxError>
    /** Forgets a process with its log. Compare-and-set; one that is not there is no error. */
    readonly deleteProcess: (id: ProcessId, expectedVersion: number) => Effect.Effect<void, SandboxError>
    readonly acquireProcessLease: (id: ProcessId, options: AcquireLease) => Effect.Effect<ProcessRecord, SandboxError>
    readonly renewProcessLease: (
      id: ProcessId,
      lease: Lease,
      ttl: Duration.Input
    ) => Effect.Effect<ProcessRecord, SandboxError>
    readonly releaseProcessLease: (id: ProcessId, lease: Lease) => Effect.Effect<void, SandboxError>
  }
>()("effect-sandbox/services/SandboxStore") {}

const pageSize = 100

/** What differs between the two entities; everything else is written once. */
interface Entity<A extends Record, Filter> {
  readonly kind: "sandbox" | "process"
  readonly name: string
  readonly backend: RecordBackend<Filter>
  readonly encode: (record: A) => { readonly [field: string]: unknown }
  readonly encodePatch: (patch: { readonly [field: string]: unknown }) => { readonly [field: string]: unknown }
  readonly decode: (row: Row) => Effect.Effect<A, Schema.SchemaError>
}

interface Record {
  readonly id: string
  readonly version?: number
  readonly lease?: Lease
}

const sandboxPatch = Schema.encodeUnknownSync(SandboxRecord.mapFields(Struct.map(Schema.optionalKey)))
const processPatch = Schema.encodeUnknownSync(ProcessRecord.mapFields(Struct.map(Schema.optionalKey)))
const encodeSandbox = Schema.encodeSync(SandboxRecord)
const encodeProcess = Schema.encodeSync(ProcessRecord)
const decodeSandbox = Schema.decodeUnknownEffect(SandboxRecord)
const decodeProcess = Schema.decodeUnknownEffect(ProcessRecord)

/** Derives a store from the two entities of a backend. */
export const make = (primitives: Primitives): SandboxStore["Service"] => {
  const attributes = { "sandbox.store": primitives.kind }
  const error = (operation: string, reason: SandboxErrorReason, id?: string, kind?: "sandbox" | "process") =>
    new SandboxError({
      operation: `SandboxStore.${operation}`,
      reason,
      ...(id === undefined ? {} : kind === "process" ? { processId: id } : { sandboxId: id })
    })

  const entity = <A extends Record, Filter>(self: Entity<A, Filter>) => {
    const span =
      <B, E, R>(operation: string, id?: string) =>
      (effect: Effect.Effect<B, E, R>) =>
        Effect.withSpan(effect, `SandboxStore.${operation}`, {
          kind: "client",
          attributes: id === undefined ? attributes : { ...attributes, [`${self.kind}.id`]: id }
        })

    const decode = (operation: string, row: Row): Effect.Effect<A, SandboxError> => {
      const version = row.schemaVersion ?? 1
      if (typeof version === "number" && version > schemaVersion) {
        return Effect.fail(
          error(operation, new RecordTooNew({ schemaVersion: version, supported: schemaVersion }), row.id, self.kind)
        )
      }
      return Effect.mapError(self.decode(row), (cause) =>
        error(operation, new Store({ kind: "Malformed", detail: cause.message, cause }), row.id, self.kind)
      )
    }

    const found = (operation: string, id: string) => (row: Option.Option<Row>) =>
      Option.isSome(row)
        ? decode(operation, row.value)
        : Effect.fail(error(operation, new NotFound({ kind: self.kind, id }), id, self.kind))

    const insert = (record: A) =>
      Effect.suspend(() => {
        // A record is JSON once encoded; the schema has just said so.
        const row = { ...self.encode(record), version: 1, schemaVersion } as unknown as Row
        return Effect.flatMap(self.backend.insert(row), () => decode(`insert${self.name}`, row))
      }).pipe(span(`insert${self.name}`, record.id))

    const get = (id: string) =>
      Effect.flatMap(self.backend.get(id), found(`get${self.name}`, id)).pipe(span(`get${self.name}`, id))

    const update = (id: string, expectedVersion: number, patch: { readonly [field: string]: unknown }) =>
      Effect.gen(function* () {
        const updatedAt = yield* Clock.currentTimeMillis
        const row = encodeRowPatch(self.encodePatch, { ...patch, updatedAt }, expectedVersion + 1)
        return yield* Effect.flatMap(self.backend.update(id, expectedVersion, row), found(`update${self.name}`, id))
      }).pipe(span(`update${self.name}`, id))

    const remove = (id: string, expectedVersion: number) =>
      Effect.asVoid(self.backend.remove(id, expectedVersion)).pipe(span(`delete${self.name}`, id))

    const list = (filter: Filter, { onUnreadable }: ListOptions = {}) =>
      Stream.paginate(Option.none<Row>(), (after) =>
        Effect.gen(function* () {
          const rows = yield* self.backend.page({ filter, after, limit: pageSize })
          const records: Array<A> = []
          for (const row of rows) {
            const decoded = yield* Effect.result(decode(`list${self.name}`, row))
            if (Result.isSuccess(decoded)) records.push(decoded.success)
            else if (onUnreadable === undefined) return yield* decoded.failure
            else yield* onUnreadable(decoded.failure)
          }
          const last = rows.at(-1)
          return [
            records,
            rows.length === pageSize && last !== undefined ? Option.some(Option.some(last)) : Option.none()
          ] as const
        })
      ).pipe(Stream.withSpan(`SandboxStore.list${self.name}`, { kind: "client", attributes }))

    /** Reads, decides and writes until nobody wrote in between. */
    const modify = (
      id: string,
      decide: (record: A, now: number) => Effect.Effect<{ readonly lease: Lease }, SandboxError>
    ): Effect.Effect<A, SandboxError> =>
      Effect.gen(function* () {
        const record = yield* get(id)
        const now = yield* Clock.currentTimeMillis
        const patch = yield* decide(record, now)
        return yield* update(id, record.version ?? 0, patch)
      }).pipe(
        Effect.retry({
          while: (failure) => failure.reason._tag === "Store" && failure.reason.kind === "Conflict",
          times: 100
        })
      )

    const acquireLease = (id: string, options: AcquireLease) =>
      modify(id, (record, now) => {
        const held = record.lease
        const mine = options.steal === true || held?.owner === options.owner || held?.owner === options.stealFrom
        if (held !== undefined && held.expiresAt > now && !mine) {
          return Effect.fail(
            error(
              `acquire${self.name}Lease`,
              new Busy({ owner: held.owner, retryAfter: Duration.millis(held.expiresAt - now) }),
              id,
              self.kind
            )
          )
        }
        return Effect.succeed({
          lease: {
            owner: options.owner,
            epoch: (held?.epoch ?? 0) + 1,
            expiresAt: now + Duration.toMillis(options.ttl)
          }
        })
      })

    const renewLease = (id: string, lease: Lease, ttl: Duration.Input) =>
      modify(id, (record, now) =>
        record.lease?.epoch === lease.epoch
          ? Effect.succeed({ lease: { ...lease, expiresAt: now + Duration.toMillis(ttl) } })
          : Effect.fail(error(`renew${self.name}Lease`, new Store({ kind: "LeaseLost" }), id, self.kind))
      )

    const releaseLease = (id: string, lease: Lease) =>
      modify(id, (record) =>
        record.lease?.epoch === lease.epoch
          ? Effect.succeed({ lease: { ...lease, expiresAt: 0 } })
          : Effect.fail(error(`release${self.name}Lease`, new Store({ kind: "LeaseLost" }), id, self.kind))
      ).pipe(
        Effect.catchIf(
          (failure) => failure.reason._tag === "Store" && failure.reason.kind === "LeaseLost",
          () => Effect.void
        ),
        Effect.asVoid
      )

    return { insert, get, update, remove, list, acquireLease, renewLease, releaseLease }
  }

  const sandboxes = entity<SandboxRecord, SandboxFilter>({
    kind: "sandbox",
    name: "Sandbox",
    backend: primitives.sandboxes,
    encode: encodeSandbox,
    encodePatch: sandboxPatch,
    decode: decodeSandbox
  })
  const processes = entity<ProcessRecord, ProcessFilter>({
    kind: "process",
    name: "Process",
    backend: primitives.processes,
    encode: encodeProcess,
    encodePatch: processPatch,
    decode: decodeProcess
  })

  return SandboxStore.of({
    kind: primitives.kind,
    namespace: primitives.namespace,
    insertSandbox: sandboxes.insert,
    getSandbox: sandboxes.get,
    listSandboxes: (filter = {}, options) => sandboxes.list(filter, options),
    updateSandbox: sandboxes.update,
    deleteSandbox: sandboxes.remove,
    acquireSandboxLease: sandboxes.acquireLease,
    renewSandboxLease: sandboxes.renewLease,
    releaseSandboxLease: sandboxes.releaseLease,
    insertProcess: processes.insert,
    getProcess: processes.get,
    listProcesses: (filter = {}, options) => processes.list(filter, options),
    updateProcess: processes.update,
    deleteProcess: processes.remove,
    acquireProcessLease: processes.acquireLease,
    renewProcessLease: processes.renewLease,
    releaseProcessLease: processes.releaseLease
  })
}

const encodeRowPatch = (
  encode: (patch: { readonly [field: string]: unknown }) => { readonly [field: string]: unknown },
  patch: { readonly [field: string]: unknown },
  version: number
): RowPatch => {
  const defined = Object.fromEntries(Object.entries(patch).filter(([, value]) => value !== undefined))
  const removed = Object.fromEntries(
    Object.entries(patch)
      .filter(([, value]) => value === undefined)
      .map(([key]) => [key, undefined])
  )
  // The schema's encoded side is JSON.
  return { ...removed, ...encode(defined), version } as unknown as RowPatch
}

/** The patch of a process record in the form that a backend applies, for `ProcessLog.append`. */
export const encodeProcessPatch = (patch: ProcessPatch, version: number): RowPatch =>
  encodeRowPatch(processPatch, patch, version)
