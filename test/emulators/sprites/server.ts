/**
 * An emulator of the Sprites API on loopback: REST, commands over WebSockets, files, checkpoints, services, the Tasks API inside of
 * the machine, and the idle rules, over real processes in temporary directories; every request on record, faults on demand.
 *
 * Its time is the Clock of the fiber that makes it: under a `TestClock` machines idle in virtual time. It needs `/proc`.
 *
 * Not emulated, because nothing says enough of it: watching of ports and of sprites, operations of the control socket besides commands,
 * what services run, enforcement of policies, terminals (a command with `tty` has pipes). What the live service does where its
 * documentation is silent nobody here knows.
 */
import { type WebSocket, WebSocketServer } from "@effect/platform-node/NodeWS"
import { Clock, Effect, FiberSet, type Scope } from "effect"
import * as FsPromises from "node:fs/promises"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import type { Duplex } from "node:stream"
import { pipeline } from "node:stream/promises"
import { control, start } from "./exec.ts"
import { type Fault, Faults } from "./faults.ts"
import { create, handlerOf, list } from "./handlers.ts"
import { type Call, Refusal, refuse, refuseText, type Reply, text } from "./http.ts"
import { type Recorded, Requests } from "./requests.ts"
import { type Endpoint, isInGuest, routeOf } from "./routes.ts"
import { type Options, type Sprite, spriteOf, type World } from "./state.ts"
import { proxy, watch } from "./tunnels.ts"

export type { Options } from "./state.ts"

export interface SpritesEmulator {
  /** Such as `http://127.0.0.1:4711`. */
  readonly origin: string
  readonly token: string
  readonly requests: Requests
  readonly faults: Faults
  readonly sprites: () => ReadonlyArray<Sprite>
  readonly sprite: (name: string) => Sprite
  /** How many connections of clients are open. */
  readonly connections: () => number
  /** The sprite is gone as if somebody else had deleted it. */
  readonly vanish: (name: string) => Effect.Effect<void>
  /** It loses its memory, as after a long sleep. */
  readonly cool: (name: string) => Effect.Effect<void>
}

const token = "emu/org-1/token-id/s3cret-of-the-emulator"

export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<SpritesEmulator, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const directory = yield* Effect.acquireRelease(
    Effect.promise(async () =>
      FsPromises.realpath(await FsPromises.mkdtemp(Path.join(Os.tmpdir(), "effect-sandbox-sprites-")))
    ),
    (path) => Effect.promise(() => FsPromises.rm(path, { recursive: true, force: true, maxRetries: 3 }))
  )
  const world: World = {
    token,
    options: {
      duplicate: 409,
      bareLists: false,
      plainCreate: false,
      reap: "group",
      unready: 1,
      path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      coldAfter: 600_000,
      linger: 50,
      pongs: true,
      ...options
    },
    sprites: new Map(),
    now: () => clock.currentTimeMillisUnsafe(),
    after: (millis, then) => {
      const fiber = run(Effect.andThen(Effect.sleep(millis), Effect.sync(then)))
      return () => fiber.interruptUnsafe()
    },
    directory,
    nextNumber: 1
  }
  const requests = new Requests()
  const faults = new Faults()
  const connections = new Set<Duplex>()
  const upgrades = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: 32 * 1024,
    autoPong: world.options.pongs
  })
  const served: Served = { world, requests, faults, upgrades }

  const server = yield* Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<Http.Server>((resolve) => {
          const server = Http.createServer((request, response) => void serve(served, request, response))
          server.on("upgrade", (request, socket, head) => void upgrade(served, request, socket, head))
          server.on("connection", (socket) => {
            connections.add(socket)
            socket.once("close", () => connections.delete(socket))
          })
          server.listen(0, "127.0.0.1", () => resolve(server))
        })
    ),
    (server) =>
      Effect.promise(async () => {
        for (const sprite of [...world.sprites.values()]) await sprite.end()
        for (const socket of connections) socket.destroy()
        await new Promise((resolve) => server.close(resolve))
      })
  )
  const address: AddressInfo | string | null = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("the server has no port")

  const sprite = (name: string): Sprite => {
    const found = world.sprites.get(name)
    if (found === undefined) throw new Error(`there is no sprite ${name}`)
    return found
  }
  return {
    origin: `http://127.0.0.1:${address.port}`,
    token,
    requests,
    faults,
    sprites: () => [...world.sprites.values()],
    sprite,
    connections: () => connections.size,
    vanish: (name) => Effect.promise(() => sprite(name).end()),
    cool: (name) => Effect.promise(() => sprite(name).cool())
  }
})

interface Served {
  readonly world: World
  readonly requests: Requests
  readonly faults: Faults
  readonly upgrades: WebSocketServer
}

const parse = (bytes: Buffer): Call["json"] => {
  try {
    const parsed: unknown = JSON.parse(bytes.toString())
    return typeof parsed === "object" && parsed !== null ? { ...parsed } : {}
  } catch {
    return {}
  }
}

/** What is asked, on record. */
const record = (
  { requests, world }: Served,
  request: Http.IncomingMessage,
  method: string,
  bytes: Buffer
): Recorded & { readonly route: ReturnType<typeof routeOf>; readonly query: URLSearchParams } => {
  const url = new URL(request.url ?? "/", "http://emulator")
  const route = routeOf(method, url.pathname)
  const isFile = route?.endpoint === "fs.write"
  const recorded = {
    endpoint: route?.endpoint ?? ("unknown" as const),
    method,
    url: request.url ?? "/",
    headers: request.headers,
    body: isFile ? `${bytes.length} bytes` : bytes.toString(),
    at: world.now(),
    status: undefined,
    route,
    query: url.searchParams
  }
  requests.add(recorded)
  return recorded
}

const authorize = ({ world }: Served, request: Http.IncomingMessage): void => {
  if (request.headers.authorization !== `Bearer ${world.token}`) refuse(401, "authentication failed")
}

/** What the machine says first: a wedged one nothing, one that was just restored that it is not ready. */
const admit = async (sprite: Sprite, endpoint: Endpoint, gone: Promise<void>): Promise<void> => {
  if (sprite.wedged && endpoint !== "exec.list") await gone
  if (sprite.unready > 0) {
    sprite.unready--
    refuseText(503, "process not ready")
  }
}

const act = async (
  { world }: Served,
  { endpoint, params }: { readonly endpoint: Endpoint; readonly params: ReadonlyArray<string> },
  call: Call,
  fault: Fault | undefined,
  gone: Promise<void>
): Promise<Reply> => {
  try {
    if (endpoint === "sprite.create") return await create(world, call)
    if (endpoint === "sprite.list") return list(world, call)
    const handler = handlerOf(endpoint) ?? refuseText(404, "404 page not found")
    const sprite = spriteOf(world, params[0])
    if (!isInGuest(endpoint)) return await handler(call, sprite, fault)
    return await sprite.held(async () => {
      await admit(sprite, endpoint, gone)
      return handler(call, sprite, fault)
    })
  } catch (error) {
    // A defect of the emulator is 501, so that nobody takes it for a fault of the script.
    return error instanceof Refusal ? error.reply : text(`emulator defect: ${String(error)}`, 501)
  }
}

const serve = async (served: Served, request: Http.IncomingMessage, response: Http.ServerResponse): Promise<void> => {
  const chunks: Array<Buffer> = []
  try {
    for await (const chunk of request) chunks.push(chunk)
  } catch {
    // The client left before it was complete.
    return
  }
  const bytes = Buffer.concat(chunks)
  const recorded = record(served, request, request.method ?? "", bytes)
  const { query, route } = recorded
  const fault = route === undefined ? undefined : served.faults.take(route.endpoint)
  const gone = new Promise<void>((resolve) => response.once("close", () => resolve()))
  const answer = async (): Promise<Reply> => {
    try {
      authorize(served, request)
    } catch (error) {
      if (error instanceof Refusal) return error.reply
      throw error
    }
    if (route === undefined) return text("404 page not found", 404)
    // The contents of a file are no JSON, and long.
    const json = route.endpoint === "fs.write" ? {} : parse(bytes)
    return act(served, route, { params: route.params, query, json, bytes }, fault, gone)
  }
  if (fault?._tag === "Late") await gone
  const skipped = (fault?._tag === "Answer" || fault?._tag === "Reset" || fault?._tag === "Hang") && !fault.executed
  const reply = skipped ? undefined : await answer()
  // Work that is told in lines is done while it is told.
  if (reply?._tag === "Lines" && (fault?._tag === "Answer" || fault?._tag === "Reset" || fault?._tag === "Hang")) {
    for await (const _ of reply.lines()) void _
  }
  if (fault?._tag === "Hang") return void (await gone)
  if (fault?._tag === "Reset") {
    request.socket.destroy()
    return
  }
  if (fault?._tag === "Answer") {
    recorded.status = fault.status
    const echoed = fault.echoToken ? `${fault.body} ${request.headers.authorization}` : fault.body
    response.writeHead(fault.status, fault.headers).end(echoed)
    return
  }
  if (reply === undefined || response.destroyed) return
  await send(response, reply, recorded, fault)
}

const send = async (
  response: Http.ServerResponse,
  reply: Reply,
  recorded: Recorded,
  fault: Fault | undefined
): Promise<void> => {
  const version = { "sprite-version": "0.0.1-rc48" }
  switch (reply._tag) {
    case "Json":
      recorded.status = reply.status
      response.writeHead(reply.status, { ...version, "content-type": "application/json" })
      response.end(JSON.stringify(reply.body))
      return
    case "Text":
      recorded.status = reply.status
      response.writeHead(reply.status, { ...version, "content-type": "text/plain; charset=utf-8" }).end(reply.text)
      return
    case "Empty":
      recorded.status = 204
      response.writeHead(204, version).end()
      return
    case "Bytes":
      recorded.status = 200
      response.writeHead(200, { ...version, "content-type": "application/octet-stream" })
      // The client may leave in the middle.
      await pipeline(reply.stream, response).catch(() => response.destroy())
      return
    case "Lines": {
      recorded.status = 200
      response.writeHead(200, { ...version, "content-type": "application/x-ndjson" })
      response.flushHeaders()
      let count = 0
      for await (const line of reply.lines()) {
        const text = JSON.stringify(line)
        // What comes is not cut where lines are, and the last has no end.
        const half = Math.floor(text.length / 2)
        if (fault?._tag === "CutLines" && count >= fault.lines) {
          // What was not sent when a connection is cut is lost.
          if (count === fault.lines) {
            await new Promise<void>((resolve) => response.write(`\n${text.slice(0, half)}`, () => resolve()))
          }
          count++
          continue
        }
        response.write(`${count === 0 ? "" : "\n"}${text.slice(0, half)}`)
        response.write(text.slice(half))
        count++
      }
      if (fault?._tag === "CutLines") response.destroy()
      else response.end()
    }
  }
}

const head = (reply: Reply): string => {
  const { body, status, type } =
    reply._tag === "Json"
      ? { status: reply.status, body: JSON.stringify(reply.body), type: "application/json" }
      : reply._tag === "Text"
        ? { status: reply.status, body: reply.text, type: "text/plain; charset=utf-8" }
        : { status: 500, body: "", type: "text/plain" }
  return refusal(status, body, { "content-type": type })
}

const refusal = (status: number, body: string, headers: Readonly<Record<string, string>>): string =>
  [
    `HTTP/1.1 ${status} ${Http.STATUS_CODES[status] ?? "?"}`,
    ...Object.entries({ ...headers, "content-length": String(Buffer.byteLength(body)), connection: "close" }).map(
      ([name, value]) => `${name}: ${value}`
    ),
    "",
    body
  ].join("\r\n")

const upgrade = async (served: Served, request: Http.IncomingMessage, socket: Duplex, first: Buffer): Promise<void> => {
  socket.on("error", () => {})
  const recorded = record(served, request, "WS", Buffer.alloc(0))
  const { query, route } = recorded
  const gone = new Promise<void>((resolve) => socket.once("close", () => resolve()))
  const fault = route === undefined ? undefined : served.faults.take(route.endpoint)
  const open = async (): Promise<(webSocket: WebSocket) => void> => {
    authorize(served, request)
    const sprite = spriteOf(served.world, route?.params[0])
    return sprite.held(async () => {
      await admit(sprite, route?.endpoint ?? "exec", gone)
      switch (route?.endpoint) {
        case "control":
          return (webSocket) => control(sprite, webSocket)
        case "proxy":
          return (webSocket) => proxy(sprite, webSocket)
        case "fs.watch":
          return (webSocket) => watch(sprite, webSocket)
        case "exec": {
          const session = await start(sprite, query)
          return (webSocket) => session.attach(webSocket, fault)
        }
        default: {
          const id = route?.endpoint === "exec.attach" ? (route.params[1] ?? "") : ""
          const session = sprite.sessions.get(id) ?? refuseText(404, `session not found: ${id}`)
          return (webSocket) => session.attach(webSocket, fault)
        }
      }
    })
  }
  try {
    if (fault?._tag === "Late") await gone
    if (fault?._tag === "Answer") {
      if (fault.executed) await open()
      recorded.status = fault.status
      const echoed = fault.echoToken ? `${fault.body} ${request.headers.authorization}` : fault.body
      socket.end(refusal(fault.status, echoed, fault.headers))
      return
    }
    if (fault?._tag === "Reset" || fault?._tag === "Hang") {
      if (fault.executed) await open()
      if (fault._tag === "Hang") await gone
      socket.destroy()
      return
    }
    const attach = await open()
    if (socket.destroyed) return
    recorded.status = 101
    served.upgrades.handleUpgrade(request, socket, first, attach)
  } catch (error) {
    const reply = error instanceof Refusal ? error.reply : text(`emulator defect: ${String(error)}`, 501)
    recorded.status = reply._tag === "Json" || reply._tag === "Text" ? reply.status : 500
    socket.end(head(reply))
  }
}
