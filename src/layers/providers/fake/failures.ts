/** Where this provider's failures become typed errors. */
import * as Effect from "effect/Effect"
import * as PlatformError from "effect/PlatformError"
import * as Predicate from "effect/Predicate"
import type { SandboxErrorReason } from "../../../errors.ts"
import { SandboxError } from "../../../errors.ts"

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

/** The `PlatformError` that Effect's Node layers give for this code. */
export const platformError = (
  module: "ChildProcess" | "FileSystem",
  method: string,
  pathOrDescriptor: string,
  cause: unknown
): PlatformError.PlatformError =>
  PlatformError.systemError({
    _tag: (Predicate.hasProperty(cause, "code") ? tags[String(cause.code)] : undefined) ?? "Unknown",
    module,
    method,
    pathOrDescriptor,
    ...(Predicate.hasProperty(cause, "syscall") && Predicate.isString(cause.syscall) ? { syscall: cause.syscall } : {}),
    cause
  })

/** The failure of a start, for the codes that `spawn` of Node gives. */
export const startFailure = (code: string, program: string): PlatformError.PlatformError =>
  platformError("ChildProcess", "spawn", program, Object.assign(new Error(`spawn ${program} ${code}`), { code }))

export const badArgument = (
  module: "ChildProcess" | "FileSystem",
  method: string,
  description: string
): PlatformError.PlatformError => PlatformError.badArgument({ module, method, description })

/** Fails with a reason of ours. */
export const failWith = (operation: string, reason: SandboxErrorReason, sandboxId?: string): SandboxError =>
  new SandboxError({
    operation: `fake.${operation}`,
    provider: "fake",
    ...(sandboxId === undefined ? {} : { sandboxId }),
    reason
  })

/** A failure of the machine itself, where only a `PlatformError` may come out. */
export const asPlatform = (method: string, error: PlatformError.PlatformError | SandboxError) =>
  error._tag === "PlatformError"
    ? error
    : PlatformError.systemError({
        _tag: "Unknown",
        module: "FileSystem",
        method,
        description: error.message,
        cause: error
      })

/** One operation on files, at the time that the fiber's Clock tells. */
export const onFiles = <A>(
  method: string,
  path: string,
  evaluate: (now: number) => A
): Effect.Effect<A, PlatformError.PlatformError> =>
  path.includes("\0")
    ? Effect.fail(badArgument("FileSystem", method, "The path contains a NUL character"))
    : Effect.clockWith((clock) =>
        Effect.try({
          try: () => evaluate(clock.currentTimeMillisUnsafe()),
          catch: (cause) => platformError("FileSystem", method, path, cause)
        })
      )
