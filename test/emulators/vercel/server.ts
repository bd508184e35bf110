/**
 * An emulator of the Vercel Sandbox API on loopback, for tests that drive the vendor's real SDK: real processes over temporary
 * directories, the vendor's states and errors, every request on record, scripted faults.
 *
 * Its time is the Clock of the fiber that makes it: under a `TestClock` sessions, snapshots and command timeouts run out in
 * virtual time. It needs `/proc`, to find every process of a sandbox whatever it did to its session and environment.
 *
 * Not emulated: drives, interactive sessions, the snapshot tree, git and tarball sources, regions, enforcement of network
 * policies, users and `sudo`, quotas. Where nobody knows what the host does, the comment at that place says so.
 */
import { Clock, Duration, Effect, FiberSet, type Scope } from "effect"
import * as FsPromises from "node:fs/promises"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import { pipeline } from "node:stream/promises"
import { setTimeout as delay } from "node:timers/promises"
import { type Fault, Faults, tell } from "./faults.ts"
import { badRequest, errorBody, Refusal, type Reply } from "./http.ts"
import { Lifecycle } from "./lifecycle.ts"
import { type KillScope, processesOf } from "./machine.ts"
import { Requests, type Recorded } from "./requests.ts"
import { authorize, checkForm, type Route, routes } from "./routes.ts"
import { type Credentials, currentSession, type SandboxState, type SnapshotState, type World } from "./state.ts"
import { keptAlive } from "../keptAlive.ts"

export interface Options {
  readonly credentials?: Partial<Credentials> | undefined
  /** Of a session for which none was given; default 5 minutes, the vendor's. */
  readonly defaultTimeout?: Duration.Input | undefined
  /** The most a session may have in all; default 24 hours, the vendor's for paid plans. */
  readonly maxTimeout?: Duration.Input | undefined
  /** Of lists without a `limit`; default 20. */
  readonly pageSize?: number | undefined
  /** What `kill` and a command's own timeout hit; default `process`, because a provider may not count on more. */
  readonly killScope?: KillScope | undefined
  /** The `PATH` of guests. */
  readonly path?: string | undefined
}

export interface VercelEmulator {
  /** The server's own, such as `http://127.0.0.1:4711`. */
  readonly origin: string
  readonly credentials: Credentials
  /** For the SDK's option of this name: everything that goes to the vendor goes to the emulator instead. */
  readonly fetch: typeof globalThis.fetch
  readonly requests: Requests
  readonly faults: Faults
  /** The sandboxes that exist, with their sessions, commands and policies. */
  readonly sandboxes: () => ReadonlyArray<SandboxState>
  readonly sandbox: (name: string) => SandboxState
  /** Deleted ones too. */
  readonly snapshots: () => ReadonlyArray<SnapshotState>
  /** How many streams of output are open: one that a client forgot stays. */
  readonly streams: () => number
  /** What runs in a sandbox now. */
  readonly processes: (name: string) => ReadonlyArray<number>
  /** The session's time is over now, as when its timeout passes: processes die, a persistent sandbox is snapshotted. */
  readonly expire: (name: string) => Effect.Effect<void>
  /** The machine fails: `aborted`, and what was not snapshotted is lost. */
  readonly crash: (name: string) => Effect.Effect<void>
  /** The record is gone as if deleted by somebody else; its sessions are 404 from then on. Snapshots stay. */
  readonly vanish: (name: string) => Effect.Effect<void>
  /** The snapshot's time is over. */
  readonly expireSnapshot: (id: string) => void
  /** A session that comes into this status stays in it until the answer is called. Its processes are dead by then. */
  readonly hold: (status: "stopping" | "snapshotting") => () => void
}

const vendorOrigin = "https://vercel.com"

const defaults: Credentials = { token: "vercel-emulator-token", teamId: "team_emulator", projectId: "prj_emulator" }

const cleanPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<VercelEmulator, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const directory = yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const made = await FsPromises.mkdtemp(Path.join(Os.tmpdir(), "effect-sandbox-vercel-"))
      const real = await FsPromises.realpath(made)
      await Promise.all(["logs", "snapshots"].map((name) => FsPromises.mkdir(Path.join(real, name))))
      return real
    }),
    (path) => Effect.promise(() => FsPromises.rm(path, { recursive: true, force: true, maxRetries: 3 }))
  )
  let seq = 0
  const world: World = {
    credentials: { ...defaults, ...options.credentials },
    sandboxes: new Map(),
    sessions: new Map(),
    snapshots: new Map(),
    now: () => clock.currentTimeMillisUnsafe(),
    after: (millis, then) => {
      const fiber = run(Effect.andThen(Effect.sleep(millis), Effect.sync(then)))
      return () => fiber.interruptUnsafe()
    },
    nextSeq: () => ++seq,
    directory,
    path: options.path ?? cleanPath,
    killScope: options.killScope ?? "process",
    defaultTimeout: Duration.toMillis(options.defaultTimeout ?? "5 minutes"),
    maxTimeout: Duration.toMillis(options.maxTimeout ?? "24 hours"),
    pageSize: options.pageSize ?? 20
  }
  const lifecycle = new Lifecycle(world)
  const requests = new Requests()
  const faults = new Faults()
  const table = routes(world, lifecycle)
  const open = new Set<Promise<void>>()
  const streams = new Set<Http.ServerResponse>()

  const server = yield* Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<Http.Server>((resolve) => {
          const server = Http.createServer(keptAlive, (request, response) => {
            const served = serve({ world, table, requests, faults, streams }, request, response).finally(() =>
              open.delete(served)
            )
            open.add(served)
          })
          server.listen(0, "127.0.0.1", () => resolve(server))
        })
    ),
    (server) =>
      Effect.promise(async () => {
        server.closeAllConnections()
        await new Promise((resolve) => server.close(resolve))
        // What waits for a promise of the test may wait for ever; everything else is done soon.
        await Promise.race([Promise.all(open), delay(1_000)])
        for (const { machine } of world.sandboxes.values()) {
          await machine.halt({ code: "sandbox_stream_closed", message: "The emulator is closing" })
          await machine.forget()
        }
      })
  )
  const address: AddressInfo | string | null = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("the server has no port")
  const origin = `http://127.0.0.1:${address.port}`

  const sandbox = (name: string): SandboxState => {
    const found = world.sandboxes.get(name)
    if (found === undefined) throw new Error(`there is no sandbox ${name}`)
    return found
  }
  const end = (name: string, why: "timeout" | "crash") =>
    Effect.promise(async () => void (await lifecycle.end(currentSession(sandbox(name)), why)))

  return {
    origin,
    credentials: world.credentials,
    fetch: (input, init) => {
      const url = new URL(input instanceof Request ? input.url : input)
      if (url.origin !== vendorOrigin) return Promise.reject(new Error(`not the vendor's: ${url.origin}`))
      const rewritten = `${origin}${url.pathname}${url.search}`
      return globalThis.fetch(input instanceof Request ? new Request(rewritten, input) : rewritten, init)
    },
    requests,
    faults,
    sandboxes: () => [...world.sandboxes.values()],
    sandbox,
    snapshots: () => [...world.snapshots.values()],
    streams: () => streams.size,
    processes: (name) => processesOf(sandbox(name).machine.root),
    expire: (name) => end(name, "timeout"),
    crash: (name) => end(name, "crash"),
    vanish: (name) => Effect.promise(() => lifecycle.delete(sandbox(name), false)),
    expireSnapshot: (id) => {
      const snapshot = world.snapshots.get(id)
      if (snapshot === undefined) throw new Error(`there is no snapshot ${id}`)
      snapshot.ttl = 1
      snapshot.lastUsedAt = world.now() - 1
    },
    hold: (status) => {
      const { promise, resolve } = Promise.withResolvers<void>()
      lifecycle.hold(status, promise)
      return resolve
    }
  }
})

interface Served {
  readonly world: World
  readonly table: ReadonlyArray<Route>
  readonly requests: Requests
  readonly faults: Faults
  readonly streams: Set<Http.ServerResponse>
}

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    // Reported by the caller, which knows whether a body was wanted.
    return undefined
  }
}

const serve = async (
  { faults, requests, streams, table, world }: Served,
  request: Http.IncomingMessage,
  response: Http.ServerResponse
): Promise<void> => {
  const bytes = await bodyOf(request)
  if (bytes === undefined) return
  const url = new URL(request.url ?? "/", "http://emulator")
  const isJson = request.headers["content-type"] === "application/json"
  const json = isJson && bytes.length > 0 ? parse(bytes.toString()) : undefined
  const route = table.find(
    ({ method, path, when }) =>
      method === request.method && path.test(url.pathname) && when?.(url.searchParams, json) !== false
  )
  const recorded: Recorded = {
    endpoint: route?.endpoint ?? "unknown",
    method: request.method ?? "",
    path: url.pathname,
    query: Object.fromEntries(url.searchParams),
    headers: request.headers,
    body: isJson ? bytes.toString() : `${bytes.length} bytes`,
    at: world.now(),
    executed: false,
    status: undefined
  }
  requests.add(recorded)
  const fault = route === undefined ? undefined : faults.take(route.endpoint)
  const gone = new AbortController()
  response.once("close", () => gone.abort())

  const execute = async (): Promise<Reply> => {
    try {
      authorize(world, request.headers, url.searchParams)
      // 400 and not 404, which the SDK would take for a missing sandbox or file.
      if (route === undefined) return badRequest(`The emulator knows no ${request.method} ${url.pathname}.`)
      checkForm(route, request.headers, url.searchParams, bytes)
      if (json === undefined && isJson && bytes.length > 0) return badRequest("The body is no JSON.")
      recorded.executed = true
      const params = route.path.exec(url.pathname)?.slice(1).map(decodeURIComponent) ?? []
      return await route.handler({ params, query: url.searchParams, headers: request.headers, json, bytes })
    } catch (error) {
      const known = error instanceof Refusal
      return {
        _tag: "Json",
        // A defect of the emulator is 501, so that nobody takes it for a fault of the script.
        status: known ? error.status : 501,
        body: known ? errorBody(error.code, error.message) : errorBody("emulator_defect", String(error))
      }
    }
  }

  const closed = () => new Promise<void>((resolve) => gone.signal.addEventListener("abort", () => resolve()))
  if (fault?._tag === "Late" && !gone.signal.aborted) await closed()
  if (fault?._tag === "Gate") await fault.before
  const skipped = (fault?._tag === "Reset" || fault?._tag === "Answer") && !fault.executed
  const reply = skipped ? undefined : await execute()
  if (fault?._tag === "Gate") await fault.after
  if (fault?._tag === "Slow") await delay(fault.millis)
  if (fault?._tag === "Reset") {
    request.socket.destroy()
    return
  }
  if (fault?._tag === "Answer") {
    const { body, headers, status } = fault.answer
    const told = fault.echoToken
      ? body.replace("Not authorized", `Not authorized: ${request.headers.authorization}`)
      : body
    recorded.status = status
    await send(response, { _tag: "Json", status, body: told }, { ...headers }, undefined, gone.signal)
    return
  }
  if (reply === undefined || gone.signal.aborted) return
  recorded.status = reply._tag === "Json" ? reply.status : 200
  if (reply._tag === "Lines") {
    streams.add(response)
    response.once("close", () => streams.delete(response))
  }
  await send(response, reply, {}, fault, gone.signal)
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

const send = async (
  response: Http.ServerResponse,
  reply: Reply,
  headers: Readonly<Record<string, string>>,
  fault: Fault | undefined,
  gone: AbortSignal
): Promise<void> => {
  const head = { "x-ratelimit-limit": "10000", "x-ratelimit-remaining": "9999", "x-ratelimit-reset": "0", ...headers }
  if (reply._tag === "Json") {
    const { body, status } = reply
    response.writeHead(status, { "content-type": "application/json", ...head })
    response.end(typeof body === "string" ? body : JSON.stringify(body))
    return
  }
  if (reply._tag === "Bytes") {
    response.writeHead(200, { "content-type": "application/octet-stream", ...head })
    // The client may leave in the middle, and the file may vanish: both end the answer where it is.
    await pipeline(reply.stream, response).catch(() => response.destroy())
    return
  }
  const type = fault?._tag === "ContentType" ? fault.value : "application/x-ndjson"
  response.writeHead(200, { "content-type": type, ...head })
  response.flushHeaders()
  if (fault?._tag === "Silent") return
  const told = tell(reply.lines(gone), fault)
  for await (const chunk of told.bytes) {
    if (gone.aborted) return
    // The next chunk is read when this one is with the kernel, or the connection is closed: the client's pace is ours.
    await new Promise<void>((resolve) => response.write(chunk, () => resolve()))
  }
  if (told.cut) response.destroy()
  else response.end()
}
