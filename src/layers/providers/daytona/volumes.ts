/** Volumes: made when they are missing, and waited for, which the vendor's SDK does not. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { Timeout, VolumeFailed } from "../../../errors.ts"
import type { VolumeMount } from "../../../model/DaytonaConfig.ts"
import type { Volume } from "../../../model/Volume.ts"
import type { SandboxVolumes } from "../../../services/SandboxVolumes.ts"
import type { Question, Sdk, VolumeDto } from "./sdk.ts"

/** A volume and where it goes, as a creation says it. */
export interface Mount {
  readonly volumeId: string
  readonly mountPath: string
  readonly subpath?: string
}

/** The vendor looks after volumes every five seconds. */
const pace = Schedule.exponential("200 millis", 1.3).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(5))))
)

const patience = Duration.minutes(2)

const question = (operation: string, id: string, fields: Partial<Question> = {}): Question => ({
  operation,
  about: "volume",
  id,
  effects: false,
  ...fields
})

const transient = (sdk: Sdk) => ({ schedule: sdk.retry, while: (error: SandboxError) => error.isRetryable })

export const get = (sdk: Sdk, operation: string, name: string): Effect.Effect<VolumeDto, SandboxError> =>
  Effect.retry(
    sdk.use(question(operation, name), ({ volumes }, options) =>
      volumes.getVolumeByName(name, undefined, options).then(({ data }) => data)
    ),
    transient(sdk)
  )

const byId = (sdk: Sdk, operation: string, id: string): Effect.Effect<VolumeDto, SandboxError> =>
  Effect.retry(
    sdk.use(question(operation, id), ({ volumes }, options) =>
      volumes.getVolume(id, undefined, options).then(({ data }) => data)
    ),
    transient(sdk)
  )

export const list = (sdk: Sdk): Effect.Effect<ReadonlyArray<VolumeDto>, SandboxError> =>
  Effect.retry(
    sdk.use(question("volumes", ""), ({ volumes }, options) =>
      volumes.listVolumes(undefined, undefined, options).then(({ data }) => data)
    ),
    transient(sdk)
  )

/** The volume of a name, made when there is none. Of two that make it at once one is refused, and finds the other's. */
export const ensure = (sdk: Sdk, operation: string, name: string): Effect.Effect<VolumeDto, SandboxError> =>
  get(sdk, operation, name).pipe(
    Effect.catchIf(
      (error) => error.reason._tag === "NotFound",
      () =>
        sdk
          .use(question(operation, name, { effects: true }), ({ volumes }, options) =>
            volumes.createVolume({ name }, undefined, options).then(({ data }) => data)
          )
          .pipe(
            Effect.catch((error) =>
              // A refusal says that it exists; an answer that was lost may.
              Effect.catch(get(sdk, operation, name), () => Effect.fail(error))
            )
          )
    )
  )

/** Waits until a volume can be mounted. */
export const ready = (sdk: Sdk, operation: string, volume: VolumeDto): Effect.Effect<VolumeDto, SandboxError> => {
  const isComing = ({ state }: VolumeDto) => state === "pending_create" || state === "creating"
  const waited = isComing(volume)
    ? byId(sdk, operation, volume.id).pipe(
        Effect.repeat({ schedule: pace, while: isComing }),
        Effect.timeoutOrElse({
          duration: patience,
          orElse: () =>
            Effect.fail(sdk.fail(operation, new Timeout({ clock: "request", duration: patience, accepted: "no" })))
        })
      )
    : Effect.succeed(volume)
  return Effect.flatMap(waited, (found) =>
    found.state === "ready"
      ? Effect.succeed(found)
      : Effect.fail(
          sdk.fail(
            operation,
            new VolumeFailed({
              volume: found.name,
              state: found.state,
              ...(typeof found.errorReason === "string" ? { detail: sdk.scrub(found.errorReason) } : {})
            })
          )
        )
  )
}

/** Deletes a volume; what is not there needs no deletion. */
export const remove = (sdk: Sdk, name: string): Effect.Effect<void, SandboxError> =>
  get(sdk, "deleteVolume", name).pipe(
    Effect.flatMap(({ id }) =>
      sdk.use(question("deleteVolume", name), ({ volumes }, options) => volumes.deleteVolume(id, undefined, options))
    ),
    Effect.catchIf(
      (error) => error.reason._tag === "NotFound",
      () => Effect.void
    ),
    Effect.asVoid
  )

/** The volumes of a config, each there and ready. */
export const mounts = (
  sdk: Sdk,
  wanted: ReadonlyArray<VolumeMount>,
  sandboxId: string
): Effect.Effect<ReadonlyArray<Mount>, SandboxError> =>
  Effect.forEach(wanted, ({ mountPath, subpath, volumeId, volumeName }) =>
    (volumeName === undefined ? byId(sdk, "create", volumeId ?? "") : ensure(sdk, "create", volumeName)).pipe(
      Effect.flatMap((volume) => ready(sdk, "create", volume)),
      Effect.map(({ id }): Mount => ({ volumeId: id, mountPath, ...(subpath === undefined ? {} : { subpath }) }))
    )
  ).pipe(Effect.mapError((error) => sdk.fail("create", error.reason, sandboxId)))

const volumeOf = ({ createdAt, id, name, state }: VolumeDto): Volume => {
  const created = Date.parse(createdAt)
  return { id, name, state, ...(Number.isFinite(created) ? { createdAt: created } : {}) }
}

const isEnding = ({ state }: VolumeDto): boolean =>
  state === "deleted" || state === "deleting" || state === "pending_delete"

/** The volumes of the account, for programs. */
export const make = (sdk: Sdk): SandboxVolumes["Service"] => ({
  list: Stream.unwrap(
    Effect.map(list(sdk), (all) => Stream.fromIterable(all.filter((volume) => !isEnding(volume)).map(volumeOf)))
  ),
  get: (name) => Effect.map(get(sdk, "volume", name), volumeOf),
  create: (name) =>
    Effect.map(
      Effect.flatMap(ensure(sdk, "createVolume", name), (volume) => ready(sdk, "createVolume", volume)),
      volumeOf
    ),
  delete: (name) => remove(sdk, name)
})
