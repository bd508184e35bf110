/**
 * What a service and the supervisor say to each other: one JSON object a line over a unix socket, requests with an id, pushes
 * without. Values of the environment travel here and nowhere else. Imports `node:*` only, because the supervisor does too.
 */
import { createHash } from "node:crypto"
import * as Path from "node:path"
import type { Identity } from "./os.ts"

/** Raised when an older side could misread a newer one. A supervisor outlives deploys, so this is rare. */
export const protocolVersion = 1

/** Longer lines are no requests of ours. */
export const maxLine = 8 * 1024 * 1024

/** The most input that one `write` carries. */
export const maxWrite = 256 * 1024

/** Size of one file of a spool. Whole files go when nobody needs them any more. */
export const segmentBytes = 64 * 1024 * 1024

export type StreamName = "out" | "err"

/** A file of a spool. */
export const segmentPath = (directory: string, stream: StreamName, index: number): string =>
  Path.join(directory, `${stream}.${index}`)

/** What cookies say of a data directory (its real path). */
export const rootTag = (root: string): string => createHash("sha256").update(root).digest("hex").slice(0, 12)

/** The directory of one recorded process. */
export const processDirectory = (root: string, key: Key): string =>
  Path.join(root, "sandboxes", key.sandboxId, "processes", key.processId)

/** Where the supervisor of a root keeps its things. */
export const supervisorPaths = (root: string) => {
  const directory = Path.join(root, "supervisor")
  return {
    directory,
    info: Path.join(directory, "supervisor.json"),
    lock: Path.join(directory, "lock.sqlite"),
    log: Path.join(directory, "log"),
    socket: Path.join(directory, "s")
  }
}

/** `supervisor.json`. */
export interface SupervisorInfo extends Identity {
  readonly version: number
  readonly bootId: string
  readonly socket: string
}

/** Which process. */
export interface Key {
  readonly sandboxId: string
  readonly processId: string
}

/** `process.json`: what is known before the start. */
export interface ProcessFile extends Key {
  readonly version: 1
  readonly incarnation: string
  readonly supervisor: Identity
  readonly bootId: string
  /** When it was about to be started, in ms since the epoch. */
  readonly startedAt: number
}

/** `exit.json`: the end. `lost`: nobody saw it. Positions are the lengths of the streams. */
export interface ExitFile {
  readonly version: 1
  readonly end:
    | { readonly type: "exited"; readonly code: number }
    | { readonly type: "signalled"; readonly signal: string; readonly code: number }
    | { readonly type: "lost" }
  readonly reason?: "deadline" | "timeout" | "stop"
  readonly out: number
  readonly err: number
  readonly endedAt: number
}

export type Request =
  | { readonly op: "hello"; readonly version: number }
  /** Starts at most once for a process id, and watches it. */
  | (Key & {
      readonly op: "start"
      readonly incarnation: string
      readonly command: string
      readonly args: ReadonlyArray<string>
      readonly cwd: string
      readonly env: Readonly<Record<string, string>>
      readonly stdin: boolean
      readonly deadline?: number
      readonly killGrace: number
      readonly spoolQuota: number
    })
  | (Key & { readonly op: "watch" })
  | (Key & { readonly op: "unwatch" | "closeInput" })
  | (Key & { readonly op: "write"; readonly data: string })
  | (Key & { readonly op: "signal"; readonly signal: string; readonly forceAfter?: number })
  /** Nobody will ask for what lies before these positions. */
  | (Key & { readonly op: "release"; readonly out: number; readonly err: number })
  /** The lease in `sandbox.json` is new. */
  | { readonly op: "lease"; readonly sandboxId: string }
  /** Ends all recorded processes of a sandbox, verified. */
  | { readonly op: "stop"; readonly sandboxId: string; readonly killGrace: number }

export type Failure =
  /** The program could not be started; the fields are those of the system's error. */
  | { readonly type: "start"; readonly code: string; readonly syscall: string; readonly message: string }
  /** The program was started, and ended at once as nobody could have watched it. */
  | { readonly type: "ran"; readonly message: string }
  /** The machine does not run as that incarnation. */
  | { readonly type: "refused" }
  /** The process has ended, or its input has. */
  | { readonly type: "ended" }
  | { readonly type: "closed" }
  | { readonly type: "unknown process" }
  | { readonly type: "survivors"; readonly pids: ReadonlyArray<number> }
  | { readonly type: "bad request"; readonly message: string }
  | { readonly type: "failed"; readonly message: string; readonly code: string }

export type Answer = { readonly id: number; readonly ok: unknown } | { readonly id: number; readonly failure: Failure }

/** How a process stands: sent when watching begins, whenever its spool has grown, and at its end. */
export interface Push extends Key {
  readonly push: "state"
  readonly out: number
  readonly err: number
  readonly exit?: ExitFile
}

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

const isRecord = (u: unknown): u is Record<string, unknown> => typeof u === "object" && u !== null && !Array.isArray(u)
const isText = (u: unknown): u is string => typeof u === "string" && !u.includes("\0")
const isCount = (u: unknown): u is number => typeof u === "number" && Number.isFinite(u) && u >= 0
// Ids become paths.
const isId = (u: unknown): u is string => typeof u === "string" && uuid.test(u)
const isTextRecord = (u: unknown): u is Record<string, string> =>
  isRecord(u) && Object.entries(u).every(([key, value]) => key !== "" && isText(key) && isText(value))

/** A line as a request; otherwise what is wrong with it, and its id when it has one. Holds no value of the line. */
export const parseRequest = (
  line: string
): { readonly id: number; readonly request: Request } | { readonly id?: number; readonly problem: string } => {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return { problem: "no JSON" }
  }
  if (!isRecord(value) || !isCount(value.id)) return { problem: "no id" }
  const { id } = value
  const request = requestOf(value)
  return request === undefined ? { id, problem: `not understood: ${String(value.op).slice(0, 40)}` } : { id, request }
}

const requestOf = (value: Record<string, unknown>): Request | undefined => {
  const { op, processId, sandboxId } = value
  if (op === "hello") return isCount(value.version) ? { op, version: value.version } : undefined
  if (!isId(sandboxId)) return undefined
  if (op === "lease") return { op, sandboxId }
  if (op === "stop") return isCount(value.killGrace) ? { op, sandboxId, killGrace: value.killGrace } : undefined
  if (!isId(processId)) return undefined
  const key = { sandboxId, processId }
  switch (op) {
    case "watch":
    case "unwatch":
    case "closeInput":
      return { op, ...key }
    case "write":
      return typeof value.data === "string" ? { op, ...key, data: value.data } : undefined
    case "signal": {
      const { forceAfter, signal } = value
      if (!isText(signal) || (forceAfter !== undefined && !isCount(forceAfter))) return undefined
      return { op, ...key, signal, ...(forceAfter === undefined ? {} : { forceAfter }) }
    }
    case "release":
      return isCount(value.out) && isCount(value.err) ? { op, ...key, out: value.out, err: value.err } : undefined
    case "start": {
      const { args, command, cwd, deadline, env, incarnation, killGrace, spoolQuota, stdin } = value
      return isText(command) &&
        Array.isArray(args) &&
        args.every(isText) &&
        isText(cwd) &&
        isTextRecord(env) &&
        isId(incarnation) &&
        typeof stdin === "boolean" &&
        isCount(killGrace) &&
        isCount(spoolQuota) &&
        (deadline === undefined || isCount(deadline))
        ? {
            op,
            ...key,
            incarnation,
            command,
            args,
            cwd,
            env,
            stdin,
            killGrace,
            spoolQuota,
            ...(deadline === undefined ? {} : { deadline })
          }
        : undefined
    }
    default:
      return undefined
  }
}

/** Cuts a byte stream into lines; `overflow` when one is longer than {@link maxLine}. */
export const lineReader = (onLine: (line: string) => void, overflow: () => void): ((chunk: Buffer) => void) => {
  let parts: Array<Buffer> = []
  let length = 0
  return (chunk) => {
    let rest = chunk
    for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10)) {
      parts.push(rest.subarray(0, end))
      rest = rest.subarray(end + 1)
      const line = Buffer.concat(parts).toString("utf8")
      parts = []
      length = 0
      onLine(line)
    }
    if (rest.length === 0) return
    parts.push(rest)
    length += rest.length
    if (length > maxLine) overflow()
  }
}
