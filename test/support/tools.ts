/** Stand-ins for programs of the guest: scripts in a folder that comes first on its PATH. */
import { Effect, FileSystem } from "effect"
import { SandboxService } from "../../src/services/SandboxService.ts"

/**
 * A sandbox whose programs of these names are these scripts. Each begins with `$said`, the path of a file for what it has to say.
 * The folder is one of this host, which is also the guest's on `local`.
 */
export const withTools = Effect.fnUntraced(function* (tools: Readonly<Record<string, string>>) {
  const fs = yield* FileSystem.FileSystem
  const sandboxes = yield* SandboxService
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-tools-" })
  const { sandboxId } = yield* sandboxes.createSandbox({
    env: { PATH: `${folder}/bin:/usr/local/bin:/usr/bin:/bin` }
  })
  yield* sandboxes.writeFiles(
    sandboxId,
    Object.entries(tools).map(([name, script]) => ({
      path: `${folder}/bin/${name}`,
      content: `#!/bin/sh\nsaid=${folder}/said\n${script}\n`,
      mode: 0o755
    }))
  )
  const sh = (script: string) =>
    Effect.map(sandboxes.runCommand(sandboxId, "sh", ["-c", script]), ({ stdout }) => stdout)
  return {
    sandboxId,
    sandboxes,
    folder,
    sh,
    /** What they have said so far, by line. */
    said: Effect.map(sh(`cat ${folder}/said 2>/dev/null`), (text) => text.split("\n").filter((line) => line !== "")),
    /** The files with secrets that are there. */
    secretFiles: sh('find "${TMPDIR:-/tmp}" -name ".effect-sandbox-env-*" | wc -l | tr -d " "').pipe(Effect.map(Number))
  }
})
