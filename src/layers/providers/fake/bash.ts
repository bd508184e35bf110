/**
 * What is not registered is interpreted by `just-bash`, which is loaded at the first use.
 *
 * Its results are text in which bytes and characters cannot be told apart any more. So the commands of a script write to two
 * files that are this process's, see `script.ts`: each as it ends, and a slow reader holds the script back.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Stream from "effect/Stream"
import type * as JustBashModule from "just-bash"
import type { Bash, Command as BashCommand, CustomCommand, ExecResult, ResolvedCommandContext } from "just-bash"
import { MissingPackage, type SandboxError, Unknown } from "../../../errors.ts"
import type { Special } from "./bashFiles.ts"
import * as BashFiles from "./bashFiles.ts"
import { fromLatin1, toLatin1 } from "./bashFiles.ts"
import { failWith } from "./failures.ts"
import { loading } from "./loading.ts"
import * as Script from "./script.ts"
import type { Output } from "./pipes.ts"
import type { Inode, Tree } from "./tree.ts"
import { hasCode, join, umask } from "./tree.ts"

export type JustBash = typeof JustBashModule

/** Loads the interpreter. */
export type Load = () => Promise<JustBash>

export const load: Load = () => import("just-bash")

/** The interpreter, or `MissingPackage`. */
export const loaded = (from: Load): Effect.Effect<JustBash, SandboxError> =>
  loading(
    Effect.tryPromise({
      try: from,
      catch: (cause) =>
        failWith(
          "start",
          hasCode(cause, "ERR_MODULE_NOT_FOUND")
            ? new MissingPackage({ package: "just-bash", cause })
            : new Unknown({ detail: "just-bash cannot be loaded", cause })
        )
    })
  )

/** What a registered command is called with from inside of a script. */
export interface NestedCall {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  readonly stdin: Stream.Stream<Uint8Array>
}

/** What came of it. */
export interface NestedResult {
  readonly stdout: Uint8Array
  readonly stderr: Uint8Array
  readonly code: number
}

/** One process whose program is interpreted. */
export interface Options {
  readonly bash: JustBash
  readonly tree: Tree
  readonly pid: number
  readonly program: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  readonly output: Output
  /** The input, while somebody may still write it; undefined when there is none. */
  readonly input: Stream.Stream<Uint8Array> | undefined
  readonly registered: ReadonlyArray<string>
  readonly call: (call: NestedCall) => Effect.Effect<NestedResult>
  /** Signals a process; false when there is none. */
  readonly signal: (pid: number, signal: string | undefined) => Effect.Effect<boolean>
}

/** Programs that the interpreter itself does not have. */
export const additional: ReadonlyArray<string> = ["kill", "umask"]

const isShell = (program: string): boolean => program === "sh" || program === "bash"

/** Stands for an input that nobody has asked for yet. */
const unasked = "\u0001effect-sandbox input\u0001"

/** Keeps an argument that is called `--help` from being taken for the option; it is no byte. */
const notHelp = "\ue000"

/** `\\u00e9` and the like as the characters that they are. */
const unescapeCharacters = (text: string): string =>
  text.replace(
    /(?<!\\)((?:\\\\)*)\\(?:u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8}))/g,
    (whole, before: string, short?: string, long?: string) => {
      const code = Number.parseInt(short ?? long ?? "", 16)
      return code < 0x80 || code > 0x10ffff ? whole : before + String.fromCodePoint(code)
    }
  )

/** Builtins of the shell that take input past its commands: for these it is read to its end beforehand. */
const takesInput = (script: string): boolean => /\b(read|mapfile|readarray)\b|<&/.test(script)

interface Shell {
  /** `-e`, `-x`, as words for `set`. */
  readonly set: ReadonlyArray<string>
  readonly script: string | undefined
  readonly file: string | undefined
  readonly rest: ReadonlyArray<string>
}

const parseShell = (args: ReadonlyArray<string>): Shell => {
  const set: Array<string> = []
  let inline = false
  let index = 0
  for (; index < args.length; index++) {
    const word = args[index] ?? ""
    if (word === "--" || word === "-") {
      index++
      break
    }
    if (!/^[-+]./.test(word)) break
    if (word === "-o" || word === "+o") set.push(word, args[++index] ?? "")
    else if (!word.startsWith("--")) {
      inline ||= word.startsWith("-") && word.includes("c")
      const letters = word.slice(1).replace(/[^aefux]/g, "")
      if (letters !== "") set.push(word.slice(0, 1) + letters)
    }
  }
  const [first, ...rest] = args.slice(index)
  return inline
    ? { set, script: first, file: undefined, rest }
    : { set, script: undefined, file: first, rest: first === undefined ? [] : [first, ...rest] }
}

const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

const concat = (chunks: ReadonlyArray<Uint8Array>): Uint8Array => {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  return whole
}

/** Collects a stream of bytes. */
export const bytesOf = (stream: Stream.Stream<Uint8Array>): Effect.Effect<Uint8Array> =>
  Effect.map(Stream.runCollect(stream), concat)

const bytesResult = (stdout: string, stderr: string, exitCode: number): ExecResult => ({
  stdout,
  stdoutKind: "bytes",
  stdoutEncoding: "binary",
  stderr,
  exitCode
})

/** Runs a program to its end and yields its exit code. Interruption ends it at the border of its next statement. */
export const run = (options: Options): Effect.Effect<number> =>
  options.program === "cat" && options.input !== undefined && options.args.every((argument) => argument === "-")
    ? // What comes in is passed on as it comes, which the interpreter cannot do.
      Effect.as(
        Stream.runForEach(options.input, (bytes) => options.output.write("stdout", bytes)),
        0
      )
    : interpret(options)

const interpret = (options: Options): Effect.Effect<number> =>
  Effect.gen(function* () {
    const services = yield* Effect.context()
    const clock = yield* Clock.Clock
    const promise = <A>(effect: Effect.Effect<A>, signal?: AbortSignal) =>
      Effect.runPromiseWith(services)(effect, signal === undefined ? {} : { signal })
    const now = () => clock.currentTimeMillisUnsafe()
    const { bash, output, tree } = options
    // Read at most once, when the first who wants it comes.
    let gathered: Promise<Uint8Array> | undefined
    const input = () =>
      (gathered ??= options.input === undefined ? Promise.resolve(new Uint8Array(0)) : promise(bytesOf(options.input)))

    const special = new Map<string, Special>()
    const writer = (stream: "stdout" | "stderr"): Special => ({
      read: async () => new Uint8Array(0),
      write: (bytes) => promise(output.write(stream, bytes))
    })
    special.set("/proc/self/fd/1", writer("stdout"))
    special.set("/proc/self/fd/2", writer("stderr"))
    special.set("/dev/stdout", writer("stdout"))
    special.set("/dev/stderr", writer("stderr"))
    special.set("/dev/null", { read: async () => new Uint8Array(0), write: async () => {} })
    for (const path of ["/dev/stdin", "/proc/self/fd/0"]) special.set(path, { read: input, write: async () => {} })

    let sinks = 0
    const sink = () => {
      const path = `/proc/self/fd/sink-${++sinks}`
      const chunks: Array<Uint8Array> = []
      special.set(path, {
        read: async () => new Uint8Array(0),
        write: async (bytes) => void chunks.push(bytes.slice())
      })
      return {
        path,
        take: () => {
          special.delete(path)
          return concat(chunks)
        }
      }
    }

    const bundled = bundledCommands(bash)
    const inherits = (context: ResolvedCommandContext) => bash.latin1FromBytes(context.stdin) === unasked
    /** The command again, with the input that it turned out to read. */
    const withInput = async (name: string, args: ReadonlyArray<string>, context: ResolvedCommandContext) => {
      const stdin = toLatin1(await input())
      const own = bundled.get(name)
      if (own !== undefined && !needsScope.has(name)) {
        return own.execute([...args], { ...context, stdin: bash.unsafeBytesFromLatin1(stdin) })
      }
      return context.exec === undefined
        ? bytesResult("", `${name}: no shell\n`, 126)
        : context.exec(name, { args: [...args], cwd: context.cwd, stdin, stdinKind: "bytes", ...abort(context) })
    }
    const abort = (context: ResolvedCommandContext) => (context.signal === undefined ? {} : { signal: context.signal })
    const original = (args: ReadonlyArray<string>, context: ResolvedCommandContext): Promise<ExecResult> =>
      context.origCommand === undefined
        ? Promise.resolve(bytesResult("", "command not found\n", 127))
        : context.origCommand([...args])

    /** A command of the interpreter's own: the input of the process is read only when the command asks for it. */
    const plain =
      (name: string) =>
      async (args: ReadonlyArray<string>, context: ResolvedCommandContext): Promise<ExecResult> => {
        if (!inherits(context) || name === "find") return original(args, context)
        const own = bundled.get(name)
        if (own === undefined || needsScope.has(name)) return withInput(name, args, context)
        let asked = false
        const lazy = new Proxy(context, {
          get: (target, key) => {
            if (key !== "stdin") return Reflect.get(target, key)
            asked = true
            throw new Error("the input is not there yet")
          }
        })
        try {
          const result = await own.execute([...args], lazy)
          if (!asked) return result
        } catch (error) {
          if (!asked) throw error
        }
        return withInput(name, args, context)
      }

    /**
     * Arguments as bytes, one character each, so that escapes for bytes and text come out alike. `escaped` of them, from the
     * first on, may hold escapes for characters.
     */
    const bytewise = async (
      args: ReadonlyArray<string>,
      context: ResolvedCommandContext,
      escaped: number
    ): Promise<ExecResult> => {
      const result = await original(
        args.map((argument, index) => {
          const text = index < escaped ? unescapeCharacters(argument) : argument
          return (argument === "--help" ? notHelp : "") + toLatin1(new TextEncoder().encode(text))
        }),
        context
      )
      // Beyond the bytes there is only our own mark.
      return bytesResult(result.stdout.replaceAll(notHelp, ""), result.stderr, result.exitCode)
    }

    const own: Record<string, (args: ReadonlyArray<string>, context: ResolvedCommandContext) => Promise<ExecResult>> = {
      printf: (args, context) => (args[0] === "-v" ? original(args, context) : bytewise(args, context, 1)),
      echo: (args, context) =>
        args.includes("--help") || /^-[neE]*e/.test(args[0] ?? "")
          ? bytewise(args, context, /^-[neE]*e/.test(args[0] ?? "") ? args.length : 0)
          : original(args, context),
      date: (args, context) =>
        original(
          args.some((argument) => /^(-[drsf]|--(date|reference|set|file))/.test(argument))
            ? args
            : ["-d", `@${Math.floor(now() / 1000)}`, ...args],
          context
        ),
      touch: async (args, context) => {
        if (args.some((argument) => argument.startsWith("-") && argument !== "-c")) return original(args, context)
        for (const argument of args.filter((word) => word !== "-c")) {
          const path = join(context.cwd, argument)
          try {
            if (tree.exists(path)) tree.utimes(tree.stat(path), now(), now())
            else if (!args.includes("-c")) tree.writeFile(path, new Uint8Array(0), now())
          } catch (error) {
            return bytesResult("", `touch: cannot touch '${argument}': ${String(error)}\n`, 1)
          }
        }
        return bytesResult("", "", 0)
      },
      ls: (args, context) =>
        args.some((argument) => /^-[adilA1]*[il]/.test(argument)) &&
        args.every((argument) => !argument.startsWith("-") || /^(-[adilA1]+|--)$/.test(argument))
          ? Promise.resolve(listing(tree, context.cwd, args))
          : plain("ls")(args, context),
      env: (args, context) =>
        args.length === 0 ? Promise.resolve(exported(context, [])) : plain("env")(args, context),
      printenv: (args, context) => Promise.resolve(exported(context, args)),
      kill: async (args) => {
        let signal = "SIGTERM"
        let pids = [...args]
        if (pids[0] === "-s") {
          signal = pids[1] ?? ""
          pids = pids.slice(2)
        } else if (/^-./.test(pids[0] ?? "") && pids[0] !== "--") signal = (pids.shift() ?? "").slice(1)
        for (const pid of pids.filter((word) => word !== "--")) {
          if (!(await promise(options.signal(Number(pid), signal === "0" ? undefined : signal)))) {
            return bytesResult("", `kill: (${pid}) - No such process\n`, 1)
          }
        }
        return bytesResult("", "", 0)
      },
      umask: async (args) => {
        if (args.length === 0) return bytesResult(`${umask.toString(8).padStart(4, "0")}\n`, "", 0)
        return bytesResult("", "umask: a fake process cannot change it\n", 1)
      },
      timeout: async (args, context) => {
        const [limit = "", command, ...rest] = args
        const match = /^(\d+(?:\.\d+)?)([smhd]?)$/.exec(limit)
        if (match === null || command === undefined || context.exec === undefined) return original(args, context)
        const unit = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] ?? ""] ?? 1000
        const { exec } = context
        return promise(
          Effect.promise((signal) =>
            exec(command, {
              args: rest,
              cwd: context.cwd,
              stdin: bash.latin1FromBytes(context.stdin),
              stdinKind: "bytes",
              signal
            })
          ).pipe(
            Effect.timeoutOrElse({
              duration: Number(match[1]) * unit,
              orElse: () => Effect.succeed(bytesResult("", "", 124))
            })
          ),
          context.signal
        )
      }
    }

    /** A shell inside of a script: exact bytes there too. */
    const nested = async (args: ReadonlyArray<string>, context: ResolvedCommandContext): Promise<ExecResult> => {
      const shell = await prepared(
        args,
        (path) => tree.readFile(join(context.cwd, path)),
        () => (inherits(context) ? input() : Promise.resolve(fromLatin1(bash.latin1FromBytes(context.stdin))))
      )
      if (Predicate.isString(shell)) return bytesResult("", shell, 127)
      if (inherits(context) && takesInput(shell.script)) return withInput("sh", args, context)
      const out = sink()
      const err = sink()
      const { args: words, line } = Script.invocation(
        { out: out.path, err: err.path },
        shell.set + shell.script,
        shell.rest
      )
      const result =
        line === Script.shell || context.exec === undefined
          ? await original(words, context)
          : await context.exec(line, {
              args: [...words],
              cwd: context.cwd,
              stdin: bash.latin1FromBytes(context.stdin),
              stdinKind: "bytes",
              ...abort(context)
            })
      return bytesResult(toLatin1(out.take()) + result.stdout, textOf(err.take()) + result.stderr, result.exitCode)
    }

    const commands: Array<CustomCommand> = []
    const define = (name: string, execute: BashCommand["execute"]) =>
      commands.push(bash.defineCommand(name, (args, context) => execute(args, context)))
    let outermost = true
    for (const name of new Set([...bash.getCommandNames(), ...additional])) {
      if (name === "sleep") continue
      define(name, async (args, context) => {
        if (isShell(name)) {
          if (!outermost) return nested(args, context)
          outermost = false
          return original(args, context)
        }
        return (own[name] ?? plain(name))(args, context)
      })
    }
    for (const name of options.registered) {
      define(name, async (args, context) => {
        const result = await promise(
          options.call({
            command: name,
            args,
            cwd: context.cwd,
            env: { ...context.exportedEnv },
            stdin: inherits(context)
              ? options.input !== undefined && gathered === undefined
                ? options.input
                : Stream.fromEffect(Effect.promise(input))
              : Stream.succeed(fromLatin1(bash.latin1FromBytes(context.stdin)))
          }),
          context.signal
        )
        return bytesResult(toLatin1(result.stdout), textOf(result.stderr), result.code)
      })
    }

    const stop: { signal?: AbortSignal } = {}
    const interpreter = new bash.Bash({
      fs: BashFiles.make(tree, special, now),
      cwd: options.cwd,
      env: isShell(options.program)
        ? Object.fromEntries(Object.entries(options.env).filter(([name]) => /^[A-Za-z_]\w*$/.test(name)))
        : { ...options.env },
      customCommands: commands,
      processInfo: { pid: options.pid, ppid: 1, uid: 0, gid: 0 },
      // The one that waits may have been interrupted: there is nothing left to tell it.
      sleep: (ms) => promise(Effect.sleep(ms), stop.signal).catch(() => {}),
      // Virtual time must not meet a real deadline.
      executionLimits: { maxExecutionTimeMs: Number.POSITIVE_INFINITY },
      // It patches globals that the registered commands need.
      defenseInDepth: false
    })
    interpreter.registerTransformPlugin(Script.plugin)
    const shell = isShell(options.program)
    adjust(interpreter, new Set([...Object.keys(options.env), ...(shell ? ["PWD"] : [])]))

    return yield* Effect.promise(async (signal) => {
      stop.signal = signal
      let script: string
      let rest: ReadonlyArray<string>
      let asks = false
      if (shell) {
        const ready = await prepared(options.args, (path) => tree.readFile(join(options.cwd, path)), input)
        if (Predicate.isString(ready)) {
          await promise(output.write("stderr", new TextEncoder().encode(ready)))
          return 127
        }
        asks = takesInput(ready.script)
        script = ready.set + ready.script
        rest = ready.rest
      } else {
        script = `'/usr/bin/${options.program}' "$@"`
        rest = ["sh", ...options.args]
      }
      const { args, line } = Script.invocation({ out: "/proc/self/fd/1", err: "/proc/self/fd/2" }, script, rest)
      outermost = line === Script.shell
      const stdin =
        options.input === undefined ? "" : asks || gathered !== undefined ? toLatin1(await input()) : unasked
      const result = await interpreter.exec(line, {
        args: [...args],
        cwd: options.cwd,
        // A shell says itself where it is; others have only what they are given.
        env: { PWD: (shell ? undefined : options.env["PWD"]) ?? options.cwd },
        stdin,
        stdinKind: "bytes",
        signal
      })
      // What went past the two files: `time`, `>/dev/stdout`, a script that does not parse.
      await promise(output.write("stdout", new TextEncoder().encode(result.stdout)))
      await promise(output.write("stderr", new TextEncoder().encode(result.stderr)))
      return result.exitCode
    })
  })

/** The script that a shell is to run, or why it cannot. */
const prepared = async (
  args: ReadonlyArray<string>,
  readFile: (path: string) => Uint8Array,
  input: () => Promise<Uint8Array>
): Promise<{ readonly set: string; readonly script: string; readonly rest: ReadonlyArray<string> } | string> => {
  const { file, rest, script, set } = parseShell(args)
  const words = set.length === 0 ? "" : `set ${set.join(" ")}; `
  if (script !== undefined) return { set: words, script, rest }
  if (file === undefined) return { set: words, script: textOf(await input()), rest }
  try {
    return { set: words, script: textOf(readFile(file)), rest }
  } catch (error) {
    return `sh: ${file}: ${error instanceof Error ? error.message : String(error)}\n`
  }
}

/** These account for their output in a way that only the interpreter itself can start. */
const needsScope = new Set(["find", "xargs", "env", "time", "sh", "bash"])

const kindLetters = { file: "-", directory: "d", link: "l" } as const

const modeText = (inode: Inode): string =>
  kindLetters[inode.kind] +
  [...inode.mode.toString(8).slice(-3).padStart(3, "0")]
    .map((digit) => ["---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx"][Number(digit)])
    .join("")

/** `ls -l` and `ls -i`: the interpreter's own shows the same modes for everything, and no inodes. */
const listing = (tree: Tree, cwd: string, args: ReadonlyArray<string>): ExecResult => {
  const end = args.indexOf("--")
  const isFlag = (word: string, index: number) => word.startsWith("-") && (end < 0 || index <= end)
  const flags = args.filter(isFlag).join("")
  const operands = args.filter((word, index) => !isFlag(word, index))
  const lines: Array<string> = []
  const errors: Array<string> = []
  const row = (inode: Inode, name: string) => {
    const size = inode.kind === "file" ? inode.size : inode.kind === "link" ? inode.target.length : 4096
    const when = DateTime.formatIso(DateTime.makeUnsafe(inode.mtime)).slice(0, 16).replace("T", " ")
    const target = inode.kind === "link" ? ` -> ${inode.target}` : ""
    const about = `${modeText(inode)} ${Math.max(1, inode.names.length)} root root ${size} ${when} `
    const long = flags.includes("l")
    lines.push(`${flags.includes("i") ? `${inode.ino} ` : ""}${long ? about : ""}${name}${long ? target : ""}`)
  }
  for (const operand of operands.length === 0 ? ["."] : operands) {
    try {
      const path = join(cwd, operand)
      const inode = tree.lstat(path)
      if (inode.kind !== "directory" || flags.includes("d")) row(inode, operand)
      else {
        if (operands.length > 1) lines.push(`${operand}:`)
        for (const [name, entry] of [...inode.entries].sort(([one], [other]) => (one < other ? -1 : 1))) {
          if (!name.startsWith(".") || /[aA]/.test(flags)) row(entry, name)
        }
      }
    } catch {
      // Whatever stands in the way, it cannot be listed.
      errors.push(`ls: ${operand}: No such file or directory\n`)
    }
  }
  return {
    stdout: lines.map((line) => `${line}\n`).join(""),
    stdoutKind: "text",
    stderr: errors.join(""),
    exitCode: errors.length === 0 ? 0 : 2
  }
}

const exported = (context: ResolvedCommandContext, names: ReadonlyArray<string>): ExecResult => {
  const env = context.exportedEnv ?? {}
  const lines =
    names.length === 0
      ? Object.entries(env).map(([name, value]) => `${name}=${value}`)
      : names.flatMap((name) => env[name] ?? [])
  return {
    stdout: lines.map((line) => `${line}\n`).join(""),
    stdoutKind: "text",
    stderr: "",
    exitCode: lines.length >= names.length ? 0 : 1
  }
}

/**
 * The interpreter's own commands. They are in a field that its types call private; where it is not as expected, a
 * command is given its whole input before it starts, whether it reads it or not.
 */
const bundledCommands = (bash: JustBash): ReadonlyMap<string, BashCommand> => {
  const commands: unknown = Reflect.get(new bash.Bash({ defenseInDepth: false }), "commands")
  const found = new Map<string, BashCommand>()
  if (!(commands instanceof Map)) return found
  for (const [name, command] of commands) {
    if (Predicate.isString(name) && isCommand(command)) found.set(name, command)
  }
  return found
}

/** Programs to the interpreter, and to shells a part of themselves: there whatever PATH says. */
const builtins = ["echo", "printf", "test", "[", "true", "false", "pwd", "kill", "umask"]

/**
 * Takes away what the interpreter adds to the environment of its programs, and tells it where the builtins of shells are. It
 * keeps both in a field that its types call private; where it is not as expected, programs see HOME, PATH, PWD and
 * OLDPWD too, and a script whose PATH lacks the usual places has no `echo`.
 */
const adjust = (interpreter: Bash, names: ReadonlySet<string>): void => {
  const state: unknown = Reflect.get(interpreter, "state")
  if (Predicate.hasProperty(state, "hashTable") && state.hashTable instanceof Map) {
    for (const name of builtins) state.hashTable.set(name, `/usr/bin/${name}`)
  }
  const hasState = Predicate.hasProperty(state, "env") && Predicate.hasProperty(state, "exportedVars")
  if (!hasState || !(state.env instanceof Map) || !(state.exportedVars instanceof Set)) return
  for (const name of ["HOME", "PATH", "PWD", "OLDPWD"]) {
    if (names.has(name)) continue
    state.exportedVars.delete(name)
    if (name === "HOME" || name === "PATH") state.env.delete(name)
  }
}

const isCommand = (u: unknown): u is BashCommand =>
  Predicate.hasProperty(u, "execute") && Predicate.isFunction(u.execute)
