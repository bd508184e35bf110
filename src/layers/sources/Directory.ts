/** Datasets in a directory of this machine: one folder each. */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import { DatasetSource } from "../../services/DatasetSource.ts"

/** Options of {@link make}. */
export interface Options {
  /** The directory that holds the folders of the datasets. */
  readonly path: string
}

/** What is written and not yet in place. */
const partial = ".effect-sandbox-partial-"

/** A source over a directory. */
export const make = (
  options: Options
): Effect.Effect<DatasetSource["Service"], never, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const { dirname, join } = yield* Path.Path
    const folder = (datasetId: string) => join(options.path, datasetId)
    const fileOf = (datasetId: string, path: string) =>
      Effect.map(fs.stat(join(folder(datasetId), path)), ({ type }) =>
        type === "File" && !path.includes(partial) ? Option.some(path) : Option.none<string>()
      )
    return DatasetSource.of({
      list: (datasetId) =>
        Stream.unwrap(
          Effect.map(fs.readDirectory(folder(datasetId), { recursive: true }), (paths) => Stream.fromIterable(paths))
        ).pipe(
          Stream.mapEffect((path) => fileOf(datasetId, path)),
          Stream.filter(Option.isSome),
          Stream.mapEffect(({ value: path }) =>
            Effect.suspend(() => {
              const hash = Crypto.createHash("sha256")
              let bytes = 0
              return Effect.map(
                Stream.runForEach(fs.stream(join(folder(datasetId), path)), (chunk) =>
                  Effect.sync(() => {
                    hash.update(chunk)
                    bytes += chunk.length
                  })
                ),
                () => ({ path, sha256: hash.digest("hex"), bytes })
              )
            })
          )
        ),
      read: (datasetId, path) => fs.stream(join(folder(datasetId), path)),
      write: Effect.fnUntraced(function* (datasetId, path, content) {
        const target = join(folder(datasetId), path)
        const beside = join(dirname(target), `${partial}${SecureRandom.uuidV4Unsafe()}`)
        yield* fs.makeDirectory(dirname(target), { recursive: true })
        yield* Stream.run(content, fs.sink(beside)).pipe(
          Effect.andThen(fs.rename(beside, target)),
          Effect.onError(() => Effect.ignore(fs.remove(beside, { force: true })))
        )
      })
    })
  })

/** The same as the `DatasetSource` of a program. */
export const layer = (options: Options): Layer.Layer<DatasetSource, never, FileSystem.FileSystem | Path.Path> =>
  Layer.effect(DatasetSource, make(options))
