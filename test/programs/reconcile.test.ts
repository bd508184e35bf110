/** What a crash leaves behind at every stage, and what reconcile makes of it. Time is the test's. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer, Logger, Option, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Fs from "node:fs"
import * as Local from "../../src/layers/providers/Local.ts"
import { Backend, memory } from "../layers/stores/support.ts"
import { brief, directoryOf, localRoot } from "../layers/providers/support/local.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import type * as Ids from "../../src/model/Ids.ts"
import type { MachineRef } from "../../src/services/SandboxProvider.ts"
import type { SandboxRecord } from "../../src/model/SandboxRecord.ts"
import * as Reconcile from "../../src/programs/reconcile.ts"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { newSandboxId } from "../../src/testing/internal/stores.ts"

const hour = TestClock.adjust("1 hour")

/** What a run did, in short. */
const taken = (report: Reconcile.Report) =>
  report.steps.map(({ outcome, step }) =>
    ["action" in step ? `${step._tag}(${step.action})` : step._tag, outcome._tag].join(" ")
  )

/** A run that was to go well. */
const reconcile = (options: Reconcile.Options = {}) =>
  Effect.gen(function* () {
    const report = yield* Testing.passing(Reconcile.run(options))
    assert.deepStrictEqual(report.failures, [])
    return taken(report)
  })

const machines = Effect.map(Fake.Cloud, (cloud) => cloud.machines)

/** The machine that a service of this namespace, or of another, has made without anybody writing it down. */
const strayMachine = (namespace = "test", sandboxId = newSandboxId()) =>
  Effect.gen(function* () {
    const { provider } = yield* Testing.World
    const resolved = yield* provider.resolve({})
    yield* provider.create({ sandboxId, version: 1, namespace, config: {}, resolved })
    return sandboxId
  })

const recordOf = (id: Ids.SandboxId) => Effect.flatMap(Testing.World, ({ store }) => store.getSandbox(id))

const only: Effect.Effect<SandboxRecord, never, Testing.World> = Effect.gen(function* () {
  const { store } = yield* Testing.World
  const all = yield* Effect.orDie(Stream.runCollect(store.listSandboxes()))
  assert.lengthOf(all, 1)
  const [record] = all
  return record ?? (yield* Effect.die("unreachable"))
})

/** A service that dies in the middle of `work`; what goes on afterwards is another's. */
const dying = <A, E, R>(work: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const faults = yield* Faults.Faults
    const fiber = yield* Effect.forkChild(work, { startImmediately: true })
    yield* faults.exhausted
    yield* Fiber.interrupt(fiber)
  })

/** The services that a run is made with after the first have died. */
const afterwards = <A, E>(test: Effect.Effect<A, E, Testing.Services | Fake.Cloud>) =>
  Effect.gen(function* () {
    const world = yield* Testing.World
    const faults = yield* Faults.Faults
    const cloud = yield* Fake.Cloud
    return yield* Effect.provide(test, Testing.service()).pipe(
      Effect.provideService(Testing.World, world),
      Effect.provideService(Faults.Faults, faults),
      Effect.provideService(Fake.Cloud, cloud)
    )
  })

const sleeping: Fake.Command = () => Stream.never

describe("reconcile: machines without a live record", () => {
  it.effect("are deleted once they are old enough, of the own namespace, and named before", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      yield* strayMachine()
      const foreign = yield* strayMachine("another")
      const { sandboxId: live } = yield* sandboxes.createSandbox({ persistent: false })
      assert.deepStrictEqual(yield* reconcile(), [])
      yield* hour
      const young = yield* strayMachine()
      assert.deepStrictEqual(yield* reconcile({ dryRun: true }), ["OrphanMachine(delete) planned"])
      assert.lengthOf(yield* machines, 4)
      assert.deepStrictEqual(yield* reconcile(), ["OrphanMachine(delete) done"])
      assert.sameMembers(
        (yield* machines).map(({ sandboxId }) => sandboxId),
        [foreign, live, young]
      )
      assert.deepStrictEqual(yield* reconcile(), [])
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("are left alone when the listing breaks off, and it says so", () =>
    Effect.gen(function* () {
      yield* strayMachine()
      yield* hour
      const report = yield* Testing.passing(Reconcile.run())
      assert.deepStrictEqual(taken(report), [])
      assert.deepStrictEqual(
        report.failures.map(({ reason }) => reason._tag),
        ["Unavailable"]
      )
      assert.lengthOf(yield* machines, 1)
      assert.deepStrictEqual(yield* reconcile(), ["OrphanMachine(delete) done"])
    }).pipe(Effect.provide(Testing.layer({ faults: [Faults.on("list", Faults.fail())] })))
  )

  it.effect("that a provider comes to grief at are said, and the others deleted", () => {
    const grief = (id: string) => (externalId: string) => externalId.includes(id)
    let isBad: (externalId: string) => boolean = () => false
    const faulty = Effect.map(Fake.make(), (provider) => ({
      ...provider,
      stop: (ref: MachineRef, mode: "stop" | "delete") =>
        isBad(ref.externalId) ? Effect.die(new Error("boom")) : provider.stop(ref, mode)
    }))
    return Effect.gen(function* () {
      const bad = yield* strayMachine()
      yield* strayMachine()
      isBad = grief(bad)
      yield* hour
      const report = yield* Testing.passing(Reconcile.run())
      assert.deepStrictEqual(taken(report), ["OrphanMachine(delete) done"])
      assert.deepStrictEqual(
        report.failures.map(({ message }) => message.includes("boom")),
        [true]
      )
    }).pipe(Effect.provide(Testing.layerOver(faulty)))
  })

  it.effect("that two runs meet at once are deleted, and nothing else", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      for (let i = 0; i < 5; i++) yield* strayMachine()
      yield* hour
      const reports = yield* Testing.passing(
        Effect.all([Reconcile.run(), Reconcile.run()], { concurrency: "unbounded" })
      )
      for (const { failures, steps } of reports) {
        assert.deepStrictEqual(failures, [])
        assert.isTrue(steps.every(({ outcome }) => outcome._tag === "done"))
      }
      assert.deepStrictEqual(
        (yield* machines).map((machine) => machine.sandboxId),
        [sandboxId]
      )
    }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("reconcile: what was cut off", () => {
  for (const when of ["before", "after"] as const) {
    it.effect(`a creation, ${when} the vendor had it, is undone; the same id makes it later`, () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const id = newSandboxId()
        yield* dying(sandboxes.createSandbox({ persistent: false }, { sandboxId: id }))
        assert.strictEqual((yield* only).status, "creating")
        yield* afterwards(
          Effect.gen(function* () {
            // Its lease has run out by then, but it is not long enough ago.
            yield* TestClock.adjust("5 minutes")
            assert.deepStrictEqual(yield* reconcile(), [])
            yield* hour
            assert.deepStrictEqual(yield* reconcile(), ["CreationCutOff done"])
            assert.lengthOf(yield* machines, 0)
            const record = yield* only
            assert.deepStrictEqual([record.status, record.error], ["error", "its creation was cut off"])
            assert.deepStrictEqual(yield* reconcile(), [])
            const next = yield* SandboxService
            const again = yield* Testing.passing(next.createSandbox({ persistent: false }, { sandboxId: id }))
            assert.strictEqual(again.sandboxId, id)
            assert.strictEqual((yield* next.runCommand(id, "true")).exitCode, 0)
          })
        )
      }).pipe(
        Effect.provide(
          Testing.layer({
            faults: [Faults.on("create", when === "before" ? Faults.kill("before") : Faults.kill("after"))]
          })
        )
      )
    )
  }

  it.effect("a recovery is finished", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      yield* cloud.vanish(sandboxId)
      yield* (yield* Faults.Faults).add(Faults.on("create", Faults.kill("after")))
      yield* dying(sandboxes.runCommand(sandboxId, "true"))
      assert.strictEqual((yield* only).status, "recreating")
      yield* afterwards(
        Effect.gen(function* () {
          yield* hour
          assert.deepStrictEqual(yield* reconcile(), ["RecoveryCutOff done"])
          assert.strictEqual((yield* only).status, "active")
          assert.lengthOf(yield* machines, 1)
        })
      )
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("a restore whose checkpoint is gone, as its machine, is given up", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* (yield* Faults.Faults).add(Faults.on("restoreCheckpoint", Faults.kill("before")))
      yield* dying(sandboxes.restoreCheckpoint(sandboxId, id))
      assert.strictEqual((yield* only).status, "recreating")
      yield* afterwards(
        Effect.gen(function* () {
          const { provider } = yield* Testing.World
          const checkpoints = Option.getOrThrow(provider.checkpoints)
          yield* checkpoints.remove(id, (yield* only).id, Option.none())
          yield* cloud.vanish(sandboxId)
          yield* hour
          const report = yield* Testing.passing(Reconcile.run())
          assert.deepStrictEqual(taken(report), ["RecoveryCutOff failed"])
          assert.strictEqual((yield* only).status, "shutdown")
          assert.deepStrictEqual(yield* reconcile(), [])
        })
      )
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("a stop that the vendor refused is finished, also a deletion", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      const error = yield* Effect.flip(Testing.passing(sandboxes.stopSandbox(sandboxId)))
      assert.strictEqual(error.reason._tag, "StopIncomplete")
      assert.lengthOf(yield* machines, 1)
      yield* hour
      assert.deepStrictEqual(yield* reconcile({ dryRun: true }), ["StopPending(delete) planned"])
      assert.deepStrictEqual(yield* reconcile(), ["StopPending(delete) done"])
      assert.lengthOf(yield* machines, 0)
      const { externalSandboxId, status, stopPending } = yield* recordOf(sandboxId)
      assert.deepStrictEqual([status, stopPending, externalSandboxId], ["shutdown", undefined, undefined])
    }).pipe(Effect.provide(Testing.layer({ faults: [Faults.on("delete", Faults.fail(), { times: 7 })] })))
  )

  it.effect("a stop that died before it came to its processes is finished, those of observers too", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { store } = yield* Testing.World
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"])
      const observed = yield* sandboxes.startObservedProcess(sandboxId, { command: "elsewhere" })
      const record = yield* store.getSandbox(sandboxId)
      yield* (yield* Faults.Faults).kill
      // As a version of this library left it that gave up a vanished machine and died.
      yield* store.updateSandbox(sandboxId, record.version ?? 0, {
        status: "shutdown",
        shutdownAt: 1,
        externalSandboxId: undefined,
        incarnation: undefined
      })
      yield* afterwards(
        Effect.gen(function* () {
          yield* hour
          // What has just been touched is left to the next run.
          assert.deepStrictEqual(yield* reconcile(), ["OrphanMachine(delete) done"])
          yield* hour
          assert.deepStrictEqual(yield* reconcile(), ["ProcessLost done", "ProcessLost done"])
          for (const id of [processId, observed.id]) {
            assert.strictEqual((yield* store.getProcess(id)).status, "lost")
          }
          assert.deepStrictEqual(yield* reconcile(), [])
        })
      )
    }).pipe(Effect.provide(Testing.layer({ commands: { sleep: sleeping } })))
  )

  it.effect("what a live service is at work on is left alone, however long that takes", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox({ persistent: false }), { startImmediately: true })
      yield* TestClock.adjust("3 minutes")
      const other = yield* Testing.another()
      assert.strictEqual((yield* only).status, "creating")
      assert.deepStrictEqual(
        yield* Reconcile.run({ grace: "1 second" }).pipe(
          Effect.provideService(SandboxService, other),
          Effect.map(({ steps }) => steps)
        ),
        []
      )
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(fiber)).outcome, "created")
    }).pipe(Effect.provide(Testing.layer({ faults: [Faults.on("create", Faults.delay("4 minutes"))] })))
  )
})

describe("reconcile: what has changed since it was listed", () => {
  it.effect("a sandbox that is used again is not stopped", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { sandboxId: revived } = yield* sandboxes.createSandbox({ persistent: true })
      yield* TestClock.adjust("1 second")
      const { sandboxId: newer } = yield* sandboxes.createSandbox({ persistent: true })
      for (const id of [newer, revived]) yield* Effect.flip(Testing.passing(sandboxes.stopSandbox(id)))
      yield* hour
      // The newer one comes first, and takes its time.
      yield* faults.add(Faults.on("stop", Faults.delay("4 minutes")))
      const run = yield* Effect.forkChild(Reconcile.run({ concurrency: 1 }), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      yield* Testing.passing(sandboxes.reconnectToSandbox(revived))
      assert.deepStrictEqual(taken(yield* Testing.passing(Fiber.join(run))), [
        "StopPending(stop) done",
        "StopPending(stop) left"
      ])
      assert.deepStrictEqual(
        (yield* machines).map(({ running, sandboxId }) => [sandboxId === revived, running]),
        [
          [true, true],
          [false, false]
        ]
      )
      assert.strictEqual((yield* recordOf(revived)).status, "active")
    }).pipe(Effect.provide(Testing.layer({ faults: [Faults.on("stop", Faults.fail(), { times: 14 })] })))
  )

  it.effect("a sandbox that was stopped is not brought back", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { store } = yield* Testing.World
      const { sandboxId: stopped } = yield* sandboxes.createSandbox({ persistent: true })
      yield* TestClock.adjust("1 second")
      const { sandboxId: newer } = yield* sandboxes.createSandbox({ persistent: true })
      // As whoever dies in the middle of a restore leaves them.
      for (const id of [newer, stopped]) {
        const { version = 0 } = yield* store.getSandbox(id)
        yield* store.updateSandbox(id, version, { status: "recreating" })
      }
      yield* hour
      yield* faults.add(Faults.on("find", Faults.delay("4 minutes")))
      const run = yield* Effect.forkChild(Reconcile.run({ concurrency: 1 }), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      yield* Testing.passing(sandboxes.stopSandbox(stopped))
      assert.deepStrictEqual(taken(yield* Testing.passing(Fiber.join(run))), [
        "RecoveryCutOff done",
        "RecoveryCutOff left"
      ])
      assert.deepStrictEqual(
        yield* Effect.map(Effect.all([recordOf(newer), recordOf(stopped)]), (all) => all.map(({ status }) => status)),
        ["active", "shutdown"]
      )
    }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("reconcile: its lease", () => {
  it.effect(
    "is kept while a step lasts, however long, and no longer than others' where it could not be given back",
    () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const { store } = yield* Testing.World
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
        yield* sandboxes.stopSandbox(sandboxId)
        yield* strayMachine("test", sandboxId)
        yield* hour
        const run = yield* Effect.forkChild(Reconcile.run(), { startImmediately: true })
        yield* TestClock.adjust("4 minutes")
        const other = store.acquireSandboxLease(sandboxId, { owner: "another", ttl: "1 second" })
        assert.strictEqual((yield* Effect.flip(other)).reason._tag, "Busy")
        assert.deepStrictEqual(taken(yield* Testing.passing(Fiber.join(run))), ["OrphanMachine(delete) done"])
        yield* TestClock.adjust("30 seconds")
        yield* other
      }).pipe(
        Effect.provide(
          Testing.layer({
            faults: [
              Faults.on("delete", Faults.delay("5 minutes"), { call: 2 }),
              Faults.on("releaseSandboxLease", Faults.fail(), { call: 3, times: 100 })
            ]
          })
        )
      )
  )
})

describe("reconcile: a machine at rest", () => {
  const disposable = { persistent: false, timeout: "2 hours" } as const

  it.effect("is deleted once the lease of a sandbox that is not to be kept must have ended, not before", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox(disposable)
      yield* cloud.halt(sandboxId)
      yield* hour
      assert.deepStrictEqual(yield* reconcile(), [])
      assert.lengthOf(yield* machines, 1)
      yield* hour
      assert.deepStrictEqual(yield* reconcile(), ["MachineGone(note) done"])
      assert.lengthOf(yield* machines, 0)
      assert.strictEqual((yield* Testing.passing(sandboxes.runCommand(sandboxId, "true"))).exitCode, 0)
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("that was saved in a checkpoint is left alone, and so is what was saved", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox(disposable)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "kept.txt", content: "kept" }])
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* cloud.halt(sandboxId)
      yield* TestClock.adjust("1 day")
      assert.deepStrictEqual(yield* reconcile(), [])
      const left = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
      assert.deepStrictEqual(
        left.map((checkpoint) => checkpoint.id),
        [id]
      )
      const { stdout } = yield* Testing.passing(sandboxes.runCommand(sandboxId, "cat", ["kept.txt"]))
      assert.strictEqual(stdout, "kept")
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect(
    "of a record of @ekairos/sandbox is left alone, stopped or not; one that names a session is passed over",
    () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const cloud = yield* Fake.Cloud
        const { store } = yield* Testing.World
        const legacy = (status: "active" | "shutdown") =>
          Effect.gen(function* () {
            const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true, timeout: "1 hour" })
            yield* cloud.halt(sandboxId)
            const { version = 0 } = yield* store.getSandbox(sandboxId)
            // What it wrote says nothing of these.
            yield* store.updateSandbox(sandboxId, version, {
              status,
              persistent: undefined,
              deleteOnStop: undefined,
              incarnation: undefined,
              config: undefined
            })
            return sandboxId
          })
        yield* legacy("active")
        yield* legacy("shutdown")
        const session = yield* legacy("active")
        const { version = 0 } = yield* store.getSandbox(session)
        yield* store.updateSandbox(session, version, { externalSandboxId: "sbx_1" })
        yield* TestClock.adjust("30 days")
        assert.deepStrictEqual(yield* reconcile(), [])
        assert.lengthOf(yield* machines, 3)
      }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("reconcile: an active record whose machine is gone", () => {
  it.effect("is noted, with its processes lost; the next use makes it anew", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { store } = yield* Testing.World
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"])
      yield* (yield* Faults.Faults).kill
      yield* cloud.vanish(sandboxId)
      yield* afterwards(
        Effect.gen(function* () {
          yield* hour
          assert.deepStrictEqual(yield* reconcile(), ["MachineGone(note) done", "ProcessLost done"])
          const noted = yield* recordOf(sandboxId)
          assert.deepStrictEqual([noted.status, noted.goneAt !== undefined], ["active", true])
          assert.strictEqual((yield* store.getProcess(processId)).status, "lost")
          yield* hour
          assert.deepStrictEqual(yield* reconcile(), [])
          const next = yield* SandboxService
          assert.strictEqual((yield* Testing.passing(next.runCommand(sandboxId, "true"))).exitCode, 0)
          assert.isUndefined((yield* recordOf(sandboxId)).goneAt)
          yield* hour
          assert.deepStrictEqual(yield* reconcile(), [])
        })
      )
    }).pipe(Effect.provide(Testing.layer({ commands: { sleep: sleeping } })))
  )

  it.effect("is shut down when nobody has used it for long enough", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      yield* cloud.vanish(sandboxId)
      yield* hour
      assert.deepStrictEqual(yield* reconcile({ goneAfter: "3 hours" }), ["MachineGone(note) done"])
      yield* TestClock.adjust("2 hours")
      assert.deepStrictEqual(yield* reconcile({ goneAfter: "3 hours" }), [])
      yield* hour
      assert.deepStrictEqual(yield* reconcile({ goneAfter: "3 hours" }), ["MachineGone(shutdown) done"])
      assert.strictEqual((yield* recordOf(sandboxId)).status, "shutdown")
      yield* hour
      assert.deepStrictEqual(yield* reconcile(), ["StopPending(delete) done"])
      assert.isUndefined((yield* recordOf(sandboxId)).externalSandboxId)
      yield* hour
      assert.deepStrictEqual(yield* reconcile(), [])
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("is shut down at once where nothing replaces it, and its disk is asked about first", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
      const { sandboxId: asleep } = yield* sandboxes.createSandbox({ persistent: true })
      yield* cloud.vanish(sandboxId)
      yield* cloud.halt(asleep)
      yield* hour
      assert.deepStrictEqual(yield* reconcile(), ["MachineGone(shutdown) done"])
      assert.strictEqual((yield* recordOf(sandboxId)).status, "shutdown")
      assert.strictEqual((yield* recordOf(asleep)).status, "active")
      assert.strictEqual((yield* Testing.passing(sandboxes.runCommand(asleep, "true"))).exitCode, 0)
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("and which could not be made anew has no open processes", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const faults = yield* Faults.Faults
      const { store } = yield* Testing.World
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      const start = Effect.map(sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"]), ({ processId }) => processId)
      const [one, other] = yield* Effect.all([start, start])
      yield* faults.kill
      yield* cloud.vanish(sandboxId)
      yield* afterwards(
        Effect.gen(function* () {
          const next = yield* SandboxService
          yield* faults.add(Faults.on("create", Faults.fail(), { times: 100 }))
          yield* Effect.flip(Testing.passing(next.runCommand(sandboxId, "true")))
          assert.strictEqual((yield* recordOf(sandboxId)).status, "error")
          const attached = yield* Testing.passing(next.attachProcess(one))
          assert.strictEqual((yield* Effect.flip(Testing.passing(attached.exit))).reason._tag, "OutcomeUnknown")
          yield* hour
          assert.deepStrictEqual(yield* reconcile(), ["ProcessLost done"])
          assert.strictEqual((yield* store.getProcess(other)).status, "lost")
          assert.deepStrictEqual(yield* reconcile(), [])
          // What was given up comes after all.
          yield* strayMachine("test", sandboxId)
          yield* hour
          assert.deepStrictEqual(yield* reconcile(), ["OrphanMachine(stop) done"])
          assert.isTrue((yield* machines).every(({ running }) => !running))
        })
      )
    }).pipe(Effect.provide(Testing.layer({ commands: { sleep: sleeping } })))
  )

  it.effect("is as it was when the vendor cannot tell", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      const before = yield* recordOf(sandboxId)
      yield* cloud.vanish(sandboxId)
      yield* hour
      yield* (yield* Faults.Faults).add(Faults.on("connect", Faults.fail()))
      const report = yield* Testing.passing(Reconcile.run())
      assert.deepStrictEqual([taken(report), report.failures.length], [[], 1])
      assert.deepStrictEqual(yield* recordOf(sandboxId), before)
    }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("reconcile: retention", () => {
  it.effect("forgets what ended long ago, and nothing that is asked to be kept or may be needed", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { store } = yield* Testing.World
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "true", [], { mode: "foreground" })
      yield* sandboxes.stopSandbox(sandboxId)
      const { sandboxId: kept } = yield* sandboxes.createSandbox({ persistent: true })
      yield* sandboxes.stopSandbox(kept)
      yield* TestClock.adjust("2 days")
      assert.deepStrictEqual(yield* reconcile(), [])
      assert.deepStrictEqual(yield* reconcile({ keepProcesses: "3 days", keepSandboxes: "1 hour" }), [])
      const both = { keepProcesses: "1 day", keepSandboxes: "1 day" } as const
      assert.deepStrictEqual(yield* reconcile({ ...both, dryRun: true }), ["ProcessExpired planned"])
      assert.deepStrictEqual(yield* reconcile(both), ["ProcessExpired done", "SandboxExpired done"])
      assert.strictEqual((yield* Effect.flip(store.getProcess(processId))).reason._tag, "NotFound")
      assert.strictEqual((yield* only).id, kept)
    }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("reconcile: a store that does not answer", () => {
  it.effect("is asked once more, and waited for no longer than for any request", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const faults = yield* Faults.Faults
      for (const operation of ["listSandboxes", "listProcesses"] as const) {
        yield* faults.add(Faults.on(operation, Faults.hang))
        assert.deepStrictEqual(yield* reconcile(), [])
      }
      yield* faults.add(Faults.on("listSandboxes", Faults.hang), Faults.on("listProcesses", Faults.hang))
      const ids = yield* Testing.passing(Stream.runCollect(Stream.map(sandboxes.listSandboxes(), ({ id }) => id)))
      assert.deepStrictEqual(ids, [sandboxId])
      const processes = Stream.runCollect(sandboxes.listProcesses(sandboxId))
      assert.deepStrictEqual(yield* Testing.passing(processes), [])
      assert.deepStrictEqual(faults.unused, [])
    }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("reconcile: a process whose sandbox has no record", () => {
  it.effect("is lost, once nobody is at it any more", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { store } = yield* Testing.World
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"])
      // Of one that another program reports nobody can know more.
      const observed = yield* sandboxes.startObservedProcess(sandboxId, { command: "watch" })
      const record = yield* store.getSandbox(sandboxId)
      yield* store.deleteSandbox(sandboxId, record.version ?? 0)
      yield* (yield* Faults.Faults).kill
      yield* afterwards(
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* reconcile({ grace: "1 second" }), [])
          yield* hour
          const lost = ["OrphanMachine(delete) done", "ProcessLost done", "ProcessLost done"]
          assert.deepStrictEqual(yield* reconcile(), lost)
          for (const id of [processId, observed.id]) assert.strictEqual((yield* store.getProcess(id)).status, "lost")
          assert.deepStrictEqual(yield* reconcile(), [])
        })
      )
    }).pipe(Effect.provide(Testing.layer({ commands: { sleep: sleeping } })))
  )
})

describe("reconcile: a sandbox that could not be made anew", () => {
  it.effect("is forgotten after its retention once the vendor has nothing of it", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
      yield* cloud.vanish(sandboxId)
      yield* faults.add(Faults.on("create", Faults.fail(), { times: 100 }))
      yield* Effect.flip(Testing.passing(sandboxes.runCommand(sandboxId, "true")))
      assert.strictEqual((yield* only).status, "error")
      yield* strayMachine("test", sandboxId)
      yield* (yield* Fake.Cloud).halt(sandboxId)
      yield* TestClock.adjust("2 days")
      assert.deepStrictEqual(yield* reconcile({ keepSandboxes: "1 day" }), [])
      yield* cloud.vanish(sandboxId)
      assert.deepStrictEqual(yield* reconcile({ keepSandboxes: "3 days" }), [])
      assert.deepStrictEqual(yield* reconcile({ keepSandboxes: "1 day" }), ["SandboxExpired done"])
    }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("reconcile: records that it cannot read", () => {
  it.effect("are said, and the others looked at", () =>
    Effect.gen(function* () {
      const backend = yield* Backend
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false, recovery: "none" })
      const { sandboxId: other } = yield* sandboxes.createSandbox()
      const row = Option.getOrThrow(yield* backend.store.sandboxes.get(other))
      yield* backend.store.sandboxes.update(other, row.version, { status: "melted", version: row.version + 1 })
      yield* cloud.vanish(sandboxId)
      yield* hour
      const report = yield* Testing.passing(Reconcile.run())
      assert.deepStrictEqual(taken(report), ["MachineGone(shutdown) done"])
      assert.deepStrictEqual(
        new Set(report.failures.map(({ reason, sandboxId }) => `${sandboxId} ${reason._tag}`)),
        new Set([`${other} Store`])
      )
      assert.deepStrictEqual(
        (yield* machines).map(({ running, sandboxId }) => [sandboxId, running]),
        [[other, true]]
      )
    }).pipe(
      Effect.provide(
        Testing.service().pipe(
          Layer.provideMerge(
            Layer.effect(
              Testing.World,
              Effect.gen(function* () {
                const cloud = yield* Fake.Cloud
                return Testing.World.of({
                  provider: yield* Fake.make({ cloud }),
                  store: yield* SandboxStore,
                  log: yield* ProcessLog
                })
              })
            )
          ),
          Layer.provideMerge(memory),
          Layer.provideMerge(Faults.layer()),
          Layer.provideMerge(Layer.effect(Fake.Cloud, Fake.makeCloud))
        )
      )
    )
  )
})

describe("reconcile: its options and its layer", () => {
  it.effect("refuses what makes no sense, before anything is done", () =>
    Effect.gen(function* () {
      const misspelt = { dryrun: true } as Reconcile.Options
      for (const options of [{ grace: -1 }, { goneAfter: 0 }, { concurrency: 0 }, { keepSandboxes: NaN }, misspelt]) {
        assert.strictEqual((yield* Effect.flip(Reconcile.run(options))).reason._tag, "InvalidArgument")
      }
      const error = yield* Effect.flip(Reconcile.run({ providers: ["nobody"] }))
      assert.strictEqual(error.reason._tag, "ProviderNotSelected")
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("runs in the background on a schedule, and says what it did", () => {
    const lines: Array<string> = []
    const logger = Logger.make(({ message }) => void lines.push(String(message)))
    return Effect.gen(function* () {
      yield* strayMachine()
      const background = Reconcile.layer({ schedule: Schedule.spaced("1 hour"), grace: Duration.minutes(30) })
      yield* Layer.build(background)
      yield* Testing.passing(Effect.sleep("90 minutes"))
      assert.lengthOf(yield* machines, 0)
      assert.lengthOf(lines, 1)
      assert.match(
        lines[0] ?? "",
        /^reconcile: 1 steps, 0 failures\ndone {2}OrphanMachine \(delete\) {2}fake {2}sandbox /
      )
    }).pipe(Effect.scoped, Effect.provide([Testing.layer(), Logger.layer([logger])]))
  })
})

describe("reconcile on this machine", () => {
  it.live("deletes strays and shuts down what has vanished", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      yield* Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const { provider } = yield* Testing.World
        const list = Effect.map(Stream.runCollect(provider.list("test")), (all) =>
          all.map(({ sandboxId }) => sandboxId)
        )
        const soon = { grace: "1 millis", goneAfter: "1 millis" } as const
        const [gone, live] = yield* Effect.all([sandboxes.createSandbox(), sandboxes.createSandbox()])
        const stray = yield* strayMachine()
        const record = yield* recordOf(gone.sandboxId)
        Fs.rmSync(directoryOf(root, gone.sandboxId), { recursive: true })
        const report = yield* Reconcile.run(soon)
        assert.deepStrictEqual(report.failures, [])
        assert.sameMembers(taken(report), ["OrphanMachine(delete) done", "MachineGone(shutdown) done"])
        assert.isFalse(Fs.existsSync(directoryOf(root, stray)))
        assert.strictEqual(record.status, "active")
        assert.deepStrictEqual(yield* list, [live.sandboxId])
        assert.strictEqual((yield* sandboxes.runCommand(live.sandboxId, "true")).exitCode, 0)
        yield* sandboxes.stopSandbox(live.sandboxId, { delete: true })
        yield* sandboxes.stopSandbox(gone.sandboxId, { delete: true })
        assert.deepStrictEqual(yield* list, [])
      }).pipe(Effect.provide(Testing.layerOver(Local.make({ ...brief, root }))))
    }).pipe(Effect.scoped)
  )
})
