/** Every provider, and every store but Postgres, which is where its server is. */
import { describe } from "@effect/vitest"
import { Effect } from "effect"
import * as Local from "../../src/layers/providers/Local.ts"
import * as Memory from "../../src/layers/stores/Memory.ts"
import * as Daytona from "../layers/providers/daytona/support.ts"
import * as Sprites from "../layers/providers/sprites/support.ts"
import { brief, localRoot } from "../layers/providers/support/local.ts"
import * as Vercel from "../layers/providers/vercel/support.ts"
import { store as instantDb } from "../layers/stores/instantDbSupport.ts"
import { sqlite } from "../layers/stores/support.ts"
import { crashes, ofStores, ofVendors } from "../support/crashMatrix.ts"

const memory = Memory.layer({ namespace: "tests" })
const local = Effect.flatMap(localRoot, (root) => Local.make({ ...brief, root }))
const providers = {
  local,
  vercel: Effect.map(Vercel.provider(), ({ provider }) => provider),
  daytona: Effect.map(Daytona.provider(), ({ provider }) => provider),
  sprites: Effect.map(Sprites.provider(), ({ provider }) => provider)
}

describe("a service that dies at any stage of a recorded process loses and doubles nothing", () => {
  const { local, ...vendors } = providers
  crashes("on local", local, memory)
  for (const [name, make] of Object.entries(vendors)) crashes(`on ${name}`, make, memory, ofVendors)
  crashes("over SQLite", local, sqlite, ofStores)
  crashes("over InstantDB", local, instantDb(), ofStores)
})
