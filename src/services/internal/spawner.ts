/**
 * Effect's own `ChildProcess` commands on a machine. Options are honoured or refused with a `BadArgument` that says why, never
 * ignored.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as PlatformError from "effect/PlatformError"
import type * as ChildProcess from "effect/process/ChildProcess"
import type { ChildProcessHandle } from "effect/process/ChildProcessSpawner"
import { ExitCode, makeHandle, ProcessId } from "effect/process/ChildProcessSpawner"
import type * as Cause from "effect/Cause"
import * as Predicate from "effect/Predicate"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import { isSandboxError } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { MachineProcess } from "../SandboxProvider.ts"
import { prepare } from "./Commands.ts"
import type { Commands, Prepared } from "./Commands.ts"
import type { Core } from "./core.ts"

type Failure = SandboxError | PlatformError.PlatformError
type Bytes = Stream.Stream<Uint8Array, PlatformError.PlatformError>

const refuse = (description: string) =>
  Effect.fail(PlatformError.badArgument({ module: "ChildProcess", method: "spawn", description }))

/** A handle's streams speak `PlatformError` only; a failure of the sandbox is kept as its cause. */
const toPlatform =
  (method: string) =>
  (error: Failure): PlatformError.PlatformError =>
    isSandboxError(error)
      ? PlatformError.systemError({
          _tag: "Unknown",
          module: "ChildProcess",
          method,
          cause: error,
          description: error.message
        })
      : error

/** How much of one stream waits while the other one is read: what a pipe of the system holds. */
const readAhead = 64 * 1024

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
    const from = (side: typeof sides.stdout): Bytes => Stream.unwrap(Effect.as(begin, side.stream))
    return {
      stdout: from(sides.stdout),
      stderr: from(sides.stderr),
      all: Stream.suspend(() =>
        started === undefined
          ? Stream.map(output, (chunk) => chunk.bytes)
          : Stream.merge(from(sides.stdout), from(sides.stderr))
      )
    }
  })

const inputOf = (options: ChildProcess.CommandOptions) =>
  options.stdin === undefined || Predicate.isString(options.stdin) || Stream.isStream(options.stdin)
    ? { stream: options.stdin ?? "pipe", endOnDone: true }
    : { stream: options.stdin.stream, endOnDone: options.stdin.endOnDone ?? true }

const outputOf = (output: ChildProcess.CommandOptions["stdout"]) =>
  output === undefined || Predicate.isString(output) || Sink.isSink(output) ? (output ?? "pipe") : output.stream

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

export const make = (self: Core, commands: Commands) => {
  const one = (
    id: SandboxId,
    command: ChildProcess.StandardCommand,
    piped?: Bytes
  ): Effect.Effect<ChildProcessHandle, Failure, Scope.Scope> =>
    Effect.gen(function* () {
      const { options } = command
      const operation = "SandboxService.spawn"
      if (options.additionalFds !== undefined && Object.keys(options.additionalFds).length > 0) {
        return yield* refuse("A sandbox has no file descriptors above 2")
      }
      if (options.detached === true) return yield* refuse("A scoped process cannot be detached; use runCommandProcess")
      const shell = options.shell === true ? "/bin/sh" : options.shell
      if (shell !== undefined && shell !== false && command.args.length > 0) {
        return yield* refuse("The shell option cannot be combined with arguments; pass the whole script as the command")
      }
      const input = inputOf(options)
      const stdout = outputOf(options.stdout)
      const stderr = outputOf(options.stderr)
      for (const stdio of [input.stream, stdout, stderr]) {
        if (stdio === "inherit" || stdio === "overlapped")
          return yield* refuse(`A sandbox cannot ${stdio} the stdio of this process`)
      }
      const [program, args] =
        shell === undefined || shell === false
          ? ([command.command, command.args] as const)
          : ([shell, ["-c", command.command]] as const)
      const prepared: Prepared = {
        ...(yield* prepare(self, operation, program, args, { cwd: options.cwd, env: options.env })),
        stdin: piped !== undefined || input.stream !== "ignore",
        ...(options.env === undefined ? {} : { extendEnv: options.extendEnv === true })
      }
      const source = piped ?? (Stream.isStream(input.stream) ? input.stream : undefined)
      const failed = yield* Deferred.make<never, PlatformError.PlatformError>()
      const process = yield* commands.start(operation, id, prepared, undefined, undefined)
      const stdin = Sink.mapError(process.stdin, toPlatform("stdin"))
      if (source !== undefined) {
        // A failed source has cut the input short: that is what the exit code tells then.
        const watched = Stream.tapError(source, (error) => Deferred.fail(failed, error))
        yield* Effect.forkScoped(
          Effect.ignore(
            input.endOnDone
              ? Stream.run(watched, stdin)
              : Stream.runForEach(watched, (bytes) => Effect.mapError(process.write(bytes), toPlatform("stdin")))
          )
        )
      }
      const streams = yield* split(process)
      const send = (output: typeof stdout, stream: Bytes) =>
        Sink.isSink(output)
          ? Effect.asVoid(
              Effect.forkScoped(Effect.catch(Stream.run(stream, output), (error) => Deferred.fail(failed, error)))
            )
          : output === "ignore"
            ? Effect.asVoid(Effect.forkScoped(Effect.ignore(Stream.runDrain(stream))))
            : Effect.void
      yield* send(stdout, streams.stdout)
      yield* send(stderr, streams.stderr)
      const visible = (output: typeof stdout, stream: Bytes): Bytes => (output === "pipe" ? stream : Stream.empty)

      const ended = yield* Deferred.make<ExitCode, PlatformError.PlatformError>()
      const exit = Effect.mapError(process.exit, toPlatform("exitCode")).pipe(
        Effect.flatMap((end) =>
          end._tag === "Exited"
            ? Effect.succeed(ExitCode(end.code))
            : Effect.fail(
                PlatformError.systemError({
                  _tag: "Unknown",
                  module: "ChildProcess",
                  method: "exitCode",
                  pathOrDescriptor: prepared.display,
                  cause: new Error(`Process interrupted due to receipt of signal: '${end.signal}'`)
                })
              )
        )
      )
      yield* Effect.forkScoped(Deferred.into(exit, ended))
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
            Effect.andThen(Effect.ignore(Deferred.await(ended)))
          )
      const numeric = Number(process.external.externalId)
      return makeHandle({
        // A vendor's id need not be a number; `ChildProcessHandle` has room for nothing else.
        pid: ProcessId(Number.isSafeInteger(numeric) ? numeric : 0),
        exitCode: Effect.raceFirst(Deferred.await(ended), Deferred.await(failed)),
        isRunning: Effect.map(Deferred.isDone(ended), (done) => !done),
        kill,
        stdin: source === undefined && input.stream === "pipe" ? stdin : Sink.drain,
        stdout: visible(stdout, streams.stdout),
        stderr: visible(stderr, streams.stderr),
        all:
          stdout === "pipe" && stderr === "pipe"
            ? streams.all
            : Stream.merge(visible(stdout, streams.stdout), visible(stderr, streams.stderr)),
        getInputFd: () => Sink.drain,
        getOutputFd: () => Stream.empty,
        unref: Effect.fail(
          PlatformError.badArgument({
            module: "ChildProcess",
            method: "unref",
            description: "A sandbox's process holds no reference on this one; it ends with its Scope"
          })
        )
      })
    })

  return (id: SandboxId, command: ChildProcess.Command): Effect.Effect<ChildProcessHandle, Failure, Scope.Scope> =>
    Effect.gen(function* () {
      const { commands: all, joints } = flatten(command)
      const handles: Array<ChildProcessHandle> = []
      for (const [index, next] of all.entries()) {
        const before = handles[index - 1]
        const joint = joints[index - 1]
        if (joint?.to !== undefined && joint.to !== "stdin") {
          return yield* refuse("A sandbox has no file descriptors above 2 to pipe into")
        }
        const from = joint?.from ?? "stdout"
        if (from !== "stdout" && from !== "stderr" && from !== "all") {
          return yield* refuse("A sandbox has no file descriptors above 2 to pipe from")
        }
        handles.push(yield* one(id, next, before?.[from]))
      }
      const first = handles[0]
      const last = handles.at(-1)
      if (first === undefined || last === undefined) return yield* refuse("The pipeline is empty")
      if (handles.length === 1) return first
      return makeHandle({
        ...last,
        stdin: first.stdin,
        kill: (options) =>
          Effect.forEach(handles.toReversed(), (handle) => Effect.ignore(handle.kill(options)), { discard: true })
      })
    })
}
