/**
 * Faults for tests: calls of providers, stores and logs that fail, answer late or never, take effect without an answer, find the
 * machine gone, break off in the middle, or are the last ones of their service. Each is tied to an operation and a count, or comes
 * by chance from a seed. `faults.unused` says what was planned and did not happen.
 *
 * ```ts
 * const layer = SandboxService.layer.pipe(
 *   Layer.provide(ProviderRegistry.layer([Faults.provider(Local.make({ root, isolation: "none" }))])),
 *   Layer.provide(Faults.layerStore(Memory.layer())),
 *   Layer.provideMerge(
 *     Faults.layer([
 *       Faults.on("create", Faults.rateLimited({ retryAfter: "30 seconds" }), { times: 3 }),
 *       Faults.on("start", Faults.vanish, { call: 2 }),
 *       Faults.on("append", Faults.loseAnswer())
 *     ])
 *   )
 * )
 * ```
 *
 * Calls that no rule is due at go through as they are. Of the faults that are due at one call, the first that ends it (`fail`,
 * `loseAnswer`, `hang`, `kill`) happens; the next such rule waits for the next call. Delays and `vanish` come before it.
 *
 * **A death** (`kill`) is that of the service which holds what was wrapped. From then on nothing that it does reaches a provider, a
 * store or a log, its finalizers included: its calls end in interruption, answers that are under way do not arrive, although what
 * was asked may still happen, and what it started runs on: its scoped processes until the faults' own Scope ends, its recorded ones
 * as ever. What is wrapped after a death is alive, so that a second service, whose layers are built then over the
 * same machines and the same records, finds what the first one left.
 *
 * **Gotchas**: faults sit above the provider's own deadlines and spans, so that a call which fails here has neither.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { ProcessLog } from "../services/ProcessLog.ts"
import { ProviderRegistry } from "../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../services/SandboxProvider.ts"
import { SandboxStore } from "../services/SandboxStore.ts"
import type { Operation, Plan, Rule } from "./internal/faultsModel.ts"
import type { Injected } from "./internal/faultsState.ts"
import { State } from "./internal/faultsState.ts"
import * as Wrap from "./internal/faultsWrap.ts"

export type {
  Anywhere,
  Arguments,
  AtMachine,
  Call,
  Fault,
  FaultOf,
  LogOperation,
  MachineOperation,
  Operation,
  Plan,
  Position,
  ProcessOperation,
  ProviderOperation,
  Rates,
  Reason,
  Rule,
  Seeded,
  SeededOptions,
  StoreOperation,
  StreamOperation,
  When
} from "./internal/faultsModel.ts"
export {
  at,
  cut,
  delay,
  duplicate,
  fail,
  hang,
  kill,
  logOperations,
  loseAnswer,
  machineOperations,
  on,
  processOperations,
  providerOperations,
  rateLimited,
  seeded,
  split,
  storeOperations,
  vanish
} from "./internal/faultsModel.ts"
export type { Injected } from "./internal/faultsState.ts"

/** The faults of a test. What can be read is read at once, in the middle of an assertion. */
export class Faults extends Context.Service<
  Faults,
  {
    /** The same provider; its machines and their processes are wrapped too. */
    readonly wrapProvider: (provider: SandboxProvider) => SandboxProvider
    readonly wrapStore: (store: SandboxStore["Service"]) => SandboxStore["Service"]
    readonly wrapLog: (log: ProcessLog["Service"]) => ProcessLog["Service"]
    /** Goes on with more; calls before this are not counted. */
    readonly add: (...plan: Plan) => Effect.Effect<void>
    /** Everything that happened, in order; a fault of a stream when the stream comes to it. */
    readonly injected: ReadonlyArray<Injected>
    /** The rules that have not happened as often as they say. What comes from a seed is not among them. */
    readonly unused: ReadonlyArray<Rule>
    /** Completes once nothing is unused: waits for a fault instead of for a while. */
    readonly exhausted: Effect.Effect<void>
    /** How often an operation was called, failed calls included. */
    readonly count: (operation: Operation) => number
    /** The service dies now. */
    readonly kill: Effect.Effect<void>
  }
>()("effect-sandbox/testing/Faults") {}

/** Faults that follow a plan. What dead services left behind, such as their scoped processes, ends with this Scope. */
export const make = (plan: Plan = []): Effect.Effect<Faults["Service"], never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const state = new State(scope)
    state.add(plan)
    return Faults.of({
      wrapProvider: (provider) => Wrap.wrapProvider(state, provider),
      wrapStore: (store) => Wrap.wrapStore(state, store),
      wrapLog: (log) => Wrap.wrapLog(state, log),
      add: (...more) => Effect.sync(() => state.add(more)),
      get injected() {
        return [...state.injected]
      },
      get unused() {
        return state.unused()
      },
      exhausted: state.exhausted,
      count: (operation) => state.counts.get(operation) ?? 0,
      kill: Effect.sync(() => state.kill(state.life))
    })
  })

/** The faults of a test as a service. */
export const layer = (plan: Plan = []): Layer.Layer<Faults> => Layer.effect(Faults, make(plan))

/** A provider's `make` with faults, for `ProviderRegistry.layer([Faults.provider(Local.make(…))])`. */
export const provider = <E, R>(
  make: Effect.Effect<SandboxProvider, E, R>
): Effect.Effect<SandboxProvider, E, R | Faults> =>
  Effect.flatMap(Faults, (faults) => Effect.map(make, faults.wrapProvider))

/** A registry whose providers all have faults. */
export const layerRegistry = <E, R>(
  registry: Layer.Layer<ProviderRegistry, E, R>
): Layer.Layer<ProviderRegistry, E, R | Faults> =>
  Layer.effect(
    ProviderRegistry,
    Effect.gen(function* () {
      const faults = yield* Faults
      const { get, names, select } = yield* ProviderRegistry
      // Wrapped now: when it is wrapped says whose life a provider shares.
      const all = yield* Effect.forEach(names, (name) => Effect.orDie(get(name)))
      const wrapped = new Map(all.map((one) => [one.name, faults.wrapProvider(one)]))
      const faulty = (one: SandboxProvider) => wrapped.get(one.name) ?? one
      return ProviderRegistry.of({
        names,
        get: (name) => Effect.map(get(name), faulty),
        select: (requested) => Effect.map(select(requested), faulty)
      })
    })
  ).pipe(Layer.provide(registry))

/** A store layer whose records and log have faults. */
export const layerStore = <E, R>(
  store: Layer.Layer<SandboxStore | ProcessLog, E, R>
): Layer.Layer<SandboxStore | ProcessLog, E, R | Faults> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const faults = yield* Faults
      return Context.make(SandboxStore, faults.wrapStore(yield* SandboxStore)).pipe(
        Context.add(ProcessLog, faults.wrapLog(yield* ProcessLog))
      )
    })
  ).pipe(Layer.provide(store))
