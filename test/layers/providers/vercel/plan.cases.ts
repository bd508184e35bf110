/** Which of config, environment and profile decides, field by field, and the limits. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Result } from "effect"
import type { Environment, Plan } from "../../../../src/layers/providers/vercel/plan.ts"
import { planOf } from "../../../../src/layers/providers/vercel/plan.ts"
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

const problem = (input: Config.SandboxConfigInput, environment: Environment = {}): string =>
  Result.match(planOf(decode(input), environment), {
    onFailure: ({ issue }) => issue,
    onSuccess: () => assert.fail("it was accepted")
  })

/** A field of the plan with its values by source; absent where a source has no say. */
interface Row {
  readonly field: keyof Plan
  readonly section: readonly [Config.SandboxConfigInput, unknown]
  readonly shared?: readonly [Config.SandboxConfigInput, unknown]
  readonly environment?: readonly [Environment, unknown]
  readonly ephemeral: unknown
  readonly codingAgent: unknown
}

const table: ReadonlyArray<Row> = [
  {
    field: "vcpus",
    section: [{ vercel: { vcpus: 8 } }, 8],
    shared: [{ resources: { vcpus: 6 } }, 6],
    environment: [{ vcpus: 4 }, 4],
    ephemeral: 1,
    codingAgent: 2
  },
  {
    field: "timeout",
    section: [{ vercel: { timeout: "1 minute" } }, Duration.minutes(1)],
    shared: [{ timeout: "2 minutes" }, Duration.minutes(2)],
    environment: [{ timeout: Duration.minutes(3) }, Duration.minutes(3)],
    ephemeral: Duration.minutes(5),
    codingAgent: Duration.minutes(20)
  },
  {
    field: "persistent",
    section: [{ vercel: { persistent: true } }, true],
    shared: [{ persistent: false }, false],
    environment: [{ persistent: true }, true],
    ephemeral: false,
    codingAgent: true
  },
  {
    field: "deleteOnStop",
    section: [{ vercel: { deleteOnStop: true } }, true],
    shared: [{ deleteOnStop: false }, false],
    environment: [{ deleteOnStop: true }, true],
    ephemeral: true,
    codingAgent: false
  },
  {
    field: "snapshotExpiration",
    section: [{ vercel: { snapshotExpiration: 0 } }, Duration.zero],
    environment: [{ snapshotExpiration: Duration.days(3) }, Duration.days(3)],
    ephemeral: undefined,
    codingAgent: Duration.days(7)
  },
  {
    field: "name",
    section: [{ vercel: { name: "a" } }, "a"],
    environment: [{ name: "b" }, "b"],
    ephemeral: undefined,
    codingAgent: undefined
  },
  {
    field: "reuse",
    section: [{ vercel: { reuse: true } }, true],
    environment: [{ reuse: true }, true],
    ephemeral: false,
    codingAgent: false
  },
  { field: "tags", section: [{ vercel: { tags: { a: "b" } } }, { a: "b" }], ephemeral: {}, codingAgent: {} }
]

const merge = (...inputs: ReadonlyArray<Config.SandboxConfigInput>): Config.SandboxConfigInput =>
  inputs.reduce((all, one) => ({
    ...all,
    ...one,
    ...(all.vercel === undefined && one.vercel === undefined ? {} : { vercel: { ...all.vercel, ...one.vercel } })
  }))

describe("the plan of a config on Vercel", () => {
  for (const row of table) {
    describe(row.field, () => {
      for (const profile of ["ephemeral", "coding-agent"] as const) {
        const base = { vercel: { profile } }
        const fallback = profile === "ephemeral" ? row.ephemeral : row.codingAgent
        it(`${profile}: by default`, () => assert.deepEqual(plan(base)[row.field], fallback))
        for (const withSection of [true, false]) {
          for (const withShared of [true, false]) {
            for (const withEnvironment of [true, false]) {
              const sources = [
                ...(withSection ? [row.section] : []),
                ...(withShared && row.shared !== undefined ? [row.shared] : [])
              ]
              const environment = withEnvironment ? row.environment : undefined
              const wanted = [...sources, ...(environment === undefined ? [] : [environment])]
              const first = wanted[0]
              if (first === undefined) continue
              it(`${profile}: section ${withSection}, shared ${withShared}, environment ${withEnvironment}`, () => {
                const input = merge(base, ...sources.map(([config]) => config))
                assert.deepEqual(plan(input, environment?.[0])[row.field], first[1])
              })
            }
          }
        }
      }
    })
  }

  it("takes its profile from the config, then the environment, then the purpose", () => {
    assert.strictEqual(plan({ purpose: "agent", vercel: { profile: "ephemeral" } }).profile, "ephemeral")
    assert.strictEqual(plan({ vercel: { profile: "ephemeral" } }, { profile: "coding-agent" }).profile, "ephemeral")
    assert.strictEqual(plan({ purpose: "codex" }, { profile: "ephemeral" }).profile, "ephemeral")
    for (const purpose of ["codex", "Codex run", "my-AGENT", "agents"]) {
      assert.strictEqual(plan({ purpose }).profile, "coding-agent", purpose)
    }
    for (const purpose of [undefined, "", "test", "code"]) {
      assert.strictEqual(plan(purpose === undefined ? {} : { purpose }).profile, "ephemeral", String(purpose))
    }
  })

  it("reuses the name of a persistent sandbox unless told otherwise", () => {
    assert.isTrue(plan({ persistent: true, vercel: { name: "a" } }).reuse)
    assert.isFalse(plan({ persistent: false, vercel: { name: "a" } }).reuse)
    assert.isFalse(plan({ persistent: true }).reuse)
    assert.isFalse(plan({ persistent: true, vercel: { name: "a", reuse: false } }).reuse)
    assert.isFalse(plan({ persistent: true, vercel: { name: "a" } }, { reuse: false }).reuse)
  })

  it("never deletes a disk that was asked to persist, unless that was asked for too", () => {
    assert.isFalse(plan({ persistent: true, vercel: { profile: "ephemeral" } }).deleteOnStop)
    assert.isFalse(plan({ vercel: { profile: "ephemeral" } }, { persistent: true }).deleteOnStop)
    assert.isTrue(plan({ persistent: true, deleteOnStop: true }).deleteOnStop)
    assert.isTrue(plan({ persistent: false, vercel: { profile: "coding-agent" } }).deleteOnStop)
  })

  const limits: ReadonlyArray<readonly [string, Config.SandboxConfigInput, Environment, ReadonlyArray<string>]> = [
    ["odd vCPUs", { vercel: { vcpus: 3 } }, {}, ["vcpus", "even", "32", "3"]],
    ["too many vCPUs", { resources: { vcpus: 34 } }, {}, ["32"]],
    ["half a vCPU", { vercel: { vcpus: 0.5 } }, {}, ["even"]],
    ["no vCPU", { vercel: { vcpus: 0 } }, {}, ["even"]],
    ["vCPUs of the environment", {}, { vcpus: 5 }, ["even"]],
    ["16 ports", { ports: Array.from({ length: 16 }, (_, index) => 3000 + index) }, {}, ["ports", "15", "16"]],
    ["four tags", { vercel: { tags: { a: "", b: "", c: "", d: "" } } }, {}, ["tags", "3", "4"]],
    ["our tag", { vercel: { tags: { "sandbox-id": "x" } } }, {}, ["sandbox-id"]],
    ["our other tag", { vercel: { tags: { "sandbox-namespace": "x" } } }, {}, ["sandbox-namespace"]],
    ["a name with a dot", { vercel: { name: "a.b" } }, {}, ["name", "128"]],
    ["an empty name", { vercel: { name: "" } }, {}, ["name"]],
    ["a name too long", { vercel: { name: "a".repeat(129) } }, {}, ["128"]],
    ["a name of ours", { vercel: { name: `sbx-${crypto.randomUUID()}-1` } }, {}, ["name", "id of a sandbox"]],
    ["a name of the environment", {}, { name: "a b" }, ["name"]],
    ["more than a day", { timeout: "25 hours" }, {}, ["timeout", "1d"]],
    ["an expiration of an hour", { vercel: { snapshotExpiration: "1 hour" } }, {}, ["snapshotExpiration", "1d"]],
    ["runtime and image", { runtime: "node22", vercel: { image: "x" } }, {}, ["image", "runtime"]]
  ]
  for (const [name, input, environment, parts] of limits) {
    it(`refuses ${name}, with the limit`, () => {
      const issue = problem(input, environment)
      for (const part of parts) assert.include(issue, part)
    })
  }

  it("takes what is just within the limits", () => {
    const input: Config.SandboxConfigInput = {
      ports: Array.from({ length: 15 }, (_, index) => 3000 + index),
      timeout: "24 hours",
      vercel: { vcpus: 32, name: "a".repeat(128), tags: { a: "", b: "", c: "" }, snapshotExpiration: "1 day" }
    }
    assert.strictEqual(plan(input).vcpus, 32)
  })
})
