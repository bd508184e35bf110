/** Short commands of ours in a session, waited for in one request. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { Sandbox } from "@vercel/sandbox"
import { Gone, NotRunning, OutcomeUnknown, SandboxError, Superseded } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import { done } from "../../internal/guestContents.ts"
import * as Lifecycle from "./lifecycle.ts"
import type { Question, Sdk } from "./sdk.ts"

/** One session of a sandbox, and what is asked of it. Never boots: what a session that has ended answers is told as such. */
export interface Guest {
  readonly sdk: Sdk
  readonly sandbox: Sandbox
  readonly session: ReturnType<Sandbox["currentSession"]>
  readonly sandboxId: SandboxId
  /** Where we keep things in the guest. */
  readonly directory: string
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
export const make = (
  sdk: Sdk,
  sandbox: Sandbox,
  sandboxId: SandboxId,
  directory: string,
  explainer?: Guest["explain"]
): Guest => {
  const session = sandbox.currentSession()
  const { sessionId } = session

  /** What has become of the sandbox, now that this session is known to have ended. Costs nothing while it lives. */
  const standing = Effect.gen(function* () {
    const ref = { externalId: sandbox.name, incarnation: sessionId }
    const found = yield* Lifecycle.getOwn(sdk, "get", ref, sandboxId)
    const now = Option.isSome(found) ? found.value : undefined
    if (now !== undefined && now.currentSession().sessionId !== sessionId) {
      return new Superseded({ incarnation: sessionId })
    }
    // One that was made anew has another name.
    const others = yield* Lifecycle.listByTag(sdk, "find", "sandbox", sandboxId).pipe(
      Stream.filter((info) => info.running && info.ref.externalId !== sandbox.name),
      Stream.runHead
    )
    if (Option.isSome(others)) return new Superseded({ incarnation: sessionId })
    return now === undefined
      ? new Gone({ evidence: `Vercel answers 404 for the name ${sandbox.name}` })
      : new NotRunning({ detail: `its session is ${now.status}` })
  })

  const ofRecord = (error: SandboxError): Effect.Effect<SandboxError> =>
    error.reason._tag === "NotRunning"
      ? standing.pipe(
          Effect.map((reason) => new SandboxError({ ...error, reason })),
          // What the session said is true in any case.
          Effect.catch(() => Effect.succeed(error))
        )
      : Effect.succeed(error)

  const explain = explainer ?? ofRecord
  const ask: Guest["ask"] = (operation, fields, evaluate) =>
    sdk
      .use({ operation, about: "session", id: sessionId, effects: false, sandboxId, ...fields }, (_, signal) =>
        evaluate(signal)
      )
      .pipe(Effect.catch((error) => Effect.flatMap(explain(error), Effect.fail)))

  return {
    sdk,
    sandbox,
    session,
    sandboxId,
    directory: directory.startsWith("/") ? directory : `${session.cwd}/${directory}`,
    ask,
    explain
  }
}

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
