/** The provider suite over Daytona: the vendor's real SDK against the emulator, without its newer process API and with it. */
import { layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Daytona from "../../../../src/layers/providers/daytona/provider.ts"
import * as Recorded from "../../../../src/testing/internal/providerRecorded.ts"
import * as P from "../../../../src/testing/internal/providers.ts"
import { type Options, suite } from "../../../../src/testing/ProviderSuite.ts"
import * as Emulator from "../../../emulators/daytona/server.ts"
import { full } from "../../../support/full.ts"
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
  bindingModes: process.getuid?.() !== 0
}

suite(
  "daytona",
  Effect.map(provider(), (made) => made.provider),
  options
)

/** Every read is followed. */
const followed = Effect.gen(function* () {
  const emulator = yield* Emulator.make({ processes: true })
  return (yield* Daytona.make(optionsFor(emulator), 0)).provider
})

if (full) suite("daytona, followed", followed, options)
else {
  const subject = Layer.effect(
    P.Subject,
    Effect.gen(function* () {
      const provider = yield* followed
      const machine = yield* provider.create(yield* P.request(provider, {}, "suite"))
      return P.Subject.of({ provider, machine, namespace: "suite", config: {} })
    })
  )
  layer(subject, { excludeTestServices: true })("recorded processes: daytona, followed", (it) =>
    Recorded.register(it, options)
  )
}
