/**
 * Copies each process's events into an Instant stream, a line of JSON an event, for browsers. The log is what counts; the copy is made
 * of it, so that a connection that broke, or a service that died, is gone on with from the byte that the server has kept, and
 * nothing that the server has not kept has to be remembered.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberMap from "effect/FiberMap"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { createHmac } from "node:crypto"
import type { SandboxError } from "../../../errors.ts"
import { ProcessId } from "../../../model/Ids.ts"
import { isTerminal, ProcessStatus } from "../../../model/Process.ts"
import type { ProcessEvent } from "../../../model/ProcessEvent.ts"
import * as Event from "../../../model/ProcessEvent.ts"
import type { LogPage } from "../../../services/ProcessLog.ts"
import type { ProcessFilter } from "../../../services/SandboxStore.ts"
import * as Events from "../../internal/storedEvents.ts"
import * as Rows from "../../internal/storedRows.ts"
import { isEntity } from "./client.ts"
import type { Listener } from "./log.ts"
import type { Database, Stored, Table } from "./records.ts"
import type { StreamFailure, Writer } from "./streamTransport.ts"
import * as Transport from "./streamTransport.ts"

export interface Options {
  readonly transport: Transport.Options
  /** Of it the tokens are made with which another service may take a stream over; nobody else can make them. */
  readonly secret: string
  readonly database: Pick<Database, "client" | "namespace">
  readonly processes: Table<ProcessFilter>
  readonly page: (processId: ProcessId, after: number) => Effect.Effect<LogPage, SandboxError>
}

/** What is handed over at an append and not yet sent; beyond it the log is read instead. */
const maxPending = 1 << 20
/** Text of one message. */
const maxMessage = 1 << 18
/** Where lines end, so that an offset of the server's is found in the log again; thinned out beyond this. */
const maxMarks = 1024
/** How long a closing service waits for the ends of processes that have ended. */
const closeGrace = Duration.seconds(1)
/** How long anybody waits for the record to say which stream it is. */
const locateGrace = Duration.seconds(1)
/** Streams without their end are ended by who finds them; so long after the end of the process whoever wrote them is at it no more. */
const abandonedAfter = Duration.toMillis(Duration.minutes(1))
const abandonedCount = 100
const ended = ProcessStatus.literals.filter(isTerminal)

const reconnect = Schedule.exponential("200 millis").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(15)))),
  Schedule.jittered,
  Schedule.upTo({ times: 12 })
)

export const clientIdOf = (processId: ProcessId): string => `sandbox-process:${processId}`

/** As the original writes it. */
export const lineOf = (event: ProcessEvent): string => `${JSON.stringify(Event.encode(event))}\n`

const weightOf = (event: ProcessEvent): number => (Event.isOutput(event) ? event.bytes.length : 0) + 200

/**
 * A UUID that only those who have the secret can make. Of each namespace another, as both may have a process of one id: the stream is
 * then the first one's, and the other has none.
 */
const tokenOf = (secret: string, namespace: string, processId: ProcessId): string => {
  const hex = createHmac("sha256", secret)
    .update(JSON.stringify([namespace, clientIdOf(processId)]))
    .digest("hex")
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    "-"
  )
}

/** What is known of a copy under way; bounded, whatever is appended and however little the server takes. */
export class Copy {
  readonly news = Latch.makeUnsafe(false)
  readonly finished = Deferred.makeUnsafe<void>()
  /** The record says which stream it is, or never will. */
  readonly located = Deferred.makeUnsafe<void>()
  pending: Array<ProcessEvent> = []
  weight = 0
  /** The last event of the log, and whether none will follow. */
  lastSeq = 0
  hasEnded = false
  /** How far it has come. */
  sent = 0
  /** The end was sent, and may have been kept: then no stream can be started any more. */
  endSent = false
  /** Given up, or complete. */
  isOver = false
  /** Somebody else's, whose end is made up for: nobody waits for it. */
  isAbandoned = false
  #marks: Array<{ readonly seq: number; readonly offset: number }> = [{ seq: 0, offset: 0 }]

  add(events: ReadonlyArray<ProcessEvent>, stored: Stored): void {
    this.lastSeq = Math.max(this.lastSeq, stored.log.seq)
    this.hasEnded = this.hasEnded || Events.isTerminal(stored.row["status"])
    if (this.isOver) return
    for (const event of events) {
      this.pending.push(event)
      this.weight += weightOf(event)
    }
    // They are in the log.
    if (this.weight > maxPending) this.drop()
    this.news.openUnsafe()
  }

  get markCount(): number {
    return this.#marks.length
  }

  drop(): void {
    this.pending = []
    this.weight = 0
  }

  mark(seq: number, offset: number, flushed: number): void {
    this.sent = Math.max(this.sent, offset)
    this.#marks.push({ seq, offset })
    const kept = this.#marks.findLastIndex((mark) => mark.offset <= flushed)
    if (kept > 0) this.#marks = this.#marks.slice(kept)
    if (this.#marks.length > maxMarks) this.#marks = this.#marks.filter((_, index) => index % 2 === 0)
  }

  /** The end of a line at or before this offset, the nearest that is known. */
  before(offset: number): { readonly seq: number; readonly offset: number } {
    return this.#marks.findLast((mark) => mark.offset <= offset) ?? { seq: 0, offset: 0 }
  }
}

export const make = ({
  database,
  page,
  processes,
  secret,
  transport
}: Options): Effect.Effect<Listener, never, Scope.Scope> =>
  Effect.gen(function* () {
    const fibers = yield* FiberMap.make<ProcessId>()
    const copies = new Map<ProcessId, Copy>()
    yield* Effect.addFinalizer(() =>
      Effect.forEach(
        [...copies.values()].filter(({ hasEnded, isAbandoned }) => hasEnded && !isAbandoned),
        ({ finished }) => Deferred.await(finished),
        { concurrency: "unbounded", discard: true }
      ).pipe(Effect.timeoutOption(closeGrace))
    )

    /** The next events after `seq`: what was handed over, or what the log has. None when there is no news. */
    const eventsAfter = Effect.fnUntraced(function* (processId: ProcessId, copy: Copy, seq: number) {
      const fresh = copy.pending.filter((event) => event.seq > seq)
      copy.drop()
      if (fresh[0]?.seq === seq + 1) return fresh
      if (copy.lastSeq <= seq) return []
      return (yield* page(processId, seq)).events
    })

    /** Says on the record which stream it is. */
    const announce = (processId: ProcessId, writer: Writer) =>
      processes.inTurn(
        "ProcessLog.mirror",
        processId,
        Effect.gen(function* () {
          const { streamId } = writer
          let known = processes.recall(processId) ?? (yield* processes.read("ProcessLog.mirror", processId))
          const now = yield* Clock.currentTimeMillis
          for (let round = 0; round < 10 && known !== undefined && known.row["streamId"] !== streamId; round++) {
            const after = {
              ...known.row,
              streamId,
              streamClientId: clientIdOf(processId),
              streamStartedAt: known.row["streamStartedAt"] ?? now
            }
            const refused = yield* processes.commit("ProcessLog.mirror", known, after, { links: { stream: streamId } })
            if (refused === undefined) return
            known = refused.now
          }
        })
      )

    /** One connection: until the end is kept, or it breaks. */
    const session = Effect.fnUntraced(function* (processId: ProcessId, copy: Copy) {
      const writer = yield* Transport.open(
        transport,
        clientIdOf(processId),
        tokenOf(secret, database.namespace, processId)
      )
      yield* announce(processId, writer)
      yield* Deferred.succeed(copy.located, undefined)
      const from = copy.before(writer.offset)
      let { seq } = from
      /** Of what follows `from`, what the server has. */
      let skip = writer.offset - from.offset
      let { offset } = writer
      while (true) {
        copy.news.closeUnsafe()
        const events = yield* eventsAfter(processId, copy, seq)
        if (events.length === 0) {
          if (copy.hasEnded && seq >= copy.lastSeq) break
          yield* Effect.raceFirst(copy.news.await, writer.ended)
          continue
        }
        let text = ""
        for (const [index, event] of events.entries()) {
          const line = lineOf(event)
          const bytes = Buffer.byteLength(line)
          if (skip >= bytes) skip -= bytes
          else {
            text += skip === 0 ? line : Buffer.from(line).subarray(skip).toString()
            skip = 0
          }
          seq = event.seq
          if (text.length < maxMessage && index < events.length - 1) continue
          if (text === "") continue
          yield* writer.append(text, offset, false)
          offset += Buffer.byteLength(text)
          copy.mark(seq, offset, writer.flushed())
          text = ""
        }
      }
      copy.endSent = true
      yield* writer.append("", offset, true)
      yield* Effect.timeoutOrElse(writer.ended, {
        duration: transport.requestTimeout,
        orElse: () => Effect.fail<StreamFailure>({ detail: "the end was not kept in time", isFinal: false })
      })
    })

    const restart = Schedule.toStepWithSleep(reconnect)

    /** Connects anew until the end is kept; patience is for connections with which nothing comes on. */
    const follow = Effect.fnUntraced(function* (processId: ProcessId, copy: Copy) {
      let wait = yield* restart
      while (true) {
        const { sent } = copy
        const result = yield* Effect.result(Effect.scoped(session(processId, copy)))
        if (result._tag === "Success") return
        const failure = result.failure
        if (copy.sent > sent) wait = yield* restart
        const isFinal = "isFinal" in failure && failure.isFinal
        // Its end was kept and the answer lost, or another service has sent it.
        if (isFinal && (copy.endSent || (copy.hasEnded && "isClosed" in failure && failure.isClosed === true))) return
        if (isFinal || !(yield* Effect.isSuccess(wait(undefined)))) {
          const why = "detail" in failure ? failure.detail : failure.message
          return yield* Effect.logWarning(`the Instant stream of a process ends early: ${why}`)
        }
      }
    })

    const run = (processId: ProcessId, copy: Copy) =>
      follow(processId, copy).pipe(
        Effect.annotateLogs({ module: "effect-sandbox/layers/stores/InstantDb", "process.id": processId }),
        Effect.ensuring(
          Effect.suspend(() => {
            copy.drop()
            copy.isOver = true
            if (copy.hasEnded) copies.delete(processId)
            return Effect.andThen(Deferred.succeed(copy.located, undefined), Deferred.succeed(copy.finished, undefined))
          })
        )
      )

    /** The records of processes that have ended, whose streams have not. */
    const abandoned = Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const { client, namespace } = database
      const conditions = [
        { or: [{ done: false }, { done: { $isNull: true } }] },
        { "processes.namespace": namespace },
        { "processes.status": { $in: ended } },
        { "processes.updatedAt": { $lt: now - abandonedAfter } }
      ]
      const answer = yield* client.query(
        "ProcessLog.mirror",
        {},
        {
          $streams: {
            $: { where: { and: conditions }, order: { serverCreatedAt: "desc" }, limit: abandonedCount },
            processes: {}
          }
        }
      )
      return answer("$streams").flatMap(({ clientId, processes: linked }) =>
        (Array.isArray(linked) ? linked.filter(isEntity) : []).flatMap((entity) => {
          const stored = processes.stored(entity)
          const isOurs = stored !== undefined && clientIdOf(ProcessId.make(stored.row.id)) === clientId
          return isOurs && Events.isTerminal(stored.row["status"]) ? [stored] : []
        })
      )
    })

    const begin = (processId: ProcessId, copy: Copy) => {
      copies.set(processId, copy)
      return Effect.asVoid(FiberMap.run(fibers, processId, run(processId, copy)))
    }

    yield* abandoned.pipe(
      Effect.flatMap((found) =>
        Effect.forEach(
          found,
          (stored) => {
            const processId = ProcessId.make(stored.row.id)
            if (copies.has(processId)) return Effect.void
            const copy = new Copy()
            copy.isAbandoned = true
            copy.add([], stored)
            return Effect.andThen(begin(processId, copy), Deferred.await(copy.finished))
          },
          { concurrency: 4, discard: true }
        )
      ),
      Effect.ignore,
      Effect.forkScoped
    )

    return {
      appended: (processId, events, stored) =>
        Effect.suspend(() => {
          const there = copies.get(processId)
          const copy = there ?? new Copy()
          copy.add(events, stored)
          // One that was given up is remembered, so that it is not begun anew with every append.
          if (copy.isOver && copy.hasEnded) copies.delete(processId)
          return there === undefined ? begin(processId, copy) : Effect.void
        }),
      // Two writers of one stream would take it from each other in turns.
      lost: (processId) =>
        Effect.andThen(
          FiberMap.remove(fibers, processId),
          Effect.sync(() => void copies.delete(processId))
        ),
      streamOf: (processId) =>
        Effect.gen(function* () {
          const copy = copies.get(processId)
          if (copy !== undefined) yield* Deferred.await(copy.located)
          const stored = processes.recall(processId) ?? (yield* processes.read("ProcessLog.streamOf", processId))
          return stored === undefined ? null : Rows.textField(stored.row, "streamId")
        }).pipe(
          Effect.timeoutOption(locateGrace),
          Effect.map(Option.flatMap(Option.fromNullOr)),
          Effect.orElseSucceed(Option.none)
        )
    }
  })
