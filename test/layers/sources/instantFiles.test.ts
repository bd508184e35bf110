/** Datasets in InstantDB's storage, over a database of the test that has what is used of the SDK's. */
import { assert, describe, it } from "@effect/vitest"
import type { init } from "@instantdb/admin"
import { Effect, Stream } from "effect"
import * as InstantFiles from "../../../src/layers/sources/InstantFiles.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

interface Stored {
  readonly id: string
  readonly path: string
  readonly url: string
  readonly "location-id": string
  readonly content: Buffer
}

/** The database of the SDK is one. */
export const ofSdk = (db: ReturnType<typeof init>): InstantFiles.Database => db

const world = () => {
  const files = new Map<string, Stored>()
  const downloads: Array<string> = []
  let uploads = 0
  const db: InstantFiles.Database = {
    query: (query) => {
      const where: unknown = JSON.parse(JSON.stringify(query)).$files.$.where.path
      const matches = (path: string) =>
        typeof where === "string"
          ? path === where
          : path.startsWith(
              String(Object.assign({ $like: "" }, where).$like)
                .slice(0, -1)
                .replaceAll("\\", "")
            )
      return Promise.resolve({
        $files: [...files.values()].filter(({ path }) => matches(path)).map(({ content: _, ...row }) => row)
      })
    },
    storage: {
      uploadFile: (path, content) => {
        const id = `id-${path}`
        files.set(path, {
          id,
          path,
          url: `https://files.test/${encodeURIComponent(path)}`,
          "location-id": `l${++uploads}`,
          content: Buffer.from(content)
        })
        return Promise.resolve({ data: { id } })
      }
    }
  }
  const fetch: typeof globalThis.fetch = (input) => {
    const path = decodeURIComponent(new URL(String(input)).pathname.slice(1))
    downloads.push(path)
    const found = files.get(path)
    return Promise.resolve(
      found === undefined ? new Response("", { status: 500 }) : new Response(new Uint8Array(found.content))
    )
  }
  return { db, downloads, files, uploads: () => uploads, source: InstantFiles.make({ db, fetch, prefix: "data_sets" }) }
}

describe("datasets in InstantDB's storage", () => {
  it.effect("are hashed once for each upload, and read as they are", () =>
    Effect.gen(function* () {
      const { db, downloads, files, source } = world()
      yield* Effect.promise(() => db.storage.uploadFile("data_sets/one/a", Buffer.from("1")))
      yield* Effect.promise(() => db.storage.uploadFile("data_sets/one/deep/b", Buffer.from("22")))
      yield* Effect.promise(() => db.storage.uploadFile("data_sets/other/a", Buffer.from("x")))
      const list = Effect.map(Stream.runCollect(source.list("one")), (all) =>
        all.map(({ bytes, path }) => [path, bytes])
      )
      const expected = [
        ["a", 1],
        ["deep/b", 2]
      ]
      assert.deepStrictEqual(yield* list, expected)
      assert.deepStrictEqual(downloads.toSorted(), ["data_sets/one/a", "data_sets/one/deep/b"])
      downloads.length = 0
      assert.deepStrictEqual(yield* list, expected)
      assert.deepStrictEqual(downloads, ["data_sets/one/.hashes.json"])
      downloads.length = 0
      yield* Effect.promise(() => db.storage.uploadFile("data_sets/one/a", Buffer.from("333")))
      assert.deepStrictEqual(yield* list, [
        ["a", 3],
        ["deep/b", 2]
      ])
      assert.deepStrictEqual(downloads, ["data_sets/one/.hashes.json", "data_sets/one/a"])
      const read = yield* Stream.runCollect(source.read("one", "a"))
      assert.strictEqual(Buffer.concat(read).toString(), "333")
      yield* source.write("one", "normalized/sum", Stream.make(bytes("3"), bytes("5")))
      assert.strictEqual(files.get("data_sets/one/normalized/sum")?.content.toString(), "35")
    })
  )

  it.effect("fail typed", () =>
    Effect.gen(function* () {
      const { db, files, source } = world()
      const missing = yield* Effect.flip(Stream.runDrain(source.read("one", "a")))
      assert.strictEqual(missing.reason._tag, "InvalidArgument")
      const foreign = yield* Effect.flip(source.write("one", "日", Stream.make(bytes("x"))))
      assert.strictEqual(foreign.reason._tag, "InvalidArgument")
      yield* Effect.promise(() => db.storage.uploadFile("data_sets/one/a", Buffer.from("1")))
      const stored = files.get("data_sets/one/a")
      if (stored !== undefined) files.set("data_sets/one/a", { ...stored, url: "https://files.test/gone" })
      const gone = yield* Effect.flip(Stream.runDrain(source.list("one")))
      assert.strictEqual(gone.reason._tag, "Unavailable")
      for (const [status, tag] of [
        [400, "InvalidArgument"],
        [401, "Authentication"],
        [403, "Permission"],
        [418, "Unknown"],
        [429, "RateLimited"],
        [503, "Unavailable"],
        [undefined, "Unavailable"]
      ] as const) {
        const query = () => Promise.reject(Object.assign(new Error("no"), status === undefined ? {} : { status }))
        const failing = InstantFiles.make({ db: { ...db, query } })
        const error = yield* Effect.flip(Stream.runDrain(failing.list("one")))
        assert.strictEqual(error.reason._tag, tag)
      }
    })
  )
})
