/** The package as a user gets it: packed, installed with nothing but its required peers, imported and compiled. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { basename, dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { passed, typeCheck } from "./support/typeCheck.ts"

const run = promisify(execFile)
const root = fileURLToPath(new URL("..", import.meta.url))
const name = "effect-sandbox"

let folder = ""
/** What is built, without its extension: `layers/providers/Local`. */
let modules: ReadonlyArray<string> = []

beforeAll(async () => {
  if (!existsSync(join(root, "dist/index.js"))) throw new Error("this tests what is built: npm run build")
  folder = await realpath(await mkdtemp(join(tmpdir(), "consumer-")))
  const { devDependencies } = JSON.parse(await readFile(join(root, "package.json"), "utf8"))
  const { stdout } = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
    cwd: root
  })
  // npm's JSON is a list in some versions and an object by name in others.
  const packed = JSON.parse(stdout)
  const [{ filename }] = Array.isArray(packed) ? packed : Object.values<{ filename: string }>(packed)
  await writeFile(join(folder, "package.json"), JSON.stringify({ name: "consumer", type: "module", private: true }))
  const peers = ["effect", "@effect/platform-node"].map((peer) => `${peer}@${devDependencies[peer]}`)
  await run("npm", ["install", "--prefer-offline", "--no-audit", "--no-fund", join(folder, filename), ...peers], {
    cwd: folder
  })
  const dist = join(folder, "node_modules", name, "dist")
  modules = (await readdir(dist, { recursive: true }))
    .filter((file) => file.endsWith(".js"))
    .map((file) => file.slice(0, -3))
    .sort()
}, 120_000)

afterAll(() => rm(folder, { recursive: true, force: true }))

const entryOf = (module: string) => (module === "index" ? name : `${name}/${module.replace(/\/index$/, "")}`)

/** Private is what is in a folder `internal`, what is in a layer's own folder (`Local.js`, `local/`), and the CLI's `main`. */
const isPrivate = (module: string): boolean => {
  const folders = dirname(module)
    .split("/")
    .map((_, index, all) => all.slice(0, index + 1).join("/"))
  return (
    module === "programs/main" ||
    folders.some((path) => basename(path) === "internal") ||
    folders.some((path) =>
      modules.some((other) => other.startsWith("layers/") && other !== path && other.toLowerCase() === path)
    )
  )
}
const needsVitest = (module: string) => module.startsWith("testing/")
/** Declarations that name types of a vendor's SDK, which whoever imports them has installed. */
const needsSdk = (module: string) => /^layers\/(providers\/(Vercel|Daytona)|stores\/InstantDb(Schema)?)$/.test(module)
/** What is built with a vendor's package as it loads. */
const needsCore = (module: string) => module === "layers/stores/InstantDbSchema"
const publicModules = () => modules.filter((module) => !isPrivate(module))

const evaluate = async (code: string): Promise<string> => {
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", code], { cwd: folder })
  return stdout
}

/** Lets the consumer have a package of this repository's. */
const beside = async (sdk: string) => {
  const path = join(folder, "node_modules", sdk)
  if (existsSync(path)) return
  await mkdir(dirname(path), { recursive: true })
  await symlink(join(root, "node_modules", sdk), path)
}

/** The packages of all files that a process loads for these entries, and Node's own modules. */
const loadedBy = async (entries: ReadonlyArray<string>): Promise<ReadonlyArray<string>> => {
  const urls: ReadonlyArray<string> = JSON.parse(
    await evaluate(`
      import { registerHooks } from "node:module"
      const seen = new Set()
      registerHooks({ load(url, context, next) { seen.add(url); return next(url, context) } })
      for (const entry of ${JSON.stringify(entries)}) await import(entry)
      console.log(JSON.stringify([...seen]))`)
  )
  const packages = urls.map((url) => {
    if (!url.startsWith("file:")) return url
    const [first = "", second = ""] = relative(join(folder, "node_modules"), fileURLToPath(url)).split("/")
    return first.startsWith("@") ? `${first}/${second}` : first
  })
  return [...new Set(packages)].sort()
}

describe("the packed package", () => {
  it("holds its sources, its build and its licence, and nothing else", async () => {
    const top = await readdir(join(folder, "node_modules", name))
    assert.deepStrictEqual(top.filter((file) => file !== "node_modules").sort(), [
      "LICENSE",
      "MIGRATION.md",
      "README.md",
      "dist",
      "package.json",
      "src"
    ])
  })

  it("was built from the sources that are there", async () => {
    const sources = await readdir(join(root, "src"), { recursive: true })
    assert.deepStrictEqual(
      modules,
      sources
        .filter((file) => file.endsWith(".ts"))
        .map((file) => file.slice(0, -3))
        .sort()
    )
  })

  it("exports files that exist", async () => {
    const { exports } = JSON.parse(await readFile(join(root, "package.json"), "utf8"))
    const targets = Object.values<null | string | Record<string, string>>(exports).flatMap((target) =>
      target === null ? [] : typeof target === "string" ? [target] : Object.values(target)
    )
    const plain = targets.filter((target) => !target.includes("*"))
    assert.isAtLeast(plain.length, 9)
    assert.deepStrictEqual(
      plain.filter((target) => !existsSync(join(folder, "node_modules", name, target))),
      []
    )
  })

  it("has entry points that can be imported with the required peers alone", async () => {
    const entries = publicModules()
      .filter((module) => !needsVitest(module) && !needsCore(module))
      .map(entryOf)
    assert.isAtLeast(entries.length, 15)
    await evaluate(`for (const entry of ${JSON.stringify(entries)}) await import(entry)`)
  })

  it("has suites that can be imported beside vitest", async () => {
    const entries = publicModules().filter(needsVitest).map(entryOf)
    assert.isAtLeast(entries.length, 1)
    // This repository's vitest, for a package whose user has one too.
    await evaluate(`
      import { registerHooks } from "node:module"
      const parentURL = ${JSON.stringify(new URL("../package.json", import.meta.url).href)}
      registerHooks({
        resolve: (specifier, context, next) =>
          next(specifier, /^(@effect\\/)?vitest(\\/|$)/.test(specifier) ? { ...context, parentURL } : context)
      })
      for (const entry of ${JSON.stringify(entries)}) await import(entry)`)
  })

  it("keeps its internals to itself", async () => {
    const entries = modules.filter(isPrivate).map(entryOf)
    assert.isAtLeast(entries.length, 5)
    // Resolved, not imported: whether it would load is another matter.
    const exposed = await evaluate(`
      for (const entry of ${JSON.stringify(entries)}) {
        try { import.meta.resolve(entry); console.log(entry) }
        catch (error) { if (error.code !== "ERR_PACKAGE_PATH_NOT_EXPORTED") throw error }
      }`)
    assert.strictEqual(exposed, "")
  })

  it("loads nothing but effect from its root", async () => {
    assert.deepStrictEqual(await loadedBy([name]), ["effect", name])
  })

  it("loads nothing but effect from its model, its services and its errors", async () => {
    const neutral = publicModules().filter((module) => /^(errors$|model\/|services\/)/.test(module))
    assert.isAtLeast(neutral.length, 10)
    assert.deepStrictEqual(await loadedBy(neutral.map(entryOf)), ["effect", name])
  })

  it("tells by this means what else is loaded", async () => {
    const loaded = await loadedBy([`${name}/Embedded`, "@effect/platform-node/NodeServices"])
    assert.include(loaded, "@effect/platform-node")
    assert.isTrue(loaded.some((url) => url.startsWith("node:")))
  })

  it("names the package that a store lacks", async () => {
    const message = await evaluate(`
      import { Effect, Layer, Redacted } from "effect"
      import * as Postgres from "${name}/layers/stores/Postgres"
      const store = Postgres.layer({ url: Redacted.make("postgres://u@127.0.0.1/x") })
      console.log((await Effect.runPromise(Effect.flip(Effect.scoped(Layer.build(store))))).message)`)
    assert.include(message, "install the package @effect/sql-pg")
  })

  it("type-checks a consumer, all declarations included", async () => {
    const entries = publicModules()
      .filter((module) => !needsVitest(module) && !needsSdk(module))
      .map(entryOf)
    await writeFile(
      join(folder, "entries.ts"),
      entries.map((entry, index) => `export type * as e${index} from "${entry}"\n`).join("")
    )
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
    assert.deepStrictEqual(
      await typeCheck(folder, { skipLibCheck: false, types: [] }, ["consumer.ts", "entries.ts"]),
      passed
    )
  }, 120_000)

  it("type-checks a consumer of a vendor beside its SDK", async () => {
    await beside("@vercel/sandbox")
    await beside("@daytonaio/sdk")
    await writeFile(
      join(folder, "vendor.ts"),
      `
      import * as Effect from "effect/Effect"
      import * as Redacted from "effect/Redacted"
      import * as Daytona from "effect-sandbox/layers/providers/Daytona"
      import * as Vercel from "effect-sandbox/layers/providers/Vercel"

      export const daytona = Daytona.layer({ apiKey: Redacted.make("k"), apiUrl: "u" })
      // @ts-expect-error a token needs its organization
      export const half = Daytona.layer({ jwtToken: Redacted.make("t"), apiUrl: "u" })

      const creds = { token: Redacted.make("t"), teamId: "t", projectId: "p" }
      export const layer = Vercel.layer(creds)
      export const name: Effect.Effect<string, unknown> = Effect.scoped(
        Effect.map(Vercel.createVercelSandbox({ creds }), (sandbox) => sandbox.name)
      )

      // @ts-expect-error a token is redacted
      export const wrong = Vercel.layer({ ...creds, token: "t" })
    `
    )
    // The SDK's own declarations are its vendor's.
    assert.deepStrictEqual(await typeCheck(folder, { skipLibCheck: true, types: [] }, ["vendor.ts"]), passed)
  }, 120_000)

  it("has a schema for InstantDB that loads its core and neither its admin SDK nor Node", async () => {
    await beside("@instantdb/core")
    const urls: ReadonlyArray<string> = JSON.parse(
      await evaluate(`
        import { registerHooks } from "node:module"
        const seen = []
        registerHooks({ load(url, context, next) { seen.push(url); return next(url, context) } })
        const { sandboxDomain } = await import("${name}/layers/stores/InstantDbSchema")
        if (sandboxDomain.entities.sandbox_sandboxes === undefined) throw new Error("no schema")
        console.log(JSON.stringify(seen))`)
    )
    assert.isTrue(urls.some((url) => url.includes("/@instantdb/core/")))
    assert.deepStrictEqual(
      urls.filter((url) => url.startsWith("node:") || /\/(@instantdb\/(admin|eventsource)|@effect)\//.test(url)),
      // Of uuid, a package of the core's, which has another build for browsers.
      ["node:crypto"]
    )
  })

  it("prints that schema from its bin, with nothing but the core", async () => {
    await beside("@instantdb/core")
    const { stdout } = await run(join(folder, "node_modules/.bin/effect-sandbox-instantdb-schema"), { cwd: folder })
    assert.include(stdout, "sandbox_sandboxes")
    assert.include(stdout, "export default schema")
  })

  it("type-checks a consumer of the InstantDB store beside the SDK", async () => {
    for (const sdk of ["@instantdb/core", "@instantdb/admin"]) await beside(sdk)
    await writeFile(
      join(folder, "instant.ts"),
      `
      import { i, init } from "@instantdb/admin"
      import type * as Layer from "effect/Layer"
      import type { SandboxError } from "effect-sandbox/errors"
      import * as InstantDb from "effect-sandbox/layers/stores/InstantDb"
      import { sandboxDomain } from "effect-sandbox/layers/stores/InstantDbSchema"
      import type { ProcessLog } from "effect-sandbox/services/ProcessLog"
      import type { SandboxStore } from "effect-sandbox/services/SandboxStore"

      const schema = i.schema({
        entities: { ...sandboxDomain.entities, todos: i.entity({ text: i.string() }) },
        links: { ...sandboxDomain.links },
        rooms: {}
      })
      const db = init({ appId: "a", adminToken: "t", schema })
      export const layer: Layer.Layer<SandboxStore | ProcessLog, SandboxError> = InstantDb.layer({ db, mirror: true })
      export const user = InstantDb.layer({ db: db.asUser({ email: "a@example.test" }) })
      export const query = db.query({ sandbox_sandboxes: { processes: { chunks: {} } } })

      // @ts-expect-error the client, not its configuration
      export const wrong = InstantDb.layer({ db: { appId: "a" } })
    `
    )
    assert.deepStrictEqual(await typeCheck(folder, { skipLibCheck: true, types: [] }, ["instant.ts"]), passed)
  }, 120_000)
}, 120_000)
