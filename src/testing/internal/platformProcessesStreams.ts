/** The platform suite: what goes into a program and what comes out of it. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as PlatformError from "effect/PlatformError"
import * as ChildProcess from "effect/process/ChildProcess"
import * as Queue from "effect/Queue"
import * as Sink from "effect/Sink"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"

const failure = PlatformError.badArgument({ module: "Suite", method: "input" })

/** Everything in one piece, in angle brackets. */
const bracketed: Sink.Sink<Uint8Array, Uint8Array> = Sink.reduceWhile(
  () => "",
  () => true,
  (text: string, chunk: Uint8Array) => text + P.text(chunk)
).pipe(
  Sink.ignoreLeftover,
  Sink.map((text) => P.bytes(`<${text}>`))
)

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options, { concurrent: true })
  registerOutput(test)
  if (options.stdin) registerInput(test, options)
  else registerNoInput(test)
  if (options.inheritsStdio) registerInherit(test, options)
  if (options.additionalFds) registerFds(test)
  else registerNoFds(test)
}

const registerOutput = (test: P.Test): void => {
  test("output: two streams, and both in one", () =>
    Effect.gen(function* () {
      const command = P.sh("printf out1; printf err1 >&2; printf out2; printf err2 >&2; exit 7")
      assert.deepStrictEqual(yield* P.run(command), { stdout: "out1out2", stderr: "err1err2", code: 7 })
      const all = yield* P.collectText((yield* command).all)
      // What comes first is chance: only the order within a stream is kept.
      assert.lengthOf(all, 16)
      assert.isBelow(all.indexOf("out1"), all.indexOf("out2"))
      assert.isBelow(all.indexOf("err1"), all.indexOf("err2"))
    }))

  test("output: comes while the program runs", ({ at, fs }) =>
    Effect.gen(function* () {
      const handle = yield* P.sh(`echo first; until [ -e "$1" ]; do sleep 0.02; done; echo second`, [at("go")])
      const next = yield* P.lines(handle.stdout)
      assert.strictEqual(yield* next, "first")
      assert.isTrue(yield* handle.isRunning)
      yield* fs.writeFileString(at("go"), "")
      assert.strictEqual(yield* next, "second")
      assert.strictEqual(yield* handle.exitCode, 0)
    }))

  test("output: every byte, megabytes on both streams", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(2 * (1 << 20) + 3)
      yield* fs.writeFile(at("file"), bytes)
      const handle = yield* P.sh(`cat "$1"; cat "$1" >&2`, [at("file")])
      const [stdout, stderr] = yield* Effect.all([P.collect(handle.stdout), P.collect(handle.stderr)], {
        concurrency: "unbounded"
      })
      P.assertSameBytes(stdout, bytes)
      P.assertSameBytes(stderr, bytes)
      assert.strictEqual(yield* handle.exitCode, 0)
    }))

  test("output: none is lost to a slow reader", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(2 * (1 << 20))
      yield* fs.writeFile(at("file"), bytes)
      const handle = yield* ChildProcess.make("cat", [at("file")])
      const pull = yield* Stream.toPull(handle.stdout)
      const parts = [...(yield* pull)]
      // Nobody reads while another program has read all of it.
      const other = yield* P.run(P.sh(`cat "$1" | wc -c`, [at("file")]))
      assert.strictEqual(other.stdout.trim(), String(bytes.length))
      yield* pull.pipe(
        Effect.tap((chunks) => Effect.sync(() => parts.push(...chunks))),
        Effect.forever,
        Effect.catchTag("Done", () => Effect.void)
      )
      P.assertSameBytes(P.concat(parts), bytes)
      assert.strictEqual(yield* handle.exitCode, 0)
    }))

  test("output: can be read after the exit, once", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh("echo out; echo err >&2")
      assert.strictEqual(yield* handle.exitCode, 0)
      assert.strictEqual(yield* P.collectText(handle.stdout), "out\n")
      assert.strictEqual(yield* P.collectText(handle.stderr), "err\n")
      assert.strictEqual(yield* P.collectText(handle.stdout), "")
    }))

  test("output: what is ignored is not there and holds nothing back", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFile(at("file"), P.random(1 << 20))
      const script = `cat "$1"; cat "$1" >&2; echo out; echo err >&2`
      const none = yield* P.run(P.sh(script, [at("file")], { stdout: "ignore", stderr: { stream: "ignore" } }))
      assert.deepStrictEqual(none, { stdout: "", stderr: "", code: 0 })
      const one = yield* P.sh("echo out; echo err >&2", [], { stdout: "ignore" })
      assert.strictEqual(yield* P.collectText(one.all), "err\n")
    }))

  test("output: two readers at once share it, and both end", () =>
    Effect.gen(function* () {
      for (const second of ["stdout", "all"] as const) {
        const handle = yield* P.sh("for i in 1 2 3 4; do echo $i; done")
        const texts = yield* Effect.all([P.collectText(handle.all), P.collectText(handle[second])], {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(texts.join("").match(/\d/g)?.toSorted(), ["1", "2", "3", "4"])
        assert.strictEqual(yield* handle.exitCode, 0)
      }
    }))

  test("output: through a Sink its results are read instead", () =>
    Effect.gen(function* () {
      const echo = "echo a; echo b; echo c >&2"
      const both = yield* P.run(P.sh(echo, [], { stdout: bracketed, stderr: { stream: bracketed } }))
      assert.deepStrictEqual(both, { stdout: "<a\nb\n>", stderr: "<c\n>", code: 0 })
      assert.strictEqual((yield* P.run(P.sh("true", [], { stdout: bracketed }))).stdout, "<>")
      const all = yield* P.collectText((yield* P.sh(echo, [], { stdout: bracketed })).all)
      assert.sameMembers(all.split(/(?<=>)|(?=<)/), ["<a\nb\n>", "c\n"])
    }))

  test("output: a Sink that fails fails the reader", ({ spawner }) =>
    Effect.gen(function* () {
      const command = P.sh("echo a", [], { stdout: Sink.fail(failure) })
      const handle = yield* command
      assert.strictEqual(yield* Effect.flip(P.collect(handle.stdout)), failure)
      assert.strictEqual(yield* Effect.flip(spawner.string(command)), failure)
    }))
}

const registerInput = (test: P.Test, options: Options): void => {
  test("input: a Stream, to its end", ({ spawner }) =>
    Effect.gen(function* () {
      const parts = Stream.make(P.bytes("one "), new Uint8Array(0), P.bytes("two"))
      for (const stdin of [parts, { stream: parts }]) {
        assert.strictEqual(yield* spawner.string(ChildProcess.make("cat", [], { stdin })), "one two")
      }
      assert.strictEqual(yield* spawner.string(ChildProcess.make("cat", [], { stdin: Stream.empty })), "")
    }))

  test("input: every byte, megabytes, while the output is read", () =>
    Effect.gen(function* () {
      const bytes = P.random(4 * (1 << 20) + 5)
      const chunks = Stream.fromIterable([bytes.subarray(0, 70_001), bytes.subarray(70_001)])
      const handle = yield* ChildProcess.make("cat", [], { stdin: chunks })
      P.assertSameBytes(yield* P.collect(handle.stdout), bytes)
      assert.strictEqual(yield* handle.exitCode, 0)
    }))

  const answering = `while read -r line; do echo "got $line"; done`
  const live = [
    ["", ChildProcess.make("cat"), (word: string) => word],
    [" by a script", P.sh(answering), (word: string) => `got ${word}`]
  ] as const
  for (const [by, command, answer] of live) {
    if (by !== "" && options.lineInput === false) continue
    test(`input: live, each line answered${by} before the next is sent`, () =>
      Effect.gen(function* () {
        const questions = yield* Queue.unbounded<Uint8Array>()
        const stdin = Stream.fromQueue(questions)
        const handle = yield* ChildProcess.make(command.command, command.args, { stdin })
        const next = yield* P.lines(handle.stdout)
        for (const word of ["one", "two", "three"]) {
          yield* Queue.offer(questions, P.bytes(`${word}\n`))
          assert.strictEqual(yield* next, answer(word))
        }
        yield* Queue.shutdown(questions)
      }))
  }

  if (options.lineInput === false) {
    test("input: a script that reads lines gets them when the input ends", ({ spawner }) =>
      Effect.gen(function* () {
        const stdin = Stream.make(P.bytes("one\ntw"), P.bytes("o\n"))
        assert.strictEqual(yield* spawner.string(P.sh(answering, [], { stdin })), "got one\ngot two\n")
      }))
  }

  test("input: through the handle's Sink, which ends it", () =>
    Effect.gen(function* () {
      for (const options of [{}, { stdin: "pipe" }] satisfies ReadonlyArray<ChildProcess.CommandOptions>) {
        const handle = yield* ChildProcess.make("cat", [], options)
        assert.isTrue(yield* handle.isRunning)
        yield* Stream.run(Stream.make(P.bytes("by "), P.bytes("hand")), handle.stdin)
        assert.strictEqual(yield* P.collectText(handle.stdout), "by hand")
        assert.strictEqual(yield* handle.exitCode, 0)
      }
    }))

  test("input: stays open with `endOnDone: false`", () =>
    Effect.gen(function* () {
      const handle = yield* ChildProcess.make("cat", [], {
        stdin: { stream: Stream.make(P.bytes("one\n")), endOnDone: false }
      })
      const next = yield* P.lines(handle.stdout)
      assert.strictEqual(yield* next, "one")
      assert.isTrue(yield* handle.isRunning)
      yield* Stream.run(Stream.make(P.bytes("two\n")), handle.stdin)
      assert.strictEqual(yield* next, "two")
      assert.isTrue(yield* handle.isRunning)
      yield* handle.kill()
    }))

  test("input: ignored, a program reads its end at once", () =>
    Effect.gen(function* () {
      const handle = yield* ChildProcess.make("cat", [], { stdin: "ignore" })
      assert.strictEqual(yield* handle.exitCode, 0)
      // Whatever is written goes nowhere.
      yield* Stream.run(Stream.make(P.bytes("x")), handle.stdin)
      assert.strictEqual(yield* P.collectText(handle.stdout), "")
    }))

  test("input: a Stream that fails fails `exitCode`, and does not wait for the exit", () =>
    Effect.gen(function* () {
      const stdin = Stream.concat(Stream.make(P.bytes("some\n")), Stream.fail(failure))
      const reader = yield* ChildProcess.make("cat", [], { stdin })
      assert.strictEqual(yield* yield* P.lines(reader.stdout), "some")
      assert.strictEqual(yield* Effect.flip(reader.exitCode), failure)
      const sleeper = yield* ChildProcess.make("sleep", ["300"], { stdin })
      assert.strictEqual(yield* Effect.flip(sleeper.exitCode), failure)
    }))

  test("input: a Stream that dies keeps nobody waiting for the exit", () =>
    Effect.gen(function* () {
      const stdin = Stream.concat(Stream.make(P.bytes("some\n")), Stream.die("of itself"))
      const reader = yield* ChildProcess.make("cat", [], { stdin })
      assert.strictEqual(yield* yield* P.lines(reader.stdout), "some")
      // Whether that is the end of the input or of the command is not agreed on.
      const exit = yield* Effect.exit(reader.exitCode)
      assert.isTrue(Exit.hasDies(exit) || (Exit.isSuccess(exit) && exit.value === 0))
    }))

  test("input: that nobody reads is no failure of the program", ({ spawner }) =>
    Effect.gen(function* () {
      const stdin = Stream.make(new Uint8Array(4 << 20))
      assert.strictEqual(yield* spawner.exitCode(ChildProcess.make("true", [], { stdin })), 0)
      assert.strictEqual(yield* spawner.string(ChildProcess.make("head", ["-c1"], { stdin })), "\0")
    }))

  test("input: the Sink of a program that has ended fails", () =>
    Effect.gen(function* () {
      const handle = yield* ChildProcess.make("true")
      yield* handle.exitCode
      yield* P.fails(Stream.run(Stream.make(new Uint8Array(1 << 20)), handle.stdin), "Unknown")
    }))
}

const registerNoInput = (test: P.Test): void => {
  test("input: a Stream is BadArgument, which says why", ({ spawner }) =>
    Effect.gen(function* () {
      const stream = Stream.make(P.bytes("x"))
      for (const stdin of [stream, { stream }]) {
        const error = yield* Effect.flip(spawner.exitCode(ChildProcess.make("cat", [], { stdin })))
        assert.strictEqual(error.reason._tag, "BadArgument")
        assert.match(error.message, /input|stdin/)
      }
    }))

  test("input: otherwise a program reads its end at once", ({ spawner }) =>
    Effect.gen(function* () {
      for (const options of [
        {},
        { stdin: "pipe" },
        { stdin: "ignore" }
      ] satisfies ReadonlyArray<ChildProcess.CommandOptions>) {
        assert.strictEqual(yield* spawner.string(ChildProcess.make("cat", [], options)), "")
      }
    }))
}

const registerInherit = (test: P.Test, options: Options): void => {
  test("inherit: output goes to the Stdio of whoever spawns, and is not in the handle", () =>
    Effect.gen(function* () {
      const got = { stdout: "", stderr: "" }
      const capture = (name: keyof typeof got) => () =>
        Sink.forEach((chunk: string | Uint8Array) =>
          Effect.sync(() => {
            got[name] += typeof chunk === "string" ? chunk : P.text(chunk)
          })
        )
      const stdio = Stdio.make({
        args: Effect.succeed([]),
        stdout: capture("stdout"),
        stderr: capture("stderr"),
        stdin: Stream.make(P.bytes("typed"))
      })
      const script = options.stdin ? "printf out; cat; printf err >&2" : "printf outtyped; printf err >&2"
      yield* Effect.gen(function* () {
        const result = yield* P.run(
          P.sh(script, [], { stdin: options.stdin ? "inherit" : "ignore", stdout: "inherit", stderr: "inherit" })
        )
        assert.deepStrictEqual(result, { stdout: "", stderr: "", code: 0 })
      }).pipe(Effect.provideService(Stdio.Stdio, stdio))
      yield* P.eventually(
        Effect.suspend(() =>
          got.stdout === "outtyped" && got.stderr === "err" ? Effect.void : Effect.fail("not yet" as const)
        )
      )
    }))
}

const registerFds = (test: P.Test): void => {
  test("descriptors: input from a Stream and through the handle's Sink", () =>
    Effect.gen(function* () {
      const given = yield* P.sh("cat <&3", [], {
        additionalFds: { fd3: { type: "input", stream: Stream.make(P.bytes("given")) } }
      })
      assert.strictEqual(yield* P.collectText(given.stdout), "given")
      const bytes = P.random(1 << 20)
      const byHand = yield* P.sh("cat <&4", [], { additionalFds: { fd4: { type: "input" } } })
      const [read] = yield* Effect.all(
        [P.collect(byHand.stdout), Stream.run(Stream.make(bytes), byHand.getInputFd(4))],
        { concurrency: "unbounded" }
      )
      P.assertSameBytes(read, bytes)
      assert.strictEqual(yield* byHand.exitCode, 0)
    }))

  test("descriptors: output, also through a Sink, several with a gap", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh("echo three >&3; echo five >&5; echo out", [], {
        additionalFds: { fd5: { type: "output", sink: bracketed }, fd3: { type: "output" } }
      })
      const texts = yield* Effect.all(
        [P.collectText(handle.stdout), P.collectText(handle.getOutputFd(3)), P.collectText(handle.getOutputFd(5))],
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(texts, ["out\n", "three\n", "<five\n>"])
    }))

  test("descriptors: both ways, and the end of the input only ends that", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh("while read -r line; do echo got $line; done <&3 >&3; echo end >&3", [], {
        additionalFds: { fd3: { type: "duplex" } }
      })
      const next = yield* P.lines(handle.getOutputFd(3))
      yield* Stream.run(Stream.make(P.bytes("one\n"), P.bytes("two\n")), handle.getInputFd(3))
      assert.deepStrictEqual([yield* next, yield* next, yield* next], ["got one", "got two", "end"])
      assert.strictEqual(yield* handle.exitCode, 0)
    }))

  test("descriptors: a Stream that fails fails `exitCode`", ({ spawner }) =>
    Effect.gen(function* () {
      const command = P.sh("cat <&3", [], {
        additionalFds: { fd3: { type: "input", stream: Stream.fail(failure) } }
      })
      assert.strictEqual(yield* Effect.flip(spawner.exitCode(command)), failure)
    }))

  test("descriptors: what is not configured takes everything and yields nothing", () =>
    Effect.gen(function* () {
      const handle = yield* P.sh("echo ok", [], { additionalFds: { fd3: { type: "output" } } })
      yield* Stream.run(Stream.make(P.bytes("x")), handle.getInputFd(7))
      assert.strictEqual(yield* P.collectText(handle.getOutputFd(7)), "")
      assert.strictEqual(yield* P.collectText(handle.stdout), "ok\n")
    }))
}

const registerNoFds = (test: P.Test): void => {
  test("descriptors: any is BadArgument, which says why", ({ spawner }) =>
    Effect.gen(function* () {
      for (const command of [
        P.sh("true", [], { additionalFds: { fd3: { type: "input" } } }),
        P.sh("true", [], { additionalFds: { fd3: { type: "output" } } }),
        P.sh("true", [], { additionalFds: { fd3: { type: "duplex" } } }),
        P.sh("echo x").pipe(ChildProcess.pipeTo(ChildProcess.make("cat"), { to: "fd3" }))
      ]) {
        const error = yield* Effect.flip(Effect.scoped(spawner.spawn(command)))
        assert.strictEqual(error.reason._tag, "BadArgument")
        assert.match(error.message, /descriptor|additionalFds|fd3/)
      }
    }))
}
