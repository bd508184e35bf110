/**
 * A service dies at every stage of a recorded process, on every provider and over every store, and two others attach at once: the
 * log has no gap and no double, all bytes are there, the exit is the process's own, and nothing was run twice.
 *
 * The death here is that of `Faults.kill`: nothing that the service does afterwards reaches anything. `crashSignals.test.ts` has the
 * same stages in processes that real signals end.
 */
import { assert, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { createHash } from "node:crypto"
import type { ProcessId } from "../../src/model/Ids.ts"
import type { ProcessExit } from "../../src/model/Process.ts"
import { isOutput } from "../../src/model/ProcessEvent.ts"
import { LeaseOwner } from "../../src/services/LeaseOwner.ts"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import type { SandboxProvider } from "../../src/services/SandboxProvider.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { newProcessId } from "../../src/testing/internal/stores.ts"
import { script, type Stage, stages, text } from "./crashStages.ts"
import { full } from "./full.ts"

const sha = (content: string | Uint8Array) => createHash("sha256").update(content).digest("hex")

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

/** Under this name a service holds leases that is known to be dead afterwards, as `Embedded` knows it of a process of its host. */
export const mortal = Layer.succeed(LeaseOwner, {
  name: Effect.succeed("the first"),
  isDead: () => Effect.succeed(false)
})

/** Comes afterwards. */
export const heir = Layer.succeed(LeaseOwner, {
  name: Effect.sync(() => `an heir ${newProcessId()}`),
  isDead: (owner) => Effect.succeed(owner === "the first")
})

/** Two services attach at once to a process whose service died at this stage: all that must be true of it then. */
export const judge = Effect.fnUntraced(function* (options: {
  readonly what: string
  readonly stage: Stage
  readonly sandboxId: string
  readonly processId: ProcessId
  readonly heirs: readonly [SandboxService["Service"], SandboxService["Service"]]
  readonly store: SandboxStore["Service"]
  readonly log: ProcessLog["Service"]
}) {
  const { heirs, log, processId, sandboxId, stage, store, what } = options
  const [next] = heirs
  const exits = yield* Effect.forEach(
    heirs,
    (sandboxes) =>
      Effect.gen(function* () {
        const attached = yield* Effect.result(sandboxes.attachProcess(processId))
        if (attached._tag === "Success") return yield* Effect.exit(attached.success.exit)
        assert.strictEqual(attached.failure.reason._tag, "NotFound", what)
        assert.isTrue(stage.neverStarted, what)
        return undefined
      }),
    { concurrency: "unbounded" }
  )
  const runs = Effect.map(Effect.exit(next.readFile(sandboxId, "runs")), (exit) =>
    Exit.isSuccess(exit) ? new TextDecoder().decode(exit.value).length / "run\n".length : 0
  )
  if (exits.every((exit) => exit === undefined)) {
    assert.strictEqual(yield* runs, 0, what)
    return
  }
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
    const exited = Exit.succeed<ProcessExit>({ _tag: "Exited", code: 7 })
    assert.deepStrictEqual(exits, [exited, exited], what)
    assert.deepStrictEqual([status, exitCode, yield* runs], ["failed", 7, 1], what)
    assert.strictEqual(sha(Buffer.concat(output.stdout)), sha(text), what)
    assert.strictEqual(Buffer.concat(output.stderr).toString(), "done\n", what)
  }
})

/** All of them on this machine; elsewhere, in short runs, those at which a vendor or a store knows something else. */
const fewer = (names: ReadonlyArray<string>) => stages.filter(({ name }) => full || names.includes(name))
export const ofVendors = fewer(["between its acceptance and its record", "in mid-output"])
export const ofStores = fewer(["before its record", "in mid-output", "between its exit and the final write"])

/** Registers the case of a provider and a store. */
export const crashes = <E>(
  name: string,
  make: Effect.Effect<SandboxProvider, E, Scope.Scope>,
  records: Records,
  chosen: ReadonlyArray<Stage> = stages
) => {
  const serviceOf = (faults: Layer.Layer<Faults.Faults>, owner: typeof heir) =>
    Effect.map(
      // What hangs in the store has so long.
      Layer.build(
        Testing.service({ SANDBOX_REQUEST_TIMEOUT: "2 seconds" }).pipe(Layer.provide(owner), Layer.provide(faults))
      ),
      (context) => Context.get(context, SandboxService)
    )
  /** Two services find out at once that a machine is gone: one of them makes another. */
  const recoverAtOnce = Effect.gen(function* () {
    const { provider, store } = yield* Testing.World
    const service = serviceOf(Faults.layer(), heir)
    const both = [yield* service, yield* service] as const
    const { sandboxId } = yield* both[0].createSandbox({ persistent: false })
    yield* Effect.forEach(both, (sandboxes) => sandboxes.runCommand(sandboxId, "true"))
    const { externalSandboxId = "", generation = 1, incarnation = "" } = yield* store.getSandbox(sandboxId)
    yield* provider.stop({ externalId: externalSandboxId, incarnation }, "delete")
    const codes = yield* Effect.forEach(
      both,
      (sandboxes) => Effect.map(sandboxes.runCommand(sandboxId, "true"), ({ exitCode }) => exitCode),
      { concurrency: "unbounded" }
    )
    assert.deepStrictEqual(codes, [0, 0], name)
    const machines = yield* Stream.runCollect(provider.find(sandboxId, yield* store.namespace))
    assert.lengthOf(machines, 1, name)
    const after = yield* store.getSandbox(sandboxId)
    assert.deepInclude(after, { status: "active", generation: generation + 1 }, name)
    yield* both[1].stopSandbox(sandboxId, { delete: true })
  })

  const test = Effect.gen(function* () {
    const { log, store } = yield* Testing.World
    for (const stage of chosen) {
      const faults = yield* Faults.make()
      const scope = yield* Scope.fork(yield* Effect.scope)
      const first = yield* Scope.provide(serviceOf(Layer.succeed(Faults.Faults, faults), mortal), scope)
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

      const next = serviceOf(Faults.layer(), heir)
      const heirs = [yield* next, yield* next] as const
      yield* judge({ what: `${name}, ${stage.name}`, stage, sandboxId, processId, heirs, store, log })
      yield* heirs[0].stopSandbox(sandboxId, { delete: true })
    }
    yield* recoverAtOnce
  }).pipe(Effect.scoped, Effect.provide(world(make, records)))
  it.live(name, () => test, 120_000)
}
