/**
 * Effect's `PlatformError`, with which files and program starts fail, as it crosses queues, RPC and workflows. Of a cause its name
 * and message go along.
 */
import * as Platform from "effect/PlatformError"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"

const where = {
  module: Schema.String,
  method: Schema.String,
  description: Schema.optional(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}

const BadArgument = Schema.Struct({ _tag: Schema.Literal("BadArgument"), ...where })

const SystemError = Schema.Struct({
  _tag: Schema.Literals([
    "AlreadyExists",
    "BadResource",
    "Busy",
    "InvalidData",
    "NotFound",
    "PermissionDenied",
    "TimedOut",
    "UnexpectedEof",
    "Unknown",
    "WouldBlock",
    "WriteZero"
  ]),
  ...where,
  syscall: Schema.optional(Schema.String),
  pathOrDescriptor: Schema.optional(Schema.Union([Schema.String, Schema.Finite]))
})

/** The form on the wire. */
export const Encoded = Schema.Struct({
  _tag: Schema.Literal("PlatformError"),
  reason: Schema.Union([BadArgument, SystemError])
})
type Fields = typeof Encoded.Type

const encode = ({ reason }: Platform.PlatformError): Fields => {
  const { description, method, module } = reason
  const base = { module, method, description, ...("cause" in reason ? { cause: reason.cause } : {}) }
  return {
    _tag: "PlatformError",
    reason:
      reason._tag === "BadArgument"
        ? { ...base, _tag: reason._tag }
        : { ...base, _tag: reason._tag, syscall: reason.syscall, pathOrDescriptor: reason.pathOrDescriptor }
  }
}

const decode = ({ reason }: Fields): Platform.PlatformError =>
  reason._tag === "BadArgument" ? Platform.badArgument(reason) : Platform.systemError(reason)

/** The codec. What is decoded is Effect's own class, with its reason: `Effect.catchReason("PlatformError", …)` takes it. */
export const PlatformError = Encoded.pipe(
  Schema.decodeTo(
    Schema.declare(Platform.isPlatformError, { identifier: "PlatformError" }),
    SchemaTransformation.transform({ decode, encode })
  )
)
