/**
 * Every error that a user of `effect-sandbox` can catch.
 *
 * There is one error, {@link SandboxError}, and a closed set of reasons. Catch by reason:
 *
 * ```ts
 * Effect.catchReason("SandboxError", "Gone", (reason) => Effect.succeed(reason.evidence))
 * ```
 *
 * Files and program starts speak Effect's own `PlatformError` instead, with the reasons that Node's layer gives.
 *
 * Messages are derived from the fields, at most 1000 characters long, and hold no secret: what a vendor said is scrubbed
 * by that vendor's classifier before it gets here.
 */
import * as Duration from "effect/Duration"
import { NodeInspectSymbol } from "effect/Inspectable"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

const id = (name: string) => `effect-sandbox/errors/${name}`

const maxText = 400

/** Cuts foreign text to a length that is fit for a message; the cut is marked. */
const bounded = (text: string): string => (text.length <= maxText ? text : `${text.slice(0, maxText - 1)}…`)

const list = (items: ReadonlyArray<string | number>): string => bounded(items.join(", "))

const Cause = Schema.optionalKey(Schema.Defect())
const RetryAfter = Schema.optionalKey(Schema.DurationFromMillis)
const Detail = Schema.optionalKey(Schema.String)

const suffix = (detail: string | undefined): string => (detail === undefined ? "" : `: ${bounded(detail)}`)

/**
 * Whether the failure proves that the request was never taken up (`"no"`), or whether it may have been (`"unknown"`).
 * Only the first may be retried for something that must happen at most once.
 */
export const Accepted = Schema.Literals(["no", "unknown"])

/** Something with this id does not exist; `kind` says what was looked for. Never retryable. */
export class NotFound extends Schema.TaggedError<NotFound>(id("NotFound"))("NotFound", {
  kind: Schema.Literals(["sandbox", "process", "checkpoint", "machine", "volume"]),
  id: Schema.String
}) {
  readonly isRetryable = false
  override get message() {
    return `no ${this.kind} has the id ${bounded(this.id)}`
  }
}

/** The sandbox's record is in a state in which this cannot be done (`creating`, `error`, …). */
export class NotActive extends Schema.TaggedError<NotActive>(id("NotActive"))("NotActive", {
  status: Schema.String,
  detail: Detail
}) {
  readonly isRetryable = false
  override get message() {
    return `the sandbox is ${bounded(this.status)}, not active${suffix(this.detail)}`
  }
}

/** The sandbox was stopped on purpose; only an explicit `reconnectToSandbox` or `restoreCheckpoint` revives it. */
export class Stopped extends Schema.TaggedError<Stopped>(id("Stopped"))("Stopped", {
  /** Whether the disk outlived the stop, where that is known: only then it can be revived. */
  diskKept: Schema.optionalKey(Schema.Boolean)
}) {
  readonly isRetryable = false
  override get message() {
    return this.diskKept === false
      ? "the sandbox was stopped and its disk was not kept: make another one"
      : "the sandbox was stopped; reconnectToSandbox starts it again"
  }
}

/**
 * The machine does not exist any more, with the evidence. Only the facts that the design lists count as evidence: never
 * an authentication failure, a rate limit, a network error or the text of a message.
 */
export class Gone extends Schema.TaggedError<Gone>(id("Gone"))("Gone", { evidence: Schema.String }) {
  readonly isRetryable = false
  override get message() {
    return `the machine is gone: ${bounded(this.evidence)}`
  }
}

/** The machine exists but does not run, and this operation boots nothing. */
export class NotRunning extends Schema.TaggedError<NotRunning>(id("NotRunning"))("NotRunning", { detail: Detail }) {
  readonly isRetryable = false
  override get message() {
    return `the machine is not running${suffix(this.detail)}`
  }
}

/**
 * The vendor says that the machine runs, and nothing inside of it answers: not a command, not a file, not within their deadlines.
 * Waiting has not been seen to help; deleting it and making another has.
 */
export class Unresponsive extends Schema.TaggedError<Unresponsive>(id("Unresponsive"))("Unresponsive", {
  detail: Detail
}) {
  readonly isRetryable = false
  override get message() {
    return `the machine runs and answers nothing${suffix(this.detail)}`
  }
}

/** The handle belongs to an earlier incarnation of the machine; open the sandbox again. */
export class Superseded extends Schema.TaggedError<Superseded>(id("Superseded"))("Superseded", {
  incarnation: Schema.String
}) {
  readonly isRetryable = false
  override get message() {
    return `the machine of incarnation ${bounded(this.incarnation)} was replaced`
  }
}

/** Somebody else holds the lease that this needs. Retryable: a lease ends or expires. */
export class Busy extends Schema.TaggedError<Busy>(id("Busy"))("Busy", {
  owner: Schema.String,
  retryAfter: RetryAfter
}) {
  readonly isRetryable = true
  override get message() {
    return `${bounded(this.owner)} holds the lease`
  }
}

/** Raw byte offsets in the two output streams of a process. */
export const OutputPosition = Schema.Struct({ stdout: Schema.Number, stderr: Schema.Number })

/**
 * Nobody can vouch for how this ended: it may have happened or not. `startedAt` (ms since the epoch) is set when the
 * process is known to have started, `position` says how much of its output arrived. Never retried by this library.
 */
export class OutcomeUnknown extends Schema.TaggedError<OutcomeUnknown>(id("OutcomeUnknown"))("OutcomeUnknown", {
  startedAt: Schema.optionalKey(Schema.Number),
  position: Schema.optionalKey(OutputPosition),
  detail: Detail,
  cause: Cause
}) {
  readonly isRetryable = false
  override get message() {
    return `the outcome is unknown${suffix(this.detail)}`
  }
}

/** The process has ended, so it takes no more input, signals or chunks. */
export class ProcessEnded extends Schema.TaggedError<ProcessEnded>(id("ProcessEnded"))("ProcessEnded", {
  processId: Schema.String,
  status: Schema.String
}) {
  readonly isRetryable = false
  override get message() {
    return `process ${bounded(this.processId)} has ended (${bounded(this.status)})`
  }
}

/** The record says `shutdown`, but the vendor's machine may still exist; a second stop finishes it. */
export class StopIncomplete extends Schema.TaggedError<StopIncomplete>(id("StopIncomplete"))("StopIncomplete", {
  detail: Detail,
  cause: Cause
}) {
  readonly isRetryable = true
  override get message() {
    return `the machine could not be stopped and is marked stopPending${suffix(this.detail)}`
  }
}

/** The name is taken: by another namespace, or by a record while `reuse` is off. */
export class NameInUse extends Schema.TaggedError<NameInUse>(id("NameInUse"))("NameInUse", { name: Schema.String }) {
  readonly isRetryable = false
  override get message() {
    return `the name ${bounded(this.name)} is in use`
  }
}

/** The id or name exists with other options; `fields` lists the ones that differ. */
export class ConfigMismatch extends Schema.TaggedError<ConfigMismatch>(id("ConfigMismatch"))("ConfigMismatch", {
  fields: Schema.Array(Schema.String)
}) {
  readonly isRetryable = false
  override get message() {
    return `it exists with other options: ${list(this.fields)}`
  }
}

/** A record of `@ekairos/sandbox` whose external id cannot be connected any more. */
export class LegacyRecord extends Schema.TaggedError<LegacyRecord>(id("LegacyRecord"))("LegacyRecord", {
  externalSandboxId: Schema.String
}) {
  readonly isRetryable = false
  override get message() {
    return `${bounded(this.externalSandboxId)} is an id of an older system that cannot be connected`
  }
}

/** The record was written by a newer version of this library, which this one must not touch. */
export class RecordTooNew extends Schema.TaggedError<RecordTooNew>(id("RecordTooNew"))("RecordTooNew", {
  schemaVersion: Schema.Number,
  supported: Schema.Number
}) {
  readonly isRetryable = false
  override get message() {
    return `the record has schema version ${this.schemaVersion}, this library reads up to ${this.supported}`
  }
}

/** An argument of the call is wrong; nothing was done. */
export class InvalidArgument extends Schema.TaggedError<InvalidArgument>(id("InvalidArgument"))("InvalidArgument", {
  argument: Schema.String,
  problem: Schema.String
}) {
  readonly isRetryable = false
  override get message() {
    return `${bounded(this.argument)}: ${bounded(this.problem)}`
  }
}

/** The `SandboxConfig` does not decode; `issue` names the field and, for a renamed one, the new name. */
export class InvalidConfig extends Schema.TaggedError<InvalidConfig>(id("InvalidConfig"))("InvalidConfig", {
  issue: Schema.String
}) {
  readonly isRetryable = false
  override get message() {
    return `invalid sandbox config: ${bounded(this.issue)}`
  }
}

/** No provider was chosen, or the chosen one is not registered. */
export class ProviderNotSelected extends Schema.TaggedError<ProviderNotSelected>(id("ProviderNotSelected"))(
  "ProviderNotSelected",
  { requested: Schema.optionalKey(Schema.String), registered: Schema.Array(Schema.String) }
) {
  readonly isRetryable = false
  override get message() {
    const registered = this.registered.length === 0 ? "none is registered" : `registered: ${list(this.registered)}`
    return this.requested === undefined
      ? `no provider is selected; set config.provider or SANDBOX_PROVIDER (${registered})`
      : `the provider ${bounded(this.requested)} is not registered (${registered})`
  }
}

/** A setting is missing or malformed. A secret's value is never echoed. */
export class MissingSetting extends Schema.TaggedError<MissingSetting>(id("MissingSetting"))("MissingSetting", {
  names: Schema.Array(Schema.String),
  detail: Detail
}) {
  readonly isRetryable = false
  override get message() {
    return `setting ${list(this.names)}${suffix(this.detail ?? "is missing")}`
  }
}

/** An optional peer dependency is not installed. */
export class MissingPackage extends Schema.TaggedError<MissingPackage>(id("MissingPackage"))("MissingPackage", {
  package: Schema.String,
  cause: Cause
}) {
  readonly isRetryable = false
  override get message() {
    return `install the package ${bounded(this.package)}`
  }
}

/** The provider cannot do this at all; `detail` says why. */
export class UnsupportedCapability extends Schema.TaggedError<UnsupportedCapability>(id("UnsupportedCapability"))(
  "UnsupportedCapability",
  { capability: Schema.String, detail: Detail }
) {
  readonly isRetryable = false
  override get message() {
    return `not supported: ${bounded(this.capability)}${suffix(this.detail)}`
  }
}

/** The port was not listed in the config when the sandbox was created. */
export class PortNotExposed extends Schema.TaggedError<PortNotExposed>(id("PortNotExposed"))("PortNotExposed", {
  port: Schema.Number,
  exposed: Schema.Array(Schema.Number)
}) {
  readonly isRetryable = false
  override get message() {
    const exposed = this.exposed.length === 0 ? "there are none" : `there are ${list(this.exposed)}`
    return `port ${this.port} is not among the ports of the config that the sandbox was created with (${exposed})`
  }
}

/** Some files were not written; the others were, each whole. */
export class WriteFailed extends Schema.TaggedError<WriteFailed>(id("WriteFailed"))("WriteFailed", {
  files: Schema.Array(Schema.Struct({ path: Schema.String, message: Schema.String })),
  cause: Cause
}) {
  readonly isRetryable = false
  override get message() {
    return `not written: ${bounded(this.files.map((file) => `${file.path} (${file.message})`).join("; "))}`
  }
}

/** A checkpoint would end these recorded processes; pass `stopProcesses: true` if that is meant. */
export class ProcessesRunning extends Schema.TaggedError<ProcessesRunning>(id("ProcessesRunning"))("ProcessesRunning", {
  processIds: Schema.Array(Schema.String)
}) {
  readonly isRetryable = false
  override get message() {
    return `recorded processes are open: ${list(this.processIds)}`
  }
}

/** The deadline lies beyond what is left of the sandbox's lease. */
export class LeaseTooShort extends Schema.TaggedError<LeaseTooShort>(id("LeaseTooShort"))("LeaseTooShort", {
  remaining: Schema.DurationFromMillis
}) {
  readonly isRetryable = false
  override get message() {
    return `only ${Duration.format(this.remaining)} of the sandbox's lease is left`
  }
}

/** The config or command names secrets whose values `SandboxSecrets` did not supply. */
export class SecretsRequired extends Schema.TaggedError<SecretsRequired>(id("SecretsRequired"))("SecretsRequired", {
  names: Schema.Array(Schema.String)
}) {
  readonly isRetryable = false
  override get message() {
    return `secret values are needed for ${list(this.names)}`
  }
}

/** A volume is in a state in which it cannot be mounted, and which waiting does not change. */
export class VolumeFailed extends Schema.TaggedError<VolumeFailed>(id("VolumeFailed"))("VolumeFailed", {
  volume: Schema.String,
  state: Schema.String,
  detail: Detail
}) {
  readonly isRetryable = false
  override get message() {
    return `the volume ${bounded(this.volume)} is ${bounded(this.state)}${suffix(this.detail)}`
  }
}

/**
 * A step of a program ended with a failure, or could not be started; those after it were not taken. `detail` is the end of what it said,
 * without the secrets that it was given.
 */
export class StepFailed extends Schema.TaggedError<StepFailed>(id("StepFailed"))("StepFailed", {
  step: Schema.String,
  /** Its recorded process, whose log has all of it; absent when it did not start. */
  processId: Schema.optionalKey(Schema.String),
  exitCode: Schema.optionalKey(Schema.Number),
  detail: Detail,
  cause: Cause
}) {
  readonly isRetryable = false
  override get message() {
    const code = this.exitCode === undefined ? "" : ` with code ${this.exitCode}`
    return `the step ${bounded(this.step)} failed${code}${suffix(this.detail)}`
  }
}

/** The vendor does not know these credentials. */
export class Authentication extends Schema.TaggedError<Authentication>(id("Authentication"))("Authentication", {
  detail: Detail,
  cause: Cause
}) {
  readonly isRetryable = false
  override get message() {
    return `not authenticated${suffix(this.detail)}`
  }
}

/** The vendor knows the credentials and refuses, or the host denies access to our own files. */
export class Permission extends Schema.TaggedError<Permission>(id("Permission"))("Permission", {
  detail: Detail,
  cause: Cause
}) {
  readonly isRetryable = false
  override get message() {
    return `not permitted${suffix(this.detail)}`
  }
}

/** A limit of the account or the machine is exhausted; waiting does not help. */
export class Quota extends Schema.TaggedError<Quota>(id("Quota"))("Quota", { detail: Detail, cause: Cause }) {
  readonly isRetryable = false
  override get message() {
    return `a quota is exhausted${suffix(this.detail)}`
  }
}

/** Too many requests; the request was not taken up. */
export class RateLimited extends Schema.TaggedError<RateLimited>(id("RateLimited"))("RateLimited", {
  retryAfter: RetryAfter,
  detail: Detail,
  cause: Cause
}) {
  readonly isRetryable = true
  override get message() {
    return `rate limited${
      this.retryAfter === undefined ? "" : `, retry after ${Duration.format(this.retryAfter)}`
    }${suffix(this.detail)}`
  }
}

/** A transient failure of the vendor or of the way to it. */
export class Unavailable extends Schema.TaggedError<Unavailable>(id("Unavailable"))("Unavailable", {
  accepted: Accepted,
  retryAfter: RetryAfter,
  detail: Detail,
  cause: Cause
}) {
  readonly isRetryable = true
  override get message() {
    return `temporarily unavailable${suffix(this.detail)}`
  }
}

/**
 * A clock ran out: `request` (one call to the vendor), `command` (the command's own deadline: its process group was
 * killed) or `sandbox` (the lease of the sandbox ended).
 */
export class Timeout extends Schema.TaggedError<Timeout>(id("Timeout"))("Timeout", {
  clock: Schema.Literals(["request", "command", "sandbox"]),
  duration: Schema.DurationFromMillis,
  accepted: Accepted
}) {
  get isRetryable(): boolean {
    return this.clock === "request"
  }
  override get message() {
    return `the ${this.clock} timed out after ${Duration.format(this.duration)}`
  }
}

/** What went wrong in a record store or process log; the `reason` of {@link Store}. */
export const StoreFailure = Schema.Literals([
  /** A compare-and-set found another version: somebody else wrote first. Re-read and decide again. */
  "Conflict",
  /** A record with this id, or a machine of this external id, exists already. */
  "AlreadyExists",
  /** The lease has a newer epoch: somebody else took over, this writer must stop. */
  "LeaseLost",
  /** An event with this `seq` exists with other content, or the append would leave a gap. */
  "LogConflict",
  /** Another connection holds the database for longer than the busy timeout. */
  "Locked",
  /** The disk or the quota is full; nothing was written. */
  "Full",
  /** The database cannot be written. */
  "ReadOnly",
  /** The database file is damaged or is no database. */
  "Corrupt",
  /** The store cannot be reached. */
  "Unavailable",
  /**
   * The answer to a write got lost, and so did what would have told whether it happened. Trying again is safe: every write is
   * bound to an id or a version, so that one that did happen shows as `AlreadyExists` or `Conflict`.
   */
  "OutcomeUnknown",
  /** The credentials or the address of the store are wrong; `detail` says which. */
  "Misconfigured",
  /** The database lacks attributes that this library needs: those of `missing`. */
  "SchemaMissing",
  /** A stored record does not decode. */
  "Malformed",
  /** Anything else. */
  "Unknown"
])

/** The record store or process log failed; `kind` says how. A failed write wrote nothing, but for `OutcomeUnknown`. */
export class Store extends Schema.TaggedError<Store>(id("Store"))("Store", {
  kind: StoreFailure,
  detail: Detail,
  /** With `SchemaMissing`: what the pushed schema lacks, as `entity.attribute`. */
  missing: Schema.optionalKey(Schema.Array(Schema.String)),
  retryAfter: RetryAfter,
  cause: Cause
}) {
  get isRetryable(): boolean {
    return this.kind === "Locked" || this.kind === "Unavailable" || this.kind === "OutcomeUnknown"
  }
  override get message() {
    return `store: ${this.kind}${suffix(this.detail)}`
  }
}

/** The floor of every classifier: something that nothing above describes. */
export class Unknown extends Schema.TaggedError<Unknown>(id("Unknown"))("Unknown", { detail: Detail, cause: Cause }) {
  readonly isRetryable = false
  override get message() {
    return `unknown failure${suffix(this.detail)}`
  }
}

/** All reasons of a {@link SandboxError}. */
export const SandboxErrorReason = Schema.Union([
  NotFound,
  NotActive,
  Stopped,
  Gone,
  NotRunning,
  Unresponsive,
  Superseded,
  Busy,
  OutcomeUnknown,
  ProcessEnded,
  StopIncomplete,
  NameInUse,
  ConfigMismatch,
  LegacyRecord,
  RecordTooNew,
  InvalidArgument,
  InvalidConfig,
  ProviderNotSelected,
  MissingSetting,
  MissingPackage,
  UnsupportedCapability,
  PortNotExposed,
  WriteFailed,
  ProcessesRunning,
  LeaseTooShort,
  SecretsRequired,
  VolumeFailed,
  StepFailed,
  Authentication,
  Permission,
  Quota,
  RateLimited,
  Unavailable,
  Timeout,
  Store,
  Unknown
])
export type SandboxErrorReason = typeof SandboxErrorReason.Type

/**
 * What Node prints of an error. Effect's own are printed as their fields, without message and stack; here it is what Node shows of
 * any error: these and the cause besides the fields.
 */
const printed = (error: Error, name: string, fields: object): Error => {
  const { cause, message, stack = "" } = error
  const shown = new Error(message, cause === undefined ? {} : { cause })
  // A message may hold a stack of its own.
  const frames = stack.slice(Math.max(stack.indexOf(message), 0) + message.length).match(/\n\s+at [^]*$/)
  // The prototype for its name, but not for what it prints.
  Object.setPrototypeOf(shown, Object.getPrototypeOf(error))
  Object.defineProperty(shown, NodeInspectSymbol, { value: undefined })
  Object.defineProperty(shown, "stack", { value: `${name}: ${message}${frames?.[0] ?? ""}` })
  for (const [key, value] of Object.entries(fields)) {
    if (!(key in shown)) Object.defineProperty(shown, key, { value, enumerable: true })
  }
  return shown
}

for (const { identifier, prototype } of SandboxErrorReason.members) {
  const name = identifier.slice(id("").length)
  Object.defineProperties(prototype, {
    name: { value: name, writable: true, configurable: true },
    [NodeInspectSymbol]: {
      value(this: SandboxErrorReason) {
        const { _tag, ...fields } = this
        return printed(this, name, fields)
      }
    }
  })
}

/** The tag of a reason: what `Effect.catchReason("SandboxError", tag, …)` takes. */
export type ReasonTag = SandboxErrorReason["_tag"]

/**
 * The one error of this library. `operation` is the method that failed (`SandboxService.runCommand`), `reason` says why.
 * `isRetryable` and `retryAfter` are the reason's own.
 */
export class SandboxError extends Schema.TaggedError<SandboxError>(id("SandboxError"))("SandboxError", {
  operation: Schema.String,
  provider: Schema.optionalKey(Schema.String),
  sandboxId: Schema.optionalKey(Schema.String),
  processId: Schema.optionalKey(Schema.String),
  reason: SandboxErrorReason
}) {
  // On the prototype, as the reason is a field already: a second one would be printed and sent with it.
  override get name() {
    return "SandboxError"
  }
  override get cause() {
    return this.reason
  }

  /** Whether trying the same again later can succeed and is safe. */
  get isRetryable(): boolean {
    return this.reason.isRetryable
  }

  /** How long the other side asked us to wait. */
  get retryAfter(): Duration.Duration | undefined {
    return "retryAfter" in this.reason ? this.reason.retryAfter : undefined
  }

  /** True if this failure proves that the other side never took the request up. */
  get provesNotAccepted(): boolean {
    switch (this.reason._tag) {
      case "Unavailable":
      case "Timeout":
        return this.reason.accepted === "no"
      case "OutcomeUnknown":
      case "Unresponsive":
      case "Unknown":
      case "StopIncomplete":
      case "Store":
      case "WriteFailed":
      case "StepFailed":
        return false
      default:
        return true
    }
  }

  override get message(): string {
    const { message } = this.reason
    const about = this.sandboxId === undefined || message.includes(this.sandboxId) ? "" : ` (${this.sandboxId})`
    return `${this.operation}${about}: ${message}`
  }

  override toJSON() {
    return { ...this, message: this.message }
  }

  override [NodeInspectSymbol]() {
    const { _tag, reason: _, ...fields } = this
    return printed(this, this.name, fields)
  }
}

/** True for a {@link SandboxError}. */
export const isSandboxError = (u: unknown): u is SandboxError => Predicate.isTagged(u, "SandboxError")

/** Makes a {@link SandboxError}; a shorthand for implementors of providers and stores. */
export const fail = (
  operation: string,
  reason: SandboxErrorReason,
  where?: { readonly provider?: string; readonly sandboxId?: string; readonly processId?: string }
): SandboxError => new SandboxError({ operation, reason, ...where })
