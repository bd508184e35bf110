/**
 * What becomes of a config on Vercel: cost profiles, and which of config, environment and profile decides. All of it pure.
 *
 * For each field the section `vercel` of the config comes first, then the config's own field of that meaning, then the
 * environment, then the profile.
 */
import * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import { InvalidConfig } from "../../../errors.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import type { NetworkPolicy } from "../../../model/VercelConfig.ts"

/** Names of cost profiles. */
export type Profile = "ephemeral" | "coding-agent"

/** What the environment says; absent where a variable is unset. */
export interface Environment {
  readonly profile?: Profile | undefined
  readonly name?: string | undefined
  readonly reuse?: boolean | undefined
  readonly persistent?: boolean | undefined
  readonly deleteOnStop?: boolean | undefined
  readonly timeout?: Duration.Duration | undefined
  readonly vcpus?: number | undefined
  readonly snapshotExpiration?: Duration.Duration | undefined
}

/** What a sandbox is made with. */
export interface Plan {
  readonly profile: Profile
  /** Absent: one is made of the sandbox's id. */
  readonly name: string | undefined
  readonly reuse: boolean
  readonly persistent: boolean
  readonly deleteOnStop: boolean
  readonly timeout: Duration.Duration
  readonly vcpus: number
  /** Zero is for ever; absent leaves it to the vendor, which means 30 days. */
  readonly snapshotExpiration: Duration.Duration | undefined
  readonly tags: Readonly<Record<string, string>>
  readonly ports: ReadonlyArray<number>
  readonly runtime: string | undefined
  readonly image: string | undefined
  readonly region: string | undefined
  readonly networkPolicy: NetworkPolicy | undefined
}

/** The vendor's limits, as its documentation has them (2026-08). */
export const limits = {
  /** 1, or an even number up to this. */
  vcpus: 32,
  ports: 15,
  /** The vendor's 5 less ours. */
  userTags: 3,
  nameLength: 128,
  timeout: Duration.hours(24),
  snapshotExpirationMin: Duration.days(1)
} as const

/** The tags by which a machine is found again. */
export const tagNames = { sandbox: "sandbox-id", namespace: "sandbox-namespace" } as const

/** Whether a name is one that is given to a sandbox which its user did not name: it tells whose it is. */
export const isNameOfOurs = (name: string): boolean => /^sbx-[0-9a-f-]{36}-\d+$/.test(name)

interface Defaults {
  readonly vcpus: number
  readonly timeout: Duration.Duration
  readonly persistent: boolean
  readonly snapshotExpiration: Duration.Duration | undefined
}

const profiles: Record<Profile, Defaults> = {
  ephemeral: { vcpus: 1, timeout: Duration.minutes(5), persistent: false, snapshotExpiration: undefined },
  "coding-agent": {
    vcpus: 2,
    timeout: Duration.minutes(20),
    persistent: true,
    snapshotExpiration: Duration.days(7)
  }
}

/** `vercel.profile`, else `SANDBOX_VERCEL_PROFILE`, else by what the purpose mentions. */
const profileOf = (config: SandboxConfig, environment: Environment): Profile =>
  config.vercel?.profile ??
  environment.profile ??
  (/codex|agent/i.test(config.purpose ?? "") ? "coding-agent" : "ephemeral")

/** What is wrong with a plan, with the limit that it breaks. */
const problemOf = (plan: Plan): string | undefined => {
  const { name, ports, snapshotExpiration, tags, timeout, vcpus } = plan
  if (vcpus !== 1 && !(Number.isInteger(vcpus) && vcpus > 0 && vcpus % 2 === 0 && vcpus <= limits.vcpus)) {
    return `vercel.vcpus: expected 1 or an even number up to ${limits.vcpus}, got ${vcpus}`
  }
  if (new Set(ports).size > limits.ports) return `ports: at most ${limits.ports}, got ${new Set(ports).size}`
  if (name !== undefined && (!/^[A-Za-z0-9_-]+$/.test(name) || name.length > limits.nameLength)) {
    return `vercel.name: expected up to ${limits.nameLength} of A-Z, a-z, 0-9, _ and -`
  }
  if (name !== undefined && isNameOfOurs(name)) return `vercel.name: names like ${name} are made of the id of a sandbox`
  for (const reserved of Object.values(tagNames)) {
    if (Object.hasOwn(tags, reserved)) return `vercel.tags: ${reserved} is a tag of this library`
  }
  const count = Object.keys(tags).length
  if (count > limits.userTags) return `vercel.tags: at most ${limits.userTags}, got ${count}`
  if (Duration.isGreaterThan(timeout, limits.timeout)) {
    return `vercel.timeout: at most ${Duration.format(limits.timeout)}, got ${Duration.format(timeout)}`
  }
  if (
    snapshotExpiration !== undefined &&
    !Duration.isZero(snapshotExpiration) &&
    Duration.isLessThan(snapshotExpiration, limits.snapshotExpirationMin)
  ) {
    return `vercel.snapshotExpiration: zero (never) or at least ${Duration.format(limits.snapshotExpirationMin)}`
  }
  if (plan.runtime !== undefined && plan.image !== undefined) {
    return "vercel.image: not together with runtime, which is an image of its own"
  }
  return undefined
}

/** The plan of a config, or which limit it breaks. */
export const planOf = (config: SandboxConfig, environment: Environment): Result.Result<Plan, InvalidConfig> => {
  const profile = profileOf(config, environment)
  const defaults = profiles[profile]
  const section = config.vercel ?? {}
  const chosen = section.persistent ?? config.persistent ?? environment.persistent
  const persistent = chosen ?? defaults.persistent
  const name = section.name ?? environment.name
  const plan: Plan = {
    profile,
    name,
    persistent,
    reuse: section.reuse ?? environment.reuse ?? (persistent && name !== undefined),
    // A disk that somebody wants to persist is not deleted because the profile deletes those that do not.
    deleteOnStop: section.deleteOnStop ?? config.deleteOnStop ?? environment.deleteOnStop ?? !persistent,
    timeout: section.timeout ?? config.timeout ?? environment.timeout ?? defaults.timeout,
    vcpus: section.vcpus ?? config.resources?.vcpus ?? environment.vcpus ?? defaults.vcpus,
    snapshotExpiration: section.snapshotExpiration ?? environment.snapshotExpiration ?? defaults.snapshotExpiration,
    tags: section.tags ?? {},
    ports: config.ports ?? [],
    runtime: config.runtime,
    image: section.image,
    region: section.region,
    networkPolicy: section.networkPolicy
  }
  const problem = problemOf(plan)
  return problem === undefined ? Result.succeed(plan) : Result.fail(new InvalidConfig({ issue: problem }))
}
