/** Every fault of the emulator, and what the vendor's own SDK makes of it: the traps that a provider has to live with. */
import { assert, describe, it } from "@effect/vitest"
import { Sandbox } from "@vercel/sandbox"
import { Duration, Effect, Fiber } from "effect"
import * as F from "./vercel/faults.ts"
import { emulated, failing, refused, sdk, sh, spin, until } from "./vercelSupport.ts"

const fresh = Effect.fnUntraced(function* () {
  const all = yield* emulated()
  const sandbox = yield* all.create({ name: "faulty" })
  all.emulator.requests.reset()
  const { faults, requests } = all.emulator
  const commands = () => [...(all.emulator.sandbox("faulty").sessions.at(-1)?.commands.values() ?? [])]
  const detached = (script: string) => sdk(() => sandbox.runCommand({ ...sh(script), detached: true }))
  return { ...all, sandbox, faults, requests, commands, detached }
})

// Together, because most of their time is the SDK's waiting between its attempts.
describe.concurrent("vercel emulator: resets and refusals", () => {
  it.live("a reset before acceptance: the SDK submits again, the command ran once", () =>
    Effect.gen(function* () {
      const { commands, faults, requests, sandbox } = yield* fresh()
      faults.inject("command.run", F.resetBefore)
      assert.strictEqual((yield* sdk(() => sandbox.runCommand("true"))).exitCode, 0)
      assert.deepStrictEqual(
        requests.of("command.run").map(({ executed }) => executed),
        [false, true]
      )
      assert.lengthOf(commands(), 1)
      assert.strictEqual(faults.pending, 0)
    })
  )

  it.live("a reset after acceptance: the SDK submits again, the command ran twice", () =>
    Effect.gen(function* () {
      const { commands, detached, faults, requests } = yield* fresh()
      faults.inject("command.start", F.resetAfter)
      const command = yield* detached("echo x >> times")
      yield* sdk(() => command.wait())
      assert.deepStrictEqual(
        requests.of("command.start").map(({ executed, status }) => [executed, status]),
        [
          [true, undefined],
          [true, 200]
        ]
      )
      assert.lengthOf(commands(), 2)
    })
  )

  it.live("three resets are the end", () =>
    Effect.gen(function* () {
      const { access, emulator, faults, requests } = yield* fresh()
      faults.inject("sandbox.create", F.resetBefore, { times: 3 })
      const failure = yield* failing(() => Sandbox.create({ ...access, name: "never" }))
      assert.deepStrictEqual([failure.name, failure.code], ["TypeError", "UND_ERR_SOCKET"])
      assert.strictEqual(requests.count("sandbox.create"), 3)
      assert.lengthOf(emulator.sandboxes(), 1)
    })
  )

  it.live("a create that was accepted and reset fails on its own name, and the sandbox is there", () =>
    Effect.gen(function* () {
      const { access, emulator, faults, requests } = yield* fresh()
      faults.inject("sandbox.create", F.resetAfter)
      const failure = yield* refused(400, "bad_request", () => Sandbox.create({ ...access, name: "orphan" }))
      assert.include(failure.message, "already exists")
      assert.strictEqual(requests.count("sandbox.create"), 2)
      assert.strictEqual(emulator.sandbox("orphan").sessions.at(-1)?.status, "running")
    })
  )

  it.live("a create without a name that was accepted and reset leaves two", () =>
    Effect.gen(function* () {
      const { create, emulator, faults } = yield* fresh()
      faults.inject("sandbox.create", F.resetAfter)
      yield* create()
      assert.lengthOf(emulator.sandboxes(), 3)
    })
  )

  it.live("a create that the client no longer waits for succeeds all the same", () =>
    Effect.gen(function* () {
      const { access, emulator, faults, requests } = yield* fresh()
      faults.inject("sandbox.create", F.late)
      const creating = yield* Effect.forkChild(
        Effect.promise((signal) => Sandbox.create({ ...access, name: "late", signal }))
      )
      yield* spin(() => requests.count("sandbox.create") === 1)
      yield* Fiber.interrupt(creating)
      yield* spin(() => emulator.sandboxes().some(({ name, sessions }) => name === "late" && sessions.length === 1))
      assert.strictEqual(emulator.sandbox("late").sessions.at(-1)?.status, "running")
    })
  )

  it.live("429: waits for Retry-After and its own backoff; beyond 20 s it gives up at once, a date it ignores", () =>
    Effect.gen(function* () {
      const { access, faults, requests, sandbox } = yield* fresh()
      faults.inject("command.run", F.rateLimited(1))
      yield* sdk(() => sandbox.runCommand("true"))
      const [first, second] = requests.of("command.run")
      assert.isAbove((second?.at ?? 0) - (first?.at ?? 0), 1_390)
      const get = () => Sandbox.get({ ...access, name: "faulty" })
      faults.inject("sandbox.get", F.rateLimited(21))
      yield* refused(429, "rate_limited", get)
      assert.strictEqual(requests.count("sandbox.get"), 1)
      faults.inject("sandbox.get", F.rateLimited("Fri, 31 Dec 2100 23:59:59 GMT"))
      yield* sdk(get)
      assert.strictEqual(requests.count("sandbox.get"), 3)
    })
  )

  it.live("5xx: three attempts, also where each was executed", () =>
    Effect.gen(function* () {
      const { commands, faults, requests, sandbox } = yield* fresh()
      faults.inject("command.start", F.serverError(500, { executed: true }), { times: 3 })
      yield* refused(500, "internal_server_error", () => sandbox.runCommand({ cmd: "true", detached: true }))
      assert.strictEqual(requests.count("command.start"), 3)
      assert.lengthOf(commands(), 3)
    })
  )

  it.live("a proxy's page: the message cannot be parsed, the status is told", () =>
    Effect.gen(function* () {
      const { faults, sandbox } = yield* fresh()
      faults.inject("session.stop", F.html(502), { times: 3 })
      const failure = yield* failing(() => sandbox.stop())
      assert.strictEqual(failure.status, 502)
      assert.include(failure.message, "Can't parse JSON")
    })
  )

  it.live("a success with a broken or foreign body was executed, and fails with status 200", () =>
    Effect.gen(function* () {
      const { access, emulator, faults, requests } = yield* fresh()
      faults.inject("sandbox.create", F.invalidJson)
      faults.inject("sandbox.create", F.invalidBody)
      const broken = yield* failing(() => Sandbox.create({ ...access, name: "broken" }))
      assert.strictEqual(broken.status, 200)
      assert.include(broken.message, "Can't parse JSON")
      const foreign = yield* failing(() => Sandbox.create({ ...access, name: "foreign" }))
      assert.strictEqual(foreign.status, 200)
      assert.include(foreign.message, "Response JSON is not valid")
      assert.strictEqual(requests.count("sandbox.create"), 2)
      assert.lengthOf(emulator.sandboxes(), 3)
    })
  )

  it.live("refused credentials and payment are never repeated; a server may echo the token", () =>
    Effect.gen(function* () {
      const { access, emulator, faults, requests } = yield* fresh()
      const get = () => Sandbox.get({ ...access, name: "faulty" })
      for (const [status, code] of [
        [401, "forbidden"],
        [402, "payment_required"],
        [403, "forbidden"]
      ] as const) {
        faults.inject("*", F.rejected(status))
        yield* refused(status, code, get)
      }
      faults.inject("sandbox.get", F.rejected(403, { echoToken: true }))
      assert.include((yield* refused(403, "forbidden", get)).message, emulator.credentials.token)
      assert.strictEqual(requests.count(), 4)
    })
  )

  it.live("410 and 422 on a handle: resume, and once more without a delay; on a session they surface", () =>
    Effect.gen(function* () {
      const { faults, requests, sandbox } = yield* fresh()
      for (const fault of [F.gone, F.stopping, F.snapshotting]) {
        requests.reset()
        faults.inject("command.run", fault)
        assert.strictEqual((yield* sdk(() => sandbox.runCommand("true"))).exitCode, 0)
        assert.deepStrictEqual(
          requests.all.map(({ endpoint }) => endpoint),
          ["command.run", "sandbox.resume", "command.run"]
        )
        faults.inject("command.run", fault)
        requests.reset()
        yield* failing(() => sandbox.currentSession().runCommand("true"))
        assert.strictEqual(requests.count(), 1)
      }
      faults.inject("command.run", F.gone, { times: 2 })
      yield* refused(410, "sandbox_stopped", () => sandbox.runCommand("true"))
    })
  )

  it.live("a missing snapshot: 400 surfaces, 410 makes getOrCreate delete the sandbox and make a new one", () =>
    Effect.gen(function* () {
      const { access, emulator, faults, requests, sandbox } = yield* fresh()
      const again = () => Sandbox.getOrCreate({ ...access, name: "faulty" })
      faults.inject("sandbox.get", F.snapshotMissing(400))
      yield* refused(400, "snapshot_not_found", again)
      assert.strictEqual(requests.count("sandbox.delete"), 0)
      const session = sandbox.currentSession().sessionId
      faults.inject("sandbox.get", F.snapshotMissing(410))
      yield* sdk(again)
      assert.strictEqual(requests.count("sandbox.delete"), 1)
      assert.notStrictEqual(emulator.sandbox("faulty").sessions[0]?.id, session)
    })
  )

  it.live("404 of anything is a missing file for readFile, and an error elsewhere", () =>
    Effect.gen(function* () {
      const { faults, sandbox } = yield* fresh()
      yield* sdk(() => sandbox.writeFiles([{ path: "there", content: "x" }]))
      faults.inject("file.read", F.notFound("Session not found."))
      assert.isNull(yield* sdk(() => sandbox.readFile({ path: "there" })))
      faults.inject("command.run", F.notFound("Session not found."))
      yield* refused(404, "not_found", () => sandbox.runCommand("true"))
      faults.inject("sandbox.resume", F.status(400, "snapshot_region_mismatch"))
      faults.inject("command.run", F.gone)
      yield* refused(400, "snapshot_region_mismatch", () => sandbox.runCommand("true"))
    })
  )

  it.live("answers can be held back before and after they are executed, or slow", () =>
    Effect.gen(function* () {
      const { commands, faults, requests, sandbox } = yield* fresh()
      const before = Promise.withResolvers<void>()
      const after = Promise.withResolvers<void>()
      faults.inject("command.start", F.gate({ before: before.promise, after: after.promise }), { skip: 1 })
      yield* sdk(() => sandbox.runCommand({ cmd: "true", detached: true }))
      const started = sandbox.runCommand({ cmd: "true", detached: true })
      yield* spin(() => requests.count("command.start") === 2)
      assert.lengthOf(commands(), 1)
      before.resolve()
      yield* spin(() => commands().length === 2)
      assert.isUndefined(requests.of("command.start")[1]?.status)
      after.resolve()
      yield* sdk(() => started)
      faults.inject("command.run", F.slow(50))
      const [elapsed] = yield* Effect.timed(sdk(() => sandbox.runCommand("true")))
      assert.isAtLeast(Duration.toMillis(elapsed), 49)
    })
  )
})

describe.concurrent("vercel emulator: streams", () => {
  it.live("a torn stream fails; the command runs on, and can be read again", () =>
    Effect.gen(function* () {
      const { detached, faults, requests, sandbox } = yield* fresh()
      const command = yield* detached("echo one; while [ ! -e go ]; do sleep 0.01; done; echo two")
      yield* until(command, "one")
      faults.inject("command.logs", F.torn(20))
      const failure = yield* failing(() => command.stdout())
      assert.deepStrictEqual([failure.name, failure.message], ["TypeError", "terminated"])
      yield* sdk(() => sandbox.writeFiles([{ path: "go", content: "" }]))
      assert.strictEqual(yield* sdk(() => command.stdout()), "one\ntwo\n")
      assert.strictEqual(requests.count("command.logs"), 3)
      faults.inject("command.run", F.torn(200))
      const waited = yield* failing(() => sandbox.runCommand(sh("echo x; sleep 0.05; echo y")))
      assert.strictEqual(waited.message, "terminated")
      assert.strictEqual(requests.count("command.run"), 1, "what broke after the headers is not submitted again")
    })
  )

  it.live("a stream that ends early looks complete to logs(), and fails a waited command", () =>
    Effect.gen(function* () {
      const { detached, faults, sandbox } = yield* fresh()
      const command = yield* detached("head -c 300000 /dev/zero | tr '\\0' x")
      yield* sdk(() => command.wait())
      faults.inject("command.logs", F.short(1))
      const some = yield* sdk(() => command.stdout())
      assert.isTrue(some.length > 0 && some.length < 300_000)
      faults.inject("command.run", F.short(2))
      const failure = yield* failing(() => sandbox.runCommand(sh("echo one; sleep 0.05; echo two")))
      assert.deepStrictEqual([failure.name, failure.code], ["StreamError", "stream_ended_early"])
    })
  )

  it.live("a silent stream waits for its client to leave; close() makes the read fail", () =>
    Effect.gen(function* () {
      const { detached, emulator, faults } = yield* fresh()
      const command = yield* detached("echo one")
      yield* sdk(() => command.wait())
      faults.inject("command.logs", F.silent)
      const logs = command.logs()
      const close = Effect.andThen(
        spin(() => emulator.streams() === 1),
        Effect.sync(() => logs.close())
      )
      const next = failing(() => logs.next())
      const [failure] = yield* Effect.all([next, close], { concurrency: "unbounded" })
      assert.deepStrictEqual([failure.name, failure.message], ["string", "Disposed"])
      yield* spin(() => emulator.streams() === 0)
    })
  )

  it.live("characters cut between chunks are replaced without an error; files are not concerned", () =>
    Effect.gen(function* () {
      const { detached, faults, sandbox } = yield* fresh()
      const command = yield* detached("printf 'a\\303\\244\\360\\237\\230\\200' | tee copy")
      yield* sdk(() => command.wait())
      faults.inject("command.logs", F.split)
      const broken = yield* sdk(() => command.stdout())
      assert.match(broken, /^a\uFFFD+$/)
      const copy = yield* sdk(() => sandbox.readFileToBuffer({ path: "copy" }))
      assert.strictEqual(copy?.toString(), "aä😀")
    })
  )

  it.live("an error in band, a line that is no JSON, a type with a charset", () =>
    Effect.gen(function* () {
      const { detached, faults, sandbox } = yield* fresh()
      const command = yield* detached("echo one; sleep 0.05; echo two")
      yield* sdk(() => command.wait())
      faults.inject("command.logs", F.inBand(1))
      const inBand = yield* failing(() => command.stdout())
      assert.deepStrictEqual([inBand.name, inBand.code], ["StreamError", "sandbox_stream_closed"])
      faults.inject("command.run", F.inBand(0))
      assert.strictEqual((yield* failing(() => sandbox.runCommand("true"))).name, "ZodError")
      faults.inject("command.logs", F.garbage(1))
      assert.strictEqual((yield* failing(() => command.stdout())).name, "SyntaxError")
      faults.inject("command.logs", F.contentType("application/x-ndjson; charset=utf-8"))
      const typed = yield* failing(() => command.stdout())
      assert.deepStrictEqual([typed.status, typed.message], [200, "Expected a stream of logs"])
    })
  )

  it.live("leaving the loop over logs() leaves the request open; close() ends it", () =>
    Effect.gen(function* () {
      const { detached, emulator } = yield* fresh()
      const command = yield* detached("echo up; sleep 60")
      const logs = command.logs()
      yield* sdk(async () => {
        for await (const { data } of logs) if (data.includes("up")) break
      })
      assert.strictEqual(emulator.streams(), 1)
      logs.close()
      yield* spin(() => emulator.streams() === 0)
    })
  )
})
