/**
 * The writing half of Instant's stream protocol: events from the server over SSE, messages to it by POST. Not the SDK's writer: that
 * one keeps everything unflushed in memory, loses the end when its connection breaks at the wrong moment, cannot be taken over by
 * another process, and keeps a program from exiting.
 */
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Scrub } from "./errors.ts"

/** Why a connection, or the stream for good, is no use. */
export interface StreamFailure {
  readonly detail: string
  /** True where another connection would fare no better. */
  readonly isFinal: boolean
  /** The stream has its end. */
  readonly isClosed?: boolean
}

export interface Options {
  readonly apiURI: string
  readonly appId: string
  /** Of the app: what the SDK sends too. */
  readonly headers: { readonly [name: string]: string }
  readonly scrub: Scrub
  readonly requestTimeout: Duration.Duration
}

/** A stream of the server's that is open for this writer. */
export interface Writer {
  readonly streamId: string
  /** Bytes that the server has kept from before: the next ones go on from here. */
  readonly offset: number
  /** Sends text; `offset` counts the bytes before it. The server has it when this is done, but may not have kept it. */
  readonly append: (text: string, offset: number, done: boolean) => Effect.Effect<void, StreamFailure>
  /** Bytes that the server has kept. */
  readonly flushed: () => number
  /** Done when the server has kept the end of the stream. */
  readonly ended: Effect.Effect<void, StreamFailure>
}

const Init = Schema.Struct({
  op: Schema.Literal("sse-init"),
  "machine-id": Schema.String,
  "session-id": Schema.String,
  "sse-token": Schema.String
})
const Started = Schema.Struct({
  op: Schema.Literal("start-stream-ok"),
  "stream-id": Schema.String,
  offset: Schema.Number
})
const Flushed = Schema.Struct({
  op: Schema.Literal("stream-flushed"),
  "stream-id": Schema.String,
  offset: Schema.Number,
  done: Schema.optional(Schema.NullOr(Schema.Boolean))
})
const Failed = Schema.Struct({ op: Schema.Literal("append-failed"), "stream-id": Schema.String })
const Refused = Schema.Struct({
  op: Schema.Literal("error"),
  message: Schema.optional(Schema.NullOr(Schema.String)),
  "original-event": Schema.optional(Schema.NullOr(Schema.Struct({ op: Schema.optional(Schema.String) })))
})
const Message = Schema.Union([Init, Started, Flushed, Failed, Refused])
type Message = typeof Message.Type
/** A frame is a message or several; messages about what was not asked for are none of ours. */
const decodeFrame = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown))
const decodeMessage = Schema.decodeUnknownOption(Message)

const messagesOf = (data: string): ReadonlyArray<Message> =>
  [Option.getOrUndefined(decodeFrame(data))].flat().flatMap((one) => Option.toArray(decodeMessage(one)))

/** Opens the stream of this client id, or takes it over: whoever has the token may. */
export const open = (
  options: Options,
  clientId: string,
  reconnectToken: string
): Effect.Effect<Writer, StreamFailure, Scope.Scope> =>
  Effect.gen(function* () {
    const { apiURI, appId, headers, requestTimeout, scrub } = options
    const http = yield* HttpClient.HttpClient
    const failure = (detail: string, isFinal = false): StreamFailure => ({ detail: scrub(detail), isFinal })
    const inTime = <A>(what: string, effect: Effect.Effect<A, StreamFailure>) =>
      Effect.timeoutOrElse(effect, {
        duration: requestTimeout,
        orElse: () => Effect.fail(failure(`${what}: no answer in time`))
      })

    const send = (url: string, body: unknown, own: { readonly [name: string]: string }) =>
      http
        .execute(
          HttpClientRequest.post(url, { headers: { ...own, "content-type": "application/json" } }).pipe(
            HttpClientRequest.bodyJsonUnsafe(body)
          )
        )
        .pipe(Effect.mapError((error) => failure(error.message)))

    const session = yield* Deferred.make<typeof Init.Type, StreamFailure>()
    const started = yield* Deferred.make<typeof Started.Type, StreamFailure>()
    const broken = yield* Deferred.make<never, StreamFailure>()
    const atEnd = yield* Latch.make(false)
    let kept = 0

    const receive = (message: Message): Effect.Effect<void> => {
      switch (message.op) {
        case "sse-init":
          return Effect.asVoid(Deferred.succeed(session, message))
        case "start-stream-ok":
          kept = message.offset
          return Effect.asVoid(Deferred.succeed(started, message))
        case "stream-flushed":
          kept = Math.max(kept, message.offset)
          return message.done === true ? Effect.asVoid(atEnd.open) : Effect.void
        case "append-failed":
          return breakOff(failure("an append failed"))
        case "error": {
          // The start of a stream that is closed, or somebody else's. Of an append another connection may know better.
          const isFinal = message["original-event"]?.op === "start-stream"
          const isClosed = isFinal && message.message?.includes("Stream is closed") === true
          return breakOff({ ...failure(message.message ?? "refused", isFinal), isClosed })
        }
      }
    }
    const breakOff = (why: StreamFailure) =>
      Effect.all([Deferred.fail(session, why), Deferred.fail(started, why), Deferred.fail(broken, why)], {
        discard: true
      })

    const response = yield* inTime(
      "connecting",
      send(`${apiURI}/admin/sse?app_id=${encodeURIComponent(appId)}`, { "inference?": true, versions: {} }, headers)
    )
    if (response.status !== 200) return yield* Effect.fail(failure(`connecting: status ${response.status}`))
    const parser = Sse.makeParser((event) => {
      if (event._tag === "Event") received.push(...messagesOf(event.data))
    })
    const received: Array<Message> = []
    yield* response.stream.pipe(
      Stream.decodeText,
      Stream.runForEach((text) =>
        Effect.suspend(() => {
          parser.feed(text)
          return Effect.forEach(received.splice(0), receive, { discard: true })
        })
      ),
      Effect.ignore,
      Effect.andThen(breakOff(failure("the connection ended"))),
      Effect.forkScoped
    )
    const init = yield* inTime("connecting", Deferred.await(session))

    const push = (message: object) =>
      inTime(
        "sending",
        Effect.flatMap(
          send(
            `${apiURI}/admin/sse/push?app_id=${encodeURIComponent(appId)}`,
            {
              machine_id: init["machine-id"],
              session_id: init["session-id"],
              sse_token: init["sse-token"],
              messages: [{ "client-event-id": SecureRandom.uuidV4Unsafe(), ...message }]
            },
            {}
          ),
          (answer) => (answer.status === 200 ? Effect.void : Effect.fail(failure(`sending: status ${answer.status}`)))
        )
      )

    yield* push({ op: "start-stream", "client-id": clientId, "reconnect-token": reconnectToken })
    const { offset, "stream-id": streamId } = yield* inTime("starting the stream", Deferred.await(started))
    return {
      streamId,
      offset,
      append: (text: string, at: number, done: boolean) =>
        Effect.raceFirst(
          push({ op: "append-stream", "stream-id": streamId, chunks: text === "" ? [] : [text], offset: at, done }),
          Deferred.await(broken)
        ),
      flushed: () => kept,
      ended: Effect.raceFirst(atEnd.await, Deferred.await(broken))
    }
  }).pipe(Effect.provide(FetchHttpClient.layer))
