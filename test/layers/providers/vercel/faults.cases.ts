/** What goes wrong at Vercel, one switch of the emulator after the other, and what the user gets. */
import { assert, describe, it } from "@effect/vitest"
import { inspect } from "node:util"
import { ConfigProvider, Effect, Fiber, Option, Redacted, type Scope, Stream } from "effect"
import * as Vercel from "../../../../src/layers/providers/Vercel.ts"
import { partBytes } from "../../../../src/layers/providers/vercel/files.ts"
import type { SandboxError } from "../../../../src/errors.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import * as Fault from "../../../emulators/vercel/faults.ts"
import { full, some } from "../../../support/full.ts"
import { metered, optionsFor, service, Vendor } from "./support.ts"

const world = Effect.gen(function* () {
  return { vendor: yield* Vendor, sandboxes: yield* SandboxService }
})

/** A sandbox whose name is `box`. */
const box = Effect.gen(function* () {
  const { sandboxes, vendor } = yield* world
  const { sandboxId } = yield* sandboxes.createSandbox({
    persistent: true,
    deleteOnStop: true,
    vercel: { name: "box" }
  })
  yield* sandboxes.runCommand(sandboxId, "true")
  vendor.requests.reset()
  return { sandboxes, sandboxId, vendor }
})

const live = (
  name: string,
  body: () => Effect.Effect<void, unknown, SandboxService | Vendor | Scope.Scope>,
  {
    always = true,
    layer = service
  }: { readonly always?: boolean; readonly layer?: () => ReturnType<typeof service> } = {}
) => it.live.runIf(always || full)(name, () => Effect.scoped(Effect.provide(body(), layer())), 60_000)

type Case = readonly [name: string, fault: Fault.Fault]

/** A command that tells in the sandbox how often it ran. */
const once = ["-c", "echo run >>runs; echo out; echo err >&2; exit 3"]
const runs = (sandboxes: SandboxService["Service"], sandboxId: string) =>
  Effect.map(sandboxes.readFile(sandboxId, "runs"), (bytes) => new TextDecoder().decode(bytes))

const whole = { exitCode: 3, stdout: "out\n", stderr: "err\n" }

describe("Vercel: a creation", () => {
  for (const [name, fault] of some<Case>(
    [
      ["whose connection is reset before it is taken up", Fault.resetBefore],
      ["whose connection is reset after it was taken up", Fault.resetAfter],
      ["whose answer does not decode", Fault.invalidBody]
    ],
    [
      ["whose answer a proxy loses", Fault.serverError(502, { executed: true })],
      ["that meets 429", Fault.rateLimited(0)],
      ["whose answer is slow", Fault.slow(300)]
    ]
  )) {
    live(`${name} makes one sandbox`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        vendor.faults.inject("sandbox.create", fault)
        const { sandboxId } = yield* sandboxes.createSandbox()
        assert.strictEqual(vendor.sandboxes().length, 1)
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        assert.strictEqual(vendor.faults.pending, 0)
      })
    )
  }

  live("that succeeds only after we gave up is the one that the next attempt finds", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("sandbox.create", Fault.late)
      const sandboxId = crypto.randomUUID()
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox({}, { sandboxId }))
      yield* Effect.promise(() => vendor.requests.arrived("sandbox.create"))
      // The caller goes; the vendor makes it all the same.
      yield* Fiber.interrupt(fiber)
      while (vendor.sandboxes().length === 0) yield* Effect.sleep("5 millis")
      const { outcome } = yield* sandboxes.createSandbox({}, { sandboxId })
      assert.strictEqual(outcome, "resumed")
      assert.strictEqual(vendor.sandboxes().length, 1)
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    })
  )

  live("that is asked to wait waits that long", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("sandbox.create", Fault.rateLimited(1))
      yield* sandboxes.createSandbox()
      const [first, second] = vendor.requests.of("sandbox.create")
      assert.isAtLeast((second?.at ?? 0) - (first?.at ?? 0), 1_000)
      vendor.faults.inject("sandbox.create", Fault.rateLimited(3_600), { times: 100 })
      const error = yield* Effect.flip(sandboxes.createSandbox({ recovery: "none" })).pipe(
        Effect.timeoutOption("1 second")
      )
      // An hour is waited for by nobody's deadline: whoever does not want that interrupts.
      assert.isTrue(Option.isNone(error))
      assert.strictEqual(vendor.requests.count("sandbox.create"), 3)
    })
  )

  for (const made of [false, true]) {
    live(`in the place of a machine that is gone, cut off ${made ? "after" : "before"} it was made, is finished`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox()
        const { id } = yield* sandboxes.createCheckpoint(sandboxId)
        yield* vendor.expire(ref.externalSandboxId ?? "")
        vendor.requests.reset()
        const never = new Promise<void>(() => {})
        vendor.faults.inject("sandbox.create", Fault.gate(made ? { after: never } : { before: never }))
        const fiber = yield* Effect.forkChild(sandboxes.runCommand(sandboxId, "true"))
        yield* Effect.promise(() => vendor.requests.arrived("sandbox.create"))
        // The name is taken before its disk is ready, and found only then.
        const booted = () => vendor.sandboxes().filter(({ sessions }) => sessions.length > 0).length
        while (made && booted() < 2) yield* Effect.sleep("5 millis")
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "recreating")
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        assert.strictEqual(vendor.requests.count("sandbox.create"), made ? 1 : 2)
        const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.include(
          listed.map((checkpoint) => checkpoint.id),
          id
        )
      })
    )
  }

  live(
    "in the place of a machine that is gone, whose outcome nobody knows, leaves the checkpoints of earlier ones",
    () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox()
        const { id } = yield* sandboxes.createCheckpoint(sandboxId)
        yield* vendor.expire(ref.externalSandboxId ?? "")
        yield* sandboxes.runCommand(sandboxId, "true")
        const { externalSandboxId = "" } = yield* sandboxes.getSandbox(sandboxId)
        yield* vendor.expire(externalSandboxId)
        // The third is made, and every answer about it is lost.
        vendor.faults.inject("sandbox.create", Fault.serverError(502, { executed: true }), { times: 100 })
        vendor.faults.inject("sandbox.get", Fault.serverError(502), { skip: 3, times: 3 })
        const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
        vendor.faults.clear()
        assert.strictEqual(error.reason._tag, "Unavailable")
        assert.deepStrictEqual(
          vendor.sandboxes().map(({ name }) => name),
          [ref.externalSandboxId, externalSandboxId],
          "what was made is deleted"
        )
        const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.include(
          listed.map((checkpoint) => checkpoint.id),
          id
        )
      })
  )

  live("that adopts a name, but cannot set its network policy, leaves it nobody's, and not booted", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      yield* Effect.promise(async () => {
        const { Sandbox } = await import("@vercel/sandbox")
        const found = { ...vendor.credentials, fetch: vendor.fetch, name: "open", persistent: true }
        return Sandbox.create({ ...found, resources: { vcpus: 1 }, tags: { mine: "yes" } })
      })
      yield* vendor.expire("open")
      const config = { persistent: true, vercel: { name: "open", networkPolicy: "deny-all" } } as const
      vendor.requests.reset()
      vendor.faults.inject("sandbox.update", Fault.rejected(403), { skip: 1 })
      const error = yield* Effect.flip(sandboxes.createSandbox(config))
      assert.strictEqual(error.reason._tag, "Permission")
      assert.deepStrictEqual(vendor.sandbox("open").settings.tags, { mine: "yes" })
      assert.strictEqual(vendor.requests.count("sandbox.resume"), 0)
      const { sandboxId } = yield* sandboxes.createSandbox(config)
      const { sessions, settings } = vendor.sandbox("open")
      assert.deepStrictEqual<unknown>(sessions.at(-1)?.networkPolicy, { mode: "deny-all" })
      const endpoints = vendor.requests.all.map(({ endpoint }) => endpoint)
      assert.isBelow(
        endpoints.lastIndexOf("sandbox.update"),
        endpoints.indexOf("sandbox.resume"),
        "before it is booted"
      )
      assert.deepInclude(settings.tags, { mine: "yes", "sandbox-id": sandboxId })
    })
  )

  live("whose name is taken and not to be seen yet waits for the attempt that took it", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("sandbox.create", Fault.resetAfter)
      vendor.faults.inject("sandbox.get", Fault.notFound())
      vendor.faults.inject("sandbox.get", Fault.notFound())
      const { sandboxId } = yield* sandboxes.createSandbox()
      assert.strictEqual(vendor.requests.count("sandbox.create"), 3)
      assert.strictEqual(vendor.sandboxes().length, 1)
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    })
  )

  live("that is refused says why and leaves nothing", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("sandbox.create", Fault.rejected(402))
      const error = yield* Effect.flip(sandboxes.createSandbox())
      assert.strictEqual(error.reason._tag, "Quota")
      assert.strictEqual(vendor.requests.count("sandbox.create"), 1, "what waiting does not help is asked once")
    })
  )
})

describe("Vercel: a command", () => {
  for (const [name, fault] of some<Case>(
    [
      ["whose start is reset before it is taken up", Fault.resetBefore],
      ["whose start is reset after it was taken up", Fault.resetAfter],
      ["that meets a snapshot in progress", Fault.snapshotting],
      ["that meets 410 from a session that runs", Fault.gone],
      ["whose start has an answer that is no JSON", Fault.invalidJson]
    ],
    [
      ["whose start meets 429", Fault.rateLimited(0)],
      ["whose start meets a proxy that loses the answer", Fault.serverError(502, { executed: true })],
      ["whose start meets a server error", Fault.serverError(500)],
      ["that meets a stop that is no stop", Fault.stopping],
      ["whose start meets a proxy's page", Fault.html(502)],
      ["whose start has an answer that does not decode", Fault.invalidBody]
    ]
  )) {
    live(`${name} runs once`, () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes, vendor } = yield* box
        vendor.faults.inject("command.start", fault)
        assert.deepInclude(yield* sandboxes.runCommand(sandboxId, "sh", once), whole)
        assert.strictEqual(vendor.requests.count("command.start"), 2)
        assert.strictEqual(yield* runs(sandboxes, sandboxId), "run\n")
      })
    )
  }

  for (const [name, fault] of some<Case>(
    [
      ["is cut", Fault.torn(40)],
      ["ends early but in order", Fault.short(1)],
      ["is closed by the vendor", Fault.inBand(1)],
      ["holds what is no JSON", Fault.garbage(1)],
      ["meets 502", Fault.serverError(502)],
      ["is a success of something else", Fault.html(200)]
    ],
    [
      ["is cut before its first byte", Fault.torn(0)],
      ["meets 429", Fault.rateLimited(0)],
      ["meets a proxy's page", Fault.html(503)],
      ["comes as another type", Fault.contentType("application/x-ndjson; charset=utf-8")],
      ["comes in split characters", Fault.split]
    ]
  )) {
    live(`whose log ${name} is whole and runs once`, () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes, vendor } = yield* box
        vendor.faults.inject("command.logs", fault)
        assert.deepInclude(yield* sandboxes.runCommand(sandboxId, "sh", once), whole)
        assert.strictEqual(yield* runs(sandboxes, sandboxId), "run\n")
        assert.strictEqual(vendor.faults.pending, 0)
      })
    )
  }

  live("has exact bytes, whatever the platform does to text", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      vendor.faults.inject("command.logs", Fault.split, { times: 9 })
      const bytes = yield* sandboxes.streamCommand(sandboxId, "printf", ["\\000\\377\\303é€😀"]).pipe(Stream.runCollect)
      const out = bytes.flatMap((event) => (event._tag === "stdout" ? [...event.bytes] : []))
      assert.deepStrictEqual(out, [0, 255, 0xc3, ...new TextEncoder().encode("é€😀")])
    })
  )

  live("whose session ends before its log is read is not run again on another", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const gate = Promise.withResolvers<void>()
      vendor.faults.inject("command.logs", Fault.gate({ before: gate.promise }))
      const fiber = yield* Effect.forkChild(Effect.flip(sandboxes.runCommand(sandboxId, "sh", once)))
      yield* Effect.promise(() => vendor.requests.arrived("command.logs"))
      yield* vendor.expire("box")
      gate.resolve()
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.reason._tag, "OutcomeUnknown")
      // The session's end may have come before the program did anything.
      const told = yield* Effect.catch(runs(sandboxes, sandboxId), () => Effect.succeed(""))
      assert.isAtMost(told.length, "run\n".length)
    })
  )

  live("whose session ends in the middle has an unknown outcome, never an exit", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const first = Promise.withResolvers<void>()
      const fiber = yield* sandboxes.streamCommand(sandboxId, "sh", ["-c", "echo begun; sleep 300"]).pipe(
        Stream.tap(() => Effect.sync(() => first.resolve())),
        Stream.runCollect,
        Effect.flip,
        Effect.forkChild
      )
      yield* Effect.promise(() => first.promise)
      yield* vendor.expire("box")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.reason._tag, "OutcomeUnknown")
    })
  )

  live("that is interrupted is killed there, with its group", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const seen = Promise.withResolvers<string>()
      const fiber = yield* sandboxes.streamCommand(sandboxId, "sh", ["-c", "sleep 301 & echo $!; wait"]).pipe(
        Stream.runForEach((event) =>
          Effect.sync(() => event._tag === "stdout" && seen.resolve(new TextDecoder().decode(event.bytes).trim()))
        ),
        Effect.forkChild
      )
      const pid = Number(yield* Effect.promise(() => seen.promise))
      assert.include(vendor.processes("box"), pid)
      yield* Fiber.interrupt(fiber)
      assert.notInclude(vendor.processes("box"), pid)
    })
  )

  live("on a session that says 410 finds the sandbox resumed, and runs there", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      yield* vendor.expire("box")
      assert.deepInclude(yield* sandboxes.runCommand(sandboxId, "sh", once), whole)
      assert.strictEqual(vendor.requests.count("sandbox.resume"), 1)
      assert.strictEqual(yield* runs(sandboxes, sandboxId), "run\n")
    })
  )

  for (const [status, persistent] of some<readonly [status: "stopping" | "snapshotting", persistent: boolean]>(
    [["snapshotting", true]],
    [
      ["stopping", true],
      ["stopping", false]
    ]
  )) {
    live(`on a session that is held in ${status} (${persistent ? "" : "not "}persistent) waits for its end`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox({ persistent })
        const name = ref.externalSandboxId ?? ""
        yield* sandboxes.runCommand(sandboxId, "true")
        const release = vendor.hold(status)
        const ending =
          status === "stopping"
            ? vendor.expire(name)
            : Effect.promise(async () => {
                const { Sandbox } = await import("@vercel/sandbox")
                const sandbox = await Sandbox.get({ ...vendor.credentials, fetch: vendor.fetch, name })
                await sandbox.currentSession().snapshot()
              })
        const end = yield* Effect.forkChild(ending)
        while (vendor.sandbox(name).sessions.at(-1)?.status !== status) yield* Effect.sleep("5 millis")
        vendor.requests.reset()
        const fiber = yield* Effect.forkChild(sandboxes.runCommand(sandboxId, "sh", once))
        yield* Effect.promise(() => vendor.requests.arrived("command.start", 2))
        assert.strictEqual(vendor.requests.count("sandbox.resume"), 0, "it is not booted while it ends")
        release()
        yield* Fiber.join(end)
        assert.deepInclude(yield* Fiber.join(fiber), whole)
        assert.strictEqual(yield* runs(sandboxes, sandboxId), "run\n")
      })
    )
  }

  for (const variant of [400, 410] as const) {
    live(`on a session that cannot be resumed, for which the vendor says ${variant}, is told that it is gone`, () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes, vendor } = yield* box
        yield* vendor.expire("box")
        vendor.faults.inject("sandbox.resume", Fault.snapshotMissing(variant))
        const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
        assert.strictEqual(error.reason._tag, "Gone")
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "shutdown")
        assert.strictEqual(vendor.requests.count("sandbox.create"), 0, "a disk that was to persist is not replaced")
      })
    )
  }

  live("on a sandbox whose snapshot has expired is told that it is gone", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      yield* vendor.expire("box")
      for (const { id } of vendor.snapshots()) vendor.expireSnapshot(id)
      const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
      assert.strictEqual(error.reason._tag, "Gone")
    })
  )

  live("whose machine crashes has an unknown outcome; the disk is what was saved last, or gone", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "saved" }])
      yield* sandboxes.createCheckpoint(sandboxId)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "not saved" }])
      const begun = Promise.withResolvers<void>()
      const fiber = yield* sandboxes.streamCommand(sandboxId, "sh", ["-c", "echo begun; sleep 300"]).pipe(
        Stream.runForEach(() => Effect.sync(() => begun.resolve())),
        Effect.flip,
        Effect.forkChild
      )
      yield* Effect.promise(() => begun.promise)
      yield* vendor.crash("box")
      assert.strictEqual((yield* Fiber.join(fiber)).reason._tag, "OutcomeUnknown")
      assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "saved")
      // One that was never saved has nothing to come back with.
      const other = yield* sandboxes.createSandbox({ persistent: true, vercel: { name: "unsaved" } })
      yield* vendor.crash("unsaved")
      const gone = yield* Effect.flip(sandboxes.runCommand(other.sandboxId, "true"))
      assert.strictEqual(gone.reason._tag, "Gone")
    })
  )

  live("that the vendor refuses says so without the token, although the answer repeats it", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      for (const [status, tag] of some<readonly [status: 401 | 402 | 403, tag: string]>(
        [[401, "Authentication"]],
        [
          [402, "Quota"],
          [403, "Permission"]
        ]
      )) {
        for (const endpoint of ["command.start", "command.logs"] as const) {
          vendor.faults.inject(endpoint, Fault.rejected(status, { echoToken: true }), { times: 30 })
          const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
          vendor.faults.clear()
          const text = `${error.message} ${inspect(error, { depth: 20 })} ${JSON.stringify(error)}`
          assert.notInclude(text, vendor.credentials.token)
          if (endpoint === "command.start") {
            assert.strictEqual(error.reason._tag, tag)
            assert.include(text, "<redacted>")
          } else {
            assert.strictEqual(error.reason._tag, "OutcomeUnknown", "what was started may have run")
          }
        }
      }
    })
  )

  live(
    "that nobody reads holds little of its output here",
    () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* box
        // An SDK that reads ahead of us would hold all of it, in base64.
        const total = 192 * 1024 * 1024
        let bytes = 0
        let grown = 0
        yield* sandboxes.streamCommand(sandboxId, "head", ["-c", String(total), "/dev/zero"]).pipe(
          Stream.runForEach((event) =>
            Effect.gen(function* () {
              if (event._tag !== "stdout") return
              const first = bytes === 0
              bytes += event.bytes.length
              if (!first) return
              const before = process.memoryUsage.rss()
              // Long enough for an SDK that knows no backpressure to have read all of it.
              yield* Effect.sleep("1500 millis")
              grown = process.memoryUsage.rss() - before
            })
          )
        )
        assert.strictEqual(bytes, total)
        assert.isBelow(grown / 1024 / 1024, 100)
      }),
    { always: false }
  )

  const meter = metered()

  live(
    "that nobody reads is not read ahead of them",
    () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* box
        const total = 12 * 1024 * 1024
        let bytes = 0
        yield* sandboxes.streamCommand(sandboxId, "head", ["-c", String(total), "/dev/zero"]).pipe(
          Stream.runForEach((event) =>
            Effect.gen(function* () {
              if (event._tag !== "stdout") return
              const first = bytes === 0
              bytes += event.bytes.length
              if (!first) return
              yield* meter.still
              assert.isBelow(meter.taken(), total / 3)
            })
          )
        )
        assert.strictEqual(bytes, total)
        assert.isAbove(meter.taken(), total)
      }),
    { layer: () => service({}, (emulator) => ({ fetch: meter.of(emulator.fetch) })) }
  )
})

describe("Vercel: a recorded process", () => {
  live("whose log breaks off is gapless, and exits with its own code", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      vendor.faults.inject("command.logs", Fault.torn(5_000), { times: 2 })
      vendor.faults.inject("command.logs", Fault.inBand(2))
      const run = yield* sandboxes.runCommandWithProcessStream(sandboxId, "sh", ["-c", "seq 1 3000; exit 4"])
      assert.strictEqual(run.result?.exitCode, 4)
      const log = yield* sandboxes.readProcessStream(run.processId).pipe(Stream.runCollect)
      const out = Buffer.concat(log.flatMap((event) => (event._tag === "stdout" ? [event.bytes] : []))).toString()
      assert.strictEqual(out, Array.from({ length: 3000 }, (_, index) => `${index + 1}\n`).join(""))
      assert.strictEqual(vendor.faults.pending, 0)
    })
  )

  live("with a deadline beyond the lease extends the lease, or is refused before it starts", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { sandboxId } = yield* sandboxes.createSandbox({ vercel: { name: "lease", timeout: "1 minute" } })
      const asked = Date.now()
      yield* sandboxes.runCommandProcess(sandboxId, "true", [], { timeout: "10 minutes", mode: "foreground" })
      assert.strictEqual(vendor.requests.count("session.extendTimeout"), 1)
      const session = vendor.sandbox("lease").sessions[0]
      // Time to end what ignores its deadline, and to tell that.
      assert.isAbove((session?.createdAt ?? 0) + (session?.timeout ?? 0), asked + 600_000 + 29_000)
      const error = yield* Effect.flip(sandboxes.runCommandProcess(sandboxId, "true", [], { timeout: "40 days" }))
      assert.strictEqual(error.reason._tag, "LeaseTooShort")
      assert.strictEqual(vendor.requests.count("command.start"), 1)
    })
  )
})

describe("Vercel: a checkpoint", () => {
  for (const persistent of [true, false]) {
    const disk = persistent ? "a persistent disk" : "a disk that ends with its session"
    for (const [name, fault] of some<Case>(
      [
        ["whose answer is lost", Fault.resetAfter],
        ["whose request is lost", Fault.resetBefore]
      ],
      [
        ["whose answer a proxy loses", Fault.serverError(502, { executed: true })],
        ["whose answer does not decode", Fault.invalidBody],
        ["whose request a proxy loses", Fault.serverError(503)],
        ["that meets 429", Fault.rateLimited(0)],
        ["that meets another one", Fault.snapshotting]
      ]
    )) {
      live(`of ${disk} ${name} is there, and nothing is lost`, () =>
        Effect.gen(function* () {
          const { sandboxes, vendor } = yield* world
          const { sandboxId } = yield* sandboxes.createSandbox({ persistent })
          yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "kept" }])
          vendor.faults.inject("session.snapshot", fault)
          if (!persistent) vendor.faults.inject("sandbox.update", Fault.serverError(503))
          const { id } = yield* sandboxes.createCheckpoint(sandboxId)
          const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
          assert.deepStrictEqual(
            listed.map((checkpoint) => checkpoint.id),
            [id]
          )
          assert.strictEqual(vendor.snapshots().length, 1)
          assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "kept")
          assert.strictEqual(vendor.faults.pending, 0)
        })
      )
    }

    live(`of ${disk} that is interrupted loses nothing`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent })
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "kept" }])
        const fiber = yield* Effect.forkChild(sandboxes.createCheckpoint(sandboxId))
        yield* Effect.promise(() => vendor.requests.arrived("session.snapshot"))
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "kept")
      })
    )
  }
})

describe("Vercel: a restore", () => {
  for (const [endpoint, fault] of some<readonly [endpoint: Fault.Endpoint, fault: Fault.Fault]>(
    [
      ["session.stop", Fault.resetAfter],
      ["sandbox.update", Fault.resetAfter],
      ["sandbox.resume", Fault.resetAfter],
      ["sandbox.create", Fault.resetAfter]
    ],
    [
      ["snapshot.list", Fault.serverError(503)],
      ["sandbox.get", Fault.resetBefore],
      ["session.stop", Fault.rateLimited(0)],
      ["sandbox.update", Fault.serverError(502, { executed: true })],
      ["sandbox.resume", Fault.invalidJson],
      ["sandbox.resume", Fault.html(503)],
      ["sandbox.create", Fault.rateLimited(0)]
    ]
  )) {
    live(`whose answer of ${endpoint} is lost (${JSON.stringify(fault).slice(0, 60)}) is made all the same`, () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes, vendor } = yield* box
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "saved" }])
        const { id } = yield* sandboxes.createCheckpoint(sandboxId)
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "later" }])
        if (endpoint === "sandbox.create") yield* vendor.vanish("box")
        vendor.faults.inject(endpoint, fault)
        yield* sandboxes.restoreCheckpoint(sandboxId, id)
        assert.strictEqual(vendor.faults.pending, 0)
        assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "saved")
        assert.strictEqual(vendor.sandboxes().length, 1)
      })
    )
  }

  for (const persistent of [true, false]) {
    live(
      `that was cut off between the end and the boot (${persistent ? "" : "not "}persistent) leaves no empty disk`,
      () =>
        Effect.gen(function* () {
          const { sandboxes, vendor } = yield* world
          const { sandboxId } = yield* sandboxes.createSandbox({ persistent })
          yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "saved" }])
          const { id } = yield* sandboxes.createCheckpoint(sandboxId)
          yield* sandboxes.runCommand(sandboxId, "true")
          vendor.requests.reset()
          vendor.faults.inject("sandbox.update", Fault.gate({ before: new Promise<void>(() => {}) }))
          const fiber = yield* Effect.forkChild(sandboxes.restoreCheckpoint(sandboxId, id))
          yield* Effect.promise(() => vendor.requests.arrived("sandbox.update"))
          yield* Fiber.interrupt(fiber)
          assert.deepInclude(yield* sandboxes.getSandbox(sandboxId), { status: "recreating", restoring: id })
          assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "saved")
          assert.strictEqual(vendor.requests.count("sandbox.create"), 0)
          assert.isUndefined((yield* sandboxes.getSandbox(sandboxId)).restoring)
        })
    )
  }

  live("that meets a boot by somebody else ends that one, and is made", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "saved" }])
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "later" }])
      const gate = Promise.withResolvers<void>()
      vendor.faults.inject("sandbox.update", Fault.gate({ before: gate.promise }))
      const fiber = yield* Effect.forkChild(sandboxes.restoreCheckpoint(sandboxId, id))
      yield* Effect.promise(() => vendor.requests.arrived("sandbox.update"))
      yield* Effect.promise(async () => {
        const { Sandbox } = await import("@vercel/sandbox")
        await Sandbox.get({ ...vendor.credentials, fetch: vendor.fetch, name: "box", resume: true })
        gate.resolve()
      })
      yield* Fiber.join(fiber)
      assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "saved")
    })
  )

  live("of a checkpoint that the vendor has lost changes nothing", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "later" }])
      for (const variant of [400, 410] as const) {
        vendor.faults.inject("sandbox.update", Fault.snapshotMissing(variant))
        const error = yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, id))
        assert.isTrue(error.reason._tag === "NotFound" && error.reason.kind === "checkpoint")
        // Its processes are ended, as any restore ends them; its disk is the one that it had.
        assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "later")
      }
    })
  )

  live("is not needed for a checkpoint whose deletion was answered by nobody", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      vendor.faults.inject("snapshot.delete", Fault.resetAfter)
      yield* sandboxes.deleteCheckpoint(sandboxId, id)
      assert.strictEqual(vendor.snapshots().find((snapshot) => snapshot.id === id)?.status, "deleted")
      const again = yield* Effect.flip(sandboxes.deleteCheckpoint(sandboxId, id))
      assert.strictEqual(again.reason._tag, "NotFound")
    })
  )
})

describe("Vercel: a service that died between a checkpoint and the boot from it", () => {
  /** What it leaves of a sandbox whose disk ends with its session. */
  const left = (recovery: "recreate" | "none") =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false, recovery, vercel: { name: "box" } })
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "kept" }])
      yield* Effect.promise(async () => {
        const { Sandbox } = await import("@vercel/sandbox")
        const sandbox = await Sandbox.get({ ...vendor.credentials, fetch: vendor.fetch, name: "box" })
        await sandbox.currentSession().snapshot()
      })
      return { sandboxes, sandboxId, vendor }
    })

  live("leaves a disk that the next use goes on with", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* left("recreate")
      const before = vendor.requests.count("sandbox.create")
      assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "kept")
      assert.strictEqual(vendor.requests.count("sandbox.create"), before)
      // The next end is that of its disk, as ever.
      yield* vendor.expire("box")
      const error = yield* Effect.flip(sandboxes.readFile(sandboxId, "f"))
      assert.strictEqual(`${error._tag}.${error.reason._tag}`, "PlatformError.NotFound")
    })
  )

  live("leaves one that does not recover as it is, to be booted by whoever asks for that", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* left("none")
      const error = yield* Effect.flip(sandboxes.readFile(sandboxId, "f"))
      assert.strictEqual(error.reason._tag, "NotRunning")
      assert.strictEqual(vendor.requests.count("sandbox.resume"), 0)
    })
  )

  live("leaves nothing where that snapshot has expired", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* left("recreate")
      for (const { id } of vendor.snapshots()) vendor.expireSnapshot(id)
      assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Recreated")
    })
  )

  live("is not taken for gone while the vendor cannot tell", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* left("recreate")
      vendor.faults.inject("snapshot.list", Fault.serverError(500), { times: 1_000 })
      const error = yield* Effect.flip(sandboxes.readFile(sandboxId, "f"))
      assert.strictEqual(error.reason._tag, "Unavailable")
      vendor.faults.clear()
      assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "kept")
    })
  )
})

describe("Vercel: a wrong project", () => {
  live("is no sandbox that is gone: nothing is made, ended or listed in it", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const { externalSandboxId = "", id, incarnation = "" } = yield* sandboxes.getSandbox(sandboxId)
      const ref = { externalId: externalSandboxId, incarnation }
      const wrong = yield* Vercel.make({ ...optionsFor(vendor), projectId: "prj_of_another_team" })
      const checkpoints = Option.getOrThrow(wrong.checkpoints)
      const config = {}
      const resolved = yield* wrong.resolve(config)
      const request = { sandboxId: id, version: 2, namespace: "tests", config, resolved }
      for (const [what, effect] of Object.entries({
        connect: wrong.connect(ref, { boot: true, sandboxId: id }),
        create: wrong.create(request),
        stop: wrong.stop(ref, "delete"),
        find: Stream.runDrain(wrong.find(id)),
        list: Stream.runDrain(wrong.list("tests")),
        checkpoints: Stream.runDrain(checkpoints.list(id, Option.some(ref))),
        restore: checkpoints.restore("snap_1", request, Option.some(ref))
      })) {
        const { message, reason } = yield* Effect.flip<unknown, SandboxError, never>(effect)
        assert.strictEqual(reason._tag, "Authentication", what)
        assert.include(message, "prj_of_another_team")
      }
      assert.strictEqual(vendor.sandboxes().length, 1)
    })
  )

  live("that is one only since a moment ago does not make a sandbox anew", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { ref, sandboxId } = yield* sandboxes.createSandbox()
      yield* vendor.expire(ref.externalSandboxId ?? "")
      vendor.requests.reset()
      vendor.faults.inject("sandbox.get", Fault.notFound(), { times: 1_000 })
      vendor.faults.inject("sandbox.list", Fault.notFound(), { times: 1_000 })
      const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
      assert.strictEqual(error.reason._tag, "Authentication")
      assert.strictEqual(vendor.requests.count("sandbox.create"), 0)
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "active")
      // The name alone is another matter.
      vendor.faults.clear()
      vendor.faults.inject("sandbox.get", Fault.notFound())
      vendor.faults.inject("sandbox.get", Fault.notFound())
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
      assert.strictEqual(vendor.requests.count("sandbox.create"), 1)
    })
  )
})

describe("Vercel: files", () => {
  live("a missing file is told from a missing sandbox", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const missing = yield* Effect.flip(sandboxes.readFile(sandboxId, "nothing"))
      assert.strictEqual(`${missing._tag}.${missing.reason._tag}`, "PlatformError.NotFound")
      yield* vendor.vanish("box")
      const gone = yield* Effect.flip(sandboxes.readFile(sandboxId, "nothing"))
      assert.strictEqual(`${gone._tag}.${gone.reason._tag}`, "SandboxError.Gone")
    })
  )

  live("a file whose bytes stop coming is given up", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "content" }])
      let left = false
      const fetch: typeof globalThis.fetch = async (input, init) => {
        const response = await vendor.fetch(input, init)
        const body = new ReadableStream({
          start: (controller) => controller.enqueue(new Uint8Array(3)),
          cancel: () => {
            left = true
          }
        })
        return String(input).includes("/fs/read") ? new Response(body, { headers: response.headers }) : response
      }
      const silent = yield* Vercel.make({ ...optionsFor(vendor), fetch }).pipe(
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ SANDBOX_REQUEST_TIMEOUT: "1 second" })))
      )
      const { externalSandboxId = "", id, incarnation = "" } = yield* sandboxes.getSandbox(sandboxId)
      const ref = { externalId: externalSandboxId, incarnation }
      const machine = yield* silent.connect(ref, { boot: false, sandboxId: id })
      const error = yield* Effect.flip(Stream.runDrain(machine.readFile("f")))
      assert.strictEqual(error.reason._tag, "Timeout")
      assert.isTrue(left)
    })
  )

  live("an upload that breaks fails whole and typed; a retried one is whole", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      vendor.faults.inject("file.write", Fault.resetBefore)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "content" }])
      assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "content")
      vendor.faults.inject("file.write", Fault.serverError(500), { times: 99 })
      const error = yield* Effect.flip(sandboxes.writeFiles(sandboxId, [{ path: "f", content: "other" }]))
      assert.strictEqual(error.reason._tag, "Unavailable")
      vendor.faults.clear()
      assert.strictEqual(new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, "f")), "content")
    })
  )

  live(
    "a large file goes up in bounded memory",
    () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* box
        const piece = new Uint8Array(1024 * 1024).fill(7)
        /** Writes a file of so many pieces, and yields the most memory that this process had. */
        const peakOf = (pieces: number) =>
          Effect.gen(function* () {
            let peak = 0
            const content = Stream.make(piece).pipe(
              Stream.forever,
              Stream.take(pieces),
              Stream.tap(() =>
                Effect.sync(() => {
                  peak = Math.max(peak, process.memoryUsage.rss())
                })
              )
            )
            yield* sandboxes.writeFiles(sandboxId, [{ path: "large", content }])
            const { stdout } = yield* sandboxes.runCommand(sandboxId, "wc", ["-c", "large"])
            assert.strictEqual(stdout.split(" ")[0], String(pieces * piece.length))
            return peak
          })
        // The emulator unpacks each archive in the same process: what that grows to, it has grown to then.
        const before = yield* peakOf(48)
        assert.isBelow(((yield* peakOf(160)) - before) / 1024 / 1024, 96)
      }),
    { always: false }
  )

  live("a large file goes up as it is read: no more of it waits here than is on its way", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const piece = new Uint8Array(1024 * 1024).fill(7)
      const ahead: Array<number> = []
      const content = Stream.make(piece).pipe(
        Stream.forever,
        Stream.take(21),
        Stream.tap(() =>
          Effect.sync(() => ahead.push(ahead.length * piece.length - vendor.requests.count("file.write") * partBytes))
        )
      )
      yield* sandboxes.writeFiles(sandboxId, [{ path: "large", content }])
      assert.isAtMost(Math.max(...ahead), 2 * partBytes)
      const { stdout } = yield* sandboxes.runCommand(sandboxId, "wc", ["-c", "large"])
      assert.strictEqual(stdout.split(" ")[0], String(21 * piece.length))
    })
  )
})

describe("Vercel: a stop", () => {
  live("that fails is StopIncomplete, and is finished by the next", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      vendor.faults.inject("sandbox.delete", Fault.serverError(500), { times: 99 })
      const error = yield* Effect.flip(sandboxes.stopSandbox(sandboxId))
      assert.strictEqual(error.reason._tag, "StopIncomplete")
      const record = yield* sandboxes.getSandbox(sandboxId)
      assert.deepInclude(record, { status: "shutdown", stopPending: "delete", externalSandboxId: "box" })
      vendor.faults.clear()
      yield* sandboxes.stopSandbox(sandboxId)
      assert.deepStrictEqual(vendor.sandboxes(), [])
      assert.isTrue(Option.isSome(Option.fromUndefinedOr((yield* sandboxes.getSandbox(sandboxId)).shutdownAt)))
    })
  )
})

describe("Vercel: a sandbox without a record", () => {
  const made = Effect.gen(function* () {
    const { credentials, fetch } = yield* Vendor
    return yield* Vercel.createVercelSandbox({
      creds: { ...credentials, token: Redacted.make(credentials.token) },
      fetch
    })
  })

  live("whose creation succeeds only after it was interrupted is deleted", () =>
    Effect.gen(function* () {
      const { vendor } = yield* world
      vendor.faults.inject("sandbox.create", Fault.late)
      const fiber = yield* Effect.forkChild(Effect.scoped(made))
      yield* Effect.promise(() => vendor.requests.arrived("sandbox.create"))
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(vendor.requests.of("sandbox.create")[0]?.executed, true)
      assert.deepStrictEqual(vendor.sandboxes(), [])
    })
  )

  live("is deleted although that is not easy", () =>
    Effect.gen(function* () {
      const { vendor } = yield* world
      vendor.faults.inject("sandbox.delete", Fault.serverError(503))
      vendor.faults.inject("sandbox.get", Fault.rateLimited(0))
      yield* Effect.scoped(made)
      assert.deepStrictEqual(vendor.sandboxes(), [])
    })
  )
})
