/** The provider suite's cases about processes, over a machine that has nothing but the launcher. */
import { it, layer } from "@effect/vitest"
import { Effect, Layer, Option, Schedule, Stream } from "effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Machine, ProviderCapabilities } from "../../../src/services/SandboxProvider.ts"
import { make } from "../../../src/services/SandboxProvider.ts"
import * as Processes from "../../../src/testing/internal/providerProcesses.ts"
import * as Recorded from "../../../src/testing/internal/providerRecorded.ts"
import type { Options } from "../../../src/testing/internal/providers.ts"
import { request, Subject } from "../../../src/testing/internal/providers.ts"
import type { Guest, Loopback } from "../../support/loopback.ts"
import { full } from "../../support/full.ts"
import { guests, isInstalled, loopback } from "../../support/loopback.ts"

const capabilities: ProviderCapabilities = {
  processes: { stdin: true, signalsObservable: false, recorded: true, additionalFds: false },
  files: {
    openSurvivesRename: false,
    atomicExclusiveCreate: false,
    watchEvents: false,
    inodes: false,
    subSecondTimes: false
  },
  ports: 0,
  checkpoints: false,
  extendTimeout: false,
  persistent: false
}

/** Files straight from this machine's disk: what is tested here are processes. */
const machineOf = (guest: Loopback): Machine => ({
  ref: { externalId: guest.root, incarnation: "one" },
  url: Option.none(),
  workspaceRoot: guest.work,
  metadata: {},
  ...guest.launcher,
  readFile: (path) =>
    Stream.suspend(() => Stream.make(new Uint8Array(Fs.readFileSync(Path.resolve(guest.work, path))))).pipe(
      Stream.catchDefect(() => Stream.fail(guest.failure("readFile")))
    ),
  writeFiles: (entries) =>
    Effect.sync(() => {
      for (const { content, mode, path } of entries) {
        if (!(content instanceof Uint8Array)) throw new Error("no streams here")
        Fs.writeFileSync(Path.resolve(guest.work, path), content, mode === undefined ? {} : { mode })
      }
      return []
    }),
  fileSystem: {},
  createCheckpoint: Option.none(),
  portUrl: Option.none(),
  extendTimeout: Option.none(),
  stop: () => Effect.void
})

const suite = (guest: Guest, turns: boolean) => {
  const options: Options = { capabilities, redactedArguments: true, propertyRuns: 10, timeout: 60_000 }
  const subject = Layer.effect(
    Subject,
    Effect.gen(function* () {
      const machine = machineOf(
        yield* loopback(guest, {
          options: { turns, retry: Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(100)]) }
        })
      )
      const provider = make({
        kind: "loopback",
        capabilities,
        resolve: () => Effect.succeed({ persistent: false, deleteOnStop: true, ports: [] }),
        create: () => Effect.succeed(machine),
        connect: () => Effect.succeed(machine),
        find: () => Stream.empty,
        list: () => Stream.empty,
        stop: () => Effect.void,
        checkpoints: Option.none()
      })
      const created = yield* provider.create(yield* request(provider, {}, "suite"))
      return Subject.of({ provider, machine: created, namespace: "suite", config: {} })
    })
  )
  layer(subject, { excludeTestServices: true, timeout: 60_000 })(
    `processes of the launcher on ${guest.name}${turns ? ", in turns" : ""}`,
    (it) => {
      Processes.register(it, options)
      Recorded.register(it, options)
    }
  )
}

// In short runs the provider suite meets the launcher in the providers `vercel` and, in turns, `daytona`, on dash.
if (!full) it.skip("processes of the launcher: npm run test:full", () => {})
for (const guest of full ? guests : []) {
  for (const turns of [false, true]) {
    if (isInstalled(guest)) suite(guest, turns)
    else it.skip(`processes of the launcher on ${guest.name}: it is not installed here`, () => {})
  }
}
