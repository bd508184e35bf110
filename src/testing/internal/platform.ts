/** What the parts of the platform suite share. Guests need `sh` and the core utilities, nothing else. */
import type { Vitest } from "@effect/vitest"
import { assert } from "@effect/vitest"
import type * as Cause from "effect/Cause"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import * as ChildProcess from "effect/process/ChildProcess"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import type { FileCapabilities } from "../../services/SandboxProvider.ts"

/** What a platform is expected to be: for each flag that is off the suite tests what happens instead. */
export interface Options {
  /** How its files differ from Node's. */
  readonly files: FileCapabilities
  /** Its programs are processes of a kernel: with pids, signals, groups and children in the background. */
  readonly realProcesses: boolean
  /** `additionalFds` work; else they are `BadArgument`. */
  readonly additionalFds: boolean
  /** A death by signal fails `exitCode`; else it is the code 128 + n. */
  readonly signalsObservable: boolean
  /** Bytes reach a running program; else a `Stream` as its input is `BadArgument` and it reads the end at once. */
  readonly stdin: boolean
  /** The guest's `read` gets each line as it comes; else what comes before the end, at the end. Default true. */
  readonly lineInput?: boolean | undefined
  /** `inherit` means the `Stdio` of whoever spawns; off where it means the process's own, which no test can see. */
  readonly inheritsStdio: boolean
  /** `Redacted` arguments reach the program; else they are `BadArgument`. */
  readonly redactedArguments: boolean
  /** `unref` keeps a program alive when its Scope closes; else `unref` succeeds and changes nothing. Default true. */
  readonly unref?: boolean | undefined
  /** `detached: false` is accepted; else it is `BadArgument`. Default true. */
  readonly attached?: boolean | undefined
  /** A program that ends with another code than 0 takes its background children with it at once. Default false. */
  readonly failureEndsGroup?: boolean | undefined
  /**
   * What keeps a program from starting is always a typed failure. Off for Node's layer, which dies of what `spawn` throws: an
   * empty command, a bad name of a variable, a path through a file, arguments that are too long. Default true.
   */
  readonly startErrorsTyped?: boolean | undefined
  /** A script whose `#!` names no program does not start; else it ends with 127. Default true. */
  readonly interpreters?: boolean | undefined
  /** A script's `shell` may be any program; else only `true` and `sh` are known, others `BadArgument`. Default true. */
  readonly shells?: boolean | undefined
  /** There are FIFOs (`mkfifo`) and character devices (`/dev/null`). Default true. */
  readonly specialFiles?: boolean | undefined
  /** A hole takes no room, so that a file may be larger than 4 GiB. Default true. */
  readonly sparseFiles?: boolean | undefined
  /** A recursive `readDirectory` goes through symlinks, as Node's own happens to (and may not end). Default false. */
  readonly recursiveListingFollows?: boolean | undefined
  /** Whether the commands run as a user whom file modes bind (not as root). Default false. */
  readonly bindingModes?: boolean | undefined
  /** Whether they may give files away (as root). Default false. */
  readonly chown?: boolean | undefined
  /** Variables that the platform gives every program, also one whose environment is said in full. */
  readonly ownVariables?: ReadonlyArray<string> | undefined
  /** Only these halves of the suite; the default is both. */
  readonly parts?: ReadonlyArray<"files" | "programs"> | undefined
  /**
   * Every operation on files meets every odd name and everything that goes wrong. Else it meets a name that has all their
   * characters, and each of them only what writes, reads and lists; and of what goes wrong each meets a third of the operations,
   * another third each time. For platforms on which an operation is dear. Default true.
   */
  readonly thorough?: boolean | undefined
  /** How many argument lists the property test tries; 20. */
  readonly propertyRuns?: number | undefined
  /** Deadline of one test in ms; 30 s. */
  readonly timeout?: number | undefined
}

/** What is under test. */
export type Services = ChildProcessSpawner.ChildProcessSpawner | FileSystem.FileSystem | Path.Path

export type It = Vitest.MethodsNonLive<Services>

/** What a case gets: the services, and an empty directory of its own. */
export interface Subject {
  readonly fs: FileSystem.FileSystem
  readonly path: Path.Path
  readonly spawner: ChildProcessSpawner.ChildProcessSpawner["Service"]
  readonly directory: string
  /** A path in the directory. */
  readonly at: (name: string) => string
}

/** Registers a case. */
export type Test = <A, E>(name: string, body: (subject: Subject) => Effect.Effect<A, E, Services | Scope.Scope>) => void

export const subject: Effect.Effect<Subject, PlatformError.PlatformError, Services | Scope.Scope> = Effect.gen(
  function* () {
    const fs = yield* FileSystem.FileSystem
    const directory = yield* fs.makeTempDirectoryScoped({ prefix: "suite-" })
    return {
      fs,
      path: yield* Path.Path,
      spawner: yield* ChildProcessSpawner.ChildProcessSpawner,
      directory,
      at: (name) => `${directory}/${name}`
    }
  }
)

/** `concurrent` cases run some at a time: for those that mostly wait. */
export const tester =
  (it: It, options: Options, { concurrent = false } = {}): Test =>
  (name, body) =>
    it.effect(name, () => Effect.flatMap(subject, body), { timeout: options.timeout ?? 30_000, concurrent })

/** The tag of the failure's reason, or `success`. */
export const outcome = <A, R>(
  effect: Effect.Effect<A, PlatformError.PlatformError, R>
): Effect.Effect<string, never, R> =>
  Effect.match(effect, { onSuccess: () => "success", onFailure: (error) => error.reason._tag })

/** Asserts the tag of the failure's reason. */
export const fails = <A, R>(
  effect: Effect.Effect<A, PlatformError.PlatformError, R>,
  ...tags: ReadonlyArray<PlatformError.PlatformError["reason"]["_tag"]>
): Effect.Effect<void, never, R> =>
  Effect.map(outcome(effect), (tag) => {
    if (tags.length === 1) assert.strictEqual(tag, tags[0])
    else assert.include<string>(tags, tag)
  })

/** What `utimes` takes and `stat` yields. */
export const date = (millis: number): Date => DateTime.toDateUtc(DateTime.makeUnsafe(millis))

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

export const text = (value: Uint8Array): string => new TextDecoder().decode(value)

export const random = (size: number): Uint8Array => Crypto.randomBytes(size)

/** Asserts equality without printing megabytes when there is none. */
export const assertSameBytes = (actual: Uint8Array, expected: Uint8Array): void => {
  assert.strictEqual(actual.length, expected.length)
  const hash = (value: Uint8Array) => Crypto.createHash("sha256").update(value).digest("hex")
  assert.strictEqual(hash(actual), hash(expected))
}

export const concat = (parts: ReadonlyArray<Uint8Array>): Uint8Array => Buffer.concat(parts)

/** All bytes of a stream. */
export const collect = <E, R>(stream: Stream.Stream<Uint8Array, E, R>): Effect.Effect<Uint8Array, E, R> =>
  Effect.map(Stream.runCollect(stream), concat)

export const collectText = <E, R>(stream: Stream.Stream<Uint8Array, E, R>): Effect.Effect<string, E, R> =>
  Effect.map(collect(stream), text)

/** Where programs usually are: what the guest has itself may hold directories that must not be entered. */
export const usualPath = { PATH: "/usr/bin:/bin" }

/** A script with arguments. */
export const sh = (
  script: string,
  args: ReadonlyArray<string> = [],
  options: ChildProcess.CommandOptions = {}
): ChildProcess.StandardCommand => ChildProcess.make("sh", ["-c", script, "sh", ...args], options)

/** What came out of a command, and its exit code. */
export const run = Effect.fnUntraced(function* (command: ChildProcess.Command) {
  const handle = yield* command
  const [stdout, stderr, code] = yield* Effect.all(
    [collectText(handle.stdout), collectText(handle.stderr), handle.exitCode],
    { concurrency: "unbounded" }
  )
  return { stdout, stderr, code }
}, Effect.scoped)

/** The standard output of a script that must succeed. */
export const output = (script: string, args: ReadonlyArray<string> = [], options: ChildProcess.CommandOptions = {}) =>
  Effect.map(run(sh(script, args, options)), ({ code, stderr, stdout }) => {
    assert.strictEqual(code, 0, stderr)
    return stdout
  })

/** The lines of a program that runs on: each time it is run, the effect waits for the next one. */
export const lines = Effect.fnUntraced(function* <E>(stream: Stream.Stream<Uint8Array, E>) {
  const queue = yield* Queue.unbounded<string, E | Cause.Done>()
  yield* stream.pipe(Stream.decodeText, Stream.splitLines, Stream.runIntoQueue(queue), Effect.forkScoped)
  return Queue.take(queue)
})

/** True while a process of the guest lives; a zombie does not. */
const isAlive = (pid: string) =>
  Effect.map(
    output(
      `kill -0 "$1" 2>/dev/null || { echo gone; exit; }
       case "$(cat "/proc/$1/stat" 2>/dev/null)" in *") Z "*) echo gone;; *) echo alive;; esac`,
      [pid]
    ),
    (answer) => answer.trim() === "alive"
  )

export const assertAlive = (pid: string) =>
  Effect.map(isAlive(pid), (alive) => assert.isTrue(alive, `process ${pid} is gone`))

/** Waits until these processes of the guest are gone; the deadline of the test bounds it. */
export const assertGone = (pids: ReadonlyArray<string>) =>
  Effect.forEach(
    pids,
    (pid) => {
      assert.match(pid, /^\d+$/)
      return Effect.repeat(isAlive(pid), { while: (alive) => alive, schedule: Schedule.spaced("20 millis") })
    },
    { discard: true }
  )

/** Tries again until it succeeds; the deadline of the test bounds it. */
export const eventually = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.retry(effect, Schedule.spaced("20 millis"))

/** What file names trip over: each is data in every operation. */
export const oddNames: ReadonlyArray<string> = [
  " ",
  "a b",
  " leading",
  "trailing ",
  "tab\there",
  "line\nbreak",
  "ends with newline\n",
  "return\r",
  "-n",
  "--help",
  "'",
  '"',
  "'\\''",
  "$HOME",
  "$(id)",
  "`id`",
  "back\\slash\\n",
  "*",
  "?[a-z]",
  "{a,b}",
  "[unclosed",
  "~",
  "#;&&|>",
  "%s%n",
  "...",
  ".hidden",
  "=x",
  "caf\u00e9",
  "cafe\u0301",
  "\u{1F600}\u4f60\u597d",
  "\u0001\u001b[31m\u007f",
  "x".repeat(255)
]

/** All their characters in one, and what only a whole name is odd by. */
export const fewNames: ReadonlyArray<string> = [
  `-n${oddNames.filter((name) => name.length < 50).join("")}\n`,
  "...",
  "x".repeat(255)
]

/** A test's name must fit a line. */
export const shown = (name: string): string => {
  const json = JSON.stringify(name)
  return json.length > 40 ? `${json.slice(0, 20)}… (${name.length})` : json
}
