/**
 * Processes of a sprite: the guest launcher over commands on WebSockets. The vendor's own ends with the connection, or runs on with
 * its output lost; the launcher's can be gone on with at the byte, by this service or the next, and starts at most once.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { SandboxError, Unavailable } from "../../../errors.ts"
import type { Env } from "../../../model/SandboxConfig.ts"
import type { RecoverySchedule } from "../../../services/RecoveryPolicy.ts"
import { inline, type Launcher, make as makeLauncher } from "../../internal/launcher/launcher.ts"
import type { GuestFile, GuestTransport } from "../../internal/launcher/transport.ts"
import { pathOf } from "./api.ts"
import * as Exec from "./exec.ts"
import * as Guest from "./guest.ts"
import type { Guest as GuestOf } from "./guest.ts"

/**
 * What a process of ours comes of outlives its connection for good: it is gone on with over another one. A scoped one whose service
 * has died holds nothing awake, so that the machine freezes it and then forgets it.
 */
const forGood = "0"

/** For what only reads, and is asked for anew. */
const briefly = "1s"

/** How long a task holds the sprite, and how often it is renewed: when a process ends, the sprite may sleep soon after. */
const holdFor = "3m"
const renewEvery = Duration.seconds(60)

/** Files that are under way at a time. */
const uploads = 4

/** Writes a whole file of ours. To do it twice changes nothing, so that one whose machine slept through it is tried again. */
export const upload = (guest: GuestOf, operation: string, { bytes, mode, path }: GuestFile) => {
  const request = HttpClientRequest.put(pathOf(guest.name, "fs/write"), {
    urlParams: { path, workingDir: "/", mode: mode.toString(8).padStart(4, "0"), mkdirParents: "true" }
  }).pipe(HttpClientRequest.bodyUint8Array(bytes, "application/octet-stream"))
  return Guest.awake(guest, guest.api.done(guest.question(operation), request))
}

/**
 * Gives the sandbox an environment of its own, which lies in its machine: the vendor knows of none. Values are in a file for its
 * owner alone, as they are in every process that has them.
 */
export const provideEnvironment = (guest: GuestOf, env: Env): Effect.Effect<void, SandboxError> => {
  const lines = Object.entries(env).map(([name, value]) => `export ${name}=${Exec.quoted([plain(value)])}\n`)
  const bytes = new TextEncoder().encode(lines.join(""))
  return upload(guest, "create", { path: guest.environment, bytes, mode: 0o600 })
}

const plain = (value: Env[string]): string => (Redacted.isRedacted(value) ? Redacted.value(value) : value)

/**
 * The command that holds the sprite awake, which only the sprite itself can: the vendor's Tasks API is on a socket in it. A task is
 * renewed under its name; where that is not how one is made, too, it is made first.
 */
const holding = (socket: string): ReadonlyArray<string> => [
  "sh",
  "-c",
  `ask() { curl --silent --fail --max-time 20 --unix-socket "$1" --request "$2" --header "content-type: application/json" --data "$4" "http://sprite/v1/tasks$3"; }
ask "$1" PUT /effect-sandbox "$2" || ask "$1" POST "" "$2"`,
  "sh",
  socket,
  JSON.stringify({ name: "effect-sandbox", expire: holdFor })
]

/** What a sprite can do for the launcher. */
const transportOf = (guest: GuestOf): GuestTransport => ({
  exec: (argv) => Guest.exec(guest, guest.question("exec"), argv),
  stream: (argv, starts) =>
    Stream.suspend(() => {
      const question = guest.question("process", { effects: true })
      const afterDisconnect = starts ? forGood : briefly
      let stderr = ""
      return Exec.run(guest.api, guest.name, { text: guest.text(argv, starts), afterDisconnect }, question).pipe(
        Stream.mapEffect((frame): Effect.Effect<Uint8Array, SandboxError> => {
          if (frame._tag === "Exit") {
            return guest.isFenced(frame.code, stderr)
              ? Effect.flatMap(guest.fenced("process"), Effect.fail)
              : Effect.succeed(new Uint8Array(0))
          }
          if (frame.stream === "stdout") return Effect.succeed(frame.bytes)
          if (stderr.length < 200) stderr += Buffer.from(frame.bytes).toString("latin1")
          return Effect.succeed(new Uint8Array(0))
        }),
        Stream.catch((error) => Stream.unwrap(Effect.map(guest.explain(again(error)), Stream.fail)))
      )
    }),
  upload: (files) =>
    Effect.forEach(files, (file) => upload(guest, "upload", file), { concurrency: uploads, discard: true })
})

/** A connection that was lost is asked for anew: the launcher knows what it has seen. */
const again = (error: SandboxError): SandboxError =>
  error.reason._tag === "OutcomeUnknown"
    ? new SandboxError({
        ...error,
        reason: new Unavailable({ accepted: "unknown", detail: error.reason.message, cause: error })
      })
    : error

/** The launcher of a machine. */
export const make = (
  guest: GuestOf,
  options: {
    readonly provider: string
    readonly incarnation: string
    readonly retry: RecoverySchedule
    readonly killGrace: Duration.Input | undefined
    readonly taskSocket: string
    readonly renewEvery?: Duration.Input | undefined
  }
): Effect.Effect<Launcher> =>
  makeLauncher(transportOf(guest), {
    provider: options.provider,
    incarnation: options.incarnation,
    directory: guest.directory,
    workspaceRoot: guest.home,
    program: inline,
    retry: options.retry,
    killGrace: options.killGrace,
    keepAwake: {
      argv: holding(options.taskSocket.startsWith("/") ? options.taskSocket : `${guest.home}/${options.taskSocket}`),
      everySeconds: Duration.toSeconds(Duration.fromInputUnsafe(options.renewEvery ?? renewEvery))
    }
  })
