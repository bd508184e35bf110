/**
 * A service dies at every stage of a recorded process, on every provider and over every store, and another one attaches: the log
 * has no gap and no double, all bytes are there, the exit is the process's own, and nothing was run twice.
 *
 * The death is that of `Faults.kill`: nothing that the service does afterwards reaches anything. Real processes that are killed by
 * real signals are in `crash.test.ts`, and per vendor beside its other tests.
 */
import { assert, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { createHash } from "node:crypto"
import type { SandboxError } from "../../src/errors.ts"
import { isTerminal } from "../../src/model/Process.ts"
import { isOutput } from "../../src/model/ProcessEvent.ts"
import { LeaseOwner } from "../../src/services/LeaseOwner.ts"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import type { SandboxProvider } from "../../src/services/SandboxProvider.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { newProcessId } from "../../src/testing/internal/stores.ts"

const lines = 3000
const text = Array.from({ length: lines }, (_, line) => `line ${line}\n`).join("")
/** Leaves a mark each time it is run, and says how it ends in its code and on both outputs. */
const script = `echo run >> runs; i=0; while [ $i -lt ${lines} ]; do echo "line $i"; i=$((i+1)); done; echo done >&2; exit 7`

const sha = (content: string | Uint8Array) => createHash("sha256").update(content).digest("hex")

const isFinal: Faults.When<"append"> = {
  when: ({ args: [, , , patch] }) => patch?.status !== undefined && isTerminal(patch.status)
}

interface Stage {
  readonly name: string
  readonly rule: Faults.Rule
  /** Whether it may be that nothing was run. */
  readonly neverStarted?: boolean
  /** The service ends as in a deployment, once that has happened. */
  readonly closes?: boolean
}

const stages: ReadonlyArray<Stage> = [
  { name: "before its record", rule: Faults.on("insertProcess", Faults.kill("before")), neverStarted: true },
  {
    name: "between its record and its start",
    rule: Faults.on("start", Faults.kill("before")),
    neverStarted: true
  },
  { name: "between its acceptance and its record", rule: Faults.on("start", Faults.kill("after")) },
  { name: "before the first write of its log", rule: Faults.on("append", Faults.kill("before")) },
  {
    name: "in mid-output",
    rule: Faults.on("output", Faults.at({ byte: 9000, stream: "stdout" }, Faults.kill("before")))
  },
  {
    name: "in mid-output, by a deployment",
    rule: Faults.on("output", Faults.at({ byte: 9000, stream: "stdout" }, Faults.hang)),
    closes: true
  },
  { name: "between its exit and the final write", rule: Faults.on("append", Faults.kill("before"), isFinal) },
  { name: "after the final write", rule: Faults.on("append", Faults.kill("after"), isFinal) }
]

type Records = Layer.Layer<SandboxStore | ProcessLog, unknown>

/** What stays when a service dies. */
const world = <E>(make: Effect.Effect<SandboxProvider, E, Scope.Scope>, records: Records) =>
  Layer.effect(
    Testing.World,
    Effect.gen(function* () {
      const context = yield* Layer.build(Layer.fresh(records))
      return Testing.World.of({
        provider: yield* make,
        store: Context.get(context, SandboxStore),
        log: Context.get(context, ProcessLog)
      })
    })
  ).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))

/** Knows that whoever was there before is dead, as `Embedded` does of a process of its host. */
const heir = Layer.succeed(LeaseOwner, {
  name: Effect.sync(() => `service:${newProcessId()}`),
  isDead: () => Effect.succeed(true)
})

/** Registers the case of a provider and a store. */
export const crashes = <E>(
  name: string,
  make: Effect.Effect<SandboxProvider, E, Scope.Scope>,
  records: Records,
  chosen: ReadonlyArray<Stage> = stages
) => {
  const test = Effect.gen(function* () {
    const { log, store } = yield* Testing.World
    for (const stage of chosen) {
      const what = `${name}, ${stage.name}`
      const faults = yield* Faults.make()
      const scope = yield* Scope.fork(yield* Effect.scope)
      const first = yield* Effect.provideService(Testing.another(), Faults.Faults, faults).pipe(Scope.provide(scope))
      const { sandboxId } = yield* first.createSandbox()
      // Connected, so that a start is the only thing that is left to do.
      yield* first.runCommand(sandboxId, "true")
      const processId = newProcessId()
      // Calls are counted from here on.
      yield* faults.add(stage.rule)
      const dying = yield* Effect.forkChild(
        Effect.exit(first.runCommandProcess(sandboxId, "sh", ["-c", script], { processId })),
        { startImmediately: true }
      )
      yield* faults.exhausted
      if (stage.closes === true) yield* Scope.close(scope, Exit.void)
      yield* Fiber.interrupt(dying)

      const next = yield* Effect.map(
        Layer.build(Testing.service().pipe(Layer.provide(heir), Layer.provide(Faults.layer()))),
        (context) => Context.get(context, SandboxService)
      )
      const attached = yield* Effect.result(next.attachProcess(processId))
      const runs = Effect.map(Effect.exit(next.readFile(sandboxId, "runs")), (exit) =>
        Exit.isSuccess(exit) ? new TextDecoder().decode(exit.value).length / "run\n".length : 0
      )
      if (attached._tag === "Failure") {
        assert.strictEqual((attached.failure as SandboxError).reason._tag, "NotFound", what)
        assert.isTrue(stage.neverStarted, what)
      } else {
        const exit = yield* Effect.exit(attached.success.exit)
        const events = yield* Stream.runCollect(log.read(processId))
        assert.deepStrictEqual(
          events.map(({ seq }) => seq),
          events.map((_, index) => index + 1),
          what
        )
        const output = { stdout: [] as Array<Uint8Array>, stderr: [] as Array<Uint8Array> }
        const offsets = { stdout: 0, stderr: 0 }
        for (const event of events) {
          if (!isOutput(event)) continue
          assert.strictEqual(event.offset, offsets[event._tag], what)
          offsets[event._tag] += event.bytes.length
          output[event._tag].push(event.bytes)
        }
        const { exitCode, status } = yield* store.getProcess(processId)
        if (stage.neverStarted === true) {
          assert.deepStrictEqual([status, exitCode, offsets.stdout, yield* runs], ["lost", undefined, 0, 0], what)
        } else {
          assert.deepStrictEqual(exit, Exit.succeed({ _tag: "Exited", code: 7 }), what)
          assert.deepStrictEqual([status, exitCode, yield* runs], ["failed", 7, 1], what)
          assert.strictEqual(sha(Buffer.concat(output.stdout)), sha(text), what)
          assert.strictEqual(Buffer.concat(output.stderr).toString(), "done\n", what)
        }
      }
      yield* next.stopSandbox(sandboxId, { delete: true })
    }
  }).pipe(Effect.scoped, Effect.provide(world(make, records)))
  it.live(name, () => test, 120_000)
}
