/**
 * Checkpoints are snapshots of a sandbox: of its files, taken while it runs. A restore makes a new machine of one, under the same
 * sandbox, and then ends the old one: the vendor cannot go back in place.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Stream from "effect/Stream"
import type { Snapshot } from "@daytonaio/sdk"
import type { SandboxError } from "../../../errors.ts"
import { NotFound, SecretsRequired, Unavailable, Unknown } from "../../../errors.ts"
import type { Checkpoint } from "../../../model/Checkpoint.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { CreateRequest, MachineRef } from "../../../services/SandboxProvider.ts"
import * as Lifecycle from "./lifecycle.ts"
import type { Plan } from "./plan.ts"
import type { Dto, Question, Sdk } from "./sdk.ts"

/** What the names of all snapshots of a sandbox begin with. */
const prefixOf = (sandboxId: SandboxId): string => `sbx-${sandboxId}-checkpoint-`

const checkpointOf = (sandboxId: SandboxId, snapshot: Snapshot): Checkpoint => ({
  id: snapshot.name,
  sandboxId,
  // The types say a Date; what arrives is its text.
  createdAt: Date.parse(String(snapshot.createdAt))
})

const question = (operation: string, id: string, sandboxId: SandboxId, fields: Partial<Question> = {}): Question => ({
  operation,
  about: "snapshot",
  id,
  effects: false,
  sandboxId,
  ...fields
})

const transient = (sdk: Sdk) => ({ schedule: sdk.retry, while: (error: SandboxError) => error.isRetryable })

/** Those that can be restored, of every machine that the sandbox has had. */
const ofSandbox = (sdk: Sdk, operation: string, sandboxId: SandboxId): Stream.Stream<Snapshot, SandboxError> =>
  Stream.paginate(1, (page) =>
    sdk
      .use(question(operation, "", sandboxId), ({ snapshots }, options) =>
        snapshots.getAllSnapshots(undefined, page, 100, prefixOf(sandboxId), undefined, undefined, undefined, options)
      )
      .pipe(
        Effect.retry(transient(sdk)),
        Effect.map(({ data }) => [
          // The vendor's filter looks for a part of a name.
          data.items.filter(({ name, state }) => name.startsWith(prefixOf(sandboxId)) && state === "active"),
          page < data.totalPages ? Option.some(page + 1) : Option.none<number>()
        ])
      )
  )

/** Newest first. */
export const list = (sdk: Sdk, sandboxId: SandboxId): Stream.Stream<Checkpoint, SandboxError> =>
  Stream.unwrap(
    Effect.map(Stream.runCollect(ofSandbox(sdk, "listCheckpoints", sandboxId)), (all) =>
      Stream.fromIterable(
        all.map((snapshot) => checkpointOf(sandboxId, snapshot)).toSorted((a, b) => b.createdAt - a.createdAt)
      )
    )
  )

/** A checkpoint of this sandbox; another's is as good as not there. */
const own = (sdk: Sdk, operation: string, id: string, sandboxId: SandboxId): Effect.Effect<Snapshot, SandboxError> =>
  ofSandbox(sdk, operation, sandboxId).pipe(
    Stream.filter(({ name }) => name === id),
    Stream.runHead,
    Effect.flatMap((found) =>
      Option.isSome(found)
        ? Effect.succeed(found.value)
        : Effect.fail(sdk.fail(operation, new NotFound({ kind: "checkpoint", id }), sandboxId))
    )
  )

const removeSnapshot = (sdk: Sdk, operation: string, snapshotId: string, sandboxId: SandboxId) =>
  Effect.asVoid(
    sdk.use(question(operation, snapshotId, sandboxId), ({ snapshots }, options) =>
      snapshots.removeSnapshot(snapshotId, undefined, options)
    )
  )

export const remove = (sdk: Sdk, id: string, sandboxId: SandboxId): Effect.Effect<void, SandboxError> =>
  Effect.flatMap(own(sdk, "deleteCheckpoint", id, sandboxId), (snapshot) =>
    removeSnapshot(sdk, "deleteCheckpoint", snapshot.id, sandboxId)
  )

const named = (sdk: Sdk, name: string, sandboxId: SandboxId): Effect.Effect<Snapshot, SandboxError> =>
  Effect.retry(
    sdk.use(question("createCheckpoint", name, sandboxId), ({ snapshots }, options) =>
      snapshots.getSnapshot(name, undefined, options).then(({ data }) => data)
    ),
    transient(sdk)
  )

/** How often a snapshot that was asked for is looked for in vain: it may appear after its sandbox has gone on. */
const patience = 20

/**
 * Takes a snapshot, and waits until it can be restored: the vendor lets the sandbox go on alike when it has failed. The name, chosen
 * before, finds one whose answer was lost.
 */
export const create = (sdk: Sdk, dto: Dto, sandboxId: SandboxId): Effect.Effect<Checkpoint, SandboxError> =>
  Effect.gen(function* () {
    const name = `${prefixOf(sandboxId)}${SecureRandom.uuidV4Unsafe()}`
    const operation = "createCheckpoint"
    const asked: Question = { ...question(operation, dto.id, sandboxId), about: "sandbox", effects: true }
    yield* sdk
      .use({ ...asked, deadline: Lifecycle.slow }, ({ api }, options) =>
        api.createSandboxSnapshot(dto.id, { name }, undefined, options)
      )
      .pipe(
        // Another one is being taken, or somebody changes something else.
        Effect.retry({ schedule: sdk.retry, while: (error) => error.isRetryable && error.provesNotAccepted }),
        Effect.catchIf(
          (error) => !error.provesNotAccepted,
          (error) =>
            Effect.flatMap(Lifecycle.get(sdk, dto.id, sandboxId), (now) =>
              now.state === "snapshotting"
                ? Effect.void
                : Effect.catch(named(sdk, name, sandboxId), () => Effect.fail(error))
            )
        )
      )
    yield* Effect.flatMap(Lifecycle.get(sdk, dto.id, sandboxId), (now) => Lifecycle.settled(sdk, now, sandboxId))
    let missed = 0
    const snapshot = yield* named(sdk, name, sandboxId).pipe(
      Effect.flatMap((found) =>
        found.state === "active" || found.state === "error" || found.state === "build_failed"
          ? Effect.succeed(found)
          : Effect.fail(sdk.fail(operation, new Unavailable({ accepted: "no", detail: `it is ${found.state}` })))
      ),
      Effect.retry({
        schedule: Lifecycle.pace,
        while: (error) =>
          error.reason._tag === "Unavailable" || (error.reason._tag === "NotFound" && missed++ < patience)
      })
    )
    if (snapshot.state === "active") return checkpointOf(sandboxId, snapshot)
    yield* Effect.ignore(removeSnapshot(sdk, operation, snapshot.id, sandboxId))
    return yield* sdk.fail(
      operation,
      new Unknown({
        detail: `the snapshot is ${snapshot.state}: ${sdk.scrub(snapshot.errorReason ?? "for no reason given")}`
      }),
      sandboxId
    )
  }).pipe(
    Effect.catchReason("SandboxError", "NotFound", (reason) =>
      Effect.fail(
        sdk.fail("createCheckpoint", new Unknown({ detail: `the vendor has made no snapshot ${reason.id}` }), sandboxId)
      )
    )
  )

/** A new machine with the disk of a checkpoint, running; the old one has ended then. What could fail comes before that. */
export const restore = (
  sdk: Sdk,
  id: string,
  request: CreateRequest,
  plan: Plan,
  ref: Option.Option<MachineRef>
): Effect.Effect<Dto, SandboxError> =>
  Effect.gen(function* () {
    const { missingSecrets: names = [], sandboxId } = request
    if (names.length > 0) {
      return yield* sdk.fail("restoreCheckpoint", new SecretsRequired({ names: [...names] }), sandboxId)
    }
    yield* own(sdk, "restoreCheckpoint", id, sandboxId)
    const made = yield* Lifecycle.create(sdk, request, plan, id)
    if (Option.isSome(ref) && ref.value.externalId !== made.id) {
      yield* Effect.retry(Lifecycle.stop(sdk, ref.value, "delete"), transient(sdk))
    }
    return made
  })
