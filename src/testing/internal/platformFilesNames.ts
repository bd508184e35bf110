/** The platform suite: names are data, and relative paths start at the working directory. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { It, Options, Subject } from "./platform.ts"
import * as P from "./platform.ts"

/** Does everything once with a file and a directory called `name`, in `root`, which is any spelling of `directory`. */
const everything = Effect.fnUntraced(function* ({ directory, fs, path }: Subject, root: string, name: string) {
  const file = `${root}/${name}`
  const real = yield* fs.realPath(directory)
  yield* fs.writeFileString(file, "contents")
  assert.strictEqual(yield* fs.readFileString(file), "contents")
  assert.isTrue(yield* fs.exists(file))
  yield* fs.access(file, { readable: true, writable: true })
  yield* fs.chmod(file, 0o600)
  yield* fs.utimes(file, 1_000, 1_000)
  assert.strictEqual((yield* fs.stat(file)).mode, 0o100600)
  assert.strictEqual((yield* fs.lstat(file)).type, "File")
  assert.strictEqual(yield* fs.realPath(file), `${real}/${name}`)
  yield* fs.truncate(file, 3)
  yield* Effect.scoped(Effect.flatMap(fs.open(file, { flag: "a" }), (opened) => opened.writeAll(P.bytes("!"))))
  assert.strictEqual(yield* P.collectText(fs.stream(file)), "con!")
  yield* Stream.run(Stream.make(P.bytes("sunk")), fs.sink(file))

  yield* fs.makeDirectory(`${root}/made`)
  const copy = `${root}/made/${name}`
  yield* fs.copyFile(file, copy)
  yield* fs.copy(file, copy, { overwrite: true })
  assert.sameMembers(yield* fs.readDirectory(`${root}/made`), [name])
  assert.include(yield* fs.readDirectory(root, { recursive: true }), `made/${name}`)
  assert.deepStrictEqual(yield* fs.readDirectoryEntries(`${root}/made`), [{ name, type: "File" }])
  assert.deepStrictEqual(yield* fs.glob("*", { root: `${root}/made`, dot: true }), [name])
  yield* fs.remove(copy)
  yield* fs.link(file, copy)
  assert.strictEqual(yield* fs.readFileString(copy), "sunk")
  yield* fs.rename(copy, file)
  yield* fs.remove(copy, { force: true })
  yield* fs.symlink(name, copy)
  assert.strictEqual(yield* fs.readLink(copy), name)
  yield* fs.remove(copy)
  yield* fs.remove(file)

  yield* fs.makeDirectory(file)
  yield* fs.makeDirectory(`${file}/${name}`, { recursive: true })
  yield* fs.copy(file, copy)
  assert.sameMembers(yield* fs.readDirectory(copy), [name])
  assert.deepStrictEqual(yield* fs.glob("*", { root: copy, dot: true }), [name])
  const temporary = yield* fs.makeTempDirectory({ directory: copy })
  assert.strictEqual(path.dirname(temporary), path.normalize(copy))
  if (name.length < 200) {
    const prefixed = yield* fs.makeTempDirectory({ directory: copy, prefix: name })
    assert.isTrue(path.basename(prefixed).startsWith(name))
    assert.strictEqual((yield* fs.stat(prefixed)).type, "Directory")
    const suffixed = yield* fs.makeTempFile({ directory: copy, suffix: name })
    assert.isTrue(path.basename(suffixed).endsWith(name))
    assert.strictEqual((yield* fs.stat(suffixed)).type, "File")
  }
  yield* fs.remove(file, { recursive: true })
  yield* fs.remove(`${root}/made`, { recursive: true, force: true })
  assert.deepStrictEqual(yield* fs.readDirectory(root), [])
})

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)

  for (const name of options.thorough === false ? P.fewNames : P.oddNames) {
    test(`names: ${P.shown(name)}`, (subject) => everything(subject, subject.directory, name))
  }

  test("names: side by side, composed and decomposed, longer and shorter by a space", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* Effect.forEach(P.oddNames, (name, index) => fs.writeFileString(at(name), String(index)), {
        concurrency: 4
      })
      assert.sameMembers(yield* fs.readDirectory(at(".")), [...P.oddNames])
      const read = yield* Effect.forEach(P.oddNames, (name) => fs.readFileString(at(name)))
      assert.deepStrictEqual(
        read,
        P.oddNames.map((_, index) => String(index))
      )
    }))

  test("names: relative paths start at the working directory", (subject) =>
    Effect.gen(function* () {
      const { directory, path } = subject
      const relative = path.relative(path.resolve("."), directory)
      assert.isFalse(path.isAbsolute(relative))
      yield* everything(subject, relative, "file")
      yield* everything(subject, `./${relative}/../${path.basename(directory)}`, "file")
    }))

  test("names: what starts with a dash is a path, also without a directory before it", ({ fs }) =>
    Effect.gen(function* () {
      for (const name of ["-n-suite-no-such-file", "--suite-no-such-file", "-"]) {
        assert.isFalse(yield* fs.exists(name))
        yield* P.fails(fs.readFile(name), "NotFound")
        yield* P.fails(fs.stat(name), "NotFound")
        yield* P.fails(fs.readDirectory(name), "NotFound")
        yield* P.fails(fs.realPath(name), "NotFound")
        yield* P.fails(fs.remove(name), "NotFound")
        yield* P.fails(fs.chmod(name, 0o600), "NotFound")
      }
    }))

  test("names: temporary ones in a relative directory have relative paths", ({ directory, fs, path }) =>
    Effect.gen(function* () {
      const relative = path.relative(path.resolve("."), directory)
      const made = yield* fs.makeTempDirectory({ directory: relative, prefix: "x" })
      assert.strictEqual(path.dirname(made), relative)
      const file = yield* fs.makeTempFile({ directory: `./${relative}/.` })
      assert.strictEqual(path.dirname(path.dirname(file)), relative)
      assert.strictEqual((yield* fs.stat(file)).type, "File")
    }))
}
