/** The provider suite: recorded processes. */
import type { Vitest } from "@effect/vitest"
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Machine } from "../../services/SandboxProvider.ts"
import type { Options } from "./providers.ts"
import * as P from "./providers.ts"

const now = Effect.clockWith((clock) => clock.currentTimeMillis)

export const register = (it: Vitest.MethodsNonLive<P.Subject>, options: Options): void => {
  const test = <A, E>(name: string, body: (machine: Machine) => Effect.Effect<A, E, P.Subject | Scope.Scope>) =>
    P.register(options, `recorded: ${name}`, (name) =>
      it.effect(name, () => Effect.flatMap(P.Subject, (subject) => body(subject.machine)), options.timeout ?? 30_000)
    )

  /** Needs a shell that is a program of its own. */
  const shellTest: typeof test = (name, body) => {
    if (options.interpreted !== true) test(name, body)
  }

  const find = Effect.fnUntraced(function* (machine: Machine, processId: ReturnType<typeof P.newProcessId>) {
    return yield* P.power(yield* machine.findProcess(processId))
  })

  test("streams, codes and failures are those of scoped ones", (machine) =>
    Effect.gen(function* () {
      const fields = { lifetime: "recorded" } as const
      const result = yield* P.sh(machine, `printf 'a\\000\\377'; printf b >&2; printf '%s' "$1"; exit 9`, fields, [
        "* $x '\n"
      ])
      assert.strictEqual(result.stdout.toString("latin1"), "a\0\xff* $x '\n")
      assert.strictEqual(result.stderr.toString(), "b")
      assert.deepStrictEqual(result.exit, P.exited(9))
      assert.strictEqual(yield* P.reason(P.run(machine, P.fresh("no-such-program"), [], fields)), "NotFound")
      assert.strictEqual(yield* P.reason(P.run(machine, "true", [], { ...fields, cwd: "missing" })), "NotFound")
      assert.strictEqual(yield* P.reason(P.run(machine, "", [], fields)), "BadArgument")
    }))

  test("the log cannot be truncated through /dev/stdout", (machine) =>
    Effect.gen(function* () {
      const result = yield* P.sh(
        machine,
        `echo a; if [ -e /dev/stdout ]; then echo b >/dev/stdout; else echo b; fi; echo c`,
        { lifetime: "recorded" }
      )
      assert.strictEqual(result.stdout.toString(), "a\nb\nc\n")
    }))

  test("goes on without the Scope, and is resumed at the byte", (machine) =>
    Effect.gen(function* () {
      const processId = P.newProcessId()
      const go = P.fresh("go")
      // Characters of four bytes, so that a position lies inside of one.
      const script = `i=0; while [ $i -lt 2000 ]; do printf '%s\u{1F600}' "$i"; i=$((i+1)); done
        while [ ! -e "$1" ]; do sleep 0.02; done
        while [ $i -lt 4000 ]; do printf '%s\u{1F600}' "$i"; printf e >&2; i=$((i+1)); done`
      const expected = Buffer.from(Array.from({ length: 4000 }, (_, index) => `${index}\u{1F600}`).join(""))
      const first = yield* Effect.scoped(
        Effect.gen(function* () {
          const process = yield* P.startSh(machine, script, { processId, lifetime: "recorded" }, [go])
          const chunks = yield* Stream.runCollect(Stream.take(process.output, 1))
          return Buffer.concat(chunks.map((chunk) => chunk.bytes))
        })
      )
      const cut = first.subarray(0, Math.max(1, first.length - 3))
      const external = yield* find(machine, processId)
      const second = yield* Effect.scoped(
        Effect.gen(function* () {
          const process = yield* machine.resume(external, { stdout: cut.length, stderr: 0 })
          assert.deepStrictEqual(process.external, external)
          yield* P.writeFile(machine, go, "")
          return yield* P.collect(process, { stdout: cut.length, stderr: 0 })
        })
      )
      assert.strictEqual(P.sha256(Buffer.concat([cut, second.stdout])), P.sha256(expected))
      assert.strictEqual(second.stderr.toString(), "e".repeat(2000))
      assert.deepStrictEqual(second.exit, P.exited(0))
    }))

  test("an end that nobody watched is found later, more than once", (machine) =>
    Effect.gen(function* () {
      const processId = P.newProcessId()
      const done = P.fresh("done")
      yield* Effect.scoped(
        P.startSh(machine, `printf all; printf of >&2; : > "$1"; exit 4`, { processId, lifetime: "recorded" }, [done])
      )
      yield* P.text(machine, `while [ ! -e "$1" ]; do sleep 0.02; done`, [done])
      const external = yield* find(machine, processId)
      for (let times = 0; times < 2; times++) {
        const result = yield* Effect.scoped(
          Effect.flatMap(machine.resume(external, { stdout: 1, stderr: 0 }), (process) =>
            P.collect(process, { stdout: 1, stderr: 0 })
          )
        )
        assert.strictEqual(result.stdout.toString(), "ll")
        assert.strictEqual(result.stderr.toString(), "of")
        assert.deepStrictEqual(result.exit, P.exited(4))
      }
    }))

  test("a second start of the same id starts nothing and yields the first", (machine) =>
    Effect.gen(function* () {
      const processId = P.newProcessId()
      const file = P.fresh("count")
      const start = P.startSh(machine, `echo x >> "$1"; cat "$1"`, { processId, lifetime: "recorded" }, [file])
      const results = yield* Effect.all(
        Array.from({ length: 3 }, () => Effect.scoped(Effect.flatMap(start, (process) => P.collect(process)))),
        { concurrency: "unbounded" }
      )
      for (const result of [...results, yield* Effect.scoped(Effect.flatMap(start, (process) => P.collect(process)))]) {
        assert.strictEqual(result.stdout.toString(), "x\n")
      }
      assert.strictEqual((yield* P.readFile(machine, file)).toString(), "x\n")
    }))

  test("an id that was never started is not found, and a failed start leaves none", (machine) =>
    Effect.gen(function* () {
      assert.isTrue(Option.isNone(yield* machine.findProcess(P.newProcessId())))
      const processId = P.newProcessId()
      yield* Effect.flip(P.run(machine, P.fresh("no-such-program"), [], { processId, lifetime: "recorded" }))
      assert.isTrue(Option.isNone(yield* machine.findProcess(processId)))
    }))

  shellTest("keeps its deadline while nobody watches", (machine) =>
    Effect.gen(function* () {
      const processId = P.newProcessId()
      const pids = P.fresh("pids")
      yield* Effect.scoped(
        P.startSh(
          machine,
          `(trap '' TERM; while :; do sleep 0.02; done) & echo $! $$ > "$1"; trap '' TERM; while :; do sleep 0.02; done`,
          { processId, lifetime: "recorded", deadline: (yield* now) + 1_000 },
          [pids]
        )
      )
      const process = yield* machine.resume(yield* find(machine, processId), { stdout: 0, stderr: 0 })
      const exit = yield* process.exit
      assert.strictEqual(exit.reason, "deadline")
      assert.strictEqual(exit.code, 137)
      yield* P.assertGone(machine, (yield* P.readFile(machine, pids)).toString().trim().split(" "))
    })
  )

  shellTest("can be signalled by whoever resumes it", (machine) =>
    Effect.gen(function* () {
      const processId = P.newProcessId()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const seen = yield* P.observe(
            yield* P.startSh(machine, "trap '' TERM; echo up; while :; do sleep 0.02; done", {
              processId,
              lifetime: "recorded"
            })
          )
          yield* seen.until(() => seen.stdout() === "up\n")
        })
      )
      const process = yield* machine.resume(yield* find(machine, processId), { stdout: 0, stderr: 0 })
      yield* process.signal("SIGTERM", { forceAfter: "100 millis" })
      assert.strictEqual((yield* process.exit).code, 137)
      assert.strictEqual(yield* P.reason(process.signal("SIGTERM")), P.tag("ProcessEnded"))
    })
  )

  test("output comes while it runs", (machine) =>
    Effect.gen(function* () {
      const go = P.fresh("go")
      const seen = yield* P.observe(
        yield* P.startSh(
          machine,
          `printf first; while [ ! -e "$1" ]; do sleep 0.02; done; printf second`,
          { lifetime: "recorded" },
          [go]
        )
      )
      yield* seen.until(() => seen.stdout() === "first")
      yield* P.writeFile(machine, go, "")
      yield* seen.until(() => seen.stdout() === "firstsecond")
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(0))
    }))

  if (options.capabilities.processes.stdin) {
    shellTest("input stays open when the service goes, and is written by the next", (machine) =>
      Effect.gen(function* () {
        const processId = P.newProcessId()
        yield* Effect.scoped(
          Effect.gen(function* () {
            const seen = yield* P.observe(
              yield* P.startSh(machine, `while read -r line; do printf '<%s>' "$line"; done; printf end`, {
                processId,
                lifetime: "recorded",
                stdin: true
              })
            )
            yield* seen.process.write(new TextEncoder().encode("one\n"))
            yield* seen.until(() => seen.stdout() === "<one>")
          })
        )
        const process = yield* machine.resume(yield* find(machine, processId), { stdout: 0, stderr: 0 })
        yield* process.write(new TextEncoder().encode("two\n"))
        yield* process.closeInput
        assert.strictEqual((yield* P.collect(process)).stdout.toString(), "<one><two>end")
        assert.strictEqual(yield* P.reason(process.write(new Uint8Array(1))), P.tag("ProcessEnded"))
      })
    )

    test("a program that never reads holds the writer back", (machine) =>
      Effect.gen(function* () {
        const process = yield* P.startSh(machine, "sleep 300", { lifetime: "recorded", stdin: true })
        const written = yield* process.write(new Uint8Array(8 << 20)).pipe(Effect.timeoutOption("300 millis"))
        assert.strictEqual(written._tag, "None")
        yield* process.signal("SIGKILL")
        yield* process.exit
      }))
  }
}
