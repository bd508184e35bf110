/** The provider over the emulator of Sprites, which may be in another process. */
import * as Redacted from "effect/Redacted"
import type * as Sprites from "../../src/layers/providers/Sprites.ts"

/** Options of the provider for an emulator. */
export const optionsFor = (emulator: { readonly origin: string; readonly token: string }): Sprites.Options => ({
  token: Redacted.make(emulator.token),
  baseUrl: emulator.origin,
  killGrace: "500 millis",
  // The emulator's machines share the host's directories; these are what each has for itself.
  guestDirectory: "../../var/.effect-sandbox",
  taskSocket: "../../.sprite/api.sock"
})
