/** Short commands of ours in a session, waited for in one request. */
import * as Effect from "effect/Effect"
import type { Sandbox } from "@vercel/sandbox"
import type { SandboxError } from "../../../errors.ts"
import { Gone, NotRunning, OutcomeUnknown, Superseded } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import * as Lifecycle from "./lifecycle.ts"
import type { Question, Sdk } from "./sdk.ts"

/** One session of a sandbox, and what is asked of it. Never boots: what a session that has ended answers is told as such. */
export interface Guest {
  readonly sdk: Sdk
  readonly sandbox: Sandbox
  readonly session: ReturnType<Sandbox["currentSession"]>
  readonly sandboxId: SandboxId
  /** A question to the session; an answer that it has ended becomes what has become of the sandbox. */
  readonly ask: <A>(
    operation: string,
    fields: Partial<Question>,
    evaluate: (signal: AbortSignal) => Promise<A>
  ) => Effect.Effect<A, SandboxError>
  /** The same translation for a stream that has failed. */
  readonly explain: (error: SandboxError) => Effect.Effect<SandboxError>
}

/** What a short command said. */
export interface Said {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

/** The guest of a running sandbox: its current session, whatever becomes of the sandbox later. */
export const make = (sdk: Sdk, sandbox: Sandbox, sandboxId: SandboxId): Guest => {
  const session = sandbox.currentSession()
  const { sessionId } = session

  const explain = (error: SandboxError): Effect.Effect<SandboxError> =>
    error.reason._tag === "NotRunning"
      ? Lifecycle.getOwn(sdk, sandbox.name, sandboxId).pipe(
          Effect.map((found) => {
            const operation = error.operation.slice(error.operation.indexOf(".") + 1)
            if (found._tag === "None") {
              return sdk.fail(
                operation,
                new Gone({ evidence: `Vercel answers 404 for the name ${sandbox.name}` }),
                sandboxId
              )
            }
            const now = found.value
            if (now.currentSession().sessionId !== sessionId) {
              return sdk.fail(operation, new Superseded({ incarnation: sessionId }), sandboxId)
            }
            return sdk.fail(operation, new NotRunning({ detail: `its session is ${now.status}` }), sandboxId)
          }),
          // What the session said is true in any case.
          Effect.catch(() => Effect.succeed(error))
        )
      : Effect.succeed(error)

  const ask: Guest["ask"] = (operation, fields, evaluate) =>
    sdk
      .use({ operation, about: "session", id: sessionId, effects: false, sandboxId, ...fields }, (_, signal) =>
        evaluate(signal)
      )
      .pipe(Effect.catch((error) => Effect.flatMap(explain(error), Effect.fail)))

  return { sdk, sandbox, session, sandboxId, ask, explain }
}

/** The last line of a script of ours that came to its end. */
export const done = "effect-sandbox-done"

/**
 * Runs a script with these arguments. It must print {@link done} last: the SDK takes an exit code that it was not told for 0.
 * `effects` is false for what may be run twice.
 */
export const run = (
  guest: Guest,
  operation: string,
  script: string,
  args: ReadonlyArray<string>,
  options: { readonly effects: boolean } & Partial<Question>
): Effect.Effect<ReadonlyArray<string>, SandboxError> =>
  guest
    .ask(operation, options, async (signal): Promise<Said> => {
      const finished = await guest.session.runCommand({
        cmd: "sh",
        args: ["-c", script, "sh", ...args],
        env: { LC_ALL: "C" },
        signal
      })
      return { exitCode: finished.exitCode, stdout: await finished.stdout(), stderr: await finished.stderr() }
    })
    .pipe(
      Effect.flatMap(({ exitCode, stderr, stdout }) => {
        const lines = stdout.split("\n").filter((line) => line !== "")
        return lines.at(-1) === done
          ? Effect.succeed(lines.slice(0, -1))
          : Effect.fail(
              guest.sdk.fail(
                operation,
                new OutcomeUnknown({
                  cause: new Error(`a script ended early with ${exitCode}: ${stderr.slice(0, 500)}`)
                }),
                guest.sandboxId
              )
            )
      })
    )
