/** A secret is planted everywhere it may be given, and then looked for everywhere it must not be. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Redacted, Stream } from "effect"
import { inspect } from "node:util"
import { isOutput } from "../src/model/ProcessEvent.ts"
import { SandboxService } from "../src/services/SandboxService.ts"
import { SandboxStore } from "../src/services/SandboxStore.ts"
import { inDirectory, tempDirectory } from "./support/embedded.ts"
import { commandLines, filesWith, listening, shown } from "./support/planted.ts"

const planted = "pl4nted-5ecret-value"

describe("a planted secret", () => {
  it.live(
    "is in no record, log, span, error or command line",
    () =>
      Effect.gen(function* () {
        const directory = yield* tempDirectory
        const { layer, said, spans } = listening()
        const secret = Redacted.make(planted)

        yield* Effect.gen(function* () {
          const sandboxes = yield* SandboxService
          const store = yield* SandboxStore
          const { ref, sandboxId } = yield* sandboxes.createSandbox({ env: { CONFIG_TOKEN: secret } })
          const test = `[ "$CONFIG_TOKEN" = "$(printf %s pl4nted- 5ecret -value)" ]`
          assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "sh", ["-c", test])).exitCode, 0)
          assert.strictEqual(
            (yield* sandboxes.runCommand(sandboxId, "sh", ["-c", '[ -n "$T" ]'], { env: { T: secret } })).exitCode,
            0
          )
          const process = yield* sandboxes.runCommandProcess(sandboxId, "sh", ["-c", "echo up; exec sleep 1000"], {
            env: { COMMAND_TOKEN: secret }
          })
          yield* process.events.pipe(Stream.filter(isOutput), Stream.runHead)
          assert.notInclude(yield* commandLines, planted)

          // Every failure that had the secret in its hands.
          const failures = yield* Effect.forEach(
            [
              sandboxes.runCommand(sandboxId, "no-such-program", [], { env: { T: secret } }),
              sandboxes.runCommand(sandboxId, "echo", [secret]),
              sandboxes.runCommand(sandboxId, "echo", [], { env: { T: Redacted.make(`${planted}\0`) } }),
              sandboxes.runCommand(sandboxId, "echo", [], { env: { T: `${planted}\0` } }),
              sandboxes.runCommand(sandboxId, "echo", [`${planted}\0`]),
              sandboxes.runCommandProcess(sandboxId, "no-such-program", [secret], { env: { T: secret } }),
              sandboxes.createSandbox({ env: { T: `${planted}\0` } }),
              sandboxes.createSandbox({ env: { T: secret }, timeout: -1 })
            ],
            (effect) => Effect.exit<unknown, unknown, never>(effect)
          )
          for (const exit of failures) {
            assert.isTrue(Exit.isFailure(exit))
            assert.notInclude(shown(exit), planted)
          }
          const records = [
            ...(yield* Stream.runCollect(store.listSandboxes())),
            ...(yield* Stream.runCollect(store.listProcesses()))
          ]
          assert.isAtLeast(records.length, 2)
          assert.notInclude(JSON.stringify(records) + JSON.stringify(ref), planted)
          yield* sandboxes.stopSandbox(sandboxId)
          // The local provider plays the vendor: what a vendor would keep of the environment, it keeps, for its owner's eyes only.
          assert.deepStrictEqual([...new Set(yield* filesWith(directory, planted))], ["env.json"])
          yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        }).pipe(Effect.provide([inDirectory(directory), layer]))

        assert.isAtLeast(spans.length, 20)
        assert.isAtLeast(said.length, 1)
        for (const span of spans)
          assert.notInclude(inspect(span.attributes) + span.name + inspect(span.status, { depth: 20 }), planted)
        assert.notInclude(said.join("\n"), planted)
        assert.deepStrictEqual(yield* filesWith(directory, planted), [])
      }).pipe(Effect.scoped),
    60_000
  )
})
