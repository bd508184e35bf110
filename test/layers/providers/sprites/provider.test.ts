/** The provider suite over Sprites: requests and WebSockets against the emulator. */
import { Effect } from "effect"
import { suite } from "../../../../src/testing/ProviderSuite.ts"
import { full } from "../../../support/full.ts"
import { omitted } from "../../../support/omitted.ts"
import { provider } from "./support.ts"

suite(
  "sprites",
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
      ports: 1,
      checkpoints: { stopsProcesses: true, comments: true },
      extendTimeout: true,
      persistent: true
    },
    holdsBack: false,
    redactedArguments: true,
    inputMebibytes: full ? 16 : 6,
    omits: omitted("sprites"),
    // The launcher has more of them over guests that cost no connection.
    propertyRuns: 4,
    bindingModes: process.getuid?.() !== 0
  }
)

// Files and programs are derived as they are over a local guest; here each of their commands costs a connection.
if (full) await import("./platform.cases.ts")
