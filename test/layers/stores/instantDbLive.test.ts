/**
 * The suites against a real server of InstantDB, with `SANDBOX_LIVE=instantdb`: the app of `INSTANT_APP_ID` and
 * `INSTANT_APP_ADMIN_TOKEN` at `INSTANT_API_URI`, whose schema is pushed; without one a temporary app, made with the vendor's CLI, where
 * the server allows that. Nothing is deleted.
 */
import { init } from "@instantdb/admin"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Schema } from "effect"
import { execFile } from "node:child_process"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import * as InstantDb from "../../../src/layers/stores/InstantDb.ts"
import { schemaFile } from "../../../src/layers/stores/InstantDbSchema.ts"
import * as LogSuite from "../../../src/testing/LogSuite.ts"
import * as StoreSuite from "../../../src/testing/StoreSuite.ts"
import { skipped } from "../../support/live.ts"

const run = promisify(execFile)
const root = fileURLToPath(new URL("../../..", import.meta.url))
/** Fixed, as a newer one may ask other questions. */
const cli = ["--yes", "instant-cli@1.0.67"]

interface App {
  readonly appId: string
  readonly adminToken: string
  readonly apiURI: string
}

const Created = Schema.fromJsonString(
  Schema.Struct({
    app: Schema.NullOr(Schema.Struct({ appId: Schema.String, adminToken: Schema.String })),
    error: Schema.NullOr(Schema.Struct({ message: Schema.String }))
  })
)
const decodeCreated = Schema.decodeUnknownEffect(Created)

const { INSTANT_API_URI, INSTANT_APP_ADMIN_TOKEN, INSTANT_APP_ID } = process.env
const apiURI = INSTANT_API_URI ?? "https://api.instantdb.com"
const environment = { ...process.env, INSTANT_CLI_API_URI: apiURI }

const temporaryApp = Effect.gen(function* () {
  const args = [...cli, "init-without-files", "--title", "effect-sandbox-live", "--temp"]
  const { stdout } = yield* Effect.promise(() => run("npx", args, { env: environment }))
  const { app, error } = yield* decodeCreated(stdout.slice(stdout.indexOf("{"), stdout.lastIndexOf("}") + 1))
  if (app === null) return yield* Effect.die(`no temporary app: ${error?.message}; set INSTANT_APP_ID`)
  return { ...app, apiURI }
})

const push = ({ adminToken, appId }: App) =>
  Effect.promise(async () => {
    const folder = await mkdtemp(join(root, ".instant-live-"))
    try {
      await writeFile(join(folder, "package.json"), JSON.stringify({ name: "live", private: true, type: "module" }))
      await writeFile(join(folder, "instant.schema.ts"), schemaFile())
      await run("npx", [...cli, "push", "schema", "--app", appId, "--package", "core", "--yes"], {
        cwd: folder,
        env: { ...environment, INSTANT_APP_ADMIN_TOKEN: adminToken }
      })
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })

class LiveApp extends Context.Service<LiveApp, App>()("test/LiveApp") {}

const app = Layer.effect(
  LiveApp,
  Effect.tap(
    INSTANT_APP_ID === undefined || INSTANT_APP_ADMIN_TOKEN === undefined
      ? temporaryApp
      : Effect.succeed({ appId: INSTANT_APP_ID, adminToken: INSTANT_APP_ADMIN_TOKEN, apiURI }),
    push
  )
)

const live = Layer.unwrap(
  Effect.map(LiveApp, (config) => InstantDb.layer({ db: init(config), namespace: crypto.randomUUID() }))
).pipe(Layer.provide(app))

if (skipped("instantdb", []) === undefined) {
  StoreSuite.suite("InstantDB, live", live)
  LogSuite.suite("InstantDB, live", live)
} else {
  describe("InstantDB, live", () => {
    it.skip("SANDBOX_LIVE=instantdb runs the suites against a server", () => assert.fail("not asked for"))
  })
}
