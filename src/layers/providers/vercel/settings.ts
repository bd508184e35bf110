/** The settings of the provider, all of them `SANDBOX_VERCEL_*`. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { SandboxError } from "../../../errors.ts"
import type { Setting } from "../../../services/SandboxSettings.ts"
import * as Settings from "../../../services/SandboxSettings.ts"
import type { Environment } from "./plan.ts"

export const token = Settings.secret({
  name: "SANDBOX_VERCEL_TOKEN",
  fallback: "none",
  description: "An access token of Vercel's; with the next two, or none of them"
})

export const teamId = Settings.text({
  name: "SANDBOX_VERCEL_TEAM_ID",
  fallback: "none",
  description: "The team that the sandboxes belong to"
})

export const projectId = Settings.text({
  name: "SANDBOX_VERCEL_PROJECT_ID",
  fallback: "none",
  description: "The project that the sandboxes belong to"
})

const profile = Settings.choice(["ephemeral", "coding-agent"], {
  name: "SANDBOX_VERCEL_PROFILE",
  fallback: "by `purpose`",
  description: "The cost profile: `ephemeral` or `coding-agent`"
})

const name = Settings.text({
  name: "SANDBOX_VERCEL_NAME",
  fallback: "made of the sandbox's id",
  description: "The vendor's name of the sandbox"
})

const reuse = Settings.boolean({
  name: "SANDBOX_VERCEL_REUSE",
  fallback: "true for a persistent named one",
  description: "Whether creating a name again returns the sandbox that has it"
})

const persistent = Settings.boolean({
  name: "SANDBOX_VERCEL_PERSISTENT",
  fallback: "by profile",
  description: "Whether the disk outlives a stop"
})

const deleteOnStop = Settings.boolean({
  name: "SANDBOX_VERCEL_DELETE_ON_STOP",
  fallback: "the opposite of persistent",
  description: "Whether stopping deletes"
})

const timeout = Settings.integer(
  { min: 1, max: 86_400_000 },
  { name: "SANDBOX_VERCEL_TIMEOUT_MS", fallback: "by profile", description: "The lease in ms" }
)

const vcpus = Settings.integer(
  { min: 1, max: 32 },
  { name: "SANDBOX_VERCEL_VCPUS", fallback: "by profile", description: "vCPUs: 1, or an even number up to 32" }
)

const snapshotExpiration = Settings.integer(
  { min: 0, max: 31_622_400_000 },
  {
    name: "SANDBOX_VERCEL_SNAPSHOT_EXPIRATION_MS",
    fallback: "by profile",
    description: "How long snapshots live after their last use, in ms; 0 is for ever"
  }
)

export const cwd = Settings.text({
  name: "SANDBOX_VERCEL_CWD",
  fallback: "the working directory",
  description: "Where `layerLinked` looks for `.vercel/project.json`, upward"
})

/** All of them, in the order of the README's table. */
export const all: ReadonlyArray<Setting<unknown>> = [
  token,
  teamId,
  projectId,
  profile,
  name,
  reuse,
  persistent,
  deleteOnStop,
  timeout,
  vcpus,
  snapshotExpiration,
  cwd
]

/** What the environment says about new sandboxes. */
export const environment: Effect.Effect<Environment, SandboxError> = Effect.gen(function* () {
  const millis = (setting: Setting<number>) =>
    Effect.map(Settings.get(setting), (value) => Option.getOrUndefined(Option.map(value, Duration.millis)))
  const value = <A>(setting: Setting<A>) => Effect.map(Settings.get(setting), Option.getOrUndefined)
  return {
    profile: yield* value(profile),
    name: yield* value(name),
    reuse: yield* value(reuse),
    persistent: yield* value(persistent),
    deleteOnStop: yield* value(deleteOnStop),
    timeout: yield* millis(timeout),
    vcpus: yield* value(vcpus),
    snapshotExpiration: yield* millis(snapshotExpiration)
  }
})
