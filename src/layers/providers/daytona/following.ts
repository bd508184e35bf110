/**
 * The newer process API of the toolbox, where a guest's daemon has it: the output of a reader as it is written, where a command of the
 * older one says nothing until it has ended. Looked for once a boot, and only for what lasts.
 *
 * It runs readers alone. Of a process that it has started nobody says whether it outlives what the API does at its end, so that
 * the older one starts them. The SDK does not have it; its clients carry the requests.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { Readable } from "node:stream"
import { Superseded, Timeout, Unavailable, type SandboxError } from "../../../errors.ts"
import type { Following } from "../../internal/launcher/transport.ts"
import type { Guest } from "./guest.ts"
import { isOtherBoot } from "./guest.ts"
import type { Question, ToolboxRequest } from "./sdk.ts"

/** A reader says every twelve seconds that it lives, or every forty in a guest whose `sleep` knows no fractions. */
const silence = Duration.minutes(1)

/** How long the end of a reader may be waited for. */
const patience = Duration.seconds(5)

/** No event of the vendor's is longer than a line of the launcher's with what JSON makes of it. */
const maxEvent = 8 * 1024 * 1024

/** What is an answer, but none that this knows. */
class Unintelligible extends Error {}

const decodeLog = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ data: Schema.String })))

/** The output in a stream of server-sent events: that of each `log`, until `eof` or the end of the body. */
async function* outputIn(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const text = new TextDecoder()
  const arrived: Array<Sse.AnyEvent> = []
  const parser = Sse.makeParser((event) => void arrived.push(event), {
    maxEventSize: maxEvent,
    dispatchEmptyNamedEvents: true
  })
  for await (const chunk of body) {
    const error = parser.feed(text.decode(chunk, { stream: true }))
    for (const event of arrived.splice(0)) {
      if (event._tag !== "Event") continue
      if (event.event === "eof") return
      if (event.event !== "log") continue
      const log = decodeLog(event.data)
      if (Option.isNone(log)) throw new Unintelligible("an event has no data")
      yield log.value.data
    }
    if (error !== undefined) throw new Unintelligible(error.message)
  }
}

/** An open one counts as no activity that anybody has promised; each new one does. */
const lastsFor = (autoStopMinutes: number): Duration.Duration =>
  autoStopMinutes === 0
    ? Duration.minutes(10)
    : Duration.clamp(Duration.seconds(autoStopMinutes * 30), {
        minimum: Duration.seconds(15),
        maximum: Duration.minutes(10)
      })

/** Finds out whether this guest has the API when it is asked, until it knows. */
export const make = (guest: Guest): Effect.Effect<Following | undefined, SandboxError> => {
  const { sdk } = guest
  let has: boolean | undefined
  /** It has just failed: the next read is a turn, so that what goes wrong here alone ends nothing. */
  let rests = false
  const lock = Semaphore.makeUnsafe(1)
  const lasts = lastsFor(guest.dto.autoStopInterval ?? 15)
  const asked: Question = {
    operation: "follow",
    about: "guest",
    id: guest.dto.id,
    effects: false,
    sandboxId: guest.sandboxId
  }
  const ask = (request: ToolboxRequest, deadline?: Duration.Duration) =>
    sdk.use({ ...asked, ...(deadline === undefined ? {} : { deadline }) }, (client, options) =>
      client.toolboxOf(guest.sandbox)({ ...options, ...request })
    )
  const unavailable = (detail: string) =>
    sdk.fail("follow", new Unavailable({ accepted: "no", detail }), guest.sandboxId)

  const probe = ask({ method: "GET", url: "/processes", validateStatus: () => true }).pipe(
    Effect.map(({ data, status }) => {
      if (status === 200) has = Predicate.isObject(data) || Array.isArray(data)
      // What else it says is about this moment.
      else if (status === 404 || status === 405 || status === 501) has = false
    }),
    // A turn finds out better what is wrong. But nobody waits for this twice.
    Effect.catch((error) =>
      Effect.sync(() => {
        if (error.reason._tag === "Timeout") has = false
      })
    )
  )

  /** An answer that is none that we know, or none in time, ends its use: what it is asked for can be had in turns too. */
  const refused = (error: SandboxError): Effect.Effect<never, SandboxError> => {
    rests = true
    if (error.isRetryable && error.reason._tag !== "Timeout") return Effect.fail(error)
    has = false
    return Effect.flatMap(guest.explain(error), (why) =>
      Effect.fail(
        why.reason._tag === "Gone" || why.reason._tag === "NotRunning" || why.reason._tag === "Superseded"
          ? why
          : unavailable(`the toolbox refuses a process: ${error.reason.message}`)
      )
    )
  }

  /** Starts the reader; the vendor ends one that nobody has ended. */
  const begun = (argv: ReadonlyArray<string>) =>
    ask({
      method: "POST",
      url: "/processes",
      data: {
        // All that it writes is its output.
        argv: guest.guarded(["sh", "-c", 'exec "$@" 2>/dev/null', "sh", ...argv]),
        kind: "exec",
        stdin: "none",
        timeoutMs: Duration.toMillis(lasts) + 60_000
      }
    }).pipe(
      Effect.catch(refused),
      Effect.flatMap(({ data }) => {
        if (Predicate.hasProperty(data, "id") && Predicate.isString(data.id) && data.id !== "") {
          return Effect.succeed(data.id)
        }
        has = false
        return Effect.fail(unavailable("the toolbox names no process"))
      })
    )

  /** The events of a process; something on the way may keep back what is not complete. */
  const opened = (id: string) =>
    sdk.use(asked, async (client, options) => {
      const { data } = await client.toolboxOf(guest.sandbox)({
        ...options,
        method: "GET",
        url: `/processes/${id}/logs?cursor=start&encoding=text&follow=true`,
        headers: { Accept: "text/event-stream" },
        responseType: "stream",
        // The deadline is for the beginning.
        timeout: 0
      })
      // Whoever is not there yet, or gone by then, does not hear of it.
      if (data instanceof Readable) data.on("error", () => {})
      return data
    })

  const stream = (argv: ReadonlyArray<string>): Stream.Stream<string, SandboxError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        let spoke = false
        const id = encodeURIComponent(
          yield* Effect.acquireRelease(
            begun(argv),
            (id, exit) => {
              const url = `/processes/${encodeURIComponent(id)}`
              const kill = ask({ method: "POST", url: `${url}/signals`, data: { signal: "SIGTERM" } }, patience)
              return Effect.andThen(
                // Heard out, it ends by itself.
                Exit.isSuccess(exit) ? Effect.void : Effect.ignore(kill),
                Effect.ignore(ask({ method: "DELETE", url }, patience))
              )
            },
            { interruptible: true }
          )
        )
        const body = yield* Effect.acquireRelease(
          opened(id).pipe(
            Effect.catch(refused),
            Effect.flatMap((body) => {
              if (body instanceof Readable) return Effect.succeed(body)
              has = false
              return Effect.fail(unavailable("the toolbox does not follow"))
            })
          ),
          (body) => Effect.sync(() => body.destroy()),
          { interruptible: true }
        )
        const pieces = Stream.fromAsyncIterable(outputIn(body), (error) => {
          if (!(error instanceof Unintelligible)) {
            rests = !spoke
            return sdk.classify(error, asked)
          }
          has = false
          return unavailable(error.message)
        })
        return Stream.transformPull(pieces, (pull) =>
          Effect.succeed(
            Effect.timeoutOrElse(pull, {
              duration: silence,
              orElse: () => {
                if (!spoke) has = false
                return Effect.fail(
                  sdk.fail(
                    "follow",
                    new Timeout({ clock: "request", duration: silence, accepted: "no" }),
                    guest.sandboxId
                  )
                )
              }
            })
          )
        ).pipe(
          Stream.tap((text) => {
            spoke = true
            return isOtherBoot(text)
              ? Effect.fail(sdk.fail("follow", new Superseded({ incarnation: guest.bootId }), guest.sandboxId))
              : Effect.void
          }),
          Stream.concat(
            Stream.suspend(() => {
              if (!spoke) has = false
              return Stream.empty
            })
          )
        )
      })
    )

  return Effect.gen(function* () {
    if (rests) {
      rests = false
      return undefined
    }
    if (has === undefined) yield* lock.withPermits(1)(Effect.suspend(() => (has === undefined ? probe : Effect.void)))
    return has === true ? { lasts, stream } : undefined
  })
}
