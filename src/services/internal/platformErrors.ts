/** Where only a `PlatformError` may pass: a failure of the sandbox becomes one that carries it, and is found in it again. */
import * as PlatformError from "effect/PlatformError"
import type { SandboxError } from "../../errors.ts"
import { isSandboxError } from "../../errors.ts"

/** The failure as a `PlatformError`; one of the sandbox is its `cause`. */
export const inPlatform =
  (module: "ChildProcess" | "FileSystem", method: string) =>
  (error: SandboxError | PlatformError.PlatformError): PlatformError.PlatformError =>
    isSandboxError(error)
      ? PlatformError.systemError({ _tag: "Unknown", module, method, description: error.message, cause: error })
      : error

/** The failure of the sandbox that a `PlatformError` carries, else the error itself. */
export const outOfPlatform = (error: PlatformError.PlatformError): SandboxError | PlatformError.PlatformError =>
  isSandboxError(error.reason.cause) ? error.reason.cause : error
