/** The platform suite over Vercel: every operation by commands in the guest, through the real SDK and the emulator. */
import { Effect, Layer } from "effect"
import * as Sandbox from "../../../../src/services/Sandbox.ts"
import { suite } from "../../../../src/testing/PlatformSuite.ts"
import { service } from "./support.ts"

const root = process.getuid?.() === 0

const vercel = Layer.unwrap(Effect.map(Sandbox.create({ timeout: "2 hours" }), (sandbox) => sandbox.platform)).pipe(
  Layer.provide(service())
)

suite("vercel", vercel, {
  files: {
    openSurvivesRename: false,
    atomicExclusiveCreate: true,
    watchEvents: false,
    inodes: true,
    subSecondTimes: true
  },
  realProcesses: true,
  additionalFds: false,
  signalsObservable: false,
  stdin: true,
  inheritsStdio: true,
  redactedArguments: true,
  unref: false,
  attached: false,
  interpreters: false,
  bindingModes: !root,
  chown: root,
  timeout: 60_000
})
