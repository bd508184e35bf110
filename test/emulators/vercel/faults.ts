/**
 * Scripted misbehaviour: by endpoint and number of requests. A fault acts before the request is executed, after it, or on the
 * stream of the answer. What the SDK makes of each is asserted in `test/emulators/vercel.test.ts`.
 */
import { setTimeout as delay } from "node:timers/promises"
import { errorBody, errorLine } from "./http.ts"

/** Every endpoint by name; `sandbox.resume` is the GET with `resume=true`, `command.run` the start that waits. */
export const endpoints = [
  "sandbox.create",
  "sandbox.get",
  "sandbox.resume",
  "sandbox.list",
  "sandbox.update",
  "sandbox.delete",
  "sandbox.fork",
  "session.get",
  "session.list",
  "session.stop",
  "session.snapshot",
  "session.extendTimeout",
  "session.networkPolicy",
  "command.start",
  "command.run",
  "command.get",
  "command.wait",
  "command.logs",
  "command.kill",
  "file.write",
  "file.read",
  "file.mkdir",
  "snapshot.list",
  "snapshot.tree",
  "snapshot.get",
  "snapshot.delete"
] as const
export type Endpoint = (typeof endpoints)[number]

export interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body: string
}

export type Fault =
  | { readonly _tag: "Reset"; readonly executed: boolean }
  | { readonly _tag: "Answer"; readonly executed: boolean; readonly answer: Answer; readonly echoToken: boolean }
  | { readonly _tag: "Late" }
  | { readonly _tag: "Gate"; readonly before?: Promise<void> | undefined; readonly after?: Promise<void> | undefined }
  | { readonly _tag: "Slow"; readonly millis: number }
  | { readonly _tag: "Torn"; readonly bytes: number }
  | { readonly _tag: "Short"; readonly lines: number }
  | { readonly _tag: "Silent" }
  | { readonly _tag: "Split" }
  | { readonly _tag: "InBand"; readonly lines: number; readonly code: string; readonly message: string }
  | { readonly _tag: "Garbage"; readonly lines: number }
  | { readonly _tag: "ContentType"; readonly value: string }

const answer = (
  status: number,
  body: string,
  options: {
    readonly headers?: Readonly<Record<string, string>>
    readonly executed?: boolean
    readonly echoToken?: boolean
  } = {}
): Fault => ({
  _tag: "Answer",
  executed: options.executed ?? false,
  echoToken: options.echoToken ?? false,
  answer: { status, body, headers: options.headers }
})

/**
 * The connection is reset and the request was not executed. The SDK submits again after 0.4–0.8 s, at most three times in all,
 * POSTs too; then it fails with `TypeError: fetch failed`.
 */
export const resetBefore: Fault = { _tag: "Reset", executed: false }

/**
 * The request is executed, and the connection reset before any header of the answer. The SDK cannot tell this from the former
 * and submits again, without an idempotency key: commands run twice; a named create then fails with 400, because the name exists.
 */
export const resetAfter: Fault = { _tag: "Reset", executed: true }

/** An error in the vendor's shape. The SDK never repeats 4xx, except 429. */
export const status = (
  status: number,
  code: string,
  message = code,
  options: { readonly executed?: boolean; readonly headers?: Readonly<Record<string, string>> } = {}
): Fault => answer(status, JSON.stringify(errorBody(code, message)), options)

/**
 * 429. The SDK repeats twice: up to 20 s of `Retry-After` it waits that long and its own backoff, above it gives up at once; a
 * date it ignores. It reads no `x-ratelimit-*`.
 */
export const rateLimited = (retryAfter?: number | string): Fault =>
  answer(429, JSON.stringify(errorBody("rate_limited", "Too many requests")), {
    headers: {
      "x-ratelimit-remaining": "0",
      ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) })
    }
  })

/** A 5xx: repeated by the SDK like a network failure. With `executed`, a proxy lost the answer of what was done. */
export const serverError = (status: 500 | 502 | 503 = 500, options: { readonly executed?: boolean } = {}): Fault =>
  answer(status, JSON.stringify(errorBody("internal_server_error", "Internal Server Error")), options)

/** A proxy's page where JSON belongs: `APIError` with the message `Can't parse JSON`; the status is still on `response`. */
export const html = (status = 502): Fault =>
  answer(status, "<!doctype html><title>Bad Gateway</title>", { headers: { "content-type": "text/html" } })

/** A success whose body is no JSON, executed: an `APIError` whose `response.status` is 200. */
export const invalidJson: Fault = answer(200, '{"sandbox":', { executed: true })

/** A success that lacks what the SDK's schemas require, executed: also an `APIError` with status 200. */
export const invalidBody: Fault = answer(200, JSON.stringify({ session: null }), { executed: true })

/** 410 `sandbox_stopped`: what any operation on a dead session gets. On a `Sandbox` handle the SDK then resumes and repeats once. */
export const gone: Fault = status(410, "sandbox_stopped", "Sandbox is stopped")

/** 422 while the session stops. The SDK resumes and repeats once, without a delay. */
export const stopping: Fault = status(422, "sandbox_stopping", "Sandbox is stopping")

/** 422 while the session is snapshotted: as while it stops, so a `snapshot()` that meets another is done twice. */
export const snapshotting: Fault = status(422, "sandbox_snapshotting", "Sandbox is snapshotting")

/** The snapshot to resume from is gone: 410 when it expired or was deleted, 400 (seen at the host) when there never was one. */
export const snapshotMissing = (variant: 400 | 410): Fault =>
  status(variant, "snapshot_not_found", "The snapshot was not found.")

/** 404. For `readFile` it is a missing file, whatever was missing: the SDK answers null. */
export const notFound = (message = "Not found."): Fault => status(404, "not_found", message)

/** The credentials are refused. With `echoToken` the message repeats the token, as careless servers do. */
export const rejected = (status: 401 | 402 | 403 = 403, options: { readonly echoToken?: boolean } = {}): Fault =>
  answer(
    status,
    JSON.stringify(errorBody(status === 402 ? "payment_required" : "forbidden", "Not authorized")),
    options
  )

/** Executed only when the client has given up and its connection is closed: an aborted create leaves its sandbox. */
export const late: Fault = { _tag: "Late" }

/** Waits for promises of the test, before or after it is executed. */
export const gate = (gates: { readonly before?: Promise<void>; readonly after?: Promise<void> }): Fault => ({
  _tag: "Gate",
  ...gates
})

/** Executed at once, answered after a native delay. The SDK has no deadline below undici's 300 s for headers. */
export const slow = (millis: number): Fault => ({ _tag: "Slow", millis })

/** The stream is cut after so many bytes: `TypeError: terminated`. A command goes on running. Streams of some minutes do this. */
export const torn = (bytes: number): Fault => ({ _tag: "Torn", bytes })

/** The stream ends in order, but early. `logs()` looks complete then; a waited command fails with `stream_ended_early`. */
export const short = (lines: number): Fault => ({ _tag: "Short", lines })

/** Headers and then nothing, until the client leaves. */
export const silent: Fault = { _tag: "Silent" }

/**
 * Every character of more than one byte is cut between two chunks. The SDK decodes each chunk for itself, so `logs()` has U+FFFD
 * instead, without any error.
 */
export const split: Fault = { _tag: "Split" }

/** After so many lines the vendor's in-band error: a `StreamError`; as the first line of a waited command a `ZodError`. */
export const inBand = (
  lines: number,
  code = "sandbox_stream_closed",
  message = "Sandbox stream was closed"
): Fault => ({
  _tag: "InBand",
  lines,
  code,
  message
})

/** After so many lines one that is no JSON: a `SyntaxError`. */
export const garbage = (lines: number): Fault => ({ _tag: "Garbage", lines })

/** The SDK compares the type of a stream exactly: a charset behind it is an `APIError`. */
export const contentType = (value: string): Fault => ({ _tag: "ContentType", value })

/** What of a stream's bytes is told, and how it ends. */
export interface Told {
  readonly bytes: AsyncIterable<Buffer>
  /** Whether the connection is cut where the bytes end. */
  readonly cut: boolean
}

export const tell = (lines: AsyncIterable<Buffer>, fault: Fault | undefined): Told => {
  switch (fault?._tag) {
    case "Torn":
      return { bytes: firstBytes(lines, fault.bytes), cut: true }
    case "Short":
      return { bytes: firstLines(lines, fault.lines), cut: false }
    case "InBand":
      return { bytes: firstLines(lines, fault.lines, errorLine(fault.code, fault.message)), cut: false }
    case "Garbage":
      return { bytes: firstLines(lines, fault.lines, "{no json\n"), cut: false }
    case "Split":
      return { bytes: splitCharacters(lines), cut: false }
    default:
      return { bytes: lines, cut: false }
  }
}

async function* firstBytes(from: AsyncIterable<Buffer>, count: number): AsyncGenerator<Buffer> {
  let left = count
  if (left === 0) return
  for await (const chunk of from) {
    yield chunk.subarray(0, left)
    left -= chunk.length
    if (left <= 0) return
  }
}

async function* firstLines(from: AsyncIterable<Buffer>, count: number, last?: string): AsyncGenerator<Buffer> {
  let left = count
  if (left > 0) {
    for await (const chunk of from) {
      let end = 0
      while (left > 0) {
        const newline = chunk.indexOf(0x0a, end)
        if (newline === -1) break
        end = newline + 1
        left -= 1
      }
      yield left === 0 ? chunk.subarray(0, end) : chunk
      if (left === 0) break
    }
  }
  if (last !== undefined) yield Buffer.from(last)
}

async function* splitCharacters(from: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of from) {
    let start = 0
    for (let at = 0; at < chunk.length; at++) {
      if ((chunk[at] ?? 0) < 0xc0) continue
      yield chunk.subarray(start, at + 1)
      // What arrives before the client reads is one chunk for it, so this one must have been read.
      await delay(5)
      start = at + 1
    }
    if (start < chunk.length) yield chunk.subarray(start)
  }
}

interface Script {
  readonly endpoint: Endpoint | "*"
  readonly fault: Fault
  skip: number
  times: number
}

export interface InjectOptions {
  /** How many requests it meets; default 1. */
  readonly times?: number | undefined
  /** How many matching requests pass before. */
  readonly skip?: number | undefined
}

/** The scripts in the order in which they were given; a request meets the first that wants it. */
export class Faults {
  readonly #scripts: Array<Script> = []

  /** `"*"` is every endpoint. */
  inject(endpoint: Endpoint | "*", fault: Fault, options: InjectOptions = {}): void {
    this.#scripts.push({ endpoint, fault, skip: options.skip ?? 0, times: options.times ?? 1 })
  }

  take(endpoint: Endpoint): Fault | undefined {
    for (const script of this.#scripts) {
      if (script.times === 0 || (script.endpoint !== "*" && script.endpoint !== endpoint)) continue
      if (script.skip > 0) {
        script.skip -= 1
        continue
      }
      script.times -= 1
      return script.fault
    }
    return undefined
  }

  /** How many requests would still meet a fault: 0 when the script was played to its end. */
  get pending(): number {
    return this.#scripts.reduce((sum, { times }) => sum + times, 0)
  }

  clear(): void {
    this.#scripts.length = 0
  }
}
