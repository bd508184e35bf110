/** What fills a sandbox that was made anew in the place of one whose disk is gone. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import type { SandboxError } from "../errors.ts"
import type { SandboxRecord } from "../model/SandboxRecord.ts"
import type { PlatformServices } from "./internal/Platform.ts"

/** Puts back what a sandbox is to have, by Effect's own `FileSystem`, `Path` and `ChildProcessSpawner` of the new machine. */
export type Repopulate = (
  record: SandboxRecord
) => Effect.Effect<void, SandboxError | PlatformError.PlatformError, PlatformServices>

/**
 * Runs before anybody gets the new machine, when the skills of its config are there: of a recreate, not of a creation, a resume or a
 * restore of a checkpoint. Read once, when `SandboxService.layer` is built; the default puts nothing back.
 *
 * **Gotchas**: the sandbox stays `recreating` if it fails or is cut off, and the next use runs it again on the same machine, so it
 * should not mind what it finds there. Whoever waits for the sandbox waits for it too. It must not use the sandbox by its id.
 */
export const Repopulate: Context.Reference<Repopulate> = Context.Reference("effect-sandbox/services/Repopulate", {
  defaultValue: (): Repopulate => () => Effect.void
})
