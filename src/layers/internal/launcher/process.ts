/** A process behind the launcher: follows its frames, asks again for what was cut off, and starts nothing twice. */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type { SandboxErrorReason } from "../../../errors.ts"
import {
  InvalidArgument,
  NotFound,
  OutcomeUnknown,
  ProcessEnded,
  Quota,
  SandboxError,
  Unavailable,
  Unknown
} from "../../../errors.ts"
import { type OutputPosition, ProcessExit } from "../../../model/Process.ts"
import type { ExternalProcess, MachineProcess, OutputChunk } from "../../../services/SandboxProvider.ts"
import { platformError } from "../systemCodes.ts"
import { type ExitJson, type Frame, decodeExit, Decoder } from "./frames.ts"
import * as Input from "./input.ts"
import { call, killGraceMillis, segmentBytes } from "./invocation.ts"
import type { Following, GuestFile, GuestOptions, GuestTransport } from "./transport.ts"

/** What is followed, and how it came to be. */
export interface Followed {
  readonly transport: GuestTransport
  readonly options: GuestOptions
  readonly nonce: string
  readonly directory: string
  readonly external: ExternalProcess
  readonly from: OutputPosition
  /** Names this follower in the guest: a reader that it asks for anew takes the place of the one before. */
  readonly reader: string
  /** How to start it, for one that may not have been started. */
  readonly start?: {
    readonly argv: ReadonlyArray<string>
    readonly files: ReadonlyArray<GuestFile>
    readonly command: string
    readonly cwd: string
  }
  /** Whether it goes with the Scope. */
  readonly scoped: boolean
  /** The directory is of no more use; it goes with a later start. */
  readonly forget: () => void
}

/** So much output is taken from the transport ahead of the consumer, and the frame that goes beyond it. */
const readAhead = 64 * 1024

/** In turns, how many ms the reader waits for more once it has something to say. */
const minLinger = 50
const maxLinger = 1_000

/** So much of the output is said by one reader that is followed: the guest may have to keep what nobody takes. */
const followedBytes = 4 * 1024 * 1024

/** How an invocation of the reader ended: with the end; with something new; or with no more than that the process still runs. */
type Attempt = "done" | "more" | "silent"

/** When to ask again after an invocation that worked. */
const goOn = Schedule.forever.pipe(
  Schedule.setInputType<Attempt>(),
  Schedule.modifyDelay(({ input }) => Effect.succeed(input === "silent" ? Duration.seconds(1) : Duration.zero))
)

const signals = new Set(
  (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ " +
    "VTALRM PROF WINCH IO PWR SYS"
  ).split(" ")
)

const startFailure = (
  module: "ChildProcess" | "FileSystem",
  method: string,
  path: string,
  code: string
): PlatformError.PlatformError =>
  platformError(
    module,
    method,
    path,
    Object.assign(new Error(`${code}: ${method} ${path}`), {
      code,
      syscall: module === "FileSystem" ? "stat" : "spawn"
    })
  )

/** Runs a call of the launcher that answers with one line. */
export const ask = (
  transport: GuestTransport,
  options: GuestOptions,
  nonce: string,
  argv: ReadonlyArray<string>
): Effect.Effect<string, SandboxError> =>
  Effect.flatMap(transport.exec(argv), ({ exitCode, stderr, stdout }) => {
    const line = stdout.split("\n").find((line) => line.startsWith(`${nonce} `) && line.endsWith(" ."))
    return line === undefined
      ? Effect.fail(
          new SandboxError({
            operation: `${options.provider}.launcher`,
            provider: options.provider,
            reason: new Unknown({ detail: `the launcher gave no answer (exit ${exitCode}): ${stderr.slice(0, 200)}` })
          })
        )
      : Effect.succeed(line.slice(nonce.length + 1, -2))
  })

/**
 * Starts or finds a process, and follows it. Returns when the guest says that it runs. The start is sent again until it is known
 * what came of it: the guest starts a directory at most once.
 */
export const follow = Effect.fnUntraced(function* (
  followed: Followed
): Effect.fn.Return<MachineProcess, SandboxError | PlatformError.PlatformError, Scope.Scope> {
  const { directory, external, nonce, options, scoped, start, transport } = followed
  const { processId } = external
  const failure = (operation: string, reason: SandboxErrorReason): SandboxError =>
    new SandboxError({ operation: `${options.provider}.${operation}`, provider: options.provider, processId, reason })
  const tell = (mode: "signal" | "end" | "free", ...args: ReadonlyArray<string>) =>
    ask(transport, options, nonce, call(options, nonce, mode, directory, ...args))

  const startedAt = yield* Clock.currentTimeMillis
  const position = { stdout: followed.from.stdout, stderr: followed.from.stderr }
  const started = Deferred.makeUnsafe<number | "eof" | undefined, SandboxError | PlatformError.PlatformError>()
  const exit = Deferred.makeUnsafe<ExitJson, SandboxError>()
  // Bounded by bytes: the end of a process with little output is seen also by who does not read that.
  const output = yield* Queue.unbounded<OutputChunk, SandboxError | Cause.Done>()
  let buffered = 0
  let wake: (() => void) | undefined
  let known: ExitJson | undefined
  let running = false
  let refused = false
  /** How often the start was sent, without those that were certainly not taken. */
  let submissions = 0
  let advances = 0
  let taken: number | "closed" = 0
  let input: Input.Input | undefined

  if (start !== undefined && start.files.length > 0) {
    // Files that no start took must not stay: they may hold secrets.
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        if (submissions > 0) return Effect.void
        const names = start.files.map(({ path }) => path.slice(path.lastIndexOf("/") + 1))
        return Effect.ignore(
          ask(transport, options, nonce, call(options, nonce, "remove", options.directory, ...names))
        )
      })
    )
  }
  if (scoped) {
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        if (submissions === 0) return Effect.void
        // A start that was sent more than once may come again: its directory stays, and nothing starts in it.
        const clean = submissions === 1
        if (refused || (known !== undefined && known.left !== true)) {
          return clean ? Effect.sync(followed.forget) : Effect.void
        }
        return tell("end", String(killGraceMillis(options)), clean && running ? "1" : "0").pipe(
          Effect.retry({ schedule: options.retry, while: (error) => error.isRetryable }),
          Effect.flatMap((answer) => {
            // Whoever holds the handle still is told how it ended.
            const [outcome, json] = answer.split(" ")
            const end = decodeExit(json)
            if (Option.isSome(end)) Deferred.doneUnsafe(exit, Exit.succeed(end.value))
            return outcome === "ok" ? Effect.void : Effect.logWarning(`process ${processId} survived SIGKILL`)
          }),
          // Its machine is gone, and so is the process.
          Effect.catchReasons("SandboxError", {
            Gone: () => Effect.void,
            NotRunning: () => Effect.void,
            Superseded: () => Effect.void
          }),
          Effect.catch((error) => Effect.logWarning(`process ${processId} may still run`, error)),
          // Nobody follows it any more: whoever waits for its end must not wait for ever.
          Effect.ensuring(
            Effect.sync(
              () => void Deferred.doneUnsafe(exit, Exit.fail(lost("its Scope was closed before its end was seen")))
            )
          )
        )
      })
    )
  }

  const lost = (detail: string, cause?: SandboxError) =>
    failure(
      "process",
      new OutcomeUnknown({
        ...(start === undefined ? {} : { startedAt }),
        position: { ...position },
        detail,
        ...(cause === undefined ? {} : { cause })
      })
    )

  const roomToRead: Effect.Effect<void> = Effect.suspend(() =>
    buffered <= readAhead
      ? Effect.void
      : Effect.andThen(
          Effect.callback<void>((resume) => {
            wake = () => resume(Effect.void)
            return Effect.sync(() => {
              wake = undefined
            })
          }),
          roomToRead
        )
  )
  const chunks = Stream.map(Stream.fromQueue(output), (chunk) => {
    buffered -= chunk.bytes.length
    const waiting = wake
    wake = undefined
    waiting?.()
    return chunk
  })

  type Step = "go on" | "again" | "turn" | "done"

  const take: (frame: Frame) => Effect.Effect<Step> = Effect.fnUntraced(function* (frame) {
    switch (frame.type) {
      case "start":
        if (!running) advances++
        running = true
        Deferred.doneUnsafe(started, Exit.succeed(frame.next))
        return "go on"
      case "fail": {
        refused = true
        if (!scoped && submissions === 1) followed.forget()
        const why =
          start === undefined || (frame.subject !== "cwd" && frame.subject !== "program")
            ? failure("start", new Unknown({ detail: `the process was not started: ${frame.subject} ${frame.code}` }))
            : frame.subject === "cwd"
              ? startFailure("FileSystem", "access", start.cwd, frame.code)
              : startFailure("ChildProcess", "spawn", start.command, frame.code)
        Deferred.doneUnsafe(started, Exit.fail(why))
        return "done"
      }
      case "output": {
        const skip = position[frame.stream] - frame.offset
        if (skip < 0) return "again"
        if (skip >= frame.bytes.length) return "go on"
        const bytes = skip === 0 ? frame.bytes : frame.bytes.subarray(skip)
        yield* Queue.offer(output, { stream: frame.stream, offset: position[frame.stream], bytes })
        position[frame.stream] += bytes.length
        advances++
        buffered += bytes.length
        yield* roomToRead
        return "go on"
      }
      case "on":
        return "go on"
      case "input":
        taken = frame.taken
        input?.taken(taken)
        return "go on"
      case "exit": {
        if (known === undefined) advances++
        known = frame.exit
        Deferred.doneUnsafe(exit, Exit.succeed(frame.exit))
        return known.broken === true || (position.stdout >= known.out && position.stderr >= known.err)
          ? "done"
          : "again"
      }
      case "turn":
        return "turn"
      case "lost": {
        running = true
        const error = lost("whoever watched the process in the guest is gone")
        Deferred.doneUnsafe(started, Exit.succeed(undefined))
        Deferred.doneUnsafe(exit, Exit.fail(error))
        return "done"
      }
      case "none": {
        const error = running
          ? lost("its directory in the guest is gone")
          : start === undefined
            ? failure("resume", new NotFound({ kind: "process", id: processId }))
            : failure("start", new Unknown({ detail: `${directory} cannot be made in the guest` }))
        Deferred.doneUnsafe(started, Exit.fail(error))
        Deferred.doneUnsafe(exit, Exit.fail(error))
        return "done"
      }
    }
  })

  /** How many turns in a row brought something as soon as they were asked. */
  let busy = 0
  let askedAt = startedAt
  /** Who has much to say is asked less often, for more at a time; who was silent is heard at once. */
  const rested = (spoke: boolean, linger: number): Effect.Effect<Attempt> =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      busy = spoke && now - askedAt < linger + 1_000 ? busy + 1 : 0
      askedAt = now
      return "more"
    })

  let turns = 0

  /** One invocation in the guest, to its end. */
  const invoke = (following: Following | undefined): Effect.Effect<Attempt, SandboxError> => {
    const before = advances
    const decoder = new Decoder(nonce)
    const again = start !== undefined && !running
    if (again) submissions++
    const linger = Math.min(maxLinger, minLinger * 1.3 ** busy)
    const pace = () => {
      if (following === undefined) return [(linger / 1000).toFixed(3)]
      // A tick is 0.3 seconds.
      return ["", `${Math.ceil(Duration.toSeconds(following.lasts) / 0.3)}`, `${followedBytes}`]
    }
    const argv = again
      ? start.argv
      : call(
          options,
          nonce,
          "read",
          directory,
          `${position.stdout}`,
          `${position.stderr}`,
          followed.reader,
          ...(options.turns === true ? [running ? `${taken}` : "", ...pace()] : [])
        )
    let last: Step = "go on"
    let heard = false
    const pieces = following === undefined || again ? transport.stream(argv, again) : following.stream(argv)
    return pieces.pipe(
      Stream.runForEachWhile((piece) =>
        Effect.gen(function* () {
          for (const frame of decoder.push(piece)) {
            heard = true
            last = yield* take(frame)
            if (last !== "go on") return false
          }
          return true
        })
      ),
      Effect.andThen(
        Effect.suspend(() =>
          last === "done"
            ? Effect.succeed<Attempt>("done")
            : last === "turn"
              ? Effect.suspend(() => {
                  turns++
                  return following === undefined ? rested(advances > before, linger) : Effect.succeed<Attempt>("more")
                })
              : Effect.fail(
                  failure(
                    "process",
                    new Unavailable({ accepted: "unknown", detail: "the output of the launcher was cut off" })
                  )
                )
        )
      ),
      Effect.tapError((error) =>
        Effect.sync(() => {
          if (again && !running && error.provesNotAccepted) submissions--
        })
      ),
      // Only what brought nothing is a failure in a row with others: silent processes are cut off again and again.
      Effect.catch((error) => {
        if (error.isRetryable && advances > before) return Effect.succeed<Attempt>("more")
        if (error.isRetryable && heard && running && known === undefined) return Effect.succeed<Attempt>("silent")
        return Effect.fail(error)
      })
    )
  }

  const attempt = Effect.suspend(() =>
    Effect.flatMap(
      turns < (options.turnsBefore ?? 2) || transport.following === undefined ? Effect.undefined : transport.following,
      invoke
    )
  )

  const upload = (files: ReadonlyArray<GuestFile>) =>
    Effect.retry(transport.upload(files), { schedule: options.retry, while: (error) => error.isRetryable })

  const session = attempt.pipe(
    Effect.retry({ schedule: options.retry, while: (error) => error.isRetryable }),
    Effect.repeat({ until: (ended) => ended === "done", schedule: goOn }),
    Effect.exit,
    Effect.flatMap((ended) =>
      Effect.suspend(() => {
        if (Exit.isFailure(ended)) {
          const error = Exit.findErrorOption(ended)
          if (Option.isNone(error)) return Effect.failCause(ended.cause)
          if (known !== undefined) return Queue.fail(output, lost("a part of the output is not in the guest any more"))
          // What the last attempt failed with says nothing of those before it; and once it runs, no failure of the way to it, nor
          // a machine that is gone, may read as if it had never been started.
          const { reason } = error.value
          const ambiguous = (running ? scoped : submissions > 0) && reason._tag !== "Unresponsive"
          const why = start !== undefined && ambiguous ? lost(error.value.message, error.value) : error.value
          Deferred.doneUnsafe(started, Exit.fail(why))
          Deferred.doneUnsafe(exit, Exit.fail(why))
          return Queue.fail(output, why)
        }
        return known?.broken === true
          ? Queue.fail(output, failure("output", new Quota({ detail: "the disk of the guest is full" })))
          : Queue.end(output)
      })
    )
  )

  if (start !== undefined && start.files.length > 0) yield* upload(start.files)
  yield* Effect.forkScoped(session, { startImmediately: true })
  const next = yield* Deferred.await(started)

  const endedError = () =>
    failure(
      "process",
      new ProcessEnded({ processId, status: known === undefined ? "it reads no more input" : "exited" })
    )
  const ended = Input.endedOf(exit, endedError)
  const closedBefore = () =>
    failure(
      "write",
      new InvalidArgument({
        argument: "bytes",
        problem: "this process takes no input: it was started without, or its input was closed"
      })
    )
  input =
    next === undefined
      ? Input.none(ended, closedBefore)
      : yield* Input.make({ directory, next, upload, ended, unread: endedError, closedBefore })
  input.taken(taken)
  const { close: closeInput, write } = input

  const freed = { stdout: followed.from.stdout, stderr: followed.from.stderr }
  let emptied = false
  const release = (at: OutputPosition): Effect.Effect<void, SandboxError> =>
    Effect.suspend(() => {
      if (emptied) return Effect.void
      const all = known !== undefined && at.stdout >= known.out && at.stderr >= known.err
      const piece = segmentBytes(options)
      // A spool goes by whole files.
      const worth =
        Math.floor(at.stdout / piece) > Math.floor(freed.stdout / piece) ||
        Math.floor(at.stderr / piece) > Math.floor(freed.stderr / piece)
      if (!all && !worth) return Effect.void
      return Effect.map(tell("free", String(at.stdout), String(at.stderr), all ? "1" : "0"), () => {
        freed.stdout = at.stdout
        freed.stderr = at.stderr
        emptied = all
      })
    })

  // Nobody else releases what a scoped process wrote: what comes before a piece was consumed when the piece is asked for.
  const consumed = { ...freed }
  const own = Stream.tap(chunks, (chunk) => {
    const before = { ...consumed }
    consumed[chunk.stream] = chunk.offset + chunk.bytes.length
    return known === undefined ? Effect.ignore(release(before)) : Effect.void
  })

  return {
    external,
    output: scoped ? own : chunks,
    exit: Effect.map(Deferred.await(exit), ({ code, reason, signal }) => {
      const because = reason === undefined ? {} : { reason }
      return signal === undefined
        ? ProcessExit.Exited({ code, ...because })
        : ProcessExit.Signalled({ signal, code, ...because })
    }),
    write,
    closeInput,
    stdin: Sink.mapEffect(
      Sink.forEachArray((chunks: ReadonlyArray<Uint8Array>) => Effect.forEach(chunks, write, { discard: true })),
      () => closeInput
    ),
    signal: Effect.fnUntraced(function* (name, signalOptions) {
      const bare = name.startsWith("SIG") ? name.slice(3) : name
      if (!signals.has(bare)) {
        return yield* failure("signal", new InvalidArgument({ argument: "signal", problem: `${name} is no signal` }))
      }
      if (known !== undefined && known.left !== true) return yield* endedError()
      const forceAfter = signalOptions?.forceAfter
      const patience =
        forceAfter === undefined ? "" : String(Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(forceAfter))))
      const answer = yield* tell("signal", bare, patience)
      if (answer === "ended") return yield* endedError()
      if (answer === "survived") {
        return yield* failure("signal", new Unknown({ detail: "something of the process survived SIGKILL" }))
      }
    }),
    release
  }
})
