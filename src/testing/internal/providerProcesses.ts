/** The provider suite: scoped processes. */
import type { Vitest } from "@effect/vitest"
import { assert } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import type { Machine } from "../../services/SandboxProvider.ts"
import type { Options } from "./providers.ts"
import * as P from "./providers.ts"

type It = Vitest.MethodsNonLive<P.Subject>

/** Every argument followed by a NUL, which none of them can hold. */
export const printArguments = `for argument; do printf '%s\\0' "$argument"; done`

export const hazards: ReadonlyArray<string> = [
  "",
  " ",
  "a b",
  "\t",
  "line\nbreak\n",
  "\r\n",
  "'",
  '"',
  "'\\''",
  "`id`",
  "$HOME",
  "$(id)",
  "${x:-y}",
  "\\",
  "\\n",
  "*",
  "?[a-z]",
  "~",
  "-",
  "--",
  "-n",
  "-e",
  "--help",
  "#",
  ";",
  "&&",
  "|",
  ">",
  "!",
  "%s",
  "a=b",
  "é",
  "\u{1F600}",
  "\u0001\u001b[31m",
  "x".repeat(100_000)
]

export const argumentLists = Arbitrary.map(Arbitrary.schema(Schema.Array(Schema.String)), (list) =>
  list.map((item) => item.toWellFormed().replaceAll("\0", ""))
)

const now = Effect.clockWith((clock) => clock.currentTimeMillis)

export const register = (it: It, options: Options): void => {
  const { processes } = options.capabilities
  const machine = Effect.map(P.Subject, (subject) => subject.machine)
  const test = <A, E>(name: string, body: (machine: Machine) => Effect.Effect<A, E, P.Subject | Scope.Scope>) =>
    P.register(options, name, (name) => it.effect(name, () => Effect.flatMap(machine, body), options.timeout ?? 30_000))
  /** Needs a shell that is a program of its own. */
  const shellTest: Test = (name, body) => {
    if (options.interpreted !== true) test(name, body)
  }

  const echoes = (args: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const result = yield* P.sh(yield* machine, printArguments, {}, args)
      assert.deepStrictEqual(result.exit, P.exited(0))
      assert.strictEqual(result.stdout.toString(), args.map((argument) => `${argument}\0`).join(""))
    })

  it.effect("arguments arrive byte for byte: what shells trip over", () => echoes(hazards), options.timeout ?? 30_000)

  it.effect.prop(
    "arguments arrive byte for byte: anything",
    { args: argumentLists },
    ({ args }) => Effect.scoped(echoes(args)),
    {
      timeout: options.timeout ?? 60_000,
      arbitrary: { seed: "argv", runs: options.propertyRuns ?? 30, maxShrinks: 20 }
    }
  )

  test("the command's own name may need quoting too", (machine) =>
    Effect.gen(function* () {
      const name = `${P.fresh("odd name")} $x '"*`
      yield* machine.writeFiles([{ path: name, content: new TextEncoder().encode("#!/bin/sh\necho ok"), mode: 0o755 }])
      const result = yield* P.run(machine, `${machine.workspaceRoot}/${name}`)
      assert.strictEqual(result.stdout.toString(), "ok\n")
    }))

  test("stdout and stderr are two streams", (machine) =>
    Effect.gen(function* () {
      const result = yield* P.sh(machine, "printf out1; printf err1 >&2; printf out2; printf err2 >&2; exit 7")
      assert.strictEqual(result.stdout.toString(), "out1out2")
      assert.strictEqual(result.stderr.toString(), "err1err2")
      assert.deepStrictEqual(result.exit, P.exited(7))
    }))

  test("output comes while the command runs", (machine) =>
    Effect.gen(function* () {
      const go = P.fresh("go")
      const seen = yield* P.observe(
        yield* P.startSh(machine, `printf first; while [ ! -e "$1" ]; do sleep 0.02; done; printf second`, {}, [go])
      )
      yield* seen.until(() => seen.stdout() === "first")
      yield* P.writeFile(machine, go, "")
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(0))
      yield* seen.until(() => seen.stdout() === "firstsecond")
    }))

  test("every byte arrives: NUL, invalid UTF-8, a megabyte of anything, on both streams", (machine) =>
    Effect.gen(function* () {
      const odd = yield* P.sh(machine, `printf 'a\\000b\\377\\303(\\n\\r'; printf '\\000\\200' >&2`)
      assert.deepStrictEqual([...odd.stdout], [0x61, 0, 0x62, 0xff, 0xc3, 0x28, 0x0a, 0x0d])
      assert.deepStrictEqual([...odd.stderr], [0, 0x80])
      const bytes = Crypto.randomBytes(1 << 20)
      const file = P.fresh("random")
      yield* P.writeFile(machine, file, bytes)
      const result = yield* P.sh(machine, `cat "$1"; cat "$1" >&2`, {}, [file])
      assert.strictEqual(P.sha256(result.stdout), P.sha256(bytes))
      assert.strictEqual(P.sha256(result.stderr), P.sha256(bytes))
    }))

  for (const [name, target] of [
    ["stdout", "/dev/stdout"],
    ["stdout", "/proc/self/fd/1"],
    ["stderr", "/dev/stderr"]
  ] as const) {
    test(`${target} can be opened in the middle of the output`, (machine) =>
      Effect.gen(function* () {
        const redirect = name === "stderr" ? " >&2" : ""
        const result = yield* P.sh(
          machine,
          `if [ -e ${target} ]; then echo a${redirect}; echo b >${target}; echo c${redirect}; else printf 'a\\nb\\nc\\n'${redirect}; fi`
        )
        assert.strictEqual(result[name].toString(), "a\nb\nc\n", result.stderr.toString())
      }))
  }

  shellTest("what nobody consumes does not pile up here, and nothing of it is lost", (machine) =>
    Effect.gen(function* () {
      const marker = P.fresh("marker")
      const size = 16 << 20
      const process = yield* P.startSh(machine, `head -c ${size} /dev/zero; : > "$1"`, {}, [marker])
      // One chunk, and then a consumer that has gone to sleep.
      const pull = yield* Stream.toPull(process.output)
      let bytes = (yield* pull).reduce((sum, chunk) => sum + chunk.bytes.length, 0)
      if (options.holdsBack === true) {
        // While it waits, another one of the same size comes to its end.
        assert.strictEqual((yield* P.text(machine, `head -c ${size} /dev/zero | wc -c`)).trim(), String(size))
        assert.strictEqual(yield* P.text(machine, `[ -e "$1" ] && echo done || echo waits`, [marker]), "waits\n")
      }
      yield* pull.pipe(
        Effect.tap((chunks) =>
          Effect.sync(() => {
            bytes += chunks.reduce((sum, chunk) => sum + chunk.bytes.length, 0)
          })
        ),
        Effect.forever,
        Effect.catchTag("Done", () => Effect.void)
      )
      assert.strictEqual(bytes, size)
      assert.deepStrictEqual(yield* process.exit, P.exited(0))
    })
  )

  shellTest("output that a descendant holds open ends soon after the exit", (machine) =>
    Effect.gen(function* () {
      const begun = yield* now
      const result = yield* P.sh(machine, "sleep 60 & echo $!")
      assert.deepStrictEqual(result.exit, P.exited(0))
      assert.isBelow((yield* now) - begun, 20_000)
      yield* P.assertGone(machine, [result.stdout.toString().trim()])
    })
  )

  test("what cannot be started says why, as Node's layer does", (machine) =>
    Effect.gen(function* () {
      const file = P.fresh("file")
      yield* machine.writeFiles([{ path: file, content: new TextEncoder().encode("#!/bin/sh\n"), mode: 0o644 }])
      const absolute = `${machine.workspaceRoot}/${file}`
      assert.strictEqual(yield* P.reason(P.run(machine, P.fresh("no-such-program"))), "NotFound")
      assert.strictEqual(yield* P.reason(P.run(machine, "/no/such/program")), "NotFound")
      assert.strictEqual(yield* P.reason(P.run(machine, absolute)), "PermissionDenied")
      assert.strictEqual(yield* P.reason(P.run(machine, machine.workspaceRoot)), "PermissionDenied")
      assert.strictEqual(yield* P.reason(P.run(machine, "true", [], { cwd: P.fresh("no-such-directory") })), "NotFound")
      assert.strictEqual(yield* P.reason(P.run(machine, "true", [], { cwd: file })), "BadResource")
      if (options.bindingModes === true) {
        const locked = P.fresh("locked")
        yield* P.text(machine, `mkdir -m 000 "$1"`, [locked])
        assert.strictEqual(yield* P.reason(P.run(machine, "true", [], { cwd: locked })), "PermissionDenied")
      }
    }))

  test("what no program can be given is BadArgument and is not echoed", (machine) =>
    Effect.gen(function* () {
      const bad = Effect.fnUntraced(function* (command: string, args: ReadonlyArray<string>, fields: P.Fields = {}) {
        const error = yield* Effect.flip(P.run(machine, command, args, fields))
        assert.strictEqual(P.reasonOf(error), "BadArgument")
        assert.notInclude(String(error), "hidden")
        assert.notInclude(JSON.stringify(error), "hidden")
      })
      yield* bad("", [])
      yield* bad("hidden\0", [])
      yield* bad("true", ["ok", "hidden\0"])
      yield* bad("true", [], { cwd: "hidden\0" })
      yield* bad("true", [], { env: { NAME: "hidden\0" } })
      yield* bad("true", [], { env: { NAME: Redacted.make("hidden\0") } })
      yield* bad("true", [], { env: { "": "hidden" } })
      yield* bad("true", [], { env: { "A=B": "hidden" } })
    }))

  test("exit codes are values", (machine) =>
    Effect.gen(function* () {
      for (const code of [0, 1, 2, 42, 127, 128, 130, 255]) {
        assert.deepStrictEqual((yield* P.sh(machine, `exit ${code}`)).exit, P.exited(code))
      }
    }))

  test("a death by signal", (machine) =>
    Effect.gen(function* () {
      const { exit } = yield* P.sh(machine, "kill -KILL $$")
      assert.strictEqual(exit.code, 137)
      assert.strictEqual(exit._tag, processes.signalsObservable ? "Signalled" : "Exited")
      if (exit._tag === "Signalled") assert.strictEqual(exit.signal, "SIGKILL")
    }))

  test("signals reach the whole group; afterwards there is nothing left to signal", (machine) =>
    Effect.gen(function* () {
      const seen = yield* P.observe(yield* P.startSh(machine, P.staying(options)))
      yield* seen.until(() => seen.stdout().endsWith("\n"))
      yield* seen.process.signal("SIGTERM")
      assert.strictEqual((yield* seen.process.exit).code, 143)
      yield* P.assertGone(machine, seen.stdout().trim().split(" "))
      assert.strictEqual(yield* P.reason(seen.process.signal("SIGTERM")), P.tag("ProcessEnded"))
    }))

  shellTest("a signal can be trapped, and forced when it is ignored", (machine) =>
    Effect.gen(function* () {
      const trapped = yield* P.observe(
        yield* P.startSh(machine, "trap 'echo caught; exit 5' USR1; echo up; while :; do sleep 0.02; done")
      )
      yield* trapped.until(() => trapped.stdout() === "up\n")
      yield* trapped.process.signal("SIGUSR1")
      assert.deepStrictEqual(yield* trapped.process.exit, P.exited(5))
      yield* trapped.until(() => trapped.stdout() === "up\ncaught\n")
      const deaf = yield* P.observe(yield* P.startSh(machine, "trap '' TERM; echo up; while :; do sleep 0.02; done"))
      yield* deaf.until(() => deaf.stdout() === "up\n")
      yield* deaf.process.signal("SIGTERM", { forceAfter: "100 millis" })
      assert.strictEqual((yield* deaf.process.exit).code, 137)
    })
  )

  test("an unknown signal is InvalidArgument", (machine) =>
    Effect.gen(function* () {
      const process = yield* P.startSh(machine, "sleep 300")
      assert.strictEqual(yield* P.reason(process.signal("SIGNOTHING")), P.tag("InvalidArgument"))
    }))

  test("what is no time to wait is InvalidArgument, and nothing is sent", (machine) =>
    Effect.gen(function* () {
      for (const lifetime of ["scoped", "recorded"] as const) {
        if (lifetime === "recorded" && !processes.recorded) continue
        const seen = yield* P.observe(
          yield* P.startSh(machine, "trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done", { lifetime })
        )
        yield* seen.until(() => seen.stdout() === "up\n")
        // The last of them as a caller without types passes them.
        const untyped: ReadonlyArray<Duration.Input> = JSON.parse(`["soon", null, {}, {"days": "x"}, {"dayz": 1}]`)
        for (const forceAfter of [NaN, -1, Infinity, 1e300, "-1 second" as const, ...untyped]) {
          const result = yield* Effect.result(seen.process.signal("SIGTERM", { forceAfter }))
          if (result._tag === "Success") return assert.fail(`${lifetime}: ${JSON.stringify(forceAfter)} was taken`)
          assert.strictEqual(result.failure.reason._tag, "InvalidArgument")
        }
        yield* seen.process.signal("SIGKILL", { forceAfter: "10 seconds" })
        // The trap would have said 9.
        assert.strictEqual((yield* seen.process.exit).code, 137)
      }
    }))

  test("without input a program reads its end at once", (machine) =>
    Effect.map(P.run(machine, "cat"), (result) => {
      assert.deepStrictEqual(result.exit, P.exited(0))
      assert.strictEqual(result.stdout.length, 0)
    }))

  if (processes.stdin) registerInput(test, shellTest, options.inputMebibytes ?? 16)

  test("the environment: the sandbox's own, the command's over it, nothing of the service's", (machine) =>
    Effect.gen(function* () {
      const print = `printf '%s|%s|%s' "$PLAIN" "$SECRET" "\${VITEST-unset}"`
      const env = { PLAIN: "a b\n$x", SECRET: Redacted.make("s3cret'\"") }
      assert.strictEqual((yield* P.sh(machine, print, { env })).stdout.toString(), "a b\n$x|s3cret'\"|unset")
      assert.strictEqual((yield* P.sh(machine, print, { env: { PLAIN: undefined } })).stdout.toString(), "||unset")
      assert.strictEqual(yield* P.text(machine, `printf %s "\${PATH:+set}"`), "set")
    }))

  test("the working directory is the workspace, or what it is told relative to it", (machine) =>
    Effect.gen(function* () {
      yield* P.text(machine, "mkdir -p 'sub dir'")
      assert.strictEqual(yield* P.text(machine, "pwd -P"), `${machine.workspaceRoot}\n`)
      for (const cwd of ["sub dir", `${machine.workspaceRoot}/sub dir`]) {
        assert.strictEqual(
          (yield* P.sh(machine, "pwd -P", { cwd })).stdout.toString(),
          `${machine.workspaceRoot}/sub dir\n`
        )
      }
    }))

  test("a redacted argument arrives or is refused, and shows in no error", (machine) =>
    Effect.gen(function* () {
      const secret = Redacted.make("hush-hush")
      const attempt = P.sh(machine, `printf %s "$1"`, {}, [secret])
      if (options.redactedArguments === true) return assert.strictEqual((yield* attempt).stdout.toString(), "hush-hush")
      const error = yield* Effect.flip(attempt)
      assert.strictEqual(P.reasonOf(error), "BadArgument")
      assert.notInclude(JSON.stringify(error), "hush-hush")
    }))

  shellTest("the deadline of a process that was let go holds on", (machine) =>
    Effect.gen(function* () {
      const begun = yield* now
      const { exit, letGo } = yield* Effect.scoped(
        Effect.gen(function* () {
          const process = yield* P.start(machine, "sleep", ["60"], { deadline: begun + 1_000 })
          if (process.unref !== undefined) yield* Effect.asVoid(process.unref)
          return { exit: process.exit, letGo: process.unref !== undefined }
        })
      )
      const end = yield* exit
      assert.isBelow((yield* now) - begun, 20_000)
      if (letGo) {
        assert.strictEqual(end.reason, "deadline")
        assert.isAtLeast((yield* now) - begun, 900)
      }
    })
  )

  shellTest("a deadline kills the group, also a child that ignores TERM", (machine) =>
    Effect.gen(function* () {
      const seen = yield* P.observe(
        yield* P.startSh(
          machine,
          `(trap '' TERM; while :; do sleep 0.02; done) & echo $! $$; trap '' TERM; while :; do sleep 0.02; done`,
          { deadline: (yield* now) + 1_000 }
        )
      )
      yield* seen.until(() => seen.stdout().endsWith("\n"))
      const exit = yield* seen.process.exit
      assert.strictEqual(exit.reason, "deadline")
      assert.strictEqual(exit.code, 137)
      yield* P.assertGone(machine, seen.stdout().trim().split(" "))
    })
  )

  test("the end of the Scope kills the group", (machine) =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const pids = yield* Effect.gen(function* () {
        const seen = yield* P.observe(yield* P.startSh(machine, P.staying(options)))
        yield* seen.until(() => seen.stdout().endsWith("\n"))
        return seen.stdout().trim().split(" ")
      }).pipe(Scope.provide(scope))
      yield* P.assertAlive(machine, pids[0] ?? "")
      yield* Scope.close(scope, Exit.void)
      yield* P.assertGone(machine, pids)
    }))

  test("interruption kills the group", (machine) =>
    Effect.gen(function* () {
      const file = P.fresh("pids")
      const fiber = yield* Effect.forkChild(
        P.sh(
          machine,
          options.interpreted === true
            ? `echo $$ > "$1"; sleep 300`
            : `sleep 300 & echo $! $$ > "$1".tmp; mv "$1".tmp "$1"; wait`,
          {},
          [file]
        )
      )
      const pids = yield* P.readFile(machine, file).pipe(
        Effect.retry(Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(500)]))
      )
      yield* Fiber.interrupt(fiber)
      yield* P.assertGone(machine, pids.toString().trim().split(" "))
    }))

  test("many at once do not disturb each other", (machine) =>
    Effect.gen(function* () {
      const results = yield* Effect.forEach(
        Array.from({ length: 12 }, (_, index) => index),
        (index) => P.sh(machine, `printf '%s' "$1"; printf 'e%s' "$1" >&2; exit "$1"`, {}, [String(index)]),
        { concurrency: "unbounded" }
      )
      results.forEach((result, index) => {
        assert.strictEqual(result.stdout.toString(), String(index))
        assert.strictEqual(result.stderr.toString(), `e${index}`)
        assert.deepStrictEqual(result.exit, P.exited(index))
      })
    }))
}

type Test = <A, E>(name: string, body: (machine: Machine) => Effect.Effect<A, E, P.Subject | Scope.Scope>) => void

const registerInput = (test: Test, shellTest: Test, mebibytes: number): void => {
  shellTest("input is live: each line is answered before the next is sent", (machine) =>
    Effect.gen(function* () {
      const seen = yield* P.observe(
        yield* P.startSh(machine, `while read -r line; do printf '<%s>' "$line"; done; printf end`, { stdin: true })
      )
      let expected = ""
      for (const line of ["one", "two", "$three"]) {
        yield* seen.process.write(new TextEncoder().encode(`${line}\n`))
        expected += `<${line}>`
        yield* seen.until(() => seen.stdout() === expected)
      }
      yield* seen.process.closeInput
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(0))
      yield* seen.until(() => seen.stdout() === `${expected}end`)
    })
  )

  test(`input: ${mebibytes} MiB of anything, through the sink, and its end`, (machine) =>
    Effect.gen(function* () {
      const part = Crypto.randomBytes(1 << 20)
      const parts = Array.from({ length: mebibytes }, () => part)
      const whole = Buffer.concat(parts)
      const process = yield* P.start(machine, "cat", [], { stdin: true })
      const writing = yield* Effect.forkChild(Stream.run(Stream.fromIterable(parts), process.stdin))
      const result = yield* P.collect(process)
      yield* Fiber.join(writing)
      assert.strictEqual(P.sha256(result.stdout), P.sha256(whole))
      assert.deepStrictEqual(result.exit, P.exited(0))
    }))

  test("input: a program that never reads holds the writer back", (machine) =>
    Effect.gen(function* () {
      const process = yield* P.startSh(machine, "sleep 300", { stdin: true })
      const written = yield* process.write(new Uint8Array(8 << 20)).pipe(Effect.timeoutOption("300 millis"))
      assert.strictEqual(written._tag, "None")
    }))

  shellTest("input: a program that ends early ends the writer with ProcessEnded", (machine) =>
    Effect.gen(function* () {
      const process = yield* P.startSh(machine, "read -r line; exit 3", { stdin: true })
      const error = yield* Effect.flip(
        Stream.run(Stream.forever(Stream.succeed(new TextEncoder().encode("line\n".repeat(10_000)))), process.stdin)
      )
      assert.strictEqual(P.reasonOf(error), P.tag("ProcessEnded"))
      assert.deepStrictEqual(yield* process.exit, P.exited(3))
      assert.strictEqual(yield* P.reason(process.write(new Uint8Array(1))), P.tag("ProcessEnded"))
    })
  )

  test("input can be opened by name", (machine) =>
    Effect.gen(function* () {
      const process = yield* P.startSh(machine, "if [ -e /dev/stdin ]; then cat /dev/stdin; else cat; fi", {
        stdin: true
      })
      yield* process.write(new TextEncoder().encode("by name"))
      yield* process.closeInput
      assert.strictEqual((yield* P.collect(process)).stdout.toString(), "by name")
    }))
}
