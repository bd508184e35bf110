/** One boot of a sandbox as a machine. All of it goes to that boot, and boots no other. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
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
import type { Dto, Sdk } from "./sdk.ts"

/** What every machine of a provider shares. */
export interface Context extends Guest.Places {
  readonly sdk: Sdk
  /** The provider's registered name. */
  readonly name: string
  /** When output that was cut is asked for again. */
  readonly retry: RecoverySchedule
  readonly killGrace: Duration.Input | undefined
  /** After how many turns a process is followed; for tests. */
  readonly turnsBefore: number | undefined
}

/** How long the sandbox goes on after the deadline of a process. */
const afterDeadline = Duration.seconds(30)

const minutesUntil = (end: number, now: number): number => Math.max(1, Math.ceil((end - now) / 60_000))

/**
 * The machine of a sandbox that runs. `fresh` is one that nobody has seen running before: what the vendor's label says of its boot is
 * true then.
 */
export const make = Effect.fnUntraced(function* (
  context: Context,
  found: Dto,
  sandboxId: SandboxId,
  fresh: boolean
): Effect.fn.Return<Machine, SandboxError> {
  const { sdk } = context
  const guest = yield* Guest.make(sdk, found, sandboxId, context, { provider: context.name, fresh })
  const { dto } = guest
  const ref = Lifecycle.refOf(dto)
  const ports = Lifecycle.portsOf(dto)
  const launcher = yield* Processes.make(guest, {
    provider: context.name,
    retry: context.retry,
    killGrace: context.killGrace,
    turnsBefore: context.turnsBefore
  })

  /** When the vendor destroys it, and after how many minutes without activity it stops it; undefined and 0 for never. */
  let destroyedAt = dto.autoDestroyAt === undefined ? undefined : Date.parse(dto.autoDestroyAt)
  let idleMinutes = dto.autoStopInterval ?? 0

  const setLease = (operation: string, end: number): Effect.Effect<number, SandboxError> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const minutes = minutesUntil(end, now)
      return Effect.map(
        sdk.use(Lifecycle.question(operation, dto.id, { sandboxId }), ({ api }, options) =>
          api.setTtl(dto.id, minutes, undefined, options)
        ),
        () => (destroyedAt = now + minutes * 60_000)
      )
    })

  /**
   * A recorded process must not be cut off before its own deadline, by the lease nor for idleness: with no service to watch it, the
   * vendor sees no activity. There is time after it, too, to end what does not go by itself and to tell how it ended.
   */
  const covered = (deadline: number): Effect.Effect<void, SandboxError> =>
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const end = deadline + Duration.toMillis(afterDeadline)
      if (destroyedAt !== undefined && destroyedAt < end) yield* setLease("start", end)
      if (idleMinutes > 0 && now + idleMinutes * 60_000 < end) {
        const minutes = minutesUntil(end, now)
        yield* sdk.use(Lifecycle.question("start", dto.id, { sandboxId }), ({ api }, options) =>
          api.setAutostopInterval(dto.id, minutes, undefined, options)
        )
        idleMinutes = minutes
      }
    }).pipe(
      Effect.catchIf(
        ({ reason: { _tag } }) => _tag === "InvalidArgument" || _tag === "Permission" || _tag === "Quota",
        () =>
          Effect.flatMap(Clock.currentTimeMillis, (now) => {
            const ends = Math.min(destroyedAt ?? Infinity, idleMinutes > 0 ? now + idleMinutes * 60_000 : Infinity)
            return Effect.fail(
              sdk.fail("start", new LeaseTooShort({ remaining: Duration.millis(Math.max(0, ends - now)) }), sandboxId)
            )
          })
      )
    )

  return {
    ref,
    url: Option.none(),
    workspaceRoot: guest.workspaceRoot,
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
    createCheckpoint: Option.some(() => Checkpoints.create(sdk, dto, sandboxId)),
    portUrl: Option.some((port) =>
      ports.includes(port)
        ? Effect.map(
            guest.ask("portUrl", { about: "sandbox" }, (_, { api }, options) =>
              api.getPortPreviewUrl(dto.id, port, undefined, options)
            ),
            ({ data }) => ({
              port,
              url: data.url,
              headers: { "x-daytona-preview-token": Redacted.make(data.token, { label: "preview token" }) }
            })
          )
        : Effect.fail(sdk.fail("portUrl", new PortNotExposed({ port, exposed: ports }), sandboxId))
    ),
    extendTimeout: Option.some((duration) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => setLease("extendTimeout", now + Duration.toMillis(duration)))
    ),
    stop: (mode) => Lifecycle.endOwn(sdk, ref, sandboxId, mode)
  }
})
