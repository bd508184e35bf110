/** Volumes of an account: what the CLI and scripts do with them. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../errors.ts"
import type { Volume } from "../model/Volume.ts"
import { SandboxVolumes } from "../services/SandboxVolumes.ts"

/** All volumes, by name. */
export const list: Effect.Effect<ReadonlyArray<Volume>, SandboxError, SandboxVolumes> = Effect.flatMap(
  SandboxVolumes,
  (volumes) => Effect.map(Stream.runCollect(volumes.list), (all) => all.toSorted((a, b) => (a.name < b.name ? -1 : 1)))
)

/** The volume of this name; `NotFound` when there is none. */
export const get = (name: string): Effect.Effect<Volume, SandboxError, SandboxVolumes> =>
  Effect.flatMap(SandboxVolumes, (volumes) => volumes.get(name))

/** The volume of this name, made when there is none, as soon as it can be mounted. */
export const create = (name: string): Effect.Effect<Volume, SandboxError, SandboxVolumes> =>
  Effect.flatMap(SandboxVolumes, (volumes) => volumes.create(name))

const remove = (name: string): Effect.Effect<void, SandboxError, SandboxVolumes> =>
  Effect.flatMap(SandboxVolumes, (volumes) => volumes.delete(name))

export {
  /** Deletes a volume with what is in it; one that is not there is no error. */
  remove as delete
}
