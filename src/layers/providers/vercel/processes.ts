/**
 * Processes of a session: the guest launcher over detached commands and their logs. A log is text that the platform cuts and
 * replays; what goes through it are the launcher's frames, so bytes are exact and a cut one is gone on with where it stopped.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Command } from "@vercel/sandbox"
import { SandboxError, Unavailable } from "../../../errors.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import { inline, type Launcher, make as makeLauncher } from "../../internal/launcher/launcher.ts"
import type { GuestTransport } from "../../internal/launcher/transport.ts"
import type { Guest } from "./guest.ts"
import type { Question } from "./sdk.ts"
import type { Gate } from "./wire.ts"

type Log = ReturnType<Command["logs"]>
type Line = Awaited<ReturnType<Log["next"]>>

/**
 * When to ask whether a command whose log has fallen silent still runs. The launcher's reader says something every twelve seconds,
 * so that a log that flows costs none of it.
 */
const silence = Schedule.exponential("30 seconds").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.minutes(5))))
)

const stepsOfSilence = Schedule.toStep(silence)

/** A log is replayed from its start when it is asked for anew; beyond this, the launcher's own way to go on is cheaper. */
const replayLimit = 1024 * 1024

interface OpenLog {
  readonly log: Log
  readonly gate: Gate
  /** Characters at the start that are known from before. */
  readonly known: number
  /** Of those, how many are still to come. */
  skip: number
}

/**
 * The standard output of a command as its log has it. The log is let through only while somebody waits for more of it, because the
 * SDK reads as fast as it can.
 */
const logOf = (
  guest: Guest,
  command: Command
): Effect.Effect<Stream.Stream<string, SandboxError>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const question: Question = {
      operation: "logs",
      about: "session",
      id: guest.session.sessionId,
      effects: false,
      sandboxId: guest.sandboxId
    }
    let received = 0
    const open = (): OpenLog => ({
      gate: guest.sdk.gateOf(command.cmdId),
      log: command.logs(),
      known: received,
      skip: received
    })
    let current = open()
    const close = Effect.sync(() => {
      current.log.close()
      current.gate.forget()
      current.gate.open()
      // How it ends is nobody's business any more.
      current.log.return(undefined).catch(() => {})
    })
    yield* Effect.addFinalizer(() => close)
    /** The command was accepted: no failure of its log may read as if it had not been. */
    const failed = (error: unknown) => {
      const classified = guest.sdk.classify(error, question)
      const { retryAfter } = classified
      return Effect.fail(
        classified.provesNotAccepted
          ? new SandboxError({
              ...classified,
              reason: new Unavailable({
                accepted: "unknown",
                detail: classified.message,
                cause: classified,
                ...(retryAfter === undefined ? {} : { retryAfter })
              })
            })
          : classified
      )
    }

    const next = Effect.callback<Line, SandboxError>((resume) => {
      const { gate, log } = current
      let pending = true
      const settle = (effect: Effect.Effect<Line, SandboxError>) => {
        pending = false
        gate.shut()
        resume(effect)
      }
      log.next().then(
        (line) => settle(Effect.succeed(line)),
        (error: unknown) => settle(failed(error))
      )
      // What the SDK has already is there by then; only for what it has not is more let through.
      setImmediate(() => {
        if (pending) gate.open()
      })
    })

    const hasEnded = guest
      .ask("logs", { about: "command", id: command.cmdId }, (signal) =>
        guest.session.getCommand(command.cmdId, { signal })
      )
      .pipe(
        Effect.map(({ exitCode }) => exitCode !== null),
        // The failure of a question is none of the command's, which was accepted: what else ended with it the log will say.
        Effect.catch((error) => Effect.succeed(!error.isRetryable))
      )
    let step: Effect.Success<typeof stepsOfSilence> | undefined
    /** The step that is waited for: one that a line interrupts is not taken. */
    let patience: Duration.Duration | undefined
    /**
     * Comes to its end when the silence is none of the process's: the command has ended, or says less than its reader would.
     * Goes on in longer and longer steps until something new arrives, however often the log is asked for anew.
     */
    const fellSilent = Effect.gen(function* () {
      for (let asked = 1; ; asked++) {
        step ??= yield* stepsOfSilence
        patience ??= (yield* step(yield* Clock.currentTimeMillis, undefined))[1]
        yield* Effect.sleep(patience)
        patience = undefined
        if ((yield* hasEnded) || asked === 2) return
      }
      // The schedule has no end.
    }).pipe(Pull.catchDone(() => Effect.void))

    type Pulled = Pull.Pull<readonly [string], SandboxError>
    const told = (line: Line): Pulled => {
      if (line.done === true) {
        const failure = current.gate.failure()
        return broken(failure === undefined ? Cause.done() : failed(failure))
      }
      if (line.value.stream !== "stdout") return pull
      const { data } = line.value
      const known = Math.min(current.skip, data.length)
      current.skip -= known
      received += data.length - known
      if (known === data.length) return pull
      step = undefined
      patience = undefined
      return Effect.succeed([known === 0 ? data : data.slice(known)])
    }
    const again = (otherwise: Pulled): Pulled =>
      Effect.suspend(() => {
        if (received > replayLimit) return otherwise
        return Effect.andThen(
          close,
          Effect.suspend(() => {
            current = open()
            return pull
          })
        )
      })
    /** A log that brought something and was cut goes on where it stopped; one that brought nothing is a failure. */
    const broken = (how: Pulled): Pulled => (received > current.known ? again(how) : how)
    const pull: Pulled = Effect.raceFirst(
      Effect.map(Effect.result(next), Option.some),
      Effect.as(fellSilent, Option.none<Result.Result<Line, SandboxError>>())
    ).pipe(
      Effect.flatMap((outcome): Pulled => {
        if (Option.isNone(outcome)) return again(Cause.done())
        return Result.isSuccess(outcome.value)
          ? told(outcome.value.success)
          : broken(Effect.fail(outcome.value.failure))
      })
    )
    return Stream.fromPull(Effect.succeed(pull))
  })

/** What Vercel can do for the launcher. */
const transportOf = (guest: Guest): GuestTransport => ({
  exec: (argv) =>
    guest.ask("exec", {}, async (signal) => {
      const [cmd = "", ...args] = argv
      const finished = await guest.session.runCommand({ cmd, args, signal })
      return { exitCode: finished.exitCode, stdout: await finished.stdout(), stderr: await finished.stderr() }
    }),
  stream: (argv) =>
    Stream.unwrap(
      guest
        .ask("start", { effects: true }, (signal) => {
          const [cmd = "", ...args] = argv
          return guest.session.runCommand({ cmd, args, detached: true, signal })
        })
        .pipe(Effect.flatMap((command) => logOf(guest, command)))
    ),
  upload: (files) =>
    guest.ask("upload", {}, (signal) =>
      guest.session.writeFiles(
        files.map(({ bytes, mode, path }) => ({ path, content: bytes, mode })),
        { signal }
      )
    )
})

/** The launcher of a session. */
export const make = (
  guest: Guest,
  options: {
    readonly provider: string
    readonly retry: RecoverySchedule
    readonly killGrace: Duration.Input | undefined
  }
): Effect.Effect<Launcher> =>
  makeLauncher(transportOf(guest), {
    provider: options.provider,
    incarnation: guest.session.sessionId,
    directory: guest.directory,
    workspaceRoot: guest.session.cwd,
    program: inline,
    retry: options.retry,
    killGrace: options.killGrace
  })
