/**
 * Commands over a WebSocket. What a command is given travels over the connection, never in its url: urls are in logs, and have a
 * limit. Its bytes come in frames of one byte and a payload; it has ended when the frame of its exit says so.
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as CommandLine from "effect/process/CommandLine"
import * as Predicate from "effect/Predicate"
import type * as Pull from "effect/Pull"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Socket from "effect/socket/Socket"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { OutcomeUnknown, Timeout, Unavailable } from "../../../errors.ts"
import type { Failure } from "../../internal/spritesErrors.ts"
import type { Api, Question } from "./api.ts"
import { pathOf } from "./api.ts"

/** What comes of a command: its output, and last how it ended. */
export type Frame =
  | { readonly _tag: "Output"; readonly stream: "stdout" | "stderr"; readonly bytes: Uint8Array }
  | { readonly _tag: "Exit"; readonly code: number }

/** How a command is run. */
export interface Command {
  /** Shell text that becomes the command; whole lines. */
  readonly text: string
  /** What becomes of it when its connection is lost: it may run on for so long, in Go's notation; `0` is for ever. */
  readonly afterDisconnect: string
}

/** To connect is to wake the machine, which has been seen to take more than 10 seconds. */
const openTimeout = Duration.seconds(60)

/** So often a connection is asked whether it lives; two questions in a row without an answer are a no. */
const heartbeat = Duration.seconds(30)

/** Of one message: common servers take no more than 32 KiB. */
const maxMessage = 16 * 1024

/** So much output is read ahead of whoever consumes it; then the connection is not read from. */
const readAhead = 64 * 1024

/** Behind the text exit: so long the binary one is waited for, or the end of the connection. */
const exitGrace = Duration.seconds(10)

/** In ms: so long the other side is given to say that it has closed, too. The package's types lag behind this option. */
const closing: object = { closeTimeout: 2_000 }

const refusedBody = 8 * 1024

/** The words as a shell takes them; NUL, the only thing that it cannot hold, was refused before. */
export const quoted = (words: ReadonlyArray<string>): string =>
  words.map((word) => Result.getOrThrow(CommandLine.quote(word))).join(" ")

const Text = Schema.fromJsonString(Schema.Struct({ type: Schema.String, exit_code: Schema.optionalKey(Schema.Int) }))
const decodeText = Schema.decodeUnknownOption(Text)

const urlOf = (api: Api, name: string, command: Command): string => {
  const url = new URL(`${api.baseUrl.replace(/^http/, "ws")}${pathOf(name, "exec")}`)
  // What the image has for an environment stays: given one, it would be all there is.
  for (const word of ["sh", "-c", `eval "$(cat)"`]) url.searchParams.append("cmd", word)
  url.searchParams.set("path", "sh")
  url.searchParams.set("stdin", "true")
  url.searchParams.set("max_run_after_disconnect", command.afterDisconnect)
  if (command.afterDisconnect === "0") url.searchParams.set("detachable", "true")
  return url.toString()
}

/** A connection that closes with the Scope, and what refused it. */
const open = (api: Api, url: string) => {
  let refused: Failure | undefined
  const acquire = Effect.acquireRelease(
    Effect.sync(() => {
      const ws = new NodeWS.WebSocket(url, {
        ...closing,
        headers: { authorization: `Bearer ${Redacted.value(api.token)}` },
        perMessageDeflate: false
      })
      // The answer tells more than the failure that would be made of it.
      ws.on("unexpected-response", (_, response) => {
        const chunks: Array<Buffer> = []
        let size = 0
        const done = () => {
          const { headers, statusCode = 0 } = response
          refused = { _tag: "Answer", status: statusCode, body: Buffer.concat(chunks).toString(), headers }
          ws.terminate()
        }
        response.on("data", (chunk: Buffer) => {
          if (size < refusedBody) chunks.push(chunk)
          size += chunk.length
        })
        response.once("end", done)
        response.once("error", done)
      })
      return ws
    }),
    (ws) =>
      Effect.sync(() => {
        if (ws.readyState === NodeWS.WebSocket.OPEN) ws.close(1000)
        else ws.terminate()
      })
  )
  return { acquire, refused: () => refused }
}

/** Ends a connection that does not answer any more. One that is not read from on purpose cannot. */
const watch = (ws: NodeWS.WebSocket): Effect.Effect<never> => {
  let unanswered = 0
  // A pong comes behind what was sent before it, which a slow consumer may take long for.
  for (const sign of ["pong", "message"]) {
    ws.on(sign, () => {
      unanswered = 0
    })
  }
  return Effect.forever(
    Effect.andThen(
      Effect.sleep(heartbeat),
      Effect.sync(() => {
        if (ws.isPaused) return
        if (unanswered >= 2) return ws.terminate()
        unanswered++
        ws.ping()
      })
    )
  )
}

/** Of a text that was cut on its way nothing runs: the shell does not find the end of the braces. */
export const braced = (text: string): string => `{\n${text}}\n`

function* messages(text: string): Generator<Uint8Array> {
  const bytes = new TextEncoder().encode(braced(text))
  for (let at = 0; at < bytes.length; at += maxMessage) {
    yield Buffer.concat([Buffer.of(0), bytes.subarray(at, at + maxMessage)])
  }
  // The end of the input.
  yield Buffer.of(4)
}

/**
 * Runs a command. The last frame is its exit; a connection that ends without one fails, with `OutcomeUnknown` where the command may
 * have changed something. Until it is accepted, a failure is what it was refused with.
 */
export const run = (api: Api, name: string, command: Command, question: Question): Stream.Stream<Frame, SandboxError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const { acquire, refused } = open(api, urlOf(api, name, command))
      let socket: NodeWS.WebSocket | undefined
      const opened = Effect.tap(acquire, (ws) =>
        Effect.sync(() => {
          socket = ws
        })
      )
      const duplex = yield* Socket.fromWebSocket(opened, { openTimeout, highWaterMark: readAhead })
      const reader = yield* Effect.mapError(duplex.reader, (error) => {
        const answer = refused()
        if (answer !== undefined) return api.failure(answer, question)
        if (error.reason._tag === "SocketOpenError" && error.reason.kind === "Timeout") {
          const late = new Timeout({
            clock: "request",
            duration: openTimeout,
            accepted: question.effects ? "unknown" : "no"
          })
          return api.fail(question.operation, late, question.sandboxId)
        }
        return api.failure({ _tag: "Lost", error }, question)
      })
      const writer = yield* duplex.writer
      const lost = (cause: unknown) =>
        api.fail(
          question.operation,
          question.effects
            ? new OutcomeUnknown({ detail: "the connection closed without an exit" })
            : new Unavailable({
                accepted: "no",
                detail: "the connection closed without an exit",
                cause: new Error(Predicate.isError(cause) ? cause.message : String(cause))
              }),
          question.sandboxId
        )
      for (const message of messages(command.text)) yield* Effect.mapError(writer.write(message), lost)
      if (socket !== undefined) yield* Effect.forkScoped(watch(socket))
      return Stream.fromPull(Effect.succeed(framesOf(reader, lost)))
    })
  )

/** The frames of what arrives. */
const framesOf = (
  reader: Socket.Reader,
  lost: (cause: unknown) => SandboxError
): Pull.Pull<readonly [Frame, ...Array<Frame>], SandboxError> => {
  let textExit: number | undefined
  let ended = false
  type Frames = readonly [Frame, ...Array<Frame>]
  type Pulled = Pull.Pull<Frames, SandboxError>
  /** The end by the text exit: the other may be left out, and output may follow the text, so only when nothing else comes. */
  const over = (error: unknown): Pulled => {
    ended = true
    return textExit === undefined ? Effect.fail(lost(error)) : Effect.succeed([{ _tag: "Exit", code: textExit }])
  }
  const take = (message: Uint8Array | string): Frame | "empty exit" | undefined => {
    if (typeof message === "string") {
      const told = decodeText(message)
      if (told._tag === "Some" && told.value.type === "exit") textExit = told.value.exit_code
      return undefined
    }
    const bytes = message.subarray(1)
    switch (message[0]) {
      case 1:
        return { _tag: "Output", stream: "stdout", bytes }
      case 2:
        return { _tag: "Output", stream: "stderr", bytes }
      case 3:
        return bytes[0] === undefined ? "empty exit" : { _tag: "Exit", code: bytes[0] }
      default:
        return undefined
    }
  }
  const taken = (batch: ReadonlyArray<Uint8Array | string>): Pulled => {
    const frames: Array<Frame> = []
    for (const message of batch) {
      let frame = take(message)
      if (frame === "empty exit") {
        if (textExit === undefined) return over("its exit frame is empty")
        frame = { _tag: "Exit", code: textExit }
      }
      if (frame === undefined) continue
      frames.push(frame)
      if (frame._tag === "Exit") {
        // The connection stays for some seconds, which nobody waits for.
        ended = true
        break
      }
    }
    const [first, ...rest] = frames
    return first === undefined ? pull : Effect.succeed([first, ...rest])
  }
  const pull: Pulled = Effect.suspend(() => {
    if (ended) return Cause.done()
    if (textExit === undefined) return Effect.matchEffect(reader.pull, { onFailure: over, onSuccess: taken })
    return Effect.matchEffect(Effect.timeout(reader.pull, exitGrace), { onFailure: over, onSuccess: taken })
  })
  return pull
}

/** What came of a short command. */
export interface Said {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

/** A command of ours is no longer than this; what is more is left out. */
const maxSaid = 4 * 1024 * 1024

/** Runs a short command to its end. */
export const toEnd = (
  api: Api,
  name: string,
  command: Command,
  question: Question
): Effect.Effect<Said, SandboxError> => {
  // Opening has a time of its own.
  const deadline = Duration.max(question.deadline ?? api.requestTimeout, openTimeout)
  const parts: Record<"stdout" | "stderr", Array<Uint8Array>> = { stdout: [], stderr: [] }
  let size = 0
  let exitCode = -1
  return run(api, name, command, question).pipe(
    Stream.runForEach((frame) =>
      Effect.sync(() => {
        if (frame._tag === "Exit") exitCode = frame.code
        else if ((size += frame.bytes.length) <= maxSaid) parts[frame.stream].push(frame.bytes)
      })
    ),
    Effect.timeoutOrElse({
      duration: deadline,
      orElse: () =>
        Effect.fail(
          api.fail(
            question.operation,
            new Timeout({ clock: "request", duration: deadline, accepted: question.effects ? "unknown" : "no" }),
            question.sandboxId
          )
        )
    }),
    Effect.map(() => ({
      exitCode,
      stdout: Buffer.concat(parts.stdout).toString(),
      stderr: Buffer.concat(parts.stderr).toString()
    }))
  )
}
