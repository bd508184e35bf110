/**
 * The machine of a sandbox: real processes over a directory. `root/vercel` is home and working directory, `root/tmp` holds
 * temporary files. The directory is no jail: a command sees the host.
 *
 * Time here is native time, whatever clock the emulator runs on: the kernel's processes live in it.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Os from "node:os"
import * as Path from "node:path"
import type { Readable } from "node:stream"
import { setTimeout as delay } from "node:timers/promises"
import { promisify } from "node:util"
import { CommandLog, deferred } from "./commandLog.ts"
import { badRequest, refuse } from "./http.ts"

/** So many rounds of the event loop without output end a log after the exit, where a descendant holds the pipe. */
const quietRounds = 10

/** What `kill` and a command's timeout hit. The vendor does not say, so tests can have both. */
export type KillScope = "process" | "group"

export interface Running {
  readonly pid: number
  readonly log: CommandLog
  /** Null until it ended; the death by a signal is `128 + n`, as a shell tells it. */
  readonly exitCode: () => number | null
  readonly exited: Promise<number>
  readonly signal: (signal: number) => void
}

export interface StartOptions {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  readonly logPath: string
  readonly killScope: KillScope
}

export class Machine {
  readonly root: string
  readonly cwd: string
  readonly #path: string
  readonly #logs = new Set<CommandLog>()

  constructor(root: string, path: string) {
    this.root = root
    this.cwd = Path.join(root, "vercel")
    this.#path = path
  }

  /** What a command's environment is merged over: nothing of the host's. */
  get baseEnv(): Readonly<Record<string, string>> {
    return { HOME: this.cwd, LANG: "C.UTF-8", PATH: this.#path, TMPDIR: Path.join(this.root, "tmp"), USER: "ubuntu" }
  }

  /** Absolute paths are the host's; relative ones start at the working directory. */
  resolve(path: string, cwd?: string): string {
    return Path.resolve(this.cwd, cwd ?? "", path)
  }

  /** For what writes: only the sandbox's own directory, because the rest is the host's. */
  resolveOwn(path: string): string {
    const resolved = this.resolve(path)
    return resolved === this.root || resolved.startsWith(`${this.root}/`)
      ? resolved
      : refuse(400, "file_error", `The emulator writes only below ${this.root}, not at ${resolved}.`)
  }

  /** An empty disk, or the one of a snapshot. */
  async boot(from: string | undefined): Promise<void> {
    await this.wipe()
    if (from !== undefined) return copyTree(from, this.root)
    await FsPromises.mkdir(this.cwd, { recursive: true })
    await FsPromises.mkdir(Path.join(this.root, "tmp"))
  }

  async wipe(): Promise<void> {
    await FsPromises.rm(this.root, { recursive: true, force: true, maxRetries: 3 })
  }

  async start(options: StartOptions): Promise<Running> {
    const directory = await FsPromises.stat(options.cwd).catch(() => undefined)
    if (directory?.isDirectory() !== true) return badRequest(`The working directory ${options.cwd} does not exist.`)
    // Before the spawn: what nobody reads when a child exits, Node throws away.
    const log = await CommandLog.open(options.logPath)
    this.#logs.add(log)
    const child = await spawned(options).catch(async (error: unknown) => {
      this.#logs.delete(log)
      await log.close()
      throw error
    })
    const pid = child.pid ?? NaN
    let exitCode: number | null = null
    const done = deferred<number>()
    const pumps = [new Pump(child.stdout, "stdout", log), new Pump(child.stderr, "stderr", log)]
    const onExit = async () => {
      const code = child.exitCode ?? 128 + Os.constants.signals[child.signalCode ?? "SIGKILL"]
      await Promise.all(pumps.map((pump) => pump.drained()))
      await log.end()
      exitCode = code
      done.resolve(code)
    }
    if (child.exitCode === null && child.signalCode === null) child.once("exit", () => void onExit())
    else void onExit()
    return {
      pid,
      log,
      exitCode: () => exitCode,
      exited: done.promise,
      signal: (signal) => {
        if (child.exitCode === null && child.signalCode === null) {
          process.kill(options.killScope === "group" ? -pid : pid, signal)
        }
      }
    }
  }

  /** Ends the open streams with an error, then every process. Resolves when nothing of this machine runs any more. */
  async halt(failure: { readonly code: string; readonly message: string }): Promise<void> {
    await Promise.all([...this.#logs].map((log) => log.end(failure)))
    await killAll(this.root)
  }

  /** The logs go with the session. */
  async forget(): Promise<void> {
    await Promise.all([...this.#logs].map((log) => log.close()))
    this.#logs.clear()
  }
}

const spawned = (options: StartOptions) =>
  new Promise<ChildProcess.ChildProcessByStdio<null, Readable, Readable>>((resolve, reject) => {
    try {
      const child = ChildProcess.spawn(options.command, [...options.args], {
        cwd: options.cwd,
        env: { ...options.env },
        detached: true,
        stdio: ["ignore", "pipe", "pipe"]
      })
      child.once("spawn", () => resolve(child))
      child.once("error", reject)
    } catch (error) {
      reject(error)
    }
  }).catch((error: NodeJS.ErrnoException) =>
    error.code === "ENOENT" || error.code === "EACCES" || error.code === "ENOTDIR"
      ? refuse(400, "executable_not_found", `Executable ${JSON.stringify(options.command)} not found.`)
      : badRequest(`The command cannot be started: ${error.message}`)
  )

/** Bytes become text here, as at the vendor: what is not UTF-8 is replaced and lost. */
class Pump {
  #writing = false
  #chunks = 0
  #ended = false
  readonly #end: Promise<void>

  constructor(from: AsyncIterable<Buffer>, stream: "stdout" | "stderr", log: CommandLog) {
    this.#end = this.#run(from, stream, log)
  }

  async #run(from: AsyncIterable<Buffer>, stream: "stdout" | "stderr", log: CommandLog): Promise<void> {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
    for await (const chunk of from) {
      this.#chunks += 1
      this.#writing = true
      await log.write(stream, decoder.decode(chunk, { stream: true }))
      this.#writing = false
    }
    await log.write(stream, decoder.decode())
    this.#ended = true
  }

  /** At the end of the pipe, or when nothing comes any more. */
  async drained(): Promise<void> {
    let seen = this.#chunks
    for (let quiet = 0; quiet < quietRounds && !this.#ended; quiet++) {
      await Promise.race([this.#end, delay(20)])
      if (this.#writing || this.#chunks !== seen) quiet = 0
      seen = this.#chunks
    }
  }
}

const exec = promisify(ChildProcess.execFile)

/**
 * Keeps modes, times, links, holes and FIFOs, which `fs.cp` does not. What is taken away while it is copied, by an upload that is
 * still on its way, is not in the copy.
 */
export const copyTree = async (from: string, to: string): Promise<void> => {
  try {
    await exec("env", ["LC_ALL=C", "cp", "-a", from, to])
  } catch (error) {
    const lines = (error instanceof Error && "stderr" in error ? String(error.stderr) : "").trim().split("\n")
    const vanished = lines.every((line) => line.includes(from) && line.endsWith(": No such file or directory"))
    // Only what is in it may have gone, not all of it.
    if (!vanished || !Fs.existsSync(to)) throw error
  }
}

export const sizeOf = async (path: string): Promise<number> => {
  const entries = await FsPromises.readdir(path, { recursive: true, withFileTypes: true })
  const sizes = entries.map(({ name, parentPath }) => FsPromises.lstat(Path.join(parentPath, name)))
  return (await Promise.all(sizes)).reduce((sum, { size }) => sum + size, 0)
}

const quietly = <A>(read: () => A): A | undefined => {
  try {
    return read()
  } catch {
    // A process that ended meanwhile has nothing to tell.
    return undefined
  }
}

interface Listed {
  readonly pid: number
  readonly parent: number
  readonly session: number
  /** In ticks since the boot. */
  readonly started: number
}

const listed = (pid: number): Listed | undefined =>
  quietly(() => {
    const stat = Fs.readFileSync(`/proc/${pid}/stat`, "latin1")
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    const [state, parent, , session] = fields
    if (state === "Z" || state === "X") return undefined
    return { pid, parent: Number(parent), session: Number(session), started: Number(fields[19]) }
  })

const mentions = (pid: number, root: string): boolean =>
  quietly(() => Fs.readlinkSync(`/proc/${pid}/cwd`))?.startsWith(root) === true ||
  ["environ", "cmdline"].some((file) =>
    quietly(() => Fs.readFileSync(`/proc/${pid}/${file}`, "latin1"))?.includes(root)
  ) ||
  (quietly(() => Fs.readdirSync(`/proc/${pid}/fd`)) ?? []).some(
    (fd) => quietly(() => Fs.readlinkSync(`/proc/${pid}/fd/${fd}`))?.startsWith(root) === true
  )

/**
 * The processes of a machine: those whose directory, environment, arguments or open files name its root, their sessions and
 * their descendants. A guest may run with an empty environment in a session of its own, so no single mark would do.
 */
export const processesOf = (root: string): ReadonlyArray<number> => {
  const all = Fs.readdirSync("/proc").flatMap((name) => {
    const found = /^\d+$/.test(name) && Number(name) !== process.pid ? listed(Number(name)) : undefined
    return found === undefined ? [] : [found]
  })
  const { session: own, started = 0 } = listed(process.pid) ?? {}
  // What is older than this process is no guest of its; of the many on a machine few are younger.
  const members = new Map(
    all.filter((found) => found.started >= started && mentions(found.pid, root)).map((found) => [found.pid, found])
  )
  for (let before = -1; before !== members.size;) {
    before = members.size
    const sessions = new Set([...members.values()].map(({ session }) => session).filter((session) => session !== own))
    for (const found of all) {
      if (members.has(found.parent) || sessions.has(found.session)) members.set(found.pid, found)
    }
  }
  return [...members.keys()]
}

/** Kills until none is left; a process that outlives SIGKILL for three seconds is a defect of the test machine. */
const killAll = async (root: string): Promise<void> => {
  for (let attempt = 0; attempt < 600; attempt++) {
    const found = processesOf(root)
    if (found.length === 0) return
    for (const pid of found) quietly(() => process.kill(pid, "SIGKILL"))
    await delay(5)
  }
  throw new Error(`processes survived: ${processesOf(root).join(", ")}`)
}
