/** Every fault of the emulator, and what the vendor's own SDK makes of it: the traps that a store has to live with. */
import { assert, describe, it } from "@effect/vitest"
import { id } from "@instantdb/admin"
import { Effect, Exit, Fiber, Scope } from "effect"
import * as F from "./instantdb/faults.ts"
import { at, emulated, failing, refused, row, sdk, spin } from "./instantdbSupport.ts"

const fresh = Effect.fnUntraced(function* () {
  const all = yield* emulated()
  const { db, emulator } = all
  const claims = () => (emulator.query({ claims: {} }).claims ?? []).map(({ key }) => key)
  const claim = (key: string, claimId = id()) => db.transact(row(db.tx.claims, claimId).create({ key }))
  return { ...all, faults: emulator.faults, requests: emulator.requests, claims, claim }
})

describe("instantdb emulator: lost requests and replies", () => {
  it.effect("cut before it was executed, and after: the SDK says the same and repeats nothing", () =>
    Effect.gen(function* () {
      const { claim, claims, faults, requests } = yield* fresh()
      faults.inject("transact", F.resetBefore)
      const before = yield* failing(() => claim("before"))
      faults.inject("transact", F.resetAfter)
      const after = yield* failing(() => claim("after"))
      for (const { error, name, status } of [before, after]) {
        assert.deepStrictEqual([name, status, at(error, "cause", "code")], ["TypeError", undefined, "UND_ERR_SOCKET"])
      }
      assert.deepStrictEqual(claims(), ["after"])
      assert.deepStrictEqual(
        requests.all.map(({ executed, status }) => [executed, status]),
        [
          [false, undefined],
          [true, undefined]
        ]
      )
      assert.strictEqual(faults.pending, 0)
    })
  )

  it.effect("delivered twice: a creation succeeds and fails, a merge is merged again", () =>
    Effect.gen(function* () {
      const { claim, claims, faults } = yield* fresh()
      faults.inject("transact", F.duplicated)
      const claimId = id()
      yield* failing(() => claim("twice", claimId))
      assert.deepStrictEqual(claims(), ["twice"])
      const again = yield* refused(400, "validation-failed", () => claim("twice", claimId))
      assert.include(again.message, "Creating entities that exist")
    })
  )

  it.effect("answers of proxies and of the server, with the request executed behind them", () =>
    Effect.gen(function* () {
      const { claim, claims, faults } = yield* fresh()
      faults.inject("transact", F.serverError(502, { executed: true }))
      yield* refused(502, "unknown", () => claim("a"))
      faults.inject("transact", F.html(504, { executed: true }))
      const html = yield* refused(504, undefined, () => claim("b"))
      assert.include(html.message, "<!doctype html>")
      faults.inject("transact", F.otherSuccess)
      yield* refused(201, undefined, () => claim("c"))
      faults.inject("transact", F.invalidJson)
      assert.strictEqual((yield* failing(() => claim("d"))).name, "SyntaxError")
      faults.inject("transact", F.html(200))
      assert.strictEqual((yield* failing(() => claim("e"))).name, "SyntaxError")
      faults.inject("transact", F.torn(3))
      assert.strictEqual((yield* failing(() => claim("f"))).name, "TypeError")
      assert.deepStrictEqual(claims().toSorted(), ["a", "b", "c", "d", "f"])
    })
  )
})

describe("instantdb emulator: refusals", () => {
  it.effect("rate limits, the server's and the app's, and the time limit of a statement", () =>
    Effect.gen(function* () {
      const { claim, claims, faults } = yield* fresh()
      faults.inject("transact", F.rateLimited(7))
      const own = yield* refused(429, "rate-limited", () => claim("a"))
      assert.strictEqual(at(own.hint, "retry-after"), 7)
      faults.inject("transact", F.rateLimited())
      assert.isNull((yield* refused(429, "rate-limited", () => claim("a"))).hint)
      faults.inject("transact", F.timeout)
      assert.isNull((yield* refused(429, "timeout", () => claim("a"))).hint)
      assert.deepStrictEqual(claims(), [])
    })
  )

  it.effect("deadlocks, server errors, a body of null, any other answer", () =>
    Effect.gen(function* () {
      const { claim, claims, db, faults } = yield* fresh()
      faults.inject("transact", F.deadlock)
      const deadlock = yield* refused(500, "sql-exception", () => claim("a"))
      assert.isString(at(deadlock.hint, "debug-uri"))
      faults.inject("query", F.serverError())
      yield* refused(500, "unknown", () => db.query({ claims: {} }))
      faults.inject("query", F.nullBody())
      yield* refused(503, undefined, () => db.query({ claims: {} }))
      faults.inject("query", F.raw(404, '{"message":"gone"}'))
      assert.strictEqual((yield* refused(404, undefined, () => db.query({ claims: {} }))).message, "gone")
      faults.inject("query", F.status(400, "app-creation-disabled", { message: "sunset" }))
      yield* refused(400, "app-creation-disabled", () => db.query({ claims: {} }))
      assert.deepStrictEqual(claims(), [])
    })
  )

  it.effect("any error may repeat the token, in its message and its hint", () =>
    Effect.gen(function* () {
      const { claim, emulator, faults } = yield* fresh()
      faults.inject("transact", F.status(400, "validation-failed", { message: "no", hint: { x: 1 }, echoToken: true }))
      const { hint, message } = yield* refused(400, "validation-failed", () => claim("a"))
      const { adminToken } = emulator.credentials
      assert.include(message, adminToken)
      assert.deepStrictEqual(hint, { x: 1, args: [{ token: adminToken }], "original-input": adminToken })
    })
  )
})

describe("instantdb emulator: held requests", () => {
  it.effect("a gate opens when the test says so, before or after the execution", () =>
    Effect.gen(function* () {
      const { claim, claims, faults, requests } = yield* fresh()
      const [before, after] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
      faults.inject("transact", F.gate({ before: before.promise, after: after.promise }))
      const running = yield* Effect.forkChild(sdk(() => claim("a")))
      yield* spin(() => requests.count("transact") === 1)
      assert.deepStrictEqual(claims(), [])
      before.resolve()
      yield* spin(() => claims().length === 1)
      assert.strictEqual(requests.of("transact")[0]?.status, undefined)
      after.resolve()
      assert.deepStrictEqual(yield* Fiber.join(running), { "tx-id": 1 })
    })
  )

  it.effect("without an answer the SDK waits for ever; only queries can be given up", () =>
    Effect.gen(function* () {
      const { claim, claims, db, faults, requests } = yield* fresh()
      faults.inject("transact", F.silent({ executed: true }))
      const writing = yield* Effect.forkChild(sdk(() => claim("a")))
      yield* spin(() => claims().length === 1)
      assert.isUndefined(writing.pollUnsafe())
      faults.inject("query", F.silent({ executed: false }))
      const scope = yield* Scope.make()
      const signal = yield* Effect.abortSignal.pipe(Scope.provide(scope))
      const asking = yield* Effect.forkChild(failing(() => db.query({ claims: {} }, { fetchOpts: { signal } })))
      yield* spin(() => requests.count("query") === 1)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(asking)).name, "AbortError")
      yield* Fiber.interrupt(writing)
    })
  )

  it.live("a connection for events that opens and is silent", () =>
    Effect.gen(function* () {
      const { db, emulator, faults, requests } = yield* fresh()
      faults.inject("subscribe", F.mute)
      const subscription = yield* Effect.acquireRelease(
        Effect.sync(() => db.subscribeQuery({ claims: {} }, () => assert.fail("nothing comes"))),
        (subscription) => Effect.sync(() => subscription.close())
      )
      yield* spin(() => subscription.readyState === "open")
      assert.strictEqual(requests.of("subscribe")[0]?.status, 200)
      assert.strictEqual(emulator.connections(), 0)
    })
  )

  it.effect("executed after the client has left", () =>
    Effect.gen(function* () {
      const { db, faults, requests } = yield* fresh()
      faults.inject("query", F.late)
      const scope = yield* Scope.make()
      const signal = yield* Effect.abortSignal.pipe(Scope.provide(scope))
      const asking = yield* Effect.forkChild(failing(() => db.query({ claims: {} }, { fetchOpts: { signal } })))
      yield* spin(() => requests.count("query") === 1)
      assert.isFalse(requests.all[0]?.executed)
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(asking)
      yield* spin(() => requests.all[0]?.executed === true)
    })
  )

  it.effect("transactions that overlap wait for each other, and a fault may meet one of them", () =>
    Effect.gen(function* () {
      const { claim, claims, emulator, faults, requests } = yield* fresh()
      emulator.overlap(2)
      const first = yield* Effect.forkChild(sdk(() => claim("a")))
      yield* spin(() => requests.count("transact") === 1)
      assert.isUndefined(first.pollUnsafe())
      faults.inject("transact", F.resetAfter)
      yield* failing(() => claim("b"))
      yield* Fiber.join(first)
      assert.deepStrictEqual(claims().toSorted(), ["a", "b"])
    })
  )
})

describe("instantdb emulator: scripts", () => {
  it.effect("a fault meets so many requests, after so many others, of this content; or by the test's own choice", () =>
    Effect.gen(function* () {
      const { claim, claims, faults } = yield* fresh()
      faults.inject("transact", F.deadlock, {
        skip: 1,
        times: 2,
        when: ({ json }) => JSON.stringify(json).includes("bad")
      })
      faults.inject("*", F.rateLimited(), { when: ({ json }) => JSON.stringify(json).includes("worse") })
      yield* sdk(() => claim("good"))
      yield* sdk(() => claim("bad 1"))
      yield* refused(500, "sql-exception", () => claim("bad 2"))
      yield* sdk(() => claim("good 2"))
      assert.strictEqual(faults.pending, 2)
      yield* refused(500, "sql-exception", () => claim("bad 3"))
      yield* sdk(() => claim("bad 4"))
      yield* refused(429, "rate-limited", () => claim("worse"))
      let asked = 0
      faults.choose((endpoint) => (endpoint === "transact" && ++asked % 2 === 1 ? F.serverError() : undefined))
      yield* refused(500, "unknown", () => claim("x"))
      yield* sdk(() => claim("y"))
      faults.clear()
      yield* sdk(() => claim("z"))
      assert.deepStrictEqual(claims().toSorted(), ["bad 1", "bad 4", "good", "good 2", "y", "z"])
    })
  )

  it.effect("a transaction of the emulator itself is no request and meets no fault", () =>
    Effect.gen(function* () {
      const { claims, emulator, faults } = yield* fresh()
      faults.inject("*", F.deadlock, { times: Number.POSITIVE_INFINITY })
      assert.strictEqual(emulator.transact([["create", "claims", id(), { key: "a" }]]), 1)
      assert.throws(() => emulator.transact([["create", "claims", id(), { key: "a" }]]), /unique/)
      assert.deepStrictEqual(claims(), ["a"])
      assert.strictEqual(emulator.requests.count(), 0)
    })
  )
})
