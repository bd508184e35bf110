/**
 * An emulator of Daytona's API and of its toolbox on loopback, for tests that drive the vendor's real SDK: real processes over
 * temporary directories, the vendor's states and errors, every request on record, scripted faults.
 *
 * Its time is the Clock of the fiber that makes it: under a `TestClock` idleness, leases and changes of state take virtual time. It
 * needs `/proc`, to find every process of a sandbox.
 *
 * Not emulated, because the provider uses none of it: shell sessions and their log sockets, PTYs, `git`, language servers, code
 * interpreters, builds, regions, GPUs, forks and pauses, the event channel, signing keys, users, quotas, and what volumes hold.
 */
import { Clock, Duration, Effect, FiberSet, type Scope } from "effect"
import * as Fs from "node:fs"
import * as Crypto from "node:crypto"
import * as FsPromises from "node:fs/promises"
import * as Http from "node:http"
import * as Os from "node:os"
import * as Path from "node:path"
import { pipeline } from "node:stream/promises"
import { setTimeout as delay } from "node:timers/promises"
import { processesOf } from "../vercel/machine.ts"
import { type Endpoint, type Fault, Faults } from "./faults.ts"
import { type Guest, type Started, TimedOut } from "./guest.ts"
import { parse, partHead } from "./multipart.ts"
import { iso, Refusal, refuse, type SandboxState, type SnapshotState, type VolumeState, World } from "./state.ts"
import { keptAlive } from "../keptAlive.ts"

export interface Recorded {
  readonly endpoint: Endpoint | "unknown"
  readonly method: string
  readonly path: string
  readonly query: Readonly<Record<string, string>>
  readonly headers: Http.IncomingHttpHeaders
  /** The JSON text; of an upload only its size. */
  readonly body: string
}

export class Requests {
  #all: Array<Recorded> = []

  add(recorded: Recorded): void {
    this.#all.push(recorded)
  }

  get all(): ReadonlyArray<Recorded> {
    return this.#all
  }

  /** The endpoints that were asked, in order. */
  get endpoints(): ReadonlyArray<Recorded["endpoint"]> {
    return this.#all.map(({ endpoint }) => endpoint)
  }

  count(endpoint: Endpoint): number {
    return this.#all.filter((recorded) => recorded.endpoint === endpoint).length
  }

  reset(): void {
    this.#all = []
  }
}

export interface Options {
  /** How long a state lasts that is on the way to another; 5 ms. */
  readonly transition?: Duration.Input | undefined
  /** Sandboxes on a page of a list; 100. */
  readonly pageSize?: number | undefined
  /** What comes first in the `PATH` of guests. */
  readonly bin?: string | undefined
  /** Whether a sandbox tells where its toolbox is, as it has for long; true. */
  readonly tellsToolbox?: boolean | undefined
  /** Whether the toolbox has the newer API of processes. */
  readonly processes?: boolean | undefined
}

export interface DaytonaEmulator {
  /** For the SDK's option of this name. */
  readonly apiUrl: string
  readonly apiKey: string
  readonly requests: Requests
  readonly faults: Faults
  /** Destroyed ones too. */
  readonly sandboxes: () => ReadonlyArray<SandboxState>
  /** Those that exist. */
  readonly alive: () => ReadonlyArray<SandboxState>
  readonly snapshots: () => ReadonlyArray<SnapshotState>
  readonly volumes: () => ReadonlyArray<VolumeState>
  /** What runs in a sandbox now. */
  readonly processes: (id: string) => ReadonlyArray<number>
  /** Connections that are open. */
  readonly connections: () => number
  /** Stops a sandbox as its idleness would. */
  readonly stop: (id: string) => void
  /** Starts one as somebody else would. */
  readonly start: (id: string) => void
  readonly world: World
}

interface Call {
  readonly params: ReadonlyArray<string>
  readonly query: URLSearchParams
  readonly json: Readonly<Record<string, unknown>>
  readonly bytes: Buffer
  /** Where a large body is; then `bytes` is what it begins with. */
  readonly file: string | undefined
  readonly headers: Http.IncomingHttpHeaders
  readonly fault: Fault | undefined
}

type Reply =
  | { readonly _tag: "Json"; readonly status: number; readonly body: unknown }
  | { readonly _tag: "Download"; readonly path: string; readonly file: string; readonly cut: number | undefined }
  | { readonly _tag: "Events"; readonly process: Started; readonly cut: number | undefined }
  | { readonly _tag: "DownloadError"; readonly path: string; readonly status: number; readonly message: string }

const json = (body: unknown, status = 200): Reply => ({ _tag: "Json", status, body })

interface Route {
  readonly endpoint: Endpoint
  readonly method: string
  readonly path: RegExp
  readonly handler: (call: Call) => Reply | Promise<Reply>
}

const becomesOf = (fault: Fault | undefined) => (fault?._tag === "Becomes" ? fault : undefined)

const snapshotAnswer = (snapshot: SnapshotState) => ({
  id: snapshot.id,
  name: snapshot.name,
  state: snapshot.state,
  errorReason: snapshot.errorReason,
  sourceSandboxId: snapshot.sourceSandboxId,
  createdAt: iso(snapshot.createdAt),
  updatedAt: iso(snapshot.createdAt)
})

const volumeAnswer = (volume: VolumeState) => ({
  id: volume.id,
  name: volume.name,
  organizationId: "org-emulator",
  state: volume.state,
  errorReason: volume.errorReason,
  createdAt: iso(volume.createdAt),
  updatedAt: iso(volume.createdAt)
})

const processAnswer = ({ exit, id }: Started) => ({
  id,
  state: exit === undefined ? "running" : "exited",
  ...(exit === undefined ? {} : { exitCode: exit.code, reason: exit.signal === null ? "exited" : "signaled" })
})

const routesOf = (world: World, pageSize: number, processes: boolean): ReadonlyArray<Route> => {
  const route = (endpoint: Endpoint, method: string, path: string, handler: Route["handler"]): Route => ({
    endpoint,
    method,
    path: new RegExp(`^${path.replaceAll(":x", "([^/]+)")}$`),
    handler
  })
  const known = ({ params: [id = ""] }: Call): SandboxState => world.find(id)
  const active = (call: Call): SandboxState => {
    const sandbox = known(call)
    world.touch(sandbox)
    return sandbox
  }
  const changed = (
    endpoint: Endpoint,
    method: string,
    path: string,
    change: (sandbox: SandboxState, call: Call) => void
  ) =>
    route(endpoint, method, path, (call) => {
      const sandbox = known(call)
      change(sandbox, call)
      return json(world.dto(sandbox))
    })
  const modern = (call: Call): Guest => {
    const { guest } = running(call)
    return processes ? guest : refuse(404, "404 page not found")
  }
  const started = (call: Call): Started =>
    modern(call).started.get(call.params[1] ?? "") ?? refuse(404, "process not found")
  /** What the proxy says where no daemon answers. */
  const running = (call: Call): SandboxState => {
    const id = call.params[0] ?? ""
    const sandbox = world.sandboxes.get(id)
    if (sandbox === undefined || sandbox.state === "destroyed") return refuse(404, "container not found")
    if (sandbox.state !== "started") {
      return refuse(
        400,
        "bad request: failed to resolve container IP after 3 attempts: no IP address found. Is the Sandbox started?"
      )
    }
    world.touch(sandbox)
    return sandbox
  }

  return [
    route("sandbox.create", "POST", "/api/sandbox", ({ fault, json: body }) => {
      const becomes = becomesOf(fault)
      return json(world.dto(world.create(body, becomes?.state ?? "started", becomes?.reason ?? "")))
    }),
    route("sandbox.list", "GET", "/api/sandbox", ({ fault, query }) => {
      const labels: Record<string, string> = JSON.parse(query.get("labels") ?? "{}")
      const all = [...world.sandboxes.values()].filter(
        (sandbox) =>
          (sandbox.state !== "destroyed" || fault?._tag === "Ghosts") &&
          Object.entries(labels).every(([name, value]) => sandbox.labels[name] === value)
      )
      const from = Number(query.get("cursor") ?? 0)
      const page = all.slice(from, from + pageSize)
      const items = page.map((sandbox) => ({
        ...world.dto(sandbox, false),
        ...(sandbox.state === "destroyed" ? { state: "started" } : {})
      }))
      return json({ items, nextCursor: from + pageSize < all.length ? String(from + pageSize) : null })
    }),
    route("sandbox.get", "GET", "/api/sandbox/:x", (call) => {
      const told = world.dto(known(call))
      return json(call.fault?._tag === "Stale" ? { ...told, state: call.fault.state } : told)
    }),
    route("sandbox.delete", "DELETE", "/api/sandbox/:x", (call) => {
      const sandbox = known(call)
      world.delete(sandbox)
      return json(world.dto(sandbox))
    }),
    changed("sandbox.start", "POST", "/api/sandbox/:x/start", (sandbox) => world.start(sandbox)),
    changed("sandbox.recover", "POST", "/api/sandbox/:x/recover", (sandbox) => world.recover(sandbox)),
    changed("sandbox.stop", "POST", "/api/sandbox/:x/stop", (sandbox) => world.stop(sandbox)),
    changed("sandbox.archive", "POST", "/api/sandbox/:x/archive", (sandbox) => world.archive(sandbox)),
    changed("sandbox.snapshot", "POST", "/api/sandbox/:x/snapshot", (sandbox, { fault, json: body }) => {
      const becomes = becomesOf(fault)
      world.takeSnapshot(sandbox, String(body["name"]), becomes?.reason)
    }),
    route("sandbox.labels", "PUT", "/api/sandbox/:x/labels", (call) => {
      const sandbox = known(call)
      sandbox.labels = Object.fromEntries(Object.entries(call.json["labels"] ?? {}))
      return json({ labels: sandbox.labels })
    }),
    changed("sandbox.ttl", "POST", "/api/sandbox/:x/ttl/(\\d+)", (sandbox, { params }) =>
      world.setTtl(sandbox, Number(params[1]))
    ),
    changed("sandbox.autostop", "POST", "/api/sandbox/:x/autostop/(\\d+)", (sandbox, { params }) => {
      sandbox.autoStopInterval = Number(params[1])
      world.touch(sandbox)
    }),
    route("sandbox.toolboxUrl", "GET", "/api/sandbox/:x/toolbox-proxy-url", (call) => {
      known(call)
      return json({ url: world.toolboxUrl() })
    }),
    route("sandbox.previewUrl", "GET", "/api/sandbox/:x/ports/(\\d+)/preview-url", (call) => {
      const sandbox = active(call)
      const url = `https://${call.params[1]}-${sandbox.id}.preview.test`
      return json({ sandboxId: sandbox.id, url, token: sandbox.previewToken })
    }),
    route("sandbox.signedPreviewUrl", "GET", "/api/sandbox/:x/ports/(\\d+)/signed-preview-url", (call) => {
      const sandbox = active(call)
      const seconds = Number(call.query.get("expiresInSeconds") ?? 60)
      if (!(seconds >= 1 && seconds <= 86_400)) refuse(400, "expiresInSeconds must be between 1 and 86400")
      const port = Number(call.params[1])
      const token = "signedtoken"
      return json({ sandboxId: sandbox.id, port, token, url: `https://${port}-${token}.preview.test` })
    }),
    route("snapshot.list", "GET", "/api/snapshots", ({ query }) => {
      const limit = Number(query.get("limit") ?? 100)
      const page = Number(query.get("page") ?? 1)
      const all = [...world.snapshots.values()].filter(({ name }) => name.includes(query.get("name") ?? ""))
      return json({
        items: all.slice((page - 1) * limit, page * limit).map(snapshotAnswer),
        total: all.length,
        page,
        totalPages: Math.ceil(all.length / limit)
      })
    }),
    route("snapshot.get", "GET", "/api/snapshots/:x", ({ params }) =>
      json(snapshotAnswer(world.snapshot(params[0] ?? "")))
    ),
    route("snapshot.delete", "DELETE", "/api/snapshots/:x", async ({ params }) => {
      const snapshot = world.snapshot(params[0] ?? "")
      world.snapshots.delete(snapshot.id)
      await FsPromises.rm(snapshot.path, { recursive: true, force: true })
      return json({})
    }),
    route("volume.list", "GET", "/api/volumes", () => json([...world.volumes.values()].map(volumeAnswer))),
    route("volume.create", "POST", "/api/volumes", ({ fault, json: body }) => {
      const becomes = becomesOf(fault)
      const state = becomes === undefined ? "ready" : becomes.state === "hold" ? "hold" : "error"
      return json(volumeAnswer(world.createVolume(String(body["name"]), state, becomes?.reason ?? "")))
    }),
    route("volume.getByName", "GET", "/api/volumes/by-name/:x", ({ params }) =>
      json(volumeAnswer(world.volume(params[0] ?? "")))
    ),
    route("volume.get", "GET", "/api/volumes/:x", ({ params }) =>
      json(volumeAnswer(world.volumes.get(params[0] ?? "") ?? refuse(404, `Volume ${params[0]} not found`)))
    ),
    route("volume.delete", "DELETE", "/api/volumes/:x", ({ params }) => {
      const volume = world.volumes.get(params[0] ?? "") ?? refuse(404, `Volume ${params[0]} not found`)
      if (volume.state !== "ready" && volume.state !== "error") refuse(400, "Volume must be in ready or error state")
      volume.state = "pending_delete"
      world.later(() => {
        volume.state = "deleted"
      })
      return json({})
    }),

    route("toolbox.execute", "POST", "/toolbox/:x/process/execute", async (call) => {
      const sandbox = running(call)
      const { command, cwd, timeout } = call.json
      try {
        const done = await sandbox.guest.execute({
          command: String(command),
          cwd: typeof cwd === "string" ? cwd : undefined,
          env: sandbox.env,
          timeout: typeof timeout === "number" ? timeout : undefined
        })
        return json(done)
      } catch (error) {
        if (error instanceof TimedOut) return refuse(408, "command execution timeout")
        throw error
      }
    }),
    route("toolbox.upload", "POST", "/toolbox/:x/files/bulk-upload", async (call) => {
      const sandbox = running(call)
      if (call.file !== undefined) {
        await storeLarge(call, (path) => sandbox.guest.own(path))
        return json({})
      }
      const parts = parse(call.bytes, String(call.headers["content-type"]))
      const limit = call.fault?._tag === "Cut" ? call.fault.bytes : Infinity
      for (const { content, name } of parts.filter((part) => part.name.endsWith(".file"))) {
        const field = name.replace(/\.file$/, ".path")
        const path = parts.find((part) => part.name === field)?.content.toString() ?? ""
        const target = sandbox.guest.own(path)
        await FsPromises.mkdir(Path.dirname(target), { recursive: true })
        await FsPromises.writeFile(target, content.subarray(0, limit))
      }
      return json({})
    }),
    route("toolbox.download", "POST", "/toolbox/:x/files/bulk-download", async (call): Promise<Reply> => {
      const sandbox = running(call)
      const { paths } = call.json
      const path = String(Array.isArray(paths) ? paths[0] : "")
      const file = sandbox.guest.resolve(path)
      const info = await FsPromises.stat(file).catch(() => undefined)
      if (info === undefined) return { _tag: "DownloadError", path, status: 404, message: `stat ${path}: no such file` }
      if (!info.isFile()) return { _tag: "DownloadError", path, status: 400, message: `${path} is a directory` }
      return { _tag: "Download", path, file, cut: call.fault?._tag === "Cut" ? call.fault.bytes : undefined }
    }),
    route("toolbox.deleteFile", "DELETE", "/toolbox/:x/files", async (call) => {
      const sandbox = running(call)
      await FsPromises.rm(sandbox.guest.own(call.query.get("path") ?? ""), { force: true })
      return json({}, 200)
    }),
    route("toolbox.processes", "GET", "/toolbox/:x/processes", (call) =>
      json({ processes: [...modern(call).started.values()].map(processAnswer) })
    ),
    route("toolbox.processStart", "POST", "/toolbox/:x/processes", (call) => {
      const guest = modern(call)
      const { argv, timeoutMs } = call.json
      const words = Array.isArray(argv) ? argv.map(String) : []
      const started = guest.start(words, running(call).env, typeof timeoutMs === "number" ? timeoutMs : undefined)
      return json(processAnswer(started), 201)
    }),
    route("toolbox.processLogs", "GET", "/toolbox/:x/processes/:x/logs", (call): Reply => {
      const { query } = call
      if (query.get("follow") !== "true" || query.get("cursor") !== "start" || query.get("encoding") !== "text") {
        return refuse(400, "the emulator only follows from the start, as text")
      }
      return {
        _tag: "Events",
        process: started(call),
        cut: call.fault?._tag === "Cut" ? call.fault.bytes : undefined
      }
    }),
    route("toolbox.processSignal", "POST", "/toolbox/:x/processes/:x/signals", (call) => {
      const { signal } = call.json
      const process = started(call)
      if (signal === "SIGTERM" || signal === "SIGKILL") process.kill(signal)
      else refuse(400, `unknown signal ${String(signal)}`)
      return json({})
    }),
    route("toolbox.processDelete", "DELETE", "/toolbox/:x/processes/:x", (call) => {
      const process = started(call)
      process.kill("SIGKILL")
      modern(call).started.delete(process.id)
      return json({})
    }),
    route("toolbox.workDir", "GET", "/toolbox/:x/work-dir", (call) => json({ dir: running(call).guest.home }))
  ]
}

const cleanPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<DaytonaEmulator, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const directory = yield* Effect.acquireRelease(
    Effect.promise(async () =>
      FsPromises.realpath(await FsPromises.mkdtemp(Path.join(Os.tmpdir(), "effect-sandbox-daytona-")))
    ),
    (path) => Effect.promise(() => FsPromises.rm(path, { recursive: true, force: true, maxRetries: 3 }))
  )
  let origin = ""
  const world = new World({
    directory,
    path: options.bin === undefined ? cleanPath : `${options.bin}:${cleanPath}`,
    now: () => clock.currentTimeMillisUnsafe(),
    after: (millis, then) => {
      const fiber = run(Effect.andThen(Effect.sleep(millis), Effect.sync(then)))
      return () => fiber.interruptUnsafe()
    },
    transition: Duration.toMillis(options.transition ?? "5 millis"),
    toolboxUrl: () => `${origin}/toolbox`,
    tellsToolbox: options.tellsToolbox ?? true
  })
  const requests = new Requests()
  const faults = new Faults()
  const apiKey = "daytona-emulator-key"
  const routes = routesOf(world, options.pageSize ?? 100, options.processes ?? false)
  const sockets = new Set<unknown>()
  const server = yield* Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<Http.Server>((resolve) => {
          const server = Http.createServer(
            keptAlive,
            (request, response) => void serve({ routes, requests, faults, apiKey, directory }, request, response)
          )
          server.on("connection", (socket) => {
            sockets.add(socket)
            socket.once("close", () => sockets.delete(socket))
          })
          server.listen(0, "127.0.0.1", () => resolve(server))
        })
    ),
    (server) =>
      Effect.promise(async () => {
        server.closeAllConnections()
        await new Promise((resolve) => server.close(resolve))
        for (const { guest } of world.sandboxes.values()) await guest.halt()
        // A start of just before may have come after it.
        await delay(5)
        for (const { guest } of world.sandboxes.values()) await guest.halt()
      })
  )
  const address = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("the server has no port")
  origin = `http://127.0.0.1:${address.port}`
  return {
    apiUrl: `${origin}/api`,
    apiKey,
    requests,
    faults,
    world,
    sandboxes: () => [...world.sandboxes.values()],
    alive: () => [...world.sandboxes.values()].filter(({ state }) => state !== "destroyed" && state !== "destroying"),
    snapshots: () => [...world.snapshots.values()],
    volumes: () => [...world.volumes.values()],
    processes: (id) => processesOf(world.find(id).guest.root),
    connections: () => sockets.size,
    stop: (id) => world.stop(world.find(id)),
    start: (id) => world.start(world.find(id))
  }
})

interface Served {
  readonly routes: ReadonlyArray<Route>
  readonly requests: Requests
  readonly faults: Faults
  readonly apiKey: string
  /** For large bodies. */
  readonly directory: string
}

/** What is larger is kept in a file: tests measure the memory of the process that this is in. */
const inMemory = 8 * 1024 * 1024

interface Body {
  /** Of a body in a file what it begins with. */
  readonly bytes: Buffer
  readonly file: string | undefined
}

const bodyOf = async (request: Http.IncomingMessage, directory: string): Promise<Body | undefined> => {
  const file = Path.join(directory, `body-${Crypto.randomBytes(6).toString("hex")}`)
  const chunks: Array<Buffer> = []
  let size = 0
  let spill: FsPromises.FileHandle | undefined
  try {
    for await (const chunk of request) {
      size += chunk.length
      if (size <= inMemory) chunks.push(chunk)
      else {
        if (spill === undefined) {
          spill = await FsPromises.open(file, "w")
          await spill.writev(chunks)
        }
        await spill.write(chunk)
      }
    }
    return { bytes: Buffer.concat(chunks), file: spill === undefined ? undefined : file }
  } catch {
    // The client left before it was complete.
    await FsPromises.rm(file, { force: true })
    return undefined
  } finally {
    await spill?.close()
  }
}

/** The only file of an upload that is kept in a file. */
const storeLarge = async ({ bytes, file = "", headers }: Call, targetOf: (path: string) => string): Promise<void> => {
  const boundary = /boundary=(.+)$/.exec(String(headers["content-type"]))?.[1] ?? ""
  const head = bytes.subarray(0, 64 * 1024).toString("latin1")
  const path = /name="files\[0\]\.path"\r\n\r\n(.*)\r\n/.exec(head)?.[1] ?? ""
  const start = head.indexOf("\r\n\r\n", head.indexOf('name="files[0].file"')) + 4
  const { size } = await FsPromises.stat(file)
  const end = size - `\r\n--${boundary}--\r\n`.length - 1
  const target = targetOf(Buffer.from(path, "latin1").toString())
  await FsPromises.mkdir(Path.dirname(target), { recursive: true })
  await pipeline(Fs.createReadStream(file, { start, end }), Fs.createWriteStream(target))
  await FsPromises.rm(file)
}

const serve = async (
  { apiKey, directory, faults, requests, routes }: Served,
  request: Http.IncomingMessage,
  response: Http.ServerResponse
): Promise<void> => {
  const received = await bodyOf(request, directory)
  if (received === undefined) return
  const { bytes } = received
  const url = new URL(request.url ?? "/", "http://emulator")
  const isJson = (request.headers["content-type"] ?? "").startsWith("application/json")
  const body: Record<string, unknown> = isJson && bytes.length > 0 ? JSON.parse(bytes.toString()) : {}
  const found = routes.find(({ method, path }) => method === request.method && path.test(url.pathname))
  requests.add({
    endpoint: found?.endpoint ?? "unknown",
    method: request.method ?? "",
    path: url.pathname,
    query: Object.fromEntries(url.searchParams),
    headers: request.headers,
    body: isJson ? bytes.toString() : `${bytes.length} bytes`
  })
  const fault = found === undefined ? undefined : faults.take(found.endpoint)

  const execute = async (): Promise<Reply> => {
    try {
      if (request.headers.authorization !== `Bearer ${apiKey}`) refuse(401, "Invalid credentials")
      if (found === undefined) return refuse(501, `The emulator knows no ${request.method} ${url.pathname}`)
      const params = found.path.exec(url.pathname)?.slice(1).map(decodeURIComponent) ?? []
      return await found.handler({
        params,
        query: url.searchParams,
        json: body,
        ...received,
        headers: request.headers,
        fault
      })
    } catch (error) {
      // A defect of the emulator is 501, so that nobody takes it for a fault of the script.
      const status = error instanceof Refusal ? error.status : 501
      const message = error instanceof Error ? error.message : String(error)
      return json(
        {
          path: url.pathname,
          timestamp: iso(0),
          statusCode: status,
          error: Http.STATUS_CODES[status] ?? "Error",
          message
        },
        status
      )
    }
  }

  if (fault?._tag === "Gate") await fault.before
  const skipped = (fault?._tag === "Reset" || fault?._tag === "Answer") && !fault.executed
  const reply = skipped ? undefined : await execute()
  if (fault?._tag === "Gate") await fault.after
  if (fault?._tag === "Reset") {
    request.socket.destroy()
    return
  }
  if (fault?._tag === "Answer") {
    response.writeHead(fault.status, { ...fault.headers })
    response.end(fault.body)
    return
  }
  if (reply === undefined || response.destroyed) return
  await send(response, reply)
}

const boundary = "daytona-emulator-boundary"

/** What a process has written and writes, as events, at the pace of who reads them. */
const sendEvents = async (response: Http.ServerResponse, process: Started, cut = Infinity): Promise<void> => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  response.flushHeaders()
  const gone = new Promise<void>((resolve) => response.once("close", resolve))
  let left = cut
  const event = async (name: string, data: unknown) => {
    const text = `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`
    const written = new Promise<void>((resolve) => response.write(text.slice(0, left), () => resolve()))
    await Promise.race([written, gone])
    left -= text.length
    if (left <= 0) response.destroy()
  }
  for (let seq = 0; !response.destroyed;) {
    const piece = process.pieces[seq]
    if (piece !== undefined) {
      seq += 1
      await event("log", { channel: "stdout", seq, cursor: String(seq), data: piece.toString(), timestamp: iso(0) })
    } else if (process.exit === undefined) {
      await Promise.race([process.changed(), gone])
    } else {
      await event("state", processAnswer(process))
      await event("eof", {})
      response.end()
      return
    }
  }
}

const send = async (response: Http.ServerResponse, reply: Reply): Promise<void> => {
  if (reply._tag === "Json") {
    response.writeHead(reply.status, { "content-type": "application/json" })
    response.end(JSON.stringify(reply.body))
    return
  }
  if (reply._tag === "Events") return sendEvents(response, reply.process, reply.cut)
  response.writeHead(200, { "content-type": `multipart/form-data; boundary=${boundary}` })
  if (reply._tag === "DownloadError") {
    const text = JSON.stringify({ statusCode: reply.status, message: reply.message, source: "DAYTONA_DAEMON" })
    response.end(`${partHead(boundary, "error", reply.path, text.length)}${text}\r\n--${boundary}--\r\n`)
    return
  }
  const { size } = await FsPromises.stat(reply.file)
  response.write(partHead(boundary, "file", reply.path, size))
  let left = reply.cut ?? Infinity
  for await (const chunk of Fs.createReadStream(reply.file)) {
    if (response.destroyed) return
    // The next chunk is read when this one is with the kernel: the client's pace is ours.
    await new Promise<void>((resolve) => response.write(chunk.subarray(0, left), () => resolve()))
    left -= chunk.length
    if (left <= 0) {
      response.destroy()
      return
    }
  }
  response.end(`\r\n--${boundary}--\r\n`)
}
