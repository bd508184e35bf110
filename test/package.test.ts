/** The package as a user gets it: packed, installed with nothing but its required peers, imported and compiled. */
import { assert, beforeAll, afterAll, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const run = promisify(execFile)
const root = fileURLToPath(new URL("..", import.meta.url))

let folder = ""

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "effect-sandbox-package-"))
  const { devDependencies } = JSON.parse(await readFile(join(root, "package.json"), "utf8"))
  const { stdout } = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
    cwd: root
  })
  // npm's JSON is a list in some versions and an object by name in others.
  const packed = JSON.parse(stdout)
  const [{ filename }] = Array.isArray(packed) ? packed : Object.values<{ filename: string }>(packed)
  await writeFile(join(folder, "package.json"), JSON.stringify({ name: "consumer", type: "module", private: true }))
  await run(
    "npm",
    [
      "install",
      "--no-audit",
      "--no-fund",
      join(folder, filename),
      `effect@${devDependencies.effect}`,
      `@effect/platform-node@${devDependencies["@effect/platform-node"]}`
    ],
    { cwd: folder }
  )
}, 120_000)

afterAll(() => rm(folder, { recursive: true, force: true }))

/** The public entry points, by what is built. */
const entries = async () => {
  const dist = join(folder, "node_modules/effect-sandbox/dist")
  const files = (await readdir(dist, { recursive: true })).filter((file) => file.endsWith(".js"))
  return files
    .map((file) => file.slice(0, -3))
    .map((file) => (file === "index" ? "effect-sandbox" : `effect-sandbox/${file.replace(/\/index$/, "")}`))
}

const isPrivate = (entry: string) => /\/internal\/|\/providers\/local\//.test(entry)
const needsVitest = (entry: string) => entry.startsWith("effect-sandbox/testing")

const evaluate = (code: string) => run(process.execPath, ["--input-type=module", "-e", code], { cwd: folder })

describe("the packed package", () => {
  it("holds its sources, its build and its licence, and nothing else", async () => {
    const packed = join(folder, "node_modules/effect-sandbox")
    const top = (await readdir(packed)).filter((name) => name !== "node_modules").sort()
    assert.deepStrictEqual(top, ["LICENSE", "README.md", "dist", "package.json", "src"])
  })

  it("has entry points that can be imported with the required peers alone", async () => {
    const all = (await entries()).filter((entry) => !isPrivate(entry) && !needsVitest(entry))
    assert.isAtLeast(all.length, 15)
    await evaluate(`for (const entry of ${JSON.stringify(all)}) await import(entry)`)
  }, 60_000)

  it("keeps its internals to itself", async () => {
    const all = (await entries()).filter(isPrivate)
    assert.isAtLeast(all.length, 5)
    const { stdout } = await evaluate(
      `for (const entry of ${JSON.stringify(all)}) await import(entry).then(() => console.log(entry), (error) => {
        if (error.code !== "ERR_PACKAGE_PATH_NOT_EXPORTED") throw error
      })`
    )
    assert.strictEqual(stdout, "")
  })

  it("loads nothing but effect from its root", async () => {
    const { stdout } = await evaluate(`
      import { registerHooks } from "node:module"
      const seen = new Set()
      registerHooks({ load(url, context, next) { seen.add(url); return next(url, context) } })
      await import("effect-sandbox")
      console.log(JSON.stringify([...seen]))`)
    const loaded: ReadonlyArray<string> = JSON.parse(stdout)
    const packages = new Set(
      loaded
        .filter((url) => url.startsWith("file:"))
        .map((url) => relative(join(folder, "node_modules"), fileURLToPath(url)).split("/").slice(0, 2).join("/"))
    )
    assert.deepStrictEqual([...packages].sort(), ["effect-sandbox/dist", "effect/dist"])
    assert.deepStrictEqual(
      loaded.filter((url) => url.startsWith("node:")),
      []
    )
  })

  it("type-checks a consumer, its own declarations included", async () => {
    await writeFile(
      join(folder, "consumer.ts"),
      `
      import * as Effect from "effect/Effect"
      import { errors, SandboxService } from "effect-sandbox"
      import * as Embedded from "effect-sandbox/Embedded"
      import type { SandboxId } from "effect-sandbox/model/Ids"

      export const program: Effect.Effect<string, errors.SandboxError> = Effect.gen(function*() {
        const sandboxes = yield* SandboxService.SandboxService
        const created = yield* sandboxes.createSandbox({ timeout: "5 minutes", ports: [3000] })
        const id: SandboxId = created.sandboxId
        const result = yield* sandboxes.runCommand(id, "true").pipe(Effect.catchTag("PlatformError", Effect.die))
        return result.stdout
      }).pipe(
        Effect.catchReason("SandboxError", "Gone", (reason) => Effect.succeed(reason.evidence)),
        Effect.provide(Embedded.layer())
      )

      // @ts-expect-error an unknown field is no config
      export const wrong = Effect.flatMap(SandboxService.SandboxService, (s) => s.createSandbox({ timeoutMs: 5 }))
    `
    )
    await writeFile(
      join(folder, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          strict: true,
          exactOptionalPropertyTypes: true,
          module: "NodeNext",
          target: "ESNext",
          lib: ["ESNext", "DOM"],
          noEmit: true,
          types: [],
          skipLibCheck: false
        },
        files: ["consumer.ts"]
      })
    )
    const { stdout } = await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder]).catch(
      (error: { readonly stdout: string }) => error
    )
    // Only what our own declarations cause: the peers' are theirs.
    assert.deepStrictEqual(
      stdout.split("\n").filter((line) => /consumer\.ts|effect-sandbox/.test(line)),
      []
    )
  }, 60_000)
})
