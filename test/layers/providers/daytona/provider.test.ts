/** The provider suite over Daytona: the vendor's real SDK against the emulator, without its newer process API and with it. */
import { layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Daytona from "../../../../src/layers/providers/daytona/provider.ts"
import * as Machines from "../../../../src/testing/internal/providerMachines.ts"
import * as Processes from "../../../../src/testing/internal/providerProcesses.ts"
import * as Recorded from "../../../../src/testing/internal/providerRecorded.ts"
import * as P from "../../../../src/testing/internal/providers.ts"
import { type Options, suite } from "../../../../src/testing/ProviderSuite.ts"
import * as Emulator from "../../../emulators/daytona/server.ts"
import { full } from "../../../support/full.ts"
import { omitted } from "../../../support/omitted.ts"
import { optionsFor, provider } from "./support.ts"

const options: Options = {
  capabilities: {
    processes: { stdin: true, signalsObservable: false, recorded: true, additionalFds: false },
    files: {
      openSurvivesRename: false,
      atomicExclusiveCreate: true,
      watchEvents: false,
      inodes: true,
      subSecondTimes: true
    },
    ports: 64,
    checkpoints: { stopsProcesses: false, comments: false },
    extendTimeout: true,
    persistent: true
  },
  config: { persistent: true, deleteOnStop: true },
  // What the guest keeps of it is its own disk: see the launcher's quota.
  holdsBack: false,
  redactedArguments: true,
  // The launcher has them all in its own tests.
  propertyRuns: 5,
  // More than may lie in the guest unread.
  inputMebibytes: full ? 16 : 4,
  omits: omitted("daytona"),
  bindingModes: process.getuid?.() !== 0
}

const inTurns = Effect.map(provider(), (made) => made.provider)

/** Every read is followed. */
const followed = Effect.gen(function* () {
  const emulator = yield* Emulator.make({ processes: true })
  return (yield* Daytona.make(optionsFor(emulator), 0)).provider
})

const subject = (make: typeof inTurns) =>
  Layer.effect(
    P.Subject,
    Effect.gen(function* () {
      const provider = yield* make
      const config = options.config ?? {}
      const machine = yield* provider.create(yield* P.request(provider, config, "suite"))
      return P.Subject.of({ provider, machine, namespace: "suite", config })
    })
  )

if (full) {
  suite("daytona", inTurns, options)
  suite("daytona, followed", followed, options)
} else {
  // In short runs each case meets one of the two.
  layer(subject(inTurns), { excludeTestServices: true })("SandboxProvider: daytona", (it) => {
    Processes.register(it, options)
    Machines.registerFiles(it, options)
    Machines.registerLife(it, options)
  })
  layer(subject(followed), { excludeTestServices: true })("SandboxProvider: daytona, followed", (it) =>
    Recorded.register(it, options)
  )
}
