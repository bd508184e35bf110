/**
 * The durable, ordered output of recorded processes. Appends are fenced by the epoch of the process's lease and idempotent by
 * `seq`; reading pages through the log and may follow it until the process has ended.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../errors.ts"
import type { ProcessId } from "../model/Ids.ts"
import type { OutputPosition } from "../model/Process.ts"
import type { ProcessEvent } from "../model/ProcessEvent.ts"
import type { ProcessPatch } from "./SandboxStore.ts"

/** Where the log of a process ends: the last `seq` (0 for none) and the raw bytes of output that it holds. */
export interface LogPosition extends OutputPosition {
  readonly seq: number
}

/** A page of the log. `terminal` was read before the events, in the same snapshot or an earlier one. */
export interface LogPage {
  readonly events: ReadonlyArray<ProcessEvent>
  readonly terminal: boolean
}

/** From where, and whether to go on until the process has ended. */
export interface ReadOptions {
  /** Only events with a higher `seq`. */
  readonly after?: number | undefined
  /** Go on until the process is terminal. */
  readonly follow?: boolean | undefined
}

/** What a layer writes. */
export interface Primitives {
  readonly kind: string
  /**
   * In one transaction: `NotFound` without such a process, `Store(LeaseLost)` if the epoch of its lease is not `epoch`, an
   * event whose `seq` is there with the same content is skipped and with other content fails `Store(LogConflict)`, as does a
   * gap; then events and the patch of the record are written. `version` of the record grows only with a patch.
   */
  readonly append: (
    processId: ProcessId,
    epoch: number,
    events: ReadonlyArray<ProcessEvent>,
    patch: ProcessPatch | undefined
  ) => Effect.Effect<void, SandboxError>
  /** At most about 1 MiB of output, at least one event where there is one; `NotFound` without such a process. */
  readonly page: (processId: ProcessId, after: number) => Effect.Effect<LogPage, SandboxError>
  readonly lastPosition: (processId: ProcessId) => Effect.Effect<LogPosition, SandboxError>
  /** The event with this key. */
  readonly findKey: (processId: ProcessId, key: string) => Effect.Effect<Option.Option<ProcessEvent>, SandboxError>
  /**
   * Registers interest in the next append to this process; the inner effect completes soon after it. A hint that saves
   * waiting, no more: appends of other processes need not be noticed.
   */
  readonly changed: (processId: ProcessId) => Effect.Effect<Effect.Effect<void>>
  /**
   * The stream that the log is copied into, as the record's `streamId` names it, for a log that has copies. Waits until the record
   * does, but not for long.
   */
  readonly streamOf?: ((processId: ProcessId) => Effect.Effect<Option.Option<string>>) | undefined
  /** How a follower waits where `changed` cannot know: the delays between two reads without news. */
  readonly poll?: Schedule.Schedule<unknown> | undefined
}

/** The durable event logs of recorded processes; every failure is a `SandboxError`, mostly with the reason `Store`. */
export class ProcessLog extends Context.Service<
  ProcessLog,
  {
    readonly kind: string
    /** See {@link Primitives}. */
    readonly append: (
      processId: ProcessId,
      epoch: number,
      events: ReadonlyArray<ProcessEvent>,
      patch?: ProcessPatch
    ) => Effect.Effect<void, SandboxError>
    /** The events in order. With `follow` it ends when the process is terminal and everything was read. */
    readonly read: (processId: ProcessId, options?: ReadOptions) => Stream.Stream<ProcessEvent, SandboxError>
    /** One read; `NotFound` without such a process. */
    readonly lastPosition: (processId: ProcessId) => Effect.Effect<LogPosition, SandboxError>
    readonly findKey: (processId: ProcessId, key: string) => Effect.Effect<Option.Option<ProcessEvent>, SandboxError>
    /** See {@link Primitives}; none where the log has no copies. */
    readonly streamOf: (processId: ProcessId) => Effect.Effect<Option.Option<string>>
  }
>()("effect-sandbox/services/ProcessLog") {}

const defaultPoll = Schedule.spaced("100 millis")

/** Derives a log: paging, following and spans. */
export const make = (primitives: Primitives): ProcessLog["Service"] => {
  const attributes = { "sandbox.store": primitives.kind }
  const span = (operation: string, processId: ProcessId) => ({
    name: `ProcessLog.${operation}`,
    options: { kind: "client" as const, attributes: { ...attributes, "process.id": processId } }
  })
  const traced =
    (operation: string, processId: ProcessId) =>
    <A, E, R>(effect: Effect.Effect<A, E, R>) => {
      const { name, options } = span(operation, processId)
      return Effect.withSpan(effect, name, options)
    }

  const read = (processId: ProcessId, { after = 0, follow = false }: ReadOptions = {}) =>
    Stream.fromPull(
      Effect.gen(function* () {
        const newPoll = Schedule.toStepWithSleep(primitives.poll ?? defaultPoll)
        let wait = yield* newPoll
        let last = after
        const next: Pull.Pull<readonly [ProcessEvent, ...Array<ProcessEvent>], SandboxError> = Effect.gen(function* () {
          while (true) {
            // Registered before the read, so that an append in between is not missed.
            const changed = follow ? yield* primitives.changed(processId) : Effect.void
            const page = yield* primitives.page(processId, last)
            const [first, ...rest] = page.events
            if (first !== undefined) {
              last = (rest.at(-1) ?? first).seq
              wait = yield* newPoll
              return [first, ...rest]
            }
            if (page.terminal || !follow) return yield* Cause.done()
            yield* Effect.raceFirst(changed, Effect.ignore(wait(undefined)))
          }
        })
        return next
      })
    )

  return ProcessLog.of({
    kind: primitives.kind,
    append: (processId, epoch, events, patch) =>
      primitives.append(processId, epoch, events, patch).pipe(traced("append", processId)),
    read,
    lastPosition: (processId) => primitives.lastPosition(processId).pipe(traced("lastPosition", processId)),
    findKey: (processId, key) => primitives.findKey(processId, key).pipe(traced("findKey", processId)),
    streamOf: primitives.streamOf ?? (() => Effect.succeedNone)
  })
}
