/** How long a signalled process group may take before the rest of it is killed: checked once, for every provider. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { SandboxError } from "../../errors.ts"
import * as errors from "../../errors.ts"
import { InvalidArgument } from "../../errors.ts"

/** The longest wait that is still meant as one: what a timer of the system can hold, 24 days. */
const longestWait = 2 ** 31 - 1

/** Effect reads what is not a number, and an object without a unit, as zero: nobody means that. */
const isZeroByMistake = (input: Duration.Input): boolean => {
  if (Duration.isDuration(input) || (typeof input !== "number" && typeof input !== "object")) return false
  const parts: ReadonlyArray<unknown> = typeof input === "number" ? [input] : Object.values(input)
  return parts.length === 0 || parts.some((part) => part !== undefined && part !== 0)
}

/** The wait as a `Duration`, or `InvalidArgument`. */
export const checked = (provider: string, input: Duration.Input): Effect.Effect<Duration.Duration, SandboxError> => {
  // A caller without types may pass null, of which Effect knows nothing.
  const duration = input === null ? Option.none<Duration.Duration>() : Duration.fromInput(input)
  const millis = Option.map(duration, Duration.toMillis)
  return Option.isSome(duration) &&
    Option.isSome(millis) &&
    millis.value >= 0 &&
    millis.value <= longestWait &&
    !(millis.value === 0 && isZeroByMistake(input))
    ? Effect.succeed(duration.value)
    : Effect.fail(
        errors.fail(
          `${provider}.signal`,
          new InvalidArgument({ argument: "forceAfter", problem: "it is not a duration between zero and 24 days" }),
          { provider }
        )
      )
}
