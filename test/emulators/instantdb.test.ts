/** The emulator under the vendor's own SDK: what transactions and queries do, who is admitted, and how transactions meet. */
import { assert, describe, it } from "@effect/vitest"
import { id, init, lookup } from "@instantdb/admin"
import { Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import { App } from "./instantdb/app.ts"
import * as F from "./instantdb/faults.ts"
import { engine } from "./instantdb/query.ts"
import { make } from "./instantdb/server.ts"
import { at, emulated, failing, posted, refused, row, schema, sdk, spin, untyped } from "./instantdbSupport.ts"

const ordered = (...tail: ReadonlyArray<string>): ReadonlyArray<string> =>
  tail.map((digit) => `00000000-0000-4000-8000-00000000000${digit}`)

describe("instantdb emulator: transactions", () => {
  it.effect("records are created, updated, merged, linked and deleted", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const [sandbox, process] = [id(), id()]
      const done = yield* sdk(() =>
        db.transact([
          row(db.tx.sandboxes, sandbox).create({ name: "a", state: "new", params: { x: { y: 1 }, old: 1 } }),
          row(db.tx.processes, process).create({ command: "sh", seq: 1 }).link({ sandbox })
        ])
      )
      assert.deepStrictEqual(done, { "tx-id": 1 })
      yield* sdk(() => db.transact(row(db.tx.sandboxes, sandbox).update({ state: "running" }, { upsert: false })))
      yield* sdk(() => db.transact(row(db.tx.sandboxes, sandbox).merge({ params: { x: { z: 2 }, old: null } })))
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
      yield* sdk(() => db.transact(row(db.tx.sandboxes, sandbox).delete()))
      assert.deepStrictEqual(yield* sdk(() => db.query({ sandboxes: {}, processes: {} })), {
        sandboxes: [],
        processes: []
      })
      assert.strictEqual(emulator.requests.count("transact"), 5)
    })
  )

  it.effect("a creation of what exists and a strict update of what does not are refused, all of it", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const sandbox = id()
      const create = () =>
        db.transact([
          row(db.tx.claims, id()).create({ key: "never" }),
          row(db.tx.sandboxes, sandbox).create({ name: "a", state: "new" })
        ])
      yield* sdk(() => db.transact(row(db.tx.sandboxes, sandbox).create({ name: "a", state: "new" })))
      const exists = yield* refused(400, "validation-failed", create)
      assert.include(exists.message, "Creating entities that exist")
      assert.strictEqual(at(exists.hint, "data-type"), "tx-step")
      const missing = yield* refused(400, "validation-failed", () =>
        db.transact([
          row(db.tx.claims, id()).create({ key: "never" }),
          row(db.tx.sandboxes, id()).update({ state: "x" }, { upsert: false })
        ])
      )
      assert.include(missing.message, "Updating entities that don't exist")
      yield* refused(400, "validation-failed", () =>
        db.transact(row(db.tx.sandboxes, id()).merge({ params: {} }, { upsert: false }))
      )
      assert.deepStrictEqual(emulator.query({ claims: {} }), { claims: [] })
    })
  )

  it.effect("operations run by their kind, not by the list", () =>
    Effect.gen(function* () {
      const { loose } = yield* emulated()
      const [a, b] = [id(), id()]
      yield* sdk(() =>
        loose.transact([
          row(loose.tx.things, a).merge({ doc: { x: 1 } }),
          row(loose.tx.things, a).update({ doc: { y: 2 } })
        ])
      )
      yield* sdk(() =>
        loose.transact([
          row(loose.tx.things, b).update({ n: 1 }),
          row(loose.tx.things, b).delete(),
          row(loose.tx.things, b).update({ n: 2 }),
          row(loose.tx.things, a).update({ n: 3 })
        ])
      )
      assert.deepStrictEqual(yield* sdk(() => loose.query({ things: {} })), {
        things: [{ id: a, doc: { x: 1, y: 2 }, n: 3 }]
      })
      yield* sdk(() =>
        loose.transact([
          row(loose.tx.things, b).delete(),
          row(loose.tx.things, b).update({ n: 2 }),
          row(loose.tx.things, b).delete()
        ])
      )
      assert.deepStrictEqual(yield* sdk(() => loose.query({ things: { $: { where: { id: b } } } })), {
        things: [{ id: b, n: 2 }]
      })
    })
  )

  it.effect("lookups: upserts make rows, deletes skip, targets of links must be there", () =>
    Effect.gen(function* () {
      const { db } = yield* emulated()
      yield* sdk(() => db.transact(db.tx.sandboxes.lookup("name", "a").update({ state: "new" })))
      yield* sdk(() => db.transact(db.tx.sandboxes.lookup("name", "a").update({ state: "old" })))
      yield* sdk(() => db.transact(db.tx.sandboxes.lookup("name", "nobody").delete()))
      yield* sdk(() =>
        db.transact(
          row(db.tx.processes, id())
            .create({ command: "x", seq: 1 })
            .link({ sandbox: lookup("name", "a") })
        )
      )
      const { sandboxes } = yield* sdk(() => db.query({ sandboxes: { processes: { $: { fields: ["command"] } } } }))
      assert.deepStrictEqual(
        sandboxes.map(({ name, processes, state }) => [name, state, processes.map(({ command }) => command)]),
        [["a", "old", ["x"]]]
      )
      yield* refused(400, "validation-failed", () =>
        db.transact(
          row(db.tx.processes, id())
            .create({ command: "y", seq: 1 })
            .link({ sandbox: lookup("name", "nobody") })
        )
      )
      yield* refused(400, "validation-failed", () =>
        db.transact(db.tx.sandboxes.lookup("name", "c").update({ name: "d", state: "new" }))
      )
      yield* sdk(() => db.transact(db.tx.sandboxes.lookup("name", "a").update({ name: "b" })))
      yield* refused(400, "validation-failed", () =>
        db.transact(db.tx.sandboxes.lookup("name", "b").create({ name: "b", state: "new" }))
      )
      assert.deepStrictEqual(
        (yield* sdk(() => db.query({ sandboxes: {} }))).sandboxes.map(({ name }) => name),
        ["b"]
      )
    })
  )

  it.effect("unlink of a lookup that finds nothing makes the row, like the server", () =>
    Effect.gen(function* () {
      const { emulator, loose } = yield* emulated({ schema: undefined })
      yield* sdk(() => loose.transact(row(loose.tx.goals, lookup("slug", "x")).unlink({ todos: id() })))
      assert.deepStrictEqual(
        emulator.query({ goals: {} }).goals?.map(({ slug }) => slug),
        ["x"]
      )
    })
  )

  it.effect("a unique value has one holder; null has any number", () =>
    Effect.gen(function* () {
      const { db, emulator, loose } = yield* emulated()
      yield* sdk(() => db.transact(row(db.tx.claims, id()).create({ key: "k:1" })))
      const { hint } = yield* refused(400, "record-not-unique", () =>
        db.transact([
          row(db.tx.sandboxes, id()).create({ name: "never", state: "new" }),
          row(db.tx.claims, id()).create({ key: "k:1" })
        ])
      )
      assert.deepInclude(hint, { "record-type": "triple", etype: "claims", label: "key", value: '"k:1"' })
      assert.deepStrictEqual(emulator.query({ sandboxes: {} }), { sandboxes: [] })
      yield* sdk(() => loose.transact([1, 2].map((n) => row(loose.tx.$users, id()).update({ email: null, n }))))
      assert.lengthOf(emulator.query({ $users: {} }).$users ?? [], 2)
    })
  )

  it.effect(
    "required attributes are looked for when all is written; an upsert does not bring back a part of a record",
    () =>
      Effect.gen(function* () {
        const { db, emulator, loose } = yield* emulated()
        const sandbox = id()
        const { hint } = yield* refused(400, "validation-failed", () =>
          db.transact(row(db.tx.sandboxes, sandbox).update({ name: "a" }))
        )
        assert.deepStrictEqual(at(hint, "records", 0, "missing"), ["sandboxes.state"])
        yield* sdk(() =>
          db.transact([
            row(db.tx.sandboxes, sandbox).update({ name: "a" }),
            row(db.tx.sandboxes, sandbox).update({ state: "new" })
          ])
        )
        yield* refused(400, "validation-failed", () =>
          db.transact(row(db.tx.processes, id()).create({ command: "x", seq: 1 }))
        )
        yield* refused(400, "validation-failed", () =>
          loose.transact(row(loose.tx.sandboxes, sandbox).update({ state: null }))
        )
        assert.lengthOf(emulator.query({ sandboxes: {} }).sandboxes ?? [], 1)
      })
  )

  it.effect("with a schema every missing attribute is told; without one attributes are invented", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated({ schema: undefined })
      const refusal = yield* refused(400, "validation-failed", () =>
        db.transact([
          row(db.tx.sandboxes, id()).create({ name: "a", state: "new" }),
          row(db.tx.processes, id()).create({ command: "x", seq: 1 }).link({ sandbox: id() })
        ])
      )
      assert.deepStrictEqual(at(refusal.hint, "errors", 0, "hint", "attributes"), [
        "sandboxes.id",
        "sandboxes.name",
        "sandboxes.state",
        "processes.id",
        "processes.command",
        "processes.seq",
        "processes.sandbox"
      ])
      emulator.push(schema)
      yield* sdk(() => db.transact(row(db.tx.sandboxes, id()).create({ name: "a", state: "new" })))
      const unknown = init({ ...emulator.config, schema, disableValidation: true })
      const { hint } = yield* refused(400, "validation-failed", () =>
        unknown.transact(row(unknown.tx.sandboxes, id()).merge({ nme: "b" }))
      )
      assert.deepStrictEqual(at(hint, "errors", 0, "hint", "attributes"), ["sandboxes.nme"])
    })
  )

  it.effect("an invented link leads to the namespace called like it", () =>
    Effect.gen(function* () {
      const { emulator, loose } = yield* emulated({ schema: undefined })
      const [a, b, c] = [id(), id(), id()]
      yield* sdk(() =>
        loose.transact([
          row(loose.tx.sandbox, b).update({ n: 1 }),
          row(loose.tx.sandboxes, c).update({ n: 2 }),
          row(loose.tx.procs, a).update({ command: "x" }).link({ sandbox: b }),
          row(loose.tx.procs, lookup("slug", "p")).update({ command: "y" })
        ])
      )
      assert.deepStrictEqual(emulator.query({ procs: { $: { where: { command: "x" } }, sandbox: {} } }), {
        procs: [{ id: a, command: "x", sandbox: [{ id: b, n: 1 }] }]
      })
      const unique = yield* refused(400, "record-not-unique", () =>
        loose.transact(row(loose.tx.procs, id()).update({ slug: "p" }))
      )
      assert.strictEqual(at(unique.hint, "label"), "slug")
    })
  )

  it.effect("values: types, the size of an index, NUL, surrogates, what looks like a UUID", () =>
    Effect.gen(function* () {
      const { emulator, loose } = yield* emulated()
      const sandbox = id()
      const update = (values: Record<string, unknown>) => () =>
        loose.transact(row(loose.tx.sandboxes, sandbox).update({ name: "a", state: "new", ...values }))
      const typed = yield* refused(400, "validation-failed", update({ version: "1" }))
      assert.include(typed.message, "sandboxes.version")
      yield* refused(400, "validation-failed", update({ seenAt: "no date" }))
      yield* sdk(update({ seenAt: "2026-01-02T03:04:05Z" }))
      yield* sdk(update({ name: "n".repeat(1_010) }))
      const large = yield* refused(400, "validation-failed", update({ name: "n".repeat(1_019) }))
      assert.isTrue(at(large.hint, "errors", 0, "hint", "value-too-large?"))
      for (const params of ["a\0b", { deep: ["\0"] }, { "k\0": 1 }]) {
        const nul = yield* refused(400, "validation-failed", update({ params }))
        assert.include(nul.message, "null bytes")
      }
      const upper = "ABCDEF00-0000-4000-8000-00000000000A"
      yield* sdk(update({ note: "\u{d83d}x\u{1f600}", params: { deep: [upper] } }))
      assert.deepInclude(emulator.query({ sandboxes: {} }).sandboxes?.[0], {
        note: "?x\u{1f600}",
        params: { deep: [upper.toLowerCase()] }
      })
      yield* sdk(update({ id: "ignored", params: { no: undefined, nan: Number.NaN } }))
      assert.deepStrictEqual(emulator.query({ sandboxes: {} }).sandboxes?.[0]?.params, { nan: null })
    })
  )

  it.effect("a link of one is overwritten; from its other side the value is unique", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const [a, b, c] = [id(), id(), id()]
      yield* sdk(() =>
        db.transact([a, b, c].map((sandbox, n) => row(db.tx.sandboxes, sandbox).create({ name: `${n}`, state: "new" })))
      )
      yield* sdk(() => db.transact(row(db.tx.sandboxes, a).link({ parent: b })))
      yield* sdk(() => db.transact(row(db.tx.sandboxes, a).link({ parent: c })))
      yield* refused(400, "record-not-unique", () => db.transact(row(db.tx.sandboxes, b).link({ parent: c })))
      const family = { sandboxes: { $: { where: { id: a }, fields: ["id"] as ["id"] }, parent: {}, child: {} } }
      assert.deepStrictEqual(at(yield* sdk(() => db.query(family)), "sandboxes", 0, "parent", "id"), c)
      assert.isNull(at(emulator.query(family), "sandboxes", 0, "child"))
      yield* sdk(() => db.transact(row(db.tx.sandboxes, c).unlink({ child: a })))
      assert.isNull(at(emulator.query(family), "sandboxes", 0, "parent"))
    })
  )

  it.effect("a link to nothing dangles, and its own end is taken for a record by a creation", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const [ghost, nobody] = [id(), id()]
      yield* sdk(() => db.transact(row(db.tx.sandboxes, ghost).link({ parent: nobody })))
      assert.deepStrictEqual(emulator.query({ sandboxes: {} }), { sandboxes: [] })
      yield* refused(400, "validation-failed", () =>
        db.transact(row(db.tx.sandboxes, ghost).create({ name: "a", state: "new" }))
      )
      yield* sdk(() => db.transact(row(db.tx.sandboxes, nobody).create({ name: "b", state: "new" })))
    })
  )

  it.effect("steps of another form are refused, with what was sent", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      for (const steps of [
        [["explode", "things", id(), {}]],
        [["update", "things", "no-uuid", {}]],
        [["update", "things", id(), 1]],
        ["update"],
        undefined
      ]) {
        const answer = yield* posted(emulator, "/admin/transact", { steps })
        assert.strictEqual(answer.status, 400)
        assert.strictEqual(at(answer.body, "type"), "validation-failed")
        assert.strictEqual(at(answer.body, "hint", "data-type"), "steps")
      }
      const failure = yield* failing(() => db.transact(row(db.tx.claims, "no-uuid").update({ key: "k" })))
      assert.strictEqual(failure.name, "TransactionValidationError")
    })
  )
})

describe("instantdb emulator: overlapping transactions", () => {
  const racing = Effect.fnUntraced(function* () {
    const all = yield* emulated()
    const sandbox = id()
    yield* sdk(() =>
      all.db.transact(
        row(all.db.tx.sandboxes, sandbox).create({ name: "a", state: "new", version: 1, params: { base: 0 } })
      )
    )
    const tx = row(all.db.tx.sandboxes, sandbox)
    const now = () => all.emulator.query({ sandboxes: { $: { where: { id: sandbox } } } }).sandboxes?.[0]
    return { ...all, sandbox, tx, now }
  })

  it.effect("two creations of one id both succeed, and the second overwrites", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* racing()
      const claim = id()
      emulator.overlap(2)
      yield* sdk(() => Promise.all(["x", "y"].map((key) => db.transact(row(db.tx.claims, claim).create({ key })))))
      assert.lengthOf(emulator.query({ claims: {} }).claims ?? [], 1)
    })
  )

  it.effect("one of two merges is lost; both strict updates win", () =>
    Effect.gen(function* () {
      const { db, emulator, now, tx } = yield* racing()
      emulator.overlap(2)
      yield* sdk(() => Promise.all(["x", "y"].map((key) => db.transact(tx.merge({ params: { [key]: 1 } })))))
      assert.strictEqual(Object.keys(Object(now()?.params)).length, 2)
      emulator.overlap(2)
      yield* sdk(() =>
        Promise.all(["x", "y"].map((state) => db.transact(tx.update({ state, version: 2 }, { upsert: false }))))
      )
      assert.include(["x", "y"], now()?.state)
      // Without an overlap both merges are there.
      yield* sdk(() => Promise.all(["p", "q"].map((key) => db.transact(tx.merge({ params: { [key]: 1 } })))))
      assert.strictEqual(Object.keys(Object(now()?.params)).length, 4)
    })
  )

  it.effect("a deletion takes what was written meanwhile; what only it read is gone or stays", () =>
    Effect.gen(function* () {
      const { db, emulator, now, tx } = yield* racing()
      emulator.overlap(2)
      yield* sdk(() =>
        Promise.all([db.transact(tx.update({ state: "old" }, { upsert: false })), db.transact(tx.delete())])
      )
      assert.isUndefined(now())
      yield* sdk(() => db.transact(tx.create({ name: "a", state: "new" })))
    })
  )

  it.effect("of two that invent one attribute the second is refused", () =>
    Effect.gen(function* () {
      const { emulator, loose } = yield* emulated()
      emulator.overlap(2)
      const outcomes = yield* sdk(() =>
        Promise.allSettled([1, 2].map((n) => loose.transact(row(loose.tx.things, id()).update({ n }))))
      )
      assert.deepStrictEqual(outcomes.map(({ status }) => status).toSorted(), ["fulfilled", "rejected"])
      assert.lengthOf(emulator.query({ things: {} }).things ?? [], 1)
    })
  )

  it.effect("of claims to one unique key exactly one wins, and the others change nothing", () =>
    Effect.gen(function* () {
      const { db, emulator, now, sandbox, tx } = yield* racing()
      emulator.overlap(3)
      const outcomes = yield* sdk(() =>
        Promise.allSettled(
          ["x", "y", "z"].map((state) =>
            db.transact([
              row(db.tx.claims, id()).create({ key: `${sandbox}:2` }),
              tx.update({ state, version: 2, params: { [state]: 1 } }, { upsert: false })
            ])
          )
        )
      )
      const won = outcomes.flatMap(({ status }, index) => (status === "fulfilled" ? [["x", "y", "z"][index]] : []))
      assert.lengthOf(won, 1)
      assert.deepInclude(now(), { state: won[0], version: 2, params: { [String(won[0])]: 1 } })
      for (const outcome of outcomes) {
        if (outcome.status === "fulfilled") continue
        assert.deepStrictEqual(
          [at(outcome.reason, "status"), at(outcome.reason, "body", "type"), at(outcome.reason, "hint", "etype")],
          [400, "record-not-unique", "claims"]
        )
      }
      assert.lengthOf(emulator.query({ claims: {} }).claims ?? [], 1)
    })
  )
})

describe("instantdb emulator: queries", () => {
  const filled = Effect.fnUntraced(function* (count = 5) {
    const all = yield* emulated()
    const sandbox = id()
    yield* sdk(() => all.db.transact(row(all.db.tx.sandboxes, sandbox).create({ name: "a", state: "new" })))
    yield* sdk(() =>
      all.db.transact(
        Array.from({ length: count }, (_, n) =>
          row(all.db.tx.processes, id())
            .create({ command: `c${n}`, seq: n })
            .link({ sandbox })
        )
      )
    )
    const commands = (...conditions: ReadonlyArray<object>) =>
      sdk(() => untyped(all.loose, { processes: { $: { where: { and: conditions }, order: { seq: "asc" } } } })).pipe(
        Effect.map(({ processes }) => (processes ?? []).map(({ command }) => command))
      )
    return { ...all, sandbox, commands }
  })

  it.effect("conditions, as the vendor's engine has them", () =>
    Effect.gen(function* () {
      const { commands, db, loose, sandbox } = yield* filled()
      assert.deepStrictEqual(yield* commands({ seq: { $gt: 1 } }, { seq: { $lte: 3 } }), ["c2", "c3"])
      assert.deepStrictEqual(yield* commands({ command: { $in: ["c0", "c4", "x"] } }), ["c0", "c4"])
      assert.deepStrictEqual(yield* commands({ command: { $ne: "c0" } }, { seq: { $lt: 2 } }), ["c1"])
      assert.deepStrictEqual(yield* commands({ or: [{ seq: 1 }, { command: "c3" }] }), ["c1", "c3"])
      assert.deepStrictEqual(yield* commands({ sandbox }, { seq: { $gte: 4 } }), ["c4"])
      assert.deepStrictEqual(yield* commands({ "sandbox.name": "a" }, { seq: 2 }), ["c2"])
      assert.deepStrictEqual(yield* commands({ "sandbox.name": "b" }), [])
      const named = yield* sdk(() =>
        db.query({ sandboxes: { $: { where: { name: "a", version: { $isNull: true }, state: { $like: "n%" } } } } })
      )
      assert.lengthOf(named.sandboxes, 1)
      assert.deepStrictEqual(yield* sdk(() => loose.query({ nothing: { $: { where: { x: 1 } } } })), { nothing: [] })
    })
  )

  it.effect("what the engine is given is enough: it answers the same to everything that there is", () =>
    Effect.gen(function* () {
      const { catalog, data, queries } = new App({
        credentials: { appId: id(), adminToken: id() },
        now: () => 0,
        echoToken: false
      })
      catalog.push(schema)
      const put = (etype: string, values: Readonly<Record<string, unknown>>) => {
        for (const [label, value] of Object.entries(values)) {
          const attr = catalog.forward(etype, label)
          if (attr !== undefined) data.put(String(values.id), attr, value, 0)
        }
      }
      const ids = Array.from({ length: 12 }, () => id())
      for (const [n, sandbox] of ids.entries()) {
        put("sandboxes", { id: sandbox, name: `s${n}`, state: n % 3 === 0 ? "new" : "old" })
        if (n % 2 === 0) put("sandboxes", { id: sandbox, version: n, parent: ids[(n + 3) % 12] })
        if (n < 8) put("processes", { id: id(), command: "x", seq: n, sandbox: ids[n % 4] })
      }
      // A link to nothing.
      put("processes", { id: id(), command: "x", seq: 9, sandbox: id() })
      const [a] = ids
      const everything = catalog.all.flatMap((attr) => [...data.ofAttr(attr)])
      for (const query of [
        { sandboxes: { $: { where: { name: "s3" } }, processes: {}, parent: { parent: {}, child: {} } } },
        { sandboxes: { $: { where: { state: "new", version: { $gt: 2 } } } } },
        {
          sandboxes: { $: { where: { and: [{ state: "old" }, { version: { $lte: 8 } }, { version: { $gte: 2 } }] } } }
        },
        { sandboxes: { $: { where: { or: [{ name: "s1" }, { version: 4 }], state: "old" } } } },
        { sandboxes: { $: { where: { version: { $isNull: true } } } } },
        { sandboxes: { $: { where: { child: { $isNull: true } } } } },
        { sandboxes: { $: { where: { "parent.parent.name": "s6" } } } },
        { sandboxes: { $: { where: { parent: a } }, child: { $: { where: { state: "old" } } } } },
        { sandboxes: { $: { where: { "processes.seq": { $gt: 5 } } } } },
        { sandboxes: { $: { where: { state: { $ne: "old" }, "parent.state": { $ne: "new" } } } } },
        { processes: { $: { where: { "sandbox.id": a, seq: { $gte: 4 } } }, sandbox: {} } },
        { processes: { $: { where: { sandbox: a }, order: { seq: "desc" } } } },
        { processes: { $: { where: { seq: 9 } }, sandbox: {} }, claims: {} }
      ]) {
        assert.deepStrictEqual<unknown>(
          queries.run(query, false).data,
          engine(catalog, false).completeIsomorphic(query, everything, [...catalog.all]).data,
          JSON.stringify(query)
        )
      }
    })
  )

  it.effect("only the first operator of an object counts", () =>
    Effect.gen(function* () {
      const { commands } = yield* filled()
      assert.deepStrictEqual(yield* commands({ seq: { $gt: 2, $lt: 4 } }), ["c3", "c4"])
      assert.deepStrictEqual(yield* commands({ seq: { $lt: 2, $gt: 0 } }), ["c0", "c1"])
    })
  )

  it.effect("comparisons and orders want an index and a type; null is no value", () =>
    Effect.gen(function* () {
      const { emulator } = yield* filled()
      for (const $ of [
        { where: { command: { $gt: "a" } } },
        { where: { command: { $like: "c%" } } },
        { where: { seq: { $gt: "1" } } },
        { where: { seq: { $near: 1 } } },
        { where: { seq: null } },
        { order: { command: "asc" } }
      ]) {
        const { hint } = yield* refused(400, "validation-failed", () =>
          untyped(init({ ...emulator.config, disableValidation: true }), { processes: { $ } })
        )
        assert.strictEqual(at(hint, "data-type"), "query")
      }
    })
  )

  it.effect("links of one are objects with a schema and lists without; a nested limit is ignored", () =>
    Effect.gen(function* () {
      const { db, loose, sandbox } = yield* filled()
      const query = { processes: { $: { where: { seq: 0 } }, sandbox: {} } }
      assert.strictEqual(at(yield* sdk(() => db.query(query)), "processes", 0, "sandbox", "id"), sandbox)
      assert.strictEqual(at(yield* sdk(() => loose.query(query)), "processes", 0, "sandbox", 0, "id"), sandbox)
      const nested = { sandboxes: { processes: { $: { limit: 2, order: { seq: "desc" as const } } } } }
      const all = yield* sdk(() => db.query(nested))
      assert.deepStrictEqual(
        all.sandboxes[0]?.processes.map(({ seq }) => seq),
        [4, 3, 2, 1, 0]
      )
    })
  )

  it.effect("pages: limit, first, last and offset; there is no page info and no count", () =>
    Effect.gen(function* () {
      const { db } = yield* filled()
      const seqs = (page: { limit?: number; first?: number; last?: number; offset?: number }, order: "asc" | "desc") =>
        sdk(() => db.query({ processes: { $: { ...page, order: { seq: order } } } })).pipe(
          Effect.map((answer) => {
            assert.deepStrictEqual(Object.keys(answer), ["processes"])
            return answer.processes.map(({ seq }) => seq)
          })
        )
      assert.deepStrictEqual(yield* seqs({ limit: 2 }, "asc"), [0, 1])
      assert.deepStrictEqual(yield* seqs({ first: 2, offset: 1 }, "desc"), [3, 2])
      assert.deepStrictEqual(yield* seqs({ last: 2 }, "asc"), [3, 4])
      assert.deepStrictEqual(yield* seqs({ offset: 4 }, "asc"), [4])
      assert.deepStrictEqual(yield* sdk(() => untyped(db, { processes: { $: { aggregate: "count" } } })), {})
    })
  )

  it.effect(
    "without the attribute of the order among the fields a page has the right rows in the order of their ids",
    () =>
      Effect.gen(function* () {
        const { db, emulator } = yield* emulated()
        const [a = "", b = "", c = ""] = ordered("1", "2", "3")
        yield* sdk(() =>
          db.transact(
            [c, a, b].map((sandbox, version) =>
              row(db.tx.sandboxes, sandbox).create({ name: sandbox, state: "new", version })
            )
          )
        )
        const ids = (fields: Array<"id" | "version">) =>
          sdk(() => db.query({ sandboxes: { $: { fields, limit: 2, order: { version: "asc" } } } })).pipe(
            Effect.map(({ sandboxes }) => sandboxes.map(({ id }) => id))
          )
        assert.deepStrictEqual(yield* ids(["id", "version"]), [c, a])
        assert.deepStrictEqual(yield* ids(["id"]), [a, c])
        assert.strictEqual(emulator.requests.count("query"), 2)
      })
  )

  it.effect("the default order is by the millisecond of the creation, then by id", () =>
    Effect.gen(function* () {
      const { db } = yield* emulated()
      const [a = "", b = "", c = "", d = ""] = ordered("1", "2", "3", "4")
      const create = (...all: ReadonlyArray<string>) =>
        sdk(() => db.transact(all.map((claim) => row(db.tx.claims, claim).create({ key: claim }))))
      yield* create(d, b)
      yield* TestClock.adjust(1)
      yield* create(c)
      yield* TestClock.adjust(1)
      yield* create(a)
      yield* sdk(() => db.transact(row(db.tx.claims, b).update({ key: "again" })))
      const ids = (order?: "asc" | "desc") =>
        sdk(() => db.query({ claims: { $: order === undefined ? {} : { order: { serverCreatedAt: order } } } })).pipe(
          Effect.map(({ claims }) => claims.map(({ id }) => id))
        )
      assert.deepStrictEqual(yield* ids(), [b, d, c, a])
      assert.deepStrictEqual(yield* ids("desc"), [a, c, d, b])
    })
  )
})

describe("instantdb emulator: who is admitted", () => {
  it.effect("a wrong token is 400, and the hint repeats it unless it is told not to", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const token = id()
      const wrong = init({ ...emulator.config, adminToken: token })
      const { hint } = yield* refused(400, "record-not-found", () => wrong.query({ sandboxes: {} }))
      assert.deepStrictEqual(hint, {
        "record-type": "app-admin-token",
        args: [{ "app-id": emulator.credentials.appId, token }]
      })
      const malformed = init({ ...emulator.config, adminToken: "planted-secret" })
      const failure = yield* refused(400, "param-malformed", () => malformed.transact([]))
      assert.include(JSON.stringify(failure.hint), "planted-secret")
      const quiet = yield* emulated({ echoToken: false })
      const silent = yield* refused(400, "record-not-found", () =>
        init({ ...quiet.emulator.config, adminToken: token }).query({ sandboxes: {} })
      )
      assert.notInclude(JSON.stringify(silent.error), token)
    })
  )

  it.effect("an unknown app, a missing token, an unknown route", () =>
    Effect.gen(function* () {
      const { emulator } = yield* emulated()
      const other = init({ ...emulator.config, appId: id() })
      yield* refused(400, "record-not-found", () => other.query({ sandboxes: {} }))
      const { adminToken: _, ...config } = emulator.config
      const failure = yield* failing(() => init(config).query({ sandboxes: {} }))
      assert.strictEqual(failure.name, "Error")
      const bare = yield* posted(emulator, "/admin/query", { query: {} }, { authorization: undefined })
      assert.deepStrictEqual([bare.status, at(bare.body, "type")], [400, "param-missing"])
      const unknown = yield* posted(emulator, "/admin/nothing", {})
      assert.deepStrictEqual([unknown.status, at(unknown.body, "type")], [404, undefined])
      assert.strictEqual(emulator.requests.count("unknown"), 1)
    })
  )

  it.effect("guests and users are admitted without the admin's token", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const { adminToken: _, ...config } = emulator.config
      yield* sdk(() => init(config).asUser({ guest: true }).query({ claims: {} }))
      const token = yield* sdk(() => db.auth.createToken({ email: "a@b.c" }))
      yield* sdk(() => init(config).asUser({ token }).query({ claims: {} }))
      yield* refused(400, "record-not-found", () => init(config).asUser({ token: id() }).query({ claims: {} }))
    })
  )

  it.effect("a read-only app refuses transactions, a disabled one everything", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      const write = () => db.transact(row(db.tx.claims, id()).create({ key: "k" }))
      emulator.setState("read-only")
      yield* refused(400, "app-read-only", write)
      yield* sdk(() => db.query({ claims: {} }))
      emulator.setState("disabled")
      yield* refused(400, "app-disabled", write)
      yield* refused(400, "app-disabled", () => db.query({ claims: {} }))
      emulator.setState("open")
      yield* sdk(write)
    })
  )

  it.effect("requests are on record, with what was in them", () =>
    Effect.gen(function* () {
      const { db, emulator } = yield* emulated()
      yield* refused(400, "validation-failed", () => db.transact(row(db.tx.claims, id()).create({ key: "planted\0" })))
      yield* sdk(() => db.query({ claims: {} }))
      assert.deepStrictEqual(
        emulator.requests.all.map(({ endpoint, executed, status }) => [endpoint, executed, status]),
        [
          ["transact", true, 400],
          ["query", true, 200]
        ]
      )
      assert.deepStrictEqual(emulator.requests.find("planted"), ["transact body"])
      assert.deepStrictEqual(emulator.requests.find(emulator.credentials.adminToken), [])
    })
  )

  it.live("nothing listens and nothing is open when the scope is closed", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const emulator = yield* make().pipe(Scope.provide(scope))
      const db = init(emulator.config)
      yield* sdk(() => db.query({ things: {} }))
      const subscription = yield* Effect.acquireRelease(
        Effect.sync(() => db.subscribeQuery({ things: {} }, () => {})),
        (subscription) => Effect.sync(() => subscription.close())
      )
      yield* spin(() => emulator.connections() === 1)
      emulator.faults.inject("query", F.silent({ executed: true }))
      const open = yield* Effect.forkChild(failing(() => db.query({ things: {} })))
      yield* spin(() => emulator.faults.pending === 0)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(open)).name, "TypeError")
      assert.strictEqual(emulator.connections(), 0)
      subscription.close()
      const failure = yield* failing(() => db.query({ things: {} }))
      assert.strictEqual(at(failure.error, "cause", "code"), "ECONNREFUSED")
    })
  )
})
