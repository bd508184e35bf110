/**
 * Reading at the pace of the garbage collector.
 *
 * Every read has a fresh buffer, for whoever gets it may keep it, and one that nobody kept is freed by a collection only. V8
 * begins one when some 64 MiB of them lie about and marks beside the program for tens of ms, in which a fast pipe brings as
 * much again; what comes while it marks outlives it, so that twice that is held. Who has read a lot since the last
 * collection therefore rests a moment between reads: the next one begins and ends sooner. It costs some tens of ms a gigabyte,
 * and a consumer that keeps everything 1 ms for 16 MiB.
 */

/** Less than what V8 waits for: what was read while it marked is not counted here and counts there. */
const restAfter = 48 * 1024 * 1024

/** How much is read between two rests. */
const restEvery = 16 * 1024 * 1024

/** How long a rest is, in native time: the collector knows no other. */
export const restMillis = 1

// One for all streams of the process, as the collector is.
let read = 0
let next = restAfter

/** Its entry is dropped by a collection, never by the smaller ones that leave most buffers where they are. */
const collections = new FinalizationRegistry<void>(() => {
  read = 0
  next = restAfter
  watch()
})
const watch = (): void => collections.register({}, undefined)
watch()

/** Counts what was read into a fresh buffer; true when its reader has to rest for {@link restMillis} before the next. */
export const isRestDue = (bytes: number): boolean => {
  read += bytes
  if (read < next) return false
  next = read + restEvery
  return true
}
