/** What the files of a guest cost, and what happens when the guest plays tricks. */
import { assert, describe, it } from "@effect/vitest"
import { ByteSize, Deferred, Effect, Exit, Fiber, Option, PlatformError, Stream } from "effect"
import type { FileSystem } from "effect"
import { TestClock } from "effect/testing"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import { isSandboxError, SandboxError, Unavailable } from "../../src/errors.ts"
import { derive } from "../../src/services/internal/guestFiles.ts"
import type { Machine } from "../../src/services/SandboxProvider.ts"
import { eventually } from "../layers/providers/support/local.ts"
import { full, some } from "../support/full.ts"
import type { PathOf } from "../support/guests.ts"
import { applets, busybox, guest, hostPath, temporary } from "../support/guests.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

const reasonOf = <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason)

const tagOf = <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>) =>
  Effect.map(reasonOf(effect), ({ _tag }) => _tag)

/** A `PATH` on which every file has the same inode and nobody knows when it was made: as if each had got that of the one before it. */
const oneInode: PathOf = Effect.map(temporary, (directory) => {
  const [stat = "", path = ""] = ChildProcess.execFileSync("sh", ["-c", 'command -v stat; echo "$PATH"'])
    .toString()
    .split("\n")
  const program = `#!/bin/sh
for word do
  shift
  case $word in
  %d:%i:%.9W) word=%d:7:- ;;
  *%i*) word=$(printf %s "$word" | sed 's/%i/7/; s/%\\.9W/-/') ;;
  esac
  set -- "$@" "$word"
done
exec ${stat} "$@"
`
  Fs.writeFileSync(`${directory}/stat`, program, { mode: 0o755 })
  return `${directory}:${path}`
})

/** The reason of the sandbox that is behind a failure. */
const causeOf = <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>) =>
  Effect.map(reasonOf(effect), (reason) => {
    assert.strictEqual(reason._tag, "Unknown")
    if (!isSandboxError(reason.cause)) throw new Error("no failure of the sandbox")
    return reason.cause.reason
  })

const cases = (tools: string, pathOf: PathOf, births: boolean) => {
  describe(`the files of a guest with ${tools}`, () => {
    it.live("one command an operation, after one that asks for the tools", () =>
      Effect.gen(function* () {
        const { at, fs, trips } = yield* guest(pathOf)
        assert.strictEqual(yield* trips(fs.stat("/")), 2)
        for (const name of ["tree", "tree/a", "tree/a/b", "tree/c"]) {
          assert.strictEqual(yield* trips(fs.makeDirectory(at(name))), 1)
        }
        const operations: Record<string, Effect.Effect<unknown, PlatformError.PlatformError>> = {
          writeFile: fs.writeFile(at("tree/a/file"), bytes("data")),
          writeFileString: fs.writeFileString(at("file"), "data", { flag: "wx", mode: 0o755 }),
          sink: Stream.run(Stream.make(bytes("a"), bytes("b")), fs.sink(at("sunk"))),
          stream: Stream.runDrain(fs.stream(at("file"), { offset: 1, bytesToRead: 2 })),
          stat: fs.stat(at("file")),
          lstat: fs.lstat(at("file")),
          access: fs.access(at("file"), { readable: true, writable: true }),
          exists: fs.exists(at("no/such/file")),
          chmod: fs.chmod(at("file"), 0o600),
          utimes: fs.utimes(at("file"), 1, 2),
          truncate: fs.truncate(at("file"), 3),
          symlink: fs.symlink("file", at("symlink")),
          readLink: fs.readLink(at("symlink")),
          realPath: fs.realPath(at("symlink")),
          link: fs.link(at("file"), at("link")),
          rename: fs.rename(at("link"), at("renamed")),
          copyFile: fs.copyFile(at("file"), at("copied")),
          copy: fs.copy(at("tree"), at("tree2")),
          "copy onto": fs.copy(at("tree"), at("tree2"), { overwrite: true, preserveTimestamps: true }),
          readDirectory: fs.readDirectory(at("tree"), { recursive: true }),
          readDirectoryEntries: fs.readDirectoryEntries(at("tree")),
          remove: fs.remove(at("tree2"), { recursive: true }),
          makeTempDirectory: fs.makeTempDirectory({ prefix: "p" }),
          makeTempFile: fs.makeTempFile({ suffix: ".s" }),
          "remove with force": fs.remove(at("none"), { force: true })
        }
        const counts: Record<string, number> = {}
        for (const [name, operation] of Object.entries(operations)) counts[name] = yield* trips(operation)
        assert.deepStrictEqual(counts, Object.fromEntries(Object.keys(operations).map((name) => [name, 1])))
        assert.strictEqual(yield* trips(fs.readFile(at("file"))), 0)
        // One for each directory.
        assert.strictEqual(yield* trips(fs.glob("**/*", { root: at("tree") })), 4)
      })
    )

    it.live("one command an operation of an open file", () =>
      Effect.gen(function* () {
        const { at, fs, trips } = yield* guest(pathOf)
        yield* fs.writeFileString(at("file"), "0123456789")
        const open = fs.open(at("file"), { flag: "r+" })
        assert.strictEqual(yield* trips(open), 1)
        const file = yield* open
        const operations = [file.stat, file.sync, file.read(new Uint8Array(3)), file.readAlloc(3), file.truncate(8)]
        for (const operation of operations) assert.strictEqual(yield* trips(operation), 1)
        assert.strictEqual(yield* trips(file.writeAll(new Uint8Array(1 << 20))), 1)
        assert.strictEqual(yield* trips(file.seek(0n, "start")), 0)
      })
    )

    it.live.runIf(full || births)(
      `${full ? "ten" : "two"} thousand entries are one command`,
      () =>
        Effect.gen(function* () {
          const { at, fs, trips } = yield* guest(pathOf)
          const expected: Array<string> = []
          for (let directory = 0; directory < (full ? 100 : 20); directory++) {
            Fs.mkdirSync(at(`tree/${directory}`), { recursive: true })
            expected.push(String(directory))
            for (let file = 0; file < 99; file++) {
              expected.push(`${directory}/${file}`)
              Fs.writeFileSync(at(`tree/${directory}/${file}`), "")
            }
          }
          let names: ReadonlyArray<string> = []
          const listing = Effect.map(fs.readDirectory(at("tree"), { recursive: true }), (found) => {
            names = found
          })
          yield* fs.stat("/")
          assert.strictEqual(yield* trips(listing), 1)
          assert.deepStrictEqual(names.toSorted(), expected.toSorted())
        }),
      60_000
    )

    it.live("paths are arguments of scripts that are always the same", () =>
      Effect.gen(function* () {
        const { at, fs, starts } = yield* guest(pathOf)
        const scripts = (name: string) =>
          Effect.gen(function* () {
            const before = starts.length
            yield* fs.writeFileString(at(name), "x")
            yield* fs.copyFile(at(name), at(`${name}2`))
            yield* fs.rename(at(name), at(`${name}3`))
            yield* fs.readDirectory(at("."))
            return starts.slice(before).map(({ args }) => args[1])
          })
        yield* fs.stat("/")
        assert.deepStrictEqual(yield* scripts("plain"), yield* scripts("$(touch x); `id` '\"\n--help"))
        assert.isFalse(Fs.existsSync(at("x")))
      })
    )

    it.live("stat says what Node says", () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest(pathOf)
        Fs.writeFileSync(at("file"), "x".repeat(10_000))
        Fs.utimesSync(at("file"), 1_234_567_890.123, 987_654_321.987)
        Fs.symlinkSync("file", at("link"))
        Fs.linkSync(at("file"), at("same"))
        for (const path of [at("file"), at("link"), at("."), "/dev/null", "/dev/zero", "/proc/self/status", "/"]) {
          for (const [mine, theirs] of [
            [yield* fs.stat(path), Fs.statSync(path, { bigint: true })],
            [yield* fs.lstat(path), Fs.lstatSync(path, { bigint: true })]
          ] as const) {
            if (path.startsWith("/proc/")) {
              assert.strictEqual(mine.mode, Number(theirs.mode))
              continue
            }
            assert.deepStrictEqual(
              [mine.mode, mine.dev, ByteSize.toBigInt(mine.size), mine.atime, mine.mtime],
              [Number(theirs.mode), theirs.dev, theirs.size, Option.some(theirs.atime), Option.some(theirs.mtime)]
            )
            assert.deepStrictEqual(
              [mine.ino, mine.nlink, mine.uid, mine.gid, mine.rdev, mine.blksize, mine.blocks],
              [
                theirs.ino,
                theirs.nlink,
                Number(theirs.uid),
                Number(theirs.gid),
                theirs.rdev,
                ByteSize.bytes(theirs.blksize),
                theirs.blocks
              ].map(Option.some)
            )
            if (births && theirs.birthtimeMs > 0n) {
              assert.deepStrictEqual(mine.birthtime, Option.some(theirs.birthtime))
            }
          }
        }
      })
    )

    it.live("names that are no UTF-8 are listed as Node lists them", () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest(pathOf)
        Fs.mkdirSync(at("d"))
        for (const name of [
          [0xff, 0x61],
          [0xc3, 0x0a, 0xbf],
          [0xef, 0xbb, 0xbf, 0x62]
        ]) {
          Fs.writeFileSync(Buffer.concat([Buffer.from(at("d/")), Buffer.from(name)]), "")
        }
        const expected = Fs.readdirSync(at("d")).toSorted()
        assert.deepStrictEqual((yield* fs.readDirectory(at("d"))).toSorted(), expected)
        assert.deepStrictEqual((yield* fs.readDirectory(at("d"), { recursive: true })).toSorted(), expected)
        assert.deepStrictEqual((yield* fs.readDirectoryEntries(at("d"))).map(({ name }) => name).toSorted(), expected)
      })
    )

    for (const [what, replace] of some<readonly [what: string, replace: (path: string) => unknown]>(
      [
        ["a FIFO", (path) => ChildProcess.execFileSync("mkfifo", [path])],
        ["a copy with the same times", (path) => ChildProcess.execFileSync("cp", ["-p", `${path}.old`, path])]
      ],
      [
        ["a directory", (path) => Fs.mkdirSync(path)],
        ["a symlink to another file", (path) => Fs.symlinkSync("other", path)]
      ]
    )) {
      it.live(`an open file whose name is given to ${what} is Busy, and nothing else is touched`, () =>
        Effect.gen(function* () {
          const { at, fs } = yield* guest(pathOf)
          Fs.writeFileSync(at("other"), "other")
          Fs.writeFileSync(at("file"), "mine")
          const file = yield* fs.open(at("file"), { flag: "r+" })
          const appending = yield* fs.open(at("file"), { flag: "a" })
          Fs.renameSync(at("file"), at("file.old"))
          replace(at("file"))
          const before = Fs.lstatSync(at("file"), { bigint: true })
          for (const operation of [
            file.readAlloc(4, { position: 0n }),
            file.writeAll(bytes("!")),
            file.truncate(0),
            file.stat,
            file.sync,
            appending.writeAll(bytes("!"))
          ]) {
            assert.strictEqual(yield* tagOf(operation), "Busy")
          }
          assert.strictEqual(Fs.readFileSync(at("other"), "utf8"), "other")
          assert.strictEqual(Fs.readFileSync(at("file.old"), "utf8"), "mine")
          const after = Fs.lstatSync(at("file"), { bigint: true })
          assert.deepStrictEqual([after.ino, after.size, after.mtimeNs], [before.ino, before.size, before.mtimeNs])
          // And when the file is back under its name, it goes on.
          Fs.rmSync(at("file"), { recursive: true })
          Fs.renameSync(at("file.old"), at("file"))
          yield* file.writeAll(bytes("M"))
          assert.strictEqual(Fs.readFileSync(at("file"), "utf8"), "Mine")
        })
      )
    }

    it.live("an open file that was made anew is another one, whatever inode it has got", () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest(pathOf)
        yield* fs.writeFileString(at("file"), "mine")
        const file = yield* fs.open(at("file"), { flag: "r+" })
        Fs.rmSync(at("file"))
        assert.strictEqual(yield* tagOf(file.writeAll(bytes("!"))), "NotFound")
        assert.isFalse(Fs.existsSync(at("file")))
        Fs.writeFileSync(at("file"), "else")
        assert.strictEqual(yield* tagOf(file.writeAll(bytes("!"))), "Busy")
        assert.strictEqual(yield* tagOf(file.readAlloc(4)), "Busy")
        assert.strictEqual(Fs.readFileSync(at("file"), "utf8"), "else")
      })
    )

    it.live(
      births
        ? "an open file that somebody else writes to is the same file"
        : "an open file that somebody else writes to may be another one that has its inode",
      () =>
        Effect.gen(function* () {
          const { at, fs } = yield* guest(pathOf)
          yield* fs.writeFileString(at("file"), "0123")
          const file = yield* fs.open(at("file"))
          Fs.appendFileSync(at("file"), "4567")
          if (births) assert.deepStrictEqual(yield* file.readAlloc(8), Option.some(bytes("01234567")))
          else assert.strictEqual(yield* tagOf(file.readAlloc(8)), "Busy")
        })
    )

    it.live("records that two append at once stay whole", () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest(pathOf)
        const files = yield* Effect.forEach([1, 2, 3], () => fs.open(at("log"), { flag: "a" }))
        yield* Effect.forEach(
          files.flatMap((file, index) => Array.from({ length: 3 }, () => [file, index] as const)),
          ([file, index]) => file.writeAll(new Uint8Array(100_000).fill(index + 1)),
          { concurrency: "unbounded", discard: true }
        )
        const all = Fs.readFileSync(at("log"))
        assert.strictEqual(all.length, 900_000)
        for (let at = 0; at < all.length; at += 100_000) {
          const record = all.subarray(at, at + 100_000)
          assert.isTrue(record.every((byte) => byte === record[0]))
        }
      })
    )

    it.live("an interrupted operation leaves no command behind", () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest(pathOf)
        ChildProcess.execFileSync("mkfifo", [at("fifo")])
        const running = () => ChildProcess.execFileSync("ps", ["-axo", "args="]).toString().includes(at("fifo"))
        for (const blocked of [
          Stream.runDrain(fs.stream(at("fifo"))),
          fs.writeFileString(at("fifo"), "x"),
          Stream.run(Stream.make(bytes("x")), fs.sink(at("fifo")))
        ]) {
          const fiber = yield* Effect.forkChild(blocked)
          yield* eventually("the command runs", running)
          yield* Fiber.interrupt(fiber)
          assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
          assert.isFalse(running())
        }
      })
    )

    it.live("a stream that is not read to the end ends its command", () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest(pathOf)
        Fs.symlinkSync("/dev/zero", at("endless"))
        const running = () => ChildProcess.execFileSync("ps", ["-axo", "args="]).toString().includes(at("endless"))
        const chunks = yield* Stream.runCollect(Stream.take(fs.stream(at("endless")), 3))
        assert.strictEqual(chunks.length, 3)
        assert.isFalse(running())
      })
    )

    it.effect("a watch looks once a second, with one command", () =>
      Effect.gen(function* () {
        const { at, fs, starts } = yield* guest(pathOf)
        const ready = yield* Deferred.make<void>()
        const seen: Array<FileSystem.WatchEvent> = []
        Fs.writeFileSync(at("old"), "1")
        yield* TestClock.withLive(fs.stat("/"))
        const before = starts.length
        yield* fs.watch(at("."), { onReady: () => Deferred.doneUnsafe(ready, Effect.void) }).pipe(
          Stream.runForEach((event) => Effect.sync(() => seen.push(event))),
          Effect.forkScoped
        )
        yield* Deferred.await(ready)
        assert.strictEqual(starts.length - before, 1)
        Fs.writeFileSync(at("new"), "1")
        Fs.chmodSync(at("old"), 0o600)
        yield* TestClock.adjust("999 millis")
        assert.strictEqual(starts.length - before, 1)
        yield* TestClock.adjust("1 millis")
        yield* TestClock.withLive(eventually("it has looked", () => seen.length === 2))
        assert.strictEqual(starts.length - before, 2)
        assert.sameDeepMembers(seen, [
          { _tag: "Create", path: "new" },
          { _tag: "Update", path: "old" }
        ])
      })
    )
  })
}

cases("GNU tools", hostPath, true)

if (busybox === "") {
  describe.skip("the files of a guest with busybox: there is no busybox on the PATH", () => {
    it("is skipped", () => {})
  })
} else {
  cases("busybox", applets, false)
}

describe("the files of a guest", () => {
  it.live(
    `${full ? "a gigabyte goes" : "128 MiB go"} through a stream and a sink in constant memory`,
    () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest()
        Fs.writeFileSync(at("large"), "")
        const half = full ? 1 << 29 : 1 << 26
        Fs.truncateSync(at("large"), 2 * half)
        let passed = 0
        let most = 0
        const copy = (bytesToRead: number) =>
          fs.stream(at("large"), { bytesToRead }).pipe(
            Stream.tap((chunk) =>
              Effect.sync(() => {
                passed += chunk.length
                most = Math.max(most, process.memoryUsage.rss())
              })
            ),
            Stream.run(fs.sink("/dev/null"))
          )
        // What the first half takes is the garbage that a heap grows to, whatever is done with it.
        yield* copy(half)
        const before = most
        passed = 0
        yield* copy(half)
        assert.strictEqual(passed, half)
        assert.isBelow(most - before, 64 * 1024 * 1024)
      }),
    180_000
  )

  it.live("a tool of a third kind, and one that is missing, are named", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const sh = ChildProcess.execFileSync("sh", ["-c", "command -v sh"]).toString().trim()
      Fs.symlinkSync(sh, `${directory}/sh`)
      Fs.writeFileSync(`${directory}/stat`, "#!/bin/sh\necho 'stat (toybox) 0.8'\n", { mode: 0o755 })
      const { at, fs } = yield* guest(Effect.succeed(directory))
      for (const [operation, tool] of [
        [fs.stat(at(".")), "stat"],
        [fs.readDirectory(at(".")), "find"],
        [fs.chmod(at("."), 0o700), "chmod"]
      ] as const) {
        const reason = yield* causeOf(operation)
        if (reason._tag !== "UnsupportedCapability") throw new Error(reason._tag)
        assert.strictEqual(reason.capability, tool)
      }
      // What needs a shell only works.
      yield* fs.access(at("."))
    })
  )

  it.live("a guest without a shell is told so", () =>
    Effect.gen(function* () {
      const { fs } = yield* guest(temporary)
      const reason = yield* causeOf(fs.stat("/"))
      assert.deepInclude(reason, { _tag: "UnsupportedCapability", capability: "sh" })
    })
  )

  it.live("what fails in the machine is the cause, and the tools are asked for again", () =>
    Effect.gen(function* () {
      const { at, machine } = yield* guest()
      let down = true
      const broken: Machine = {
        ...machine,
        start: (command) =>
          down
            ? Effect.fail(new SandboxError({ operation: "test.start", reason: new Unavailable({ accepted: "no" }) }))
            : machine.start(command)
      }
      const fs = derive(broken)
      assert.strictEqual((yield* causeOf(fs.stat(at("."))))._tag, "Unavailable")
      assert.strictEqual((yield* causeOf(fs.writeFileString(at("file"), "x")))._tag, "Unavailable")
      assert.strictEqual((yield* causeOf(Stream.runDrain(fs.stream(at("file")))))._tag, "Unavailable")
      down = false
      assert.strictEqual((yield* fs.stat(at("."))).type, "Directory")
      down = true
      assert.strictEqual((yield* causeOf(fs.stat(at("."))))._tag, "Unavailable")
    })
  )

  it.live("what the machine does itself comes first, also below what is derived", () =>
    Effect.gen(function* () {
      const { at, machine, trips } = yield* guest()
      const refused = PlatformError.badArgument({ module: "Test", method: "own" })
      const fs = derive({
        ...machine,
        fileSystem: {
          access: () => Effect.void,
          readFile: () => Effect.succeed(bytes("own")),
          readDirectoryEntries: () => Effect.succeed([{ name: "own", type: "File" as const }]),
          writeFile: () => Effect.fail(refused),
          open: () => Effect.fail(refused)
        }
      })
      assert.isTrue(yield* fs.exists(at("none")))
      assert.strictEqual(yield* fs.readFileString(at("none")), "own")
      assert.deepStrictEqual(yield* fs.glob("*", { root: at(".") }), ["own"])
      assert.strictEqual(yield* Effect.flip(fs.writeFileString(at("x"), "x")), refused)
      assert.strictEqual(yield* Effect.flip(Stream.runDrain(fs.stream(at("x")))), refused)
      assert.strictEqual(yield* Effect.flip(Stream.run(Stream.empty, fs.sink(at("x")))), refused)
      const streaming = derive({
        ...machine,
        fileSystem: { open: () => Effect.fail(refused), stream: () => Stream.make(bytes("own")) }
      })
      let read = ""
      yield* Stream.runForEach(streaming.stream(at("x")), (chunk) =>
        Effect.sync(() => {
          read += new TextDecoder().decode(chunk)
        })
      )
      assert.strictEqual(read, "own")
      assert.strictEqual(yield* trips(fs.exists(at("none"))), 0)
    })
  )

  const shared = "/dev/shm"
  it.live.runIf(Fs.existsSync(shared) && Fs.statSync(shared).dev !== Fs.statSync("/tmp").dev)(
    "rename does not copy from one file system to another",
    () =>
      Effect.gen(function* () {
        const { at, fs } = yield* guest()
        const elsewhere = yield* fs.makeTempDirectoryScoped({ directory: shared })
        yield* fs.writeFileString(at("file"), "x")
        assert.strictEqual(yield* tagOf(fs.rename(at("file"), `${elsewhere}/file`)), "Unknown")
        assert.deepStrictEqual(Fs.readdirSync(elsewhere), [])
        assert.strictEqual(Fs.readFileSync(at("file"), "utf8"), "x")
      })
  )

  describe("an inode that has passed to another file", () => {
    const opened = Effect.gen(function* () {
      const { at, fs } = yield* guest(oneInode)
      yield* fs.writeFileString(at("file"), "mine")
      return { at, fs, file: yield* fs.open(at("file"), { flag: "r+" }) }
    })
    const lost = Effect.fnUntraced(function* (file: FileSystem.File) {
      assert.strictEqual(yield* tagOf(file.readAlloc(9, { position: 0n })), "Busy")
      assert.strictEqual(yield* tagOf(file.writeAll(bytes("!"))), "Busy")
      assert.strictEqual(yield* tagOf(file.truncate(1)), "Busy")
      assert.strictEqual(yield* tagOf(file.stat), "Busy")
    })
    const others: Record<
      string,
      (fs: FileSystem.FileSystem, path: string) => Effect.Effect<void, PlatformError.PlatformError>
    > = {
      "written by us": (fs, path) => fs.writeFileString(path, "other"),
      "made by us": (fs, path) => fs.writeFileString(path, "other", { flag: "wx" }),
      "written by us through a sink": (fs, path) => Stream.run(Stream.make(bytes("other")), fs.sink(path)),
      "written by another, and by us then": (fs, path) =>
        Effect.andThen(
          Effect.sync(() => Fs.writeFileSync(path, "others")),
          fs.truncate(path, 5)
        )
    }
    for (const [how, write] of Object.entries(others)) {
      // What writes by a path tells an open file of it in one place.
      if (!full && how !== "written by us" && how !== "written by another, and by us then") continue
      it.live(`is not taken for the old one: ${how}`, () =>
        Effect.gen(function* () {
          const { at, file, fs } = yield* opened
          yield* fs.remove(at("file"))
          yield* write(fs, at("file"))
          yield* lost(file)
          assert.strictEqual(Fs.readFileSync(at("file"), "utf8").slice(0, 5), "other")
        })
      )
    }

    for (const [how, flag, text] of [
      ["is there", "r+", "other"],
      ["is made by it", "w+", ""]
    ] as const) {
      it.live(`is not taken for the old one by an open of what ${how}`, () =>
        Effect.gen(function* () {
          const { at, file, fs } = yield* opened
          yield* fs.remove(at("file"))
          if (text !== "") Fs.writeFileSync(at("file"), text)
          const other = yield* fs.open(at("file"), { flag })
          yield* lost(file)
          yield* other.writeAll(bytes("O"))
          assert.strictEqual(Fs.readFileSync(at("file"), "utf8"), `O${text.slice(1)}`)
          assert.strictEqual(Number((yield* other.stat).size), text === "" ? 1 : 5)
        })
      )
    }

    it.live("and what we do by the path to a file that stays is no other file", () =>
      Effect.gen(function* () {
        const { at, file, fs } = yield* opened
        const read = file.readAlloc(9, { position: 0n })
        yield* fs.writeFileString(at("file"), "again")
        assert.deepStrictEqual(yield* read, Option.some(bytes("again")))
        yield* fs.utimes(at("file"), 1, 2)
        yield* fs.truncate(at("file"), 3)
        const second = yield* fs.open(at("file"), { flag: "a" })
        yield* second.writeAll(bytes("!"))
        assert.deepStrictEqual(yield* read, Option.some(bytes("aga!")))
        yield* Effect.scoped(fs.open(at("file"), { flag: "w" }))
        assert.deepStrictEqual(yield* read, Option.none())
        yield* file.writeAll(bytes("end"))
        assert.strictEqual(Fs.readFileSync(at("file"), "utf8"), "end")
      })
    )
  })
})
