/** The provider put together. */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../../errors.ts"
import { Gone, PortNotExposed, Superseded } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import type { RecoverySchedules } from "../../../services/RecoveryPolicy.ts"
import { RecoveryPolicy } from "../../../services/RecoveryPolicy.ts"
import type { CreateRequest, MachineRef, PortUrl, SandboxProvider } from "../../../services/SandboxProvider.ts"
import * as Provider from "../../../services/SandboxProvider.ts"
import * as SandboxSettings from "../../../services/SandboxSettings.ts"
import type { SandboxVolumes } from "../../../services/SandboxVolumes.ts"
import * as Checkpoints from "./checkpoints.ts"
import * as Lifecycle from "./lifecycle.ts"
import * as Machine from "./machine.ts"
import type { Environment, Plan } from "./plan.ts"
import { limits, planOf } from "./plan.ts"
import * as SdkPart from "./sdk.ts"
import type { Dto, Sandbox, Sdk } from "./sdk.ts"
import type { Access } from "./settings.ts"
import * as settings from "./settings.ts"
import * as Volumes from "./volumes.ts"

/** What a provider of Daytona's is made with besides where it is and who asks. */
export interface CommonOptions {
  /** The registered name; the default is `daytona`. */
  readonly name?: string | undefined
  /** Schedules that override the layer's `RecoveryPolicy` for this provider. */
  readonly recovery?: Partial<RecoverySchedules> | undefined
  /** Between TERM and KILL; 5 seconds. */
  readonly killGrace?: Duration.Input | undefined
  /** Where we keep things in a guest, such as the output of its processes; `/tmp/.effect-sandbox`. Relative to the workspace. */
  readonly guestDirectory?: string | undefined
  /**
   * Where a guest keeps what does not outlive its boot; `/dev/shm`. The vendor's API does not tell two boots apart, a mark in there
   * does.
   */
  readonly bootDirectory?: string | undefined
}

/** Options of {@link make}. */
export type Options = Access & CommonOptions

/** What a provider of Daytona's can do besides. */
export class DaytonaClient extends Context.Service<
  DaytonaClient,
  {
    /**
     * The SDK's own object of a machine: what this library does not wrap. Fails `Gone` when the sandbox is no more, and is not
     * bound to a boot.
     */
    readonly native: (ref: MachineRef, sandboxId: SandboxId) => Effect.Effect<Sandbox, SandboxError>
    /** A URL of a port that needs no header and ends at a time, of at most a day; it outlives a stop. */
    readonly signedPortUrl: (
      ref: MachineRef,
      sandboxId: SandboxId,
      port: number,
      expiresIn: Duration.Input
    ) => Effect.Effect<PortUrl, SandboxError>
  }
>()("effect-sandbox/layers/providers/Daytona/DaytonaClient") {}

/** The provider, and what only it can do. */
export interface Made {
  readonly provider: SandboxProvider
  readonly client: DaytonaClient["Service"]
  readonly volumes: SandboxVolumes["Service"]
}

const resolved = (plan: Plan): Provider.ResolvedConfig => ({
  persistent: plan.persistent,
  deleteOnStop: plan.deleteOnStop,
  ports: plan.ports,
  ...(plan.timeout === undefined ? {} : { timeout: plan.timeout }),
  ...(plan.vcpus === undefined ? {} : { vcpus: plan.vcpus }),
  ...(plan.runtime === undefined ? {} : { runtime: plan.runtime })
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
  const fresh = (sandboxId: SandboxId) => (dto: Dto) => Machine.make(context, dto, sandboxId, true)
  return {
    kind: "daytona",
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
      checkpoints: { stopsProcesses: false, comments: false },
      extendTimeout: true,
      persistent: true
    },
    resolve: (config) => Effect.map(planned(config), resolved),
    create: (request) =>
      planFor("create", request).pipe(
        Effect.flatMap((plan) => Lifecycle.create(sdk, request, plan)),
        Effect.flatMap(fresh(request.sandboxId))
      ),
    connect: (ref, { boot, sandboxId }) =>
      Effect.flatMap(Lifecycle.connect(sdk, ref, sandboxId, boot), ({ dto }) =>
        Effect.flatMap(Machine.make(context, dto, sandboxId, false), (machine) =>
          // The label lags behind a boot that was not ours.
          boot || ref.incarnation === "" || machine.ref.incarnation === ref.incarnation
            ? Effect.succeed(machine)
            : Effect.fail(sdk.fail("connect", new Superseded({ incarnation: ref.incarnation }), sandboxId))
        )
      ),
    find: (id) => Lifecycle.find(sdk, id),
    list: (namespace) => Lifecycle.list(sdk, namespace),
    stop: (ref, mode) => Lifecycle.stop(sdk, ref, mode),
    checkpoints: Option.some({
      list: (id) => Checkpoints.list(sdk, id),
      restore: (id, request, ref) =>
        planFor("restoreCheckpoint", request).pipe(
          Effect.flatMap((plan) => Checkpoints.restore(sdk, id, request, plan, ref)),
          Effect.flatMap(fresh(request.sandboxId))
        ),
      remove: (id, sandboxId) => Checkpoints.remove(sdk, id, sandboxId)
    })
  }
}

const clientOf = (sdk: Sdk): DaytonaClient["Service"] => {
  const own = (operation: string, ref: MachineRef, sandboxId: SandboxId) =>
    Effect.flatMap(Lifecycle.getOwn(sdk, ref, sandboxId), (found) =>
      Option.isSome(found)
        ? Effect.succeed(found.value)
        : Effect.fail(
            sdk.fail(operation, new Gone({ evidence: `no sandbox ${ref.externalId} is this one` }), sandboxId)
          )
    )
  return {
    native: (ref, sandboxId) =>
      Effect.flatMap(own("native", ref, sandboxId), (dto) =>
        sdk.use(Lifecycle.question("native", dto.id, { sandboxId }), (client, options) =>
          client.sandboxOf(dto, options)
        )
      ),
    signedPortUrl: (ref, sandboxId, port, expiresIn) =>
      Effect.gen(function* () {
        const operation = "signedPortUrl"
        const dto = yield* own(operation, ref, sandboxId)
        const exposed = Lifecycle.portsOf(dto)
        if (!exposed.includes(port)) {
          return yield* sdk.fail(operation, new PortNotExposed({ port, exposed }), sandboxId)
        }
        const seconds = Math.ceil(Duration.toSeconds(Duration.fromInputUnsafe(expiresIn)))
        const now = yield* Clock.currentTimeMillis
        const { data } = yield* sdk.use(Lifecycle.question(operation, dto.id, { sandboxId }), ({ api }, options) =>
          api.getSignedPortPreviewUrl(dto.id, port, undefined, seconds, options)
        )
        return { port, url: data.url, headers: {}, expiresAt: now + seconds * 1_000 }
      })
  }
}

/** `turnsBefore` is for tests that want every process followed. */
export const make = (options: Options, turnsBefore?: number): Effect.Effect<Made, SandboxError, Scope.Scope> =>
  Effect.gen(function* () {
    const environment = yield* settings.environment
    const requestTimeout = Option.getOrElse(yield* SandboxSettings.get(SandboxSettings.requestTimeout), () =>
      Duration.seconds(30)
    )
    const policy = yield* RecoveryPolicy
    const name = options.name ?? "daytona"
    const retry = options.recovery?.connect ?? policy.connect
    const sdk = yield* SdkPart.make({ name, access: options, requestTimeout, retry })
    const context: Machine.Context = {
      sdk,
      name,
      directory: options.guestDirectory ?? "/tmp/.effect-sandbox",
      bootDirectory: options.bootDirectory ?? "/dev/shm",
      retry,
      killGrace: options.killGrace,
      turnsBefore
    }
    return {
      provider: Provider.make({ ...primitives(context, environment, options), requestTimeout }),
      client: clientOf(sdk),
      volumes: Volumes.make(sdk)
    }
  })
