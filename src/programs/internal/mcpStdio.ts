/**
 * The standard input and output of an MCP server, so that no client keeps it from answering or from its end. What Effect's own
 * transport does with a line that is no JSON, or longer than its parser takes, is to leave it and what came with it without an
 * answer; and for a client that does not read it waits for ever.
 */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Sink from "effect/Sink"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import { concat } from "../../services/internal/capped.ts"

/** The length of a line that Effect's parser takes at most. */
export const maxMessage = 16 * 1024 * 1024
/** Of a longer one so much of both ends is kept: its id is in one of them. */
const keptEnd = 1024

/** A whole line, or the ends of one that is too long. */
type Line = { readonly bytes: Uint8Array } | { readonly head: string; readonly tail: string }

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

/** Cuts what comes in at the line ends. What follows the last one is nothing. */
class Lines {
  private parts: Array<Uint8Array> = []
  private size = 0
  private head: string | undefined

  push(chunk: Uint8Array): ReadonlyArray<Line> {
    const lines: Array<Line> = []
    let start = 0
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, start)) {
      this.hold(chunk.subarray(start, at + 1))
      lines.push(this.take())
      start = at + 1
    }
    if (start < chunk.length) this.hold(chunk.subarray(start))
    return lines
  }

  private hold(part: Uint8Array): void {
    this.parts.push(part)
    this.size += part.length
    if (this.size <= maxMessage) return
    const held = concat(this.parts, this.size)
    this.head ??= decoder.decode(held.subarray(0, keptEnd))
    const tail = held.slice(-keptEnd)
    this.parts = [tail]
    this.size = tail.length
  }

  private take(): Line {
    const bytes = concat(this.parts, this.size)
    const { head } = this
    this.parts = []
    this.size = 0
    this.head = undefined
    return head === undefined ? { bytes } : { head, tail: decoder.decode(bytes) }
  }
}

/** A string or a number, as JSON. */
const id = String.raw`"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)\s*`
const other = String.raw`"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*`
const idAtHead = new RegExp(String.raw`^\s*\{\s*(?:${other},\s*)*${id},`)
const idAtTail = new RegExp(String.raw`,\s*${id}(?:,\s*${other})*\}\s*$`)

/** The answer to a line that is no message, undefined for what is one; it says nothing of what is in it. */
const objection = (line: Line): string | undefined => {
  const error = (idJson: string, code: number, message: string) =>
    `{"jsonrpc":"2.0","id":${idJson},"error":${JSON.stringify({ code, message })}}\n`
  if ("head" in line) {
    const found = idAtHead.exec(line.head)?.[1] ?? idAtTail.exec(line.tail)?.[1] ?? "null"
    return error(found, -32600, `the message is larger than ${maxMessage} bytes`)
  }
  try {
    JSON.parse(decoder.decode(line.bytes))
    return undefined
  } catch {
    return error("null", -32700, "the message is no JSON")
  }
}

const isBlank = (line: Line) => "bytes" in line && line.bytes.every((byte) => byte === 10 || byte === 13 || byte === 32)

/**
 * The same `Stdio` with an input of whole messages, one a chunk, which completes `closed` at its end, and an output that a client
 * who takes nothing for `patience` after that is not waited for any more.
 */
export const guarded = (
  stdio: Stdio.Stdio,
  closed: Deferred.Deferred<void>,
  patience: Duration.Duration
): Stdio.Stdio => {
  let isDeaf = false
  const lost = Deferred.await(closed).pipe(
    Effect.andThen(Effect.sleep(patience)),
    Effect.andThen(Effect.sync(() => void (isDeaf = true)))
  )
  const write = (chunk: ReadonlyArray<string | Uint8Array>) =>
    Effect.suspend(() =>
      isDeaf
        ? Effect.void
        : Effect.raceFirst(Stream.run(Stream.fromIterable(chunk), stdio.stdout({ endOnDone: false })), lost)
    )
  const messages = Stream.suspend(() => {
    const lines = new Lines()
    return stdio.stdin.pipe(
      Stream.flatMap((chunk) => Stream.fromIterable(lines.push(chunk))),
      Stream.flatMap((line) => {
        if (isBlank(line)) return Stream.empty
        const answer = objection(line)
        if (answer !== undefined) return Stream.fromEffectDrain(Effect.ignore(write([answer])))
        return "bytes" in line ? Stream.succeed(line.bytes) : Stream.empty
      })
    )
  })
  return Stdio.make({
    ...stdio,
    stdin: Stream.concat(messages, Stream.fromEffectDrain(Deferred.succeed(closed, undefined))),
    stdout: () => Sink.forEachArray(write)
  })
}
