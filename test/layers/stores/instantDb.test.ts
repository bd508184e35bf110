/**
 * The suites of stores and logs, over InstantDB's real SDK and an emulator of its server; and how the fibers of one service share the
 * way to it.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { inTurn, joined } from "../../../src/layers/stores/instantdb/sharing.ts"
import * as LogSuite from "../../../src/testing/LogSuite.ts"
import * as StoreSuite from "../../../src/testing/StoreSuite.ts"
import { full } from "../../support/full.ts"
import { instance, store } from "./instantDbSupport.ts"
import { plant } from "./support.ts"

StoreSuite.suite("InstantDB", store(), {
  plant,
  otherNamespace: instance({ namespace: "another" }),
  increments: full ? 200 : 40
})
LogSuite.suite("InstantDB", store())

describe("equal reads", () => {
  it.effect("of the same moment are asked once, and each gets its own", () =>
    Effect.gen(function* () {
      const share = joined((value: Array<number>) => [...value])
      let asked = 0
      const ask = Effect.sync(() => [++asked])
      const results = yield* Effect.all([share("a", ask), share("a", ask), share("b", ask), share("a", ask)], {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(results, [[1], [1], [2], [1]])
      assert.strictEqual(new Set(results).size, 4)
      assert.deepStrictEqual(yield* share("a", ask), [3])
    })
  )

  it.effect("are not joined once they are on their way, because they may miss what happened since", () =>
    Effect.gen(function* () {
      const share = joined((value: number) => value)
      const sent = yield* Deferred.make<void>()
      const answer = yield* Deferred.make<number>()
      const first = yield* Effect.forkChild(
        share("a", Effect.andThen(Deferred.succeed(sent, undefined), Deferred.await(answer)))
      )
      yield* Deferred.await(sent)
      assert.strictEqual(yield* share("a", Effect.succeed(2)), 2)
      yield* Deferred.succeed(answer, 1)
      assert.strictEqual(yield* Fiber.join(first), 1)
    })
  )

  it.effect("outlive the first that asked, but not the last", () =>
    Effect.gen(function* () {
      const share = joined((value: number) => value)
      const answer = yield* Deferred.make<number>()
      const cut = yield* Deferred.make<void>()
      const ask = Deferred.await(answer)
      const [first, second] = yield* Effect.forEach([1, 2], () =>
        Effect.forkChild(share("a", ask), { startImmediately: true })
      )
      if (first === undefined || second === undefined) return assert.fail("no fibers")
      yield* Fiber.interrupt(first)
      yield* Deferred.succeed(answer, 1)
      assert.strictEqual(yield* Fiber.join(second), 1)
      const sent = yield* Deferred.make<void>()
      const never = Deferred.succeed(sent, undefined).pipe(
        Effect.andThen(Effect.never),
        Effect.onInterrupt(() => Deferred.succeed(cut, undefined))
      )
      const alone = yield* Effect.forkChild(share("b", never))
      yield* Deferred.await(sent)
      yield* Fiber.interrupt(alone)
      yield* Deferred.await(cut)
    })
  )

  it.effect("share a failure", () =>
    Effect.gen(function* () {
      const share = joined<number, string>((value) => value)
      const results = yield* Effect.all(
        [1, 2].map(() => Effect.flip(share("a", Effect.fail("no")))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(results, ["no", "no"])
    })
  )
})

describe("writes of one record", () => {
  it.effect("take turns, those of others do not wait", () =>
    Effect.gen(function* () {
      const turn = inTurn(Duration.seconds(1))
      const order: Array<string> = []
      const gate = yield* Deferred.make<void>()
      const late = () => "late"
      const first = yield* Effect.forkChild(
        turn(
          "a",
          Effect.andThen(
            Deferred.await(gate),
            Effect.sync(() => order.push("first"))
          ),
          late
        ),
        { startImmediately: true }
      )
      const second = yield* Effect.forkChild(
        turn(
          "a",
          Effect.sync(() => order.push("second")),
          late
        ),
        { startImmediately: true }
      )
      yield* turn(
        "b",
        Effect.sync(() => order.push("other")),
        late
      )
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      assert.deepStrictEqual(order, ["other", "first", "second"])
    })
  )

  it.effect("have a deadline for the wait too, and those behind go on", () =>
    Effect.gen(function* () {
      const turn = inTurn(Duration.seconds(1))
      const late = (begun: boolean) => (begun ? "begun" : "waiting")
      const stuck = yield* Effect.forkChild(Effect.flip(turn("a", Effect.never, late)), { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      const waits = yield* Effect.forkChild(turn("a", Effect.succeed("done"), late), { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* Fiber.join(stuck), "begun")
      assert.strictEqual(yield* Fiber.join(waits), "done")
      const holder = yield* Effect.forkChild(turn("b", Effect.never, late), { startImmediately: true })
      const behind = yield* Effect.forkChild(Effect.flip(turn("b", Effect.never, late)), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Effect.flip(Fiber.join(holder)), "begun")
      assert.include(["begun", "waiting"], yield* Fiber.join(behind))
    })
  )
})
