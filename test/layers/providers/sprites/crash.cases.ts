/** A service that is killed in the middle of a recorded process, and the next one that goes on with it. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, Stream } from "effect"
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import * as ProcessEvent from "../../../../src/model/ProcessEvent.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import * as Emulator from "../../../emulators/sprites/server.ts"
import { tempDirectory } from "../../../support/embedded.ts"
import { over } from "../../../support/sprites.ts"
import { until } from "./waiting.ts"

const fixture = fileURLToPath(new URL("../../../fixtures/spritesService.ts", import.meta.url))

const half = 20_000
/** Writes half of its lines, waits for the file `go`, writes the other half, and exits with 7. */
const script = `echo run >>runs; seq 1 ${half}; until [ -e go ]; do sleep 0.05; done; seq ${half + 1} ${2 * half}; echo done >&2; exit 7`
const expected = createHash("sha256")
  .update(Array.from({ length: 2 * half }, (_, index) => `${index + 1}\n`).join(""))
  .digest("hex")

it.live(
  "Sprites: a service that is killed in mid-output loses and doubles nothing, and what runs is held awake meanwhile",
  () =>
    Effect.gen(function* () {
      const emulator = yield* Emulator.make()
      const database = `${yield* tempDirectory}/sandboxes.sqlite`
      const sandboxId = crypto.randomUUID()
      const processId = crypto.randomUUID()
      const child = yield* Effect.acquireRelease(
        Effect.sync(() =>
          spawn(process.execPath, [fixture, emulator.origin, emulator.token, database, sandboxId, processId, script], {
            stdio: ["ignore", "pipe", "inherit"]
          })
        ),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      yield* Effect.promise(async () => {
        let said = ""
        for await (const chunk of child.stdout) if ((said += chunk).includes("logged")) break
        assert.include(said, "logged")
        const ended = once(child, "exit")
        child.kill("SIGKILL")
        await ended
      })
      const [sprite] = emulator.sprites()
      yield* until("nobody is there", () => sprite?.busy === 0)
      yield* until("it is held awake", () => sprite?.tasks.size === 1)

      const context = yield* Layer.build(over(emulator, database))
      const sandboxes = Context.get(context, SandboxService)
      assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "running")
      const attached = yield* sandboxes.attachProcess(processId)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "go", content: "" }])
      assert.deepStrictEqual(yield* attached.exit, { _tag: "Exited", code: 7 })
      const hash = createHash("sha256")
      const offsets = { stdout: 0, stderr: 0 }
      let seq = 0
      yield* Stream.runForEach(sandboxes.readProcessStream(processId, { follow: true }), (event) =>
        Effect.sync(() => {
          assert.strictEqual(event.seq, ++seq)
          if (!ProcessEvent.isOutput(event)) return
          assert.strictEqual(event.offset, offsets[event._tag])
          offsets[event._tag] += event.bytes.length
          if (event._tag === "stdout") hash.update(event.bytes)
        })
      )
      assert.strictEqual(hash.digest("hex"), expected)
      assert.strictEqual(offsets.stderr, "done\n".length)
      assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "runs")), "run\n")
      yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      assert.deepStrictEqual(emulator.sprites(), [])
    }).pipe(Effect.scoped),
  60_000
)
