/** Scoped processes: children of this service, on pipes that are read only as fast as somebody consumes them. */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as PlatformError from "effect/PlatformError"
import type * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import * as NodeSink from "@effect/platform-node/NodeSink"
import * as NodeStream from "@effect/platform-node/NodeStream"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Net from "node:net"
import { PassThrough } from "node:stream"
import type { SandboxError } from "../../../errors.ts"
import { InvalidArgument, ProcessEnded } from "../../../errors.ts"
import type { EndReason } from "../../../model/Process.ts"
import { ProcessExit } from "../../../model/Process.ts"
import type {
  AdditionalFdEnds,
  ExternalProcess,
  MachineProcess,
  OutputChunk,
  StartCommand
} from "../../../services/SandboxProvider.ts"
import { checkSignal, startFailure } from "./command.ts"
import { failWith, io, platformError, reasonOf } from "./failures.ts"
import { isGroupAlive, killGroup, send, signalNumber } from "./os.ts"
import { noteRead } from "./youngBuffers.ts"
import type { Pipes } from "./pipes.ts"
import { admitLateReaders } from "./pipes.ts"
import type { Launch } from "./substrate.ts"

/** What a start needs besides the command. */
export interface Options {
  readonly pipes: Pipes
  /** Between TERM and KILL, in ms. */
  readonly killGrace: number
  readonly incarnation: string
  /** Asked when a signal has killed it: how its sandbox ended, if it did. */
  readonly sandboxEnd: () => EndReason | undefined
}

/** How much of a stream is read ahead of its consumer, and so all that we hold: one pipe's worth. */
const readAhead = 64 * 1024

/** How long output may go on after the exit, while a descendant holds the pipe. */
const drainMillis = 1_000

/** The most that a pipe can have held at the exit (`F_SETPIPE_SZ` of an ordinary user). */
const pipeMaximum = 1024 * 1024

/** Native time that keeps this program not alive; Node's timers know no longer one. Yields what stops it. */
const unreferenced = (millis: number, due: () => void): (() => void) => {
  const timer = setTimeout(due, Math.min(millis, 2 ** 31 - 1)).unref()
  return () => clearTimeout(timer)
}

/** After the drain a consumer that comes late still gets what lies in the pipe: it arrives within this time. */
const lateMillis = 50

type Chunks = Arr.NonEmptyReadonlyArray<OutputChunk>
type OutputPull = Pull.Pull<Chunks, SandboxError>

interface Source {
  readonly stream: "stdout" | "stderr"
  readonly fd: number
  socket: Net.Socket | undefined
  offset: number
  queued: number
  open: boolean
}

/** Both output pipes of one process as a single pull. */
class Output {
  private readonly sources: ReadonlyArray<Source>
  private queue: Array<OutputChunk> = []
  private waiting: ((pull: OutputPull) => void) | undefined
  private failure: unknown
  private started = false
  private referenced = true
  private exited = false
  private expired = false
  private late = 0
  private timer: NodeJS.Timeout | undefined

  constructor(stdout: number, stderr: number) {
    const source = (stream: "stdout" | "stderr", fd: number): Source => ({
      stream,
      fd,
      socket: undefined,
      offset: 0,
      queued: 0,
      open: true
    })
    this.sources = [source("stdout", stdout), source("stderr", stderr)]
  }

  readonly pull: OutputPull = Effect.suspend(() => {
    this.start()
    const ready = this.take()
    if (ready !== undefined) return ready
    return Effect.callback<Chunks, SandboxError | Cause.Done>((resume) => {
      this.waiting = resume
      if (this.expired) this.arm(lateMillis)
      return Effect.sync(() => {
        this.waiting = undefined
      })
    })
  })

  /** Whether reading keeps this program alive. */
  reference(wanted: boolean): void {
    this.referenced = wanted
    for (const { socket } of this.sources) {
      if (wanted) socket?.ref()
      else socket?.unref()
    }
  }

  /** From the exit on nobody but a descendant can hold the pipes. */
  processExited(): void {
    this.exited = true
    this.arm(drainMillis)
  }

  close(): void {
    clearTimeout(this.timer)
    for (const source of this.sources) {
      if (source.socket !== undefined) source.socket.destroy()
      else if (source.open) Fs.closeSync(source.fd)
      source.open = false
    }
    this.wake()
  }

  private start(): void {
    if (this.started) return
    this.started = true
    for (const source of this.sources) {
      if (!source.open) continue
      // Beside Node's stream machinery, which costs a large output as much as the reading itself.
      let buffer = Buffer.allocUnsafeSlow(readAhead)
      const socket = new Net.Socket({
        fd: source.fd,
        readable: true,
        writable: false,
        onread: {
          buffer: () => buffer,
          callback: (length) => {
            // A full buffer is handed on and replaced. Of less a copy is, lest whoever keeps it keeps all of the buffer.
            if (length < readAhead) this.received(source, new Uint8Array(buffer.subarray(0, length)))
            else {
              const bytes = buffer
              buffer = Buffer.allocUnsafeSlow(readAhead)
              this.received(source, bytes)
            }
            return true
          }
        }
      })
      source.socket = socket
      if (!this.referenced) socket.unref()
      socket.resume()
      socket.on("error", (error) => {
        this.failure ??= error
        this.ended(source)
      })
      socket.on("close", () => this.ended(source))
    }
  }

  private received(source: Source, bytes: Uint8Array): void {
    this.queue.push({ stream: source.stream, offset: source.offset, bytes })
    source.offset += bytes.length
    source.queued += bytes.length
    if (this.expired && (this.late += bytes.length) > 2 * pipeMaximum) this.close()
    else {
      noteRead(bytes.length)
      if (this.waiting !== undefined) this.wake()
      else if (source.queued >= readAhead) source.socket?.pause()
    }
  }

  private ended(source: Source): void {
    if (!source.open) return
    source.open = false
    if (this.sources.every(({ open }) => !open)) {
      clearTimeout(this.timer)
      this.wake()
    }
  }

  /** What can be handed over now: everything that was read, or the end. */
  private take(): OutputPull | undefined {
    const [first, ...rest] = this.queue
    if (first !== undefined) {
      this.queue = []
      for (const source of this.sources) {
        if (source.queued >= readAhead) source.socket?.resume()
        source.queued = 0
      }
      return Effect.succeed<Chunks>([first, ...rest])
    }
    if (this.sources.some(({ open }) => open)) return undefined
    return this.failure === undefined ? Cause.done() : Effect.fail(failWith("output", reasonOf(this.failure)))
  }

  private wake(): void {
    const { waiting } = this
    const ready = waiting === undefined ? undefined : this.take()
    if (waiting === undefined || ready === undefined) return
    this.waiting = undefined
    waiting(ready)
  }

  /** Native time, as everything about the kernel's processes. */
  private arm(millis: number): void {
    clearTimeout(this.timer)
    if (!this.exited || this.sources.every(({ open }) => !open)) return
    this.timer = setTimeout(() => {
      this.expired = true
      // Nothing came although somebody waits: the pipes are empty. Without a waiting consumer they may not be.
      if (this.waiting !== undefined) this.close()
    }, millis)
  }
}

/** The writing end of a process's input. */
class Input {
  private readonly fd: number | undefined
  private socket: Net.Socket | undefined
  private state: "open" | "finished" | "closed"
  private referenced = true
  private letGo = (): void => {}

  constructor(fd: number | undefined) {
    this.fd = fd
    this.state = fd === undefined ? "closed" : "open"
  }

  /** Resolves when the kernel has all of it. */
  write(bytes: Uint8Array, done: (error: Error | null | undefined) => void): boolean {
    if (this.state !== "open") return false
    this.connect()?.write(bytes, done)
    return true
  }

  finish(): void {
    if (this.state !== "open" || this.fd === undefined) return
    this.state = "finished"
    this.letGo = admitLateReaders(this.fd)
    this.connect()?.end()
  }

  /** Whether writing keeps this program alive. */
  reference(wanted: boolean): void {
    this.referenced = wanted
    if (wanted) this.socket?.ref()
    else this.socket?.unref()
  }

  close(): void {
    this.letGo()
    this.letGo = () => {}
    if (this.socket !== undefined) this.socket.destroy()
    else if (this.state !== "closed" && this.fd !== undefined) Fs.closeSync(this.fd)
    this.state = "closed"
  }

  private connect(): Net.Socket | undefined {
    if (this.socket === undefined && this.fd !== undefined) {
      this.socket = new Net.Socket({ fd: this.fd, readable: false, writable: true })
      if (!this.referenced) this.socket.unref()
      // A failed write reports to its own callback.
      this.socket.on("error", () => {})
    }
    return this.socket
  }
}

interface Spawned {
  readonly child: ChildProcess.ChildProcess
  readonly pid: number
  readonly output: Output
  readonly input: Input
  readonly ends: ReadonlyMap<number, AdditionalFdEnds>
  readonly sockets: ReadonlyArray<Net.Socket>
}

/** Where a child has its file descriptors: those above 2 are sockets, as Node's own are; gaps are closed. */
const stdioOf = (
  standard: ReadonlyArray<"ignore" | number>,
  additional: StartCommand["additionalFds"] = []
): Array<"ignore" | "pipe" | number> => {
  const highest = additional.reduce((max, { fd }) => Math.max(max, fd), 2)
  return Array.from(
    { length: highest + 1 },
    (_, fd) => standard[fd] ?? (additional.some((one) => one.fd === fd) ? "pipe" : "ignore")
  )
}

/** All that `spawn` does at once; throws, or leaves a child without a pid, when the program cannot be started. */
const spawn = (pipes: Pipes, launch: Launch, { additionalFds, stdin }: StartCommand) => {
  const ours: Array<number> = []
  const theirs: Array<number> = []
  const add = (pipe: { readonly ours: number; readonly theirs: number }) => {
    ours.push(pipe.ours)
    theirs.push(pipe.theirs)
    return pipe
  }
  try {
    const out = add(pipes.output())
    const err = add(pipes.output())
    const input = stdin ? add(pipes.input()) : undefined
    const child = ChildProcess.spawn(launch.command, launch.args, {
      cwd: launch.cwd,
      env: launch.env,
      // Its own session and group: what it starts dies with it.
      detached: true,
      stdio: stdioOf([input?.theirs ?? "ignore", out.theirs, err.theirs], additionalFds)
    })
    return { child, out: out.ours, err: err.ours, input: input?.ours, ours }
  } catch (error) {
    ours.forEach((fd) => Fs.closeSync(fd))
    throw error
  } finally {
    theirs.forEach((fd) => Fs.closeSync(fd))
  }
}

/** Our ends of the file descriptors above 2. */
const additionalEnds = (child: ChildProcess.ChildProcess, command: StartCommand) => {
  const sockets: Array<Net.Socket> = []
  const ends = new Map<number, AdditionalFdEnds>()
  for (const { fd, type } of command.additionalFds ?? []) {
    const socket = child.stdio[fd]
    // A "pipe" of Node's is a duplex socket, whatever its type says.
    if (!(socket instanceof Net.Socket)) continue
    sockets.push(socket)
    // What nobody reads when the process exits, Node throws away: it is taken at once, up to what this holds.
    const output = new PassThrough()
    output.on("error", () => {})
    socket.on("error", (error) => output.destroy(error))
    if (type !== "input") socket.pipe(output)
    // The process may close its side and go on reading.
    if (type === "duplex") socket.allowHalfOpen = true
    const onError = (error: unknown) => platformError("ChildProcess", `fd${fd}`, command.command, error)
    ends.set(fd, {
      ...(type === "output" ? {} : { sink: NodeSink.fromWritable({ evaluate: () => socket, onError }) }),
      ...(type === "input"
        ? {}
        : { stream: NodeStream.fromReadable({ evaluate: () => output, onError, closeOnDone: false }) })
    })
  }
  return { ends, sockets }
}

/** Starts a process that dies with the Scope: TERM to its group, grace, KILL, verified. */
export const start = Effect.fnUntraced(function* (
  command: StartCommand,
  launch: Launch,
  options: Options
): Effect.fn.Return<MachineProcess, SandboxError | PlatformError.PlatformError, Scope.Scope> {
  const exit = Deferred.makeUnsafe<ProcessExit>()
  let reason: EndReason | undefined
  let status: ProcessExit | undefined
  // Asked at the exit, at once, and remembered: later the number may belong to somebody else's group.
  let groupIsGone = false
  const isGone = (pid: number): boolean => (groupIsGone ||= status !== undefined && !isGroupAlive(pid))

  const launched = Effect.callback<Spawned, PlatformError.PlatformError>((resume) => {
    let spawned: ReturnType<typeof spawn>
    try {
      spawned = spawn(options.pipes, launch, command)
    } catch (error) {
      return resume(Effect.fail(startFailure(launch, error)))
    }
    const { child } = spawned
    const { pid } = child
    if (pid === undefined) {
      spawned.ours.forEach((fd) => Fs.closeSync(fd))
      child.once("error", (error) => resume(Effect.fail(startFailure(launch, error))))
      return
    }
    const output = new Output(spawned.out, spawned.err)
    const input = new Input(spawned.input)
    child.on("error", () => {})
    child.once("exit", (code, signal) => {
      groupIsGone = !send(-pid, 0)
      reason ??= signal === null ? undefined : options.sandboxEnd()
      const ended = reason === undefined ? {} : { reason }
      status =
        signal === null
          ? // Node gives a code or a signal, never neither.
            ProcessExit.Exited({ code: code ?? 0, ...ended })
          : ProcessExit.Signalled({ signal, code: 128 + (signalNumber(signal) ?? 0), ...ended })
      input.close()
      output.processExited()
      Deferred.doneUnsafe(exit, Exit.succeed(status))
    })
    resume(Effect.succeed({ child, pid, output, input, ...additionalEnds(child, command) }))
  })

  const kill = (pid: number, graceMillis: number, term = true) =>
    Effect.gen(function* () {
      if (isGone(pid)) return
      const dead = yield* io("kill", () => killGroup(pid, graceMillis, term))
      if (!dead) return yield* Effect.logWarning(`the process group ${pid} survived SIGKILL`)
      yield* Deferred.await(exit)
    })

  let referenced = true
  const close = ({ input, output, sockets }: Spawned) => {
    output.close()
    input.close()
    sockets.forEach((socket) => socket.destroy())
  }
  /** The deadline of a process that was let go: it keeps nobody alive. */
  const expire = ({ child, pid }: Spawned, deadline: number) =>
    Effect.gen(function* () {
      while (status === undefined) {
        const left = deadline - (yield* Clock.currentTimeMillis)
        if (left <= 0) {
          reason = "deadline"
          return yield* Effect.ignore(kill(pid, options.killGrace))
        }
        yield* Effect.callback<void>((resume) => {
          const stop = unreferenced(left, () => resume(Effect.void))
          child.once("exit", () => {
            stop()
            resume(Effect.void)
          })
        })
      }
    })
  const spawned = yield* Effect.acquireRelease(launched, (spawned) =>
    Effect.suspend(() => {
      if (referenced || status !== undefined) {
        return Effect.ensuring(
          Effect.ignore(kill(spawned.pid, options.killGrace)),
          Effect.sync(() => close(spawned))
        )
      }
      // It was let go: its pipes must hold for as long as it writes to them.
      spawned.child.once("exit", () => close(spawned))
      return command.deadline === undefined ? Effect.void : Effect.forkDetach(expire(spawned, command.deadline))
    })
  )
  const { child, ends, input, output, pid } = spawned
  const reference = (wanted: boolean) =>
    Effect.sync(() => {
      referenced = wanted
      output.reference(wanted)
      input.reference(wanted)
      for (const socket of [child, ...spawned.sockets]) {
        if (wanted) socket.ref()
        else socket.unref()
      }
    })

  if (command.deadline !== undefined) {
    const left = command.deadline - (yield* Clock.currentTimeMillis)
    yield* Effect.forkScoped(
      Effect.sleep(Duration.millis(Math.max(0, left))).pipe(
        Effect.andThen(
          Effect.suspend(() => {
            if (status !== undefined) return Effect.void
            reason = "deadline"
            return kill(pid, options.killGrace)
          })
        )
      )
    )
  }

  const ended = () =>
    failWith(
      "process",
      new ProcessEnded({ processId: command.processId, status: status?._tag ?? "it reads no more input" })
    )

  const write = (bytes: Uint8Array): Effect.Effect<void, SandboxError> =>
    Effect.callback((resume) => {
      if (status !== undefined) return resume(Effect.fail(ended()))
      const taken = input.write(bytes, (error) =>
        resume(error === null || error === undefined ? Effect.void : Effect.fail(ended()))
      )
      if (!taken) {
        resume(
          Effect.fail(
            failWith(
              "write",
              new InvalidArgument({
                argument: "bytes",
                problem: "this process takes no input: it was started without, or its input was closed"
              })
            )
          )
        )
      }
    })
  const closeInput = Effect.sync(() => input.finish())

  const external: ExternalProcess = {
    processId: command.processId,
    externalId: String(pid),
    incarnation: options.incarnation
  }

  return {
    external,
    output: Stream.fromPull(Effect.succeed(output.pull)),
    exit: Deferred.await(exit),
    additionalFds: ends,
    unref: Effect.as(reference(false), reference(true)),
    write,
    closeInput,
    stdin: Sink.mapEffect(
      Sink.forEachArray((chunks: ReadonlyArray<Uint8Array>) => Effect.forEach(chunks, write, { discard: true })),
      () => closeInput
    ),
    signal: Effect.fnUntraced(function* (name, signalOptions) {
      const { forceAfter, signal } = yield* checkSignal(name, signalOptions)
      if (isGone(pid) || !send(-pid, signal)) return yield* ended()
      if (forceAfter !== undefined) yield* kill(pid, forceAfter, false)
    })
  }
})
