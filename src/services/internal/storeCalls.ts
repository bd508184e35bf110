/**
 * The store and the log as the service uses them: each call has a deadline, and a read that fails in passing is tried again, on the
 * policy's schedule.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { SandboxError, Store } from "../../errors.ts"
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

const noAnswer = (operation: string, kind: "Unavailable" | "OutcomeUnknown", deadline: Duration.Duration) =>
  new SandboxError({ operation, reason: new Store({ kind, detail: `no answer within ${Duration.format(deadline)}` }) })

/**
 * What has not answered by then never will, also where nothing else would end the wait: a write of a service that is closing. It is
 * interrupted, and not waited for: a driver may be deaf to that too.
 */
const within =
  (deadline: Duration.Duration, service: string) =>
  <Args extends ReadonlyArray<unknown>, A>(
    operation: string,
    kind: "Unavailable" | "OutcomeUnknown",
    call: (...args: Args) => Effect.Effect<A, SandboxError>
  ) =>
  (...args: Args): Effect.Effect<A, SandboxError> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.forkDetach(call(...args), { startImmediately: true }), (fiber) => {
        // A store of this process has answered by now, without the cost of a race.
        const exit = fiber.pollUnsafe()
        if (exit !== undefined) return exit
        const answer = Effect.timeoutOrElse(Fiber.join(fiber), {
          duration: deadline,
          orElse: () => {
            fiber.interruptUnsafe()
            return Effect.fail(noAnswer(`${service}.${operation}`, kind, deadline))
          }
        })
        return Effect.onInterrupt(restore(answer), () => Fiber.interrupt(fiber))
      })
    )

/** The same of a list, of which each page is an answer. */
const paged =
  (deadline: Duration.Duration, operation: string) =>
  <A>(list: Stream.Stream<A, SandboxError>): Stream.Stream<A, SandboxError> =>
    Stream.timeoutOrElse(list, {
      duration: deadline,
      orElse: () => Stream.fail(noAnswer(operation, "Unavailable", deadline))
    })

/** Reads are retried. Writes are by those who make them: only they know what an answer that was lost means. */
export const storeCalls = (
  store: SandboxStore["Service"],
  schedule: RecoverySchedule,
  deadline: Duration.Duration
): SandboxStore["Service"] => {
  const bounded = within(deadline, "SandboxStore")
  const retried = retryTransient(schedule)
  const namespace = bounded("namespace", "Unavailable", () => store.namespace)
  const getSandbox = bounded("getSandbox", "Unavailable", store.getSandbox)
  const getProcess = bounded("getProcess", "Unavailable", store.getProcess)
  const listedSandboxes = paged(deadline, "SandboxStore.listSandboxes")
  const listedProcesses = paged(deadline, "SandboxStore.listProcesses")
  return {
    kind: store.kind,
    namespace: retried(Effect.suspend(namespace)),
    insertSandbox: bounded("insertSandbox", "OutcomeUnknown", store.insertSandbox),
    getSandbox: (id) => retried(getSandbox(id)),
    listSandboxes: (...args) =>
      resumedList(schedule, listedSandboxes(store.listSandboxes(...args)), (record) => record.createdAt),
    updateSandbox: bounded("updateSandbox", "OutcomeUnknown", store.updateSandbox),
    deleteSandbox: bounded("deleteSandbox", "OutcomeUnknown", store.deleteSandbox),
    acquireSandboxLease: bounded("acquireSandboxLease", "OutcomeUnknown", store.acquireSandboxLease),
    renewSandboxLease: bounded("renewSandboxLease", "OutcomeUnknown", store.renewSandboxLease),
    releaseSandboxLease: bounded("releaseSandboxLease", "OutcomeUnknown", store.releaseSandboxLease),
    insertProcess: bounded("insertProcess", "OutcomeUnknown", store.insertProcess),
    getProcess: (id) => retried(getProcess(id)),
    listProcesses: (...args) =>
      resumedList(schedule, listedProcesses(store.listProcesses(...args)), (record) => record.startedAt),
    updateProcess: bounded("updateProcess", "OutcomeUnknown", store.updateProcess),
    deleteProcess: bounded("deleteProcess", "OutcomeUnknown", store.deleteProcess),
    acquireProcessLease: bounded("acquireProcessLease", "OutcomeUnknown", store.acquireProcessLease),
    renewProcessLease: bounded("renewProcessLease", "OutcomeUnknown", store.renewProcessLease),
    releaseProcessLease: bounded("releaseProcessLease", "OutcomeUnknown", store.releaseProcessLease)
  }
}

/** The same of the log. */
export const logCalls = (
  log: ProcessLog["Service"],
  schedule: RecoverySchedule,
  deadline: Duration.Duration
): ProcessLog["Service"] => {
  const bounded = within(deadline, "ProcessLog")
  const retried = retryTransient(schedule)
  const lastPosition = bounded("lastPosition", "Unavailable", log.lastPosition)
  const readIn = paged(deadline, "ProcessLog.read")
  const findKey = bounded("findKey", "Unavailable", log.findKey)
  return {
    ...log,
    append: bounded("append", "OutcomeUnknown", log.append),
    read: (processId, options) =>
      resumed(schedule, (last) => {
        const events = log.read(processId, last === undefined ? options : { ...options, after: last.seq })
        // Of one that follows a silence is no failure.
        return options?.follow === true ? events : readIn(events)
      }),
    lastPosition: (processId) => retried(lastPosition(processId)),
    findKey: (processId, key) => retried(findKey(processId, key))
  }
}
