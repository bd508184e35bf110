/** What programs are tested on: the library over machines in memory, and over this machine. */
import { NodeServices } from "@effect/platform-node"
import { Context, Effect, Layer } from "effect"
import * as Fake from "../../src/layers/providers/Fake.ts"
import type { SandboxService } from "../../src/services/SandboxService.ts"
import type { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { embedded } from "./embedded.ts"

/** What every program that a guest was asked to run was given: argv, and the environment without what was redacted. */
export class Commands extends Context.Service<Commands, () => string>()("test/Commands") {}

export interface World {
  readonly name: "fake" | "local"
  readonly layer: Layer.Layer<SandboxService | SandboxStore | Commands | NodeServices.NodeServices, unknown>
}

const inMemory = Layer.effect(
  Commands,
  Effect.map(Fake.Cloud, (cloud) => () => JSON.stringify(cloud.commands))
).pipe(Layer.provideMerge(Testing.layer()))

export const worlds: ReadonlyArray<World> = [
  { name: "fake", layer: Layer.merge(inMemory, NodeServices.layer) },
  {
    name: "local",
    layer: Layer.mergeAll(
      embedded,
      Layer.succeed(Commands, () => ""),
      NodeServices.layer
    )
  }
]
