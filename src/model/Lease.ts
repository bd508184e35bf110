/** Who may write: a lease with an epoch, which only ever grows, so that a writer that slept is told apart. */
import * as Schema from "effect/Schema"
import { Count, Millis } from "./Common.ts"

/**
 * A lease on a record. `expiresAt` (ms since the epoch) in the past, or 0 once released, means that nobody holds it;
 * `epoch` stays, so that the next holder has a higher one.
 */
export const Lease = Schema.Struct({ owner: Schema.String, epoch: Count, expiresAt: Millis })
export type Lease = typeof Lease.Type
