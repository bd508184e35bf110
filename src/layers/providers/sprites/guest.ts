/**
 * The machine of a sprite, as one of our handles has it. To the vendor a sprite is one machine for ever; to us it is another one
 * after each stop and each restore (its generation). So every command first looks for a link that only its own generation has: a
 * handle of before finds it gone, and nothing is asked for that beforehand.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { SandboxErrorReason } from "../../../errors.ts"
import {
  NotRunning,
  OutcomeUnknown,
  SandboxError,
  Unavailable,
  Unresponsive,
  UnsupportedCapability
} from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import { done } from "../../internal/guestContents.ts"
import type { Api, Question } from "./api.ts"
import * as Exec from "./exec.ts"
import type { Said } from "./exec.ts"

/** What the control plane says of a generation: why its machine is not there, or the status of one that is. */
export type Standing =
  | { readonly _tag: "Over"; readonly reason: SandboxErrorReason }
  | { readonly _tag: "There"; readonly status: string | undefined }

/** Who is asked, and for which sandbox. */
export interface Place {
  readonly api: Api
  readonly name: string
  readonly sandboxId: SandboxId
  /** Of the sprite, whose name may be another's later. */
  readonly identity: string
  readonly generation: number
  /** What has become of the machine of this generation. */
  readonly standing: Effect.Effect<Standing, SandboxError>
}

/** One generation of a sprite, and what is asked of its machine. */
export interface Guest extends Place {
  /** The default working directory of commands. */
  readonly home: string
  /** What it lacks to be held awake; "" for nothing. */
  readonly cannotHold: string
  /** Absolute: where we keep things. */
  readonly directory: string
  /** The link of this generation, to the root of the file system. */
  readonly fence: string
  /** What a failure means for this handle, and whether the machine still answers. */
  readonly explain: (error: SandboxError) => Effect.Effect<SandboxError>
  /** Shell text that becomes this command, in this generation only; maybe with the sandbox's own environment. */
  readonly text: (argv: ReadonlyArray<string>, withEnvironment?: boolean) => string
  /** The file of the sandbox's own environment, as shell text. */
  readonly environment: string
  /** True of what a command said whose generation is over. */
  readonly isFenced: (exitCode: number, stderr: string) => boolean
  readonly fenced: (operation: string) => Effect.Effect<SandboxError>
  readonly question: (operation: string, fields?: Partial<Question>) => Question
}

const fencedExit = 97
const fencedWord = "effect-sandbox-generation-is-over"

/** A lost connection must not leave much behind of what is asked for anew. */
const briefly = "1s"

/**
 * Makes the machine one of this generation, and tells where it is. $1 is our directory, maybe relative to the working directory, $2
 * the generation, $3 the socket of the Tasks API. Older ones end here; of a newer one this says so and changes nothing. What scoped processes of a service that died
 * left behind more than a day ago goes.
 */
const hello = `
umask 077
m=
for t in setsid env mkdir mkfifo mv rm cat dd ls date sleep base64; do
  command -v $t >/dev/null 2>&1 || m="$m $t"
done
[ -r /proc/self/stat ] || m="$m /proc"
h=$(pwd -P)
mkdir -p "$1" && cd "$1" || m="$m $1"
d=$(pwd -P) s=ok
for g in g[0-9]*; do
  [ -L "$g" ] || continue
  if [ "\${g#g}" -gt "$2" ]; then s=newer; fi
done
if [ $s = ok ] && [ -z "$m" ]; then
  for g in g[0-9]*; do
    if [ -L "$g" ] && [ "$g" != "g$2" ]; then rm -f "$g"; fi
  done
  [ -L "g$2" ] || ln -s / "g$2" || m="$m ln"
fi
find . -maxdepth 1 -name 's-*' -mmin +1440 2>/dev/null | while IFS= read -r p; do
  if [ -s "$p/exit" ]; then rm -rf "$p"; fi
done
a=
command -v curl >/dev/null 2>&1 || a=curl
cd "$h" && [ -S "$3" ] || a=\${a:-$3}
printf '%s\\n' "$s" "missing:$m" "$h" "$d" "holds:$a"
echo ${done}
`

/** Ends what runs below $1, our directory; $2 is the grace in ms, $3 and $4 the launcher. */
const ending = `
for p in "$1"/[sr]-*; do
  [ -d "$p" ] || continue
  if [ -s "$p/exit" ]; then case $(cat "$p/exit") in *left*) ;; *) continue ;; esac; fi
  (sh -c "$3" "$3" "$4" end "$p" end "$2" 0 | grep -q survived && echo "survived \${p##*/}") &
done
wait
echo ${done}
`

/** The same with the end of the generation; our directory may be relative, and $5 is a file that is to be there then. */
const closing = `
mkdir -p "$1" && cd "$1" || exit
for g in g[0-9]*; do
  if [ -L "$g" ]; then rm -f "$g"; fi
done
[ -z "$5" ] || : >"$5"
d=$(pwd -P)
shift
set -- "$d" "$@"
${ending}`

/** To end a process takes its grace and some time to see that it is dead. */
const quietWithin = Duration.minutes(2)

const said = (api: Api, question: Question, { exitCode, stderr, stdout }: Said) => {
  const lines = stdout.split("\n").filter((line) => line !== "")
  return lines.at(-1) === done
    ? Effect.succeed(lines.slice(0, -1))
    : Effect.fail(
        api.fail(
          question.operation,
          new OutcomeUnknown({ cause: new Error(`a script ended early with ${exitCode}: ${stderr.slice(0, 500)}`) }),
          question.sandboxId
        )
      )
}

/** Runs a script in whatever generation there is. It must print {@link done} last. */
export const anyway = (
  place: Pick<Place, "api" | "name">,
  question: Question,
  script: string,
  args: ReadonlyArray<string>
): Effect.Effect<ReadonlyArray<string>, SandboxError> =>
  Effect.flatMap(
    Exec.toEnd(
      place.api,
      place.name,
      { text: `exec ${Exec.quoted(["sh", "-c", script, "sh", ...args])}\n`, afterDisconnect: briefly },
      question
    ),
    (result) => said(place.api, question, result)
  )

/** Whether a sprite answers a command at all; this wakes it. */
export const answers = (place: Pick<Place, "api" | "name">, question: Question): Effect.Effect<void, SandboxError> =>
  Effect.asVoid(anyway(place, { ...question, effects: false }, `echo ${done}`, []))

/** Ends everything of ours in the machine and its generation: from then on no handle acts on it. */
export const close = (
  place: Pick<Place, "api" | "name">,
  question: Question,
  options: {
    readonly directory: string
    readonly grace: number
    readonly launcher: { readonly boot: string; readonly text: string }
    readonly marker?: string
  }
): Effect.Effect<ReadonlyArray<string>, SandboxError> => {
  const { directory, grace, launcher, marker = "" } = options
  return Effect.flatMap(
    anyway(place, question, closing, [directory, String(grace), launcher.boot, launcher.text, marker]),
    (lines) => Effect.succeed(lines.filter((line) => line.startsWith("survived ")))
  )
}

/** Ends the processes of ours in a machine, which goes on being this generation's. */
export const quiet = (
  guest: Guest,
  { grace, launcher }: { readonly grace: number; readonly launcher: { readonly boot: string; readonly text: string } },
  operation: string
): Effect.Effect<void, SandboxError> =>
  Effect.asVoid(
    run(guest, operation, ending, [guest.directory, String(grace), launcher.boot, launcher.text], {
      deadline: quietWithin
    })
  )

/** Lets every process that was to end at $2 end at $3. */
const moving = `
for p in "$1"/[sr]-*; do
  if [ -s "$p/deadline" ] && read -r e <"$p/deadline" && [ "$e" = "$2" ]; then echo "$3" >"$p/deadline"; fi
done
echo ${done}
`

/** Gives the processes of ours that were to end then (ms since the epoch) another end. */
export const moveDeadlines = (guest: Guest, from: number, to: number): Effect.Effect<void, SandboxError> =>
  Effect.asVoid(run(guest, "extendTimeout", moving, [guest.directory, String(from), String(to)]))

/** Whether a file of ours is not in the machine, whatever generation it is. */
export const lacks = (
  place: Pick<Place, "api" | "name">,
  question: Question,
  directory: string,
  file: string
): Effect.Effect<boolean, SandboxError> =>
  Effect.map(
    anyway(place, question, `[ -e "$1/$2" ] && echo there; echo ${done}`, [directory, file]),
    (lines) => !lines.includes("there")
  )

/** Says hello to the machine of a sprite: wakes it, and makes it one of this generation. */
export const enter = Effect.fnUntraced(function* (
  place: Place,
  { directory, taskSocket }: { readonly directory: string; readonly taskSocket: string },
  operation: string
): Effect.fn.Return<Guest, SandboxError> {
  const { api, generation, name, sandboxId, standing } = place
  const question: Guest["question"] = (asked, fields) => ({
    operation: asked,
    about: "guest",
    id: name,
    effects: false,
    sandboxId,
    ...fields
  })
  const fail = (reason: SandboxErrorReason) => api.fail(operation, reason, sandboxId)
  const lines = yield* anyway(place, question(operation), hello, [directory, String(generation), taskSocket]).pipe(
    Effect.catch((error) => Effect.flatMap(judged(place, error), Effect.fail))
  )
  const [state, missing, home, own, holds] = lines
  if (home === undefined || own === undefined || missing === undefined) {
    return yield* fail(new OutcomeUnknown({ detail: "the machine did not say where it is" }))
  }
  if (missing !== "missing:") {
    const detail = `the machine lacks or denies${missing.slice("missing:".length)}`
    return yield* fail(new UnsupportedCapability({ capability: "processes", detail }))
  }
  if (state === "newer") {
    const now = yield* standing
    return yield* fail(
      now._tag === "Over" ? now.reason : new Unavailable({ accepted: "no", detail: "another boot of it is under way" })
    )
  }
  const fence = `${own}/g${generation}`
  const environment = `${own}/environment`
  const fencedError = (asked: string): Effect.Effect<SandboxError> =>
    Effect.match(standing, {
      onFailure: (error) => error,
      onSuccess: (now) =>
        api.fail(
          asked,
          now._tag === "Over"
            ? now.reason
            : new NotRunning({ detail: "the machine has lost what we keep in it; a reconnect brings that back" }),
          sandboxId
        )
    })
  return {
    ...place,
    home,
    cannotHold: (holds ?? "").replace(/^holds:/, ""),
    directory: own,
    fence,
    question,
    explain: (error) => judged(place, error),
    environment,
    text: (argv, withEnvironment = false) =>
      [
        `[ -L ${Exec.quoted([fence])} ] || { echo ${fencedWord} >&2; exit ${fencedExit}; }`,
        ...(withEnvironment ? [`[ ! -r ${Exec.quoted([environment])} ] || . ${Exec.quoted([environment])}`] : []),
        `exec ${Exec.quoted(argv)}\n`
      ].join("\n"),
    isFenced: (exitCode, stderr) => exitCode === fencedExit && stderr.trim() === fencedWord,
    fenced: fencedError
  }
})

/**
 * What a failure means: a sprite that was not found is looked for again, and one that answers nothing is told from one that is slow.
 * Costs nothing while there is no such failure.
 */
export const judged = (
  place: Pick<Place, "api" | "name" | "standing">,
  error: SandboxError,
  probe = probed(place)
): Effect.Effect<SandboxError> => {
  const { reason } = error
  const as = (other: SandboxErrorReason) => new SandboxError({ ...error, reason: other })
  const late = reason._tag === "Timeout" && reason.clock === "request"
  const missed = reason._tag === "NotFound" && reason.kind === "machine"
  if (!late && !missed) return Effect.succeed(error)
  return Effect.matchEffect(place.standing, {
    onFailure: (failure) => Effect.succeed(late ? error : failure),
    onSuccess: (now) => {
      if (now._tag === "Over") return Effect.succeed(as(now.reason))
      if (missed) {
        return Effect.succeed(as(new Unavailable({ accepted: "no", detail: "it was not found once, and is there" })))
      }
      if (now.status !== "running") return Effect.succeed(error)
      return Effect.map(probe, (answer) =>
        answer === "silence"
          ? as(new Unresponsive({ detail: "neither to a request nor to a command after it" }))
          : error
      )
    }
  })
}

/** Whether a command is answered, in time or at all. */
const probed = (place: Pick<Place, "api" | "name">): Effect.Effect<"answer" | "silence" | "failure"> =>
  Effect.match(answers(place, { operation: "probe", about: "guest", id: place.name, effects: false }), {
    onFailure: ({ reason }) => (reason._tag === "Timeout" ? "silence" : "failure"),
    onSuccess: () => "answer"
  })

/**
 * What a failure of something that can be asked for twice comes to: undefined if it is to be asked again, because the machine has
 * slept through it and answers now.
 */
export const woken = (guest: Guest, error: SandboxError): Effect.Effect<SandboxError | undefined> => {
  if (error.reason._tag !== "Timeout") return guest.explain(error)
  return Effect.flatMap(probed(guest), (answer) =>
    answer === "answer" ? Effect.succeed(undefined) : judged(guest, error, Effect.succeed(answer))
  )
}

/** Asks, and once more if the machine has slept through it. For what can be asked for twice. */
export const awake = <A>(guest: Guest, asked: Effect.Effect<A, SandboxError>): Effect.Effect<A, SandboxError> =>
  Effect.catch(asked, (error) =>
    Effect.flatMap(woken(guest, error), (failure) =>
      failure === undefined
        ? Effect.catch(asked, (second) => Effect.flatMap(guest.explain(second), Effect.fail))
        : Effect.fail(failure)
    )
  )

/** Runs a script in this generation. */
export const run = (
  guest: Guest,
  operation: string,
  script: string,
  args: ReadonlyArray<string>,
  fields: Partial<Question> = {}
): Effect.Effect<ReadonlyArray<string>, SandboxError> => {
  const question = guest.question(operation, fields)
  return Effect.flatMap(exec(guest, question, ["sh", "-c", script, "sh", ...args]), (result) =>
    said(guest.api, question, result)
  )
}

/** Runs a short command in this generation. */
export const exec = (
  guest: Guest,
  question: Question,
  argv: ReadonlyArray<string>
): Effect.Effect<Said, SandboxError> =>
  Exec.toEnd(guest.api, guest.name, { text: guest.text(argv), afterDisconnect: briefly }, question).pipe(
    Effect.catch((error) => Effect.flatMap(guest.explain(error), Effect.fail)),
    Effect.flatMap((result) =>
      guest.isFenced(result.exitCode, result.stderr)
        ? Effect.flatMap(guest.fenced(question.operation), Effect.fail)
        : Effect.succeed(result)
    )
  )
