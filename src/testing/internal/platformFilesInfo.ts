/** The platform suite: what is known about files, and links. */
import { assert } from "@effect/vitest"
import * as ByteSize from "effect/ByteSize"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"

const permissions = (info: FileSystem.File.Info): number => info.mode & 0o7777

const size = (info: FileSystem.File.Info): bigint => ByteSize.toBigInt(info.size)

const millis = (time: Option.Option<Date>): number => Option.getOrThrow(time).getTime()

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)
  const { inodes, subSecondTimes } = options.files

  test("stat: a file", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "12345")
      yield* fs.chmod(at("file"), 0o640)
      const info = yield* fs.stat(at("file"))
      assert.strictEqual(info.type, "File")
      assert.strictEqual(size(info), 5n)
      // The type is in the mode too, as in C.
      assert.strictEqual(info.mode, 0o100640)
      assert.isTrue(Option.isSome(info.uid))
      assert.isTrue(Option.isSome(info.gid))
      assert.strictEqual((yield* fs.lstat(at("file"))).type, "File")
    }))

  test("stat: a directory", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(at("sub"))
      yield* fs.chmod(at("sub"), 0o1750)
      const info = yield* fs.stat(at("sub"))
      assert.strictEqual(info.type, "Directory")
      assert.strictEqual(info.mode, 0o041750)
      for (const path of [`${at("sub")}/`, at("sub/."), at("sub/../sub")]) {
        assert.strictEqual((yield* fs.stat(path)).type, "Directory", path)
      }
    }))

  test("stat follows a symlink, lstat does not", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "12345")
      yield* fs.symlink("./file", at("link"))
      yield* fs.symlink("link", at("link to link"))
      for (const name of ["link", "link to link"]) {
        const info = yield* fs.stat(at(name))
        assert.strictEqual(info.type, "File")
        assert.strictEqual(size(info), 5n)
      }
      const info = yield* fs.lstat(at("link"))
      assert.strictEqual(info.type, "SymbolicLink")
      assert.strictEqual(info.mode & 0o170000, 0o120000)
      assert.strictEqual(size(info), 6n)
      yield* fs.symlink("gone", at("dangling"))
      assert.strictEqual((yield* fs.lstat(at("dangling"))).type, "SymbolicLink")
    }))

  if (options.specialFiles ?? true) {
    test("stat: a FIFO and a character device", ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        assert.strictEqual(yield* spawner.exitCode(P.sh(`mkfifo "$1"`, [at("fifo")])), 0)
        assert.strictEqual((yield* fs.stat(at("fifo"))).type, "FIFO")
        assert.strictEqual((yield* fs.lstat(at("fifo"))).type, "FIFO")
        assert.strictEqual((yield* fs.stat("/dev/null")).type, "CharacterDevice")
        assert.deepStrictEqual(yield* fs.readDirectoryEntries(at(".")), [{ name: "fifo", type: "FIFO" }])
      }))
  }

  if (options.sparseFiles ?? true) {
    test("a file of more than 4 GiB", ({ at, fs }) =>
      Effect.gen(function* () {
        const length = 2 ** 32 + 5
        yield* fs.truncate(yield* created(fs, at("large")), length)
        assert.strictEqual(size(yield* fs.stat(at("large"))), BigInt(length))
        const file = yield* fs.open(at("large"), { flag: "r+" })
        yield* file.seek(BigInt(length - 2), "start")
        yield* file.writeAll(P.bytes("end"))
        assert.strictEqual(size(yield* file.stat), BigInt(length + 1))
        assert.strictEqual(
          yield* P.collectText(fs.stream(at("large"), { offset: ByteSize.bytes(BigInt(length - 2)) })),
          "end"
        )
      }))
  }

  if (inodes) {
    test("stat: inodes, devices and numbers of links are those of the files", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("one"), "x")
        yield* fs.writeFileString(at("two"), "x")
        yield* fs.link(at("one"), at("same"))
        const [one, two, same] = yield* Effect.forEach(["one", "two", "same"], (name) => fs.stat(at(name)))
        assert.deepStrictEqual(one?.ino, same?.ino)
        assert.notDeepEqual(one?.ino, two?.ino)
        assert.isTrue(Option.isSome(one?.ino ?? Option.none()))
        assert.strictEqual(one?.dev, two?.dev)
        assert.deepStrictEqual([one?.nlink, two?.nlink], [Option.some(2n), Option.some(1n)])
        const shown = yield* P.output(`ls -di "$1"`, [at("one")])
        assert.strictEqual(shown.trim().split(" ")[0], String(Option.getOrThrow(one?.ino ?? Option.none())))
      }))

    test("link: two names of one file", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("one"), "before")
        yield* fs.link(at("one"), at("two"))
        yield* fs.writeFileString(at("two"), "after")
        assert.strictEqual(yield* fs.readFileString(at("one")), "after")
        yield* fs.remove(at("one"))
        assert.strictEqual(yield* fs.readFileString(at("two")), "after")
        assert.deepStrictEqual((yield* fs.stat(at("two"))).nlink, Option.some(1n))
      }))

    test("link: a symlink itself, not what it points to", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.symlink("gone", at("symlink"))
        yield* fs.link(at("symlink"), at("two"))
        assert.strictEqual(yield* fs.readLink(at("two")), "gone")
      }))
  } else {
    test("stat: without inodes it makes up none", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("one"), "x")
        const info = yield* fs.stat(at("one"))
        assert.deepStrictEqual([info.ino, info.nlink], [Option.none(), Option.none()])
      }))

    test("link: another name with the same contents", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("one"), "contents")
        yield* fs.link(at("one"), at("two"))
        assert.strictEqual(yield* fs.readFileString(at("two")), "contents")
      }))
  }

  test("stat: the time of a change is about now, by the guest's own clock", ({ at, fs }) =>
    Effect.gen(function* () {
      const before = Number((yield* P.output("date +%s")).trim())
      yield* fs.writeFileString(at("file"), "x")
      const after = Number((yield* P.output("date +%s")).trim())
      const changed = Math.floor(millis((yield* fs.stat(at("file"))).mtime) / 1000)
      // The time of files comes from a clock that may lag a tick behind.
      assert.isAtLeast(changed, before - 1)
      assert.isAtMost(changed, after)
    }))

  test("utimes: dates, and numbers of seconds", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "x")
      yield* fs.utimes(at("file"), P.date(1_000_000_000_000), P.date(1_234_567_890_000))
      const dates = yield* fs.stat(at("file"))
      assert.strictEqual(millis(dates.atime), 1_000_000_000_000)
      assert.strictEqual(millis(dates.mtime), 1_234_567_890_000)
      yield* fs.utimes(at("file"), 86_400, 172_800)
      const numbers = yield* fs.stat(at("file"))
      assert.strictEqual(millis(numbers.atime), 86_400_000)
      assert.strictEqual(millis(numbers.mtime), 172_800_000)
    }))

  test(`utimes: ${subSecondTimes ? "milliseconds are kept" : "a fraction of a second is cut off"}`, ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "x")
      yield* fs.utimes(at("file"), 1.5, P.date(1_234_567_890_250))
      const info = yield* fs.stat(at("file"))
      assert.strictEqual(millis(info.atime), subSecondTimes ? 1_500 : 1_000)
      assert.strictEqual(millis(info.mtime), subSecondTimes ? 1_234_567_890_250 : 1_234_567_890_000)
    }))

  test("utimes: follows a symlink, and takes directories", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(at("sub"))
      yield* fs.symlink("sub", at("link"))
      yield* fs.utimes(at("link"), 1_000, 2_000)
      assert.strictEqual(millis((yield* fs.stat(at("sub"))).mtime), 2_000_000)
      assert.notStrictEqual(millis((yield* fs.lstat(at("link"))).mtime), 2_000_000)
    }))

  test("chmod: every bit, of files and directories, through symlinks", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "x")
      yield* fs.symlink("file", at("link"))
      for (const mode of [0o644, 0o600, 0o755, 0o400, 0o4755]) {
        yield* fs.chmod(at("link"), mode)
        assert.strictEqual(permissions(yield* fs.stat(at("file"))), mode)
      }
      yield* fs.makeDirectory(at("sub"))
      yield* fs.chmod(at("sub"), 0o711)
      assert.strictEqual(permissions(yield* fs.stat(at("sub"))), 0o711)
    }))

  if (options.chown === true) {
    test("chown: owner and group, through symlinks", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("file"), "x")
        yield* fs.symlink("file", at("link"))
        yield* fs.chown(at("link"), 12_345, 23_456)
        const info = yield* fs.stat(at("file"))
        assert.deepStrictEqual([info.uid, info.gid], [Option.some(12_345), Option.some(23_456)])
        assert.notDeepEqual((yield* fs.lstat(at("link"))).uid, Option.some(12_345))
      }))
  } else {
    test("chown: what is one's own may be kept, and may not be given away", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("file"), "x")
        const { gid, uid } = yield* fs.stat(at("file"))
        yield* fs.chown(at("file"), Option.getOrThrow(uid), Option.getOrThrow(gid))
        yield* P.fails(fs.chown(at("file"), 12_345, 23_456), "PermissionDenied")
      }))
  }

  test("access: what is there may be read and written by its owner", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "x")
      yield* fs.makeDirectory(at("sub"))
      for (const name of ["file", "sub"]) {
        yield* fs.access(at(name))
        yield* fs.access(at(name), { ok: true })
        yield* fs.access(at(name), { readable: true, writable: true })
        assert.isTrue(yield* fs.exists(at(name)))
      }
    }))

  test("symlink: the target is kept as it was written", ({ at, fs }) =>
    Effect.gen(function* () {
      for (const [index, target] of ["gone", "../up/../x", "/abs//olute/", "-n", " ", "a\nb\n", "./"].entries()) {
        yield* fs.symlink(target, at(`link${index}`))
        assert.strictEqual(yield* fs.readLink(at(`link${index}`)), target)
      }
    }))

  test("symlink: a relative target is relative to the link", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(at("a/b"), { recursive: true })
      yield* fs.writeFileString(at("a/file"), "found")
      yield* fs.symlink("../file", at("a/b/link"))
      assert.strictEqual(yield* fs.readFileString(at("a/b/link")), "found")
      yield* fs.symlink("a/b", at("directory"))
      assert.strictEqual(yield* fs.readFileString(at("directory/../file")), "found")
    }))

  test("realPath: without symlinks, `.`, `..` and double slashes", ({ at, directory, fs }) =>
    Effect.gen(function* () {
      const real = yield* fs.realPath(directory)
      yield* fs.makeDirectory(at("a/b"), { recursive: true })
      yield* fs.writeFileString(at("a/b/file"), "x")
      yield* fs.symlink("a", at("link"))
      yield* fs.symlink("link/b/file", at("link to file"))
      for (const path of ["a/b/file", "link/b/file", "a//b/./file", "a/b/../b/file", "link to file"]) {
        assert.strictEqual(yield* fs.realPath(at(path)), `${real}/a/b/file`, path)
      }
      assert.strictEqual(yield* fs.realPath(at("link/")), `${real}/a`)
      assert.strictEqual(yield* fs.realPath("/"), "/")
    }))
}

/** Makes an empty file and yields its path. */
const created = (fs: FileSystem.FileSystem, path: string) => Effect.as(fs.writeFile(path, new Uint8Array(0)), path)
