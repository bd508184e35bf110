/** The embedded library in a temp folder that goes away with the Scope. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Embedded from "../../src/Embedded.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"

/** A fresh temp folder, removed with the Scope. */
export const tempDirectory = Effect.flatMap(FileSystem.FileSystem, (fs) =>
  fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-test-" })
).pipe(Effect.provide(NodeServices.layer))

/** Settings of a test: nothing of the machine's own environment. */
export const settings = (values: Record<string, string> = {}) =>
  ConfigProvider.layer(ConfigProvider.fromUnknown(values))

/** The embedded layer over a directory; two builds of it are two services. */
export const inDirectory = (directory: string, options: Omit<Embedded.Options, "directory"> = {}) =>
  Layer.fresh(Embedded.layer({ ...options, directory })).pipe(Layer.provide(settings()))

/** Stops every sandbox before the service goes: recorded processes outlive it otherwise, as they should. */
const stopAll = Layer.effectDiscard(
  Effect.gen(function* () {
    const sandboxes = yield* SandboxService
    yield* Effect.addFinalizer(() =>
      sandboxes.listSandboxes({ status: ["active"] }).pipe(
        Stream.runForEach((record) => sandboxes.stopSandbox(record.id, { delete: true })),
        Effect.orDie
      )
    )
  })
)

/** The embedded layer in a folder of its own. */
export const embedded: Layer.Layer<Embedded.Services, unknown> = Layer.unwrap(
  Effect.map(tempDirectory, (directory) => Layer.provideMerge(stopAll, inDirectory(directory)))
)
