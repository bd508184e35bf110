/**
 * The one place where the SDK is called: loaded at first use, with a deadline, its cancellation and the classifier.
 *
 * The SDK's own methods wait in loops that give up at one bad poll or swallow every error, and most cannot be cancelled. Below them
 * is the client that it generates of its API, by which one request is asked once and can be taken back: that is what is used here,
 * with the SDK's transport and its errors. It is private to the SDK's types, so that {@link clientOf} looks whether it is there.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import type * as Daytona from "@daytonaio/sdk"
import * as Http from "node:http"
import * as Https from "node:https"
import type { SandboxErrorReason } from "../../../errors.ts"
import { SandboxError, Timeout, Unknown } from "../../../errors.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import type { Asked } from "../../internal/daytonaErrors.ts"
import { classify } from "../../internal/daytonaErrors.ts"
import { optionalPackage } from "../../internal/optionalPackage.ts"
import type { Access } from "./settings.ts"

/** The package. */
export type Module = typeof Daytona

/** The SDK's own object of a sandbox. */
export type Sandbox = Daytona.Sandbox

/** The generated client of the API. */
export type SandboxApi = ConstructorParameters<Module["Sandbox"]>[3]

/** The generated client of what runs commands in a sandbox. */
type ProcessApi = ConstructorParameters<Module["Process"]>[1]

/** The same of what moves files. */
type FilesApi = ConstructorParameters<Module["FileSystem"]>[1]

/** What the API tells of a sandbox. */
export type Dto = Awaited<ReturnType<SandboxApi["getSandbox"]>>["data"]

/** What it tells of one in a list. */
export type ListedDto = Awaited<ReturnType<SandboxApi["listSandboxes"]>>["data"]["items"][number]

/** What it takes for a new one. */
export type CreateDto = Parameters<SandboxApi["createSandbox"]>[0]

/** What every method of a generated client takes last. */
export type RequestOptions = NonNullable<Parameters<SandboxApi["getSandbox"]>[3]>

/** A request to a toolbox; the URL begins behind that of the toolbox. */
export type ToolboxRequest = Parameters<ProcessApi["axios"]["request"]>[0] & { readonly url: string }

/** What is used of the generated client of snapshots, whose type the SDK does not export. */
interface SnapshotsApi {
  readonly getAllSnapshots: (
    organizationId: undefined,
    page: number,
    limit: number,
    name: string,
    sourceSandboxId?: undefined,
    sort?: undefined,
    order?: undefined,
    options?: RequestOptions
  ) => Promise<{ readonly data: Daytona.PaginatedSnapshots }>
  readonly getSnapshot: (
    id: string,
    organizationId: undefined,
    options: RequestOptions
  ) => Promise<{ readonly data: Daytona.Snapshot }>
  readonly removeSnapshot: (id: string, organizationId: undefined, options: RequestOptions) => Promise<unknown>
}

/** What the API tells of a volume. */
export type VolumeDto = Awaited<ReturnType<Daytona.Daytona["volume"]["get"]>>

/** What is used of the generated client of volumes, whose type the SDK does not export. */
interface VolumesApi {
  readonly listVolumes: (
    organizationId: undefined,
    includeDeleted: undefined,
    options: RequestOptions
  ) => Promise<{ readonly data: ReadonlyArray<VolumeDto> }>
  readonly getVolumeByName: (
    name: string,
    organizationId: undefined,
    options: RequestOptions
  ) => Promise<{ readonly data: VolumeDto }>
  readonly getVolume: (
    id: string,
    organizationId: undefined,
    options: RequestOptions
  ) => Promise<{ readonly data: VolumeDto }>
  readonly createVolume: (
    request: { readonly name: string },
    organizationId: undefined,
    options: RequestOptions
  ) => Promise<{ readonly data: VolumeDto }>
  readonly deleteVolume: (id: string, organizationId: undefined, options: RequestOptions) => Promise<unknown>
}

/** The SDK, ready to be asked. */
export interface Client {
  readonly module: Module
  readonly api: SandboxApi
  readonly snapshots: SnapshotsApi
  readonly volumes: VolumesApi
  /** The SDK's object for what the API told. Asks where the toolbox is if that was not told. */
  readonly sandboxOf: (dto: Dto, options: RequestOptions) => Promise<Sandbox>
  /** What runs commands in that sandbox. */
  readonly processesOf: (sandbox: Sandbox) => ProcessApi
  /** What moves its files. */
  readonly filesOf: (sandbox: Sandbox) => FilesApi
  /** Asks its toolbox for what the SDK does not have. */
  readonly toolboxOf: (
    sandbox: Sandbox
  ) => (request: ToolboxRequest) => Promise<{ readonly data: unknown; readonly status: number }>
}

/** What is asked of the vendor; see {@link Asked}. */
export interface Question extends Omit<Asked, "scrub"> {
  readonly operation: string
  readonly sandboxId?: string | undefined
  /** What must be in no message about it, besides the credentials. */
  readonly secrets?: ReadonlyArray<string> | undefined
  /** Beyond it the call is given up; the default is the request timeout. */
  readonly deadline?: Duration.Duration | undefined
}

/** The SDK as the provider uses it. */
export interface Sdk {
  /** The region of new sandboxes. */
  readonly target: string | undefined
  /** The deadline of a question, and how long an answer may pause. */
  readonly requestTimeout: Duration.Duration
  /** When a question that changes nothing is asked again. */
  readonly retry: RecoverySchedule
  /** Asks once. `options` are for a generated client. */
  readonly use: <A>(
    question: Question,
    evaluate: (client: Client, options: RequestOptions & { readonly signal: AbortSignal }) => Promise<A>
  ) => Effect.Effect<A, SandboxError>
  readonly fail: (operation: string, reason: SandboxErrorReason, sandboxId?: string) => SandboxError
  /** Takes the credentials, and these secrets, out of what the vendor says. */
  readonly scrub: (text: string, secrets?: ReadonlyArray<string>) => string
  /** The reason for what a stream of the SDK threw. */
  readonly classify: (error: unknown, question: Question) => SandboxError
}

/** What {@link make} needs. */
export interface Options {
  readonly name: string
  readonly access: Access
  readonly requestTimeout: Duration.Duration
  readonly retry: RecoverySchedule
}

const secretOf = (access: Access): string => Redacted.value("apiKey" in access ? access.apiKey : access.jwtToken)

/** Everything by name: what were left out, the SDK would look for in the environment and in files of the working directory. */
const configOf = ({ access, requestTimeout }: Options): Daytona.DaytonaConfig => ({
  ...("apiKey" in access
    ? { apiKey: secretOf(access) }
    : { jwtToken: secretOf(access), organizationId: access.organizationId }),
  apiUrl: access.apiUrl,
  // Creations name their own; this keeps the SDK from looking for one.
  target: access.target ?? "default",
  requestTimeoutMs: Duration.toMillis(requestTimeout) + 1_000,
  // No socket in the background, and nothing that would have to be kept open: we poll.
  useDeprecatedPolling: true
})

const hasMethods = (value: unknown, names: ReadonlyArray<string>): boolean =>
  names.every((name) => Predicate.hasProperty(value, name) && typeof value[name] === "function")

/** What is there of the SDK's own; absent where a version has it otherwise. */
const clientOf = (
  module: Module,
  daytona: Daytona.Daytona,
  agents: { readonly httpAgent: Http.Agent; readonly httpsAgent: Https.Agent },
  requestTimeoutMs: number
): Client | undefined => {
  // Private members have no types; these are those of the constructors that take them.
  const api: SandboxApi = daytona["sandboxApi"]
  const snapshots: SnapshotsApi = daytona.snapshot["snapshotsApi"]
  const volumes: VolumesApi = daytona.volume["volumesApi"]
  const known =
    hasMethods(api, ["createSandbox", "getSandbox", "listSandboxes", "startSandbox", "stopSandbox", "deleteSandbox"]) &&
    hasMethods(snapshots, ["getAllSnapshots", "getSnapshot", "removeSnapshot"]) &&
    hasMethods(volumes, ["listVolumes", "getVolumeByName", "getVolume", "createVolume", "deleteVolume"]) &&
    hasMethods(module.Daytona, ["createAxiosInstance"])
  if (!known) return undefined
  return {
    module,
    api,
    snapshots,
    volumes,
    // As the SDK's own `get` makes it, but for the agents.
    sandboxOf: async (dto, options) => {
      const toolboxProxyUrl =
        Predicate.isString(dto.toolboxProxyUrl) && dto.toolboxProxyUrl !== ""
          ? dto.toolboxProxyUrl
          : (await api.getToolboxProxyUrl(dto.id, undefined, options)).data.url
      const transport = module.Daytona.createAxiosInstance(requestTimeoutMs)
      Object.assign(transport.defaults, agents)
      return new module.Sandbox(
        { ...dto, toolboxProxyUrl },
        structuredClone(daytona["clientConfig"]),
        transport,
        api,
        daytona["getAnalyticsApiUrl"],
        daytona["eventSubscriptionManager"],
        requestTimeoutMs
      )
    },
    processesOf: (sandbox) => sandbox.process["apiClient"],
    filesOf: (sandbox) => sandbox.fs["apiClient"],
    toolboxOf: (sandbox) => (request) => {
      const api = sandbox.process["apiClient"]
      const { baseOptions, basePath } = { ...api["configuration"] }
      return api["axios"].request({
        ...baseOptions,
        ...request,
        url: `${basePath}${request.url}`,
        headers: { ...baseOptions?.headers, ...request.headers }
      })
    }
  }
}

/**
 * The SDK starts a whole telemetry of its own, with a listener on the process, where a variable or a file of the working directory
 * says so. Nobody asked for it here.
 */
const withoutTelemetry = async (daytona: Daytona.Daytona, before: ReadonlyArray<NodeJS.SignalsListener>) => {
  if (daytona["otelSdk"] === undefined) return
  for (const listener of process.listeners("SIGTERM")) {
    if (!before.includes(listener)) process.removeListener("SIGTERM", listener)
  }
  await daytona["otelSdk"].shutdown()
}

/** The SDK of one account, closed with the Scope. Loads nothing yet. */
export const make = (options: Options): Effect.Effect<Sdk, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { access, name, requestTimeout } = options
    const scope = yield* Effect.scope
    const load = yield* optionalPackage(name, "@daytonaio/sdk", () => import("@daytonaio/sdk"))
    const scrubber =
      (secrets: ReadonlyArray<string> = []) =>
      (text: string) =>
        [secretOf(access), ...secrets].reduce(
          (clean, secret) => (secret === "" ? clean : clean.replaceAll(secret, "<redacted>")),
          text
        )

    const fail = (operation: string, reason: SandboxErrorReason, sandboxId?: string) =>
      new SandboxError({
        operation: `${name}.${operation}`,
        provider: name,
        ...(sandboxId === undefined ? {} : { sandboxId }),
        reason
      })

    const classified = (error: unknown, question: Question) =>
      fail(question.operation, classify(error, { ...question, scrub: scrubber(question.secrets) }), question.sandboxId)

    // Sockets of our own, so that none is left when the Scope closes.
    const agents = yield* Effect.acquireRelease(
      Effect.sync(() => ({
        httpAgent: new Http.Agent({ keepAlive: true }),
        httpsAgent: new Https.Agent({ keepAlive: true })
      })),
      ({ httpAgent, httpsAgent }) =>
        Effect.sync(() => {
          httpAgent.destroy()
          httpsAgent.destroy()
        })
    )

    const client = yield* Effect.cached(
      Effect.flatMap(load, (module) =>
        Effect.gen(function* () {
          const question: Question = { operation: "load", about: "sandbox", id: "", effects: false }
          const listeners = process.listeners("SIGTERM")
          const daytona = yield* Effect.acquireRelease(
            Effect.try({
              try: () => new module.Daytona(configOf(options)),
              catch: (error) => classified(error, question)
            }),
            (daytona) => Effect.promise(() => daytona[Symbol.asyncDispose]())
          )
          yield* Effect.promise(() => withoutTelemetry(daytona, listeners))
          const made = clientOf(module, daytona, agents, Duration.toMillis(requestTimeout) + 1_000)
          return made === undefined
            ? yield* fail("load", new Unknown({ detail: "this version of @daytonaio/sdk is not known" }))
            : made
        }).pipe(Effect.provideService(Scope.Scope, scope))
      )
    )

    return {
      target: access.target,
      requestTimeout,
      retry: options.retry,
      fail,
      scrub: (text, secrets) => scrubber(secrets)(text),
      classify: classified,
      use: (question, evaluate) => {
        const deadline = question.deadline ?? requestTimeout
        // The SDK has a deadline of its own, which should not be the first.
        const timeout = Duration.toMillis(deadline) + 1_000
        return Effect.flatMap(client, (client) =>
          Effect.tryPromise({
            try: (signal) => evaluate(client, { signal, timeout, ...agents }),
            catch: (error) => classified(error, question)
          })
        ).pipe(
          Effect.timeoutOrElse({
            duration: deadline,
            orElse: () =>
              Effect.fail(
                fail(
                  question.operation,
                  new Timeout({ clock: "request", duration: deadline, accepted: question.effects ? "unknown" : "no" }),
                  question.sandboxId
                )
              )
          })
        )
      }
    }
  })
