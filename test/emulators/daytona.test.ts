/** The emulator speaks as the vendor does to its own SDK: the public methods of that, with nothing of ours between. */
import { assert, describe, it } from "@effect/vitest"
import { Daytona, DaytonaNotFoundError } from "@daytonaio/sdk"
import { Effect } from "effect"
import { shell } from "./daytona/guest.ts"
import * as Emulator from "./daytona/server.ts"

const client = (emulator: Emulator.DaytonaEmulator) =>
  Effect.acquireRelease(
    Effect.sync(
      () => new Daytona({ apiKey: emulator.apiKey, apiUrl: emulator.apiUrl, target: "us", useDeprecatedPolling: true })
    ),
    (daytona) => Effect.promise(() => daytona[Symbol.asyncDispose]())
  )

describe("the emulator of Daytona", () => {
  it.live("runs a sandbox through its life by the SDK's own methods", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make()
        const daytona = yield* client(emulator)
        yield* Effect.promise(async () => {
          const sandbox = await daytona.create({
            name: "box",
            labels: { a: "b" },
            envVars: { V: "v" },
            ephemeral: false
          })
          assert.strictEqual(sandbox.state, "started")
          assert.deepStrictEqual(sandbox.labels, { a: "b", "code-toolbox-language": "python" })
          const { exitCode, result } = await sandbox.process.executeCommand("echo $V; echo err >&2; exit 3")
          assert.strictEqual(exitCode, 3)
          assert.deepStrictEqual(result.trim().split("\n").toSorted(), ["err", "v"])
          // The text is the standard input of a shell: a command that reads eats the rest.
          const eaten = await sandbox.process.executeCommand("cat\necho never run")
          if (shell !== "sh") assert.strictEqual(eaten.result, "echo never run\n")
          await sandbox.fs.uploadFile(Buffer.from([0, 255, 10]), "dir/f")
          assert.deepStrictEqual([...(await sandbox.fs.downloadFile("dir/f"))], [0, 255, 10])
          const missing = await sandbox.fs.downloadFile("nothing").catch((error: unknown) => error)
          assert.instanceOf(missing, DaytonaNotFoundError)
          await sandbox.fs.deleteFile("dir/f")
          const found: Array<string> = []
          for await (const item of daytona.list({ labels: { a: "b" } })) found.push(item.name)
          assert.deepStrictEqual(found, ["box"])
          await sandbox.stop()
          assert.strictEqual((await daytona.get("box")).state, "stopped")
          const refused = await sandbox.process.executeCommand("true").catch((error: unknown) => String(error))
          assert.match(String(refused), /Is the Sandbox started/)
          await sandbox.start()
          const { token } = await sandbox.getPreviewLink(3000)
          assert.isNotEmpty(token)
          await sandbox.createSnapshot("kept")
          assert.strictEqual((await daytona.snapshot.get("kept")).name, "kept")
          await sandbox.delete(60, true)
          assert.instanceOf(await daytona.get("box").catch((error: unknown) => error), DaytonaNotFoundError)
          const volume = await daytona.volume.get("v", true)
          assert.strictEqual(volume.state, "pending_create")
        })
        assert.isFalse(emulator.requests.endpoints.includes("unknown"))
      })
    )
  )
})
