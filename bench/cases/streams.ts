/** Output on its way to the caller: speed beside Node's own pipes and Effect's spawner, and the memory that it takes. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as ChildProcess from "effect/process/ChildProcess"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import { spawn } from "node:child_process"
import type { SandboxService } from "../../src/services/SandboxService.ts"
import type { Bench } from "../harness.ts"
import { atLeast, below, interleave, ratio, residentGrowth, timed } from "../harness.ts"
import { sandbox, services } from "../support.ts"

const gibi = 1024 ** 3

/** Cheap to make, so that the reader is what is measured. */
const zeros = (bytes: number) => ["if=/dev/zero", "bs=1048576", `count=${bytes / 1048576}`]

const expect = (wanted: number) => (got: number) =>
  got === wanted ? Effect.void : Effect.die(new Error(`${got} bytes arrived out of ${wanted}`))

const raw = Effect.callback<number>((resume) => {
  const child = spawn("dd", zeros(gibi), { stdio: ["ignore", "pipe", "ignore"] })
  let bytes = 0
  child.stdout.on("data", (chunk: Buffer) => {
    bytes += chunk.length
  })
  child.on("close", () => resume(Effect.succeed(bytes)))
}).pipe(Effect.flatMap(expect(gibi)))

const spawner = Effect.scoped(
  Effect.gen(function* () {
    const handle = yield* ChildProcessSpawner.ChildProcessSpawner.use((spawner) =>
      spawner.spawn(ChildProcess.make("dd", zeros(gibi), { stdin: "ignore", stderr: "ignore" }))
    )
    let bytes = 0
    yield* Stream.runForEachArray(handle.stdout, (chunks) =>
      Effect.sync(() => {
        for (const chunk of chunks) bytes += chunk.length
      })
    )
    yield* handle.exitCode
    return bytes
  })
).pipe(Effect.flatMap(expect(gibi)))

interface Slow {
  readonly millis: number
  readonly pulls: number
}

/** All of the output to a consumer; a slow one is held up in its first pulls. */
const streamed = (sandboxes: SandboxService["Service"], sandboxId: string, total: number, slow?: Slow) =>
  Effect.suspend(() => {
    let bytes = 0
    let pulls = 0
    return Stream.runForEachArray(sandboxes.streamCommand(sandboxId, "dd", zeros(total)), (events) =>
      Effect.suspend(() => {
        for (const event of events) if (event._tag === "stdout") bytes += event.bytes.length
        pulls++
        return slow !== undefined && pulls <= slow.pulls ? Effect.sleep(slow.millis) : Effect.void
      })
    ).pipe(Effect.andThen(Effect.suspend(() => expect(total)(bytes))))
  })

export const streamGibibyte: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  const rounds = yield* interleave({
    raw: timed(raw),
    spawner: timed(spawner),
    streamCommand: timed(streamed(sandboxes, sandboxId, gibi))
  })
  // Throughput is the inverse of time.
  return [
    atLeast(0.75, { name: "stream-1gib/raw", unit: "x", ...ratio(rounds, "raw", "streamCommand") }),
    atLeast(0.9, { name: "stream-1gib/spawner", unit: "x", ...ratio(rounds, "spawner", "streamCommand") })
  ]
}).pipe(Effect.scoped, Effect.provide([services, NodeServices.layer]))

export const streamMemory: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  // As much garbage as V8 lets lie about is there before the measuring starts: what grows then is what is kept.
  yield* streamed(sandboxes, sandboxId, gibi / 4)
  const fast = yield* residentGrowth(streamed(sandboxes, sandboxId, gibi))
  const slow: Slow = { millis: 10, pulls: 400 }
  const held = yield* residentGrowth(streamed(sandboxes, sandboxId, gibi, slow))
  const note = "peak above what a warm-up of 256 MiB left"
  return [
    below(64, { name: "stream-memory/fast", value: fast, unit: "MiB", note }),
    below(64, {
      name: "stream-memory/slow",
      value: held,
      unit: "MiB",
      note: `${note}; each of the first ${slow.pulls} pulls waits ${slow.millis} ms`
    })
  ]
}).pipe(Effect.scoped, Effect.provide(services))
