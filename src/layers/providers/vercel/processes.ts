/**
 * Processes of a session: the guest launcher over detached commands and their logs. A log is text that the platform cuts and
 * replays; what goes through it are the launcher's frames, so bytes are exact and a cut one is gone on with where it stopped.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Pull from "effect/Pull"
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

/** After so long without a byte a log is asked for anew: one whose connection has died says nothing of that. */
const silence = Duration.minutes(1)

/** A log is replayed from its start when it is asked for anew; beyond this, the launcher's own way to go on is cheaper. */
const replayLimit = 1024 * 1024

interface OpenLog {
  readonly log: Log
  readonly gate: Gate
  /** Characters at the start that are known from before. */
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
    const open = (): OpenLog => ({ gate: guest.sdk.gateOf(command.cmdId), log: command.logs(), skip: received })
    let current = open()
    const close = Effect.sync(() => {
      current.log.close()
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

    type Pulled = Pull.Pull<readonly [string], SandboxError>
    const told = (line: Line): Pulled => {
      if (line.done === true) {
        const failure = current.gate.failure()
        return failure === undefined ? Cause.done() : failed(failure)
      }
      if (line.value.stream !== "stdout") return pull
      const { data } = line.value
      const known = Math.min(current.skip, data.length)
      current.skip -= known
      received += data.length - known
      return known === data.length ? pull : Effect.succeed([known === 0 ? data : data.slice(known)])
    }
    const again: Pulled = Effect.suspend(() => {
      if (received > replayLimit) return Cause.done()
      return Effect.andThen(
        close,
        Effect.suspend(() => {
          current = open()
          return pull
        })
      )
    })
    const pull: Pulled = Effect.flatMap(Effect.timeoutOption(next, silence), (line) =>
      Option.isSome(line) ? told(line.value) : again
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
