import { assert, describe, it } from "@effect/vitest"
import { computed, importsOf, readGraph, src, violations } from "../scripts/importGraph.ts"

/** A house in which every edge is meant. */
const base: ReadonlyArray<readonly [file: string, imports: ReadonlyArray<string>]> = [
  ["errors.ts", ["effect/Schema"]],
  ["model/Ids.ts", ["effect/Schema", "./errors.ts"]],
  ["services/Port.ts", ["./model/Ids.ts", "./errors.ts", "./services/internal/derive.ts"]],
  ["services/internal/derive.ts", ["effect/Effect"]],
  ["layers/internal/codec.ts", ["./model/Ids.ts"]],
  ["layers/stores/internal/rows.ts", ["./layers/internal/codec.ts"]],
  ["layers/stores/Sql.ts", ["./layers/stores/internal/rows.ts", "node:sqlite"]],
  ["layers/providers/Local.ts", ["./services/Port.ts", "./layers/providers/local/os.ts", "./layers/internal/codec.ts"]],
  ["layers/providers/local/os.ts", ["node:os", "./layers/providers/local/deep/pipe.ts"]],
  ["layers/providers/local/deep/pipe.ts", ["./layers/providers/local/os.ts"]],
  ["layers/providers/Vercel.ts", ["./services/Port.ts", "@vercel/sandbox"]],
  ["layers/providers/LocalFiles.ts", ["./layers/providers/local/os.ts"]],
  ["programs/Cli.ts", ["./services/Port.ts", "./programs/cli/run.ts"]],
  ["programs/cli/run.ts", ["./model/Ids.ts"]],
  ["programs/main.ts", ["./programs/Cli.ts", "./layers/providers/Local.ts", "./Embedded.ts"]],
  ["programs/mcpMain.ts", ["./programs/Cli.ts", "./layers/providers/Local.ts", "./Embedded.ts"]],
  ["testing/index.ts", ["./testing/internal/cases.ts", "./layers/providers/Local.ts", "./Embedded.ts", "vitest"]],
  ["testing/internal/cases.ts", ["./services/Port.ts", "vitest"]],
  ["index.ts", ["./services/Port.ts"]],
  ["Embedded.ts", ["./layers/providers/Local.ts", "@effect/platform-node/NodeServices"]]
]

const withEdges = (...edges: ReadonlyArray<readonly [file: string, to: string]>) => {
  const graph = new Map(base.map(([file, imports]) => [file, [...imports]]))
  for (const [file, to] of edges) graph.set(file, [...(graph.get(file) ?? []), to])
  return violations(graph)
}

const refused: ReadonlyArray<readonly [file: string, to: string, why: string]> = [
  ["errors.ts", "./model/Ids.ts", "errors.ts may not import model"],
  ["errors.ts", "./services/Port.ts", "errors.ts may not import services"],
  ["errors.ts", "node:util", "errors.ts runs everywhere"],
  ["errors.ts", "@vercel/sandbox", "errors.ts imports effect only"],
  ["model/Ids.ts", "./services/Port.ts", "model may not import services"],
  ["model/Ids.ts", "./layers/internal/codec.ts", "model may not import layers"],
  ["model/Ids.ts", "node:crypto", "model runs everywhere"],
  ["model/Ids.ts", "uuid", "model imports effect only"],
  ["services/internal/derive.ts", "./layers/providers/Local.ts", "services may not import layers"],
  ["services/Port.ts", "./programs/Cli.ts", "services may not import programs"],
  ["services/Port.ts", "./testing/index.ts", "services may not import testing"],
  ["services/Port.ts", "node:fs", "services runs everywhere"],
  ["services/Port.ts", "@vercel/sandbox", "services imports effect only"],
  ["services/Port.ts", "@effect/platform-node/NodeServices", "services imports effect only"],
  ["layers/providers/Local.ts", "./programs/Cli.ts", "layers may not import programs"],
  ["layers/providers/Local.ts", "./testing/index.ts", "layers may not import testing"],
  ["layers/providers/Local.ts", "./Embedded.ts", "layers may not import Embedded.ts"],
  ["layers/providers/Vercel.ts", "./layers/providers/Local.ts", "a layer imports no other layer"],
  ["layers/providers/Vercel.ts", "./layers/providers/local/os.ts", "a layer imports no other layer"],
  ["layers/providers/Vercel.ts", "./layers/stores/internal/rows.ts", "a layer imports no other layer"],
  ["layers/providers/LocalFiles.ts", "./layers/providers/Local.ts", "a layer imports no other layer"],
  ["layers/providers/Localised.ts", "./layers/providers/local/os.ts", "a layer imports no other layer"],
  ["layers/providers/local/os.ts", "./layers/providers/Local.ts", "a layer imports no other layer"],
  ["layers/internal/codec.ts", "./layers/stores/Sql.ts", "a layer imports no other layer"],
  ["programs/Cli.ts", "./layers/providers/Local.ts", "programs may not import layers"],
  ["programs/Cli.ts", "./Embedded.ts", "programs may not import Embedded.ts"],
  ["programs/main.ts", "./testing/index.ts", "programs may not import testing"],
  ["programs/mcpMain.ts", "./testing/index.ts", "programs may not import testing"],
  ["testing/index.ts", "./programs/Cli.ts", "testing may not import programs"],
  ["Embedded.ts", "./programs/Cli.ts", "Embedded.ts may not import programs"],
  ["index.ts", "./Embedded.ts", "index.ts may not import Embedded.ts"],
  ["index.ts", "node:fs", "index.ts runs everywhere"],
  ["services/Port.ts", "./services/Missing.ts", "there is no such file"],
  ["layers/stores/Sql.ts", "./layers/internal/codec.js", "there is no such file"],
  ["layers/stores/Sql.ts", "../package.json", "outside of src"],
  ["layers/stores/Sql.ts", "fs", "written node:"],
  ["layers/stores/Sql.ts", "effect-sandbox/model/Ids", "import each other by path"],
  ["layers/stores/Sql.ts", computed, "must be a literal"],
  ["stray/file.ts", "./errors.ts", "no rule says where this belongs"]
]

describe("the import graph", () => {
  it("of the sources has no forbidden edge", () => {
    const graph = readGraph(src)
    assert.isAbove(graph.size, 20)
    assert.deepStrictEqual(violations(graph), [])
  })

  it("accepts the shape that is meant", () => {
    assert.deepStrictEqual(violations(new Map(base)), [])
  })

  it.each(refused)("refuses %s → %s: %s", (file, to, why) => {
    const [first = "", ...more] = withEdges([file, to]).filter((violation) => !violation.includes("reaches a layer"))
    assert.deepStrictEqual(more, [])
    assert.isTrue(first.startsWith(file), first)
    assert.include(first, why)
  })

  it("refuses a package in two folders", () => {
    assert.deepStrictEqual(withEdges(["layers/internal/codec.ts", "@vercel/sandbox/deep"]), [
      "@vercel/sandbox: imported by layers/internal, layers/providers; a package belongs to one folder"
    ])
    assert.deepStrictEqual(withEdges(["layers/stores/Sql.ts", "@effect/platform-node"]), [])
  })

  it("refuses a root that reaches a layer, in one step or through a service", () => {
    assert.include(
      withEdges(["index.ts", "./layers/stores/Sql.ts"]),
      "index.ts → layers/stores/Sql.ts: the root reaches a layer"
    )
    assert.include(
      withEdges(["services/internal/derive.ts", "./layers/stores/Sql.ts"]),
      "index.ts → services/Port.ts → services/internal/derive.ts → layers/stores/Sql.ts: the root reaches a layer"
    )
  })

  it("sees every kind of import", () => {
    const code = `
      import type { A } from "./a.ts"
      import * as B from "../b.ts"
      import "@scope/side/effect"
      export * from "./c.js"
      export * as d from "../../d.json"
      export type { E } from "e"
      export const own = 1
      const lazy = () => import("node:f")
      const worse = (name: string) => import(name)
      type G = import("g").G
      const text = 'import "nothing"'
      // import "nothing"
    `
    assert.deepStrictEqual([...importsOf("x/file.ts", code)].sort(), [
      "../d.json",
      "./b.ts",
      "./x/a.ts",
      "./x/c.js",
      "@scope/side/effect",
      "e",
      "g",
      computed,
      "node:f"
    ])
  })

  it("refuses a file that it cannot parse", () => {
    assert.throws(() => importsOf("x/file.ts", "import {"), "x/file.ts")
  })
})
