/**
 * Records and logs in this process, gone with it: for tests and for programs that keep nothing. It means the same as the SQL
 * stores: rows are kept as text, bytes are copied in and out, and no step of an operation can be seen by another fiber.
 *
 * **Gotchas**: its namespace is new in every process unless it is given, so that with a remote provider a restarted program does
 * not find its machines again.
 */
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type { SandboxError, SandboxErrorReason } from "../../errors.ts"
import * as errors from "../../errors.ts"
import { NotFound, Store } from "../../errors.ts"
import type { ProcessId } from "../../model/Ids.ts"
import * as Log from "../../services/ProcessLog.ts"
import * as Records from "../../services/SandboxStore.ts"
import * as LogWakeups from "../internal/logWakeups.ts"
import * as Events from "../internal/storedEvents.ts"
import * as Rows from "../internal/storedRows.ts"

export interface Options {
  /** Keeps this store's machines apart from another's; default a new id. */
  readonly namespace?: string | undefined
}

/** The primitives of a store and a log over the same rows. */
export interface Primitives {
  readonly store: Records.Primitives
  readonly log: Log.Primitives
}

/** A row as text, with the fields beside it that lists look at. */
interface Kept {
  readonly id: string
  readonly at: number
  readonly version: number
  readonly text: string
  /** A parsed copy that never leaves this module. */
  readonly row: Records.Row
}

const keep = (row: Records.Row, createdField: string): Kept => {
  const text = JSON.stringify(row)
  return { id: row.id, at: Rows.numberField(row, createdField), version: row.version, text, row: JSON.parse(text) }
}

/** Oldest first, as the array is sorted: new rows go to its end. */
const compare = (a: { readonly at: number; readonly id: string }, b: { readonly at: number; readonly id: string }) =>
  a.at - b.at || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)

class Table<Filter> implements Records.RecordBackend<Filter> {
  readonly #name: string
  readonly #created: string
  readonly #matches: (row: Records.Row, at: number, filter: Filter) => boolean
  /** What only one row may have; undefined for a row that claims nothing. */
  readonly #claim: (row: Records.Row) => string | undefined
  readonly #rows = new Map<string, Kept>()
  readonly #claims = new Map<string, string>()
  readonly #sorted: Array<Kept> = []

  constructor(
    name: string,
    created: string,
    matches: (row: Records.Row, at: number, filter: Filter) => boolean,
    claim: (row: Records.Row) => string | undefined
  ) {
    this.#name = name
    this.#created = created
    this.#matches = matches
    this.#claim = claim
  }

  readonly insert = (row: Records.Row) =>
    Effect.suspend(() => {
      const claim = this.#claim(row)
      if (this.#rows.has(row.id) || (claim !== undefined && this.#claims.has(claim))) {
        return Effect.fail(this.#error("insert", row.id, new Store({ kind: "AlreadyExists" })))
      }
      this.#put(keep(row, this.#created))
      return Effect.void
    })

  readonly get = (id: string) =>
    Effect.sync(() =>
      Option.map(Option.fromUndefinedOr(this.#rows.get(id)), (kept): Records.Row => JSON.parse(kept.text))
    )

  readonly update = (id: string, expectedVersion: number, patch: Records.RowPatch) =>
    Effect.suspend(() => {
      const kept = this.#rows.get(id)
      if (kept === undefined) return Effect.succeedNone
      if (kept.version !== expectedVersion) {
        return Effect.fail(this.#error("update", id, new Store({ kind: "Conflict" })))
      }
      const next = keep(Rows.applyPatch(JSON.parse(kept.text), patch), this.#created)
      const claim = this.#claim(next.row)
      const holder = claim === undefined ? undefined : this.#claims.get(claim)
      if (holder !== undefined && holder !== id) {
        return Effect.fail(this.#error("update", id, new Store({ kind: "AlreadyExists" })))
      }
      this.#swap(kept, next)
      return Effect.succeed(Option.some<Records.Row>(JSON.parse(next.text)))
    })

  readonly remove = (id: string, expectedVersion: number) =>
    Effect.suspend(() => {
      const kept = this.#rows.get(id)
      if (kept === undefined) return Effect.succeed(false)
      if (kept.version !== expectedVersion) {
        return Effect.fail(this.#error("delete", id, new Store({ kind: "Conflict" })))
      }
      this.#remove(kept)
      return Effect.succeed(true)
    })

  readonly page = (options: {
    readonly filter: Filter
    readonly after: Option.Option<Records.Row>
    readonly limit: number
  }) =>
    Effect.sync(() => {
      const found: Array<Records.Row> = []
      const start = Option.isNone(options.after)
        ? this.#sorted.length
        : this.#indexOf({ at: Rows.numberField(options.after.value, this.#created), id: options.after.value.id })
      for (let index = start - 1; index >= 0 && found.length < options.limit; index--) {
        const kept = this.#sorted[index]
        if (kept !== undefined && this.#matches(kept.row, kept.at, options.filter)) found.push(JSON.parse(kept.text))
      }
      return found
    })

  /** For the log, which writes events and the record in one step. */
  peek(id: string): Kept | undefined {
    return this.#rows.get(id)
  }

  /** For the log; the row claims nothing, so that nothing can be in the way. */
  replace(kept: Kept, row: Records.Row) {
    this.#swap(kept, keep(row, this.#created))
  }

  #swap(kept: Kept, next: Kept) {
    this.#remove(kept)
    this.#put(next)
  }

  #put(kept: Kept) {
    this.#rows.set(kept.id, kept)
    const claim = this.#claim(kept.row)
    if (claim !== undefined) this.#claims.set(claim, kept.id)
    this.#sorted.splice(this.#indexOf(kept), 0, kept)
  }

  #remove(kept: Kept) {
    this.#rows.delete(kept.id)
    const claim = this.#claim(kept.row)
    if (claim !== undefined) this.#claims.delete(claim)
    this.#sorted.splice(this.#indexOf(kept), 1)
  }

  /** The index of this row, or where it would be. */
  #indexOf(key: { readonly at: number; readonly id: string }): number {
    let low = 0
    let high = this.#sorted.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const candidate = this.#sorted[middle]
      if (candidate !== undefined && compare(candidate, key) < 0) low = middle + 1
      else high = middle
    }
    return low
  }

  #error(operation: string, id: string, reason: SandboxErrorReason): SandboxError {
    return errors.fail(
      `SandboxStore.${operation}${this.#name}`,
      reason,
      this.#name === "Process" ? { processId: id } : { sandboxId: id }
    )
  }
}

const includes = (values: ReadonlyArray<string> | undefined, value: string | null): boolean =>
  values === undefined || (value !== null && values.includes(value))

const equals = (wanted: string | undefined, value: string | null): boolean => wanted === undefined || wanted === value

const matchesSandbox = (row: Records.Row, at: number, filter: Records.SandboxFilter): boolean =>
  includes(filter.status, Rows.textField(row, "status")) &&
  equals(filter.provider, Rows.textField(row, "provider")) &&
  equals(filter.purpose, Rows.textField(row, "purpose")) &&
  equals(filter.externalSandboxId, Rows.textField(row, "externalSandboxId")) &&
  (filter.createdBefore === undefined || at < filter.createdBefore) &&
  (filter.createdAfter === undefined || at > filter.createdAfter)

const matchesProcess = (row: Records.Row, _at: number, filter: Records.ProcessFilter): boolean =>
  includes(filter.status, Rows.textField(row, "status")) &&
  equals(filter.sandboxId, Rows.textField(row, "sandboxId")) &&
  equals(filter.kind, Rows.textField(row, "kind"))

const machineOf = (row: Records.Row): string | undefined => {
  const external = Rows.textField(row, "externalSandboxId")
  return external === null ? undefined : JSON.stringify([Rows.textField(row, "provider"), external])
}

interface LogState {
  readonly events: Array<Events.StoredEvent>
  readonly keys: Map<string, Events.StoredEvent>
  counters: Events.Counters
}

/** The primitives of a new, empty store. */
export const primitives = (options: Options = {}): Effect.Effect<Primitives> =>
  Effect.sync(() => {
    const namespace = options.namespace ?? SecureRandom.uuidV4Unsafe()
    const sandboxes = new Table("Sandbox", "createdAt", matchesSandbox, machineOf)
    const processes = new Table("Process", "startedAt", matchesProcess, () => undefined)
    const logs = new Map<string, LogState>()
    const wakeups = LogWakeups.make()

    const fail = (operation: string, processId: ProcessId, reason: SandboxErrorReason) =>
      Effect.fail(errors.fail(`ProcessLog.${operation}`, reason, { processId }))

    /** The record and the log of a process that exists. */
    const withLog = <A, E>(
      operation: string,
      processId: ProcessId,
      f: (kept: Kept, log: LogState, owner: Events.Owner) => Effect.Effect<A, E>
    ): Effect.Effect<A, E | SandboxError> =>
      Effect.suspend((): Effect.Effect<A, E | SandboxError> => {
        const kept = processes.peek(processId)
        if (kept === undefined) return fail(operation, processId, new NotFound({ kind: "process", id: processId }))
        const owner = Events.ownerOf(`ProcessLog.${operation}`, processId, kept.row.sandboxId)
        if (Result.isFailure(owner)) return Effect.fail(owner.failure)
        const log = logs.get(processId) ?? { events: [], keys: new Map(), counters: { seq: 0, stdout: 0, stderr: 0 } }
        return f(kept, log, owner.success)
      })

    const append: Log.Primitives["append"] = (processId, epoch, events, patch) =>
      withLog("append", processId, (kept, log, owner) => {
        if (Rows.leaseEpoch(kept.row) !== epoch) return fail("append", processId, new Store({ kind: "LeaseLost" }))
        const split = Events.split(owner, log.counters.seq, events)
        if (Result.isFailure(split)) return Effect.fail(Events.logConflict(processId, split.failure))
        for (const event of split.success.known) {
          const there = log.events[event.seq - 1]
          if (there === undefined || !Events.sameContent(there, event)) {
            return Effect.fail(Events.logConflict(processId, `event ${event.seq} is there with other content`))
          }
        }
        const keys = new Set<string>()
        for (const { key, seq } of split.success.fresh) {
          if (key === null) continue
          if (log.keys.has(key) || keys.has(key)) {
            return Effect.fail(Events.logConflict(processId, `the key of event ${seq} is taken`))
          }
          keys.add(key)
        }
        // Everything is decided; from here on nothing can fail, and no other fiber runs in between.
        if (patch !== undefined) {
          processes.replace(kept, Rows.applyPatch(kept.row, Records.encodeProcessPatch(patch, kept.version + 1)))
        }
        for (const event of split.success.fresh) {
          const copy = { ...event, bytes: event.bytes?.slice() ?? null }
          log.events.push(copy)
          if (copy.key !== null) log.keys.set(copy.key, copy)
        }
        log.counters = Events.advance(log.counters, split.success.fresh)
        logs.set(processId, log)
        return wakeups.notify(processId)
      })

    const read = (operation: string, owner: Events.Owner, event: Events.StoredEvent) =>
      Events.fromStored(`ProcessLog.${operation}`, owner, {
        ...event,
        bytes: event.bytes?.slice() ?? null
      })

    return {
      store: {
        kind: "memory",
        namespace: Effect.succeed(namespace),
        sandboxes,
        processes: {
          insert: processes.insert,
          get: processes.get,
          update: processes.update,
          page: processes.page,
          remove: (id, expectedVersion) =>
            Effect.tap(processes.remove(id, expectedVersion), () => Effect.sync(() => logs.delete(id)))
        }
      },
      log: {
        kind: "memory",
        append,
        page: (processId, after) =>
          withLog("page", processId, (kept, log, owner) => {
            const terminal = Events.isTerminal(kept.row.status)
            const start = Math.max(0, after)
            const candidates = log.events.slice(start, start + Events.pageEvents)
            const taken = candidates.slice(0, Events.pageLength(candidates.map(Events.sizeOf)))
            return Effect.map(
              Effect.forEach(taken, (event) => read("read", owner, event)),
              (events): Log.LogPage => ({ events, terminal })
            )
          }),
        lastPosition: (processId) => withLog("lastPosition", processId, (_kept, log) => Effect.succeed(log.counters)),
        findKey: (processId, key) =>
          withLog("findKey", processId, (_kept, log, owner) => {
            const event = log.keys.get(key)
            return event === undefined ? Effect.succeedNone : Effect.asSome(read("findKey", owner, event))
          }),
        changed: wakeups.changed
      }
    }
  })

/** A new, empty store and its log. */
export const make = (options: Options = {}): Effect.Effect<Context.Context<Records.SandboxStore | Log.ProcessLog>> =>
  Effect.map(primitives(options), ({ log, store }) =>
    Context.make(Records.SandboxStore, Records.make(store)).pipe(Context.add(Log.ProcessLog, Log.make(log)))
  )

/** Provides a new, empty store and its log. */
export const layer = (options: Options = {}): Layer.Layer<Records.SandboxStore | Log.ProcessLog> =>
  Layer.effectContext(make(options))
