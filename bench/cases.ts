/** Every benchmark, in the order in which they run. Each loads only what it measures: what else is in memory costs time too. */
import type { Bench } from "./harness.ts"

export interface Case {
  readonly name: string
  readonly about: string
  readonly load: () => Promise<Bench>
}

export const cases: ReadonlyArray<Case> = [
  {
    name: "run-command",
    about: 'a warm runCommand("true") beside Effect\'s own ChildProcessSpawner',
    load: () => import("./cases/commands.ts").then(({ runCommand }) => runCommand)
  },
  {
    name: "run-process",
    about: "a recorded command in SQLite, waited for, beside Effect's own ChildProcessSpawner",
    load: () => import("./cases/commands.ts").then(({ runProcess }) => runProcess)
  },
  {
    name: "store-writes",
    about: "what a recorded command that says nothing writes into the store and the log",
    load: () => import("./cases/counts.ts").then(({ storeWrites }) => storeWrites)
  },
  {
    name: "stream-1gib",
    about: "1 GiB of output to the caller, beside the raw pipe of node:child_process and Effect's own spawner",
    load: () => import("./cases/streams.ts").then(({ streamGibibyte }) => streamGibibyte)
  },
  {
    name: "stream-memory",
    about: "by how much resident memory grows during 1 GiB of output, also when the consumer is slow",
    load: () => import("./cases/streams.ts").then(({ streamMemory }) => streamMemory)
  },
  {
    name: "durable-log",
    about: "a recorded command with much output into SQLite: from the start to the last byte in the log",
    load: () => import("./cases/log.ts").then(({ durableLog }) => durableLog)
  },
  {
    name: "burst",
    about: "what 100,000 lines, each a write of its own, cost in appends to the log",
    load: () => import("./cases/counts.ts").then(({ burst }) => burst)
  },
  {
    name: "page",
    about: "a page of 100 out of 100,000 records in SQLite beside one out of 1,000",
    load: () => import("./cases/page.ts").then(({ page }) => page)
  },
  {
    name: "small-files",
    about: "5,000 small files written through a sandbox's platform, 16 at a time, beside tar x of the same tree",
    load: () => import("./cases/platform.ts").then(({ smallFiles }) => smallFiles)
  },
  {
    name: "file-memory",
    about: "by how much resident memory grows while 1 GiB is written to, and read from, a file of a sandbox",
    load: () => import("./cases/platform.ts").then(({ fileMemory }) => fileMemory)
  },
  {
    name: "stat",
    about: "stat of 1,000 files of a sandbox in sequence, beside node:fs/promises",
    load: () => import("./cases/platform.ts").then(({ stat }) => stat)
  },
  {
    name: "derived-listing",
    about: "what a recursive listing of 10,000 entries asks of a guest that can only run commands",
    load: () => import("./cases/platform.ts").then(({ derivedListing }) => derivedListing)
  },
  {
    name: "import",
    about: 'import("effect-sandbox") beside importing the same modules of effect, each in a fresh process',
    load: () => import("./cases/importing.ts").then(({ importing }) => importing)
  }
]
