/** The files half of the platform suite over guests with either kind of tools; their programs would be Node's own. */
import { describe, it } from "@effect/vitest"
import { suite } from "../../src/testing/PlatformSuite.ts"
import { full } from "../support/full.ts"
import { applets, busybox, hostPath, options, platform } from "../support/guests.ts"

suite("files of a guest with GNU tools", platform(hostPath), {
  ...options(true),
  parts: ["files"],
  thorough: full
})

if (!full) {
  // Each operation by busybox's tools: `guestFilesCosts.test.ts` has its corners in short runs.
  describe.skip("Platform: files of a guest with busybox: npm run test:full", () => {
    it("is skipped", () => {})
  })
} else if (busybox === "") {
  describe.skip("Platform: files of a guest with busybox: there is no busybox on the PATH", () => {
    it("is skipped", () => {})
  })
} else {
  suite("files of a guest with busybox", platform(applets), { ...options(false), parts: ["files"] })
}
