/**
 * Sandboxes of the vendor: made, found again, booted, stopped. A name is the vendor's record of a sandbox, a session one boot of
 * it. Nothing but {@link boot} boots, and only what has a disk to boot from.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { NetworkPolicy, Sandbox } from "@vercel/sandbox"
import type { SandboxError } from "../../../errors.ts"
import { ConfigMismatch, Gone, InvalidConfig, NameInUse, NotRunning, Superseded, Unavailable } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import { reveal } from "../../../model/VercelConfig.ts"
import type { CreateRequest, MachineInfo, MachineRef } from "../../../services/SandboxProvider.ts"
import type { Plan } from "./plan.ts"
import { isNameOfOurs, tagNames } from "./plan.ts"
import type { Question, Sdk } from "./sdk.ts"
import * as Snapshots from "./snapshots.ts"

/** What a name or session stands at, in the vendor's words. */
export type Status = Sandbox["status"]

/** How long a boot, a creation, a stop or a snapshot may take in one call. */
export const slow = Duration.minutes(4)

/** The name of a sandbox that its user did not name: two incarnations have two. */
const nameOf = (request: CreateRequest): string => `sbx-${request.sandboxId}-${request.version}`

/**
 * The names that the machines of a sandbox have had, up to the one with this name: each that was made in the place of another one
 * has the next number. The vendor keeps the snapshots of a name that is gone, but tells of no name by itself.
 */
export const namesUpTo = (sandboxId: SandboxId, name: string): ReadonlyArray<string> => {
  const version = Number(new RegExp(`^sbx-${sandboxId}-(\\d+)$`).exec(name)?.[1] ?? 0)
  return version === 0 ? [name] : Array.from({ length: version }, (_, index) => `sbx-${sandboxId}-${version - index}`)
}

export const refOf = (sandbox: Sandbox): MachineRef => ({
  externalId: sandbox.name,
  incarnation: sandbox.currentSession().sessionId
})

const question = (operation: string, id: string, fields: Partial<Question> = {}): Question => ({
  operation,
  about: "sandbox",
  id,
  effects: false,
  ...fields
})

const lookUp = (sdk: Sdk, name: string, sandboxId: SandboxId | undefined): Effect.Effect<Sandbox, SandboxError> =>
  sdk.use(question("get", name, { sandboxId }), (access, signal, { Sandbox }) =>
    Sandbox.get({ ...access, name, resume: false, signal })
  )

/** The record of a name; boots nothing. `Gone` only in a project that exists. */
export const get = (sdk: Sdk, name: string, sandboxId?: SandboxId): Effect.Effect<Sandbox, SandboxError> =>
  Effect.catch(lookUp(sdk, name, sandboxId), (error) => Effect.flatMap(sdk.unlessNoProject(error), Effect.fail))

/** The same, none when there is no such name. */
const getOption = (
  sdk: Sdk,
  name: string,
  sandboxId: SandboxId | undefined
): Effect.Effect<Option.Option<Sandbox>, SandboxError> => noneIfGone(get(sdk, name, sandboxId))

const noneIfGone = (found: Effect.Effect<Sandbox, SandboxError>): Effect.Effect<Option.Option<Sandbox>, SandboxError> =>
  found.pipe(
    Effect.map(Option.some),
    Effect.catchIf(
      (error) => error.reason._tag === "Gone",
      () => Effect.succeedNone
    )
  )

/** True for the sandbox that a ref was made of, whichever session it has now; false for another one that got its name since. */
const isOfRef = (
  sdk: Sdk,
  operation: string,
  sandbox: Sandbox,
  ref: MachineRef
): Effect.Effect<boolean, SandboxError> =>
  // Records of `@ekairos/sandbox` name no session.
  ref.incarnation === "" || ref.incarnation === sandbox.currentSession().sessionId || isNameOfOurs(sandbox.name)
    ? Effect.succeed(true)
    : sdk
        .use(question(operation, sandbox.name), async (_, signal) => {
          for await (const session of await sandbox.listSessions({ sortOrder: "desc", signal })) {
            if (session.id === ref.incarnation) return true
          }
          return false
        })
        .pipe(
          Effect.catchIf(
            (error) => error.reason._tag === "Gone",
            () => Effect.succeed(false)
          )
        )

/** By its tag; one that has none, as those of `@ekairos/sandbox`, by its sessions. */
const isOurs = (
  sdk: Sdk,
  operation: string,
  sandbox: Sandbox,
  ref: MachineRef,
  sandboxId: SandboxId
): Effect.Effect<boolean, SandboxError> => {
  const tag = sandbox.tags?.[tagNames.sandbox]
  return tag === undefined ? isOfRef(sdk, operation, sandbox, ref) : Effect.succeed(tag === sandboxId)
}

/** The sandbox of a ref if it is this one's. */
export const getOwn = (sdk: Sdk, operation: string, ref: MachineRef, sandboxId: SandboxId) =>
  Effect.gen(function* () {
    const found = yield* getOption(sdk, ref.externalId, sandboxId)
    if (Option.isNone(found)) return found
    return (yield* isOurs(sdk, operation, found.value, ref, sandboxId)) ? found : Option.none<Sandbox>()
  })

/** Polls a sandbox on its way to another status, as the vendor tells of none. */
export const settled = (sdk: Sdk, sandbox: Sandbox, sandboxId: SandboxId): Effect.Effect<Sandbox, SandboxError> => {
  const onItsWay = (status: Status) => status === "pending" || status === "stopping" || status === "snapshotting"
  return onItsWay(sandbox.status)
    ? get(sdk, sandbox.name, sandboxId).pipe(
        Effect.repeat({
          schedule: Schedule.spaced("500 millis"),
          while: (current) => onItsWay(current.status)
        })
      )
    : Effect.succeed(sandbox)
}

/** The disk of a sandbox that is not persistent ended with its session; to resume it would bring back what it was made of. */
const lost = (sdk: Sdk, operation: string, sandbox: Sandbox, sandboxId: SandboxId) =>
  sdk.fail(
    operation,
    new Gone({ evidence: `its session is ${sandbox.status}, and it was not made to persist` }),
    sandboxId
  )

/**
 * The snapshot from which a sandbox that is not persistent goes on: that of its last session, whose checkpoint was made by a service
 * that did not live to boot it again.
 */
const saved = (sdk: Sdk, operation: string, sandbox: Sandbox, sandboxId: SandboxId) =>
  Effect.flatMap(
    Snapshots.ofSession(sdk, operation, sandbox.name, sandbox.currentSession().sessionId, sandboxId),
    (snapshot) =>
      Option.isSome(snapshot)
        ? Effect.succeed(snapshot.value.id)
        : Effect.fail(lost(sdk, operation, sandbox, sandboxId))
  )

/** Boots what has a disk, or waits until a boot is done. */
const boot = (
  sdk: Sdk,
  operation: string,
  found: Sandbox,
  sandboxId: SandboxId
): Effect.Effect<Sandbox, SandboxError> =>
  Effect.gen(function* () {
    const sandbox = yield* settled(sdk, found, sandboxId)
    if (sandbox.status === "running") return sandbox
    if (sandbox.persistent) return yield* resume(sdk, operation, sandbox, sandboxId)
    const snapshotId = yield* saved(sdk, operation, sandbox, sandboxId)
    return yield* bootFrom(sdk, operation, sandbox, snapshotId, sandboxId).pipe(
      // It has expired a moment ago.
      Effect.catchIf(
        (error) => error.reason._tag === "NotFound",
        () => Effect.fail(lost(sdk, operation, sandbox, sandboxId))
      )
    )
  })

/** Lets a sandbox whose session has ended go on with the disk of a snapshot. */
export const bootFrom = (
  sdk: Sdk,
  operation: string,
  sandbox: Sandbox,
  snapshotId: string,
  sandboxId: SandboxId
): Effect.Effect<Sandbox, SandboxError> =>
  Effect.gen(function* () {
    yield* sdk.use({ operation, about: "snapshot", id: snapshotId, effects: true, sandboxId }, (_, signal) =>
      sandbox.update({ currentSnapshotId: snapshotId }, { signal })
    )
    return yield* resume(sdk, operation, sandbox, sandboxId)
  })

/** Boots a sandbox from its current snapshot, and waits until it runs. */
export const resume = (
  sdk: Sdk,
  operation: string,
  sandbox: Sandbox,
  sandboxId: SandboxId
): Effect.Effect<Sandbox, SandboxError> =>
  Effect.gen(function* () {
    const resumed = yield* sdk.use(
      question(operation, sandbox.name, { sandboxId, effects: true, deadline: slow }),
      (access, signal, { Sandbox }) => Sandbox.get({ ...access, name: sandbox.name, resume: true, signal })
    )
    const running = yield* settled(sdk, resumed, sandboxId)
    return running.status === "running"
      ? running
      : yield* sdk.fail(
          operation,
          new Unavailable({ accepted: "no", detail: `it was resumed and is ${running.status}` }),
          sandboxId
        )
  })

/** Records of `@ekairos/sandbox` name no session. */
const isLater = (ref: MachineRef, sandbox: Sandbox): boolean =>
  ref.incarnation !== "" && sandbox.currentSession().sessionId !== ref.incarnation

/** The sandbox of a ref, running. With `boot: false` nothing is booted: see {@link Primitives.connect}. */
export const connect = (
  sdk: Sdk,
  ref: MachineRef,
  sandboxId: SandboxId,
  wanted: boolean
): Effect.Effect<Sandbox, SandboxError> =>
  Effect.gen(function* () {
    const sandbox = yield* get(sdk, ref.externalId, sandboxId)
    if (!(yield* isOurs(sdk, "connect", sandbox, ref, sandboxId))) {
      return yield* sdk.fail("connect", new Gone({ evidence: "another sandbox has its name now" }), sandboxId)
    }
    if (wanted) return yield* boot(sdk, "connect", sandbox, sandboxId)
    switch (sandbox.status) {
      case "running":
        return isLater(ref, sandbox)
          ? yield* sdk.fail("connect", new Superseded({ incarnation: ref.incarnation }), sandboxId)
          : sandbox
      case "pending":
        return yield* sdk.fail("connect", new Unavailable({ accepted: "no", detail: "it is booting" }), sandboxId)
      case "stopping":
      case "snapshotting":
        return yield* sdk.fail("connect", new NotRunning({ detail: `it is ${sandbox.status}` }), sandboxId)
      default:
        if (!sandbox.persistent) yield* saved(sdk, "connect", sandbox, sandboxId)
        return yield* sdk.fail("connect", new NotRunning({ detail: `its session is ${sandbox.status}` }), sandboxId)
    }
  })

const plainEnv = (config: SandboxConfig): Record<string, string> | undefined => {
  if (config.env === undefined) return undefined
  return Object.fromEntries(
    Object.entries(config.env).map(([name, value]) => [
      name,
      Redacted.isRedacted(value) ? Redacted.value(value) : value
    ])
  )
}

const tagsOf = (request: CreateRequest, plan: Plan): Record<string, string> => ({
  ...plan.tags,
  [tagNames.sandbox]: request.sandboxId,
  [tagNames.namespace]: request.namespace
})

/** The secrets that a creation sends: a refusal may repeat them. */
const secretsIn = (value: unknown): ReadonlyArray<string> => {
  if (Redacted.isRedacted(value)) return [String(Redacted.value(value))]
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(secretsIn) : []
}

/** The vendor's type of a policy is ours with lists that can be written to, which these can: they are a copy. */
const policyOf = (plan: Plan): NetworkPolicy | undefined =>
  plan.networkPolicy === undefined ? undefined : (structuredClone(reveal(plan.networkPolicy)) as NetworkPolicy)

/** What a creation asks for; keys without a value are left out, because the SDK passes them on. */
const parametersOf = (request: CreateRequest, plan: Plan, name: string) => {
  const env = plainEnv(request.config)
  const networkPolicy = policyOf(plan)
  return {
    name,
    ports: [...new Set(plan.ports)],
    timeout: Duration.toMillis(plan.timeout),
    resources: { vcpus: plan.vcpus },
    persistent: plan.persistent,
    tags: tagsOf(request, plan),
    ...(env === undefined ? {} : { env }),
    ...(networkPolicy === undefined ? {} : { networkPolicy }),
    ...(plan.region === undefined ? {} : { region: plan.region }),
    ...(plan.snapshotExpiration === undefined ? {} : { snapshotExpiration: Duration.toMillis(plan.snapshotExpiration) })
  }
}

/** A snapshot brings its image. */
const imageOf = (plan: Plan) => {
  if (plan.runtime !== undefined) return { runtime: plan.runtime }
  return plan.image === undefined ? {} : { image: plan.image }
}

const post = (sdk: Sdk, request: CreateRequest, plan: Plan, name: string, snapshotId: string | undefined) =>
  sdk.use(
    question("create", snapshotId ?? sdk.access.projectId, {
      sandboxId: request.sandboxId,
      about: snapshotId === undefined ? "project" : "snapshot",
      effects: true,
      deadline: slow,
      secrets: secretsIn([request.config.env, plan.networkPolicy])
    }),
    (access, signal, { Sandbox }): Promise<Sandbox> => {
      const parameters = { ...access, ...parametersOf(request, plan, name), signal }
      return snapshotId === undefined
        ? Sandbox.create({ ...parameters, ...imageOf(plan) })
        : Sandbox.create({ ...parameters, source: { type: "snapshot", snapshotId } })
    }
  )

/**
 * Fields in which a sandbox that is there differs from what is asked for, of those that the vendor tells. It does not tell the
 * environment. Tags and the network policy are not compared but written, by {@link adopt}.
 */
const mismatches = (sandbox: Sandbox, plan: Plan): Array<string> => {
  const differs = <A>(found: A | undefined, wanted: A | undefined): boolean =>
    found !== undefined && wanted !== undefined && found !== wanted
  const millis = (duration: Duration.Duration | undefined) =>
    duration === undefined ? undefined : Duration.toMillis(duration)
  const exposed = [...new Set(sandbox.routes.map(({ port }) => port))].sort()
  const wanted = [...new Set(plan.ports)].sort()
  return [
    ...(differs(sandbox.vcpus, plan.vcpus) ? ["vercel.vcpus"] : []),
    ...(sandbox.persistent === plan.persistent ? [] : ["persistent"]),
    ...(exposed.join() === wanted.join() ? [] : ["ports"]),
    ...(differs(sandbox.timeout, millis(plan.timeout)) ? ["timeout"] : []),
    ...(differs(sandbox.runtime, plan.runtime) ? ["runtime"] : []),
    ...(differs(sandbox.image, plan.image) ? ["vercel.image"] : []),
    ...(differs(sandbox.region, plan.region) ? ["vercel.region"] : []),
    ...(differs(sandbox.snapshotExpiration, millis(plan.snapshotExpiration)) ? ["vercel.snapshotExpiration"] : [])
  ]
}

/** Longer than somebody else takes from looking at a sandbox that nobody owns to writing tags on it. */
const claimSettles = Duration.seconds(1)

/** The tag of a sandbox that is only claimed: who looks for it by its tag does not find, and boot, one without its network policy. */
const claimOf = (request: CreateRequest): string => `claim:${request.sandboxId}`

/**
 * Writes a claim on a sandbox that nobody owned, and makes sure that it stayed. The vendor has no write on a condition, so of two
 * that claim it at once the last one wins, and the other sees that before it has touched anything else.
 */
const claim = (sdk: Sdk, request: CreateRequest, plan: Plan, sandbox: Sandbox): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    const { sandboxId } = request
    const written = yield* Effect.result(
      sdk.use(question("create", sandbox.name, { sandboxId, effects: true }), (_, signal) =>
        sandbox.update(
          { tags: { ...sandbox.tags, ...tagsOf(request, plan), [tagNames.sandbox]: claimOf(request) } },
          { signal }
        )
      )
    )
    if (written._tag === "Failure" && written.failure.provesNotAccepted) return yield* written.failure
    const now = yield* Effect.delay(get(sdk, sandbox.name, sandboxId), claimSettles)
    if (now.tags?.[tagNames.sandbox] === claimOf(request)) return
    // An answer that was lost without any effect is no other owner.
    if (written._tag === "Failure" && now.tags?.[tagNames.sandbox] === sandbox.tags?.[tagNames.sandbox]) {
      return yield* written.failure
    }
    return yield* sdk.fail("create", new NameInUse({ name: sandbox.name }), sandboxId)
  })

/**
 * Makes a claimed sandbox ours. What it could reach until now says nothing of what it may reach as ours: the policy comes in the
 * same write, before it is booted or used.
 */
const take = (sdk: Sdk, request: CreateRequest, plan: Plan, sandbox: Sandbox): Effect.Effect<void, SandboxError> => {
  const networkPolicy = policyOf(plan)
  const tags = { ...sandbox.tags, ...tagsOf(request, plan) }
  const asked = question("create", sandbox.name, {
    sandboxId: request.sandboxId,
    effects: true,
    secrets: secretsIn(plan.networkPolicy)
  })
  return Effect.asVoid(
    sdk.use(asked, (_, signal) =>
      sandbox.update({ tags, ...(networkPolicy === undefined ? {} : { networkPolicy }) }, { signal })
    )
  )
}

/** Gives back what was claimed, unless somebody else has it by now. */
const release = (
  sdk: Sdk,
  request: CreateRequest,
  sandbox: Sandbox,
  tags: Record<string, string>
): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    const { sandboxId } = request
    const now = yield* get(sdk, sandbox.name, sandboxId)
    const owner = now.tags?.[tagNames.sandbox]
    if (owner !== sandboxId && owner !== claimOf(request)) return
    yield* sdk.use(question("create", sandbox.name, { sandboxId, effects: true }), (_, signal) =>
      now.update({ tags }, { signal })
    )
  })

/**
 * Takes over what has the name: our own of an attempt whose answer was lost, or with `reuse` one that nobody's record owns. What
 * comes of that only in part leaves it as it was, nobody's: it is not what a failed creation has left behind, and nobody finishes
 * the creation without its network policy.
 */
const adopt = (
  sdk: Sdk,
  request: CreateRequest,
  plan: Plan,
  sandbox: Sandbox,
  snapshotId: string | undefined
): Effect.Effect<Sandbox, SandboxError> =>
  Effect.gen(function* () {
    const { sandboxId } = request
    const fail = (reason: NameInUse | ConfigMismatch) => sdk.fail("create", reason, sandboxId)
    const isOwn = sandbox.tags?.[tagNames.sandbox] === sandboxId
    // The disk of another one is not that of the snapshot.
    if (!mayTake(request, plan, sandbox) || (snapshotId !== undefined && !isOwn)) {
      return yield* fail(new NameInUse({ name: sandbox.name }))
    }
    const booted = boot(sdk, "create", sandbox, sandboxId)
    if (isOwn) return yield* booted
    const fields = mismatches(sandbox, plan)
    if (fields.length > 0) return yield* fail(new ConfigMismatch({ fields }))
    const before = { ...sandbox.tags }
    return yield* claim(sdk, request, plan, sandbox).pipe(
      Effect.andThen(take(sdk, request, plan, sandbox)),
      Effect.andThen(booted),
      Effect.onError(() => Effect.ignore(release(sdk, request, sandbox, before)))
    )
  })

/** Whether its disk ended with its session and was not saved: of no use to anybody, but it has the name. */
const isSpent = (sdk: Sdk, sandbox: Sandbox, sandboxId: SandboxId): Effect.Effect<boolean, SandboxError> => {
  const ended = sandbox.status === "stopped" || sandbox.status === "failed" || sandbox.status === "aborted"
  return sandbox.persistent || !ended
    ? Effect.succeed(false)
    : Effect.map(
        Snapshots.ofSession(sdk, "create", sandbox.name, sandbox.currentSession().sessionId, sandboxId),
        Option.isNone
      )
}

/** Whether we may have it: it is this sandbox's, or with `reuse` nobody's whose record we would not know. */
const mayTake = (request: CreateRequest, plan: Plan, sandbox: Sandbox): boolean => {
  const namespace = sandbox.tags?.[tagNames.namespace]
  // Another deployment may have a sandbox of the same id.
  if (namespace !== undefined && namespace !== request.namespace) return false
  return sandbox.tags?.[tagNames.sandbox] === request.sandboxId || (plan.name !== undefined && plan.reuse)
}

/**
 * Makes a sandbox, of a snapshot's disk if one is given. The name makes it happen once: a creation whose outcome is not known is
 * looked for by its name, and sent again if it is not there.
 */
export const create = (
  sdk: Sdk,
  request: CreateRequest,
  plan: Plan,
  snapshotId?: string
): Effect.Effect<Sandbox, SandboxError> =>
  Effect.gen(function* () {
    const { sandboxId } = request
    const name = plan.name ?? nameOf(request)
    const made = Effect.flatMap(post(sdk, request, plan, name, snapshotId), (sandbox) =>
      settled(sdk, sandbox, sandboxId)
    )
    const take = (found: Sandbox, mayReplace: boolean): Effect.Effect<Sandbox, SandboxError> =>
      Effect.gen(function* () {
        const there = yield* settled(sdk, found, sandboxId)
        if (!mayTake(request, plan, there) || !(yield* isSpent(sdk, there, sandboxId))) {
          return yield* adopt(sdk, request, plan, there, snapshotId)
        }
        if (!mayReplace) {
          return yield* sdk.fail(
            "create",
            new Unavailable({ accepted: "unknown", detail: `${name} was deleted, and still has its name` }),
            sandboxId
          )
        }
        // Its snapshots stay: they are checkpoints.
        yield* sdk
          .use(question("create", name, { sandboxId, effects: true, deadline: slow }), (_, signal) =>
            there.delete({ signal })
          )
          .pipe(
            Effect.catchIf(
              (error) => error.reason._tag === "Gone",
              () => Effect.void
            )
          )
        // Somebody else may have done the same, and be first.
        return yield* attempt(false)
      })
    const attempt = (mayReplace: boolean): Effect.Effect<Sandbox, SandboxError> =>
      made.pipe(
        Effect.catch((error) =>
          Effect.gen(function* () {
            // 400 is also how the vendor says that the name is taken.
            const refused = error.reason._tag === "InvalidArgument"
            if (error.provesNotAccepted && !refused) return yield* error
            const there = yield* Effect.mapError(getOption(sdk, name, sandboxId), () => error)
            if (Option.isSome(there)) return yield* take(there.value, mayReplace)
            if (!refused) return yield* error
            // Taken, and not there to be seen: an attempt of before is about to succeed. The vendor has no code for it, only words.
            return yield* sdk.fail(
              "create",
              /already exists/i.test(error.reason.message)
                ? new Unavailable({ accepted: "unknown", detail: `the name ${name} is being created` })
                : new InvalidConfig({ issue: error.reason.message }),
              sandboxId
            )
          })
        )
      )
    // Without confirmation that there is the project: the creation tells.
    const reused = Effect.flatMap(noneIfGone(lookUp(sdk, name, sandboxId)), (existing) =>
      Option.isSome(existing) ? take(existing.value, true) : attempt(true)
    )
    const sandbox = yield* Effect.retry(plan.name !== undefined && plan.reuse ? reused : attempt(true), {
      while: (error) => error.isRetryable && !error.provesNotAccepted,
      schedule: Schedule.max([Schedule.exponential("500 millis"), Schedule.recurs(2)])
    })
    return sandbox.status === "running"
      ? sandbox
      : yield* sdk.fail(
          "create",
          new Unavailable({ accepted: "unknown", detail: `it is ${sandbox.status}` }),
          sandboxId
        )
  })

type Listed = Awaited<ReturnType<typeof Sandbox.list>>["sandboxes"][number]

const infoOf = (listed: Listed): MachineInfo => {
  const tag = listed.tags?.[tagNames.sandbox]
  const namespace = listed.tags?.[tagNames.namespace]
  return {
    ref: { externalId: listed.name, incarnation: listed.currentSessionId },
    // A tag of ours holds a SandboxId and nothing else.
    ...(tag === undefined ? {} : { sandboxId: tag as SandboxId }),
    ...(namespace === undefined ? {} : { namespace }),
    running: listed.status === "running",
    createdAt: listed.createdAt
  }
}

/** Every sandbox with this tag, page by page; a page that cannot be had fails the whole. */
export const listByTag = (
  sdk: Sdk,
  operation: string,
  kind: keyof typeof tagNames,
  value: string
): Stream.Stream<MachineInfo, SandboxError> => {
  const tag = tagNames[kind]
  return Stream.paginate(undefined as string | undefined, (cursor) =>
    sdk
      .use(question(operation, sdk.access.projectId, { about: "project" }), (access, signal, { Sandbox }) => {
        const page = { ...access, ...(cursor === undefined ? {} : { cursor }), signal }
        // The SDK's types want to see that there is one tag.
        return kind === "sandbox"
          ? Sandbox.list({ ...page, tags: { [tagNames.sandbox]: value } })
          : Sandbox.list({ ...page, tags: { [tagNames.namespace]: value } })
      })
      .pipe(
        Effect.map(({ pagination, sandboxes }) => [
          // Should the filter of the list ever be looser than it is today.
          sandboxes.filter((listed) => listed.tags?.[tag] === value).map(infoOf),
          Option.fromNullOr(pagination.next)
        ])
      )
  )
}

/** Ends what a ref stands for. What is not there, or is somebody else's by now, needs no end. */
export const stop = (sdk: Sdk, ref: MachineRef, mode: "stop" | "delete"): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(getOption(sdk, ref.externalId, undefined), (found) =>
    Option.isNone(found)
      ? Effect.void
      : Effect.flatMap(isOfRef(sdk, "stop", found.value, ref), (own) =>
          own ? end(sdk, found.value, mode) : Effect.void
        )
  )

/** Ends the machine of this ref and no later one. */
export const endOwn = (
  sdk: Sdk,
  ref: MachineRef,
  sandboxId: SandboxId,
  mode: "stop" | "delete"
): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(getOwn(sdk, "stop", ref, sandboxId), (found) => {
    if (Option.isNone(found)) return Effect.void
    return isLater(ref, found.value)
      ? Effect.fail(sdk.fail("stop", new Superseded({ incarnation: ref.incarnation }), sandboxId))
      : end(sdk, found.value, mode)
  })

/** Ends a sandbox that was just looked at. */
export const end = (sdk: Sdk, sandbox: Sandbox, mode: "stop" | "delete"): Effect.Effect<void, SandboxError> => {
  const asked = question("stop", sandbox.name, { effects: true, deadline: slow })
  const done = (error: SandboxError) => error.reason._tag === "Gone" || error.reason._tag === "NotRunning"
  const call =
    mode === "delete"
      ? sdk.use(asked, (_, signal) => sandbox.delete({ deleteOrphanSnapshots: true, signal }))
      : sandbox.status === "stopped" || sandbox.status === "failed" || sandbox.status === "aborted"
        ? Effect.void
        : Effect.asVoid(sdk.use(asked, (_, signal) => sandbox.stop({ signal })))
  return Effect.catchIf(call, done, () => Effect.void)
}
