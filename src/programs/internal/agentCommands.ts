/** Commands of a model: recorded processes, whose output is shown in part and can be read whole. */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import * as CommandLine from "effect/process/CommandLine"
import * as Stream from "effect/Stream"
import { NotFound, SandboxError } from "../../errors.ts"
import type { JsonObject } from "../../model/Common.ts"
import type { ProcessId, SandboxId } from "../../model/Ids.ts"
import type { ProcessKind, ProcessMode, ProcessRecord } from "../../model/Process.ts"
import { isTerminal } from "../../model/Process.ts"
import type { OutputProcessEvent } from "../../model/ProcessEvent.ts"
import { isOutput } from "../../model/ProcessEvent.ts"
import { Capped, concat, openTail } from "../../services/internal/capped.ts"
import type { SandboxProcess, SandboxService } from "../../services/SandboxService.ts"
import type { ToolFailure } from "./agentFailure.ts"
import { ofProcess, refuse, toFailure } from "./agentFailure.ts"
import { cut, encoded, shown, textOf } from "./agentText.ts"
import type { LogCursor, ProcessLogsResult, RunCommandResult } from "./agentTools.ts"

type Failure = SandboxError | PlatformError.PlatformError | ToolFailure
type Service = SandboxService["Service"]

/** What a command that somebody waits for has written so far. */
export interface CommandProgress {
  readonly sandboxId: SandboxId
  readonly processId: ProcessId
  /** Bytes of both streams. */
  readonly bytes: number
  /** The last line of the newest output, at most 200 characters; empty where it is no text. */
  readonly line: string
}

/** Hears of the output of `sandbox_run_command` while it comes. The default hears nothing. */
export const Progress = Context.Reference<((progress: CommandProgress) => Effect.Effect<void>) | undefined>(
  "effect-sandbox/programs/agentToolkit/Progress",
  { defaultValue: () => undefined }
)

/** Knows, of the last bytes of a growing stretch of output, where in the log they are. */
class Places {
  private readonly places: Array<{ readonly at: number; readonly seq: number; readonly skip: number }> = []
  private size = 0
  private last: LogCursor = { after: 0, skip: 0 }

  /** `bytes` of the event `seq` behind its first `skip` follow; `isRest` if they are all that it has. */
  push(seq: number, skip: number, bytes: number, isRest: boolean): void {
    this.places.push({ at: this.size, seq, skip })
    // A character has at most 4 bytes, so a cut at its border is in one of the last 5.
    if (this.places.length > 5) this.places.shift()
    this.size += bytes
    this.last = isRest ? { after: seq, skip: 0 } : { after: seq - 1, skip: skip + bytes }
  }

  /** What reads on from this many bytes, which are at most 4 less than all. */
  cursor(at: number): LogCursor {
    if (at === this.size) return this.last
    const place = this.places.findLast((one) => one.at <= at)
    return place === undefined ? this.last : { after: place.seq - 1, skip: place.skip + at - place.at }
  }
}

/** One stream of a command as a result shows it. */
class Excerpt {
  private readonly kept: Capped
  private readonly places = new Places()
  private readonly headCap: number
  private size = 0

  constructor(cap: number) {
    this.kept = new Capped(cap)
    this.headCap = Math.ceil(cap / 2)
  }

  push({ bytes, seq }: OutputProcessEvent): void {
    this.kept.push(bytes)
    const taken = Math.min(bytes.length, this.headCap - this.size)
    if (taken <= 0) return
    this.places.push(seq, 0, taken, taken === bytes.length)
    this.size += taken
  }

  finish(): { readonly text: string; readonly omitted: number; readonly isText: boolean; readonly rest: LogCursor } {
    const { head, omitted, tail } = this.kept.halves()
    const text =
      omitted === 0 ? shown(head) : `${shown(head)}\n[… ${omitted} bytes are left out here …]\n${shown(tail)}`
    const isText = textOf(head) !== undefined && textOf(tail) !== undefined
    return { text, omitted, isText, rest: this.places.cursor(head.length) }
  }
}

export interface RunCommand {
  readonly command: string
  readonly args?: ReadonlyArray<string>
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  readonly kind?: ProcessKind
  readonly mode?: ProcessMode
  readonly timeoutMs?: number
  readonly processId?: ProcessId
  readonly metadata?: JsonObject
}

const lastLine = (bytes: Uint8Array): string => {
  const text = textOf(bytes.subarray(-800)) ?? ""
  const lines = text.trimEnd().split(/\r?\n|\r/)
  return cut(lines.at(-1) ?? "", -200)
}

const readOn = (processId: ProcessId, stream: string, { after, skip }: LogCursor) =>
  `sandbox_read_process_logs with processId "${processId}", stream "${stream}", after ${after}, skip ${skip}`

/** A model's most common mistake is a shell line in the place of a program. */
const notStarted = (command: string, cwd: string | undefined) => (error: Failure) =>
  error._tag !== "PlatformError" || error.reason._tag !== "NotFound"
    ? error
    : error.reason.module === "FileSystem"
      ? refuse("NotFound", `${cwd ?? ""}: there is no such directory to run the command in`)
      : refuse(
          "NotFound",
          `there is no program ${JSON.stringify(command)} in the sandbox` +
            (/[\s|&;<>$*]/.test(command) ? ': a shell line is run by "sh" with the arguments ["-c", line]' : "")
        )

/** A script that was an argument is not sent back whole to who has written it. */
const maxShown = 500
const display = (record: ProcessRecord) => {
  const line = CommandLine.display([record.command, ...record.args])
  return line.length <= maxShown ? line : `${cut(line, 0, maxShown - 1)}…`
}

export const run = Effect.fnUntraced(function* (
  service: Service,
  maxOutputBytes: number,
  id: SandboxId,
  { args = [], command, mode = "foreground", timeoutMs, ...options }: RunCommand
): Effect.fn.Return<RunCommandResult, Failure> {
  const progress = yield* Progress
  const start = service
    .runCommandProcess(id, command, args, {
      ...options,
      mode: "background",
      onInterrupt: "kill",
      ...(timeoutMs === undefined ? {} : { timeout: timeoutMs })
    })
    .pipe(Effect.mapError(notStarted(command, options.cwd)))
  // Whoever gives up waiting wants the command to end, in every moment from its start on.
  const process = yield* Effect.uninterruptibleMask((restore) =>
    Effect.tap(restore(start), (started) =>
      mode === "background"
        ? Effect.void
        : Effect.onInterrupt(restore(watched(started, progress)), () => Effect.ignore(started.signal("SIGKILL")))
    )
  )
  const record = yield* process.snapshot
  const ids = {
    sandboxId: process.sandboxId,
    processId: process.processId,
    streamId: process.streamId,
    streamClientId: process.streamClientId,
    command: display(record),
    status: record.status
  }
  const durationMs = Math.max(0, (record.exitedAt ?? (yield* Clock.currentTimeMillis)) - record.startedAt)
  if (mode === "background") {
    const isOver = isTerminal(record.status)
    return {
      ...ids,
      success: !isOver || record.status === "exited",
      ...(record.exitCode === undefined ? {} : { exitCode: record.exitCode }),
      output: "",
      error: "",
      durationMs,
      note: `its output is read by sandbox_read_process_logs with processId "${process.processId}"`
    }
  }
  const excerpts = { stdout: new Excerpt(maxOutputBytes), stderr: new Excerpt(maxOutputBytes) }
  yield* Stream.runForEach(service.readProcessStream(process.processId), (event) =>
    Effect.sync(() => {
      if (isOutput(event)) excerpts[event._tag].push(event)
    })
  )
  const stdout = excerpts.stdout.finish()
  const stderr = excerpts.stderr.finish()
  const notes = Object.entries({ stdout, stderr }).flatMap(([stream, { isText, omitted, rest }]) => [
    ...(omitted === 0
      ? []
      : [`${omitted} bytes of ${stream} are left out; from there on reads ${readOn(process.processId, stream, rest)}`]),
    ...(isText
      ? []
      : [
          `${stream} is no text and shown as if it were; its bytes gives ${readOn(process.processId, stream, { after: 0, skip: 0 })}`
        ])
  ])
  if (record.status !== "exited" && record.status !== "failed") {
    notes.unshift(`the command did not end by itself: ${record.streamAbortReason ?? record.signal ?? record.status}`)
  }
  return {
    ...ids,
    success: record.status === "exited",
    ...(record.exitCode === undefined ? {} : { exitCode: record.exitCode }),
    output: stdout.text,
    error: stderr.text,
    durationMs,
    ...(notes.length === 0 ? {} : { note: notes.join(". ") })
  }
})

/** Waits for the end of a process, and tells of its output meanwhile if somebody wants to hear of it. */
const watched = (
  process: SandboxProcess,
  progress: ((progress: CommandProgress) => Effect.Effect<void>) | undefined
) => {
  const { processId, sandboxId } = process
  let bytes = 0
  const told =
    progress === undefined
      ? Effect.void
      : Stream.runForEach(process.events, (event) => {
          if (!isOutput(event)) return Effect.void
          bytes += event.bytes.length
          return progress({ sandboxId, processId, bytes, line: lastLine(event.bytes) })
        })
  return Effect.andThen(told, process.exit).pipe(
    Effect.mapError((error) =>
      ofProcess(
        toFailure(error),
        processId,
        `what it has written is read by sandbox_read_process_logs with processId "${processId}"`
      )
    )
  )
}

/** The record of a process, which must be one of this sandbox: an agent is not to reach another's. */
const processOf = (service: Service, operation: string, id: SandboxId, processId: ProcessId) =>
  Effect.flatMap(service.getProcessSnapshot(processId), (record) =>
    record.sandboxId === id
      ? Effect.succeed(record)
      : Effect.fail(
          new SandboxError({ operation, sandboxId: id, reason: new NotFound({ kind: "process", id: processId }) })
        )
  )

/** Output of one stream without another's in between. */
interface Run {
  readonly stream: "stdout" | "stderr"
  readonly parts: Array<Uint8Array>
  readonly places: Places
  size: number
}

export interface ReadLogs {
  readonly processId: ProcessId
  readonly after?: number
  readonly skip?: number
  readonly stream?: "stdout" | "stderr"
  readonly maxBytes?: number
  readonly waitMs?: number
}

export const readLogs = Effect.fnUntraced(function* (
  service: Service,
  defaultBytes: number,
  id: SandboxId,
  { after = 0, maxBytes = defaultBytes, processId, skip = 0, stream, waitMs = 0 }: ReadLogs
): Effect.fn.Return<ProcessLogsResult, Failure> {
  const isWanted = (event: { readonly _tag: string }) =>
    stream === undefined ? event._tag === "stdout" || event._tag === "stderr" : event._tag === stream
  const found = yield* processOf(service, "sandbox_read_process_logs", id, processId)
  if (!isTerminal(found.status)) {
    // Nobody might write its log any more: a background command outlives the service that started it.
    // Where that fails only now, what is in the log can be read all the same.
    const process = yield* service.attachProcess(processId, { after }).pipe(
      Effect.catchIf(
        (error) => error.isRetryable,
        () => Effect.undefined
      )
    )
    const isNew = (event: OutputProcessEvent) => event.seq > after + 1 || event.bytes.length > skip
    if (waitMs > 0 && process !== undefined) {
      yield* Stream.runHead(
        Stream.filter(process.events, (event) => isOutput(event) && isWanted(event) && isNew(event))
      ).pipe(Effect.timeoutOption(waitMs))
    }
  }
  // Before the log, so that of an ended process all of it is there.
  const record = yield* service.getProcessSnapshot(processId)
  const isOpen = !isTerminal(record.status)
  const runs: Array<Run> = []
  let left = maxBytes
  let isCut = false
  let reached: LogCursor = { after, skip }
  yield* Stream.runForEachWhile(service.readProcessStream(processId, { after }), (event) =>
    Effect.sync(() => {
      const from = event.seq === after + 1 ? skip : 0
      if (!isOutput(event) || !isWanted(event) || event.bytes.length <= from) {
        reached = { after: event.seq, skip: 0 }
        return true
      }
      if (left === 0) {
        isCut = true
        return false
      }
      const taken = event.bytes.subarray(from, from + left)
      let run = runs.at(-1)
      if (run?.stream !== event._tag) {
        run = { stream: event._tag, parts: [], places: new Places(), size: 0 }
        runs.push(run)
      }
      const isRest = from + taken.length === event.bytes.length
      run.parts.push(taken)
      run.places.push(event.seq, from, taken.length, isRest)
      run.size += taken.length
      left -= taken.length
      reached = run.places.cursor(run.size)
      isCut = !isRest
      return isRest
    })
  )
  const output = runs.map((run, index) => {
    const bytes = concat(run.parts, run.size)
    // The rest of a last character is in what follows.
    const open = index === runs.length - 1 && (isCut || isOpen) ? openTail(bytes) : 0
    if (open > 0) reached = run.places.cursor(run.size - open)
    return { stream: run.stream, ...encoded(bytes.subarray(0, run.size - open)) }
  })
  const hasNext = isCut || isOpen
  const cursor = `after ${reached.after}, skip ${reached.skip}${stream === undefined ? "" : `, stream "${stream}"`}`
  return {
    processId,
    command: display(record),
    status: record.status,
    ...(record.exitCode === undefined ? {} : { exitCode: record.exitCode }),
    ...(record.streamAbortReason === undefined ? {} : { abortReason: record.streamAbortReason }),
    output,
    ...(hasNext ? { next: reached } : {}),
    ...(isCut
      ? { note: `there is more: sandbox_read_process_logs with ${cursor} reads on` }
      : isOpen
        ? {
            note: `the process is ${record.status}: sandbox_read_process_logs with ${cursor} reads what it writes from here on`
          }
        : {})
  }
})

export const stopProcess = Effect.fnUntraced(function* (service: Service, id: SandboxId, processId: ProcessId) {
  const found = yield* processOf(service, "sandbox_stop_process", id, processId)
  if (!isTerminal(found.status)) {
    const process = yield* service.attachProcess(processId)
    yield* process.signal("SIGTERM", { forceAfter: "5 seconds" }).pipe(
      Effect.andThen(process.exit),
      // It may have ended by itself meanwhile, and nobody may know how.
      Effect.catchIf(
        ({ reason }) => reason._tag === "ProcessEnded" || reason._tag === "OutcomeUnknown",
        () => Effect.void
      )
    )
  }
  const { exitCode, status } = yield* service.getProcessSnapshot(processId)
  return { processId, status, ...(exitCode === undefined ? {} : { exitCode }) }
})
