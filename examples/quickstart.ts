/** A sandbox on this machine: create, write, run, read, stop. `node examples/quickstart.ts` */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import * as Embedded from "../src/Embedded.ts"
import { SandboxService } from "../src/services/SandboxService.ts"

const program = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const { sandboxId } = yield* sandboxes.createSandbox({ purpose: "quickstart" })
  yield* sandboxes.writeFiles(sandboxId, [{ path: "names.txt", content: "grace\nada\n" }])
  yield* sandboxes.runCommand(sandboxId, "sort", ["-o", "sorted.txt", "names.txt"])
  const sorted = yield* sandboxes.readFile(sandboxId, "sorted.txt")
  yield* Console.log(new TextDecoder().decode(sorted).trim())

  // Failures are values of the error channel, by reason.
  const answer = yield* sandboxes.runCommand(sandboxId, "no-such-program").pipe(
    Effect.map((result) => `exit ${result.exitCode}`),
    Effect.catchReason("PlatformError", "NotFound", () => Effect.succeed("there is no such program"))
  )
  yield* Console.log(answer)
  yield* sandboxes.stopSandbox(sandboxId, { delete: true })
})

NodeRuntime.runMain(Effect.provide(program, Embedded.layer({ directory: process.argv[2] ?? ".effect-sandbox" })))
