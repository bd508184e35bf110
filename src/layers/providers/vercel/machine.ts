/** One session of a sandbox as a machine. All of it goes to that session, which never boots another. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import type { Sandbox } from "@vercel/sandbox"
import type { SandboxError } from "../../../errors.ts"
import { LeaseTooShort, PortNotExposed } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import type { Machine } from "../../../services/SandboxProvider.ts"
import * as Checkpoints from "./checkpoints.ts"
import * as Files from "./files.ts"
import * as Guest from "./guest.ts"
import * as Lifecycle from "./lifecycle.ts"
import * as Processes from "./processes.ts"
import type { Sdk } from "./sdk.ts"

/** What every machine of a provider shares. */
export interface Context {
  readonly sdk: Sdk
  /** The provider's registered name. */
  readonly name: string
  /** Where the launcher keeps its processes in a guest. */
  readonly directory: string
  /** When output that was cut is asked for again. */
  readonly retry: RecoverySchedule
  readonly killGrace: Duration.Input | undefined
}

/** How long the lease goes on after the deadline of a process. */
const afterDeadline = Duration.seconds(30)

/** When the lease of a session ends, in ms since the epoch. */
const endOf = (session: Guest.Guest["session"]): number =>
  (session.startedAt ?? session.createdAt).getTime() + session.timeout

/** The machine of a sandbox that runs. */
export const make = Effect.fnUntraced(function* (
  context: Context,
  sandbox: Sandbox,
  sandboxId: SandboxId
): Effect.fn.Return<Machine> {
  const { sdk } = context
  const guest = Guest.make(sdk, sandbox, sandboxId, context.directory)
  const { session } = guest
  const ref = Lifecycle.refOf(sandbox)
  const launcher = yield* Processes.make(guest, {
    provider: context.name,
    retry: context.retry,
    killGrace: context.killGrace
  })

  const extending = yield* Semaphore.make(1)
  let leaseEnd = endOf(session)

  /**
   * Lets the lease end no earlier than that; the vendor can only add to it. So of several that want it longer each asks after the
   * others, and for what is missing to the end that the vendor tells then: the session that is held knows nothing of what others did.
   */
  const extendTo = (operation: string, end: number): Effect.Effect<number, SandboxError> =>
    extending.withPermit(
      Effect.gen(function* () {
        if (leaseEnd >= end) return leaseEnd
        const now = (yield* Lifecycle.get(sdk, sandbox.name, sandboxId)).currentSession()
        // Another session has a lease of its own; to extend this one will say that it has ended.
        const current = now.sessionId === session.sessionId ? now : session
        leaseEnd = endOf(current)
        const missing = Math.ceil(end - leaseEnd)
        if (missing <= 0) return leaseEnd
        yield* guest.ask(operation, { effects: true }, (signal) => current.extendTimeout(missing, { signal }))
        leaseEnd = endOf(current)
        return leaseEnd
      })
    )

  /**
   * A recorded process must not be cut off by the lease before its own deadline; if it can be had, there is time after it, too, to
   * end what does not go by itself and to tell how it ended.
   */
  const covered = (deadline: number): Effect.Effect<void, SandboxError> => {
    const refused = (error: SandboxError) => error.reason._tag === "InvalidArgument"
    return extendTo("start", deadline + Duration.toMillis(afterDeadline)).pipe(
      Effect.catchIf(refused, () => extendTo("start", deadline)),
      Effect.catchIf(refused, () =>
        Effect.flatMap(Clock.currentTimeMillis, (now) =>
          Effect.fail(
            sdk.fail("start", new LeaseTooShort({ remaining: Duration.millis(Math.max(0, leaseEnd - now)) }), sandboxId)
          )
        )
      ),
      Effect.asVoid
    )
  }

  return {
    ref,
    url: Option.none(),
    workspaceRoot: session.cwd,
    metadata: {},
    start: (command) =>
      command.lifetime === "recorded" && command.deadline !== undefined
        ? Effect.andThen(covered(command.deadline), launcher.start(command))
        : launcher.start(command),
    findProcess: launcher.findProcess,
    resume: launcher.resume,
    readFile: (path) => Files.read(guest, path),
    writeFiles: (entries) => Files.write(guest, entries),
    fileSystem: {},
    createCheckpoint: Option.some(() => Checkpoints.create(guest, sandboxId)),
    portUrl: Option.some((port) =>
      Effect.suspend(() => {
        const route = sandbox.routes.find((one) => one.port === port)
        return route === undefined
          ? Effect.fail(
              sdk.fail(
                "portUrl",
                new PortNotExposed({ port, exposed: sandbox.routes.map((one) => one.port) }),
                sandboxId
              )
            )
          : Effect.succeed({ port, url: sandbox.domain(port), headers: {} })
      })
    ),
    extendTimeout: Option.some((duration) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => extendTo("extendTimeout", now + Duration.toMillis(duration)))
    ),
    stop: (mode) => Lifecycle.endOwn(sdk, ref, sandboxId, mode)
  }
})
