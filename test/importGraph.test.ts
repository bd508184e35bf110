import { assert, describe, it } from "@effect/vitest"
import { importsOf, readGraph, src, violations } from "../scripts/importGraph.ts"

const base: ReadonlyArray<readonly [string, ReadonlyArray<string>]> = [
  ["errors.ts", ["effect/Schema"]],
  ["model/Ids.ts", ["effect/Schema"]],
  ["services/Port.ts", ["model/Ids.ts", "errors.ts"]],
  ["layers/providers/Local.ts", ["services/Port.ts", "layers/providers/local/os.ts", "node:fs"]],
  ["layers/providers/local/os.ts", ["node:os"]],
  ["layers/providers/Vercel.ts", ["services/Port.ts", "@vercel/sandbox"]],
  ["programs/cli.ts", ["services/Port.ts"]],
  ["testing/suite.ts", ["layers/providers/Local.ts", "vitest"]],
  ["index.ts", ["services/Port.ts"]],
  ["Embedded.ts", ["layers/providers/Local.ts"]]
]

const withEdge = (file: string, to: string) =>
  violations(new Map([...base, [file, [...(new Map(base).get(file) ?? []), to]]]))

describe("the import graph", () => {
  it("of the sources has no forbidden edge", () => {
    const graph = readGraph(src)
    assert.isAbove(graph.size, 20)
    assert.deepStrictEqual(violations(graph), [])
  })

  it("accepts the shape that is meant", () => {
    assert.deepStrictEqual(violations(new Map(base)), [])
  })

  it.each([
    ["errors.ts", "model/Ids.ts"],
    ["model/Ids.ts", "services/Port.ts"],
    ["services/Port.ts", "layers/providers/Local.ts"],
    ["services/Port.ts", "programs/cli.ts"],
    ["services/Port.ts", "node:fs"],
    ["services/Port.ts", "@vercel/sandbox"],
    ["layers/providers/Local.ts", "programs/cli.ts"],
    ["layers/providers/Vercel.ts", "layers/providers/Local.ts"],
    ["layers/providers/Vercel.ts", "layers/providers/local/os.ts"],
    ["layers/providers/Local.ts", "@vercel/sandbox/deep", "programs/cli.ts"],
    ["programs/cli.ts", "layers/providers/Local.ts"],
    ["programs/cli.ts", "@vercel/sandbox"],
    ["testing/suite.ts", "programs/cli.ts"],
    ["index.ts", "layers/providers/Local.ts"],
    ["services/Port.ts", "services/Missing.ts"],
    ["stray/file.ts", "errors.ts"]
  ])("refuses %s → %s", (file, ...targets) => {
    const found = targets.flatMap((to) => withEdge(file, to))
    assert.isAtLeast(found.length, 1)
    assert.isTrue(found.some((violation) => violation.includes(file) || violation.includes("one folder")))
  })

  it("sees every kind of import", () => {
    const code = `import type { A } from "./a.ts"\nimport "../b.ts"\nexport * as c from "./c.ts"\nexport { d } from "d"\nawait import("node:e")`
    assert.deepStrictEqual([...importsOf("x/file.ts", code)].sort(), ["b.ts", "d", "node:e", "x/a.ts", "x/c.ts"])
  })
})
