/** The generator of apps gets its token, and nobody else does; a stand-in plays the generator. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer } from "effect"
import { Unavailable } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import { createEkairosApp } from "../../src/programs/createEkairosApp.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { settings } from "../support/embedded.ts"
import { absent, commandLines, listening, recorded, shown } from "../support/planted.ts"
import { withTools } from "../support/tools.ts"
import { Commands, worlds } from "../support/worlds.ts"

const planted = "pl4nted-'instant'-token $HOME"

/** Says what it was called with and what it finds, and makes a file where the app is to be. */
const generator = (name = "INSTANT_PERSONAL_ACCESS_TOKEN") => `
{
  echo "args $*"
  echo "left $(find "\${TMPDIR:-/tmp}" -name ".effect-sandbox-env-*" | wc -l | tr -d ' ')"
  [ "$(printf %s "$${name}" | wc -c | tr -d ' ')" = ${planted.length} ] && echo has
} >>$said
ps -axo args= >$said.ps 2>/dev/null
mkdir -p "$4"
echo made >"$4/package.json"
echo '{"ok":true}'
[ "$(cat "$4/fail" 2>/dev/null)" = "" ] || exit 7`

const provided = Effect.provide(settings({ INSTANT_PERSONAL_ACCESS_TOKEN: planted, OTHER_TOKEN: planted }))

for (const world of worlds) {
  layer(world.layer, { excludeTestServices: true, timeout: "60 seconds" })(
    `createEkairosApp on ${world.name}`,
    (it) => {
      it.effect("runs the generator as a recorded process, its token in its environment and no file of it left", () => {
        const { heard, layer } = listening()
        return Effect.gen(function* () {
          const { folder, said, sandboxId, sandboxes, secretFiles, sh } = yield* withTools({ npx: generator() })
          const run = yield* createEkairosApp(sandboxId, { appDir: "the app", packageManager: "bun" })
          assert.strictEqual(run.result?.exitCode, 0)
          assert.strictEqual(run.result?.stdout, '{"ok":true}\n')
          const app = `${yield* Effect.map(sh("pwd"), (text) => text.trim())}/the app`
          assert.deepStrictEqual(yield* said, [
            `args -y @ekairos/domain@beta create-app ${app} --next --package-manager bun --no-install --json`,
            "left 0",
            "has"
          ])
          const process = yield* sandboxes.getProcessSnapshot(run.processId)
          assert.deepInclude(process, { status: "exited", mode: "foreground", kind: "command" })
          assert.deepInclude(process.metadata, { program: "createEkairosApp", appDir: "the app" })
          assert.strictEqual(yield* secretFiles, 0)
          const list = yield* sh(`cat ${folder}/said.ps`)
          if (world.name === "local") assert.include(list, "create-app")
          absent("pl4nted", {
            commands: (yield* Commands)(),
            lines: yield* commandLines,
            // While the generator ran.
            list,
            records: yield* recorded,
            result: shown(run),
            heard: heard()
          })
          assert.include(yield* recorded, "ok")
        }).pipe(Effect.scoped, provided, Effect.provide(layer))
      })

      it.effect("takes the token of another name, and yields the generator's own failure as a value", () =>
        Effect.gen(function* () {
          const { said, sandboxId, sh } = yield* withTools({ npx: generator("OTHER_TOKEN") })
          yield* sh("mkdir app && echo x >app/fail")
          const run = yield* createEkairosApp(sandboxId, {
            appDir: "app/",
            instantTokenEnvName: "OTHER_TOKEN",
            overwrite: true
          })
          assert.strictEqual(run.result?.exitCode, 7)
          assert.include(yield* said, "has")
          // What was there is.
          assert.strictEqual(yield* sh("cat app/fail app/package.json"), "x\nmade\n")
        }).pipe(Effect.scoped, provided)
      )

      it.effect(
        "refuses a folder with something in it, what is no folder, and what is no option, before anything is run",
        () =>
          Effect.gen(function* () {
            const { said, sandboxId, secretFiles, sh } = yield* withTools({ npx: generator() })
            yield* sh("mkdir full empty && echo x >full/.hidden && ln -s nowhere link")
            const refused = (options: Parameters<typeof createEkairosApp>[1]) =>
              Effect.map(Effect.flip(createEkairosApp(sandboxId, options)), ({ message, reason }) => {
                assert.strictEqual(reason._tag, "InvalidArgument")
                return message
              })
            assert.include(yield* refused({ appDir: "full" }), "/full has something in it")
            assert.include(yield* refused({ appDir: "full/.hidden", overwrite: true }), "no folder")
            assert.include(yield* refused({ appDir: "link" }), "no folder")
            assert.include(yield* refused({ appDir: "" }), "appDir")
            assert.include(yield* refused({ instantTokenEnvName: "A=B" }), "instantTokenEnvName")
            // A caller without types.
            assert.include(yield* refused(JSON.parse('{"packageManager":"pip"}')), "pnpm, npm, yarn, bun")
            assert.deepStrictEqual([yield* said, yield* secretFiles], [[], 0])
            yield* createEkairosApp(sandboxId, { appDir: "empty" })
            assert.include(yield* said, "has")
          }).pipe(Effect.scoped, provided)
      )

      it.effect("names the variable of a token that is missing", () =>
        Effect.gen(function* () {
          const { sandboxId } = yield* withTools({ npx: generator() })
          const error = yield* Effect.flip(createEkairosApp(sandboxId))
          assert.deepInclude(error.reason, { _tag: "MissingSetting", names: ["INSTANT_PERSONAL_ACCESS_TOKEN"] })
        }).pipe(Effect.scoped, Effect.provide(settings()))
      )

      it.effect("makes one app for one id", () =>
        Effect.gen(function* () {
          const { said, sandboxId, secretFiles } = yield* withTools({ npx: generator() })
          const options = { appDir: "app", processId: "11111111-2222-4333-8444-55555555555a" }
          const first = yield* createEkairosApp(sandboxId, options)
          const second = yield* createEkairosApp(sandboxId, options)
          assert.deepStrictEqual(
            [second.processId, second.result?.exitCode, second.result?.stdout],
            [first.processId, 0, '{"ok":true}\n']
          )
          assert.lengthOf(
            (yield* said).filter((line) => line === "has"),
            1
          )
          const other = yield* Effect.flip(createEkairosApp(sandboxId, { ...options, packageManager: "npm" }))
          assert.strictEqual(other.reason._tag, "ConfigMismatch")
          assert.strictEqual(yield* secretFiles, 0)
        }).pipe(Effect.scoped, provided)
      )
    }
  )
}

describe("the file with the token", () => {
  const world = Testing.layer().pipe(Layer.provideMerge(NodeServices.layer))

  it.live("is not asked for again, nor is a machine, when what came of it is on record", () =>
    Effect.gen(function* () {
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* withTools({ npx: generator() })
      const options = { appDir: "app", processId: "11111111-2222-4333-8444-55555555555a" }
      const first = yield* createEkairosApp(sandboxId, options)
      yield* cloud.vanish(sandboxId)
      // Nor is the token.
      const second = yield* createEkairosApp(sandboxId, options).pipe(Effect.provide(settings()))
      assert.deepStrictEqual(second.result?.stdout, first.result?.stdout)
      assert.lengthOf(cloud.machines, 0)
    }).pipe(Effect.scoped, provided, Effect.provide(world))
  )

  it.live("is gone when the process cannot be started", () =>
    Effect.gen(function* () {
      const faults = yield* Faults.Faults
      const cloud = yield* Fake.Cloud
      const { sandboxId, secretFiles } = yield* withTools({ npx: generator() })
      yield* faults.add(
        Faults.on("start", Faults.fail(new Unavailable({ accepted: "unknown" })), {
          when: ({ args: [command] }) => command.lifetime === "recorded"
        })
      )
      const exit = yield* Effect.exit(createEkairosApp(sandboxId, { appDir: "app" }))
      assert.isTrue(Exit.isFailure(exit))
      absent("pl4nted", { error: shown(exit), commands: JSON.stringify(cloud.commands) })
      assert.deepStrictEqual(faults.unused, [])
      assert.strictEqual(yield* secretFiles, 0)
    }).pipe(Effect.scoped, provided, Effect.provide(world))
  )

  it.live("is gone when the caller is interrupted before the process has begun", () =>
    Effect.gen(function* () {
      const faults = yield* Faults.Faults
      const { said, sandboxId, secretFiles } = yield* withTools({ npx: generator() })
      yield* faults.add(
        Faults.on("start", Faults.hang, { when: ({ args: [command] }) => command.lifetime === "recorded" })
      )
      const fiber = yield* Effect.forkChild(createEkairosApp(sandboxId, { appDir: "app" }))
      yield* faults.exhausted
      assert.strictEqual(yield* secretFiles, 1)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([yield* secretFiles, yield* said], [0, []])
    }).pipe(Effect.scoped, provided, Effect.provide(world))
  )
})
