/** The settings of the provider: the names that the vendor's own tools and those of `@ekairos/sandbox` read, and ours. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { SandboxError } from "../../../errors.ts"
import type { Setting } from "../../../services/SandboxSettings.ts"
import * as Settings from "../../../services/SandboxSettings.ts"
import type { Environment } from "./plan.ts"

/** The public API. */
export const publicApi = "https://api.sprites.dev"

export const token = Settings.secret({
  name: "SPRITES_API_TOKEN",
  aliases: ["SPRITES_TOKEN", "SPRITE_TOKEN"],
  fallback: "none",
  description: "A token of a Sprites organization; `SPRITES_TOKEN` and `SPRITE_TOKEN` are looked up too"
})

export const baseUrl = Settings.text({
  name: "SPRITES_API_BASE_URL",
  aliases: ["SPRITES_API_URL"],
  fallback: "the public API",
  description: "Where the Sprites API is; `SPRITES_API_URL` is looked up too"
})

const deleteOnStop = Settings.boolean({
  name: "SANDBOX_SPRITES_DELETE_ON_STOP",
  fallback: "true",
  description: "Whether stopping deletes the sprite or leaves it to sleep"
})

/** All of them, in the order of the README's table. */
export const all: ReadonlyArray<Setting<unknown>> = [token, baseUrl, deleteOnStop]

/** What the environment says about new sandboxes. */
export const environment: Effect.Effect<Environment, SandboxError> = Effect.map(
  Settings.get(deleteOnStop),
  (value) => ({ deleteOnStop: Option.getOrUndefined(value) })
)
