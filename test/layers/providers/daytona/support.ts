/** The provider over the emulator, by the vendor's real SDK. */
import { ConfigProvider, Context, Effect, Layer, Redacted, Schedule } from "effect"
import * as Daytona from "../../../../src/layers/providers/Daytona.ts"
import * as Memory from "../../../../src/layers/stores/Memory.ts"
import * as RecoveryPolicy from "../../../../src/services/RecoveryPolicy.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import * as Emulator from "../../../emulators/daytona/server.ts"
import { counting } from "../../../support/counting.ts"

/** Options of the provider for this emulator. */
export const optionsFor = (emulator: Emulator.DaytonaEmulator): Daytona.Options => ({
  apiKey: Redacted.make(emulator.apiKey),
  apiUrl: emulator.apiUrl,
  killGrace: "500 millis",
  // The emulator's guests share the host's /tmp and /dev/shm; these are what each has for itself.
  guestDirectory: "../tmp/.effect-sandbox",
  bootDirectory: "../shm"
})

/** An emulator and a provider over it. */
export const provider = (options?: Emulator.Options, more: Daytona.ConfigOptions = {}) =>
  Effect.gen(function* () {
    const emulator = yield* Emulator.make(options)
    const made = yield* Daytona.make({ ...optionsFor(emulator), ...more })
    return { emulator, provider: made }
  })

/** The emulator of a test. */
export class Vendor extends Context.Service<Vendor, Emulator.DaytonaEmulator>()("test/daytona/Vendor") {}

const soon = Schedule.exponential("20 millis", 1.5).pipe(Schedule.upTo({ times: 8 }), RecoveryPolicy.respectRetryAfter)

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
  more: Daytona.ConfigOptions = {},
  settings: Record<string, string> = {}
) =>
  Layer.unwrap(
    Effect.map(Emulator.make(options), (emulator) =>
      SandboxService.layer.pipe(
        Layer.provideMerge(Daytona.layer({ ...optionsFor(emulator), ...more })),
        Layer.provideMerge(counting(Layer.fresh(Memory.layer({ namespace: "tests" })))),
        Layer.provideMerge(Layer.succeed(Vendor, emulator))
      )
    )
  ).pipe(
    Layer.provide(brief),
    Layer.provide(
      ConfigProvider.layer(ConfigProvider.fromUnknown({ SANDBOX_REQUEST_TIMEOUT: "5 seconds", ...settings }))
    )
  )
