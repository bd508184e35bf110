/** What the parts of the provider suite share. Guests need `sh`, `cat`, `printf`, `sleep` and `kill`, nothing else. */
import { assert } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import type { ReasonTag, SandboxError } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { ProcessExit } from "../../model/Process.ts"
import type { SandboxConfig } from "../../model/SandboxConfig.ts"
import type {
  CreateRequest,
  Machine,
  MachineProcess,
  ProviderCapabilities,
  SandboxProvider,
  StartCommand
} from "../../services/SandboxProvider.ts"
import { newProcessId, newSandboxId } from "./stores.ts"

export { newProcessId, newSandboxId }

/** What a provider is expected to be. */
export interface Options {
  /** What the provider says of itself; cases that need more are not there, and that it says so is one of them. */
  readonly capabilities: ProviderCapabilities
  /** The config of every sandbox that the suite makes. */
  readonly config?: SandboxConfig | undefined
  /** Whether a command waits when nobody consumes its output; a vendor may buffer instead. */
  readonly holdsBack?: boolean | undefined
  /** Whether `Redacted` arguments are accepted. */
  readonly redactedArguments?: boolean | undefined
  /** Whether the commands run as a user whom file modes bind (not as root). */
  readonly bindingModes?: boolean | undefined
  /**
   * Whether `sh` is an interpreter in the provider's own process: one without `&`, `trap`, endless devices and processes of
   * its own for what it runs, whose `read` waits for the end of the input.
   */
  readonly interpreted?: boolean | undefined
  /** How many argument lists the property test tries; 30. */
  readonly propertyRuns?: number | undefined
  /** How many mebibytes of input the test of much input writes; 16. */
  readonly inputMebibytes?: number | undefined
  /** Names of cases that are not registered, because another run has them; none. A name that no case has is ignored. */
  readonly omits?: ReadonlyArray<string> | undefined
  /** Deadline of one test in ms; 30 s. */
  readonly timeout?: number | undefined
}

/** Registers a case, unless it is to be left out. */
export const register = (options: Options, name: string, add: (name: string) => void): void => {
  if (options.omits?.includes(name) !== true) add(name)
}

/** A script that prints the pids of its group, in a line, and stays. */
export const staying = (options: Options): string =>
  options.interpreted === true ? "echo $$; sleep 300" : "sleep 300 & echo $! $$; wait"

/** The provider under test and a machine that cases share which do not stop it. */
export class Subject extends Context.Service<
  Subject,
  {
    readonly provider: SandboxProvider
    readonly machine: Machine
    readonly namespace: string
    readonly config: SandboxConfig
  }
>()("effect-sandbox/testing/internal/providers/Subject") {}

export type Failure = SandboxError | PlatformError.PlatformError

export const request = (
  provider: SandboxProvider,
  config: SandboxConfig,
  namespace: string,
  fields: { readonly sandboxId?: SandboxId; readonly version?: number } = {}
): Effect.Effect<CreateRequest, SandboxError> =>
  Effect.map(provider.resolve(config), (resolved) => ({
    sandboxId: fields.sandboxId ?? newSandboxId(),
    version: fields.version ?? 1,
    namespace,
    config,
    resolved
  }))

/** A machine of its own, deleted with the Scope. */
export const machineFor = Effect.fnUntraced(function* (config: Partial<SandboxConfig> = {}) {
  const subject = yield* Subject
  const { namespace, provider } = subject
  const created = yield* request(provider, { ...subject.config, ...config }, namespace)
  const machine = yield* Effect.acquireRelease(provider.create(created), ({ ref }) =>
    Effect.orDie(provider.stop(ref, "delete"))
  )
  return { machine, created, provider }
})

export type Fields = Partial<StartCommand>

export const start = (
  machine: Machine,
  command: string,
  args: StartCommand["args"] = [],
  fields: Fields = {}
): Effect.Effect<MachineProcess, Failure, Scope.Scope> =>
  // A new id each time it is run: a machine starts one once.
  Effect.suspend(() =>
    machine.start({ processId: newProcessId(), lifetime: "scoped", stdin: false, ...fields, command, args })
  )

export const startSh = (machine: Machine, script: string, fields?: Fields, args: StartCommand["args"] = []) =>
  start(machine, "sh", ["-c", script, "sh", ...args], fields)

/** What came out, and how it ended. */
export interface Result {
  readonly stdout: Buffer
  readonly stderr: Buffer
  readonly exit: ProcessExit
}

/** Both streams in full; asserts that the offsets have no hole and no overlap. */
export const collect = Effect.fnUntraced(function* (process: MachineProcess, from = { stdout: 0, stderr: 0 }) {
  const parts: Record<"stdout" | "stderr", Array<Uint8Array>> = { stdout: [], stderr: [] }
  const next = { ...from }
  yield* Stream.runForEach(process.output, (chunk) =>
    Effect.sync(() => {
      assert.strictEqual(chunk.offset, next[chunk.stream], `offset of ${chunk.stream}`)
      next[chunk.stream] += chunk.bytes.length
      parts[chunk.stream].push(chunk.bytes)
    })
  )
  const exit = yield* process.exit
  const result: Result = { stdout: Buffer.concat(parts.stdout), stderr: Buffer.concat(parts.stderr), exit }
  return result
})

export const run = (machine: Machine, command: string, args?: StartCommand["args"], fields?: Fields) =>
  Effect.scoped(Effect.flatMap(start(machine, command, args, fields), (process) => collect(process)))

export const sh = (machine: Machine, script: string, fields?: Fields, args?: StartCommand["args"]) =>
  Effect.scoped(Effect.flatMap(startSh(machine, script, fields, args), (process) => collect(process)))

/** The standard output of a script that must succeed. */
export const text = (machine: Machine, script: string, args?: StartCommand["args"]): Effect.Effect<string, Failure> =>
  Effect.map(sh(machine, script, {}, args), (result) => {
    assert.deepStrictEqual(result.exit, exited(0), result.stderr.toString())
    return result.stdout.toString()
  })

export const exited = (code: number, reason?: ProcessExit["reason"]): ProcessExit =>
  reason === undefined ? { _tag: "Exited", code } : { _tag: "Exited", code, reason }

/** A process whose output is consumed in the background: `until` waits for what it prints. */
export interface Observed {
  readonly stdout: () => string
  readonly stderr: () => string
  /** Resolves when it holds; fails the test when the output ends before. */
  readonly until: (holds: () => boolean) => Effect.Effect<void>
  readonly process: MachineProcess
}

export const observe = Effect.fnUntraced(function* (process: MachineProcess) {
  const parts: Record<"stdout" | "stderr", Array<Uint8Array>> = { stdout: [], stderr: [] }
  let waiting: Array<() => void> = []
  let ended = false
  const changed = () => {
    const now = waiting
    waiting = []
    now.forEach((check) => check())
  }
  yield* Stream.runForEach(process.output, (chunk) =>
    Effect.sync(() => {
      parts[chunk.stream].push(chunk.bytes)
      changed()
    })
  ).pipe(
    Effect.ensuring(
      Effect.sync(() => {
        ended = true
        changed()
      })
    ),
    Effect.forkScoped
  )
  const observed: Observed = {
    process,
    stdout: () => Buffer.concat(parts.stdout).toString(),
    stderr: () => Buffer.concat(parts.stderr).toString(),
    until: (holds) =>
      Effect.callback((resume) => {
        const check = () => {
          if (holds()) resume(Effect.void)
          else if (ended) resume(Effect.die(new Error(`the output ended: ${observed.stdout()} ${observed.stderr()}`)))
          else waiting.push(check)
        }
        check()
      })
  }
  return observed
})

/** True while a process of the guest lives; a zombie does not. */
const isAlive = (machine: Machine, pid: string) =>
  Effect.map(
    text(
      machine,
      // One that was still a zombie for the first question may be nothing for the second.
      `kill -0 "$1" 2>/dev/null || { echo gone; exit; }
       [ -e /proc/self/stat ] || { echo alive; exit; }
       case "$(cat "/proc/$1/stat" 2>/dev/null)" in ""|*") Z "*|*") X "*) echo gone;; *) echo alive;; esac`,
      [pid]
    ),
    (answer) => answer.trim() === "alive"
  )

/** Fails the test when one of these is still there after a moment. */
export const assertGone = (machine: Machine, pids: ReadonlyArray<string>): Effect.Effect<void, Failure> =>
  Effect.forEach(
    pids,
    (pid) => {
      assert.match(pid, /^\d+$/)
      return isAlive(machine, pid).pipe(
        Effect.repeat({
          while: (alive) => alive,
          schedule: Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(500)])
        }),
        Effect.andThen(isAlive(machine, pid)),
        Effect.map((alive) => assert.isFalse(alive, `process ${pid} is still there`))
      )
    },
    { discard: true }
  )

export const assertAlive = (machine: Machine, pid: string): Effect.Effect<void, Failure> =>
  Effect.map(isAlive(machine, pid), (alive) => assert.isTrue(alive, `process ${pid} is gone`))

/** The reason of a failure, of either kind of error. */
export const reason = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<string, unknown, R> =>
  Effect.map(Effect.flip(effect), (error) => reasonOf(error))

export const reasonOf = (error: unknown): string =>
  typeof error === "object" &&
  error !== null &&
  "reason" in error &&
  typeof error.reason === "object" &&
  error.reason !== null &&
  "_tag" in error.reason
    ? String(error.reason._tag)
    : `no reason: ${String(error)}`

/** A reason's tag, checked by the compiler. */
export const tag = (name: ReasonTag): string => name

export const sha256 = (bytes: Uint8Array): string => Crypto.createHash("sha256").update(bytes).digest("hex")

export const writeFile = Effect.fnUntraced(function* (machine: Machine, path: string, content: string | Uint8Array) {
  const failures = yield* machine.writeFiles([
    { path, content: typeof content === "string" ? new TextEncoder().encode(content) : content }
  ])
  assert.deepStrictEqual(failures, [])
})

export const readFile = (machine: Machine, path: string): Effect.Effect<Buffer, Failure> =>
  Effect.map(Stream.runCollect(machine.readFile(path)), (chunks) => Buffer.concat(chunks))

/** The value of an optional power that the capabilities promise. */
export const power = <A>(option: Option.Option<A>): Effect.Effect<A> =>
  Option.isSome(option)
    ? Effect.succeed(option.value)
    : Effect.die(new Error("the provider promised this and lacks it"))

/** A name that no other case uses. */
export const fresh = (prefix: string): string => `${prefix}-${Crypto.randomUUID().slice(0, 8)}`
