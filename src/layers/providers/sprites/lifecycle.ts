/**
 * Sprites of the vendor: made, found again, put to sleep, deleted. The vendor wakes a sprite for whoever asks anything of its machine
 * and lets it sleep when nobody does; that is no stop and no boot to us. What is one, labels say (see `labels.ts`).
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { SandboxError, SandboxErrorReason } from "../../../errors.ts"
import { ConfigMismatch, Gone, NameInUse, NotRunning, Superseded, Unavailable } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { CreateRequest, MachineInfo, MachineRef } from "../../../services/SandboxProvider.ts"
import type { Api, Question } from "./api.ts"
import { pathOf } from "./api.ts"
import * as Guest from "./guest.ts"
import type { Place, Standing } from "./guest.ts"
import type { Tags } from "./labels.ts"
import * as Labels from "./labels.ts"
import type { Plan } from "./plan.ts"
import { nameOf } from "./plan.ts"

/** A sprite as the API tells it. Only the name is sure to be there: what else there is has changed over time. */
export const Sprite = Schema.Struct({
  name: Schema.String,
  id: Schema.optionalKey(Schema.String),
  url: Schema.optionalKey(Schema.NullOr(Schema.String)),
  url_settings: Schema.optionalKey(Schema.NullOr(Schema.Struct({ auth: Schema.optionalKey(Schema.String) }))),
  status: Schema.optionalKey(Schema.String),
  created_at: Schema.optionalKey(Schema.NullOr(Schema.String)),
  labels: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.String)))
})
export type Sprite = typeof Sprite.Type

const Page = Schema.Struct({
  sprites: Schema.NullOr(Schema.Array(Sprite)),
  has_more: Schema.optionalKey(Schema.Boolean),
  next_continuation_token: Schema.optionalKey(Schema.NullOr(Schema.String))
})

/** How a provider works in every machine. */
export interface Context {
  readonly api: Api
  /** Where we keep things in a machine; may be relative to the working directory. */
  readonly directory: string
  readonly grace: number
  readonly launcher: { readonly boot: string; readonly text: string }
}

/** A sprite and what its labels say. */
export interface Found {
  readonly sprite: Sprite
  readonly tags: Tags
}

/** How long a creation, a deletion, a wake or a restore may take in one call. */
export const slow = Duration.minutes(4)

/** The vendor is known to answer 404 for what is there: nothing is gone before it has said so twice, with this time in between. */
const again = Duration.seconds(2)

const found = (sprite: Sprite): Found => ({ sprite, tags: Labels.read(sprite.labels ?? []) })

const identityOf = ({ created_at, id, name }: Sprite): string => id ?? created_at ?? name

/** What tells one machine from another: which sprite, and which generation of it. */
export const refOf = ({ sprite, tags }: Found): MachineRef => ({
  externalId: sprite.name,
  incarnation: `${identityOf(sprite)}.${tags.generation}`
})

const question = (operation: string, id: string, fields: Partial<Question> = {}): Question => ({
  operation,
  about: "sprite",
  id,
  effects: false,
  ...fields
})

const isMissing = (error: SandboxError): boolean => error.reason._tag === "NotFound" && error.reason.kind === "machine"

/** What has the name, by one answer: where none is no more than a reason to look otherwise. Wakes nothing. */
const look = (
  api: Api,
  operation: string,
  name: string,
  sandboxId?: SandboxId
): Effect.Effect<Option.Option<Found>, SandboxError> =>
  api.json(question(operation, name, { sandboxId }), HttpClientRequest.get(pathOf(name)), Sprite).pipe(
    Effect.map((sprite) => Option.some(found(sprite))),
    Effect.catchIf(isMissing, () => Effect.succeedNone)
  )

/** What has the name; none only after two answers that say so. */
export const get: typeof look = (api, operation, name, sandboxId) => {
  const asked = look(api, operation, name, sandboxId)
  return Effect.flatMap(asked, (there) => (Option.isSome(there) ? Effect.succeed(there) : Effect.delay(asked, again)))
}

const gone = (name: string): Gone => new Gone({ evidence: `Sprites answered 404 twice for the name ${name}` })

/** The lease of a machine that is started now. */
const leaseFrom = (now: number, duration: number | undefined): Tags["lease"] =>
  duration === undefined ? undefined : { duration, end: now + duration }

const isOver = (tags: Tags, now: number): boolean => tags.lease !== undefined && tags.lease.end <= now

/** Why there is no machine to act on in this sprite as it stands; undefined if there is one. */
const restOf = (tags: Tags, now: number): SandboxErrorReason | undefined => {
  if (tags.stopped) return new NotRunning({ detail: "it was stopped" })
  return isOver(tags, now) ? new NotRunning({ detail: "its lease has ended" }) : undefined
}

/** Sets the labels of a sprite, all of them. */
const label = (
  api: Api,
  operation: string,
  { sprite }: Found,
  tags: Tags,
  sandboxId?: SandboxId
): Effect.Effect<Found, SandboxError> =>
  Effect.as(
    api.done(
      question(operation, sprite.name, { sandboxId }),
      HttpClientRequest.put(pathOf(sprite.name)).pipe(HttpClientRequest.bodyJsonUnsafe({ labels: Labels.write(tags) }))
    ),
    { sprite, tags }
  )

/** Sets when the lease ends. */
export const extend = Effect.fnUntraced(function* (
  api: Api,
  place: Place,
  end: number
): Effect.fn.Return<Tags["lease"], SandboxError> {
  const current = yield* own(api, "extendTimeout", place)
  const lease = { duration: current.tags.lease?.duration ?? Math.max(1, end - (yield* Clock.currentTimeMillis)), end }
  yield* label(api, "extendTimeout", current, { ...current.tags, lease }, place.sandboxId)
  return current.tags.lease
})

/** The sprite of a handle, if that is of its present generation. */
export const own = Effect.fnUntraced(function* (
  api: Api,
  operation: string,
  { generation, name, sandboxId }: Pick<Place, "generation" | "name" | "sandboxId">
): Effect.fn.Return<Found, SandboxError> {
  const there = yield* get(api, operation, name, sandboxId)
  const fail = (reason: SandboxErrorReason) => api.fail(operation, reason, sandboxId)
  if (Option.isNone(there)) return yield* fail(gone(name))
  if (there.value.tags.generation !== generation) {
    return yield* fail(new Superseded({ incarnation: `${identityOf(there.value.sprite)}.${generation}` }))
  }
  return there.value
})

/** What a handle of this generation acts on. */
export const placeOf = (api: Api, { sprite, tags }: Found, sandboxId: SandboxId): Place => {
  const { name } = sprite
  const { generation } = tags
  const over = (reason: SandboxErrorReason): Standing => ({ _tag: "Over", reason })
  const incarnation = refOf({ sprite, tags }).incarnation
  return {
    api,
    name,
    sandboxId,
    generation,
    standing: Effect.gen(function* () {
      const there = yield* get(api, "get", name, sandboxId)
      if (Option.isSome(there) && identityOf(there.value.sprite) === identityOf(sprite)) {
        if (there.value.tags.generation !== generation) return over(new Superseded({ incarnation }))
        const rest = restOf(there.value.tags, yield* Clock.currentTimeMillis)
        return rest === undefined ? { _tag: "There", status: there.value.sprite.status } : over(rest)
      }
      // One that was made anew has another name.
      const others = yield* Stream.runHead(Stream.filter(find(api, sandboxId), (info) => info.running))
      return over(Option.isSome(others) ? new Superseded({ incarnation }) : gone(name))
    })
  }
}

/** Whether it is what a ref was made of, whatever has become of that since. */
const isOfRef = ({ sprite }: Found, ref: MachineRef): boolean =>
  // Records of `@ekairos/sandbox` have no incarnation.
  ref.incarnation === "" || ref.incarnation.startsWith(`${identityOf(sprite)}.`)

/** The sprite of a ref, if that is this sandbox's. */
export const ofRef = Effect.fnUntraced(function* (
  api: Api,
  operation: string,
  ref: MachineRef,
  sandboxId: SandboxId
): Effect.fn.Return<Option.Option<Found>, SandboxError> {
  const there = yield* get(api, operation, ref.externalId, sandboxId)
  return Option.filter(
    there,
    (one) => isOfRef(one, ref) && (one.tags.sandboxId === undefined || one.tags.sandboxId === sandboxId)
  )
})

/** A machine of the next generation, of whatever disk there is now. */
export const next = (api: Api, operation: string, there: Found, sandboxId: SandboxId) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    label(
      api,
      operation,
      there,
      {
        ...there.tags,
        generation: there.tags.generation + 1,
        stopped: false,
        lease: leaseFrom(now, there.tags.lease?.duration)
      },
      sandboxId
    )
  )

/** The sprite of a ref, for a machine of it. With `boot` one that was stopped is started. */
export const connect = Effect.fnUntraced(function* (
  api: Api,
  ref: MachineRef,
  sandboxId: SandboxId,
  boot: boolean
): Effect.fn.Return<Found, SandboxError> {
  const fail = (reason: SandboxErrorReason) => api.fail("connect", reason, sandboxId)
  const there = yield* get(api, "connect", ref.externalId, sandboxId)
  if (Option.isNone(there)) return yield* fail(gone(ref.externalId))
  const { sprite, tags } = there.value
  if (!isOfRef(there.value, ref) || (tags.sandboxId !== undefined && tags.sandboxId !== sandboxId)) {
    return yield* fail(new Gone({ evidence: `another sandbox has the name ${sprite.name} now` }))
  }
  const rest = restOf(tags, yield* Clock.currentTimeMillis)
  if (boot) return rest === undefined ? there.value : yield* next(api, "connect", there.value, sandboxId)
  if (ref.incarnation !== "" && refOf(there.value).incarnation !== ref.incarnation) {
    return yield* fail(new Superseded({ incarnation: ref.incarnation }))
  }
  return rest === undefined ? there.value : yield* fail(rest)
})

/** What a creation says of itself at the vendor. */
const tagsOf = (request: CreateRequest, plan: Plan, now: number): Tags => ({
  sandboxId: request.sandboxId,
  namespace: Labels.namespaceTag(request.namespace),
  generation: 1,
  stopped: false,
  ephemeral: !plan.persistent,
  lease: leaseFrom(now, plan.timeout === undefined ? undefined : Duration.toMillis(plan.timeout)),
  port: plan.port,
  others: plan.labels
})

const post = (api: Api, request: CreateRequest, plan: Plan, name: string, tags: Tags) =>
  api.json(
    question("create", name, { sandboxId: request.sandboxId, effects: true, deadline: slow }),
    HttpClientRequest.post("/v1/sprites").pipe(
      HttpClientRequest.bodyJsonUnsafe({
        name,
        wait_for_capacity: plan.waitForCapacity,
        url_settings: { auth: plan.auth },
        labels: Labels.write(tags)
      })
    ),
    Sprite
  )

/** Applies what a creation asks for where the vendor has not: labels and url settings older servers ignore. */
const settle = Effect.fnUntraced(function* (
  api: Api,
  request: CreateRequest,
  plan: Plan,
  { sprite, tags }: Found
): Effect.fn.Return<Found, SandboxError> {
  const { sandboxId } = request
  const { name } = sprite
  const wanted = Labels.write(tags)
  const labelled = [...(sprite.labels ?? [])].sort().join() === [...wanted].sort().join()
  const open = sprite.url_settings?.auth === plan.auth
  if (!labelled || !open) {
    const body = { ...(labelled ? {} : { labels: wanted }), ...(open ? {} : { url_settings: { auth: plan.auth } }) }
    yield* api.done(
      question("create", name, { sandboxId }),
      HttpClientRequest.put(pathOf(name)).pipe(HttpClientRequest.bodyJsonUnsafe(body))
    )
  }
  if (plan.rules !== undefined) {
    // Before anybody's command runs in it.
    yield* api.done(
      question("create", name, { sandboxId, about: "guest", deadline: slow }),
      HttpClientRequest.post(pathOf(name, "policy/network")).pipe(
        HttpClientRequest.bodyJsonUnsafe({ rules: plan.rules })
      )
    )
  }
  return { sprite, tags }
})

/** Fields in which a sprite that is there differs from what is asked for, and that nothing could change. */
const mismatches = ({ tags }: Found, plan: Plan): ReadonlyArray<string> =>
  tags.sandboxId !== undefined && tags.ephemeral === plan.persistent ? ["persistent"] : []

/**
 * Makes a sprite. The name makes it happen once: a creation whose outcome is not known is looked for by its name, and sent again if
 * it is not there.
 */
export const create = Effect.fnUntraced(function* (
  api: Api,
  request: CreateRequest,
  plan: Plan
): Effect.fn.Return<Found, SandboxError> {
  const { sandboxId } = request
  const name = plan.name ?? nameOf(request)
  const tags = tagsOf(request, plan, yield* Clock.currentTimeMillis)
  const fail = (reason: SandboxErrorReason) => api.fail("create", reason, sandboxId)

  /** Our own of an attempt whose answer was lost, or with `reuse` one that nobody's record owns. */
  const adopt = Effect.fnUntraced(function* (there: Found): Effect.fn.Return<Found, SandboxError> {
    const { tags: its } = there
    if (its.sandboxId !== sandboxId && its.sandboxId !== undefined) {
      const foreign = its.namespace !== tags.namespace
      if (foreign || plan.name === undefined || !plan.reuse) return yield* fail(new NameInUse({ name }))
    } else if (its.sandboxId === undefined && plan.name !== undefined && !plan.reuse) {
      return yield* fail(new NameInUse({ name }))
    }
    const fields = mismatches(there, plan)
    if (fields.length > 0) return yield* fail(new ConfigMismatch({ fields }))
    // To everybody who had it before it is another machine now; to a lost attempt of ours nobody had it.
    const generation = its.sandboxId === sandboxId && !its.stopped ? its.generation : its.generation + 1
    return {
      sprite: there.sprite,
      tags: { ...tags, generation, others: [...new Set([...its.others, ...tags.others])] }
    }
  })

  const made = Effect.map(post(api, request, plan, name, tags), (sprite): Found => ({ sprite, tags }))
  const attempt: Effect.Effect<Found, SandboxError> = made.pipe(
    Effect.catch((error) =>
      Effect.gen(function* () {
        // Either is how the vendor says that the name is taken.
        const refused = error.reason._tag === "InvalidArgument" || error.reason._tag === "Busy"
        if (error.provesNotAccepted && !refused) return yield* error
        const there = yield* Effect.mapError(get(api, "create", name, sandboxId), () => error)
        if (Option.isSome(there)) return yield* adopt(there.value)
        // Taken, and not there to be seen: it is being made, or its deletion is not over.
        return yield* error.reason._tag === "Busy"
          ? fail(new Unavailable({ accepted: "unknown", detail: `the name ${name} is not free yet` }))
          : error
      })
    )
  )
  const existing =
    plan.name !== undefined && plan.reuse ? yield* look(api, "create", name, sandboxId) : Option.none<Found>()
  const there = Option.isSome(existing)
    ? yield* adopt(existing.value)
    : yield* Effect.retry(attempt, {
        while: (error) => error.isRetryable && !error.provesNotAccepted,
        schedule: Schedule.max([Schedule.exponential("500 millis"), Schedule.recurs(3)])
      })
  return yield* settle(api, request, plan, there)
})

const infoOf = (there: Found): MachineInfo => {
  const created = Date.parse(there.sprite.created_at ?? "")
  return {
    ref: refOf(there),
    ...(there.tags.sandboxId === undefined ? {} : { sandboxId: there.tags.sandboxId }),
    running: !there.tags.stopped,
    ...(Number.isNaN(created) ? {} : { createdAt: created })
  }
}

/** Every sprite of the organization, page by page; a page that cannot be had fails the whole. */
const everything = (api: Api, operation: string): Stream.Stream<Found, SandboxError> =>
  Stream.paginate(undefined as string | undefined, (token) =>
    api
      .json(
        question(operation, "sprites"),
        HttpClientRequest.get("/v1/sprites", {
          urlParams: { max_results: 50, ...(token === undefined ? {} : { continuation_token: token }) }
        }),
        Page
      )
      .pipe(
        Effect.map((page) => [
          page.sprites ?? [],
          page.has_more === false
            ? Option.none()
            : Option.filter(Option.fromNullishOr(page.next_continuation_token), (next) => next !== "")
        ])
      )
  ).pipe(
    Stream.mapEffect(
      (sprite) =>
        sprite.labels !== undefined && sprite.id !== undefined
          ? Effect.succeedSome(found(sprite))
          : // Lists have been seen to tell no more than names.
            get(api, operation, sprite.name),
      { concurrency: 8 }
    ),
    Stream.filter(Option.isSome),
    Stream.map((one) => one.value)
  )

/** Every sprite of a sandbox. */
export const find = (api: Api, sandboxId: SandboxId): Stream.Stream<MachineInfo, SandboxError> =>
  everything(api, "find").pipe(
    Stream.filter(({ tags }) => tags.sandboxId === sandboxId),
    Stream.map(infoOf)
  )

/** Every sprite of a namespace. */
export const list = (api: Api, namespace: string): Stream.Stream<MachineInfo, SandboxError> => {
  const tag = Labels.namespaceTag(namespace)
  return everything(api, "list").pipe(
    Stream.filter(({ tags }) => tags.namespace === tag),
    Stream.map(infoOf)
  )
}

/** Deletes a sprite. That it is not there is believed when it was said twice. */
const remove = (api: Api, name: string, sandboxId: SandboxId | undefined): Effect.Effect<void, SandboxError> => {
  const asked = question("stop", name, { sandboxId, effects: true, deadline: slow })
  const call = api.done(asked, HttpClientRequest.delete(pathOf(name)))
  return Effect.catchIf(call, isMissing, () =>
    Effect.flatMap(get(api, "stop", name, sandboxId), (there) =>
      Option.isNone(there) ? Effect.void : Effect.catchIf(call, isMissing, () => Effect.void)
    )
  )
}

/**
 * Ends a machine. Where the disk is to stay, everything of ours in it ends, and the sprite falls asleep by itself; that asks its
 * machine, and so may wake it, because what still runs could not be ended otherwise.
 */
const end = Effect.fnUntraced(function* (
  context: Context,
  there: Found,
  mode: "stop" | "delete",
  sandboxId: SandboxId | undefined
): Effect.fn.Return<void, SandboxError> {
  const { api, directory, grace, launcher } = context
  const { sprite, tags } = there
  if (mode === "delete" || tags.ephemeral) return yield* remove(api, sprite.name, sandboxId)
  if (tags.stopped) return
  const asked = question("stop", sprite.name, { about: "guest", sandboxId, deadline: slow })
  const survivors = yield* Guest.close({ api, name: sprite.name }, asked, { directory, grace, launcher })
  if (survivors.length > 0) {
    const detail = `${survivors.length} processes survived SIGKILL`
    return yield* api.fail("stop", new Unavailable({ accepted: "unknown", detail }), sandboxId)
  }
  yield* label(api, "stop", there, { ...tags, stopped: true }, sandboxId)
})

/** Ends what a ref stands for. What is not there, or is somebody else's by now, needs no end. */
export const stop = (context: Context, ref: MachineRef, mode: "stop" | "delete"): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(get(context.api, "stop", ref.externalId), (there) =>
    Option.isSome(there) && isOfRef(there.value, ref) ? end(context, there.value, mode, undefined) : Effect.void
  )

/** Ends the machine of this handle and no later one. */
export const endOwn = (
  context: Context,
  place: Place,
  ref: MachineRef,
  mode: "stop" | "delete"
): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(ofRef(context.api, "stop", ref, place.sandboxId), (there) => {
    if (Option.isNone(there)) return Effect.void
    return there.value.tags.generation === place.generation
      ? end(context, there.value, mode, place.sandboxId)
      : Effect.fail(context.api.fail("stop", new Superseded({ incarnation: ref.incarnation }), place.sandboxId))
  })
