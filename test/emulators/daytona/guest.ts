/**
 * What runs in a sandbox: real processes over a private directory, as the vendor's daemon starts them. `home` is the working directory,
 * `tmp` is on the disk too, `shm` does not outlive a boot. The directory is no jail: a command sees the host.
 */
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import { existsSync } from "node:fs"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import { copyTree, processesOf } from "../vercel/machine.ts"

export interface Executed {
  readonly exitCode: number
  readonly result: string
}

/** The daemon takes zsh or bash where there is one; they read no further ahead than a line. */
export const shell = existsSync("/bin/bash") ? "/bin/bash" : "sh"

/** A process of the newer API, and what it has written so far. */
export class Started {
  readonly id = Crypto.randomUUID()
  readonly pieces: Array<Buffer> = []
  exit: { readonly code: number | null; readonly signal: string | null } | undefined
  readonly #child: ChildProcess.ChildProcess
  readonly #changes = new Set<() => void>()

  constructor(child: ChildProcess.ChildProcess, timeout: number | undefined) {
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (bytes: Buffer) => {
        this.pieces.push(bytes)
        this.#tell()
      })
    }
    const timer = timeout === undefined ? undefined : setTimeout(() => this.kill("SIGKILL"), timeout)
    const ended = (code: number | null, signal: string | null) => {
      clearTimeout(timer)
      this.exit = { code, signal }
      this.#tell()
    }
    child.once("error", () => ended(null, null))
    child.once("close", ended)
  }

  #tell(): void {
    for (const change of this.#changes) change()
    this.#changes.clear()
  }

  changed(): Promise<void> {
    return new Promise((resolve) => this.#changes.add(resolve))
  }

  /** Its group. */
  kill(signal: NodeJS.Signals): void {
    if (this.#child.pid === undefined || this.exit !== undefined) return
    try {
      process.kill(-this.#child.pid, signal)
    } catch {
      // It has just ended.
    }
  }
}

/** 408: the group was killed, and its output is lost. */
export class TimedOut extends Error {}

export class Guest {
  readonly root: string
  readonly home: string
  /** Those of the newer API. */
  readonly started = new Map<string, Started>()
  readonly #path: string

  constructor(root: string, path: string) {
    this.root = root
    this.home = Path.join(root, "home")
    this.#path = path
  }

  /** The disk of a snapshot, or an empty one. */
  async make(from: string | undefined): Promise<void> {
    if (from !== undefined) await copyTree(from, this.root)
    for (const name of ["home", "tmp"]) await Fs.mkdir(Path.join(this.root, name), { recursive: true })
    await this.boot()
  }

  async boot(): Promise<void> {
    this.started.clear()
    await Fs.rm(Path.join(this.root, "shm"), { recursive: true, force: true })
    await Fs.mkdir(Path.join(this.root, "shm"))
  }

  /** The disk alone. */
  async save(to: string): Promise<void> {
    await copyTree(this.root, to)
    await Fs.rm(Path.join(to, "shm"), { recursive: true, force: true })
  }

  /** Every process, whatever it did to its session and environment. */
  async halt(): Promise<void> {
    for (let attempt = 0; attempt < 600; attempt++) {
      const found = processesOf(this.root)
      if (found.length === 0) return
      for (const pid of found) {
        try {
          process.kill(pid, "SIGKILL")
        } catch {
          // It ended by itself.
        }
      }
      await delay(5)
    }
    throw new Error(`processes survived: ${processesOf(this.root).join(", ")}`)
  }

  async wipe(): Promise<void> {
    await Fs.rm(this.root, { recursive: true, force: true, maxRetries: 3 })
  }

  resolve(path: string): string {
    return Path.resolve(this.home, path)
  }

  /** For what writes: only the sandbox's own directory, because the rest is the host's. */
  own(path: string): string {
    const resolved = this.resolve(path)
    if (!resolved.startsWith(`${this.root}/`)) throw new Error(`the emulator writes only below ${this.root}`)
    return resolved
  }

  #environment(own: Readonly<Record<string, string>>): Record<string, string> {
    return {
      HOME: this.home,
      LANG: "C.UTF-8",
      PATH: this.#path,
      TMPDIR: Path.join(this.root, "tmp"),
      USER: "daytona",
      ...own
    }
  }

  /** Starts a program of the newer API. */
  start(argv: ReadonlyArray<string>, env: Readonly<Record<string, string>>, timeout: number | undefined): Started {
    const child = ChildProcess.spawn(argv[0] ?? "", argv.slice(1), {
      cwd: this.home,
      env: this.#environment(env),
      detached: true,
      stdio: ["ignore", "pipe", "pipe"]
    })
    const started = new Started(child, timeout)
    this.started.set(started.id, started)
    return started
  }

  /**
   * As the daemon does it: the text goes to the standard input of a shell, both streams are one, bytes become text, and who holds the
   * output open holds the answer back.
   */
  execute(request: {
    readonly command: string
    readonly cwd?: string | undefined
    readonly env: Readonly<Record<string, string>>
    readonly timeout?: number | undefined
  }): Promise<Executed> {
    return new Promise((resolve, reject) => {
      const child = ChildProcess.spawn(shell, [], {
        cwd: this.resolve(request.cwd ?? ""),
        env: this.#environment(request.env),
        detached: true,
        stdio: ["pipe", "pipe", "pipe"]
      })
      const parts: Array<Buffer> = []
      for (const stream of [child.stdout, child.stderr]) stream.on("data", (bytes: Buffer) => void parts.push(bytes))
      // A shell that ends before it has read all of its text.
      child.stdin.on("error", () => {})
      let late = false
      const timer =
        request.timeout === undefined
          ? undefined
          : setTimeout(() => {
              late = true
              if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL")
            }, request.timeout * 1000)
      child.once("error", reject)
      child.once("close", (code) => {
        clearTimeout(timer)
        if (late) reject(new TimedOut())
        else resolve({ exitCode: code ?? -1, result: Buffer.concat(parts).toString() })
      })
      child.stdin.end(`${request.command}\n`)
    })
  }
}
