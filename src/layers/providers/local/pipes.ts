/**
 * Real pipes for the standard streams of a command.
 *
 * What Node gives a child as a "pipe" is a socket pair, and a socket cannot be opened by name: `echo x >/dev/stdout`, `tee
 * /dev/stderr` and `cat /dev/stdin` fail there with ENXIO. Node has no pipe(2), so both ends of a FIFO are opened here and its
 * name is removed before the command starts. FIFOs are made in batches by `mkfifo`, ahead of need: a command costs no
 * second process, and starts and streams as fast as with Node's own.
 *
 * Imports `node:*` only, because the supervisor does too.
 */
import { execFile, execFileSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"

const { O_NONBLOCK, O_RDONLY, O_WRONLY } = Fs.constants

/** Two file descriptors of one pipe. Ours does not block, the command's does, as programs expect. */
export interface Pipe {
  readonly ours: number
  readonly theirs: number
}

/** A stock of pipes. All of it is synchronous, as `spawn` itself is. */
export interface Pipes {
  /** A pipe that the command writes and we read. */
  readonly output: () => Pipe
  /** A pipe that we write and the command reads. */
  readonly input: () => Pipe
  /** Takes the directory away. Pipes that were handed out live on. */
  readonly close: () => void
}

/**
 * Lets a program open its input by name (`cat /dev/stdin`) after our end was closed: opening a FIFO that has no writer waits for
 * one, which is what tells it from a pipe. Call it while `fd`, our end, is open; from then on whoever waits is let in within
 * moments and reads what is there and the end. The result ends it. macOS duplicates the descriptor instead and needs nothing.
 */
export const admitLateReaders = (fd: number): (() => void) => {
  if (process.platform !== "linux") return () => {}
  // Without a descriptor to spare there is no late reader, and nothing else is lost.
  const open = (other: number, flags: number): number | undefined => {
    try {
      return Fs.openSync(`/proc/self/fd/${other}`, flags | O_NONBLOCK)
    } catch {
      return undefined
    }
  }
  // Keeps what was written, when the command's own end should be closed meanwhile.
  const held = open(fd, O_RDONLY)
  if (held === undefined) return () => {}
  let timer: NodeJS.Timeout
  const knock = (pause: number) => {
    timer = setTimeout(() => {
      const writer = open(held, O_WRONLY)
      if (writer !== undefined) Fs.closeSync(writer)
      knock(Math.min(pause * 2, 1_000))
    }, pause).unref()
  }
  knock(4)
  return () => {
    clearTimeout(timer)
    Fs.closeSync(held)
  }
}

const batch = 64
const lowWater = 16

/** A stock in a directory of its own below `parent`. Throws when the directory cannot be made. */
export const make = (parent: string, name: string): Pipes => {
  const directory = Path.join(parent, name)
  Fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  let stock: Array<string> = []
  let refilling = false
  let closed = false

  const names = () => Array.from({ length: batch }, () => Path.join(directory, randomUUID()))
  const refill = () => {
    if (refilling || closed) return
    refilling = true
    const more = names()
    execFile("mkfifo", ["-m", "600", ...more], { cwd: "/" }, (error) => {
      refilling = false
      if (closed) Fs.rmSync(directory, { recursive: true, force: true })
      // A failure shows at the next `take`, which then makes its own and throws.
      else if (error === null) stock = stock.concat(more)
    }).unref()
  }
  const take = (): string => {
    if (stock.length === 0) {
      const more = names()
      execFileSync("mkfifo", ["-m", "600", ...more], { cwd: "/", stdio: ["ignore", "ignore", "pipe"] })
      stock = more
    } else if (stock.length < lowWater) refill()
    // The stock was filled above.
    return stock.pop() ?? take()
  }
  const open = (use: (path: string, opened: Array<number>) => Pipe): Pipe => {
    const path = take()
    const opened: Array<number> = []
    try {
      return use(path, opened)
    } catch (error) {
      opened.forEach((fd) => Fs.closeSync(fd))
      throw error
    } finally {
      Fs.rmSync(path, { force: true })
    }
  }
  const keep = (opened: Array<number>, fd: number): number => {
    opened.push(fd)
    return fd
  }

  return {
    output: () =>
      open((path, opened) => {
        // The first open must not wait for a writer; the second finds a reader.
        const ours = keep(opened, Fs.openSync(path, O_RDONLY | O_NONBLOCK))
        return { ours, theirs: keep(opened, Fs.openSync(path, O_WRONLY)) }
      }),
    input: () =>
      open((path, opened) => {
        const first = keep(opened, Fs.openSync(path, O_RDONLY | O_NONBLOCK))
        const ours = keep(opened, Fs.openSync(path, O_WRONLY | O_NONBLOCK))
        // A second read end, because O_NONBLOCK belongs to the open file that the command would share.
        const theirs = keep(opened, Fs.openSync(path, O_RDONLY))
        Fs.closeSync(first)
        opened.splice(opened.indexOf(first), 1)
        return { ours, theirs }
      }),
    close: () => {
      closed = true
      Fs.rmSync(directory, { recursive: true, force: true })
    }
  }
}
