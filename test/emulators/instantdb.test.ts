/** The emulator under the vendor's own SDK: what each endpoint does, and how the SDK takes it. */
import { assert, describe, it } from "@effect/vitest"
import { id } from "@instantdb/admin"
import { Effect } from "effect"
import { emulated, refused, row, sdk } from "./instantdbSupport.ts"

describe("instantdb emulator: transactions", () => {
  it.effect("records are created, updated, merged, linked and deleted", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const [sandbox, process] = [id(), id()]
      const done = yield* sdk(() =>
        db.transact([
          row(db.tx.sandboxes, sandbox).create({ name: "a", state: "new", params: { x: { y: 1 } } }),
          row(db.tx.processes, process).create({ command: "sh", seq: 1 }).link({ sandbox })
        ])
      )
      assert.deepStrictEqual(done, { "tx-id": 1 })
      yield* sdk(() => db.transact(row(db.tx.sandboxes, sandbox).update({ state: "running" }, { upsert: false })))
      yield* sdk(() => db.transact(row(db.tx.sandboxes, sandbox).merge({ params: { x: { z: 2 } } })))
      const all = yield* sdk(() => db.query({ sandboxes: { processes: {}, user: {} } }))
      assert.deepStrictEqual<unknown>(all, {
        sandboxes: [
          {
            id: sandbox,
            name: "a",
            state: "running",
            params: { x: { y: 1, z: 2 } },
            processes: [{ id: process, command: "sh", seq: 1 }],
            user: null
          }
        ]
      })
      yield* sdk(() => db.transact(row(db.tx.sandboxes, sandbox).delete()))
      assert.deepStrictEqual(yield* sdk(() => db.query({ sandboxes: {}, processes: {} })), {
        sandboxes: [],
        processes: []
      })
      assert.strictEqual(emulator.requests.count("transact"), 4)
    })
  )

  it.effect("a creation of what exists and a strict update of what does not are refused", () =>
    Effect.gen(function* () {
      const { db } = yield* emulated()
      const sandbox = id()
      const create = () => db.transact(row(db.tx.sandboxes, sandbox).create({ name: "a", state: "new" }))
      yield* sdk(create)
      const exists = yield* refused(400, "validation-failed", create)
      assert.include(exists.message, "Creating entities that exist")
      const missing = yield* refused(400, "validation-failed", () =>
        db.transact(row(db.tx.sandboxes, id()).update({ state: "x" }, { upsert: false }))
      )
      assert.include(missing.message, "Updating entities that don't exist")
    })
  )
})
