/** The provider over the emulator. */
import { ConfigProvider, Context, Effect, Layer, Schedule } from "effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Sprites from "../../../../src/layers/providers/Sprites.ts"
import * as Memory from "../../../../src/layers/stores/Memory.ts"
import * as RecoveryPolicy from "../../../../src/services/RecoveryPolicy.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import * as Emulator from "../../../emulators/sprites/server.ts"
import { counting } from "../../../support/counting.ts"
import { optionsFor } from "../../../support/sprites.ts"

export { optionsFor }

/** An emulator and a provider over it. */
export const provider = (options?: Emulator.Options, more: Partial<Sprites.Options> = {}) =>
  Effect.gen(function* () {
    const emulator = yield* Emulator.make(options)
    const made = yield* Sprites.make({ ...optionsFor(emulator), ...more }).pipe(Effect.provide(FetchHttpClient.layer))
    return { emulator, provider: made }
  })

/** The emulator of a test. */
export class Vendor extends Context.Service<Vendor, Emulator.SpritesEmulator>()("test/Sprites/Vendor") {}

const soon = Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: 20 }), RecoveryPolicy.respectRetryAfter)

/** Tries again soon, so that tests of failures do not wait; asks for patience are kept. */
const brief = Layer.succeed(RecoveryPolicy.RecoveryPolicy, {
  ...RecoveryPolicy.defaults,
  connect: soon,
  start: soon,
  recreate: soon
})

/** The service over an emulator of its own and the memory store, both counted. Nothing of the machine's own settings. */
export const service = (
  options: Emulator.Options = {},
  more: Partial<Sprites.Options> = {},
  settings: Record<string, string> = {}
) =>
  Layer.unwrap(
    Effect.map(Emulator.make(options), (emulator) =>
      SandboxService.layer.pipe(
        Layer.provideMerge(Sprites.layer({ ...optionsFor(emulator), ...more })),
        Layer.provideMerge(counting(Layer.fresh(Memory.layer({ namespace: "tests" })))),
        Layer.provideMerge(Layer.succeed(Vendor, emulator)),
        Layer.provide(FetchHttpClient.layer)
      )
    )
  ).pipe(
    Layer.provide(brief),
    Layer.provide(
      ConfigProvider.layer(ConfigProvider.fromUnknown({ SANDBOX_REQUEST_TIMEOUT: "5 seconds", ...settings }))
    )
  )
