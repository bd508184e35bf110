/** What a vendor can do for the launcher, and what the launcher is told about the guest. */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import type { ProcessId } from "../../../model/Ids.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"

/** A file to upload whole; missing parents are made. */
export interface GuestFile {
  readonly path: string
  readonly bytes: Uint8Array
  readonly mode: number
}

/** What came of a short command. */
export interface GuestResult {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

/** The port that a vendor fills. */
export interface GuestTransport {
  /** Runs a short command to its end. */
  readonly exec: (argv: ReadonlyArray<string>) => Effect.Effect<GuestResult, SandboxError>
  /**
   * Runs a long command and yields its standard output, in order, as it comes. It may be cut, replayed or torn, and may end
   * before the command does: the launcher asks again. It is pulled: what is not consumed should not be read. Fails with a reason
   * that proves that nothing was accepted only where that is so of the whole: a start whose output cannot be had may still run.
   * `starts` is true where the command starts a process: what comes of it must outlive the connection.
   */
  readonly stream: (argv: ReadonlyArray<string>, starts: boolean) => Stream.Stream<Uint8Array | string, SandboxError>
  /** Uploads small files for the user that runs the commands. A repeated upload replaces. */
  readonly upload: (files: ReadonlyArray<GuestFile>) => Effect.Effect<void, SandboxError>
  /** For a transport in turns: a way that needs none, where this guest has one now; see {@link GuestOptions.turnsBefore}. */
  readonly following?: Effect.Effect<Following | undefined, SandboxError> | undefined
}

/** A way to a reader's output as it comes. */
export interface Following {
  /** How long one reader may go on; it is asked for anew then. Whoever leaves it behind leaves it no longer. */
  readonly lasts: Duration.Duration
  /** As {@link GuestTransport.stream} of a command that starts nothing. */
  readonly stream: (argv: ReadonlyArray<string>) => Stream.Stream<Uint8Array | string, SandboxError>
}

/** The launcher as the guest is given it: its text with every command, or a file that `install` wrote. */
export interface Program {
  readonly boot: string
  readonly text: string
}

/** What the launcher needs to know. */
export interface GuestOptions {
  /** The provider's registered name, for errors. */
  readonly provider: string
  readonly incarnation: string
  /** Absolute: where the directories of the processes are. Its parent exists and belongs to the user that runs the commands. */
  readonly directory: string
  readonly workspaceRoot: string
  readonly program: Program
  /** The sandbox's own variables as far as they are known here; the command's are merged over them. */
  readonly environment?: Readonly<Record<string, string | Redacted.Redacted<string>>> | undefined
  /** Whether the guest's own variables are below those (the default). */
  readonly inheritEnvironment?: boolean | undefined
  /** Between TERM and KILL; the default is 5 seconds. */
  readonly killGrace?: Duration.Input | undefined
  /** Bytes of output of one stream that the guest keeps; the default is 4 GiB. */
  readonly spoolQuota?: number | undefined
  /**
   * For a transport that yields the output of a command only once that has ended: the reader ends when it has had something to say,
   * and is asked again for the rest.
   */
  readonly turns?: boolean | undefined
  /** After so many turns a process is followed, where the guest has a way: before that it would cost more requests; 2. */
  readonly turnsBefore?: number | undefined
  /** Bytes of arguments and variables above which they are uploaded; the default is 64 KiB. */
  readonly inlineLimit?: number | undefined
  /** A command that the runner repeats while a recorded process is open, so that the vendor lets the guest be. */
  readonly keepAwake?: { readonly argv: ReadonlyArray<string>; readonly everySeconds: number } | undefined
  /** When an output that was cut is asked for again; it starts anew whenever something has arrived. */
  readonly retry: RecoverySchedule
  /** What a recorded process is called at the vendor; the default is its directory. */
  readonly externalId?: ((processId: ProcessId) => string) | undefined
}
