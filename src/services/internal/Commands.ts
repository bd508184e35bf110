/** Plain commands: scoped, written nowhere; they die with their Scope. */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as PlatformError from "effect/PlatformError"
import * as CommandLine from "effect/process/CommandLine"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { OutcomeUnknown, SandboxError, Timeout } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { CommandResult, OutputEvent, ProcessExit } from "../../model/Process.ts"
import type { SandboxRecord } from "../../model/SandboxRecord.ts"
import type { AdditionalFd, MachineProcess, StartCommand } from "../SandboxProvider.ts"
import { Capped } from "./capped.ts"
import type { Core, RecoveryOverrides } from "./core.ts"
import * as core from "./core.ts"
import type { InUse } from "./Machines.ts"
import type { ProcessOptions } from "./Processes.ts"
import * as Metrics from "./metrics.ts"

/**
 * What goes into a process's standard input; absent means that it reads the end of input at once. A stream that fails ends the
 * process: a plain command fails with its error, a recorded one is killed, and its record says why.
 */
export type Input = string | Uint8Array | Stream.Stream<Uint8Array, SandboxError | PlatformError.PlatformError>

/** An argument; a `Redacted` one needs a provider that allows it. */
export type Argument = string | Redacted.Redacted<string>

/** Options of a command. */
export interface CommandOptions {
  /** Absolute, or relative to the workspace, which is the default. */
  readonly cwd?: string | undefined
  /** Merged over the sandbox's own; `undefined` removes a variable. */
  readonly env?: Readonly<Record<string, string | Redacted.Redacted<string> | undefined>> | undefined
  readonly stdin?: Input | undefined
  /** The command's own deadline: its process group is killed then, and the effect fails `Timeout` with the clock `command`. */
  readonly timeout?: Duration.Input | undefined
  /** How many bytes of each stream a result keeps; the default is `SANDBOX_MAX_OUTPUT_BYTES`. */
  readonly maxOutputBytes?: number | undefined
  /** Schedules for this call. */
  readonly recovery?: RecoveryOverrides | undefined
}

/** A checked command, as a provider takes it. */
export interface Prepared {
  readonly command: string
  readonly args: ReadonlyArray<Argument>
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string | Redacted.Redacted<string> | undefined>>
  /** False: `env` is all there is. Only `spawn` asks for that. */
  readonly extendEnv?: boolean
  readonly stdin: boolean
  /** Only `spawn` asks for them. */
  readonly additionalFds?: ReadonlyArray<AdditionalFd>
  readonly timeout: Option.Option<Duration.Duration>
  readonly maxOutputBytes: number
  /** For people: redacted arguments hidden. */
  readonly display: string
}

const badArgument = (description: string) =>
  Effect.fail(PlatformError.badArgument({ module: "ChildProcess", method: "spawn", description }))

const reveal = (value: Argument): string => (Redacted.isRedacted(value) ? Redacted.value(value) : value)

const isArgument = (u: unknown): u is Argument =>
  Predicate.isString(u) || (Redacted.isRedacted(u) && Predicate.isString(Redacted.value(u)))

export const isInput = (u: unknown): u is Input =>
  Predicate.isString(u) || u instanceof Uint8Array || Stream.isStream(u)

/** A misspelt deadline must not become none. */
const knownOptions: ReadonlySet<string> = new Set<keyof ProcessOptions>([
  "cwd",
  "env",
  "stdin",
  "timeout",
  "maxOutputBytes",
  "recovery",
  "processId",
  "kind",
  "mode",
  "onInterrupt",
  "metadata"
])

/** Checks a command once, before anything is sent or written. Values are never echoed. */
export const prepare = (
  self: Core,
  operation: string,
  command: string,
  args: ReadonlyArray<Argument>,
  options: CommandOptions
): Effect.Effect<Prepared, SandboxError | PlatformError.PlatformError> =>
  Effect.gen(function* () {
    // Callers without types: a model's tool call, JavaScript.
    if (!Predicate.isString(command)) return yield* core.invalid(operation, "command", "expected text")
    if (!Array.isArray(args) || !args.every(isArgument)) {
      return yield* core.invalid(operation, "args", "expected a list of texts, each plain or Redacted")
    }
    const unknown = Object.keys(options).filter((key) => !knownOptions.has(key))
    if (unknown.length > 0) return yield* core.invalid(operation, "options", `unknown: ${unknown.join(", ")}`)
    if (options.cwd !== undefined && !Predicate.isString(options.cwd)) {
      return yield* core.invalid(operation, "cwd", "expected text")
    }
    if (!Object.values(options.env ?? {}).every((value) => value === undefined || isArgument(value))) {
      return yield* core.invalid(operation, "env", "expected texts, each plain or Redacted")
    }
    if (options.stdin !== undefined && !isInput(options.stdin)) {
      return yield* core.invalid(operation, "stdin", "expected text, bytes or a stream of bytes")
    }
    if (command === "") return yield* badArgument("The command is empty")
    if (command.includes("\0")) return yield* badArgument("The command contains a NUL character")
    const nul = args.findIndex((arg) => reveal(arg).includes("\0"))
    if (nul >= 0) return yield* badArgument(`Argument ${nul + 1} contains a NUL character`)
    if (options.cwd === "") {
      return yield* PlatformError.systemError({
        _tag: "NotFound",
        module: "FileSystem",
        method: "access",
        pathOrDescriptor: ""
      })
    }
    if (options.cwd?.includes("\0") === true)
      return yield* badArgument("The working directory contains a NUL character")
    for (const [name, value] of Object.entries(options.env ?? {})) {
      if (name === "" || name.includes("=") || name.includes("\0")) {
        return yield* badArgument("The name of an environment variable is empty or contains = or NUL")
      }
      if (value !== undefined && reveal(value).includes("\0")) {
        return yield* badArgument(`The environment variable ${name} contains a NUL character`)
      }
    }
    const maxOutputBytes = options.maxOutputBytes ?? self.settings.maxOutputBytes
    if (!Number.isSafeInteger(maxOutputBytes) || maxOutputBytes < 0) {
      return yield* core.invalid(operation, "maxOutputBytes", "expected a whole number of bytes from 0")
    }
    const timeout =
      options.timeout === undefined
        ? self.settings.commandTimeout
        : Option.some(yield* core.toDuration(operation, "timeout", options.timeout))
    return {
      command,
      args,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
      stdin: options.stdin !== undefined,
      timeout,
      maxOutputBytes,
      display: CommandLine.display([command, ...args], { format: "posix" })
    }
  })

const encoder = new TextEncoder()

/** The bytes of an input. */
const inputStream = (input: Input): Stream.Stream<Uint8Array, SandboxError | PlatformError.PlatformError> =>
  Predicate.isString(input)
    ? Stream.succeed(encoder.encode(input))
    : input instanceof Uint8Array
      ? Stream.succeed(input)
      : input

/**
 * Fails when the source of the input does: what came of it is cut, and must not pass for the whole. A process that closes its input
 * early has not failed; what it makes of that is its exit code.
 */
export const feed = (
  process: MachineProcess,
  input: Input
): Effect.Effect<void, SandboxError | PlatformError.PlatformError> =>
  Effect.suspend(() => {
    let cut: Cause.Cause<SandboxError | PlatformError.PlatformError> | undefined
    // Not `onError`, which hears of the sink's failure too.
    const source = Stream.tapCause(inputStream(input), (cause) =>
      Effect.sync(() => {
        if (!Cause.hasInterruptsOnly(cause)) cut = cause
      })
    )
    return Effect.catchCause(Stream.run(source, process.stdin), () =>
      cut === undefined ? Effect.void : Effect.failCause(cut)
    )
  })

const timedOut = (operation: string, sandboxId: SandboxId, duration: Duration.Duration) =>
  new SandboxError({ operation, sandboxId, reason: new Timeout({ clock: "command", duration, accepted: "unknown" }) })

/** The lease of the sandbox ended, and every process with it. */
export const sandboxTimedOut = (operation: string, sandbox: SandboxRecord): SandboxError =>
  core.failure(
    sandbox,
    operation,
    new Timeout({ clock: "sandbox", duration: Duration.millis(sandbox.timeout ?? 0), accepted: "unknown" })
  )

/** What the end of its sandbox did to a program is not the program's own end: nobody can say what it would have come to. */
const ownEnd = (
  exit: ProcessExit,
  operation: string,
  sandbox: SandboxRecord,
  startedAt: number
): Effect.Effect<ProcessExit, SandboxError> => {
  switch (exit.reason) {
    case "timeout":
      return Effect.fail(sandboxTimedOut(operation, sandbox))
    case "stop":
      return Effect.fail(
        core.failure(
          sandbox,
          operation,
          new OutcomeUnknown({ startedAt, detail: "its sandbox was stopped while it ran" })
        )
      )
    default:
      return Effect.succeed(exit)
  }
}

/** `CommandResult` out of an exit and what was kept. */
export const resultOf = (
  display: string,
  exit: ProcessExit,
  durationMs: number,
  stdout: Capped,
  stderr: Capped
): CommandResult => {
  const out = stdout.finish()
  const err = stderr.finish()
  return {
    exitCode: exit.code,
    ...(exit._tag === "Signalled" ? { signal: exit.signal } : {}),
    stdout: out.text,
    stderr: err.text,
    command: display,
    durationMs,
    truncated: { stdout: out.truncated, stderr: err.truncated }
  }
}

/** Counts a command by how it came out. */
export const counted = (mode: "plain" | "recorded", startedAt: number, outcome: string): Effect.Effect<void> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => Metrics.command(mode, outcome, now - startedAt))

export interface Commands {
  readonly start: (
    operation: string,
    id: SandboxId,
    prepared: Prepared,
    input: Input | undefined,
    overrides: RecoveryOverrides | undefined
  ) => Effect.Effect<MachineProcess, SandboxError | PlatformError.PlatformError, Scope.Scope>
  readonly run: (
    id: SandboxId,
    command: string,
    args: ReadonlyArray<Argument>,
    options: CommandOptions
  ) => Effect.Effect<CommandResult, SandboxError | PlatformError.PlatformError>
  readonly stream: (
    id: SandboxId,
    command: string,
    args: ReadonlyArray<Argument>,
    options: CommandOptions
  ) => Stream.Stream<OutputEvent, SandboxError | PlatformError.PlatformError>
}

export const make = (self: Core, machines: InUse): Commands => {
  const start: Commands["start"] = Effect.fnUntraced(function* (operation, id, prepared, input, overrides) {
    const processId = yield* Effect.flatMap(core.newUuid, (uuid) => core.toProcessId(operation, uuid))
    const now = yield* Clock.currentTimeMillis
    const command: StartCommand = {
      processId,
      command: prepared.command,
      args: prepared.args,
      ...(prepared.cwd === undefined ? {} : { cwd: prepared.cwd }),
      ...(prepared.env === undefined ? {} : { env: prepared.env }),
      ...(prepared.extendEnv === undefined ? {} : { extendEnv: prepared.extendEnv }),
      ...(prepared.additionalFds === undefined ? {} : { additionalFds: prepared.additionalFds }),
      stdin: prepared.stdin,
      lifetime: "scoped",
      // The backstop of a guest that we cannot reach; our own clock ends it first.
      ...(Option.isNone(prepared.timeout) ? {} : { deadline: now + Duration.toMillis(prepared.timeout.value) })
    }
    const process = yield* machines.use(
      id,
      ({ machine, provider, record }) =>
        command.additionalFds === undefined || provider.capabilities.processes.additionalFds
          ? Effect.map(Effect.mapError(machine.start(command), core.atMostOnce()), (started) => ({
              ...started,
              // The source of an input has errors of its own, which come in beside these; without one this costs too much here.
              ...(input === undefined ? {} : { output: Stream.mapError(started.output, core.atMostOnce(now, true)) }),
              exit: Effect.flatMap(Effect.mapError(started.exit, core.atMostOnce(now, true)), (exit) =>
                ownEnd(exit, operation, record, now)
              ),
              write: (bytes: Uint8Array) => Effect.mapError(started.write(bytes), core.atMostOnce(now))
            }))
          : badArgument(`The provider ${provider.name} has no file descriptors above 2`),
      overrides
    )
    if (input === undefined) return process
    const fed = yield* Effect.forkScoped(feed(process, input))
    // Only a stream can fail; the process may wait for the rest for ever.
    if (!Stream.isStream(input)) return process
    const cut = Effect.andThen(Fiber.join(fed), Effect.never)
    return {
      ...process,
      output: Stream.interruptWhen(process.output, cut),
      exit: Effect.raceFirst(process.exit, cut)
    }
  })

  const run: Commands["run"] = Effect.fnUntraced(function* (id, command, args, options) {
    const operation = "SandboxService.runCommand"
    const prepared = yield* prepare(self, operation, command, args, options)
    const startedAt = yield* Clock.currentTimeMillis
    const stdout = new Capped(prepared.maxOutputBytes)
    const stderr = new Capped(prepared.maxOutputBytes)
    const attempt = Effect.scoped(
      Effect.gen(function* () {
        const process = yield* start(operation, id, prepared, options.stdin, options.recovery)
        yield* Stream.runForEachArray(process.output, (chunks) =>
          Effect.sync(() => {
            for (const chunk of chunks) (chunk.stream === "stdout" ? stdout : stderr).push(chunk.bytes)
          })
        ).pipe(
          Effect.mapError((error) => (options.stdin === undefined ? core.atMostOnce(startedAt, true)(error) : error))
        )
        return yield* process.exit
      })
    )
    const exit = yield* (
      Option.isNone(prepared.timeout) ? attempt : withDeadline(attempt, operation, id, prepared.timeout.value)
    ).pipe(Effect.tapError((error) => counted("plain", startedAt, error.reason._tag)))
    const durationMs = (yield* Clock.currentTimeMillis) - startedAt
    yield* Metrics.command("plain", "exit", durationMs)
    return resultOf(prepared.display, exit, durationMs, stdout, stderr)
  })

  /** Our clock, and the guest's: whichever fires first, the command timed out. */
  const withDeadline = <E>(
    attempt: Effect.Effect<ProcessExit, E>,
    operation: string,
    id: SandboxId,
    duration: Duration.Duration
  ): Effect.Effect<ProcessExit, E | SandboxError> =>
    attempt.pipe(
      Effect.timeoutOrElse({ duration, orElse: () => Effect.fail(timedOut(operation, id, duration)) }),
      Effect.flatMap((exit) =>
        exit.reason === "deadline" ? Effect.fail(timedOut(operation, id, duration)) : Effect.succeed(exit)
      )
    )

  const stream: Commands["stream"] = (id, command, args, options) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const operation = "SandboxService.streamCommand"
        const prepared = yield* prepare(self, operation, command, args, options)
        const process = yield* start(operation, id, prepared, options.stdin, options.recovery)
        const startedAt = yield* Clock.currentTimeMillis
        const accepted = core.atMostOnce(startedAt, true)
        // Both at once: each step costs a large output a percent or two.
        const output = Stream.transformPull(process.output, (pull) =>
          Effect.succeed(
            Effect.mapBoth(pull, {
              onFailure: (error) => (options.stdin === undefined ? accepted(error) : error),
              onSuccess: Arr.map(({ bytes, stream: _tag }): OutputEvent => ({ _tag, bytes }))
            })
          )
        )
        const end = Stream.fromEffect(Effect.map(process.exit, (exit): OutputEvent => ({ _tag: "exit", exit })))
        const events = Stream.concat(output, end)
        if (Option.isNone(prepared.timeout)) return events
        const duration = prepared.timeout.value
        return events.pipe(
          Stream.interruptWhen(Effect.delay(Effect.fail(timedOut(operation, id, duration)), duration)),
          Stream.mapEffect((event) =>
            event._tag === "exit" && event.exit.reason === "deadline"
              ? Effect.fail(timedOut(operation, id, duration))
              : Effect.succeed(event)
          )
        )
      })
    )

  return { start, run, stream }
}
