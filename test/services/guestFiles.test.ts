/** The files half of the platform suite over guests with either kind of tools; their programs would be Node's own. */
import { describe, it, layer } from "@effect/vitest"
import * as Contents from "../../src/testing/internal/platformFilesContents.ts"
import * as Errors from "../../src/testing/internal/platformFilesErrors.ts"
import * as Info from "../../src/testing/internal/platformFilesInfo.ts"
import * as Names from "../../src/testing/internal/platformFilesNames.ts"
import * as Open from "../../src/testing/internal/platformFilesOpen.ts"
import * as Tree from "../../src/testing/internal/platformFilesTree.ts"
import * as Watch from "../../src/testing/internal/platformFilesWatch.ts"
import type { PathOf } from "../support/guests.ts"
import { applets, busybox, hostPath, options, platform } from "../support/guests.ts"

const suite = (tools: string, pathOf: PathOf, subSecondTimes: boolean) => {
  layer(platform(pathOf), { excludeTestServices: true })(`Platform: files of a guest with ${tools}`, (it) => {
    for (const part of [Info, Contents, Open, Tree, Names, Errors, Watch]) part.register(it, options(subSecondTimes))
  })
}

suite("GNU tools", hostPath, true)

if (busybox === "") {
  describe.skip("Platform: files of a guest with busybox: there is no busybox on the PATH", () => {
    it("is skipped", () => {})
  })
} else {
  suite("busybox", applets, false)
}
