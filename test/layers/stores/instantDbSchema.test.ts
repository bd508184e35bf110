/** The schema: spread into an app's, printed for the vendor's CLI, free of the admin SDK. */
import { assert, describe, it } from "@effect/vitest"
import { i, init } from "@instantdb/admin"
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { promisify } from "node:util"
import { readGraph, src } from "../../../scripts/importGraph.ts"
import { sandboxDomain, schema, schemaFile } from "../../../src/layers/stores/InstantDbSchema.ts"
import { ProcessRecord } from "../../../src/model/Process.ts"
import { SandboxRecord } from "../../../src/model/SandboxRecord.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { sandboxRecord } from "../../../src/testing/internal/stores.ts"
import * as InstantDb from "../../../src/layers/stores/InstantDb.ts"
import * as Emulator from "../../emulators/instantdb/server.ts"

const run = promisify(execFile)
const root = fileURLToPath(new URL("../../..", import.meta.url))

const appSchema = i.schema({
  entities: {
    ...sandboxDomain.entities,
    $users: i.entity({ email: i.string().unique().indexed().optional(), nickname: i.string().optional() }),
    projects: i.entity({ title: i.string() })
  },
  links: {
    ...sandboxDomain.links,
    projectSandbox: {
      forward: { on: "projects", has: "one", label: "sandbox" },
      reverse: { on: "sandbox_sandboxes", has: "many", label: "projects" }
    }
  },
  rooms: { ...sandboxDomain.rooms }
})

describe("the schema of the InstantDB store", () => {
  it("has every field of the records", () => {
    const { sandbox_processes, sandbox_sandboxes } = sandboxDomain.entities
    for (const [fields, attrs] of [
      [SandboxRecord.fields, sandbox_sandboxes.attrs],
      [ProcessRecord.fields, sandbox_processes.attrs]
    ] as const) {
      assert.deepStrictEqual(
        Object.keys(fields).filter((field) => field !== "id" && !(field in attrs)),
        []
      )
    }
  })

  it.live("is part of an app's own, whose client the store takes and whose queries see its records", () =>
    Effect.gen(function* () {
      const { config } = yield* Emulator.make({ schema: appSchema })
      const db = init({ ...config, schema: appSchema })
      const record = sandboxRecord({ purpose: "of an app" })
      yield* Effect.flatMap(SandboxStore, (store) => store.insertSandbox(record)).pipe(
        Effect.provide(InstantDb.layer({ db }))
      )
      yield* Effect.promise(async () => {
        const id = crypto.randomUUID()
        const project = db.tx.projects[id]
        if (project === undefined) throw new Error("the SDK answers to every id")
        await db.transact(project.create({ title: "a" }).link({ sandbox: record.id }))
      })
      // Typed by the app's schema, ours included.
      const { projects } = yield* Effect.promise(() => db.query({ projects: { sandbox: {} } }))
      assert.strictEqual(projects[0]?.sandbox?.purpose, "of an app")
    })
  )

  it.live("works with a client that has no schema, or another one, and invents nothing", () =>
    Effect.gen(function* () {
      const { config, query } = yield* Emulator.make({ schema })
      const other = i.schema({ entities: { projects: i.entity({ title: i.string() }) } })
      for (const db of [init(config), init({ ...config, schema: other })]) {
        const record = sandboxRecord()
        yield* Effect.flatMap(SandboxStore, (store) => store.insertSandbox(record)).pipe(
          Effect.provide(InstantDb.layer({ db }))
        )
        assert.strictEqual(
          query({ sandbox_sandboxes: { $: { where: { id: record.id } } } })["sandbox_sandboxes"]?.length,
          1
        )
      }
    })
  )

  it("is printed as a file for the vendor's CLI, which says the same and compiles", { timeout: 120_000 }, async () => {
    const { stdout } = await run(process.execPath, [join(src, "layers/stores/instantdb/printSchema.ts")])
    assert.strictEqual(stdout, schemaFile())
    // Below the repository, where the vendor's package is found.
    const folder = await mkdtemp(join(root, ".schema-"))
    try {
      const file = join(folder, "instant.schema.ts")
      await writeFile(file, stdout)
      const { default: printed } = await import(pathToFileURL(file).href)
      assert.deepStrictEqual(JSON.parse(JSON.stringify(printed)), JSON.parse(JSON.stringify(schema)))
      const compilerOptions = {
        strict: true,
        module: "NodeNext",
        target: "ESNext",
        noEmit: true,
        skipLibCheck: true,
        types: []
      }
      await writeFile(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["instant.schema.ts"] }))
      await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder])
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })

  it("imports neither the admin SDK nor Node, by whatever way", () => {
    const graph = readGraph(src)
    const reached = new Set(["layers/stores/InstantDbSchema.ts"])
    const packages = new Set<string>()
    for (const file of reached) {
      for (const to of graph.get(file) ?? []) {
        if (to.startsWith("./")) reached.add(to.slice(2))
        else packages.add(to)
      }
    }
    assert.deepStrictEqual([...packages], ["@instantdb/core"])
  })
})
