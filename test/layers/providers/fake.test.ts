/** The provider suite over the fake provider, and what only it can do. */
import * as Fake from "../../../src/layers/providers/Fake.ts"
import { suite } from "../../../src/testing/ProviderSuite.ts"

suite("fake", Fake.make(), {
  capabilities: {
    processes: { stdin: true, signalsObservable: true, recorded: true, additionalFds: false },
    files: {
      openSurvivesRename: true,
      atomicExclusiveCreate: true,
      watchEvents: true,
      inodes: true,
      subSecondTimes: true
    },
    ports: 65535,
    checkpoints: { stopsProcesses: false, comments: true },
    extendTimeout: true,
    persistent: true
  },
  holdsBack: true,
  redactedArguments: true,
  interpreted: true
})
