/** The provider suite over the fake provider, and what only it can do. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Duration, Effect, Exit, Fiber, Option, Redacted, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Fake from "../../../src/layers/providers/Fake.ts"
import { make as makeWith } from "../../../src/layers/providers/fake/build.ts"
import type { SandboxConfig } from "../../../src/model/SandboxConfig.ts"
import { ProviderRegistry } from "../../../src/services/ProviderRegistry.ts"
import type { SandboxProvider } from "../../../src/services/SandboxProvider.ts"
import * as P from "../../../src/testing/internal/providers.ts"
import { suite } from "../../../src/testing/ProviderSuite.ts"
import { nativeFiles } from "../../support/capabilities.ts"

suite("fake", Fake.make(), {
  capabilities: {
    processes: { stdin: true, signalsObservable: true, recorded: true, additionalFds: false },
    files: nativeFiles,
    ports: 65535,
    checkpoints: { stopsProcesses: false, comments: true },
    extendTimeout: true,
    persistent: true
  },
  holdsBack: true,
  redactedArguments: true,
  interpreted: true
})

const request = (provider: SandboxProvider, config: SandboxConfig = {}, sandboxId = P.newSandboxId()) =>
  P.request(provider, config, "tests", { sandboxId })

/** A provider over a cloud that the test can look into, and a machine of it. */
const setup = Effect.fnUntraced(function* (options: Fake.Options = {}, config: SandboxConfig = {}) {
  const cloud = options.cloud ?? (yield* Fake.makeCloud)
  const provider = yield* Fake.make({ ...options, cloud })
  const created = yield* request(provider, config)
  const machine = yield* provider.create(created)
  return { cloud, provider, created, machine, sandboxId: created.sandboxId }
})

const text = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes)

/** Writes a word, waits, and writes another. */
const slow: Fake.Command = () =>
  Stream.concat(
    Stream.succeed(Fake.stdout("begun ")),
    Stream.fromEffect(Effect.as(Effect.sleep("10 minutes"), Fake.stdout("done")))
  )

/** Writes what it reads, piece by piece. */
const echo: Fake.Command = (call) => Stream.map(call.stdin, Fake.stdout)

describe("Fake: time is the Clock", () => {
  it.effect("a boot takes as long as it is told", () =>
    Effect.gen(function* () {
      const cloud = yield* Fake.makeCloud
      const provider = yield* Fake.make({ cloud, bootDelay: "1 minute" })
      const created = yield* request(provider)
      const creating = yield* Effect.forkChild(provider.create(created))
      yield* TestClock.adjust("59 seconds")
      assert.isUndefined(creating.pollUnsafe())
      const [booting] = yield* Stream.runCollect(provider.find(created.sandboxId))
      assert.isFalse(booting?.running)
      assert.strictEqual(
        yield* P.reason(
          provider.connect(booting?.ref ?? { externalId: "", incarnation: "" }, {
            sandboxId: created.sandboxId,
            boot: false
          })
        ),
        P.tag("NotRunning")
      )
      yield* TestClock.adjust("1 second")
      const machine = yield* Fiber.join(creating)
      assert.isTrue(cloud.machines[0]?.running)
      // The boot of a stopped one as well; and an interrupted one is there when somebody looks for it.
      yield* machine.stop("stop")
      const booted = yield* Effect.forkChild(
        provider.connect(machine.ref, { sandboxId: created.sandboxId, boot: true })
      )
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.interrupt(booted)
      const again = yield* Effect.forkChild(provider.connect(machine.ref, { sandboxId: created.sandboxId, boot: true }))
      yield* TestClock.adjust("30 seconds")
      assert.notStrictEqual((yield* Fiber.join(again)).ref.incarnation, machine.ref.incarnation)
    })
  )

  it.effect("a slow command ends in its time, a deadline ends one before", () =>
    Effect.gen(function* () {
      const { cloud, machine } = yield* setup({ commands: { slow } })
      const seen = yield* P.observe(yield* P.start(machine, "slow"))
      yield* seen.until(() => seen.stdout() === "begun ")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(0))
      yield* seen.until(() => seen.stdout() === "begun done")
      const [command] = cloud.commands
      assert.strictEqual((command?.endedAt ?? 0) - (command?.startedAt ?? 0), 600_000)

      const now = yield* Clock.currentTimeMillis
      const late = yield* P.observe(yield* P.start(machine, "slow", [], { deadline: now + 60_000 }))
      yield* late.until(() => late.stdout() === "begun ")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* late.process.exit, {
        _tag: "Signalled",
        signal: "SIGTERM",
        code: 143,
        reason: "deadline"
      })
    })
  )

  it.effect("one that handles TERM is killed after the grace", () =>
    Effect.gen(function* () {
      const deaf: Fake.Command = (call) =>
        Stream.concat(
          Stream.fromEffect(Effect.as(call.trap("SIGTERM", Effect.void), Fake.stdout("deaf"))),
          Stream.never
        )
      const { machine } = yield* setup({ commands: { deaf }, killGrace: "5 seconds" })
      const now = yield* Clock.currentTimeMillis
      const seen = yield* P.observe(
        yield* P.start(machine, "deaf", [], { deadline: now + 60_000, lifetime: "recorded" })
      )
      yield* seen.until(() => seen.stdout() === "deaf")
      yield* TestClock.adjust("1 minute")
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual(seen.process.external.externalId, "101")
      const waiting = yield* Effect.forkChild(seen.process.exit)
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(waiting), {
        _tag: "Signalled",
        signal: "SIGKILL",
        code: 137,
        reason: "deadline"
      })
    })
  )

  it.effect("a lease ends the machine and its processes, and can be extended", () =>
    Effect.gen(function* () {
      const { machine, provider, sandboxId } = yield* setup({ commands: { slow } }, { timeout: Duration.minutes(5) })
      const seen = yield* P.observe(yield* P.start(machine, "slow", [], { lifetime: "recorded" }))
      yield* seen.until(() => seen.stdout() === "begun ")
      yield* TestClock.adjust("4 minutes")
      yield* (yield* P.power(machine.extendTimeout))(Duration.minutes(2))
      yield* TestClock.adjust("90 seconds")
      assert.isTrue((yield* Stream.runCollect(provider.find(sandboxId)))[0]?.running)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* seen.process.exit).reason, "timeout")
      assert.strictEqual(yield* P.reason(P.run(machine, "slow")), P.tag("NotRunning"))
      assert.strictEqual(
        yield* P.reason(provider.connect(machine.ref, { sandboxId, boot: false })),
        P.tag("NotRunning")
      )
      const booted = yield* provider.connect(machine.ref, { sandboxId, boot: true })
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual(yield* P.reason(P.run(booted, "slow")), P.tag("NotRunning"))
    })
  )

  it.effect("the lease of a machine that is not persistent takes it away", () =>
    Effect.gen(function* () {
      const { cloud, machine } = yield* setup({}, { timeout: Duration.minutes(5), persistent: false })
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual(yield* P.reason(machine.findProcess(P.newProcessId())), P.tag("Gone"))
      assert.deepStrictEqual(cloud.machines, [])
    })
  )

  it.effect("sleep and date of a script", () =>
    Effect.gen(function* () {
      const { machine } = yield* setup()
      yield* TestClock.setTime(86_400_000)
      const seen = yield* P.observe(yield* P.startSh(machine, "echo up; sleep 3600; date +%s; touch new"))
      yield* seen.until(() => seen.stdout() === "up\n")
      // The script gets from its echo to its sleep in its own time.
      const moved = yield* Effect.forkChild(
        Effect.forever(TestClock.adjust("1 hour").pipe(Effect.andThen(yieldReally)))
      )
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(0))
      yield* Fiber.interrupt(moved)
      assert.match(seen.stdout(), /^up\n(\d+)\n$/)
      assert.strictEqual(Number(seen.stdout().split("\n")[1]) % 3600, 0)
      const info = yield* (yield* P.power(Option.fromNullishOr(machine.fileSystem.stat)))("/workspace/new")
      assert.strictEqual(Option.getOrThrow(info.mtime).getTime() % 3_600_000, 0)
    })
  )
})

/** A turn of the event loop. */
const yieldReally = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))

describe("Fake: registered commands", () => {
  it.effect("get what they were called with, and hear their input live", () =>
    Effect.gen(function* () {
      const calls: Array<Fake.CommandCall> = []
      const tool: Fake.Command = (call) => {
        calls.push(call)
        return Stream.concat(echo(call), Stream.succeed(Fake.exit(7)))
      }
      const { machine } = yield* setup({ commands: { tool } }, { env: { OWN: "1" } })
      const args = ["", " ", "--help", "a\nb", "$x", "é\u{1F600}", "'\""]
      yield* P.text(machine, "mkdir sub")
      const seen = yield* P.observe(
        yield* P.start(machine, "tool", args, { stdin: true, cwd: "sub", env: { A: "b=c", OWN: undefined } })
      )
      yield* seen.process.write(new Uint8Array([0, 0xff, 10]))
      yield* seen.until(() => seen.stdout().length === 3)
      yield* seen.process.write(new TextEncoder().encode("more"))
      yield* seen.until(() => seen.stdout().endsWith("more"))
      yield* seen.process.closeInput
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(7))
      assert.deepStrictEqual(calls[0]?.args, args)
      assert.strictEqual(calls[0]?.cwd, "/workspace/sub")
      assert.strictEqual(calls[0]?.env["A"], "b=c")
      assert.isFalse("OWN" in (calls[0]?.env ?? {}))
      const all = yield* P.run(machine, "tool", [], { extendEnv: false, env: { ONLY: "x" } })
      assert.strictEqual(all.exit.code, 7)
      assert.deepStrictEqual(calls[1]?.env, { ONLY: "x" })
    })
  )

  it.effect("work inside of scripts, with exact bytes", () =>
    Effect.gen(function* () {
      const bytes: Fake.Command = () =>
        Stream.make(Fake.stdout(new Uint8Array([0, 0xff, 0xc3, 10])), Fake.stderr("é\n"))
      const { cloud, machine } = yield* setup({ commands: { bytes, echo, fails: Fake.constant({ code: 3 }) } })
      const piped = yield* P.sh(machine, "bytes | echo | cat; bytes >file; cat file; fails || printf '%s' $?")
      assert.deepStrictEqual([...piped.stdout], [0, 0xff, 0xc3, 10, 0, 0xff, 0xc3, 10, 0x33])
      assert.strictEqual(piped.stderr.toString(), "é\né\n")
      assert.deepStrictEqual([...((yield* cloud.files(machineId(cloud)))["file"] ?? [])], [0, 0xff, 0xc3, 10])
      const nested = yield* P.sh(machine, `sh -c 'bytes; printf "é\\377"' | cat`)
      assert.deepStrictEqual([...nested.stdout.subarray(-7)], [0, 0xff, 0xc3, 10, 0xc3, 0xa9, 0xff])
      assert.deepStrictEqual(
        cloud.commands.filter((command) => command.nested).map((command) => command.command),
        ["bytes", "echo", "bytes", "fails", "bytes"]
      )
      // The input of the script is the command's, live.
      const seen = yield* P.observe(yield* P.startSh(machine, "echo x; echo", { stdin: true }))
      yield* seen.process.write(new TextEncoder().encode("in"))
      yield* seen.process.closeInput
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(0))
    })
  )

  it.effect("a failure or a defect is a line and code 1; a missing end is code 0", () =>
    Effect.gen(function* () {
      const { machine } = yield* setup({
        commands: {
          fails: () => Stream.concat(Stream.succeed(Fake.stdout("half")), Stream.fail(new Error("no luck"))),
          dies: () => {
            throw new Error("thrown")
          },
          quiet: () => Stream.empty,
          dead: () => Stream.make(Fake.signalled("SEGV"), Fake.stdout("never"))
        }
      })
      const failed = yield* P.run(machine, "fails")
      assert.deepStrictEqual([failed.stdout.toString(), failed.stderr.toString()], ["half", "fails: no luck\n"])
      assert.deepStrictEqual(failed.exit, P.exited(1))
      const died = yield* P.run(machine, "dies")
      assert.deepStrictEqual([died.stderr.toString(), died.exit], ["dies: thrown\n", P.exited(1)])
      assert.deepStrictEqual((yield* P.run(machine, "quiet")).exit, P.exited(0))
      const dead = yield* P.run(machine, "dead")
      assert.deepStrictEqual(dead.exit, { _tag: "Signalled", signal: "SIGSEGV", code: 139 })
      assert.strictEqual(dead.stdout.length, 0)
    })
  )

  it.effect("are held back while nobody reads, and lose nothing", () =>
    Effect.gen(function* () {
      let written = 0
      const flood: Fake.Command = () =>
        Stream.fromIterable(Array.from({ length: 256 }, (_, index) => index)).pipe(
          Stream.rechunk(1),
          Stream.map((index) => {
            written++
            return Fake.stdout(new Uint8Array(65_536).fill(index))
          })
        )
      const { machine } = yield* setup({ commands: { flood } })
      const process = yield* P.start(machine, "flood")
      const pull = yield* Stream.toPull(process.output)
      const first = yield* pull
      for (let turns = 0; turns < 50; turns++) yield* yieldReally
      assert.isBelow(written, 8)
      let size = first.reduce((sum, chunk) => sum + chunk.bytes.length, 0)
      yield* pull.pipe(
        Effect.tap((chunks) => Effect.sync(() => (size += chunks.reduce((sum, chunk) => sum + chunk.bytes.length, 0)))),
        Effect.forever,
        Effect.catchTag("Done", () => Effect.void)
      )
      assert.strictEqual(size, 16 << 20)
      assert.deepStrictEqual(yield* process.exit, P.exited(0))
    })
  )

  it.effect("a signal that comes before the first step ends a process too", () =>
    Effect.gen(function* () {
      const ran: Array<string> = []
      const never: Fake.Command = () =>
        Stream.onStart(
          Stream.never,
          Effect.sync(() => ran.push("ran"))
        )
      const { machine } = yield* setup({ commands: { never } })
      for (const signal of ["SIGTERM", "SIGKILL"] as const) {
        const process = yield* P.start(machine, "never")
        yield* process.signal(signal)
        const exit = yield* process.exit
        assert.strictEqual(exit._tag === "Signalled" ? exit.signal : exit._tag, signal)
        const gone = yield* Effect.flip(process.signal(signal))
        assert.strictEqual(gone.reason._tag, "ProcessEnded")
      }
      assert.deepStrictEqual(ran, [], "it was signalled before it could begin")
    })
  )

  it.effect("a signal interrupts, is handled, or is forced; the Scope ends a scoped one", () =>
    Effect.gen(function* () {
      const events: Array<string> = []
      const waits: Fake.Command = () =>
        Stream.concat(
          Stream.succeed(Fake.stdout("up")),
          Stream.onExit(Stream.never, () => Effect.sync(() => events.push("cleaned")))
        )
      const handles: Fake.Command = (call) =>
        Stream.unwrap(
          Effect.gen(function* () {
            const end = yield* Deferred.make<void>()
            yield* call.trap("USR1", Deferred.succeed(end, undefined))
            return Stream.concat(
              Stream.succeed(Fake.stdout("up")),
              Stream.fromEffect(Effect.as(Deferred.await(end), Fake.exit(5)))
            )
          })
        )
      const { machine } = yield* setup({ commands: { waits, handles } })
      const first = yield* P.observe(yield* P.start(machine, "waits"))
      yield* first.until(() => first.stdout() === "up")
      yield* first.process.signal("SIGWINCH")
      yield* first.process.signal("INT")
      assert.deepStrictEqual(yield* first.process.exit, { _tag: "Signalled", signal: "SIGINT", code: 130 })
      assert.deepStrictEqual(events, ["cleaned"])
      const second = yield* P.observe(yield* P.start(machine, "handles"))
      yield* second.until(() => second.stdout() === "up")
      yield* second.process.signal("SIGUSR1")
      assert.deepStrictEqual(yield* second.process.exit, P.exited(5))
      const scope = yield* Scope.make()
      const third = yield* P.start(machine, "waits").pipe(Effect.flatMap(P.observe), Scope.provide(scope))
      yield* third.until(() => third.stdout() === "up")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* third.process.exit).code, 143)
      assert.strictEqual(events.length, 2)
    })
  )
})

const machineId = (cloud: Fake.Cloud["Service"]) => cloud.machines[0]?.sandboxId ?? P.newSandboxId()

describe("Fake: what a process leaves", () => {
  const hangs: Fake.Command = () => Stream.concat(Stream.succeed(Fake.stdout("up")), Stream.never)

  it.effect("signals that end nothing can be handled too; a handler ends with its process", () =>
    Effect.gen(function* () {
      const handled = yield* Deferred.make<void>()
      const begun = yield* Deferred.make<void>()
      const ended = yield* Deferred.make<void>()
      const handles: Fake.Command = (call) =>
        Stream.fromEffect(
          Effect.gen(function* () {
            yield* call.trap("SIGWINCH", Effect.asVoid(Deferred.succeed(handled, undefined)))
            const forever = Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
            yield* call.trap(
              "TERM",
              Effect.onInterrupt(forever, () => Deferred.succeed(ended, undefined))
            )
            return Fake.stdout("up")
          })
        ).pipe(Stream.concat(Stream.never))
      const { machine } = yield* setup({ commands: { handles } })
      const seen = yield* P.observe(yield* P.start(machine, "handles"))
      yield* seen.until(() => seen.stdout() === "up")
      yield* seen.process.signal("WINCH")
      yield* Deferred.await(handled)
      yield* seen.process.signal("TERM")
      yield* Deferred.await(begun)
      assert.isUndefined(yield* Deferred.poll(ended).pipe(Effect.map(Option.getOrUndefined)))
      yield* seen.process.signal("KILL")
      yield* Deferred.await(ended)
    })
  )

  it.effect("is told of the command that it was, though others have been forgotten", () =>
    Effect.gen(function* () {
      const { cloud, machine } = yield* setup({ commands: { hangs } })
      const first = yield* P.start(machine, "hangs", ["1"])
      yield* cloud.forget
      yield* P.start(machine, "hangs", ["2"])
      yield* first.signal("KILL")
      yield* first.exit
      assert.deepStrictEqual(
        cloud.commands.map(({ args, exit }) => [args, exit]),
        [[["2"], undefined]]
      )
    })
  )

  it.effect("is no command that runs on: one of a script ends with it", () =>
    Effect.gen(function* () {
      const up = yield* Deferred.make<void>()
      const { cloud, machine, sandboxId } = yield* setup({
        commands: { hangs: () => Stream.fromEffect(Effect.andThen(Deferred.succeed(up, undefined), Effect.never)) }
      })
      const process = yield* P.startSh(machine, "hangs; echo over > file")
      yield* Deferred.await(up)
      yield* process.signal("KILL")
      assert.deepInclude(yield* process.exit, { _tag: "Signalled", signal: "SIGKILL" })
      yield* Effect.repeat(Effect.yieldNow, { until: () => cloud.commands[1]?.exit !== undefined })
      assert.deepInclude(cloud.commands[1]?.exit, { _tag: "Signalled", signal: "SIGKILL" })
      assert.deepStrictEqual(yield* cloud.files(sandboxId), {})
    })
  )

  it.effect("is a line that says so, where the interpreter itself breaks", () =>
    Effect.gen(function* () {
      const provider = yield* makeWith({}, async () => {
        const real = await import("just-bash")
        return {
          ...real,
          Bash: class extends real.Bash {
            override exec(): never {
              throw new Error("it broke")
            }
          }
        }
      })
      const machine = yield* provider.create(yield* request(provider))
      const { exit, stderr } = yield* P.sh(machine, "echo hello")
      assert.deepStrictEqual([exit, stderr.toString()], [P.exited(1), "sh: it broke\n"])
    })
  )
})

describe("Fake: the cloud", () => {
  it.effect("a recorded process outlives the service", () =>
    Effect.gen(function* () {
      const { cloud, created, machine } = yield* setup({ commands: { slow } })
      const processId = P.newProcessId()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const seen = yield* P.observe(yield* P.start(machine, "slow", [], { processId, lifetime: "recorded" }))
          yield* seen.until(() => seen.stdout() === "begun ")
        })
      )
      const other = yield* Fake.make({ cloud })
      const [info] = yield* Stream.runCollect(other.list("tests"))
      const again = yield* other.connect(info?.ref ?? machine.ref, { sandboxId: created.sandboxId, boot: false })
      const external = yield* P.power(yield* again.findProcess(processId))
      const process = yield* again.resume(external, { stdout: 2, stderr: 0 })
      yield* TestClock.adjust("10 minutes")
      const result = yield* P.collect(process, { stdout: 2, stderr: 0 })
      assert.strictEqual(result.stdout.toString(), "gun done")
      assert.deepStrictEqual(result.exit, P.exited(0))
      assert.strictEqual(cloud.commands.length, 1)
    })
  )

  it.effect("shows calls, commands and files, and no secret", () =>
    Effect.gen(function* () {
      const secret = "planted-secret"
      const { cloud, machine, sandboxId } = yield* setup(
        { commands: { echo } },
        { env: { TOKEN: Redacted.make(secret), PLAIN: "plain" } }
      )
      const result = yield* P.sh(
        machine,
        `printf '%s' "$TOKEN" | echo "$1"; echo "$TOKEN" < /dev/null`,
        {
          env: { OTHER: Redacted.make(`${secret}-other`) }
        },
        [Redacted.make("hush")]
      )
      assert.strictEqual(result.stdout.toString(), secret)
      yield* P.run(machine, "echo", [Redacted.make("hush")], { env: { A: Redacted.make("hush-a") } })
      assert.strictEqual(cloud.commands.length, 4)
      const [shell, piped] = cloud.commands
      assert.strictEqual(text(piped?.stdin), secret, "what a program reads is not redacted by anybody")
      const shown = JSON.stringify([cloud.calls, cloud.commands.map(({ stdin: _, ...command }) => command)])
      assert.notInclude(shown, secret)
      assert.notInclude(shown, "hush")
      assert.strictEqual(shell?.env["TOKEN"], "<redacted>")
      assert.strictEqual(shell?.env["PLAIN"], "plain")
      assert.deepStrictEqual(shell?.args.slice(-1), ["<redacted>"])
      assert.deepStrictEqual(
        cloud.calls.map((call) => [call.operation, call.sandboxId]),
        [
          ["create", sandboxId],
          ["start", sandboxId],
          ["start", sandboxId]
        ]
      )
      yield* P.writeFile(machine, "deep/file", "content")
      assert.deepStrictEqual(Object.keys(yield* cloud.files(sandboxId)), ["deep/file"])
      yield* cloud.forget
      assert.strictEqual(cloud.calls.length + cloud.commands.length, 0)
    })
  )

  it.effect("any name is one, of a file and of a variable; a file can stand at the root", () =>
    Effect.gen(function* () {
      const name = "__proto__"
      const env: Fake.Command = (call) => Stream.make(Fake.stdout(JSON.stringify(Object.entries(call.env))))
      const { cloud, machine, sandboxId } = yield* setup(
        { commands: { env } },
        { env: Object.fromEntries([[name, "machine"]]) }
      )
      const content = new TextEncoder().encode("text")
      assert.deepStrictEqual(
        yield* machine.writeFiles([
          { path: name, content },
          { path: "/top", content }
        ]),
        []
      )
      assert.deepStrictEqual(Object.keys(yield* cloud.files(sandboxId)), [name])
      const read = yield* Stream.runCollect(machine.readFile("/top"))
      assert.strictEqual(read.map(text).join(""), "text")
      const inherited = yield* P.run(machine, "env")
      assert.include(inherited.stdout.toString(), `["${name}","machine"]`)
      const own = yield* P.run(machine, "env", [], { extendEnv: false, env: Object.fromEntries([[name, "own"]]) })
      assert.strictEqual(own.stdout.toString(), `[["${name}","own"]]`)
    })
  )

  it.effect("a machine vanishes or is halted behind the service's back", () =>
    Effect.gen(function* () {
      const { cloud, created, machine, provider, sandboxId } = yield* setup({ commands: { slow } })
      const seen = yield* P.observe(yield* P.start(machine, "slow", [], { lifetime: "recorded" }))
      yield* cloud.halt(sandboxId)
      assert.strictEqual((yield* seen.process.exit).code, 137)
      assert.strictEqual(yield* P.reason(P.run(machine, "slow")), P.tag("NotRunning"))
      const checkpoints = yield* P.power(provider.checkpoints)
      const booted = yield* provider.connect(machine.ref, { sandboxId, boot: true })
      yield* P.writeFile(booted, "kept", "here")
      const checkpoint = yield* (yield* P.power(booted.createCheckpoint))({})
      yield* cloud.vanish(sandboxId)
      assert.strictEqual(yield* P.reason(P.run(booted, "slow")), P.tag("Gone"))
      assert.strictEqual(yield* P.reason(cloud.files(sandboxId)), P.tag("NotFound"))
      // From its checkpoint it can be made again.
      const restored = yield* checkpoints.restore(checkpoint.id, { ...created, version: 2 }, Option.none())
      assert.strictEqual((yield* P.readFile(restored, "kept")).toString(), "here")
    })
  )

  it.effect("a checkpoint ends the processes where the provider is told so", () =>
    Effect.gen(function* () {
      const { machine, provider } = yield* setup({ commands: { slow }, stopsProcesses: true })
      assert.deepStrictEqual(provider.capabilities.checkpoints, { stopsProcesses: true, comments: true })
      const process = yield* P.start(machine, "slow", [], { lifetime: "recorded" })
      yield* (yield* P.power(machine.createCheckpoint))({})
      assert.strictEqual((yield* process.exit).reason, "stop")
    })
  )

  it.effect("names of the user's own, and addresses of ports", () =>
    Effect.gen(function* () {
      const cloud = yield* Fake.makeCloud
      const provider = yield* Fake.make({ cloud, portUrl: (port) => `http://127.0.0.1:${port + 1}` })
      const config = { ports: [80], providerOptions: { fake: { name: "mine", reuse: true } } }
      const created = yield* request(provider, config)
      assert.deepStrictEqual(created.resolved.name, { externalId: "mine", reuse: true })
      const machine = yield* provider.create(created)
      assert.strictEqual(machine.ref.externalId, "mine")
      assert.strictEqual(
        yield* P.reason(Effect.flatMap(request(provider, config), provider.create)),
        P.tag("NameInUse")
      )
      assert.strictEqual((yield* (yield* P.power(machine.portUrl))(80)).url, "http://127.0.0.1:81")
      assert.strictEqual(
        yield* P.reason(provider.resolve({ providerOptions: { fake: { nam: "x" } } })),
        P.tag("InvalidConfig")
      )
    })
  )

  it.effect("without just-bash, what is registered runs, and everything else names the package", () =>
    Effect.gen(function* () {
      const provider = yield* makeWith({ commands: { hello: Fake.constant({ stdout: "hello" }) } }, () =>
        Promise.reject(Object.assign(new Error("not there"), { code: "ERR_MODULE_NOT_FOUND" }))
      )
      const machine = yield* Effect.flatMap(request(provider), provider.create)
      assert.strictEqual((yield* P.run(machine, "hello")).stdout.toString(), "hello")
      const error = yield* Effect.flip(P.run(machine, "sh", ["-c", "true"]))
      assert.strictEqual(P.reasonOf(error), P.tag("MissingPackage"))
      assert.include(String(error), "just-bash")
    })
  )

  it.effect("the layer provides the registry and the cloud", () =>
    Effect.gen(function* () {
      const registry = yield* ProviderRegistry
      const cloud = yield* Fake.Cloud
      const provider = yield* registry.select(undefined)
      yield* Effect.flatMap(request(provider), provider.create)
      assert.strictEqual(cloud.machines.length, 1)
    }).pipe(Effect.provide(Fake.layer()))
  )
})

describe("Fake: scripts", () => {
  it.effect("have builtins whatever PATH says; umask shows and changes nothing; a program of PATH wins by order", () =>
    Effect.gen(function* () {
      const { machine } = yield* setup({ commands: { tool: Fake.constant({ stdout: "registered" }) } })
      const script = "umask; umask 077 || echo fixed; ls || echo none"
      const result = yield* P.sh(machine, script, { env: { PATH: "/nowhere" }, extendEnv: false }).pipe(Effect.flip)
      assert.strictEqual(P.reasonOf(result), "NotFound")
      const run = yield* P.run(machine, "/bin/sh", ["-c", script], { env: { PATH: "/nowhere" } })
      assert.strictEqual(run.stdout.toString(), "0022\nfixed\nnone\n")
      const content = new TextEncoder().encode("#!/bin/sh\nprintf own")
      yield* machine.writeFiles([{ path: "/opt/tool", content, mode: 0o755 }])
      for (const [PATH, stdout] of [
        ["/opt:/bin", "own"],
        ["/bin:/opt", "registered"]
      ] as const) {
        assert.strictEqual((yield* P.run(machine, "tool", [], { env: { PATH } })).stdout.toString(), stdout)
      }
    })
  )

  it.effect("copy as cp does: into the file that is there, and what a symlink leads to", () =>
    Effect.gen(function* () {
      const { machine } = yield* setup()
      const script = [
        "echo new > from; echo old > to; ln to other; ln -s to link; ln -s from alias",
        "cp from link; cat other",
        "cp alias copied; echo more > from; cat copied",
        "mkdir d; ln -s missing d/link; cp -r d e; readlink e/link"
      ].join("\n")
      const { stderr, stdout } = yield* P.sh(machine, script)
      assert.deepStrictEqual([stdout.toString(), stderr.toString()], ["new\nnew\nmissing\n", ""])
    })
  )

  it.effect("pipes, substitutions, redirections and functions", () =>
    Effect.gen(function* () {
      const { machine } = yield* setup()
      const cases: ReadonlyArray<readonly [script: string, stdout: string, stderr?: string]> = [
        ["printf 'b\\na\\n' | sort | while read -r l; do echo \"<$l>\"; done", "<a>\n<b>\n"],
        ['x=$(echo in); echo "[$x]"; echo $(echo a; echo b)', "[in]\na b\n"],
        ["f() { echo f; echo e >&2; return 3; }; f | tr f g; f >/dev/null 2>&1; echo $?", "g\n3\n", "e\n"],
        ["ls missing 2>&1 | grep -c missing; ls missing 2>/dev/null; echo $?", "1\n2\n"],
        ["{ echo a; echo b; } >file; cat <file; (echo c) | cat; cat <<X\nhere\nX", "a\nb\nc\nhere\n"],
        ["if echo t; then echo y; fi; for i in 1 2; do echo $i; done; case x in x) echo c;; esac", "t\ny\n1\n2\nc\n"],
        ["echo a && echo b || echo c; ! true; echo $?; sh -c 'echo n >&2; echo o' | wc -l", "a\nb\n1\n1\n", "n\n"],
        ["exec >log; echo hidden; exec >/dev/null; echo gone", ""],
        ["cat log; echo a | tee copy | cat - copy; echo x | xargs -n 1 echo got", "hidden\na\na\ngot x\n"]
      ]
      for (const [script, stdout, stderr = ""] of cases) {
        const result = yield* P.sh(machine, script)
        assert.deepStrictEqual([result.stdout.toString(), result.stderr.toString()], [stdout, stderr], script)
      }
    })
  )

  it.effect("are not waited for by an input that nobody reads", () =>
    Effect.gen(function* () {
      const { machine } = yield* setup()
      yield* P.writeFile(machine, "file", "b\na\n")
      const open = { stdin: true }
      assert.strictEqual(
        (yield* P.sh(machine, "sort file; echo é | cat; ls", open)).stdout.toString(),
        "a\nb\né\nfile\n"
      )
      assert.strictEqual((yield* P.run(machine, "cat", ["file"], open)).stdout.toString(), "b\na\n")
      const process = yield* P.startSh(machine, "grep a; cat file", open)
      yield* process.write(new TextEncoder().encode("xay\nb\n"))
      yield* process.closeInput
      assert.strictEqual((yield* P.collect(process)).stdout.toString(), "xay\nb\na\n")
    })
  )

  it.effect("files with a first line that names their interpreter", () =>
    Effect.gen(function* () {
      const { machine } = yield* setup({
        commands: { mine: (call) => Stream.succeed(Fake.stdout(call.args.join("|"))) }
      })
      const file = Effect.fnUntraced(function* (path: string, content: string) {
        assert.deepStrictEqual(
          yield* machine.writeFiles([{ path, content: new TextEncoder().encode(content), mode: 0o755 }]),
          []
        )
      })
      yield* file("a", `#!/usr/bin/env mine\n`)
      yield* file("b", `#!/bin/sh -e\nprintf '%s,' "$0" "$@"; false; echo not reached`)
      yield* file("c", "no first line")
      assert.strictEqual((yield* P.run(machine, "./a", ["x y"])).stdout.toString(), "/workspace/./a|x y")
      const b = yield* P.run(machine, "/workspace/b", ["1", ""])
      assert.strictEqual(b.stdout.toString(), "/workspace/b,1,,")
      assert.deepStrictEqual(b.exit, P.exited(1))
      assert.strictEqual(yield* P.reason(P.run(machine, "./c")), "Unknown")
      assert.deepStrictEqual((yield* P.run(machine, "/bin/true")).exit, P.exited(0))
      assert.strictEqual(
        yield* P.reason(P.run(machine, "true", [], { additionalFds: [{ fd: 3, type: "input" }] })),
        "BadArgument"
      )
    })
  )
})
