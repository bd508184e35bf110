/** Volumes of an account, where its vendor has them; a provider's layer supplies them. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { SandboxError } from "../errors.ts"
import type { Volume } from "../model/Volume.ts"

/** The volumes of an account, by name. */
export class SandboxVolumes extends Context.Service<
  SandboxVolumes,
  {
    /** All that exist. */
    readonly list: Stream.Stream<Volume, SandboxError>
    /** `NotFound` (`volume`) when there is none. */
    readonly get: (name: string) => Effect.Effect<Volume, SandboxError>
    /** The volume of this name, made when there is none, as soon as it can be mounted. */
    readonly create: (name: string) => Effect.Effect<Volume, SandboxError>
    /** Deletes what is in it, too. One that is not there is no error; one that a sandbox uses is `Busy`. */
    readonly delete: (name: string) => Effect.Effect<void, SandboxError>
  }
>()("effect-sandbox/services/SandboxVolumes") {}
