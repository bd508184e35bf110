/**
 * Commands over a WebSocket, in the order of a live trace: `debug`, `session_info`, output, the text `exit`, what output is left, the
 * binary exit; then the connection stays for a while.
 */
import type { WebSocket } from "@effect/platform-node/NodeWS"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { once } from "node:events"
import { PassThrough, type Readable } from "node:stream"
import { setTimeout as delay } from "node:timers/promises"
import type { Fault } from "./faults.ts"
import { durationOf, refuseText } from "./http.ts"
import type { Sprite } from "./state.ts"

/** What a command finds where none was given: nothing of the host's. */
const baseEnv = (sprite: Sprite): Record<string, string> => ({
  HOME: sprite.home,
  LANG: "C.UTF-8",
  PATH: sprite.world.options.path,
  TMPDIR: Path.join(sprite.root, "tmp"),
  USER: "sprite"
})

const cookie = "SPRITES_EMULATOR_EXEC"

/** How much output is kept for who attaches later. */
const scrollback = 256 * 1024

export interface Session {
  readonly id: string
  readonly command: string
  readonly created: number
  readonly tty: boolean
  readonly attach: (socket: WebSocket, fault?: Fault) => void
  /** How many bytes of output went to connections. */
  readonly sent: () => number
  /** How many pings were answered. */
  readonly pings: () => number
  /** How the command ended. */
  readonly exited: Promise<number>
  readonly signal: (signal: NodeJS.Signals) => void
  /** Every connection is cut. */
  readonly cut: () => void
}

const isSignal = (name: string): name is NodeJS.Signals => Object.hasOwn(Os.constants.signals, name)

/** A name with or without `SIG`. */
export const signalOf = (name: string): NodeJS.Signals => {
  const full = name.startsWith("SIG") ? name : `SIG${name}`
  return isSignal(full) ? full : refuseText(400, `invalid signal: ${name}`)
}

const environ = (pid: number): string => {
  try {
    return Fs.readFileSync(`/proc/${pid}/environ`, "latin1")
  } catch {
    return ""
  }
}

/** Starts what the query asks for, in its own process group. `kill` is for that and, where the machine is told to, all that came of it. */
const spawn = async (sprite: Sprite, query: URLSearchParams) => {
  const { world } = sprite
  const [command = query.get("path") ?? "bash", ...args] = query.getAll("cmd")
  const program = query.get("path") ?? command
  const given = query.getAll("env")
  const tty = query.get("tty") === "true"
  const mark: Record<string, string> =
    world.options.reap === "tree" ? { [cookie]: `${sprite.id}-${sprite.renewals}-${world.nextNumber++}` } : {}
  const env =
    given.length === 0
      ? baseEnv(sprite)
      : // It replaces all there is.
        Object.fromEntries(given.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]))
  const child = ChildProcess.spawn(program, args, {
    argv0: command,
    cwd: query.get("dir") ?? sprite.home,
    env: { ...env, ...mark },
    detached: true,
    stdio: [tty || query.get("stdin") === "true" ? "pipe" : "ignore", "pipe", "pipe"]
  })
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve)
    child.once("error", reject)
  }).catch((error: Error) => refuseText(500, `failed to start command: ${error.message}`))
  const pid = child.pid ?? NaN
  // One that reads no more is no failure of ours.
  child.stdin?.on("error", () => {})
  const exited = new Promise<number>((resolve) => {
    const done = () => resolve(child.exitCode ?? 128 + Os.constants.signals[child.signalCode ?? "SIGKILL"])
    if (child.exitCode !== null || child.signalCode !== null) done()
    else child.once("exit", done)
  })
  const kill = () => {
    const pids = [
      -pid,
      ...(mark[cookie] === undefined
        ? []
        : sprite.processes().filter((one) => environ(one).includes(`${cookie}=${mark[cookie]}\0`)))
    ]
    for (const one of pids) {
      try {
        process.kill(one, "SIGKILL")
      } catch {
        // It ended meanwhile.
      }
    }
  }
  return { child, command: [program, ...args].join(" "), exited, kill, pid, tty }
}

type Spawned = Awaited<ReturnType<typeof spawn>>

/** What a command without a terminal says, as frames without lengths, the exit last. */
const framesOf = ({ child, exited }: Spawned): PassThrough => {
  const frames = new PassThrough({ objectMode: true, highWaterMark: 4 })
  const pump = async (from: Readable | null, type: 1 | 2): Promise<void> => {
    if (from === null) return
    for await (const chunk of from) {
      if (!frames.write(Buffer.concat([Buffer.of(type), chunk]))) await once(frames, "drain")
    }
  }
  void Promise.all([exited, pump(child.stdout, 1), pump(child.stderr, 2)]).then(
    ([code]) => frames.end(Buffer.of(3, Math.min(code, 255))),
    // Whoever read them has gone.
    () => frames.destroy()
  )
  return frames
}

/** A command over plain HTTP: its input is the body; it is over, with its process group, when the request is. */
export const overHttp = async (sprite: Sprite, query: URLSearchParams, input: Buffer): Promise<Readable> => {
  const odd = ["tty", "id", "detachable", "cc"].find((name) => query.has(name))
  if (odd !== undefined) return refuseText(400, `${odd} is not supported over HTTP`)
  const release = sprite.hold()
  const spawned = await spawn(sprite, query).catch((error: unknown) => {
    release()
    throw error
  })
  spawned.child.stdin?.end(input)
  const frames = framesOf(spawned)
  frames.once("close", () => {
    release()
    spawned.kill()
  })
  return frames
}

const field = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined

/** The control socket: one command after the other, framed as on a connection of its own. */
export const control = (sprite: Sprite, socket: WebSocket): void => {
  const release = sprite.hold()
  let current: Spawned | undefined
  const tell = (type: string, args: object) => socket.send(`control:${JSON.stringify({ type, args })}`)
  const run = async (args: unknown): Promise<void> => {
    const query = new URLSearchParams()
    for (const name of ["cmd", "env"]) {
      const words = field(args, name)
      for (const word of Array.isArray(words) ? words : []) query.append(name, String(word))
    }
    for (const name of ["dir", "stdin"]) {
      const value = field(args, name)
      if (value !== undefined) query.set(name, String(value))
    }
    const spawned = await spawn(sprite, query)
    current = spawned
    for await (const frame of framesOf(spawned)) await new Promise<void>((sent) => socket.send(frame, () => sent()))
    current = undefined
    tell("op.complete", { exitCode: await spawned.exited })
  }
  socket.on("message", (data: Buffer, isBinary: boolean) => {
    if (isBinary) {
      if (data[0] === 0) current?.child.stdin?.write(data.subarray(1))
      else if (data[0] === 4) current?.child.stdin?.end()
      return
    }
    const said = /^control:(.*)$/s.exec(data.toString())?.[1]
    const message: unknown = said === undefined ? undefined : JSON.parse(said)
    if (field(message, "type") !== "op.start") return
    if (current !== undefined) return tell("op.error", { error: "an operation is in progress" })
    if (field(message, "op") !== "exec" || field(field(message, "args"), "tty") === "true") {
      return tell("op.error", { error: "the emulator has only commands without a terminal" })
    }
    run(field(message, "args")).catch((error: unknown) => {
      current = undefined
      tell("op.error", { error: String(error) })
    })
  })
  socket.on("error", () => {})
  socket.once("close", () => {
    release()
    current?.kill()
  })
}

/** Starts what the query asks for, on a connection of its own. */
export const start = async (sprite: Sprite, query: URLSearchParams): Promise<Session> => {
  const { world } = sprite
  const { child, command, exited, kill: killAll, pid, tty } = await spawn(sprite, query)
  const maxRun = durationOf(query.get("max_run_after_disconnect") ?? (tty ? "0" : "10s"))
  const forever = maxRun === 0 || query.get("detachable") === "true"
  const id = String(pid)

  const sockets = new Map<WebSocket, { fault: Fault | undefined; sent: number }>()
  const kept: Array<Buffer> = []
  let keptBytes = 0
  let cancel: (() => void) | undefined
  let ended: number | undefined
  let sent = 0
  let pings = 0

  const send = (socket: WebSocket, data: Buffer | string): Promise<void> =>
    // With the callback a frame is with the kernel: the client's pace is ours.
    new Promise((resolve) => (socket.readyState === 1 ? socket.send(data, () => resolve()) : resolve()))
  const drop = (socket: WebSocket) => {
    sockets.delete(socket)
    socket.terminate()
  }
  const frame = (type: number, bytes: Buffer): Buffer => (tty ? bytes : Buffer.concat([Buffer.of(type), bytes]))

  const pump = async (from: Readable | null, type: 1 | 2): Promise<void> => {
    if (from === null) return
    for await (const chunk of from) {
      const data = frame(type, chunk)
      kept.push(data)
      keptBytes += data.length
      while (keptBytes > scrollback && kept.length > 1) keptBytes -= kept.shift()?.length ?? 0
      for (const [socket, state] of sockets) {
        if (state.fault?._tag === "CloseEarly" || state.fault?._tag === "Deaf") continue
        if (state.fault?._tag === "Drop" && state.sent >= state.fault.frames) {
          drop(socket)
          continue
        }
        state.sent++
        await send(socket, data)
        sent += data.length
      }
    }
  }
  const pumps = Promise.all([pump(child.stdout, 1), pump(child.stderr, 2)])

  const finish = async (): Promise<void> => {
    const code = (ended = await exited)
    const silent: ReadonlyArray<string | undefined> = ["CloseEarly", "NoExit", "Deaf"]
    const texts = [...sockets].filter(([, { fault }]) => !silent.includes(fault?._tag))
    for (const [socket] of texts) await send(socket, JSON.stringify({ type: "exit", exit_code: code }))
    // A descendant may hold the pipe.
    await Promise.race([pumps, delay(1_000)])
    cancel?.()
    sprite.sessions.delete(id)
    for (const [socket, { fault }] of [...sockets]) {
      switch (fault?._tag) {
        case "Deaf":
          continue
        case "CloseEarly":
        case "NoExit":
          socket.close(1000)
          continue
        case "TextExit":
        case "Drop":
          drop(socket)
          continue
        case "EmptyExit":
          await send(socket, Buffer.of(3))
          break
        default:
          if (tty) {
            // Without a close frame.
            drop(socket)
            continue
          }
          await send(socket, Buffer.of(3, Math.min(code, 255)))
      }
      void delay(world.options.linger).then(() => socket.close(1000))
    }
  }

  const onText = (message: string) => {
    const said: unknown = JSON.parse(message)
    if (typeof said !== "object" || said === null || !("type" in said)) return
    if (said.type === "signal" && "signal" in said) session.signal(signalOf(String(said.signal)))
  }

  const session: Session = {
    id,
    command,
    created: world.now(),
    tty,
    sent: () => sent,
    pings: () => pings,
    exited,
    signal: (signal) => {
      try {
        process.kill(-pid, signal)
      } catch {
        // It ended meanwhile.
      }
    },
    cut: () => [...sockets.keys()].forEach(drop),
    attach: (socket, fault) => {
      const release = sprite.hold()
      cancel?.()
      cancel = undefined
      sockets.set(socket, { fault, sent: 0 })
      socket.on("message", (data: Buffer, isBinary: boolean) => {
        if (!isBinary) return onText(data.toString())
        const input = child.stdin
        if (tty) input?.write(data)
        else if (data[0] === 0) {
          // Read no faster than the command does.
          if (input !== null && !input.write(data.subarray(1))) {
            socket.pause()
            input.once("drain", () => socket.resume())
          }
        } else if (data[0] === 4) input?.end()
      })
      socket.on("ping", () => pings++)
      socket.on("error", () => {})
      socket.once("close", () => {
        sockets.delete(socket)
        release()
        if (sockets.size > 0 || ended !== undefined || forever) return
        cancel = world.after(maxRun, killAll)
      })
      if (fault?._tag === "Deaf") {
        socket.pause()
        return
      }
      if (fault?._tag === "CloseEarly") return
      void send(socket, JSON.stringify({ type: "debug", msg: "starting", pid }))
      void send(
        socket,
        JSON.stringify({
          type: "session_info",
          session_id: id,
          command: session.command,
          created: Math.floor(session.created / 1_000),
          cols: 0,
          rows: 0,
          is_owner: true,
          tty
        })
      )
      for (const data of kept) void send(socket, data)
    }
  }
  sprite.sessions.set(id, session)
  // What it throws is a defect of the emulator, and a test's to see.
  void finish()
  return session
}
