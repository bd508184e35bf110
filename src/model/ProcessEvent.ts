/**
 * One entry of a process's durable log. In process it is a tagged union with raw `bytes`; encoded (JSON, NDJSON on the wire)
 * it is `{ version: 1, at, seq, type, sandboxId, processId, data? }`, the form that `@ekairos/sandbox` streams.
 */
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Stream from "effect/Stream"
import { Count, JsonObject, Millis } from "./Common.ts"
import { ProcessId, SandboxId } from "./Ids.ts"
import type { ProcessExit } from "./Process.ts"
import { ProcessStatus } from "./Process.ts"

/** The names on the wire, which are the tags in process. */
export const ProcessEventType = Schema.Literals([
  "stdout",
  "stderr",
  "status",
  "exit",
  "error",
  "heartbeat",
  "metadata"
])
export type ProcessEventType = typeof ProcessEventType.Type

interface Base {
  /** ms since the epoch. */
  readonly at: number
  /** Starts at 1 and has no gap. */
  readonly seq: number
  readonly sandboxId: SandboxId
  readonly processId: ProcessId
  /** An observer's own name for the chunk: the same key is appended once. */
  readonly key?: string
}

/** Output; `offset` counts the raw bytes of that stream before this chunk. */
export interface OutputProcessEvent extends Base {
  readonly _tag: "stdout" | "stderr"
  readonly bytes: Uint8Array
  readonly offset: number
}

/** The status changed; `reason` says why it was not the process's own doing. */
export interface StatusProcessEvent extends Base {
  readonly _tag: "status"
  readonly status: ProcessStatus
  readonly reason?: string
}

/** The process ended. */
export interface ExitProcessEvent extends Base {
  readonly _tag: "exit"
  readonly exit: ProcessExit
}

/** Something failed; `text` is fit to be shown. */
export interface ErrorProcessEvent extends Base {
  readonly _tag: "error"
  readonly text: string
}

/** A sign of life without content. */
export interface HeartbeatProcessEvent extends Base {
  readonly _tag: "heartbeat"
}

/** Free data of an observer. */
export interface MetadataProcessEvent extends Base {
  readonly _tag: "metadata"
  readonly metadata: JsonObject
}

/** An entry of the log, tagged by its name on the wire. */
export type ProcessEvent =
  | OutputProcessEvent
  | StatusProcessEvent
  | ExitProcessEvent
  | ErrorProcessEvent
  | HeartbeatProcessEvent
  | MetadataProcessEvent

/** An event before the log has numbered it. */
export type ProcessEventBody = ProcessEvent extends infer E ? (E extends ProcessEvent ? Omit<E, "seq"> : never) : never

/** True for stdout and stderr events. */
export const isOutput = (event: ProcessEvent): event is OutputProcessEvent =>
  event._tag === "stdout" || event._tag === "stderr"

/** The form on the wire. `data.text` where the chunk is whole, well-formed UTF-8 without NUL, else `data.base64`. */
export const Encoded = Schema.Struct({
  version: Schema.Literal(1),
  at: Millis,
  seq: Count,
  type: ProcessEventType,
  sandboxId: SandboxId,
  processId: ProcessId,
  key: Schema.optionalKey(Schema.String),
  data: Schema.optionalKey(JsonObject)
})
export type Encoded = typeof Encoded.Type

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const textOf = (bytes: Uint8Array): string | undefined => {
  if (bytes.includes(0)) return undefined
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}

/** The payload of an event, as it stands under `data` on the wire. */
export const encodeData = (event: ProcessEvent): JsonObject | undefined => {
  switch (event._tag) {
    case "stdout":
    case "stderr": {
      const text = textOf(event.bytes)
      return text === undefined
        ? { offset: event.offset, base64: Base64.encode(event.bytes) }
        : { offset: event.offset, text }
    }
    case "status":
      return { status: event.status, ...(event.reason === undefined ? {} : { reason: event.reason }) }
    case "exit":
      return {
        exitCode: event.exit.code,
        ...(event.exit._tag === "Signalled" ? { signal: event.exit.signal } : {}),
        ...(event.exit.reason === undefined ? {} : { reason: event.exit.reason })
      }
    case "error":
      return { text: event.text }
    case "metadata":
      return event.metadata
    case "heartbeat":
      return undefined
  }
}

/** Encodes an event for the wire; total. */
export const encode = (event: ProcessEvent): Encoded => {
  const data = encodeData(event)
  return {
    version: 1,
    at: event.at,
    seq: event.seq,
    type: event._tag,
    sandboxId: event.sandboxId,
    processId: event.processId,
    ...(event.key === undefined ? {} : { key: event.key }),
    ...(data === undefined ? {} : { data })
  }
}

const OutputData = Schema.Union([
  Schema.Struct({ offset: Count, text: Schema.String }),
  Schema.Struct({ offset: Count, base64: Schema.String })
])
const StatusData = Schema.Struct({ status: ProcessStatus, reason: Schema.optionalKey(Schema.String) })
const ExitData = Schema.Struct({
  exitCode: Schema.Number,
  signal: Schema.optionalKey(Schema.String),
  reason: Schema.optionalKey(Schema.Literals(["deadline", "timeout", "stop"]))
})
const ErrorData = Schema.Struct({ text: Schema.String })

const decodeOutputData = Schema.decodeUnknownEffect(OutputData)
const decodeStatusData = Schema.decodeUnknownEffect(StatusData)
const decodeExitData = Schema.decodeUnknownEffect(ExitData)
const decodeErrorData = Schema.decodeUnknownEffect(ErrorData)

/** Decodes the wire's form; an event whose `data` does not fit its `type` is a schema issue. */
const decodeEncoded = Effect.fnUntraced(function* (
  encoded: Encoded
): Effect.fn.Return<ProcessEvent, SchemaIssue.Issue | Schema.SchemaError> {
  const { data: _data, type: _type, version: _version, ...base } = encoded
  switch (encoded.type) {
    case "stdout":
    case "stderr": {
      const data = yield* decodeOutputData(encoded.data)
      if ("text" in data) {
        return { ...base, _tag: encoded.type, offset: data.offset, bytes: new TextEncoder().encode(data.text) }
      }
      const bytes = Base64.decode(data.base64)
      if (Result.isFailure(bytes)) {
        return yield* Effect.fail(new SchemaIssue.InvalidValue({ message: "malformed base64" }))
      }
      return { ...base, _tag: encoded.type, offset: data.offset, bytes: bytes.success }
    }
    case "status":
      return { ...base, _tag: "status", ...(yield* decodeStatusData(encoded.data)) }
    case "exit": {
      const { exitCode, reason, signal } = yield* decodeExitData(encoded.data)
      const ended = { code: exitCode, ...(reason === undefined ? {} : { reason }) }
      return {
        ...base,
        _tag: "exit",
        exit: signal === undefined ? { _tag: "Exited", ...ended } : { _tag: "Signalled", signal, ...ended }
      }
    }
    case "error":
      return { ...base, _tag: "error", ...(yield* decodeErrorData(encoded.data)) }
    case "heartbeat":
      return { ...base, _tag: "heartbeat" }
    case "metadata":
      return { ...base, _tag: "metadata", metadata: encoded.data ?? {} }
  }
})

const isEvent = (u: unknown): u is ProcessEvent =>
  typeof u === "object" && u !== null && "_tag" in u && "seq" in u && "processId" in u

/** The codec between the wire's form and {@link ProcessEvent}. */
export const ProcessEvent = Encoded.pipe(
  Schema.decodeTo(
    Schema.declare(isEvent, { identifier: "ProcessEvent" }),
    SchemaTransformation.transformEffect({
      decode: (encoded: Encoded) =>
        Effect.mapError(decodeEncoded(encoded), (error) => (error instanceof Schema.SchemaError ? error.issue : error)),
      encode: (event: ProcessEvent) => Effect.succeed(encode(event))
    })
  )
)

/** Only the bytes of one stream, in order. */
export const output = <E, R>(
  stream: Stream.Stream<ProcessEvent, E, R>,
  of: "stdout" | "stderr"
): Stream.Stream<Uint8Array, E, R> =>
  stream.pipe(
    Stream.filter((event): event is OutputProcessEvent => event._tag === of),
    Stream.map((event) => event.bytes)
  )

/** The bytes of stdout. */
export const stdout = <E, R>(stream: Stream.Stream<ProcessEvent, E, R>): Stream.Stream<Uint8Array, E, R> =>
  output(stream, "stdout")

/** The bytes of stderr. */
export const stderr = <E, R>(stream: Stream.Stream<ProcessEvent, E, R>): Stream.Stream<Uint8Array, E, R> =>
  output(stream, "stderr")

/** The lines of one stream (default stdout) as text, split across chunks and without their line ends. */
export const lines = <E, R>(
  stream: Stream.Stream<ProcessEvent, E, R>,
  of: "stdout" | "stderr" = "stdout"
): Stream.Stream<string, E, R> => output(stream, of).pipe(Stream.decodeText, Stream.splitLines)
