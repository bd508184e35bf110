import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { cases } from "../bench/cases.ts"
import { atLeast, atMost, below, exitCodeOf, interleave, median, ratio, table } from "../bench/harness.ts"

const main = fileURLToPath(new URL("../bench/main.ts", import.meta.url))

const bench = (...args: ReadonlyArray<string>) =>
  new Promise<{ readonly code: number | string | null | undefined; readonly stdout: string; readonly stderr: string }>(
    (resolve) => {
      execFile(process.execPath, ["--expose-gc", main, ...args], (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : error.code, stdout, stderr })
      )
    }
  )

const measured = { name: "a", value: 2, unit: "x", note: "" }

describe("the benchmarks", () => {
  it("miss a target on the wrong side of it", () => {
    assert.deepStrictEqual(
      [
        atMost(2, measured),
        atMost(1.9, measured),
        atLeast(2, measured),
        atLeast(2.1, measured),
        below(2, measured)
      ].map(({ ok, target }) => [target, ok]),
      [
        ["<= 2", true],
        ["<= 1.9", false],
        [">= 2", true],
        [">= 2.1", false],
        ["< 2", false]
      ]
    )
    assert.isFalse(atMost(2, { ...measured, value: NaN }).ok)
  })

  it("fail when a target is missed, when a benchmark fails, and when nothing was measured", () => {
    const ok = atMost(2, measured)
    const missed = atMost(1, measured)
    assert.strictEqual(exitCodeOf([[ok], [ok, ok]]), 0)
    assert.strictEqual(exitCodeOf([[ok], [ok, missed]]), 1)
    assert.strictEqual(exitCodeOf([[ok], undefined]), 1)
    assert.strictEqual(exitCodeOf([[ok], []]), 1)
    assert.include(table([missed]), "MISSED")
  })

  it("take the median of the rounds' ratios, not the ratio of medians", () => {
    const rounds = [
      { a: 10, b: 10 },
      { a: 2, b: 1 },
      { a: 90, b: 30 }
    ]
    assert.strictEqual(ratio(rounds, "a", "b").value, 2)
    assert.strictEqual(median([3, 1, 2]), 2)
    assert.throws(() => median([]))
  })

  it.effect("run the contestants in turn, leaving the warm-up out", () =>
    Effect.gen(function* () {
      const order: Array<string> = []
      const contestant = (name: string) => Effect.sync(() => order.push(name))
      const rounds = yield* interleave({ a: contestant("a"), b: contestant("b") }, { warmUp: 1, rounds: 3 })
      assert.strictEqual(order.join(""), "abbaabba")
      assert.deepStrictEqual(rounds, [
        { b: 3, a: 4 },
        { a: 5, b: 6 },
        { b: 7, a: 8 }
      ])
    })
  )

  it("name what there is for a name that there is not", async () => {
    const { code, stderr, stdout } = await bench("no-such-figure")
    assert.notStrictEqual(code, 0)
    assert.strictEqual(stdout, "")
    for (const { name } of cases) assert.include(stderr, name)
  })

  it("print only the figures with --json", async () => {
    const { code, stderr, stdout } = await bench("store-writes", "--json")
    assert.strictEqual(stderr, "")
    const [figure, ...others] = JSON.parse(stdout)
    assert.deepStrictEqual(others, [])
    assert.deepStrictEqual(Object.keys(figure), ["name", "value", "unit", "target", "ok"])
    assert.isTrue(Number.isInteger(figure.value))
    assert.deepInclude(figure, { name: "store-writes", unit: "writes", target: "<= 4", ok: true })
    assert.strictEqual(code, 0)
  })
})
