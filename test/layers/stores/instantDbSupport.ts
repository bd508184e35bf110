/** Stores over an emulator of InstantDB, with what the suites need beside them. */
import { init } from "@instantdb/admin"
import { Context, Effect, Layer } from "effect"
import * as InstantDb from "../../../src/layers/stores/InstantDb.ts"
import { schema } from "../../../src/layers/stores/InstantDbSchema.ts"
import * as Log from "../../../src/services/ProcessLog.ts"
import * as Records from "../../../src/services/SandboxStore.ts"
import * as Emulator from "../../emulators/instantdb/server.ts"
import { Backend } from "./support.ts"

/** The server that a test talks to. */
export class Server extends Context.Service<Server, Emulator.InstantDbEmulator>()("test/InstantDbServer") {}

/** A new app with the store's schema. */
export const server = Layer.effect(Server, Emulator.make({ schema }))

/** An app's own client, as an app would make it. */
export const appClient = Effect.map(Server, ({ config }) => init({ ...config }))

/** A store over the server that is around: another service instance, each time it is built. */
export const instance = (options: InstantDb.ConfigOptions = {}) =>
  Layer.effectContext(
    Effect.gen(function* () {
      const db = yield* appClient
      const primitives = yield* InstantDb.primitives({ db, ...options })
      return Context.make(Records.SandboxStore, Records.make(primitives.store)).pipe(
        Context.add(Log.ProcessLog, Log.make(primitives.log)),
        Context.add(Backend, primitives)
      )
    })
  )

/** A store over a server of its own. */
export const store = (options: InstantDb.ConfigOptions = {}) => Layer.provideMerge(instance(options), server)
