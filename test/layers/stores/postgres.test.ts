/** The suites of stores and logs over a real Postgres, and what only a server can do. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import * as Postgres from "../../../src/layers/stores/Postgres.ts"
import * as LogSuite from "../../../src/testing/LogSuite.ts"
import * as StoreSuite from "../../../src/testing/StoreSuite.ts"
import { postgresServer } from "../../support/postgres.ts"
import { Backend, derived, plant } from "./support.ts"

const server = postgresServer()

/** A store, its log and its backend on a database. */
const on = (url: Redacted.Redacted, options: Postgres.ConfigOptions = {}) =>
  Layer.fresh(Layer.effectContext(Effect.map(Postgres.primitives({ url, ...options }), derived)))

const own = Layer.unwrap(Effect.map(server.database, ({ url }) => on(url)))

StoreSuite.suite("Postgres", own, { plant })
LogSuite.suite("Postgres", own)
