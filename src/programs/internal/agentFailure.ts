/** Why a tool call failed, in words that a model can act on. */
import * as Duration from "effect/Duration"
import type * as PlatformError from "effect/PlatformError"
import * as Schema from "effect/Schema"
import type { SandboxError, SandboxErrorReason } from "../../errors.ts"
import { isSandboxError } from "../../errors.ts"
import { outOfPlatform } from "../../services/internal/platformErrors.ts"
import { cut } from "./agentText.ts"

const maxMessage = 1000

/**
 * The failure of a tool: data for a model, not for a program. `reason` is that of the `SandboxError` or `PlatformError`, or
 * one of the tools' own (`NotText`, `NoMatch`, `ManyMatches`, `TooLarge`, `OutcomeUnknown`); `message` says what to do about
 * it where there is something, is at most 1000 characters long and holds no secret. `isRetryable`: the same call may succeed
 * later.
 */
export class ToolFailure extends Schema.TaggedError<ToolFailure>("effect-sandbox/programs/agentToolkit/ToolFailure")(
  "ToolFailure",
  {
    reason: Schema.String,
    message: Schema.String,
    isRetryable: Schema.Boolean,
    retryAfterMs: Schema.optionalKey(Schema.Number),
    /** The recorded process that it is about. */
    processId: Schema.optionalKey(Schema.String)
  }
) {}

const bounded = (text: string) => (text.length <= maxMessage ? text : `${cut(text, 0, maxMessage - 1)}…`)

/** A failure of the tools' own, which no repetition mends. */
export const refuse = (reason: string, message: string): ToolFailure =>
  new ToolFailure({ reason, message: bounded(message), isRetryable: false })

/** A failure that is about a process, with what can be done about it. */
export const ofProcess = (failure: ToolFailure, processId: string, hint: string): ToolFailure =>
  new ToolFailure({
    reason: failure.reason,
    message: bounded(`${failure.message}: ${hint}`),
    isRetryable: failure.isRetryable,
    ...(failure.retryAfterMs === undefined ? {} : { retryAfterMs: failure.retryAfterMs }),
    processId
  })

/** What a model can do about a reason, where the message of the reason does not say it. */
const hintOf = (reason: SandboxErrorReason): string => {
  switch (reason._tag) {
    case "NotFound":
      return reason.kind === "checkpoint"
        ? ": sandbox_list_checkpoints shows those that there are"
        : reason.kind === "process"
          ? ": take the processId that sandbox_run_command has given"
          : ": take the sandboxId that sandbox_create has given"
    case "ProcessesRunning":
      return ": pass stopProcesses true if they may end, or end them with sandbox_stop_process"
    case "PortNotExposed":
      return ": ports are chosen when a sandbox is created"
    case "OutcomeUnknown":
      return ": look at what it was to change before you do it again"
    case "ConfigMismatch":
      return ": take another id"
    default:
      return reason.isRetryable ? ": try again" : ""
  }
}

/** Of a sandbox that is stopped the reason names methods, which are no tools. */
const textOf = (reason: SandboxErrorReason): string =>
  reason._tag === "Stopped"
    ? reason.diskKept === false
      ? "the sandbox was stopped and its disk was not kept: work on in another one"
      : "the sandbox was stopped: sandbox_restore_checkpoint brings it back, or work on in another one"
    : `${reason.message}${hintOf(reason)}`

const ofSandbox = (error: SandboxError): ToolFailure => {
  const { isRetryable, processId, reason, retryAfter } = error
  return new ToolFailure({
    reason: reason._tag,
    message: bounded(textOf(reason)),
    isRetryable,
    ...(retryAfter === undefined ? {} : { retryAfterMs: Duration.toMillis(retryAfter) }),
    ...(processId === undefined ? {} : { processId })
  })
}

const ofPlatform = (error: PlatformError.PlatformError): ToolFailure => {
  const { reason } = error
  if (reason._tag === "BadArgument") return refuse("BadArgument", reason.description ?? reason.message)
  const path = reason.pathOrDescriptor === undefined ? "" : `${reason.pathOrDescriptor}: `
  switch (reason._tag) {
    case "NotFound":
      return refuse("NotFound", `${path}there is no such file or directory`)
    case "PermissionDenied":
      return refuse("PermissionDenied", `${path}permission denied`)
    default:
      return new ToolFailure({ reason: reason._tag, message: bounded(reason.message), isRetryable: false })
  }
}

/** Any failure of a handler as one of its tool. */
export const toFailure = (error: SandboxError | PlatformError.PlatformError | ToolFailure): ToolFailure => {
  if (error._tag === "ToolFailure") return error
  if (isSandboxError(error)) return ofSandbox(error)
  const inner = outOfPlatform(error)
  return isSandboxError(inner) ? ofSandbox(inner) : ofPlatform(inner)
}
