/** What the benchmarks run on: the embedded library in a folder that goes away with the Scope. */
import { NodeServices } from "@effect/platform-node"
import { ConfigProvider, Effect, FileSystem, Layer } from "effect"
import * as Local from "../src/layers/providers/Local.ts"
import * as Sql from "../src/layers/stores/Sql.ts"
import * as ProviderRegistry from "../src/services/ProviderRegistry.ts"
import { SandboxService } from "../src/services/SandboxService.ts"
import { counting } from "../test/support/counting.ts"

/** A fresh folder. */
export const temporary = Effect.flatMap(FileSystem.FileSystem, (fs) =>
  fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-bench-" })
).pipe(Effect.provide(NodeServices.layer))

/** `Embedded.layer` with a store and a log that count, in a folder of its own; the machine's settings do not matter. */
export const services = Layer.unwrap(
  Effect.map(temporary, (directory) =>
    SandboxService.layer.pipe(
      Layer.provide(ProviderRegistry.layer([Local.make({ root: `${directory}/local`, isolation: "none" })])),
      Layer.provideMerge(counting(Sql.layerSqlite({ file: `${directory}/sandboxes.sqlite` })))
    )
  )
).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))

/** A sandbox that is deleted with the Scope. */
export const sandbox = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const { sandboxId } = yield* Effect.acquireRelease(sandboxes.createSandbox({}), ({ sandboxId }) =>
    Effect.orDie(sandboxes.stopSandbox(sandboxId, { delete: true }))
  )
  return { sandboxes, sandboxId }
})
