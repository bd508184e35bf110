/** What the benchmarks run on: the embedded library in a folder that goes away with the Scope. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Embedded from "../src/Embedded.ts"
import { SandboxService } from "../src/services/SandboxService.ts"

/** A fresh folder. */
export const temporary = Effect.flatMap(FileSystem.FileSystem, (fs) =>
  fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-bench-" })
).pipe(Effect.provide(NodeServices.layer))

/** The embedded library in a folder of its own; the machine's settings do not matter. */
export const services = Layer.unwrap(Effect.map(temporary, (directory) => Embedded.layer({ directory }))).pipe(
  Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({})))
)

/** A sandbox that is deleted with the Scope. */
export const sandbox = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const { sandboxId } = yield* Effect.acquireRelease(sandboxes.createSandbox({}), ({ sandboxId }) =>
    Effect.orDie(sandboxes.stopSandbox(sandboxId, { delete: true }))
  )
  return { sandboxes, sandboxId }
})
