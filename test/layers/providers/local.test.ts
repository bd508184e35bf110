/**
 * The provider suite over the local provider, and what it has of its own, but what takes long. In one file, because each file of tests
 * loads all of Effect and of this library anew.
 */
import { Effect } from "effect"
import * as Local from "../../../src/layers/providers/Local.ts"
import { suite } from "../../../src/testing/ProviderSuite.ts"
import { nativeFiles } from "../../support/capabilities.ts"
import { localRoot } from "./support/local.ts"

suite(
  "local",
  Effect.flatMap(localRoot, (root) =>
    Local.make({ root, isolation: "none", killGrace: "500 millis", supervisorIdle: "200 millis" })
  ),
  {
    capabilities: {
      processes: { stdin: true, signalsObservable: true, recorded: true, additionalFds: true },
      files: nativeFiles,
      ports: 65535,
      checkpoints: { stopsProcesses: false, comments: true },
      extendTimeout: true,
      persistent: true
    },
    holdsBack: true,
    redactedArguments: false,
    bindingModes: process.getuid?.() !== 0
  }
)

await import("./localRecords.cases.ts")
await import("./localState.cases.ts")
await import("./localStateFixes.cases.ts")
await import("./localSupervisorFixes.cases.ts")
await import("./localFull.cases.ts")
