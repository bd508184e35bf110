/** Files and ports of a sandbox. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Headers from "effect/http/Headers"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as PlatformError from "effect/PlatformError"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { isSandboxError, PortNotExposed, SandboxError, Unavailable, WriteFailed } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { PortUrl } from "../SandboxProvider.ts"
import { capability } from "../SandboxProvider.ts"
import { isInput } from "./Commands.ts"
import type { Input } from "./Commands.ts"
import type { Core, RecoveryOverrides } from "./core.ts"
import * as core from "./core.ts"
import type { InUse } from "./Machines.ts"

/**
 * One file to write; `mode` such as `0o755`. Relative paths start at the workspace; parents are made. A `content` that is a stream is
 * run again when the write is: it must begin anew then.
 */
export interface FileEntry {
  readonly path: string
  readonly content: Input
  readonly mode?: number | undefined
}

export interface PortOptions {
  /**
   * Waits until the port answers, on the `ready` schedule: `true` takes any HTTP answer but 502, 503 and 504 for one; an
   * effect is a check of your own, which fails while the port is not ready.
   */
  readonly ready?: boolean | ((url: PortUrl) => Effect.Effect<unknown, unknown>) | undefined
  readonly recovery?: RecoveryOverrides | undefined
}

export interface Files {
  readonly write: (
    id: SandboxId,
    entries: ReadonlyArray<FileEntry>
  ) => Effect.Effect<void, SandboxError | PlatformError.PlatformError>
  readonly read: (id: SandboxId, path: string) => Effect.Effect<Uint8Array, SandboxError | PlatformError.PlatformError>
  readonly portUrl: (id: SandboxId, port: number, options: PortOptions) => Effect.Effect<PortUrl, SandboxError>
}

const checkPath = (method: string, path: string): Effect.Effect<void, PlatformError.PlatformError> =>
  path === "" || path.includes("\0")
    ? Effect.fail(
        PlatformError.badArgument({
          module: "FileSystem",
          method,
          description: path === "" ? "The path is empty" : "The path contains a NUL character"
        })
      )
    : Effect.void

/** A misspelt `mode` must not become the default one. */
const fields: ReadonlyArray<string> = ["path", "content", "mode"] satisfies ReadonlyArray<keyof FileEntry>

/** Checks an entry of a caller without types: a model's tool call, JavaScript. */
const checkEntry = (operation: string, entry: unknown, index: number) => {
  const invalid = (field: string, problem: string) => {
    const path = Predicate.hasProperty(entry, "path") && Predicate.isString(entry.path) ? entry.path : undefined
    const which = path === undefined ? "" : ` (the file ${JSON.stringify(path)})`
    return Effect.fail(core.invalid(operation, `files[${index}]${field}`, `${problem}${which}`))
  }
  if (!Predicate.isObject(entry)) return invalid("", "expected an object with path, content and perhaps mode")
  const given: Partial<Record<PropertyKey, unknown>> = entry
  const unknown = Object.keys(given).find((key) => !fields.includes(key) && given[key] !== undefined)
  if (unknown !== undefined) return invalid(`.${unknown}`, "there is no such field; a file has path, content and mode")
  const { content, mode, path } = given
  if (!Predicate.isString(path)) return invalid(".path", "expected text")
  if (!isInput(content)) {
    return invalid(".content", "expected text, bytes or a stream of bytes")
  }
  if (mode !== undefined && !(Predicate.isNumber(mode) && Number.isInteger(mode) && mode >= 0 && mode <= 0o7777)) {
    return invalid(".mode", "expected permission bits from 0 to 0o7777")
  }
  return checkPath("writeFiles", path)
}

const encoder = new TextEncoder()

export const make = (self: Core, machines: InUse): Files => {
  const write: Files["write"] = Effect.fnUntraced(function* (id, entries) {
    const operation = "SandboxService.writeFiles"
    if (!Array.isArray(entries)) return yield* core.invalid(operation, "files", "expected a list")
    for (const [index, entry] of entries.entries()) yield* checkEntry(operation, entry, index)
    if (entries.length === 0) return
    const failures = yield* Effect.scoped(
      machines.use(id, ({ machine }) =>
        machine.writeFiles(
          entries.map(({ content, mode, path }) => ({
            path,
            content: Predicate.isString(content) ? encoder.encode(content) : content,
            ...(mode === undefined ? {} : { mode })
          }))
        )
      )
    )
    const [first] = failures
    if (first === undefined) return
    if (entries.length === 1) return yield* Effect.fail(first.error)
    return yield* new SandboxError({
      operation,
      sandboxId: id,
      reason: new WriteFailed({
        files: failures.map(({ error, path }) => ({ path, message: error.message })),
        cause: first.error
      })
    })
  })

  const read: Files["read"] = Effect.fnUntraced(function* (id, path) {
    yield* checkPath("readFile", path)
    // Reading is safe to repeat, so a machine that is found stale only now is recovered like any other.
    const chunks = yield* Effect.scoped(machines.use(id, ({ machine }) => Stream.runCollect(machine.readFile(path))))
    const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
    const all = new Uint8Array(size)
    let at = 0
    for (const chunk of chunks) {
      all.set(chunk, at)
      at += chunk.length
    }
    return all
  })

  const notReady = (id: SandboxId, url: PortUrl, detail: string) =>
    new SandboxError({
      operation: "SandboxService.getPortUrl",
      sandboxId: id,
      reason: new Unavailable({ accepted: "no", detail: `port ${url.port} does not answer: ${detail}` })
    })

  const answers = (id: SandboxId, url: PortUrl) =>
    Effect.gen(function* () {
      const client = yield* HttpClient.HttpClient
      const request = HttpClientRequest.get(url.url).pipe(
        HttpClientRequest.setHeaders(
          Object.fromEntries(Object.entries(url.headers).map(([name, value]) => [name, Redacted.value(value)]))
        )
      )
      const redacted = yield* Headers.CurrentRedactedNames
      const response = yield* client.execute(request).pipe(
        // A redirection is an answer; what runs in the sandbox does not get to say where we go next, and with these headers.
        Effect.provideService(FetchHttpClient.RequestInit, { redirect: "manual" }),
        // For a program that records the headers of requests in its spans.
        Effect.provideService(Headers.CurrentRedactedNames, [...redacted, ...Object.keys(url.headers)]),
        Effect.timeout(Duration.seconds(5)),
        Effect.mapError((error) => notReady(id, url, codeOf(error) ?? error._tag))
      )
      if ([502, 503, 504].includes(response.status)) {
        return yield* notReady(id, url, `HTTP status ${response.status}`)
      }
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

  const portUrl: Files["portUrl"] = Effect.fnUntraced(function* (id, port, options) {
    const operation = "SandboxService.getPortUrl"
    if (!Number.isInteger(port) || port < 1 || port > 65535) {
      return yield* core.invalid(operation, "port", "expected a port from 1 to 65535")
    }
    const { recovery, url } = yield* Effect.scoped(
      machines.use(
        id,
        ({ machine, provider, record }) => {
          const exposed = record.ports ?? []
          return exposed.includes(port)
            ? Effect.map(
                Effect.flatMap(capability(provider, operation, machine.portUrl, id), (portUrl) => portUrl(port)),
                (url) => ({ recovery: provider.recovery, url })
              )
            : Effect.fail(core.failure(record, operation, new PortNotExposed({ port, exposed })))
        },
        options.recovery
      )
    )
    const { ready } = options
    if (ready === undefined || ready === false) return url
    const check =
      ready === true
        ? answers(id, url)
        : Effect.mapError(ready(url), (error) => (isSandboxError(error) ? error : notReady(id, url, textOf(error))))
    yield* Effect.retry(check, {
      schedule: options.recovery?.ready ?? recovery?.ready ?? self.policy.ready,
      while: (error) => error.isRetryable
    })
    return url
  })

  return { write, read, portUrl }
}

/** The code of the system (`ECONNREFUSED`), however deep it lies. */
const codeOf = (error: unknown, depth = 0): string | undefined => {
  if (depth === 8 || !Predicate.isObject(error)) return undefined
  if (Predicate.hasProperty(error, "code") && Predicate.isString(error.code)) return error.code
  const inner = Predicate.hasProperty(error, "reason") && Predicate.isObject(error.reason) ? error.reason : undefined
  return codeOf(inner ?? (Predicate.hasProperty(error, "cause") ? error.cause : undefined), depth + 1)
}

/** What the failure of somebody's own check says. */
const textOf = (error: unknown): string => {
  if (Predicate.isString(error)) return error
  const { message, _tag } = Predicate.isObject(error)
    ? { message: Reflect.get(error, "message"), _tag: Reflect.get(error, "_tag") }
    : {}
  return Predicate.isString(message) && message !== "" ? message : Predicate.isString(_tag) ? _tag : "the check failed"
}
