/** The provider put together. */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import { Gone, InvalidArgument, SandboxError } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import type { RecoverySchedules } from "../../../services/RecoveryPolicy.ts"
import { RecoveryPolicy } from "../../../services/RecoveryPolicy.ts"
import type { CreateRequest, MachineRef, SandboxProvider } from "../../../services/SandboxProvider.ts"
import * as Provider from "../../../services/SandboxProvider.ts"
import * as SandboxSettings from "../../../services/SandboxSettings.ts"
import { inline } from "../../internal/launcher/launcher.ts"
import * as ApiPart from "./api.ts"
import type { Api } from "./api.ts"
import { pathOf } from "./api.ts"
import * as Checkpoints from "./checkpoints.ts"
import * as Lifecycle from "./lifecycle.ts"
import type { Found, Sprite } from "./lifecycle.ts"
import * as Machine from "./machine.ts"
import type { Environment, Plan } from "./plan.ts"
import { limits, planOf } from "./plan.ts"
import * as settings from "./settings.ts"

/** Options of {@link make}. */
export interface Options {
  /** Of an organization. */
  readonly token: Redacted.Redacted<string>
  /** The default is the public API. */
  readonly baseUrl?: string | undefined
  /** The registered name; the default is `sprites`. */
  readonly name?: string | undefined
  /** Schedules that override the layer's `RecoveryPolicy` for this provider. */
  readonly recovery?: Partial<RecoverySchedules> | undefined
  /** Between TERM and KILL; 5 seconds. */
  readonly killGrace?: Duration.Input | undefined
  /** Where we keep things in a sprite, such as the output of its processes; `/var/tmp/.effect-sandbox`. Relative to the workspace. */
  readonly guestDirectory?: string | undefined
  /** The socket of the vendor's Tasks API in a sprite; `/.sprite/api.sock`. Relative to the workspace. */
  readonly taskSocket?: string | undefined
  /** How often a recorded process renews what holds its sprite awake; 60 seconds. */
  readonly renewEvery?: Duration.Input | undefined
}

/** What a provider of sprites can do besides. */
export class SpritesClient extends Context.Service<
  SpritesClient,
  {
    /**
     * The sprite of a machine, for what this library does not wrap: what the API says of it, and a client whose requests are below
     * `/v1/sprites/<name>`, with the token. It is of that incarnation and fails `Gone` when the name belongs to another sprite by now.
     */
    readonly native: (
      ref: MachineRef,
      sandboxId: SandboxId
    ) => Effect.Effect<{ readonly sprite: Sprite; readonly client: HttpClient.HttpClient }, SandboxError>
  }
>()("effect-sandbox/layers/providers/Sprites/SpritesClient") {}

/** The provider, and what only it can do. */
export interface Made {
  readonly provider: SandboxProvider
  readonly client: SpritesClient["Service"]
}

const resolved = (plan: Plan): Provider.ResolvedConfig => ({
  persistent: plan.persistent,
  deleteOnStop: plan.deleteOnStop,
  vcpus: limits.vcpus,
  ports: plan.port === undefined ? [] : [plan.port],
  ...(plan.timeout === undefined ? {} : { timeout: plan.timeout }),
  ...(plan.name === undefined ? {} : { name: { externalId: plan.name, reuse: plan.reuse } })
})

const primitives = (
  context: Machine.Context,
  environment: Environment,
  options: Options
): Omit<Provider.Primitives, "requestTimeout"> => {
  const { api } = context
  const planned = (config: SandboxConfig) => Effect.fromResult(planOf(config, environment))
  const machine = (operation: string, sandboxId: SandboxId, config?: SandboxConfig) => (there: Found) =>
    Machine.make(context, operation, there, sandboxId, config)
  /** A plan that `resolve` has let through. */
  const planFor = (operation: string, request: CreateRequest): Effect.Effect<Plan, SandboxError> =>
    Effect.mapError(planned(request.config), (reason) => api.fail(operation, reason, request.sandboxId))
  return {
    kind: "sprites",
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
      checkpoints: { stopsProcesses: true, comments: true },
      extendTimeout: true,
      persistent: true
    },
    resolve: (config) => Effect.map(planned(config), resolved),
    create: (request) =>
      planFor("create", request).pipe(
        Effect.flatMap((plan) =>
          Lifecycle.create(context, request, plan, machine("create", request.sandboxId, request.config))
        )
      ),
    connect: (ref, { boot, sandboxId }) =>
      Effect.flatMap(Lifecycle.connect(api, ref, sandboxId, boot), machine("connect", sandboxId)),
    find: (id, namespace) => Lifecycle.find(api, id, namespace),
    list: (namespace) => Lifecycle.list(api, namespace),
    stop: (ref, mode) => Lifecycle.stop(context, ref, mode),
    checkpoints: Option.some({
      list: (id, ref) => Checkpoints.list(api, id, ref),
      restore: (id, request, ref) =>
        planFor("restoreCheckpoint", request).pipe(
          Effect.flatMap((plan) =>
            Checkpoints.restore(
              context,
              id,
              request,
              plan,
              ref,
              context.ready,
              machine("restoreCheckpoint", request.sandboxId, request.config)
            )
          )
        ),
      remove: (id, sandboxId, ref) => Checkpoints.remove(api, id, sandboxId, ref)
    })
  }
}

const clientOf = (api: Api): SpritesClient["Service"] => ({
  native: (ref, sandboxId) =>
    Effect.flatMap(Lifecycle.ofRef(api, "native", ref, sandboxId), (there) =>
      Option.isSome(there)
        ? Effect.succeed({
            sprite: there.value.sprite,
            client: HttpClient.mapRequestInput(
              api.client,
              HttpClientRequest.prependUrl(pathOf(there.value.sprite.name))
            )
          })
        : Effect.fail(api.fail("native", new Gone({ evidence: `no sprite ${ref.externalId} is this one` }), sandboxId))
    )
})

export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<Made, SandboxError, HttpClient.HttpClient> {
  const environment = yield* settings.environment
  const requestTimeout = Option.getOrElse(yield* SandboxSettings.get(SandboxSettings.requestTimeout), () =>
    Duration.seconds(30)
  )
  const policy = yield* RecoveryPolicy
  const name = options.name ?? "sprites"
  const baseUrl = options.baseUrl ?? settings.publicApi
  if (!URL.canParse(baseUrl) || !/^https?:$/.test(new URL(baseUrl).protocol)) {
    const reason = new InvalidArgument({ argument: "baseUrl", problem: "it is no url of http or https" })
    return yield* new SandboxError({ operation: `${name}.make`, provider: name, reason })
  }
  const api = ApiPart.make({
    name,
    token: options.token,
    baseUrl,
    client: yield* HttpClient.HttpClient,
    requestTimeout
  })
  const context: Machine.Context = {
    api,
    name,
    directory: options.guestDirectory ?? "/var/tmp/.effect-sandbox",
    taskSocket: options.taskSocket ?? "/.sprite/api.sock",
    renewEvery: options.renewEvery,
    launcher: inline,
    grace: Duration.toMillis(Duration.fromInputUnsafe(options.killGrace ?? Duration.seconds(5))),
    killGrace: options.killGrace,
    retry: options.recovery?.connect ?? policy.connect,
    ready: options.recovery?.ready ?? policy.ready
  }
  return {
    provider: Provider.make({
      ...primitives(context, environment, options),
      // Each question has a deadline of its own. All of a call are given the time to tell a machine that does not answer from one
      // that wakes.
      requestTimeout: Duration.max(requestTimeout, Lifecycle.slow)
    }),
    client: clientOf(api)
  }
})
