/** The two functions with which `@ekairos/sandbox` used Vercel without any record. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import type * as PlatformError from "effect/PlatformError"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Sandbox } from "@vercel/sandbox"
import type { SandboxError } from "../../../errors.ts"
import { ProcessId, SandboxId } from "../../../model/Ids.ts"
import { RecoveryPolicy } from "../../../services/RecoveryPolicy.ts"
import type { Credentials } from "./credentials.ts"
import * as Guest from "./guest.ts"
import * as Lifecycle from "./lifecycle.ts"
import * as Processes from "./processes.ts"
import * as SdkPart from "./sdk.ts"
import type { Sdk } from "./sdk.ts"

/** What {@link create} makes. */
export interface CreateOptions {
  readonly creds: Credentials
  /** How long it may live; the default is 5 minutes, the vendor's. */
  readonly timeout?: Duration.Input | undefined
  /** The default is `node22`. */
  readonly runtime?: string | undefined
  /** The default is 2. */
  readonly vcpus?: number | undefined
  /** Sends the requests; the default is the global one. */
  readonly fetch?: typeof globalThis.fetch | undefined
}

/** What {@link run} yields: exact bytes, whole. */
export interface Result {
  readonly exitCode: number
  /** Where the guest could tell. */
  readonly signal?: string
  readonly stdout: Uint8Array
  readonly stderr: Uint8Array
  readonly durationMs: number
}

export interface RunOptions {
  /** Absolute, or relative to the sandbox's own working directory, which is the default. */
  readonly cwd?: string | undefined
  readonly env?: Readonly<Record<string, string | Redacted.Redacted<string>>> | undefined
  /** Where we keep the output in the guest meanwhile; `/tmp/.effect-sandbox`. */
  readonly guestDirectory?: string | undefined
}

const provider = "vercel"
const requestTimeout = Duration.seconds(30)

/** The way to the vendor of those that were made here; another one's own has no gate and retries by itself. */
const ways = new WeakMap<Sandbox, Sdk>()

const uuid = Effect.sync(() => SecureRandom.uuidV4Unsafe())
// A UUID is both.
const newSandboxId = Effect.orDie(Effect.flatMap(uuid, Schema.decodeEffect(SandboxId)))
const newProcessId = Effect.orDie(Effect.flatMap(uuid, Schema.decodeEffect(ProcessId)))

/** A sandbox without a record, deleted with the Scope, also if its creation was interrupted. */
export const create = (options: CreateOptions): Effect.Effect<Sandbox, SandboxError, Scope.Scope> =>
  Effect.gen(function* () {
    const sdk = yield* SdkPart.make({
      name: provider,
      credentials: options.creds,
      fetch: options.fetch ?? globalThis.fetch,
      requestTimeout
    })
    const name = `sbx-${yield* newSandboxId}`
    const policy = yield* RecoveryPolicy
    const end = Lifecycle.stop(sdk, { externalId: name, incarnation: "" }, "delete").pipe(
      Effect.retry({ schedule: policy.connect, while: (error) => error.isRetryable })
    )
    let known = false
    // Before the call: whatever becomes of its answer, the name tells what there is.
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() =>
        // A creation that was given up may come to its end a moment later.
        known ? end : Effect.repeat(end, Schedule.max([Schedule.spaced("500 millis"), Schedule.recurs(4)]))
      ).pipe(
        Effect.catch((error) => Effect.logWarning(`the Vercel sandbox ${name} was not deleted`, error)),
        Effect.asVoid
      )
    )
    const sandbox = yield* sdk
      .use(
        { operation: "create", about: "project", id: options.creds.projectId, effects: true, deadline: Lifecycle.slow },
        (access, signal, { Sandbox }): Promise<Sandbox> =>
          Sandbox.create({
            ...access,
            name,
            timeout: Duration.toMillis(Duration.fromInputUnsafe(options.timeout ?? Duration.minutes(5))),
            runtime: options.runtime ?? "node22",
            resources: { vcpus: options.vcpus ?? 2 },
            persistent: false,
            signal
          })
      )
      .pipe(
        Effect.tapError((error) =>
          Effect.sync(() => {
            known = error.provesNotAccepted
          })
        )
      )
    known = true
    ways.set(sandbox, sdk)
    return sandbox
  })

/** The way of a sandbox that somebody else made, with credentials that we never see. */
const foreign = SdkPart.make({
  name: provider,
  credentials: { token: Redacted.make(""), teamId: "", projectId: "" },
  fetch: globalThis.fetch,
  requestTimeout
})

/** Runs a command to its end. Interrupting it kills its process group in the sandbox. */
export const run = (
  sandbox: Sandbox,
  command: string,
  args: ReadonlyArray<string | Redacted.Redacted<string>> = [],
  options: RunOptions = {}
): Effect.Effect<Result, SandboxError | PlatformError.PlatformError> =>
  Effect.gen(function* () {
    const sdk = ways.get(sandbox) ?? (yield* foreign)
    const guest = Guest.make(
      sdk,
      sandbox,
      yield* newSandboxId,
      options.guestDirectory ?? "/tmp/.effect-sandbox",
      // Without credentials nobody can be asked what has become of it.
      Effect.succeed
    )
    const policy = yield* RecoveryPolicy
    const launcher = yield* Processes.make(guest, { provider, retry: policy.connect, killGrace: undefined })
    const startedAt = yield* Clock.currentTimeMillis
    const process = yield* launcher.start({
      processId: yield* newProcessId,
      command,
      args,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
      lifetime: "scoped",
      stdin: false
    })
    const parts: Record<"stdout" | "stderr", Array<Uint8Array>> = { stdout: [], stderr: [] }
    yield* Stream.runForEach(process.output, (chunk) => Effect.sync(() => parts[chunk.stream].push(chunk.bytes)))
    const exit = yield* process.exit
    return {
      exitCode: exit.code,
      ...(exit._tag === "Signalled" ? { signal: exit.signal } : {}),
      stdout: Buffer.concat(parts.stdout),
      stderr: Buffer.concat(parts.stderr),
      durationMs: (yield* Clock.currentTimeMillis) - startedAt
    }
  }).pipe(Effect.scoped)
