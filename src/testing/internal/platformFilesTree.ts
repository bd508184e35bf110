/** The platform suite: names coming, going and moving. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type { It, Options, Subject } from "./platform.ts"
import * as P from "./platform.ts"

/** Every path below the directory with its contents: `name/`, `name → target`, `name: text`. */
const listing = Effect.fnUntraced(function* ({ at, fs }: Subject, root: string) {
  const lines: Array<string> = []
  const pending = [""]
  for (let above = pending.pop(); above !== undefined; above = pending.pop()) {
    for (const { name, type } of yield* fs.readDirectoryEntries(at(`${root}/${above}`))) {
      const path = `${above}${name}`
      if (type === "Directory") {
        lines.push(`${path}/`)
        pending.push(`${path}/`)
      } else if (type === "SymbolicLink") lines.push(`${path} → ${yield* fs.readLink(at(`${root}/${path}`))}`)
      else lines.push(`${path}: ${yield* fs.readFileString(at(`${root}/${path}`))}`)
    }
  }
  return lines.toSorted()
})

/** Writes files and the directories above them. */
const plant = Effect.fnUntraced(function* ({ at, fs, path }: Subject, files: Readonly<Record<string, string>>) {
  for (const [name, contents] of Object.entries(files)) {
    yield* fs.makeDirectory(path.dirname(at(name)), { recursive: true })
    yield* fs.writeFileString(at(name), contents)
  }
})

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)
  registerMoves(test)
  registerCopies(test)
  registerRemovals(test)
  registerDirectories(test, options.recursiveListingFollows ?? false)
  registerTemporary(test)
}

const registerMoves = (test: P.Test): void => {
  test("rename: a file, and what had the name is gone", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/one": "1", "d/two": "2" })
      yield* fs.rename(at("d/one"), at("d/two"))
      yield* fs.rename(at("d/two"), at("d/three"))
      assert.deepStrictEqual(yield* listing(subject, "d"), ["three: 1"])
    }))

  test("rename: a directory with all that is in it, also over an empty one", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/from/a/b": "deep" })
      yield* fs.makeDirectory(at("d/to"))
      yield* fs.rename(at("d/from"), at("d/to"))
      assert.deepStrictEqual(yield* listing(subject, "d"), ["to/", "to/a/", "to/a/b: deep"])
    }))

  test("rename: not over a directory that is not empty, nor a directory into itself", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/from/a": "1", "d/to/b": "2" })
      yield* P.fails(fs.rename(at("d/from"), at("d/to")), "Unknown")
      yield* P.fails(fs.rename(at("d/from"), at("d/from/inside")), "Unknown")
      assert.deepStrictEqual(yield* listing(subject, "d"), ["from/", "from/a: 1", "to/", "to/b: 2"])
    }))

  test("rename: a file is not moved into a directory of the new name", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/file": "1" })
      yield* fs.makeDirectory(at("d/directory"))
      yield* P.fails(fs.rename(at("d/file"), at("d/directory")), "BadResource")
      yield* P.fails(fs.rename(at("d/directory"), at("d/file")), "BadResource")
      assert.deepStrictEqual(yield* listing(subject, "d"), ["directory/", "file: 1"])
    }))

  test("rename: symlinks themselves, not what they point to", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/file": "1", "d/sub/x": "x", "d/other": "2" })
      yield* fs.symlink("sub", at("d/link"))
      yield* fs.rename(at("d/link"), at("d/moved"))
      yield* fs.rename(at("d/file"), at("d/moved"))
      yield* fs.symlink("sub", at("d/link"))
      yield* fs.rename(at("d/link"), at("d/other"))
      assert.deepStrictEqual(yield* listing(subject, "d"), ["moved: 1", "other → sub", "sub/", "sub/x: x"])
    }))

  test("rename: not a symlink with a slash behind it, nor over a directory that it lies in", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/sub/x": "x" })
      yield* fs.symlink("sub", at("d/link"))
      yield* P.fails(fs.rename(at("d/link/"), at("d/moved")), "BadResource")
      yield* P.fails(fs.rename(at("d/sub/x"), at("d/sub")), "Unknown")
      yield* P.fails(fs.rename(at("d/sub/."), at("d/moved")), "Busy")
      assert.deepStrictEqual(yield* listing(subject, "d"), ["link → sub", "sub/", "sub/x: x"])
    }))

  test("rename: onto itself changes nothing", (subject) =>
    Effect.gen(function* () {
      yield* plant(subject, { "d/file": "1" })
      yield* subject.fs.rename(subject.at("d/file"), subject.at("d/file"))
      assert.deepStrictEqual(yield* listing(subject, "d"), ["file: 1"])
    }))
}

const registerCopies = (test: P.Test): void => {
  test("copy: a file with its mode, and the directories above the new one", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "contents")
      yield* fs.chmod(at("file"), 0o751)
      yield* fs.copy(at("file"), at("new/parents/copy"))
      assert.strictEqual(yield* fs.readFileString(at("new/parents/copy")), "contents")
      assert.strictEqual((yield* fs.stat(at("new/parents/copy"))).mode & 0o7777, 0o751)
    }))

  test("copy: what is there stays, unless it is to be overwritten", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("from"), "new")
      yield* fs.writeFileString(at("to"), "old")
      yield* fs.copy(at("from"), at("to"))
      assert.strictEqual(yield* fs.readFileString(at("to")), "old")
      yield* fs.copy(at("from"), at("to"), { overwrite: false })
      assert.strictEqual(yield* fs.readFileString(at("to")), "old")
      yield* fs.copy(at("from"), at("to"), { overwrite: true })
      assert.strictEqual(yield* fs.readFileString(at("to")), "new")
    }))

  test("copy: a directory with all that is in it", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "from/a": "1", "from/.hidden": "h", "from/b/c/d": "2" })
      yield* fs.makeDirectory(at("from/empty"))
      yield* fs.chmod(at("from/b"), 0o700)
      yield* fs.copy(at("from"), at("to"))
      const expected = [".hidden: h", "a: 1", "b/", "b/c/", "b/c/d: 2", "empty/"]
      assert.deepStrictEqual(yield* listing(subject, "to"), expected)
      assert.deepStrictEqual(yield* listing(subject, "from"), expected)
      assert.strictEqual((yield* fs.stat(at("to/b"))).mode & 0o7777, 0o700)
    }))

  test("copy: into a directory that is there they are merged, not nested", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "from/both": "new", "from/s/x": "x", "to/both": "old", "to/only": "kept", "to/s/y": "y" })
      yield* fs.copy(at("from"), at("to"))
      assert.deepStrictEqual(yield* listing(subject, "to"), ["both: old", "only: kept", "s/", "s/x: x", "s/y: y"])
      yield* fs.copy(at("from"), at("to"), { overwrite: true })
      assert.deepStrictEqual(yield* listing(subject, "to"), ["both: new", "only: kept", "s/", "s/x: x", "s/y: y"])
    }))

  test("copy: symlinks stay symlinks, and relative targets become absolute", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "from/file": "1", "from/sub/x": "x" })
      yield* fs.symlink("file", at("from/link"))
      yield* fs.symlink("../file", at("from/sub/up"))
      yield* fs.symlink("gone", at("from/dangling"))
      yield* fs.symlink("/abs/olute", at("from/absolute"))
      yield* fs.copy(at("from"), at("to"))
      assert.deepStrictEqual(yield* listing(subject, "to"), [
        "absolute → /abs/olute",
        `dangling → ${at("from/gone")}`,
        "file: 1",
        `link → ${at("from/file")}`,
        "sub/",
        `sub/up → ${at("from/file")}`,
        "sub/x: x"
      ])
      yield* fs.copy(at("from/link"), at("alone"))
      assert.strictEqual(yield* fs.readLink(at("alone")), at("from/file"))
    }))

  test("copy: not a directory into itself", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "from/a": "1" })
      yield* P.fails(fs.copy(at("from"), at("from/inside")), "Unknown")
      yield* P.fails(fs.copy(at("from"), at("from")), "Unknown")
      yield* P.fails(fs.copy(at("from/a"), at("from/a"), { overwrite: true }), "Unknown")
      assert.deepStrictEqual(yield* listing(subject, "from"), ["a: 1"])
    }))

  test("copy: into itself by way of a symlink neither", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "from/a": "a" })
      yield* fs.symlink("from", at("link"))
      yield* P.fails(fs.copy(at("from"), at("link/inside")), "Unknown")
      assert.deepStrictEqual(yield* listing(subject, "from"), ["a: a"])
    }))

  test("copy: what is overwritten is replaced: other names of it, and the target of a symlink, keep what they have", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { from: "new", "to/target": "old", "to/hard": "old" })
      yield* fs.link(at("to/hard"), at("to/other"))
      yield* fs.symlink("target", at("to/link"))
      yield* fs.symlink("missing", at("to/dangling"))
      for (const name of ["hard", "link", "dangling"]) {
        yield* fs.copy(at("from"), at(`to/${name}`), { overwrite: true })
      }
      assert.deepStrictEqual(yield* listing(subject, "to"), [
        "dangling: new",
        "hard: new",
        "link: new",
        "other: old",
        "target: old"
      ])
    }))

  test("copy: a symlink replaces one that leads elsewhere, and nothing else", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { a: "a", b: "b", file: "file" })
      yield* fs.symlink(at("a"), at("one"))
      yield* fs.symlink(at("b"), at("other"))
      yield* P.fails(fs.copy(at("one"), at("file"), { overwrite: true }), "AlreadyExists")
      assert.strictEqual(yield* fs.readFileString(at("file")), "file")
      yield* fs.copy(at("one"), at("other"), { overwrite: true })
      assert.strictEqual(yield* fs.readLink(at("other")), at("a"))
      yield* fs.copy(at("one"), at("other"), { overwrite: true })
      assert.strictEqual(yield* fs.readLink(at("other")), at("a"))
    }))

  test("copy: times only when they are asked for", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "x")
      yield* fs.utimes(at("file"), 1_000, 2_000)
      yield* fs.copy(at("file"), at("kept"), { preserveTimestamps: true })
      yield* fs.copy(at("file"), at("fresh"))
      assert.deepStrictEqual((yield* fs.stat(at("kept"))).mtime, Option.some(P.date(2_000_000)))
      assert.notDeepEqual((yield* fs.stat(at("fresh"))).mtime, Option.some(P.date(2_000_000)))
    }))

  test("copyFile: contents and mode, over what is there, through symlinks", ({ at, fs }) =>
    Effect.gen(function* () {
      const bytes = P.random(300_000)
      yield* fs.writeFile(at("file"), bytes)
      yield* fs.chmod(at("file"), 0o750)
      yield* fs.symlink("file", at("link"))
      yield* fs.writeFileString(at("old"), "old")
      yield* fs.symlink("old", at("to"))
      yield* fs.copyFile(at("link"), at("to"))
      yield* fs.copyFile(at("link"), at("new"))
      for (const name of ["old", "new"]) {
        P.assertSameBytes(yield* fs.readFile(at(name)), bytes)
        assert.strictEqual((yield* fs.lstat(at(name))).mode, 0o100750, name)
      }
      assert.strictEqual(yield* fs.readLink(at("to")), "old")
    }))
}

const registerRemovals = (test: P.Test): void => {
  test("remove: a file, a symlink and not what it points to", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/file": "1", "d/sub/x": "x" })
      for (const [target, name] of [
        ["file", "link"],
        ["sub", "directory"],
        ["gone", "dangling"]
      ] as const) {
        yield* fs.symlink(target, at(`d/${name}`))
        yield* fs.remove(at(`d/${name}`), { recursive: name === "directory" })
      }
      assert.deepStrictEqual(yield* listing(subject, "d"), ["file: 1", "sub/", "sub/x: x"])
      yield* fs.remove(at("d/file"))
      assert.deepStrictEqual(yield* listing(subject, "d"), ["sub/", "sub/x: x"])
    }))

  test("remove: directories only with `recursive`, even empty ones and with `force`", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/full/x": "x" })
      yield* fs.makeDirectory(at("d/empty"))
      for (const name of ["full", "empty"]) {
        yield* P.fails(fs.remove(at(`d/${name}`)), "Unknown")
        yield* P.fails(fs.remove(at(`d/${name}`), { force: true }), "Unknown")
      }
      assert.deepStrictEqual(yield* listing(subject, "d"), ["empty/", "full/", "full/x: x"])
    }))

  test("remove: a symlink with a slash behind it takes neither it nor what it points to", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/sub/x": "x" })
      yield* fs.symlink("sub", at("d/link"))
      yield* Effect.ignore(fs.remove(at("d/link/"), { recursive: true }))
      yield* P.fails(fs.remove(at("d/link/")), "Unknown")
      yield* P.fails(fs.remove(at("d/sub/."), { recursive: true }), "Unknown")
      assert.deepStrictEqual(yield* listing(subject, "d"), ["link → sub", "sub/", "sub/x: x"])
    }))

  test("remove: a deep tree, without following symlinks", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      const deep = Array.from({ length: 20 }, (_, index) => `level${index}`).join("/")
      yield* plant(subject, { [`tree/${deep}/leaf`]: "1", "tree/.hidden": "2", "tree/-rf": "3", "outside/x": "kept" })
      yield* fs.symlink("../outside", at("tree/link"))
      yield* fs.remove(at("tree"), { recursive: true })
      assert.isFalse(yield* fs.exists(at("tree")))
      assert.strictEqual(yield* fs.readFileString(at("outside/x")), "kept")
    }))
}

const registerDirectories = (test: P.Test, follows: boolean): void => {
  test("makeDirectory: one, or with its parents; again only with `recursive`", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(at("one"))
      yield* P.fails(fs.makeDirectory(at("one")), "AlreadyExists")
      yield* fs.makeDirectory(at("one"), { recursive: true })
      yield* P.fails(fs.makeDirectory(at("a/b/c")), "NotFound")
      yield* fs.makeDirectory(at("a/b/c"), { recursive: true })
      yield* fs.makeDirectory(at("a/b/d/"), { recursive: true })
      yield* fs.makeDirectory(at("a/../a/e"), { recursive: true })
      assert.sameMembers(yield* fs.readDirectory(at("a"), { recursive: true }), ["b", "b/c", "b/d", "e"])
    }))

  test("makeDirectory: nothing below a symlink to nothing", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.symlink("nowhere", at("link"))
      yield* P.fails(fs.makeDirectory(at("link"), { recursive: true }), "NotFound")
      yield* P.fails(fs.makeDirectory(at("link/below"), { recursive: true }), "BadResource")
    }))

  test("makeDirectory: at once by several", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* Effect.forEach([1, 2, 3, 4], () => fs.makeDirectory(at("a/b/c"), { recursive: true }), {
        concurrency: "unbounded"
      })
      assert.strictEqual((yield* fs.stat(at("a/b/c"))).type, "Directory")
    }))

  test("makeDirectory: its mode, for all that it makes and nothing that is there", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(at("private"), { mode: 0o700 })
      yield* fs.makeDirectory(at("a/b"), { mode: 0o710, recursive: true })
      yield* fs.makeDirectory(at("private"), { mode: 0o755, recursive: true })
      const modes = yield* Effect.forEach(["private", "a", "a/b"], (name) => fs.stat(at(name)))
      assert.deepStrictEqual(
        modes.map((info) => info.mode & 0o7777),
        [0o700, 0o710, 0o710]
      )
    }))

  test("readDirectory: names, all of them, hidden ones too", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      assert.deepStrictEqual(yield* fs.readDirectory(at(".")), [])
      yield* plant(subject, { a: "", "b/c": "", ".d": "" })
      yield* fs.symlink("gone", at("e"))
      assert.sameMembers(yield* fs.readDirectory(at(".")), ["a", "b", ".d", "e"])
      assert.sameMembers(yield* fs.readDirectory(`${at("b")}/`), ["c"])
    }))

  test("readDirectory: recursive, as paths below it", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "r/a": "", "r/b/c": "", "r/b/d/.e": "" })
      yield* fs.makeDirectory(at("r/empty"))
      yield* fs.symlink("gone", at("r/dangling"))
      assert.sameMembers(yield* fs.readDirectory(at("r"), { recursive: true }), [
        "a",
        "b",
        "b/c",
        "b/d",
        "b/d/.e",
        "dangling",
        "empty"
      ])
    }))

  test(`readDirectory: recursive, ${follows ? "through" : "not through"} symlinks`, (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "r/b/c": "" })
      yield* fs.symlink("b", at("r/link"))
      const names = yield* fs.readDirectory(at("r"), { recursive: true })
      assert.sameMembers(names, follows ? ["b", "b/c", "link", "link/c"] : ["b", "b/c", "link"])
    }))

  test("readDirectory: several hundred names", ({ at, fs }) =>
    Effect.gen(function* () {
      const names = Array.from({ length: 400 }, (_, index) => `a rather long name of a file, number ${index}`)
      yield* P.output(`cd "$1" && shift && : && for name; do : > "$name"; done`, [at("."), ...names])
      assert.sameMembers(yield* fs.readDirectory(at(".")), names)
    }))

  test("readDirectoryEntries: names with the types of the entries themselves", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, { "d/file": "", "d/sub/inside": "" })
      yield* fs.symlink("sub", at("d/link"))
      yield* fs.symlink("gone", at("d/dangling"))
      const entries = yield* fs.readDirectoryEntries(at("d"))
      assert.deepStrictEqual(
        entries.map(({ name, type }) => ({ name, type })).toSorted((a, b) => (a.name < b.name ? -1 : 1)),
        [
          { name: "dangling", type: "SymbolicLink" },
          { name: "file", type: "File" },
          { name: "link", type: "SymbolicLink" },
          { name: "sub", type: "Directory" }
        ]
      )
    }))

  test("glob: patterns, hidden names, exclusions, directories", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* plant(subject, {
        "r/a.ts": "",
        "r/b.js": "",
        "r/.c.ts": "",
        "r/sub/d.ts": "",
        "r/sub/deep/e.ts": "",
        "r/.git/f.ts": "",
        "r/odd [x]/g.ts": ""
      })
      yield* fs.symlink("sub", at("r/link"))
      const glob = (pattern: string, more: { readonly dot?: boolean; readonly exclude?: ReadonlyArray<string> } = {}) =>
        fs.glob(pattern, { root: at("r"), ...more })
      assert.deepStrictEqual(yield* glob("*.ts"), ["a.ts"])
      assert.deepStrictEqual(yield* glob("*.ts", { dot: true }), [".c.ts", "a.ts"])
      assert.deepStrictEqual(yield* glob("*.{ts,js}"), ["a.ts", "b.js"])
      assert.deepStrictEqual(yield* glob("**/*.ts"), ["a.ts", "odd [x]/g.ts", "sub/d.ts", "sub/deep/e.ts"])
      assert.deepStrictEqual(yield* glob("**/*.ts", { exclude: ["sub/**", "odd*"] }), ["a.ts"])
      assert.deepStrictEqual(yield* glob("link/*.ts"), ["link/d.ts"])
      assert.deepStrictEqual(yield* glob("*/"), ["link", "odd [x]", "sub"])
      assert.deepStrictEqual(yield* glob("odd \\[x\\]/?.ts"), ["odd [x]/g.ts"])
      assert.deepStrictEqual(yield* glob("sub/deep/e.ts"), ["sub/deep/e.ts"])
      assert.deepStrictEqual(yield* glob("nothing*"), [])
      assert.deepStrictEqual(yield* fs.glob(`${at("r")}/[ab].*`), [at("r/a.ts"), at("r/b.js")])
    }))
}

const registerTemporary = (test: P.Test): void => {
  test("temporary directories: new, empty, this user's alone, where and as they are asked for", (subject) =>
    Effect.gen(function* () {
      const { at, fs, path } = subject
      const one = yield* fs.makeTempDirectory({ directory: at("."), prefix: "a b-" })
      const two = yield* fs.makeTempDirectory({ directory: at("."), prefix: "a b-" })
      const bare = yield* fs.makeTempDirectory({ directory: at(".") })
      assert.strictEqual(new Set([one, two, bare]).size, 3)
      for (const made of [one, two]) assert.match(path.basename(made), /^a b-.{6,}$/)
      for (const made of [one, two, bare]) {
        assert.strictEqual(path.dirname(made), subject.directory)
        assert.strictEqual((yield* fs.stat(made)).mode, 0o040700)
        assert.deepStrictEqual(yield* fs.readDirectory(made), [])
      }
      const elsewhere = yield* fs.makeTempDirectoryScoped()
      assert.isTrue(path.isAbsolute(elsewhere))
      assert.strictEqual((yield* fs.stat(elsewhere)).type, "Directory")
    }))

  test("temporary files: empty, in a directory of their own", (subject) =>
    Effect.gen(function* () {
      const { at, fs, path } = subject
      const file = yield* fs.makeTempFile({ directory: at("."), prefix: "pre-", suffix: ".txt" })
      assert.match(path.basename(file), /.\.txt$/)
      const own = path.dirname(file)
      assert.match(path.basename(own), /^pre-.{6,}$/)
      assert.strictEqual(path.dirname(own), subject.directory)
      assert.deepStrictEqual(yield* fs.readDirectory(own), [path.basename(file)])
      assert.strictEqual(yield* fs.readFileString(file), "")
      const plain = yield* fs.makeTempFile({ directory: at(".") })
      assert.notStrictEqual(path.dirname(plain), own)
    }))

  test("temporary ones of a Scope go with it, with all that is in them", (subject) =>
    Effect.gen(function* () {
      const { at, fs, path } = subject
      const scope = yield* Scope.make()
      const directory = yield* Scope.provide(fs.makeTempDirectoryScoped({ directory: at(".") }), scope)
      const file = yield* Scope.provide(fs.makeTempFileScoped({ directory: at("."), suffix: ".x" }), scope)
      yield* fs.makeDirectory(`${directory}/a/b`, { recursive: true })
      yield* fs.writeFileString(path.join(path.dirname(file), "beside"), "x")
      // One that is gone already is no error.
      yield* fs.remove(
        yield* Scope.provide(fs.makeTempDirectoryScoped({ directory: at("."), prefix: "gone" }), scope),
        { recursive: true }
      )
      assert.isTrue(yield* fs.exists(file))
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* fs.readDirectory(at(".")), [])
    }))

  test("temporary ones of a Scope go with it when it is interrupted", ({ at, fs }) =>
    Effect.gen(function* () {
      const fiber = yield* fs
        .makeTempDirectoryScoped({ directory: at(".") })
        .pipe(
          Effect.andThen(fs.makeTempFileScoped({ directory: at(".") })),
          Effect.andThen(fs.writeFileString(at("ready"), "")),
          Effect.andThen(Effect.never),
          Effect.scoped,
          Effect.forkChild
        )
      yield* P.eventually(fs.access(at("ready")))
      assert.strictEqual((yield* fs.readDirectory(at("."))).length, 3)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* fs.readDirectory(at(".")), ["ready"])
    }))
}
