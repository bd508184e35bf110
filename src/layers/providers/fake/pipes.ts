/** What connects a process with its readers and writers: its output with a position for each byte, and its input. */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { OutputPosition } from "../../../model/Process.ts"
import type { OutputChunk } from "../../../services/SandboxProvider.ts"

/** How much of a pipe is held: as much as Linux does. */
const capacity = 64 * 1024

/** Everybody who waits for a change; each looks for itself whether it is the one. */
class Bell {
  private waiting: Array<() => void> = []

  ring(): void {
    const now = this.waiting
    this.waiting = []
    for (const wake of now) wake()
  }

  /** Resolves at the next ring, or at once when there is something to do already: a ring in between is not missed. */
  next(ready: () => boolean): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const wake = () => resume(Effect.void)
      if (ready()) return wake()
      this.waiting.push(wake)
      return Effect.sync(() => {
        this.waiting = this.waiting.filter((other) => other !== wake)
      })
    })
  }
}

/**
 * The output of one process. A kept one holds everything that was not released, for readers that come again; the other has one
 * reader, forgets what was read, and lets the writer wait.
 */
export class Output {
  private readonly kept: boolean
  private readonly bell = new Bell()
  private readonly end = { stdout: 0, stderr: 0 }
  private readonly unread = { stdout: 0, stderr: 0 }
  private chunks: Array<OutputChunk> = []
  /** How many chunks were dropped before the first that is held. */
  private dropped = 0
  private closed = false

  constructor(kept: boolean) {
    this.kept = kept
  }

  /** How many bytes there have been. */
  get position(): OutputPosition {
    return { ...this.end }
  }

  /** Waits while the pipe is full. After the end it does nothing. */
  write(stream: "stdout" | "stderr", bytes: Uint8Array): Effect.Effect<void> {
    if (bytes.length === 0) return Effect.void
    // A pipe's worth at a time, so that what is held stays bounded however much is written at once.
    if (!this.kept && bytes.length > capacity) {
      return Effect.forEach(
        Array.from({ length: Math.ceil(bytes.length / capacity) }, (_, index) =>
          bytes.subarray(index * capacity, (index + 1) * capacity)
        ),
        (part) => this.write(stream, part),
        { discard: true }
      )
    }
    return Effect.suspend(() => {
      if (this.closed) return Effect.void
      const fits = () =>
        this.kept || this.closed || this.unread[stream] === 0 || this.unread[stream] + bytes.length <= capacity
      if (!fits()) return Effect.andThen(this.bell.next(fits), this.write(stream, bytes))
      this.chunks.push({ stream, offset: this.end[stream], bytes: bytes.slice() })
      this.end[stream] += bytes.length
      this.unread[stream] += bytes.length
      this.bell.ring()
      return Effect.void
    })
  }

  close(): void {
    this.closed = true
    this.bell.ring()
  }

  /** Frees what lies before a position. */
  release(position: OutputPosition): void {
    if (!this.kept) return
    while (this.chunks.length > 0) {
      const [first] = this.chunks
      if (first === undefined || first.offset + first.bytes.length > position[first.stream]) return
      this.chunks.shift()
      this.dropped++
    }
  }

  /** Everything from a position, live, until the end. */
  read(from: OutputPosition): Stream.Stream<OutputChunk> {
    let next = 0
    const take = (): ReadonlyArray<OutputChunk> => {
      const held = this.chunks.slice(Math.max(0, next - this.dropped))
      next = this.dropped + this.chunks.length
      if (!this.kept) {
        this.dropped = next
        this.chunks = []
        this.unread.stdout = 0
        this.unread.stderr = 0
        this.bell.ring()
      }
      return held.flatMap((chunk) => {
        const skip = from[chunk.stream] - chunk.offset
        if (skip >= chunk.bytes.length) return []
        return skip <= 0 ? [chunk] : [{ ...chunk, offset: from[chunk.stream], bytes: chunk.bytes.subarray(skip) }]
      })
    }
    const pull: Effect.Effect<Arr.NonEmptyReadonlyArray<OutputChunk>, Cause.Done> = Effect.suspend(() => {
      const [first, ...rest] = take()
      if (first !== undefined) return Effect.succeed<Arr.NonEmptyReadonlyArray<OutputChunk>>([first, ...rest])
      return this.closed
        ? Cause.done()
        : Effect.andThen(
            this.bell.next(() => this.closed || next < this.dropped + this.chunks.length),
            pull
          )
    })
    return Stream.fromPull(Effect.succeed(pull))
  }
}

/** How a write to an input went. */
export type Written = "written" | "finished" | "closed"

/** The input of one process. */
export class Input {
  private readonly bell = new Bell()
  private chunks: Array<Uint8Array> = []
  private held = 0
  private state: "open" | "finished" | "closed"
  private readonly onRead: (bytes: Uint8Array) => void

  constructor(open: boolean, onRead: (bytes: Uint8Array) => void) {
    this.state = open ? "open" : "finished"
    this.onRead = onRead
  }

  /** Resolves when the pipe has all of it, or nobody will read it. */
  write(bytes: Uint8Array): Effect.Effect<Written> {
    return Effect.suspend(() => {
      if (this.state !== "open") return Effect.succeed(this.state)
      this.chunks.push(bytes.slice())
      this.held += bytes.length
      this.bell.ring()
      return this.taken
    })
  }

  /** Nobody writes any more. */
  finish(): void {
    if (this.state === "open") this.state = "finished"
    this.bell.ring()
  }

  /** Nobody reads any more. */
  close(): void {
    this.state = "closed"
    this.chunks = []
    this.held = 0
    this.bell.ring()
  }

  /** What is left of the input, as it comes. */
  readonly read: Stream.Stream<Uint8Array> = Stream.fromPull(
    Effect.sync(() => {
      const pull: Effect.Effect<Arr.NonEmptyReadonlyArray<Uint8Array>, Cause.Done> = Effect.suspend(() => {
        const [first, ...rest] = this.chunks
        if (first !== undefined) {
          this.chunks = rest
          this.held -= first.length
          this.onRead(first)
          this.bell.ring()
          return Effect.succeed<Arr.NonEmptyReadonlyArray<Uint8Array>>([first])
        }
        return this.state === "open"
          ? Effect.andThen(
              this.bell.next(() => this.chunks.length > 0 || this.state !== "open"),
              pull
            )
          : Cause.done()
      })
      return pull
    })
  )

  private readonly taken: Effect.Effect<Written> = Effect.suspend(() => {
    if (this.state === "closed") return Effect.succeed<Written>("closed")
    if (this.held <= capacity) return Effect.succeed<Written>("written")
    return Effect.andThen(
      this.bell.next(() => this.held <= capacity || this.state === "closed"),
      this.taken
    )
  })
}
