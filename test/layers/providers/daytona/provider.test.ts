/** The provider suite over Daytona: the vendor's real SDK against the emulator. */
import { Effect } from "effect"
import { suite } from "../../../../src/testing/ProviderSuite.ts"
import { provider } from "./support.ts"

suite(
  "daytona",
  Effect.map(provider(), (made) => made.provider),
  {
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
    bindingModes: process.getuid?.() !== 0
  }
)
