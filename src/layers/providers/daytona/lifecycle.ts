/**
 * Sandboxes of the vendor: made, found again, booted, stopped. One request is one question; what lasts is asked for again by
 * Schedules. Nothing but {@link boot} boots, and only what has a disk to boot from.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { Gone, InvalidConfig, NameInUse, NotRunning, Superseded, Unavailable, Unknown } from "../../../errors.ts"
import type { DeclarativeImage } from "../../../model/DaytonaConfig.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { CreateRequest, MachineInfo, MachineRef } from "../../../services/SandboxProvider.ts"
import type { Plan } from "./plan.ts"
import { labelNames } from "./plan.ts"
import type { CreateDto, Dto, ListedDto, Module, Question, Sdk } from "./sdk.ts"
import * as Volumes from "./volumes.ts"

/** What a sandbox stands at, in the vendor's words. */
export type State = NonNullable<Dto["state"]>

/** How long a boot, a creation, a stop or a snapshot may take in one call. */
export const slow = Duration.minutes(4)

/** How often what is on its way is looked at. */
export const pace = Schedule.exponential("100 millis", 1.15).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1))))
)

/** The name of a sandbox: two incarnations have two. */
const nameOf = (request: CreateRequest): string => `sbx-${request.sandboxId}-${request.version}`

export const refOf = (dto: Pick<Dto, "id" | "labels">): MachineRef => ({
  externalId: dto.id,
  incarnation: dto.labels[labelNames.boot] ?? ""
})

export const question = (operation: string, id: string, fields: Partial<Question> = {}): Question => ({
  operation,
  about: "sandbox",
  id,
  effects: false,
  ...fields
})

const gone = (sdk: Sdk, operation: string, id: string, sandboxId?: SandboxId) =>
  sdk.fail(operation, new Gone({ evidence: `Daytona says that the sandbox ${id} is destroyed` }), sandboxId)

/** What the vendor knows by an id or a name; boots nothing. Asked again when the vendor cannot be reached. */
export const get = (sdk: Sdk, idOrName: string, sandboxId?: SandboxId): Effect.Effect<Dto, SandboxError> =>
  sdk
    .use(question("get", idOrName, { sandboxId }), ({ api }, options) =>
      api.getSandbox(idOrName, undefined, undefined, options).then(({ data }) => data)
    )
    .pipe(
      Effect.retry({ schedule: sdk.retry, while: (error) => error.isRetryable }),
      Effect.filterOrFail(
        ({ state }) => state !== "destroyed",
        () => gone(sdk, "get", idOrName, sandboxId)
      )
    )

export const isGone = (error: SandboxError): boolean => error.reason._tag === "Gone"

/** The same, none when there is no such sandbox. */
export const getOption = (
  sdk: Sdk,
  idOrName: string,
  sandboxId?: SandboxId
): Effect.Effect<Option.Option<Dto>, SandboxError> =>
  get(sdk, idOrName, sandboxId).pipe(
    Effect.map(Option.some),
    Effect.catchIf(isGone, () => Effect.succeedNone)
  )

/** The sandbox of a ref if it is this one's. */
export const getOwn = (
  sdk: Sdk,
  ref: MachineRef,
  sandboxId: SandboxId
): Effect.Effect<Option.Option<Dto>, SandboxError> =>
  Effect.map(
    getOption(sdk, ref.externalId, sandboxId),
    // One without our label is of `@ekairos/sandbox`; ids are never given twice.
    Option.filter((dto) => (dto.labels[labelNames.sandbox] ?? sandboxId) === sandboxId)
  )

const lasting: ReadonlySet<State> = new Set<State>([
  "started",
  "stopped",
  "archived",
  "paused",
  "error",
  "build_failed",
  "destroyed",
  "unknown"
])

export const isOnItsWay = (state: State | undefined): boolean => state !== undefined && !lasting.has(state)

/** Polls a sandbox on its way to another state. One bad poll is no failure: {@link get} asks again. */
export const settled = (sdk: Sdk, dto: Dto, sandboxId?: SandboxId): Effect.Effect<Dto, SandboxError> =>
  isOnItsWay(dto.state)
    ? get(sdk, dto.id, sandboxId).pipe(Effect.repeat({ schedule: pace, while: ({ state }: Dto) => isOnItsWay(state) }))
    : Effect.succeed(dto)

/** Why a sandbox that should run does not. */
const notStarted = (
  sdk: Sdk,
  operation: string,
  dto: Dto,
  sandboxId: SandboxId,
  secrets: ReadonlyArray<string> = []
): SandboxError => {
  const why = dto.errorReason === undefined ? "" : `: ${sdk.scrub(dto.errorReason, secrets)}`
  return sdk.fail(
    operation,
    dto.state === "build_failed"
      ? new InvalidConfig({ issue: `daytona.image: it cannot be built${why}` })
      : new Unknown({ detail: `its state is ${dto.state}${why}` }),
    sandboxId
  )
}

/** The vendor keeps an answer for a moment: so often it is asked again for one that does not know of a change yet. */
const stale = 5

/** The vendor answers some of them with nothing. */
const answerOf = ({ data }: { readonly data: unknown }): Dto | undefined =>
  // Else it is what the types say.
  Predicate.hasProperty(data, "state") ? (data as Dto) : undefined

/** Where a change of state leads that was asked for. */
const arrived = (
  sdk: Sdk,
  before: Dto,
  answer: Dto | undefined,
  reached: (dto: Dto) => boolean
): Effect.Effect<Dto, SandboxError> =>
  Effect.suspend(() => {
    let same = 0
    const isUnderway = (dto: Dto) =>
      !reached(dto) && (isOnItsWay(dto.state) || (dto.state === before.state && same++ < stale))
    return answer !== undefined && reached(answer)
      ? Effect.succeed(answer)
      : Effect.repeat(get(sdk, before.id), { schedule: pace, while: isUnderway })
  })

/** A change of state that may be under way already, or may have been made by somebody else: what counts is where it ends. */
const change = (
  sdk: Sdk,
  asked: Question,
  call: (id: string) => Effect.Effect<Dto | undefined, SandboxError>,
  before: Dto,
  reached: (dto: Dto) => boolean
): Effect.Effect<Dto, SandboxError> =>
  call(before.id).pipe(
    Effect.flatMap((answer) => arrived(sdk, before, answer, reached)),
    Effect.catch((error) =>
      Effect.gen(function* () {
        const { _tag } = error.reason
        if (error.provesNotAccepted && _tag !== "Busy" && _tag !== "InvalidArgument") return yield* error
        const now = yield* arrived(sdk, before, undefined, reached)
        return reached(now) ? now : yield* error
      })
    ),
    // What was in the way of it has ended by now, or it was never taken up.
    Effect.retry({ schedule: sdk.retry, while: (error) => error.isRetryable }),
    Effect.mapError((error) => sdk.fail(asked.operation, error.reason, asked.sandboxId))
  )

/** Starts what has a disk, or waits until a start is done. Says whether we started it. */
export const boot = (
  sdk: Sdk,
  operation: string,
  found: Dto,
  sandboxId: SandboxId
): Effect.Effect<{ readonly dto: Dto; readonly started: boolean }, SandboxError> =>
  Effect.gen(function* () {
    const dto = yield* settled(sdk, found, sandboxId)
    if (dto.state === "started") return { dto, started: false }
    const recoverable = dto.state === "error" && dto.recoverable === true
    if (!recoverable && (dto.state === "error" || dto.state === "build_failed" || dto.state === "unknown")) {
      return yield* notStarted(sdk, operation, dto, sandboxId)
    }
    const asked = question(operation, dto.id, { sandboxId, effects: true, deadline: slow })
    const booted = yield* change(
      sdk,
      asked,
      (id) =>
        sdk.use(asked, ({ api }, options) =>
          (recoverable
            ? api.recoverSandbox(id, undefined, undefined, options)
            : api.startSandbox(id, undefined, options)
          ).then(answerOf)
        ),
      dto,
      ({ state }) => state === "started"
    )
    return booted.state === "started"
      ? { dto: booted, started: true }
      : yield* notStarted(sdk, operation, booted, sandboxId)
  })

/** Records of `@ekairos/sandbox` name no boot. */
export const isLater = (ref: MachineRef, dto: Dto): boolean =>
  ref.incarnation !== "" && refOf(dto).incarnation !== ref.incarnation

/** The sandbox of a ref, running. With `boot: false` nothing is booted: see {@link Primitives.connect}. */
export const connect = (
  sdk: Sdk,
  ref: MachineRef,
  sandboxId: SandboxId,
  wanted: boolean
): Effect.Effect<{ readonly dto: Dto; readonly started: boolean }, SandboxError> =>
  Effect.gen(function* () {
    const dto = yield* Effect.flatMap(getOwn(sdk, ref, sandboxId), (own) =>
      Option.isSome(own)
        ? Effect.succeed(own.value)
        : Effect.fail(
            sdk.fail(
              "connect",
              new Gone({ evidence: `Daytona knows no sandbox ${ref.externalId} of this one` }),
              sandboxId
            )
          )
    )
    if (wanted) return yield* boot(sdk, "connect", dto, sandboxId)
    if (dto.state === "started") {
      return isLater(ref, dto)
        ? yield* sdk.fail("connect", new Superseded({ incarnation: ref.incarnation }), sandboxId)
        : { dto, started: false }
    }
    return yield* dto.state === "destroying"
      ? gone(sdk, "connect", ref.externalId, sandboxId)
      : sdk.fail("connect", notRunning(dto), sandboxId)
  })

/** What a state means for whoever needs a running machine and boots none. */
export const notRunning = ({ state }: Dto): NotRunning | Unavailable =>
  state === "stopping" || state === "archiving" || !isOnItsWay(state)
    ? new NotRunning({ detail: `it is ${state}` })
    : new Unavailable({ accepted: "no", detail: `it is ${state}` })

/** The secrets that a creation sends: a refusal may repeat them. */
const secretsIn = (plan: Plan): ReadonlyArray<string> =>
  Object.values(plan.env).flatMap((value) => (Redacted.isRedacted(value) ? [Redacted.value(value)] : []))

const labelsOf = (request: CreateRequest, plan: Plan, bootId: string): Record<string, string> => ({
  ...plan.labels,
  [labelNames.sandbox]: request.sandboxId,
  [labelNames.namespace]: request.namespace,
  [labelNames.boot]: bootId,
  // The SDK runs Python where nothing is said.
  [labelNames.language]: plan.language ?? "python",
  ...(plan.ports.length === 0 ? {} : { [labelNames.ports]: plan.ports.join(",") })
})

/** Which of its ports a sandbox was made with. */
export const portsOf = (dto: Pick<Dto, "labels">): ReadonlyArray<number> =>
  (dto.labels[labelNames.ports] ?? "").split(",").flatMap((port) => (/^\d+$/.test(port) ? [Number(port)] : []))

/** The text of the vendor's own builder for an image. */
const dockerfileOf = ({ Image }: Module, image: string | DeclarativeImage): string => {
  if (typeof image === "string") return Image.base(image).dockerfile
  const base = image.base === undefined ? Image.debianSlim(image.pythonVersion) : Image.base(image.base)
  const installed = image.pipInstall === undefined ? base : base.pipInstall([...image.pipInstall])
  return (image.workdir === undefined ? installed : installed.workdir(image.workdir)).dockerfile
}

/** What a creation asks for; a snapshot that is given beats the plan's source, and brings its own resources. */
const bodyOf = (
  sdk: Sdk,
  module: Module,
  request: CreateRequest,
  plan: Plan,
  name: string,
  volumes: ReadonlyArray<Volumes.Mount>,
  snapshot: string | undefined
): CreateDto => {
  const source = snapshot ?? plan.snapshot
  const env = Object.entries(plan.env).map(([key, value]): readonly [string, string] => [
    key,
    Redacted.isRedacted(value) ? Redacted.value(value) : value
  ])
  const { autoArchiveMinutes, autoDeleteMinutes, autoStopMinutes, image, ttlMinutes, user, vcpus } = plan
  return {
    name,
    env: Object.fromEntries(env),
    labels: labelsOf(request, plan, SecureRandom.uuidV4Unsafe()),
    ...(source === undefined ? {} : { snapshot: source }),
    ...(source === undefined && image !== undefined
      ? { buildInfo: { dockerfileContent: dockerfileOf(module, image) } }
      : {}),
    ...(source === undefined && vcpus !== undefined ? { cpu: vcpus } : {}),
    ...(sdk.target === undefined ? {} : { target: sdk.target }),
    ...(user === undefined ? {} : { user }),
    ...(plan.public === undefined ? {} : { public: plan.public }),
    ...(autoStopMinutes === undefined ? {} : { autoStopInterval: autoStopMinutes }),
    ...(autoArchiveMinutes === undefined ? {} : { autoArchiveInterval: autoArchiveMinutes }),
    ...(autoDeleteMinutes === undefined ? {} : { autoDeleteInterval: autoDeleteMinutes }),
    ...(ttlMinutes === undefined ? {} : { ttlMinutes }),
    ...(volumes.length === 0 ? {} : { volumes: [...volumes] })
  }
}

const remove = (sdk: Sdk, asked: Question, id: string): Effect.Effect<Dto | undefined, SandboxError> =>
  sdk.use(asked, ({ api }, options) => api.deleteSandbox(id, undefined, options).then(answerOf))

/**
 * Makes a sandbox, of a snapshot if one is given. The name makes it happen once: a creation whose outcome is not known is looked for
 * by its name, and sent again if it is not there.
 */
export const create = (
  sdk: Sdk,
  request: CreateRequest,
  plan: Plan,
  snapshot?: string
): Effect.Effect<Dto, SandboxError> =>
  Effect.gen(function* () {
    const { sandboxId } = request
    const name = nameOf(request)
    const volumes = yield* Volumes.mounts(sdk, plan.volumes, sandboxId)
    const asked = question("create", snapshot ?? name, {
      sandboxId,
      effects: true,
      deadline: slow,
      secrets: secretsIn(plan)
    })
    const post = sdk.use(asked, ({ api, module }, options) =>
      api
        .createSandbox(bodyOf(sdk, module, request, plan, name, volumes, snapshot), undefined, options)
        .then(({ data }) => data)
    )

    /** What has the name by now: our own of an attempt whose answer was lost. */
    const existing = (error: SandboxError) =>
      Effect.gen(function* () {
        const taken = error.reason._tag === "Busy"
        if (error.provesNotAccepted && !taken) {
          return yield* error.reason._tag === "InvalidArgument"
            ? sdk.fail("create", new InvalidConfig({ issue: error.reason.message }), sandboxId)
            : error
        }
        const there = yield* Effect.mapError(getOption(sdk, name, sandboxId), () => error)
        if (Option.isNone(there)) {
          return yield* taken
            ? sdk.fail(
                "create",
                new Unavailable({ accepted: "unknown", detail: `the name ${name} is being created` }),
                sandboxId
              )
            : error
        }
        const { labels } = there.value
        // Another deployment may have a sandbox of the same id.
        return labels[labelNames.sandbox] === sandboxId && labels[labelNames.namespace] === request.namespace
          ? there.value
          : yield* sdk.fail("create", new NameInUse({ name }), sandboxId)
      })

    const made = yield* post.pipe(
      Effect.catch(existing),
      Effect.retry({ while: (error) => error.isRetryable && !error.provesNotAccepted, schedule: sdk.retry })
    )
    const there = yield* settled(sdk, made, sandboxId)
    if (there.state === "error" || there.state === "build_failed") {
      // Nothing will become of it, and the next attempt needs its name.
      yield* Effect.ignore(remove(sdk, asked, there.id), { log: true })
      return yield* notStarted(sdk, "create", there, sandboxId, secretsIn(plan))
    }
    return there.state === "started" ? there : (yield* boot(sdk, "create", there, sandboxId)).dto
  })

const infoOf = (listed: Pick<ListedDto, "id" | "labels" | "state" | "createdAt">): MachineInfo => {
  const label = listed.labels[labelNames.sandbox]
  const namespace = listed.labels[labelNames.namespace]
  const createdAt = Date.parse(listed.createdAt ?? "")
  return {
    ref: refOf(listed),
    // A label of ours holds a SandboxId and nothing else.
    ...(label === undefined ? {} : { sandboxId: label as SandboxId }),
    ...(namespace === undefined ? {} : { namespace }),
    running: listed.state === "started",
    ...(Number.isFinite(createdAt) ? { createdAt } : {})
  }
}

const isEnding = ({ state }: Pick<ListedDto, "state">): boolean => state === "destroyed" || state === "destroying"

/** Every sandbox with this label, page by page; a page that cannot be had fails the whole. */
const listed = (sdk: Sdk, operation: string, label: string, value: string): Stream.Stream<ListedDto, SandboxError> =>
  Stream.paginate(undefined as string | undefined, (cursor) =>
    sdk
      .use(question(operation, value), ({ api }, options) =>
        api.listSandboxes(
          undefined,
          cursor,
          100,
          undefined,
          undefined,
          JSON.stringify({ [label]: value }),
          ...unsaid,
          options
        )
      )
      .pipe(
        Effect.retry({ schedule: sdk.retry, while: (error) => error.isRetryable }),
        Effect.map(({ data }) => [
          // Should the filter of the list ever be looser than it is today.
          data.items.filter((item) => item.labels[label] === value && !isEnding(item)),
          Option.fromNullishOr(data.nextCursor === "" ? undefined : data.nextCursor)
        ])
      )
  )

type Unsaid<N extends number, Acc extends ReadonlyArray<undefined> = []> = Acc["length"] extends N
  ? Acc
  : Unsaid<N, [...Acc, undefined]>

/** Of the parameters of the list, those between `labels` and the options of the request. */
// A tuple of a known length, which an array of that length cannot be seen to be.
const unsaid = Array.from({ length: 24 }) as unknown as Unsaid<24>

/** All of a namespace. */
export const list = (sdk: Sdk, namespace: string): Stream.Stream<MachineInfo, SandboxError> =>
  Stream.map(listed(sdk, "list", labelNames.namespace, namespace), infoOf)

/** All of a sandbox, as they are and not as a list has them, which lags behind. */
export const find = (sdk: Sdk, id: SandboxId): Stream.Stream<MachineInfo, SandboxError> =>
  listed(sdk, "find", labelNames.sandbox, id).pipe(
    Stream.mapEffect((item) => getOption(sdk, item.id, id)),
    Stream.flatMap((found) =>
      Option.isSome(found) && !isEnding(found.value) ? Stream.make(found.value) : Stream.empty
    ),
    Stream.map(infoOf)
  )

/** Ends what a ref stands for. What is not there needs no end. */
export const stop = (sdk: Sdk, ref: MachineRef, mode: "stop" | "delete"): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(getOption(sdk, ref.externalId), (found) =>
    Option.isNone(found) ? Effect.void : end(sdk, found.value, mode)
  )

/** Ends the machine of this ref and no later one. */
export const endOwn = (
  sdk: Sdk,
  ref: MachineRef,
  sandboxId: SandboxId,
  mode: "stop" | "delete"
): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(getOwn(sdk, ref, sandboxId), (found) => {
    if (Option.isNone(found)) return Effect.void
    return isLater(ref, found.value)
      ? Effect.fail(sdk.fail("stop", new Superseded({ incarnation: ref.incarnation }), sandboxId))
      : end(sdk, found.value, mode)
  })

/** Ends a sandbox that was just looked at, and waits until it has ended. */
export const end = (sdk: Sdk, found: Dto, mode: "stop" | "delete"): Effect.Effect<void, SandboxError> => {
  const asked = question("stop", found.id, { effects: true, deadline: slow })
  const hasEnded = ({ state }: Dto) => state === "stopped" || state === "archived" || state === "archiving"
  if (mode === "stop" && hasEnded(found)) return Effect.void
  const isDestroyed = ({ state }: Dto) => state === "destroyed"
  return Effect.gen(function* () {
    const dto = yield* settled(sdk, found)
    if (mode === "stop" && (hasEnded(dto) || dto.state === "error" || dto.state === "build_failed")) return
    const after = yield* mode === "delete"
      ? change(
          sdk,
          asked,
          (id) => remove(sdk, asked, id),
          dto,
          () => false
        )
      : change(
          sdk,
          asked,
          (id) => sdk.use(asked, ({ api }, options) => api.stopSandbox(id, undefined, false, options).then(answerOf)),
          dto,
          (now) => hasEnded(now) || isDestroyed(now)
        )
    if (isDestroyed(after) || (mode === "stop" && hasEnded(after))) return
    return yield* sdk.fail("stop", new Unavailable({ accepted: "unknown", detail: `it is ${after.state}` }))
  }).pipe(Effect.catchIf(isGone, () => Effect.void))
}

/** Says at the vendor which boot this is, so that lists tell it too. */
export const label = (sdk: Sdk, dto: Dto, bootId: string, sandboxId: SandboxId): Effect.Effect<Dto, SandboxError> =>
  dto.labels[labelNames.boot] === bootId
    ? Effect.succeed(dto)
    : Effect.map(
        Effect.retry(
          // All of them: the vendor replaces what there is.
          sdk.use(question("connect", dto.id, { sandboxId }), ({ api }, options) =>
            api.replaceLabels(dto.id, { labels: { ...dto.labels, [labelNames.boot]: bootId } }, undefined, options)
          ),
          { schedule: sdk.retry, while: (error) => error.isRetryable }
        ),
        ({ data }) => ({ ...dto, labels: data.labels })
      )
