import * as Process from "node:process"
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  ConfigProvider,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Scope,
  Stream
} from "effect"
import { TestClock } from "effect/testing"
import { Busy, Gone, isSandboxError, Quota, SandboxError, Store, Unavailable } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as Local from "../../src/layers/providers/Local.ts"
import * as Memory from "../../src/layers/stores/Memory.ts"
import * as Ids from "../../src/model/Ids.ts"
import type { OutputChunk, SandboxProvider, StartCommand } from "../../src/services/SandboxProvider.ts"
import * as Registry from "../../src/services/ProviderRegistry.ts"
import * as ProcessLog from "../../src/services/ProcessLog.ts"
import * as SandboxStore from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { tempDirectory } from "../support/embedded.ts"
import { scripted, type ScriptedOptions } from "../support/scripted.ts"

const sandboxId = Ids.SandboxId.make("00000000-0000-4000-8000-000000000001")
const processId = Ids.ProcessId.make("00000000-0000-4000-8000-000000000002")

const creating = (provider: SandboxProvider) =>
  Effect.flatMap(provider.resolve({}), (resolved) =>
    provider.create({ sandboxId, version: 1, namespace: "test", config: {}, resolved })
  )

const command: StartCommand = { processId, command: "true", args: [], lifetime: "scoped", stdin: false }

/** A provider over rows, with and without faults. */
const over = (plan: Faults.Plan, options: ScriptedOptions = {}) =>
  Effect.map(Faults.make(plan), (faults) => {
    const vendor = scripted(options)
    return { faults, vendor, provider: faults.wrapProvider(vendor.provider) }
  })

const memory = Effect.map(Layer.build(Memory.layer({ namespace: "test" })), (context) => ({
  store: Context.get(context, SandboxStore.SandboxStore),
  log: Context.get(context, ProcessLog.ProcessLog)
}))

const sandbox = { id: sandboxId, provider: "scripted", status: "active", createdAt: 0 } as const

const process = {
  id: processId,
  sandboxId,
  kind: "command",
  mode: "foreground",
  status: "running",
  provider: "scripted",
  command: "true",
  args: [],
  startedAt: 0
} as const

const text = (chunks: ReadonlyArray<{ readonly bytes: Uint8Array }>) =>
  Buffer.concat(chunks.map(({ bytes }) => bytes)).toString()

/** The reason of a failure, or `ok`. */
const outcome = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    if (Exit.isSuccess(exit)) return "ok"
    if (Cause.hasInterrupts(exit.cause)) return "interrupted"
    const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
    return isSandboxError(error) ? error.reason._tag : exit
  })

const kinds = ({ injected }: Faults.Faults["Service"]) =>
  injected.map(({ count, kind, operation }) => `${operation} ${count} ${kind}`)

/** What arrives before the stream ends or fails, and how it does. */
const collected = <A, E>(stream: Stream.Stream<A, E>) =>
  Effect.gen(function* () {
    const items: Array<A> = []
    const end = yield* outcome(Stream.runForEach(stream, (item) => Effect.sync(() => items.push(item))))
    return { items, end }
  })

const outputOf = (provider: SandboxProvider) =>
  Effect.gen(function* () {
    const machine = yield* creating(provider)
    const started = yield* machine.start(command)
    return yield* collected(started.output)
  }).pipe(Effect.scoped)

describe("a call", () => {
  it.effect("fails before anything happens, at the calls that the rule says, with the wrapped thing's own name", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over([
        Faults.on("create", Faults.fail(new Quota({ detail: "full" })), { call: 2, times: 2 })
      ])
      const outcomes = yield* Effect.all(Array.from({ length: 4 }, () => outcome(creating(provider))))
      assert.deepStrictEqual(outcomes, ["ok", "Quota", "Quota", "ok"])
      assert.deepStrictEqual(vendor.calls, ["create", "create"])
      assert.deepStrictEqual(kinds(faults), ["create 2 Fail", "create 3 Fail"])
      assert.strictEqual(faults.count("create"), 4)
      yield* faults.add(Faults.on("connect", Faults.fail()))
      const error = yield* Effect.flip(
        provider.connect({ externalId: "x", incarnation: "y" }, { sandboxId, boot: false })
      )
      assert.deepStrictEqual(
        [error.operation, error.provider, error.sandboxId, error.isRetryable, error.provesNotAccepted],
        ["scripted.connect", "scripted", sandboxId, true, true]
      )
    })
  )

  it.effect("gets a reason of its own from a factory", () =>
    Effect.gen(function* () {
      const { provider } = yield* over([
        Faults.on(
          "create",
          Faults.fail(({ count }) => new Busy({ owner: `call ${count}` })),
          { times: Infinity }
        )
      ])
      const first = yield* Effect.flip(creating(provider))
      const second = yield* Effect.flip(creating(provider))
      assert.notStrictEqual(first.reason, second.reason)
      assert.deepStrictEqual(
        [first, second].map(({ reason }) => reason._tag === "Busy" && reason.owner),
        ["call 1", "call 2"]
      )
    })
  )

  it.effect("takes effect and loses its answer; a failure keeps its own", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over([
        Faults.on("create", Faults.loseAnswer(new Unavailable({ accepted: "unknown" })))
      ])
      vendor.failNext("create", new Quota({}))
      assert.strictEqual(yield* outcome(creating(provider)), "Quota")
      assert.strictEqual(faults.unused.length, 1)
      assert.strictEqual(yield* outcome(creating(provider)), "Unavailable")
      assert.strictEqual(vendor.rows.size, 1)
      assert.deepStrictEqual(faults.unused, [])
    })
  )

  it.effect("is one of a burst of refusals that say how long to wait", () =>
    Effect.gen(function* () {
      const { provider, vendor } = yield* over([
        Faults.on(["create", "connect"], Faults.rateLimited({ retryAfter: "7 seconds" }), { times: 2 })
      ])
      const refused = yield* Effect.flip(creating(provider))
      assert.strictEqual(refused.reason._tag, "RateLimited")
      assert.deepStrictEqual(refused.retryAfter, Duration.seconds(7))
      assert.strictEqual(
        yield* outcome(provider.connect({ externalId: "x", incarnation: "y" }, { sandboxId, boot: false })),
        "RateLimited"
      )
      assert.strictEqual(yield* outcome(creating(provider)), "ok")
      assert.deepStrictEqual(vendor.calls, ["create"])
    })
  )

  it.effect("finds the machine deleted, by the vendor's own word", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over([Faults.on("start", Faults.vanish, { call: 2 })])
      const machine = yield* creating(provider)
      assert.strictEqual(yield* outcome(Effect.scoped(machine.start(command))), "ok")
      const error = yield* Effect.flip(Effect.scoped(machine.start(command)))
      assert.isTrue(isSandboxError(error) && error.reason instanceof Gone && error.reason.evidence === "no such row")
      assert.strictEqual(vendor.rows.size, 0)
      assert.deepStrictEqual(kinds(faults), ["start 2 Vanish"])
    })
  )

  it.effect("takes its time by the clock of the test", () =>
    Effect.gen(function* () {
      const { provider, vendor } = yield* over([
        Faults.on("create", Faults.delay("1 hour")),
        Faults.on("create", Faults.fail())
      ])
      const fiber = yield* Effect.forkChild(outcome(creating(provider)), { startImmediately: true })
      yield* TestClock.adjust("59 minutes")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* Fiber.join(fiber), "Unavailable")
      assert.deepStrictEqual(vendor.calls, [])
    })
  )

  it.effect("that is interrupted while it is late leaves what has not happened to the next", () =>
    Effect.gen(function* () {
      const { faults, provider } = yield* over([
        Faults.on("create", Faults.delay("1 hour")),
        Faults.on("create", Faults.fail())
      ])
      const late = yield* Effect.forkChild(creating(provider), { startImmediately: true })
      yield* Fiber.interrupt(late)
      assert.strictEqual(yield* outcome(creating(provider)), "Unavailable")
      assert.deepStrictEqual(kinds(faults), ["create 1 Delay", "create 2 Fail"])
      assert.deepStrictEqual(faults.unused, [])
    })
  )

  for (const fault of [Faults.kill("after"), Faults.loseAnswer()]) {
    it.effect(`that is interrupted before its answer leaves ${fault._tag} to the next`, () =>
      Effect.gen(function* () {
        const faults = yield* Faults.make([Faults.on("insertSandbox", fault)])
        const { store } = yield* memory
        let slow = true
        const wrapped = faults.wrapStore({
          ...store,
          insertSandbox: (record) => Effect.suspend(() => (slow ? Effect.never : store.insertSandbox(record)))
        })
        const fiber = yield* Effect.forkChild(wrapped.insertSandbox(sandbox), { startImmediately: true })
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(faults.injected, [])
        slow = false
        yield* outcome(wrapped.insertSandbox(sandbox))
        assert.deepStrictEqual(kinds(faults), [`insertSandbox 2 ${fault._tag}`])
      })
    )
  }

  it.effect("hangs until it is interrupted", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over([Faults.on("create", Faults.hang)])
      const fiber = yield* Effect.forkChild(creating(provider), { startImmediately: true })
      yield* faults.exhausted
      yield* TestClock.adjust("1 day")
      assert.isUndefined(fiber.pollUnsafe())
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(vendor.calls, [])
      assert.strictEqual(yield* outcome(creating(provider)), "ok")
    })
  )

  it.effect("has one end: of two rules the second waits for the next call, each with its own count", () =>
    Effect.gen(function* () {
      const { faults, provider } = yield* over([
        Faults.on("create", Faults.fail(new Quota({}))),
        Faults.on("create", Faults.fail(new Busy({ owner: "other" })), {
          when: ({ args: [request] }) => request.version === 1
        })
      ])
      assert.deepStrictEqual(yield* Effect.all(Array.from({ length: 3 }, () => outcome(creating(provider)))), [
        "Quota",
        "Busy",
        "ok"
      ])
      assert.deepStrictEqual(faults.unused, [])
    })
  )

  it.effect("is chosen by what it was called with", () =>
    Effect.gen(function* () {
      const { provider } = yield* over([
        Faults.on("start", Faults.fail(), { when: ({ args: [started] }) => started.args.includes("push") }),
        Faults.on("exit", Faults.fail(), { when: ({ command }) => command?.command === "make" })
      ])
      const machine = yield* creating(provider)
      const start = (command_: string, ...args: ReadonlyArray<string>) =>
        Effect.scoped(Effect.flatMap(machine.start({ ...command, command: command_, args }), ({ exit }) => exit))
      assert.strictEqual(yield* outcome(start("git", "status")), "ok")
      assert.strictEqual(yield* outcome(start("git", "push")), "Unavailable")
      assert.strictEqual(yield* outcome(start("make")), "Unavailable")
      assert.strictEqual(yield* outcome(start("make")), "ok")
    })
  )
})

describe("without a fault that is due", () => {
  it.effect("the same values come through, and the rule is reported as unused", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over(
        [Faults.on("stop", Faults.fail()), Faults.on("output", Faults.cut({ atByte: 1000 }))],
        { output: ["one", "two"] }
      )
      const plain = scripted({ output: ["one", "two"] })
      const direct = yield* outputOf(plain.provider)
      const wrapped = yield* outputOf(provider)
      assert.deepStrictEqual(wrapped, direct)
      assert.deepStrictEqual(vendor.calls, plain.calls)
      assert.deepStrictEqual(faults.injected, [])
      assert.deepStrictEqual(
        faults.unused.map(({ operations }) => operations),
        [["stop"], ["output"]]
      )
      assert.strictEqual(provider.capabilities, vendor.provider.capabilities)
      const faulty = yield* creating(provider)
      assert.isTrue(Option.isNone(faulty.createCheckpoint) && Option.isSome(faulty.portUrl))
      const process = yield* faulty.start(command)
      assert.isFalse("release" in process || "unref" in process || "additionalFds" in process)
    })
  )
})

describe("a stream", () => {
  const output = ["abcd", "efgh", "ijkl"]
  const offsets = (chunks: ReadonlyArray<OutputChunk>) => chunks.map(({ bytes, offset }) => [offset, bytes.length])

  it.effect("is cut at exactly that byte, wherever it lies", () =>
    Effect.gen(function* () {
      for (const atByte of [0, 1, 4, 6, 11, 12]) {
        const { faults, provider } = yield* over([Faults.on("output", Faults.cut({ atByte }))], { output })
        const { end, items } = yield* outputOf(provider)
        assert.strictEqual(end, "Unavailable")
        assert.strictEqual(text(items), "abcdefghijkl".slice(0, atByte))
        assert.deepStrictEqual(faults.injected, [
          {
            operation: "output",
            count: 1,
            target: "scripted",
            kind: "Fail",
            position: { byte: atByte, stream: undefined }
          }
        ])
      }
      const { faults, provider } = yield* over([Faults.on("output", Faults.cut({ atByte: 13 }))], { output })
      assert.strictEqual((yield* outputOf(provider)).end, "ok")
      assert.strictEqual(faults.unused.length, 1)
    })
  )

  it.effect("is cut by the bytes of one of the two", () =>
    Effect.gen(function* () {
      const { provider } = yield* over([Faults.on("output", Faults.cut({ atByte: 1, stream: "stderr" }))], { output })
      assert.strictEqual((yield* outputOf(provider)).end, "ok")
      const stdout = yield* over([Faults.on("output", Faults.cut({ atByte: 5, stream: "stdout" }))], { output })
      assert.strictEqual(text((yield* outputOf(stdout.provider)).items), "abcde")
    })
  )

  it.effect("has chunks that come twice, in pieces, and late", () =>
    Effect.gen(function* () {
      const { faults, provider } = yield* over(
        [
          Faults.on("output", Faults.duplicate(2)),
          Faults.on("output", Faults.split(3)),
          Faults.on("output", Faults.at({ item: 3 }, Faults.delay("1 minute")))
        ],
        { output }
      )
      const fiber = yield* Effect.forkChild(outputOf(provider), { startImmediately: true })
      yield* TestClock.adjust("59 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      const { end, items } = yield* Fiber.join(fiber)
      assert.strictEqual(end, "ok")
      assert.deepStrictEqual(offsets(items), [
        [0, 3],
        [3, 1],
        [3, 1],
        [4, 3],
        [7, 1],
        [8, 3],
        [11, 1]
      ])
      assert.deepStrictEqual(kinds(faults), ["output 1 Split", "output 1 Duplicate", "output 1 Delay"])
    })
  )

  it.effect("sees the machine vanish in its middle", () =>
    Effect.gen(function* () {
      const { provider, vendor } = yield* over([Faults.on("output", Faults.at({ byte: 6 }, Faults.vanish))], { output })
      const machine = yield* creating(provider)
      const started = yield* machine.start(command)
      const seen: Array<number> = []
      yield* Stream.runForEach(started.output, () => Effect.sync(() => seen.push(vendor.rows.size)))
      assert.deepStrictEqual(seen, [1, 1, 0, 0])
    }).pipe(Effect.scoped)
  )

  it.effect("of records is cut between them", () =>
    Effect.gen(function* () {
      const { store } = yield* memory
      const faults = yield* Faults.make([
        Faults.on("listSandboxes", Faults.at({ item: 2 }, Faults.fail()), { call: 2 })
      ])
      const faulty = faults.wrapStore(store)
      for (const digit of [1, 2, 3]) {
        yield* faulty.insertSandbox({
          ...sandbox,
          id: Ids.SandboxId.make(`00000000-0000-4000-8000-00000000000${digit}`)
        })
      }
      assert.deepStrictEqual((yield* collected(faulty.listSandboxes())).items.length, 3)
      const { end, items } = yield* collected(faulty.listSandboxes())
      assert.deepStrictEqual([items.length, end], [1, "Store"])
    }).pipe(Effect.scoped)
  )

  it.effect("of a log is cut before the event that crosses the byte", () =>
    Effect.gen(function* () {
      const { log, store } = yield* memory
      yield* store.insertProcess({ ...process, status: "running" })
      const { lease } = yield* store.acquireProcessLease(processId, { owner: "test", ttl: "1 minute" })
      const bytes = new TextEncoder().encode("abcd")
      const event = { _tag: "stdout", at: 0, sandboxId, processId, bytes } as const
      yield* log.append(processId, lease?.epoch ?? 0, [
        { ...event, seq: 1, offset: 0 },
        { ...event, seq: 2, offset: 4 }
      ])
      const faults = yield* Faults.make([Faults.on("read", Faults.cut({ atByte: 6 }))])
      const { end, items } = yield* collected(faults.wrapLog(log).read(processId))
      assert.deepStrictEqual([items.map(({ seq }) => seq), end], [[1], "Store"])
    }).pipe(Effect.scoped)
  )
})

describe("a store", () => {
  it.effect("writes once what it did not answer to", () =>
    Effect.gen(function* () {
      const { log, store } = yield* memory
      const faults = yield* Faults.make([
        Faults.on(["insertSandbox", "append"], Faults.loseAnswer(), { times: 2 }),
        Faults.on("getSandbox", Faults.fail(new Store({ kind: "Locked" })))
      ])
      const records = faults.wrapStore(store)
      const lost = yield* Effect.flip(records.insertSandbox(sandbox))
      assert.strictEqual(lost.operation, "SandboxStore.insertSandbox")
      assert.strictEqual(lost.reason._tag, "Store")
      assert.strictEqual(yield* outcome(records.getSandbox(sandboxId)), "Store")
      assert.strictEqual((yield* records.getSandbox(sandboxId)).id, sandboxId)
      yield* store.insertProcess(process)
      const { lease } = yield* store.acquireProcessLease(processId, { owner: "test", ttl: "1 minute" })
      const events = [{ _tag: "heartbeat", at: 0, seq: 1, sandboxId, processId }] as const
      const append = faults.wrapLog(log).append(processId, lease?.epoch ?? 0, events)
      assert.strictEqual((yield* Effect.flip(append)).operation, "ProcessLog.append")
      yield* append
      assert.strictEqual((yield* log.lastPosition(processId)).seq, 1)
      assert.deepStrictEqual(faults.unused, [])
    }).pipe(Effect.scoped)
  )
})

describe("a death", () => {
  it.effect("before a call: it never happens, nothing after it does, and the next service lives", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over([Faults.on("stop", Faults.kill("before"))])
      const machine = yield* creating(provider)
      const process = yield* machine.start(command)
      assert.strictEqual(yield* outcome(provider.stop(machine.ref, "stop")), "interrupted")
      for (const effect of [
        creating(provider),
        machine.findProcess(processId),
        process.exit,
        Stream.runDrain(process.output),
        Stream.runDrain(provider.find(sandboxId)),
        Effect.scoped(machine.start(command))
      ]) {
        assert.strictEqual(yield* outcome(effect), "interrupted")
      }
      assert.deepStrictEqual(vendor.calls, ["create", "start"])
      const next = faults.wrapProvider(vendor.provider)
      assert.deepStrictEqual(
        (yield* Stream.runCollect(next.find(sandboxId))).map(({ ref }) => ref),
        [machine.ref]
      )
      assert.deepStrictEqual(faults.unused, [])
    }).pipe(Effect.scoped)
  )

  it.effect("after a call: it happened, nobody heard, and finalizers end without doing anything", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over([Faults.on("create", Faults.kill("after"))])
      const used = Effect.scoped(
        Effect.gen(function* () {
          yield* Effect.addFinalizer(() =>
            Effect.ignore(provider.stop({ externalId: `scripted:${sandboxId}`, incarnation: "boot-1" }, "delete"))
          )
          return yield* creating(provider)
        })
      )
      assert.strictEqual(yield* outcome(used), "interrupted")
      assert.deepStrictEqual([vendor.rows.size, vendor.calls], [1, ["create"]])
      assert.deepStrictEqual(kinds(faults), ["create 1 Kill"])
    })
  )

  it.effect("withholds the answers that are under way", () =>
    Effect.gen(function* () {
      const faults = yield* Faults.make()
      const asked = yield* Deferred.make<void>()
      const answer = yield* Deferred.make<void>()
      const { store } = yield* memory
      const slow = faults.wrapStore({
        ...store,
        insertSandbox: (record) =>
          Deferred.succeed(asked, undefined).pipe(
            Effect.andThen(Deferred.await(answer)),
            Effect.andThen(store.insertSandbox(record))
          )
      })
      const fiber = yield* Effect.forkChild(outcome(slow.insertSandbox(sandbox)), { startImmediately: true })
      yield* Deferred.await(asked)
      yield* faults.kill
      yield* Deferred.succeed(answer, undefined)
      assert.strictEqual(yield* Fiber.join(fiber), "interrupted")
      assert.strictEqual((yield* store.getSandbox(sandboxId)).id, sandboxId)
    }).pipe(Effect.scoped)
  )

  it.effect("during a delay: what was about to be called is not", () =>
    Effect.gen(function* () {
      const { faults, provider, vendor } = yield* over([Faults.on("create", Faults.delay("1 minute"))])
      const fiber = yield* Effect.forkChild(outcome(creating(provider)), { startImmediately: true })
      yield* faults.exhausted
      yield* faults.kill
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* Fiber.join(fiber), "interrupted")
      assert.deepStrictEqual(vendor.calls, [])
    })
  )

  it.effect("in the middle and at the end of a stream", () =>
    Effect.gen(function* () {
      const plan = [
        Faults.on("output", Faults.at({ byte: 2 }, Faults.kill("before"))),
        Faults.on("output", Faults.kill("after"), { call: 2 })
      ]
      const { faults, provider, vendor } = yield* over(plan, { output: ["abcd"] })
      const first = yield* outputOf(provider)
      assert.deepStrictEqual([text(first.items), first.end], ["ab", "interrupted"])
      const second = yield* outputOf(faults.wrapProvider(vendor.provider))
      assert.deepStrictEqual([text(second.items), second.end], ["abcd", "interrupted"])
    })
  )
})

const isAlive = (pid: number): boolean => {
  try {
    return Process.kill(pid, 0)
  } catch {
    return false
  }
}

describe("what a dead service started", () => {
  const hangs: Fake.Command = () => Stream.never

  /** One process of each lifetime and a temporary directory, in a Scope that has ended. */
  const used = (dies: boolean) =>
    Effect.gen(function* () {
      const cloud = yield* Fake.makeCloud
      const vendor = yield* Fake.make({ cloud, commands: { hangs } })
      const life = yield* Scope.make()
      const faults = yield* Scope.provide(Faults.make(), life)
      const machine = yield* creating(faults.wrapProvider(vendor))
      // What is no operation comes through as it is.
      const { fileSystem } = machine
      assert.strictEqual(Object.entries(fileSystem).filter(([, value]) => typeof value !== "function").length, 1)
      const files = { left: "" }
      const running = () => cloud.commands.filter(({ exit }) => exit === undefined).map(({ lifetime }) => lifetime)
      yield* Effect.gen(function* () {
        yield* machine.start({ ...command, command: "hangs" })
        yield* machine.start({ ...command, command: "hangs", processId: recordedId, lifetime: "recorded" })
        files.left = yield* machine.fileSystem.makeTempDirectoryScoped?.() ?? Effect.succeed("")
        assert.deepStrictEqual(running(), ["scoped", "recorded"])
        if (dies) yield* faults.kill
      }).pipe(Effect.scoped)
      const seen = yield* vendor.connect(machine.ref, { sandboxId, boot: false })
      const isLeft = Effect.map(Effect.exit(seen.fileSystem.stat?.(files.left) ?? Effect.void), Exit.isSuccess)
      return { running, isLeft, life }
    })
  const recordedId = Ids.ProcessId.make("00000000-0000-4000-8000-000000000003")

  it.effect("runs on, the scoped until the faults end", () =>
    Effect.gen(function* () {
      const { isLeft, life, running } = yield* used(true)
      assert.deepStrictEqual([running(), yield* isLeft], [["scoped", "recorded"], true])
      yield* Scope.close(life, Exit.void)
      assert.deepStrictEqual([running(), yield* isLeft], [["recorded"], false])
    })
  )

  it.effect("ends with its Scope where nobody died", () =>
    Effect.gen(function* () {
      const { isLeft, running } = yield* used(false)
      assert.deepStrictEqual([running(), yield* isLeft], [["recorded"], false])
    })
  )

  it.live("is a real process too, and can be left alone", () =>
    Effect.gen(function* () {
      const provider = yield* Local.make({ root: yield* tempDirectory, isolation: "none" })
      const life = yield* Scope.make()
      const faults = yield* Scope.provide(Faults.make(), life)
      const machine = yield* creating(faults.wrapProvider(provider))
      yield* Effect.addFinalizer(() => Effect.orDie(provider.stop(machine.ref, "delete")))
      const started = Effect.gen(function* () {
        const scope = yield* Scope.make()
        const sleeps = { ...command, command: "sh", args: ["-c", "echo $$; exec sleep 300"] }
        const process = yield* Scope.provide(machine.start(sleeps), scope)
        const [pid] = yield* Stream.runCollect(Stream.take(process.output, 1))
        return { process, pid: Number(text(pid === undefined ? [] : [pid])), end: Scope.close(scope, Exit.void) }
      })
      const left = yield* started
      yield* Effect.asVoid(left.process.unref ?? Effect.die("it has none"))
      yield* left.end
      assert.isTrue(isAlive(left.pid))
      yield* left.process.signal("KILL")
      const orphan = yield* started
      yield* faults.kill
      yield* orphan.end
      assert.isTrue(isAlive(orphan.pid))
      assert.strictEqual(yield* outcome(orphan.process.unref ?? Effect.void), "interrupted")
      yield* Scope.close(life, Exit.void)
      assert.isFalse(isAlive(orphan.pid))
    }).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))), Effect.scoped)
  )
})

describe("by chance", () => {
  const run = (seed: string, between: number) =>
    Effect.gen(function* () {
      const { faults, provider } = yield* over(
        [
          Faults.seeded({
            seed,
            rates: { fail: 0.1, loseAnswer: 0.1, rateLimited: 0.1, vanish: 0.1, cut: 0.2, duplicate: 0.2 },
            maxByte: 10
          })
        ],
        { output: ["abcd", "efgh"] }
      )
      for (let i = 0; i < 60; i++) {
        yield* outcome(outputOf(provider))
        for (let j = 0; j < between; j++) yield* outcome(Stream.runDrain(provider.list("test")))
      }
      return faults.injected.filter(({ operation }) => operation === "create")
    })

  it.effect("the same seed gives the same faults, whatever is called in between, another seed others", () =>
    Effect.gen(function* () {
      const one = yield* run("one", 0)
      assert.isAbove(one.length, 5)
      assert.isAbove(new Set(one.map(({ kind }) => kind)).size, 1)
      assert.deepStrictEqual(yield* run("one", 0), one)
      assert.deepStrictEqual(yield* run("one", 3), one)
      assert.notDeepEqual(yield* run("two", 0), one)
    })
  )
})

describe("layers", () => {
  it.live("compose with real ones: the local provider over the memory store", () =>
    Effect.gen(function* () {
      const faults = yield* Faults.Faults
      const provider = yield* Effect.flatMap(Registry.ProviderRegistry, ({ select }) => select(undefined))
      const store = yield* SandboxStore.SandboxStore
      const machine = yield* Effect.acquireRelease(creating(provider), ({ ref }) =>
        Effect.orDie(provider.stop(ref, "delete"))
      )
      yield* machine.writeFiles([{ path: "letters", content: new TextEncoder().encode("abcdefgh") }])
      const file = `${machine.workspaceRoot}/letters`
      const cut = yield* collected(machine.readFile(file))
      assert.strictEqual(Buffer.concat(cut.items).toString(), "abc")
      assert.strictEqual(cut.end, "Unavailable")
      const stat = machine.fileSystem.stat
      assert.isDefined(stat)
      const error = yield* Effect.flip(stat?.(file) ?? Effect.void)
      assert.strictEqual(error?.reason._tag, "Unknown")
      assert.isTrue(error?.reason.cause instanceof SandboxError)
      assert.strictEqual((yield* stat?.(file) ?? Effect.void)?.type, "File")
      const echo = { ...command, command: "printf", args: ["hello"] }
      const split = yield* Effect.scoped(Effect.flatMap(machine.start(echo), ({ output }) => collected(output)))
      assert.deepStrictEqual(
        split.items.map((chunk) => text([chunk])),
        ["he", "ll", "o"]
      )
      assert.strictEqual(yield* outcome(Effect.scoped(machine.start(echo))), "Gone")
      assert.strictEqual(yield* outcome(store.insertSandbox(sandbox)), "Store")
      assert.deepStrictEqual(faults.unused, [])
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.unwrap(
          Effect.map(tempDirectory, (root) =>
            Layer.mergeAll(
              Faults.layerRegistry(Registry.layer([Local.make({ root, isolation: "none" })])),
              Faults.layerStore(Memory.layer({ namespace: "test" }))
            ).pipe(
              Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))),
              Layer.provideMerge(
                Faults.layer([
                  Faults.on("readFile", Faults.cut({ atByte: 3 })),
                  Faults.on("fileSystem", Faults.fail(), { when: ({ args: [method] }) => method === "stat" }),
                  Faults.on("output", Faults.split(2)),
                  Faults.on("start", Faults.vanish, { call: 2 }),
                  Faults.on("insertSandbox", Faults.fail())
                ])
              )
            )
          )
        )
      )
    )
  )
})
