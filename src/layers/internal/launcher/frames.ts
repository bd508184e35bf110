/**
 * The lines that the launcher sends, each `<nonce> <type> …`:
 *
 * - `start <next> .`: the command runs; `next` is the number of the next chunk of input, `eof` after its end, or empty
 * - `fail <subject> <code> .`: it could not be started
 * - `1 <offset> <base64> <end>`, `2 …`: output, with the offsets of its first byte and after its last
 * - `on .`: nothing new; the reader lives
 * - `in <taken> .`: how many chunks of input were taken; `closed` when the command reads no more
 * - `exit <json> .`; `lost .`: nobody is left to say how it ended; `none .`: there is no such process
 * - `turn .`: there is more to come, for whoever asks again
 *
 * Anything else is not ours and is left out, as is a line that was torn: what is missing then shows as a gap.
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/** The exit file. `left`: the group has living members; `broken`: the disk was full and output was lost. */
export const ExitJson = Schema.Struct({
  code: Schema.Int,
  out: Schema.Int,
  err: Schema.Int,
  reason: Schema.optionalKey(Schema.Literal("deadline")),
  signal: Schema.optionalKey(Schema.String),
  left: Schema.optionalKey(Schema.Boolean),
  broken: Schema.optionalKey(Schema.Boolean)
})
export type ExitJson = typeof ExitJson.Type

export type Frame =
  | { readonly type: "start"; readonly next: number | "eof" | undefined }
  | { readonly type: "fail"; readonly subject: string; readonly code: string }
  | {
      readonly type: "output"
      readonly stream: "stdout" | "stderr"
      readonly offset: number
      readonly bytes: Uint8Array
    }
  | { readonly type: "input"; readonly taken: number | "closed" }
  | { readonly type: "exit"; readonly exit: ExitJson }
  | { readonly type: "on" }
  | { readonly type: "lost" }
  | { readonly type: "none" }
  | { readonly type: "turn" }

/** The text of an exit file. */
export const decodeExit = Schema.decodeUnknownOption(Schema.fromJsonString(ExitJson))

const count = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d{1,16}$/.test(text) ? Number(text) : undefined

const output = (stream: "stdout" | "stderr", [from, base64, to, ...more]: ReadonlyArray<string>): Frame | undefined => {
  const offset = count(from)
  const end = count(to)
  if (offset === undefined || end === undefined || base64 === undefined || more.length > 0) return undefined
  if (base64.length !== Math.ceil((end - offset) / 3) * 4) return undefined
  const bytes = Buffer.from(base64, "base64")
  return bytes.length === end - offset ? { type: "output", stream, offset, bytes } : undefined
}

const control = (words: ReadonlyArray<string>): Frame | undefined => {
  const [type, first, second] = words
  switch (type) {
    case "start":
      return { type, next: first === "eof" ? first : count(first) }
    case "fail":
      return first !== undefined && second !== undefined ? { type, subject: first, code: second } : undefined
    case "in": {
      const taken = first === "closed" ? first : count(first)
      return taken === undefined ? undefined : { type: "input", taken }
    }
    case "exit":
      return Option.getOrUndefined(Option.map(decodeExit(first), (exit): Frame => ({ type: "exit", exit })))
    case "on":
    case "lost":
    case "none":
    case "turn":
      return { type }
    default:
      return undefined
  }
}

/** What a line says, if it is a whole one of ours. */
export const parse = (nonce: string, line: string): Frame | undefined => {
  if (!line.startsWith(`${nonce} `)) return undefined
  const words = line.slice(nonce.length + 1).split(" ")
  if (words[0] === "1") return output("stdout", words.slice(1))
  if (words[0] === "2") return output("stderr", words.slice(1))
  return words.pop() === "." ? control(words) : undefined
}

/** No line of ours is longer: a mebibyte in base64 and its offsets. */
const maxLine = 2 * 1024 * 1024

/** Puts the pieces of a transport together to lines, and finds the frames in them. */
export class Decoder {
  private readonly nonce: string
  private readonly text = new TextDecoder("latin1")
  private rest = ""
  private skipping = false

  constructor(nonce: string) {
    this.nonce = nonce
  }

  /** The frames that this piece completes. */
  push(piece: Uint8Array | string): Array<Frame> {
    const lines = (typeof piece === "string" ? piece : this.text.decode(piece)).split("\n")
    const last = lines.pop() ?? ""
    const frames: Array<Frame> = []
    for (const line of lines) {
      const frame = this.skipping ? undefined : parse(this.nonce, this.rest + line)
      this.rest = ""
      this.skipping = false
      if (frame !== undefined) frames.push(frame)
    }
    this.rest += last
    if (this.rest.length > maxLine) {
      this.rest = ""
      this.skipping = true
    }
    return frames
  }
}
