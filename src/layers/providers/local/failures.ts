/** The one place where this system's error codes become typed errors. */
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import type { SandboxErrorReason } from "../../../errors.ts"
import { Permission, Quota, SandboxError, Unknown } from "../../../errors.ts"
import { codeOf, platformError as systemError } from "../../internal/systemCodes.ts"

export { codeOf }

/** Node's complaints about arguments repeat the value, which may be a secret: only their code is kept. */
export const withoutValues = (error: unknown): unknown => {
  const code = codeOf(error)
  return code !== undefined && /^ERR_(INVALID|UNKNOWN|OUT_OF_RANGE|MISSING)/.test(code)
    ? Object.assign(new Error(`${code}, whose message is not kept because it repeats values`), { code })
    : error
}

/** The `PlatformError` that Effect's Node layers give for this code. */
export const platformError = (
  module: "ChildProcess" | "FileSystem",
  method: string,
  pathOrDescriptor: string,
  error: unknown
): PlatformError.PlatformError => systemError(module, method, pathOrDescriptor, withoutValues(error))

/** The reason for a failure on our own files. */
export const reasonOf = (error: unknown): SandboxErrorReason => {
  const cause = withoutValues(error)
  const code = codeOf(cause)
  const detail = cause instanceof Error ? cause.message : String(cause)
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
    case "EMFILE":
    case "ENFILE":
    case "EAGAIN":
      return new Quota({ detail, cause })
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new Permission({ detail, cause })
    default:
      return new Unknown({ detail, cause })
  }
}

/** Our own files and signals: a promise whose failure is classified. */
export const io = <A>(operation: string, evaluate: () => Promise<A>): Effect.Effect<A, SandboxError> =>
  Effect.tryPromise({
    try: evaluate,
    catch: (cause) => new SandboxError({ operation: `local.${operation}`, provider: "local", reason: reasonOf(cause) })
  })

/** The same for what answers at once. */
export const ioSync = <A>(operation: string, evaluate: () => A): Effect.Effect<A, SandboxError> =>
  Effect.try({
    try: evaluate,
    catch: (cause) => new SandboxError({ operation: `local.${operation}`, provider: "local", reason: reasonOf(cause) })
  })

/** Fails with a reason of ours. */
export const failWith = (operation: string, reason: SandboxErrorReason, sandboxId?: string): SandboxError =>
  new SandboxError({
    operation: `local.${operation}`,
    provider: "local",
    ...(sandboxId === undefined ? {} : { sandboxId }),
    reason
  })
