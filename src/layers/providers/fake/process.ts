/** A process of a fake machine: a fiber that writes to an output, reads an input, and hears signals. */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Sink from "effect/Sink"
import { InvalidArgument, ProcessEnded, type SandboxError } from "../../../errors.ts"
import type { ProcessId } from "../../../model/Ids.ts"
import type { EndReason, OutputPosition } from "../../../model/Process.ts"
import { ProcessExit } from "../../../model/Process.ts"
import type { ExternalProcess, MachineProcess, SignalOptions } from "../../../services/SandboxProvider.ts"
import { failWith } from "./failures.ts"
import { Input, Output } from "./pipes.ts"
import { isFatal, signalNumber, toSignal } from "./signals.ts"

export interface Options {
  readonly pid: number
  readonly processId: ProcessId
  readonly incarnation: string
  readonly lifetime: "scoped" | "recorded"
  readonly stdin: boolean
  /** Whether a signal ends it at once, without waiting for its finalizers: an interpreted one has none. */
  readonly abrupt: boolean
  readonly onInput: (bytes: Uint8Array) => void
  readonly onEnd: (at: number, exit: ProcessExit) => void
}

export class Process {
  readonly options: Options
  readonly output: Output
  readonly input: Input
  readonly external: ExternalProcess
  readonly traps = new Map<string, Effect.Effect<void>>()
  private readonly ended = Deferred.makeUnsafe<ProcessExit>()
  private status: ProcessExit | undefined
  private fiber: Fiber.Fiber<void> | undefined
  private killedBy: ProcessExit | undefined

  constructor(options: Options) {
    this.options = options
    this.output = new Output(options.lifetime === "recorded")
    this.input = new Input(options.stdin, options.onInput)
    this.external = {
      processId: options.processId,
      externalId: String(options.pid),
      incarnation: options.incarnation
    }
  }

  get isRunning(): boolean {
    return this.status === undefined
  }

  /** Starts it. The fiber is nobody's child: the process ends by itself, by a signal, or with its machine. */
  run(body: Effect.Effect<ProcessExit>, deadline: number | undefined, grace: Duration.Duration): Effect.Effect<void> {
    const watched = Effect.flatMap(Effect.exit(Effect.interruptible(body)), (exit) => this.finish(this.endOf(exit)))
    return Effect.gen({ self: this }, function* () {
      // A signal may come before its first step, and must find it ready to finish.
      this.fiber = yield* Effect.forkDetach(watched, { uninterruptible: true })
      if (deadline === undefined) return
      const left = Math.max(0, deadline - (yield* Clock.currentTimeMillis))
      yield* Effect.forkDetach(
        Effect.raceFirst(
          Effect.andThen(Effect.sleep(left), this.terminate(grace, "deadline")),
          Effect.asVoid(Deferred.await(this.ended))
        ),
        { startImmediately: true }
      )
    })
  }

  readonly exit: Effect.Effect<ProcessExit> = Effect.suspend(() => Deferred.await(this.ended))

  /** TERM, and after the grace KILL. */
  terminate(grace: Duration.Duration, reason?: EndReason): Effect.Effect<void> {
    return Effect.andThen(
      this.kill("SIGTERM", reason),
      Effect.raceFirst(Effect.asVoid(this.exit), Effect.andThen(Effect.sleep(grace), this.kill("SIGKILL", reason)))
    )
  }

  /** Delivers a signal. KILL takes effect before this returns. */
  kill(signal: string, reason?: EndReason): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.status !== undefined) return Effect.void
      const handler = signal === "SIGKILL" || signal === "SIGSTOP" ? undefined : this.traps.get(signal)
      if (handler !== undefined) {
        // A handler is a part of the process, and has no life of its own.
        const part = Effect.raceFirst(handler, Effect.asVoid(Deferred.await(this.ended)))
        return Effect.asVoid(Effect.forkDetach(part, { startImmediately: true }))
      }
      if (!isFatal(signal)) return Effect.void
      this.killedBy = signalledBy(signal, reason)
      this.fiber?.interruptUnsafe()
      return signal === "SIGKILL" || this.options.abrupt ? this.finish(this.killedBy) : Effect.void
    })
  }

  private endOf(exit: Exit.Exit<ProcessExit>): ProcessExit {
    if (this.killedBy !== undefined) return this.killedBy
    if (Exit.isSuccess(exit)) return exit.value
    return Exit.hasInterrupts(exit) ? signalledBy("SIGKILL", undefined) : ProcessExit.Exited({ code: 1 })
  }

  private finish(exit: ProcessExit): Effect.Effect<void> {
    return Effect.map(Clock.currentTimeMillis, (at) => {
      if (this.status !== undefined) return
      this.status = exit
      this.output.close()
      this.input.close()
      this.options.onEnd(at, exit)
      Deferred.doneUnsafe(this.ended, Exit.succeed(exit))
    })
  }

  private get goneError(): SandboxError {
    return failWith(
      "process",
      new ProcessEnded({ processId: this.options.processId, status: this.status?._tag ?? "it reads no more input" })
    )
  }

  /** What somebody who started or resumed it holds. */
  handle(from: OutputPosition): MachineProcess {
    const write = (bytes: Uint8Array): Effect.Effect<void, SandboxError> =>
      Effect.flatMap(this.input.write(bytes), (written) => {
        if (written === "written") return Effect.void
        return Effect.fail(
          written === "closed"
            ? this.goneError
            : failWith(
                "write",
                new InvalidArgument({
                  argument: "bytes",
                  problem: "this process takes no input: it was started without, or its input was closed"
                })
              )
        )
      })
    const closeInput = Effect.sync(() => this.input.finish())
    return {
      external: this.external,
      output: this.output.read(from),
      exit: this.exit,
      write,
      closeInput,
      stdin: Sink.mapEffect(
        Sink.forEachArray((chunks: ReadonlyArray<Uint8Array>) => Effect.forEach(chunks, write, { discard: true })),
        () => closeInput
      ),
      signal: (name, options) => this.signal(name, options),
      release: (position) => Effect.sync(() => this.output.release(position))
    }
  }

  private signal(name: string, options: SignalOptions | undefined): Effect.Effect<void, SandboxError> {
    return Effect.suspend(() => {
      const signal = toSignal(name)
      if (signal === undefined) {
        return Effect.fail(
          failWith("signal", new InvalidArgument({ argument: "signal", problem: `${name} is no signal` }))
        )
      }
      if (!this.isRunning) return Effect.fail(this.goneError)
      if (options?.forceAfter === undefined) return this.kill(signal)
      return Effect.andThen(
        this.kill(signal),
        Effect.raceFirst(
          Effect.asVoid(this.exit),
          Effect.andThen(Effect.sleep(options.forceAfter), this.kill("SIGKILL"))
        )
      )
    })
  }
}

const signalledBy = (signal: string, reason: EndReason | undefined): ProcessExit =>
  ProcessExit.Signalled({
    signal,
    code: 128 + signalNumber(signal),
    ...(reason === undefined ? {} : { reason })
  })
