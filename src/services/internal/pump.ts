/**
 * Writes the output of one recorded process into its log: one append a batch, whatever the number of chunks, and never more
 * than a few MiB in memory. What is pending when the service goes away is flushed; what the machine still holds is read by
 * the next service from the last byte in the log.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as PlatformError from "effect/PlatformError"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { isSandboxError, OutcomeUnknown, SandboxError, Store, Unavailable } from "../../errors.ts"
import type { ProcessExit, ProcessRecord, ProcessStatus } from "../../model/Process.ts"
import { isTerminal } from "../../model/Process.ts"
import type { ProcessEvent, ProcessEventBody } from "../../model/ProcessEvent.ts"
import type { LogPosition } from "../ProcessLog.ts"
import type { MachineProcess, OutputChunk } from "../SandboxProvider.ts"
import type { ProcessPatch } from "../SandboxStore.ts"
import type { Core } from "./core.ts"
import * as core from "./core.ts"
import * as Metrics from "./metrics.ts"

/** A batch is written at once when it is this large, else after {@link batchInterval}. */
const batchBytes = 1 << 20
const batchInterval = Duration.millis(25)
/** The reader waits while this much is pending. */
const maxPending = 4 << 20
/** The machine is told how far the log has come each time it has come this much further, and at the end. */
const releaseBytes = 16 << 20

const statusOf = (exit: ProcessExit): ProcessStatus =>
  // A stop takes the machine away from the process: nobody can say what it would have come to.
  exit.reason === "stop"
    ? "lost"
    : exit._tag === "Signalled" || exit.reason !== undefined
      ? "killed"
      : exit.code === 0
        ? "exited"
        : "failed"

/** Numbers and writes the events of one process under one epoch. */
export interface Writer {
  readonly append: (bodies: ReadonlyArray<ProcessEventBody>, patch?: ProcessPatch) => Effect.Effect<void, SandboxError>
  readonly position: () => LogPosition
  /** True once the end of the process is written: nothing may come after it. */
  readonly hasEnded: () => boolean
}

export const makeWriter = (self: Core, record: ProcessRecord, epoch: number, from: LogPosition): Writer => {
  let seq = from.seq
  let stdout = from.stdout
  let stderr = from.stderr
  let hasEnded = false
  return {
    position: () => ({ seq, stdout, stderr }),
    hasEnded: () => hasEnded,
    append: (bodies, patch) =>
      Effect.suspend(() => {
        let bytes = 0
        // The seq is what completes a body; TypeScript does not see that through the union.
        const events = bodies.map((body, index) => ({ ...body, seq: seq + index + 1 }) as ProcessEvent)
        const next = { seq: seq + events.length, stdout, stderr }
        for (const event of events) {
          if (event._tag !== "stdout" && event._tag !== "stderr") continue
          next[event._tag] = event.offset + event.bytes.length
          bytes += event.bytes.length
        }
        return self.log.append(record.id, epoch, events, patch).pipe(
          core.retryStore(self),
          Effect.andThen(
            Effect.suspend(() => {
              seq = next.seq
              stdout = next.stdout
              stderr = next.stderr
              if (patch?.status !== undefined && isTerminal(patch.status)) hasEnded = true
              return Metrics.appended(bytes)
            })
          )
        )
      })
  }
}

/** Everything that an end of a process writes; the lease is given back with it. */
export const endPatch = (
  self: Core,
  epoch: number,
  now: number,
  status: ProcessStatus,
  details: ProcessPatch
): ProcessPatch => ({
  status,
  streamFinishedAt: now,
  exitedAt: now,
  updatedAt: now,
  lease: { owner: self.owner, epoch, expiresAt: 0 },
  ...details
})

export interface PumpOptions {
  readonly self: Core
  readonly record: ProcessRecord
  readonly epoch: number
  readonly writer: Writer
  readonly process: MachineProcess
  /** Goes on from the last byte after the way to the machine was cut. */
  readonly resume: (from: LogPosition) => Effect.Effect<MachineProcess, SandboxError>
  /** Why this service has killed the process, if it has. */
  readonly killedFor: () => string | undefined
}

type Failure = SandboxError | PlatformError.PlatformError

/** Runs until the process has ended and everything is written. */
export const pump = (options: PumpOptions): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    const { epoch, record, self, writer } = options
    const base = { sandboxId: record.sandboxId, processId: record.id }
    const ready = Latch.makeUnsafe(false)
    const hurry = Latch.makeUnsafe(false)
    const room = Latch.makeUnsafe(true)
    let pending: Array<ProcessEventBody> = []
    let pendingBytes = 0
    let ended = false
    const read = { stdout: writer.position().stdout, stderr: writer.position().stderr }
    let current = options.process
    let released = read.stdout + read.stderr

    /** What the log holds, the machine need not keep. It keeps it all the same if it cannot be told. */
    const release = Effect.suspend(() => {
      const { stdout, stderr } = writer.position()
      released = stdout + stderr
      return Effect.ignore(current.release?.({ stdout, stderr }) ?? Effect.void)
    })

    const push = (chunks: ReadonlyArray<OutputChunk>, at: number): Effect.Effect<void, SandboxError> => {
      for (const chunk of chunks) {
        const known = read[chunk.stream] - chunk.offset
        if (known < 0) {
          return Effect.fail(
            new SandboxError({
              operation: "SandboxProvider.output",
              ...base,
              reason: new Unavailable({ accepted: "no", detail: "output is missing; it is read again" })
            })
          )
        }
        const bytes = known === 0 ? chunk.bytes : chunk.bytes.subarray(known)
        if (bytes.length === 0) continue
        pending.push({ ...base, _tag: chunk.stream, at, offset: read[chunk.stream], bytes })
        read[chunk.stream] += bytes.length
        pendingBytes += bytes.length
      }
      ready.openUnsafe()
      if (pendingBytes >= batchBytes) hurry.openUnsafe()
      if (pendingBytes >= maxPending) room.closeUnsafe()
      return Effect.void
    }

    /** Whatever is pending, in one append; not torn by an interruption. */
    const flush = Effect.suspend(() => {
      const batch = pending
      pending = []
      pendingBytes = 0
      ready.closeUnsafe()
      hurry.closeUnsafe()
      room.openUnsafe()
      return batch.length === 0 ? Effect.void : writer.append(batch)
    }).pipe(Effect.uninterruptible)

    const releaseSome = Effect.suspend(() => {
      const { stdout, stderr } = writer.position()
      return stdout + stderr - released >= releaseBytes ? release : Effect.void
    })

    const readAll = (process: MachineProcess): Effect.Effect<ProcessExit, Failure> =>
      Stream.runForEachArray(process.output, (chunks) =>
        Effect.andThen(
          room.await,
          Effect.flatMap(Clock.currentTimeMillis, (at) => push(chunks, at))
        )
      ).pipe(Effect.andThen(process.exit))

    /** Reads to the end; a cut on the way is mended from the last byte that was read. */
    const reader = Effect.gen(function* () {
      let step = yield* Schedule.toStepWithSleep(self.policy.connect)
      let progress = -1
      while (true) {
        const result = yield* Effect.result(readAll(current))
        if (result._tag === "Success") return result.success
        const error = result.failure
        if (!isSandboxError(error) || !error.isRetryable) return yield* Effect.fail(error)
        // The schedule begins anew whenever something has arrived, and ends a way that only ever breaks.
        if (read.stdout + read.stderr !== progress) step = yield* Schedule.toStepWithSleep(self.policy.connect)
        progress = read.stdout + read.stderr
        const waited = yield* Effect.result(step(error))
        if (waited._tag === "Failure") return yield* Effect.fail(error)
        current = yield* options.resume({ ...writer.position(), ...read })
      }
    }).pipe(
      Effect.ensuring(
        Effect.sync(() => {
          ended = true
          ready.openUnsafe()
          hurry.openUnsafe()
        })
      )
    )

    const writeAll = Effect.gen(function* () {
      while (!ended) {
        yield* ready.await
        if (ended) return
        yield* flush
        yield* releaseSome
        yield* Effect.raceFirst(hurry.await, Effect.sleep(batchInterval))
      }
    })

    const [end] = yield* Effect.all([Effect.result(reader), writeAll], { concurrency: 2 }).pipe(
      Effect.onInterrupt(() => Effect.ignore(flush))
    )
    const now = yield* Clock.currentTimeMillis
    const rest = pending
    pending = []
    if (end._tag === "Success") {
      const exit = end.success
      const status = statusOf(exit)
      const reason = exit.reason ?? options.killedFor()
      yield* writer
        .append(
          [
            ...rest,
            { ...base, _tag: "exit", at: now, exit },
            { ...base, _tag: "status", at: now, status, ...(reason === undefined ? {} : { reason }) }
          ],
          endPatch(self, epoch, now, status, {
            exitCode: exit.code,
            ...(exit._tag === "Signalled" ? { signal: exit.signal } : {}),
            ...(reason === undefined ? {} : { streamAbortReason: reason })
          })
        )
        .pipe(Effect.uninterruptible)
      yield* release
      return
    }
    yield* Effect.uninterruptible(Effect.suspend(() => (rest.length === 0 ? Effect.void : writer.append(rest))))
    const error = end.failure
    if (isSandboxError(error) && !isLost(error)) {
      // Whoever has taken the process over may have cleared away what this was reading: then the log is theirs, and right.
      const { lease } = yield* self.store.getProcess(record.id)
      return yield* lease?.epoch === epoch
        ? error
        : new SandboxError({ operation: "ProcessLog.append", ...base, reason: new Store({ kind: "LeaseLost" }) })
    }
    // Nobody can vouch for how it ended.
    yield* writer
      .append(
        [{ ...base, _tag: "status", at: now, status: "lost", reason: error.message }],
        endPatch(self, epoch, now, "lost", { streamAbortReason: error.message })
      )
      .pipe(Effect.uninterruptible)
  })

/** Failures after which nobody will ever learn how the process ended. */
const isLost = (error: SandboxError): boolean => {
  switch (error.reason._tag) {
    case "OutcomeUnknown":
    case "Gone":
    case "NotRunning":
    case "Superseded":
      return true
    case "NotFound":
      return error.reason.kind === "process"
    default:
      return false
  }
}

/** The end of a process out of its record; `OutcomeUnknown` for a lost one, and for one that never started. */
export const exitOf = (record: ProcessRecord): Effect.Effect<ProcessExit, SandboxError> => {
  const unknown = (detail: string) =>
    Effect.fail(
      new SandboxError({
        operation: "SandboxProcess.exit",
        provider: record.provider,
        sandboxId: record.sandboxId,
        processId: record.id,
        reason: new OutcomeUnknown({ startedAt: record.startedAt, detail })
      })
    )
  if (record.status === "lost") return unknown(record.streamAbortReason ?? "lost")
  if (record.exitCode === undefined && record.observed !== true) {
    return unknown(record.streamAbortReason ?? `the process is ${record.status}`)
  }
  const reason = record.streamAbortReason
  const ended = {
    code: record.exitCode ?? 0,
    ...(reason === "deadline" || reason === "timeout" || reason === "stop" ? ({ reason } as const) : {})
  }
  return Effect.succeed(
    record.signal === undefined ? { _tag: "Exited", ...ended } : { _tag: "Signalled", signal: record.signal, ...ended }
  )
}
