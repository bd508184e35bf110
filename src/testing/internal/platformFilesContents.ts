/** The platform suite: whole files, streams and sinks. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as PlatformError from "effect/PlatformError"
import * as Stream from "effect/Stream"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)

  test("readFile and writeFile: every byte, none, and several MiB", ({ at, fs }) =>
    Effect.gen(function* () {
      const every = Uint8Array.from({ length: 256 }, (_, index) => index)
      for (const bytes of [every, new Uint8Array(0), P.random(3 * (1 << 20) + 7)]) {
        yield* fs.writeFile(at("file"), bytes)
        P.assertSameBytes(yield* fs.readFile(at("file")), bytes)
      }
    }))

  test("writeFile: what is given is not kept or changed", ({ at, fs }) =>
    Effect.gen(function* () {
      const whole = P.bytes("0123456789")
      yield* fs.writeFile(at("part"), whole.subarray(2, 5))
      assert.strictEqual(yield* fs.readFileString(at("part")), "234")
      assert.strictEqual(P.text(whole), "0123456789")
    }))

  test("writeFile: replaces, appends, or only creates", ({ at, fs }) =>
    Effect.gen(function* () {
      const write = (text: string, flag?: "a" | "wx" | "ax" | "r+" | "w+" | "a+") =>
        fs.writeFileString(at("file"), text, { flag })
      yield* P.fails(write("x", "r+"), "NotFound")
      yield* write("first", "wx")
      yield* P.fails(write("x", "wx"), "AlreadyExists")
      yield* P.fails(write("x", "ax"), "AlreadyExists")
      yield* write("+", "a")
      yield* write("+", "a+")
      assert.strictEqual(yield* fs.readFileString(at("file")), "first++")
      yield* write("FI", "r+")
      assert.strictEqual(yield* fs.readFileString(at("file")), "FIrst++")
      yield* write("new")
      assert.strictEqual(yield* fs.readFileString(at("file")), "new")
      yield* write("w", "w+")
      assert.strictEqual(yield* fs.readFileString(at("file")), "w")
    }))

  test("writeFile: the mode is that of a new file only, and a symlink is followed", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "1", { mode: 0o600 })
      yield* fs.writeFileString(at("file"), "2", { mode: 0o700 })
      yield* fs.symlink("file", at("link"))
      yield* fs.writeFileString(at("link"), "3")
      assert.strictEqual((yield* fs.stat(at("file"))).mode, 0o100600)
      assert.strictEqual(yield* fs.readFileString(at("file")), "3")
      assert.strictEqual(yield* fs.readLink(at("link")), "file")
    }))

  test("readFileString: encodings, a byte order mark, what is not text", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("utf8"), "\u{1F600} é e\u0301 \0 \r\n")
      assert.strictEqual(yield* fs.readFileString(at("utf8")), "\u{1F600} é e\u0301 \0 \r\n")
      yield* fs.writeFile(at("utf16"), Uint8Array.of(0x61, 0, 0xe9, 0))
      assert.strictEqual(yield* fs.readFileString(at("utf16"), "utf-16le"), "aé")
      yield* fs.writeFile(at("marked"), Uint8Array.of(0xef, 0xbb, 0xbf, 0x61))
      assert.strictEqual(yield* fs.readFileString(at("marked")), "a")
      yield* fs.writeFile(at("binary"), Uint8Array.of(0x61, 0xff, 0x62))
      assert.strictEqual(yield* fs.readFileString(at("binary")), "a\ufffdb")
      yield* P.fails(fs.readFileString(at("utf8"), "no such encoding"), "BadArgument")
    }))

  test("what a command writes is read, and what is written a command reads", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* P.output(`printf 'a\\000b\\377' > "$1"`, [at("from command")])
      assert.deepStrictEqual([...(yield* fs.readFile(at("from command")))], [0x61, 0, 0x62, 0xff])
      yield* fs.writeFileString(at("for command"), "to be read\n")
      assert.strictEqual(yield* P.output(`cat "$1"`, [at("for command")]), "to be read\n")
    }))

  if (options.specialFiles ?? true) {
    test("what is not a regular file is read and written too", ({ fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString("/dev/null", "gone")
        assert.strictEqual(yield* fs.readFileString("/dev/null"), "")
        assert.strictEqual(yield* P.collectText(fs.stream("/dev/null")), "")
      }))
  }

  test("stream: several MiB, byte for byte", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(3 * (1 << 20) + 12_345)
      yield* fs.writeFile(at("file"), bytes)
      P.assertSameBytes(yield* P.collect(fs.stream(at("file"))), bytes)
    }))

  test("stream: chunks are no larger than they may be", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(200_000)
      yield* fs.writeFile(at("file"), bytes)
      for (const [options, limit] of [
        [{}, 65_536],
        [{ chunkSize: 10_000 }, 10_000],
        [{ chunkSize: 1_000_000 }, 1_000_000]
      ] as const) {
        const chunks = yield* Stream.runCollect(fs.stream(at("file"), options))
        for (const { length } of chunks) {
          assert.isAbove(length, 0)
          assert.isAtMost(length, limit)
        }
        P.assertSameBytes(P.concat(chunks), bytes)
      }
    }))

  test("stream: a part of the file", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(200_000)
      yield* fs.writeFile(at("file"), bytes)
      const part = (options: {
        readonly offset?: number
        readonly bytesToRead?: number
        readonly chunkSize?: number
      }) => P.collect(fs.stream(at("file"), options))
      P.assertSameBytes(yield* part({ offset: 123_456 }), bytes.subarray(123_456))
      P.assertSameBytes(yield* part({ bytesToRead: 70_001 }), bytes.subarray(0, 70_001))
      P.assertSameBytes(yield* part({ offset: 65_535, bytesToRead: 3, chunkSize: 2 }), bytes.subarray(65_535, 65_538))
      P.assertSameBytes(yield* part({ offset: 199_999, bytesToRead: 1_000 }), bytes.subarray(199_999))
      for (const nothing of [{ offset: 200_000 }, { offset: 999_999 }, { bytesToRead: 0 }]) {
        assert.strictEqual((yield* part(nothing)).length, 0)
      }
    }))

  test("stream: an empty file, one that is read twice, one that is not read to the end", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFile(at("empty"), new Uint8Array(0))
      assert.strictEqual((yield* P.collect(fs.stream(at("empty")))).length, 0)
      yield* fs.writeFile(at("file"), P.random(1 << 20))
      const stream = fs.stream(at("file"))
      P.assertSameBytes(yield* P.collect(stream), yield* P.collect(stream))
      const first = yield* P.collect(Stream.take(fs.stream(at("file"), { chunkSize: 1_000 }), 1))
      P.assertSameBytes(first, (yield* fs.readFile(at("file"))).subarray(0, first.length))
    }))

  test("sink: replaces, in order, byte for byte", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "old contents")
      const parts = [P.bytes("first"), new Uint8Array(0), P.random(1 << 20), P.bytes("last")]
      yield* Stream.run(Stream.fromIterable(parts), fs.sink(at("file")))
      P.assertSameBytes(yield* fs.readFile(at("file")), P.concat(parts))
      yield* Stream.run(Stream.empty, fs.sink(at("file")))
      assert.strictEqual(yield* fs.readFileString(at("file")), "")
    }))

  test("sink: appends, or only creates, with a mode", ({ at, fs }) =>
    Effect.gen(function* () {
      const write = (text: string, options: Parameters<typeof fs.sink>[1]) =>
        Stream.run(Stream.make(P.bytes(text), P.bytes(".")), fs.sink(at("file"), options))
      yield* P.fails(write("x", { flag: "r+" }), "NotFound")
      yield* write("one", { flag: "wx", mode: 0o600 })
      yield* P.fails(write("x", { flag: "wx" }), "AlreadyExists")
      yield* write("two", { flag: "a" })
      assert.strictEqual(yield* fs.readFileString(at("file")), "one.two.")
      assert.strictEqual((yield* fs.stat(at("file"))).mode, 0o100600)
      yield* write("ONE", { flag: "r+" })
      assert.strictEqual(yield* fs.readFileString(at("file")), "ONE.two.")
    }))

  test("sink: a stream that fails fails it, and what came before is written", ({ at, fs }) =>
    Effect.gen(function* () {
      const failure = PlatformError.badArgument({ module: "Test", method: "stream" })
      const stream = Stream.concat(Stream.make(P.bytes("before")), Stream.fail(failure))
      assert.strictEqual(yield* Effect.flip(Stream.run(stream, fs.sink(at("file")))), failure)
      assert.strictEqual(yield* fs.readFileString(at("file")), "before")
    }))

  test("a stream runs into the sink of another file", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(2 * (1 << 20))
      yield* fs.writeFile(at("from"), bytes)
      yield* Stream.run(fs.stream(at("from")), fs.sink(at("to")))
      P.assertSameBytes(yield* fs.readFile(at("to")), bytes)
    }))
}
