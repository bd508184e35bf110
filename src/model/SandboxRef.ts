/** A sandbox as it crosses queues, RPC and workflows: plain data without secrets. */
import * as Schema from "effect/Schema"
import { SandboxId } from "./Ids.ts"

/** Decodes refs of `@ekairos/sandbox` too, which have the same fields. Everything but the id is a hint. */
export const SandboxRef = Schema.Struct({
  version: Schema.Literal(1),
  sandboxId: SandboxId,
  provider: Schema.optionalKey(Schema.String),
  externalSandboxId: Schema.optionalKey(Schema.String),
  runtime: Schema.optionalKey(Schema.String),
  ports: Schema.optionalKey(Schema.Array(Schema.Number)),
  purpose: Schema.optionalKey(Schema.String),
  workspaceRoot: Schema.optionalKey(Schema.String)
})
export type SandboxRef = typeof SandboxRef.Type
