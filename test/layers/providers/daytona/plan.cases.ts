/** Which of section, config and environment decides, field by field, and what is refused; and what a record keeps of it. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, Redacted, Result } from "effect"
import type { Environment, Plan } from "../../../../src/layers/providers/daytona/plan.ts"
import { planOf } from "../../../../src/layers/providers/daytona/plan.ts"
import * as settings from "../../../../src/layers/providers/daytona/settings.ts"
import * as Config from "../../../../src/model/SandboxConfig.ts"

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

const problem = (input: Config.SandboxConfigInput): string =>
  Result.match(planOf(decode(input), {}), {
    onFailure: ({ issue }) => issue,
    onSuccess: () => assert.fail("it was accepted")
  })

describe("the plan of a config on Daytona", () => {
  const rows: ReadonlyArray<readonly [string, Config.SandboxConfigInput, Environment, Partial<Plan>]> = [
    [
      "nothing asked for",
      {},
      {},
      {
        language: undefined,
        snapshot: undefined,
        image: undefined,
        vcpus: undefined,
        persistent: false,
        deleteOnStop: true,
        ttlMinutes: undefined,
        autoStopMinutes: undefined,
        autoDeleteMinutes: 0,
        ports: [],
        volumes: []
      }
    ],
    [
      "the environment's default",
      {},
      { ephemeral: false },
      { persistent: true, deleteOnStop: false, autoDeleteMinutes: undefined }
    ],
    [
      "the config over the environment",
      { persistent: false },
      { ephemeral: false },
      { persistent: false, deleteOnStop: true }
    ],
    ["the section over the environment", { daytona: { ephemeral: true } }, { ephemeral: false }, { persistent: false }],
    [
      "deletion by the environment",
      { persistent: true },
      { deleteOnStop: true },
      { persistent: true, deleteOnStop: true }
    ],
    [
      "deletion by the config",
      { persistent: true, deleteOnStop: false },
      { deleteOnStop: true },
      { deleteOnStop: false }
    ],
    [
      "a lease, rounded up",
      { timeout: "61 seconds" },
      {},
      { ttlMinutes: 2, autoStopMinutes: 0, timeout: Duration.seconds(61) }
    ],
    [
      "a lease and idleness",
      { timeout: "1 hour", daytona: { autoStopInterval: "10 minutes" } },
      {},
      { ttlMinutes: 60, autoStopMinutes: 10 }
    ],
    ["idleness, rounded up", { daytona: { autoStopInterval: "90 seconds" } }, {}, { autoStopMinutes: 2 }],
    ["no idleness", { daytona: { autoStopInterval: 0 } }, {}, { autoStopMinutes: 0 }],
    [
      "what comes after a stop",
      { persistent: true, daytona: { autoArchiveInterval: "1 day", autoDeleteInterval: "7 days" } },
      {},
      { autoArchiveMinutes: 1440, autoDeleteMinutes: 10_080 }
    ],
    ["python", { runtime: "python3.12" }, {}, { language: "python", image: undefined }],
    ["node", { runtime: "node22" }, {}, { language: "javascript" }],
    ["ts", { runtime: "ts" }, {}, { language: "typescript" }],
    ["another runtime", { runtime: "ruby" }, {}, { language: undefined }],
    ["a language of its own", { runtime: "node22", daytona: { language: "python" } }, {}, { language: "python" }],
    [
      "resources of python",
      { runtime: "python3.12", resources: { vcpus: 4 } },
      {},
      { image: "python:3.12-slim", vcpus: 4 }
    ],
    ["resources of node", { runtime: "node22", resources: { vcpus: 1 } }, {}, { image: "node:22-slim" }],
    ["resources of nothing", { resources: { vcpus: 1 } }, {}, { image: "debian:stable-slim" }],
    ["resources of an image", { resources: { vcpus: 2 }, daytona: { image: "x" } }, {}, { image: "x", vcpus: 2 }],
    ["variables", { env: { A: "1", B: "1" }, daytona: { envVars: { B: "2" } } }, {}, { env: { A: "1", B: "2" } }],
    ["ports once each", { ports: [80, 80, 81] }, {}, { ports: [80, 81] }]
  ]
  for (const [name, input, environment, expected] of rows) {
    it(name, () => assert.deepInclude(plan(input, environment), expected))
  }

  const refused: ReadonlyArray<readonly [string, Config.SandboxConfigInput, ReadonlyArray<string>]> = [
    ["a snapshot and an image", { daytona: { snapshot: "s", image: "i" } }, ["snapshot", "image"]],
    ["a snapshot and resources", { resources: { vcpus: 2 }, daytona: { snapshot: "s" } }, ["vcpus", "snapshot"]],
    ["half a vCPU", { resources: { vcpus: 0.5 } }, ["vcpus", "0.5"]],
    ["ephemeral and persistent", { persistent: true, daytona: { ephemeral: true } }, ["ephemeral", "persistent"]],
    ["a deletion later than at once", { daytona: { autoDeleteInterval: "1 day" } }, ["autoDeleteInterval"]],
    ["65 ports", { ports: Array.from({ length: 65 }, (_, index) => 3000 + index) }, ["64", "65"]],
    ["our label", { daytona: { labels: { "sandbox-id": "x" } } }, ["sandbox-id"]],
    ["the vendor's label", { daytona: { labels: { "code-toolbox-language": "x" } } }, ["code-toolbox-language"]],
    ["a variable with a dot", { env: { "a.b": "x" } }, ["a.b"]],
    ["two bases", { daytona: { image: { base: "x", pythonVersion: "3.12" } } }, ["base", "pythonVersion"]],
    ["a line break in an image", { daytona: { image: { pipInstall: ["a\nRUN rm"] } } }, ["line break"]],
    ["an empty image", { daytona: { image: "" } }, ["image"]],
    ["a volume without a name", { daytona: { volumes: [{ mountPath: "/a" }] } }, ["volumes[0]", "volumeId"]],
    ["one with two", { daytona: { volumes: [{ volumeId: "a", volumeName: "b", mountPath: "/a" }] } }, ["volumeName"]],
    ...["a", "/", "/a/../b", "/a//b", "/proc/x", "/etc"].map(
      (mountPath) =>
        [
          `a mount at ${mountPath}`,
          { daytona: { volumes: [{ volumeName: "v", mountPath }] } },
          ["volumes[0].mountPath"]
        ] as const
    ),
    ...["", "/a", "a/../b", "a//b"].map(
      (subpath) =>
        [
          `the subpath ${JSON.stringify(subpath)}`,
          { daytona: { volumes: [{ volumeName: "v", mountPath: "/a", subpath }] } },
          ["volumes[0].subpath"]
        ] as const
    ),
    [
      "two volumes at one place",
      {
        daytona: {
          volumes: [
            { volumeName: "v", mountPath: "/a" },
            { volumeName: "w", mountPath: "/a" }
          ]
        }
      },
      ["mountPath"]
    ]
  ]
  for (const [name, input, parts] of refused) {
    it(`refuses ${name}`, () => {
      const issue = problem(input)
      for (const part of parts) assert.include(issue, part)
    })
  }

  it("keeps names of secrets in a record, and gets their values back", () => {
    const config = decode({
      daytona: { envVars: { A: "a", B: Redacted.make("b"), C: Redacted.make("c", { label: "mine" }) } }
    })
    const stored = Config.toStored(config)
    assert.deepStrictEqual(stored, {
      daytona: { envVars: { A: "a", B: { secret: "daytona:B" }, C: { secret: "mine" } } }
    })
    assert.deepStrictEqual(Config.secretNames(stored), ["daytona:B", "mine"])
    const again = Config.fromStored(stored, { "daytona:B": Redacted.make("b") })
    assert.deepStrictEqual(Object.keys(again.daytona?.envVars ?? {}), ["A", "B"])
    assert.deepStrictEqual(Config.decode({ daytona: { envVars: { A: 1 } } })._tag, "Failure")
  })
})

describe("where Daytona is, and who asks", () => {
  const read = (values: Record<string, string>) =>
    settings.access.pipe(Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(values)))
  const refusal = (values: Record<string, string>) => Effect.map(Effect.flip(read(values)), ({ message }) => message)

  it.effect("takes the URL by either name, and never a default", () =>
    Effect.gen(function* () {
      assert.include(yield* refusal({ DAYTONA_API_KEY: "k" }), "DAYTONA_API_URL")
      assert.strictEqual((yield* read({ DAYTONA_SERVER_URL: "s", DAYTONA_API_KEY: "k" })).apiUrl, "s")
      assert.strictEqual(
        (yield* read({ DAYTONA_API_URL: "a", DAYTONA_SERVER_URL: "s", DAYTONA_API_KEY: "k" })).apiUrl,
        "a"
      )
    })
  )

  it.effect("prefers the key, and wants an organization with a token", () =>
    Effect.gen(function* () {
      const url = { DAYTONA_API_URL: "u" }
      assert.include(yield* refusal(url), "DAYTONA_API_KEY")
      assert.include(yield* refusal({ ...url, DAYTONA_JWT_TOKEN: "t" }), "DAYTONA_ORGANIZATION_ID")
      const token = { ...url, DAYTONA_JWT_TOKEN: "t", DAYTONA_ORGANIZATION_ID: "o", DAYTONA_TARGET: "eu" }
      assert.deepInclude(yield* read(token), { organizationId: "o", target: "eu" })
      const both = yield* read({ ...token, DAYTONA_API_KEY: "k" })
      assert.isTrue("apiKey" in both && !("jwtToken" in both))
    })
  )
})
