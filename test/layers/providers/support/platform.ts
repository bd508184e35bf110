/** The platform suite over a vendor: every operation by commands in the guest, to the emulator. */
import { Effect, Layer } from "effect"
import * as Sandbox from "../../../../src/services/Sandbox.ts"
import type { SandboxService } from "../../../../src/services/SandboxService.ts"
import { suite } from "../../../../src/testing/PlatformSuite.ts"

const root = process.getuid?.() === 0

/** Registers it over a service of its own. */
export const platformOver = <E>(name: string, service: Layer.Layer<SandboxService, E>): void =>
  suite(
    name,
    Layer.unwrap(Effect.map(Sandbox.create({ timeout: "2 hours" }), (sandbox) => sandbox.platform)).pipe(
      Layer.provide(service)
    ),
    {
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
    }
  )
