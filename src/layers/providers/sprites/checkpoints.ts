/**
 * Checkpoints of a sprite: of its disk, under numbers of its own, and gone with it. Their making and restoring is told in prose as
 * it goes, and an answer may break off; what came of it is then asked for.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { SandboxError, SandboxErrorReason } from "../../../errors.ts"
import { NotFound, OutcomeUnknown, SecretsRequired, Unavailable } from "../../../errors.ts"
import type { Checkpoint } from "../../../model/Checkpoint.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import type { CreateRequest, MachineRef } from "../../../services/SandboxProvider.ts"
import type { Api, Progress, Question } from "./api.ts"
import { pathOf } from "./api.ts"
import type { Guest as GuestOf } from "./guest.ts"
import * as Guest from "./guest.ts"
import type { Context, Found } from "./lifecycle.ts"
import * as Lifecycle from "./lifecycle.ts"
import type { Plan } from "./plan.ts"

const Listed = Schema.Struct({
  id: Schema.String,
  create_time: Schema.optionalKey(Schema.NullOr(Schema.String)),
  comment: Schema.optionalKey(Schema.NullOr(Schema.String)),
  health: Schema.optionalKey(Schema.NullOr(Schema.String))
})
type Listed = typeof Listed.Type

/** A list of nothing is null. */
const List = Schema.NullOr(Schema.Array(Listed))

/** What becomes a part of a path. */
const isId = (id: string): boolean => /^[A-Za-z0-9][A-Za-z0-9_-]*$/.test(id)

/** How a checkpoint is known again whose number nobody told: a mark behind the user's comment. */
const mark = /\s*\[effect-sandbox:([0-9a-z]+)\]$/

const question = (operation: string, id: string, sandboxId: SandboxId, fields: Partial<Question> = {}): Question => ({
  operation,
  about: "checkpoint",
  id,
  effects: false,
  sandboxId,
  ...fields
})

const millis = (time: unknown): number | undefined => {
  const parsed = Predicate.isString(time) ? Date.parse(time) : NaN
  return Number.isNaN(parsed) ? undefined : parsed
}

const checkpointOf = (sandboxId: SandboxId, id: string, comment: string, createdAt: number): Checkpoint => {
  const own = comment.replace(mark, "")
  return { id, sandboxId, createdAt, ...(own === "" ? {} : { comment: own }) }
}

const listedOf =
  (sandboxId: SandboxId) =>
  ({ comment, create_time, id }: Listed): Checkpoint =>
    checkpointOf(sandboxId, id, comment ?? "", millis(create_time) ?? 0)

const isNoSprite = ({ reason }: SandboxError): boolean => reason._tag === "NotFound" && reason.kind === "machine"

/**
 * What the supervisor of a sprite answers. That there is no such sprite is asked for again before it is believed (undefined), and
 * one that runs and answers nothing is told from one that is slow.
 */
const answered = <A>(
  api: Api,
  operation: string,
  name: string,
  answer: Effect.Effect<A, SandboxError>
): Effect.Effect<A | undefined, SandboxError> =>
  answer.pipe(
    Effect.catchIf(isNoSprite, () =>
      Effect.flatMap(Lifecycle.get(api, operation, name), (there) =>
        Option.isSome(there) ? answer : Effect.succeed(undefined)
      )
    ),
    Effect.catch((error) =>
      Effect.flatMap(Guest.judged({ api, name, standing: Lifecycle.standingOf(api, name) }, error), Effect.fail)
    )
  )

/** What the vendor lists of a sprite, but for what is no checkpoint: the present, and what cannot be restored. */
const ofSprite = (api: Api, name: string, operation: string, sandboxId: SandboxId) =>
  Effect.map(
    answered(
      api,
      operation,
      name,
      api.json(
        question(operation, name, sandboxId, { about: "guest" }),
        HttpClientRequest.get(pathOf(name, "checkpoints")),
        List
      )
    ),
    (all) => (all ?? []).filter(({ health, id }) => id !== "Current" && health !== "mount_failed")
  )

/**
 * The sprites that may have checkpoints of this sandbox. Those of a record that names no machine went with it, unless its
 * namespace says which of the sandbox's id are its own.
 */
const sprites = (
  api: Api,
  operation: string,
  sandboxId: SandboxId,
  ref: Option.Option<MachineRef>,
  namespace?: string
): Effect.Effect<ReadonlyArray<string>, SandboxError> => {
  if (Option.isSome(ref)) {
    return Effect.map(Lifecycle.ofRef(api, operation, ref.value, sandboxId), (there) =>
      Option.toArray(Option.map(there, ({ sprite }) => sprite.name))
    )
  }
  return namespace === undefined
    ? Effect.succeed([])
    : Effect.map(Stream.runCollect(Lifecycle.find(api, sandboxId, namespace)), (all) =>
        all.map((info) => info.ref.externalId)
      )
}

/** Newest first. */
export const list = (
  api: Api,
  sandboxId: SandboxId,
  ref: Option.Option<MachineRef>
): Stream.Stream<Checkpoint, SandboxError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const names = yield* sprites(api, "listCheckpoints", sandboxId, ref)
      const all = yield* Effect.forEach(names, (name) => ofSprite(api, name, "listCheckpoints", sandboxId))
      // Two of one moment are told apart by their numbers.
      const number = ({ id }: Checkpoint) => Number(/\d+$/.exec(id)?.[0] ?? 0)
      return Stream.fromIterable(
        all
          .flat()
          .map(listedOf(sandboxId))
          .toSorted((a, b) => b.createdAt - a.createdAt || number(b) - number(a))
      )
    })
  )

const missing = (api: Api, operation: string, id: string, sandboxId: SandboxId) =>
  api.fail(operation, new NotFound({ kind: "checkpoint", id }), sandboxId)

/** The sprite that has this checkpoint. */
const holder = Effect.fnUntraced(function* (
  api: Api,
  operation: string,
  id: string,
  sandboxId: SandboxId,
  ref: Option.Option<MachineRef>,
  namespace?: string
): Effect.fn.Return<string, SandboxError> {
  if (isId(id) && id !== "Current") {
    for (const name of yield* sprites(api, operation, sandboxId, ref, namespace)) {
      const asked = api.json(
        question(operation, id, sandboxId),
        HttpClientRequest.get(pathOf(name, "checkpoints", id)),
        Listed
      )
      const there = yield* Effect.catchIf(
        answered(api, operation, name, asked),
        (error) => error.reason._tag === "NotFound",
        () => Effect.succeed(undefined)
      )
      if (there !== undefined) return name
    }
  }
  return yield* missing(api, operation, id, sandboxId)
})

/** Deletes one of this sandbox's; another's is as good as not there. */
export const remove = Effect.fnUntraced(function* (
  api: Api,
  id: string,
  sandboxId: SandboxId,
  ref: Option.Option<MachineRef>
): Effect.fn.Return<void, SandboxError> {
  const name = yield* holder(api, "deleteCheckpoint", id, sandboxId, ref)
  yield* api.done(
    question("deleteCheckpoint", id, sandboxId, { deadline: Lifecycle.slow }),
    HttpClientRequest.delete(pathOf(name, "checkpoints", id))
  )
})

/** How work ended that is told in lines; undefined where they broke off before they said so. */
const ended = (api: Api, asked: Question, lines: Stream.Stream<Progress, SandboxError>) =>
  lines.pipe(
    Stream.mapEffect((line): Effect.Effect<Progress, SandboxError> =>
      line.type === "error"
        ? Effect.fail(api.failure({ _tag: "Told", message: String(line.error ?? line.message ?? "it failed") }, asked))
        : Effect.succeed(line)
    ),
    Stream.filter((line) => line.type === "complete"),
    Stream.runHead,
    Effect.map(Option.getOrUndefined)
  )

/** True where the failure is the vendor's word that nothing came of it, rather than an answer that was lost. */
const isFinal = (error: SandboxError): boolean => error.provesNotAccepted || error.reason._tag === "Unknown"

/**
 * Saves the disk. Everything of ours in the machine ends before: what is written meanwhile would be half in it, and the vendor is
 * known to end processes for it.
 */
export const create = Effect.fnUntraced(function* (
  context: Context,
  guest: GuestOf,
  options: { readonly comment?: string; readonly id?: string },
  retry: RecoverySchedule
): Effect.fn.Return<Checkpoint, SandboxError> {
  const { api, name, sandboxId } = guest
  const operation = "createCheckpoint"
  const fail = (reason: SandboxErrorReason) => api.fail(operation, reason, sandboxId)
  yield* Guest.quiet(guest, context, operation)
  const nonce = (yield* Random.nextIntBetween(0, 2 ** 48)).toString(36)
  const comment = `${options.comment ?? ""} [effect-sandbox:${nonce}]`.trim()
  const asked = question(operation, name, sandboxId, { about: "guest", effects: true, deadline: Lifecycle.slow })
  const lines = api.progress(
    asked,
    HttpClientRequest.post(pathOf(name, "checkpoint")).pipe(HttpClientRequest.bodyJsonUnsafe({ comment }))
  )
  const last = yield* ended(api, asked, lines).pipe(
    Effect.catchIf(
      (error) => !isFinal(error),
      () => Effect.succeed(undefined)
    ),
    Effect.catch((error) => Effect.flatMap(guest.explain(error), Effect.fail))
  )
  const id = Predicate.isString(last?.data) ? /\bCheckpoint (v\d+)\b/.exec(last.data)?.[1] : undefined
  if (id !== undefined) {
    return checkpointOf(sandboxId, id, comment, millis(last?.time) ?? (yield* Clock.currentTimeMillis))
  }
  // What it was called nobody said, or what came of it: our mark tells.
  const lost = fail(new OutcomeUnknown({ detail: "nothing says whether the checkpoint was made" }))
  return yield* ofSprite(api, name, operation, sandboxId).pipe(
    Effect.flatMap((all) => {
      const found = all.find((one) => mark.exec(one.comment ?? "")?.[1] === nonce)
      return found === undefined
        ? Effect.fail(fail(new Unavailable({ accepted: "unknown", detail: "it is not there yet" })))
        : Effect.succeed(listedOf(sandboxId)(found))
    }),
    Effect.retry({ schedule: retry, while: (error) => error.isRetryable }),
    Effect.mapError(() => lost)
  )
})

/**
 * Gives a sprite the disk of a checkpoint, and says hello to it as the next generation. What could fail without it being touched
 * comes first. A mark on the disk of before tells afterwards whether there is another one now.
 */
export const restore = Effect.fnUntraced(function* <A>(
  context: Context,
  id: string,
  request: CreateRequest,
  plan: Plan,
  ref: Option.Option<MachineRef>,
  ready: RecoverySchedule,
  enter: (there: Found) => Effect.Effect<A, SandboxError>
): Effect.fn.Return<A, SandboxError> {
  const { api } = context
  const { missingSecrets = [], namespace, sandboxId } = request
  const operation = "restoreCheckpoint"
  // The environment lies on the disk, and the checkpoint's may be none of this sandbox's.
  if (missingSecrets.length > 0) {
    return yield* api.fail(operation, new SecretsRequired({ names: [...missingSecrets] }), sandboxId)
  }
  const name = yield* holder(api, operation, id, sandboxId, ref, namespace)
  const there = yield* Lifecycle.get(api, operation, name, sandboxId)
  if (Option.isNone(there)) return yield* missing(api, operation, id, sandboxId)
  const inGuest = question(operation, name, sandboxId, { about: "guest", deadline: Lifecycle.slow })
  const marker = `before-${(yield* Random.nextIntBetween(0, 2 ** 48)).toString(36)}`
  yield* Guest.close({ api, name }, inGuest, { ...context, marker })
  const asked = question(operation, id, sandboxId, { effects: true, deadline: Lifecycle.slow })
  const lines = api.progress(asked, HttpClientRequest.post(pathOf(name, "checkpoints", id, "restore")))
  // That it is said to be done is no more than that it can be looked at.
  const told = yield* Effect.result(ended(api, asked, lines))
  if (told._tag === "Failure" && isFinal(told.failure)) return yield* told.failure
  return yield* Effect.gen(function* () {
    const restored = yield* Lifecycle.patiently(
      ready,
      Guest.lacks({ api, name }, { ...inGuest, effects: false }, context.directory, marker)
    )
    if (!restored) {
      return yield* api.fail(
        operation,
        new Unavailable({ accepted: "unknown", detail: "the disk is the one of before" }),
        sandboxId
      )
    }
    // Where the vendor keeps it nobody says; nothing runs on the other disk without it.
    yield* Lifecycle.patiently(context.retry, Lifecycle.restrict(api, operation, name, sandboxId, plan))
    const next = yield* Lifecycle.patiently(context.retry, Lifecycle.next(api, operation, there.value, sandboxId))
    return yield* Lifecycle.patiently(context.retry, enter(next))
  }).pipe(Effect.mapError(Lifecycle.begun))
})
