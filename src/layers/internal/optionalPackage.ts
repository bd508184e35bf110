/** Vendors' packages are optional peers, loaded when they are first used. */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { SandboxErrorReason } from "../../errors.ts"
import { MissingPackage, SandboxError, Unknown } from "../../errors.ts"

const reasonOf = (name: string, cause: unknown): SandboxErrorReason =>
  Predicate.hasProperty(cause, "code") && cause.code === "ERR_MODULE_NOT_FOUND"
    ? new MissingPackage({ package: name, cause })
    : new Unknown({ detail: `the package ${name} does not load`, cause })

/** Loads a package once; one that is not installed is `MissingPackage`. `load` is the `import()` of that very name. */
export const optionalPackage = <A>(
  provider: string,
  name: string,
  load: () => Promise<A>
): Effect.Effect<Effect.Effect<A, SandboxError>> =>
  Effect.cached(
    Effect.tryPromise({
      try: load,
      catch: (cause) => new SandboxError({ operation: `${provider}.load`, provider, reason: reasonOf(name, cause) })
    })
  )
