/**
 * Processes of a sandbox: the guest launcher over single commands of the toolbox. The toolbox yields the output of a command as one
 * text in the answer, so the launcher's reader speaks in turns: a short program is one request, and of a long one the next piece is
 * asked for when the last is consumed. What lasts longer is followed where the toolbox has a way to (see `following.ts`). No shell
 * session holds a program, and no log socket can lose any of its output.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { Readable } from "node:stream"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import { type Launcher, make as makeLauncher } from "../../internal/launcher/launcher.ts"
import type { GuestTransport } from "../../internal/launcher/transport.ts"
import { make as makeFollowing } from "./following.ts"
import type { Guest } from "./guest.ts"
import { turn } from "./guest.ts"
import * as Transfer from "./transfer.ts"

/** How long a turn of the reader and the way to it may take, whatever the request timeout is. */
const deadlineOf = (guest: Guest): Duration.Duration => Duration.max(turn, guest.sdk.requestTimeout)

/** What Daytona can do for the launcher. */
const transportOf = (guest: Guest): GuestTransport => ({
  exec: (argv) => guest.exec("exec", argv, { deadline: deadlineOf(guest) }),
  stream: (argv) =>
    Stream.fromEffect(
      Effect.map(guest.exec("start", argv, { effects: true, deadline: deadlineOf(guest) }), ({ stdout }) => stdout)
    ),
  upload: (files) =>
    Effect.forEach(
      files,
      ({ bytes, path }) =>
        // Whoever else is in the guest cannot look into the directory.
        guest.ask("upload", {}, (sandbox, client, options) =>
          Transfer.upload(client, sandbox, path, Readable.from([Buffer.from(bytes)]), options)
        ),
      { discard: true }
    ),
  following: makeFollowing(guest)
})

/** The launcher of a guest. */
export const make = (
  guest: Guest,
  options: {
    readonly provider: string
    readonly retry: RecoverySchedule
    readonly killGrace: Duration.Input | undefined
    readonly turnsBefore: number | undefined
  }
): Effect.Effect<Launcher> =>
  makeLauncher(transportOf(guest), {
    provider: options.provider,
    incarnation: guest.bootId,
    directory: guest.directory,
    workspaceRoot: guest.workspaceRoot,
    program: guest.program,
    retry: options.retry,
    killGrace: options.killGrace,
    turns: true,
    turnsBefore: options.turnsBefore
  })
