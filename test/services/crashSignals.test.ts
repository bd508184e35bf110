/**
 * Services in processes of their own, ended by real signals at each stage of a recorded process, and paused ones that wake up. By
 * default some pairs of a vendor and a store, in `test:full` each with each, at every stage.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as Fs from "node:fs"
import { fileURLToPath } from "node:url"
import { schema } from "../../src/layers/stores/InstantDbSchema.ts"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { newProcessId, newSandboxId } from "../../src/testing/internal/stores.ts"
import * as DaytonaEmulator from "../emulators/daytona/server.ts"
import * as InstantDbEmulator from "../emulators/instantdb/server.ts"
import * as SpritesEmulator from "../emulators/sprites/server.ts"
import * as VercelEmulator from "../emulators/vercel/server.ts"
import { eventually, localRoot } from "../layers/providers/support/local.ts"
import { judge } from "../support/crashMatrix.ts"
import { stages } from "../support/crashStages.ts"
import { type Database, type Deployment, over, type Vendor } from "../support/deployment.ts"
import { tempDirectory } from "../support/embedded.ts"
import { full } from "../support/full.ts"
import { postgresServer } from "../support/postgres.ts"

const fixture = fileURLToPath(new URL("../fixtures/deployedService.ts", import.meta.url))

interface There<A> {
  readonly at: A
  /** When nobody is connected to it any more. */
  readonly isQuiet?: () => boolean
}

const atSprites = ({ origin, sprites, token }: SpritesEmulator.SpritesEmulator): There<Vendor> => ({
  at: { kind: "sprites", origin, token },
  isQuiet: () => sprites().every(({ busy }) => busy === 0)
})

const vendors: Record<Vendor["kind"], Effect.Effect<There<Vendor>, unknown, Scope.Scope>> = {
  local: Effect.map(localRoot, (root) => ({ at: { kind: "local", root } })),
  vercel: Effect.map(VercelEmulator.make(), ({ credentials, origin }) => ({
    at: { kind: "vercel", origin, credentials }
  })),
  daytona: Effect.map(DaytonaEmulator.make(), ({ apiKey, apiUrl }) => ({ at: { kind: "daytona", apiUrl, apiKey } })),
  sprites: Effect.map(SpritesEmulator.make(), (emulator) => atSprites(emulator))
}

const server = full ? postgresServer() : undefined

const databases: Record<Database["kind"], Effect.Effect<Database, unknown, Scope.Scope>> = {
  sqlite: Effect.map(tempDirectory, (directory) => ({ kind: "sqlite", file: `${directory}/sandboxes.sqlite` })),
  postgres: Effect.suspend(() =>
    server === undefined
      ? Effect.die(new Error("in test:full only"))
      : Effect.map(server.database, ({ url }) => ({ kind: "postgres", url: Redacted.value(url) }))
  ),
  instantdb: Effect.map(InstantDbEmulator.make({ schema }), ({ config }) => ({ kind: "instantdb", config }))
}

/** The process of a service; it goes with the Scope. */
const run = (deployment: Deployment, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, [fixture, JSON.stringify(deployment), ...args], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      let said = ""
      child.stdout.on("data", (chunk: Buffer) => {
        said += chunk.toString()
      })
      const says = (word: string) =>
        Effect.promise(async () => {
          while (!said.includes(word)) {
            await Promise.race([once(child.stdout, "data"), once(child.stdout, "close")])
            if (child.stdout.closed) assert.include(said, word)
          }
        })
      return { child, says }
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  )

const end = (child: ChildProcess, signal: NodeJS.Signals) =>
  Effect.promise(async () => {
    const ended = once(child, "exit")
    child.kill(signal)
    await ended
  })

/** Another service. */
const another = (deployment: Deployment) =>
  Effect.map(Layer.build(over(deployment).pipe(Layer.provide(Faults.layer()))), (context) => ({
    sandboxes: Context.get(context, SandboxService),
    store: Context.get(context, SandboxStore),
    log: Context.get(context, ProcessLog)
  }))

/** Registers the case of a vendor and a store. */
const dies = (vendor: Vendor["kind"], database: Database["kind"], chosen: ReadonlyArray<string>) =>
  it.live(
    `on ${vendor}, over ${database}`,
    () =>
      Effect.gen(function* () {
        const { at, isQuiet } = yield* vendors[vendor]
        const deployment: Deployment = { vendor: at, database: yield* databases[database] }
        const { log, sandboxes, store } = yield* another(deployment)
        const { sandboxes: rival } = yield* another(deployment)
        for (const stage of stages) {
          if (!chosen.includes(stage.name)) continue
          const { sandboxId } = yield* sandboxes.createSandbox()
          const processId = newProcessId()
          const { child, says } = yield* run(deployment, sandboxId, processId, stage.name)
          yield* says("there")
          yield* end(child, stage.closes === true ? "SIGTERM" : "SIGKILL")
          if (isQuiet !== undefined) yield* eventually("nobody is there", isQuiet)
          const what = `${vendor} over ${database}, ${stage.name}`
          yield* judge({ what, stage, sandboxId, processId, heirs: [sandboxes, rival], store, log })
          yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        }
      }).pipe(Effect.scoped),
    full ? 300_000 : 60_000
  )

const all = stages.map(({ name }) => name)

describe("a service that a signal ends loses and doubles nothing", () => {
  if (full) {
    for (const vendor of ["local", "vercel", "daytona", "sprites"] as const) {
      for (const database of ["sqlite", "postgres", "instantdb"] as const) dies(vendor, database, all)
    }
  } else {
    dies("local", "instantdb", ["in mid-output"])
    dies("vercel", "sqlite", ["in mid-output"])
    // On Daytona, in short runs, it dies only within the process of the test: see `crashMatrix.test.ts`.
    dies("sprites", "sqlite", ["in mid-output, by a deployment"])
  }
})

describe("a service that is killed on sprites", () => {
  it.live(
    "leaves its process held awake",
    () =>
      Effect.gen(function* () {
        const emulator = yield* SpritesEmulator.make()
        const deployment: Deployment = { vendor: atSprites(emulator).at, database: yield* databases.sqlite }
        const { sandboxes } = yield* another(deployment)
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
        const processId = newProcessId()
        const { child, says } = yield* run(deployment, sandboxId, processId)
        yield* says("logged")
        yield* end(child, "SIGKILL")
        const [sprite] = emulator.sprites()
        yield* eventually("nobody is there", () => sprite?.busy === 0)
        yield* eventually("it is held awake", () => sprite?.tasks.size === 1)
        yield* sandboxes.writeFiles(sandboxId, [{ path: "go", content: "" }])
        const attached = yield* sandboxes.attachProcess(processId)
        assert.deepStrictEqual(yield* attached.exit, { _tag: "Exited", code: 7 })
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        assert.deepStrictEqual(emulator.sprites(), [])
      }).pipe(Effect.scoped),
    60_000
  )
})

describe("a service that is paused", () => {
  it.live(
    "and wakes up after another one has taken its process over writes nothing any more",
    () =>
      Effect.gen(function* () {
        const vendor = yield* vendors.local
        const deployment: Deployment = { vendor: vendor.at, database: yield* databases.sqlite }
        const { log, sandboxes, store } = yield* another(deployment)
        const { sandboxes: rival } = yield* another(deployment)
        const sandboxId = newSandboxId()
        yield* sandboxes.createSandbox({}, { sandboxId })
        const processId = newProcessId()
        const { child, says } = yield* run(deployment, sandboxId, processId)
        yield* says("logged")
        child.kill("SIGSTOP")
        const attached = yield* sandboxes.attachProcess(processId)
        const { lease } = yield* store.getProcess(processId)
        assert.notStrictEqual(lease?.owner, "the first")
        yield* sandboxes.writeFiles(sandboxId, [{ path: "go", content: "" }])
        assert.deepStrictEqual(yield* attached.exit, { _tag: "Exited", code: 7 })
        // The other half has come to it too: its turn to write it down is over, and what it would read is cleared away.
        const { at } = vendor
        const spools = () =>
          at.kind === "local" &&
          Fs.readdirSync(at.root, { recursive: true, encoding: "utf8" }).some((path) => /\/(out|err)\.\d+$/.test(path))
        yield* eventually("the successor has cleared away", () => !spools())
        child.kill("SIGCONT")
        yield* says("ended Success")
        yield* judge({
          what: "paused",
          stage: { name: "", rule: Faults.on("start", Faults.hang) },
          sandboxId,
          processId,
          heirs: [sandboxes, rival],
          store,
          log
        })
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped),
    60_000
  )
})
