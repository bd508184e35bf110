/** A new Ekairos app in a sandbox, made by its generator. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import { SandboxError, Unknown } from "../errors.ts"
import type { ProcessRunResult } from "../model/Process.ts"
import * as core from "../services/internal/core.ts"
import { insideOf } from "../services/internal/inside.ts"
import { SandboxService } from "../services/SandboxService.ts"
import * as Guest from "./internal/guestProcess.ts"

/** Where the app is made, and with what. */
export interface Options extends Guest.ProcessOptions {
  /** Where the app is made: absolute, or relative to the workspace. The default is `/workspace/ekairos-app`. */
  readonly appDir?: string | undefined
  /** Which one the app is made for; `pnpm`. */
  readonly packageManager?: Guest.PackageManager | undefined
  /**
   * The name of the setting of this machine that has the token, and of the variable in which the generator gets it;
   * `INSTANT_PERSONAL_ACCESS_TOKEN`.
   */
  readonly instantTokenEnvName?: string | undefined
  /** Lets the generator write into a folder that has something in it. Nothing is deleted for it; what it writes replaces what is there. */
  readonly overwrite?: boolean | undefined
  /** The same id with the same options is the same process: its result, and no second app. */
  readonly processId?: string | undefined
}

const operation = "createEkairosApp"

/** Says where things are, and with 3 and 4 why no app may be made there. */
const lookScript = `${Guest.absoluteFirst}
${Guest.sayTempDirectory}
printf %s "$d"
if [ -e "$d" ] || [ -L "$d" ]; then
  [ -d "$d" ] || exit 4
  l=$(ls -A "$d") || exit 1
  [ -n "$2" ] || [ -z "$l" ] || exit 3
else
  p=\${d%/*}
  mkdir -p "\${p:-/}" || exit 1
fi`

/**
 * Runs the app generator, `npx -y @ekairos/domain@beta create-app <appDir> --next --package-manager <packageManager> --no-install
 * --json`, in the sandbox as a recorded process, to its end: a code other than 0 is in the result, not an error.
 *
 * The token is a setting of this machine (`MissingSetting` names it when it is missing). It goes into the sandbox by a file for its owner
 * only, which is gone before the generator starts, and from there into the environment of the generator: it is in no argument,
 * record or log of ours. A folder that has something in it is refused with `InvalidArgument`, unless `overwrite`.
 *
 * **Gotchas**: what the generator prints is recorded as it is; should it print its token, the log has it. The generator was not
 * there to be tried: that it takes the token from its environment, and `--package-manager`, is what this relies on. Interrupted, the
 * process goes on, as recorded ones do; one that has not read its file by then fails.
 */
export const createEkairosApp = Effect.fnUntraced(function* (
  sandboxId: string,
  options: Options = {}
): Effect.fn.Return<ProcessRunResult, SandboxError | PlatformError.PlatformError, SandboxService> {
  const sandboxes = yield* SandboxService
  const appDir = options.appDir ?? "/workspace/ekairos-app"
  const tokenName = options.instantTokenEnvName ?? "INSTANT_PERSONAL_ACCESS_TOKEN"
  const overwrite = options.overwrite ?? false
  if (appDir === "") return yield* core.invalid(operation, "appDir", "expected a path")
  const packageManager = yield* Guest.checkedPackageManager(operation, options.packageManager)
  const { maxOutputBytes, processId, timeout } = options
  const metadata = { program: operation, appDir, packageManager, instantTokenEnvName: tokenName, overwrite }
  const before = yield* Guest.startedBefore(processId)
  if (Option.isSome(before)) {
    // What came of it is on record: neither the folder, which has something in it by now, nor the machine is asked.
    const { args, command } = before.value
    const same = { processId, metadata, timeout, maxOutputBytes, mode: "foreground" } as const
    return yield* sandboxes.runCommandWithProcessStream(sandboxId, command, args, same)
  }
  const token = yield* Guest.requiredSecret(operation, "instantTokenEnvName", tokenName)
  const look = insideOf(sandboxes, sandboxId).run(lookScript, [appDir, overwrite ? "1" : ""])
  const { exitCode, stderr, stdout } = yield* look
  const [directory, folder] = Guest.firstLine(stdout)
  if (exitCode === 3) {
    return yield* core.invalid(operation, "appDir", `${folder} has something in it; overwrite lets the generator in`)
  }
  if (exitCode === 4) return yield* core.invalid(operation, "appDir", `${folder} is no folder`)
  if (exitCode !== 0) {
    return yield* new SandboxError({ operation, sandboxId, reason: new Unknown({ detail: stderr.trim() }) })
  }
  return yield* Guest.run(sandboxId, {
    processId,
    command: "npx",
    args: [
      "-y",
      "@ekairos/domain@beta",
      "create-app",
      folder,
      "--next",
      "--package-manager",
      packageManager,
      "--no-install",
      "--json"
    ],
    secrets: { [tokenName]: token },
    directory,
    metadata,
    timeout,
    maxOutputBytes
  })
})
