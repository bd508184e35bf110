/** One generation of a sprite as a machine. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type { SandboxError, SandboxErrorReason } from "../../../errors.ts"
import { NotRunning, PortNotExposed, UnsupportedCapability } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import { ProcessExit } from "../../../model/Process.ts"
import type { SandboxConfig } from "../../../model/SandboxConfig.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import type { Machine, MachineProcess, PortUrl } from "../../../services/SandboxProvider.ts"
import { pathOf } from "./api.ts"
import * as Checkpoints from "./checkpoints.ts"
import * as Files from "./files.ts"
import * as Guest from "./guest.ts"
import * as Lifecycle from "./lifecycle.ts"
import { defaultPort } from "./plan.ts"
import * as Processes from "./processes.ts"

/** What every machine of a provider shares. */
export interface Context extends Lifecycle.Context {
  /** The provider's registered name. */
  readonly name: string
  /** When a machine that comes up is asked again. */
  readonly ready: RecoverySchedule
  readonly killGrace: Duration.Input | undefined
  /** Of the Tasks API in a machine; may be relative to the working directory. */
  readonly taskSocket: string
  readonly renewEvery: Duration.Input | undefined
}

const Services = Schema.NullOr(
  Schema.Array(Schema.Struct({ http_port: Schema.optionalKey(Schema.NullOr(Schema.Int)) }))
)

/** A process that the end of the lease ends, and not a deadline of its own. */
const leased = (process: MachineProcess): MachineProcess => ({
  ...process,
  exit: Effect.map(process.exit, (exit) => {
    if (exit.reason !== "deadline") return exit
    return exit._tag === "Signalled"
      ? ProcessExit.Signalled({ ...exit, reason: "timeout" })
      : ProcessExit.Exited({ ...exit, reason: "timeout" })
  })
})

/** The machine of a sprite that is there. Wakes it. `config` is given where it is made, or made anew, from one. */
export const make = Effect.fnUntraced(function* (
  context: Context,
  operation: string,
  there: Lifecycle.Found,
  sandboxId: SandboxId,
  config?: SandboxConfig
): Effect.fn.Return<Machine, SandboxError> {
  const { api } = context
  const { sprite, tags } = there
  const ref = Lifecycle.refOf(there)
  const place = Lifecycle.placeOf(api, there, sandboxId)
  const guest = yield* Guest.enter(place, context, operation)
  // One that was somebody's before may have another's.
  if (config !== undefined && (config.env !== undefined || tags.generation > 1)) {
    yield* Processes.provideEnvironment(guest, config.env ?? {})
  }
  const launcher = yield* Processes.make(guest, {
    provider: context.name,
    incarnation: ref.incarnation,
    retry: context.retry,
    killGrace: context.killGrace,
    taskSocket: context.taskSocket,
    renewEvery: context.renewEvery
  })
  const fail = (asked: string, reason: SandboxErrorReason) => Effect.fail(api.fail(asked, reason, sandboxId))
  const url = Option.filter(Option.fromNullishOr(sprite.url), (text) => text !== "")

  /** When the lease ends: the labels know of one that was extended elsewhere, and are asked once ours is over. */
  let lease = tags.lease
  /** Ends that the lease has no more, and processes may have still: to move them has failed. */
  const behind = new Set<number>()
  const leaseEnd = Effect.fnUntraced(function* (): Effect.fn.Return<number | undefined, SandboxError> {
    const now = yield* Clock.currentTimeMillis
    if (lease === undefined || lease.end > now) return lease?.end
    lease = (yield* Lifecycle.own(api, "start", guest)).tags.lease
    return lease !== undefined && lease.end <= now
      ? yield* fail("start", new NotRunning({ detail: "its lease has ended" }))
      : lease?.end
  })

  const portUrl = Effect.fnUntraced(function* (port: number): Effect.fn.Return<PortUrl, SandboxError> {
    if (port !== tags.port) {
      return yield* fail("portUrl", new PortNotExposed({ port, exposed: tags.port === undefined ? [] : [tags.port] }))
    }
    if (Option.isNone(url)) {
      return yield* fail("portUrl", new UnsupportedCapability({ capability: "ports", detail: "the sprite has no url" }))
    }
    const services =
      port === defaultPort
        ? []
        : yield* Effect.catch(
            api.json(guest.question("portUrl"), HttpClientRequest.get(pathOf(sprite.name, "services")), Services),
            (error) => Effect.flatMap(guest.explain(error), Effect.fail)
          )
    if (port !== defaultPort && services?.some((service) => service.http_port === port) !== true) {
      const detail = `the url of a sprite leads to port ${defaultPort}, or to the one service that has an http_port, which is not ${port}`
      return yield* fail("portUrl", new UnsupportedCapability({ capability: "ports", detail }))
    }
    const headers: PortUrl["headers"] =
      sprite.url_settings?.auth === "public"
        ? {}
        : { authorization: Redacted.make(`Bearer ${Redacted.value(api.token)}`, { label: "authorization" }) }
    return { port, url: url.value, headers }
  })

  return {
    ref,
    url,
    workspaceRoot: guest.home,
    metadata: {},
    start: Effect.fnUntraced(function* (command) {
      if (command.lifetime === "recorded" && guest.cannotHold !== "") {
        const detail = `the machine lacks ${guest.cannotHold}, with which a recorded process holds it awake`
        return yield* fail("start", new UnsupportedCapability({ capability: "recorded processes", detail }))
      }
      const end = yield* leaseEnd()
      if (end === undefined || (command.deadline !== undefined && command.deadline <= end)) {
        return yield* launcher.start(command)
      }
      return leased(yield* launcher.start({ ...command, deadline: end }))
    }),
    findProcess: launcher.findProcess,
    resume: launcher.resume,
    readFile: (path) => Files.read(guest, path),
    writeFiles: (entries) => Files.write(guest, entries),
    fileSystem: {},
    createCheckpoint: Option.some((options) => Checkpoints.create(context, guest, options, context.ready)),
    portUrl: Option.some(portUrl),
    extendTimeout: Option.some(
      Effect.fnUntraced(function* (duration) {
        const end = Math.ceil((yield* Clock.currentTimeMillis) + Duration.toMillis(duration))
        const before = yield* Lifecycle.extend(api, guest, end)
        lease = { duration: before?.duration ?? Duration.toMillis(duration), end }
        // What the old end would end goes on, whoever started it.
        if (before !== undefined) behind.add(before.end)
        for (const from of behind) {
          const moved = Lifecycle.patiently(context.retry, Guest.moveDeadlines(guest, from, end))
          yield* Effect.mapError(moved, Lifecycle.begun)
          behind.delete(from)
        }
        return end
      })
    ),
    stop: (mode) => Lifecycle.endOwn(context, place, ref, mode)
  }
})
