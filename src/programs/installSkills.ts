/** Skill packages for Codex in a sandbox. */
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import type { SandboxError } from "../errors.ts"
import type { Skill } from "../model/Skill.ts"
import { insideOf } from "../services/internal/inside.ts"
import * as Skills from "../services/internal/skills.ts"
import { SandboxService } from "../services/SandboxService.ts"

/** Where the packages are. */
export interface Installed {
  /** The skills folder of Codex in the sandbox: `skills` in its `$CODEX_HOME`, else in `$HOME/.codex`. Absolute. */
  readonly folder: string
}

/**
 * Writes skill packages into the skills folder of Codex, each file whole or not at all, over what has its name; files of an earlier
 * version that are not in the package stay. A new file is not executable: a script is run by its interpreter.
 *
 * Before anything is written, names and paths that lead out of a package's folder, by their text or through a symbolic link in the
 * sandbox, what is there twice and what is no base64 are refused with `InvalidArgument`.
 *
 * **Gotchas**: a sandbox that is made anew comes without them. Those that a sandbox is always to have belong in `skills` of its
 * config, with which it is made and made anew.
 */
export const installSkills = Effect.fnUntraced(function* (
  sandboxId: string,
  skills: ReadonlyArray<Skill>
): Effect.fn.Return<Installed, SandboxError | PlatformError.PlatformError, SandboxService> {
  const sandboxes = yield* SandboxService
  return { folder: yield* Skills.install(insideOf(sandboxes, sandboxId), "installSkills", skills) }
})
