/** What the server of InstantDB says when it does not answer a query, as our reasons. */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SandboxErrorReason } from "../../errors.ts"
import { Authentication, InvalidArgument, Permission, RateLimited, Unavailable, Unknown } from "../../errors.ts"

const Refusal = Schema.fromJsonString(
  Schema.Struct({
    type: Schema.optionalKey(Schema.String),
    message: Schema.optionalKey(Schema.String),
    hint: Schema.optionalKey(Schema.Json)
  })
)
const decodeRefusal = Schema.decodeUnknownOption(Refusal)
const decodeHint = Schema.decodeUnknownOption(
  Schema.Struct({ "record-type": Schema.optionalKey(Schema.String), "retry-after": Schema.optionalKey(Schema.Finite) })
)

/** What an answer other than 200 says. Its hint is not passed on: it repeats what was sent. */
export const refused = (status: number, body: string): SandboxErrorReason => {
  const { hint, message = "", type = "" } = Option.getOrElse(decodeRefusal(body), (): typeof Refusal.Type => ({}))
  const told = Option.getOrUndefined(decodeHint(hint))
  const head = `HTTP ${status}${type === "" ? "" : ` ${type}`}`
  const detail = message === "" ? head : `${head}: ${message}`
  if (status === 429) {
    const seconds = told?.["retry-after"]
    return new RateLimited({ detail, ...(seconds === undefined ? {} : { retryAfter: Duration.seconds(seconds) }) })
  }
  // Cloud and proxies alike.
  if (status >= 500) return new Unavailable({ accepted: "unknown", detail })
  if (status === 401 || (type === "record-not-found" && told?.["record-type"]?.startsWith("app-") === true)) {
    // Not its message either, which may repeat the token.
    return new Authentication({ detail: head })
  }
  if (status === 403 || type.startsWith("permission-")) return new Permission({ detail })
  if (type === "validation-failed" || type.startsWith("param-")) {
    return new InvalidArgument({ argument: "query", problem: detail })
  }
  return new Unknown({ detail })
}
