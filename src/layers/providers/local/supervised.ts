/**
 * One recorded process in the hands of the supervisor: its pipes, spools, input, deadline and end. Imports `node:*` only,
 * because the supervisor does.
 */
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import {
  bootId,
  errorCode,
  formatCookie,
  cookieName,
  identity,
  isGroupAlive,
  killGroup,
  send,
  signalNumber,
  wallClock
} from "./os.ts"
import type { Pipe, Pipes } from "./pipes.ts"
import { admitLateReaders } from "./pipes.ts"
import * as Spool from "./spool.ts"
import type { ExitFile, Failure, Key, ProcessFile, Push, Request } from "./wire.ts"
import { processDirectory, rootTag } from "./wire.ts"

export type StartRequest = Extract<Request, { readonly op: "start" }>

/** A failure that is an answer. */
export class Refusal extends Error {
  readonly failure: Failure
  constructor(failure: Failure) {
    super(failure.type)
    this.failure = failure
  }
}

export interface Supervised {
  readonly key: Key
  readonly state: () => Push
  /** Calls whenever the state has changed; the result ends it. */
  readonly watch: (listener: () => void) => () => void
  /** Resolves when the kernel has the bytes. */
  readonly write: (bytes: Buffer) => Promise<void>
  readonly closeInput: () => void
  readonly signal: (signal: NodeJS.Signals, forceAfter: number | undefined) => Promise<void>
  readonly release: (out: number, err: number) => void
  /** TERM, grace, KILL; true when the group is gone. */
  readonly end: (reason: "timeout" | "stop") => Promise<boolean>
  /** Resolves when the end is known. */
  readonly done: Promise<void>
  /** Resolves when it is in the exit file, or never will be. */
  readonly recorded: Promise<void>
}

/** How long output may go on after the exit, while a descendant holds the pipe. */
const drainMillis = 1_000

/** The longest that a wall-clock time is not looked at: the host may sleep, and timers sleep with it. */
const lookMillis = 10_000

/** Calls at a wall-clock time; the result cancels. */
export const callAt = (time: number, call: () => void): (() => void) => {
  let timer: NodeJS.Timeout
  const arm = () => {
    const left = time - wallClock()
    timer = setTimeout(left <= 0 ? call : arm, Math.max(0, Math.min(left, lookMillis)))
  }
  arm()
  return () => clearTimeout(timer)
}

/** Not synced: after a crash of the host another boot id says that nothing of this counts. */
export const writeJson = (directory: string, name: string, value: unknown): void => {
  const path = Path.join(directory, name)
  Fs.writeFileSync(`${path}.tmp`, JSON.stringify(value), { mode: 0o600 })
  Fs.renameSync(`${path}.tmp`, path)
}

/** How often the exit file is tried again where there is no room for it. */
const retryMillis = 500

const isFull = (error: unknown): boolean => ["ENOSPC", "EDQUOT", "EMFILE", "ENFILE"].includes(String(errorCode(error)))

/** Starts the process of a request whose directory was just made by the caller. Throws {@link Refusal} when it cannot. */
export const start = async (
  root: string,
  pipes: Pipes,
  request: StartRequest,
  log: (text: string) => void
): Promise<Supervised> => {
  const directory = processDirectory(root, request)
  const file: ProcessFile = {
    version: 1,
    sandboxId: request.sandboxId,
    processId: request.processId,
    incarnation: request.incarnation,
    supervisor: identity(),
    bootId: bootId(),
    startedAt: wallClock()
  }
  // Before the spawn: on a full disk nothing runs, and what a supervisor that dies from here on leaves is told as lost.
  writeJson(directory, "process.json", file)
  const launched = await launch(root, pipes, request)
  const { pid } = launched.child
  try {
    return supervise(request, directory, launched, log)
  } catch (error) {
    // What nobody watches would run unseen, so it is ended before anybody hears that it failed.
    if (!(await killGroup(pid, 0))) log(`the process group ${pid} survived SIGKILL`)
    const lost: ExitFile = { version: 1, end: { type: "lost" }, out: 0, err: 0, endedAt: wallClock() }
    try {
      writeJson(directory, "exit.json", lost)
    } catch (failure) {
      // Without one it is told as lost all the same.
      log(`cannot write the end of ${request.processId}: ${String(failure)}`)
    }
    throw new Refusal({ type: "ran", message: error instanceof Error ? error.message : String(error) })
  }
}

/** Our ends of the pipes as streams; on a failure none of them stays open. */
const connect = (launched: Launched) => {
  const fds = new Set(launched.ours)
  const made: Array<Net.Socket> = []
  const socket = (fd: number, options: { readonly readable: boolean; readonly writable: boolean }): Net.Socket => {
    const stream = new Net.Socket({ fd, ...options })
    fds.delete(fd)
    made.push(stream)
    return stream
  }
  try {
    const { err, input, out } = launched
    return {
      out: socket(out, { readable: true, writable: false }),
      err: socket(err, { readable: true, writable: false }),
      input: input === undefined ? undefined : { fd: input, socket: socket(input, { readable: false, writable: true }) }
    }
  } catch (error) {
    made.forEach((stream) => stream.destroy())
    fds.forEach((fd) => Fs.closeSync(fd))
    throw error
  }
}

const supervise = (
  request: StartRequest,
  directory: string,
  launched: Launched,
  log: (text: string) => void
): Supervised => {
  const key: Key = { sandboxId: request.sandboxId, processId: request.processId }
  const listeners = new Set<() => void>()
  const changed = () => listeners.forEach((listener) => listener())
  const { child } = launched
  const { pid } = child
  const { err, input, out } = connect(launched)
  // A failed write reports to its own callback.
  input?.socket.on("error", () => {})

  let exit: ExitFile | undefined
  let reason: ExitFile["reason"]
  let leaderGone = false
  // Asked at the exit, at once, and remembered: later the number may belong to somebody else's group.
  let groupGone = false
  const isGone = (): boolean => (groupGone ||= leaderGone && !isGroupAlive(pid))
  let inputOpen = input !== undefined
  let letGo = (): void => {}
  const quota = request.spoolQuota
  const spool = (socket: Net.Socket, stream: "out" | "err") =>
    Spool.make({ socket, directory, stream, quota, grown: changed, log })
  const spools = { out: spool(out, "out"), err: spool(err, "err") }

  const kill = async (because: "deadline" | "timeout" | "stop"): Promise<boolean> => {
    if (exit !== undefined) return true
    if (!leaderGone) reason ??= because
    if (isGone()) return true
    const dead = await killGroup(pid, request.killGrace)
    if (!dead) log(`the process group ${pid} survived SIGKILL`)
    return dead
  }
  const cancelDeadline =
    request.deadline === undefined ? () => {} : callAt(request.deadline, () => void kill("deadline"))

  /** False when there is no room for it now. */
  const record = (file: ExitFile): boolean => {
    try {
      writeJson(directory, "exit.json", file)
      return true
    } catch (error) {
      // Whoever reads the directory later sees a process that is lost; whoever watches now learns the truth.
      log(`cannot write the exit of ${key.processId}: ${String(error)}`)
      return !isFull(error)
    }
  }

  let isRecorded = false
  const done = new Promise<void>((resolve) => {
    child.once("exit", (code, signal) => {
      leaderGone = true
      groupGone = !send(-pid, 0)
      cancelDeadline()
      inputOpen = false
      input?.socket.destroy()
      letGo()
      const end: ExitFile["end"] =
        signal === null
          ? // Node gives a code or a signal, never neither.
            { type: "exited", code: code ?? 0 }
          : { type: "signalled", signal, code: 128 + (signalNumber(signal) ?? 0) }
      void Promise.all([spools.out.finish(drainMillis), spools.err.finish(drainMillis)]).then(() => {
        exit = {
          version: 1,
          end: spools.out.isLost() || spools.err.isLost() ? { type: "lost" } : end,
          ...(reason === undefined ? {} : { reason }),
          out: spools.out.length(),
          err: spools.err.length(),
          endedAt: wallClock()
        }
        isRecorded = record(exit)
        changed()
        resolve()
      })
    })
  })
  const recorded = done.then(async () => {
    while (exit !== undefined && !isRecorded) {
      await delay(retryMillis)
      isRecorded = record(exit)
    }
  })

  return {
    key,
    done,
    recorded,
    state: () => ({
      push: "state",
      ...key,
      out: spools.out.length(),
      err: spools.err.length(),
      ...(exit === undefined ? {} : { exit })
    }),
    watch: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    write: (bytes) =>
      new Promise((resolve, reject) => {
        if (leaderGone) return reject(new Refusal({ type: "ended" }))
        if (!inputOpen || input === undefined) return reject(new Refusal({ type: "closed" }))
        input.socket.write(bytes, (error) =>
          error === null || error === undefined ? resolve() : reject(new Refusal({ type: "ended" }))
        )
      }),
    closeInput: () => {
      if (!inputOpen) return
      inputOpen = false
      if (input === undefined) return
      letGo = admitLateReaders(input.fd)
      input.socket.end()
    },
    signal: async (signal, forceAfter) => {
      if (exit !== undefined || isGone() || !send(-pid, signal)) throw new Refusal({ type: "ended" })
      if (forceAfter !== undefined && !(await killGroup(pid, forceAfter, false))) {
        throw new Refusal({ type: "survivors", pids: [pid] })
      }
    },
    release: (released, releasedErr) => {
      spools.out.release(released)
      spools.err.release(releasedErr)
    },
    end: kill
  }
}

interface Launched {
  readonly child: ReturnType<typeof spawn> & { readonly pid: number }
  readonly out: number
  readonly err: number
  readonly input: number | undefined
  /** All of these descriptors. */
  readonly ours: ReadonlyArray<number>
}

const launch = (root: string, pipes: Pipes, request: StartRequest): Promise<Launched> => {
  const ours: Array<number> = []
  const theirs: Array<number> = []
  const close = (fds: ReadonlyArray<number>) => fds.forEach((fd) => Fs.closeSync(fd))
  const add = (pipe: Pipe): Pipe => {
    ours.push(pipe.ours)
    theirs.push(pipe.theirs)
    return pipe
  }
  const open = () => {
    try {
      return {
        out: add(pipes.output()),
        err: add(pipes.output()),
        stdin: request.stdin ? add(pipes.input()) : undefined
      }
    } catch (error) {
      close([...ours, ...theirs])
      throw error
    }
  }
  const refusal = (error: unknown): Refusal => {
    close(ours)
    return new Refusal({
      type: "start",
      code: String(errorCode(error) ?? "UNKNOWN"),
      syscall: "spawn",
      // Node's message repeats the program's name and nothing else.
      message: error instanceof Error ? error.message : "spawn failed"
    })
  }
  const cookie = formatCookie({
    root: rootTag(root),
    sandboxId: request.sandboxId,
    processId: request.processId,
    owner: identity(),
    lifetime: "recorded"
  })
  return new Promise((resolve, reject) => {
    const { err, out, stdin } = open()
    try {
      const child = spawn(request.command, [...request.args], {
        cwd: request.cwd,
        env: { ...request.env, [cookieName]: cookie },
        detached: true,
        stdio: [stdin?.theirs ?? "ignore", out.theirs, err.theirs]
      })
      if (hasPid(child)) {
        child.on("error", () => {})
        resolve({ child, out: out.ours, err: err.ours, input: stdin?.ours, ours })
      } else {
        child.once("error", (error) => reject(refusal(error)))
      }
    } catch (error) {
      reject(refusal(error))
    } finally {
      close(theirs)
    }
  })
}

const hasPid = (child: ReturnType<typeof spawn>): child is ReturnType<typeof spawn> & { readonly pid: number } =>
  child.pid !== undefined
