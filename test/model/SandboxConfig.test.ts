import { assert, describe, it } from "@effect/vitest"
import { Duration, Redacted, Result, Schema } from "effect"
import * as SandboxConfig from "../../src/model/SandboxConfig.ts"

const issue = (input: unknown): string => {
  const result = SandboxConfig.decode(input)
  return Result.isFailure(result) ? result.failure.message : assert.fail("it decoded")
}
const decoded = (input: unknown): SandboxConfig.SandboxConfig => Result.getOrThrow(SandboxConfig.decode(input))

const encodeStored = Schema.encodeSync(SandboxConfig.StoredConfig)
const decodeStored = Schema.decodeUnknownSync(SandboxConfig.StoredConfig)

describe("SandboxConfig", () => {
  it("takes durations in every form and stores milliseconds", () => {
    for (const timeout of ["5 minutes", 300_000, Duration.minutes(5)]) {
      const config = decoded({ timeout })
      assert.strictEqual(Duration.toMillis(config.timeout ?? Duration.zero), 300_000)
      assert.deepStrictEqual(encodeStored(SandboxConfig.toStored(config)), { timeout: 300_000 })
    }
  })

  it.each([
    [{ timeout: 0 }, "timeout"],
    [{ timeout: -1 }, "timeout"],
    [{ timeout: "-5 seconds" }, "timeout"],
    [{ timeout: Infinity }, "timeout"],
    [{ timeout: NaN }, "timeout"],
    [{ timeout: "400 days" }, "timeout"],
    [{ timeout: "soon" }, "timeout"],
    [{ ports: [0] }, "ports"],
    [{ ports: [65_536] }, "ports"],
    [{ ports: [80.5] }, "ports"],
    [{ env: { "A=B": "x" } }, "env"],
    [{ env: { A: "x\0y" } }, "env"],
    [{ env: { "": "x" } }, "env"],
    [{ resources: { vcpus: 0 } }, "vcpus"],
    [{ resources: { gpus: 1 } }, "gpus"],
    [{ recovery: "always" }, "recovery"],
    [{ unknownField: 1 }, "unknownField"],
    ["text", "object"]
  ])("refuses %j and names the field", (input, name) => {
    assert.include(issue(input), name)
  })

  it.each([
    [{ timeoutMs: 1000 }, "timeoutMs is called timeout here"],
    [{ vercel: { snapshotExpirationMs: 1 } }, "vercel.snapshotExpirationMs is called vercel.snapshotExpiration here"],
    [{ daytona: { autoStopIntervalMin: 1 } }, "daytona.autoStopIntervalMin is called daytona.autoStopInterval here"]
  ])("names the new field for %j", (input, message) => {
    assert.include(issue(input), message)
  })

  it.each([
    [{ timeout: "soon" }, 'timeout: expected a duration, such as "20 minutes" or a number of milliseconds'],
    [
      { vercel: { timeout: 0 } },
      'vercel.timeout: expected a duration above zero and of at most 366 days, such as "20 minutes" or a number of milliseconds'
    ],
    [{ ports: [3000, 0] }, "ports[1]: expected a port from 1 to 65535"],
    [{ timeOut: 5 }, "timeOut: there is no such field"],
    [{ resources: { gpus: 1 } }, "resources.gpus: there is no such field"],
    [{ env: { A: 5 } }, "env.A: expected text without NUL, or Redacted text"],
    [
      { vercel: { networkPolicy: { allow: { "api.example.com": [{ forwardURL: 5 }] } } } },
      'vercel.networkPolicy.allow["api.example.com"][0].forwardURL: expected string'
    ],
    ["text", "expected object"]
  ])("says in one line what is wrong with %j", (input, line) => {
    assert.strictEqual(issue(input), `invalid sandbox config: ${line}`)
  })

  it("takes undefined for absent, and keeps nothing of it", () => {
    const input: SandboxConfig.SandboxConfigInput = {
      purpose: undefined,
      timeout: undefined,
      env: { A: "a", B: undefined },
      resources: { vcpus: undefined },
      local: undefined,
      vercel: { timeout: undefined, name: "n" }
    }
    const config = decoded(input)
    assert.deepStrictEqual(config, { env: { A: "a" }, resources: {}, vercel: { name: "n" } })
    const plain = SandboxConfig.toStored(decoded({ env: { A: "a" }, resources: {}, vercel: { name: "n" } }))
    assert.deepStrictEqual(SandboxConfig.differences(SandboxConfig.toStored(config), plain), [])
    // In the user's own data it is no JSON, here as elsewhere.
    assert.include(issue({ params: { a: undefined } }), "params.a")
  })

  it("leaves the user's own data alone", () => {
    assert.deepStrictEqual(decoded({ params: { timeoutMs: 5 } }).params, { timeoutMs: 5 })
  })

  it("never echoes a value of env", () => {
    assert.notInclude(issue({ env: { TOKEN: "hunter2\0hunter2" } }), "hunter2")
    assert.notInclude(issue({ env: { TOKEN: Redacted.make("hunter2") }, timeout: -1 }), "hunter2")
    assert.notInclude(issue({ env: { TOKEN: Redacted.make("hunter2\0") } }), "hunter2")
    assert.include(issue({ env: { TOKEN: Redacted.make("hunter2\0") } }), "TOKEN")
    assert.notInclude(issue({ env: { "A=B": "x" } }), "<hidden>")
  })

  it("keeps the names of secrets and not their values", () => {
    const config = decoded({ env: { PLAIN: "p", TOKEN: Redacted.make("hunter2") } })
    const stored = SandboxConfig.toStored(config)
    const text = JSON.stringify(encodeStored(stored))
    assert.notInclude(text, "hunter2")
    assert.deepStrictEqual(JSON.parse(text), { env: { PLAIN: "p" }, secretEnv: ["TOKEN"] })
    const back = SandboxConfig.fromStored(decodeStored(JSON.parse(text)), { TOKEN: Redacted.make("hunter2") })
    assert.deepStrictEqual(back, config)
  })

  it("refuses two secrets that would have one name in the record", () => {
    const headers = (...all: ReadonlyArray<Record<string, Redacted.Redacted<string>>>) => ({
      vercel: { networkPolicy: { allow: { "a.example": [{ transform: all.map((headers) => ({ headers })) }] } } }
    })
    const labelled = (value: string, label: string) => Redacted.make(value, { label })
    for (const input of [
      headers({ a: labelled("hunter2", "TOKEN"), b: labelled("hunter3", "TOKEN") }),
      { env: { TOKEN: Redacted.make("hunter2") }, ...headers({ a: labelled("hunter3", "TOKEN") }) }
    ]) {
      assert.include(issue(input), "TOKEN")
      assert.notInclude(issue(input), "hunter")
    }
    decoded({ env: { TOKEN: Redacted.make("hunter2") }, ...headers({ a: labelled("hunter2", "TOKEN") }) })
    // Those without a label have the names of their places, also in two transforms of one rule.
    const config = decoded(headers({ a: Redacted.make("one") }, { a: Redacted.make("two") }))
    const names = SandboxConfig.secretNames(SandboxConfig.toStored(config))
    assert.deepStrictEqual(names, ["network:a.example[0.0]:a", "network:a.example[0.1]:a"])
    const [first = "", second = ""] = names
    const supplied = { [first]: Redacted.make("one"), [second]: Redacted.make("two") }
    assert.deepStrictEqual(SandboxConfig.fromStored(SandboxConfig.toStored(config), supplied), config)
    const odd = decoded({ env: { constructor: Redacted.make("x") }, ...headers({ a: labelled("y", "toString") }) })
    assert.deepStrictEqual(
      SandboxConfig.fromStored(SandboxConfig.toStored(odd), {}),
      decoded({ env: {}, ...headers({}) })
    )
    // One that nobody supplies is no header at all: an empty one would replace what the program sends.
    assert.deepStrictEqual(
      SandboxConfig.fromStored(SandboxConfig.toStored(config), { [first]: Redacted.make("one") }),
      decoded(headers({ a: Redacted.make("one") }, {}))
    )
  })

  it("lists the fields in which two configs differ, whatever the order of keys", () => {
    const one = SandboxConfig.toStored(decoded({ purpose: "a", ports: [1], params: { x: 1, y: { a: 1, b: 2 } } }))
    const two = SandboxConfig.toStored(
      decoded({ params: { y: { b: 2, a: 1 }, x: 1 }, ports: [2], timeout: 5, purpose: "a" })
    )
    assert.deepStrictEqual(SandboxConfig.differences(one, two), ["ports", "timeout"])
    assert.deepStrictEqual(SandboxConfig.differences(one, one), [])
  })
})

describe("the config of a record of @ekairos/sandbox", () => {
  const of = (fields: Parameters<typeof SandboxConfig.fromOriginal>[0]) =>
    Result.map(SandboxConfig.fromOriginal(fields), encodeStored)

  it("is its fields and the sections in its params, by their new names and in ms", () => {
    assert.deepStrictEqual(
      Result.getOrThrow(
        of({
          provider: "daytona",
          runtime: undefined,
          timeout: 600_000,
          resources: { vcpus: 2 },
          params: {
            team: "a",
            vercel: { profile: "coding-agent", snapshotExpirationMs: 86_400_000, cwd: "/app", name: null },
            daytona: { autoStopIntervalMin: 15, autoDeleteIntervalMin: 0, envVars: { A: "b" } },
            sprites: "no section"
          }
        })
      ),
      {
        provider: "daytona",
        timeout: 600_000,
        resources: { vcpus: 2 },
        params: { team: "a" },
        vercel: { profile: "coding-agent", snapshotExpiration: 86_400_000 },
        daytona: { autoStopInterval: 900_000, autoDeleteInterval: 0, envVars: { A: "b" } }
      }
    )
    assert.deepStrictEqual(Result.getOrThrow(of({ params: { vercel: {} } })), { vercel: {} })
  })

  it("is refused by field where a value does not fit", () => {
    const result = of({ params: { daytona: { autoStopIntervalMin: "often" } } })
    assert.include(Result.isFailure(result) ? result.failure.message : "", "daytona.autoStopInterval")
  })
})
