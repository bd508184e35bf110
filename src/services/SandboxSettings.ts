/**
 * Settings, read through Effect's `Config`. A value is trimmed and a blank one is unset; a malformed one is a
 * `MissingSetting` that names the setting, and never echoes the value of a secret.
 */
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { MissingSetting, SandboxError } from "../errors.ts"

/** One setting: what the README's table says, and how its text becomes a value. */
export interface Setting<A> {
  readonly name: string
  /** Further names that are looked up, in order, when the first is unset. */
  readonly aliases?: ReadonlyArray<string> | undefined
  readonly description: string
  /** The default as the README shows it; "none" when there is none. */
  readonly fallback: string
  readonly secret?: boolean | undefined
  /** What the text must be, for the error. */
  readonly expected: string
  readonly parse: (text: string) => Option.Option<A>
}

type Describe = Omit<Setting<never>, "parse" | "expected">

/** Any text. */
export const text = (self: Describe): Setting<string> => ({ ...self, expected: "text", parse: Option.some })

/** A secret: the value is `Redacted` from here on. */
export const secret = (self: Describe): Setting<Redacted.Redacted<string>> => ({
  ...self,
  secret: true,
  expected: "text",
  parse: (value) => Option.some(Redacted.make(value, { label: self.name }))
})

/** One of these words, in any case. */
export const choice = <const A extends string>(values: ReadonlyArray<A>, self: Describe): Setting<A> => ({
  ...self,
  expected: `one of ${values.join(", ")}`,
  parse: (value) => Option.fromUndefinedOr(values.find((candidate) => candidate === value.toLowerCase()))
})

/** A boolean in any case: `true false yes no on off 1 0 y n`. */
export const boolean = (self: Describe): Setting<boolean> => ({
  ...self,
  expected: "true or false",
  parse: (value) => {
    const lower = value.toLowerCase()
    if (["true", "yes", "on", "1", "y"].includes(lower)) return Option.some(true)
    return ["false", "no", "off", "0", "n"].includes(lower) ? Option.some(false) : Option.none()
  }
})

/** A whole number within these bounds. */
export const integer = (bounds: { readonly min: number; readonly max: number }, self: Describe): Setting<number> => ({
  ...self,
  expected: `a whole number from ${bounds.min} to ${bounds.max}`,
  parse: (value) => {
    const number = /^[+-]?\d+$/.test(value) ? Number(value) : NaN
    return number >= bounds.min && number <= bounds.max ? Option.some(number) : Option.none()
  }
})

/** A duration above zero: `30 seconds`, or a plain number of milliseconds. */
export const duration = (self: Describe): Setting<Duration.Duration> => ({
  ...self,
  expected: "a duration above zero, such as 30 seconds or 30000 (ms)",
  parse: (value) =>
    (/^\d+$/.test(value)
      ? Option.some(Duration.millis(Number(value)))
      : // `fromInput` answers none for text that is no duration.
        Duration.fromInput(value as Duration.Input)
    ).pipe(
      Option.filter(
        (parsed) =>
          Duration.isFinite(parsed) &&
          Duration.isGreaterThan(parsed, Duration.zero) &&
          Duration.isLessThanOrEqualTo(parsed, Duration.days(366))
      )
    )
})

/** The value of a setting, none when it is unset or blank. */
export const get = <A>(setting: Setting<A>): Effect.Effect<Option.Option<A>, SandboxError> =>
  Effect.gen(function* () {
    for (const name of [setting.name, ...(setting.aliases ?? [])]) {
      const found = yield* Config.option(Config.String(name)).pipe(
        Effect.mapError(() => malformed(name, "cannot be read"))
      )
      const value = Option.getOrElse(found, () => "").trim()
      if (value === "") continue
      const parsed = setting.parse(value)
      if (Option.isNone(parsed)) {
        return yield* malformed(
          name,
          `expected ${setting.expected}${setting.secret === true ? "" : `, got ${JSON.stringify(value.slice(0, 80))}`}`
        )
      }
      return parsed
    }
    return Option.none()
  })

/** The value of a setting that must be there. */
export const required = <A>(setting: Setting<A>): Effect.Effect<A, SandboxError> =>
  Effect.flatMap(get(setting), (value) =>
    Option.isSome(value) ? Effect.succeed(value.value) : Effect.fail(malformed(setting.name, undefined))
  )

const malformed = (name: string, detail: string | undefined): SandboxError =>
  new SandboxError({
    operation: "SandboxSettings",
    reason: new MissingSetting({ names: [name], ...(detail === undefined ? {} : { detail }) })
  })

/** `SANDBOX_PROVIDER`. */
export const provider = text({
  name: "SANDBOX_PROVIDER",
  fallback: "none",
  description: "The provider's registered name, when the config does not say one"
})

/** `SANDBOX_STORE`. */
export const store = choice(["sqlite", "memory", "instantdb", "postgres"], {
  name: "SANDBOX_STORE",
  fallback: "sqlite",
  description: "The record store of `Embedded.layerConfig`: `sqlite`, `memory`, `instantdb` or `postgres`"
})

/** `SANDBOX_SQLITE_FILE`. */
export const sqliteFile = text({
  name: "SANDBOX_SQLITE_FILE",
  fallback: "`.effect-sandbox/sandboxes.sqlite`",
  description: "The database file of the SQLite store"
})

/** `SANDBOX_LOCAL_ROOT`. */
export const localRoot = text({
  name: "SANDBOX_LOCAL_ROOT",
  fallback: "`.effect-sandbox/local`",
  description: "The directory that the local provider keeps its sandboxes in"
})

/** `SANDBOX_NAMESPACE`. */
export const namespace = text({
  name: "SANDBOX_NAMESPACE",
  fallback: "an id kept in the store",
  description: "Keeps the machines of one deployment apart from another's; set it before the first sandbox is made"
})

/** `SANDBOX_MAX_OUTPUT_BYTES`. */
export const maxOutputBytes = integer(
  { min: 0, max: 1 << 30 },
  {
    name: "SANDBOX_MAX_OUTPUT_BYTES",
    fallback: "262144",
    description: "How many bytes of each stream a `CommandResult` keeps (first and last half)"
  }
)

/** `SANDBOX_COMMAND_TIMEOUT`. */
export const commandTimeout = duration({
  name: "SANDBOX_COMMAND_TIMEOUT",
  fallback: "none",
  description: "The deadline of a command that gives none"
})

/** `SANDBOX_REQUEST_TIMEOUT`. */
export const requestTimeout = duration({
  name: "SANDBOX_REQUEST_TIMEOUT",
  fallback: "30 seconds",
  description: "The deadline of one call to a vendor or a store"
})

/** `SANDBOX_IDLE_TTL`. */
export const idleTtl = duration({
  name: "SANDBOX_IDLE_TTL",
  fallback: "5 minutes",
  description: "How long a connected machine that nobody uses stays in the cache"
})

/** Every setting of the core, in the order of the README's table. */
export const all: ReadonlyArray<Setting<unknown>> = [
  provider,
  store,
  sqliteFile,
  localRoot,
  namespace,
  maxOutputBytes,
  commandTimeout,
  requestTimeout,
  idleTtl
]

/** What `SandboxService.layer` reads when it is built. */
export interface ServiceSettings {
  readonly provider: Option.Option<string>
  readonly maxOutputBytes: number
  readonly commandTimeout: Option.Option<Duration.Duration>
  readonly requestTimeout: Duration.Duration
  readonly idleTtl: Duration.Duration
}

/** Reads {@link ServiceSettings} with their defaults. */
export const serviceSettings: Effect.Effect<ServiceSettings, SandboxError> = Effect.gen(function* () {
  return {
    provider: yield* get(provider),
    maxOutputBytes: Option.getOrElse(yield* get(maxOutputBytes), () => 262_144),
    commandTimeout: yield* get(commandTimeout),
    requestTimeout: Option.getOrElse(yield* get(requestTimeout), () => Duration.seconds(30)),
    idleTtl: Option.getOrElse(yield* get(idleTtl), () => Duration.minutes(5))
  }
})
