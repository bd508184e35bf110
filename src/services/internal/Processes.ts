/** Recorded processes: they survive the service that started them. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberMap from "effect/FiberMap"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as RcMap from "effect/RcMap"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { isSandboxError, NotFound, SandboxError, Timeout, UnsupportedCapability } from "../../errors.ts"
import { JsonObject } from "../../model/Common.ts"
import type { ProcessId, SandboxId } from "../../model/Ids.ts"
import type { ProcessExit, ProcessMode, ProcessRecord, ProcessRunResult } from "../../model/Process.ts"
import { isTerminal, outputStart, ProcessKind } from "../../model/Process.ts"
import { isOutput } from "../../model/ProcessEvent.ts"
import type { ProcessEvent } from "../../model/ProcessEvent.ts"
import type { ReadOptions } from "../ProcessLog.ts"
import type { MachineProcess, SignalOptions, StartCommand } from "../SandboxProvider.ts"
import type { ProcessFilter } from "../SandboxStore.ts"
import { Capped } from "./capped.ts"
import type { Argument, CommandOptions, Input, Prepared } from "./Commands.ts"
import { feed, prepare, resultOf, sandboxTimedOut } from "./Commands.ts"
import type { Core } from "./core.ts"
import * as core from "./core.ts"
import { markLost } from "./lost.ts"
import type { Machines } from "./Machines.ts"
import { ended, isLeaseLost } from "./owned.ts"
import type { Entry } from "./owned.ts"
import * as Owned from "./owned.ts"
import * as Metrics from "./metrics.ts"
import type { Asked } from "./sameProcess.ts"
import { sameOrMismatch } from "./sameProcess.ts"
import * as Starts from "./processStarts.ts"
import { exitOf, endPatch, makeWriter, pump } from "./pump.ts"
import type { Writer } from "./pump.ts"

/** Options of a recorded command. */
export interface ProcessOptions extends Omit<CommandOptions, "stdin"> {
  /**
   * Given by the caller, the same id with the same command returns the process that there is. One that its service has recorded
   * and did not come to start is started then, on the machine that it was recorded for; never twice.
   */
  readonly processId?: string | undefined
  readonly kind?: ProcessKind | undefined
  /** `foreground` waits for the end, `background` returns once the command is accepted. */
  readonly mode?: ProcessMode | undefined
  /** What becomes of the process when the caller is interrupted; the default is `detach`. */
  readonly onInterrupt?: "detach" | "kill" | undefined
  /** `"open"` keeps the input open for `writeProcessInput`; absent, the process reads the end of input at once. */
  readonly stdin?: Input | "open" | undefined
  readonly metadata?: JsonObject | undefined
}

/** A recorded process as its user holds it: works from any service, for as long as the record exists. */
export interface SandboxProcess {
  readonly processId: ProcessId
  readonly sandboxId: SandboxId
  readonly streamId: string
  readonly streamClientId: string
  /** The log from where it was asked for, live, to the end. Can be run any number of times. */
  readonly events: Stream.Stream<ProcessEvent, SandboxError>
  /** Waits for the end. A lost process is `OutcomeUnknown`. */
  readonly exit: Effect.Effect<ProcessExit, SandboxError>
  readonly snapshot: Effect.Effect<ProcessRecord, SandboxError>
  readonly signal: (signal: string, options?: SignalOptions) => Effect.Effect<void, SandboxError>
  readonly write: (input: Uint8Array | string) => Effect.Effect<void, SandboxError>
  readonly closeInput: Effect.Effect<void, SandboxError>
}

export interface Processes {
  readonly run: (
    operation: string,
    id: SandboxId,
    command: string,
    args: ReadonlyArray<Argument>,
    options: ProcessOptions,
    mode: ProcessMode
  ) => Effect.Effect<SandboxProcess, SandboxError | PlatformError.PlatformError>
  readonly runToEnd: (
    id: SandboxId,
    command: string,
    args: ReadonlyArray<Argument>,
    options: ProcessOptions
  ) => Effect.Effect<ProcessRunResult, SandboxError | PlatformError.PlatformError>
  readonly attach: (processId: ProcessId, after: number) => Effect.Effect<SandboxProcess, SandboxError>
  readonly signal: (processId: ProcessId, signal: string, options?: SignalOptions) => Effect.Effect<void, SandboxError>
  readonly write: (processId: ProcessId, bytes: Uint8Array) => Effect.Effect<void, SandboxError>
  readonly closeInput: (processId: ProcessId) => Effect.Effect<void, SandboxError>
  readonly read: (processId: ProcessId, options?: ReadOptions) => Stream.Stream<ProcessEvent, SandboxError>
  readonly list: (
    id: SandboxId,
    filter?: Omit<ProcessFilter, "sandboxId">
  ) => Stream.Stream<ProcessRecord, SandboxError>
}

/** What a caller wants to run: what a record does not hold of it too. */
interface Wanted {
  readonly prepared: Prepared
  readonly input: Input | undefined
  readonly options: ProcessOptions
}

/** By whoever has inserted the record, or by whoever has found that its service did not come to it. */
type HowToStart = "first" | "again"

const hidden = "<redacted>"

export const streamClientId = (processId: ProcessId): string => `sandbox-process:${processId}`

export const make = (self: Core, machines: Machines): Effect.Effect<Processes, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { detaching, entries, own } = yield* Owned.make(self)
    const { startAgain, startFirst } = Starts.make(self, machines)
    const { log, store } = self
    const retryStore = core.retryStore(self)

    /** The pump of an accepted process, with its lease renewed. */
    const follow = (
      record: ProcessRecord,
      epoch: number,
      writer: Writer,
      process: MachineProcess,
      scope: Scope.Scope,
      killedFor: () => string | undefined = () => undefined
    ): Effect.Effect<void, SandboxError> => {
      const lease = { owner: self.owner, epoch, expiresAt: 0 }
      const third = Duration.millis(Duration.toMillis(core.leaseTtl) / 3)
      const renew = store
        .renewProcessLease(record.id, lease, core.leaseTtl)
        .pipe(retryStore, Effect.repeat(Schedule.spaced(third)), Effect.andThen(Effect.never), Effect.delay(third))
      let last: Scope.Closeable | undefined
      const resume = (from: { readonly stdout: number; readonly stderr: number }) =>
        Effect.gen(function* () {
          // What the way before held is given back, however often it breaks.
          if (last !== undefined) yield* Scope.close(last, Exit.void)
          const child = yield* Scope.fork(scope)
          last = child
          return yield* Effect.gen(function* () {
            const { machine } = yield* machines.connected(record.sandboxId)
            return yield* machine.resume(process.external, { stdout: from.stdout, stderr: from.stderr })
          }).pipe(Scope.provide(child))
        }).pipe(Effect.retry({ schedule: self.policy.connect, while: (error) => error.isRetryable }))
      return Effect.raceFirst(pump({ self, record, epoch, writer, process, resume, killedFor }), renew)
    }

    /** Starts the process of a record, and then follows it. */
    const launch =
      (record: ProcessRecord, wanted: Wanted, how: HowToStart) =>
      (entry: Entry, isAbandoned: () => boolean): Effect.Effect<void, SandboxError | PlatformError.PlatformError> => {
        const epoch = record.lease?.epoch ?? 1
        const writer = makeWriter(self, record, epoch, { seq: 0, ...outputStart })
        const { input, options, prepared } = wanted
        let running = false
        return Effect.scoped(
          Effect.gen(function* () {
            const scope = yield* Effect.scope
            const base = { sandboxId: record.sandboxId, processId: record.id }
            const command: StartCommand = {
              processId: record.id,
              command: prepared.command,
              args: prepared.args,
              ...(prepared.cwd === undefined ? {} : { cwd: prepared.cwd }),
              ...(prepared.env === undefined ? {} : { env: prepared.env }),
              stdin: prepared.stdin,
              lifetime: "recorded",
              ...(record.deadline === undefined ? {} : { deadline: record.deadline })
            }
            const process = yield* (
              how === "first" ? startFirst(record, writer, command, options) : startAgain(record, command, options)
            ).pipe(
              Effect.tapError((error) =>
                Effect.gen(function* () {
                  const now = yield* Clock.currentTimeMillis
                  const status = isSandboxError(error) && error.reason._tag === "OutcomeUnknown" ? "lost" : "failed"
                  yield* writer.append(
                    [
                      { ...base, _tag: "error", at: now, text: error.message },
                      { ...base, _tag: "status", at: now, status, reason: error.message }
                    ],
                    endPatch(self, epoch, now, status, { streamAbortReason: error.message })
                  )
                }).pipe(Effect.ignore)
              )
            )
            const now = yield* Clock.currentTimeMillis
            yield* Effect.uninterruptible(
              writer.append([{ ...base, _tag: "status", at: now, status: "running" }], {
                status: "running",
                externalProcessId: process.external.externalId,
                incarnation: process.external.incarnation,
                streamStartedAt: now,
                updatedAt: now
              })
            )
            running = true
            yield* Deferred.succeed(entry.accepted, process)
            let killedFor: string | undefined
            if (input !== undefined) {
              // Cut input must not pass for the whole, and what waits for the rest of it would do so for ever.
              const fed = Effect.catchCause(feed(process, input), (cause) => {
                killedFor = `its input failed: ${Cause.squash(cause)}`
                return Effect.retry(process.signal("SIGKILL"), {
                  schedule: self.policy.connect,
                  while: (error) => error.isRetryable
                })
              })
              yield* Effect.forkScoped(Effect.ignore(fed))
            }
            yield* follow(record, epoch, writer, process, scope, () => killedFor)
          })
        ).pipe(detaching(record, epoch, writer, () => running, isAbandoned))
      }

    const existingProcess = (processId: ProcessId) =>
      store.getProcess(processId).pipe(
        Effect.map(Option.some),
        Effect.catchIf(
          (error) => error.reason._tag === "NotFound",
          () => Effect.succeed(Option.none<ProcessRecord>())
        )
      )

    const run: Processes["run"] = (operation, id, command, args, options, mode) =>
      Effect.gen(function* () {
        const live = options.stdin === "open"
        const input = options.stdin === "open" ? undefined : options.stdin
        const checked = yield* prepare(self, operation, command, args, { ...options, stdin: input })
        const prepared: Prepared = { ...checked, stdin: live || input !== undefined }
        if (options.kind !== undefined && !isKind(options.kind)) {
          return yield* core.invalid(operation, "kind", `expected one of ${ProcessKind.literals.join(", ")}`)
        }
        if (options.metadata !== undefined && !isJsonObject(options.metadata)) {
          return yield* core.invalid(operation, "metadata", "expected a JSON object")
        }
        const processId =
          options.processId === undefined
            ? yield* Effect.flatMap(core.newUuid, (uuid) => core.toProcessId(operation, uuid))
            : yield* core.toProcessId(operation, options.processId)
        const env = Object.entries(prepared.env ?? {})
        const plainEnv = env.flatMap(([name, value]) =>
          value === undefined || Redacted.isRedacted(value) ? [] : [[name, value] as const]
        )
        const secretEnv = env.flatMap(([name, value]) => (Redacted.isRedacted(value) ? [name] : []))
        const asked: Asked = {
          sandboxId: id,
          kind: options.kind ?? "command",
          command,
          args: args.map((arg) => (Redacted.isRedacted(arg) ? hidden : arg)),
          ...(prepared.cwd === undefined ? {} : { cwd: prepared.cwd }),
          ...(plainEnv.length === 0 ? {} : { env: Object.fromEntries(plainEnv) }),
          ...(secretEnv.length === 0 ? {} : { secretEnv: secretEnv.sort() }),
          ...(options.metadata === undefined ? {} : { metadata: options.metadata })
        }
        const wanted: Wanted = { prepared, input, options }
        if (options.processId !== undefined) {
          // A replay must not reach for the machine, let alone recover one: what it asks for is there.
          const existing = yield* existingProcess(processId)
          if (Option.isSome(existing)) {
            return yield* finish(yield* replay(operation, existing.value, asked, wanted), mode, options)
          }
        }
        const connection = yield* Effect.scoped(machines.get(id, options.recovery))
        const now = yield* Clock.currentTimeMillis
        const record: ProcessRecord = {
          ...asked,
          id: processId,
          mode,
          status: "starting",
          provider: connection.provider.name,
          incarnation: connection.machine.ref.incarnation,
          streamId: processId,
          streamClientId: streamClientId(processId),
          startedAt: now,
          ...(Option.isNone(prepared.timeout) ? {} : { deadline: now + Duration.toMillis(prepared.timeout.value) }),
          lease: { owner: self.owner, epoch: 1, expiresAt: now + Duration.toMillis(core.leaseTtl) }
        }
        // From the record on the process is somebody's at every moment: its fiber's, and until it is accepted the caller's too.
        let entry: Entry | undefined
        const insert = store.insertProcess(record).pipe(
          Effect.andThen(own(processId, id, launch(record, wanted, "first"))),
          Effect.map((owned) => {
            entry = owned
          }),
          // Somebody else inserted the same id a moment ago, or we did and did not hear of it.
          Effect.catchIf(
            (error) => error.reason._tag === "Store" && error.reason.kind === "AlreadyExists",
            () => Effect.void
          ),
          Effect.uninterruptible,
          retryStore
        )
        yield* exclusively(processId)(insert).pipe(
          Effect.andThen(Effect.suspend(() => accepted(entry))),
          Effect.onInterrupt(() => (options.onInterrupt === "kill" ? killStarted(entry) : Effect.void))
        )
        if (entry === undefined) {
          const existing = yield* store.getProcess(processId)
          return yield* finish(yield* replay(operation, existing, asked, wanted), mode, options)
        }
        return yield* finish(handleOf(record, 0), mode, options)
      })

    /** Waits until the command is accepted; by this service, or by the one that has taken the process over meanwhile. */
    const accepted = (entry: Entry | undefined) =>
      entry === undefined
        ? Effect.void
        : Effect.catchIf(Effect.asVoid(Deferred.await(entry.accepted)), isLeaseLost, () => Effect.void)

    /**
     * Who is interrupted can be told of no failure, and a second SIGKILL does no more than the first. Only some attempts: each may
     * have waited for the way to the machine already.
     */
    const killing = <A>(kill: Effect.Effect<A, SandboxError>) =>
      Effect.retry(kill, { schedule: self.policy.connect, times: 3, while: (error) => error.isRetryable })

    /** The interrupted caller asked for its process to end, also when it is only about to start. */
    const killStarted = (entry: Entry | undefined) =>
      entry === undefined
        ? Effect.void
        : Deferred.await(entry.accepted).pipe(
            Effect.flatMap((process) => killing(process.signal("SIGKILL"))),
            Effect.ignore
          )

    const finish = (handle: SandboxProcess, mode: ProcessMode, options: ProcessOptions) =>
      (mode === "background" ? Effect.void : untilEnd(handle)).pipe(
        Effect.andThen(log.streamOf(handle.processId)),
        Effect.map(Option.match({ onNone: () => handle, onSome: (streamId) => ({ ...handle, streamId }) })),
        Effect.onInterrupt(() =>
          options.onInterrupt === "kill" ? Effect.ignore(handle.signal("SIGKILL")) : Effect.void
        )
      )

    /** How it ended is for the caller to read; that it ended is all that is waited for. */
    const untilEnd = (handle: SandboxProcess) =>
      Effect.catchIf(
        Effect.asVoid(handle.exit),
        (error) => error.reason._tag === "OutcomeUnknown",
        () => Effect.void
      )

    const runToEnd: Processes["runToEnd"] = (id, command, args, options) =>
      Effect.gen(function* () {
        const operation = "SandboxService.runCommandWithProcessStream"
        const calledAt = yield* Clock.currentTimeMillis
        const mode = options.mode ?? "foreground"
        const handle = yield* run(operation, id, command, args, options, mode)
        const ids = {
          processId: handle.processId,
          streamId: handle.streamId,
          streamClientId: handle.streamClientId
        }
        if (mode === "background") return ids
        const exit = yield* handle.exit
        if (exit.reason === "deadline") {
          const { deadline, startedAt } = yield* store.getProcess(handle.processId)
          const duration = Duration.millis((deadline ?? startedAt) - startedAt)
          return yield* new SandboxError({
            operation,
            sandboxId: id,
            processId: handle.processId,
            reason: new Timeout({ clock: "command", duration, accepted: "unknown" })
          })
        }
        if (exit.reason === "timeout") return yield* sandboxTimedOut(operation, yield* store.getSandbox(id))
        const cap = options.maxOutputBytes ?? self.settings.maxOutputBytes
        const stdout = new Capped(cap)
        const stderr = new Capped(cap)
        yield* Stream.runForEach(log.read(handle.processId), (event) =>
          Effect.sync(() => {
            if (isOutput(event)) (event._tag === "stdout" ? stdout : stderr).push(event.bytes)
          })
        )
        const durationMs = (yield* Clock.currentTimeMillis) - calledAt
        yield* Metrics.command("recorded", "exit", durationMs)
        const { display } = yield* prepare(self, operation, command, args, {})
        return { ...ids, result: resultOf(display, exit, durationMs, stdout, stderr) }
      })

    const handleOf = (record: ProcessRecord, after: number): SandboxProcess => ({
      processId: record.id,
      sandboxId: record.sandboxId,
      streamId: record.streamId ?? record.id,
      streamClientId: record.streamClientId ?? streamClientId(record.id),
      events: read(record.id, { after, follow: true }),
      exit: exitOfProcess(record.id),
      snapshot: store.getProcess(record.id),
      signal: (name, options) => signal(record.id, name, options),
      write: (input) => write(record.id, typeof input === "string" ? new TextEncoder().encode(input) : input),
      closeInput: closeInput(record.id)
    })

    const exitOfProcess = (processId: ProcessId): Effect.Effect<ProcessExit, SandboxError> =>
      Effect.gen(function* () {
        const entry = entries.get(processId)
        if (entry !== undefined) yield* Deferred.await(entry.outcome)
        const record = yield* store.getProcess(processId)
        if (isTerminal(record.status)) return yield* exitOf(record)
        // If this service has let go of it, nobody may write the log. What its own pump has just left is for somebody else to end.
        if (entry === undefined) yield* join(record)
        const { seq } = yield* log.lastPosition(processId)
        yield* Stream.runDrain(read(processId, { after: seq, follow: true }))
        return yield* Effect.flatMap(store.getProcess(processId), exitOf)
      })

    const read: Processes["read"] = (processId, options = {}) => {
      const events = log.read(processId, options)
      return options.follow === true ? Stream.interruptWhen(events, unwritten(processId)) : events
    }

    /** Fails once this service, which was to write the log, cannot: whoever follows it here must not wait for ever. */
    const unwritten = (processId: ProcessId): Effect.Effect<never, SandboxError> =>
      Effect.suspend(() => {
        const entry = entries.get(processId)
        if (entry !== undefined) return Effect.andThen(Deferred.await(entry.outcome), Effect.never)
        const successor = Option.getOrUndefined(FiberMap.getUnsafe(waiting, processId))
        return successor === undefined
          ? Effect.never
          : Effect.flatMap(Fiber.await(successor), (exit) => {
              const error = Exit.findErrorOption(exit)
              return Option.isSome(error) ? Effect.fail(error.value) : unwritten(processId)
            })
      })

    /**
     * Takes the process over from a service that is gone; fails `Busy` while one is alive. With what its caller wants, one that was
     * recorded and never started is started: that one is yielded.
     */
    const takeOver = (record: ProcessRecord, wanted?: Wanted): Effect.Effect<Option.Option<Entry>, SandboxError> =>
      Effect.gen(function* () {
        const leased = yield* core.acquire(self, (options) => retryStore(store.acquireProcessLease(record.id, options)))
        if (isTerminal(leased.status)) return Option.none()
        const scope = yield* Scope.make()
        const epoch = leased.lease?.epoch ?? 0
        const release = store.releaseProcessLease(record.id, { owner: self.owner, epoch, expiresAt: 0 })
        let neverStarted = false
        const found = yield* Effect.gen(function* () {
          const { machine } = yield* machines.connected(record.sandboxId)
          if (leased.incarnation !== undefined && leased.incarnation !== machine.ref.incarnation) return Option.none()
          const external = yield* machine.findProcess(record.id)
          if (Option.isNone(external)) {
            neverStarted = leased.status === "starting" && leased.incarnation === machine.ref.incarnation
            return Option.none()
          }
          const position = yield* log.lastPosition(record.id)
          const process = yield* machine.resume(external.value, {
            stdout: position.stdout,
            stderr: position.stderr
          })
          return Option.some({ position, process })
        }).pipe(
          Scope.provide(scope),
          Effect.catchIf(
            (error) => error.reason._tag === "Stopped" || hasNoMachine(error) || core.isStale(error),
            () => Effect.succeed(Option.none())
          ),
          Effect.onError(() => Effect.andThen(Effect.ignore(release), Scope.close(scope, Exit.void)))
        )
        if (Option.isNone(found)) {
          yield* Scope.close(scope, Exit.void)
          if (neverStarted && wanted !== undefined) {
            return Option.some(yield* own(record.id, record.sandboxId, launch(leased, wanted, "again")))
          }
          yield* markLost(self, record.id, "the machine does not know it any more")
          return Option.none()
        }
        const { position, process } = found.value
        const writer = makeWriter(self, leased, epoch, position)
        yield* own(record.id, record.sandboxId, (current, isAbandoned) =>
          Effect.gen(function* () {
            const now = yield* Clock.currentTimeMillis
            yield* writer.append(
              [{ _tag: "status", at: now, sandboxId: record.sandboxId, processId: record.id, status: "running" }],
              { status: "running", updatedAt: now, externalProcessId: process.external.externalId }
            )
            yield* Deferred.succeed(current.accepted, process)
            yield* follow(leased, epoch, writer, process, scope)
          }).pipe(
            Effect.onExit((exit) => Scope.close(scope, exit)),
            detaching(leased, epoch, writer, () => true, isAbandoned)
          )
        )
        return Option.none()
      })

    const mutexes = yield* RcMap.make({ lookup: (_: ProcessId) => Semaphore.make(1) })

    /** Beginnings of a process happen one at a time in this service: the second finds the first one's work. */
    const exclusively =
      (processId: ProcessId) =>
      <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
        Effect.scoped(Effect.flatMap(RcMap.get(mutexes, processId), (mutex) => mutex.withPermit(effect)))

    const takeOverOnce = (record: ProcessRecord, wanted?: Wanted) =>
      exclusively(record.id)(
        Effect.suspend(() => (entries.has(record.id) ? Effect.succeed(Option.none<Entry>()) : takeOver(record, wanted)))
      )

    /** Who reports it may come again, but not to a sandbox that has no record any more. */
    const joinObserved = ({ id, sandboxId }: ProcessRecord) =>
      Effect.asVoid(store.getSandbox(sandboxId)).pipe(
        Effect.catchIf(
          (error) => error.reason._tag === "NotFound",
          () => markLost(self, id, "its sandbox has no record")
        ),
        Effect.as(Option.none<Entry>())
      )

    /** Takes part in a process that there is. */
    const join = (record: ProcessRecord, wanted?: Wanted): Effect.Effect<Option.Option<Entry>, SandboxError> =>
      entries.has(record.id) || isTerminal(record.status)
        ? Effect.succeed(Option.none())
        : record.observed === true
          ? joinObserved(record)
          : takeOverOnce(record, wanted).pipe(
              Effect.catchIf(
                (error) => error.reason._tag === "Busy",
                () =>
                  // Somebody writes the log: it is followed here, and taken over once its writer is gone.
                  Effect.as(
                    FiberMap.run(waiting, record.id, succeed(record, wanted), { onlyIfMissing: true }),
                    Option.none()
                  )
              )
            )

    const attach: Processes["attach"] = (processId, after) =>
      Effect.flatMap(store.getProcess(processId), (record) => Effect.as(join(record), handleOf(record, after)))

    /** The same id once more: a workflow's replay. */
    const replay = (operation: string, record: ProcessRecord, asked: Asked, wanted: Wanted) =>
      Effect.gen(function* () {
        yield* sameOrMismatch(operation, record, asked)
        const begun = Option.getOrUndefined(yield* join(record, wanted))
        yield* accepted(begun).pipe(
          Effect.onInterrupt(() => (wanted.options.onInterrupt === "kill" ? killStarted(begun) : Effect.void))
        )
        return handleOf(record, 0)
      })

    const waiting = yield* FiberMap.make<ProcessId, boolean, SandboxError>()

    /** Takes it over once that can be done: its writer may be alive, or the way to the machine cut, for as long as it likes. */
    const succeed = (record: ProcessRecord, wanted: Wanted | undefined): Effect.Effect<boolean, SandboxError> =>
      store.getProcess(record.id).pipe(
        Effect.flatMap((current) =>
          isTerminal(current.status) ? Effect.succeed(true) : Effect.as(takeOverOnce(current, wanted), true)
        ),
        Effect.catchIf(
          (error) => error.isRetryable,
          () => Effect.succeed(false)
        ),
        Effect.repeat({ schedule: Schedule.spaced(Duration.seconds(2)), until: (done) => done }),
        Effect.tapError((error) => Effect.logDebug(`process ${record.id} is not taken over: ${error.message}`))
      )

    /** The process on its machine, whoever writes its log. */
    const onMachine = <A>(
      processId: ProcessId,
      f: (process: MachineProcess) => Effect.Effect<A, SandboxError>
    ): Effect.Effect<A, SandboxError> =>
      Effect.gen(function* () {
        const entry = entries.get(processId)
        if (entry !== undefined) {
          const process = yield* Effect.result(Deferred.await(entry.accepted))
          if (process._tag === "Success") return yield* f(process.success)
          return yield* isSandboxError(process.failure) ? process.failure : ended(processId, "failed")
        }
        const record = yield* store.getProcess(processId)
        if (isTerminal(record.status)) return yield* ended(processId, record.status)
        if (record.observed === true) {
          return yield* new SandboxError({
            operation: "SandboxService.process",
            processId,
            reason: new UnsupportedCapability({
              capability: "observed process",
              detail: "it is run by its observer, not by this library"
            })
          })
        }
        return yield* Effect.scoped(
          Effect.gen(function* () {
            const { machine } = yield* machines.connected(record.sandboxId)
            const external = yield* machine.findProcess(processId)
            if (Option.isNone(external)) {
              return yield* new SandboxError({
                operation: "SandboxService.process",
                processId,
                reason: new NotFound({ kind: "process", id: processId })
              })
            }
            return yield* Effect.flatMap(machine.resume(external.value, outputStart), f)
          })
        )
      })

    const signal: Processes["signal"] = (processId, name, options) =>
      Effect.gen(function* () {
        const operation = "SandboxService.signalProcess"
        if (!/^SIG[A-Z0-9]+$/.test(name)) {
          return yield* core.invalid(operation, "signal", "expected a name such as SIGTERM")
        }
        const forceAfter = options?.forceAfter
        if (forceAfter !== undefined) yield* core.toDuration(operation, "forceAfter", forceAfter)
        const send = onMachine(processId, (process) => process.signal(name, options))
        yield* name === "SIGKILL" ? killing(send) : send
      })
    const write: Processes["write"] = (processId, bytes) =>
      // Callers without types.
      (bytes as unknown) instanceof Uint8Array
        ? onMachine(processId, (process) => Effect.mapError(process.write(bytes), core.atMostOnce()))
        : Effect.fail(core.invalid("SandboxService.writeProcessInput", "bytes", "expected text or bytes"))
    const closeInput: Processes["closeInput"] = (processId) => onMachine(processId, (process) => process.closeInput)

    return {
      run,
      runToEnd,
      attach,
      signal,
      write,
      closeInput,
      read,
      list: (id, filter = {}) => store.listProcesses({ ...filter, sandboxId: id })
    }
  })

/** Its machine was gone, and none could be made in its place. */
const hasNoMachine = ({ reason }: SandboxError): boolean =>
  (reason._tag === "NotActive" && reason.status === "error") ||
  (reason._tag === "NotFound" && reason.kind === "sandbox")

const isKind = Schema.is(ProcessKind)
const isJsonObject = Schema.is(JsonObject)
