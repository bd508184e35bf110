/**
 * Brings records and machines into agreement again after crashes, lost answers and ended leases: machines that nobody has a
 * record of, creations and stops that were cut off, records of machines that are gone, processes of dead sandboxes, and what is
 * older than its retention.
 *
 * It may run twice, in several places at once, and beside every other service: each step is taken under the sandbox's lease on
 * a record that was read under it, and what somebody is at work on is left alone. It touches only machines of the store's own
 * namespace that carry the tag of a sandbox. What follows from the absence of a machine is asked for once more of the
 * machine itself, and a provider whose listing failed is left out.
 *
 * **Gotchas**: a machine without a record is deleted with its disk. Whoever gives two databases one `SANDBOX_NAMESPACE`, or
 * goes back to an older backup of one, must run it with `dryRun` first.
 */
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { SandboxError, Unknown } from "../errors.ts"
import type { ProcessId, SandboxId } from "../model/Ids.ts"
import type { Recovery } from "../model/SandboxConfig.ts"
import type { SandboxRecord } from "../model/SandboxRecord.ts"
import * as core from "../services/internal/core.ts"
import { underLease } from "../services/internal/lease.ts"
import { storeCalls } from "../services/internal/storeCalls.ts"
import { LeaseOwner } from "../services/LeaseOwner.ts"
import { RecoveryPolicy } from "../services/RecoveryPolicy.ts"
import { ProviderRegistry } from "../services/ProviderRegistry.ts"
import type { MachineInfo, MachineRef, SandboxProvider } from "../services/SandboxProvider.ts"
import { SandboxService } from "../services/SandboxService.ts"
import { serviceSettings } from "../services/SandboxSettings.ts"
import { SandboxStore } from "../services/SandboxStore.ts"

/** Options of {@link run}. Durations above zero. */
export interface Options {
  /** Only says what it would do. The default is false. */
  readonly dryRun?: boolean | undefined
  /** The registered names of the providers to look at; the default is all. */
  readonly providers?: ReadonlyArray<string> | undefined
  /** What has changed within this time is left alone: somebody may be at it. The default is 15 minutes. */
  readonly grace?: Duration.Input | undefined
  /**
   * How long a sandbox whose machine is gone waits for its next use, which would make it anew, before it is shut down; counted from
   * the first run that finds it so. The default is 1 day.
   */
  readonly goneAfter?: Duration.Input | undefined
  /** Processes that ended longer ago are forgotten with their logs; the default is never. */
  readonly keepProcesses?: Duration.Input | undefined
  /** Records of sandboxes that have neither machine nor processes are forgotten so long after their end; the default is never. */
  readonly keepSandboxes?: Duration.Input | undefined
  /** How many sandboxes are looked at at once; the default is 4. */
  readonly concurrency?: number | undefined
}

/** What is not as it should be, what is done about it, and why. */
export type Step = Data.TaggedEnum<{
  /** A machine that no live record has, with the checkpoints and the disk it may hold when it is deleted. */
  OrphanMachine: OfSandbox & { readonly ref: MachineRef; readonly action: "stop" | "delete" }
  /** A creation that was cut off: what it left is deleted and the record is `error`; creating the same id again makes it anew. */
  CreationCutOff: OfSandbox
  /** A recovery or a restore that was cut off is finished. Nothing else here boots or makes a machine. */
  RecoveryCutOff: OfSandbox
  /** A stop that failed, or was cut off, is finished. */
  StopPending: OfSandbox & { readonly action: "stop" | "delete" }
  /**
   * The machine of an `active` record is gone, or it rests, its lease has ended and its disk is not to be kept: then it is deleted,
   * unless it has checkpoints. Noted: the record says since when, and the next use recovers it.
   */
  MachineGone: OfSandbox & { readonly action: "note" | "shutdown" }
  /** A process that is open in the records, on a machine that cannot know it any more, is `lost`. */
  ProcessLost: OfSandbox & { readonly processId: ProcessId }
  /** Its retention is over. */
  ProcessExpired: OfSandbox & { readonly processId: ProcessId }
  /** Its retention is over. */
  SandboxExpired: OfSandbox
}>
/** Constructors and matchers of {@link Step}. */
export const Step = Data.taggedEnum<Step>()

interface OfSandbox {
  readonly provider: string
  readonly sandboxId: SandboxId
  /** For people. */
  readonly why: string
}

/** What became of a step. `left`: somebody else was at it, or it was not so any more. */
export type Outcome =
  | { readonly _tag: "planned" }
  | { readonly _tag: "done" }
  | { readonly _tag: "left" }
  | { readonly _tag: "failed"; readonly error: SandboxError }

/** What a run found and did. */
export interface Report {
  readonly dryRun: boolean
  readonly steps: ReadonlyArray<{ readonly step: Step; readonly outcome: Outcome }>
  /** Providers and records that could not be looked at; nothing was done about them. */
  readonly failures: ReadonlyArray<SandboxError>
}

/** Everything that a run stands on. */
export type Services = SandboxService | SandboxStore | ProviderRegistry

const steps = Metric.counter("sandbox_reconciled_total", {
  description: "Steps of reconcile, by kind and outcome",
  incremental: true
})

/** Somebody else is at it, or was. */
const isAnothers = ({ reason }: SandboxError): boolean =>
  reason._tag === "Busy" || (reason._tag === "Store" && (reason.kind === "Conflict" || reason.kind === "LeaseLost"))

/** For a step that is not so any more. */
const left = Effect.succeed<Outcome>({ _tag: "left" })
const done = Effect.succeed<Outcome>({ _tag: "done" })

interface Settings {
  readonly dryRun: boolean
  readonly grace: number
  readonly goneAfter: number
  readonly keepProcesses: number | undefined
  readonly keepSandboxes: number | undefined
  readonly concurrency: number
}

const operation = "reconcile"

const known: { readonly [K in keyof Options]-?: true } = {
  dryRun: true,
  providers: true,
  grace: true,
  goneAfter: true,
  keepProcesses: true,
  keepSandboxes: true,
  concurrency: true
}

const settingsOf = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<Settings, SandboxError> {
  // A misspelt `dryRun` must not delete.
  yield* core.onlyKnown(operation, options, known)
  const millis = (argument: string, input: Duration.Input) =>
    Effect.flatMap(core.toDuration(operation, argument, input), (duration) =>
      Effect.succeed(Duration.toMillis(duration))
    )
  const optional = (argument: string, input: Duration.Input | undefined) =>
    input === undefined ? Effect.undefined : millis(argument, input)
  const concurrency = options.concurrency ?? 4
  if (!Number.isSafeInteger(concurrency) || concurrency < 1) {
    return yield* core.invalid(operation, "concurrency", "expected a whole number from 1")
  }
  return {
    dryRun: options.dryRun ?? false,
    grace: yield* millis("grace", options.grace ?? "15 minutes"),
    goneAfter: yield* millis("goneAfter", options.goneAfter ?? "1 day"),
    keepProcesses: yield* optional("keepProcesses", options.keepProcesses),
    keepSandboxes: yield* optional("keepSandboxes", options.keepSandboxes),
    concurrency
  }
})

const strategyOf = (record: SandboxRecord): Recovery =>
  record.config?.recovery ?? (record.persistent === true ? "resume" : "recreate")

/** Whether its next use makes a new machine in the place of one that is gone. */
const isReplaced = (record: SandboxRecord): boolean => {
  const strategy = strategyOf(record)
  return strategy === "recreate" || strategy === "restore"
}

const isLeased = ({ lease }: { readonly lease?: SandboxRecord["lease"] }, now: number): boolean =>
  lease !== undefined && lease.expiresAt > now

/** That its disk goes with its end was resolved when it was created: what `@ekairos/sandbox` wrote does not say so. */
const isDisposable = ({ deleteOnStop, persistent }: SandboxRecord): boolean => deleteOnStop ?? persistent === false

/** Its machine goes with its lease, which no machine that the record knows of can have left: one that rests is not to be used again. */
const hasOutlivedItsLease = (record: SandboxRecord, now: number): boolean =>
  record.timeout !== undefined && isDisposable(record) && (record.updatedAt ?? record.createdAt) + record.timeout <= now

/** What is to be done about a machine, beside what is done about its record; undefined for one that is as it should be. */
const judge = (
  info: MachineInfo,
  record: SandboxRecord | undefined
): { readonly action: "stop" | "delete"; readonly why: string } | undefined => {
  if (record === undefined) return { action: "delete", why: "there is no record of it" }
  const isOwn = info.ref.externalId === record.externalSandboxId
  // It was there before its record, and was adopted: its disk is not ours to delete.
  const mode = core.mayBeMadeFor(record, info) ? "delete" : "stop"
  const running = (why: string) => (info.running ? ({ action: "stop", why } as const) : undefined)
  switch (record.status) {
    case "creating":
    case "recreating":
      return undefined
    case "error":
      if (record.stopPending !== undefined) return undefined
      // One that has come after all, in the place of one that was gone: nobody can use it as it is.
      if (record.incarnation !== undefined) return running("the creation that made it has failed")
      return !isOwn && mode === "delete" ? { action: "delete", why: "the creation that made it has failed" } : undefined
    case "active":
      // An older machine of a sandbox may hold its checkpoints, and goes with it.
      return isOwn ? undefined : running("the sandbox has another machine")
    case "shutdown":
      if (record.stopPending !== undefined) return undefined
      if (record.externalSandboxId !== undefined) return running("the sandbox is stopped")
      return mode === "delete"
        ? { action: "delete", why: "the sandbox is deleted" }
        : running("the sandbox is deleted, and the machine was there before it")
  }
}

const make = Effect.fnUntraced(function* (options: Options) {
  const settings = yield* settingsOf(options)
  const sandboxes = yield* SandboxService
  const policy = yield* RecoveryPolicy
  const { requestTimeout } = yield* serviceSettings
  const store = storeCalls(yield* SandboxStore, policy.store, requestTimeout)
  const registry = yield* ProviderRegistry
  const { isDead, name } = yield* LeaseOwner
  const names = options.providers ?? registry.names
  const providers = new Map<string, SandboxProvider>()
  for (const name of names) providers.set(name, yield* registry.get(name))
  const report: Array<{ readonly step: Step; readonly outcome: Outcome }> = []
  const failures: Array<SandboxError> = []
  const noted = (error: SandboxError) => Effect.sync(() => void failures.push(error))
  /** What goes wrong with one is said, and is no reason to leave the others: neither a failure nor a defect of a provider. */
  const guarded = <R>(effect: Effect.Effect<void, SandboxError, R>) =>
    effect.pipe(
      Effect.catch(noted),
      Effect.catchDefect((defect) =>
        noted(new SandboxError({ operation, reason: new Unknown({ detail: String(defect), cause: defect }) }))
      )
    )

  /** Takes a step unless this is a dry run, and writes down what came of it. */
  const take = (step: Step, act: Effect.Effect<Outcome, SandboxError>) =>
    Effect.gen(function* () {
      const outcome: Outcome = settings.dryRun
        ? { _tag: "planned" }
        : yield* act.pipe(
            Effect.catchIf(isAnothers, () => left),
            Effect.catch((error) => Effect.succeed<Outcome>({ _tag: "failed", error }))
          )
      report.push({ step, outcome })
      yield* Metric.update(Metric.withAttributes(steps, { kind: step._tag, outcome: outcome._tag }), 1)
    })

  const find = (id: SandboxId) =>
    store.getSandbox(id).pipe(
      Effect.asSome,
      Effect.catchIf(
        (error) => error.reason._tag === "NotFound",
        () => Effect.succeedNone
      ),
      Effect.map(Option.getOrUndefined)
    )

  /** Whether somebody is at it, who is not known to be dead. */
  const isHeld = (record: { readonly lease?: SandboxRecord["lease"] }, now: number): Effect.Effect<boolean> =>
    record.lease !== undefined && isLeased(record, now)
      ? Effect.map(isDead(record.lease.owner), (dead) => !dead)
      : Effect.succeed(false)

  /** What it does before its lease is lost can be repeated. */
  const held = underLease({ store, policy, owner: yield* name, isDead }, identity)

  /** The machines of this namespace by provider; absent for a provider that could not tell all of them. */
  const listed = Effect.gen(function* () {
    const namespace = yield* store.namespace
    const all = new Map<string, ReadonlyArray<MachineInfo>>()
    for (const [name, provider] of providers) {
      const machines = yield* Stream.runCollect(provider.list(namespace)).pipe(
        Effect.map((infos) => infos.filter((info) => info.namespace === undefined || info.namespace === namespace)),
        Effect.tapError(noted),
        Effect.option
      )
      if (Option.isSome(machines)) all.set(name, machines.value)
    }
    return all
  })

  const orphan = (provider: SandboxProvider, info: MachineInfo) =>
    Effect.gen(function* () {
      const { createdAt, ref, sandboxId } = info
      if (sandboxId === undefined) return
      const now = yield* Clock.currentTimeMillis
      const isYoung = createdAt !== undefined && createdAt > now - settings.grace
      const record = yield* find(sandboxId)
      // The record of another provider of ours knows nothing of this machine.
      if (isYoung || (record !== undefined && record.provider !== provider.name)) return
      if (record !== undefined && (yield* isHeld(record, now))) return
      const verdict = judge(info, record)
      if (verdict === undefined) return
      const { action, why } = verdict
      yield* take(
        Step.OrphanMachine({ provider: provider.name, sandboxId, ref, action, why }),
        record === undefined
          ? // Whoever creates that id now writes its record before it asks for a machine.
            Effect.flatMap(find(sandboxId), (again) =>
              again === undefined ? Effect.andThen(provider.stop(ref, action), done) : left
            )
          : held(sandboxId, ({ record: current }) =>
              judge(info, current)?.action === action ? Effect.andThen(provider.stop(ref, action), done) : left
            )
      )
    }).pipe(guarded)

  /** Deletes what a creation that was cut off has left, and says so in the record. */
  const rollBack = (provider: SandboxProvider, id: SandboxId) =>
    held(id, ({ record, update }) =>
      Effect.gen(function* () {
        const isCutOff = record.status === "creating" || (record.status === "error" && record.stopPending !== undefined)
        if (!isCutOff) return yield* left
        const namespace = yield* store.namespace
        yield* provider.find(id, namespace).pipe(
          Stream.filter((info) => info.namespace === undefined || info.namespace === namespace),
          Stream.filter((info) => core.mayBeMadeFor(record, info)),
          // A sandbox that was active once may have checkpoints on its machine.
          Stream.runForEach(({ ref }) => provider.stop(ref, record.incarnation === undefined ? "delete" : "stop"))
        )
        yield* update({
          status: "error",
          error: record.error ?? "its creation was cut off",
          stopPending: undefined,
          ...(record.incarnation === undefined ? { externalSandboxId: undefined } : {})
        })
        return yield* done
      })
    )

  const open = ["starting", "running", "detached"] as const

  /** Whether what was done has ended it so: it may have ended by itself, or somebody may have brought its sandbox back. */
  const wasLost = (processId: ProcessId) =>
    Effect.flatMap(store.getProcess(processId), ({ status }) => (status === "lost" ? done : left))

  /** Ends the open processes of a sandbox that has no machine. */
  const losing = (
    provider: string,
    sandboxId: SandboxId,
    why: string,
    mayReport: boolean,
    settle: (processId: ProcessId) => Effect.Effect<unknown, SandboxError>
  ) =>
    store.listProcesses({ sandboxId, status: open }, { onUnreadable: noted }).pipe(
      Stream.runForEach((process) =>
        Effect.gen(function* () {
          const now = yield* Clock.currentTimeMillis
          if ((process.observed === true && mayReport) || (yield* isHeld(process, now))) return
          yield* take(
            Step.ProcessLost({ provider, sandboxId, processId: process.id, why }),
            Effect.andThen(settle(process.id), wasLost(process.id))
          )
        })
      )
    )

  /** A machine that somebody has saved rests for that, and what was saved goes with it. */
  const hasCheckpoint = ({ id }: SandboxRecord, { checkpoints }: SandboxProvider, ref: MachineRef) =>
    Option.isNone(checkpoints)
      ? Effect.succeed(false)
      : Effect.map(Stream.runHead(checkpoints.value.list(id, Option.some(ref))), Option.isSome)

  /** What is known of the machine of an `active` record; undefined for one that is as it should be. */
  const probe = (record: SandboxRecord, provider: SandboxProvider, isOver: boolean) =>
    Effect.gen(function* () {
      const ref = yield* core.machineRef(record, operation)
      return yield* provider.connect(ref, { sandboxId: record.id, boot: false }).pipe(
        Effect.as(undefined),
        Effect.catchReason("SandboxError", "Gone", ({ evidence }) =>
          Effect.succeed({ ref, isThere: false, why: evidence })
        ),
        Effect.catchReason("SandboxError", "NotRunning", ({ detail }) =>
          Effect.map(isOver ? hasCheckpoint(record, provider, ref) : Effect.succeed(true), (isKept) =>
            isKept
              ? undefined
              : { ref, isThere: true, why: `${detail ?? "it does not run"}, and its disk is not to be kept` }
          )
        ),
        Effect.catchReason("SandboxError", "Superseded", () => Effect.succeed(undefined))
      )
    }).pipe(
      // Whether the session of the original has ended nobody can ask.
      Effect.catchReason("SandboxError", "LegacyRecord", () => Effect.succeed(undefined))
    )

  const active = (record: SandboxRecord, provider: SandboxProvider, machines: ReadonlyArray<MachineInfo>) =>
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const info = machines.find(({ ref }) => ref.externalId === record.externalSandboxId)
      // One that sleeps, or rests, is there; only of one that goes with its lease that is not enough.
      const isOver = hasOutlivedItsLease(record, now)
      const isFine = info !== undefined && (info.running || !isOver)
      if (isFine && record.goneAt === undefined) return
      const found = yield* probe(record, provider, isOver)
      const base = { provider: provider.name, sandboxId: record.id }
      if (found === undefined) {
        // It is there again, or the vendor's listing was behind.
        if (record.goneAt !== undefined && !settings.dryRun) {
          yield* held(record.id, ({ record: current, update }) =>
            current.goneAt === undefined ? left : Effect.andThen(update({ goneAt: undefined }), done)
          )
        }
        return
      }
      const action =
        !isReplaced(record) || (record.goneAt !== undefined && now - record.goneAt >= settings.goneAfter)
          ? "shutdown"
          : "note"
      if (action === "shutdown" || record.goneAt === undefined) {
        yield* take(
          Step.MachineGone({ ...base, action, why: found.why }),
          held(record.id, ({ record: current, update }) =>
            Effect.gen(function* () {
              const isSame = current.status === "active" && current.incarnation === record.incarnation
              const again = isSame ? yield* probe(current, provider, isOver) : undefined
              if (again === undefined) return yield* left
              if (again.isThere) yield* provider.stop(again.ref, "delete")
              yield* update(
                action === "shutdown" ? { status: "shutdown", shutdownAt: now } : { goneAt: current.goneAt ?? now }
              )
              return yield* done
            })
          )
        )
      }
      // Whoever attaches to one finds out that it is lost; an observer goes on to report what it sees, until the sandbox is shut down.
      yield* losing(provider.name, record.id, found.why, true, sandboxes.attachProcess)
    })

  const record = (current: SandboxRecord, machines: ReadonlyMap<string, ReadonlyArray<MachineInfo>>) =>
    Effect.gen(function* () {
      const provider = providers.get(current.provider)
      const now = yield* Clock.currentTimeMillis
      const isYoung = (current.updatedAt ?? current.createdAt) > now - settings.grace
      if (provider === undefined || isYoung || (yield* isHeld(current, now))) return
      const base = { provider: provider.name, sandboxId: current.id }
      switch (current.status) {
        case "creating":
          return yield* take(
            Step.CreationCutOff({ ...base, why: "its creation was cut off" }),
            rollBack(provider, current.id)
          )
        case "error":
          if (current.stopPending === undefined) {
            const why = "its machine is gone, and none could be made in its place"
            return yield* losing(provider.name, current.id, why, true, sandboxes.attachProcess)
          }
          return yield* take(
            Step.CreationCutOff({ ...base, why: "its creation has failed, and what it left could not be deleted" }),
            rollBack(provider, current.id)
          )
        case "recreating":
          return yield* take(
            Step.RecoveryCutOff({ ...base, why: "its recovery was cut off" }),
            Effect.andThen(sandboxes.reconnectToSandbox(current.id, { ifStatus: "recreating" }), done)
          )
        case "shutdown": {
          const { externalSandboxId, stopPending } = current
          const isGivenUp = externalSandboxId !== undefined && isDisposable(current)
          if (stopPending !== undefined || isGivenUp) {
            const why = stopPending === undefined ? "its machine was given up" : "its stop was cut off, or has failed"
            return yield* take(
              Step.StopPending({ ...base, action: stopPending ?? "delete", why }),
              Effect.andThen(sandboxes.stopSandbox(current.id, { ifStatus: "shutdown" }), done)
            )
          }
          // A stop that was cut off at its end, which a second one comes to.
          return yield* losing(provider.name, current.id, "its sandbox is stopped", false, () =>
            sandboxes.stopSandbox(current.id, { ifStatus: "shutdown" })
          )
        }
        case "active": {
          const ofProvider = machines.get(provider.name)
          return ofProvider === undefined ? undefined : yield* active(current, provider, ofProvider)
        }
      }
    }).pipe(guarded)

  /** Open processes whose sandbox has no record any more: nobody comes by them. */
  const orphanProcesses = Effect.fnUntraced(function* (sandboxIds: ReadonlySet<SandboxId>) {
    const now = yield* Clock.currentTimeMillis
    yield* store.listProcesses({ status: open }, { onUnreadable: noted }).pipe(
      Stream.filter(({ sandboxId }) => !sandboxIds.has(sandboxId)),
      Stream.filter(({ provider }) => providers.has(provider)),
      Stream.filter((process) => (process.updatedAt ?? process.startedAt) <= now - settings.grace),
      Stream.runForEach((process) =>
        Effect.gen(function* () {
          if ((yield* isHeld(process, now)) || (yield* find(process.sandboxId)) !== undefined) return
          const { id, provider, sandboxId } = process
          yield* take(
            Step.ProcessLost({ provider, sandboxId, processId: id, why: "its sandbox has no record" }),
            Effect.andThen(sandboxes.attachProcess(id), wasLost(id))
          )
        }).pipe(guarded)
      )
    )
  })

  const expiredProcesses = Effect.fnUntraced(function* (age: number) {
    const now = yield* Clock.currentTimeMillis
    yield* store.listProcesses({ status: ["exited", "failed", "killed", "lost"] }, { onUnreadable: noted }).pipe(
      Stream.filter((process) => providers.has(process.provider)),
      Stream.filter((process) => {
        const endedAt = process.exitedAt ?? process.streamFinishedAt ?? process.updatedAt ?? process.startedAt
        return endedAt < now - age
      }),
      Stream.filterEffect((process) => Effect.map(isHeld(process, now), (held) => !held)),
      Stream.runForEach(({ id, provider, sandboxId, version }) =>
        take(
          Step.ProcessExpired({
            provider,
            sandboxId,
            processId: id,
            why: "it ended longer ago than processes are kept"
          }),
          Effect.andThen(store.deleteProcess(id, version ?? 0), done)
        )
      )
    )
  })

  /** Whether the vendor has nothing of a sandbox: neither a machine that carries its tag nor a checkpoint. */
  const hasNothing = (id: SandboxId, provider: SandboxProvider) =>
    Effect.gen(function* () {
      const machine = yield* Stream.runHead(provider.find(id, yield* store.namespace))
      if (Option.isSome(machine) || Option.isNone(provider.checkpoints)) return Option.isNone(machine)
      return Option.isNone(yield* Stream.runHead(provider.checkpoints.value.list(id, Option.none())))
    })

  const expiredSandboxes = Effect.fnUntraced(function* (age: number) {
    const now = yield* Clock.currentTimeMillis
    yield* store.listSandboxes({ status: ["shutdown", "error"] }, { onUnreadable: noted }).pipe(
      Stream.filter((current) => {
        const endedAt = current.shutdownAt ?? current.updatedAt ?? current.createdAt
        return current.stopPending === undefined && endedAt < now - age
      }),
      Stream.filterEffect((current) => Effect.map(isHeld(current, now), (held) => !held)),
      Stream.runForEach(({ externalSandboxId, id, provider: name, status, version }) =>
        Effect.gen(function* () {
          const provider = providers.get(name)
          if (provider === undefined) return
          // A machine that was stopped is kept with its sandbox. That of an `error` is gone, if nobody has brought it back.
          const isEmpty = externalSandboxId === undefined || (status === "error" && (yield* hasNothing(id, provider)))
          if (!isEmpty || Option.isSome(yield* Stream.runHead(store.listProcesses({ sandboxId: id })))) return
          yield* take(
            Step.SandboxExpired({ provider: name, sandboxId: id, why: "it ended longer ago than sandboxes are kept" }),
            Effect.andThen(store.deleteSandbox(id, version ?? 0), done)
          )
        }).pipe(guarded)
      )
    )
  })

  /** What was to be looked at all the same when the store fails in the middle is said, and looked at by the next run. */
  const part = <R>(effect: Effect.Effect<void, SandboxError, R>) => Effect.catch(effect, noted)

  yield* part(
    Effect.gen(function* () {
      // The machines before the records: each of them has had its record before it was there.
      const machines = yield* listed
      for (const [name, infos] of machines) {
        const provider = providers.get(name)
        if (provider === undefined) continue
        yield* Effect.forEach(infos, (info) => orphan(provider, info), {
          concurrency: settings.concurrency,
          discard: true
        })
      }
      const sandboxIds = new Set<SandboxId>()
      yield* store.listSandboxes({}, { onUnreadable: noted }).pipe(
        Stream.tap(({ id }) => Effect.sync(() => void sandboxIds.add(id))),
        Stream.mapEffect((current) => record(current, machines), {
          concurrency: settings.concurrency,
          unordered: true
        }),
        Stream.runDrain
      )
      yield* orphanProcesses(sandboxIds)
    })
  )
  if (settings.keepProcesses !== undefined) yield* part(expiredProcesses(settings.keepProcesses))
  if (settings.keepSandboxes !== undefined) yield* part(expiredSandboxes(settings.keepSandboxes))
  return { dryRun: settings.dryRun, steps: report, failures }
})

/**
 * One run over all sandboxes of the store's namespace. Fails for options that make no sense; what fails on the way is in the report,
 * and the next run meets it again.
 */
export const run = (options: Options = {}): Effect.Effect<Report, SandboxError, Services> =>
  Effect.withSpan(make(options), "reconcile", { attributes: { "reconcile.dryRun": options.dryRun ?? false } })

/** A line for people and one for each step. */
export const format = (report: Report): string =>
  [
    `${report.steps.length} steps${report.dryRun ? ", none of them taken" : ""}, ${report.failures.length} failures`,
    ...report.steps.map(({ outcome, step }) => {
      const what = "processId" in step ? `process ${step.processId}` : `sandbox ${step.sandboxId}`
      const action = "action" in step ? ` (${step.action})` : ""
      const end = outcome._tag === "failed" ? `failed: ${outcome.error.message}` : outcome._tag
      return `${end}  ${step._tag}${action}  ${step.provider}  ${what}: ${step.why}`
    }),
    ...report.failures.map((error) => `failure  ${error.message}`)
  ].join("\n")

/** Options of {@link layer}. */
export interface LayerOptions extends Options {
  /** When it runs again after a run has ended; the default is every 10 minutes, with jitter. The first run is at once. */
  readonly schedule?: Schedule.Schedule<unknown> | undefined
}

const everyTenMinutes = Schedule.jittered(Schedule.spaced("10 minutes"))

/** Runs it in the background for as long as the layer lives, and logs what it did. Fails for options that make no sense. */
export const layer = ({ schedule = everyTenMinutes, ...options }: LayerOptions = {}): Layer.Layer<
  never,
  SandboxError,
  Services
> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      yield* settingsOf(options)
      const once = run(options).pipe(
        Effect.flatMap((report) =>
          report.failures.length > 0 || report.steps.some(({ outcome }) => outcome._tag === "failed")
            ? Effect.logWarning(`reconcile: ${format(report)}`)
            : report.steps.length > 0
              ? Effect.logInfo(`reconcile: ${format(report)}`)
              : Effect.void
        ),
        Effect.catchCause((cause) => Effect.logError("reconcile has failed", cause))
      )
      yield* Effect.forkScoped(Effect.repeat(once, schedule))
    })
  )
