import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Layer, PlatformError } from "effect"
import { ChildProcess } from "effect/process"
import { SandboxError, Unavailable } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import type { SandboxRecord } from "../../src/model/SandboxRecord.ts"
import { makeRuntime, RuntimeDisposed } from "../../src/programs/makeRuntime.ts"
import { methodReasons, SandboxService } from "../../src/services/SandboxService.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { inDirectory, tempDirectory } from "../support/embedded.ts"

/** What a promise rejects with. One that nobody awaits fails the run: vitest sees to that. */
const failureOf = (promise: PromiseLike<unknown>): Promise<unknown> =>
  Promise.resolve(promise).then(
    (value) => assert.fail(`it did not fail: ${String(value)}`),
    (error: unknown) => error
  )

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const collect = async <A>(iterable: AsyncIterable<A>): Promise<Array<A>> => {
  const all: Array<A> = []
  for await (const element of iterable) all.push(element)
  return all
}

const fake = () =>
  makeRuntime(Testing.layer({ commands: { build: Fake.constant({ stdout: "built\n", stderr: "warned\n", code: 3 }) } }))

/** What is the same on a real machine, and what only one can show: processes that end. */
const onMachine = async (directory: string) => {
  await using sandboxes = makeRuntime(inDirectory(directory))
  const { sandboxId } = await sandboxes.createSandbox()
  {
    await using sort = await sandboxes.spawn(sandboxId, ChildProcess.make("sort", []))
    assert.strictEqual(typeof sort.pid, "number")
    const output = collect(sort.stdout)
    const gone = AbortSignal.abort(new Error("not wanted"))
    assert.strictEqual(await failureOf(collect(sort.getOutputFd(3, { signal: gone }))), gone.reason)
    await sort.stdin("b\na\n")
    assert.strictEqual(text(Buffer.concat(await output)), "a\nb\n")
    assert.strictEqual(await sort.exitCode(), 0)
    assert.isFalse(await sort.isRunning())
  }
  const live = await sandboxes.runCommandProcess(sandboxId, "cat", [], { stdin: "open" })
  await live.write("in\n")
  await live.closeInput()
  assert.deepStrictEqual(await live.exit(), { _tag: "Exited", code: 0 })

  // Leaving the block kills, and so does a signal, and the end of an iteration.
  const alive = () =>
    sandboxes.runCommand(sandboxId, "sh", ["-c", "for p in $(cat pids); do kill -0 $p 2>/dev/null && echo $p; done; :"])
  const script = ["-c", "echo $$ >> pids; echo ready; exec sleep 300"]
  {
    await using sleeping = await sandboxes.spawn(sandboxId, ChildProcess.make("sh", script))
    await sleeping.stdout[Symbol.asyncIterator]().next()
  }
  for await (const event of sandboxes.streamCommand(sandboxId, "sh", script)) {
    if (event._tag === "stdout") break
  }
  const controller = new AbortController()
  const stopped = failureOf(
    (async () => {
      for await (const event of sandboxes.streamCommand(sandboxId, "sh", script, { signal: controller.signal })) {
        if (event._tag === "stdout") controller.abort()
      }
    })()
  )
  assert.strictEqual(((await stopped) as Error).name, "AbortError")
  assert.strictEqual((await alive()).stdout, "")
  assert.strictEqual(
    text(await sandboxes.readFile(sandboxId, "pids"))
      .trim()
      .split("\n").length,
    3
  )

  // And the end of the runtime kills what was spawned and not left.
  const other = makeRuntime(inDirectory(directory))
  const left = await other.spawn(sandboxId, ChildProcess.make("sh", script))
  await left.stdout[Symbol.asyncIterator]().next()
  await other.dispose()
  assert.throws(() => process.kill(left.pid, 0), "ESRCH")
  assert.instanceOf(await failureOf(left.isRunning()), RuntimeDisposed)

  // Effect programs get at the rest.
  const onPlatform = SandboxService.use((service) =>
    Effect.flatMap(FileSystem.FileSystem, (fs) => fs.readFileString("pids")).pipe(
      Effect.provide(service.platform(sandboxId))
    )
  )
  assert.include(await sandboxes.run(onPlatform), "\n")
  await sandboxes.stopSandbox(sandboxId, { delete: true })
}

/** Never called: what the types refuse, and what they know. */
export const types = async (sandboxes: ReturnType<typeof fake>) => {
  // @ts-expect-error for Effect programs
  void sandboxes.platform
  // @ts-expect-error there is no such option
  await sandboxes.createSandbox({}, { sandboxID: "a" })
  // @ts-expect-error a number of seconds is no signal
  await sandboxes.getSandbox("a", { signal: 5 })
  // @ts-expect-error not an id
  await sandboxes.readFile(5, "a")
  const ids: AsyncIterable<SandboxRecord> = sandboxes.listSandboxes()
  return ids
}

describe("makeRuntime", () => {
  it("has every method of the service but `platform`", async () => {
    await using sandboxes = fake()
    const { dispose, run, ...methods } = sandboxes
    assert.deepStrictEqual([typeof dispose, typeof run], ["function", "function"])
    assert.sameMembers([...Object.keys(methods), "platform"], Object.keys(methodReasons))
  })

  it("gives values, streams and processes", async () => {
    await using sandboxes = fake()
    const { signal } = new AbortController()
    const { sandboxId } = await sandboxes.createSandbox({ purpose: "test", ports: [3000] }, { signal })
    const record: SandboxRecord = await sandboxes.getSandbox(sandboxId, { signal })
    assert.strictEqual(record.purpose, "test")
    assert.deepStrictEqual(
      (await collect(sandboxes.listSandboxes({ status: ["active"], signal }))).map(({ id }) => id),
      [sandboxId]
    )
    assert.strictEqual((await sandboxes.runCommand(sandboxId, "build")).exitCode, 3)
    async function* words() {
      yield new TextEncoder().encode("b\n")
      yield new TextEncoder().encode("a\n")
    }
    assert.strictEqual((await sandboxes.runCommand(sandboxId, "sort", [], { stdin: words(), signal })).stdout, "a\nb\n")
    await sandboxes.writeFiles(sandboxId, [{ path: "words", content: words() }], { signal })
    assert.strictEqual(text(await sandboxes.readFile(sandboxId, "words")), "b\na\n")
    assert.deepStrictEqual(
      (await collect(sandboxes.streamCommand(sandboxId, "build"))).map(({ _tag }) => _tag).sort(),
      ["exit", "stderr", "stdout"]
    )
    const asked: Array<number> = []
    const url = await sandboxes.getPortUrl(sandboxId, 3000, {
      ready: async ({ port }) => {
        asked.push(port)
        if (asked.length === 1) throw new Error("not yet")
      }
    })
    assert.deepStrictEqual([url.port, asked], [3000, [3000, 3000]])
    await sandboxes.extendTimeout(sandboxId, "1 hour", { signal })

    const process = await sandboxes.runCommandProcess(sandboxId, "build", [], { kind: "test-runner", signal })
    assert.deepStrictEqual(await process.exit({ signal }), { _tag: "Exited", code: 3 })
    const events = await collect(process.events)
    assert.deepStrictEqual(await collect(process.events), events)
    // Also for who asks for several at once.
    const iterator = process.events[Symbol.asyncIterator]()
    const results = await Promise.all(Array.from({ length: events.length + 2 }, () => iterator.next()))
    assert.deepStrictEqual(
      results.flatMap((result) => (result.done === true ? [] : [result.value])),
      events
    )
    assert.deepStrictEqual(await collect(sandboxes.readProcessStream(process.processId, { follow: true })), events)
    assert.strictEqual((await process.snapshot()).kind, "test-runner")
    const again = await sandboxes.attachProcess(process.processId, { after: 2 })
    assert.deepStrictEqual(await collect(again.events), events.slice(2))

    const observed = await sandboxes.startObservedProcess(sandboxId, { command: "watch" }, { signal })
    await sandboxes.appendObservedProcessChunk(observed.id, { type: "stdout", data: "seen" })
    assert.strictEqual((await sandboxes.finishObservedProcess(observed.id)).status, "exited")
    await sandboxes.stopSandbox(sandboxId, { delete: true })
  })

  it("rejects with the errors themselves", async () => {
    await using sandboxes = fake()
    const none = "11111111-1111-4111-8111-111111111111"
    const missing = await failureOf(sandboxes.getSandbox(none))
    assert.instanceOf(missing, SandboxError)
    assert.deepStrictEqual([missing.operation, missing.reason._tag], ["SandboxService.getSandbox", "NotFound"])
    const { sandboxId } = await sandboxes.createSandbox()
    const noProgram = await failureOf(sandboxes.runCommand(sandboxId, "there-is-none"))
    assert.instanceOf(noProgram, PlatformError.PlatformError)
    assert.strictEqual(noProgram.reason._tag, "NotFound")
    const ofStream = await failureOf(collect(sandboxes.listProcesses("no id")))
    assert.strictEqual((ofStream as SandboxError).reason._tag, "InvalidArgument")
    // The source of an input fails with what it says.
    async function* broken() {
      yield new TextEncoder().encode("a")
      throw new Error("the source broke")
    }
    const cut = await failureOf(sandboxes.runCommand(sandboxId, "sort", [], { stdin: broken() }))
    assert.instanceOf(cut, SandboxError)
    assert.strictEqual((cut.reason as { cause?: Error }).cause?.message, "the source broke")
  })

  it("rejects every call when its layer cannot be made", async () => {
    const broken = new SandboxError({ operation: "open", reason: new Unavailable({ accepted: "no" }) })
    await using sandboxes = makeRuntime(Layer.effect(SandboxService, Effect.fail(broken)))
    assert.strictEqual(await failureOf(sandboxes.getSandbox("any")), broken)
    assert.strictEqual(await failureOf(collect(sandboxes.listSandboxes())), broken)
  })

  it("is interrupted by a signal, and by its end", async () => {
    const sandboxes = fake()
    const { sandboxId } = await sandboxes.createSandbox()
    const reason = new Error("enough")
    const aborted = AbortSignal.abort(reason)
    assert.strictEqual(await failureOf(sandboxes.getSandbox(sandboxId, { signal: aborted })), reason)
    assert.strictEqual(await failureOf(collect(sandboxes.listSandboxes({ signal: aborted }))), reason)

    // A stream that waits for its next element.
    const controller = new AbortController()
    const { processId } = await sandboxes
      .startObservedProcess(sandboxId, { command: "watch" })
      .then(({ id }) => ({ processId: id }))
    await sandboxes.appendObservedProcessChunk(processId, { type: "stdout", data: "one" })
    const seen: Array<string> = []
    const following = failureOf(
      (async () => {
        for await (const event of sandboxes.readProcessStream(processId, { follow: true, signal: controller.signal })) {
          seen.push(event._tag)
          if (event._tag === "stdout") queueMicrotask(() => controller.abort(reason))
        }
      })()
    )
    assert.strictEqual(await following, reason)
    assert.include(seen, "stdout")

    // Another, and a call, that are under way at the end.
    const iterator = sandboxes.readProcessStream(processId, { follow: true })[Symbol.asyncIterator]()
    while ((await iterator.next()).value?._tag !== "stdout");
    const next = failureOf(iterator.next())
    const waiting = failureOf(sandboxes.runCommand(sandboxId, "sleep", ["1000"]))
    await sandboxes.dispose()
    assert.instanceOf(await next, RuntimeDisposed)
    assert.instanceOf(await waiting, RuntimeDisposed)
    assert.instanceOf(await failureOf(sandboxes.getSandbox(sandboxId)), RuntimeDisposed)
    assert.instanceOf(await failureOf(collect(sandboxes.listSandboxes())), RuntimeDisposed)
    await sandboxes.dispose()
  })

  it("does not wait for a layer that is never there", async () => {
    const never = makeRuntime(Layer.effect(SandboxService, Effect.never))
    const next = failureOf(never.listSandboxes()[Symbol.asyncIterator]().next())
    const reason = new Error("enough")
    const controller = new AbortController()
    const aborted = failureOf(never.listSandboxes({ signal: controller.signal })[Symbol.asyncIterator]().next())
    controller.abort(reason)
    assert.strictEqual(await aborted, reason)
    const left = never.listSandboxes()[Symbol.asyncIterator]()
    const [element, end] = await Promise.all([left.next(), left.return?.()])
    assert.deepStrictEqual([element.done, end?.done], [true, true])
    await never.dispose()
    assert.instanceOf(await next, RuntimeDisposed)
  })

  it("spawns, kills and runs on this machine", async () => {
    await Effect.runPromise(
      Effect.scoped(Effect.flatMap(tempDirectory, (directory) => Effect.promise(() => onMachine(directory))))
    )
  })
})
