/** A saved state of a sandbox's files. Files are the only thing that a checkpoint promises. */
import * as Schema from "effect/Schema"
import { Count, Millis } from "./Common.ts"
import { SandboxId } from "./Ids.ts"

/** `id` is the provider's; times are ms since the epoch. */
export const Checkpoint = Schema.Struct({
  id: Schema.String,
  sandboxId: SandboxId,
  comment: Schema.optionalKey(Schema.String),
  createdAt: Millis,
  sizeBytes: Schema.optionalKey(Count),
  expiresAt: Schema.optionalKey(Millis)
})
export type Checkpoint = typeof Checkpoint.Type
