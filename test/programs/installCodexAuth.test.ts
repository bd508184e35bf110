/** Credentials of Codex get into a sandbox, and nowhere else. */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, FileSystem, Layer } from "effect"
import { installCodexAuth } from "../../src/programs/installCodexAuth.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { settings } from "../support/embedded.ts"
import { absent, commandLines, listening, recorded, shown } from "../support/planted.ts"
import { Commands, worlds } from "../support/worlds.ts"

const planted = "pl4nted-codex-credential"
const contents = {
  "auth.json": `{"OPENAI_API_KEY":"${planted}"}`,
  ".credentials.json": `{"mcp":"${planted}"}`,
  "config.toml": `token = "${planted}"\n`
} as const
type Name = keyof typeof contents

/** A folder of this machine with these files. */
const folder = Effect.fnUntraced(function* (...names: ReadonlyArray<Name>) {
  const fs = yield* FileSystem.FileSystem
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-codex-" })
  yield* Effect.forEach(names, (name) => fs.writeFileString(`${directory}/${name}`, contents[name]))
  return directory
})

const guest = Effect.fnUntraced(function* (env: Record<string, string> = {}) {
  const sandboxes = yield* SandboxService
  const { sandboxId } = yield* sandboxes.createSandbox({ env })
  const sh = (script: string) =>
    Effect.map(sandboxes.runCommand(sandboxId, "sh", ["-c", script]), ({ stdout }) => stdout)
  const read = (path: string) =>
    Effect.map(sandboxes.readFile(sandboxId, path), (bytes) => new TextDecoder().decode(bytes))
  return { sandboxId, sh, read }
})

for (const world of worlds) {
  layer(world.layer, { excludeTestServices: true, timeout: "60 seconds" })(
    `installCodexAuth on ${world.name}`,
    (it) => {
      describe("what is there", () => {
        it.effect("comes from CODEX_HOME into ~/.codex, for its owner only", () =>
          Effect.gen(function* () {
            const directory = yield* folder("auth.json", ".credentials.json", "config.toml")
            const { read, sandboxId, sh } = yield* guest()
            const installed = yield* installCodexAuth(sandboxId).pipe(
              Effect.provide(settings({ CODEX_HOME: directory, HOME: "/nowhere" }))
            )
            assert.deepStrictEqual(installed, { authJson: true, credentialsJson: true, configToml: true })
            const home = yield* sh('printf %s "$HOME"')
            for (const [name, content] of Object.entries(contents)) {
              assert.strictEqual(yield* read(`${home}/.codex/${name}`), content)
              assert.strictEqual(yield* sh(`stat -c %a "$HOME/.codex/${name}"`), "600\n")
            }
            assert.strictEqual(yield* sh('stat -c %a "$HOME/.codex"'), "700\n")
          }).pipe(Effect.scoped)
        )

        it.effect("comes from ~/.codex into the CODEX_HOME of the guest, over what was there, and not more", () =>
          Effect.gen(function* () {
            const fs = yield* FileSystem.FileSystem
            const home = yield* fs.makeTempDirectoryScoped()
            yield* fs.makeDirectory(`${home}/.codex`)
            yield* fs.writeFileString(`${home}/.codex/.credentials.json`, contents[".credentials.json"])
            const { read, sandboxId, sh } = yield* guest({ CODEX_HOME: "deep/codex home" })
            yield* sh(
              "mkdir -p 'deep/codex home'; chmod 755 'deep/codex home'; echo old >'deep/codex home/.credentials.json'"
            )
            const installed = yield* installCodexAuth(sandboxId).pipe(Effect.provide(settings({ HOME: home })))
            assert.deepStrictEqual(installed, { authJson: false, credentialsJson: true, configToml: false })
            assert.strictEqual(yield* read("deep/codex home/.credentials.json"), contents[".credentials.json"])
            assert.strictEqual(yield* sh("stat -c %a 'deep/codex home/.credentials.json'"), "600\n")
            // A folder that was there stays as it was.
            assert.strictEqual(
              yield* sh("stat -c %a 'deep/codex home'; ls -A 'deep/codex home'"),
              "755\n.credentials.json\n"
            )
          }).pipe(Effect.scoped)
        )

        it.effect("comes from the paths that are given, before everything else", () =>
          Effect.gen(function* () {
            const fs = yield* FileSystem.FileSystem
            const [set, given] = [yield* folder("auth.json", "config.toml"), yield* folder(".credentials.json")]
            yield* fs.writeFileString(`${given}/other`, "{}")
            const { read, sandboxId } = yield* guest({ CODEX_HOME: `${given}/inside/codex` })
            const install = (options: Parameters<typeof installCodexAuth>[1]) =>
              installCodexAuth(sandboxId, options).pipe(Effect.provide(settings({ CODEX_HOME: set })))
            assert.deepStrictEqual(yield* install({ codexHome: given }), {
              authJson: false,
              credentialsJson: true,
              configToml: false
            })
            assert.deepStrictEqual(yield* install({ authJsonPath: `${given}/other` }), {
              authJson: true,
              credentialsJson: false,
              configToml: true
            })
            assert.strictEqual(yield* read(`${given}/inside/codex/auth.json`), "{}")
            const sandboxes = yield* SandboxService
            yield* sandboxes.runCommand(sandboxId, "rm", ["-r", "/tmp/given"])
          }).pipe(Effect.scoped)
        )
      })

      describe("what is not", () => {
        it.effect("is told with the paths that were looked at, and nothing is asked of the sandbox", () =>
          Effect.gen(function* () {
            const directory = yield* folder("config.toml")
            const { sandboxId, sh } = yield* guest()
            const attempt = (options: Parameters<typeof installCodexAuth>[1], values: Record<string, string>) =>
              Effect.flip(installCodexAuth(sandboxId, options).pipe(Effect.provide(settings(values))))
            const neither = yield* attempt({}, { CODEX_HOME: directory })
            assert.strictEqual(neither.reason._tag, "InvalidArgument")
            assert.include(neither.message, `${directory}/auth.json`)
            assert.include(neither.message, `${directory}/.credentials.json`)
            const missing = yield* attempt(
              { authJsonPath: `${directory}/config.toml`, configTomlPath: "/no/such.toml" },
              {
                CODEX_HOME: directory
              }
            )
            assert.strictEqual(missing.reason._tag, "InvalidArgument")
            assert.include(missing.message, "/no/such.toml")
            const misspelt: object = { codexHom: directory }
            assert.include(
              (yield* attempt(misspelt, { CODEX_HOME: directory })).message,
              "codexHom; there are codexHome"
            )
            const homeless = yield* attempt({}, {})
            assert.strictEqual(homeless.reason._tag, "MissingSetting")
            assert.strictEqual(yield* sh('[ -e "$HOME/.codex" ] || echo none'), "none\n")
          }).pipe(Effect.scoped)
        )

        it.effect("a guest without a home is told as such", () =>
          Effect.gen(function* () {
            const directory = yield* folder("auth.json")
            const { sandboxId } = yield* guest({ HOME: "" })
            const error = yield* Effect.flip(
              installCodexAuth(sandboxId, { codexHome: directory }).pipe(Effect.provide(settings()))
            )
            assert.strictEqual(error.reason._tag, "InvalidArgument")
            assert.include(error.message, "CODEX_HOME")
          }).pipe(Effect.scoped)
        )
      })

      it.effect("the contents are in no record, log, span, error or command line", () => {
        const { heard, layer, said } = listening()
        return Effect.gen(function* () {
          const directory = yield* folder("auth.json", ".credentials.json", "config.toml")
          const { sandboxId, sh } = yield* guest()
          const install = installCodexAuth(sandboxId, { codexHome: directory })
          yield* install
          // A failure that had them in its hands: what is to be a file is a folder with something in it.
          yield* sh(
            'cd "$HOME/.codex" && rm auth.json && mkdir -p auth.json/x && rm config.toml && mkdir -p config.toml/x'
          )
          const failed = yield* Effect.exit(install)
          assert.isTrue(Exit.isFailure(failed))
          assert.include(shown(failed), "WriteFailed")
          absent(planted, {
            commands: (yield* Commands)(),
            lines: yield* commandLines,
            records: yield* recorded,
            error: shown(failed),
            environment: yield* sh("env"),
            heard: heard()
          })
          assert.isAtLeast(said.length, 1)
          assert.include(heard(), "SandboxService.writeFiles")
        }).pipe(Effect.scoped, Effect.provide(Layer.merge(layer, settings())))
      })
    }
  )
}
