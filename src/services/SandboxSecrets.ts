/** Where secret values come from when a sandbox is made anew: records keep only their names. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import { SandboxError, SecretsRequired } from "../errors.ts"
import type { SandboxId } from "../model/Ids.ts"

/**
 * Yields the value of a secret of a sandbox, or none. The name is that of the redacted environment variable; of a redacted header
 * of `vercel.networkPolicy` it is the label of the `Redacted`, else `network:<domain>[<rule>.<transform>]:<header>`; of one
 * of `daytona.envVars` the label, else `daytona:<variable>`.
 */
export type Supply = (sandboxId: SandboxId, name: string) => Effect.Effect<Option.Option<Redacted.Redacted<string>>>

/** The default knows no secret, so that a recreate that needs one fails `SecretsRequired` instead of starting without it. */
export const SandboxSecrets: Context.Reference<Supply> = Context.Reference("effect-sandbox/services/SandboxSecrets", {
  defaultValue: (): Supply => () => Effect.succeed(Option.none())
})

/** All of them, or `SecretsRequired` with the names that are missing. */
export const supply = (
  operation: string,
  sandboxId: SandboxId,
  names: ReadonlyArray<string>
): Effect.Effect<Record<string, Redacted.Redacted<string>>, SandboxError> =>
  Effect.gen(function* () {
    const from = yield* SandboxSecrets
    const values: Record<string, Redacted.Redacted<string>> = {}
    const missing: Array<string> = []
    for (const name of names) {
      const value = yield* from(sandboxId, name)
      if (Option.isSome(value)) values[name] = value.value
      else missing.push(name)
    }
    if (missing.length > 0) {
      return yield* new SandboxError({ operation, sandboxId, reason: new SecretsRequired({ names: missing }) })
    }
    return values
  })
