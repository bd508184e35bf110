/** The record of a sandbox (entity `sandbox_sandboxes`): names and fields as in `@ekairos/sandbox`, with a few more. */
import * as Schema from "effect/Schema"
import { Count, JsonObject, Millis } from "./Common.ts"
import { SandboxId } from "./Ids.ts"
import { Lease } from "./Lease.ts"
import { StoredConfig } from "./SandboxConfig.ts"

/** The schema version that this library writes, and the highest that it reads. */
export const schemaVersion = 2

/**
 * `creating → active | error`; `active → recreating → active | error`; `active → shutdown`; `shutdown → active` only by an explicit
 * reconnect or restore of a persistent one, or by named reuse.
 */
export const SandboxStatus = Schema.Literals(["creating", "active", "recreating", "shutdown", "error"])
export type SandboxStatus = typeof SandboxStatus.Type

/** Times are ms since the epoch. Records of `@ekairos/sandbox` decode: everything that it did not write is optional. */
export const SandboxRecord = Schema.Struct({
  id: SandboxId,
  /** The vendor's id: Vercel the name, Daytona the id, Sprites the name, local `local:<SandboxId>`. */
  externalSandboxId: Schema.optionalKey(Schema.String),
  sandboxUserId: Schema.optionalKey(Schema.String),
  /** The registered name of the provider. */
  provider: Schema.String,
  sandboxUrl: Schema.optionalKey(Schema.String),
  status: SandboxStatus,
  /** The lease in ms. */
  timeout: Schema.optionalKey(Millis),
  runtime: Schema.optionalKey(Schema.String),
  vcpus: Schema.optionalKey(Schema.Number),
  ports: Schema.optionalKey(Schema.Array(Schema.Number)),
  purpose: Schema.optionalKey(Schema.String),
  params: Schema.optionalKey(JsonObject),
  createdAt: Millis,
  updatedAt: Schema.optionalKey(Millis),
  /** When it was stopped first. With `recreating`: a restore of a stopped sandbox was cut off, and it still counts as stopped. */
  shutdownAt: Schema.optionalKey(Millis),
  /** Absent = 1: written by `@ekairos/sandbox`. */
  schemaVersion: Schema.optionalKey(Count),
  /** The compare-and-set counter; absent = 0. */
  version: Schema.optionalKey(Count),
  incarnation: Schema.optionalKey(Schema.String),
  /** How many machines were meant to be made for it; absent = 1. The vendor's name of each carries it. */
  generation: Schema.optionalKey(Count),
  lease: Schema.optionalKey(Lease),
  persistent: Schema.optionalKey(Schema.Boolean),
  deleteOnStop: Schema.optionalKey(Schema.Boolean),
  /** Since when the machine of an `active` sandbox is known to be gone; its next use recovers it. */
  goneAt: Schema.optionalKey(Millis),
  /** The record is `shutdown`, the machine may not be; `delete` says how far the stop was to go. */
  stopPending: Schema.optionalKey(Schema.Literals(["stop", "delete"])),
  /** The checkpoint that a restore under way brings back: if that is cut off when the disk has gone, it is what comes in its place. */
  restoring: Schema.optionalKey(Schema.String),
  workspaceRoot: Schema.optionalKey(Schema.String),
  /** Why the status is `error`, without secrets. */
  error: Schema.optionalKey(Schema.String),
  /** Comments of checkpoints, by id, of a vendor that keeps none. */
  checkpointComments: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  /** What recreate uses: the config without secret values but with their names. */
  config: Schema.optionalKey(StoredConfig)
})
export type SandboxRecord = typeof SandboxRecord.Type
