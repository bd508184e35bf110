/** The platform suite: pipelines, and what the spawner makes of a command by itself. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as ChildProcess from "effect/process/ChildProcess"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"

const cat = ChildProcess.make("cat")

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options, { concurrent: true })
  if (options.stdin) registerPipelines(test, options)
  registerHelpers(test, options)
}

const registerPipelines = (test: P.Test, options: Options): void => {
  test("pipelines: two and three programs; the exit code is the last one's", () =>
    Effect.gen(function* () {
      const two = P.sh("echo b; echo a").pipe(ChildProcess.pipeTo(ChildProcess.make("sort")))
      assert.deepStrictEqual(yield* P.run(two), { stdout: "a\nb\n", stderr: "", code: 0 })
      const three = two.pipe(ChildProcess.pipeTo(P.sh("cat; echo last; exit 4")))
      assert.deepStrictEqual(yield* P.run(three), { stdout: "a\nb\nlast\n", stderr: "", code: 4 })
      const nested = P.sh("echo x").pipe(
        ChildProcess.pipeTo(cat.pipe(ChildProcess.pipeTo(ChildProcess.make("wc", ["-l"]))))
      )
      assert.strictEqual((yield* P.run(nested)).stdout.trim(), "1")
    }))

  test("pipelines: every byte, megabytes", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(2 * (1 << 20) + 9)
      yield* fs.writeFile(at("file"), bytes)
      const handle = yield* ChildProcess.make("cat", [at("file")]).pipe(
        ChildProcess.pipeTo(cat),
        ChildProcess.pipeTo(cat)
      )
      P.assertSameBytes(yield* P.collect(handle.stdout), bytes)
      assert.strictEqual(yield* handle.exitCode, 0)
    }))

  test("pipelines: the input is the first one's", () =>
    Effect.gen(function* () {
      const handle = yield* cat.pipe(ChildProcess.pipeTo(P.sh("cat; echo end")))
      yield* Stream.run(Stream.make(P.bytes("in\n")), handle.stdin)
      assert.strictEqual(yield* P.collectText(handle.stdout), "in\nend\n")
      const given = ChildProcess.make("cat", [], { stdin: Stream.make(P.bytes("given")) })
      assert.strictEqual((yield* P.run(given.pipe(ChildProcess.pipeTo(cat)))).stdout, "given")
    }))

  test("pipelines: stderr, or both streams, may be what goes on", ({ spawner }) =>
    Effect.gen(function* () {
      const left = P.sh("echo out; echo err >&2")
      const from = (from: "stdout" | "stderr" | "all") =>
        spawner.lines(left.pipe(ChildProcess.pipeTo(cat, { from, to: "stdin" })))
      assert.deepStrictEqual(yield* from("stdout"), ["out"])
      assert.deepStrictEqual(yield* from("stderr"), ["err"])
      assert.sameMembers(yield* from("all"), ["out", "err"])
    }))

  if (options.additionalFds) {
    test("pipelines: from a descriptor and to one", ({ spawner }) =>
      Effect.gen(function* () {
        const left = P.sh("echo out; echo three >&3", [], { additionalFds: { fd3: { type: "output" } } })
        const string = (right: ChildProcess.Command, pipe: ChildProcess.PipeOptions) =>
          spawner.string(left.pipe(ChildProcess.pipeTo(right, pipe)))
        assert.strictEqual(yield* string(cat, { from: "fd3" }), "three\n")
        assert.strictEqual(yield* string(P.sh("cat <&3"), { to: "fd3" }), "out\n")
        assert.strictEqual(yield* string(P.sh("cat <&5"), { from: "fd3", to: "fd5" }), "three\n")
        const duplex = yield* left.pipe(
          ChildProcess.pipeTo(P.sh("sed s/^/got/ <&4 >&4", [], { additionalFds: { fd4: { type: "duplex" } } }), {
            to: "fd4"
          })
        )
        assert.strictEqual(yield* P.collectText(duplex.getOutputFd(4)), "gotout\n")
      }))
  }

  test("pipelines: one that fails in the middle is not the last one's failure", () =>
    Effect.gen(function* () {
      const command = P.sh("echo a").pipe(ChildProcess.pipeTo(P.sh("cat; exit 3")), ChildProcess.pipeTo(cat))
      assert.deepStrictEqual(yield* P.run(command), { stdout: "a\n", stderr: "", code: 0 })
    }))

  if (options.realProcesses) {
    test("pipelines: the right side may end early", ({ spawner }) =>
      Effect.gen(function* () {
        const command = ChildProcess.make("yes").pipe(ChildProcess.pipeTo(ChildProcess.make("head", ["-n1"])))
        assert.strictEqual(yield* spawner.string(command), "y\n")
        assert.strictEqual(yield* spawner.exitCode(command), 0)
      }))

    test("pipelines: what has started ends when the next cannot be started", ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        const first = P.sh(`echo $$ > "$1".tmp; mv "$1".tmp "$1"; exec sleep 300`, [at("pid")])
        const attempt = first.pipe(
          ChildProcess.pipeTo(ChildProcess.make("suite-no-such-program", [], { env: P.usualPath }))
        )
        yield* P.fails(Effect.scoped(spawner.spawn(attempt)), "NotFound")
        if (yield* fs.exists(at("pid"))) yield* P.assertGone([(yield* fs.readFileString(at("pid"))).trim()])
      }))

    test("pipelines: kill and the end of the Scope reach all of it", ({ at, fs }) =>
      Effect.gen(function* () {
        const member = (name: string) => P.sh(`echo $$ > "$1".tmp; mv "$1".tmp "$1"; exec sleep 300`, [at(name)])
        const pids = Effect.forEach(["left", "right"], (name) =>
          Effect.map(P.eventually(fs.readFileString(at(name))), (text) => text.trim())
        )
        const command = member("left").pipe(ChildProcess.pipeTo(member("right")))
        const handle = yield* command
        const killed = yield* pids
        yield* handle.kill()
        yield* P.assertGone(killed)
        for (const name of ["left", "right"]) yield* fs.remove(at(name))
        const scope = yield* Scope.make()
        yield* Scope.provide(command, scope)
        const closed = yield* pids
        yield* Scope.close(scope, Exit.void)
        yield* P.assertGone(closed)
      }))
  }
}

const registerHelpers = (test: P.Test, options: Options): void => {
  test("string and lines: the output, whatever the exit code", ({ spawner }) =>
    Effect.gen(function* () {
      const command = P.sh(`printf 'a\\n\\nb\\r\\nc'; echo err >&2; exit 3`)
      assert.strictEqual(yield* spawner.string(command), "a\n\nb\r\nc")
      assert.deepStrictEqual(yield* spawner.lines(command), ["a", "", "b", "c"])
      assert.deepStrictEqual(yield* Stream.runCollect(spawner.streamLines(command)), ["a", "", "b", "c"])
      assert.strictEqual(yield* Stream.mkString(spawner.streamString(command)), "a\n\nb\r\nc")
      assert.strictEqual(yield* spawner.exitCode(command), 3)
      assert.deepStrictEqual(yield* spawner.lines(P.sh("true")), [])
    }))

  test("string and lines: with stderr when it is asked for", ({ spawner }) =>
    Effect.gen(function* () {
      const command = P.sh("echo out; echo err >&2")
      assert.sameMembers(yield* spawner.lines(command, { includeStderr: true }), ["out", "err"])
      assert.lengthOf(yield* spawner.string(command, { includeStderr: true }), 8)
      assert.sameMembers(yield* Stream.runCollect(spawner.streamLines(command, { includeStderr: true })), [
        "out",
        "err"
      ])
    }))

  test("string: characters that are cut between two pieces, and what is no text", ({ spawner }) =>
    Effect.gen(function* () {
      const cut = P.sh(`printf '\\303'; sleep 0.05; printf '\\251\\360\\237'; sleep 0.05; printf '\\230\\200'`)
      assert.strictEqual(yield* spawner.string(cut), "é\u{1F600}")
      assert.strictEqual(yield* spawner.string(P.sh(`printf 'a\\377b'`)), "a\ufffdb")
    }))

  test("string, lines and exitCode: output that nobody asked for holds nothing back", ({ at, fs, spawner }) =>
    Effect.gen(function* () {
      yield* fs.writeFile(at("file"), P.random(1 << 20))
      const noisy = P.sh(`cat "$1" >&2; echo out`, [at("file")])
      assert.strictEqual(yield* spawner.string(noisy), "out\n")
      assert.deepStrictEqual(yield* spawner.lines(noisy), ["out"])
      assert.strictEqual(yield* spawner.exitCode(P.sh(`cat "$1"; cat "$1" >&2; exit 5`, [at("file")])), 5)
    }))

  test("streamLines: lines come while the program runs, and it ends with the stream", ({ at, fs, spawner }) =>
    Effect.gen(function* () {
      const command = P.sh(
        `echo first; until [ -e "$1" ]; do sleep 0.02; done; echo second; while :; do sleep 0.02; done`,
        [at("go")]
      )
      const lines = yield* spawner.streamLines(command).pipe(
        Stream.tap((line) => (line === "first" ? fs.writeFileString(at("go"), "") : Effect.void)),
        Stream.take(2),
        Stream.runCollect
      )
      assert.deepStrictEqual(lines, ["first", "second"])
    }))

  if (options.realProcesses) {
    test("exitCode: does not wait for a descendant that holds the output", ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        const code = yield* spawner.exitCode(P.sh(`sleep 300 & echo $! > "$1"; exit 0`, [at("pid")]))
        assert.strictEqual(code, 0)
        yield* P.assertGone([(yield* fs.readFileString(at("pid"))).trim()])
      }))

    test("streamLines: interruption ends the program", ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        const command = P.sh(`echo $$ > "$1".tmp; mv "$1".tmp "$1"; exec sleep 300`, [at("pid")])
        const fiber = yield* Effect.forkChild(Stream.runDrain(spawner.streamLines(command)))
        const pid = (yield* P.eventually(fs.readFileString(at("pid")))).trim()
        yield* Fiber.interrupt(fiber)
        yield* P.assertGone([pid])
      }))
  }
}
