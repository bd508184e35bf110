/** Whether a process that exists under an id is the one that is asked for. */
import * as Effect from "effect/Effect"
import { ConfigMismatch, SandboxError } from "../../errors.ts"
import type { ProcessRecord } from "../../model/Process.ts"
import { canonical } from "../../model/SandboxConfig.ts"

/** The parts of a record that say what was asked for. */
export type Asked = Pick<
  ProcessRecord,
  "sandboxId" | "command" | "args" | "cwd" | "env" | "secretEnv" | "kind" | "metadata"
>

const fields = ["sandboxId", "command", "args", "cwd", "env", "secretEnv", "kind", "metadata"] as const

/** Fails `ConfigMismatch` with the fields that differ. */
export const sameOrMismatch = (
  operation: string,
  existing: ProcessRecord,
  wanted: Asked
): Effect.Effect<void, SandboxError> => {
  const different = fields.filter((field) => canonical(existing[field]) !== canonical(wanted[field]))
  return different.length === 0
    ? Effect.void
    : Effect.fail(
        new SandboxError({
          operation,
          sandboxId: wanted.sandboxId,
          processId: existing.id,
          reason: new ConfigMismatch({ fields: different })
        })
      )
}
