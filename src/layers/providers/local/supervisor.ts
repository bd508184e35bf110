/**
 * The supervisor: a separate program, one for each data directory, that owns recorded processes, their deadlines and the
 * leases of sandboxes. It is started on demand by the first service that needs it and ends by itself when there is nothing
 * left to watch.
 *
 * It outlives the deploys of the service: it must start fast and keep no file of an installed package open. So it, and the
 * files beside it that it needs, import `node:*` only, and it goes by the host's clock, timers and stderr directly.
 *
 * Arguments: the data directory, and for how many ms it stays without work.
 */
import { randomUUID } from "node:crypto"
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import { DatabaseSync } from "node:sqlite"
import { setTimeout as delay } from "node:timers/promises"
import { release, tryAcquire } from "./lockfile.ts"
import { bootId, errorCode, identity, isRunning, killByCookie, toSignal, wallClock, writeAtomic } from "./os.ts"
import * as Pipes from "./pipes.ts"
import { lengthOf } from "./spool.ts"
import type { Supervised } from "./supervised.ts"
import { callAt, Refusal, start, writeJson } from "./supervised.ts"
import type { Answer, ExitFile, Failure, Key, Push, Request, SupervisorInfo } from "./wire.ts"
import { lineReader, parseRequest, processDirectory, protocolVersion, rootTag, supervisorPaths } from "./wire.ts"

const root = process.argv[2] ?? ""
const idleMillis = Number(process.argv[3] ?? "5000")
const killGrace = 2_000
const paths = supervisorPaths(root)
const tag = rootTag(root)
const sandboxes = Path.join(root, "sandboxes")

/** The most that goes to the log (stderr) in one life. */
let logLeft = 512 * 1024
const log = (text: string): void => {
  // @effect-diagnostics-next-line globalDate:off
  const line = `${new Date(wallClock()).toISOString()} ${text.slice(0, 500)}\n`
  logLeft -= line.length
  if (logLeft > 0) process.stderr.write(line)
}

// A supervisor that dies takes the truth about its processes with it; one wrong event is no reason to.
process.on("uncaughtException", (error) => log(`uncaught: ${error.stack ?? error.message}`))
process.on("SIGHUP", () => {})

const readJson = (path: string): unknown => {
  try {
    return JSON.parse(Fs.readFileSync(path, "utf8"))
  } catch {
    // Missing, or half written when the host went down: both say nothing.
    return undefined
  }
}

const isRecord = (u: unknown): u is Record<string, unknown> => typeof u === "object" && u !== null

// ── one supervisor a root ────────────────────────────────────────────────────────────────────────────────────────────────

/** The kernel releases the lock however this process ends. Undefined when another supervisor has it. */
const lockRoot = (): DatabaseSync | undefined => {
  let database: DatabaseSync
  try {
    database = new DatabaseSync(paths.lock)
  } catch (error) {
    log(`cannot start: ${String(error)}`)
    process.exit(1)
  }
  try {
    database.exec("PRAGMA busy_timeout = 0; BEGIN EXCLUSIVE")
    return database
  } catch {
    database.close()
    return undefined
  }
}

// ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const open = new Map<string, Supervised>()
const nameOf = (key: Key): string => `${key.sandboxId}/${key.processId}`

const isUuid = (name: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(name)

/** The directories that can be ours: a command without isolation can put anything beside them. */
const entriesOf = (directory: string): ReadonlyArray<string> => {
  try {
    return Fs.readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && isUuid(entry.name))
      .map((entry) => entry.name)
  } catch (error) {
    if (errorCode(error) === "ENOENT" || errorCode(error) === "ENOTDIR") return []
    throw error
  }
}

/** Processes of an earlier supervisor, whose end nobody saw. */
const settle = async (): Promise<void> => {
  const lost: Array<Key> = []
  for (const sandboxId of entriesOf(sandboxes)) {
    for (const processId of entriesOf(Path.join(sandboxes, sandboxId, "processes"))) {
      const key = { sandboxId, processId }
      if (!Fs.existsSync(Path.join(processDirectory(root, key), "exit.json"))) lost.push(key)
    }
  }
  const survivors = await killByCookie(
    (cookie) => cookie.root === tag && cookie.lifetime === "recorded" && !isRunning(cookie.owner),
    killGrace
  )
  if (survivors.length > 0) log(`these processes survived SIGKILL: ${survivors.join(", ")}`)
  for (const key of lost) {
    const directory = processDirectory(root, key)
    try {
      const exit: ExitFile = {
        version: 1,
        end: { type: "lost" },
        out: lengthOf(directory, "out"),
        err: lengthOf(directory, "err"),
        endedAt: wallClock()
      }
      writeJson(directory, "exit.json", exit)
    } catch (error) {
      // One that cannot be settled must not keep the supervisor from all the others.
      log(`${nameOf(key)} cannot be settled: ${String(error)}`)
    }
  }
}

const isMarkedRunning = (sandboxId: string, incarnation: string): boolean =>
  Fs.existsSync(Path.join(sandboxes, sandboxId, "run", incarnation))

const starting = new Map<string, Promise<Supervised | undefined>>()

/** Starts at most once for an id: the directory is the lock. */
const startProcess = async (request: Extract<Request, { readonly op: "start" }>): Promise<boolean> => {
  if (!isMarkedRunning(request.sandboxId, request.incarnation)) throw new Refusal({ type: "refused" })
  const name = nameOf(request)
  const first = starting.get(name)
  if (first !== undefined) {
    await first
    return false
  }
  const directory = processDirectory(root, request)
  try {
    Fs.mkdirSync(directory, { mode: 0o700 })
  } catch (error) {
    if (errorCode(error) === "EEXIST") return false
    throw error
  }
  const run = start(root, pipes, request, log)
  starting.set(
    name,
    run.catch(() => undefined)
  )
  try {
    const supervised = await run
    open.set(name, supervised)
    void supervised.recorded.then(() => {
      open.delete(name)
      restIfIdle()
    })
    // A stop that came in between has counted the processes before this one was there.
    if (!isMarkedRunning(request.sandboxId, request.incarnation)) void supervised.end("stop")
    return true
  } catch (error) {
    // If nothing ran, the id is free again.
    const ran = error instanceof Refusal && error.failure.type === "ran"
    if (!ran) Fs.rmSync(directory, { recursive: true, force: true })
    throw error
  } finally {
    starting.delete(name)
  }
}

const ofSandbox = (sandboxId: string): ReadonlyArray<Supervised> =>
  [...open.values()].filter(({ key }) => key.sandboxId === sandboxId)

const endAll = async (sandboxId: string, reason: "timeout" | "stop"): Promise<void> => {
  await Promise.all(
    ofSandbox(sandboxId).map(async (supervised) => {
      if (await supervised.end(reason)) await supervised.done
    })
  )
}

// ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

const leases = new Map<string, () => void>()

const stateOf = (sandboxId: string) => {
  const value = readJson(Path.join(sandboxes, sandboxId, "sandbox.json"))
  if (!isRecord(value) || value.kind !== "effect-sandbox/local" || typeof value.incarnation !== "string")
    return undefined
  const { deadline, ended, incarnation } = value
  return typeof deadline === "number" && ended === undefined && isMarkedRunning(sandboxId, incarnation)
    ? { value, deadline }
    : undefined
}

const armLease = (sandboxId: string): void => {
  leases.get(sandboxId)?.()
  leases.delete(sandboxId)
  const state = stateOf(sandboxId)
  if (state !== undefined) {
    leases.set(
      sandboxId,
      callAt(
        state.deadline,
        () =>
          void expire(sandboxId).catch((error: unknown) => {
            log(`the end of ${sandboxId} failed and is tried again: ${String(error)}`)
            leases.set(
              sandboxId,
              callAt(wallClock() + 1_000, () => armLease(sandboxId))
            )
          })
      )
    )
  }
  restIfIdle()
}

/** The lease has ended: kill, verify, write it down. */
const expire = async (sandboxId: string): Promise<void> => {
  const directory = Path.join(sandboxes, sandboxId)
  const lock = Path.join(directory, "lock")
  const token = randomUUID()
  while (!(await tryAcquire(lock, token))) await delay(25)
  try {
    const state = stateOf(sandboxId)
    // Extended, stopped or replaced while this waited.
    if (state === undefined || state.deadline > wallClock()) return
    await FsPromises.rm(Path.join(directory, "run"), { recursive: true, force: true })
    await endAll(sandboxId, "timeout")
    const survivors = await killByCookie((cookie) => cookie.root === tag && cookie.sandboxId === sandboxId, killGrace)
    if (survivors.length > 0) log(`these processes survived SIGKILL: ${survivors.join(", ")}`)
    const { deadline: _deadline, ...rest } = state.value
    await writeAtomic(
      Path.join(directory, "sandbox.json"),
      JSON.stringify({ ...rest, ended: { at: wallClock(), reason: "timeout" } })
    )
  } finally {
    await release(lock, token)
    armLease(sandboxId)
  }
}

// ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────────

let connections = 0

const serve = (socket: Net.Socket): void => {
  connections++
  const watched = new Map<string, () => void>()
  const dirty = new Set<Supervised>()
  let scheduled = false

  const sendLine = (message: Answer | Push) => {
    if (!socket.destroyed) socket.write(`${JSON.stringify(message)}\n`)
  }
  /** However much a process writes, there is at most one message about it under way. */
  const flush = () => {
    scheduled = false
    if (socket.writableLength > 256 * 1024) {
      scheduled = true
      socket.once("drain", flush)
      return
    }
    for (const supervised of dirty) sendLine(supervised.state())
    dirty.clear()
  }
  const watch = (key: Key) => {
    const name = nameOf(key)
    const supervised = open.get(name)
    if (supervised === undefined) {
      const push = endedState(key)
      if (push === undefined) throw new Refusal({ type: "unknown process" })
      return sendLine(push)
    }
    if (!watched.has(name)) {
      watched.set(
        name,
        supervised.watch(() => {
          dirty.add(supervised)
          if (scheduled) return
          scheduled = true
          setImmediate(flush)
        })
      )
    }
    sendLine(supervised.state())
  }

  const running = (key: Key): Supervised => {
    const supervised = open.get(nameOf(key))
    if (supervised !== undefined) return supervised
    throw new Refusal({ type: endedState(key) === undefined ? "unknown process" : "ended" })
  }

  const handle = async (request: Request): Promise<unknown> => {
    switch (request.op) {
      case "hello":
        return { version: protocolVersion, ...identity() }
      case "start": {
        const started = await startProcess(request)
        watch(request)
        return { started }
      }
      case "watch":
        return watch(request)
      case "unwatch": {
        watched.get(nameOf(request))?.()
        watched.delete(nameOf(request))
        return
      }
      case "write":
        return running(request).write(Buffer.from(request.data, "base64"))
      case "closeInput":
        return running(request).closeInput()
      case "signal": {
        const signal = toSignal(request.signal)
        if (signal === undefined) throw new Refusal({ type: "bad request", message: "no such signal" })
        return running(request).signal(signal, request.forceAfter)
      }
      case "release":
        return open.get(nameOf(request))?.release(request.out, request.err)
      case "lease":
        return armLease(request.sandboxId)
      case "stop": {
        await endAll(request.sandboxId, "stop")
        armLease(request.sandboxId)
      }
    }
  }

  const read = lineReader(
    (line) => {
      const parsed = parseRequest(line)
      if ("problem" in parsed) {
        log(`a request was ${parsed.problem}`)
        // The connection is shared: one bad request must not cut it for the others, if its sender can be told.
        if (parsed.id === undefined) return socket.destroy()
        return sendLine({ id: parsed.id, failure: { type: "bad request", message: parsed.problem } })
      }
      handle(parsed.request).then(
        (ok) => sendLine({ id: parsed.id, ok: ok ?? null }),
        (error: unknown) => sendLine({ id: parsed.id, failure: failureOf(error) })
      )
    },
    () => socket.destroy()
  )
  socket.on("data", read)
  socket.on("error", () => {})
  socket.on("close", () => {
    connections--
    for (const stopWatching of watched.values()) stopWatching()
    dirty.clear()
    restIfIdle()
  })
}

const failureOf = (error: unknown): Failure =>
  error instanceof Refusal
    ? error.failure
    : {
        type: "failed",
        message: error instanceof Error ? error.message : String(error),
        code: String(errorCode(error) ?? "")
      }

const endedState = (key: Key): Push | undefined => {
  const exit = readJson(Path.join(processDirectory(root, key), "exit.json"))
  return isExit(exit) ? { push: "state", ...key, out: exit.out, err: exit.err, exit } : undefined
}

const isExit = (u: unknown): u is ExitFile =>
  isRecord(u) && u.version === 1 && isRecord(u.end) && typeof u.out === "number" && typeof u.err === "number"

// ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

let idle: NodeJS.Timeout | undefined
const isIdle = () => connections === 0 && open.size === 0 && starting.size === 0 && leases.size === 0
const restIfIdle = (): void => {
  clearTimeout(idle)
  if (isIdle()) idle = setTimeout(() => isIdle() && end(), idleMillis)
}

const end = (): void => {
  server.close()
  // While the lock is still held: a successor must not lose its own.
  Fs.rmSync(paths.info, { force: true })
  Fs.rmSync(socketPath, { force: true })
  if (socketPath !== paths.socket) Fs.rmSync(Path.dirname(socketPath), { recursive: true, force: true })
  pipes.close()
  database?.close()
  process.exit(0)
}

// Whoever started this one made the directory; when it is gone already, nothing must come back.
if (!Fs.existsSync(paths.directory)) process.exit(0)
const database = lockRoot()
// Another one is at work; whoever started this one finds it.
if (database === undefined) process.exit(0)

const { pid, startTime } = identity()
const pipes = Pipes.make(Path.join(root, "pipes"), `${pid}.${startTime}.supervisor`)
// A unix socket's path has room for about 100 bytes.
const socketPath =
  Buffer.byteLength(paths.socket) <= 100
    ? paths.socket
    : Path.join(Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-")), "s")
const server = Net.createServer(serve)

try {
  await settle()
  // The lock is ours, so a socket that is there belongs to nobody.
  Fs.rmSync(socketPath, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject)
    server.listen(socketPath, resolve)
  })
  for (const sandboxId of entriesOf(sandboxes)) armLease(sandboxId)
  const info: SupervisorInfo = { version: protocolVersion, pid, startTime, bootId: bootId(), socket: socketPath }
  await writeAtomic(paths.info, JSON.stringify(info))
  restIfIdle()
} catch (error) {
  log(`cannot start: ${String(error)}`)
  process.exit(1)
}
