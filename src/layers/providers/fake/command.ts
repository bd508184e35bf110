/** What a test registers as a program of its guests, and what such a program can say. */
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Stream from "effect/Stream"

/** What a command does: it writes, and at last it ends. */
export type CommandEvent = Data.TaggedEnum<{
  stdout: { readonly bytes: Uint8Array }
  stderr: { readonly bytes: Uint8Array }
  exit: { readonly code: number }
  signalled: { readonly signal: string }
}>

const events = Data.taggedEnum<CommandEvent>()

const toBytes = (content: string | Uint8Array): Uint8Array =>
  typeof content === "string" ? new TextEncoder().encode(content) : content

/** Bytes, or text as UTF-8, for the standard output. */
export const stdout = (content: string | Uint8Array): CommandEvent => events.stdout({ bytes: toBytes(content) })

/** Bytes, or text as UTF-8, for the standard error. */
export const stderr = (content: string | Uint8Array): CommandEvent => events.stderr({ bytes: toBytes(content) })

/** The end with this code. What the stream would yield afterwards is not asked for. */
export const exit = (code: number): CommandEvent => events.exit({ code: code & 0xff })

/** The end by this signal. */
export const signalled = (signal: string): CommandEvent => events.signalled({ signal })

/** One call of a command. */
export interface CommandCall {
  /** The name that it was called by. */
  readonly command: string
  /** Exactly what was given. */
  readonly args: ReadonlyArray<string>
  /** Absolute. */
  readonly cwd: string
  /** All of the environment, secrets included. */
  readonly env: Readonly<Record<string, string>>
  /** The input as it comes; empty when there is none. */
  readonly stdin: Stream.Stream<Uint8Array>
  /** The files of the machine; a relative path starts at `cwd`. */
  readonly files: FileSystem.FileSystem
  readonly pid: number
  /**
   * Handles a signal from now on: the handler runs instead of what the signal would do, which for most is to interrupt the
   * stream. KILL cannot be handled. Inside of a script it does nothing: there the shell is what signals reach.
   */
  readonly trap: (signal: string, handler: Effect.Effect<void>) => Effect.Effect<void>
}

/**
 * A program: a stream of its output and its end. Without an end it ends with code 0. A failure or a defect is a line on
 * its standard error and code 1. It is interrupted by a signal that it does not handle, at its deadline, and when its sandbox
 * stops. Where nobody reads its output it is not asked for more.
 */
export type Command = (call: CommandCall) => Stream.Stream<CommandEvent, unknown>

/** A command that always does the same. */
export const constant =
  (output: {
    readonly stdout?: string | Uint8Array
    readonly stderr?: string | Uint8Array
    readonly code?: number
  }): Command =>
  () =>
    Stream.fromIterable([
      ...(output.stdout === undefined ? [] : [stdout(output.stdout)]),
      ...(output.stderr === undefined ? [] : [stderr(output.stderr)]),
      exit(output.code ?? 0)
    ])
