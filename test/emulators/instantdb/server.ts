/**
 * An emulator of InstantDB's admin API on loopback, for tests that drive the vendor's real `@instantdb/admin`: queries by the vendor's own
 * engine, transactions by the server's rules, every request on record, scripted faults.
 *
 * It mirrors a reading of the server's source; no server was asked. Where nobody knows what the server does, the comment at that place
 * says so. Not emulated: permissions, presence, magic codes, webhooks, dry runs, `add-attr` and `delete-attr` steps, the limits of
 * time, parameters and rates (faults answer like them), the comments that keep events alive, and signatures of files that run out.
 */
import { Clock, Effect, type Scope } from "effect"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import { setImmediate as turn } from "node:timers/promises"
import { App, type AppState, type Credentials } from "./app.ts"
import type { PushedSchema } from "./attrs.ts"
import { type Answer, type Fault, Faults } from "./faults.ts"
import { type Call, errorBody, Refusal, type Reply } from "./http.ts"
import { Files } from "./files.ts"
import type { Result } from "./query.ts"
import { Requests, type Recorded } from "./requests.ts"
import { type Route, routes } from "./routes.ts"
import { Sessions, type Session } from "./sessions.ts"
import { Streams, type StreamState } from "./streams.ts"
import { keptAlive } from "../keptAlive.ts"

export interface Options {
  readonly credentials?: Partial<Credentials> | undefined
  /** Pushed before the first request. Without one everything is invented by transactions, and those with a schema are refused. */
  readonly schema?: PushedSchema | undefined
  /** Whether the refusal of a token repeats it, as the server's does; default true. */
  readonly echoToken?: boolean | undefined
  /** Whether messages for streams come in lists of messages, as the server may send them; default false. */
  readonly lists?: boolean | undefined
}

export interface InstantDbEmulator {
  /** The SDK's `apiURI`, such as `http://127.0.0.1:4711`. */
  readonly origin: string
  readonly credentials: Credentials
  /** For `init`: where the emulator is and how to be admitted. */
  readonly config: Credentials & { readonly apiURI: string }
  readonly requests: Requests
  readonly faults: Faults
  /** What `instant-cli push schema` does: adds what is not there. */
  readonly push: (schema: PushedSchema) => void
  /** A look at the data that is no request. Throws where the server would refuse. */
  readonly query: (query: unknown) => Result["data"]
  /** A transaction that is no request, in the form of the wire: `[["update", "goals", id, { title: "x" }]]`. */
  readonly transact: (steps: ReadonlyArray<ReadonlyArray<unknown>>) => number
  /**
   * The next so many transactions wait for each other, all read one snapshot, and are then written in the order of their arrival: what
   * PostgreSQL's READ COMMITTED allows. Only unique and required attributes are checked again when they are written.
   */
  readonly overlap: (transactions: number) => void
  readonly setState: (state: AppState) => void
  /** Open connections of server-sent events: one that a client forgot stays. */
  readonly connections: (kind?: Session["kind"]) => number
  /** Cuts them, as a restarted proxy does. */
  readonly cut: (kind?: Session["kind"]) => void
  readonly streams: () => ReadonlyArray<StreamState>
  /** Acknowledgements of flushed streams wait until the answer is called. */
  readonly holdFlushes: () => () => void
  /** The next flushes of streams fail: what was to be flushed is gone, and the writer is told to start again. */
  readonly failFlushes: (times: number) => void
  /** Every reader of a stream is told that it is too far behind, and to subscribe again. */
  readonly resubscribeReaders: () => void
  /** How many files are kept, of streams and of `$files` together. */
  readonly files: () => number
}

const defaults: Credentials = {
  appId: "11111111-2222-4333-8444-555555555555",
  adminToken: "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
}

/** Of a request's body, in the record. */
const recordedBytes = 16_384

export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<InstantDbEmulator, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const app = new App({
    credentials: { ...defaults, ...options.credentials },
    now: () => clock.currentTimeMillisUnsafe(),
    echoToken: options.echoToken ?? true
  })
  if (options.schema !== undefined) app.catalog.push(options.schema)
  const requests = new Requests()
  const faults = new Faults()
  const files = new Files(app)
  const streams = new Streams(app, files)
  const sessions = new Sessions(app, streams, options.lists ?? false)
  const table = routes(app, files, sessions)

  const server = yield* Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<Http.Server>((resolve) => {
          const server = Http.createServer(keptAlive, (request, response) => {
            // Endpoints answer for their own failures; what is left is that the client left in the middle of the answer.
            serve({ app, table, requests, faults, sessions }, request, response).catch(() => response.destroy())
          })
          server.listen(0, "127.0.0.1", () => resolve(server))
        })
    ),
    (server) =>
      Effect.promise(async () => {
        server.closeAllConnections()
        await new Promise((resolve) => server.close(resolve))
      })
  )
  const address: AddressInfo | string | null = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("the server has no port")
  const origin = `http://127.0.0.1:${address.port}`
  app.origin = origin

  return {
    origin,
    credentials: app.credentials,
    config: { ...app.credentials, apiURI: origin },
    requests,
    faults,
    push: (schema) => app.catalog.push(schema),
    query: (query) => app.queries.run(query, true).data,
    transact: (steps) => app.transact({ steps, strict: false }),
    overlap: (transactions) => app.overlap(transactions),
    setState: (state) => {
      app.state = state
    },
    connections: (kind) => sessions.of(kind).length,
    cut: (kind) => {
      for (const session of sessions.of(kind)) session.cut()
    },
    streams: () => streams.all,
    holdFlushes: () => streams.holdFlushes(),
    failFlushes: (times) => streams.failFlushes(times),
    resubscribeReaders: () => streams.resubscribeReaders(),
    files: () => files.size
  }
})

interface Served {
  readonly app: App
  readonly table: ReadonlyArray<Route>
  readonly requests: Requests
  readonly faults: Faults
  readonly sessions: Sessions
}

const parse = (bytes: Buffer): unknown => {
  try {
    return JSON.parse(bytes.toString())
  } catch {
    // Told by the endpoint, which misses what it wants to find in it.
    return undefined
  }
}

const serve = async (
  { app, faults, requests, sessions, table }: Served,
  request: Http.IncomingMessage,
  response: Http.ServerResponse
): Promise<void> => {
  const bytes = await bodyOf(request)
  if (bytes === undefined) return
  const url = new URL(request.url ?? "/", "http://emulator")
  const route = table.find(({ method, path }) => method === request.method && path.test(url.pathname))
  const isJson = request.headers["content-type"] === "application/json"
  const call: Call = {
    query: url.searchParams,
    headers: request.headers,
    param: decodeURIComponent(route?.path.exec(url.pathname)?.[1] ?? ""),
    json: isJson && bytes.length > 0 ? parse(bytes) : undefined,
    bytes
  }
  const recorded: Recorded = {
    endpoint: route?.endpoint ?? "unknown",
    method: request.method ?? "",
    path: url.pathname,
    query: Object.fromEntries(url.searchParams),
    headers: request.headers,
    body: isJson ? bytes.toString("utf8", 0, recordedBytes) : `${bytes.length} bytes`,
    at: app.now(),
    executed: false,
    status: undefined
  }
  requests.add(recorded)
  const fault = route === undefined ? undefined : faults.take(route.endpoint, call)
  // No AbortController: each would cost an error with a stack at the end of every request.
  const closed = new Promise<void>((resolve) => response.once("close", () => resolve()))

  const execute = async (): Promise<Reply> => {
    try {
      if (route === undefined) throw new Refusal(404, undefined, "Not found")
      if (!route.open) app.authorize(request.headers, url.searchParams)
      recorded.executed = true
      return await route.handler(call)
    } catch (error) {
      const known = error instanceof Refusal
      return {
        _tag: "Json",
        // A defect of the emulator is 501, so that nobody takes it for a fault of the script.
        status: known ? error.status : 501,
        body: known ? errorBody(error.type, error.message, error.hint) : errorBody("emulator-defect", String(error))
      }
    }
  }

  if (fault?._tag === "Late") await closed
  if (fault?._tag === "Gate") await fault.before
  const times = executions(fault)
  let reply: Reply | undefined
  for (let done = 0; done < times; done++) reply = await execute()
  if (fault?._tag === "Gate") await fault.after
  if (fault?._tag === "Reset" || fault?._tag === "Cut") {
    if (fault._tag === "Cut") for (const session of sessions.of("sse")) session.cut()
    request.socket.destroy()
    return
  }
  // The answer of a request that is never answered: none, and the client leaves.
  if (fault?._tag === "Silent") return
  if (fault?._tag === "Answer") {
    const answer: Answer = fault.answer(app.credentials.adminToken)
    recorded.status = answer.status
    response.writeHead(answer.status, { "content-type": "application/json", ...answer.headers }).end(answer.body)
    return
  }
  if (reply === undefined || response.destroyed) return
  recorded.status = reply._tag === "Json" ? reply.status : 200
  await send(response, reply, fault)
}

const executions = (fault: Fault | undefined): number => {
  if (fault?._tag === "Reset") return fault.executed
  if (fault?._tag === "Answer" || fault?._tag === "Silent" || fault?._tag === "Cut") return fault.executed ? 1 : 0
  return 1
}

/** Undefined where the client left before it was complete. */
const bodyOf = async (request: Http.IncomingMessage): Promise<Buffer | undefined> => {
  try {
    const chunks: Array<Buffer> = []
    for await (const chunk of request) chunks.push(chunk)
    return Buffer.concat(chunks)
  } catch {
    return undefined
  }
}

const send = async (response: Http.ServerResponse, reply: Reply, fault: Fault | undefined): Promise<void> => {
  if (reply._tag === "Events") {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" })
    response.flushHeaders()
    if (fault?._tag !== "Mute") reply.open(response)
    return
  }
  const [bytes, type] =
    reply._tag === "Bytes"
      ? [reply.bytes, reply.type]
      : [Buffer.from(JSON.stringify(reply.body)), "application/json; charset=utf-8"]
  response.writeHead(reply._tag === "Bytes" ? 200 : reply.status, {
    "content-type": type,
    "content-length": bytes.length
  })
  if (fault?._tag === "Torn") {
    await written(response, bytes.subarray(0, fault.bytes))
    response.destroy()
    return
  }
  if (fault?._tag === "Split") {
    let start = 0
    for (let at = 0; at < bytes.length; at++) {
      if ((bytes[at] ?? 0) < 0xc0) continue
      await written(response, bytes.subarray(start, at + 1))
      // What arrives before the client reads is one chunk for it, so it gets some turns of its loop, which is ours.
      for (let turns = 0; turns < 20; turns++) await turn()
      start = at + 1
    }
    response.end(bytes.subarray(start))
    return
  }
  response.end(bytes)
}

const written = (response: Http.ServerResponse, bytes: Buffer): Promise<void> =>
  new Promise((resolve) => {
    // Also when the connection is gone: then there is nothing to wait for.
    if (response.destroyed) resolve()
    else response.write(bytes, () => resolve())
  })
