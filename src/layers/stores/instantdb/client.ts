/**
 * The one place that asks the server: every request has a deadline, and every failure a verdict. A request is aborted at its deadline,
 * with its fiber, and when the store is closed; a transaction may happen all the same.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { init, lookup, tx } from "@instantdb/admin"
import type { SandboxError } from "../../../errors.ts"
import type { Scrub, Verdict, Where } from "./errors.ts"
import { classify, toSandboxError } from "./errors.ts"
import type { declaration } from "./schemaFile.ts"
import type { Attribute } from "./schema.ts"
import type { Attrs, Entity } from "./values.ts"

/** What is loaded at first use: the vendor's SDK, and the schema, which is built with it. */
export interface Sdk {
  readonly init: typeof init
  readonly lookup: typeof lookup
  readonly tx: typeof tx
  readonly schema: NonNullable<Parameters<typeof init>[0]["schema"]>
  readonly attributesOf: (entity: string) => ReadonlyMap<string, Attribute>
  readonly linksOf: (entity: string) => ReadonlyArray<string>
  readonly declaration: typeof declaration
}

/** An entity's id, or the value of a unique attribute of it. */
export type Address = string | readonly [attribute: string, value: string]

/** By label, what an entity is linked with. */
export type Links = Record<string, string>

/** A step of a transaction. `update` is strict: it fails for what is not there. */
export type Step =
  | {
      readonly op: "create"
      readonly entity: string
      readonly id: string
      readonly attrs: Attrs
      readonly links?: Links | undefined
    }
  | {
      readonly op: "update"
      readonly entity: string
      readonly id: Address
      readonly attrs: Attrs
      readonly links?: Links | undefined
    }
  | { readonly op: "link"; readonly entity: string; readonly id: string; readonly links: Links }
  | { readonly op: "delete"; readonly entity: string; readonly id: string }

/** What {@link Client} is made of. */
export interface Options {
  readonly sdk: Sdk
  /** A client of an app, whose schema is that of the store. */
  readonly db: {
    readonly query: (query: never, options: { readonly fetchOpts: RequestInit }) => Promise<unknown>
    readonly transact: (chunks: never, signal: AbortSignal) => Promise<unknown>
  }
  readonly scrub: Scrub
  readonly requestTimeout: Duration.Duration
}

/** A write that only one of its rivals can make, and that knows itself again. */
export interface Guard {
  /** The unique key of the write. */
  readonly key: string
  readonly record: string
  readonly revision: number
  /** What is to be read when the write was lost; it is asked for together with the claim. */
  readonly reread: object
}

/** What became of a guarded write: it happened, or another one, or the absence of its record, was in the way. */
export type Outcome =
  | { readonly _tag: "Written" }
  | { readonly _tag: "Lost"; readonly verdict: Verdict; readonly answer: Answer }

/** The answers of a query, by entity. */
export type Answer = (entity: string) => ReadonlyArray<Entity>

/** Between the tries of a write whose outcome is unknown. */
const again = Schedule.exponential("50 millis", 3).pipe(Schedule.jittered, Schedule.upTo({ times: 4 }))

const Entities = Schema.Record(Schema.String, Schema.Array(Schema.Record(Schema.String, Schema.Unknown)))
const isEntities = Schema.is(Entities)

/** Whether a part of an answer is an entity. */
export const isEntity = (value: unknown): value is Entity =>
  Predicate.hasProperty(value, "id") && typeof value.id === "string"

/**
 * Sorts before the ids of records, so that every transaction waits for its rival at the claim and none of them in a circle. Random
 * all the same: with one id for all rivals they would overwrite each other's claim instead of failing.
 */
const claimId = (): string => `00000000${SecureRandom.uuidV4Unsafe().slice(8)}`

export interface Client {
  readonly attributesOf: Sdk["attributesOf"]
  readonly query: (operation: string, where: Where, query: object) => Effect.Effect<Answer, SandboxError>
  /**
   * A transaction with a claim. Unknown outcomes are looked up, and it is sent again only under the same claim, which one of all of
   * them can create.
   */
  readonly write: (
    operation: string,
    where: Where,
    guard: Guard,
    steps: ReadonlyArray<Step>
  ) => Effect.Effect<Outcome, SandboxError>
  /** A transaction that may be lost: for cleaning up. */
  readonly attempt: (steps: ReadonlyArray<Step>) => Effect.Effect<void, Verdict>
  /** The verdict as an error; with `SchemaMissing`, everything that is missing. */
  readonly fail: (operation: string, where: Where, verdict: Verdict) => Effect.Effect<never, SandboxError>
}

export const make = Effect.fnUntraced(function* ({
  db,
  requestTimeout,
  scrub,
  sdk
}: Options): Effect.fn.Return<Client, never, Scope.Scope> {
  const closing = yield* Deferred.make<never, Verdict>()
  yield* Effect.addFinalizer(() => Deferred.fail(closing, closed("unknown")))
  const untilClosed = <A>(effect: Effect.Effect<A, Verdict>): Effect.Effect<A, Verdict> =>
    Effect.suspend(() =>
      Deferred.isDoneUnsafe(closing) ? Effect.fail(closed("no")) : Effect.raceFirst(Deferred.await(closing), effect)
    )

  const late = (): Verdict => ({
    kind: "Unavailable",
    detail: `no answer within ${Duration.format(requestTimeout)}`,
    written: "unknown",
    cause: new Error("timeout")
  })

  /** A thunk, because the SDK throws some of its failures before there is a promise. */
  const use = <A>(call: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, Verdict> =>
    Effect.tryPromise({ try: call, catch: (error) => classify(error, scrub) }).pipe(
      Effect.timeoutOrElse({ duration: requestTimeout, orElse: () => Effect.fail(late()) }),
      untilClosed
    )

  const chunkOf = (step: Step): unknown => {
    const entity = sdk.tx[step.entity]
    const chunk = entity?.[typeof step.id === "string" ? step.id : sdk.lookup(step.id[0], step.id[1])]
    switch (step.op) {
      case "create": {
        const created = chunk?.create(step.attrs)
        return step.links === undefined ? created : created?.link(step.links)
      }
      case "update": {
        const updated = chunk?.update(step.attrs, { upsert: false })
        return step.links === undefined ? updated : updated?.link(step.links)
      }
      case "link":
        return chunk?.link(step.links)
      case "delete":
        return chunk?.delete()
    }
  }

  // The SDK's types speak of one schema at compile time; steps and queries are made of it when they run.
  const transact = (steps: ReadonlyArray<Step>) => use((signal) => db.transact(steps.map(chunkOf) as never, signal))

  const send = (query: object): Effect.Effect<Answer, Verdict> =>
    use((signal) => db.query(query as never, { fetchOpts: { signal } })).pipe(
      Effect.flatMap((answer) =>
        isEntities(answer)
          ? Effect.succeed<Answer>((entity) => (answer[entity] ?? []).filter(isEntity))
          : Effect.fail<Verdict>({
              kind: "Unavailable",
              detail: "an answer to a query that is none",
              written: "no",
              cause: new Error("malformed answer")
            })
      )
    )

  /**
   * Everything that the pushed schema lacks, by a transaction that cannot happen: it updates an entity that is not there. One answer
   * alone names only what its transaction came across.
   */
  const missing = Effect.suspend(() => {
    const strangers = ["sandbox_sandboxes", "sandbox_processes", "sandbox_log_chunks", "sandbox_claims", "sandbox_meta"]
    return transact(
      strangers.map((entity) => ({
        op: "update",
        entity,
        id: SecureRandom.uuidV4Unsafe(),
        attrs: Object.fromEntries(
          [...sdk.attributesOf(entity)].map(([name, { type }]) => [
            name,
            type === "number" ? 0 : type === "boolean" ? false : type === "json" ? {} : ""
          ])
        ),
        links: Object.fromEntries(sdk.linksOf(entity).map((label) => [label, SecureRandom.uuidV4Unsafe()]))
      }))
    ).pipe(
      Effect.as<ReadonlyArray<string>>([]),
      Effect.catch((verdict) => Effect.succeed(verdict.missing ?? []))
    )
  })

  const fail: Client["fail"] = (operation, where, verdict) => {
    // A query for what is not there is refused without a list, as is one by an attribute that is not indexed.
    const mayLack = verdict.missing !== undefined || verdict.detail.includes("validation-failed")
    if (!mayLack) return Effect.fail(toSandboxError(operation, where, verdict))
    return Effect.flatMap(missing, (found) => {
      const all = [...new Set([...(verdict.missing ?? []), ...found])]
        // Comes by itself with its entity.
        .filter((path) => !path.endsWith(".id"))
        .sort()
      return Effect.fail(
        toSandboxError(
          operation,
          where,
          all.length === 0
            ? verdict
            : {
                ...verdict,
                kind: "SchemaMissing",
                missing: all,
                detail: `push the schema (npx effect-sandbox-instantdb-schema prints it); it lacks ${all
                  .map(sdk.declaration)
                  .join("; ")}`
              }
        )
      )
    })
  }

  const query: Client["query"] = (operation, where, query) =>
    Effect.catch(send(query), (verdict) => fail(operation, where, verdict))

  const write: Client["write"] = (operation, where, guard, steps) => {
    const { key, record, reread, revision } = guard
    const by = SecureRandom.uuidV4Unsafe()
    /** True once a try of ours may have happened, or may still happen. */
    let open = false
    /** The same, deadlocks aside: once they were answered, a look tells for good. */
    let mayFollow = false
    let isUnderWay = false

    /** What the claim says, if it is there. */
    const settled = (verdict: Verdict) =>
      Effect.map(send({ sandbox_claims: { $: { where: { key } } }, ...reread }), (answer): Outcome | undefined => {
        const [claim] = answer("sandbox_claims")
        if (claim === undefined) return undefined
        return claim["by"] === by ? { _tag: "Written" } : { _tag: "Lost", verdict, answer }
      })

    let last: Verdict | undefined
    const once = Effect.gen(function* () {
      if (last !== undefined) {
        const outcome = yield* settled(last)
        if (outcome !== undefined) return outcome
      }
      const at = yield* Clock.currentTimeMillis
      const attrs = { key, by, record, revision, at }
      isUnderWay = true
      const sent = yield* Effect.result(
        transact([{ op: "create", entity: "sandbox_claims", id: claimId(), attrs }, ...steps])
      )
      isUnderWay = false
      if (sent._tag === "Success") return { _tag: "Written" } satisfies Outcome
      const verdict = sent.failure
      if (verdict.taken !== undefined || verdict.step !== undefined) {
        // Somebody was first: a rival, or this very write, delivered twice. Until that is known it may have happened.
        open = mayFollow = true
        last = verdict
        const answer = yield* send({ sandbox_claims: { $: { where: { key } } }, ...reread })
        const own = answer("sandbox_claims").some((claim) => claim["by"] === by)
        return own ? ({ _tag: "Written" } satisfies Outcome) : ({ _tag: "Lost", verdict, answer } satisfies Outcome)
      }
      if (verdict.written === "unknown") {
        open = true
        mayFollow ||= verdict.kind !== "Locked"
        last = verdict
        const outcome = yield* settled(verdict)
        if (outcome !== undefined) return outcome
      }
      return yield* Effect.fail(verdict)
    })

    return once.pipe(
      // A try that is not there may still be on its way; of all tries under one claim one can happen.
      Effect.retry({ schedule: again, while: (verdict) => open && isTransient(verdict) }),
      Effect.timeoutOrElse({
        duration: Duration.times(requestTimeout, 3),
        orElse: () => Effect.fail(late())
      }),
      untilClosed,
      Effect.catch((verdict) =>
        fail(
          operation,
          where,
          isUnderWay || (open && (mayFollow || verdict.kind !== "Locked"))
            ? { ...verdict, kind: "OutcomeUnknown", detail: `whether it was written is not known: ${verdict.detail}` }
            : verdict
        )
      )
    )
  }

  return {
    attributesOf: sdk.attributesOf,
    query,
    write,
    attempt: (steps) => Effect.asVoid(transact(steps)),
    fail
  }
})

/** Of a request that was under way, or that was not sent. */
const closed = (written: Verdict["written"]): Verdict => ({
  kind: "Unavailable",
  detail: "the store is closed",
  written,
  cause: new Error("closed")
})

const isTransient = ({ kind }: Verdict): boolean => kind === "Unavailable" || kind === "Locked"

/** A number of an entity, 0 where there is none. */
export const numberOf = (entity: Entity, name: string): number => {
  const value = entity[name]
  return Predicate.isNumber(value) ? value : 0
}
