/** The files half of the platform suite over guests with either kind of tools; their programs would be Node's own. */
import { describe, it } from "@effect/vitest"
import { suite } from "../../src/testing/PlatformSuite.ts"
import { applets, busybox, hostPath, options, platform } from "../support/guests.ts"

suite("files of a guest with GNU tools", platform(hostPath), { ...options(true), parts: ["files"] })

if (busybox === "") {
  describe.skip("Platform: files of a guest with busybox: there is no busybox on the PATH", () => {
    it("is skipped", () => {})
  })
} else {
  suite("files of a guest with busybox", platform(applets), { ...options(false), parts: ["files"] })
}
