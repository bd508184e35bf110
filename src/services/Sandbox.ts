/**
 * The handle of a sandbox: the methods of `SandboxService`, bound to one id.
 *
 * A handle keeps nothing open and owns nothing, but for one of {@link scoped}. What crosses a queue, an RPC or a workflow is its
 * `ref`, plain data with the schema `SandboxRef`, of which {@link from} makes a handle again.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { InvalidArgument, SandboxError } from "../errors.ts"
import type { SandboxConfigInput } from "../model/SandboxConfig.ts"
import { issueText } from "../model/Common.ts"
import { SandboxRef } from "../model/SandboxRef.ts"
import * as core from "./internal/core.ts"
import type { PlatformServices } from "./internal/Platform.ts"
import { SandboxService } from "./SandboxService.ts"

export type { PlatformServices }

type Service = SandboxService["Service"]

/** A method of the service without its first parameter, the sandbox's id. */
type Bound<F> = F extends (id: string, ...rest: infer Rest) => infer A ? (...rest: Rest) => A : never

/** A sandbox. What each method does and fails with is said at the method of that name of `SandboxService`. */
export interface Sandbox {
  readonly id: SandboxRef["sandboxId"]
  /** What this handle was made of: plain data that {@link from} takes. All of it but the id is a hint that may be old. */
  readonly ref: SandboxRef
  /** `SandboxService.getSandbox`. */
  readonly record: ReturnType<Service["getSandbox"]>
  /** `SandboxService.reconnectToSandbox`. */
  readonly reconnect: Bound<Service["reconnectToSandbox"]>
  /** `SandboxService.stopSandbox`. */
  readonly stop: Bound<Service["stopSandbox"]>
  readonly extendTimeout: Bound<Service["extendTimeout"]>
  readonly runCommand: Bound<Service["runCommand"]>
  readonly streamCommand: Bound<Service["streamCommand"]>
  readonly spawn: Bound<Service["spawn"]>
  readonly runCommandProcess: Bound<Service["runCommandProcess"]>
  readonly runCommandWithProcessStream: Bound<Service["runCommandWithProcessStream"]>
  readonly listProcesses: Bound<Service["listProcesses"]>
  readonly startObservedProcess: Bound<Service["startObservedProcess"]>
  readonly writeFiles: Bound<Service["writeFiles"]>
  readonly readFile: Bound<Service["readFile"]>
  readonly getPortUrl: Bound<Service["getPortUrl"]>
  readonly createCheckpoint: Bound<Service["createCheckpoint"]>
  readonly listCheckpoints: ReturnType<Service["listCheckpoints"]>
  readonly restoreCheckpoint: Bound<Service["restoreCheckpoint"]>
  readonly deleteCheckpoint: Bound<Service["deleteCheckpoint"]>
  /** `SandboxService.platform`: this sandbox as Effect's own platform. */
  readonly platform: ReturnType<Service["platform"]>
}

const make = (service: Service, ref: SandboxRef): Sandbox => {
  const id = ref.sandboxId
  return {
    id,
    ref,
    record: service.getSandbox(id),
    reconnect: (...rest) => service.reconnectToSandbox(id, ...rest),
    stop: (...rest) => service.stopSandbox(id, ...rest),
    extendTimeout: (...rest) => service.extendTimeout(id, ...rest),
    runCommand: (...rest) => service.runCommand(id, ...rest),
    streamCommand: (...rest) => service.streamCommand(id, ...rest),
    spawn: (...rest) => service.spawn(id, ...rest),
    runCommandProcess: (...rest) => service.runCommandProcess(id, ...rest),
    runCommandWithProcessStream: (...rest) => service.runCommandWithProcessStream(id, ...rest),
    listProcesses: (...rest) => service.listProcesses(id, ...rest),
    startObservedProcess: (...rest) => service.startObservedProcess(id, ...rest),
    writeFiles: (...rest) => service.writeFiles(id, ...rest),
    readFile: (...rest) => service.readFile(id, ...rest),
    getPortUrl: (...rest) => service.getPortUrl(id, ...rest),
    createCheckpoint: (...rest) => service.createCheckpoint(id, ...rest),
    listCheckpoints: service.listCheckpoints(id),
    restoreCheckpoint: (...rest) => service.restoreCheckpoint(id, ...rest),
    deleteCheckpoint: (...rest) => service.deleteCheckpoint(id, ...rest),
    platform: service.platform(id)
  }
}

/** Makes a sandbox, or with the `sandboxId` of an earlier call its handle; it lives until it is stopped. */
export const create = (
  ...args: Parameters<Service["createSandbox"]>
): Effect.Effect<Sandbox, SandboxError, SandboxService> =>
  SandboxService.use((service) => Effect.map(service.createSandbox(...args), ({ ref }) => make(service, ref)))

/**
 * Makes a sandbox that is stopped when the Scope closes: deleted, unless the config or the provider says that its disk stays. A
 * stop that fails then is logged; the record keeps that it is pending. Interrupted while it is made, it is stopped at once.
 */
export const scoped = (
  config?: SandboxConfigInput
): Effect.Effect<Sandbox, SandboxError, SandboxService | Scope.Scope> =>
  SandboxService.use((service) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        // Chosen here, so that what was begun can be stopped by it.
        const sandboxId = yield* core.newUuid
        const stop = (id: string) =>
          Effect.catch(service.stopSandbox(id), (error) =>
            error.reason._tag === "NotFound" ? Effect.void : Effect.logWarning(`sandbox ${id} was not stopped`, error)
          )
        const sandbox = yield* Effect.onInterrupt(restore(create(config, { sandboxId })), () => stop(sandboxId))
        yield* Effect.addFinalizer(() => stop(sandbox.id))
        return sandbox
      })
    )
  )

/** The handle of a sandbox that there is; reads its record, asks no vendor. */
export const open = (id: string): Effect.Effect<Sandbox, SandboxError, SandboxService> =>
  SandboxService.use((service) => Effect.map(service.getSandbox(id), (record) => make(service, core.refOf(record))))

const decodeRef = Schema.decodeUnknownResult(SandboxRef)

/**
 * The handle that a ref stands for, also one of `@ekairos/sandbox`, from wherever it came: it is decoded, and `InvalidArgument` if
 * it is none. Asks nobody: a sandbox that is not there shows at its first use.
 */
export const from = (ref: unknown): Effect.Effect<Sandbox, SandboxError, SandboxService> =>
  SandboxService.use((service) => {
    const decoded = decodeRef(ref)
    return Result.isSuccess(decoded)
      ? Effect.succeed(make(service, decoded.success))
      : Effect.fail(
          new SandboxError({
            operation: "Sandbox.from",
            reason: new InvalidArgument({ argument: "ref", problem: issueText(decoded.failure.issue) })
          })
        )
  })

/**
 * A sandbox as Effect's own platform: a program that knows nothing of sandboxes runs inside this one. See
 * `SandboxService.platform`.
 */
export const platform = (id: string): Layer.Layer<PlatformServices, SandboxError, SandboxService> =>
  Layer.unwrap(SandboxService.useSync((service) => service.platform(id)))
