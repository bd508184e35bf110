/** From a `StartCommand` to a running process: what it is, why it cannot be, and what it does. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../../errors.ts"
import { outputStart, ProcessExit } from "../../../model/Process.ts"
import type { MachineProcess, StartCommand } from "../../../services/SandboxProvider.ts"
import * as Checks from "../../internal/commandChecks.ts"
import { unwrap } from "../../internal/commandChecks.ts"
import type { JustBash, Load } from "./bash.ts"
import * as Bash from "./bash.ts"
import type { MachineState, State } from "./cloud.ts"
import type { Command, CommandCall, CommandEvent } from "./command.ts"
import { badArgument, platformError, startFailure } from "./failures.ts"
import * as FakeFileSystem from "./fileSystem.ts"
import { Process } from "./process.ts"
import { signalNumber, toSignal } from "./signals.ts"
import type { Inode, Tree } from "./tree.ts"
import { basename, FsError, join, normalize } from "./tree.ts"

export const workspaceRoot = "/workspace"
export const temporary = "/tmp"
const searchPath = "/usr/local/bin:/usr/bin:/bin"

export interface Options {
  readonly state: State
  readonly machine: MachineState
  readonly incarnation: string
  readonly commands: ReadonlyMap<string, Command>
  readonly load: Load
  readonly killGrace: Duration.Duration
  readonly checked: FakeFileSystem.Options["checked"]
}

type Failure = SandboxError | PlatformError.PlatformError

const problemOf = (command: StartCommand): string | undefined =>
  (command.additionalFds ?? []).length > 0
    ? "A fake process has no file descriptors above 2"
    : Checks.problemOf(command)

/** A program and what it is called with. */
type Program =
  | { readonly kind: "registered"; readonly command: Command; readonly args: ReadonlyArray<string> }
  | {
      readonly kind: "interpreted"
      readonly bash: JustBash
      readonly program: string
      readonly args: ReadonlyArray<string>
    }

/** Puts programs where guests have them, each once: what is removed stays away. */
const installPrograms = (options: Options, names: Iterable<string>): Effect.Effect<void> =>
  Effect.map(Clock.currentTimeMillis, (now) => {
    const { machine } = options
    if (!machine.tree.exists("/usr/bin")) return
    for (const name of names) {
      if (machine.programs.has(name)) continue
      machine.programs.add(name)
      machine.tree.addProgram(`/usr/bin/${name}`, name, now)
    }
  })

/** What a program is looked up with. */
interface Lookup {
  /** What was asked for, which errors name. */
  readonly asked: string
  readonly cwd: string
  /** PATH. */
  readonly path: string
}

/** The interpreter, and its programs among the files. */
const interpreterOf = Effect.fnUntraced(function* (options: Options) {
  const bash = yield* Bash.loaded(options.load)
  const names = new Set([...bash.getCommandNames(), ...Bash.additional])
  yield* installPrograms(options, names)
  return { bash, names }
})

/** The path of the first program of this name. */
const findInPath = (tree: Tree, name: string, { asked, cwd, path }: Lookup): Effect.Effect<string, Failure> =>
  Effect.suspend(() => {
    let code = "ENOENT"
    for (const directory of path.split(":")) {
      const file = join(cwd, `${directory === "" ? "." : directory}/${name}`)
      if (!tree.exists(file)) continue
      const inode = tree.stat(file)
      if (inode.kind === "file" && (inode.mode & 0o111) !== 0) return Effect.succeed(file)
      code = "EACCES"
    }
    return Effect.fail(startFailure(code, asked))
  })

/** Looks up a program by name, or by the path of a file. */
const resolveProgram = Effect.fnUntraced(function* (
  options: Options,
  command: string,
  args: ReadonlyArray<string>,
  lookup: Lookup,
  depth = 0
): Effect.fn.Return<Program, Failure> {
  const { tree } = options.machine
  const { asked, cwd } = lookup
  // Where the programs of the guest are files, they must be there before one is looked for.
  yield* installPrograms(options, options.commands.keys())
  const isOwn = !command.includes("/") || /^\/(usr\/)?bin\//.test(normalize(cwd, command))
  if (isOwn && !options.commands.has(basename(command))) yield* interpreterOf(options)
  const path = command.includes("/") ? join(cwd, command) : yield* findInPath(tree, command, lookup)
  const inode = yield* Effect.try({
    try: (): Inode => tree.stat(path, "spawn"),
    catch: (cause) => platformError("ChildProcess", "spawn", asked, cause)
  })
  if (inode.kind !== "file" || (inode.mode & 0o111) === 0) return yield* startFailure("EACCES", asked)
  if (inode.program !== undefined) {
    const registered = options.commands.get(inode.program)
    if (registered !== undefined) return { kind: "registered", command: registered, args }
    const { bash, names } = yield* interpreterOf(options)
    if (names.has(inode.program)) return { kind: "interpreted", bash, program: inode.program, args }
  }
  const head = new TextDecoder().decode(inode.data.subarray(0, Math.min(inode.size, 256)))
  const shebang = /^#!\s*(\S+)(?:[ \t]+([^\n]*?))?[ \t]*(?:\n|$)/.exec(head)
  if (shebang === null) return yield* startFailure("ENOEXEC", asked)
  if (depth > 4) return yield* startFailure("ELOOP", asked)
  const [, interpreter = "", argument] = shebang
  const prefix = argument === undefined || argument === "" ? [] : [argument]
  const isEnv = basename(interpreter) === "env" && prefix.length > 0
  return yield* resolveProgram(
    options,
    isEnv ? (prefix[0] ?? "") : interpreter,
    [...(isEnv ? [] : prefix), path, ...args],
    lookup,
    depth + 1
  )
})

/** Shows no value that somebody redacted. */
const scrubber = (secrets: Iterable<string>) => {
  const values = [...secrets].filter((secret) => secret !== "").sort((one, other) => other.length - one.length)
  return (text: string): string => values.reduce((scrubbed, secret) => scrubbed.replaceAll(secret, "<redacted>"), text)
}

const scrubEnv = (scrub: (text: string) => string, env: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(env).map(([name, value]) => [name, scrub(value)]))

const messageOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  return error instanceof Error ? error.message : String(error)
}

/** Runs a registered command: what it says goes to `write`, and its end is the result. */
const runRegistered = (
  command: Command,
  call: CommandCall,
  write: (stream: "stdout" | "stderr", bytes: Uint8Array) => Effect.Effect<void>
): Effect.Effect<ProcessExit> => {
  let exit: ProcessExit = ProcessExit.Exited({ code: 0 })
  const isEnd = (event: CommandEvent) => event._tag === "exit" || event._tag === "signalled"
  return Stream.suspend(() => command(call)).pipe(
    Stream.takeUntil(isEnd),
    Stream.runForEach((event) => {
      switch (event._tag) {
        case "stdout":
        case "stderr":
          return write(event._tag, event.bytes)
        case "exit":
          exit = ProcessExit.Exited({ code: event.code })
          return Effect.void
        case "signalled": {
          const signal = toSignal(event.signal) ?? "SIGKILL"
          exit = ProcessExit.Signalled({ signal, code: 128 + signalNumber(signal) })
          return Effect.void
        }
      }
    }),
    Effect.catchCause((cause) => {
      if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
      exit = ProcessExit.Exited({ code: 1 })
      return write("stderr", new TextEncoder().encode(`${call.command}: ${messageOf(cause)}\n`))
    }),
    Effect.map(() => exit)
  )
}

/** Starts a command, at most once for the id of a recorded one. */
export const start = Effect.fnUntraced(function* (
  options: Options,
  command: StartCommand
): Effect.fn.Return<MachineProcess, Failure, Scope.Scope> {
  const { machine, state } = options
  const problem = problemOf(command)
  if (problem !== undefined) return yield* badArgument("ChildProcess", "spawn", problem)
  const cwd = command.cwd === undefined ? workspaceRoot : normalize(workspaceRoot, command.cwd)
  yield* Effect.try({
    try: () => {
      if (machine.tree.stat(cwd, "chdir").kind !== "directory") throw new FsError("ENOTDIR", "chdir", cwd)
    },
    catch: (cause) => platformError("FileSystem", "access", cwd, cause)
  })
  const base = { PATH: searchPath, HOME: workspaceRoot, TMPDIR: temporary, LANG: "C.UTF-8", ...machine.env }
  // Any name is one, `__proto__` too.
  const variables = new Map(command.extendEnv === false ? [] : Object.entries(base))
  const secrets = new Set(machine.secrets)
  for (const [name, value] of Object.entries(command.env ?? {})) {
    if (value === undefined) variables.delete(name)
    else variables.set(name, unwrap(value))
    if (Redacted.isRedacted(value)) secrets.add(Redacted.value(value))
  }
  const env = Object.fromEntries(variables)
  for (const argument of command.args) if (Redacted.isRedacted(argument)) secrets.add(Redacted.value(argument))
  const scrub = scrubber(secrets)
  const args = command.args.map(unwrap)
  const program = yield* resolveProgram(options, command.command, args, {
    asked: command.command,
    cwd,
    path: variables.get("PATH") ?? searchPath
  })
  // The loading may have taken long: the machine may have ended meanwhile.
  const startedAt = yield* options.checked("start", Clock.currentTimeMillis)

  const process = yield* Effect.acquireRelease(
    Effect.suspend(() => {
      const known = machine.processes.get(command.processId)
      if (command.lifetime === "recorded" && known !== undefined) return Effect.succeed(known)
      const pid = ++machine.pids
      const about = { sandboxId: machine.sandboxId, processId: command.processId, pid, lifetime: command.lifetime }
      const record = state.record({
        ...about,
        nested: false,
        command: scrub(command.command),
        args: args.map(scrub),
        cwd,
        env: scrubEnv(scrub, env),
        startedAt
      })
      const started = new Process({
        pid,
        processId: command.processId,
        incarnation: options.incarnation,
        lifetime: command.lifetime,
        stdin: command.stdin,
        abrupt: program.kind === "interpreted",
        onInput: record.read,
        onEnd: (at, exit) => {
          machine.byPid.delete(pid)
          record.ended(at, exit)
        }
      })
      machine.byPid.set(pid, started)
      if (command.lifetime === "recorded") machine.processes.set(command.processId, started)
      const files = (directory: string) =>
        FakeFileSystem.make({ tree: machine.tree, cwd: directory, temporary, checked: options.checked })

      const nested = Effect.fnUntraced(function* (call: Bash.NestedCall) {
        const registered = options.commands.get(call.command)
        if (registered === undefined) return { stdout: new Uint8Array(0), stderr: new Uint8Array(0), code: 127 }
        const parts = { stdout: new Array<Uint8Array>(), stderr: new Array<Uint8Array>() }
        const own = state.record({
          ...about,
          nested: true,
          command: scrub(call.command),
          args: call.args.map(scrub),
          cwd: call.cwd,
          env: scrubEnv(scrub, call.env),
          startedAt: yield* Clock.currentTimeMillis
        })
        const exit = yield* runRegistered(
          registered,
          {
            command: call.command,
            args: call.args,
            cwd: call.cwd,
            env: call.env,
            stdin: Stream.tap(call.stdin, (bytes) => Effect.sync(() => own.read(bytes))),
            files: files(call.cwd),
            pid,
            trap: () => Effect.void
          },
          (stream, bytes) => Effect.sync(() => void parts[stream].push(bytes.slice()))
        ).pipe(
          // It goes with the shell that called it.
          Effect.onInterrupt(() =>
            Effect.map(Clock.currentTimeMillis, (at) =>
              own.ended(at, ProcessExit.Signalled({ signal: "SIGKILL", code: 128 + signalNumber("SIGKILL") }))
            )
          )
        )
        own.ended(yield* Clock.currentTimeMillis, exit)
        return {
          stdout: yield* Bash.bytesOf(Stream.fromIterable(parts.stdout)),
          stderr: yield* Bash.bytesOf(Stream.fromIterable(parts.stderr)),
          code: exit.code
        }
      })

      const body =
        program.kind === "registered"
          ? runRegistered(
              program.command,
              {
                command: command.command,
                args: program.args,
                cwd,
                env,
                stdin: started.input.read,
                files: files(cwd),
                pid,
                trap: (name, handler) =>
                  Effect.sync(() => {
                    const signal = toSignal(name)
                    if (signal !== undefined) started.traps.set(signal, handler)
                  })
              },
              (stream, bytes) => started.output.write(stream, bytes)
            )
          : Effect.map(
              Effect.catchDefect(
                Bash.run({
                  bash: program.bash,
                  tree: machine.tree,
                  pid,
                  program: program.program,
                  args: program.args,
                  cwd,
                  env,
                  output: started.output,
                  input: command.stdin ? started.input.read : undefined,
                  registered: [...options.commands.keys()],
                  call: nested,
                  signal: (target, name) => {
                    const other = machine.byPid.get(target)
                    const signal = name === undefined ? undefined : toSignal(name)
                    if (other === undefined || (name !== undefined && signal === undefined))
                      return Effect.succeed(false)
                    return Effect.as(signal === undefined ? Effect.void : other.kill(signal), true)
                  }
                }),
                // Of what breaks the interpreter itself the process tells, as any program would.
                (defect) =>
                  Effect.as(
                    started.output.write(
                      "stderr",
                      new TextEncoder().encode(`${program.program}: ${messageOf(Cause.die(defect))}\n`)
                    ),
                    1
                  )
              ),
              (code) => ProcessExit.Exited({ code })
            )
      return Effect.as(started.run(body, command.deadline, options.killGrace), started)
    }),
    (process) =>
      process.options.lifetime === "scoped" && process.isRunning ? process.terminate(options.killGrace) : Effect.void
  )
  return process.handle(outputStart)
})
