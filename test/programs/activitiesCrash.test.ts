/** A workflow over the SQL-backed engine survives SIGKILL at any stage: one sandbox, each command once, and no secret in its database. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { execFile } from "node:child_process"
import { readdir, readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { inDirectory, tempDirectory } from "../support/embedded.ts"

const fixture = fileURLToPath(new URL("../fixtures/workflow.ts", import.meta.url))

/** Runs the service until it ends, or is killed. */
const service = (directory: string) =>
  Effect.callback<{ readonly signal: NodeJS.Signals | null; readonly stdout: string; readonly stderr: string }>(
    (resume) => {
      const child = execFile(process.execPath, [fixture, directory], (_, stdout, stderr) =>
        resume(Effect.succeed({ signal: child.signalCode, stdout, stderr }))
      )
      return Effect.sync(() => child.kill("SIGKILL"))
    }
  )

describe("a workflow that is killed and replayed", () => {
  it.live(
    "creates one sandbox and runs each command once",
    () =>
      Effect.gen(function* () {
        const directory = yield* tempDirectory
        const stages: Array<string> = []
        let last = yield* service(directory)
        while (last.signal === "SIGKILL" && stages.length < 5) {
          const killed = yield* Effect.promise(() => readdir(directory))
          stages.push(...killed.filter((name) => name.startsWith("killed-") && !stages.includes(name)))
          last = yield* service(directory)
        }
        assert.deepStrictEqual(stages, ["killed-created", "killed-running", "killed-between"], last.stderr)
        assert.isNull(last.signal)
        const result = JSON.parse(last.stdout.trim().split("\n").at(-1) ?? "")
        assert.strictEqual(result.runs, "short\nlong\n")
        assert.strictEqual(result.short, "0\n")
        assert.strictEqual(result.missing, "ChildProcess")
        assert.strictEqual(result.long.exitCode, 0)
        assert.strictEqual(result.long.stdout, Array.from({ length: 4000 }, (_, line) => `line ${line}\n`).join(""))

        // The engine's own database, which is where a secret would have gone.
        const database = yield* Effect.promise(() => readFile(`${directory}/workflow.sqlite`))
        assert.isTrue(database.includes("line 3999"))
        assert.isFalse(database.includes("pl4nted-5ecret-value"))

        yield* Effect.gen(function* () {
          const sandboxes = yield* SandboxService
          const records = yield* Stream.runCollect(sandboxes.listSandboxes())
          assert.deepStrictEqual(
            records.map(({ generation = 1, id, status }) => [id, status, generation]),
            [[result.sandboxId, "active", 1]]
          )
          const processes = yield* Stream.runCollect(sandboxes.listProcesses(result.sandboxId))
          assert.deepStrictEqual(processes.map(({ status }) => status).sort(), ["exited", "exited", "failed"])
          // Every machine that is there has run something.
          const entries = yield* Effect.promise(() => readdir(`${directory}/local`, { recursive: true }))
          assert.strictEqual(entries.filter((name) => name.endsWith("/runs")).length, 1)
          yield* sandboxes.stopSandbox(result.sandboxId, { delete: true })
        }).pipe(Effect.provide(inDirectory(directory)))
      }).pipe(Effect.scoped),
    120_000
  )
})
