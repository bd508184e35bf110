/**
 * The tools of `programs/agentToolkit` as a server of the Model Context Protocol: {@link serve} over standard input and
 * output, which is how editors and desktop agents start one, {@link registrations} for `McpServer.layerHttp` or another
 * transport of yours.
 *
 * - A failure of a tool is a result with `isError`, whose text is the JSON of a `ToolFailure`; anything else is a result with
 *   `structuredContent`. Parameters that do not fit, or that a tool does not have, are a result with `isError` too, or an
 *   error of the protocol in its versions before 2025-11-25.
 * - A call that the client cancels is interrupted: its command in the sandbox is killed.
 * - A client that sends a `progressToken` hears of the output of a command as it comes, and of every call at least each 10
 *   seconds. `progress` counts milliseconds, so that clients which take a sign of life for a reason to wait on do so; there
 *   is no `total`.
 * - The sandboxes outlive the server, with what runs in the background in them: the next one goes on by their ids. They end
 *   by `sandbox_stop`, by their timeout, or by `programs/reconcile`.
 */
import * as McpProtocol from "effect/ai/McpProtocol"
import * as McpServer from "effect/ai/McpServer"
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import * as Stdio from "effect/Stdio"
import type { SandboxError } from "../errors.ts"
import type { SandboxService } from "../services/SandboxService.ts"
import * as AgentToolkit from "./agentToolkit.ts"
import * as Tools from "./internal/agentTools.ts"
import { guarded } from "./internal/mcpStdio.ts"

/** Options of {@link registrations}: those of the handlers, and the sandbox if there is to be only one. */
export interface Options extends AgentToolkit.ToolkitOptions {
  /** Offers the tools of `boundToolkit`, which work in this sandbox, in the place of those that make sandboxes. */
  readonly sandboxId?: string | undefined
}

const signOfLife = Duration.seconds(10)
/** Output comes in faster than anybody can read of it. */
const betweenReports = 200

/** Tells a client that asked for it how a call goes on. */
const progress = McpServer.middleware(
  Effect.gen(function* () {
    const { notifications } = yield* McpServer.McpServer
    return (effect, { method, requestContext }) =>
      Effect.gen(function* () {
        const metadata = requestContext.requestMetadata
        const token = Predicate.hasProperty(metadata, "progressToken") ? metadata.progressToken : undefined
        if (method !== "tools/call" || !(Predicate.isString(token) || Predicate.isNumber(token))) return yield* effect
        const begun = yield* Clock.currentTimeMillis
        let last = 0
        const tell = (now: number, message?: string) => {
          // It must grow, whatever the clock does.
          last = Math.max(last + 1, now - begun)
          return notifications["notifications/progress"]({
            progressToken: token,
            progress: last,
            ...(message === undefined ? {} : { message })
          })
        }
        let toldAt = Number.NEGATIVE_INFINITY
        const report = ({ line }: AgentToolkit.CommandProgress) =>
          Effect.flatMap(Clock.currentTimeMillis, (now) => {
            if (now - toldAt < betweenReports) return Effect.void
            toldAt = now
            return tell(now, line === "" ? undefined : line)
          })
        const alive = Effect.flatMap(Clock.currentTimeMillis, (now) => tell(now)).pipe(
          Effect.repeat(Schedule.spaced(signOfLife)),
          Effect.andThen(Effect.never),
          Effect.delay(signOfLife)
        )
        return yield* Effect.raceFirst(Effect.provideService(effect, AgentToolkit.Progress, report), alive)
      })
  })
)

/** Registers the tools with the `McpServer` of a transport: give it to that as `registrations`. */
export const registrations = (
  options: Options = {}
): Layer.Layer<never, SandboxError, McpServer.McpServer | SandboxService> => {
  const { sandboxId, ...rest } = options
  return (
    sandboxId === undefined
      ? McpServer.toolkit(Tools.unbound(true)).pipe(Layer.provide(AgentToolkit.layer(rest)))
      : McpServer.toolkit(Tools.bound(true)).pipe(Layer.provide(AgentToolkit.layerBound(sandboxId, rest)))
  ).pipe(Layer.provide(progress.layer))
}

/** The version of this package, as a server says it to its clients. */
export const version = "0.1.0"

/** The versions of the protocol that {@link serve} speaks, the newest that a client must agree on first. */
export const protocols = [
  McpProtocol.v2025_11_25,
  McpProtocol.v2025_06_18,
  McpProtocol.v2025_03_26,
  McpProtocol.v2024_11_05,
  McpProtocol.v2026_07_28
] as const

const instructions = (sandboxId: string | undefined) =>
  (sandboxId === undefined
    ? "A sandbox is a computer to run code in: make one with sandbox_create, pass its sandboxId to the other tools, and stop it with sandbox_stop."
    : "The tools work in one sandbox, a computer to run code in.") +
  " What an answer leaves out its note says how to read."

/** How long calls may go on when the client has gone, and then each answer that it does not take. The clients of the official SDK send SIGTERM after 2 seconds. */
const lastCalls = Duration.seconds(1)

/**
 * Serves the tools over `Stdio` until its input ends: then calls have 1 second to end before they are interrupted, and so long an
 * answer is waited for that the client does not take. What is no message, or larger than 16 MiB, is answered with an error of the
 * protocol. Nothing but the protocol may go to the standard output, so send logs elsewhere: `Logger.LogToStderr`.
 */
export const serve = (
  options: Options = {}
): Effect.Effect<void, SandboxError | Cause.IllegalArgumentError, SandboxService | Stdio.Stdio> =>
  Effect.gen(function* () {
    const stdio = yield* Stdio.Stdio
    const closed = yield* Deferred.make<void>()
    const server = McpServer.layerStdio({
      name: "effect-sandbox",
      version,
      instructions: instructions(options.sandboxId),
      protocols,
      registrations: registrations(options)
    }).pipe(Layer.provide(Layer.succeed(Stdio.Stdio, guarded(stdio, closed, lastCalls))))
    // The transport interrupts the fiber that it was built in once the input has ended and the last answer is out.
    const serving = yield* Effect.forkScoped(Layer.launch(server))
    const gone = Deferred.await(closed).pipe(
      Effect.andThen(Effect.sleep(lastCalls)),
      Effect.andThen(Fiber.interrupt(serving))
    )
    yield* Effect.forkScoped(gone)
    // Before all else of the scope: an interruption has answers to give, and a client may not take them.
    yield* Effect.addFinalizer(() => Deferred.succeed(closed, undefined))
    const exit = yield* Fiber.await(serving)
    return (yield* Deferred.isDone(closed)) ? undefined : yield* exit
  }).pipe(
    // Whoever interrupts this gets it back when the calls have ended, whose commands need the service to be killed by.
    Effect.scoped
  )
