/** The reasons that Effect's Node layers give for the error codes of a system. */
import * as PlatformError from "effect/PlatformError"
import * as Predicate from "effect/Predicate"

const tags: Record<string, PlatformError.SystemErrorTag> = {
  ENOENT: "NotFound",
  EACCES: "PermissionDenied",
  EPERM: "PermissionDenied",
  EEXIST: "AlreadyExists",
  EISDIR: "BadResource",
  ENOTDIR: "BadResource",
  EBUSY: "Busy",
  ELOOP: "BadResource"
}

/** The code of a system error, such as `ENOENT`. */
export const codeOf = (error: unknown): string | undefined =>
  Predicate.hasProperty(error, "code") && Predicate.isString(error.code) ? error.code : undefined

/** The `PlatformError` that Effect's Node layers give for an error with this code. */
export const platformError = (
  module: "ChildProcess" | "FileSystem",
  method: string,
  pathOrDescriptor: string,
  cause: unknown
): PlatformError.PlatformError =>
  PlatformError.systemError({
    _tag: tags[codeOf(cause) ?? ""] ?? "Unknown",
    module,
    method,
    pathOrDescriptor,
    ...(Predicate.hasProperty(cause, "syscall") && Predicate.isString(cause.syscall) ? { syscall: cause.syscall } : {}),
    cause
  })
