/** A dataset as a volume keeps it. */
import * as Schema from "effect/Schema"
import { Count, Millis } from "./Common.ts"

const isRelative = Schema.makeFilter<string>((path) =>
  !path.includes("\0") && path.split("/").every((part) => part !== "" && part !== "." && part !== "..")
    ? undefined
    : "a relative path without empty parts, . and .."
)

/** A file by its path in the dataset, and what is in it. */
export const DatasetFile = Schema.Struct({
  path: Schema.String.check(isRelative),
  /** In lower-case hexadecimal. */
  sha256: Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/)),
  bytes: Count
})
export type DatasetFile = typeof DatasetFile.Type

/** What a volume holds of a dataset; `writtenAt` is in ms since the epoch. */
export const DatasetManifest = Schema.Struct({
  version: Schema.Literal(1),
  datasetId: Schema.String,
  files: Schema.Array(DatasetFile),
  writtenAt: Millis
})
export type DatasetManifest = typeof DatasetManifest.Type
