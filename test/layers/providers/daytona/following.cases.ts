/** The newer process API of the toolbox: what lasts is followed by it, and what is wrong with it is made good in turns. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Exit, Schedule, Scope } from "effect"
import * as Daytona from "../../../../src/layers/providers/daytona/provider.ts"
import type { Machine } from "../../../../src/services/SandboxProvider.ts"
import * as RecoveryPolicy from "../../../../src/services/RecoveryPolicy.ts"
import * as P from "../../../../src/testing/internal/providers.ts"
import * as Fault from "../../../emulators/daytona/faults.ts"
import * as Emulator from "../../../emulators/daytona/server.ts"
import { full } from "../../../support/full.ts"
import { optionsFor } from "./support.ts"

/** Tries again soon, and not often. */
const brief = {
  ...RecoveryPolicy.defaults,
  connect: Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: 3 }), RecoveryPolicy.respectRetryAfter)
}

/** With `turnsBefore` 0 every read is followed. */
const world = Effect.fnUntraced(function* (processes: boolean, turnsBefore?: number) {
  const emulator = yield* Emulator.make({ processes })
  const { provider } = yield* Daytona.make(optionsFor(emulator), turnsBefore)
  const machine = yield* provider.create(yield* P.request(provider, {}, "ns"))
  const readers = () => emulator.sandboxes().flatMap(({ guest }) => [...guest.started.values()])
  emulator.requests.reset()
  return { emulator, machine, readers }
})

const until = (reached: () => boolean): Effect.Effect<void> =>
  Effect.suspend(() => (reached() ? Effect.void : Effect.andThen(Effect.sleep("5 millis"), until(reached))))

/** Says something all the time until the file is there, which gets it past its turns; then this much more, and fails with 4. */
const lasting = (go: string, more: number) =>
  `echo run >>runs; while [ ! -e ${go} ]; do echo x; sleep 0.2; done; seq 1 ${more}; exit 4`

/** It all came, in order and once. */
const assertWhole = (result: P.Result, more: number) => {
  assert.deepStrictEqual(result.exit, P.exited(4))
  const expected = Array.from({ length: more }, (_, index) => `${index + 1}\n`).join("")
  assert.strictEqual(result.stdout.toString().replace(/^(x\n)+/, ""), expected)
}

const ran = (machine: Machine) => Effect.map(P.sh(machine, "cat runs"), ({ stdout }) => stdout.toString())

/** Runs one that lasts until `seen`. */
const run = (machine: Machine, seen: () => boolean, more: number) =>
  Effect.gen(function* () {
    const go = P.fresh("go")
    const process = yield* P.startSh(machine, lasting(go, more))
    yield* Effect.forkChild(Effect.andThen(until(seen), P.writeFile(machine, go, "")))
    return yield* P.collect(process)
  }).pipe(Effect.scoped)

/** A name that begins with this is for `npm run test:full`: a case like another one. */
const later = "[full] "

const live = (name: string, body: () => Effect.Effect<void, unknown, Scope.Scope>) => {
  if (full || !name.startsWith(later)) it.live(name.replace(later, ""), () => Effect.scoped(body()), 60_000)
}

describe("Daytona: the newer process API", () => {
  live("follows what lasts, has no part in what does not, and nothing of it stays", () =>
    Effect.gen(function* () {
      const { emulator, machine, readers } = yield* world(true)
      const { requests } = emulator
      assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
      assert.strictEqual(requests.count("toolbox.processes"), 0)
      const logs = () => requests.count("toolbox.processLogs")
      // The last is more than one reader says.
      for (const [index, more] of (full ? [10, 700_000] : [10]).entries()) {
        const before = logs()
        assertWhole(yield* run(machine, () => logs() > before, more), more)
        assert.strictEqual(requests.count("toolbox.processes"), 1)
        assert.strictEqual(logs(), index === 0 ? 1 : 3)
      }
      assert.deepStrictEqual(readers(), [])
      assert.strictEqual(requests.count("toolbox.processDelete"), logs())
      assert.strictEqual(requests.count("toolbox.processSignal"), 0)
      assert.strictEqual(yield* ran(machine), full ? "run\nrun\n" : "run\n")
    })
  )

  live("that is not there is asked for once", () =>
    Effect.gen(function* () {
      const { emulator, machine } = yield* world(false)
      const { requests } = emulator
      for (let times = 0; times < 2; times++) {
        requests.reset()
        assertWhole(yield* run(machine, () => requests.count("toolbox.execute") > 3, 10), 10)
        assert.strictEqual(requests.count("toolbox.processes"), times === 0 ? 1 : 0)
        assert.strictEqual(requests.count("toolbox.processStart"), 0)
      }
    })
  )

  for (const [name, endpoint, fault] of [
    ["whose events are cut", "toolbox.processLogs", Fault.cut(1_000)],
    ["[full] whose connection is reset", "toolbox.processLogs", Fault.resetAfter],
    ["[full] whose answer is lost", "toolbox.processStart", Fault.badGateway({ executed: true })],
    ["[full] that meets 429", "toolbox.processStart", Fault.rateLimited(0)],
    ["[full] whose probe fails", "toolbox.processes", Fault.status(503, "no")]
  ] as const) {
    live(`${name} is asked again, from the byte`, () =>
      Effect.gen(function* () {
        const { emulator, machine } = yield* world(true, 0)
        emulator.faults.inject(endpoint, fault)
        const ended = () => emulator.faults.pending === 0 && emulator.requests.count("toolbox.processLogs") > 1
        const once = () => emulator.faults.pending === 0 && emulator.requests.count("toolbox.processLogs") > 0
        assertWhole(yield* run(machine, endpoint === "toolbox.processLogs" ? ended : once, 5_000), 5_000)
        assert.strictEqual(yield* ran(machine), "run\n")
      })
    )
  }

  const answer = (status: number, body: string, type = "application/json"): Fault.Fault => ({
    _tag: "Answer",
    executed: false,
    status,
    headers: { "content-type": type },
    body
  })
  for (const [name, endpoint, fault] of [
    ["names no process", "toolbox.processStart", answer(201, "{}")],
    ["[full] wants something else", "toolbox.processStart", Fault.status(400, "command is required")],
    ["[full] does not find what it has", "toolbox.processStart", Fault.status(404, "no route")],
    ["[full] follows nothing", "toolbox.processLogs", answer(200, '{"frames":[],"eof":false}')],
    [
      "[full] tells what has no data",
      "toolbox.processLogs",
      answer(200, "event: log\ndata: {}\n\n", "text/event-stream")
    ],
    ["[full] answers with a page", "toolbox.processLogs", answer(200, "<html></html>", "text/html")]
  ] as const) {
    live(`${name.startsWith(later) ? later : ""}that ${name.replace(later, "")} is not used any more`, () =>
      Effect.gen(function* () {
        const { emulator, machine, readers } = yield* world(true, 0)
        const { faults, requests } = emulator
        faults.inject(endpoint, fault)
        let turns = -1
        const inTurns = () => {
          if (faults.pending > 0) return false
          if (turns < 0) turns = requests.count("toolbox.execute")
          return requests.count("toolbox.execute") > turns + 1
        }
        assertWhole(yield* run(machine, inTurns, 10), 10)
        assert.isAtMost(requests.count("toolbox.processStart"), 1)
        assert.deepStrictEqual(readers(), [])
        assert.strictEqual(yield* ran(machine), "run\n")
      })
    )
  }

  for (const [name, endpoint] of [
    ["that keeps back what it has", "toolbox.processLogs"],
    ["[full] that does not answer", "toolbox.processStart"],
    ["[full] that does not say whether it is there", "toolbox.processes"]
  ] as const) {
    live(`${name} is not waited for`, () =>
      Effect.gen(function* () {
        const { emulator, machine } = yield* world(true, 0)
        const never = Promise.withResolvers<void>()
        emulator.faults.inject(endpoint, Fault.gate({ before: never.promise }), { times: 9 })
        assertWhole(yield* run(machine, () => emulator.requests.count(endpoint) > 0, 10), 10)
        assert.strictEqual(emulator.requests.count(endpoint), 1)
        never.resolve()
      }).pipe(
        Effect.provideService(
          ConfigProvider.ConfigProvider,
          ConfigProvider.fromUnknown({ SANDBOX_REQUEST_TIMEOUT: "2 seconds" })
        )
      )
    )
  }

  for (const [name, endpoint, fault] of [
    ["[full] whose connections are cut at once", "toolbox.processLogs", Fault.resetBefore],
    ["that is always at fault", "toolbox.processStart", Fault.status(500, "no")]
  ] as const) {
    live(`${name} ends nothing`, () =>
      Effect.gen(function* () {
        const { emulator, machine } = yield* world(true, 0)
        emulator.faults.inject(endpoint, fault, { times: 999 })
        // More often than anything is tried in a row.
        assertWhole(yield* run(machine, () => emulator.requests.count("toolbox.processStart") > 6, 10), 10)
        assert.strictEqual(yield* ran(machine), "run\n")
      }).pipe(Effect.provideService(RecoveryPolicy.RecoveryPolicy, brief))
    )
  }

  live("leaves no reader behind when the service goes, and the process is gone on with", () =>
    Effect.gen(function* () {
      const { emulator, machine, readers } = yield* world(true, 0)
      const processId = P.newProcessId()
      const scope = yield* Scope.make()
      yield* P.startSh(machine, lasting("go", 100), { processId, lifetime: "recorded" }).pipe(Scope.provide(scope))
      yield* until(() => emulator.requests.count("toolbox.processLogs") > 0)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(readers(), [])
      assert.strictEqual(emulator.requests.count("toolbox.processSignal"), 1)
      yield* P.writeFile(machine, "go", "")
      const found = yield* P.power(yield* machine.findProcess(processId))
      const resumed = yield* machine.resume(found, { stdout: 0, stderr: 0 })
      assertWhole(yield* P.collect(resumed), 100)
    })
  )
})
