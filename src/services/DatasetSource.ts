/** Where datasets come from, and where results go. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import type * as Stream from "effect/Stream"
import type { SandboxError } from "../errors.ts"
import type { DatasetFile } from "../model/Dataset.ts"

/** What a source may fail with. */
export type Failure = SandboxError | PlatformError.PlatformError

/** A store of datasets: the port that `programs/volumeCache` reads and writes. */
export class DatasetSource extends Context.Service<
  DatasetSource,
  {
    /** The files of a dataset, in any order. */
    readonly list: (datasetId: string) => Stream.Stream<DatasetFile, Failure>
    /** What is in one of them. */
    readonly read: (datasetId: string, path: string) => Stream.Stream<Uint8Array, Failure>
    /** Writes a file of a dataset, whole or not at all. */
    readonly write: (
      datasetId: string,
      path: string,
      content: Stream.Stream<Uint8Array, Failure>
    ) => Effect.Effect<void, Failure>
  }
>()("effect-sandbox/services/DatasetSource") {}
