/** Input for a guest that takes none: numbered files, uploaded in order, which the runner feeds to the command. */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../../errors.ts"
import type { GuestFile } from "./transport.ts"

/** What is written within this time travels together. */
const batch = Duration.millis(20)

const maxChunk = 256 * 1024

/** So many chunks may lie in the guest unread. */
const maxUnread = 8

interface Item {
  /** Absent for the end of the input. */
  readonly bytes?: Uint8Array
  readonly done: Deferred.Deferred<void, SandboxError>
}

export interface Input {
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, SandboxError>
  readonly close: Effect.Effect<void, SandboxError>
  /** The guest took so many chunks; with `closed` it takes no more. */
  readonly taken: (count: number | "closed") => void
}

export interface InputOptions {
  readonly directory: string
  /** The number of the first chunk, or `eof` when the input has ended before. */
  readonly next: number | "eof"
  /** Idempotent: the same files again change nothing. */
  readonly upload: (files: ReadonlyArray<GuestFile>) => Effect.Effect<void, SandboxError>
  /** Fails when the process has ended. */
  readonly ended: Effect.Effect<never, SandboxError>
  /** The process lives and reads no more. */
  readonly unread: () => SandboxError
  readonly closedBefore: () => SandboxError
}

const concat = (items: ReadonlyArray<Item>): Uint8Array => {
  const [only] = items
  if (items.length === 1 && only?.bytes !== undefined) return only.bytes
  return Buffer.concat(items.map((item) => item.bytes ?? new Uint8Array(0)))
}

/** The writing end. One upload is under way at a time; a writer waits until its bytes are in the guest. */
export const make = Effect.fnUntraced(function* (options: InputOptions): Effect.fn.Return<Input, never, Scope.Scope> {
  // As long as there are writers that wait.
  const queue = yield* Queue.unbounded<Item>()
  let next = options.next === "eof" ? 0 : options.next
  let taken = next
  let closed = options.next === "eof"
  let refused = false
  let wake: (() => void) | undefined

  /** How many chunks may be sent now. */
  const room: Effect.Effect<number, SandboxError> = Effect.suspend(() => {
    if (refused) return Effect.fail(options.unread())
    const free = maxUnread - (next - taken)
    if (free > 0) return Effect.succeed(free)
    return Effect.andThen(
      Effect.callback<void>((resume) => {
        wake = () => resume(Effect.void)
        return Effect.sync(() => {
          wake = undefined
        })
      }),
      room
    )
  })

  const send = Effect.fnUntraced(function* (bytes: Uint8Array) {
    for (let at = 0; at < bytes.length;) {
      const free = yield* room
      const files: Array<GuestFile> = []
      for (; at < bytes.length && files.length < free; at += maxChunk) {
        const chunk = bytes.subarray(at, at + maxChunk)
        const path = `${options.directory}/in/${next + files.length}.${chunk.length}`
        files.push({ path, bytes: chunk, mode: 0o600 })
      }
      yield* options.upload(files)
      next += files.length
    }
  })

  const finish = Effect.suspend(() =>
    options.upload([{ path: `${options.directory}/in/${next}.eof`, bytes: new Uint8Array(0), mode: 0o600 }])
  )

  const settle = (items: ReadonlyArray<Item>, effect: Effect.Effect<void, SandboxError>) =>
    Effect.raceFirst(effect, options.ended).pipe(
      Effect.exit,
      Effect.map((exit) => items.forEach((item) => Deferred.doneUnsafe(item.done, exit)))
    )

  yield* Effect.gen(function* () {
    const first = yield* Queue.take(queue)
    const items = [first]
    let size = first.bytes?.length ?? 0
    if (first.bytes !== undefined && size < maxChunk) yield* Effect.sleep(batch)
    while (size < maxChunk && (yield* Queue.size(queue)) > 0) {
      const item = yield* Queue.take(queue)
      items.push(item)
      size += item.bytes?.length ?? 0
    }
    const data = items.filter((item) => item.bytes !== undefined)
    if (data.length > 0) yield* settle(data, send(concat(data)))
    const ends = items.filter((item) => item.bytes === undefined)
    if (ends.length > 0) yield* settle(ends, finish)
  }).pipe(Effect.forever, Effect.forkScoped)

  const submit = (bytes?: Uint8Array): Effect.Effect<void, SandboxError> =>
    Effect.suspend(() => {
      const done = Deferred.makeUnsafe<void, SandboxError>()
      return Effect.andThen(
        Queue.offer(queue, bytes === undefined ? { done } : { bytes, done }),
        // The writer above goes with the Scope.
        Effect.raceFirst(Deferred.await(done), options.ended)
      )
    })

  return {
    write: (bytes) =>
      Effect.suspend(() => {
        if (refused) return Effect.fail(options.unread())
        if (closed) return Effect.raceFirst(options.ended, Effect.fail(options.closedBefore()))
        return bytes.length === 0 ? Effect.void : submit(bytes)
      }),
    close: Effect.suspend(() => {
      if (closed || refused) return Effect.void
      closed = true
      return submit()
    }),
    taken: (count) => {
      if (count === "closed") refused = true
      else taken = Math.max(taken, count)
      const waiting = wake
      wake = undefined
      waiting?.()
    }
  }
})

/** For a process that was started without input. */
export const none = (ended: Effect.Effect<never, SandboxError>, closedBefore: () => SandboxError): Input => ({
  write: () => Effect.raceFirst(ended, Effect.fail(closedBefore())),
  close: Effect.void,
  taken: () => {}
})

/** What a settled exit is worth to a writer. */
export const endedOf = <A>(
  exit: Deferred.Deferred<A, SandboxError>,
  error: () => SandboxError
): Effect.Effect<never, SandboxError> =>
  Effect.flatMap(Effect.exit(Deferred.await(exit)), (ended) =>
    Exit.isSuccess(ended) ? Effect.fail(error()) : Effect.failCause(ended.cause)
  )
