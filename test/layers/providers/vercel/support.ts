/** The provider over the emulator, by the vendor's real SDK. */
import { Effect, Redacted } from "effect"
import * as Vercel from "../../../../src/layers/providers/Vercel.ts"
import * as Emulator from "../../../emulators/vercel/server.ts"

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

/** An emulator and a provider over it. */
export const provider = (options?: Emulator.Options, more: Partial<Vercel.Options> = {}) =>
  Effect.gen(function* () {
    const emulator = yield* Emulator.make(options)
    const made = yield* Vercel.make({ ...optionsFor(emulator), ...more })
    return { emulator, provider: made }
  })

/** The layer of the provider over an emulator that is given. */
export const layerOver = (emulator: Emulator.VercelEmulator) => Vercel.layer(optionsFor(emulator))
