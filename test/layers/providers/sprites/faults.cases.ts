/** What goes wrong at Sprites, one trap of the facts after the other, and what the user gets. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Option, Schedule, type Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import * as P from "../../../../src/testing/internal/providers.ts"
import * as Fault from "../../../emulators/sprites/faults.ts"
import { some } from "../../../support/full.ts"
import { applets, busybox } from "../../../support/guests.ts"
import { provider, service, Vendor } from "./support.ts"
import { commandOf, deadlineIn, until } from "./waiting.ts"

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const world = Effect.gen(function* () {
  return { vendor: yield* Vendor, sandboxes: yield* SandboxService }
})

/** A sandbox whose name is `box`. */
const box = Effect.gen(function* () {
  const { sandboxes, vendor } = yield* world
  const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true, sprites: { name: "box" } })
  yield* sandboxes.runCommand(sandboxId, "true")
  vendor.requests.reset()
  return { sandboxes, sandboxId, vendor, sprite: vendor.sprite("box") }
})

const live = (
  name: string,
  body: () => Effect.Effect<void, unknown, SandboxService | Vendor | Scope.Scope>,
  layer: () => ReturnType<typeof service> = service
) => it.live(name, () => Effect.scoped(Effect.provide(body(), layer())), 60_000)

/** A command that tells in the sandbox how often it ran. */
const counted = ["-c", "echo run >>runs; echo out; echo err >&2; exit 3"]
const runs = (sandboxes: SandboxService["Service"], sandboxId: string) =>
  Effect.map(sandboxes.readFile(sandboxId, "runs"), text)
const whole = { exitCode: 3, stdout: "out\n", stderr: "err\n" }

type Case = readonly [name: string, fault: Fault.Fault]

describe("Sprites: a creation", () => {
  for (const [name, fault] of some<Case>(
    [
      ["whose connection is reset after it was taken up", Fault.resetAfter],
      ["that meets 429", Fault.limited("sprite_creation_rate_limited", 0)]
    ],
    [
      ["whose connection is reset before it is taken up", Fault.resetBefore],
      ["whose answer a proxy loses", Fault.gateway(502)]
    ]
  )) {
    live(`${name} makes one sprite`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        vendor.faults.inject("sprite.create", fault)
        const { sandboxId } = yield* sandboxes.createSandbox()
        assert.strictEqual(vendor.sprites().length, 1)
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        assert.strictEqual(vendor.faults.pending, 0)
      })
    )
  }

  live("that succeeds only after we gave up is the one that the next attempt finds", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("sprite.create", Fault.late)
      const sandboxId = crypto.randomUUID()
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox({}, { sandboxId }))
      yield* until("it was asked for", () => vendor.requests.count("sprite.create") > 0)
      // The caller goes; the vendor makes it all the same.
      yield* Fiber.interrupt(fiber)
      yield* until("it is made", () => vendor.sprites().length > 0)
      const { outcome } = yield* sandboxes.createSandbox({}, { sandboxId })
      assert.strictEqual(outcome, "resumed")
      assert.strictEqual(vendor.sprites().length, 1)
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    })
  )

  live("whose policy cannot be set hands nothing out, and is what the next attempt goes on with", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("policy.set", Fault.answer(400, "invalid policy"))
      const config = { sprites: { networkPolicy: { deny: ["a.com"] } } }
      const error = yield* Effect.flip(sandboxes.createSandbox(config))
      assert.strictEqual(error.reason._tag, "InvalidArgument")
      assert.strictEqual(vendor.requests.count("exec"), 0)
      // Nothing is left of it: the failure says that nothing was taken up.
      assert.deepStrictEqual(vendor.sprites(), [])
      const { sandboxId } = yield* sandboxes.createSandbox(config)
      assert.deepStrictEqual(
        vendor.sprites().map(({ rules }) => rules.length),
        [2]
      )
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    })
  )
})

describe("Sprites: a creation for which there is no room once it is made", () => {
  for (const [name, fault, tag] of [
    ["leaves nothing behind", [], "RateLimited"],
    // The service looks for what may be there, and deletes it.
    ["does not pass for one that never was where it cannot be deleted", [Fault.gateway(502, false)], "Unavailable"]
  ] as const) {
    live(
      name,
      () =>
        Effect.gen(function* () {
          const { sandboxes, vendor } = yield* world
          const full = Array.from({ length: 21 }, () => Fault.limited("concurrent_sprite_limit_exceeded", 0))
          vendor.faults.inject("exec", ...full)
          vendor.faults.inject("sprite.delete", ...fault)
          const error = yield* Effect.flip(sandboxes.createSandbox())
          assert.strictEqual(error.reason._tag, tag)
          assert.deepStrictEqual(vendor.sprites(), [])
        }),
      () => service({}, { recovery: { recreate: Schedule.max([Schedule.spaced("1 milli"), Schedule.recurs(0)]) } })
    )
  }
})

describe("Sprites: a command", () => {
  for (const [name, faults] of some<readonly [name: string, faults: ReadonlyArray<Fault.Fault>]>(
    [
      ["whose start is lost with its answer", [Fault.gateway(504)]],
      ["that finds the machine not ready", [Fault.notReady(0)]],
      ["that meets one stray 404", [Fault.notFound]],
      ["whose connection drops twice", [Fault.drop(0), Fault.drop(1)]],
      ["whose connection is closed without a frame", [Fault.closeEarly]]
    ],
    [
      ["whose start is reset before it is taken up", [Fault.resetBefore]],
      ["that has to wait for a sprite to fall asleep", [Fault.limited("concurrent_sprite_limit_exceeded", 0)]],
      ["whose connection drops in the middle", [Fault.drop(1)]],
      ["whose connection is closed without an exit", [Fault.noExit]],
      ["whose exit has no byte", [Fault.emptyExit]],
      ["that has only the text exit", [Fault.textExit]]
    ]
  )) {
    live(`${name} runs once, and all of it arrives`, () =>
      Effect.gen(function* () {
        const { sandboxes, sandboxId, vendor } = yield* box
        vendor.faults.inject("exec", ...faults)
        assert.deepInclude(yield* sandboxes.runCommand(sandboxId, "sh", counted), whole)
        assert.strictEqual(yield* runs(sandboxes, sandboxId), "run\n")
        assert.strictEqual(vendor.faults.pending, 0)
      })
    )
  }

  live("that meets a stray 401 fails, and nothing is thrown away for it", () =>
    Effect.gen(function* () {
      const { sandboxes, sandboxId, vendor } = yield* box
      vendor.faults.inject("exec", Fault.unauthorized)
      const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
      assert.strictEqual(error.reason._tag, "Authentication")
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "active")
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
      assert.strictEqual(vendor.requests.count("sprite.delete"), 0)
    })
  )

  live("whose machine is told to be gone for long enough is made anew, and not before", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { ref, sandboxId } = yield* sandboxes.createSandbox()
      yield* vendor.vanish(ref.externalSandboxId ?? "")
      vendor.requests.reset()
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
      const asked = vendor.requests.of("sprite.get").map(({ at }) => at)
      assert.isAtLeast((asked[1] ?? 0) - (asked[0] ?? 0), 1_990)
      assert.notStrictEqual((yield* sandboxes.getSandbox(sandboxId)).externalSandboxId, ref.externalSandboxId)
    })
  )
})

describe("Sprites: files", () => {
  for (const [name, fault] of [
    ["that hang while the machine wakes", Fault.hang],
    ["that were written by a request without an answer", Fault.hangAfter]
  ] as const) {
    live(
      `${name} are written by one more request`,
      () =>
        Effect.gen(function* () {
          const { sandboxes, sandboxId, vendor } = yield* box
          vendor.faults.inject("fs.write", fault)
          yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "content" }])
          // The file, a command that wakes, the file, and what puts it in place.
          assert.deepStrictEqual(vendor.requests.names, ["fs.write", "exec", "fs.write", "exec"])
          vendor.faults.inject("fs.read", Fault.hang)
          assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "file")), "content")
          assert.deepStrictEqual(vendor.requests.names.slice(4), ["fs.read", "exec", "fs.read"])
        }),
      () => service({}, {}, { SANDBOX_REQUEST_TIMEOUT: "300 millis" })
    )
  }

  live("that are not there are told from a sprite that is not", () =>
    Effect.gen(function* () {
      const { sandboxes, sandboxId, vendor } = yield* box
      const missing = yield* Effect.flip(sandboxes.readFile(sandboxId, "none"))
      assert.strictEqual(`${missing._tag}.${missing.reason._tag}`, "PlatformError.NotFound")
      assert.strictEqual(vendor.requests.count("sprite.get"), 0)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "content" }])
      vendor.faults.inject("fs.read", Fault.notFound)
      assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "file")), "content")
      // One that the endpoint refuses, or cleans by its words, a command can read all the same.
      vendor.faults.inject(
        "fs.read",
        Fault.answer(403, '{"error":"denied","code":"EACCES"}'),
        Fault.answer(400, "bad path")
      )
      for (const path of ["file", "file", `../${vendor.sprite("box").home.split("/").at(-1)}/./file`]) {
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, path)), "content")
      }
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).externalSandboxId, "box")
    })
  )
})

describe("Sprites: a checkpoint", () => {
  const create = (sandboxes: SandboxService["Service"], sandboxId: string) =>
    sandboxes.createCheckpoint(sandboxId, { comment: "why" })

  for (const [name, fault] of [
    ["whose progress breaks off is found by its mark", Fault.cutLines(1)],
    ["whose answer is lost is found by its mark", Fault.resetAfter],
    ["that is told in other words is found by its mark", Fault.otherWords]
  ] as const) {
    live(name, () =>
      Effect.gen(function* () {
        const { sandboxes, sandboxId, vendor } = yield* box
        vendor.faults.inject("checkpoint.create", fault)
        const made = yield* create(sandboxes, sandboxId)
        assert.deepInclude(made, { id: "v0", comment: "why" })
        assert.strictEqual(vendor.requests.count("checkpoint.create"), 1)
        assert.strictEqual(vendor.sprite("box").checkpoints.length, 1)
      })
    )
  }

  live(
    "that fails, or of which nothing is known, says so",
    () =>
      Effect.gen(function* () {
        const { sandboxes, sandboxId, vendor } = yield* box
        vendor.faults.inject("checkpoint.create", Fault.errorEvent("no space"), Fault.cutLines(1, false))
        const failed = yield* Effect.flip(create(sandboxes, sandboxId))
        assert.include(failed.message, "no space")
        const unknown = yield* Effect.flip(create(sandboxes, sandboxId))
        assert.strictEqual(unknown.reason._tag, "OutcomeUnknown")
        assert.strictEqual(vendor.requests.count("checkpoint.create"), 2)
      }),
    () => service({}, { recovery: { ready: Schedule.max([Schedule.spaced("10 millis"), Schedule.recurs(3)]) } })
  )

  live("is restored though the answer breaks off, and not said to be when it was not", () =>
    Effect.gen(function* () {
      const { sandboxes, sandboxId, vendor } = yield* box
      yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "then" }])
      const { id } = yield* create(sandboxes, sandboxId)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "now" }])
      vendor.faults.inject("checkpoint.restore", Fault.errorEvent("failed to start overlay service tree"))
      const failed = yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, id))
      assert.include(failed.message, "overlay")
      // The sandbox is what it was.
      assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "file")), "now")
      vendor.faults.inject("checkpoint.restore", Fault.cutLines(1, false))
      const unknown = yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, id))
      assert.isFalse(unknown.provesNotAccepted)
      vendor.faults.inject("checkpoint.restore", Fault.cutLines(1))
      yield* sandboxes.restoreCheckpoint(sandboxId, id)
      assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "file")), "then")
    })
  )
})

describe("Sprites: a restore", () => {
  live(
    "after which the machine never answers again is not said not to have happened, and the next use finds out",
    () =>
      Effect.gen(function* () {
        const { sandboxes, sandboxId, vendor, sprite } = yield* box
        yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "then" }])
        const { id } = yield* sandboxes.createCheckpoint(sandboxId)
        yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "now" }])
        const error = yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, id))
        assert.deepStrictEqual([error.reason._tag, error.provesNotAccepted], ["Unavailable", false])
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "recreating")
        sprite.unready = 0
        vendor.requests.reset()
        yield* sandboxes.reconnectToSandbox(sandboxId)
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "file")), "then")
      }),
    () =>
      service(
        { unready: 1_000 },
        { recovery: { ready: Schedule.max([Schedule.spaced("10 millis"), Schedule.recurs(3)]) } }
      )
  )
})

describe("Sprites: a stop", () => {
  live("that meets one stray 404 deletes all the same", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { sandboxId } = yield* sandboxes.createSandbox()
      vendor.faults.inject("sprite.delete", Fault.notFound)
      yield* sandboxes.stopSandbox(sandboxId)
      assert.deepStrictEqual(vendor.sprites(), [])
    })
  )

  live("whose answer is lost is asked for again", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      for (const executed of [true, false]) {
        const { sandboxId } = yield* sandboxes.createSandbox()
        vendor.faults.inject("sprite.delete", Fault.gateway(502, executed))
        yield* sandboxes.stopSandbox(sandboxId)
        assert.deepStrictEqual(vendor.sprites(), [])
      }
    })
  )
})

/** A machine of the provider under the test's clock. */
const machineUnder = Effect.fnUntraced(function* (...args: Parameters<typeof provider>) {
  const { emulator, provider: made } = yield* provider(...args)
  const request = yield* P.request(made, {}, "tests")
  const machine = yield* made.create(request)
  const sprite = emulator.sprite(machine.ref.externalId)
  return { emulator, machine, provider: made, request, sprite }
})

/** Lets virtual time pass until an effect is done, with real time in between for what is no clock's. */
const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>, step: Duration.Input = "5 seconds") =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(effect)
    for (let steps = 0; steps < 200 && fiber.pollUnsafe() === undefined; steps++) {
      yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 20)))
      yield* TestClock.adjust(step)
    }
    return yield* Fiber.join(fiber)
  })

describe("Sprites: time", () => {
  it.effect(
    "a sprite that runs and answers nothing is Unresponsive, to a file and to a command, and can be deleted",
    () =>
      Effect.gen(function* () {
        const { emulator, machine, provider: made, request, sprite } = yield* machineUnder()
        sprite.wedged = true
        assert.strictEqual(yield* inTime(P.reason(P.readFile(machine, "file"))), P.tag("Unresponsive"))
        assert.strictEqual(yield* inTime(P.reason(P.run(machine, "true"))), P.tag("Unresponsive"))
        const { list } = yield* P.power(made.checkpoints)
        const listing = Stream.runCollect(list(request.sandboxId, Option.some(machine.ref)))
        assert.strictEqual(yield* inTime(P.reason(listing), "10 seconds"), P.tag("Unresponsive"))
        // Only the status was asked for of what is no part of it.
        assert.isAtMost(emulator.requests.count("exec"), 7)
        yield* machine.stop("delete")
        assert.deepStrictEqual(emulator.sprites(), [])
      })
  )

  it.effect("a recorded process holds the sprite awake while nobody is there, and no longer than it runs", () =>
    Effect.gen(function* () {
      const { machine, sprite } = yield* machineUnder({}, { renewEvery: "1 second" })
      const processId = P.newProcessId()
      yield* Effect.scoped(
        P.startSh(machine, `while [ ! -e go ]; do sleep 0.05; done; echo done`, { processId, lifetime: "recorded" })
      )
      yield* until("nobody is there", () => sprite.busy === 0)
      for (let times = 0; times < 3; times++) {
        const before = sprite.renewals
        yield* until("it is held", () => sprite.renewals > before)
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual(sprite.status, "running")
      }
      yield* P.writeFile(machine, "go", "")
      const external = yield* P.power(yield* machine.findProcess(processId))
      const result = yield* Effect.scoped(
        Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), (process) => P.collect(process))
      )
      assert.deepStrictEqual([result.stdout.toString(), result.exit], ["done\n", P.exited(0)])
      yield* until("nobody is there", () => sprite.busy === 0)
      yield* TestClock.adjust("4 minutes")
      assert.strictEqual(sprite.status, "warm")
      // It is woken by whoever asks, and by that is no other machine.
      assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
    })
  )

  it.effect(
    "what runs goes on over another connection, also where the machine clears away what a lost one leaves",
    () =>
      Effect.gen(function* () {
        const { machine, sprite } = yield* machineUnder({ reap: "tree" })
        const script = `echo up; while [ ! -e go ]; do sleep 0.02; done; echo over`
        const processId = P.newProcessId()
        yield* Effect.scoped(P.startSh(machine, script, { processId, lifetime: "recorded" }))
        const scoped = yield* P.observe(yield* P.startSh(machine, script))
        yield* scoped.until(() => scoped.stdout() === "up\n")
        for (const session of [...sprite.sessions.values()]) session.cut()
        // Far beyond the time that a lost connection's are given.
        yield* inTime(Effect.sleep("2 minutes"))
        yield* P.writeFile(machine, "go", "")
        assert.deepStrictEqual(yield* inTime(scoped.process.exit), P.exited(0))
        yield* scoped.until(() => scoped.stdout() === "up\nover\n")
        const external = yield* P.power(yield* machine.findProcess(processId))
        const recorded = yield* inTime(
          Effect.scoped(
            Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), (process) => P.collect(process))
          )
        )
        assert.deepStrictEqual([recorded.stdout.toString(), recorded.exit], ["up\nover\n", P.exited(0)])
      })
  )

  it.effect("a machine that lost its memory has lost its processes, and not what they wrote", () =>
    Effect.gen(function* () {
      const { emulator, machine } = yield* machineUnder()
      const processId = P.newProcessId()
      const seen = yield* P.observe(
        yield* P.startSh(machine, "echo kept; exec sleep 1000", { processId, lifetime: "recorded" })
      )
      yield* seen.until(() => seen.stdout() === "kept\n")
      yield* emulator.cool(machine.ref.externalId)
      assert.strictEqual(yield* inTime(P.reason(seen.process.exit)), P.tag("OutcomeUnknown"))
      const external = yield* P.power(yield* machine.findProcess(processId))
      const output = yield* inTime(
        Effect.scoped(
          Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), (process) =>
            process.output.pipe(
              Stream.catch(() => Stream.empty),
              Stream.runCollect
            )
          )
        )
      )
      assert.strictEqual(output.map(({ bytes }) => text(bytes)).join(""), "kept\n")
    })
  )

  it.effect("one that is not there once is looked for again after two seconds, and what is gone twice is Gone", () =>
    Effect.gen(function* () {
      const { emulator, machine, provider: made, request } = yield* machineUnder()
      const connect = made.connect(machine.ref, { sandboxId: request.sandboxId, boot: false })
      emulator.faults.inject("sprite.get", Fault.notFound)
      assert.deepStrictEqual((yield* inTime(connect, "1 second")).ref, machine.ref)
      emulator.faults.inject("sprite.get", Fault.notFound, Fault.notFound)
      emulator.requests.reset()
      assert.strictEqual(yield* inTime(P.reason(connect), "1 second"), P.tag("Gone"))
      const [first, second] = emulator.requests.of("sprite.get").map(({ at }) => at)
      assert.isAtLeast((second ?? 0) - (first ?? 0), 2_000)
    })
  )
})

describe("Sprites: a machine", () => {
  it.live("without the socket of what holds it awake has no recorded processes", () =>
    Effect.gen(function* () {
      const { machine } = yield* machineUnder({}, { taskSocket: "none.sock" })
      const error = yield* Effect.flip(P.run(machine, "true", [], { lifetime: "recorded" }))
      assert.strictEqual(error.reason._tag, "UnsupportedCapability")
      assert.include(error.message, "none.sock")
      assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
    })
  )

  it.live.skipIf(busybox === "")("without curl, which holds it awake, has no recorded processes", () =>
    Effect.gen(function* () {
      const path = yield* applets
      const { machine } = yield* machineUnder(path === undefined ? {} : { path: path.slice(0, path.indexOf(":")) })
      assert.strictEqual((yield* P.sh(machine, "echo up")).stdout.toString(), "up\n")
      const error = yield* Effect.flip(P.run(machine, "true", [], { lifetime: "recorded" }))
      assert.strictEqual(error.reason._tag, "UnsupportedCapability")
      assert.include(error.message, "curl")
    })
  )
})

describe("Sprites: a lease that is extended", () => {
  it.live("only in part takes what runs along the next time", () =>
    Effect.gen(function* () {
      const once = { connect: Schedule.max([Schedule.spaced("1 milli"), Schedule.recurs(0)]) }
      const { emulator, provider: made } = yield* provider({}, { recovery: once })
      const machine = yield* made.create(yield* P.request(made, { timeout: Duration.hours(1) }, "tests"))
      const { root } = emulator.sprite(machine.ref.externalId)
      yield* Effect.scoped(P.start(machine, "sleep", ["300"], { lifetime: "recorded" }))
      const extend = yield* P.power(machine.extendTimeout)
      emulator.faults.inject("exec", Fault.notReady(0))
      const error = yield* Effect.flip(extend(Duration.hours(2)))
      // The labels have the new end.
      assert.isFalse(error.provesNotAccepted)
      const end = yield* extend(Duration.hours(3))
      assert.strictEqual(yield* deadlineIn(root), end)
      yield* machine.stop("delete")
    })
  )
})

describe("Sprites: what is left", () => {
  it.live("of a machine that nobody uses any more is no connection and no timer", () =>
    Effect.gen(function* () {
      const before = process.getActiveResourcesInfo().filter((name) => name === "Timeout").length
      const { machine, sprite } = yield* machineUnder({ linger: 0 })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const seen = yield* P.observe(yield* P.startSh(machine, "echo up; exec sleep 1000"))
          yield* seen.until(() => seen.stdout() === "up\n")
          yield* Effect.forkScoped(P.run(machine, "sleep", ["1000"]))
        })
      )
      yield* until("no connection", () => sprite.busy === 0)
      yield* until("no process", () => !sprite.processes().some((pid) => commandOf(pid).includes("sleep\u00001000")))
      yield* until(
        "no timer",
        () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length <= before + 2
      )
    })
  )
})
