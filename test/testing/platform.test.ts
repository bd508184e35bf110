/** The platform suite over its reference, the platform of Node itself. */
import { NodeServices } from "@effect/platform-node"
import { suite } from "../../src/testing/PlatformSuite.ts"

const root = process.getuid?.() === 0

suite("Node", NodeServices.layer, {
  files: {
    openSurvivesRename: true,
    atomicExclusiveCreate: true,
    watchEvents: true,
    inodes: true,
    subSecondTimes: true
  },
  realProcesses: true,
  additionalFds: true,
  signalsObservable: true,
  stdin: true,
  // Node's layer hands on the descriptors of the process.
  inheritsStdio: false,
  redactedArguments: true,
  recursiveListingFollows: true,
  failureEndsGroup: true,
  startErrorsTyped: false,
  bindingModes: !root,
  chown: root
})
