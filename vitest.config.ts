import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

/** Files that need a process of their own. */
const isolated = [
  // `Testing.passing` lets virtual time pass while the process has nothing open: what another file left would look like work.
  "test/testing/*.test.ts",
  "test/chaos.test.ts",
  "test/programs/reconcile.test.ts",
  "test/services/{recoveryPolicies,repopulate,skills}.test.ts",
  // They start many processes, and what a fork costs grows with the memory of the forking one; or they measure memory.
  "test/{daytonaLocal,examples,package}.test.ts",
  "test/emulators/{daytona,sprites,vercel,vercelFaults}.test.ts",
  "test/layers/internal/launcher*.test.ts",
  "test/layers/providers/**/*.test.ts",
  "test/layers/stores/{multiProcess,postgres}.test.ts",
  "test/services/{crash,crashMatrix,crashSignals,guestFiles,guestFilesCosts,platform,Sandbox,SandboxService}.test.ts"
]

export default defineConfig({
  test: {
    pool: "forks",
    fileParallelism: true,
    // One more than cores to count on: a third of the time is waiting for processes.
    maxWorkers: 3,
    // For the many programs that tests start: each would compile Effect anew, which takes half a second.
    env: { NODE_COMPILE_CACHE: fileURLToPath(new URL("node_modules/.cache/compiled", import.meta.url)) },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: "isolated",
          include: isolated
        }
      },
      {
        extends: true,
        test: {
          name: "shared",
          include: ["test/**/*.test.ts"],
          exclude: ["test/fixtures/**", ...isolated],
          // One worker for many files: loading Effect and vitest takes longer than most of them.
          isolate: false
        }
      }
    ]
  }
})
