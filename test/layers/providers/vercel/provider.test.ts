/** The provider suite over Vercel: the vendor's real SDK against the emulator. */
import { Effect } from "effect"
import { suite } from "../../../../src/testing/ProviderSuite.ts"
import { full } from "../../../support/full.ts"
import { provider, suiteOptions } from "./support.ts"

suite(
  "vercel",
  Effect.map(provider(), (made) => made.provider),
  { ...suiteOptions, inputMebibytes: full ? 16 : 6 }
)
