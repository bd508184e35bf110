import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/fixtures/**"],
    pool: "forks",
    // No file changes what another one sees, and Effect is loaded once a worker: it saves 0.7 s of a core for each of them.
    isolate: false,
    fileParallelism: true,
    // One more than cores to count on: a third of the time is waiting for processes.
    maxWorkers: 3,
    testTimeout: 30_000,
    hookTimeout: 30_000
  }
})
