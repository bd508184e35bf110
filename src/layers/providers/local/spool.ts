/**
 * The append-only record of one output stream: a pipe is pumped into numbered files of equal size. The command has the pipe,
 * never a file: with a file, `echo x >/dev/stdout` would truncate its own log.
 *
 * Imports `node:*` only, because the supervisor does too.
 */
import * as Fs from "node:fs"
import type * as Net from "node:net"
import { setTimeout as delay } from "node:timers/promises"
import type { StreamName } from "./wire.ts"
import { segmentBytes, segmentPath } from "./wire.ts"

/** How much lies between the pipe and the file. */
const maxPending = 1024 * 1024

/** The most that a pipe can have held at the exit (`F_SETPIPE_SZ` of an ordinary user): what comes after it is a descendant's. */
const pipeMaximum = 1024 * 1024

/** How often a write is tried again on a full disk; the command waits meanwhile. */
const retryMillis = 500

export interface Spool {
  /** Bytes in the files. */
  readonly length: () => number
  /** True when the directory was taken away, and output with it. */
  readonly isLost: () => boolean
  /** Frees whole files before this position, and so lets a pump that stands at its quota go on. */
  readonly release: (position: number) => void
  /**
   * The process has ended: reads what there is, at most `millis` when somebody else holds the pipe, and whatever the quota
   * says, for a pipe holds little. Resolves when all of it is in the files.
   */
  readonly finish: (millis: number) => Promise<void>
}

/** Starts to pump. `grown` is called after each write. */
export const make = (options: {
  /** The reading end of the pipe, which nobody else uses. */
  readonly socket: Net.Socket
  readonly directory: string
  readonly stream: StreamName
  readonly quota: number
  readonly grown: () => void
  readonly log: (text: string) => void
}): Spool => {
  const { directory, grown, log, quota, socket, stream } = options
  let pending: Array<Buffer> = []
  let pendingBytes = 0
  let length = 0
  let released = 0
  let file: number | undefined
  let writing = false
  let ended = false
  let lost = false
  let finishing = false
  let lastData = performance.now()
  let late = 0
  let settle = (): void => {}
  const settled = new Promise<void>((resolve) => {
    settle = resolve
  })

  const isFull = () => !finishing && length + pendingBytes - released >= quota
  const regulate = () => {
    if (pendingBytes >= maxPending || isFull()) socket.pause()
    else if (socket.isPaused()) socket.resume()
  }

  const write = (chunks: ReadonlyArray<Buffer>): Promise<number> =>
    new Promise((resolve, reject) => {
      file ??= Fs.openSync(segmentPath(directory, stream, Math.floor(length / segmentBytes)), "a", 0o600)
      Fs.writev(file, chunks, (error, written) => (error === null ? resolve(written) : reject(error)))
    })

  /** As much as fits into the file that is being written; the rest stays. */
  const nextBatch = (): ReadonlyArray<Buffer> => {
    let room = segmentBytes - (length % segmentBytes)
    const batch: Array<Buffer> = []
    for (const chunk of pending) {
      if (room === 0) break
      const part = chunk.length <= room ? chunk : chunk.subarray(0, room)
      batch.push(part)
      room -= part.length
    }
    return batch
  }

  const drop = (bytes: number) => {
    pendingBytes -= bytes
    let left = bytes
    while (left > 0) {
      const [first] = pending
      if (first === undefined) return
      if (first.length <= left) {
        left -= first.length
        pending.shift()
      } else {
        pending[0] = first.subarray(left)
        left = 0
      }
    }
  }

  const closeFile = () => {
    if (file !== undefined) Fs.closeSync(file)
    file = undefined
  }

  const flush = async () => {
    if (writing) return
    writing = true
    while (pending.length > 0) {
      try {
        const written = await write(nextBatch())
        drop(written)
        length += written
        if (length % segmentBytes === 0) closeFile()
        grown()
      } catch (error) {
        log(`cannot write ${directory}/${stream}: ${String(error)}`)
        if (Fs.existsSync(directory)) await delay(retryMillis)
        else {
          // Its sandbox was deleted: no wait brings it back.
          lost = true
          drop(pendingBytes)
          socket.destroy()
        }
      }
      regulate()
    }
    writing = false
    if (ended) {
      closeFile()
      settle()
    }
  }

  socket.on("data", (chunk: Buffer) => {
    lastData = performance.now()
    if (finishing) late += chunk.length
    pending.push(chunk)
    pendingBytes += chunk.length
    regulate()
    void flush()
  })
  socket.on("error", (error) => log(`cannot read ${stream} of ${directory}: ${String(error)}`))
  socket.on("close", () => {
    ended = true
    void flush()
  })

  return {
    length: () => length,
    isLost: () => lost,
    release: (position) => {
      const keep = Math.floor(Math.min(position, length) / segmentBytes)
      for (let index = Math.floor(released / segmentBytes); index < keep; index++) {
        Fs.rmSync(segmentPath(directory, stream, index), { force: true })
      }
      released = Math.max(released, keep * segmentBytes)
      regulate()
    },
    finish: async (millis) => {
      finishing = true
      regulate()
      const first = performance.now() + millis
      let until = first
      const watch = setInterval(() => {
        const now = performance.now()
        // Time in which nothing was read, because the disk is slow, tells nothing about the pipe.
        if (socket.isPaused()) until = now + millis
        if (now >= first && late > pipeMaximum) socket.destroy()
        else if (now >= until) setImmediate(leaveIfEmpty, now, until)
      }, 25)
      /** After a look at the pipe: timers come before it, and whatever has kept this program busy may have kept it from reading. */
      const leaveIfEmpty = (now: number, until: number) => {
        if (!socket.isPaused() && (now - lastData > 50 || now > until + millis)) socket.destroy()
      }
      await settled
      clearInterval(watch)
    }
  }
}

/** The length of a spool whose writer is dead. */
export const lengthOf = (directory: string, stream: StreamName): number => {
  let length = 0
  for (const name of Fs.readdirSync(directory)) {
    const index = name.startsWith(`${stream}.`) ? Number(name.slice(stream.length + 1)) : NaN
    if (Number.isInteger(index)) {
      length = Math.max(length, index * segmentBytes + Fs.statSync(segmentPath(directory, stream, index)).size)
    }
  }
  return length
}
