/** The provider put together. */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { Sandbox } from "@vercel/sandbox"
import type { SandboxError } from "../../../errors.ts"
import { Gone } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import type { RecoverySchedules } from "../../../services/RecoveryPolicy.ts"
import { RecoveryPolicy } from "../../../services/RecoveryPolicy.ts"
import type { CreateRequest, MachineRef, SandboxProvider } from "../../../services/SandboxProvider.ts"
import * as Provider from "../../../services/SandboxProvider.ts"
import * as SandboxSettings from "../../../services/SandboxSettings.ts"
import * as Checkpoints from "./checkpoints.ts"
import * as Lifecycle from "./lifecycle.ts"
import * as Machine from "./machine.ts"
import type { Environment, Plan } from "./plan.ts"
import { limits, planOf } from "./plan.ts"
import * as SdkPart from "./sdk.ts"
import type { Sdk } from "./sdk.ts"
import * as settings from "./settings.ts"

/** Options of {@link make}. */
export interface Options {
  /** An access token of Vercel's, or an OIDC token. */
  readonly token: Redacted.Redacted<string>
  readonly teamId: string
  readonly projectId: string
  /** The registered name; the default is `vercel`. */
  readonly name?: string | undefined
  /** Schedules that override the layer's `RecoveryPolicy` for this provider. */
  readonly recovery?: Partial<RecoverySchedules> | undefined
  /** Sends the requests; the default is the global one. */
  readonly fetch?: typeof globalThis.fetch | undefined
  /** Between TERM and KILL; 5 seconds. */
  readonly killGrace?: Duration.Input | undefined
  /** Where we keep things in a guest, such as the output of its processes; `/tmp/.effect-sandbox`. Relative to the workspace. */
  readonly guestDirectory?: string | undefined
}

/** What a provider of Vercel's can do besides. */
export class VercelClient extends Context.Service<
  VercelClient,
  {
    /**
     * The SDK's own object of a machine: what this library does not wrap. It is of that incarnation and fails `Gone` when the
     * name belongs to another sandbox by now; unlike us, its methods boot a sandbox that has stopped.
     */
    readonly native: (ref: MachineRef, sandboxId: SandboxId) => Effect.Effect<Sandbox, SandboxError>
  }
>()("effect-sandbox/layers/providers/Vercel/VercelClient") {}

/** The provider, and what only it can do. */
export interface Made {
  readonly provider: SandboxProvider
  readonly client: VercelClient["Service"]
}

const resolved = (plan: Plan): Provider.ResolvedConfig => ({
  persistent: plan.persistent,
  deleteOnStop: plan.deleteOnStop,
  timeout: plan.timeout,
  vcpus: plan.vcpus,
  ports: [...new Set(plan.ports)],
  ...(plan.runtime === undefined ? {} : { runtime: plan.runtime }),
  ...(plan.name === undefined ? {} : { name: { externalId: plan.name, reuse: plan.reuse } })
})

const primitives = (
  context: Machine.Context,
  environment: Environment,
  options: Options
): Omit<Provider.Primitives, "requestTimeout"> => {
  const { sdk } = context
  const planned = (config: SandboxConfig) =>
    Result.match(planOf(config, environment), {
      onFailure: Effect.fail,
      onSuccess: Effect.succeed
    })
  /** A plan that `resolve` has let through. */
  const planFor = (operation: string, request: CreateRequest): Effect.Effect<Plan, SandboxError> =>
    Effect.mapError(planned(request.config), (reason) => sdk.fail(operation, reason, request.sandboxId))
  const machine = (sandboxId: SandboxId) => (sandbox: Sandbox) => Machine.make(context, sandbox, sandboxId)
  return {
    kind: "vercel",
    name: options.name,
    recovery: options.recovery,
    capabilities: {
      processes: { stdin: true, signalsObservable: false, recorded: true, additionalFds: false },
      files: {
        openSurvivesRename: false,
        atomicExclusiveCreate: true,
        watchEvents: false,
        inodes: true,
        subSecondTimes: true
      },
      ports: limits.ports,
      checkpoints: { stopsProcesses: true, comments: false },
      extendTimeout: true,
      persistent: true
    },
    resolve: (config) => Effect.map(planned(config), resolved),
    create: (request) =>
      planFor("create", request).pipe(
        Effect.flatMap((plan) => Lifecycle.create(sdk, request, plan)),
        Effect.flatMap(machine(request.sandboxId))
      ),
    connect: (ref, { boot, sandboxId }) =>
      Effect.flatMap(Lifecycle.connect(sdk, ref, sandboxId, boot), machine(sandboxId)),
    find: (id) => Lifecycle.listByTag(sdk, "find", "sandbox", id),
    list: (namespace) => Lifecycle.listByTag(sdk, "list", "namespace", namespace),
    stop: (ref, mode) => Lifecycle.stop(sdk, ref, mode),
    checkpoints: Option.some({
      list: (id, ref) => Checkpoints.list(sdk, id, ref),
      restore: (id, request, ref) =>
        planFor("restoreCheckpoint", request).pipe(
          Effect.flatMap((plan) => Checkpoints.restore(sdk, id, request, plan, ref, context.retry)),
          Effect.flatMap(machine(request.sandboxId))
        ),
      remove: (id, sandboxId, ref) => Checkpoints.remove(sdk, id, sandboxId, ref, context.retry)
    })
  }
}

const clientOf = (sdk: Sdk): VercelClient["Service"] => ({
  native: (ref, sandboxId) =>
    Effect.flatMap(Lifecycle.getOwn(sdk, "native", ref, sandboxId), (found) =>
      Option.isSome(found)
        ? Effect.succeed(found.value)
        : Effect.fail(sdk.fail("native", new Gone({ evidence: `no sandbox ${ref.externalId} is this one` }), sandboxId))
    )
})

/** `token` is asked for that of each request, where the one in the options does not last. */
export const make = (
  options: Options,
  token?: Effect.Effect<Redacted.Redacted<string>, SandboxError>
): Effect.Effect<Made, SandboxError, Scope.Scope> =>
  Effect.gen(function* () {
    const environment = yield* settings.environment
    const requestTimeout = Option.getOrElse(yield* SandboxSettings.get(SandboxSettings.requestTimeout), () =>
      Duration.seconds(30)
    )
    const policy = yield* RecoveryPolicy
    const name = options.name ?? "vercel"
    const sdk = yield* SdkPart.make({
      name,
      credentials: options,
      fetch: options.fetch ?? globalThis.fetch,
      requestTimeout,
      token
    })
    const context: Machine.Context = {
      sdk,
      name,
      directory: options.guestDirectory ?? "/tmp/.effect-sandbox",
      retry: options.recovery?.connect ?? policy.connect,
      killGrace: options.killGrace
    }
    return {
      provider: Provider.make({ ...primitives(context, environment, options), requestTimeout }),
      client: clientOf(sdk)
    }
  })
