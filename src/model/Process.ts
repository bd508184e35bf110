/** Processes: how they are recorded, how they end, and what a command gives back. */
import * as Data from "effect/Data"
import * as Schema from "effect/Schema"
import { Count, JsonObject, Millis } from "./Common.ts"
import { ProcessId, SandboxId } from "./Ids.ts"
import { Lease } from "./Lease.ts"

/** A label, nothing more: what the process is for. */
export const ProcessKind = Schema.Literals([
  "command",
  "service",
  "codex-app-server",
  "dev-server",
  "test-runner",
  "watcher"
])
export type ProcessKind = typeof ProcessKind.Type

/** `foreground` waits for the end; `background` returns once the command is accepted. */
export const ProcessMode = Schema.Literals(["foreground", "background"])
export type ProcessMode = typeof ProcessMode.Type

/**
 * `starting`; `running`; `detached` (running, no service attached); `exited` (code 0); `failed` (another code, or a start
 * failure); `killed` (a signal or our deadline); `lost` (nobody can know).
 */
export const ProcessStatus = Schema.Literals(["starting", "running", "detached", "exited", "failed", "killed", "lost"])
export type ProcessStatus = typeof ProcessStatus.Type

/** True once the process can never write again. */
export const isTerminal = (status: ProcessStatus): boolean =>
  status === "exited" || status === "failed" || status === "killed" || status === "lost"

/** Raw byte offsets in the process's two output streams; never a position in a vendor's own log. */
export const OutputPosition = Schema.Struct({ stdout: Count, stderr: Count })
export type OutputPosition = typeof OutputPosition.Type

/** The beginning of both streams. */
export const outputStart: OutputPosition = { stdout: 0, stderr: 0 }

/**
 * A recorded process (entity `sandbox_processes`). Times are ms since the epoch. `args` and `env` hold no redacted value: of a
 * redacted variable there is the name in `secretEnv`, of a redacted argument the text `<redacted>`.
 */
export const ProcessRecord = Schema.Struct({
  id: ProcessId,
  sandboxId: SandboxId,
  schemaVersion: Schema.optionalKey(Count),
  version: Schema.optionalKey(Count),
  kind: ProcessKind,
  mode: ProcessMode,
  status: ProcessStatus,
  /** True for a process that somebody else runs and reports through `appendObservedProcessChunk`. */
  observed: Schema.optionalKey(Schema.Boolean),
  provider: Schema.String,
  command: Schema.String,
  args: Schema.Array(Schema.String),
  cwd: Schema.optionalKey(Schema.String),
  env: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  secretEnv: Schema.optionalKey(Schema.Array(Schema.String)),
  exitCode: Schema.optionalKey(Schema.Number),
  signal: Schema.optionalKey(Schema.String),
  externalProcessId: Schema.optionalKey(Schema.String),
  /** The incarnation of the machine that the process was started on: on another one it cannot be found again. */
  incarnation: Schema.optionalKey(Schema.String),
  streamId: Schema.optionalKey(Schema.String),
  streamClientId: Schema.optionalKey(Schema.String),
  streamStartedAt: Schema.optionalKey(Millis),
  streamFinishedAt: Schema.optionalKey(Millis),
  streamAbortReason: Schema.optionalKey(Schema.String),
  startedAt: Millis,
  updatedAt: Schema.optionalKey(Millis),
  exitedAt: Schema.optionalKey(Millis),
  /** When the process is killed, whoever is awake then. */
  deadline: Schema.optionalKey(Millis),
  lease: Schema.optionalKey(Lease),
  metadata: Schema.optionalKey(JsonObject)
})
export type ProcessRecord = typeof ProcessRecord.Type

/**
 * How a process ended. `Signalled` only when that is known (the system's own status, or our runner sent the signal); its
 * `code` is 128 + the signal's number. A bare code above 128 from a shell or a vendor stays `Exited`. `reason` says who ended it.
 */
export type ProcessExit = Data.TaggedEnum<{
  Exited: { readonly code: number; readonly reason?: EndReason }
  Signalled: { readonly signal: string; readonly code: number; readonly reason?: EndReason }
}>
/** Constructors and matchers of {@link ProcessExit}. */
export const ProcessExit = Data.taggedEnum<ProcessExit>()

/** `deadline`: the process's own; `timeout`: the lease of its sandbox; `stop`: the sandbox was stopped. */
export type EndReason = "deadline" | "timeout" | "stop"

/** What a command that was waited for gave back. */
export interface CommandResult {
  /** The exit code; 128 + n after signal n. */
  readonly exitCode: number
  /** The signal, where the provider can tell (`capabilities.processes.signalsObservable`). */
  readonly signal?: string
  /** Text: malformed UTF-8 is replaced. Use `streamCommand` for the bytes. */
  readonly stdout: string
  readonly stderr: string
  /** The command line for people, redacted arguments hidden. */
  readonly command: string
  readonly durationMs: number
  /** Bytes left out of the middle of each stream because of `maxOutputBytes`. */
  readonly truncated: { readonly stdout: number; readonly stderr: number }
}

/** What `streamCommand` yields: output as it comes, and the end as the last element. */
export type OutputEvent = Data.TaggedEnum<{
  stdout: { readonly bytes: Uint8Array }
  stderr: { readonly bytes: Uint8Array }
  exit: { readonly exit: ProcessExit }
}>

/** What a recorded command gave back. `result` is absent in `background` mode. */
export interface ProcessRunResult {
  readonly processId: ProcessId
  /** What the record has: the id of a stream with a copy of the log, where the store makes copies; else the id of the process. */
  readonly streamId: string
  readonly streamClientId: string
  readonly result?: CommandResult
}
