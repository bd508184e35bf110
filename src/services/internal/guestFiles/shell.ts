/** Runs the scripts on a machine: one start each, all of their output, and why one failed in the terms of Node's layer. */
import * as Effect from "effect/Effect"
import * as PlatformError from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { isSandboxError, SandboxError, UnsupportedCapability } from "../../../errors.ts"
import type { ProcessExit } from "../../../model/Process.ts"
import type { Machine, MachineProcess } from "../../SandboxProvider.ts"
import * as core from "../core.ts"
import * as Info from "./info.ts"
import type { Script, Toolbox } from "./scripts.ts"
import { codes, prelude, probe, tools } from "./scripts.ts"

type Failure = SandboxError | PlatformError.PlatformError

/** What an operation is called in its errors, and the path that they name. */
export interface Subject {
  readonly method: string
  readonly path: string
}

/** How a script ended. */
export interface Outcome {
  readonly stdout: Uint8Array
  readonly stderr: string
  readonly exit: ProcessExit
}

const module = "FileSystem"

/** A failure of one of the reasons that the system has. */
export const systemError = (
  { method, path }: Subject,
  tag: PlatformError.SystemErrorTag,
  description?: string,
  cause?: unknown
): PlatformError.PlatformError =>
  PlatformError.systemError({
    _tag: tag,
    module,
    method,
    pathOrDescriptor: path,
    ...(description === undefined ? {} : { description }),
    ...(cause === undefined ? {} : { cause })
  })

export const badArgument = (method: string, description: string): PlatformError.PlatformError =>
  PlatformError.badArgument({ module, method, description })

/** Files speak `PlatformError` only; a failure of the sandbox is kept as its cause. */
export const toPlatform =
  (subject: Subject) =>
  (error: Failure): PlatformError.PlatformError =>
    isSandboxError(error) ? systemError(subject, "Unknown", error.message, error) : error

const unsupported = (subject: Subject, capability: string, detail: string): PlatformError.PlatformError =>
  toPlatform(subject)(
    new SandboxError({
      operation: `FileSystem.${subject.method}`,
      reason: new UnsupportedCapability({ capability, detail })
    })
  )

const encoder = new TextEncoder()

/** What no path can be, before anybody is asked: the system takes 4,095 bytes, and no NUL. */
export const checked = ({ method, path }: Subject): Effect.Effect<void, PlatformError.PlatformError> =>
  Effect.suspend(() => {
    if (path.includes("\0")) return Effect.fail(badArgument(method, "The path contains a NUL character"))
    if (path === "") return Effect.fail(systemError({ method, path }, "NotFound", "The path is empty"))
    return path.length > 1365 && encoder.encode(path).length > 4095
      ? Effect.fail(systemError({ method, path }, "Unknown", "The path is too long"))
      : Effect.void
  })

const descriptions: Readonly<Record<number, readonly [tag: PlatformError.SystemErrorTag, description?: string]>> = {
  [codes.NotFound]: ["NotFound"],
  [codes.AlreadyExists]: ["AlreadyExists"],
  [codes.BadResource]: ["BadResource"],
  [codes.PermissionDenied]: ["PermissionDenied"],
  [codes.Busy]: ["Busy", "The file that was opened has this name no longer"],
  [codes.nameTooLong]: ["Unknown", "A name is too long"],
  [codes.invalid]: ["Unknown", "This cannot be done with what is there"],
  [codes.needsRecursive]: ["Unknown", "It is a directory, which goes only with the option recursive"],
  [codes.badDescriptor]: ["Unknown", "The file is not open for this"],
  [codes.crossDevice]: ["Unknown", "The paths are on different file systems"],
  [codes.notEmpty]: ["Unknown", "The directory is not empty"],
  [codes.conflict]: ["Unknown", "A directory and something else have this name"]
}

/**
 * The last resort: what a tool said of an error number, at the end of a line, in the words of glibc and musl. The scripts
 * have tested for everything that can be tested by then; what is left are races and what only the kernel knows.
 */
const said: ReadonlyArray<readonly [PlatformError.SystemErrorTag, RegExp]> = [
  ["PermissionDenied", /: (?:Permission denied|Operation not permitted)$/m],
  ["Busy", /: (?:Device or resource busy|Resource busy)$/m],
  ["NotFound", /: (?:No such file or directory|Directory nonexistent|nonexistent directory)$/m],
  ["AlreadyExists", /: File exists$/m],
  ["BadResource", /: (?:Not a directory|Is a directory|Too many levels of symbolic links|Symbolic link loop)$/m]
]

const maxSaid = 8 * 1024

/** Why a script failed; undefined when it did not. */
export const failureOf = (subject: Subject, { exit, stderr }: Outcome): PlatformError.PlatformError | undefined => {
  if (exit._tag === "Signalled" || exit.reason !== undefined) {
    return systemError(subject, "Unknown", `The command was ended by ${exit.reason ?? "a signal"}`)
  }
  if (exit.code === 0) return undefined
  if (exit.code === codes.fifo) return unsupported(subject, "open", "a FIFO is not the same when it is opened again")
  if (exit.code === codes.noProc) return unsupported(subject, "/proc", "an open file is held through /proc/self/fd")
  const known = descriptions[exit.code]
  if (known !== undefined) return systemError(subject, known[0], known[1])
  const words = stderr.trim()
  const tag = said.find(([, pattern]) => pattern.test(words))?.[0] ?? "Unknown"
  return systemError(subject, tag, words === "" ? `The command exited with code ${exit.code}` : words.slice(0, 400))
}

const concat = (chunks: ReadonlyArray<Uint8Array>): Uint8Array => {
  const [only] = chunks
  if (only !== undefined && chunks.length === 1) return only
  const all = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    all.set(chunk, at)
    at += chunk.length
  }
  return all
}

/** All bytes of a stream. */
export const collect = <E, R>(stream: Stream.Stream<Uint8Array, E, R>): Effect.Effect<Uint8Array, E, R> =>
  Effect.map(Stream.runCollect(stream), concat)

/** Keeps the beginning of what a command says of its failure. */
export class Words {
  private readonly chunks: Array<Uint8Array> = []
  private size = 0

  add(bytes: Uint8Array): void {
    if (this.size >= maxSaid) return
    this.chunks.push(bytes.slice(0, maxSaid - this.size))
    this.size += bytes.length
  }

  toString(): string {
    return Info.decode(concat(this.chunks))
  }
}

/** All of the output, and the end. */
export const outcome = (
  subject: Subject,
  process: MachineProcess
): Effect.Effect<Outcome, PlatformError.PlatformError> =>
  Effect.suspend(() => {
    const chunks: Array<Uint8Array> = []
    const words = new Words()
    return Stream.runForEach(process.output, ({ bytes, stream }) =>
      Effect.sync(() => {
        if (stream === "stdout") chunks.push(bytes)
        else words.add(bytes)
      })
    ).pipe(
      Effect.andThen(process.exit),
      Effect.mapError(toPlatform(subject)),
      Effect.map((exit) => ({ stdout: concat(chunks), stderr: words.toString(), exit }))
    )
  })

export interface Shell {
  /** The guest's tools, asked for once. */
  readonly toolbox: (subject: Subject) => Effect.Effect<Toolbox, PlatformError.PlatformError>
  /** Starts a script that ends with the Scope. */
  readonly start: (
    subject: Subject,
    script: Script,
    args: ReadonlyArray<string>,
    stdin: boolean
  ) => Effect.Effect<MachineProcess, PlatformError.PlatformError, Scope.Scope>
  /** Runs a script without input to its end and yields its standard output. */
  readonly run: (
    subject: Subject,
    script: Script,
    args: ReadonlyArray<string>
  ) => Effect.Effect<Uint8Array, PlatformError.PlatformError>
}

/** The output of a script that must have succeeded. */
export const succeeded = (subject: Subject, ended: Outcome): Effect.Effect<Uint8Array, PlatformError.PlatformError> => {
  const failure = failureOf(subject, ended)
  return failure === undefined ? Effect.succeed(ended.stdout) : Effect.fail(failure)
}

const isTool = (name: string | undefined): name is keyof Toolbox => tools.some((tool) => tool === name)

const toolboxOf = (text: string): Toolbox => {
  const found: Record<string, Toolbox[keyof Toolbox]> = {}
  for (const line of text.split("\n")) {
    const [name, kind] = line.split(" ")
    if (isTool(name)) found[name] = kind === "gnu" || kind === "busybox" || kind === "unknown" ? kind : "missing"
  }
  const of = (name: keyof Toolbox) => found[name] ?? "missing"
  return {
    stat: of("stat"),
    find: of("find"),
    touch: of("touch"),
    readlink: of("readlink"),
    ln: of("ln"),
    chmod: of("chmod"),
    chown: of("chown"),
    mv: of("mv"),
    cp: of("cp"),
    rm: of("rm"),
    mkdir: of("mkdir"),
    dd: of("dd"),
    cat: of("cat"),
    head: of("head")
  }
}

export const make = (machine: Machine): Shell => {
  const sh = (subject: Subject, args: ReadonlyArray<string>, stdin: boolean) =>
    Effect.gen(function* () {
      const operation = `FileSystem.${subject.method}`
      const processId = yield* Effect.flatMap(core.newUuid, (uuid) => core.toProcessId(operation, uuid))
      return yield* machine.start({
        processId,
        command: "sh",
        args: ["-c", ...args.map((argument) => argument.toWellFormed())],
        // The workspace may have been removed; every path is absolute.
        cwd: "/",
        lifetime: "scoped",
        stdin
      })
    }).pipe(
      Effect.mapError((error) =>
        isSandboxError(error)
          ? toPlatform(subject)(error)
          : error.reason._tag === "NotFound"
            ? unsupported(subject, "sh", "the guest has no shell")
            : systemError(subject, "Unknown", error.message, error)
      )
    )

  let known: Toolbox | undefined
  const asking = Semaphore.makeUnsafe(1)
  const toolbox: Shell["toolbox"] = (subject) =>
    Effect.suspend(() =>
      known !== undefined
        ? Effect.succeed(known)
        : asking.withPermits(1)(
            Effect.suspend(() =>
              known !== undefined
                ? Effect.succeed(known)
                : sh(subject, [probe, "sh", ...tools], false).pipe(
                    Effect.flatMap((process) => outcome(subject, process)),
                    Effect.flatMap((ended) => succeeded(subject, ended)),
                    Effect.map((bytes) => (known = toolboxOf(Info.decode(bytes)))),
                    Effect.scoped
                  )
            )
          )
    )

  const start: Shell["start"] = Effect.fnUntraced(function* (subject, script, args, stdin) {
    const found = yield* toolbox(subject)
    for (const tool of script.needs) {
      const kind = found[tool]
      if (kind === "missing") return yield* unsupported(subject, tool, "the guest does not have this program")
      if (kind === "unknown") {
        return yield* unsupported(subject, tool, "the guest's version is neither GNU's nor busybox's")
      }
    }
    return yield* sh(subject, [`${prelude}${script.text(found)}`, "sh", ...args], stdin)
  })

  return {
    toolbox,
    start,
    run: (subject, script, args) =>
      start(subject, script, args, false).pipe(
        Effect.flatMap((process) => outcome(subject, process)),
        Effect.flatMap((ended) => succeeded(subject, ended)),
        Effect.scoped
      )
  }
}
