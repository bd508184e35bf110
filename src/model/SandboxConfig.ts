/**
 * What a user asks for. Untrusted: decode it with {@link decode}, which refuses unknown fields and names the new field for
 * one that `@ekairos/sandbox` called otherwise.
 */
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { InvalidConfig } from "../errors.ts"
import { issueText, JsonObject, NoNul, Port, RedactedText, SaneDuration } from "./Common.ts"
import * as Daytona from "./DaytonaConfig.ts"
import { RecordedSkills, Skill } from "./Skill.ts"
import { SpritesConfig } from "./SpritesConfig.ts"
import * as Vercel from "./VercelConfig.ts"

/** What happens when the machine of an `active` sandbox is gone or does not run. */
export const Recovery = Schema.Literals(["recreate", "resume", "restore", "none"])
export type Recovery = typeof Recovery.Type

/** Environment of every command: plain text, or `Redacted` text, whose value is never stored. */
export const Env = Schema.Record(
  Schema.String,
  Schema.Union([NoNul, RedactedText]).annotate({ expected: "text without NUL, or Redacted text" })
).check(
  Schema.makeFilter((env) =>
    Object.keys(env).every((name) => /^[^=\0]+$/.test(name)) ? undefined : "a name is empty or contains = or NUL"
  )
)
export type Env = typeof Env.Type

/**
 * The section of the local provider. `isolation: "none"` is no security boundary. `network: "none"` and `readOnlyPaths` need
 * `bubblewrap`.
 */
export const LocalConfig = Schema.Struct({
  isolation: Schema.optionalKey(Schema.Literals(["none", "bubblewrap", "auto"])),
  network: Schema.optionalKey(Schema.Literals(["host", "none"])),
  readOnlyPaths: Schema.optionalKey(Schema.Array(NoNul))
})

const shared = {
  /** The registered name of the provider; see `ProviderRegistry`. */
  provider: Schema.optionalKey(Schema.String),
  /** A vendor's runtime, such as `node24`; the local provider runs what the host has. */
  runtime: Schema.optionalKey(Schema.String),
  /** The lease: how long the machine may live from its creation or boot. */
  timeout: Schema.optionalKey(SaneDuration),
  /** The ports that can be reached from outside; `getPortUrl` knows no others. */
  ports: Schema.optionalKey(Schema.Array(Port)),
  resources: Schema.optionalKey(
    Schema.Struct({ vcpus: Schema.optionalKey(Schema.Finite.check(Schema.isGreaterThan(0))) })
  ),
  purpose: Schema.optionalKey(Schema.String),
  /** Free data of the user's, kept in the record. */
  params: Schema.optionalKey(JsonObject),
  /** Whether the disk outlives a stop. The default is the provider's. */
  persistent: Schema.optionalKey(Schema.Boolean),
  /** Whether stopping deletes the machine. The default is the opposite of `persistent`. */
  deleteOnStop: Schema.optionalKey(Schema.Boolean),
  recovery: Schema.optionalKey(Recovery),
  local: Schema.optionalKey(LocalConfig),
  sprites: Schema.optionalKey(SpritesConfig),
  /** Options of third parties' providers, by registered name; each provider decodes its own. */
  providerOptions: Schema.optionalKey(Schema.Record(Schema.String, Schema.Json))
}

/** The config of a sandbox, decoded: durations are `Duration`s, secrets `Redacted`. */
export const SandboxConfig = Schema.Struct({
  ...shared,
  env: Schema.optionalKey(Env),
  /**
   * Skill packages that are in the skills folder of Codex before anybody gets the sandbox, also one that was made anew. The record keeps
   * them, so that they are bounded: 1 MiB of base64 in all.
   */
  skills: Schema.optionalKey(RecordedSkills),
  vercel: Schema.optionalKey(Vercel.VercelConfig),
  daytona: Schema.optionalKey(Daytona.DaytonaConfig)
})
export type SandboxConfig = typeof SandboxConfig.Type

/** The same fields, where `undefined` is as good as none. */
type Loose<A> = { readonly [K in keyof A]: A[K] | undefined }

/** The config as a user writes it: durations in any form that `Duration.Input` has, and `undefined` for what is not said. */
export type SandboxConfigInput = Loose<
  Omit<SandboxConfig, "timeout" | "env" | "resources" | "local" | "vercel" | "daytona" | "sprites"> & {
    readonly timeout?: Duration.Input
    readonly env?: Loose<Env>
    readonly resources?: Loose<NonNullable<SandboxConfig["resources"]>>
    readonly local?: Loose<NonNullable<SandboxConfig["local"]>>
    readonly sprites?: Loose<SpritesConfig>
    readonly vercel?: Loose<
      Omit<Vercel.VercelConfig, "timeout" | "snapshotExpiration"> & {
        readonly timeout?: Duration.Input
        readonly snapshotExpiration?: Duration.Input
      }
    >
    readonly daytona?: Loose<
      Omit<Daytona.DaytonaConfig, DaytonaDurations> & { readonly [K in DaytonaDurations]?: Duration.Input }
    >
  }
>

type DaytonaDurations = "autoStopInterval" | "autoArchiveInterval" | "autoDeleteInterval"

/**
 * The config as a record keeps it, and what recreate uses: durations in ms, and of a redacted variable only its name
 * (`secretEnv`), for which `SandboxSecrets` supplies the value.
 */
export const StoredConfig = Schema.Struct({
  ...shared,
  env: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  skills: Schema.optionalKey(Schema.Array(Skill)),
  secretEnv: Schema.optionalKey(Schema.Array(Schema.String)),
  vercel: Schema.optionalKey(Vercel.StoredVercelConfig),
  daytona: Schema.optionalKey(Daytona.StoredDaytonaConfig)
})
export type StoredConfig = typeof StoredConfig.Type

/** Fields of `@ekairos/sandbox` that have another name here: the old name, at any place, and the new one. */
export const renamedFields: Readonly<Record<string, string>> = {
  timeoutMs: "timeout",
  snapshotExpirationMs: "snapshotExpiration",
  autoStopIntervalMin: "autoStopInterval",
  autoArchiveIntervalMin: "autoArchiveInterval",
  autoDeleteIntervalMin: "autoDeleteInterval"
}

const findRenamed = (input: unknown, path: ReadonlyArray<string>): string | undefined => {
  // `params` and third parties' options are the user's own: any name is fine there.
  if (!Predicate.isObject(input) || Redacted.isRedacted(input)) return undefined
  if (path.length === 1 && ["params", "providerOptions", "env"].includes(path[0] ?? "")) return undefined
  for (const [key, value] of Object.entries(input)) {
    const to = Object.hasOwn(renamedFields, key) ? renamedFields[key] : undefined
    if (to !== undefined) return `${[...path, key].join(".")} is called ${[...path, to].join(".")} here`
    const nested = path.length < 2 ? findRenamed(value, [...path, key]) : undefined
    if (nested !== undefined) return nested
  }
  return undefined
}

/** The sections whose own fields may be `undefined` too. What is the user's or a third party's data stays as it is. */
const sections: ReadonlySet<string> = new Set<keyof SandboxConfigInput>([
  "env",
  "resources",
  "local",
  "vercel",
  "daytona",
  "sprites"
])

const isSection = (input: unknown): input is object =>
  Predicate.isObject(input) && !Array.isArray(input) && !Redacted.isRedacted(input)

/** A config without the fields that are `undefined`: nobody has asked for them, and no record should hold them. */
const withoutUndefined = (input: unknown, inSection: boolean): unknown =>
  isSection(input)
    ? Object.fromEntries(
        Object.entries(input)
          .filter(([, value]) => value !== undefined)
          .map(([key, value]) => [key, !inSection && sections.has(key) ? withoutUndefined(value, true) : value])
      )
    : input

const decodeResult = Schema.decodeUnknownResult(SandboxConfig, { onExcessProperty: "error" })

/**
 * Decodes a config. Unknown and renamed fields, durations that are negative, zero or above 366 days, ports out of range
 * and NUL anywhere are `InvalidConfig`, which names the field and echoes no environment value. A field that is `undefined` is absent.
 */
export const decode = (input: unknown): Result.Result<SandboxConfig, InvalidConfig> => {
  const rename = findRenamed(input, [])
  if (rename !== undefined) return Result.fail(new InvalidConfig({ issue: rename }))
  return Result.flatMap(
    Result.mapError(
      decodeResult(withoutUndefined(input, false)),
      (error) => new InvalidConfig({ issue: issueText(error.issue) })
    ),
    (config) => {
      const name = ambiguousSecret(config)
      return name === undefined
        ? Result.succeed(config)
        : Result.fail(new InvalidConfig({ issue: `two secrets with different values have the name ${name}` }))
    }
  )
}

/** The sections that `@ekairos/sandbox` kept in the `params` of a record. */
const originalSections = ["vercel", "daytona", "sprites"] as const

const isOriginalSection = (name: string): boolean => originalSections.some((section) => section === name)

/** Its fields with their new names; intervals were in minutes. */
const fromOriginalSection = (section: object) =>
  Object.fromEntries(
    Object.entries(section)
      .filter(([, value]: readonly [string, unknown]) => value !== null)
      .map(([key, value]: readonly [string, unknown]) => [
        Object.hasOwn(renamedFields, key) ? renamedFields[key] : key,
        key.endsWith("Min") && Predicate.isNumber(value) ? Duration.minutes(value) : value
      ])
  )

const decodeLeniently = Schema.decodeUnknownResult(SandboxConfig)

/**
 * The config of a record that `@ekairos/sandbox` wrote, which kept none: the fields of the record, and the sections in its `params`. A
 * field of theirs that means nothing here is left out; one that does and has no fitting value is `InvalidConfig`.
 */
export const fromOriginal = (fields: {
  readonly [name: string]: unknown
  readonly params?: JsonObject | undefined
}): Result.Result<StoredConfig, InvalidConfig> => {
  const { params = {}, ...others } = fields
  const own = Object.entries(params).filter(([name]) => !isOriginalSection(name))
  const sections = originalSections.flatMap((name) => {
    const section: unknown = params[name]
    return isSection(section) ? [[name, fromOriginalSection(section)] as const] : []
  })
  const input = {
    ...others,
    ...(own.length === 0 ? {} : { params: Object.fromEntries(own) }),
    ...Object.fromEntries(sections)
  }
  return Result.mapBoth(decodeLeniently(withoutUndefined(input, false)), {
    onFailure: (error) => new InvalidConfig({ issue: issueText(error.issue) }),
    onSuccess: toStored
  })
}

/** A name that would stand for two values: a machine that is made anew would get one of them in both places. */
const ambiguousSecret = ({ daytona, env = {}, vercel }: SandboxConfig): string | undefined => {
  const values = new Map<string, string>()
  for (const [name, value] of [
    ...Object.entries(env),
    ...(vercel === undefined ? [] : Vercel.secretsOf(vercel)),
    ...(daytona === undefined ? [] : Daytona.secretsOf(daytona))
  ]) {
    if (!Redacted.isRedacted(value)) continue
    const known = values.get(name)
    if (known !== undefined && known !== Redacted.value(value)) return name
    values.set(name, Redacted.value(value))
  }
  return undefined
}

/** The part of a config that a record may keep: names of secrets instead of their values. */
export const toStored = (config: SandboxConfig): StoredConfig => {
  const { daytona, env, vercel, ...others } = config
  const rest = {
    ...others,
    ...(vercel === undefined ? {} : { vercel: Vercel.toStored(vercel) }),
    ...(daytona === undefined ? {} : { daytona: Daytona.toStored(daytona) })
  }
  if (env === undefined) return rest
  const plain: Record<string, string> = {}
  const secret: Array<string> = []
  for (const [name, value] of Object.entries(env)) {
    if (Redacted.isRedacted(value)) secret.push(name)
    else plain[name] = value
  }
  return {
    ...rest,
    ...(Object.keys(plain).length === 0 ? {} : { env: plain }),
    ...(secret.length === 0 ? {} : { secretEnv: secret.sort() })
  }
}

/** The names of the secrets that a stored config needs. */
export const secretNames = (stored: StoredConfig): ReadonlyArray<string> => [
  ...(stored.secretEnv ?? []),
  ...(stored.vercel === undefined ? [] : Vercel.secretNames(stored.vercel)),
  ...(stored.daytona === undefined ? [] : Daytona.secretNames(stored.daytona))
]

/** The config that recreate uses: the stored one with the values of its secrets. */
export const fromStored = (
  stored: StoredConfig,
  supplied: Readonly<Record<string, Redacted.Redacted<string>>>
): SandboxConfig => {
  // Nothing but these: every other object has a `constructor`, which a secret may be called too.
  const secrets: typeof supplied = Object.assign(Object.create(null), supplied)
  const { daytona, env, secretEnv, vercel, ...others } = stored
  const rest = {
    ...others,
    ...(vercel === undefined ? {} : { vercel: Vercel.fromStored(vercel, secrets) }),
    ...(daytona === undefined ? {} : { daytona: Daytona.fromStored(daytona, secrets) })
  }
  if (env === undefined && secretEnv === undefined) return rest
  const secretOf = (name: string) => (secrets[name] === undefined ? [] : [[name, secrets[name]] as const])
  return { ...rest, env: { ...env, ...Object.fromEntries((secretEnv ?? []).flatMap(secretOf)) } }
}

const encodeStored = Schema.encodeSync(StoredConfig)

/** The top-level fields in which two stored configs differ, for `ConfigMismatch`. */
export const differences = (left: StoredConfig, right: StoredConfig): Array<string> => {
  const a: Record<string, unknown> = { ...encodeStored(left) }
  const b: Record<string, unknown> = { ...encodeStored(right) }
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .filter((key) => canonical(a[key]) !== canonical(b[key]))
    .sort()
}

/** JSON with sorted keys: equal data has equal text. */
export const canonical = (value: unknown): string =>
  JSON.stringify(value, (_key, nested: unknown) =>
    Predicate.isObject(nested) && !Array.isArray(nested)
      ? Object.fromEntries(Object.entries(nested).sort(([x], [y]) => (x < y ? -1 : x > y ? 1 : 0)))
      : nested
  ) ?? "undefined"
