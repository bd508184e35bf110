/** Recorded processes: started and kept by the supervisor, read by any service from the files that it writes. */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import type { SandboxError } from "../../../errors.ts"
import { InvalidArgument, NotFound, OutcomeUnknown, ProcessEnded, Unavailable } from "../../../errors.ts"
import type { ProcessId, SandboxId } from "../../../model/Ids.ts"
import type { OutputPosition } from "../../../model/Process.ts"
import { ProcessExit } from "../../../model/Process.ts"
import type { ExternalProcess, MachineProcess, OutputChunk, StartCommand } from "../../../services/SandboxProvider.ts"
import type { Client, Push, Refused } from "./client.ts"
import { ExitFile, toSandboxError } from "./client.ts"
import { checkSignal, startFailure } from "./command.ts"
import { failWith, io } from "./failures.ts"
import type { Root } from "./state.ts"
import type { Launch } from "./substrate.ts"
import type { Key, Request, StreamName } from "./wire.ts"
import { maxWrite, processDirectory, segmentBytes, segmentPath } from "./wire.ts"

export interface Options {
  readonly root: Root
  readonly client: Client
  readonly sandboxId: SandboxId
  readonly incarnation: string
  /** ms. */
  readonly killGrace: number
  readonly spoolQuota: number
}

/** How much is read from a spool at once, and so held for each stream. */
const chunkBytes = 512 * 1024

const ProcessFile = Schema.fromJsonString(
  Schema.Struct({
    version: Schema.Literal(1),
    incarnation: Schema.String,
    startedAt: Schema.Number
  })
)
const decodeProcess = Schema.decodeUnknownOption(ProcessFile)
const decodeExit = Schema.decodeUnknownOption(Schema.fromJsonString(ExitFile))

const readText = (path: string): Option.Option<string> => {
  try {
    return Option.some(Fs.readFileSync(path, "utf8"))
  } catch {
    // Not there yet, or gone: no answer either way.
    return Option.none()
  }
}

const processFile = (directory: string) => Option.flatMap(readText(Path.join(directory, "process.json")), decodeProcess)
const exitFile = (directory: string) => Option.flatMap(readText(Path.join(directory, "exit.json")), decodeExit)

const externalIdOf = (key: Key): string => `local:${key.sandboxId}/${key.processId}`

/** True when a process of this sandbox has no end on disk: somebody must be there to see it. */
export const hasOpen = (processes: string): boolean => {
  try {
    return Fs.readdirSync(processes).some((name) => !Fs.existsSync(Path.join(processes, name, "exit.json")))
  } catch {
    return false
  }
}

/** A process that was started here once, in whatever incarnation. */
export const find = (options: Options, processId: ProcessId): Effect.Effect<Option.Option<ExternalProcess>> =>
  Effect.sync(() => {
    const key = { sandboxId: options.sandboxId, processId }
    const directory = processDirectory(options.root.path, key)
    if (!Fs.existsSync(directory)) return Option.none()
    const incarnation = Option.match(processFile(directory), {
      // The supervisor was killed while it started this: what came of it is unknown, and `resume` says so.
      onNone: () => options.incarnation,
      onSome: (file) => file.incarnation
    })
    return Option.some({ processId, externalId: externalIdOf(key), incarnation })
  })

const streams = [
  ["stdout", "out"],
  ["stderr", "err"]
] as const

/** Reads the files of one spool in order. */
class Reader {
  private readonly directory: string
  private readonly stream: StreamName
  private handle: { readonly index: number; readonly file: FsPromises.FileHandle } | undefined
  position: number

  constructor(directory: string, stream: StreamName, position: number) {
    this.directory = directory
    this.stream = stream
    this.position = position
  }

  /** What lies before `end`, at most one chunk of it. */
  async read(end: number): Promise<Buffer> {
    const index = Math.floor(this.position / segmentBytes)
    const offset = this.position % segmentBytes
    if (this.handle?.index !== index) {
      await this.close()
      this.handle = { index, file: await FsPromises.open(segmentPath(this.directory, this.stream, index), "r") }
    }
    const want = Math.min(end - this.position, segmentBytes - offset, chunkBytes)
    const buffer = Buffer.allocUnsafeSlow(want)
    const { bytesRead } = await this.handle.file.read(buffer, 0, want, offset)
    this.position += bytesRead
    return bytesRead === want ? buffer : buffer.subarray(0, bytesRead)
  }

  async close(): Promise<void> {
    const open = this.handle
    this.handle = undefined
    await open?.file.close()
  }
}

/** What a service knows of a process while it follows it. */
interface Known {
  out: number
  err: number
  exit: ExitFile | undefined
  failure: SandboxError | undefined
}

type Attach = Extract<Request, { readonly op: "start" | "watch" }>

const toExit = (exit: ExitFile, startedAt: Option.Option<number>): Effect.Effect<ProcessExit, SandboxError> => {
  const reason = exit.reason === undefined ? {} : { reason: exit.reason }
  switch (exit.end.type) {
    case "exited":
      return Effect.succeed(ProcessExit.Exited({ code: exit.end.code, ...reason }))
    case "signalled":
      return Effect.succeed(ProcessExit.Signalled({ signal: exit.end.signal, code: exit.end.code, ...reason }))
    case "lost":
      return Effect.fail(
        failWith(
          "process",
          new OutcomeUnknown({
            ...(Option.isSome(startedAt) ? { startedAt: startedAt.value } : {}),
            position: { stdout: exit.out, stderr: exit.err },
            detail: "the supervisor of the process died, or its record was taken away"
          })
        )
      )
  }
}

/** The way to the supervisor may be cut and come back; it is tried for about half a minute. */
const reconnects = Schedule.max([
  Schedule.min([Schedule.exponential(Duration.millis(20)), Schedule.spaced(Duration.seconds(1))]),
  Schedule.recurs(35)
])

/**
 * What a start has failed with, when an earlier request for it had no answer: it may have been taken up then, whatever is said
 * now. `findProcess` tells.
 */
const unanswered = (error: SandboxError | Refused, sandboxId: SandboxId): SandboxError | Refused =>
  (error._tag === "SandboxError" ? error.provesNotAccepted : error.failure.type === "refused")
    ? failWith(
        "start",
        new Unavailable({
          accepted: "unknown",
          detail: `the connection to the supervisor was cut during the start, and then: ${error.message}`,
          cause: error
        }),
        sandboxId
      )
    : error

/** Follows a process from a position: files for the bytes, the supervisor's word for how far they go. */
const follow = Effect.fnUntraced(function* (
  options: Options,
  processId: ProcessId,
  incarnation: string,
  from: OutputPosition,
  attach: Attach
): Effect.fn.Return<MachineProcess, SandboxError | Refused, Scope.Scope> {
  const { client, root, sandboxId } = options
  const key: Key = { sandboxId, processId }
  const directory = processDirectory(root.path, key)
  const known: Known = { out: from.stdout, err: from.stderr, exit: undefined, failure: undefined }
  const ended = Deferred.makeUnsafe<ExitFile, SandboxError>()
  let wake: (() => void) | undefined

  const changed = () => {
    const waiting = wake
    wake = undefined
    waiting?.()
  }
  const learn = (state: Pick<Push, "out" | "err" | "exit">) => {
    known.out = state.out
    known.err = state.err
    if (state.exit !== undefined && known.exit === undefined) {
      known.exit = state.exit
      Deferred.doneUnsafe(ended, Exit.succeed(state.exit))
    }
    changed()
  }
  const fail = (error: SandboxError) => {
    known.failure = error
    Deferred.doneUnsafe(ended, Exit.fail(error))
    changed()
  }

  const onDisk = attach.op === "watch" ? exitFile(directory) : Option.none()
  if (Option.isSome(onDisk)) learn({ out: onDisk.value.out, err: onDisk.value.err, exit: onDisk.value })
  else {
    const attached = Deferred.makeUnsafe<void, SandboxError | Refused>()
    let request: Attach = attach
    let isUnanswered = false
    // Until the end of the process or of the connection.
    const session = Effect.scoped(
      Effect.gen(function* () {
        const connection = yield* client.connection
        const cut = Deferred.makeUnsafe<void>()
        yield* Effect.acquireRelease(
          Effect.sync(() =>
            connection.listen(key, (push) => (push === undefined ? Deferred.doneUnsafe(cut, Exit.void) : learn(push)))
          ),
          (stopListening) => Effect.sync(stopListening)
        )
        yield* Effect.tapError(connection.request(request), (error) =>
          Effect.sync(() => {
            if (request.op === "start" && error._tag === "SandboxError" && !error.provesNotAccepted) isUnanswered = true
          })
        )
        request = { op: "watch", ...key }
        Deferred.doneUnsafe(attached, Exit.void)
        yield* Effect.raceFirst(Effect.ignore(Deferred.await(ended)), Deferred.await(cut))
        if (known.exit === undefined) {
          return yield* failWith(
            "process",
            new Unavailable({ accepted: "unknown", detail: "the connection to the supervisor was cut" }),
            sandboxId
          )
        }
      })
    )
    yield* session.pipe(
      // A start is asked for again as well: the supervisor starts an id at most once.
      Effect.retry({
        schedule: reconnects,
        while: (error) => error._tag === "SandboxError" && error.reason._tag === "Unavailable"
      }),
      Effect.mapError((error) => (isUnanswered && request.op === "start" ? unanswered(error, sandboxId) : error)),
      Effect.catch((error) =>
        Effect.sync(() => {
          Deferred.doneUnsafe(attached, Exit.fail(error))
          fail(toSandboxError("process", sandboxId)(error))
        })
      ),
      // The provider goes away: who waits here where nothing interrupts it, as whoever kills a process on interruption, would for ever.
      Effect.onInterrupt(() => Effect.andThen(Deferred.interrupt(attached), Deferred.interrupt(ended))),
      Effect.forkScoped({ startImmediately: true })
    )
    yield* Deferred.await(attached)
  }

  const readers = {
    out: new Reader(directory, "out", from.stdout),
    err: new Reader(directory, "err", from.stderr)
  }
  yield* Effect.addFinalizer(() =>
    Effect.ignore(
      io("output", async () => {
        await readers.out.close()
        await readers.err.close()
      })
    )
  )

  type Chunks = Arr.NonEmptyReadonlyArray<OutputChunk>
  const pull: Effect.Effect<Chunks, SandboxError | Cause.Done> = Effect.suspend(() => {
    if (readers.out.position < known.out || readers.err.position < known.err) {
      return Effect.flatMap(
        io("output", async () => {
          const chunks: Array<OutputChunk> = []
          for (const [stream, name] of streams) {
            const reader = readers[name]
            const offset = reader.position
            if (offset >= known[name]) continue
            const bytes = await reader.read(known[name])
            if (bytes.length > 0) chunks.push({ stream, offset, bytes })
          }
          return chunks
        }),
        ([first, ...rest]): typeof pull =>
          first !== undefined
            ? Effect.succeed<Chunks>([first, ...rest])
            : Effect.fail(
                failWith(
                  "output",
                  new OutcomeUnknown({ detail: "the record of the output is shorter than it was" }),
                  sandboxId
                )
              )
      )
    }
    if (known.exit !== undefined) return Cause.done()
    if (known.failure !== undefined) return Effect.fail(known.failure)
    return Effect.flatMap(
      Effect.callback<void>((resume) => {
        wake = () => resume(Effect.void)
        return Effect.sync(() => {
          wake = undefined
        })
      }),
      () => pull
    )
  })

  const endedError = () =>
    failWith(
      "process",
      new ProcessEnded({ processId: key.processId, status: known.exit?.end.type ?? "it reads no more input" })
    )
  const ask = (operation: string, request: Request): Effect.Effect<void, SandboxError> =>
    known.exit !== undefined
      ? Effect.fail(endedError())
      : client.request(request).pipe(
          Effect.mapError((error) => {
            if (error._tag === "Refused" && error.failure.type === "ended") return endedError()
            if (error._tag === "Refused" && error.failure.type === "closed") {
              return failWith(
                operation,
                new InvalidArgument({
                  argument: "bytes",
                  problem: "this process takes no input: it was started without, or its input was closed"
                }),
                sandboxId
              )
            }
            return toSandboxError(operation, sandboxId)(error)
          }),
          Effect.asVoid
        )

  // One part is under way at a time: the supervisor holds that much for a program that does not read.
  const turn = Semaphore.makeUnsafe(1)
  const write = (bytes: Uint8Array): Effect.Effect<void, SandboxError> =>
    Semaphore.withPermit(
      turn,
      Effect.forEach(
        Array.from({ length: Math.ceil(bytes.length / maxWrite) }, (_, index) => index * maxWrite),
        (start) =>
          Effect.suspend(() =>
            ask("write", {
              op: "write",
              ...key,
              data: Buffer.from(
                bytes.buffer,
                bytes.byteOffset + start,
                Math.min(maxWrite, bytes.length - start)
              ).toString("base64")
            })
          ),
        { discard: true }
      )
    )
  const closeInput = Effect.suspend(() =>
    known.exit !== undefined ? Effect.void : ask("closeInput", { op: "closeInput", ...key })
  ).pipe(Effect.catchReason("SandboxError", "ProcessEnded", () => Effect.void))

  return {
    external: { processId, externalId: externalIdOf(key), incarnation },
    output: Stream.fromPull(Effect.succeed(pull)),
    exit: Effect.flatMap(Deferred.await(ended), (exit) =>
      toExit(
        exit,
        Option.map(processFile(directory), (file) => file.startedAt)
      )
    ),
    write,
    closeInput,
    stdin: Sink.mapEffect(
      Sink.forEachArray((chunks: ReadonlyArray<Uint8Array>) => Effect.forEach(chunks, write, { discard: true })),
      () => closeInput
    ),
    signal: Effect.fnUntraced(function* (name, signalOptions) {
      const { forceAfter } = yield* checkSignal(name, signalOptions)
      yield* ask("signal", { op: "signal", ...key, signal: name, ...(forceAfter === undefined ? {} : { forceAfter }) })
    }),
    release: Effect.fnUntraced(function* (position) {
      const { exit } = known
      if (exit === undefined) {
        return yield* ask("release", { op: "release", ...key, out: position.stdout, err: position.stderr }).pipe(
          Effect.catchReason("SandboxError", "ProcessEnded", () => Effect.void)
        )
      }
      if (position.stdout < exit.out || position.stderr < exit.err) return
      yield* io("release", async () => {
        for (const name of await FsPromises.readdir(directory)) {
          if (/^(out|err)\.\d+$/.test(name)) await FsPromises.rm(Path.join(directory, name), { force: true })
        }
      })
    })
  }
})

/** Starts a process that outlives this service; `refused` is called when the machine does not run as this incarnation. */
export const start = (
  options: Options,
  command: StartCommand,
  launch: Launch,
  refused: Effect.Effect<never, SandboxError>
): Effect.Effect<MachineProcess, SandboxError | PlatformError.PlatformError, Scope.Scope> => {
  const key: Key = { sandboxId: options.sandboxId, processId: command.processId }
  const start: Attach = {
    op: "start",
    ...key,
    incarnation: options.incarnation,
    command: launch.command,
    args: launch.args,
    cwd: launch.cwd,
    env: launch.env,
    stdin: command.stdin,
    killGrace: options.killGrace,
    spoolQuota: options.spoolQuota,
    ...(command.deadline === undefined ? {} : { deadline: command.deadline })
  }
  return follow(options, command.processId, options.incarnation, { stdout: 0, stderr: 0 }, start).pipe(
    Effect.catch((error): Effect.Effect<never, SandboxError | PlatformError.PlatformError> => {
      if (error._tag === "SandboxError") return Effect.fail(error)
      if (error.failure.type === "refused") return refused
      if (error.failure.type === "start") {
        const { code, message, syscall } = error.failure
        return Effect.fail(startFailure(launch, Object.assign(new Error(message), { code, syscall })))
      }
      return Effect.fail(toSandboxError("start", options.sandboxId)(error))
    })
  )
}

/** Goes on with a process from a position. Starts nothing. */
export const resume = (
  options: Options,
  external: ExternalProcess,
  from: OutputPosition
): Effect.Effect<MachineProcess, SandboxError, Scope.Scope> => {
  const key: Key = { sandboxId: options.sandboxId, processId: external.processId }
  const missing = failWith("resume", new NotFound({ kind: "process", id: external.processId }), options.sandboxId)
  if (external.externalId !== externalIdOf(key)) return Effect.fail(missing)
  return follow(options, external.processId, external.incarnation, from, { op: "watch", ...key }).pipe(
    Effect.mapError((error) =>
      error._tag === "Refused" && error.failure.type === "unknown process"
        ? missing
        : toSandboxError("resume", options.sandboxId)(error)
    )
  )
}
