/** The store and the log as the service uses them: a read that fails in passing is tried again, on the policy's schedule. */
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import type { ProcessLog } from "../ProcessLog.ts"
import type { RecoverySchedule } from "../RecoveryPolicy.ts"
import { retryTransient } from "../RecoveryPolicy.ts"
import type { SandboxStore } from "../SandboxStore.ts"

/**
 * A stream that goes on behind what it delivered last when its source fails in passing. The schedule begins anew whenever
 * something has arrived.
 */
const resumed = <A>(
  schedule: RecoverySchedule,
  open: (last: A | undefined) => Stream.Stream<A, SandboxError>
): Stream.Stream<A, SandboxError> =>
  Stream.suspend(() => {
    let last: A | undefined
    return Stream.suspend(() => open(last)).pipe(
      Stream.mapArray((items) => {
        last = items.at(-1)
        return items
      }),
      Stream.retry(Schedule.while(schedule, ({ input }) => input.isRetryable))
    )
  })

/** Lists are newest first, then by id: what comes after the last record, whatever was inserted or has changed meanwhile. */
const resumedList = <A extends { readonly id: string }>(
  schedule: RecoverySchedule,
  list: Stream.Stream<A, SandboxError>,
  at: (record: A) => number
): Stream.Stream<A, SandboxError> =>
  resumed<A>(schedule, (last) =>
    last === undefined
      ? list
      : Stream.dropWhile(list, (next) => at(next) > at(last) || (at(next) === at(last) && next.id >= last.id))
  )

/** Every read of the store. Writes are retried by those who make them: only they know what an answer that was lost means. */
export const retriedStore = (store: SandboxStore["Service"], schedule: RecoverySchedule): SandboxStore["Service"] => {
  const retried = retryTransient(schedule)
  return {
    ...store,
    namespace: retried(store.namespace),
    getSandbox: (id) => retried(store.getSandbox(id)),
    listSandboxes: (...args) => resumedList(schedule, store.listSandboxes(...args), (record) => record.createdAt),
    getProcess: (id) => retried(store.getProcess(id)),
    listProcesses: (...args) => resumedList(schedule, store.listProcesses(...args), (record) => record.startedAt)
  }
}

/** Every read of the log. */
export const retriedLog = (log: ProcessLog["Service"], schedule: RecoverySchedule): ProcessLog["Service"] => {
  const retried = retryTransient(schedule)
  return {
    ...log,
    read: (processId, options) =>
      resumed(schedule, (last) => log.read(processId, last === undefined ? options : { ...options, after: last.seq })),
    lastPosition: (processId) => retried(log.lastPosition(processId)),
    findKey: (processId, key) => retried(log.findKey(processId, key))
  }
}
