/**
 * The provider suite against Vercel itself, with `SANDBOX_LIVE=vercel` and `SANDBOX_VERCEL_TOKEN`, `_TEAM_ID` and `_PROJECT_ID`. It
 * makes sandboxes of one vCPU, and deletes them.
 */
import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Vercel from "../../../../src/layers/providers/Vercel.ts"
import { required } from "../../../../src/layers/providers/vercel/credentials.ts"
import { suite } from "../../../../src/testing/ProviderSuite.ts"
import { skipped } from "../../../support/live.ts"
import { suiteOptions } from "./support.ts"

const reason = skipped("vercel", ["SANDBOX_VERCEL_TOKEN", "SANDBOX_VERCEL_TEAM_ID", "SANDBOX_VERCEL_PROJECT_ID"])

if (reason === undefined) {
  suite(
    "vercel, the vendor itself",
    Effect.flatMap(required, (credentials) => Vercel.make(credentials)),
    { ...suiteOptions, bindingModes: true }
  )
} else {
  describe("SandboxProvider: vercel, the vendor itself", () => {
    it.skip(`is not contacted: ${reason}`, () => {})
  })
}
