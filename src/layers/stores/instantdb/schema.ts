/**
 * What the store keeps in an Instant app, built with Instant's own `i` so that it can be spread into an app's schema. Imports
 * nothing but `@instantdb/core`, which runs in browsers.
 */
import { i } from "@instantdb/core"

/** `sandbox_sandboxes`: the fields of `SandboxRecord`, and below them what the store itself needs. */
const sandboxes = i.entity({
  externalSandboxId: i.string().indexed().optional(),
  sandboxUserId: i.string().indexed().optional(),
  provider: i.string().indexed(),
  sandboxUrl: i.string().optional(),
  status: i.string().indexed(),
  timeout: i.number().optional(),
  runtime: i.string().optional(),
  vcpus: i.number().optional(),
  ports: i.json().optional(),
  purpose: i.string().indexed().optional(),
  params: i.json().optional(),
  createdAt: i.number().indexed(),
  updatedAt: i.number().indexed().optional(),
  shutdownAt: i.number().optional(),
  schemaVersion: i.number().optional(),
  version: i.number().optional(),
  incarnation: i.string().optional(),
  generation: i.number().optional(),
  lease: i.json().optional(),
  persistent: i.boolean().optional(),
  deleteOnStop: i.boolean().optional(),
  goneAt: i.number().optional(),
  stopPending: i.string().optional(),
  restoring: i.string().optional(),
  workspaceRoot: i.string().optional(),
  error: i.string().optional(),
  checkpointComments: i.json().optional(),
  config: i.json().optional(),
  // Of the store.
  namespace: i.string().indexed().optional(),
  recordId: i.string().indexed().optional(),
  revision: i.number().optional(),
  versionKey: i.string().unique().indexed().optional(),
  machineKey: i.string().unique().indexed().optional(),
  exact: i.string().optional()
})

/** `sandbox_processes`: the fields of `ProcessRecord`, what the store needs, and where the log ends. */
const processes = i.entity({
  sandboxId: i.string().indexed().optional(),
  schemaVersion: i.number().optional(),
  version: i.number().optional(),
  kind: i.string().indexed(),
  mode: i.string(),
  status: i.string().indexed(),
  observed: i.boolean().optional(),
  provider: i.string().indexed(),
  command: i.string(),
  args: i.json(),
  cwd: i.string().optional(),
  env: i.json().optional(),
  secretEnv: i.json().optional(),
  exitCode: i.number().optional(),
  signal: i.string().optional(),
  externalProcessId: i.string().optional(),
  incarnation: i.string().optional(),
  streamId: i.string().optional(),
  streamClientId: i.string().optional(),
  streamStartedAt: i.number().optional(),
  streamFinishedAt: i.number().optional(),
  streamAbortReason: i.string().optional(),
  startedAt: i.number().indexed(),
  updatedAt: i.number().indexed().optional(),
  exitedAt: i.number().optional(),
  deadline: i.number().optional(),
  lease: i.json().optional(),
  metadata: i.json().optional(),
  // Of the store.
  namespace: i.string().indexed().optional(),
  recordId: i.string().indexed().optional(),
  revision: i.number().optional(),
  versionKey: i.string().unique().indexed().optional(),
  exact: i.string().optional(),
  lastSeq: i.number().optional(),
  stdoutBytes: i.number().optional(),
  stderrBytes: i.number().optional()
})

/** A run of events of one process, packed: their JSON as one text, which the server stores as it is. */
const chunks = i.entity({
  /** `<process>:<seq of the first>`. */
  key: i.string().unique().indexed(),
  seq: i.number().indexed(),
  lastSeq: i.number().indexed(),
  /** Bytes of output in it. */
  size: i.number(),
  data: i.string(),
  /** Of an event that its writer named; such an event is alone in its row. */
  eventKey: i.string().unique().indexed().optional()
})

/** Whose key is unique: of the writers of one revision of a record only one can create it. */
const claims = i.entity({
  /** `<entity>:<revision that the write makes>`. */
  key: i.string().unique().indexed(),
  /** The write itself, so that one whose answer was lost finds out whether it happened. */
  by: i.string(),
  record: i.string().indexed(),
  revision: i.number().indexed(),
  at: i.number().indexed()
})

/** What the store keeps about itself: the namespace. */
const meta = i.entity({
  key: i.string().unique().indexed(),
  value: i.string()
})

const entities = {
  $users: i.entity({ email: i.string().unique().indexed().optional() }),
  $streams: i.entity({
    clientId: i.string().unique().indexed(),
    done: i.boolean().optional(),
    size: i.number().optional(),
    abortReason: i.string().optional()
  }),
  sandbox_sandboxes: sandboxes,
  sandbox_processes: processes,
  sandbox_log_chunks: chunks,
  sandbox_claims: claims,
  sandbox_meta: meta
}

const links = {
  sandboxUser: {
    forward: { on: "sandbox_sandboxes", has: "one", label: "user" },
    reverse: { on: "$users", has: "many", label: "sandboxes" }
  },
  sandboxProcessSandbox: {
    forward: { on: "sandbox_processes", has: "one", label: "sandbox", onDelete: "cascade" },
    reverse: { on: "sandbox_sandboxes", has: "many", label: "processes" }
  },
  sandboxProcessStream: {
    forward: { on: "sandbox_processes", has: "one", label: "stream" },
    reverse: { on: "$streams", has: "many", label: "processes" }
  },
  sandboxLogChunkProcess: {
    forward: { on: "sandbox_log_chunks", has: "one", label: "process", onDelete: "cascade" },
    reverse: { on: "sandbox_processes", has: "many", label: "chunks" }
  }
} as const

/** Entities, links and rooms of the store: spread them into the schema of an app. */
export const sandboxDomain = { entities, links, rooms: {} }

/** The schema of an app that has nothing else. */
export const schema = i.schema(sandboxDomain)

/** The type of an attribute as the store needs it. */
export interface Attribute {
  readonly type: string
  readonly required: boolean
  readonly indexed: boolean
  readonly unique: boolean
}

/** The attributes of an entity by name; nothing for an entity that the store does not have. */
export const attributesOf = (entity: string): ReadonlyMap<string, Attribute> => {
  const found = Object.entries(entities).find(([name]) => name === entity)
  return new Map(
    Object.entries(found?.[1].attrs ?? {}).map(([name, attribute]) => [
      name,
      {
        type: attribute.valueType,
        required: attribute.required,
        indexed: attribute.config.indexed,
        unique: attribute.config.unique
      }
    ])
  )
}

/** The labels of the links that an entity holds. */
export const linksOf = (entity: string): ReadonlyArray<string> =>
  Object.values(links).flatMap(({ forward }) => (forward.on === entity ? [forward.label] : []))
