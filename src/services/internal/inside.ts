/** What it takes to install something in a sandbox, be it one that has an owner or a machine that nobody has got yet. */
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import { InvalidArgument, SandboxError, Unknown } from "../../errors.ts"
import type { CommandResult } from "../../model/Process.ts"
import type { SandboxService } from "../SandboxService.ts"
import type { FileEntry } from "./Files.ts"

/** The sandbox, by the two things that are asked of it. */
export interface Inside {
  readonly run: (
    script: string,
    args: ReadonlyArray<string>
  ) => Effect.Effect<CommandResult, SandboxError | PlatformError.PlatformError>
  readonly write: (files: ReadonlyArray<FileEntry>) => Effect.Effect<void, SandboxError | PlatformError.PlatformError>
}

/** How much of the answer of a script of ours is kept, whatever is set for commands of users. */
export const answerBytes = 1024 * 1024

/** A sandbox by its id. */
export const insideOf = (
  sandboxes: Pick<SandboxService["Service"], "runCommand" | "writeFiles">,
  id: string
): Inside => ({
  run: (script, args) => sandboxes.runCommand(id, "sh", ["-c", script, "sh", ...args], { maxOutputBytes: answerBytes }),
  write: (files) => sandboxes.writeFiles(id, files)
})

/** Puts into `c` where Codex has its files. A relative path starts at the workspace, as it does for Codex itself. */
const findCodexHome = `c=\${CODEX_HOME:-}
if [ -z "$c" ]; then
  [ -n "\${HOME:-}" ] || exit 3
  c=$HOME/.codex
fi
case $c in /*) ;; *) c=$PWD/$c ;; esac`

/** Runs a script that has the folder in `c`, and yields what it said. */
export const inCodexHome = Effect.fnUntraced(function* (
  inside: Inside,
  operation: string,
  script: string,
  args: ReadonlyArray<string> = []
) {
  const { exitCode, stderr, stdout } = yield* inside.run(`${findCodexHome}\n${script}`, args)
  if (exitCode === 0) return stdout
  return yield* new SandboxError({
    operation,
    reason:
      exitCode === 3
        ? new InvalidArgument({ argument: "CODEX_HOME", problem: "the sandbox has neither it nor HOME" })
        : new Unknown({ detail: stderr.trim() })
  })
})
