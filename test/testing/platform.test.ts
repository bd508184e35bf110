/** The platform suite over its reference, the platform of Node itself. */
import { NodeServices } from "@effect/platform-node"
import { suite } from "../../src/testing/PlatformSuite.ts"
import { realPlatform } from "../support/capabilities.ts"

suite("Node", NodeServices.layer, {
  ...realPlatform,
  // Node's layer hands on the descriptors of the process.
  inheritsStdio: false,
  redactedArguments: true,
  failureEndsGroup: true,
  startErrorsTyped: false
})
