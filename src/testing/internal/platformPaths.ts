/** The platform suite: `Path` is POSIX's, and starts where the programs do. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)

  test("path: relative ones start at the working directory that programs have", ({ fs, path }) =>
    Effect.gen(function* () {
      const own = (yield* P.output("pwd -P")).trimEnd()
      assert.strictEqual(yield* fs.realPath(path.resolve(".")), own)
      assert.strictEqual(path.resolve(), path.resolve("."))
      assert.strictEqual(path.resolve("a", "../b"), path.join(path.resolve("."), "b"))
      assert.strictEqual(path.resolve("/a", "b", "/c", "d"), "/c/d")
      assert.strictEqual(path.relative("", path.resolve("a/b")), "a/b")
      assert.strictEqual(path.relative(path.resolve("a"), "b"), "../b")
      assert.strictEqual(path.relative("/a/b/c", "/a/d"), "../../d")
    }))

  test("path: the rest is POSIX's", ({ path }) =>
    Effect.gen(function* () {
      assert.strictEqual(path.sep, "/")
      assert.strictEqual(path.join("a", "", "../b", "/c/"), "b/c/")
      assert.strictEqual(path.join(""), ".")
      assert.strictEqual(path.normalize("/a//b/./../c\\d"), "/a/c\\d")
      assert.strictEqual(path.basename("/a/b.c.txt", ".txt"), "b.c")
      assert.strictEqual(path.basename("/a/b/"), "b")
      assert.strictEqual(path.dirname("/a/b/"), "/a")
      assert.strictEqual(path.dirname("a"), ".")
      assert.strictEqual(path.extname("a/.b.c"), ".c")
      assert.isTrue(path.isAbsolute("/a"))
      assert.isFalse(path.isAbsolute("C:\\a"))
      assert.deepStrictEqual(path.parse("/a/b.txt"), { root: "/", dir: "/a", base: "b.txt", ext: ".txt", name: "b" })
      assert.strictEqual(path.format({ dir: "/a", name: "b", ext: ".c" }), "/a/b.c")
      const url = yield* path.toFileUrl("/a b/%41?#c")
      assert.strictEqual(url.href, "file:///a%20b/%2541%3F%23c")
      assert.strictEqual(yield* path.fromFileUrl(url), "/a b/%41?#c")
      const error = yield* Effect.flip(path.fromFileUrl(new URL("https://example.com/a")))
      assert.strictEqual(error._tag, "BadArgument")
    }))
}
