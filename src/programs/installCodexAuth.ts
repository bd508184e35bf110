/** The credentials of Codex, taken from this machine into a sandbox. */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import { InvalidArgument, MissingSetting, SandboxError } from "../errors.ts"
import * as core from "../services/internal/core.ts"
import { inCodexHome, insideOf } from "../services/internal/inside.ts"
import { SandboxService } from "../services/SandboxService.ts"
import * as Settings from "../services/SandboxSettings.ts"

/** Where the files are on this machine. A path that is given must exist; the others need not. */
export interface Options {
  /** The folder of the three; `CODEX_HOME` of this machine, else `.codex` in `HOME`. */
  readonly codexHome?: string | undefined
  /** Instead of `auth.json` in that folder. */
  readonly authJsonPath?: string | undefined
  /** Instead of `.credentials.json` in that folder. */
  readonly credentialsJsonPath?: string | undefined
  /** Instead of `config.toml` in that folder. */
  readonly configTomlPath?: string | undefined
}

/** Which of the files were there and are in the sandbox now. */
export interface Installed {
  readonly authJson: boolean
  readonly credentialsJson: boolean
  readonly configToml: boolean
}

const operation = "installCodexAuth"

const codexHome = Settings.text({ name: "CODEX_HOME", fallback: "", description: "" })
const userHome = Settings.text({ name: "HOME", aliases: ["USERPROFILE"], fallback: "", description: "" })

/** The folder of Codex on this machine. */
const homeHere = Effect.fnUntraced(function* (given: string | undefined) {
  if (given !== undefined) return given
  const path = yield* Path.Path
  const set = yield* Settings.get(codexHome)
  if (Option.isSome(set)) return set.value
  const user = yield* Settings.get(userHome)
  if (Option.isSome(user)) return path.join(user.value, ".codex")
  return yield* new SandboxError({
    operation,
    reason: new MissingSetting({ names: ["CODEX_HOME", "HOME"], detail: "one of them says where Codex has its files" })
  })
})

/** Makes the folder, which is its owner's alone unless it is there already, and says where it is. */
const prepare = `p=\${c%/*}
mkdir -p "\${p:-/}" || exit 1
if [ ! -d "$c" ]; then
  if mkdir "$c" 2>/dev/null; then chmod 700 "$c"; else [ -d "$c" ]; fi || exit 1
fi
printf %s "$c"`

/**
 * Copies `auth.json`, `.credentials.json` and `config.toml` of Codex into the sandbox's `$CODEX_HOME`, else `$HOME/.codex`: those
 * that there are, with mode 0600 from their first byte on, each whole or not at all. What is in them goes through nothing but the
 * provider's transport of files: it is in no record, log, span, error, environment or command line.
 *
 * Without `auth.json` and `.credentials.json` it fails `InvalidArgument`, which names both paths, and asks nothing of the sandbox.
 * Neither `CODEX_HOME` nor `HOME` on this machine is `MissingSetting`.
 *
 * **Gotchas**: whoever can read the sandbox's disk, and whoever gets one of its checkpoints, has the credentials. A sandbox that is
 * made anew comes without them: `Repopulate` cannot call this, so install them again after a recreate.
 */
export const installCodexAuth = Effect.fnUntraced(function* (
  sandboxId: string,
  options: Options = {}
): Effect.fn.Return<
  Installed,
  SandboxError | PlatformError.PlatformError,
  SandboxService | FileSystem.FileSystem | Path.Path
> {
  // Whoever misspells a path must not copy the files of somebody else.
  yield* core.onlyKnown(operation, options, {
    codexHome: true,
    authJsonPath: true,
    credentialsJsonPath: true,
    configTomlPath: true
  })
  const sandboxes = yield* SandboxService
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { authJsonPath, configTomlPath, credentialsJsonPath } = options
  const isComplete = authJsonPath !== undefined && credentialsJsonPath !== undefined && configTomlPath !== undefined
  const home = isComplete ? "" : yield* homeHere(options.codexHome)
  const invalid = (argument: string, problem: string) =>
    new SandboxError({ operation, sandboxId, reason: new InvalidArgument({ argument, problem }) })
  const read = Effect.fnUntraced(function* (argument: keyof Options, name: string, given: string | undefined) {
    const from = given ?? path.join(home, name)
    const content = yield* Effect.catchReason(
      Effect.asSome(fs.readFile(from)),
      "PlatformError",
      "NotFound",
      () => Effect.succeedNone
    )
    return { argument, name, from, content, isMissing: given !== undefined && Option.isNone(content) }
  })
  const auth = yield* read("authJsonPath", "auth.json", authJsonPath)
  const credentials = yield* read("credentialsJsonPath", ".credentials.json", credentialsJsonPath)
  const config = yield* read("configTomlPath", "config.toml", configTomlPath)
  for (const { argument, from, isMissing } of [auth, credentials, config]) {
    if (isMissing) return yield* invalid(argument, `there is no file ${from}`)
  }
  if (Option.isNone(auth.content) && Option.isNone(credentials.content)) {
    return yield* invalid("codexHome", `there is neither ${auth.from} nor ${credentials.from}`)
  }

  const there = yield* inCodexHome(insideOf(sandboxes, sandboxId), operation, prepare)
  yield* sandboxes.writeFiles(
    sandboxId,
    [auth, credentials, config].flatMap(({ content, name }) =>
      Option.isSome(content) ? [{ path: `${there}/${name}`, content: content.value, mode: 0o600 }] : []
    )
  )
  return {
    authJson: Option.isSome(auth.content),
    credentialsJson: Option.isSome(credentials.content),
    configToml: Option.isSome(config.content)
  }
})
