/**
 * Effect's own `ChildProcess` commands on a machine. Options are honoured or refused with a `BadArgument` that says why, never
 * ignored.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Duration from "effect/Duration"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
import * as PlatformError from "effect/PlatformError"
import * as ChildProcess from "effect/process/ChildProcess"
import type { ChildProcessHandle } from "effect/process/ChildProcessSpawner"
import { ExitCode, makeHandle, ProcessId } from "effect/process/ChildProcessSpawner"
import * as Cause from "effect/Cause"
import * as Predicate from "effect/Predicate"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import type { ProcessId as SandboxProcessId, SandboxId } from "../../model/Ids.ts"
import type { AdditionalFd, AdditionalFdEnds, MachineProcess } from "../SandboxProvider.ts"
import { prepare } from "./Commands.ts"
import type { Commands, Prepared } from "./Commands.ts"
import type { Core } from "./core.ts"
import { inPlatform } from "./platformErrors.ts"

type Failure = SandboxError | PlatformError.PlatformError
type Bytes = Stream.Stream<Uint8Array, PlatformError.PlatformError>

const refuse = (description: string) =>
  Effect.fail(PlatformError.badArgument({ module: "ChildProcess", method: "spawn", description }))

const toPlatform = (method: string) => inPlatform("ChildProcess", method)

/** A process of a sandbox: what Effect knows of any, and what finds it again. */
export interface SandboxProcessHandle extends ChildProcessHandle {
  /** The id under which it was started. */
  readonly processId: SandboxProcessId
  /** The machine's own id of it. `pid` is the same as a number, or stands for it where it is none. */
  readonly externalId: string
}

/** How much of one stream waits while the other one is read: what a pipe of the system holds. */
const readAhead = 64 * 1024

/** As far as a process may count on descriptors: the usual `RLIMIT_NOFILE`. All below the highest one have to be set up. */
const highestFd = 1023

/** One side of a split output: holds its writer back by bytes. */
const makeSide = Effect.gen(function* () {
  const queue = yield* Queue.unbounded<Uint8Array, PlatformError.PlatformError | Cause.Done>()
  const room = Latch.makeUnsafe(true)
  let waiting = 0
  return {
    queue,
    offer: (bytes: Uint8Array) =>
      Effect.suspend(() => {
        waiting += bytes.length
        if (waiting >= readAhead) room.closeUnsafe()
        return Effect.andThen(Queue.offer(queue, bytes), room.await)
      }),
    stream: Stream.tap(Stream.fromQueue(queue), (bytes) =>
      Effect.sync(() => {
        waiting -= bytes.length
        if (waiting < readAhead) room.openUnsafe()
      })
    )
  }
})

/** Splits the one output of a machine's process; each side is held back by its own reader. */
const split = (
  process: MachineProcess
): Effect.Effect<{ readonly stdout: Bytes; readonly stderr: Bytes; readonly all: Bytes }, never, Scope.Scope> =>
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    const sides = { stdout: yield* makeSide, stderr: yield* makeSide }
    let started: Fiber.Fiber<void> | undefined
    /** Whether `all` reads the output itself, in its order: then it is what reads all of it. */
    let whole = false
    const output = Stream.mapError(process.output, toPlatform("output"))
    const pump = Stream.runForEach(output, (chunk) => sides[chunk.stream].offer(chunk.bytes)).pipe(
      Effect.onExit((exit) =>
        Effect.forEach(
          [sides.stdout.queue, sides.stderr.queue],
          (queue) => (exit._tag === "Success" ? Queue.end(queue) : Queue.failCause(queue, exit.cause)),
          { discard: true }
        )
      ),
      Effect.exit,
      Effect.asVoid
    )
    const begin = Effect.gen(function* () {
      if (started === undefined) started = yield* Effect.forkIn(pump, scope, { startImmediately: true })
    })
    const from = (side: typeof sides.stdout): Bytes =>
      Stream.unwrap(Effect.suspend(() => (whole ? Effect.succeed(Stream.empty) : Effect.as(begin, side.stream))))
    return {
      stdout: from(sides.stdout),
      stderr: from(sides.stderr),
      all: Stream.suspend(() => {
        if (started !== undefined || whole) return Stream.merge(from(sides.stdout), from(sides.stderr))
        whole = true
        return output.pipe(
          Stream.map((chunk) => chunk.bytes),
          Stream.ensuring(
            Effect.sync(() => {
              whole = false
            })
          )
        )
      })
    }
  })

const inputOf = (options: ChildProcess.CommandOptions) =>
  options.stdin === undefined || Predicate.isString(options.stdin) || Stream.isStream(options.stdin)
    ? { stream: options.stdin ?? "pipe", endOnDone: true }
    : { stream: options.stdin.stream, endOnDone: options.stdin.endOnDone ?? true }

const outputOf = (output: ChildProcess.CommandOptions["stdout"]) =>
  (output === undefined || Predicate.isString(output) || Sink.isSink(output) ? output : output.stream) ?? "pipe"

/** The numbers of `additionalFds`, in order. */
const fdsOf = (options: ChildProcess.CommandOptions) =>
  Object.entries(options.additionalFds ?? {})
    .map(([name, config]) => ({ name, fd: ChildProcess.parseFdName(name), config }))
    .sort((a, b) => (a.fd ?? 0) - (b.fd ?? 0))

/** Flattens a pipeline, first command first, with the options of each joint. */
const flatten = (
  command: ChildProcess.Command
): {
  readonly commands: ReadonlyArray<ChildProcess.StandardCommand>
  readonly joints: ReadonlyArray<ChildProcess.PipeOptions>
} => {
  if (command._tag === "StandardCommand") return { commands: [command], joints: [] }
  const left = flatten(command.left)
  const right = flatten(command.right)
  return {
    commands: [...left.commands, ...right.commands],
    joints: [...left.joints, command.options, ...right.joints]
  }
}

/** A machine's id of a process that is no number: one that stays the same and is never 0, which `kill` would take for us. */
const numberOf = (process: MachineProcess): number => {
  const numeric = Number(process.external.externalId)
  return Number.isSafeInteger(numeric) && numeric > 0
    ? numeric
    : 1 + (Number.parseInt(process.external.processId.slice(0, 8), 16) >>> 1)
}

/** The end as Node tells it; what is inherited is there by then. */
const exitOf = (
  process: MachineProcess,
  display: string,
  pumps: ReadonlyArray<Fiber.Fiber<unknown, never>>
): Effect.Effect<ExitCode, PlatformError.PlatformError> =>
  Effect.mapError(process.exit, toPlatform("exitCode")).pipe(
    Effect.tap(() => Effect.forEach(pumps, Fiber.await, { discard: true })),
    Effect.flatMap((end) =>
      end._tag === "Exited"
        ? Effect.succeed(ExitCode(end.code))
        : Effect.fail(
            PlatformError.systemError({
              _tag: "Unknown",
              module: "ChildProcess",
              method: "exitCode",
              pathOrDescriptor: display,
              cause: new Error(`Process interrupted due to receipt of signal: '${end.signal}'`)
            })
          )
    )
  )

/** How long a program may take to end by the signal of its `killSignal` when its Scope closes and it has no `forceKillAfter`. */
const patience = Duration.seconds(2)

export const make = (self: Core, commands: Commands) => {
  /** The service that stands for our own standard streams, for `inherit`. */
  const stdio = (stream: string) =>
    Effect.flatMap(Effect.serviceOption(Stdio.Stdio), (found) =>
      Option.isSome(found)
        ? Effect.succeed(found.value)
        : refuse(`To inherit ${stream}, a sandbox needs the service Stdio, as NodeServices.layer gives it`)
    )

  const one = (
    id: SandboxId,
    command: ChildProcess.StandardCommand
  ): Effect.Effect<SandboxProcessHandle, Failure, Scope.Scope> =>
    Effect.gen(function* () {
      const { options } = command
      const operation = "SandboxService.spawn"
      const shell = options.shell === true ? "/bin/sh" : options.shell
      if (shell !== undefined && shell !== false && command.args.length > 0) {
        return yield* refuse("The shell option cannot be combined with arguments; pass the whole script as the command")
      }
      if (options.detached === false) {
        return yield* refuse("detached: false: a process of a sandbox always has a process group of its own")
      }
      const fds = fdsOf(options)
      const additionalFds: Array<AdditionalFd> = []
      for (const { config, fd, name } of fds) {
        if (fd === undefined) return yield* refuse(`${name} is no file descriptor above 2`)
        if (fd > highestFd) return yield* refuse(`${name} is above ${highestFd}`)
        additionalFds.push({ fd, type: config.type })
      }
      const input = inputOf(options)
      const stdout = outputOf(options.stdout)
      const stderr = outputOf(options.stderr)
      const source = Stream.isStream(input.stream)
        ? input.stream
        : input.stream === "inherit"
          ? (yield* stdio("stdin")).stdin
          : undefined
      const inherited = {
        stdout: stdout === "inherit" ? (yield* stdio("stdout")).stdout({ endOnDone: false }) : undefined,
        stderr: stderr === "inherit" ? (yield* stdio("stderr")).stderr({ endOnDone: false }) : undefined
      }
      const [program, args] =
        shell === undefined || shell === false
          ? ([command.command, command.args] as const)
          : ([shell, ["-c", command.command]] as const)
      const prepared: Prepared = {
        ...(yield* prepare(self, operation, program, args, { cwd: options.cwd, env: options.env })),
        stdin: input.stream !== "ignore",
        ...(options.env === undefined ? {} : { extendEnv: options.extendEnv === true }),
        ...(additionalFds.length === 0 ? {} : { additionalFds })
      }
      const process = yield* commands.start(operation, id, prepared, undefined, undefined)
      const pumps: Array<Fiber.Fiber<unknown, never>> = []
      const exit = exitOf(process, prepared.display, pumps)
      /** Whether it runs, without waiting for the end. */
      const isRunning = Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(Effect.exit(process.exit), { startImmediately: true })
        yield* Effect.yieldNow
        const running = fiber.pollUnsafe() === undefined
        yield* Fiber.interrupt(fiber)
        return running
      })
      let referenced = true
      if (options.killSignal !== undefined || options.forceKillAfter !== undefined) {
        // Before the machine's own TERM, grace and KILL: how this program wants to be ended.
        yield* Effect.addFinalizer(() =>
          Effect.flatMap(isRunning, (running) =>
            referenced && running
              ? Effect.ignore(
                  process.signal(options.killSignal ?? "SIGTERM", { forceAfter: options.forceKillAfter ?? patience })
                )
              : Effect.void
          )
        )
      }

      /** A source that failed has cut the input short: that is what `exitCode` tells then. */
      const failed = yield* Deferred.make<never, PlatformError.PlatformError>()
      const tell = (cause: Cause.Cause<PlatformError.PlatformError>) =>
        Cause.hasInterruptsOnly(cause) ? Effect.void : Deferred.failCause(failed, cause)
      const feed = (stream: Bytes, sink: Sink.Sink<void, Uint8Array, unknown, PlatformError.PlatformError>) =>
        // Of the source alone: that a program reads no more is no failure.
        Effect.forkScoped(Effect.exit(Stream.run(Stream.tapCause(stream, tell), sink)))
      const stdin: ChildProcessHandle["stdin"] = Sink.mapError(
        input.endOnDone ? process.stdin : Sink.forEach(process.write),
        toPlatform("stdin")
      )
      if (source !== undefined) yield* feed(source, stdin)

      const streams = yield* split(process)
      const visible = Effect.fnUntraced(function* (name: "stdout" | "stderr", output: typeof stdout) {
        const stream = streams[name]
        if (Sink.isSink(output)) return Stream.transduce(stream, output)
        if (output === "pipe" || output === "overlapped") return stream
        const sink = inherited[name]
        const pump = sink === undefined ? Stream.runDrain(stream) : Effect.onError(Stream.run(stream, sink), tell)
        pumps.push(yield* Effect.forkScoped(Effect.exit(pump)))
        return Stream.empty
      })
      const out = yield* visible("stdout", stdout)
      const err = yield* visible("stderr", stderr)

      const inputs = new Map<number, ChildProcessHandle["stdin"]>()
      const outputs = new Map<number, Bytes>()
      for (const { config, fd } of fds) {
        const ends: AdditionalFdEnds = (fd === undefined ? undefined : process.additionalFds?.get(fd)) ?? {}
        if (fd === undefined) continue
        if (ends.sink !== undefined) {
          const sink = Sink.mapError(ends.sink, toPlatform(`fd${fd}`))
          inputs.set(fd, sink)
          if (config.type !== "output" && config.stream !== undefined) yield* feed(config.stream, sink)
        }
        if (ends.stream !== undefined) {
          const stream = Stream.mapError(ends.stream, toPlatform(`fd${fd}`))
          const sink = config.type === "input" ? undefined : config.sink
          outputs.set(fd, sink === undefined ? stream : Stream.transduce(stream, sink))
        }
      }

      const kill = (how?: ChildProcess.KillOptions) =>
        process
          .signal(how?.killSignal ?? options.killSignal ?? "SIGTERM", {
            forceAfter: how?.forceKillAfter ?? options.forceKillAfter
          })
          .pipe(
            Effect.catchIf(
              (error) => error.reason._tag === "ProcessEnded",
              () => Effect.void
            ),
            Effect.mapError(toPlatform("kill")),
            Effect.andThen(Effect.exit(process.exit)),
            Effect.asVoid
          )
      const handle = makeHandle({
        pid: ProcessId(numberOf(process)),
        exitCode: Effect.raceFirst(exit, Deferred.await(failed)),
        isRunning,
        kill,
        stdin: input.stream === "ignore" ? Sink.drain : stdin,
        stdout: out,
        stderr: err,
        all: stdout === "pipe" && stderr === "pipe" ? streams.all : Stream.merge(out, err),
        getInputFd: (fd) => inputs.get(fd) ?? Sink.drain,
        getOutputFd: (fd) => outputs.get(fd) ?? Stream.empty,
        unref: Effect.suspend(() => {
          if (process.unref === undefined) {
            return Effect.fail(
              PlatformError.badArgument({
                module: "ChildProcess",
                method: "unref",
                description: "A process of this sandbox ends with its Scope; one that survives is runCommandProcess"
              })
            )
          }
          referenced = false
          return Effect.map(process.unref, (reref) =>
            Effect.andThen(
              reref,
              Effect.sync(() => {
                referenced = true
              })
            )
          )
        })
      })
      return Object.assign(handle, {
        processId: process.external.processId,
        externalId: process.external.externalId
      })
    })

  /** The command of a pipeline with the output of the one before it. */
  const joined = (
    command: ChildProcess.StandardCommand,
    before: ChildProcessHandle,
    joint: ChildProcess.PipeOptions
  ): Effect.Effect<ChildProcess.StandardCommand, PlatformError.PlatformError> => {
    const from = joint.from ?? "stdout"
    const fdFrom = ChildProcess.parseFdName(from)
    const stream =
      from === "stdout" || from === "stderr" || from === "all"
        ? before[from]
        : fdFrom === undefined
          ? undefined
          : before.getOutputFd(fdFrom)
    if (stream === undefined) return refuse(`A pipe cannot come from ${from}`)
    const { options } = command
    const to = joint.to ?? "stdin"
    if (to === "stdin") {
      return Effect.succeed(
        ChildProcess.make(command.command, command.args, {
          ...options,
          stdin: { endOnDone: inputOf(options).endOnDone, stream }
        })
      )
    }
    if (ChildProcess.parseFdName(to) === undefined) return refuse(`A pipe cannot go to ${to}`)
    const existing = options.additionalFds?.[to]
    return Effect.succeed(
      ChildProcess.make(command.command, command.args, {
        ...options,
        additionalFds: {
          ...options.additionalFds,
          [to]: existing?.type === "duplex" ? { ...existing, stream } : { type: "input", stream }
        }
      })
    )
  }

  return (id: SandboxId, command: ChildProcess.Command): Effect.Effect<SandboxProcessHandle, Failure, Scope.Scope> =>
    Effect.gen(function* () {
      const { commands: all, joints } = flatten(command)
      const handles: Array<SandboxProcessHandle> = []
      for (const [index, next] of all.entries()) {
        const before = handles[index - 1]
        handles.push(yield* one(id, before === undefined ? next : yield* joined(next, before, joints[index - 1] ?? {})))
      }
      const first = handles[0]
      const last = handles.at(-1)
      if (first === undefined || last === undefined) return yield* refuse("The pipeline is empty")
      if (handles.length === 1) return first
      const handle = makeHandle({
        ...last,
        stdin: first.stdin,
        kill: (options) =>
          // At once: one that ignores its signal must not keep the others from theirs.
          Effect.forEach(handles.toReversed(), (handle) => Effect.ignore(handle.kill(options)), {
            discard: true,
            concurrency: "unbounded"
          }),
        unref: Effect.map(
          Effect.forEach(handles, (handle) => handle.unref),
          (rerefs) => Effect.forEach(rerefs.toReversed(), (reref) => reref, { discard: true })
        )
      })
      return Object.assign(handle, { processId: last.processId, externalId: last.externalId })
    })
}
