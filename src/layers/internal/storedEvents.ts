/**
 * What the logs do alike with events: the form in which they are kept, when two are the same, what an append may add, and
 * how large a page is.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { SandboxError, Store } from "../../errors.ts"
import type { ProcessId } from "../../model/Ids.ts"
import { SandboxId } from "../../model/Ids.ts"
import { isTerminal as isTerminalStatus, ProcessStatus } from "../../model/Process.ts"
import type { ProcessEvent, ProcessEventType } from "../../model/ProcessEvent.ts"
import * as Event from "../../model/ProcessEvent.ts"
import { canonical } from "../../model/SandboxConfig.ts"

/** An event without its process: output as raw bytes, everything else as JSON text. */
export interface StoredEvent {
  readonly seq: number
  readonly type: ProcessEventType
  readonly at: number
  readonly offset: number | null
  readonly bytes: Uint8Array | null
  readonly data: string | null
  readonly key: string | null
}

/** What identifies the process whose events these are. */
export interface Owner {
  readonly sandboxId: SandboxId
  readonly processId: ProcessId
}

const decodeSandboxId = Schema.decodeUnknownResult(SandboxId)

/** The owner of a process's events; `Store(Malformed)` for a record that names no sandbox. */
export const ownerOf = (
  operation: string,
  processId: ProcessId,
  sandboxId: unknown
): Result.Result<Owner, SandboxError> =>
  Result.mapBoth(decodeSandboxId(sandboxId), {
    onFailure: (cause) =>
      new SandboxError({
        operation,
        processId,
        reason: new Store({ kind: "Malformed", detail: "the record names no sandbox", cause })
      }),
    onSuccess: (sandboxId) => ({ processId, sandboxId })
  })

const terminal: ReadonlySet<unknown> = new Set(ProcessStatus.literals.filter(isTerminalStatus))

/** Whether a stored status is one after which nothing is appended. */
export const isTerminal = (status: unknown): boolean => terminal.has(status)

/** A page ends with the event that reaches either bound. */
export const pageBytes = 1 << 20
export const pageEvents = 1000

/** What an event weighs in a page. */
export const sizeOf = (event: StoredEvent): number => (event.bytes?.length ?? 0) + (event.data?.length ?? 0)

/** How many of these events, given by size, make a page: at least one. */
export const pageLength = (sizes: ReadonlyArray<number>): number => {
  let total = 0
  let count = 0
  for (const size of sizes) {
    if (count > 0 && total + size > pageBytes) break
    total += size
    count++
  }
  return count
}

export const toStored = (event: ProcessEvent): StoredEvent => {
  const base = { seq: event.seq, type: event._tag, at: event.at, key: event.key ?? null }
  if (event._tag === "stdout" || event._tag === "stderr") {
    return { ...base, offset: event.offset, bytes: event.bytes, data: null }
  }
  const data = Event.encodeData(event)
  return { ...base, offset: null, bytes: null, data: data === undefined ? null : JSON.stringify(data) }
}

const JsonText = Schema.fromJsonString(Schema.Unknown)
const decodeJson = Schema.decodeUnknownEffect(JsonText)
const decodeJsonOption = Schema.decodeUnknownOption(JsonText)
const decodeEvent = Schema.decodeUnknownEffect(Event.ProcessEvent)
const noBytes = new Uint8Array(0)

/** The event again; `Store(Malformed)` for one that does not decode. */
export const fromStored = (
  operation: string,
  owner: Owner,
  stored: StoredEvent
): Effect.Effect<ProcessEvent, SandboxError> => {
  const { at, key, seq, type } = stored
  const base = { at, seq, ...owner, ...(key === null ? {} : { key }) }
  if (type === "stdout" || type === "stderr") {
    return Effect.succeed({ ...base, _tag: type, offset: stored.offset ?? 0, bytes: stored.bytes ?? noBytes })
  }
  const encoded = { ...base, version: 1, type }
  const decoded =
    stored.data === null
      ? decodeEvent(encoded)
      : Effect.flatMap(decodeJson(stored.data), (data) => decodeEvent({ ...encoded, data }))
  return decoded.pipe(
    Effect.mapError(
      (cause) =>
        new SandboxError({
          operation,
          processId: owner.processId,
          reason: new Store({ kind: "Malformed", detail: `event ${seq} does not decode`, cause })
        })
    )
  )
}

const sameBytes = (a: Uint8Array | null, b: Uint8Array | null): boolean =>
  a === null || b === null ? a === b : a.length === b.length && a.every((byte, index) => byte === b[index])

/** The order of an object's keys says nothing. */
const sameData = (a: string | null, b: string | null): boolean => {
  if (a === b) return true
  const [left, right] = [decodeJsonOption(a), decodeJsonOption(b)]
  return Option.isSome(left) && Option.isSome(right) && canonical(left.value) === canonical(right.value)
}

/** True if both say the same. */
export const sameContent = (a: StoredEvent, b: StoredEvent): boolean =>
  a.seq === b.seq &&
  a.type === b.type &&
  a.at === b.at &&
  a.offset === b.offset &&
  a.key === b.key &&
  sameBytes(a.bytes, b.bytes) &&
  sameData(a.data, b.data)

/** Where the log of a process ends. */
export interface Counters {
  readonly seq: number
  readonly stdout: number
  readonly stderr: number
}

/** The counters behind these events. */
export const advance = (from: Counters, events: ReadonlyArray<StoredEvent>): Counters => {
  let { seq, stderr, stdout } = from
  for (const event of events) {
    seq = event.seq
    const end = (event.offset ?? 0) + (event.bytes?.length ?? 0)
    if (event.type === "stdout") stdout = end
    if (event.type === "stderr") stderr = end
  }
  return { seq, stdout, stderr }
}

/** What an append means for a log that ends at `last`. */
export interface Split {
  /** Events whose `seq` is there; they must have the same content. */
  readonly known: ReadonlyArray<StoredEvent>
  /** Events that are new. */
  readonly fresh: ReadonlyArray<StoredEvent>
}

/** Checks that the events follow each other and the log without a gap; the failure is the detail of a `Store(LogConflict)`. */
export const split = (
  owner: Owner,
  last: number,
  events: ReadonlyArray<ProcessEvent>
): Result.Result<Split, string> => {
  const known: Array<StoredEvent> = []
  const fresh: Array<StoredEvent> = []
  let expected: number | undefined
  for (const event of events) {
    if (event.processId !== owner.processId || event.sandboxId !== owner.sandboxId) {
      return Result.fail(`event ${event.seq} belongs to another process`)
    }
    if (expected === undefined ? event.seq < 1 || event.seq > last + 1 : event.seq !== expected) {
      return Result.fail(
        `event ${event.seq} leaves a gap: the log ends at ${expected === undefined ? last : expected - 1}`
      )
    }
    expected = event.seq + 1
    if (event.seq <= last) known.push(toStored(event))
    else fresh.push(toStored(event))
  }
  return Result.succeed({ known, fresh })
}

/** The failure of an append whose events do not fit the log. */
export const logConflict = (processId: ProcessId, detail: string): SandboxError =>
  new SandboxError({ operation: "ProcessLog.append", processId, reason: new Store({ kind: "LogConflict", detail }) })
