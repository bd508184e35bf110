/** Sprites that were there before us, or belong to somebody else: what a creation, a handle or a restore leaves of them. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Option, Redacted, type Scope, Stream } from "effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Sprites from "../../../../src/layers/providers/Sprites.ts"
import * as Reconcile from "../../../../src/programs/reconcile.ts"
import type { ProviderRegistry } from "../../../../src/services/ProviderRegistry.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import type { SandboxStore } from "../../../../src/services/SandboxStore.ts"
import * as P from "../../../../src/testing/internal/providers.ts"
import * as Fault from "../../../emulators/sprites/faults.ts"
import { optionsFor, service, Vendor } from "./support.ts"
import { until } from "./waiting.ts"

type Services = SandboxService | SandboxStore | ProviderRegistry | Vendor | Scope.Scope

const live = (name: string, body: () => Effect.Effect<void, unknown, Services>) =>
  it.live(name, () => Effect.scoped(Effect.provide(body(), service())), 60_000)

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const world = Effect.gen(function* () {
  const vendor = yield* Vendor
  const provider = yield* Sprites.make(optionsFor(vendor)).pipe(Effect.provide(FetchHttpClient.layer))
  return { sandboxes: yield* SandboxService, vendor, provider }
})

/** A sprite that somebody made by other means. */
const theirs = (name = "theirs") =>
  Effect.gen(function* () {
    const { vendor } = yield* world
    yield* Effect.promise(() =>
      fetch(`${vendor.origin}/v1/sprites`, {
        method: "POST",
        headers: { authorization: `Bearer ${vendor.token}` },
        body: JSON.stringify({ name, labels: ["theirs"] })
      })
    )
    return vendor.sprite(name)
  })

const named = { persistent: true, sprites: { name: "theirs" } } as const
const restricted = { ...named, sprites: { ...named.sprites, networkPolicy: { deny: ["a.com"] } } } as const
const rules = [
  { domain: "a.com", action: "deny" },
  { domain: "*", action: "allow" }
]

describe("Sprites: a sprite that nobody owned", () => {
  live("and that could not be taken over whole is as it was, also after a deletion", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const sprite = yield* theirs()
      vendor.faults.inject("policy.set", Fault.answer(400, "invalid policy"))
      const sandboxId = crypto.randomUUID()
      const error = yield* Effect.flip(sandboxes.createSandbox(restricted, { sandboxId }))
      assert.strictEqual(error.reason._tag, "InvalidArgument")
      assert.deepStrictEqual(sprite.labels, ["theirs"])
      yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      assert.strictEqual(vendor.sprite("theirs").id, sprite.id)
    })
  )

  live("and whose takeover was cut off is not ours before it has its network policy", () =>
    Effect.gen(function* () {
      const { provider, sandboxes, vendor } = yield* world
      const sprite = yield* theirs()
      const sandboxId = P.newSandboxId()
      // No write after the claim arrives, nor one that would give it back: as if nobody were there to send it.
      vendor.faults.inject("policy.set", Fault.hang)
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox(restricted, { sandboxId }))
      yield* until("it was asked for", () => vendor.requests.count("policy.set") > 0)
      vendor.faults.inject("sprite.update", Fault.resetBefore)
      yield* Fiber.interrupt(fiber)
      assert.include(sprite.labels, `effect-sandbox-claim-${sandboxId}`)
      // Until then it is nobody's, and of no namespace.
      assert.deepStrictEqual(yield* Stream.runCollect(provider.find(sandboxId)), [])
      assert.deepStrictEqual(yield* Stream.runCollect(provider.list("tests")), [])
      assert.deepStrictEqual(sprite.rules, [])
      yield* sandboxes.createSandbox(restricted, { sandboxId })
      assert.deepStrictEqual(sprite.rules, rules)
      assert.include(sprite.labels, `effect-sandbox-id-${sandboxId}`)
      assert.notInclude(sprite.labels, `effect-sandbox-claim-${sandboxId}`)
      assert.include(sprite.labels, "theirs")
    })
  )

  live("belongs to one of two deployments that claim it at once", () =>
    Effect.gen(function* () {
      const { provider, sandboxes, vendor } = yield* world
      const sprite = yield* theirs()
      const fiber = yield* Effect.forkChild(Effect.result(sandboxes.createSandbox(named)))
      yield* until("it is claimed", () => sprite.labels.some((label) => label.startsWith("effect-sandbox-claim-")))
      // As another deployment, which has looked before, writes it.
      sprite.labels = ["theirs", `effect-sandbox-claim-${P.newSandboxId()}`, "effect-sandbox-ns-abcdef"]
      const lost = yield* Fiber.join(fiber)
      assert.isTrue(lost._tag === "Failure" && lost.failure.reason._tag === "NameInUse")
      assert.include(sprite.labels, "effect-sandbox-ns-abcdef")
      assert.strictEqual(vendor.requests.count("exec"), 0)
      assert.deepStrictEqual(yield* Stream.runCollect(provider.list("tests")), [])
    })
  )
})

describe("Sprites: a creation that was cut off", () => {
  live("before it had its network policy and its environment is never taken for finished", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const sandboxId = crypto.randomUUID()
      const config = { env: { KEY: "value" }, sprites: { networkPolicy: { deny: ["a.com"] } } }
      vendor.faults.inject("policy.set", Fault.hang)
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox(config, { sandboxId }))
      yield* until("it was asked for", () => vendor.requests.count("policy.set") > 0)
      yield* Fiber.interrupt(fiber)
      // Without the config of the call: what the record holds has to do.
      yield* sandboxes.reconnectToSandbox(sandboxId)
      const { externalSandboxId = "" } = yield* sandboxes.getSandbox(sandboxId)
      assert.deepStrictEqual(vendor.sprite(externalSandboxId).rules, rules)
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "echo $KEY"])).stdout, "value\n")
      assert.isFalse(vendor.sprite(externalSandboxId).labels.some((label) => label.endsWith("pending")))
      yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      assert.deepStrictEqual(vendor.sprites(), [])
    })
  )
})

describe("Sprites: somebody else's", () => {
  for (const [what, config] of [
    ["named", named],
    ["unnamed", { persistent: true }]
  ] as const) {
    live(`${what} sprite of the same id, in another namespace, is neither taken nor listed nor deleted`, () =>
      Effect.gen(function* () {
        const { provider, sandboxes, vendor } = yield* world
        const sandboxId = P.newSandboxId()
        const resolved = yield* provider.resolve(config)
        const machine = yield* provider.create({ sandboxId, version: 1, namespace: "production", config, resolved })
        const { labels } = vendor.sprite(machine.ref.externalId)
        const error = yield* Effect.flip(sandboxes.createSandbox(config, { sandboxId }))
        assert.strictEqual(error.reason._tag, "NameInUse")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        assert.deepStrictEqual(vendor.sprite(machine.ref.externalId).labels, labels)
        const namespaces = (namespace: string) =>
          Effect.map(Stream.runCollect(provider.find(sandboxId, namespace)), (all) => all.map((one) => one.namespace))
        assert.deepStrictEqual(yield* namespaces("production"), ["production"])
        assert.deepStrictEqual(yield* namespaces("tests"), [])
        // Nor is its disk restored, for a record that has lost its machine.
        if (Option.isNone(machine.createCheckpoint) || Option.isNone(provider.checkpoints)) return assert.fail("none")
        const { id } = yield* machine.createCheckpoint.value({})
        const request = { sandboxId, version: 2, namespace: "tests", config, resolved }
        const { remove, restore } = provider.checkpoints.value
        assert.strictEqual(yield* P.reason(restore(id, request, Option.none())), P.tag("NotFound"))
        assert.strictEqual(yield* P.reason(remove(id, sandboxId, Option.none())), P.tag("NotFound"))
        assert.strictEqual((yield* P.run(machine, "true")).exit._tag, "Exited")
      })
    )
  }

  live("sprite of the same id is not deleted with what a creation that was cut off has left", () =>
    Effect.gen(function* () {
      const { provider, sandboxes, vendor } = yield* world
      const sandboxId = P.newSandboxId()
      const resolved = yield* provider.resolve({})
      vendor.faults.inject("sprite.create", Fault.hang)
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox({}, { sandboxId }))
      yield* until("it was asked for", () => vendor.requests.count("sprite.create") > 0)
      yield* Fiber.interrupt(fiber)
      const { ref } = yield* provider.create({ sandboxId, version: 1, namespace: "production", config: {}, resolved })
      const { steps } = yield* Reconcile.run({ grace: "1 milli" })
      assert.deepStrictEqual(
        steps.map(({ outcome, step }) => [step._tag, outcome._tag]),
        [["CreationCutOff", "done"]]
      )
      assert.strictEqual(vendor.sprite(ref.externalId).name, ref.externalId)
    })
  )

  live("sprite that got the name of a lost one is not touched by a handle, nor by a ref without an incarnation", () =>
    Effect.gen(function* () {
      const { provider, vendor } = yield* world
      const request = yield* P.request(provider, { ...named, timeout: Duration.hours(1) }, "tests")
      const machine = yield* provider.create(request)
      yield* vendor.vanish("theirs")
      const sprite = yield* theirs()
      const extend = yield* P.power(machine.extendTimeout)
      assert.strictEqual(yield* P.reason(extend(Duration.hours(2))), P.tag("Gone"))
      assert.deepStrictEqual(sprite.labels, ["theirs"])
      yield* machine.stop("delete")
      yield* provider.stop(machine.ref, "delete")
      // The original's records know no more than a name; ours that has it by now is not theirs.
      const other = yield* provider.create(yield* P.request(provider, named, "tests"))
      yield* provider.stop({ externalId: "theirs", incarnation: "" }, "delete")
      assert.strictEqual(vendor.sprite("theirs").id, sprite.id)
      yield* other.stop("delete")
    })
  )
})

describe("Sprites: a restore", () => {
  live("that lacks secrets of the environment is not begun", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { sandboxId } = yield* sandboxes.createSandbox({ env: { TOKEN: Redacted.make("secret") } })
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "now" }])
      const error = yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, id))
      assert.strictEqual(error.reason._tag, "SecretsRequired")
      assert.strictEqual(vendor.requests.count("checkpoint.restore"), 0)
      assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "file")), "now")
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "echo $TOKEN"])).stdout, "secret\n")
    })
  )

  live("has its network policy before anything runs on the other disk", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { sandboxId } = yield* sandboxes.createSandbox({
        ...restricted,
        sprites: { ...restricted.sprites, name: "r" }
      })
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      vendor.requests.reset()
      yield* sandboxes.restoreCheckpoint(sandboxId, id)
      const { names } = vendor.requests
      assert.strictEqual(vendor.requests.count("policy.set"), 1)
      assert.isBelow(names.indexOf("policy.set"), names.indexOf("sprite.update"))
    })
  )
})

describe("Sprites: one stray answer", () => {
  live("that there is no sprite hides no checkpoint", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      vendor.faults.inject("checkpoint.list", Fault.notFound)
      const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
      assert.deepStrictEqual(
        listed.map((one) => one.id),
        [id]
      )
      vendor.faults.inject("checkpoint.get", Fault.notFound)
      yield* sandboxes.deleteCheckpoint(sandboxId, id)
      assert.deepStrictEqual(vendor.sprites()[0]?.checkpoints, [])
    })
  )
})
