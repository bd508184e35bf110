/** A volume: files that several sandboxes can mount, and that outlive each of them. */
import * as Schema from "effect/Schema"
import { Millis } from "./Common.ts"

/** What is known of a volume. `state` is in the vendor's words; only one that is `ready` can be mounted. */
export const Volume = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  state: Schema.String,
  createdAt: Schema.optionalKey(Millis)
})
export type Volume = typeof Volume.Type
