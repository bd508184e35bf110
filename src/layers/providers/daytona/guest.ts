/** What runs in a sandbox, in one request each, and only in the boot that it was meant for. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as CommandLine from "effect/process/CommandLine"
import * as Result from "effect/Result"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Stream from "effect/Stream"
import {
  Gone,
  OutcomeUnknown,
  SandboxError,
  Superseded,
  Unavailable,
  Unknown,
  UnsupportedCapability
} from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import { done } from "../../internal/guestContents.ts"
import { install } from "../../internal/launcher/launcher.ts"
import type { GuestResult, Program } from "../../internal/launcher/transport.ts"
import * as Lifecycle from "./lifecycle.ts"
import { labelNames } from "./plan.ts"
import type { Client, Dto, Question, RequestOptions, Sandbox, Sdk } from "./sdk.ts"

/** One boot of a sandbox, and what is asked of it. Never boots. */
export interface Guest {
  readonly sdk: Sdk
  readonly dto: Dto
  readonly sandbox: Sandbox
  readonly bootId: string
  readonly sandboxId: SandboxId
  /** Where we keep things in the guest. */
  readonly directory: string
  readonly workspaceRoot: string
  /** The launcher as it lies in the guest. */
  readonly program: Program
  /** A question about this sandbox; an answer that it does not run becomes what has become of it. */
  readonly ask: <A>(
    operation: string,
    fields: Partial<Question>,
    evaluate: (sandbox: Sandbox, client: Client, options: RequestOptions) => Promise<A>
  ) => Effect.Effect<A, SandboxError>
  /** The same translation for a stream that has failed. */
  readonly explain: (error: SandboxError) => Effect.Effect<SandboxError>
  /** The command that does this in this boot only; see {@link isOtherBoot}. */
  readonly guarded: (argv: ReadonlyArray<string>) => ReadonlyArray<string>
  /** Runs a command to its end, in this boot only. */
  readonly exec: (
    operation: string,
    argv: ReadonlyArray<string>,
    fields?: Partial<Question>
  ) => Effect.Effect<GuestResult, SandboxError>
}

/** Where a guest keeps our things, and those that do not outlive a boot; relative to its working directory. */
export interface Places {
  readonly directory: string
  readonly bootDirectory: string
}

const otherBoot = "effect-sandbox-other-boot"

/** Whether this is what a command says that was guarded for another boot. */
export const isOtherBoot = (stdout: string): boolean => stdout.startsWith(otherBoot)

/** Of a shell that was sent its text; whatever shell it is, these are plain words in quotes to it. */
const line = (argv: ReadonlyArray<string>): string =>
  // NUL, the only thing that quoting cannot hold, was refused before.
  `${Result.getOrThrow(CommandLine.join(argv))} </dev/null`

/** How long the vendor lets a command of ours run. They end by themselves before, but for what copies large files. */
const execSeconds = 240

/** The vendor takes the output of a command as one text, with both streams in it. */
const execute = (
  sdk: Sdk,
  sandbox: Sandbox,
  argv: ReadonlyArray<string>,
  asked: Question
): Effect.Effect<GuestResult, SandboxError> =>
  sdk.use(asked, (client, options) =>
    client
      .processesOf(sandbox)
      .executeCommand({ command: line(argv), timeout: execSeconds }, options)
      .then(({ data }): GuestResult => ({ exitCode: data.exitCode ?? -1, stdout: data.result ?? "", stderr: "" }))
  )

/** First of all: which boot this is. `$1` is where that is written, `$2` what to write where nothing is, `$3…` goes on. */
const setupScript = `
umask 077
mkdir -p "\${1%/*}" 2>/dev/null
if (set -C; echo "$2" >"$1") 2>/dev/null; then echo 'boot new'; fi
read -r m <"$1" && echo "boot $m"
echo "cwd $(pwd)"
shift 2
exec "$@"
`

/** Goes on only in that boot. */
const guardScript = `
m=
if [ -r "$1" ]; then read -r m <"$1"; fi
if [ "$m" != "$2" ]; then echo ${otherBoot}; exit; fi
shift 2
exec "$@"
`

const wordOf = (stdout: string, name: string): string | undefined =>
  new RegExp(`^${name} (.+)$`, "m").exec(stdout.replace("boot new\n", ""))?.[1]

/**
 * The guest of a running sandbox. Tells which boot it is of, and what the guest lacks. A guest that nobody has marked yet is marked
 * with what the vendor's label says, if that can be of this very boot (`fresh`), and with something new if not.
 */
export const make = (
  sdk: Sdk,
  found: Dto,
  sandboxId: SandboxId,
  places: Places,
  options: { readonly provider: string; readonly fresh: boolean }
): Effect.Effect<Guest, SandboxError> =>
  Effect.gen(function* () {
    const question = (operation: string, fields: Partial<Question>): Question => ({
      operation,
      about: "guest",
      id: found.id,
      effects: false,
      sandboxId,
      ...fields
    })
    const sandbox = yield* sdk.use(question("connect", {}), (client, options) => client.sandboxOf(found, options))
    const known = found.labels[labelNames.boot]
    const suggested = options.fresh && known !== undefined ? known : SecureRandom.uuidV4Unsafe()
    const isAbsolute = places.directory.startsWith("/") && places.bootDirectory.startsWith("/")
    const base = isAbsolute ? "" : ((yield* sdk.use(question("connect", {}), () => sandbox.getWorkDir())) ?? "")
    const absolute = (path: string) => (path.startsWith("/") ? path : `${base}/${path}`)
    const directory = absolute(places.directory)
    const bootFile = `${absolute(places.bootDirectory)}/.effect-sandbox-boot`
    let told = ""
    const program = yield* Effect.retry(
      install(
        {
          exec: (argv) =>
            Effect.tap(
              execute(
                sdk,
                sandbox,
                ["sh", "-c", setupScript, "sh", bootFile, suggested, ...argv],
                question("connect", {})
              ),
              ({ stdout }) =>
                Effect.sync(() => {
                  told = stdout
                })
            ),
          stream: () => Stream.empty,
          upload: () => Effect.void
        },
        { provider: options.provider, directory }
      ),
      // A toolbox may come up later than its sandbox.
      {
        schedule: sdk.retry,
        while: (error) => error.isRetryable || error.reason._tag === "NotRunning" || error.reason._tag === "Unknown"
      }
    ).pipe(Effect.mapError((error) => sdk.fail("connect", error.reason, sandboxId)))
    const bootId = wordOf(told, "boot")
    const workspaceRoot = wordOf(told, "cwd")
    if (bootId === undefined) {
      const detail = `the guest lacks a writable ${places.bootDirectory}`
      return yield* sdk.fail("connect", new UnsupportedCapability({ capability: "processes", detail }), sandboxId)
    }
    if (workspaceRoot === undefined) {
      return yield* sdk.fail("connect", new Unknown({ detail: "the guest has no working directory" }), sandboxId)
    }
    const dto = yield* Lifecycle.label(sdk, found, bootId, sandboxId)

    /** What has become of the sandbox, now that this boot is known not to answer. Costs nothing while it does. */
    const standing = Effect.gen(function* () {
      const ref = { externalId: dto.id, incarnation: bootId }
      const own = yield* Lifecycle.getOwn(sdk, ref, sandboxId)
      if (Option.isSome(own) && Lifecycle.isLater(ref, own.value)) return new Superseded({ incarnation: bootId })
      // One that was made anew has another id.
      const others = yield* Lifecycle.find(sdk, sandboxId).pipe(
        Stream.filter(
          (info) =>
            info.running && info.ref.externalId !== dto.id && info.namespace === dto.labels[labelNames.namespace]
        ),
        Stream.runHead
      )
      if (Option.isSome(others)) return new Superseded({ incarnation: bootId })
      if (Option.isNone(own) || own.value.state === "destroying") {
        return new Gone({ evidence: `Daytona answers 404 for the sandbox ${dto.id}` })
      }
      return own.value.state === "started"
        ? new Unavailable({ accepted: "no", detail: "it runs, but its toolbox does not answer" })
        : Lifecycle.notRunning(own.value)
    })

    const explain: Guest["explain"] = (error) =>
      error.reason._tag === "NotRunning"
        ? standing.pipe(
            Effect.map((reason) => new SandboxError({ ...error, reason })),
            // What the toolbox said is true in any case.
            Effect.catch(() => Effect.succeed(error))
          )
        : Effect.succeed(error)

    const guarded: Guest["guarded"] = (argv) => ["sh", "-c", guardScript, "sh", bootFile, bootId, ...argv]

    const explained = Effect.catch((error: SandboxError) => Effect.flatMap(explain(error), Effect.fail))

    return {
      sdk,
      dto,
      sandbox,
      guarded,
      bootId,
      sandboxId,
      directory,
      workspaceRoot,
      program,
      explain,
      ask: (operation, fields, evaluate) =>
        explained(sdk.use(question(operation, fields), (client, options) => evaluate(sandbox, client, options))),
      exec: (operation, argv, fields = {}) =>
        execute(sdk, sandbox, guarded(argv), question(operation, fields)).pipe(
          explained,
          Effect.filterOrFail(
            ({ stdout }) => !isOtherBoot(stdout),
            () => sdk.fail(operation, new Superseded({ incarnation: bootId }), sandboxId)
          )
        )
    }
  })

/** Runs a script with these arguments. It must print {@link done} last. `effects` is false for what may be run twice. */
export const run = (
  guest: Guest,
  operation: string,
  script: string,
  args: ReadonlyArray<string>,
  fields: { readonly effects: boolean } & Partial<Question>
): Effect.Effect<ReadonlyArray<string>, SandboxError> =>
  Effect.flatMap(
    // What the vendor yields is both streams in one: what goes wrong is told by words of the script.
    guest.exec(operation, ["env", "LC_ALL=C", "sh", "-c", `exec 2>/dev/null\n${script}`, "sh", ...args], fields),
    ({ exitCode, stdout }) => {
      const lines = stdout.split("\n").filter((text) => text !== "")
      return lines.at(-1) === done
        ? Effect.succeed(lines.slice(0, -1))
        : Effect.fail(
            guest.sdk.fail(
              operation,
              new OutcomeUnknown({
                cause: new Error(`a script ended early with ${exitCode}: ${stdout.slice(-500)}`)
              }),
              guest.sandboxId
            )
          )
    }
  )

/** Longer than any command of ours takes that is no script over files. */
export const turn = Duration.seconds(25)
