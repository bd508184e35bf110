/**
 * The one place where the API is called: with its token, a deadline, a cancellation that reaches the connection, and the classifier.
 * Nothing here asks twice.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Ndjson from "effect/encoding/Ndjson"
import type * as HttpClient from "effect/http/HttpClient"
import * as Client from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { SandboxErrorReason } from "../../../errors.ts"
import { isSandboxError, SandboxError, Timeout } from "../../../errors.ts"
import type { Asked, Failure } from "../../internal/spritesErrors.ts"
import { classify, fileCodeOf } from "../../internal/spritesErrors.ts"

/** What is asked of the vendor; see {@link Asked}. */
export interface Question extends Omit<Asked, "scrub"> {
  readonly operation: string
  readonly sandboxId?: string | undefined
  /** Beyond it the call is given up; the default is the request timeout. Of what streams: for each piece. */
  readonly deadline?: Duration.Duration | undefined
}

/** A question that was answered with the code of a failed file operation. */
export interface FileTrouble {
  readonly _tag: "FileTrouble"
  readonly code: string
}

/** What a question met, and the file's trouble if it was that. */
interface Refusal {
  readonly trouble?: FileTrouble
  readonly error: SandboxError
}

const plain = ({ error }: Refusal): SandboxError => error
const orTrouble = ({ error, trouble }: Refusal): SandboxError | FileTrouble => trouble ?? error

/** A line with which the API tells how long work goes. */
export const Progress = Schema.Struct({
  type: Schema.String,
  data: Schema.optionalKey(Schema.Unknown),
  error: Schema.optionalKey(Schema.Unknown),
  message: Schema.optionalKey(Schema.Unknown),
  time: Schema.optionalKey(Schema.Unknown)
})
export type Progress = typeof Progress.Type

const decodeProgress = () => Ndjson.decodeSchema(Progress)<SandboxError>({ ignoreEmptyLines: true })

/** The API as the provider uses it. */
export interface Api {
  /** Without a slash at its end. */
  readonly baseUrl: string
  readonly token: Redacted.Redacted<string>
  readonly requestTimeout: Duration.Duration
  /** With the token and the base url: what users get for what this library does not wrap. */
  readonly client: HttpClient.HttpClient
  readonly fail: (operation: string, reason: SandboxErrorReason, sandboxId?: string) => SandboxError
  readonly failure: (failure: Failure, question: Question) => SandboxError
  /** Asks for JSON of that shape. */
  readonly json: <S extends Schema.Constraint>(
    question: Question,
    request: HttpClientRequest.HttpClientRequest,
    schema: S
  ) => Effect.Effect<S["Type"], SandboxError, S["DecodingServices"]>
  /** Asks for something to be done. */
  readonly done: (question: Question, request: HttpClientRequest.HttpClientRequest) => Effect.Effect<void, SandboxError>
  /** Asks for a file operation; what files fail with is told by its code. */
  readonly file: (
    question: Question,
    request: HttpClientRequest.HttpClientRequest
  ) => Effect.Effect<void, SandboxError | FileTrouble>
  /** The bytes of an answer, as they are pulled. */
  readonly bytes: (
    question: Question,
    request: HttpClientRequest.HttpClientRequest
  ) => Stream.Stream<Uint8Array, SandboxError | FileTrouble>
  /** The lines of work in progress. One that is cut off or is no JSON ends them with a failure. */
  readonly progress: (
    question: Question,
    request: HttpClientRequest.HttpClientRequest
  ) => Stream.Stream<Progress, SandboxError>
}

/** What {@link make} needs. */
export interface Options {
  readonly name: string
  readonly token: Redacted.Redacted<string>
  readonly baseUrl: string
  readonly client: HttpClient.HttpClient
  readonly requestTimeout: Duration.Duration
}

/** The path of a sprite, or of something below it. */
export const pathOf = (name: string, ...below: ReadonlyArray<string>): string =>
  ["/v1/sprites", encodeURIComponent(name), ...below].join("/")

export const make = (options: Options): Api => {
  const { name, requestTimeout, token } = options
  const baseUrl = options.baseUrl.replace(/\/+$/, "")
  const secret = Redacted.value(token)
  const scrub = (text: string): string => (secret === "" ? text : text.replaceAll(secret, "<redacted>"))
  const client = options.client.pipe(
    Client.mapRequest((request) =>
      request.pipe(HttpClientRequest.prependUrl(baseUrl), HttpClientRequest.bearerToken(token))
    )
  )

  const fail: Api["fail"] = (operation, reason, sandboxId) =>
    new SandboxError({
      operation: `${name}.${operation}`,
      provider: name,
      ...(sandboxId === undefined ? {} : { sandboxId }),
      reason
    })
  const failure: Api["failure"] = (failed, question) =>
    fail(question.operation, classify(failed, { ...question, scrub }), question.sandboxId)
  const lost = (question: Question) => (error: unknown) => failure({ _tag: "Lost", error }, question)
  const undecodable = (question: Question) => (error: unknown) => failure({ _tag: "Undecodable", error }, question)
  const expired = (question: Question) => {
    const duration = question.deadline ?? requestTimeout
    const reason = new Timeout({ clock: "request", duration, accepted: question.effects ? "unknown" : "no" })
    return { duration, orElse: () => Effect.fail(fail(question.operation, reason, question.sandboxId)) }
  }

  /** The answer, if it is none of a failure. Its connection goes with the Scope. */
  const answer = Effect.fnUntraced(function* (
    question: Question,
    request: HttpClientRequest.HttpClientRequest
  ): Effect.fn.Return<HttpClientResponse.HttpClientResponse, Refusal, Scope.Scope> {
    const response = yield* Effect.mapError(Client.withScope(client).execute(request), (error) => ({
      error: lost(question)(error)
    }))
    const { headers, status } = response
    if (status >= 200 && status < 300) return response
    const body = yield* Effect.orElseSucceed(response.text, () => "")
    const failed: Failure = { _tag: "Answer", status, body, headers }
    const code = fileCodeOf(failed)
    return yield* Effect.fail({
      error: failure(failed, question),
      ...(code === undefined ? {} : { trouble: { _tag: "FileTrouble", code } as const })
    })
  })

  const use = <A, R, E>(
    question: Question,
    request: HttpClientRequest.HttpClientRequest,
    told: (refusal: Refusal) => E,
    read: (response: HttpClientResponse.HttpClientResponse) => Effect.Effect<A, SandboxError, R>
  ) =>
    answer(question, request).pipe(
      Effect.mapError(told),
      Effect.flatMap(read),
      Effect.scoped,
      Effect.timeoutOrElse(expired(question))
    )

  // A body that nobody reads keeps a connection from being used again.
  const drained = (response: HttpClientResponse.HttpClientResponse) => Effect.ignore(response.arrayBuffer)

  /** Each pull by itself has the deadline: a connection that has died says nothing of it, and nothing is read ahead. */
  const bounded = (question: Question, response: HttpClientResponse.HttpClientResponse) =>
    Stream.transformPull(Stream.mapError(response.stream, lost(question)), (pull) =>
      Effect.succeed(Effect.timeoutOrElse(pull, expired(question)))
    )
  const streamed = <E>(
    question: Question,
    request: HttpClientRequest.HttpClientRequest,
    told: (refusal: Refusal) => E
  ) =>
    Stream.unwrap(
      answer(question, request).pipe(
        Effect.mapError(told),
        Effect.timeoutOrElse(expired(question)),
        Effect.map((response) => bounded(question, response))
      )
    )

  return {
    baseUrl,
    token,
    requestTimeout,
    client,
    fail,
    failure,
    json: (question, request, schema) =>
      use(question, request, plain, (response) =>
        Effect.mapError(HttpClientResponse.schemaBodyJson(schema)(response), undecodable(question))
      ),
    done: (question, request) => use(question, request, plain, drained),
    file: (question, request) => use(question, request, orTrouble, drained),
    bytes: (question, request) => streamed(question, request, orTrouble),
    progress: (question, request) =>
      streamed(question, request, plain).pipe(
        Stream.pipeThroughChannel(decodeProgress()),
        Stream.mapError((error) => (isSandboxError(error) ? error : undecodable(question)(error)))
      )
  }
}
