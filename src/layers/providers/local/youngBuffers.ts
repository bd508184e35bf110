/**
 * Freeing what was read while it is young.
 *
 * Every read has a fresh buffer, for whoever gets it may keep it, and one that nobody kept is freed by a collection only. V8
 * begins one when some 64 MiB of them lie about: a full one, that marks for 50 ms, in which a fast pipe brings as much again.
 * A collection of the young generation finds the same buffers in half a millisecond, but V8 makes one when small objects fill
 * its space, of which a buffer of 64 KiB has hardly any. So one is asked for, each time that much was read: a gigabyte takes
 * 16 MiB instead of 130, and less time, for the full ones never begin.
 */
import * as V8 from "node:v8"
import * as Vm from "node:vm"

/** How much is read between two collections. */
const collectEvery = 16 * 1024 * 1024

/**
 * V8's own `gc`, that Node shows to who starts it with `--expose-gc` only. A context made while the flag is set has it too, and
 * nothing else of the program sees a difference. Where a runtime refuses, buffers are freed when it sees fit.
 */
const minorCollection = (): (() => void) => {
  try {
    V8.setFlagsFromString("--expose-gc")
    const collect: unknown = Vm.runInNewContext("gc")
    if (globalThis.gc === undefined) V8.setFlagsFromString("--no-expose-gc")
    return typeof collect === "function" ? () => void collect({ type: "minor" }) : () => {}
  } catch {
    return () => {}
  }
}

// One for all streams of the process, as the collector is.
let read = 0
let collect: (() => void) | undefined

/** To be told of what was read into a fresh buffer, before it is handed on. */
export const noteRead = (bytes: number): void => {
  read += bytes
  if (read < collectEvery) return
  read = 0
  collect ??= minorCollection()
  collect()
}
