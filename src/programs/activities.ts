/**
 * The methods of `SandboxService` as activities of `effect/workflow`: each takes the name that it has in its workflow and its input,
 * and is an `Activity` whose result the engine keeps.
 *
 * ```ts
 * const { sandboxId } = yield* Activities.createSandbox("sandbox", { config: { purpose: "tests" } })
 * const { exitCode } = yield* Activities.runCommand("test", { sandboxId, command: "npm", args: ["test"] })
 * ```
 *
 * A workflow that is killed and replayed creates one sandbox and runs each command once: ids are derived (UUIDv5) from the
 * execution's id and the activity's name, and what has such an id already is found again instead of being made. So that names must
 * be unique in a workflow: also in a loop, and for what must be done twice. Attempts of `Activity.retry` share their ids; only a
 * process that was never started gets a new one.
 *
 * Inputs, results and errors are schemas (`createSandbox.input`, `.success`, `.error`) and end up in the engine's database, so none
 * holds the value of a secret: inputs name secrets, and `SandboxSecrets`, which must be provided to the workflow too, supplies their
 * values when the activity runs.
 *
 * **Gotchas**: what a command prints and what a file holds is a result as well. An interrupted workflow leaves what it has started:
 * `Workflow.withCompensation` is the place for a `stopSandbox` of the service. A workflow whose code
 * has changed since it began fails `ConfigMismatch` where it asks for something else than it began with.
 */
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { SandboxError } from "../errors.ts"
import { Checkpoint } from "../model/Checkpoint.ts"
import { Count, JsonObject, NoNul, Port, SaneDuration, SecretName } from "../model/Common.ts"
import { ProcessId, SandboxId } from "../model/Ids.ts"
import { PlatformError } from "../model/PlatformError.ts"
import { ProcessKind, ProcessMode, ProcessRecord } from "../model/Process.ts"
import { encode, ProcessEvent } from "../model/ProcessEvent.ts"
import { fromStored, secretNames, StoredConfig } from "../model/SandboxConfig.ts"
import { SandboxRecord } from "../model/SandboxRecord.ts"
import { SandboxRef } from "../model/SandboxRef.ts"
import { uuidV5 } from "../services/internal/uuidV5.ts"
import * as SandboxSecrets from "../services/SandboxSecrets.ts"
import type { ProcessOptions, SandboxService } from "../services/SandboxService.ts"
import * as Ekairos from "./createEkairosApp.ts"
import * as Codex from "./installCodexAuth.ts"
import type { Action, InputOf } from "./internal/activity.ts"
import * as core from "../services/internal/core.ts"
import { action, idOf } from "./internal/activity.ts"

export type { Action, InputOf }
export { idOf }

/** What the methods that speak to programs and files fail with. */
export const Failure = Schema.Union([SandboxError, PlatformError])
export type Failure = typeof Failure.Type

// ── sandboxes ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What {@link createSandbox} yields; `resumed` when the name of its config existed already. */
export const Created = Schema.Struct({
  sandboxId: SandboxId,
  ref: SandboxRef,
  outcome: Schema.Literals(["created", "resumed"])
})

/**
 * Makes a sandbox whose id is {@link idOf} this activity, or is given. The config is the one that records keep: durations as ever,
 * and of secret variables their names (`secretEnv`), of secret headers `{ secret: name }`.
 */
export const createSandbox = action(
  "createSandbox",
  {
    input: Schema.Struct({
      config: Schema.optionalKey(StoredConfig),
      sandboxId: Schema.optionalKey(SandboxId)
    }),
    success: Created,
    error: SandboxError
  },
  Effect.fnUntraced(function* ({ config = {}, sandboxId }, { name, operation, sandboxes }) {
    const id = sandboxId ?? (yield* idOf(name))
    const secrets = yield* SandboxSecrets.supply(operation, SandboxId.make(id), secretNames(config))
    const created = yield* sandboxes.createSandbox(fromStored(config, secrets), { sandboxId: id })
    // Nobody else makes one of a derived id: what was there already was made by an earlier run of this very activity.
    return sandboxId === undefined && created.sandboxId === id ? { ...created, outcome: "created" as const } : created
  })
)

const ofSandbox = { sandboxId: SandboxId }

/** `SandboxService.stopSandbox`; once more changes nothing. */
export const stopSandbox = action(
  "stopSandbox",
  {
    input: Schema.Struct({ ...ofSandbox, delete: Schema.optionalKey(Schema.Boolean) }),
    success: Schema.Void,
    error: SandboxError
  },
  ({ sandboxId, ...options }, { sandboxes }) => sandboxes.stopSandbox(sandboxId, options)
)

/** `SandboxService.getSandbox`: the record as it stood when the activity ran. */
export const getSandbox = action(
  "getSandbox",
  { input: Schema.Struct(ofSandbox), success: SandboxRecord, error: SandboxError },
  ({ sandboxId }, { sandboxes }) => sandboxes.getSandbox(sandboxId)
)

/** Where a port can be reached. The values of the headers that some vendors ask for are secrets: `SandboxService.getPortUrl` has them. */
export const PortAddress = Schema.Struct({
  port: Port,
  url: Schema.String,
  headerNames: Schema.Array(Schema.String),
  expiresAt: Schema.optionalKey(Schema.Number)
})

/** `SandboxService.getPortUrl`; `ready: true` waits until something answers there. */
export const getPortUrl = action(
  "getPortUrl",
  {
    input: Schema.Struct({ ...ofSandbox, port: Port, ready: Schema.optionalKey(Schema.Boolean) }),
    success: PortAddress,
    error: SandboxError
  },
  ({ port, sandboxId, ...options }, { sandboxes }) =>
    Effect.map(sandboxes.getPortUrl(sandboxId, port, options), ({ headers, ...address }) => ({
      ...address,
      headerNames: Object.keys(headers)
    }))
)

/**
 * `SandboxService.createCheckpoint`, once: its comment ends with a mark, by which a replay finds it again. One that was cut off
 * between the vendor's doing and the note of it, where the vendor keeps no comments, is made twice.
 */
export const createCheckpoint = action(
  "createCheckpoint",
  {
    input: Schema.Struct({
      ...ofSandbox,
      comment: Schema.optionalKey(Schema.String),
      stopProcesses: Schema.optionalKey(Schema.Boolean)
    }),
    success: Checkpoint,
    error: SandboxError
  },
  Effect.fnUntraced(function* ({ comment = "", sandboxId, ...options }, { name, sandboxes }) {
    const mark = `[workflow:${yield* idOf(name)}]`
    const unmarked = (checkpoint: Checkpoint): Checkpoint => {
      const { comment: _, ...rest } = checkpoint
      return comment === "" ? rest : { ...rest, comment }
    }
    const earlier = sandboxes.listCheckpoints(sandboxId).pipe(
      Stream.filter((checkpoint) => checkpoint.comment?.endsWith(mark) === true),
      Stream.runHead,
      Effect.map(Option.map(unmarked))
    )
    const found = yield* earlier
    if (Option.isSome(found)) return found.value
    return yield* sandboxes.createCheckpoint(sandboxId, { ...options, comment: `${comment} ${mark}`.trim() }).pipe(
      Effect.map(unmarked),
      // Its answer got lost: perhaps it is there.
      Effect.catchIf(
        (error) => error.reason._tag === "OutcomeUnknown",
        (error) => Effect.flatMap(earlier, Option.match({ onNone: () => Effect.fail(error), onSome: Effect.succeed }))
      )
    )
  })
)

// ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** An argument: text, or the name of a secret, for providers that take secrets as arguments. */
const Argument = Schema.Union([Schema.String, SecretName])

const commandFields = {
  ...ofSandbox,
  command: Schema.String,
  args: Schema.optionalKey(Schema.Array(Argument)),
  cwd: Schema.optionalKey(Schema.String),
  env: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  /** Names of variables whose values are secrets. */
  secretEnv: Schema.optionalKey(Schema.Array(Schema.String)),
  timeout: Schema.optionalKey(SaneDuration),
  kind: Schema.optionalKey(ProcessKind),
  metadata: Schema.optionalKey(JsonObject)
}

type CommandInput = Schema.Struct<typeof commandFields>["Type"]

/** Whether nothing of it was ever run: its start has failed. */
const neverStarted = ({ exitCode, status, streamStartedAt }: ProcessRecord): boolean =>
  status === "failed" && exitCode === undefined && streamStartedAt === undefined

/** The id of this activity's process: that of its earlier run, or a new one if that run could not start it. */
const processIdOf = (name: string, sandboxes: SandboxService["Service"]) =>
  Effect.gen(function* () {
    const first = yield* idOf(name)
    for (let start = 1; ; start++) {
      const id = start === 1 ? first : yield* uuidV5(first, String(start))
      const isFree = yield* sandboxes.getProcessSnapshot(id).pipe(
        Effect.map(neverStarted),
        Effect.map((failed) => !failed),
        Effect.catchIf(
          (error) => error.reason._tag === "NotFound",
          () => Effect.succeed(true)
        )
      )
      if (isFree) return id
    }
  })

/** The arguments of the service's methods, with the values of what the input names. */
const prepared = (operation: string, input: CommandInput, processId: string) =>
  Effect.gen(function* () {
    const { args = [], cwd, env, kind, metadata, sandboxId, secretEnv = [], timeout } = input
    const named = args.flatMap((arg) => (Predicate.isString(arg) ? [] : [arg.secret]))
    const secrets = yield* SandboxSecrets.supply(operation, sandboxId, [...new Set([...secretEnv, ...named])])
    const valueOf = (name: string) => secrets[name] ?? Redacted.make("")
    const options: ProcessOptions = {
      processId,
      cwd,
      timeout,
      kind,
      metadata,
      env: { ...env, ...Object.fromEntries(secretEnv.map((name) => [name, valueOf(name)])) }
    }
    return { args: args.map((arg) => (Predicate.isString(arg) ? arg : valueOf(arg.secret))), options }
  })

/** What a command that was waited for gave back; the fields of `CommandResult`. */
export const CommandResult = Schema.Struct({
  exitCode: Schema.Number,
  signal: Schema.optionalKey(Schema.String),
  stdout: Schema.String,
  stderr: Schema.String,
  command: Schema.String,
  durationMs: Schema.Number,
  truncated: Schema.Struct({ stdout: Count, stderr: Count })
})

/**
 * Runs a command to its end, once, as a recorded process: a replay goes on waiting for it, and takes its result from its log. A
 * non-zero exit is a value. If nobody can know how it ended, that is `OutcomeUnknown`, and it is not run again.
 */
export const runCommand = action(
  "runCommand",
  {
    input: Schema.Struct({
      ...commandFields,
      stdin: Schema.optionalKey(Schema.String),
      maxOutputBytes: Schema.optionalKey(Count)
    }),
    success: Schema.Struct({ ...CommandResult.fields, processId: ProcessId }),
    error: Failure
  },
  Effect.fnUntraced(function* ({ maxOutputBytes, stdin, ...input }, { name, operation, sandboxes }) {
    const processId = yield* processIdOf(name, sandboxes)
    const { args, options } = yield* prepared(operation, input, processId)
    const { processId: id, result } = yield* sandboxes.runCommandWithProcessStream(
      input.sandboxId,
      input.command,
      args,
      { ...options, mode: "foreground", maxOutputBytes, stdin }
    )
    // Only `background` has none.
    return result === undefined ? yield* Effect.die(new Error("no result")) : { ...result, processId: id }
  })
)

/** What names a recorded process. */
export const StartedProcess = Schema.Struct({
  processId: ProcessId,
  sandboxId: SandboxId,
  streamId: Schema.String,
  streamClientId: Schema.String
})

/**
 * `SandboxService.runCommandProcess`, once. `mode: "background"`, the default, is done once the command is accepted, `foreground`
 * once it has ended.
 */
export const runCommandProcess = action(
  "runCommandProcess",
  {
    input: Schema.Struct({
      ...commandFields,
      mode: Schema.optionalKey(ProcessMode),
      /** Text that it reads; or `{ open: true }`, for `SandboxService.writeProcessInput`. */
      stdin: Schema.optionalKey(Schema.Union([Schema.String, Schema.Struct({ open: Schema.Literal(true) })]))
    }),
    success: StartedProcess,
    error: Failure
  },
  Effect.fnUntraced(function* ({ mode, stdin, ...input }, { name, operation, sandboxes }) {
    const id = yield* processIdOf(name, sandboxes)
    const { args, options } = yield* prepared(operation, input, id)
    const { processId, sandboxId, streamClientId, streamId } = yield* sandboxes.runCommandProcess(
      input.sandboxId,
      input.command,
      args,
      // Text that happens to be "open" goes in as bytes: the service reads the word otherwise.
      { ...options, mode, stdin: Predicate.isString(stdin) ? new TextEncoder().encode(stdin) : stdin && "open" }
    )
    return { processId, sandboxId, streamClientId, streamId }
  })
)

const maxReadBytes = 1024 * 1024

/**
 * The log of a process from `nextSeq` on, up to `maxBytes` (default 1 MiB) and at least one event where there is one. What it
 * yields is the next one's input: `nextSeq`, and `byteOffset`, which counts the bytes of the log as lines of JSON, as readers of its
 * copy in Instant do. Without `follow` it is what the store has by now; with `follow` it goes on until the end or the limit.
 */
export const readProcessStream = action(
  "readProcessStream",
  {
    input: Schema.Struct({
      processId: ProcessId,
      nextSeq: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))),
      byteOffset: Schema.optionalKey(Count),
      maxBytes: Schema.optionalKey(Count),
      follow: Schema.optionalKey(Schema.Boolean)
    }),
    success: Schema.Struct({ chunks: Schema.Array(ProcessEvent), byteOffset: Count, nextSeq: Count }),
    error: SandboxError
  },
  Effect.fnUntraced(function* (input, { sandboxes }) {
    const { byteOffset = 0, follow = false, maxBytes = maxReadBytes, nextSeq = 1, processId } = input
    // Nobody may be writing the log of a process that was left running.
    if (follow) yield* sandboxes.attachProcess(processId)
    const chunks: Array<ProcessEvent> = []
    let bytes = 0
    yield* sandboxes.readProcessStream(processId, { after: nextSeq - 1, follow }).pipe(
      Stream.runForEachWhile((event) =>
        Effect.sync(() => {
          const size = new TextEncoder().encode(`${JSON.stringify(encode(event))}\n`).length
          const fits = chunks.length === 0 || bytes + size <= maxBytes
          if (fits) {
            chunks.push(event)
            bytes += size
          }
          return fits
        })
      )
    )
    return { chunks, byteOffset: byteOffset + bytes, nextSeq: nextSeq + chunks.length }
  })
)

// ── observed processes ───────────────────────────────────────────────────────────────────────────────────────────────

/** `SandboxService.startObservedProcess`, once. */
export const startObservedProcess = action(
  "startObservedProcess",
  {
    input: Schema.Struct({
      ...ofSandbox,
      command: Schema.String,
      args: Schema.optionalKey(Schema.Array(Schema.String)),
      cwd: Schema.optionalKey(Schema.String),
      kind: Schema.optionalKey(ProcessKind),
      processId: Schema.optionalKey(ProcessId),
      externalProcessId: Schema.optionalKey(Schema.String),
      metadata: Schema.optionalKey(JsonObject)
    }),
    success: ProcessRecord,
    error: SandboxError
  },
  ({ sandboxId, ...options }, { name, sandboxes }) =>
    Effect.flatMap(options.processId === undefined ? idOf(name) : Effect.succeed(options.processId), (processId) =>
      sandboxes.startObservedProcess(sandboxId, { ...options, processId })
    )
)

/** Bytes of an input, which plain text is not. */
const Bytes = Schema.Struct({ base64: Schema.String })

/**
 * `SandboxService.appendObservedProcessChunk`, once: its `key` is {@link idOf} this activity unless it is given. Output is text or
 * `{ base64 }`; of `metadata` it is `data` all the same, an object.
 */
export const appendObservedProcessChunk = action(
  "appendObservedProcessChunk",
  {
    input: Schema.Struct({
      processId: ProcessId,
      type: Schema.Literals(["stdout", "stderr", "error", "heartbeat", "metadata"]),
      data: Schema.optionalKey(Schema.Union([Schema.String, JsonObject])),
      key: Schema.optionalKey(Schema.String)
    }),
    success: ProcessEvent,
    error: SandboxError
  },
  Effect.fnUntraced(function* ({ data, key, processId, type }, { name, operation, sandboxes }) {
    const isBytes = (type === "stdout" || type === "stderr") && Schema.is(Bytes)(data)
    return yield* sandboxes.appendObservedProcessChunk(processId, {
      type,
      key: key ?? (yield* idOf(name)),
      data: isBytes ? yield* decodeBytes(operation, "data", data) : data
    })
  })
)

const decodeBytes = (operation: string, argument: string, { base64 }: typeof Bytes.Type) => {
  const bytes = Base64.decode(base64)
  return Result.isSuccess(bytes)
    ? Effect.succeed(bytes.success)
    : Effect.fail(core.invalid(operation, argument, "malformed base64"))
}

/** `SandboxService.finishObservedProcess`; the same end once more changes nothing. */
export const finishObservedProcess = action(
  "finishObservedProcess",
  {
    input: Schema.Struct({
      processId: ProcessId,
      exitCode: Schema.optionalKey(Schema.Int),
      errorText: Schema.optionalKey(Schema.String)
    }),
    success: ProcessRecord,
    error: SandboxError
  },
  ({ processId, ...end }, { sandboxes }) => sandboxes.finishObservedProcess(processId, end)
)

// ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What a file is to hold: text, bytes, or the value of the secret of that name. */
const Content = Schema.Union([Schema.String, Bytes, SecretName])

/** `SandboxService.writeFiles`; a replay writes the same once more. */
export const writeFiles = action(
  "writeFiles",
  {
    input: Schema.Struct({
      ...ofSandbox,
      files: Schema.Array(Schema.Struct({ path: NoNul, content: Content, mode: Schema.optionalKey(Schema.Int) }))
    }),
    success: Schema.Void,
    error: Failure
  },
  Effect.fnUntraced(function* ({ files, sandboxId }, { operation, sandboxes }) {
    const contents = files.map(({ content }) => content)
    const names = contents.flatMap((content) =>
      Predicate.isString(content) || "base64" in content ? [] : [content.secret]
    )
    const secrets = yield* SandboxSecrets.supply(operation, sandboxId, [...new Set(names)])
    const bytesOf = (content: typeof Content.Type, index: number): Effect.Effect<string | Uint8Array, SandboxError> => {
      if (Predicate.isString(content)) return Effect.succeed(content)
      if ("base64" in content) return decodeBytes(operation, `files[${index}].content`, content)
      const secret = secrets[content.secret]
      return Effect.succeed(secret === undefined ? "" : Redacted.value(secret))
    }
    const entries = yield* Effect.forEach(files, ({ content, ...file }, index) =>
      Effect.map(bytesOf(content, index), (content) => ({ ...file, content }))
    )
    yield* sandboxes.writeFiles(sandboxId, entries)
  })
)

/** `SandboxService.readFile`: the bytes as they were when the activity ran. A missing file is a `PlatformError` with `NotFound`. */
export const readFile = action(
  "readFile",
  {
    input: Schema.Struct({ ...ofSandbox, path: Schema.String }),
    success: Schema.Uint8ArrayFromBase64,
    error: Failure
  },
  ({ path, sandboxId }, { sandboxes }) => sandboxes.readFile(sandboxId, path)
)

// ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * `installCodexAuth`, from the machine that the activity runs on; needs its `FileSystem` and `Path`. A replay copies what is there
 * once more. Paths and which files there were are all that the engine stores.
 */
export const installCodexAuth = action(
  "installCodexAuth",
  {
    input: Schema.Struct({
      ...ofSandbox,
      codexHome: Schema.optionalKey(Schema.String),
      authJsonPath: Schema.optionalKey(Schema.String),
      credentialsJsonPath: Schema.optionalKey(Schema.String),
      configTomlPath: Schema.optionalKey(Schema.String)
    }),
    success: Schema.Struct({ authJson: Schema.Boolean, credentialsJson: Schema.Boolean, configToml: Schema.Boolean }),
    error: Failure
  },
  ({ sandboxId, ...options }) => Codex.installCodexAuth(sandboxId, options)
)

/** `createEkairosApp`, once; the token is a setting of the machine that the activity runs on, of which the input has the name. */
export const createEkairosApp = action(
  "createEkairosApp",
  {
    input: Schema.Struct({
      ...ofSandbox,
      appDir: Schema.optionalKey(Schema.String),
      packageManager: Schema.optionalKey(Schema.Literals(["pnpm", "npm", "yarn", "bun"])),
      instantTokenEnvName: Schema.optionalKey(Schema.String),
      overwrite: Schema.optionalKey(Schema.Boolean),
      timeout: Schema.optionalKey(SaneDuration),
      maxOutputBytes: Schema.optionalKey(Count)
    }),
    success: Schema.Struct({
      processId: ProcessId,
      streamId: Schema.String,
      streamClientId: Schema.String,
      result: Schema.optionalKey(CommandResult)
    }),
    error: Failure
  },
  ({ sandboxId, ...options }, { name, sandboxes }) =>
    Effect.flatMap(processIdOf(name, sandboxes), (processId) =>
      Ekairos.createEkairosApp(sandboxId, { ...options, processId })
    )
)
