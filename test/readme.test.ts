import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { allSettings, path, render } from "../scripts/readme.ts"
import { SandboxErrorReason } from "../src/errors.ts"
import * as Root from "../src/index.ts"
import { ProcessRecord } from "../src/model/Process.ts"
import { renamedFields, SandboxConfig } from "../src/model/SandboxConfig.ts"
import { SandboxRecord } from "../src/model/SandboxRecord.ts"
import * as Activities from "../src/programs/activities.ts"
import { methodReasons } from "../src/services/SandboxService.ts"
import { passed, typeCheck } from "./support/typeCheck.ts"

const run = promisify(execFile)
const root = fileURLToPath(new URL("..", import.meta.url))

const guide = join(root, "MIGRATION.md")

/** The TypeScript snippets; ` run` after the language says that it is a program. */
const snippets = (name: string, text: string) =>
  [...text.matchAll(/```ts( run)?\n([\s\S]*?)```/g)].map(([, mark, code = ""], index) => ({
    name: `${name}${index + 1}.ts`,
    runs: mark !== undefined,
    // What a program says it prints, in the comment behind its console line.
    prints: [...code.matchAll(/(?:console\.log|Console\.log)\(.*\) \/\/ (.*)$/gm)].map(([, output = ""]) => output),
    code
  }))

describe("README", () => {
  it("has tables that the code agrees with", async () => {
    const current = await readFile(path, "utf8")
    assert.strictEqual(current, await render(current))
  })

  it("names every method where it says what a handle and the service have", async () => {
    const [, section = ""] =
      /The members of a handle:([^]*?)What a guest cannot do/.exec(await readFile(path, "utf8")) ?? []
    assert.deepStrictEqual(
      Object.keys(methodReasons).filter((method) => !new RegExp(`\\b${method}\\b`).test(section)),
      []
    )
  })
})

/** The rows of the tables whose head has this column, each by its head. */
const rowsOf = (text: string, column: string) =>
  [...text.matchAll(/(?:^\|.*\|\n)+/gm)].flatMap(([table]) => {
    const [head = [], , ...rows] = table
      .trim()
      .split("\n")
      .map((line) => line.slice(1, -1).split("|"))
    const names = head.map((cell) => cell.trim())
    return names.includes(column)
      ? rows.map((cells) => Object.fromEntries(names.map((name, index) => [name, (cells[index] ?? "").trim()])))
      : []
  })

/** What stands between backticks. */
const codeIn = (text = ""): ReadonlyArray<string> => [...text.matchAll(/`([^`]+)`/g)].map(([, code = ""]) => code)

/** All that a column names. */
const namesIn = (text: string, column: string): ReadonlyArray<string> =>
  [...new Set(rowsOf(text, column).flatMap((row) => codeIn(row[column])))].toSorted()

/** The fields of a schema, and those of its sections behind a dot. */
const configFields = Object.entries(SandboxConfig.fields).flatMap(([name, { schema }]) =>
  "fields" in schema ? Object.keys(schema.fields).map((field) => `${name}.${field}`) : [name]
)

const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\w\s-]/g, "")
    .replace(/\s/g, "-")

describe("the migration guide", () => {
  const text = readFile(guide, "utf8")

  it.each<readonly [column: string, names: ReadonlyArray<string>]>([
    ["method here", Object.keys(methodReasons)],
    ["field here", configFields],
    ["old field", Object.keys(renamedFields)],
    [
      "activity here",
      Object.entries(Activities).flatMap(([name, one]) => (typeof one === "function" && "input" in one ? [name] : []))
    ],
    ["record field", Object.keys(SandboxRecord.fields)],
    ["process field", Object.keys(ProcessRecord.fields)],
    ["setting", allSettings.flatMap(({ aliases = [], name }) => [name, ...aliases])],
    [
      "reason here",
      SandboxErrorReason.members.map(({ identifier }) => identifier.slice(identifier.lastIndexOf("/") + 1))
    ]
  ])("names in the column %s what there is, all of it and nothing else", async (column, names) => {
    // A platform's reasons have their prefix, and words that are no tag begin in lower case.
    const named = namesIn(await text, column).filter((name) => column !== "reason here" || /^[A-Z]\w*$/.test(name))
    assert.deepStrictEqual(named, [...names].toSorted())
  })

  it("gives each old field its new name", async () => {
    const rows = rowsOf(await text, "old field")
    assert.deepStrictEqual(
      rows.map((row) => [
        codeIn(row["old field"])[0],
        ...codeIn(row["field here"]).map((name) => name.split(".").at(-1))
      ]),
      rows.map((row) => {
        const [old = ""] = codeIn(row["old field"])
        return [old, ...codeIn(row["field here"]).map(() => renamedFields[old])]
      })
    )
  })

  it("names modules, and what the root exports, that there are", async () => {
    const modules = new Set((await text).match(/effect-sandbox\/\w[\w/]*/g))
    assert.isAtLeast(modules.size, 10)
    for (const program of namesIn(await text, "program here")) modules.add(`effect-sandbox/programs/${program}`)
    const missing = [...modules].filter(
      (module) => !existsSync(join(root, `${module.replace("effect-sandbox", "src")}.ts`))
    )
    assert.deepStrictEqual(missing, [])
    const exported = new Set(
      Object.entries(Root).flatMap(([namespace, module]) => Object.keys(module).map((name) => `${namespace}.${name}`))
    )
    const named = rowsOf(await text, "in the original").flatMap(({ here = "" }) =>
      here.endsWith("of `effect-sandbox`") ? codeIn(here).slice(0, -1) : []
    )
    assert.isAtLeast(named.length, 5)
    assert.deepStrictEqual(
      named.filter((name) => !exported.has(name.replace(/\(.*/, ""))),
      []
    )
  })

  it("links to headings that there are", async () => {
    const anchors = async (file: string) =>
      new Set([...(await readFile(file, "utf8")).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchorOf(heading)))
    const known = { "": await anchors(guide), "README.md": await anchors(path) }
    const links = [...(await text).matchAll(/\]\((README\.md|)#([\w-]+)\)/g)]
    assert.isAtLeast(links.length, 5)
    assert.deepStrictEqual(
      links
        .filter(([, file = "", anchor = ""]) => !known[file === "" ? "" : "README.md"].has(anchor))
        .map(([link]) => link),
      []
    )
  })
})

describe("README and migration guide", () => {
  it(
    "have snippets that compile against the built package and programs that do what they say",
    { timeout: 120_000 },
    async () => {
      const ofGuide = snippets("guide", await readFile(guide, "utf8"))
      assert.isAtLeast(ofGuide.length, 6)
      const all = [...snippets("readme", await readFile(path, "utf8")), ...ofGuide]
      assert.isAtLeast(all.length - ofGuide.length, 6)
      assert.isAtLeast(all.filter((one) => one.runs).length, 2)
      // Below the repository, where the package's own name resolves to its built files.
      const folder = await mkdtemp(join(root, ".readme-"))
      try {
        for (const { code, name } of all) await writeFile(join(folder, name), code)
        const names = all.map(({ name }) => name)
        assert.deepStrictEqual(await typeCheck(folder, { skipLibCheck: true, types: ["node"] }, names), passed)
        for (const { name, prints, runs } of all) {
          if (!runs) continue
          const { stderr, stdout } = await run(process.execPath, [join(folder, name)], {
            cwd: folder,
            // A reader who copies it would not wait longer either.
            timeout: 60_000
          })
          assert.strictEqual(stderr, "")
          assert.isAtLeast(prints.length, 1)
          for (const line of prints) assert.include(stdout, line)
        }
      } finally {
        await rm(folder, { recursive: true, force: true })
      }
    }
  )
})
