/** Which vendors are run against. */
import { assert, describe, it } from "@effect/vitest"
import { skipped, vendorsOf } from "./live.ts"

describe("SANDBOX_LIVE", () => {
  it("names vendors, and nothing else", () => {
    assert.deepStrictEqual([...vendorsOf(" vercel,, vercel ")], ["vercel"])
    assert.deepStrictEqual([...vendorsOf("")], [])
    assert.throws(() => vendorsOf("vercle"), /vercle is none of vercel/)
  })

  it("says why a vendor is left out", () => {
    assert.include(skipped("vercel", ["TOKEN"], {}), "does not name vercel")
    assert.include(
      skipped("vercel", ["TOKEN", "TEAM"], { SANDBOX_LIVE: "vercel", TOKEN: " ", TEAM: "t" }),
      "TOKEN not set"
    )
    assert.isUndefined(skipped("vercel", ["TOKEN"], { SANDBOX_LIVE: "vercel", TOKEN: "t" }))
  })
})
