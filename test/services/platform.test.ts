/** The platform suite over sandboxes: what a program finds inside one is what Node has. */
import { Effect, Layer } from "effect"
import * as Sandbox from "../../src/services/Sandbox.ts"
import { suite } from "../../src/testing/PlatformSuite.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { nativeFiles, realPlatform } from "../support/capabilities.ts"
import { embedded } from "../support/embedded.ts"

const local = Layer.unwrap(Effect.map(Sandbox.create(), (sandbox) => sandbox.platform)).pipe(Layer.provide(embedded))

suite("local", local, {
  ...realPlatform,
  inheritsStdio: true,
  redactedArguments: false,
  // Every process of a sandbox has a group of its own, and a cookie by which it is found.
  attached: false,
  ownVariables: ["EFFECT_SANDBOX_COOKIE"]
})

const fake = Layer.unwrap(Effect.map(Sandbox.create(), (sandbox) => sandbox.platform)).pipe(
  Layer.provide(Testing.layer())
)

suite("fake", fake, {
  files: nativeFiles,
  realProcesses: false,
  additionalFds: false,
  signalsObservable: true,
  stdin: true,
  inheritsStdio: true,
  redactedArguments: true,
  unref: false,
  attached: false,
  specialFiles: false,
  sparseFiles: false,
  lineInput: false,
  chown: true
})
