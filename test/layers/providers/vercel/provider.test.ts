/** The provider suite over Vercel: the vendor's real SDK against the emulator. */
import { Effect } from "effect"
import { suite } from "../../../../src/testing/ProviderSuite.ts"
import { provider } from "./support.ts"

suite(
  "vercel",
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
      ports: 15,
      checkpoints: { stopsProcesses: true, comments: false },
      extendTimeout: true,
      persistent: true
    },
    config: { persistent: true, deleteOnStop: true },
    holdsBack: false,
    redactedArguments: true,
    bindingModes: process.getuid?.() !== 0
  }
)
