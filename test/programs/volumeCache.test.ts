/** The cache of datasets over a file system that can do no more than a volume, and volumes by the vendor's real SDK. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path, PlatformError, Stream } from "effect"
import { SandboxError, Unknown } from "../../src/errors.ts"
import * as Directory from "../../src/layers/sources/Directory.ts"
import * as Daytona from "../../src/layers/providers/Daytona.ts"
import * as VolumeCache from "../../src/programs/volumeCache.ts"
import * as Volumes from "../../src/programs/volumes.ts"
import type { DatasetSource } from "../../src/services/DatasetSource.ts"
import * as Emulator from "../emulators/daytona/server.ts"
import { optionsFor } from "../layers/providers/daytona/support.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

/** What no volume can do fails as it does there; what is written is on record. */
const volumeLike = (fs: FileSystem.FileSystem, written: Array<string>): FileSystem.FileSystem => {
  const unsupported = (method: string) => () =>
    Effect.fail(
      PlatformError.systemError({ _tag: "Unknown", module: "FileSystem", method, description: "not on a volume" })
    )
  const whole = (path: string, flag: string | undefined) => {
    assert.include([undefined, "w"], flag, "files are written whole")
    written.push(path.slice(path.indexOf("/datasets/") + "/datasets/".length))
  }
  return {
    ...fs,
    rename: unsupported("rename"),
    chmod: unsupported("chmod"),
    utimes: unsupported("utimes"),
    truncate: unsupported("truncate"),
    link: unsupported("link"),
    symlink: unsupported("symlink"),
    copy: unsupported("copy"),
    writeFile: (path, data, options) => {
      whole(path, options?.flag)
      return fs.writeFile(path, data, options)
    },
    writeFileString: (path, data, options) => {
      whole(path, options?.flag)
      return fs.writeFileString(path, data, options)
    },
    sink: (path, options) => {
      whole(path, options?.flag)
      return fs.sink(path, options)
    }
  }
}

const world = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const { join } = yield* Path.Path
  const base = yield* fs.makeTempDirectoryScoped()
  const origin = join(base, "origin")
  const root = join(base, "volume")
  const write = Effect.fnUntraced(function* (path: string, content: string) {
    const target = join(origin, "numbers", path)
    yield* fs.makeDirectory(target.slice(0, target.lastIndexOf("/")), { recursive: true })
    yield* fs.writeFile(target, bytes(content))
  })
  const source = yield* Directory.make({ path: origin })
  const reads: Array<string> = []
  const counting: DatasetSource["Service"] = {
    ...source,
    read: (datasetId, path) => {
      reads.push(path)
      return source.read(datasetId, path)
    }
  }
  const written: Array<string> = []
  const options = { source: counting, root, datasetId: "numbers" }
  const onVolume = Effect.provideService(FileSystem.FileSystem, volumeLike(fs, written))
  yield* write("a.csv", "1")
  yield* write("deep/b.csv", "22")
  return {
    fs,
    write,
    reads,
    written,
    source,
    options,
    places: VolumeCache.placesOf(options),
    origin: (path: string) => join(origin, "numbers", path),
    onVolume,
    sync: onVolume(VolumeCache.sync(options)),
    publish: onVolume(VolumeCache.publish(options))
  }
})

const test = <E>(name: string, body: (w: Effect.Success<typeof world>) => Effect.Effect<void, E>) =>
  it.effect(name, () => Effect.scoped(Effect.flatMap(world, body)).pipe(Effect.provide(NodeServices.layer)))

describe("the cache of datasets on a volume", () => {
  test("downloads a dataset once, and says where its parts are", ({ fs, places, reads, sync, written }) =>
    Effect.gen(function* () {
      const first = yield* sync
      assert.deepInclude(first, { outcome: "updated", downloaded: ["a.csv", "deep/b.csv"], deleted: [] })
      assert.strictEqual(yield* fs.readFileString(`${first.raw}/deep/b.csv`), "22")
      for (const place of [places.raw, places.normalized, places.cache]) assert.isTrue(yield* fs.exists(place))
      const manifest = JSON.parse(yield* fs.readFileString(places.manifest))
      assert.deepStrictEqual(Object.keys(manifest), ["version", "datasetId", "files", "writtenAt"])
      assert.deepInclude(manifest, { version: 1, datasetId: "numbers" })
      assert.deepInclude(manifest.files[0], { path: "a.csv", bytes: 1 })
      // What says that it is all there comes last.
      assert.strictEqual(written.at(-1), "numbers/manifest.json")
      reads.length = 0
      written.length = 0
      assert.deepInclude(yield* sync, { outcome: "unchanged", downloaded: [], deleted: [] })
      assert.deepStrictEqual([reads, written], [[], []])
    }))

  test("downloads only what differs, and deletes what is gone", ({ fs, origin, places, reads, sync, write }) =>
    Effect.gen(function* () {
      yield* sync
      reads.length = 0
      yield* write("a.csv", "one")
      yield* write("new", "n")
      yield* fs.remove(origin("deep/b.csv"))
      yield* fs.writeFile(`${places.raw}/left`, bytes("of an attempt that was cut off"))
      const second = yield* sync
      assert.deepInclude(second, { outcome: "updated", downloaded: ["a.csv", "new"], deleted: ["deep/b.csv", "left"] })
      assert.deepStrictEqual(reads.toSorted(), ["a.csv", "new"])
      assert.strictEqual(yield* fs.readFileString(`${places.raw}/a.csv`), "one")
      assert.isFalse(yield* fs.exists(`${places.raw}/deep/b.csv`))
    }))

  test("vouches for nothing that an attempt which was cut off may have changed", ({
    fs,
    onVolume,
    options,
    places,
    sync,
    write
  }) =>
    Effect.gen(function* () {
      yield* sync
      yield* write("a.csv", "one")
      const broken = new SandboxError({ operation: "test", reason: new Unknown({}) })
      const torn: DatasetSource["Service"] = {
        ...options.source,
        read: () => Stream.concat(Stream.make(bytes("o")), Stream.fail(broken))
      }
      const error = yield* Effect.flip(onVolume(VolumeCache.sync({ ...options, source: torn })))
      assert.strictEqual(error.reason._tag, "Unknown")
      // The source is again as the first manifest had it.
      yield* write("a.csv", "1")
      assert.deepInclude(yield* sync, { outcome: "updated", downloaded: ["a.csv"] })
      assert.strictEqual(yield* fs.readFileString(`${places.raw}/a.csv`), "1")
    }))

  test("takes nothing for a file that is not what its source says", ({ onVolume, options }) =>
    Effect.gen(function* () {
      const liar: DatasetSource["Service"] = { ...options.source, read: () => Stream.make(bytes("other")) }
      const error = yield* Effect.flip(onVolume(VolumeCache.sync({ ...options, source: liar })))
      assert.strictEqual(error.reason._tag, "Unavailable")
    }))

  test("starts anew where the manifest cannot be read", ({ fs, places, sync }) =>
    Effect.gen(function* () {
      yield* sync
      yield* fs.writeFile(places.manifest, bytes("{"))
      assert.deepInclude(yield* sync, { outcome: "updated", downloaded: ["a.csv", "deep/b.csv"] })
    }))

  test("takes results back to the source, once, and never for inputs", ({ fs, origin, places, publish, sync }) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* publish, [])
      yield* sync
      yield* fs.makeDirectory(`${places.normalized}/deep`, { recursive: true })
      yield* fs.writeFile(`${places.normalized}/deep/sum`, bytes("3"))
      assert.deepStrictEqual(yield* publish, ["normalized/deep/sum"])
      assert.strictEqual(yield* fs.readFileString(origin("normalized/deep/sum")), "3")
      assert.deepStrictEqual(yield* publish, [])
      assert.strictEqual((yield* sync).outcome, "unchanged")
    }))

  test("refuses ids and paths that lead elsewhere", ({ onVolume, options }) =>
    Effect.gen(function* () {
      for (const datasetId of ["", "..", "a/b", ".hidden"]) {
        const error = yield* Effect.flip(onVolume(VolumeCache.sync({ ...options, datasetId })))
        assert.strictEqual(error.reason._tag, "InvalidArgument", datasetId)
      }
      for (const path of ["../x", "/x", "a//b", ""]) {
        const source = { ...options.source, list: () => Stream.make({ path, sha256: "0".repeat(64), bytes: 0 }) }
        const error = yield* Effect.flip(onVolume(VolumeCache.sync({ ...options, source })))
        assert.strictEqual(error.reason._tag, "InvalidArgument", path)
      }
    }))
})

describe("volumes of Daytona", () => {
  it.live("are listed, made, found and deleted by name", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make()
        yield* Effect.gen(function* () {
          assert.deepStrictEqual(yield* Volumes.list, [])
          const missing = yield* Effect.flip(Volumes.get("b"))
          assert.deepInclude(missing.reason, { _tag: "NotFound", kind: "volume", id: "b" })
          const made = yield* Volumes.create("b")
          assert.strictEqual(made.state, "ready")
          assert.strictEqual((yield* Volumes.create("b")).id, made.id)
          yield* Volumes.create("a")
          assert.deepStrictEqual(
            (yield* Volumes.list).map(({ name }) => name),
            ["a", "b"]
          )
          assert.deepStrictEqual(yield* Volumes.get("b"), made)
          yield* Volumes.delete("b")
          yield* Volumes.delete("nowhere")
          assert.deepStrictEqual(
            (yield* Volumes.list).map(({ name }) => name),
            ["a"]
          )
          emulator.faults.inject("volume.create", { _tag: "Becomes", state: "error", reason: "no bucket" })
          const failed = yield* Effect.flip(Volumes.create("c"))
          assert.deepInclude(failed.reason, { _tag: "VolumeFailed", volume: "c", state: "error" })
          assert.strictEqual(emulator.requests.count("volume.create"), 3)
        }).pipe(Effect.provide(Layer.fresh(Daytona.layer(optionsFor(emulator)))))
      })
    )
  )
})
