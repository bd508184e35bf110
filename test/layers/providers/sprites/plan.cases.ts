/** What becomes of a config, what is refused and why, and the labels that a sprite keeps of it. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, Redacted, Result, Schema } from "effect"
import * as Labels from "../../../../src/layers/providers/sprites/labels.ts"
import type { Environment, Plan } from "../../../../src/layers/providers/sprites/plan.ts"
import { limits, nameOf, planOf } from "../../../../src/layers/providers/sprites/plan.ts"
import * as settings from "../../../../src/layers/providers/sprites/settings.ts"
import * as Config from "../../../../src/model/SandboxConfig.ts"
import * as SandboxSettings from "../../../../src/services/SandboxSettings.ts"
import { newSandboxId } from "../../../../src/testing/internal/providers.ts"

const decode = (input: Config.SandboxConfigInput) =>
  Result.match(Config.decode(input), {
    onFailure: (error) => assert.fail(error.message),
    onSuccess: (config) => config
  })

const plan = (input: Config.SandboxConfigInput, environment: Environment = {}): Plan =>
  Result.match(planOf(decode(input), environment), {
    onFailure: (error) => assert.fail(error.message),
    onSuccess: (result) => result
  })

describe("the plan of a sprite", () => {
  it("without any wish", () => {
    assert.deepStrictEqual(plan({}), {
      name: undefined,
      reuse: false,
      persistent: false,
      deleteOnStop: true,
      timeout: undefined,
      port: undefined,
      waitForCapacity: true,
      auth: "sprite",
      labels: [],
      rules: undefined
    })
  })

  it.each<readonly [Config.SandboxConfigInput, Environment, Partial<Plan>]>([
    [{ sprites: { waitForCapacity: false } }, {}, { waitForCapacity: false }],
    [{ sprites: { urlSettings: { auth: "public" } } }, {}, { auth: "public" }],
    [{ sprites: { labels: ["a", "b", "a"] } }, {}, { labels: ["a", "b"] }],
    [{ timeout: "2 hours", ports: [3000, 3000] }, {}, { timeout: Duration.hours(2), port: 3000 }],
    [{ resources: { vcpus: 8 } }, {}, {}],
    // The section, then the config, then what persistence means, then the environment.
    [{ sprites: { deleteOnStop: false } }, { deleteOnStop: true }, { deleteOnStop: false, persistent: true }],
    [{ sprites: { deleteOnStop: true }, deleteOnStop: false }, {}, { deleteOnStop: true, persistent: false }],
    [{ deleteOnStop: false }, { deleteOnStop: true }, { deleteOnStop: false, persistent: true }],
    [{ persistent: true }, { deleteOnStop: true }, { deleteOnStop: false, persistent: true }],
    [{ persistent: true, deleteOnStop: true }, {}, { deleteOnStop: true, persistent: true }],
    [{}, { deleteOnStop: false }, { deleteOnStop: false, persistent: true }],
    [{ sprites: { name: "box" } }, {}, { name: "box", reuse: false }],
    [{ sprites: { name: "box" }, persistent: true }, {}, { reuse: true }],
    [{ sprites: { name: "box", reuse: false }, persistent: true }, {}, { reuse: false }]
  ])("of %j with %j", (input, environment, expected) => {
    const made = plan(input, environment)
    assert.deepStrictEqual(made, { ...made, ...expected })
  })

  it.each<readonly [Config.SandboxConfigInput, string, string]>([
    [{ resources: { vcpus: 9 } }, "InvalidConfig", "resources.vcpus: a sprite has 8, got 9"],
    [{ runtime: "node24" }, "UnsupportedCapability", "runtime"],
    [{ ports: [8080, 3000] }, "UnsupportedCapability", "one url"],
    [{ sprites: { labels: ["effect-sandbox-stopped"] } }, "InvalidConfig", "sprites.labels"],
    [{ sprites: { networkPolicy: { allow: ["a.com"], deny: ["a.com"] } } }, "InvalidConfig", "a.com"],
    ...["", "-a", "a-", "A", "a.b", "a_b", "é", "a b", "x".repeat(limits.nameLength + 1)].map(
      (name) => [{ sprites: { name } }, "InvalidConfig", "sprites.name"] as const
    )
  ])("refuses %j", (input, tag, part) => {
    const result = planOf(decode(input), {})
    if (Result.isSuccess(result)) return assert.fail("it was accepted")
    assert.strictEqual(result.failure._tag, tag)
    assert.include(result.failure.message, part)
  })

  it.each([
    [{ sprites: { region: "fra" } }, "sprites.region: there is no such field"],
    [{ sprites: { image: "ubuntu" } }, "sprites.image: there is no such field"],
    [{ sprites: { networkPolicy: { allow: ["https://a.com"] } } }, "sprites.networkPolicy.allow[0]"],
    [{ sprites: { urlSettings: { auth: "everybody" } } }, "sprites.urlSettings.auth"]
  ])("does not decode %j", (input, part) => {
    const result = Config.decode(input)
    assert.include(Result.isFailure(result) ? result.failure.message : "", part)
  })

  it.each([
    [
      { allow: ["a.com", "*.b.com"] },
      [
        { domain: "a.com", action: "allow" },
        { domain: "*.b.com", action: "allow" },
        { domain: "*", action: "deny" }
      ]
    ],
    [
      { deny: ["a.com"] },
      [
        { domain: "a.com", action: "deny" },
        { domain: "*", action: "allow" }
      ]
    ],
    [
      { allow: ["*"], deny: ["a.com"] },
      [
        { domain: "*", action: "allow" },
        { domain: "a.com", action: "deny" }
      ]
    ],
    [{ defaults: true }, [{ include: "defaults" }, { domain: "*", action: "deny" }]],
    [{ allow: [] }, [{ domain: "*", action: "deny" }]]
  ])("says of every domain what becomes of it: %j", (networkPolicy, rules) => {
    assert.deepStrictEqual<unknown>(plan({ sprites: { networkPolicy } }).rules, rules)
  })

  it("is made of a record as it was of the config", () => {
    const input: Config.SandboxConfigInput = {
      persistent: true,
      sprites: { name: "box", labels: ["a"], urlSettings: { auth: "public" }, networkPolicy: { deny: ["a.com"] } }
    }
    const stored = Config.toStored(decode(input))
    const record: unknown = JSON.parse(JSON.stringify(Schema.encodeSync(Config.StoredConfig)(stored)))
    const back = Config.fromStored(Schema.decodeUnknownSync(Config.StoredConfig)(record), {})
    assert.deepStrictEqual(Result.getOrThrow(planOf(back, {})), plan(input))
  })

  it("names machines so that each is a part of a host name, and two of one sandbox differ", () => {
    const sandboxId = newSandboxId()
    const names = [1, 2, 9_999_999].map((version) => nameOf({ sandboxId, version }))
    assert.strictEqual(new Set(names).size, 3)
    for (const name of names) assert.match(name, /^[a-z0-9]([a-z0-9-]{0,53}[a-z0-9])$/)
    // Whoever had such a name would pass for a sandbox of ours.
    const name = names[0] ?? ""
    const taken = planOf(decode({ sprites: { name } }), {})
    assert.isTrue(Result.isFailure(taken) && taken.failure._tag === "InvalidConfig")
  })
})

describe("the labels of a sprite", () => {
  const tags: Labels.Tags = {
    sandboxId: newSandboxId(),
    namespace: Labels.namespaceTag("any text: \u{1F600}"),
    generation: 7,
    claim: newSandboxId(),
    stopped: true,
    pending: true,
    ephemeral: true,
    lease: { duration: 60_000, end: 1_800_000_000_000 },
    port: 8080,
    others: ["team-a"]
  }

  it("are read as they were written, and fit where labels are short and plain", () => {
    assert.deepStrictEqual(Labels.read(Labels.write(tags)), tags)
    for (const label of Labels.write(tags)) assert.match(label, /^[a-z0-9-]{1,63}$/)
    const bare = Labels.read([])
    assert.deepStrictEqual(Labels.read(Labels.write(bare)), bare)
    assert.isUndefined(bare.sandboxId)
  })

  it("say nothing where somebody else wrote something like them", () => {
    assert.deepStrictEqual(
      Labels.read(["effect-sandbox-id-nobody", "effect-sandbox-generation-x", "effect-sandbox-lease-1", "stopped"]),
      { ...Labels.read([]), others: ["stopped"] }
    )
  })
})

describe("the settings of Sprites", () => {
  const read = <A>(setting: SandboxSettings.Setting<A>, values: Record<string, string>) =>
    SandboxSettings.get(setting).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(values))))

  it.effect("have the names that are in use for them", () =>
    Effect.gen(function* () {
      for (const name of ["SPRITES_API_TOKEN", "SPRITES_TOKEN", "SPRITE_TOKEN"]) {
        const token = yield* Effect.fromOption(yield* read(settings.token, { [name]: " org/secret " }))
        assert.strictEqual(Redacted.value(token), "org/secret")
      }
      for (const name of ["SPRITES_API_BASE_URL", "SPRITES_API_URL"]) {
        assert.strictEqual(
          yield* Effect.fromOption(yield* read(settings.baseUrl, { [name]: "http://there" })),
          "http://there"
        )
      }
      const environment = settings.environment.pipe(
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ SANDBOX_SPRITES_DELETE_ON_STOP: "No" })))
      )
      assert.deepStrictEqual(yield* environment, { deleteOnStop: false })
    })
  )
})
