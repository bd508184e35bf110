/** The platform suite: open files. */
import { assert } from "@effect/vitest"
import * as ByteSize from "effect/ByteSize"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"

/** What a flag allows and does, for a file that holds `data` and one that does not exist. */
const flags: ReadonlyArray<{
  readonly flag: FileSystem.OpenFlag
  readonly creates: boolean
  readonly exclusive: boolean
  readonly truncates: boolean
  readonly reads: boolean
  readonly writes: "no" | "at the cursor" | "at the end"
}> = [
  { flag: "r", creates: false, exclusive: false, truncates: false, reads: true, writes: "no" },
  { flag: "r+", creates: false, exclusive: false, truncates: false, reads: true, writes: "at the cursor" },
  { flag: "w", creates: true, exclusive: false, truncates: true, reads: false, writes: "at the cursor" },
  { flag: "wx", creates: true, exclusive: true, truncates: true, reads: false, writes: "at the cursor" },
  { flag: "w+", creates: true, exclusive: false, truncates: true, reads: true, writes: "at the cursor" },
  { flag: "wx+", creates: true, exclusive: true, truncates: true, reads: true, writes: "at the cursor" },
  { flag: "a", creates: true, exclusive: false, truncates: false, reads: false, writes: "at the end" },
  { flag: "ax", creates: true, exclusive: true, truncates: false, reads: false, writes: "at the end" },
  { flag: "a+", creates: true, exclusive: false, truncates: false, reads: true, writes: "at the end" },
  { flag: "ax+", creates: true, exclusive: true, truncates: false, reads: true, writes: "at the end" }
]

const readText = (file: FileSystem.File, size: number, position?: bigint) =>
  Effect.map(file.readAlloc(size, { position }), (read) => Option.map(read, P.text))

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)
  registerFlags(test)
  registerCursor(test)
  registerSharing(test, options)
}

const registerFlags = (test: P.Test): void => {
  for (const { creates, exclusive, flag, reads, truncates, writes } of flags) {
    test(`open ${flag}: what it makes of a file that is there, and of none`, ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("there"), "data")
        assert.strictEqual(
          yield* P.outcome(Effect.scoped(fs.open(at("there"), { flag }))),
          exclusive ? "AlreadyExists" : "success"
        )
        assert.strictEqual(yield* fs.readFileString(at("there")), truncates && !exclusive ? "" : "data")
        assert.strictEqual(
          yield* P.outcome(Effect.scoped(fs.open(at("none"), { flag }))),
          creates ? "success" : "NotFound"
        )
        assert.strictEqual(yield* fs.exists(at("none")), creates)
      }))

    test(`open ${flag}: what may be done with the file`, ({ at, fs }) =>
      Effect.gen(function* () {
        if (!exclusive) yield* fs.writeFileString(at("file"), "data")
        const before = exclusive || truncates ? "" : "data"
        const file = yield* fs.open(at("file"), { flag })
        assert.strictEqual(
          yield* P.outcome(file.read(new Uint8Array(1), { position: 0n })),
          reads ? "success" : "Unknown"
        )
        assert.strictEqual(yield* P.outcome(file.readAlloc(1, { position: 0n })), reads ? "success" : "Unknown")
        for (const write of [file.write(P.bytes("W")), file.writeAll(P.bytes("XY"))]) {
          assert.strictEqual(yield* P.outcome(write), writes === "no" ? "Unknown" : "success")
        }
        const after = { no: before, "at the cursor": `WXY${before.slice(3)}`, "at the end": `${before}WXY` }[writes]
        assert.strictEqual(yield* fs.readFileString(at("file")), after)
        assert.strictEqual(ByteSize.toBigInt((yield* file.stat).size), BigInt(after.length))
        assert.strictEqual(yield* P.outcome(file.truncate(1)), writes === "no" ? "Unknown" : "success")
        assert.strictEqual(yield* fs.readFileString(at("file")), writes === "no" ? after : after.slice(0, 1))
        yield* file.sync
      }))
  }

  test("open: without a flag it reads", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "data")
      const file = yield* fs.open(at("file"))
      assert.deepStrictEqual(yield* readText(file, 10), Option.some("data"))
      yield* P.fails(file.write(P.bytes("x")), "Unknown")
    }))

  test("open: the mode is that of a new file only", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* Effect.scoped(fs.open(at("private"), { flag: "w", mode: 0o600 }))
      yield* Effect.scoped(fs.open(at("program"), { flag: "wx", mode: 0o700 }))
      yield* Effect.scoped(fs.open(at("private"), { flag: "a", mode: 0o700 }))
      yield* Effect.scoped(fs.open(at("plain"), { flag: "w" }))
      const modes = yield* Effect.forEach(["private", "program"], (name) => fs.stat(at(name)))
      assert.deepStrictEqual(
        modes.map((info) => info.mode & 0o777),
        [0o600, 0o700]
      )
      assert.strictEqual((yield* fs.stat(at("plain"))).mode & 0o711, 0o600)
    }))

  test("open: the umask of the guest is taken off the mode", ({ at, fs }) =>
    Effect.gen(function* () {
      const umask = Number.parseInt(yield* P.output("umask"), 8)
      yield* Effect.scoped(fs.open(at("file"), { flag: "w", mode: 0o777 }))
      yield* fs.writeFile(at("plain"), new Uint8Array(0))
      yield* fs.makeDirectory(at("sub"))
      const modes = yield* Effect.forEach(["file", "plain", "sub"], (name) => fs.stat(at(name)))
      assert.deepStrictEqual(
        modes.map((info) => info.mode & 0o777),
        [0o777 & ~umask, 0o666 & ~umask, 0o777 & ~umask]
      )
    }))

  test("open: noFollow takes files, and symlinks above them, but not a symlink", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(at("sub"))
      yield* fs.writeFileString(at("sub/file"), "data")
      yield* fs.symlink("sub", at("link"))
      yield* fs.symlink("file", at("sub/link"))
      yield* fs.symlink("gone", at("dangling"))
      const file = yield* fs.open(at("link/file"), { noFollow: true })
      assert.deepStrictEqual(yield* readText(file, 10), Option.some("data"))
      for (const flag of ["r", "r+", "w", "a"] as const) {
        yield* P.fails(Effect.scoped(fs.open(at("sub/link"), { flag, noFollow: true })), "BadResource")
        yield* P.fails(Effect.scoped(fs.open(at("dangling"), { flag, noFollow: true })), "BadResource")
      }
      assert.strictEqual(yield* fs.readFileString(at("sub/file")), "data")
      assert.isFalse(yield* fs.exists(at("gone")))
      yield* Effect.scoped(fs.open(at("new"), { flag: "wx", noFollow: true, mode: 0o600 }))
      assert.strictEqual((yield* fs.stat(at("new"))).mode, 0o100600)
    }))

  test("open: through a symlink to nothing it makes the file", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.symlink("target", at("link"))
      const file = yield* fs.open(at("link"), { flag: "w" })
      yield* file.writeAll(P.bytes("through"))
      assert.strictEqual(yield* fs.readFileString(at("target")), "through")
      assert.strictEqual(yield* fs.readLink(at("link")), "target")
    }))

  test("open: a directory can be read about, not read", ({ at, fs }) =>
    Effect.gen(function* () {
      const file = yield* fs.open(at("."))
      assert.strictEqual((yield* file.stat).type, "Directory")
      yield* P.fails(file.readAlloc(10), "BadResource")
    }))
}

const registerCursor = (test: P.Test): void => {
  test("reads go on where the last one ended, and come to an end", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "0123456789")
      const file = yield* fs.open(at("file"))
      const buffer = new Uint8Array(4)
      assert.strictEqual(yield* file.read(buffer), 4)
      assert.strictEqual(P.text(buffer), "0123")
      assert.deepStrictEqual(yield* readText(file, 3), Option.some("456"))
      assert.strictEqual(yield* file.read(buffer), 3)
      // What was there before the end is all that is overwritten.
      assert.strictEqual(P.text(buffer), "7893")
      assert.strictEqual(yield* file.read(buffer), 0)
      assert.deepStrictEqual(yield* readText(file, 3), Option.none())
      assert.deepStrictEqual(yield* readText(file, 0, 0n), Option.none())
    }))

  test("reads at a position leave the cursor alone, and may run at once", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "0123456789")
      const file = yield* fs.open(at("file"))
      yield* file.seek(2n, "start")
      const digits = yield* Effect.forEach([...Array(10).keys()], (position) => readText(file, 1, BigInt(position)), {
        concurrency: "unbounded"
      })
      assert.strictEqual(digits.map(Option.getOrThrow).join(""), "0123456789")
      const buffer = new Uint8Array(3)
      assert.strictEqual(yield* file.read(buffer, { position: 8n }), 2)
      assert.strictEqual(yield* file.read(buffer, { position: 10n }), 0)
      assert.deepStrictEqual(yield* readText(file, 3, 1_000n), Option.none())
      assert.deepStrictEqual(yield* readText(file, 2), Option.some("23"))
    }))

  test("reads refuse what makes no sense", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "data")
      const file = yield* fs.open(at("file"))
      yield* P.fails(file.read(new Uint8Array(1), { position: -1n }), "BadArgument")
      yield* P.fails(file.readAlloc(1, { position: -1n }), "BadArgument")
      yield* P.fails(file.readAlloc(-1), "BadArgument")
      yield* P.fails(file.readAlloc(1.5), "BadArgument")
      assert.deepStrictEqual(yield* readText(file, 4), Option.some("data"))
    }))

  test("seek: from the start, from the cursor, not before the start", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "0123456789")
      const file = yield* fs.open(at("file"))
      assert.strictEqual(yield* file.seek(4n, "start"), 4n)
      assert.strictEqual(yield* file.seek(2n, "current"), 6n)
      assert.strictEqual(yield* file.seek(-1n, "current"), 5n)
      yield* P.fails(file.seek(-1n, "start"), "BadArgument")
      yield* P.fails(file.seek(-6n, "current"), "BadArgument")
      assert.deepStrictEqual(yield* readText(file, 1), Option.some("5"))
      assert.strictEqual(yield* file.seek(100n, "current"), 106n)
      assert.deepStrictEqual(yield* readText(file, 1), Option.none())
    }))

  test("writes go on at the cursor; beyond the end they leave zeros", ({ at, fs }) =>
    Effect.gen(function* () {
      const file = yield* fs.open(at("file"), { flag: "w+" })
      assert.strictEqual(yield* file.write(P.bytes("abc")), 3)
      yield* file.writeAll(P.bytes("def"))
      yield* file.seek(1n, "start")
      yield* file.writeAll(P.bytes("BC"))
      assert.deepStrictEqual(yield* readText(file, 10), Option.some("def"))
      yield* file.seek(8n, "start")
      yield* file.writeAll(P.bytes("end"))
      assert.strictEqual(yield* fs.readFileString(at("file")), "aBCdef\0\0end")
    }))

  test("writes of nothing, of binary data, of a megabyte", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(1 << 20)
      const file = yield* fs.open(at("file"), { flag: "w+" })
      assert.strictEqual(yield* file.write(new Uint8Array(0)), 0)
      yield* file.writeAll(new Uint8Array(0))
      yield* file.writeAll(Uint8Array.of(0, 255, 10, 13, 0))
      yield* file.writeAll(bytes)
      yield* file.sync
      P.assertSameBytes(yield* fs.readFile(at("file")), P.concat([Uint8Array.of(0, 255, 10, 13, 0), bytes]))
    }))

  test("appending does not move the cursor of reads", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "0123")
      const file = yield* fs.open(at("file"), { flag: "a+" })
      assert.deepStrictEqual(yield* readText(file, 2), Option.some("01"))
      yield* file.writeAll(P.bytes("45"))
      assert.deepStrictEqual(yield* readText(file, 10), Option.some("2345"))
      yield* file.seek(0n, "start")
      yield* file.writeAll(P.bytes("67"))
      assert.deepStrictEqual(yield* readText(file, 10), Option.some("01234567"))
    }))

  test("truncate of an open file: shorter, longer, all; the cursor stays within", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "0123456789")
      const file = yield* fs.open(at("file"), { flag: "r+" })
      yield* file.seek(8n, "start")
      yield* file.truncate(4)
      yield* file.writeAll(P.bytes("x"))
      assert.strictEqual(yield* fs.readFileString(at("file")), "0123x")
      yield* file.truncate(7)
      assert.strictEqual(yield* fs.readFileString(at("file")), "0123x\0\0")
      yield* file.truncate()
      assert.strictEqual(ByteSize.toBigInt((yield* file.stat).size), 0n)
      yield* file.writeAll(P.bytes("y"))
      assert.strictEqual(yield* fs.readFileString(at("file")), "y")
    }))

  test("truncate of a path: shorter, longer with zeros, all", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "0123456789")
      yield* fs.symlink("file", at("link"))
      yield* fs.truncate(at("link"), 4)
      assert.strictEqual(yield* fs.readFileString(at("file")), "0123")
      yield* fs.truncate(at("file"), 6)
      assert.strictEqual(yield* fs.readFileString(at("file")), "0123\0\0")
      yield* fs.truncate(at("file"))
      assert.strictEqual(yield* fs.readFileString(at("file")), "")
    }))
}

const registerSharing = (test: P.Test, options: Options): void => {
  test("two that append do not overwrite each other", ({ at, fs }) =>
    Effect.gen(function* () {
      const one = yield* fs.open(at("file"), { flag: "a" })
      const two = yield* fs.open(at("file"), { flag: "a" })
      yield* one.writeAll(P.bytes("1"))
      yield* two.writeAll(P.bytes("2"))
      yield* one.writeAll(P.bytes("3"))
      assert.strictEqual(yield* fs.readFileString(at("file")), "123")
      const lines = (name: string) => Array.from({ length: 20 }, (_, index) => `${name}${index}\n`)
      yield* fs.truncate(at("file"))
      yield* Effect.all(
        [
          Effect.forEach(lines("one"), (line) => one.writeAll(P.bytes(line))),
          Effect.forEach(lines("two"), (line) => two.writeAll(P.bytes(line)))
        ],
        { concurrency: "unbounded" }
      )
      const written = (yield* fs.readFileString(at("file"))).split("\n").filter((line) => line !== "")
      assert.sameMembers(
        written,
        [...lines("one"), ...lines("two")].map((line) => line.trim())
      )
    }))

  test("what one writes another reads at once", ({ at, fs }) =>
    Effect.gen(function* () {
      const writer = yield* fs.open(at("file"), { flag: "w" })
      const reader = yield* fs.open(at("file"))
      assert.deepStrictEqual(yield* readText(reader, 10), Option.none())
      yield* writer.writeAll(P.bytes("first"))
      assert.deepStrictEqual(yield* readText(reader, 10), Option.some("first"))
      yield* writer.writeAll(P.bytes("second"))
      assert.deepStrictEqual(yield* readText(reader, 10), Option.some("second"))
      assert.strictEqual(yield* P.output(`cat "$1"`, [at("file")]), "firstsecond")
    }))

  test("creating exclusively, several at once", ({ at, fs }) =>
    Effect.gen(function* () {
      const attempts = yield* Effect.forEach(
        [...Array(8).keys()],
        () => P.outcome(fs.writeFileString(at("lock"), "x", { flag: "wx" })),
        { concurrency: "unbounded" }
      )
      const won = attempts.filter((tag) => tag === "success").length
      assert.deepStrictEqual(
        attempts.filter((tag) => tag !== "success"),
        Array.from({ length: 8 - won }, () => "AlreadyExists")
      )
      if (options.files.atomicExclusiveCreate) assert.strictEqual(won, 1)
      else assert.isAtLeast(won, 1)
    }))

  for (const [what, replace] of [
    ["another file takes the name", (fs: FileSystem.FileSystem, path: string) => fs.rename(`${path}.other`, path)],
    ["the name is gone", (fs: FileSystem.FileSystem, path: string) => fs.remove(path)]
  ] as const) {
    if (options.files.openSurvivesRename) {
      test(`an open file stays that file: ${what}`, ({ at, fs }) =>
        Effect.gen(function* () {
          yield* fs.writeFileString(at("file"), "mine")
          yield* fs.writeFileString(at("file.other"), "other")
          const file = yield* fs.open(at("file"), { flag: "r+" })
          yield* replace(fs, at("file"))
          assert.deepStrictEqual(yield* readText(file, 10), Option.some("mine"))
          yield* file.writeAll(P.bytes("!"))
          yield* file.seek(0n, "start")
          assert.deepStrictEqual(yield* readText(file, 10), Option.some("mine!"))
          assert.strictEqual(ByteSize.toBigInt((yield* file.stat).size), 5n)
          if (yield* fs.exists(at("file"))) assert.strictEqual(yield* fs.readFileString(at("file")), "other")
        }))
    } else {
      test(`an open file is lost, and no other is touched: ${what}`, ({ at, fs }) =>
        Effect.gen(function* () {
          yield* fs.writeFileString(at("file"), "mine")
          yield* fs.writeFileString(at("file.other"), "other")
          const file = yield* fs.open(at("file"), { flag: "r+" })
          yield* file.writeAll(P.bytes("M"))
          yield* replace(fs, at("file"))
          yield* P.fails(file.readAlloc(10, { position: 0n }), "NotFound", "Busy")
          yield* P.fails(file.write(P.bytes("!")), "NotFound", "Busy")
          yield* P.fails(file.writeAll(P.bytes("!")), "NotFound", "Busy")
          yield* P.fails(file.truncate(1), "NotFound", "Busy")
          yield* P.fails(file.stat, "NotFound", "Busy")
          if (yield* fs.exists(at("file"))) assert.strictEqual(yield* fs.readFileString(at("file")), "other")
        }))
    }
  }

  if (options.files.openSurvivesRename) {
    test("an open file stays that file: it gets another name", ({ at, fs }) =>
      Effect.gen(function* () {
        const file = yield* fs.open(at("file"), { flag: "a" })
        yield* fs.rename(at("file"), at("moved"))
        yield* file.writeAll(P.bytes("after"))
        assert.strictEqual(yield* fs.readFileString(at("moved")), "after")
        assert.isFalse(yield* fs.exists(at("file")))
      }))
  }
}
