/** What one command costs, beside Effect's own spawner. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as ChildProcess from "effect/process/ChildProcess"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import type { Bench } from "../harness.ts"
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

export const runCommand: Bench = Effect.gen(function* () {
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

export const runProcess: Bench = Effect.gen(function* () {
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
