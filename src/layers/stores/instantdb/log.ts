/**
 * Logs in InstantDB. Events are packed into rows `<process>:<seq>`, written in one transaction with the record of the process, which
 * counts them: an append is one request for whoever wrote the last one, because every write of that record, a takeover of its lease
 * as well, excludes all others (`records.ts`).
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as SecureRandom from "effect/crypto/SecureRandom"
import type { SandboxError } from "../../../errors.ts"
import * as errors from "../../../errors.ts"
import { NotFound, Store } from "../../../errors.ts"
import type { ProcessId } from "../../../model/Ids.ts"
import type { ProcessEvent } from "../../../model/ProcessEvent.ts"
import { isOutput, ProcessEventType } from "../../../model/ProcessEvent.ts"
import type { LogPage, LogPosition, Primitives } from "../../../services/ProcessLog.ts"
import type { ProcessFilter, ProcessPatch } from "../../../services/SandboxStore.ts"
import { encodeProcessPatch } from "../../../services/SandboxStore.ts"
import * as LogWakeups from "../../internal/logWakeups.ts"
import * as Events from "../../internal/storedEvents.ts"
import * as Rows from "../../internal/storedRows.ts"
import type { Step } from "./client.ts"
import { numberOf } from "./client.ts"
import type { Database, Stored, Table } from "./records.ts"
import { keyOf } from "./records.ts"
import { joined } from "./sharing.ts"
import type { Entity } from "./values.ts"

const entity = "sandbox_log_chunks"

/** A row is full with so many bytes of output, or so many events. */
const rowBytes = 256 * 1024
const rowEvents = 1000
/** The server reads no string of more than 20 million characters. */
const maxText = 16_000_000
/** How many rows are read without having asked how large they are. */
const blindRows = 4
/** Rivals that lose one after the other are at it by chance; so many in a row are something else. */
const maxRounds = 100

/** Of what was appended last to so many processes, if it is no larger. */
const tailCount = 256
const tailBytes = 16 * 1024

/** Quick while there is news, then at rest. A request each time, so not as often as where the database is at hand. */
export const defaultPoll = Schedule.exponential("100 millis", 1.5).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1))))
)

/** An event in a row. Output is text where that says the same bytes. */
const Packed = Schema.Struct({
  seq: Schema.Number,
  type: ProcessEventType,
  at: Schema.Number,
  offset: Schema.optionalKey(Schema.Number),
  key: Schema.optionalKey(Schema.String),
  text: Schema.optionalKey(Schema.String),
  base64: Schema.optionalKey(Schema.String),
  data: Schema.optionalKey(Schema.String)
})
type Packed = typeof Packed.Type
const decodePacked = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Array(Packed)))

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const encoder = new TextEncoder()

const textOf = (bytes: Uint8Array): string | undefined => {
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}

/** Whether JSON is so much longer that base64 is the shorter: control characters take six each. Not asked of what is small anyway. */
const isLong = (text: string, bytes: Uint8Array): boolean =>
  bytes.length > rowBytes && JSON.stringify(text).length > 2 * bytes.length

const pack = (event: Events.StoredEvent): Packed => {
  const { at, bytes, data, key, offset, seq, type } = event
  const whole = bytes === null ? undefined : textOf(bytes)
  const text = bytes === null || whole === undefined || isLong(whole, bytes) ? undefined : whole
  return {
    seq,
    type,
    at,
    ...(offset === null ? {} : { offset }),
    ...(key === null ? {} : { key }),
    ...(bytes === null ? {} : text === undefined ? { base64: Base64.encode(bytes) } : { text }),
    ...(data === null ? {} : { data })
  }
}

const unpack = (packed: Packed): Result.Result<Events.StoredEvent, unknown> => {
  const { at, base64, data, key, offset, seq, text, type } = packed
  const base = { seq, type, at, offset: offset ?? null, key: key ?? null, data: data ?? null }
  if (text !== undefined) return Result.succeed({ ...base, bytes: encoder.encode(text) })
  if (base64 === undefined) return Result.succeed({ ...base, bytes: null })
  return Result.map(Base64.decode(base64), (bytes) => ({ ...base, bytes }))
}

/** Events in as few rows as are small enough to be read one by one. One that has a key is alone, so that the row has it too. */
const rowsOf = (events: ReadonlyArray<Events.StoredEvent>): ReadonlyArray<ReadonlyArray<Events.StoredEvent>> => {
  const rows: Array<Array<Events.StoredEvent>> = []
  let row: Array<Events.StoredEvent> | undefined
  let size = 0
  for (const event of events) {
    const bytes = Events.sizeOf(event)
    if (row === undefined || event.key !== null || size + bytes > rowBytes || row.length >= rowEvents) {
      row = []
      size = 0
      rows.push(row)
    }
    row.push(event)
    size += bytes
    if (event.key !== null) row = undefined
  }
  return rows
}

/** With bytes of its own. */
const copyOf = ({ events, terminal }: LogPage): LogPage => ({
  terminal,
  events: events.map((event) => (isOutput(event) ? { ...event, bytes: event.bytes.slice() } : event))
})

/** What happens in a log besides the log: see `mirror.ts`. */
export interface Listener {
  /** After an append: its events, and the record as it is now. */
  readonly appended: (processId: ProcessId, events: ReadonlyArray<ProcessEvent>, stored: Stored) => Effect.Effect<void>
  /** Somebody else writes this log now, or its process is not there any more. */
  readonly lost: (processId: ProcessId) => Effect.Effect<void>
  readonly streamOf: NonNullable<Primitives["streamOf"]>
}

export interface Options {
  readonly database: Database
  readonly processes: Table<ProcessFilter>
  readonly kind: string
  readonly poll: Schedule.Schedule<unknown>
  readonly listener: Listener | undefined
}

export const make = ({ database, kind, listener, poll, processes }: Options): Primitives => {
  const { client } = database
  const wakeups = LogWakeups.make()

  const fail = (operation: string, processId: ProcessId, reason: errors.SandboxErrorReason) =>
    Effect.fail(errors.fail(`ProcessLog.${operation}`, reason, { processId }))

  const notFound = (operation: string, processId: ProcessId) =>
    fail(operation, processId, new NotFound({ kind: "process", id: processId }))

  const malformed = (operation: string, processId: ProcessId, key: unknown) =>
    fail(operation, processId, new Store({ kind: "Malformed", detail: `the log's row ${String(key)} does not decode` }))

  const unpacked = Effect.fnUntraced(function* (operation: string, processId: ProcessId, row: Entity) {
    const packed = decodePacked(row["data"])
    if (Result.isFailure(packed)) return yield* malformed(operation, processId, row["key"])
    const events: Array<Events.StoredEvent> = []
    for (const one of packed.success) {
      const event = unpack(one)
      if (Result.isFailure(event)) return yield* malformed(operation, processId, row["key"])
      events.push(event.success)
    }
    return events
  })

  /** Rows that hold events behind `after`, in order. `lastSeq` is in what is asked for, because the answer is ordered by it. */
  const rowsAfter = (entityId: string, after: number, options: { readonly limit: number; readonly to?: number }) => ({
    where: {
      and: [
        { process: entityId },
        { lastSeq: { $gt: after } },
        ...(options.to === undefined ? [] : [{ lastSeq: { $lte: options.to } }])
      ]
    },
    order: { lastSeq: "asc" },
    limit: options.limit
  })

  /** The record and, in the same request, whatever else is asked for about the entity that it is expected to be. */
  const withRecord = Effect.fnUntraced(function* (
    operation: string,
    processId: ProcessId,
    more: (entityId: string) => object
  ) {
    const where = { processId }
    const query = (entityId: string) =>
      client.query(`ProcessLog.${operation}`, where, {
        [processes.entity]: { $: { where: { id: entityId } }, ...processes.selection },
        ...more(entityId)
      })
    const expected = processes.recall(processId)?.entityId ?? processId
    const answer = yield* query(expected)
    const stored = processes.reread(processId, answer)
    if (stored !== undefined) return { stored, answer }
    // The id is another namespace's, and this one's record has another entity.
    const other = yield* processes.read(`ProcessLog.${operation}`, processId)
    if (other === undefined) return yield* notFound(operation, processId)
    return { stored: other, answer: yield* query(other.entityId) }
  })

  const ownerOf = (operation: string, processId: ProcessId, stored: Stored) =>
    Effect.fromResult(Events.ownerOf(`ProcessLog.${operation}`, processId, stored.row["sandboxId"]))

  /** Fails unless each of these events is in the log as it is. `rows` are the first that hold some of them. */
  const checkKnown = Effect.fnUntraced(function* (
    processId: ProcessId,
    entityId: string,
    known: ReadonlyArray<Events.StoredEvent>,
    rows: ReadonlyArray<Entity>
  ) {
    let rest = known
    let next = rows
    while (true) {
      const stored = new Map<number, Events.StoredEvent>()
      for (const row of next) {
        for (const event of yield* unpacked("append", processId, row)) stored.set(event.seq, event)
      }
      const end = rest.findIndex(({ seq }) => !stored.has(seq))
      const here = end === -1 ? rest : rest.slice(0, end)
      const other = here.find((event) => {
        const there = stored.get(event.seq)
        return there === undefined || !Events.sameContent(there, event)
      })
      const [first] = rest
      if (first !== undefined && (other !== undefined || here.length === 0)) {
        return yield* Events.logConflict(processId, `event ${(other ?? first).seq} is there with other content`)
      }
      rest = rest.slice(here.length)
      const [following] = rest
      if (following === undefined) return
      const answer = yield* client.query(
        "ProcessLog.append",
        { processId },
        {
          [entity]: { $: rowsAfter(entityId, following.seq - 1, { limit: blindRows }) }
        }
      )
      next = answer(entity)
    }
  })

  const tails = new Map<ProcessId, ReadonlyArray<Events.StoredEvent>>()

  const rememberTail = (processId: ProcessId, events: ReadonlyArray<Events.StoredEvent>) => {
    tails.delete(processId)
    if (events.reduce((sum, event) => sum + Events.sizeOf(event), 0) > tailBytes) return
    tails.set(
      processId,
      events.map((event) => ({ ...event, bytes: event.bytes?.slice() ?? null }))
    )
    for (const oldest of tails.keys()) {
      if (tails.size <= tailCount) break
      tails.delete(oldest)
    }
  }

  /** One of these that the log has with other content, as far as that is known without a look: what is written never changes. */
  const contradicted = (processId: ProcessId, known: ReadonlyArray<Events.StoredEvent>) => {
    const tail = new Map(tails.get(processId)?.map((event) => [event.seq, event]))
    return known.find((event) => {
      const there = tail.get(event.seq)
      return there !== undefined && !Events.sameContent(there, event)
    })
  }

  const stepsOf = (
    entityId: string,
    fresh: ReadonlyArray<Events.StoredEvent>
  ): ReadonlyArray<Step & { op: "create" }> =>
    rowsOf(fresh).flatMap((events) => {
      const [first] = events
      const last = events.at(-1)
      if (first === undefined || last === undefined) return []
      return [
        {
          op: "create",
          entity,
          id: SecureRandom.uuidV4Unsafe(),
          attrs: {
            key: `${entityId}:${first.seq}`,
            seq: first.seq,
            lastSeq: last.seq,
            size: events.reduce((sum, event) => sum + Events.sizeOf(event), 0),
            data: JSON.stringify(events.map(pack)),
            ...(first.key === null ? {} : { eventKey: keyOf(entityId, first.key) })
          },
          links: { process: entityId }
        }
      ]
    })

  const appendInTurn = Effect.fnUntraced(function* (
    processId: ProcessId,
    epoch: number,
    added: ReadonlyArray<ProcessEvent>,
    patch: ProcessPatch | undefined
  ) {
    const operation = "ProcessLog.append"
    const read = processes.read(operation, processId)
    let known = processes.recall(processId)
    // What is remembered may be of before a takeover or another writer's appends; only a record that was just read refuses.
    let isFresh = false
    let rows: ReadonlyArray<Entity> | undefined
    for (let round = 0; round < maxRounds; round++) {
      if (known === undefined) {
        known = yield* read
        isFresh = true
        if (known === undefined) return yield* notFound("append", processId)
      }
      const before: Stored = known
      known = undefined
      if (Rows.leaseEpoch(before.row) !== epoch) {
        if (!isFresh) continue
        return yield* fail("append", processId, new Store({ kind: "LeaseLost" }))
      }
      const owner = yield* ownerOf("append", processId, before)
      const split = Events.split(owner, before.log.seq, added)
      if (Result.isFailure(split)) {
        if (isFresh) return yield* Events.logConflict(processId, split.failure)
        continue
      }
      const { fresh } = split.success
      const [first] = split.success.known
      if (first !== undefined) {
        const other = contradicted(processId, split.success.known)
        if (other !== undefined) {
          return yield* Events.logConflict(processId, `event ${other.seq} is there with other content`)
        }
        // They are compared with what is there; in the same request the record is read, as that somebody else has the lease now is to
        // be told also of what is there already.
        if (rows === undefined) {
          const read = yield* withRecord("append", processId, (entityId) => ({
            [entity]: { $: rowsAfter(entityId, first.seq - 1, { limit: blindRows }) }
          }))
          known = read.stored
          rows = read.answer(entity)
          isFresh = true
          continue
        }
        yield* checkKnown(processId, before.entityId, split.success.known, rows)
        rows = undefined
      }
      const keys = fresh.flatMap(({ key }) => (key === null ? [] : [key]))
      if (new Set(keys).size < keys.length) return yield* Events.logConflict(processId, "two events have one key")
      const steps = stepsOf(before.entityId, fresh)
      if (steps.some(({ attrs }) => String(attrs["data"]).length > maxText)) {
        const detail = "an event is larger than the server takes (about 11 MiB)"
        return yield* fail("append", processId, new Store({ kind: "Full", detail }))
      }
      if (fresh.length === 0 && patch === undefined) return
      const after =
        patch === undefined
          ? before.row
          : Rows.applyPatch(before.row, encodeProcessPatch(patch, before.row.version + 1))
      const log = fresh.length === 0 ? undefined : Events.advance(before.log, fresh)
      const refused = yield* processes.commit(operation, before, after, { log, steps })
      if (refused === undefined) {
        if (fresh.length > 0) rememberTail(processId, fresh)
        yield* wakeups.notify(processId)
        if (listener !== undefined) {
          const stored = { ...before, row: after, log: log ?? before.log }
          yield* listener.appended(processId, added.slice(split.success.known.length), stored)
        }
        return
      }
      if (refused.now === undefined) return yield* notFound("append", processId)
      known = refused.now
      isFresh = true
      const { revision } = known
      if (refused.verdict.taken === `${entity}.eventKey` && revision === before.revision) {
        return yield* Events.logConflict(processId, "the key of an event is taken")
      }
    }
    return yield* fail("append", processId, new Store({ kind: "Locked", detail: "too many writers at once" }))
  })

  const isOver = ({ reason }: SandboxError) =>
    reason._tag === "NotFound" || (reason._tag === "Store" && reason.kind === "LeaseLost")

  const append: Primitives["append"] = (processId, epoch, added, patch) =>
    processes
      .inTurn("ProcessLog.append", processId, appendInTurn(processId, epoch, added, patch))
      .pipe(
        Effect.tapError((error) => (isOver(error) && listener !== undefined ? listener.lost(processId) : Effect.void))
      )

  const readPage: Primitives["page"] = Effect.fnUntraced(function* (processId, after) {
    const operation = "read"
    // Until what the record counts is there: the two may be of different moments, and the end must not be seen before what it ends.
    for (let round = 0; round < maxRounds; round++) {
      const { answer, stored } = yield* withRecord(operation, processId, (entityId) => ({
        [entity]: { $: rowsAfter(entityId, after, { limit: blindRows }) }
      }))
      const terminal = Events.isTerminal(stored.row["status"])
      let rows = answer(entity)
      if (rows.length === 0) {
        if (stored.log.seq > after) continue
        return { events: [], terminal } satisfies LogPage
      }
      const size = rows.reduce((sum, row) => sum + numberOf(row, "size"), 0)
      const last = rows.at(-1)
      if (rows.length === blindRows && last !== undefined && size < Events.pageBytes / 2) {
        // Many small ones: how many fit is asked before they are read.
        const from = numberOf(last, "lastSeq")
        const sizes = (yield* client.query(
          `ProcessLog.${operation}`,
          { processId },
          {
            [entity]: {
              $: { ...rowsAfter(stored.entityId, from, { limit: Events.pageEvents }), fields: ["lastSeq", "size"] }
            }
          }
        ))(entity)
        let total = size
        let to = from
        for (const row of sizes) {
          total += numberOf(row, "size")
          if (total > Events.pageBytes) break
          to = numberOf(row, "lastSeq")
        }
        if (to > from) {
          const more = yield* client.query(
            `ProcessLog.${operation}`,
            { processId },
            {
              [entity]: { $: rowsAfter(stored.entityId, from, { limit: Events.pageEvents, to }) }
            }
          )
          rows = [...rows, ...more(entity)]
        }
      }
      const owner = yield* ownerOf(operation, processId, stored)
      const found: Array<Events.StoredEvent> = []
      for (const row of rows) found.push(...(yield* unpacked(operation, processId, row)))
      // A row starts before what was asked for when an append did.
      const wanted = found.filter(({ seq }) => seq > after)
      const taken = wanted.slice(0, Events.pageLength(wanted.map(Events.sizeOf)))
      const events = yield* Effect.forEach(taken, (event) => Events.fromStored(`ProcessLog.${operation}`, owner, event))
      return { events, terminal } satisfies LogPage
    }
    return yield* fail(operation, processId, new Store({ kind: "Malformed", detail: "the log lacks events" }))
  })

  const share = joined<LogPage, SandboxError>(copyOf)
  const page: Primitives["page"] = (processId, after) => share(`${processId}:${after}`, readPage(processId, after))

  const lastPosition = (processId: ProcessId): Effect.Effect<LogPosition, SandboxError> =>
    Effect.flatMap(processes.read("ProcessLog.lastPosition", processId), (stored) =>
      stored === undefined ? notFound("lastPosition", processId) : Effect.succeed(stored.log)
    )

  const findKey: Primitives["findKey"] = Effect.fnUntraced(function* (processId, key) {
    const { answer, stored } = yield* withRecord("findKey", processId, (entityId) => ({
      [entity]: { $: { where: { eventKey: keyOf(entityId, key) } } }
    }))
    const [row] = answer(entity)
    if (row === undefined) return Option.none()
    const owner = yield* ownerOf("findKey", processId, stored)
    const event = (yield* unpacked("findKey", processId, row)).find((one) => one.key === key)
    return event === undefined
      ? Option.none()
      : Option.some(yield* Events.fromStored("ProcessLog.findKey", owner, event))
  })

  return {
    kind,
    append,
    page,
    lastPosition,
    findKey,
    changed: wakeups.changed,
    streamOf: listener?.streamOf,
    poll
  }
}
