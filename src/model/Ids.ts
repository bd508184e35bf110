/** Ids are UUIDs in lower case, everywhere: InstantDB accepts nothing else as an entity id. */
import * as Schema from "effect/Schema"

const uuid = Schema.String.check(
  Schema.isPattern(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, {
    expected: "a UUID in lower case"
  })
)

/** The durable identity of a sandbox. The machine underneath may be replaced; this stays. */
export const SandboxId = uuid.pipe(Schema.brand("SandboxId"))
export type SandboxId = typeof SandboxId.Type

/** The identity of a recorded process, chosen before it is started: it makes a start happen at most once. */
export const ProcessId = uuid.pipe(Schema.brand("ProcessId"))
export type ProcessId = typeof ProcessId.Type
