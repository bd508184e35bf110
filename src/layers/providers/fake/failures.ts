/** Where this provider's failures become typed errors. */
import * as Effect from "effect/Effect"
import * as PlatformError from "effect/PlatformError"
import type { SandboxErrorReason } from "../../../errors.ts"
import { SandboxError } from "../../../errors.ts"
import { platformError } from "../../internal/systemCodes.ts"

export { platformError }

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
