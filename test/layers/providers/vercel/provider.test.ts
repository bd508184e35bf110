/** The provider suite over Vercel: the vendor's real SDK against the emulator. */
import { Effect } from "effect"
import { suite } from "../../../../src/testing/ProviderSuite.ts"
import { full } from "../../../support/full.ts"
import { omitted } from "../../../support/omitted.ts"
import { provider, suiteOptions } from "./support.ts"

suite(
  "vercel",
  Effect.map(provider(), (made) => made.provider),
  { ...suiteOptions, inputMebibytes: full ? 16 : 6, propertyRuns: full ? 30 : 5, omits: omitted("vercel") }
)
