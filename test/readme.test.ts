import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { path, render } from "../scripts/readme.ts"
import { methodReasons } from "../src/services/SandboxService.ts"
import { passed, typeCheck } from "./support/typeCheck.ts"

const run = promisify(execFile)
const root = fileURLToPath(new URL("..", import.meta.url))

/** The TypeScript snippets; ` run` after the language says that it is a program. */
const snippets = (text: string) =>
  [...text.matchAll(/```ts( run)?\n([\s\S]*?)```/g)].map(([, mark, code = ""], index) => ({
    name: `snippet${index + 1}.ts`,
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

  it(
    "has snippets that compile against the built package and programs that do what they say",
    { timeout: 120_000 },
    async () => {
      const all = snippets(await readFile(path, "utf8"))
      assert.isAtLeast(all.length, 6)
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
            timeout: 15_000
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
