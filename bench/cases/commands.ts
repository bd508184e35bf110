/** What one command costs, beside Effect's own spawner. */
import { NodeServices } from "@effect/platform-node"
import { Effect, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { Counts } from "../../test/support/counting.ts"
import type { Case } from "../harness.ts"
import { atMost, interleave, ratio, timed } from "../harness.ts"
import { sandbox, services } from "../support.ts"

const repeat =
  (times: number) =>
  <E, R>(effect: Effect.Effect<unknown, E, R>) =>
    timed(
      Effect.gen(function* () {
        for (let i = 0; i < times; i++) yield* effect
      })
    )

/** The same work as `runCommand`: no input, both outputs as text, the exit code. */
const spawned = Effect.scoped(
  Effect.gen(function* () {
    const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
    const handle = yield* spawner.spawn(ChildProcess.make("true", [], { stdin: "ignore" }))
    return yield* Effect.all(
      [
        Stream.mkString(Stream.decodeText(handle.stdout)),
        Stream.mkString(Stream.decodeText(handle.stderr)),
        handle.exitCode
      ],
      { concurrency: "unbounded" }
    )
  })
)

export const runCommand: Case = {
  name: "run-command",
  about: 'a warm runCommand("true") beside Effect\'s own ChildProcessSpawner',
  run: Effect.gen(function* () {
    const { sandboxes, sandboxId } = yield* sandbox
    const rounds = yield* interleave(
      {
        runCommand: repeat(100)(sandboxes.runCommand(sandboxId, "true")),
        spawner: repeat(100)(spawned)
      },
      { warmUp: 2 }
    )
    return [atMost(1.3, { name: "run-command", unit: "x", ...ratio(rounds, "runCommand", "spawner") })]
  }).pipe(Effect.scoped, Effect.provide([services, NodeServices.layer]))
}

export const runProcess: Case = {
  name: "run-process",
  about: "a recorded command in SQLite, waited for, beside Effect's own ChildProcessSpawner",
  run: Effect.gen(function* () {
    const { sandboxes, sandboxId } = yield* sandbox
    const rounds = yield* interleave(
      {
        runCommandProcess: repeat(50)(sandboxes.runCommandProcess(sandboxId, "true", [], { mode: "foreground" })),
        spawner: repeat(50)(spawned)
      },
      { warmUp: 2 }
    )
    return [atMost(4, { name: "run-process", unit: "x", ...ratio(rounds, "runCommandProcess", "spawner") })]
  }).pipe(Effect.scoped, Effect.provide([services, NodeServices.layer]))
}

export const storeWrites: Case = {
  name: "store-writes",
  about: "what a recorded command that says nothing writes into the store and the log",
  run: Effect.gen(function* () {
    const { sandboxes, sandboxId } = yield* sandbox
    const counts = yield* Counts
    yield* sandboxes.runCommandProcess(sandboxId, "true", [], { mode: "foreground" })
    const each: Array<number> = []
    let calls = ""
    for (let i = 0; i < 20; i++) {
      counts.reset()
      yield* sandboxes.runCommandProcess(sandboxId, "true", [], { mode: "foreground" })
      each.push(counts.writes())
      if (counts.writes() === Math.max(...each)) {
        calls = [...counts.calls].map(([method, count]) => `${method} ${count}`).join(", ")
      }
    }
    return [
      atMost(4, {
        name: "store-writes",
        value: Math.max(...each),
        unit: "writes",
        note: `the most of ${each.length} commands, reads too: ${calls}`
      })
    ]
  }).pipe(Effect.scoped, Effect.provide(services))
}
