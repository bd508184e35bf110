/** Sandboxes of Vercel that were there before us: what a creation that fails, or is cut off, leaves of them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Redacted, type Scope, Stream } from "effect"
import * as Vercel from "../../../../src/layers/providers/Vercel.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import { newSandboxId } from "../../../../src/testing/internal/stores.ts"
import * as Fault from "../../../emulators/vercel/faults.ts"
import { optionsFor, service, Vendor } from "./support.ts"

const live = (name: string, body: () => Effect.Effect<void, unknown, SandboxService | Vendor | Scope.Scope>) =>
  it.live(name, () => Effect.scoped(Effect.provide(body(), service())), 60_000)

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

/** A sandbox that somebody made with the SDK, and a file in it. */
const theirs = (name: string, content = "theirs") =>
  Effect.gen(function* () {
    const sandboxes = yield* SandboxService
    const vendor = yield* Vendor
    yield* Effect.promise(async () => {
      const { Sandbox } = await import("@vercel/sandbox")
      const options = { ...vendor.credentials, fetch: vendor.fetch, name, persistent: true, resources: { vcpus: 1 } }
      const sandbox = await Sandbox.create(options)
      await sandbox.writeFiles([{ path: "f", content }])
    })
    return { sandboxes, vendor }
  })

const config = { persistent: true, vercel: { name: "theirs" } } as const

describe("Vercel: a sandbox that nobody owned", () => {
  for (const mode of ["stop", "delete"] as const) {
    live(`and that could not be booted after it was adopted is there as it was, also after a ${mode}`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* theirs("theirs")
        yield* vendor.expire("theirs")
        vendor.faults.inject("sandbox.resume", Fault.serverError(502), { times: 1_000 })
        const sandboxId = crypto.randomUUID()
        const error = yield* Effect.flip(sandboxes.createSandbox(config, { sandboxId }))
        assert.strictEqual(error.reason._tag, "Unavailable")
        vendor.faults.clear()
        assert.isUndefined(vendor.sandbox("theirs").settings.tags?.["sandbox-id"])
        yield* sandboxes.stopSandbox(sandboxId, { delete: mode === "delete" })
        const again = yield* sandboxes.createSandbox(config)
        assert.strictEqual(text(yield* sandboxes.readFile(again.sandboxId, "f")), "theirs")
      })
    )
  }

  live("is kept even where it cannot be given back", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* theirs("theirs")
      yield* vendor.expire("theirs")
      vendor.faults.inject("sandbox.resume", Fault.serverError(502), { times: 1_000 })
      vendor.faults.inject("sandbox.update", Fault.serverError(502), { skip: 2, times: 1_000 })
      // It is older than anything that this creation has made, whatever the clocks say.
      Object.assign(vendor.sandbox("theirs"), { createdAt: Date.now() - 3_600_000 })
      const sandboxId = crypto.randomUUID()
      yield* Effect.flip(sandboxes.createSandbox(config, { sandboxId }))
      vendor.faults.clear()
      assert.strictEqual(vendor.sandbox("theirs").settings.tags?.["sandbox-id"], sandboxId)
      yield* sandboxes.stopSandbox(sandboxId)
      assert.strictEqual(vendor.sandboxes().length, 1)
      assert.isTrue(vendor.snapshots().every(({ status }) => status === "created"))
    })
  )

  live("and whose adoption was interrupted has the network policy once it is ours", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* theirs("theirs")
      const sandboxId = crypto.randomUUID()
      const restricted = { ...config, vercel: { ...config.vercel, networkPolicy: "deny-all" } } as const
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox(restricted, { sandboxId }))
      while (vendor.sandbox("theirs").settings.tags?.["sandbox-id"] === undefined) yield* Effect.sleep("5 millis")
      yield* Fiber.interrupt(fiber)
      yield* sandboxes.createSandbox(restricted, { sandboxId })
      assert.deepStrictEqual<unknown>(vendor.sandbox("theirs").settings.networkPolicy, { mode: "deny-all" })
    })
  )

  live("and whose adoption died with its service has the network policy before it is ours", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* theirs("theirs")
      const sandboxId = crypto.randomUUID()
      const restricted = { ...config, vercel: { ...config.vercel, networkPolicy: "deny-all" } } as const
      const settings = () => vendor.sandbox("theirs").settings
      // No write after the claim arrives, nor one that would give it back: as if nobody were there to send it.
      vendor.faults.inject("sandbox.update", Fault.resetBefore, { skip: 1, times: 1_000 })
      yield* Effect.flip(sandboxes.createSandbox(restricted, { sandboxId }))
      assert.strictEqual(settings().tags?.["sandbox-id"], `claim:${sandboxId}`)
      vendor.requests.reset()
      // Whatever is done with the id now boots nothing without its policy.
      yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
      yield* Effect.flip(sandboxes.reconnectToSandbox(sandboxId))
      assert.strictEqual(vendor.requests.count("sandbox.resume"), 0)
      vendor.faults.clear()
      yield* sandboxes.createSandbox(restricted, { sandboxId })
      assert.deepStrictEqual<unknown>(settings().networkPolicy, { mode: "deny-all" })
      assert.strictEqual(settings().tags?.["sandbox-id"], sandboxId)
    })
  )

  live("does not pass for a checkpoint that is restored", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const vendor = yield* Vendor
      const { sandboxId } = yield* sandboxes.createSandbox(config)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "saved" }])
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* vendor.vanish("theirs")
      yield* theirs("theirs")
      const restored = yield* Effect.result(sandboxes.restoreCheckpoint(sandboxId, id))
      assert.isTrue(restored._tag === "Failure" && restored.failure.reason._tag === "NameInUse")
      assert.isUndefined(vendor.sandbox("theirs").settings.tags?.["sandbox-id"])
    })
  )
})

describe("Vercel: somebody else's", () => {
  for (const [what, config] of [
    ["named", { persistent: true, vercel: { name: "theirs" } }],
    ["unnamed", { persistent: true }]
  ] as const) {
    live(`${what} sandbox of the same id, in another namespace, is neither taken nor deleted`, () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const vendor = yield* Vendor
        const foreign = yield* Vercel.make(optionsFor(vendor))
        const sandboxId = newSandboxId()
        const resolved = yield* foreign.resolve(config)
        const machine = yield* foreign.create({ sandboxId, version: 1, namespace: "production", config, resolved })
        const error = yield* Effect.flip(sandboxes.createSandbox(config, { sandboxId }))
        assert.strictEqual(error.reason._tag, "NameInUse")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        const { sessions, settings } = vendor.sandbox(machine.ref.externalId)
        assert.strictEqual(settings.tags?.["sandbox-namespace"], "production")
        assert.strictEqual(sessions.at(-1)?.status, "running")
      })
    )
  }

  live(
    "snapshot, of a former sandbox of the name, is not restored in the place of a checkpoint that there is not",
    () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* theirs("theirs")
        yield* vendor.expire("theirs")
        yield* vendor.vanish("theirs")
        for (const snapshot of vendor.snapshots()) {
          Object.assign(snapshot, { createdAt: Date.now() - 3_600_000 })
        }
        const { sandboxId } = yield* sandboxes.createSandbox({ ...config, recovery: "restore" })
        yield* vendor.vanish("theirs")
        const error = yield* Effect.flip(sandboxes.reconnectToSandbox(sandboxId))
        assert.strictEqual(error.reason._tag, "Gone")
        assert.strictEqual(vendor.requests.count("sandbox.create"), 2)
      })
  )
})

describe("Vercel: a restore into a new sandbox", () => {
  live("is not made without the secrets of its environment", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const vendor = yield* Vendor
      const { ref, sandboxId } = yield* sandboxes.createSandbox({
        persistent: true,
        env: { TOKEN: Redacted.make("secret") }
      })
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      // The vendor keeps the environment of one that is there.
      yield* sandboxes.restoreCheckpoint(sandboxId, id)
      yield* vendor.vanish(ref.externalSandboxId ?? "")
      const error = yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, id))
      assert.isTrue(error.reason._tag === "SecretsRequired" && error.reason.names.length === 1)
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "active")
      assert.deepStrictEqual(vendor.sandboxes(), [])
    })
  )
})

describe("Vercel: a machine made anew", () => {
  live("with an unknown outcome, when the one before has vanished, leaves the checkpoints of those before that", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const vendor = yield* Vendor
      const { ref, sandboxId } = yield* sandboxes.createSandbox()
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* vendor.expire(ref.externalSandboxId ?? "")
      yield* sandboxes.runCommand(sandboxId, "true")
      const { externalSandboxId = "" } = yield* sandboxes.getSandbox(sandboxId)
      yield* vendor.vanish(externalSandboxId)
      vendor.faults.inject("sandbox.create", Fault.serverError(502), { times: 1_000 })
      const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
      vendor.faults.clear()
      assert.strictEqual(error.reason._tag, "Unavailable")
      const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
      assert.include(
        listed.map((checkpoint) => checkpoint.id),
        id
      )
    })
  )
})

describe("Vercel: requests of what does not get better", () => {
  live("a restore whose stop always fails asks a bounded number of times", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const vendor = yield* Vendor
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* sandboxes.runCommand(sandboxId, "true")
      vendor.faults.inject("session.stop", Fault.serverError(503), { times: 100_000 })
      vendor.requests.reset()
      yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, id))
      // The schedule of the tests has 20 repetitions.
      assert.isAtMost(vendor.requests.count("session.stop"), 21)
    })
  )

  live("a spent sandbox that is deleted and stays is asked for a bounded number of times", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const vendor = yield* Vendor
      const spent = { persistent: false, vercel: { name: "spent", reuse: true } } as const
      const first = yield* sandboxes.createSandbox(spent)
      yield* vendor.expire("spent")
      vendor.faults.inject("sandbox.delete", Fault.notFound(), { times: 100_000 })
      vendor.requests.reset()
      const error = yield* Effect.flip(sandboxes.runCommand(first.sandboxId, "true"))
      assert.strictEqual(error.reason._tag, "Unavailable")
      assert.isAtMost(vendor.requests.count("sandbox.delete"), 3)
    })
  )
})
