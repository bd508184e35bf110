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
import type { SandboxErrorReason } from "../../../errors.ts"
import {
  ConfigMismatch,
  Gone,
  NameInUse,
  NotRunning,
  OutcomeUnknown,
  SandboxError,
  Superseded,
  Unavailable
} from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
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
  /** When what can be asked for twice is asked again. */
  readonly retry: RecoverySchedule
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

/** The processes are ended all at once, each within its grace. */
const closeWithin = Duration.minutes(2)

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
  { generation, identity, name, sandboxId }: Pick<Place, "generation" | "identity" | "name" | "sandboxId">
): Effect.fn.Return<Found, SandboxError> {
  const there = yield* get(api, operation, name, sandboxId)
  const fail = (reason: SandboxErrorReason) => api.fail(operation, reason, sandboxId)
  if (Option.isNone(there)) return yield* fail(gone(name))
  if (identityOf(there.value.sprite) !== identity) {
    return yield* fail(new Gone({ evidence: `another sprite has the name ${name} now` }))
  }
  if (there.value.tags.generation !== generation) {
    return yield* fail(new Superseded({ incarnation: `${identity}.${generation}` }))
  }
  return there.value
})

/** What has become of what has this name, whichever sprite that is. */
export const standingOf = (api: Api, name: string): Effect.Effect<Standing, SandboxError> =>
  Effect.map(get(api, "get", name), (there): Standing =>
    Option.isSome(there) ? { _tag: "There", status: there.value.sprite.status } : { _tag: "Over", reason: gone(name) }
  )

/** What a handle of this generation acts on. */
export const placeOf = (api: Api, { sprite, tags }: Found, sandboxId: SandboxId): Place => {
  const { name } = sprite
  const { generation, namespace: own } = tags
  const over = (reason: SandboxErrorReason): Standing => ({ _tag: "Over", reason })
  const incarnation = refOf({ sprite, tags }).incarnation
  return {
    api,
    name,
    sandboxId,
    identity: identityOf(sprite),
    generation,
    standing: Effect.gen(function* () {
      const there = yield* get(api, "get", name, sandboxId)
      if (Option.isSome(there) && identityOf(there.value.sprite) === identityOf(sprite)) {
        if (there.value.tags.generation !== generation) return over(new Superseded({ incarnation }))
        const rest = restOf(there.value.tags, yield* Clock.currentTimeMillis)
        return rest === undefined ? { _tag: "There", status: there.value.sprite.status } : over(rest)
      }
      // One that was made anew has another name.
      const running = Stream.filter(tagged(api, sandboxId, own), (one) => !one.tags.stopped)
      const others = yield* Stream.runHead(running)
      return over(Option.isSome(others) ? new Superseded({ incarnation }) : gone(name))
    })
  }
}

/** Whether it is what a ref was made of, whatever has become of that since. */
const isOfRef = ({ sprite }: Found, ref: MachineRef): boolean =>
  // Records of `@ekairos/sandbox` have no incarnation.
  ref.incarnation === "" || ref.incarnation.startsWith(`${identityOf(sprite)}.`)

/** A ref without an incarnation is no more than a name: what has our labels has got it since. */
const isNobodysOrNamed = ({ tags }: Found, { incarnation }: MachineRef): boolean =>
  incarnation !== "" || tags.sandboxId === undefined

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
  // Its creation is begun anew, which makes another one or goes on with this.
  if (tags.pending) return yield* fail(new Gone({ evidence: "its creation was never finished" }))
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
  claim: undefined,
  namespace: Labels.namespaceTag(request.namespace),
  generation: 1,
  stopped: false,
  // Who finds it by its labels before the creation is over must not take it for finished.
  pending: plan.rules !== undefined || request.config.env !== undefined,
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

/** Sets labels and url settings where the sprite, as the vendor last told it, has others. */
const settle = Effect.fnUntraced(function* (
  api: Api,
  sandboxId: SandboxId,
  sprite: Sprite,
  tags: Tags,
  auth: string
): Effect.fn.Return<Found, SandboxError> {
  const labels = Labels.write(tags)
  const labelled = [...(sprite.labels ?? [])].sort().join() === [...labels].sort().join()
  const open = sprite.url_settings?.auth === auth
  if (!labelled || !open) {
    const body = { ...(labelled ? {} : { labels }), ...(open ? {} : { url_settings: { auth } }) }
    yield* api.done(
      question("create", sprite.name, { sandboxId }),
      HttpClientRequest.put(pathOf(sprite.name)).pipe(HttpClientRequest.bodyJsonUnsafe(body))
    )
  }
  return { sprite: { ...sprite, labels, url_settings: { auth } }, tags }
})

/** Sets what a sprite may reach. */
export const restrict = (
  api: Api,
  operation: string,
  name: string,
  sandboxId: SandboxId,
  plan: Plan
): Effect.Effect<void, SandboxError> =>
  plan.rules === undefined
    ? Effect.void
    : api.done(
        question(operation, name, { sandboxId, about: "guest", deadline: slow }),
        HttpClientRequest.post(pathOf(name, "policy/network")).pipe(
          HttpClientRequest.bodyJsonUnsafe({ rules: plan.rules })
        )
      )

/** Longer than somebody else takes from looking at a sprite that nobody owns to writing labels on it. */
const claimSettles = Duration.seconds(1)

/**
 * Takes over a sprite that was there before. Until all of that is done it has only our claim: nobody finds it as ours without its
 * network policy, and what comes of it only in part leaves it as it was, because it is not what a failed creation has left behind.
 * The vendor has no write on a condition, so of two that claim it at once the last one wins, and the other sees that in time.
 */
const takeOver = <A>(
  api: Api,
  request: CreateRequest,
  plan: Plan,
  { sprite, tags }: Found,
  enter: (there: Found) => Effect.Effect<A, SandboxError>
): Effect.Effect<A, SandboxError> => {
  const { sandboxId } = request
  const { name } = sprite
  const before = sprite.url_settings?.auth
  const claimed: Tags = { ...tags, sandboxId: undefined, claim: sandboxId, pending: false }
  const isOurs = (there: Option.Option<Found>) =>
    Option.isSome(there) &&
    identityOf(there.value.sprite) === identityOf(sprite) &&
    (there.value.tags.claim === sandboxId || there.value.tags.sandboxId === sandboxId)
  const put = (body: object) =>
    api.done(
      question("create", name, { sandboxId }),
      HttpClientRequest.put(pathOf(name)).pipe(HttpClientRequest.bodyJsonUnsafe(body))
    )
  // Unless somebody else has it by now.
  const release = Effect.flatMap(get(api, "create", name, sandboxId), (there) =>
    isOurs(there)
      ? put({ labels: sprite.labels ?? [], ...(before === undefined ? {} : { url_settings: { auth: before } }) })
      : Effect.void
  )
  return Effect.gen(function* () {
    yield* put({ labels: Labels.write(claimed) })
    const now = yield* Effect.delay(get(api, "create", name, sandboxId), claimSettles)
    if (!isOurs(now)) return yield* api.fail("create", new NameInUse({ name }), sandboxId)
    yield* restrict(api, "create", name, sandboxId, plan)
    const done = { ...tags, pending: false }
    const made = yield* enter({ sprite: { ...sprite, url_settings: { auth: plan.auth } }, tags: done })
    yield* settle(api, sandboxId, { ...sprite, labels: Labels.write(claimed) }, done, plan.auth)
    return made
  }).pipe(Effect.onError(() => Effect.ignore(release)))
}

/** What a failure is once something has been changed: it must not read as if nothing had happened. */
export const begun = (error: SandboxError): SandboxError => {
  if (!error.provesNotAccepted) return error
  const detail = error.reason.message
  const reason = error.isRetryable
    ? new Unavailable({
        accepted: "unknown",
        detail,
        cause: error,
        ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter })
      })
    : new OutcomeUnknown({ detail, cause: error })
  return new SandboxError({ ...error, reason })
}

/** Asks again for what can be asked for twice. */
export const patiently = <A>(retry: RecoverySchedule, asked: Effect.Effect<A, SandboxError>) =>
  Effect.retry(asked, { schedule: retry, while: (error) => error.isRetryable })

/** Fields in which a sprite that is there differs from what is asked for, and that nothing could change. */
const mismatches = ({ tags }: Found, plan: Plan): ReadonlyArray<string> =>
  tags.sandboxId !== undefined && tags.ephemeral === plan.persistent ? ["persistent"] : []

/**
 * Makes a sprite, and enters it. The name makes it happen once: a creation whose outcome is not known is looked for by its name, and
 * sent again if it is not there.
 */
export const create = Effect.fnUntraced(function* <A>(
  { api, retry }: Context,
  request: CreateRequest,
  plan: Plan,
  enter: (there: Found) => Effect.Effect<A, SandboxError>
): Effect.fn.Return<A, SandboxError> {
  const { sandboxId } = request
  const name = plan.name ?? nameOf(request)
  const tags = tagsOf(request, plan, yield* Clock.currentTimeMillis)
  const fail = (reason: SandboxErrorReason) => api.fail("create", reason, sandboxId)

  /** Whether it is our own, of an attempt whose answer was lost; with `reuse` it may be one that nobody's record owns. */
  const isOwn = Effect.fnUntraced(function* (there: Found): Effect.fn.Return<boolean, SandboxError> {
    const { tags: its } = there
    // Another deployment may have a sandbox of the same id.
    const foreign = its.namespace === undefined ? its.sandboxId !== undefined : its.namespace !== tags.namespace
    // Nobody's that has the name of ours is one that an older server gave no labels.
    const own = its.sandboxId === sandboxId || (its.sandboxId === undefined && plan.name === undefined)
    if (foreign || (!own && (plan.name === undefined || !plan.reuse))) return yield* fail(new NameInUse({ name }))
    const fields = mismatches(there, plan)
    if (fields.length > 0) return yield* fail(new ConfigMismatch({ fields }))
    return own
  })

  const made = Effect.map(post(api, request, plan, name, tags), (sprite) => ({ sprite, tags, own: true, fresh: true }))
  /** To everybody who had it before it is another machine now; to a lost attempt of ours nobody had it. */
  const taken = Effect.fnUntraced(function* (there: Found) {
    const own = yield* isOwn(there)
    const { generation, others, pending, stopped } = there.tags
    return {
      sprite: there.sprite,
      tags: {
        ...tags,
        generation: own && !stopped ? generation : generation + 1,
        others: [...new Set([...others, ...tags.others])]
      },
      own,
      // Nobody was ever given it.
      fresh: own && pending
    }
  })
  const attempt = made.pipe(
    Effect.catch((error) =>
      Effect.gen(function* () {
        // Either is how the vendor says that the name is taken.
        const refused = error.reason._tag === "InvalidArgument" || error.reason._tag === "Busy"
        if (error.provesNotAccepted && !refused) return yield* error
        const there = yield* Effect.mapError(get(api, "create", name, sandboxId), () => error)
        if (Option.isSome(there)) return yield* taken(there.value)
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
    ? yield* taken(existing.value)
    : yield* Effect.retry(attempt, {
        while: (error) => error.isRetryable && !error.provesNotAccepted,
        schedule: Schedule.max([Schedule.exponential("500 millis"), Schedule.recurs(3)])
      })
  if (!there.own) return yield* takeOver(api, request, plan, there, enter)
  return yield* Effect.gen(function* () {
    const settled = yield* patiently(retry, settle(api, sandboxId, there.sprite, there.tags, plan.auth))
    // Before anybody's command runs in it.
    yield* patiently(retry, restrict(api, "create", name, sandboxId, plan))
    const done = { sprite: settled.sprite, tags: { ...settled.tags, pending: false } }
    const entered = yield* patiently(retry, enter(done))
    yield* patiently(retry, settle(api, sandboxId, settled.sprite, done.tags, plan.auth))
    return entered
  }).pipe(
    Effect.catch((error) =>
      // What says that nothing was accepted has to be true of the whole: capacity may be elsewhere, and nobody looks here again.
      there.fresh && error.provesNotAccepted
        ? Effect.matchEffect(remove(api, there.sprite, sandboxId), {
            onFailure: () => Effect.fail(begun(error)),
            onSuccess: () => Effect.fail(error)
          })
        : Effect.fail(begun(error))
    )
  )
})

/** Of a sprite whose label is the tag of this namespace, if one was asked for: from the label alone it cannot be read. */
const infoOf =
  (namespace: string | undefined, now: number) =>
  (there: Found): MachineInfo => {
    const { sandboxId } = there.tags
    const created = Date.parse(there.sprite.created_at ?? "")
    return {
      ref: refOf(there),
      ...(sandboxId === undefined ? {} : { sandboxId }),
      ...(namespace === undefined || there.tags.namespace === undefined ? {} : { namespace }),
      // One that sleeps wakes at any request; one whose lease has ended is not to.
      running: restOf(there.tags, now) === undefined,
      ...(Number.isNaN(created) ? {} : { createdAt: created })
    }
  }

const informing = (
  namespace: string | undefined,
  sprites: Stream.Stream<Found, SandboxError>
): Stream.Stream<MachineInfo, SandboxError> =>
  Stream.mapEffect(sprites, (there) => Effect.map(Clock.currentTimeMillis, (now) => infoOf(namespace, now)(there)))

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
        Effect.flatMap((page) => {
          const next =
            page.has_more === false
              ? Option.none<string>()
              : Option.filter(Option.fromNullishOr(page.next_continuation_token), (one) => one !== "")
          return Option.isSome(next) && next.value === token
            ? Effect.fail(
                api.failure(
                  { _tag: "Undecodable", error: "a page that is its own next" },
                  question(operation, "sprites")
                )
              )
            : Effect.succeed([page.sprites ?? [], next] as const)
        })
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

const tagged = (api: Api, sandboxId: SandboxId, namespace: string | undefined): Stream.Stream<Found, SandboxError> =>
  Stream.filter(
    everything(api, "find"),
    ({ tags }) =>
      tags.sandboxId === sandboxId &&
      (namespace === undefined || tags.namespace === undefined || tags.namespace === namespace)
  )

/** Every sprite of a sandbox; with a namespace none of another one's, which may have a sandbox of the same id. */
export const find = (
  api: Api,
  sandboxId: SandboxId,
  namespace: string | undefined
): Stream.Stream<MachineInfo, SandboxError> => {
  const tag = namespace === undefined ? undefined : Labels.namespaceTag(namespace)
  return informing(namespace, tagged(api, sandboxId, tag))
}

/** Every sprite of a namespace. One that is only claimed is somebody else's still. */
export const list = (api: Api, namespace: string): Stream.Stream<MachineInfo, SandboxError> => {
  const tag = Labels.namespaceTag(namespace)
  return informing(
    namespace,
    Stream.filter(everything(api, "list"), ({ tags }) => tags.namespace === tag && tags.claim === undefined)
  )
}

/** Deletes a sprite. That it is not there is believed when it was said twice. */
const remove = (api: Api, sprite: Sprite, sandboxId: SandboxId | undefined): Effect.Effect<void, SandboxError> => {
  const { name } = sprite
  const asked = question("stop", name, { sandboxId, effects: true, deadline: slow })
  const call = api.done(asked, HttpClientRequest.delete(pathOf(name)))
  return Effect.catchIf(call, isMissing, () =>
    Effect.flatMap(get(api, "stop", name, sandboxId), (there) =>
      // Another one may have the name by then.
      Option.isNone(there) || identityOf(there.value.sprite) !== identityOf(sprite)
        ? Effect.void
        : Effect.catchIf(call, isMissing, () => Effect.void)
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
  if (mode === "delete" || tags.ephemeral) return yield* remove(api, sprite, sandboxId)
  if (tags.stopped) return
  const { name } = sprite
  const asked = question("stop", name, { about: "guest", sandboxId, deadline: closeWithin })
  const survivors = yield* Effect.catch(Guest.close({ api, name }, asked, { directory, grace, launcher }), (error) =>
    Effect.flatMap(Guest.judged({ api, name, standing: standingOf(api, name) }, error), Effect.fail)
  )
  if (survivors.length > 0) {
    const detail = `${survivors.length} processes survived SIGKILL`
    return yield* api.fail("stop", new Unavailable({ accepted: "unknown", detail }), sandboxId)
  }
  yield* label(api, "stop", there, { ...tags, stopped: true }, sandboxId)
})

/** Ends what a ref stands for. What is not there, or is somebody else's by now, needs no end. */
export const stop = (context: Context, ref: MachineRef, mode: "stop" | "delete"): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(get(context.api, "stop", ref.externalId), (there) =>
    Option.isSome(there) && isOfRef(there.value, ref) && isNobodysOrNamed(there.value, ref)
      ? end(context, there.value, mode, undefined)
      : Effect.void
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
