/** The settings of the provider: the vendor's own names for what says where and who, `SANDBOX_DAYTONA_*` for the rest. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import { MissingSetting, SandboxError } from "../../../errors.ts"
import type { Setting } from "../../../services/SandboxSettings.ts"
import * as Settings from "../../../services/SandboxSettings.ts"
import type { Environment } from "./plan.ts"

/** Who asks: an API key, or a token of a person with the organization that it is used for. */
export type Credentials =
  | { readonly apiKey: Redacted.Redacted<string> }
  | { readonly jwtToken: Redacted.Redacted<string>; readonly organizationId: string }

/** Where the vendor is, and who asks. */
export type Access = Credentials & {
  /** The API's own URL. */
  readonly apiUrl: string
  /** The region of new sandboxes; the default is the organization's. */
  readonly target?: string | undefined
}

const apiUrl = Settings.text({
  name: "DAYTONA_API_URL",
  aliases: ["DAYTONA_SERVER_URL"],
  fallback: "none",
  description: "The URL of Daytona's API; required, or `DAYTONA_SERVER_URL`"
})

const apiKey = Settings.secret({
  name: "DAYTONA_API_KEY",
  fallback: "none",
  description: "An API key of Daytona's; it wins over the next two"
})

const jwtToken = Settings.secret({
  name: "DAYTONA_JWT_TOKEN",
  fallback: "none",
  description: "A token of Daytona's; needs the next"
})

const organizationId = Settings.text({
  name: "DAYTONA_ORGANIZATION_ID",
  fallback: "none",
  description: "The organization that the token is used for"
})

const target = Settings.text({
  name: "DAYTONA_TARGET",
  fallback: "the organization's",
  description: "The region of new sandboxes"
})

const ephemeral = Settings.boolean({
  name: "SANDBOX_DAYTONA_EPHEMERAL",
  fallback: "true",
  description: "Whether a sandbox is deleted when it stops, for whatever reason"
})

const deleteOnStop = Settings.boolean({
  name: "SANDBOX_DAYTONA_DELETE_ON_STOP",
  fallback: "true for an ephemeral one",
  description: "Whether stopping deletes"
})

/** All of them, in the order of the README's table. */
export const all: ReadonlyArray<Setting<unknown>> = [
  apiUrl,
  apiKey,
  jwtToken,
  organizationId,
  target,
  ephemeral,
  deleteOnStop
]

const missing = (names: ReadonlyArray<string>, detail: string) =>
  new SandboxError({ operation: "SandboxSettings", reason: new MissingSetting({ names, detail }) })

/**
 * Where and who, of the settings. The URL has no default: a forgotten one must not send the key of another deployment to the
 * vendor.
 */
export const access: Effect.Effect<Access, SandboxError> = Effect.gen(function* () {
  const url = yield* Settings.required(apiUrl)
  const region = Option.getOrUndefined(yield* Settings.get(target))
  const where = { apiUrl: url, ...(region === undefined ? {} : { target: region }) }
  const key = yield* Settings.get(apiKey)
  if (Option.isSome(key)) return { ...where, apiKey: key.value }
  const token = yield* Settings.get(jwtToken)
  if (Option.isNone(token)) {
    return yield* missing(
      [apiKey.name],
      `is missing; so are ${jwtToken.name} and ${organizationId.name}, which would do instead`
    )
  }
  const organization = yield* Settings.get(organizationId)
  return Option.isSome(organization)
    ? { ...where, jwtToken: token.value, organizationId: organization.value }
    : yield* missing([organizationId.name], `is missing; ${jwtToken.name} needs it`)
})

/** What the environment says about new sandboxes. */
export const environment: Effect.Effect<Environment, SandboxError> = Effect.gen(function* () {
  return {
    ephemeral: Option.getOrUndefined(yield* Settings.get(ephemeral)),
    deleteOnStop: Option.getOrUndefined(yield* Settings.get(deleteOnStop))
  }
})
