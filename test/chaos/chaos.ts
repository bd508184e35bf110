/**
 * Random runs of everything at once against a model of what must be true afterwards. One seed is one plan: which operations, on
 * which sandbox, by which service, and what goes wrong at the vendor and in the store. Where that happens is an {@link Arena}:
 * machines and records in memory in virtual time, or real processes and files of this machine over SQLite.
 *
 * Two services share the machines and the records. One lives through the run; the other one is killed again and again, as by
 * SIGKILL, and started anew.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Random from "effect/Random"
import * as Ref from "effect/Ref"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import type { SandboxError } from "../../src/errors.ts"
import { isSandboxError } from "../../src/errors.ts"
import type { ProcessId, SandboxId } from "../../src/model/Ids.ts"
import { isTerminal } from "../../src/model/Process.ts"
import { isOutput } from "../../src/model/ProcessEvent.ts"
import * as Reconcile from "../../src/programs/reconcile.ts"
import { LeaseOwner } from "../../src/services/LeaseOwner.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { newProcessId } from "../../src/testing/internal/stores.ts"
import * as Testing from "../../src/testing/Testing.ts"

/** A machine as its vendor knows it. */
export interface ArenaMachine {
  readonly externalId: string
  readonly incarnation: string
  readonly sandboxId: SandboxId
  readonly running: boolean
}

/** Where a run happens, seen from outside of the library. */
export interface ArenaService {
  /** Its machine is gone, or has stopped by itself. */
  readonly vanish: (id: SandboxId) => Effect.Effect<unknown, SandboxError>
  readonly halt: (id: SandboxId) => Effect.Effect<unknown, SandboxError>
  readonly machines: Effect.Effect<ReadonlyArray<ArenaMachine>, SandboxError>
  readonly readFile: (id: SandboxId, path: string) => Effect.Effect<string | undefined, SandboxError>
  /** A command that says {@link lines} and takes `size` times `pause` ms of virtual time. */
  readonly emit: (nonce: string, size: number, pause: number) => readonly [string, ReadonlyArray<string>]
  /** How often each nonce was run. */
  readonly started: Effect.Effect<ReadonlyMap<string, number>>
  /** Time that passes without anything to do, as it is there. */
  readonly scaled: (virtual: Duration.Input) => Duration.Duration
  /** Whether a dead service's leases end with their time; otherwise the others know that it is dead. */
  readonly waitsForLeases: boolean
  /** An operation that has not ended by then never will. */
  readonly patience: Duration.Duration
  /** Of a call that is late. */
  readonly maxDelay: Duration.Input
}
export class Arena extends Context.Service<Arena, ArenaService>()("test/chaos/Arena") {}

/** What goes wrong at the vendor, and in the store. */
export const planOfFaults = (seed: string, maxDelay: Duration.Input): Faults.Plan => [
  Faults.seeded({
    seed,
    rates: { fail: 0.04, rateLimited: 0.02, loseAnswer: 0.03, delay: 0.05, cut: 0.03 },
    maxByte: 400,
    maxDelay
  }),
  Faults.seeded({
    seed: `store ${seed}`,
    rates: { fail: 0.02, loseAnswer: 0.02, delay: 0.02 },
    operations: [...Faults.storeOperations, ...Faults.logOperations],
    maxDelay
  })
]

/** Spans that have not ended, so that what hangs can say where. */
class OpenSpans {
  private readonly spans = new Set<Tracer.Span>()

  readonly tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      const end = span.end.bind(span)
      span.end = (at, exit) => {
        this.spans.delete(span)
        end(at, exit)
      }
      this.spans.add(span)
      return span
    }
  })

  /** Those below the one of this name. */
  below(name: string): ReadonlyArray<string> {
    const isBelow = (span: Tracer.AnySpan): boolean =>
      span._tag === "Span" && (span.name === name || Option.exists(span.parent, isBelow))
    return [...this.spans].filter(isBelow).map((span) => span.name)
  }
}

/** How often each operation comes, out of their sum. */
const weights = {
  create: 8,
  command: 26,
  process: 18,
  attach: 4,
  replay: 4,
  write: 10,
  read: 4,
  checkpoint: 3,
  restore: 2,
  stop: 4,
  delete: 3,
  reconnect: 4,
  list: 1,
  reconcile: 4,
  vanish: 2,
  halt: 3,
  kill: 3,
  wait: 4
} as const
type Operation = keyof typeof weights

interface Planned {
  readonly operation: Operation
  readonly slot: number
  readonly persistent: boolean
  readonly mortal: boolean
  readonly nonce: string
  readonly size: number
}

export interface Options {
  readonly seed: number
  readonly operations: number
}

/** What a run came to. `violations` is empty unless the library has lost or invented something. */
export interface Outcome {
  readonly seed: number
  readonly violations: ReadonlyArray<string>
  /** How often each operation succeeded, and how often it failed with which reason. */
  readonly operations: Readonly<Record<string, number>>
  /** Faults that happened, by kind. */
  readonly faults: Readonly<Record<string, number>>
  readonly kills: number
  readonly processes: number
  readonly bytes: number
}

const slots = 10
const workers = 8

const planOf = ({ operations, seed }: Options) =>
  Effect.gen(function* () {
    const all = Object.entries(weights).flatMap(([operation, weight]) =>
      // The keys of the weights are the operations.
      Array.from({ length: weight }, () => operation as Operation)
    )
    const plan: Array<Planned> = []
    for (let index = 0; index < operations; index++) {
      plan.push({
        operation: all[yield* Random.nextIntBetween(0, all.length - 1)] ?? "command",
        slot: yield* Random.nextIntBetween(0, slots - 1),
        persistent: yield* Random.nextBoolean,
        mortal: yield* Random.nextBoolean,
        nonce: `s${seed}-${index}`,
        size: yield* Random.nextIntBetween(1, 40)
      })
    }
    return plan
  }).pipe(Random.withSeed(seed))

/** The output of a command: what it must have said if it has said all. */
export const lines = (nonce: string, size: number) =>
  Array.from({ length: size }, (_, line) => `${nonce} line ${line}\n`)

/** What the run knows of a sandbox. */
interface Model {
  readonly id: SandboxId
  readonly persistent: boolean
  /** Its disk may have gone with the machine, or behind a checkpoint: nothing is known of its files. */
  diskInDoubt: boolean
  deleted: boolean
  /** Its machine has vanished. */
  vanished: boolean
  /** Somebody has asked for a checkpoint of it, which may make a machine. */
  restored: boolean
  /** A stop of it has succeeded. */
  stopped: boolean
  /** Somebody has asked for it to be brought back. */
  reconnected: boolean
  readonly written: Map<string, string>
}

/** A recorded process as it was asked for: the same once more must not run it twice. */
interface Asked {
  readonly id: SandboxId
  readonly processId: ProcessId
  readonly nonce: string
  readonly size: number
}

const startAsked = (
  arena: ArenaService,
  sandboxes: SandboxService["Service"],
  { id, nonce, processId, size }: Asked
) => {
  const [command, args] = arena.emit(nonce, size, size * 200)
  return sandboxes.runCommandProcess(id, command, args, { processId, metadata: { nonce, size } })
}

interface Run {
  readonly nonce: string
  readonly size: number
  readonly done: boolean
}

type Failure = SandboxError | PlatformError.PlatformError

const tagOf = (error: Failure): string => (isSandboxError(error) ? error.reason._tag : error.reason._tag)

/** One run of a seed, in whatever arena is around. */
export const run = (
  options: Options
): Effect.Effect<Outcome, unknown, Arena | Testing.World | Faults.Faults | Scope.Scope> =>
  Effect.gen(function* () {
    const plan = yield* planOf(options)
    const faults = yield* Faults.Faults
    const arena = yield* Arena
    // Who is dead the others know at once, if this arena has no time to let leases expire in.
    const dead = new Set<string>()
    let named = 0
    const owner = arena.waitsForLeases
      ? Layer.empty
      : Layer.succeed(LeaseOwner, {
          name: Effect.sync(() => `service ${++named}`),
          isDead: (name) => Effect.succeed(dead.has(name))
        })
    const violations: Array<string> = []
    const counts: Record<string, number> = {}
    const models: Array<Model | undefined> = []
    const everyModel: Array<Model> = []
    const commands: Array<Run> = []
    const processes = new Map<ProcessId, { readonly nonce: string; readonly size: number }>()
    const asked: Array<Asked> = []
    let kills = 0
    const violation = (text: string) => void violations.push(text)

    const scope = yield* Effect.scope
    const serviceIn = (within: Scope.Scope) =>
      Effect.map(Scope.provide(Effect.provide(Testing.another(), owner), within), (sandboxes) => ({
        sandboxes,
        name: `service ${named}`
      }))
    const steadyScope = yield* Scope.fork(scope)
    // With faults of its own, so that it does not die with the other one.
    const steadyFaults = yield* Faults.make(planOfFaults(`steady ${options.seed}`, arena.maxDelay))
    const steady = yield* Layer.buildWithScope(
      Testing.service().pipe(Layer.provideMerge(owner), Layer.provide(Layer.succeed(Faults.Faults, steadyFaults))),
      steadyScope
    )
    const mortal = yield* Ref.make(yield* serviceIn(scope))

    const start = (sandboxes: SandboxService["Service"], wanted: Asked) =>
      Effect.map(
        startAsked(arena, sandboxes, wanted),
        ({ processId }) => void processes.set(processId, { nonce: wanted.nonce, size: wanted.size })
      )

    const act = (
      planned: Planned,
      sandboxes: SandboxService["Service"]
    ): Effect.Effect<unknown, Failure, Faults.Faults | Testing.World> => {
      const { nonce, size, slot } = planned
      const model = models[slot]
      if (planned.operation === "create" || model === undefined) {
        return Effect.map(sandboxes.createSandbox({ persistent: planned.persistent }), ({ sandboxId }) => {
          const created: Model = {
            id: sandboxId,
            persistent: planned.persistent,
            diskInDoubt: false,
            deleted: false,
            vanished: false,
            restored: false,
            stopped: false,
            reconnected: false,
            written: new Map()
          }
          models[slot] = created
          everyModel.push(created)
        })
      }
      const { id } = model
      switch (planned.operation) {
        case "command":
          return Effect.suspend(() => {
            const index = commands.push({ nonce, size, done: false }) - 1
            const [command, args] = arena.emit(nonce, size, size * 5)
            return Effect.map(sandboxes.runCommand(id, command, args), (result) => {
              commands[index] = { nonce, size, done: true }
              if (result.exitCode !== 0 || result.stdout !== lines(nonce, size).join("")) {
                violation(
                  `${nonce}: a command ended with ${result.exitCode} and ${result.stdout.length} bytes of its output`
                )
              }
            })
          })
        case "process":
          return Effect.suspend(() => {
            commands.push({ nonce, size, done: false })
            const wanted: Asked = { id, processId: newProcessId(), nonce, size }
            asked.push(wanted)
            return start(sandboxes, wanted)
          })
        case "replay": {
          const wanted = asked.at(-1 - (size % 8))
          return wanted === undefined ? Effect.void : start(sandboxes, wanted)
        }
        case "attach": {
          const known = [...processes.keys()]
          const processId = known[size % known.length]
          return processId === undefined ? Effect.void : sandboxes.attachProcess(processId)
        }
        case "write":
          return Effect.map(sandboxes.writeFiles(id, [{ path: `f/${nonce}`, content: nonce.repeat(size) }]), () => {
            model.written.set(`f/${nonce}`, nonce.repeat(size))
          })
        case "read": {
          const [path, content] = [...model.written][0] ?? []
          const certain = !model.diskInDoubt && model.persistent
          return path === undefined
            ? Effect.void
            : Effect.map(sandboxes.readFile(id, path), (bytes) => {
                if (certain && new TextDecoder().decode(bytes) !== content)
                  violation(`${nonce}: ${path} has other content`)
              })
        }
        case "checkpoint":
          return sandboxes.createCheckpoint(id, { stopProcesses: true })
        case "restore":
          return Effect.gen(function* () {
            const newest = yield* Stream.runHead(sandboxes.listCheckpoints(id))
            if (Option.isNone(newest)) return
            model.diskInDoubt = true
            model.restored = true
            yield* sandboxes.restoreCheckpoint(id, newest.value.id)
          })
        case "stop":
          // That of one that is not persistent takes its disk along.
          if (!model.persistent) model.diskInDoubt = true
          return Effect.map(sandboxes.stopSandbox(id), () => {
            model.stopped = true
          })
        case "delete":
          model.diskInDoubt = true
          return Effect.map(sandboxes.stopSandbox(id, { delete: true }), () => {
            model.deleted = true
            if (models[slot] === model) models[slot] = undefined
          })
        case "reconnect":
          model.reconnected = true
          return sandboxes.reconnectToSandbox(id)
        case "list":
          return Effect.andThen(
            Stream.runDrain(sandboxes.listSandboxes()),
            Stream.runDrain(sandboxes.listProcesses(id))
          )
        case "reconcile":
          // Without grace: what somebody is at work on is told by the leases alone.
          return Effect.provideContext(Reconcile.run({ grace: "1 millis" }), steady)
        case "vanish":
          model.diskInDoubt = true
          return Effect.map(arena.vanish(id), () => {
            model.vanished = true
          })
        case "halt":
          return arena.halt(id)
        case "wait":
          return Effect.sleep(arena.scaled(size * 10_000))
        case "kill":
          return Effect.gen(function* () {
            kills++
            yield* faults.kill
            dead.add((yield* Ref.get(mortal)).name)
            yield* Ref.set(mortal, yield* serviceIn(scope))
          })
      }
    }

    /** However it ends, it ends: with a value, a typed failure, or with the service that it was asked of. */
    const spans = new OpenSpans()
    const perform = (planned: Planned) =>
      Effect.gen(function* () {
        let waitedFor: ReadonlyArray<string> = []
        const sandboxes = planned.mortal ? (yield* Ref.get(mortal)).sandboxes : Context.get(steady, SandboxService)
        const acted = act(planned, sandboxes).pipe(
          Effect.withSpan(planned.nonce),
          Effect.provideService(Tracer.Tracer, spans.tracer),
          Effect.asSome
        )
        const overdue = Effect.map(Effect.sleep(arena.patience), () => {
          waitedFor = spans.below(planned.nonce)
          return Option.none<unknown>()
        })
        const exit = yield* Effect.exit(Effect.raceFirst(acted, overdue))
        const count = (how: string) => {
          const key = `${planned.operation} ${how}`
          counts[key] = (counts[key] ?? 0) + 1
        }
        if (Exit.isSuccess(exit)) {
          if (Option.isNone(exit.value))
            violation(
              `${planned.nonce}: ${planned.operation} has not ended within ${Duration.format(arena.patience)}: ${waitedFor.join(" > ")}`
            )
          return count("ok")
        }
        const error = Exit.findErrorOption(exit)
        if (Option.isSome(error)) return count(tagOf(error.value))
        if (Cause.hasInterruptsOnly(exit.cause)) return count(planned.mortal ? "died" : "interrupted")
        violation(`${planned.nonce}: ${planned.operation} died of ${Cause.pretty(exit.cause)}`)
      })

    const queue = [...plan]
    const worker = Effect.gen(function* () {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) yield* perform(next)
    })
    yield* Effect.all(
      Array.from({ length: workers }, () => worker),
      { concurrency: "unbounded", discard: true }
    )

    // Both services end, one of them as in a deployment; what comes now is another one's, and nothing goes wrong any more.
    yield* faults.kill
    yield* Scope.close(steadyScope, Exit.void)
    const byKind: Record<string, number> = {}
    for (const { kind } of [...faults.injected, ...steadyFaults.injected]) byKind[kind] = (byKind[kind] ?? 0) + 1
    for (let name = 1; name <= named; name++) dead.add(`service ${name}`)
    const bytes = yield* Effect.provide(
      judge({ violation, asked, everyModel, commands, processes }),
      Testing.service().pipe(Layer.provideMerge(owner), Layer.provide(Faults.layer()))
    )
    return {
      seed: options.seed,
      violations,
      operations: counts,
      faults: byKind,
      kills,
      processes: processes.size,
      bytes
    }
  })

/** Whether all is as it must be, once reconcile and the next users have come by. */
const judge = Effect.fnUntraced(function* ({
  asked,
  commands,
  everyModel,
  processes,
  violation
}: {
  readonly violation: (text: string) => void
  readonly asked: ReadonlyArray<Asked>
  readonly everyModel: ReadonlyArray<Model>
  readonly commands: ReadonlyArray<Run>
  readonly processes: ReadonlyMap<ProcessId, { readonly nonce: string; readonly size: number }>
}) {
  const sandboxes = yield* SandboxService
  const { log, store } = yield* Testing.World
  const arena = yield* Arena

  // Records and machines agree after some runs, and further ones find nothing to do.
  let open = 1
  for (let round = 0; round < 6 && open > 0; round++) {
    yield* Effect.sleep(arena.scaled("1 hour"))
    const report = yield* Reconcile.run({ grace: arena.scaled("15 minutes") })
    open = report.steps.length + report.failures.length
    if (round === 5 && open > 0) violation(`reconcile comes to no end: ${Reconcile.format(report)}`)
  }
  const records = yield* Stream.runCollect(store.listSandboxes())
  for (const { id, status, stopPending } of records) {
    if (status === "creating" || status === "recreating" || stopPending !== undefined) {
      violation(`${id} is ${status}, stopPending ${stopPending}`)
    }
  }

  // Every process comes to an end that is known, or is said to be unknown.
  const all = yield* Stream.runCollect(store.listProcesses())
  let bytes = 0
  for (const { id, metadata, status } of all) {
    if (!isTerminal(status)) {
      const wanted = asked.find(({ processId }) => processId === id)
      // Whoever asks for it once more comes to the same end as who attaches to it.
      const handle =
        wanted !== undefined && wanted.size % 2 === 0
          ? startAsked(arena, sandboxes, wanted)
          : sandboxes.attachProcess(id)
      yield* Effect.ignore(Effect.flatMap(handle, ({ exit }) => exit))
    }
    const record = yield* store.getProcess(id)
    const events = yield* Stream.runCollect(log.read(id))
    const known = processes.get(id)
    const nonce = known?.nonce ?? String(metadata?.["nonce"])
    const size = known?.size ?? Number(metadata?.["size"])
    const expected = lines(nonce, size).join("")
    if (!isTerminal(record.status)) violation(`${nonce}: its process is ${record.status} for ever`)
    if (events.some(({ seq }, index) => seq !== index + 1)) violation(`${nonce}: the log has a gap`)
    let text = ""
    for (const event of events) {
      if (!isOutput(event)) continue
      if (event.offset !== text.length) violation(`${nonce}: output at ${event.offset} after ${text.length} bytes`)
      text += new TextDecoder().decode(event.bytes)
    }
    bytes += text.length
    if (!expected.startsWith(text)) violation(`${nonce}: its log holds what it never said`)
    if (record.status === "exited" && text !== expected) {
      violation(`${nonce}: exited, with ${text.length} of ${expected.length} bytes in its log`)
    }
    if (record.status === "failed" && record.exitCode === 0) violation(`${nonce}: failed with the code 0`)
  }

  // Nothing was run twice, and what was told to have run has.
  const started = yield* arena.started
  for (const { done, nonce } of commands) {
    const times = started.get(nonce) ?? 0
    if (times > 1) violation(`${nonce}: was run ${times} times`)
    if (done && times === 0) violation(`${nonce}: was told to have run, and was not`)
  }

  // Each record says what there is, also to who uses it, and no disk was lost but with its machine.
  for (const model of everyModel) {
    const { deleted, diskInDoubt, id, persistent, reconnected, restored, stopped, vanished, written } = model
    const used = yield* Effect.exit(sandboxes.runCommand(id, "true"))
    const record = yield* store.getSandbox(id)
    const machine = (yield* arena.machines).find(({ externalId }) => externalId === record.externalSandboxId)
    if (Exit.isSuccess(used) && (record.status !== "active" || machine?.incarnation !== record.incarnation)) {
      violation(`${id} was used while it was ${record.status}`)
    }
    if (Exit.isFailure(used) && record.status === "active")
      violation(`${id} is active, and ${Cause.pretty(used.cause)}`)
    if (persistent && vanished && !restored && record.status === "active") {
      violation(`${id} has lost its disk, and is active`)
    }
    if (stopped && !reconnected && !restored && record.status !== "shutdown") {
      violation(`${id} was stopped, and is ${record.status}`)
    }
    if (deleted && record.status !== "shutdown") violation(`${id} was deleted and is ${record.status}`)
    if (!persistent || diskInDoubt) continue
    if (record.status === "error" || machine === undefined) {
      violation(`${id} has lost its disk: ${record.status} ${record.error ?? ""}`)
      continue
    }
    for (const [path, content] of written) {
      if ((yield* arena.readFile(id, path)) !== content) violation(`${id} has lost ${path}`)
    }
  }
  const now = yield* Stream.runCollect(store.listSandboxes())
  const ids = new Map(now.map((record) => [record.id, record]))
  for (const { externalId, running, sandboxId } of yield* arena.machines) {
    const record = ids.get(sandboxId)
    if (record === undefined) violation(`${externalId} has no record`)
    else if (running && record.externalSandboxId !== externalId)
      violation(`${externalId} runs beside its sandbox's own`)
  }

  // What is deleted is gone, and after its retention so is what is known of it.
  for (const { id } of yield* Stream.runCollect(store.listSandboxes())) {
    yield* sandboxes.stopSandbox(id, { delete: true })
  }
  const undead = (yield* arena.machines).length
  if (undead > 0) violation(`${undead} machines are left of deleted sandboxes`)
  for (let round = 0; round < 3; round++) {
    yield* Effect.sleep(arena.scaled("1 day"))
    const retention = arena.scaled("1 hour")
    const { failures } = yield* Reconcile.run({
      grace: arena.scaled("15 minutes"),
      keepProcesses: retention,
      keepSandboxes: retention
    })
    for (const failure of failures) violation(`the last reconcile: ${failure.message}`)
  }
  const left = yield* Stream.runCount(store.listSandboxes())
  const leftProcesses = yield* Stream.runCount(store.listProcesses())
  if (left + leftProcesses > 0)
    violation(`${left} records and ${leftProcesses} processes are left after their retention`)
  return bytes
})

/** How to see one seed again. */
export const replay = ({ operations, seed }: Options, on: string): string =>
  `npm run chaos -- --on ${on} --seed ${seed} --operations ${operations}`
