/** Processes that somebody else runs and reports: we number the events and keep the log. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { InvalidArgument, NotActive, ProcessEnded, SandboxError } from "../../errors.ts"
import { JsonObject } from "../../model/Common.ts"
import type { ProcessId, SandboxId } from "../../model/Ids.ts"
import type { ProcessRecord } from "../../model/Process.ts"
import { isTerminal, outputStart, ProcessKind } from "../../model/Process.ts"
import type { ProcessEvent, ProcessEventBody } from "../../model/ProcessEvent.ts"
import { canonical } from "../../model/SandboxConfig.ts"
import type { LogPosition } from "../ProcessLog.ts"
import type { ProcessPatch } from "../SandboxStore.ts"
import type { Core } from "./core.ts"
import * as core from "./core.ts"
import { streamClientId } from "./Processes.ts"
import type { Asked } from "./sameProcess.ts"
import { sameOrMismatch } from "./sameProcess.ts"

/** What is reported about a process at its start. */
export interface ObservedStart {
  readonly command: string
  readonly args?: ReadonlyArray<string> | undefined
  readonly cwd?: string | undefined
  readonly kind?: ProcessKind | undefined
  readonly processId?: string | undefined
  readonly externalProcessId?: string | undefined
  readonly metadata?: JsonObject | undefined
}

/** One report. `data` is text or bytes for output and `error`, an object for `metadata`. The same `key` counts once. */
export interface ObservedChunk {
  readonly type: "stdout" | "stderr" | "error" | "heartbeat" | "metadata"
  readonly data?: string | Uint8Array | JsonObject | undefined
  readonly key?: string | undefined
}

/** How it ended: `exited` when the code is absent or 0, else `failed`. */
export interface ObservedFinish {
  readonly exitCode?: number | undefined
  readonly errorText?: string | undefined
}

export interface Observed {
  readonly start: (id: SandboxId, options: ObservedStart) => Effect.Effect<ProcessRecord, SandboxError>
  readonly append: (processId: ProcessId, chunk: ObservedChunk) => Effect.Effect<ProcessEvent, SandboxError>
  readonly finish: (processId: ProcessId, options: ObservedFinish) => Effect.Effect<ProcessRecord, SandboxError>
}

/**
 * Nobody holds the lease of an observed process: its reports come from anywhere, ordered by the log alone. Its epoch grows only when
 * it is marked lost, which may be cut off.
 */
const epochOf = (record: ProcessRecord): number => record.lease?.epoch ?? 1

const encoder = new TextEncoder()
const isJsonObject = Schema.is(JsonObject)
const isKind = Schema.is(ProcessKind)

export const make = (self: Core): Observed => {
  const observedRecord = (operation: string, processId: ProcessId) =>
    Effect.gen(function* () {
      const record = yield* self.store.getProcess(processId)
      if (record.observed !== true) {
        return yield* new SandboxError({
          operation,
          processId,
          reason: new InvalidArgument({ argument: "processId", problem: "is not an observed process" })
        })
      }
      return record
    })

  /**
   * Appends behind a position that was read before the record: what anybody writes in between takes the `seq` away, so
   * that the decision is made anew.
   */
  const appendAfter = (
    position: LogPosition,
    record: ProcessRecord,
    body: ProcessEventBody,
    patch?: ProcessPatch
  ): Effect.Effect<ProcessEvent, SandboxError> =>
    Effect.suspend(() => {
      // The seq is what completes a body; TypeScript does not see that through the union.
      const event = { ...body, seq: position.seq + 1 } as ProcessEvent
      return Effect.as(core.retryStore(self)(self.log.append(record.id, epochOf(record), [event], patch)), event)
    })

  const isTaken = (error: SandboxError) =>
    error.reason._tag === "Store" && (error.reason.kind === "LogConflict" || error.reason.kind === "LeaseLost")

  const start: Observed["start"] = Effect.fnUntraced(function* (id, options) {
    const operation = "SandboxService.startObservedProcess"
    // Callers without types: a model's tool call, JavaScript.
    if (!Predicate.isString(options.command)) return yield* core.invalid(operation, "command", "expected text")
    if (options.command === "") return yield* core.invalid(operation, "command", "is empty")
    const { args = [], kind = "command" } = options
    if (!Array.isArray(args) || !args.every(Predicate.isString)) {
      return yield* core.invalid(operation, "args", "expected a list of texts")
    }
    if (!isKind(kind))
      return yield* core.invalid(operation, "kind", `expected one of ${ProcessKind.literals.join(", ")}`)
    for (const name of ["cwd", "externalProcessId"] as const) {
      if (options[name] !== undefined && !Predicate.isString(options[name])) {
        return yield* core.invalid(operation, name, "expected text")
      }
    }
    if (options.metadata !== undefined && !isJsonObject(options.metadata)) {
      return yield* core.invalid(operation, "metadata", "expected a JSON object")
    }
    const sandbox = yield* self.store.getSandbox(id)
    if (sandbox.status !== "active") {
      return yield* core.failure(sandbox, operation, new NotActive({ status: sandbox.status }))
    }
    const processId =
      options.processId === undefined
        ? yield* Effect.flatMap(core.newUuid, (uuid) => core.toProcessId(operation, uuid))
        : yield* core.toProcessId(operation, options.processId)
    const now = yield* Clock.currentTimeMillis
    const asked: Asked = {
      sandboxId: id,
      command: options.command,
      args,
      kind,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.metadata === undefined ? {} : { metadata: options.metadata })
    }
    const record = yield* self.store
      .insertProcess({
        ...asked,
        id: processId,
        mode: "background",
        status: "running",
        observed: true,
        provider: sandbox.provider,
        ...(options.externalProcessId === undefined ? {} : { externalProcessId: options.externalProcessId }),
        ...(sandbox.incarnation === undefined ? {} : { incarnation: sandbox.incarnation }),
        streamId: processId,
        streamClientId: streamClientId(processId),
        streamStartedAt: now,
        startedAt: now,
        lease: { owner: "observer", epoch: 1, expiresAt: 0 }
      })
      .pipe(
        core.retryStore(self),
        // A caller's own id once more, which is a workflow's replay; or our own record, whose answer was lost.
        Effect.catchIf(
          (error) => error.reason._tag === "Store" && error.reason.kind === "AlreadyExists",
          () =>
            Effect.tap(observedRecord(operation, processId), (existing) => sameOrMismatch(operation, existing, asked))
        )
      )
    return record
  })

  const append: Observed["append"] = Effect.fnUntraced(function* (processId, chunk) {
    const operation = "SandboxService.appendObservedProcessChunk"
    const record = yield* observedRecord(operation, processId)
    const bad = (problem: string) => core.invalid(operation, "chunk.data", problem)
    const at = yield* Clock.currentTimeMillis
    const base = {
      at,
      sandboxId: record.sandboxId,
      processId,
      ...(chunk.key === undefined ? {} : { key: chunk.key })
    }
    const { data, type } = chunk
    const body = (position: { readonly stdout: number; readonly stderr: number }): ProcessEventBody | undefined => {
      switch (type) {
        case "stdout":
        case "stderr":
          return Predicate.isString(data)
            ? { ...base, _tag: type, offset: position[type], bytes: encoder.encode(data) }
            : data instanceof Uint8Array
              ? { ...base, _tag: type, offset: position[type], bytes: data }
              : undefined
        case "error":
          return Predicate.isString(data) ? { ...base, _tag: type, text: data } : undefined
        case "heartbeat":
          return data === undefined ? { ...base, _tag: type } : undefined
        case "metadata":
          return data === undefined || Predicate.isString(data) || data instanceof Uint8Array
            ? undefined
            : isJsonObject(data)
              ? { ...base, _tag: type, metadata: data }
              : undefined
      }
    }
    if (body(outputStart) === undefined) {
      return yield* bad(
        type === "metadata" ? "expected an object" : type === "heartbeat" ? "expected none" : "expected text or bytes"
      )
    }
    return yield* Effect.gen(function* () {
      if (chunk.key !== undefined) {
        const known = yield* self.log.findKey(processId, chunk.key)
        if (Option.isSome(known)) return known.value
      }
      const position = yield* self.log.lastPosition(processId)
      const current = yield* self.store.getProcess(processId)
      if (isTerminal(current.status)) {
        return yield* new SandboxError({
          operation,
          processId,
          reason: new ProcessEnded({ processId, status: current.status })
        })
      }
      return yield* appendAfter(position, current, body(position) ?? { ...base, _tag: "heartbeat" })
    }).pipe(Effect.retry({ while: isTaken, times: 1000 }))
  })

  const finish: Observed["finish"] = Effect.fnUntraced(function* (processId, options) {
    const operation = "SandboxService.finishObservedProcess"
    if (options.exitCode !== undefined && !Number.isSafeInteger(options.exitCode)) {
      return yield* core.invalid(operation, "exitCode", "expected a whole number")
    }
    const exitCode = options.exitCode
    const status = exitCode === undefined || exitCode === 0 ? ("exited" as const) : ("failed" as const)
    const wanted = { status, exitCode, streamAbortReason: options.errorText }
    return yield* Effect.gen(function* () {
      const position = yield* self.log.lastPosition(processId)
      const record = yield* observedRecord(operation, processId)
      if (isTerminal(record.status)) {
        const { exitCode, status, streamAbortReason } = record
        if (canonical({ status, exitCode, streamAbortReason }) === canonical(wanted)) return record
        return yield* new SandboxError({ operation, processId, reason: new ProcessEnded({ processId, status }) })
      }
      const now = yield* Clock.currentTimeMillis
      yield* appendAfter(
        position,
        record,
        {
          _tag: "exit",
          at: now,
          sandboxId: record.sandboxId,
          processId,
          exit: { _tag: "Exited", code: exitCode ?? 0 }
        },
        { ...wanted, exitedAt: now, streamFinishedAt: now, updatedAt: now }
      )
      return yield* self.store.getProcess(processId)
    }).pipe(Effect.retry({ while: isTaken, times: 1000 }))
  })

  return { start, append, finish }
}
