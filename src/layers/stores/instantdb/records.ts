/**
 * Records in InstantDB. Isolation there is READ COMMITTED and there is no compare-and-set, so every write of a record creates a claim
 * in the same transaction, whose unique key names the revision that the write makes, and addresses the record by the revision that
 * it was decided on. The first lets one of several writers at once win, the second refuses those who come late.
 *
 * A revision counts all writes of a record, also a log's; `version` counts those that the service sees.
 */
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { createHash } from "node:crypto"
import type { SandboxError, SandboxErrorReason } from "../../../errors.ts"
import * as errors from "../../../errors.ts"
import { Store } from "../../../errors.ts"
import type { ProcessFilter, RecordBackend, Row, RowPatch, SandboxFilter } from "../../../services/SandboxStore.ts"
import type { Counters } from "../../internal/storedEvents.ts"
import * as Rows from "../../internal/storedRows.ts"
import type { Answer, Client, Links, Step } from "./client.ts"
import { numberOf } from "./client.ts"
import type { Verdict, Where } from "./errors.ts"
import type { Attribute } from "./schema.ts"
import type { InTurn } from "./sharing.ts"
import { joined } from "./sharing.ts"
import type { Attrs, Entity } from "./values.ts"
import { changedAttrs, indexedText, toAttrs, toRow } from "./values.ts"

/** What every part of the store works with. */
export interface Database {
  readonly client: Client
  readonly namespace: string
  /** Whether records without a namespace, those of `@ekairos/sandbox`, belong to it. */
  readonly legacyRecords: boolean
  readonly scope: Scope.Scope
  readonly inTurn: InTurn
}

/** A record as it was read or written last. */
export interface Stored {
  readonly entityId: string
  /** 0 for a record that this library has not written yet. */
  readonly revision: number
  readonly row: Row
  /** Where the log of a process ends. */
  readonly log: Counters
}

/** Attributes that the store has for itself, and that no record has a field for. */
const own: ReadonlySet<string> = new Set([
  "namespace",
  "recordId",
  "revision",
  "versionKey",
  "machineKey",
  "exact",
  "lastSeq",
  "stdoutBytes",
  "stderrBytes"
])

type Condition = { readonly [path: string]: unknown }

interface Kind<Filter> {
  readonly name: "Sandbox" | "Process"
  readonly entity: "sandbox_sandboxes" | "sandbox_processes"
  /** The field by which lists are ordered. */
  readonly created: "createdAt" | "startedAt"
  readonly statuses: (filter: Filter) => ReadonlyArray<string> | undefined
  readonly conditions: (filter: Filter) => ReadonlyArray<Condition>
  /** The same of the exact row: a condition compares what is nearest. */
  readonly matches: (row: Row, filter: Filter) => boolean
  /** The link that an older record has instead of a field with the id. */
  readonly link: { readonly label: string; readonly field: string }
  readonly machine: (row: Row) => string | undefined
}

const isUuid = (value: unknown): value is string =>
  typeof value === "string" && /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(value)

/** Of fixed length, so that it can be indexed whatever it is made of. */
export const keyOf = (...parts: ReadonlyArray<string>): string =>
  createHash("sha256").update(JSON.stringify(parts)).digest("hex")

/** A UUID (version 8) made of these. */
const uuidOf = (...parts: ReadonlyArray<string>): string => {
  const hex = keyOf(...parts)
  return [hex.slice(0, 8), hex.slice(8, 12), `8${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    "-"
  )
}

/** The records that were read or written last, so that whoever goes on with one need not read it first. */
const cached = 512

/** Claims are cleaned up each time so many revisions have been made. */
const pruneEvery = 256
/**
 * Claims of so many revisions stay, and all of a day, longer than any transaction can be under way. The first stays for good: it is
 * what tells that a record was there when it is no more.
 */
const keptRevisions = 1000
const keptFor = Duration.toMillis(Duration.days(1))

/** Rivals that lose one after the other are at it by chance; so many in a row are something else. */
const maxRounds = 100

export class Table<Filter> implements RecordBackend<Filter> {
  readonly #database: Database
  readonly #kind: Kind<Filter>
  readonly #attributes: ReadonlyMap<string, Attribute>
  readonly #cache = new Map<string, Stored>()
  readonly #share: (
    key: string,
    read: Effect.Effect<Stored | undefined, SandboxError>
  ) => Effect.Effect<Stored | undefined, SandboxError>

  constructor(database: Database, kind: Kind<Filter>) {
    this.#database = database
    this.#kind = kind
    this.#share = joined(copyOf)
    this.#attributes = new Map([...database.client.attributesOf(kind.entity)].filter(([name]) => !own.has(name)))
  }

  get entity(): string {
    return this.#kind.entity
  }

  whereOf(id: string): Where {
    return this.#kind.name === "Process" ? { processId: id } : { sandboxId: id }
  }

  #operation(method: string): string {
    return `SandboxStore.${method}${this.#kind.name}`
  }

  #fail(operation: string, id: string, reason: SandboxErrorReason): Effect.Effect<never, SandboxError> {
    return Effect.fail(errors.fail(operation, reason, this.whereOf(id)))
  }

  /** What a query of this entity asks for besides: of records that may be older, what they are linked with. */
  get selection(): { readonly [label: string]: object } {
    return this.#database.legacyRecords ? { [this.#kind.link.label]: { $: { fields: ["id"] } } } : {}
  }

  /** The record of an entity, undefined for one of another namespace. */
  stored(entity: Entity): Stored | undefined {
    const { legacyRecords, namespace } = this.#database
    const owner = entity["namespace"] ?? undefined
    if (owner === undefined ? !legacyRecords : owner !== namespace) return undefined
    const row = toRow(entity, this.#attributes)
    const { field, label } = this.#kind.link
    const linked = [entity[label]].flat()[0]
    const other =
      row[field] === undefined && typeof linked === "object" && linked !== null && "id" in linked && isUuid(linked.id)
        ? { [field]: linked.id }
        : {}
    return {
      entityId: entity.id,
      revision: numberOf(entity, "revision"),
      row: { ...row, ...other },
      log: {
        seq: numberOf(entity, "lastSeq"),
        stdout: numberOf(entity, "stdoutBytes"),
        stderr: numberOf(entity, "stderrBytes")
      }
    }
  }

  /** What was read or written last, if it is still known. It may be out of date, which a write notices. */
  recall(id: string): Stored | undefined {
    return copyOf(this.#cache.get(id))
  }

  #remember(stored: Stored): void {
    this.#cache.delete(stored.row.id)
    this.#cache.set(stored.row.id, { ...stored, row: structuredClone(stored.row) })
    for (const oldest of this.#cache.keys()) {
      if (this.#cache.size <= cached) break
      this.#cache.delete(oldest)
    }
  }

  /** The one of these entities that is the record, remembered. */
  #found(id: string, entities: ReadonlyArray<Entity>): Stored | undefined {
    for (const entity of entities) {
      const stored = this.stored(entity)
      if (stored === undefined) continue
      this.#remember(stored)
      return stored
    }
    this.#cache.delete(id)
    return undefined
  }

  /** Runs a write of this record when those before it in this process have ended. */
  inTurn<A>(operation: string, id: string, write: Effect.Effect<A, SandboxError>): Effect.Effect<A, SandboxError> {
    const late = (begun: boolean) =>
      errors.fail(
        operation,
        new Store({ kind: begun ? "OutcomeUnknown" : "Locked", detail: "the writes of this record take too long" }),
        this.whereOf(id)
      )
    return this.#database.inTurn(id, write, late)
  }

  /** One request, but for what is not there. */
  read(operation: string, id: string): Effect.Effect<Stored | undefined, SandboxError> {
    return this.#share(id, this.#read(operation, id))
  }

  #read(operation: string, id: string): Effect.Effect<Stored | undefined, SandboxError> {
    const ask = (where: Condition) =>
      Effect.map(
        this.#database.client.query(operation, this.whereOf(id), {
          [this.entity]: { $: { where }, ...this.selection }
        }),
        (answer) => this.#found(id, answer(this.entity))
      )
    return Effect.flatMap(ask({ id }), (stored) =>
      // Another namespace may have the id; see `insert`.
      stored === undefined ? ask({ recordId: id }) : Effect.succeed(stored)
    )
  }

  /** What a lost write has read, remembered. */
  reread(id: string, answer: Answer): Stored | undefined {
    return this.#found(id, answer(this.entity))
  }

  /**
   * One write of a record, on the revision that is given. Undefined when it happened, else what is in the way, with the record as it
   * is now.
   */
  commit(
    operation: string,
    before: Stored,
    after: Row,
    more: {
      readonly log?: Counters | undefined
      readonly links?: Links
      readonly steps?: ReadonlyArray<Step>
      /** Leaves the machine unclaimed. */
      readonly sharesMachine?: boolean
    } = {}
  ): Effect.Effect<{ readonly verdict: Verdict; readonly now: Stored | undefined } | undefined, SandboxError> {
    const { client, namespace } = this.#database
    const { entityId, revision } = before
    const next = revision + 1
    const log = more.log ?? before.log
    const machine = this.#kind.machine(after)
    const keepsMachine = machine === this.#kind.machine(before.row)
    const changes: Attrs = {
      ...changedAttrs(toAttrs(before.row, this.#attributes), toAttrs(after, this.#attributes)),
      ...(more.log === undefined ? {} : { lastSeq: log.seq, stdoutBytes: log.stdout, stderrBytes: log.stderr }),
      ...(revision === 0 ? { namespace } : {}),
      ...((keepsMachine && revision > 0) || more.sharesMachine === true
        ? {}
        : { machineKey: this.#machineKey(machine) }),
      revision: next,
      versionKey: `${entityId}:${next}`
    }
    const links = { ...this.#linksOf(after, before.row), ...more.links }
    const steps: ReadonlyArray<Step> = [
      {
        op: "update",
        entity: this.entity,
        id: revision === 0 ? entityId : ["versionKey", `${entityId}:${revision}`],
        attrs: this.#kind.name === "Process" ? dropMachine(changes) : changes
      },
      // By its id: the key by which the update found it is another one now.
      ...(Object.keys(links).length === 0 ? [] : [{ op: "link", entity: this.entity, id: entityId, links } as const]),
      ...(more.steps ?? [])
    ]
    const guard = {
      key: `${entityId}:${next}`,
      record: entityId,
      revision: next,
      reread: { [this.entity]: { $: { where: { id: entityId } }, ...this.selection } }
    }
    return Effect.flatMap(client.write(operation, this.whereOf(after.id), guard, steps), (outcome) => {
      if (outcome._tag === "Lost") {
        return Effect.succeed({ verdict: outcome.verdict, now: this.reread(after.id, outcome.answer) })
      }
      this.#remember({ entityId, revision: next, row: after, log })
      return Effect.as(next % pruneEvery === 0 ? this.#prune(entityId, next) : Effect.void, undefined)
    })
  }

  #machineKey(machine: string | undefined): string | null {
    return machine === undefined ? null : keyOf(this.#database.namespace, machine)
  }

  /** The links of the original that follow from a field. */
  #linksOf(row: Row, before?: Row): Links {
    const { field, label } = this.#kind.link
    const value = row[field]
    return isUuid(value) && value !== before?.[field] ? { [label]: value } : {}
  }

  /** Behind the back of the write that noticed: nobody waits for it, and what is left is met again. */
  #prune(record: string, revision: number): Effect.Effect<void> {
    const { client, scope } = this.#database
    return Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const conditions = [
        { record },
        { revision: { $gt: 1 } },
        { revision: { $lte: revision - keptRevisions } },
        { at: { $lt: now - keptFor } }
      ]
      const answer = yield* client.query(
        "SandboxStore.prune",
        {},
        {
          sandbox_claims: { $: { where: { and: conditions }, order: { revision: "asc" }, limit: 2 * pruneEvery } }
        }
      )
      const claims = answer("sandbox_claims")
      if (claims.length === 0) return
      for (const some of Arr.chunksOf(claims, 100)) {
        yield* client.attempt(some.map(({ id }) => ({ op: "delete", entity: "sandbox_claims", id })))
      }
    }).pipe(Effect.ignore, Effect.forkIn(scope), Effect.asVoid)
  }

  readonly insert = (row: Row): Effect.Effect<void, SandboxError> => {
    const operation = this.#operation("insert")
    const { client, namespace } = this.#database
    const taken = (detail?: string) =>
      this.#fail(operation, row.id, new Store({ kind: "AlreadyExists", ...(detail === undefined ? {} : { detail }) }))
    const create = (entityId: string): Effect.Effect<void, SandboxError> => {
      const attrs: Attrs = {
        ...toAttrs(row, this.#attributes),
        ...(this.#kind.name === "Sandbox" ? { machineKey: this.#machineKey(this.#kind.machine(row)) } : {}),
        namespace,
        recordId: entityId === row.id ? null : row.id,
        revision: 1,
        versionKey: `${entityId}:1`
      }
      const links = this.#linksOf(row)
      const guard = {
        key: `${entityId}:1`,
        record: entityId,
        revision: 1,
        reread: { [this.entity]: { $: { where: { id: entityId } }, ...this.selection } }
      }
      const step: Step = {
        op: "create",
        entity: this.entity,
        id: entityId,
        attrs: Object.fromEntries(Object.entries(attrs).filter(([, value]) => value !== null)),
        ...(Object.keys(links).length === 0 ? {} : { links })
      }
      return Effect.flatMap(client.write(operation, this.whereOf(row.id), guard, [step]), (outcome) => {
        if (outcome._tag === "Written") {
          this.#remember({ entityId, revision: 1, row, log: { seq: 0, stdout: 0, stderr: 0 } })
          return Effect.void
        }
        const there = outcome.answer(this.entity)
        if (this.reread(row.id, outcome.answer) !== undefined) return taken()
        // Ids are random, so this is nobody's accident; but what another namespace has is none of this one's business.
        if (there.length > 0 && entityId === row.id) return create(uuidOf(namespace, row.id))
        if (outcome.verdict.taken === `${this.entity}.machineKey`) return taken("the machine has a record")
        return taken("there was such a record, and it was deleted")
      })
    }
    return create(row.id)
  }

  readonly get = (id: string): Effect.Effect<Option.Option<Row>, SandboxError> =>
    Effect.map(this.read(this.#operation("get"), id), (stored) =>
      Option.map(Option.fromUndefinedOr(stored), ({ row }) => row)
    )

  readonly update = (id: string, expectedVersion: number, patch: RowPatch) =>
    this.inTurn(this.#operation("update"), id, this.#update(id, expectedVersion, patch))

  readonly #update = Effect.fnUntraced(
    { self: this },
    function* (
      this: Table<Filter>,
      id: string,
      expectedVersion: number,
      patch: RowPatch
    ): Effect.fn.Return<Option.Option<Row>, SandboxError> {
      const operation = this.#operation("update")
      let known = this.recall(id)
      // Versions only grow: whoever expects one that has been seen to pass need not ask. An earlier one is worth a look.
      if (known === undefined || known.row.version < expectedVersion) known = yield* this.read(operation, id)
      let sharesMachine = false
      for (let round = 0; round < maxRounds; round++) {
        if (known === undefined) return Option.none()
        if (known.row.version !== expectedVersion) break
        const before: Stored = known
        const after = Rows.applyPatch(before.row, patch)
        const refused = yield* this.commit(operation, before, after, { sharesMachine })
        if (refused === undefined) return Option.some(after)
        known = refused.now
        if (known?.row.version !== expectedVersion || refused.verdict.taken !== `${this.entity}.machineKey`) continue
        // The original made a new record for a machine that it met again, and the old one is still to be written.
        sharesMachine = before.revision === 0 && this.#kind.machine(after) === this.#kind.machine(before.row)
        if (!sharesMachine) return yield* this.#fail(operation, id, new Store({ kind: "AlreadyExists" }))
      }
      return yield* this.#fail(operation, id, new Store({ kind: "Conflict" }))
    }
  )

  readonly remove = (id: string, expectedVersion: number) =>
    this.inTurn(this.#operation("delete"), id, this.#delete(id, expectedVersion))

  readonly #delete = Effect.fnUntraced(
    { self: this },
    function* (this: Table<Filter>, id: string, expectedVersion: number): Effect.fn.Return<boolean, SandboxError> {
      const operation = this.#operation("delete")
      let known = yield* this.read(operation, id)
      for (let round = 0; round < maxRounds; round++) {
        if (known === undefined) return false
        if (known.row.version !== expectedVersion) break
        const before: Stored = known
        // The write of a revision first, which excludes all others; what belongs to the entity goes with it.
        const refused = yield* this.commit(operation, before, before.row, {
          steps: [{ op: "delete", entity: this.entity, id: before.entityId }]
        })
        if (refused === undefined) {
          this.#cache.delete(id)
          yield* this.#prune(before.entityId, Number.MAX_SAFE_INTEGER)
          return true
        }
        known = refused.now
      }
      return yield* this.#fail(operation, id, new Store({ kind: "Conflict" }))
    }
  )

  readonly page = Effect.fnUntraced(
    { self: this },
    function* (
      this: Table<Filter>,
      { after, filter, limit }: { readonly filter: Filter; readonly after: Option.Option<Row>; readonly limit: number }
    ): Effect.fn.Return<ReadonlyArray<Row>, SandboxError> {
      const { client, legacyRecords, namespace } = this.#database
      const { created } = this.#kind
      const statuses = this.#kind.statuses(filter)
      if (statuses !== undefined && statuses.length === 0) return []
      const conditions = [
        legacyRecords ? { or: [{ namespace }, { namespace: { $isNull: true } }] } : { namespace },
        ...(statuses === undefined ? [] : [{ status: { $in: [...new Set(statuses.map(indexedText))] } }]),
        ...this.#kind.conditions(filter)
      ]
      const rows: Array<Row> = []
      let cursor = Option.map(after, (row) => ({
        at: Rows.numberField(row, created),
        id: row.id
      }))
      // Those of the cursor's own time that were there before it come once more, and the last time of a batch may be cut in two.
      let size = limit + 32
      while (true) {
        const bound = Option.match(cursor, { onNone: () => [], onSome: ({ at }) => [{ [created]: { $lte: at } }] })
        const answer = yield* client.query(
          this.#operation("list"),
          {},
          {
            [this.entity]: {
              $: { where: { and: [...conditions, ...bound] }, order: { [created]: "desc" }, limit: size },
              ...this.selection
            }
          }
        )
        const entities = answer(this.entity)
        const isCut = entities.length >= size
        const keyed = entities.flatMap((entity) => {
          const stored = this.stored(entity)
          return stored === undefined ? [] : [{ at: numberOf(entity, created), id: stored.row.id, row: stored.row }]
        })
        // The server orders equal times by what is no order of ours.
        keyed.sort((a, b) => b.at - a.at || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0))
        const end = isCut ? keyed.at(-1)?.at : undefined
        const whole = keyed.filter(({ at }) => at !== end)
        const { at: fromAt, id: fromId } = Option.getOrElse(cursor, () => ({ at: Infinity, id: "" }))
        const fresh = whole.filter(({ at, id }) => at < fromAt || (at === fromAt && id < fromId))
        for (const { row } of fresh) {
          if (rows.length < limit && this.#kind.matches(row, filter)) rows.push(row)
        }
        if (rows.length === limit || !isCut) return rows
        const last = fresh.at(-1)
        if (last === undefined) size *= 2
        else cursor = Option.some({ at: last.at, id: last.id })
      }
    }
  )
}

/** With a row of its own. */
const copyOf = <A extends Stored | undefined>(stored: A): A =>
  stored === undefined ? stored : { ...stored, row: structuredClone(stored.row) }

const dropMachine = ({ machineKey: _, ...attrs }: Attrs): Attrs => attrs

const equals = (wanted: string | undefined, value: unknown): boolean => wanted === undefined || wanted === value

const condition = (field: string, value: string | undefined): ReadonlyArray<Condition> =>
  value === undefined ? [] : [{ [field]: indexedText(value) }]

const hasStatus = (row: Row, statuses: ReadonlyArray<string> | undefined): boolean =>
  statuses === undefined || (typeof row["status"] === "string" && statuses.includes(row["status"]))

/** The sandboxes of a namespace. */
export const sandboxes = (database: Database): Table<SandboxFilter> =>
  new Table(database, {
    name: "Sandbox",
    entity: "sandbox_sandboxes",
    created: "createdAt",
    statuses: (filter) => filter.status,
    // Two bounds in one object would be one: the server takes the first.
    conditions: (filter) => [
      ...condition("provider", filter.provider),
      ...condition("purpose", filter.purpose),
      ...condition("externalSandboxId", filter.externalSandboxId),
      ...(filter.createdBefore === undefined ? [] : [{ createdAt: { $lt: filter.createdBefore } }]),
      ...(filter.createdAfter === undefined ? [] : [{ createdAt: { $gt: filter.createdAfter } }])
    ],
    matches: (row, filter) =>
      hasStatus(row, filter.status) &&
      equals(filter.provider, row["provider"]) &&
      equals(filter.purpose, row["purpose"]) &&
      equals(filter.externalSandboxId, row["externalSandboxId"]),
    link: { label: "user", field: "sandboxUserId" },
    machine: (row) => {
      const external = Rows.textField(row, "externalSandboxId")
      return external === null ? undefined : JSON.stringify([Rows.textField(row, "provider"), external])
    }
  })

/** The processes of a namespace; their logs are counted in the same records. */
export const processes = (database: Database): Table<ProcessFilter> =>
  new Table(database, {
    name: "Process",
    entity: "sandbox_processes",
    created: "startedAt",
    statuses: (filter) => filter.status,
    conditions: (filter) => [
      // By the link, which older records have too.
      ...(filter.sandboxId === undefined ? [] : [{ sandbox: filter.sandboxId }]),
      ...condition("kind", filter.kind)
    ],
    matches: (row, filter) =>
      hasStatus(row, filter.status) && equals(filter.sandboxId, row["sandboxId"]) && equals(filter.kind, row["kind"]),
    link: { label: "sandbox", field: "sandboxId" },
    machine: () => undefined
  })
