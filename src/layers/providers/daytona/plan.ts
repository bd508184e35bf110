/**
 * What becomes of a config on Daytona. All of it pure.
 *
 * For each field the section `daytona` of the config comes first, then the config's own field of that meaning, then the
 * environment.
 */
import * as Duration from "effect/Duration"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { InvalidConfig } from "../../../errors.ts"
import type { DeclarativeImage, VolumeMount } from "../../../model/DaytonaConfig.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"

/** What the vendor's `codeRun` runs. */
export type Language = "python" | "typescript" | "javascript"

/** What the environment says; absent where a variable is unset. */
export interface Environment {
  readonly ephemeral?: boolean | undefined
  readonly deleteOnStop?: boolean | undefined
}

/** What a sandbox is made with; intervals are the vendor's whole minutes. */
export interface Plan {
  readonly language: Language | undefined
  readonly snapshot: string | undefined
  readonly image: string | DeclarativeImage | undefined
  readonly vcpus: number | undefined
  readonly env: Readonly<Record<string, string | Redacted.Redacted<string>>>
  readonly labels: Readonly<Record<string, string>>
  readonly ports: ReadonlyArray<number>
  readonly public: boolean | undefined
  readonly persistent: boolean
  readonly deleteOnStop: boolean
  readonly user: string | undefined
  readonly volumes: ReadonlyArray<VolumeMount>
  readonly timeout: Duration.Duration | undefined
  /** Absent: there is no lease. */
  readonly ttlMinutes: number | undefined
  /** Absent leaves it to the vendor, which means 15. */
  readonly autoStopMinutes: number | undefined
  readonly autoArchiveMinutes: number | undefined
  readonly autoDeleteMinutes: number | undefined
  readonly runtime: string | undefined
}

/** The labels by which a machine is found again, and what it must know of itself. */
export const labelNames = {
  sandbox: "sandbox-id",
  namespace: "sandbox-namespace",
  /** Which boot of it this is. */
  boot: "sandbox-boot",
  /** The ports of its config. */
  ports: "sandbox-ports",
  /** The vendor's own: what its `codeRun` runs. */
  language: "code-toolbox-language"
} as const

export const limits = {
  /** Every port can be reached; these are told by a label. */
  ports: 64
} as const

/** Where nothing can be mounted. */
const systemPaths = ["/proc", "/sys", "/dev", "/boot", "/etc", "/bin", "/sbin", "/lib", "/lib64"]

const languageOf = (runtime: string | undefined): Language | undefined => {
  if (runtime === undefined) return undefined
  if (runtime.startsWith("python")) return "python"
  if (runtime.startsWith("node")) return "javascript"
  return runtime.startsWith("ts") || runtime.startsWith("typescript") ? "typescript" : undefined
}

/** The image that stands for a runtime: where resources are asked for, a snapshot would bring its own. */
const imageOf = (runtime: string | undefined): string => {
  const version = /\d+(\.\d+)*/.exec(runtime ?? "")?.[0]
  switch (languageOf(runtime)) {
    case "python":
      return `python:${version ?? "3"}-slim`
    case "javascript":
      return `node:${version ?? "lts"}-slim`
    case "typescript":
      return "node:lts-slim"
    default:
      return "debian:stable-slim"
  }
}

const minutes = (duration: Duration.Duration): number => Math.ceil(Duration.toMinutes(duration))

const optionalMinutes = (duration: Duration.Duration | undefined): number | undefined =>
  duration === undefined ? undefined : minutes(duration)

/** What is wrong with where a volume goes. */
const problemOfMount = (mount: VolumeMount, index: number): string | undefined => {
  const place = `daytona.volumes[${index}]`
  const { mountPath, subpath } = mount
  if ((mount.volumeId === undefined) === (mount.volumeName === undefined)) {
    return `${place}: either volumeId or volumeName`
  }
  if ((mount.volumeId ?? mount.volumeName) === "") return `${place}: the volume's name is empty`
  const parts = mountPath.split("/")
  if (!mountPath.startsWith("/") || mountPath === "/" || mountPath.includes("//") || parts.includes("..")) {
    return `${place}.mountPath: expected an absolute path below / without .. and //`
  }
  const system = systemPaths.find((path) => mountPath === path || mountPath.startsWith(`${path}/`))
  if (system !== undefined) return `${place}.mountPath: not below ${system}`
  if (
    subpath !== undefined &&
    (subpath === "" || subpath.startsWith("/") || subpath.includes("//") || subpath.split("/").includes(".."))
  ) {
    return `${place}.subpath: expected a relative path without .. and //`
  }
  return undefined
}

const problemOfImage = (image: string | DeclarativeImage | undefined): string | undefined => {
  if (typeof image !== "object") return image === "" ? "daytona.image: it is empty" : undefined
  if (image.base !== undefined && image.pythonVersion !== undefined) {
    return "daytona.image: base and pythonVersion are two bases"
  }
  // It becomes a line of a Dockerfile.
  return [image.base, image.workdir, ...(image.pipInstall ?? [])].some((text) => /[\r\n]/.test(text ?? ""))
    ? "daytona.image: a line break"
    : undefined
}

/** What is wrong with what was asked for, with the limit that it breaks. */
const problemOf = (config: SandboxConfig, plan: Plan): string | undefined => {
  const section = config.daytona ?? {}
  if (section.snapshot !== undefined && section.image !== undefined) return "daytona.snapshot: not together with image"
  if (section.snapshot !== undefined && config.resources?.vcpus !== undefined) {
    return "resources.vcpus: a snapshot brings its own; not together with daytona.snapshot"
  }
  if (plan.vcpus !== undefined && !Number.isInteger(plan.vcpus)) {
    return `resources.vcpus: expected a whole number, got ${plan.vcpus}`
  }
  if (section.ephemeral !== undefined && config.persistent !== undefined && section.ephemeral === config.persistent) {
    return "daytona.ephemeral: the opposite of persistent"
  }
  if (!plan.persistent && (optionalMinutes(section.autoDeleteInterval) ?? 0) > 0) {
    return "daytona.autoDeleteInterval: an ephemeral sandbox is deleted at once; it needs persistent: true"
  }
  if (plan.ports.length > limits.ports) return `ports: at most ${limits.ports}, got ${plan.ports.length}`
  for (const reserved of Object.values(labelNames)) {
    if (Object.hasOwn(plan.labels, reserved)) return `daytona.labels: ${reserved} is a label of this library`
  }
  const variable = Object.keys(plan.env).find((name) => !/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
  if (variable !== undefined) return `env: the vendor takes no variable of the name ${JSON.stringify(variable)}`
  return (
    problemOfImage(section.image) ??
    plan.volumes.map(problemOfMount).find((problem) => problem !== undefined) ??
    (new Set(plan.volumes.map(({ mountPath }) => mountPath)).size < plan.volumes.length
      ? "daytona.volumes: two have the same mountPath"
      : undefined)
  )
}

/** The plan of a config, or what is wrong with it. */
export const planOf = (config: SandboxConfig, environment: Environment): Result.Result<Plan, InvalidConfig> => {
  const section = config.daytona ?? {}
  const ephemeral =
    section.ephemeral ??
    (config.persistent === undefined ? undefined : !config.persistent) ??
    environment.ephemeral ??
    true
  const vcpus = config.resources?.vcpus
  const image =
    section.image ?? (vcpus !== undefined && section.snapshot === undefined ? imageOf(config.runtime) : undefined)
  const plan: Plan = {
    language: section.language ?? languageOf(config.runtime),
    snapshot: section.snapshot,
    image,
    vcpus,
    env: { ...config.env, ...section.envVars },
    labels: section.labels ?? {},
    ports: [...new Set(config.ports)],
    public: section.public,
    persistent: !ephemeral,
    // A disk that somebody wants to persist is not deleted because the default deletes those that do not.
    deleteOnStop: config.deleteOnStop ?? environment.deleteOnStop ?? ephemeral,
    user: section.user,
    volumes: section.volumes ?? [],
    timeout: config.timeout,
    ttlMinutes: optionalMinutes(config.timeout),
    // Within its lease it is not idleness that ends it.
    autoStopMinutes: optionalMinutes(section.autoStopInterval) ?? (config.timeout === undefined ? undefined : 0),
    autoArchiveMinutes: optionalMinutes(section.autoArchiveInterval),
    autoDeleteMinutes: ephemeral ? 0 : optionalMinutes(section.autoDeleteInterval),
    runtime: config.runtime
  }
  const problem = problemOf(config, plan)
  return problem === undefined ? Result.succeed(plan) : Result.fail(new InvalidConfig({ issue: problem }))
}
