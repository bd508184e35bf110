/** The provider over the emulator, by the vendor's real SDK. */
import { ConfigProvider, Context, Effect, Layer, Redacted, Schedule } from "effect"
import * as Vercel from "../../../../src/layers/providers/Vercel.ts"
import * as Memory from "../../../../src/layers/stores/Memory.ts"
import * as RecoveryPolicy from "../../../../src/services/RecoveryPolicy.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import type * as Suite from "../../../../src/testing/ProviderSuite.ts"
import * as Emulator from "../../../emulators/vercel/server.ts"
import { counting } from "../../../support/counting.ts"

/** Options of the provider for this emulator. */
export const optionsFor = (emulator: Emulator.VercelEmulator): Vercel.Options => ({
  token: Redacted.make(emulator.credentials.token),
  teamId: emulator.credentials.teamId,
  projectId: emulator.credentials.projectId,
  fetch: emulator.fetch,
  killGrace: "500 millis",
  // The emulator's guests share the host's /tmp; this is what each has for itself.
  guestDirectory: "../tmp/.effect-sandbox"
})

type More = Partial<Vercel.Options> | ((emulator: Emulator.VercelEmulator) => Partial<Vercel.Options>)

const withMore = (emulator: Emulator.VercelEmulator, more: More): Vercel.Options => ({
  ...optionsFor(emulator),
  ...(typeof more === "function" ? more(emulator) : more)
})

/** An emulator and a provider over it. */
export const provider = (options?: Emulator.Options, more: More = {}) =>
  Effect.gen(function* () {
    const emulator = yield* Emulator.make(options)
    const made = yield* Vercel.make(withMore(emulator, more))
    return { emulator, provider: made }
  })

/** Fetches that say how many bytes of their answers were read. */
export const metered = () => {
  let taken = 0
  const of =
    (fetch: typeof globalThis.fetch): typeof globalThis.fetch =>
    async (input, init) => {
      const response = await fetch(input, init)
      const count = new TransformStream<Uint8Array, Uint8Array>({
        transform: (chunk, controller) => {
          taken += chunk.length
          controller.enqueue(chunk)
        }
      })
      return new Response(response.body?.pipeThrough(count) ?? null, response)
    }
  /** Nothing was read for a while. Whoever reads ahead goes on as long as something comes. */
  const still = Effect.gen(function* () {
    for (let before = -1; before !== taken;) {
      before = taken
      yield* Effect.sleep("300 millis")
    }
  })
  return { of, still, taken: () => taken }
}

/** The emulator of a test. */
export class Vendor extends Context.Service<Vendor, Emulator.VercelEmulator>()("test/Vendor") {}

const soon = Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: 20 }), RecoveryPolicy.respectRetryAfter)

/** Tries again soon, so that tests of failures do not wait; asks for patience are kept. */
const brief = Layer.succeed(RecoveryPolicy.RecoveryPolicy, {
  ...RecoveryPolicy.defaults,
  connect: soon,
  start: soon,
  recreate: soon
})

/** The service over an emulator of its own and the memory store, both counted. Nothing of the machine's own settings. */
export const service = (options: Emulator.Options = {}, more: More = {}, settings: Record<string, string> = {}) =>
  Layer.unwrap(
    Effect.map(Emulator.make(options), (emulator) =>
      SandboxService.layer.pipe(
        Layer.provideMerge(Vercel.layer(withMore(emulator, more))),
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

/** What the provider suite expects of Vercel. */
export const suiteOptions: Suite.Options = {
  capabilities: {
    processes: { stdin: true, signalsObservable: false, recorded: true, additionalFds: false },
    files: {
      openSurvivesRename: false,
      atomicExclusiveCreate: true,
      watchEvents: false,
      inodes: true,
      subSecondTimes: true
    },
    ports: 15,
    checkpoints: { stopsProcesses: true, comments: false },
    extendTimeout: true,
    persistent: true
  },
  config: { persistent: true, deleteOnStop: true },
  holdsBack: false,
  redactedArguments: true,
  bindingModes: process.getuid?.() !== 0
}
