/** Stores with what the suites need beside them. */
import { Context, Effect, Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as NodeSqlite from "../../../src/layers/internal/nodeSqlite.ts"
import * as Memory from "../../../src/layers/stores/Memory.ts"
import * as Sql from "../../../src/layers/stores/Sql.ts"
import * as Log from "../../../src/services/ProcessLog.ts"
import * as Records from "../../../src/services/SandboxStore.ts"

/** The primitives under a store, for tests that write what the store itself would not. */
export class Backend extends Context.Service<Backend, Sql.Primitives>()("test/Backend") {}

/** A directory that is removed with the scope. */
export const temporaryDirectory = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "effect-sandbox-stores-"))),
  (directory) => Effect.promise(() => rm(directory, { recursive: true, force: true }))
)

/** A file name in such a directory. */
export const temporaryFile = Effect.map(temporaryDirectory, (directory) => join(directory, "nested", "store.sqlite"))

/** A store, a log and what is under them. */
export const derived = (primitives: Sql.Primitives) =>
  Context.make(Records.SandboxStore, Records.make(primitives.store)).pipe(
    Context.add(Log.ProcessLog, Log.make(primitives.log)),
    Context.add(Backend, primitives)
  )

export const memory = Layer.effectContext(Effect.map(Memory.primitives(), derived))

/** A store on a file, with its backend and its client. */
export const sqliteFile = (file: string, options: Sql.Options = {}) =>
  Layer.effectContext(Effect.map(Sql.primitives(options), derived)).pipe(
    Layer.provideMerge(Layer.effect(SqlClient.SqlClient, NodeSqlite.make({ file, ...options }))),
    Layer.provide(Reactivity.layer)
  )

/** A store on a new file that is removed afterwards. */
export const sqlite = Layer.unwrap(Effect.map(temporaryFile, (file) => sqliteFile(file)))

/** The same on a file that another connection has made, used and closed. */
export const sqliteReopened = Layer.unwrap(
  Effect.gen(function* () {
    const file = yield* temporaryFile
    yield* Effect.provide(
      Effect.flatMap(Records.SandboxStore, (store) => store.namespace),
      sqliteFile(file)
    )
    return sqliteFile(file)
  })
)

/** Another namespace of the database whose client is around. */
export const otherNamespace = Sql.layer({ namespace: "another" })

/** Inserts a row past the store. */
export const plant = (entity: "sandbox" | "process", row: Records.Row) =>
  Effect.flatMap(Backend, ({ store }) => (entity === "sandbox" ? store.sandboxes : store.processes).insert(row))
