/** The platform suite: how a program ends, by itself, by a signal, with its Scope. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as PlatformError from "effect/PlatformError"
import * as ChildProcess from "effect/process/ChildProcess"
import type { ChildProcessHandle } from "effect/process/ChildProcessSpawner"
import * as Scope from "effect/Scope"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"

/** A child in the background; prints the pids of both. */
const family = `sleep 300 & echo "$! $$"; wait`

/** The pids that a script prints first. */
const pidsOf = (handle: ChildProcessHandle) =>
  Effect.gen(function* () {
    const next = yield* P.lines(handle.stdout)
    return (yield* next).split(" ")
  })

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options, { concurrent: true })

  /** Asserts a death by that signal, as the platform tells it: one that was sent by the handle may be known in any case. */
  const assertKilled = (exitCode: ChildProcessHandle["exitCode"], signal: number) =>
    options.signalsObservable
      ? P.fails(exitCode, "Unknown")
      : Effect.match(exitCode, {
          onSuccess: (code) => assert.strictEqual(code, 128 + signal),
          onFailure: (error) => assert.strictEqual(error.reason._tag, "Unknown")
        })

  registerCodes(test)
  registerKill(test, options, assertKilled)
  if (options.realProcesses) registerGroups(test, options, assertKilled)
}

type AssertKilled = (
  exitCode: ChildProcessHandle["exitCode"],
  signal: number
) => Effect.Effect<void, PlatformError.PlatformError>

const registerCodes = (test: P.Test): void => {
  test("exit codes are values, as often as they are asked for", ({ spawner }) =>
    Effect.gen(function* () {
      for (const code of [0, 1, 2, 42, 126, 127, 128, 143, 255]) {
        assert.strictEqual(yield* spawner.exitCode(P.sh(`exit ${code}`)), code)
      }
      const handle = yield* P.sh("exit 3")
      const codes = yield* Effect.all([handle.exitCode, handle.exitCode], { concurrency: "unbounded" })
      assert.deepStrictEqual([...codes, yield* handle.exitCode], [3, 3, 3])
    }))

  test("isRunning until it has ended", ({ at, fs }) =>
    Effect.gen(function* () {
      const handle = yield* P.sh(`until [ -e "$1" ]; do sleep 0.02; done`, [at("go")])
      assert.isTrue(yield* handle.isRunning)
      yield* fs.writeFileString(at("go"), "")
      yield* handle.exitCode
      assert.isFalse(yield* handle.isRunning)
    }))

  test("many at once do not disturb each other", ({ spawner }) =>
    Effect.gen(function* () {
      const numbers = Array.from({ length: 12 }, (_, index) => index)
      const texts = yield* Effect.forEach(numbers, (number) => spawner.string(P.sh("echo $1", [String(number)])), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        texts,
        numbers.map((number) => `${number}\n`)
      )
    }))
}

const registerKill = (test: P.Test, options: Options, assertKilled: AssertKilled): void => {
  test("kill ends it, and waits for that", () =>
    Effect.gen(function* () {
      const handle = yield* ChildProcess.make("sleep", ["300"])
      yield* handle.kill()
      assert.isFalse(yield* handle.isRunning)
      yield* assertKilled(handle.exitCode, 15)
      yield* assertKilled(handle.exitCode, 15)
    }))

  test("kill with another signal", () =>
    Effect.gen(function* () {
      for (const [killSignal, number] of [
        ["SIGKILL", 9],
        ["SIGINT", 2],
        ["SIGHUP", 1]
      ] as const) {
        const handle = yield* ChildProcess.make("sleep", ["300"])
        yield* handle.kill({ killSignal })
        yield* assertKilled(handle.exitCode, number)
      }
    }))

  test("kill of what has ended does nothing, or says so, and does not wait", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh("exit 3")
      yield* handle.exitCode
      assert.include(["success", "Unknown"], yield* P.outcome(handle.kill()))
      assert.strictEqual(yield* handle.exitCode, 3)
    }))

  test("the end of the Scope ends it", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const handle = yield* Scope.provide(ChildProcess.make("sleep", ["300"]), scope)
      yield* Scope.close(scope, Exit.void)
      assert.isFalse(yield* handle.isRunning)
      yield* assertKilled(handle.exitCode, 15)
    }))

  if (!options.realProcesses) return

  test("a death by a signal of its own", ({ spawner }) =>
    Effect.gen(function* () {
      yield* assertKilled(spawner.exitCode(P.sh("kill -KILL $$")), 9)
      yield* assertKilled(spawner.exitCode(P.sh("kill -TERM $$")), 15)
    }))

  test("pid: a number of its own", () =>
    Effect.gen(function* () {
      const handles = yield* Effect.forEach([1, 2, 3], () => ChildProcess.make("sleep", ["300"]))
      const pids = handles.map(({ pid }) => pid)
      assert.lengthOf([...new Set(pids)], 3)
      for (const pid of pids) assert.isTrue(Number.isSafeInteger(pid) && pid > 0, String(pid))
    }))

  test("kill: a signal that is caught lets it end as it likes", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh("trap 'echo caught; exit 5' USR1; echo up; while :; do sleep 0.02; done")
      const next = yield* P.lines(handle.stdout)
      assert.strictEqual(yield* next, "up")
      yield* handle.kill({ killSignal: "SIGUSR1" })
      assert.strictEqual(yield* next, "caught")
      assert.strictEqual(yield* handle.exitCode, 5)
    }))

  const deaf = "trap '' TERM; echo up; while :; do sleep 0.02; done"

  test("kill: what ignores it is forced", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh(deaf)
      assert.strictEqual(yield* yield* P.lines(handle.stdout), "up")
      yield* handle.kill({ forceKillAfter: "50 millis" })
      yield* assertKilled(handle.exitCode, 9)
    }))

  test("the end of the Scope sends the signal of the command, and forces what ignores it", ({ at, fs }) =>
    Effect.gen(function* () {
      const polite = yield* Scope.make()
      const caught = yield* Scope.provide(
        P.sh(`trap 'echo caught > "$1"; exit 0' INT; echo up; while :; do sleep 0.02; done`, [at("mark")], {
          killSignal: "SIGINT"
        }),
        polite
      )
      assert.strictEqual(yield* yield* P.lines(caught.stdout), "up")
      yield* Scope.close(polite, Exit.void)
      assert.strictEqual(yield* fs.readFileString(at("mark")), "caught\n")
      const forced = yield* Scope.make()
      const ignoring = yield* Scope.provide(P.sh(deaf, [], { forceKillAfter: "50 millis" }), forced)
      assert.strictEqual(yield* yield* P.lines(ignoring.stdout), "up")
      yield* Scope.close(forced, Exit.void)
      yield* assertKilled(ignoring.exitCode, 9)
    }))
}

const registerGroups = (test: P.Test, options: Options, assertKilled: AssertKilled): void => {
  test("kill reaches the whole group", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh(family)
      const pids = yield* pidsOf(handle)
      yield* handle.kill()
      yield* P.assertGone(pids)
      yield* assertKilled(handle.exitCode, 15)
    }))

  test("the end of the Scope reaches the whole group", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const pids = yield* P.sh(family).pipe(Effect.flatMap(pidsOf), Scope.provide(scope))
      yield* P.assertAlive(pids[0] ?? "")
      yield* Scope.close(scope, Exit.void)
      yield* P.assertGone(pids)
    }))

  test("the end of the Scope reaches a child whose parent has ended", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const pids = yield* Effect.gen(function* () {
        const handle = yield* P.sh("sleep 300 >/dev/null 2>&1 & echo $!")
        const pids = yield* pidsOf(handle)
        assert.strictEqual(yield* handle.exitCode, 0)
        return pids
      }).pipe(Scope.provide(scope))
      yield* P.assertAlive(pids[0] ?? "")
      yield* Scope.close(scope, Exit.void)
      yield* P.assertGone(pids)
    }))

  if (options.failureEndsGroup ?? false) {
    test("a program that fails takes its group with it", () =>
      Effect.gen(function* () {
        const handle = yield* P.sh("sleep 300 >/dev/null 2>&1 & echo $!; exit 3")
        const pids = yield* pidsOf(handle)
        assert.strictEqual(yield* handle.exitCode, 3)
        yield* P.assertGone(pids)
      }))
  }

  test("interruption reaches the whole group", ({ at, fs, spawner }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(
        spawner.exitCode(P.sh(`sleep 300 & echo "$! $$" > "$1".tmp; mv "$1".tmp "$1"; wait`, [at("pids")]))
      )
      const pids = yield* P.eventually(fs.readFileString(at("pids")))
      yield* Fiber.interrupt(fiber)
      yield* P.assertGone(pids.trim().split(" "))
    }))

  if (options.unref ?? true) {
    test("unref: what nobody waits for survives its Scope, until it is taken back", () =>
      Effect.gen(function* () {
        const kept = yield* Scope.make()
        const survivor = yield* Scope.provide(P.sh("echo $$; exec sleep 300", [], { stdin: "ignore" }), kept)
        yield* Effect.addFinalizer(() => Effect.ignore(survivor.kill()))
        const [pid = ""] = yield* pidsOf(survivor)
        yield* Effect.asVoid(survivor.unref)
        yield* Scope.close(kept, Exit.void)
        yield* P.assertAlive(pid)
        const taken = yield* Scope.make()
        const other = yield* Scope.provide(P.sh("echo $$; exec sleep 300"), taken)
        const pids = yield* pidsOf(other)
        yield* yield* other.unref
        yield* Scope.close(taken, Exit.void)
        yield* P.assertGone(pids)
      }))
  } else {
    test("unref: is BadArgument, which says why", ({ spawner }) =>
      Effect.gen(function* () {
        const handle = yield* spawner.spawn(ChildProcess.make("true"))
        const error = yield* Effect.flip(Effect.asVoid(handle.unref))
        assert.strictEqual(error.reason._tag, "BadArgument")
        assert.include(error.message, "Scope")
      }))
  }

  test("detached: is what it is anyway", ({ spawner }) =>
    Effect.gen(function* () {
      assert.strictEqual(yield* spawner.string(P.sh("echo ok", [], { detached: true })), "ok\n")
      const scope = yield* Scope.make()
      const pids = yield* P.sh(family, [], { detached: true }).pipe(Effect.flatMap(pidsOf), Scope.provide(scope))
      yield* Scope.close(scope, Exit.void)
      yield* P.assertGone(pids)
    }))

  if (options.attached ?? true) {
    test("detached: false still ends with its Scope", ({ spawner }) =>
      Effect.gen(function* () {
        assert.strictEqual(yield* spawner.string(P.sh("echo ok", [], { detached: false })), "ok\n")
        const scope = yield* Scope.make()
        const pids = yield* P.sh("echo $$; exec sleep 300", [], { detached: false }).pipe(
          Effect.flatMap(pidsOf),
          Scope.provide(scope)
        )
        yield* Scope.close(scope, Exit.void)
        yield* P.assertGone(pids)
      }))
  } else {
    test("detached: false is BadArgument, which says why", ({ spawner }) =>
      Effect.map(Effect.flip(spawner.exitCode(P.sh("true", [], { detached: false }))), (error) => {
        assert.strictEqual(error.reason._tag, "BadArgument")
        assert.match(error.message, /detached/)
      }))
    test("a descriptor that no process has is BadArgument, which names it", ({ spawner }) =>
      Effect.gen(function* () {
        for (const name of ["fd4294967295", "fd2"] as const) {
          const additionalFds = { [name]: { type: "output" } } as const
          const error = yield* Effect.flip(spawner.exitCode(P.sh("true", [], { additionalFds })))
          assert.strictEqual(error.reason._tag, "BadArgument")
          assert.include(error.message, name)
        }
      }))
  }
}
