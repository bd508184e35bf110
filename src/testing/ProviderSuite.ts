/**
 * What every provider promises, as tests: call {@link suite} in a test file of yours with the `make` of your provider. Peers:
 * `vitest` and `@effect/vitest`.
 *
 * The tests run real commands in real sandboxes, which they delete. They tell time by the real clock: what they wait for is
 * an event, and where something must *not* happen they wait for a moment.
 */
import { layer as sharedLayer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { SandboxProvider } from "../services/SandboxProvider.ts"
import * as Machines from "./internal/providerMachines.ts"
import * as Processes from "./internal/providerProcesses.ts"
import * as Providers from "./internal/providers.ts"
import * as Recorded from "./internal/providerRecorded.ts"

/** What the provider is expected to be; see the fields. */
export type Options = Providers.Options

/** Registers the tests under `name`. */
export const suite = <E>(
  name: string,
  make: Effect.Effect<SandboxProvider, E, Scope.Scope>,
  options: Options
): void => {
  const config = options.config ?? {}
  const subject = Layer.effect(
    Providers.Subject,
    Effect.gen(function* () {
      const provider = yield* make
      const namespace = Providers.fresh("suite")
      const machine = yield* Effect.acquireRelease(
        Effect.flatMap(Providers.request(provider, config, namespace), (request) => provider.create(request)),
        ({ ref }) => Effect.orDie(provider.stop(ref, "delete"))
      )
      return Providers.Subject.of({ provider, machine, namespace, config })
    })
  )
  sharedLayer(subject, { excludeTestServices: true })(`SandboxProvider: ${name}`, (it) => {
    Processes.register(it, options)
    if (options.capabilities.processes.recorded) Recorded.register(it, options)
    Machines.registerFiles(it, options)
    Machines.registerLife(it, options)
  })
}
