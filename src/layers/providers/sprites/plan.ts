/**
 * What becomes of a config on Sprites. All of it pure. What the vendor accepts and ignores is refused here: a sandbox that is not
 * what was asked for would only be found out later.
 */
import type * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import { InvalidConfig, UnsupportedCapability } from "../../../errors.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import type { SpritesNetworkPolicy } from "../../../model/SpritesConfig.ts"
import type { CreateRequest } from "../../../services/SandboxProvider.ts"
import { isOurs } from "./labels.ts"

/** What the environment says; absent where a variable is unset. */
export interface Environment {
  readonly deleteOnStop?: boolean | undefined
}

/** One rule of the vendor's network policy. */
export type Rule = { readonly domain: string; readonly action: "allow" | "deny" } | { readonly include: "defaults" }

/** What a sandbox is made with. */
export interface Plan {
  /** Absent: one is made of the sandbox's id; see {@link nameOf}. */
  readonly name: string | undefined
  readonly reuse: boolean
  readonly persistent: boolean
  readonly deleteOnStop: boolean
  /** The lease, which the vendor knows nothing of. */
  readonly timeout: Duration.Duration | undefined
  readonly port: number | undefined
  readonly waitForCapacity: boolean
  readonly auth: "sprite" | "public"
  /** The user's own. */
  readonly labels: ReadonlyArray<string>
  /** Absent leaves the network as the vendor has it: open. */
  readonly rules: ReadonlyArray<Rule> | undefined
}

/** The vendor's limits, as its documentation has them (2026-08), but for `nameLength`: its url is `<name>-<organization>`. */
export const limits = { vcpus: 8, ports: 1, nameLength: 55 } as const

/** What the url of a sprite leads to, unless a service of its has another port. */
export const defaultPort = 8080

/** The name of a sandbox that its user did not name: two machines of one sandbox have two. */
export const nameOf = (request: Pick<CreateRequest, "sandboxId" | "version">): string =>
  `sbx-${request.sandboxId}-${request.version}`

/** True for the name of a sandbox that its user did not name: it says whose it is. */
const isNameOfOurs = (name: string): boolean => /^sbx-[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}-\d+$/.test(name)

/** A part of a host name. */
const isLabel = (name: string): boolean => /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(name)

/** Names that a shell can export, without those that the launcher in the machine keeps for itself. */
const isShellName = (name: string): boolean => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && !/^_([a-zA-Z]\d?)?$/.test(name)

/** The vendor does not say what becomes of a domain that no rule has, so that the last rule is about that. */
const rulesOf = ({ allow, defaults, deny }: SpritesNetworkPolicy): ReadonlyArray<Rule> => {
  const of = (domains: ReadonlyArray<string>, action: "allow" | "deny") =>
    [...new Set(domains)].map((domain): Rule => ({ domain, action }))
  const named = [...of(allow ?? [], "allow"), ...of(deny ?? [], "deny")]
  const closed = allow !== undefined || defaults === true
  const rest: ReadonlyArray<Rule> = [...(allow ?? []), ...(deny ?? [])].includes("*")
    ? []
    : [{ domain: "*", action: closed ? "deny" : "allow" }]
  return [...named, ...(defaults === true ? [{ include: "defaults" } as const] : []), ...rest]
}

/** What is wrong with a config, with the limit that it breaks. */
const problemOf = (config: SandboxConfig): InvalidConfig | UnsupportedCapability | undefined => {
  const { name, labels = [], networkPolicy } = config.sprites ?? {}
  const vcpus = config.resources?.vcpus
  const invalid = (issue: string) => new InvalidConfig({ issue })
  if (vcpus !== undefined && vcpus > limits.vcpus) {
    return invalid(`resources.vcpus: a sprite has ${limits.vcpus}, got ${vcpus}`)
  }
  if (config.runtime !== undefined) {
    return new UnsupportedCapability({
      capability: "runtime",
      detail: "every sprite is made of the same image, which has Node, Python, Go and more"
    })
  }
  const ports = new Set(config.ports)
  if (ports.size > limits.ports) {
    return new UnsupportedCapability({
      capability: "ports",
      detail: `a sprite has one url, and that leads to one port; got ${[...ports].join(", ")}`
    })
  }
  if (name !== undefined && (!isLabel(name) || name.length > limits.nameLength)) {
    return invalid(
      `sprites.name: expected up to ${limits.nameLength} of a-z, 0-9 and -, with no - at an end: it is a part of a host name`
    )
  }
  if (name !== undefined && isNameOfOurs(name)) {
    return invalid(`sprites.name: ${name} looks like the name of a sandbox that has none of its user's`)
  }
  const odd = Object.keys(config.env ?? {}).find((one) => !isShellName(one))
  if (odd !== undefined) return invalid(`env.${odd}: a sprite's own environment has names that a shell can export`)
  const reserved = labels.find(isOurs)
  if (reserved !== undefined) return invalid(`sprites.labels: ${reserved} looks like a label of this library`)
  const both = networkPolicy?.allow?.find((domain) => networkPolicy.deny?.includes(domain))
  if (both !== undefined) return invalid(`sprites.networkPolicy: ${both} is allowed and denied`)
  return undefined
}

/** The plan of a config, or why there is none. */
export const planOf = (
  config: SandboxConfig,
  environment: Environment
): Result.Result<Plan, InvalidConfig | UnsupportedCapability> => {
  const problem = problemOf(config)
  if (problem !== undefined) return Result.fail(problem)
  const section = config.sprites ?? {}
  const deleteOnStop =
    section.deleteOnStop ??
    config.deleteOnStop ??
    // A disk that somebody wants to persist is not deleted because others are.
    (config.persistent === true ? false : (environment.deleteOnStop ?? true))
  const persistent = config.persistent ?? !deleteOnStop
  return Result.succeed({
    name: section.name,
    reuse: section.reuse ?? (persistent && section.name !== undefined),
    persistent,
    deleteOnStop,
    timeout: config.timeout,
    port: config.ports?.[0],
    waitForCapacity: section.waitForCapacity ?? true,
    auth: section.urlSettings?.auth ?? "sprite",
    labels: [...new Set(section.labels)],
    rules: section.networkPolicy === undefined ? undefined : rulesOf(section.networkPolicy)
  })
}
