/**
 * Checkpoints are snapshots: of the disk, taken with the end of the session. A restore gives the sandbox that disk back under its
 * own name; only where the name is gone a new sandbox is made of it.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { Sandbox } from "@vercel/sandbox"
import type { SandboxError } from "../../../errors.ts"
import { NotFound, SecretsRequired, Unavailable } from "../../../errors.ts"
import type { Checkpoint } from "../../../model/Checkpoint.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import type { CreateRequest, MachineRef } from "../../../services/SandboxProvider.ts"
import type { Guest } from "./guest.ts"
import * as Lifecycle from "./lifecycle.ts"
import type { Plan } from "./plan.ts"
import type { Sdk } from "./sdk.ts"
import * as Snapshots from "./snapshots.ts"

const checkpointOf = (sandboxId: SandboxId, snapshot: Snapshots.Listed): Checkpoint => ({
  id: snapshot.id,
  sandboxId,
  createdAt: snapshot.createdAt,
  sizeBytes: snapshot.sizeBytes,
  ...(snapshot.expiresAt === undefined ? {} : { expiresAt: snapshot.expiresAt })
})

/** Newest first, of every name that the sandbox has had, whether or not the vendor still has a sandbox of that name. */
export const list = (
  sdk: Sdk,
  sandboxId: SandboxId,
  ref: Option.Option<MachineRef>
): Stream.Stream<Checkpoint, SandboxError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const tagged = yield* Stream.runCollect(Lifecycle.listByTag(sdk, "listCheckpoints", "sandbox", sandboxId))
      const names = new Set(tagged.map((info) => info.ref.externalId))
      if (Option.isSome(ref)) names.add(ref.value.externalId)
      for (const name of [...names]) Lifecycle.namesUpTo(sandboxId, name).forEach((former) => names.add(former))
      const all = yield* Effect.forEach(
        names,
        (name) => Stream.runCollect(Snapshots.ofName(sdk, "listCheckpoints", name, sandboxId)),
        {
          concurrency: 8
        }
      )
      return Stream.fromIterable(
        all
          .flat()
          .toSorted((a, b) => b.createdAt - a.createdAt)
          .map((snapshot) => checkpointOf(sandboxId, snapshot))
      )
    })
  )

const missing = (sdk: Sdk, operation: string, id: string, sandboxId: SandboxId) =>
  sdk.fail(operation, new NotFound({ kind: "checkpoint", id }), sandboxId)

const isOf = (sdk: Sdk, operation: string, id: string, sandboxId: SandboxId, ref: Option.Option<MachineRef>) =>
  list(sdk, sandboxId, ref).pipe(
    Stream.filter((checkpoint) => checkpoint.id === id),
    Stream.runHead,
    Effect.flatMap((found) =>
      Option.isSome(found) ? Effect.void : Effect.fail(missing(sdk, operation, id, sandboxId))
    )
  )

/** What may be done twice is, until there is an answer. */
const untilAnswered =
  (retry: RecoverySchedule) =>
  <A>(effect: Effect.Effect<A, SandboxError>): Effect.Effect<A, SandboxError> =>
    Effect.retry(effect, { schedule: retry, while: (error) => error.isRetryable })

/** Deletes one of this sandbox's; another's is as good as not there. */
export const remove = (
  sdk: Sdk,
  id: string,
  sandboxId: SandboxId,
  ref: Option.Option<MachineRef>,
  retry: RecoverySchedule
): Effect.Effect<void, SandboxError> => {
  const deleted = sdk
    .use(
      { operation: "deleteCheckpoint", about: "snapshot", id, effects: false, sandboxId },
      async (access, signal, { Snapshot }) => {
        const snapshot = await Snapshot.get({ ...access, snapshotId: id, signal })
        await snapshot.delete({ signal })
      }
    )
    .pipe(
      // It was there: an attempt whose answer was lost has deleted it.
      Effect.catchIf(
        (error) => error.reason._tag === "NotFound",
        () => Effect.void
      )
    )
  return Effect.andThen(
    untilAnswered(retry)(isOf(sdk, "deleteCheckpoint", id, sandboxId, ref)),
    untilAnswered(retry)(deleted)
  )
}

/** A sandbox whose session is on its way to its end, at that end. */
const ended = (guest: Guest, sandboxId: SandboxId): Effect.Effect<Sandbox, SandboxError> =>
  Effect.flatMap(Lifecycle.get(guest.sdk, guest.sandbox.name, sandboxId), (sandbox) =>
    Lifecycle.settled(guest.sdk, sandbox, sandboxId)
  )

/** Both a snapshot that was not taken up and a boot are harmless twice. */
const briefly = Schedule.max([Schedule.exponential("500 millis"), Schedule.recurs(4)])

/**
 * The snapshot of a request whose answer was lost: a session is saved once, with its end. One that goes on was not saved, and may be
 * asked for it again.
 */
const taken = (guest: Guest, sandboxId: SandboxId, lost: SandboxError): Effect.Effect<Checkpoint, SandboxError> => {
  const { sdk, session } = guest
  const operation = "createCheckpoint"
  const asked = Effect.gen(function* () {
    const now = yield* ended(guest, sandboxId)
    const own = yield* Snapshots.ofSession(sdk, operation, guest.sandbox.name, session.sessionId, sandboxId)
    const goesOn = now.status === "running" && now.currentSession().sessionId === session.sessionId
    return { own, goesOn }
  })
  return asked.pipe(
    Effect.retry({ schedule: briefly, while: (error) => error.isRetryable }),
    Effect.mapError(() => lost),
    Effect.flatMap(({ goesOn, own }) => {
      if (Option.isSome(own)) return Effect.succeed(checkpointOf(sandboxId, own.value))
      return Effect.fail(
        goesOn
          ? sdk.fail(
              operation,
              new Unavailable({ accepted: "no", detail: "its session goes on, unsaved", cause: lost }),
              sandboxId
            )
          : lost
      )
    })
  )
}

/**
 * Ends the session and saves the disk. A sandbox that does not persist is booted from it at once: it has no other disk now, so that
 * whoever is interrupted waits for it.
 */
export const create = (guest: Guest, sandboxId: SandboxId): Effect.Effect<Checkpoint, SandboxError> => {
  const { sandbox, sdk, session } = guest
  let sent = false
  const saved = guest
    .ask("createCheckpoint", { effects: true, deadline: Lifecycle.slow }, (signal) => session.snapshot({ signal }))
    .pipe(
      Effect.map((snapshot): Checkpoint => ({
        id: snapshot.snapshotId,
        sandboxId,
        createdAt: snapshot.createdAt.getTime(),
        sizeBytes: snapshot.sizeBytes,
        ...(snapshot.expiresAt === undefined ? {} : { expiresAt: snapshot.expiresAt.getTime() })
      })),
      Effect.catchIf(
        // That the session has ended may be what an earlier request has done.
        (error) => !error.provesNotAccepted || (sent && error.reason._tag === "NotRunning"),
        (error) => {
          sent = true
          return taken(guest, sandboxId, error)
        }
      ),
      Effect.retry({ schedule: briefly, while: (error) => error.isRetryable && error.provesNotAccepted })
    )
  if (sandbox.persistent) return saved
  const again = Effect.tap(saved, ({ id }) =>
    // Without it the disk is out of reach.
    Effect.retry(
      Effect.flatMap(ended(guest, sandboxId), (stopped) =>
        Lifecycle.bootFrom(sdk, "createCheckpoint", stopped, id, sandboxId)
      ),
      { while: (error) => error.isRetryable, schedule: briefly }
    )
  )
  // A fiber of its own, in which deadlines still interrupt.
  return Effect.uninterruptibleMask((restore) => Effect.flatMap(Effect.forkDetach(restore(again)), Fiber.join))
}

/** The sandbox with the disk of a checkpoint, running. What could fail without it being touched comes first. */
export const restore = (
  sdk: Sdk,
  id: string,
  request: CreateRequest,
  plan: Plan,
  ref: Option.Option<MachineRef>,
  retry: RecoverySchedule
): Effect.Effect<Sandbox, SandboxError> =>
  Effect.gen(function* () {
    const operation = "restoreCheckpoint"
    const { sandboxId } = request
    const sure = untilAnswered(retry)
    yield* sure(isOf(sdk, operation, id, sandboxId, ref))
    const existing = Option.isNone(ref)
      ? Option.none<Sandbox>()
      : yield* sure(Lifecycle.getOwn(sdk, operation, ref.value, sandboxId))
    if (Option.isNone(existing)) {
      const { missingSecrets: names = [] } = request
      if (names.length > 0) return yield* sdk.fail(operation, new SecretsRequired({ names: [...names] }), sandboxId)
      return yield* sure(Lifecycle.create(sdk, request, plan, id))
    }
    const { name } = existing.value
    const ended = Effect.gen(function* () {
      const sandbox = yield* Lifecycle.get(sdk, name, sandboxId)
      yield* Lifecycle.end(sdk, sandbox, "stop")
      return yield* Lifecycle.settled(sdk, yield* Lifecycle.get(sdk, name, sandboxId), sandboxId)
    })
    let elsewhere: Unavailable | undefined
    return yield* Effect.retry(
      Effect.gen(function* () {
        const stopped = yield* sure(ended)
        const running = yield* sure(Lifecycle.bootFrom(sdk, operation, stopped, id, sandboxId))
        const source = running.currentSession().sourceSnapshotId
        if (source === undefined || source === id) return running
        // Somebody else has booted it in between, from the disk that it had.
        elsewhere = new Unavailable({ accepted: "unknown", detail: `it was booted from ${source} meanwhile` })
        return yield* sdk.fail(operation, elsewhere, sandboxId)
      }),
      // What else failed was asked for often enough.
      { schedule: retry, while: (error) => error.reason === elsewhere }
    )
  })
