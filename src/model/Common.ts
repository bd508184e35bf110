/** Small schemas that several models share. */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"

/** Milliseconds since the epoch. */
export const Millis = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))

/** A count, an offset or a version: a safe integer from 0. */
export const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** A TCP port. */
export const Port = Schema.Int.check(
  Schema.isBetween({ minimum: 1, maximum: 65535 }, { expected: "a port from 1 to 65535" })
)

/** Text without NUL, which no argument, path or environment value can carry. */
export const NoNul = Schema.String.check(
  // eslint-disable-next-line no-control-regex -- NUL is what must not be there
  Schema.isPattern(/^[^\0]*$/, { expected: "text without NUL" })
)

const maxDuration = Duration.days(366)

/** The forms that a duration can have, for whoever has used another one. */
const durationForms = 'such as "20 minutes" or a number of milliseconds'

/** What a deadline or a lease must be. */
export const expectedDuration = `expected a duration above zero and of at most 366 days, ${durationForms}`

/** `Redacted` text without NUL. */
export const RedactedText = Schema.declare(
  (u): u is Redacted.Redacted<string> => {
    if (!Redacted.isRedacted(u)) return false
    const value = Redacted.value(u)
    return Predicate.isString(value) && !value.includes("\0")
  },
  // Only ever the alternative to plain text, and the one of the two that a wrong value is reported for.
  { expected: "text without NUL, or Redacted text" }
)

const isSane = Schema.makeFilter<Duration.Duration>((duration) =>
  Duration.isFinite(duration) &&
  Duration.isGreaterThan(duration, Duration.zero) &&
  Duration.isLessThanOrEqualTo(duration, maxDuration)
    ? undefined
    : expectedDuration
)

const isSaneOrZero = Schema.makeFilter<Duration.Duration>((duration) =>
  Duration.isZero(duration) ||
  (Duration.isGreaterThan(duration, Duration.zero) && Duration.isLessThanOrEqualTo(duration, maxDuration))
    ? undefined
    : `expected a duration of at most 366 days, or zero, ${durationForms}`
)

const fromInput = Schema.Unknown.check(
  Schema.makeFilter((input) =>
    // The input is unknown by nature here; `fromInput` answers none for what is no duration.
    Option.isSome(Duration.fromInput(input as Duration.Input)) ? undefined : `expected a duration, ${durationForms}`
  )
)

const toDuration = SchemaTransformation.transform({
  // Checked above.
  decode: (input: unknown) => Duration.fromInputUnsafe(input as Duration.Input),
  encode: (duration: Duration.Duration): unknown => Duration.toMillis(duration)
})

/**
 * A duration above zero and of at most 366 days. Decodes any `Duration.Input` (`"5 minutes"`, `Duration`, ms), encodes to
 * milliseconds.
 */
export const SaneDuration = fromInput.pipe(Schema.decodeTo(Schema.Duration.check(isSane), toDuration))

/** The same, or zero. */
export const SaneDurationOrZero = fromInput.pipe(Schema.decodeTo(Schema.Duration.check(isSaneOrZero), toDuration))

/** A JSON object. */
export const JsonObject = Schema.Record(Schema.String, Schema.Json)
export type JsonObject = typeof JsonObject.Type

const noSuchField = "there is no such field"

const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: (issue) => (issue._tag === "UnexpectedKey" ? noSuchField : SchemaIssue.defaultLeafHook(issue))
})

/** `vercel.networkPolicy.allow[0]`; what is no plain name is quoted. */
const pathText = (path: ReadonlyArray<PropertyKey>): string =>
  path.reduce<string>((text, key) => {
    if (typeof key === "number") return `${text}[${key}]`
    const name = String(key)
    return /^[\w$-]+$/.test(name) ? `${text}${text === "" ? "" : "."}${name}` : `${text}[${JSON.stringify(name)}]`
  }, "")

/** One line, for a message: what is wrong with which field. Of the alternatives that a value could have been, those that it came closest to. */
export const issueText = (issue: SchemaIssue.Issue): string => {
  const all = issuesOf(issue).issues.map(({ message, path = [] }) => ({
    path: path.map((part) => (typeof part === "object" ? part.key : part)),
    problem: message.replace(/^Expected /, "expected ")
  }))
  const depth = Math.max(...all.map(({ path }) => path.length))
  const closest = all.filter(({ path }) => path.length === depth)
  const known = closest.filter(({ problem }) => problem !== noSuchField)
  const texts = (known.length === 0 ? closest : known).map(({ path, problem }) =>
    depth === 0 ? problem : `${pathText(path)}: ${problem}`
  )
  return [...new Set(texts)].join("; ")
}
/** Where a record had a secret: `SandboxSecrets` supplies its value under this name. */
export const SecretName = Schema.Struct({ secret: Schema.String })
export type SecretName = typeof SecretName.Type
