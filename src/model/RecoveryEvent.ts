/** What is told of recoveries while they happen. */
import * as Data from "effect/Data"
import type { SandboxError } from "../errors.ts"
import type { SandboxId } from "./Ids.ts"

interface OfRecovery {
  readonly sandboxId: SandboxId
  /** `automatic`: a command, or another use, found the machine gone or asleep; `explicit`: `reconnectToSandbox`. */
  readonly trigger: "automatic" | "explicit"
  /** ms since the epoch. */
  readonly at: number
}

/** A recovery has one `Started` and then one `Recovered` or `Failed`. One that was interrupted is `Failed` without an error. */
export type RecoveryEvent = Data.TaggedEnum<{
  Started: OfRecovery
  Recovered: OfRecovery & { readonly outcome: "Connected" | "Resumed" | "Restored" | "Recreated" }
  Failed: OfRecovery & { readonly error?: SandboxError }
}>
/** Constructors and matchers of {@link RecoveryEvent}. */
export const RecoveryEvent = Data.taggedEnum<RecoveryEvent>()
