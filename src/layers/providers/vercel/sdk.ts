/** The one place where the SDK is called: loaded at first use, with a deadline, its cancellation and the classifier. */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Vercel from "@vercel/sandbox"
import type { SandboxErrorReason } from "../../../errors.ts"
import { SandboxError, Timeout } from "../../../errors.ts"
import { optionalPackage } from "../../internal/optionalPackage.ts"
import type { Asked } from "../../internal/vercelErrors.ts"
import { classify } from "../../internal/vercelErrors.ts"
import type { Credentials } from "./credentials.ts"
import * as Wire from "./wire.ts"

/** The package. */
export type Module = typeof Vercel

/** What each static of the SDK takes. */
export interface Access {
  readonly token: string
  readonly teamId: string
  readonly projectId: string
  readonly fetch: typeof globalThis.fetch
}

/** What is asked of the vendor; see {@link Asked}. */
export interface Question extends Omit<Asked, "scrub"> {
  readonly operation: string
  readonly sandboxId?: string | undefined
  /** What must be in no message about it, besides the token. */
  readonly secrets?: ReadonlyArray<string> | undefined
  /** Beyond it the call is given up; the default is the request timeout. */
  readonly deadline?: Duration.Duration | undefined
}

/** The SDK as the provider uses it. */
export interface Sdk {
  readonly access: Access
  /** The deadline of a question, and how long an answer may pause. */
  readonly requestTimeout: Duration.Duration
  readonly gateOf: Wire.Wire["gateOf"]
  /** Asks once; nothing below retries. */
  readonly use: <A>(
    question: Question,
    evaluate: (access: Access, signal: AbortSignal, module: Module) => Promise<A>
  ) => Effect.Effect<A, SandboxError>
  /**
   * What to make of an answer that a name is not there: it stays that if there is the project at all, in which with a wrong id no
   * name would be. Asked only then.
   */
  readonly unlessNoProject: (error: SandboxError) => Effect.Effect<SandboxError>
  readonly fail: (operation: string, reason: SandboxErrorReason, sandboxId?: string) => SandboxError
  /** The reason for what a stream of the SDK threw. */
  readonly classify: (error: unknown, question: Question) => SandboxError
}

/** What {@link make} needs. */
export interface Options {
  readonly name: string
  readonly credentials: Credentials
  readonly fetch: typeof globalThis.fetch
  readonly requestTimeout: Duration.Duration
  /** The token of the next request, where it does not last; absent where it is that of the credentials for good. */
  readonly token?: Effect.Effect<Redacted.Redacted<string>, SandboxError> | undefined
}

/**
 * No JWT, so that the SDK looks nowhere else for a better one; the real token is put into each request by our `fetch`, and no
 * object of the SDK, and no error of it, ever holds it.
 */
const placeholder = "effect-sandbox"

export const make = (options: Options): Effect.Effect<Sdk> =>
  Effect.gen(function* () {
    const { credentials, name, requestTimeout } = options
    let token = credentials.token
    const tokens = new Set([Redacted.value(token)])
    const renewed =
      options.token === undefined
        ? Effect.void
        : Effect.map(options.token, (next) => {
            token = next
            tokens.add(Redacted.value(next))
          })
    const wire = Wire.make(() => token, options.fetch)
    const load = yield* optionalPackage(name, "@vercel/sandbox", () => import("@vercel/sandbox"))
    const access: Access = {
      token: placeholder,
      teamId: credentials.teamId,
      projectId: credentials.projectId,
      fetch: wire.fetch
    }
    const scrubber =
      (secrets: ReadonlyArray<string> = []) =>
      (text: string) =>
        [...tokens, ...secrets].reduce(
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

    const use: Sdk["use"] = (question, evaluate) => {
      const deadline = question.deadline ?? requestTimeout
      return Effect.flatMap(Effect.andThen(renewed, load), (module) =>
        Effect.tryPromise({
          try: (signal) => evaluate(access, signal, module),
          catch: (error) => classified(error, question)
        })
      ).pipe(
        Effect.timeoutOrElse({
          duration: deadline,
          orElse: () =>
            Effect.fail(
              fail(
                question.operation,
                new Timeout({
                  clock: "request",
                  duration: deadline,
                  accepted: question.effects ? "unknown" : "no"
                }),
                question.sandboxId
              )
            )
        })
      )
    }

    return {
      access,
      requestTimeout,
      gateOf: wire.gateOf,
      fail,
      classify: classified,
      use,
      unlessNoProject: (error) =>
        error.reason._tag === "Gone"
          ? use(
              {
                operation: error.operation.slice(name.length + 1),
                about: "project",
                id: credentials.projectId,
                effects: false,
                sandboxId: error.sandboxId
              },
              (access, signal, { Sandbox }) => Sandbox.list({ ...access, limit: 1, signal })
            ).pipe(
              Effect.as(error),
              Effect.catch((why) => Effect.succeed(why))
            )
          : Effect.succeed(error)
    }
  })
