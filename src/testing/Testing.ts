/**
 * The whole library for a test, in one line: the service over the provider `fake` (or {@link layerOver} another) and the memory
 * store, both with faults. What machines and records there are outlives the service, so that a test can let it die and start
 * {@link another}.
 *
 * Nothing of the environment is read. Time is the test's: with a `TestClock`, {@link passing} lets as much of it pass as an effect
 * needs.
 */
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../errors.ts"
import * as Fake from "../layers/providers/Fake.ts"
import * as Memory from "../layers/stores/Memory.ts"
import { ProcessLog } from "../services/ProcessLog.ts"
import * as ProviderRegistry from "../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../services/SandboxProvider.ts"
import { SandboxService } from "../services/SandboxService.ts"
import { SandboxStore } from "../services/SandboxStore.ts"
import * as Faults from "./Faults.ts"
import * as Passing from "./internal/passing.ts"

/** What there is without a service and without faults: it stays when a service dies. */
export class World extends Context.Service<
  World,
  {
    readonly provider: SandboxProvider
    readonly store: SandboxStore["Service"]
    readonly log: ProcessLog["Service"]
  }
>()("effect-sandbox/testing/World") {}

/** What one service is made of. */
export type Service = SandboxService | SandboxStore | ProcessLog | ProviderRegistry.ProviderRegistry

/** What a test has. */
export type Services = Service | World | Faults.Faults

export interface Options {
  /** What goes wrong; more can be added with `Faults.Faults`. */
  readonly faults?: Faults.Plan | undefined
  /** Settings such as `SANDBOX_MAX_OUTPUT_BYTES`; the default is none. */
  readonly settings?: Readonly<Record<string, string>> | undefined
}

/**
 * A service over the world, with its faults, and all that it is made of: what programs of yours need. Each build is a service of its own;
 * the last one built is the one that `kill` kills.
 */
export const service = (settings?: Options["settings"]): Layer.Layer<Service, SandboxError, World | Faults.Faults> =>
  SandboxService.layer.pipe(
    Layer.provideMerge(ProviderRegistry.layer([Faults.provider(Effect.map(World, ({ provider }) => provider))])),
    Layer.provideMerge(
      Faults.layerStore(
        Layer.effectContext(
          Effect.map(World, ({ log, store }) => Context.make(SandboxStore, store).pipe(Context.add(ProcessLog, log)))
        )
      )
    ),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ ...settings }))),
    Layer.fresh
  )

/** The library over this provider and the memory store. */
export const layerOver = <E = never, R = never>(
  make: Effect.Effect<SandboxProvider, E, R>,
  options: Options = {}
): Layer.Layer<Services, E | SandboxError, Exclude<R, Scope.Scope>> => {
  const world = Layer.effect(
    World,
    Effect.gen(function* () {
      yield* Passing.watching
      const provider = yield* make
      const records = yield* Layer.build(Layer.fresh(Memory.layer({ namespace: "test" })))
      return World.of({
        provider,
        store: Context.get(records, SandboxStore),
        log: Context.get(records, ProcessLog)
      })
    })
  ).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ ...options.settings }))))
  return service(options.settings).pipe(Layer.provideMerge(world), Layer.provideMerge(Faults.layer(options.faults)))
}

/** Options of {@link layer}: those of the provider `fake`, such as `commands`, too. */
export interface FakeOptions extends Options, Omit<Fake.Options, "cloud"> {}

/** The library over machines in memory, whose `Fake.Cloud` a test can look into. */
export const layer = (options: FakeOptions = {}): Layer.Layer<Services | Fake.Cloud, SandboxError> => {
  const { faults, settings, ...fake } = options
  return layerOver(
    Effect.flatMap(Fake.Cloud, (cloud) => Fake.make({ ...fake, cloud })),
    { faults, settings }
  ).pipe(Layer.provideMerge(Layer.effect(Fake.Cloud, Fake.makeCloud)))
}

/** Another service over the same machines and records: the one that is started after the first has died. */
export const another = (
  settings?: Options["settings"]
): Effect.Effect<SandboxService["Service"], SandboxError, World | Faults.Faults | Scope.Scope> =>
  Effect.map(Layer.build(service(settings)), (context) => Context.get(context, SandboxService))

/** Options of {@link passing}. */
export interface PassingOptions {
  /** After this much virtual time it dies, as what the effect waits for does not come; the default is 1 day. */
  readonly limit?: Duration.Input | undefined
  /**
   * How much real time a child process, a connection, a request or a real timer has before virtual time passes over it, each
   * time anew; the default is 1 second.
   */
  readonly patience?: Duration.Input | undefined
}

/**
 * Runs an effect, letting the virtual time pass that it waits for, and no more. Needs the `TestClock` that `it.effect` has.
 *
 * Once no fiber is ready to run, the clock is moved to the next moment that somebody sleeps until. Real work that Node knows of
 * (files, child processes, connections, real timers), and `just-bash`, come first.
 *
 * **Gotchas**: real work that lasts longer than `patience`, or that Node does not show as open (a worker, an `import` that a test
 * runner serves), is overtaken by time when something sleeps meanwhile. What stands open since before this clock's first
 * `passing`, or `layer`, is no such work. Who sleeps since before that is not seen, and woken only on the way to a later moment.
 * When nobody sleeps and nothing real is under way for `patience`, it dies: time would not end it.
 */
export const passing = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  options: PassingOptions = {}
): Effect.Effect<A, E, R> =>
  Passing.passing(effect, {
    limit: Duration.fromInputUnsafe(options.limit ?? Duration.days(1)),
    patience: Duration.fromInputUnsafe(options.patience ?? Duration.seconds(1))
  })
