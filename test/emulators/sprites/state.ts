/** What the emulated organization holds, the idle rules, and the machine of a sprite: real processes over a directory. */
import { DateTime } from "effect"
import * as Crypto from "node:crypto"
import * as FsPromises from "node:fs/promises"
import * as Http from "node:http"
import * as Path from "node:path"
import { setTimeout as delay } from "node:timers/promises"
// A guest may run with an empty environment in a session of its own, whatever the vendor: one way to find its processes.
import { copyTree, processesOf } from "../vercel/machine.ts"
import { durationOf, refuse } from "./http.ts"
import type { Session } from "./exec.ts"

export interface CheckpointState {
  readonly id: string
  readonly createdAt: number
  readonly comment: string | undefined
  readonly auto: boolean
  readonly directory: string
}

export interface World {
  readonly token: string
  readonly options: Required<Options>
  readonly sprites: Map<string, Sprite>
  readonly now: () => number
  readonly after: (millis: number, then: () => void) => () => void
  readonly directory: string
  nextNumber: number
}

export interface Options {
  /** How a name that is taken is refused: the documentation has both. */
  readonly duplicate?: 400 | 409
  /** Entries of lists have nothing but a name, as older documentation has it. */
  readonly bareLists?: boolean
  /** A creation ignores labels and url settings, as older servers did. */
  readonly plainCreate?: boolean
  /** What is killed some time after the connection of a command was lost: its process group, or all that came of it. */
  readonly reap?: "group" | "tree"
  /** So many requests find the machine not ready after a restore. */
  readonly unready?: number
  /** Of machines: where they find their programs. */
  readonly path?: string
  /** How long the machine stays warm before it is cold, in ms. */
  readonly coldAfter?: number
  /** Whether pings are answered. */
  readonly pongs?: boolean
  /** How long the connection of a command stays open behind its exit, in native ms. */
  readonly linger?: number
}

/** How long nothing must happen before a machine is suspended. */
const idle = 30_000

export const iso = (millis: number): string => DateTime.formatIso(DateTime.makeUnsafe(millis))

const signal = (pids: ReadonlyArray<number>, name: NodeJS.Signals): void => {
  for (const pid of pids) {
    try {
      process.kill(pid, name)
    } catch {
      // It ended meanwhile.
    }
  }
}

export class Sprite {
  readonly world: World
  readonly name: string
  readonly id = `sprite-${Crypto.randomUUID()}`
  readonly root: string
  readonly home: string
  readonly createdAt: number
  readonly checkpoints: Array<CheckpointState> = []
  readonly sessions = new Map<string, Session>()
  readonly services = new Map<string, Readonly<Record<string, unknown>>>()
  /** What holds it awake, with the time until when. */
  readonly tasks = new Map<string, number>()
  /** How often a task was set. */
  renewals = 0
  labels: ReadonlyArray<string> = []
  auth = "sprite"
  rules: ReadonlyArray<unknown> = []
  status: "cold" | "warm" | "running" = "cold"
  /** It runs and answers nothing but the list of its sessions. */
  wedged = false
  boots = 0
  unready = 0
  #nextCheckpoint = 0
  #busy = 0
  #cancelIdle: (() => void) | undefined
  #taskServer: Http.Server | undefined

  constructor(world: World, name: string) {
    this.world = world
    this.name = name
    this.createdAt = world.now()
    this.root = Path.join(world.directory, String(world.nextNumber++))
    this.home = Path.join(this.root, "home/sprite")
  }

  /** As the API tells it. */
  get told() {
    return {
      id: this.id,
      name: this.name,
      organization: "emulator",
      url: `https://${this.name}-emu1.sprites.app`,
      url_settings: { auth: this.auth },
      status: this.status,
      created_at: iso(this.createdAt),
      updated_at: iso(this.world.now()),
      labels: this.labels
    }
  }

  /** An empty disk, and the socket of the Tasks API. */
  async make(): Promise<void> {
    for (const part of ["home/sprite", "tmp", "var", ".sprite"]) {
      await FsPromises.mkdir(Path.join(this.root, part), { recursive: true })
    }
    const server = Http.createServer((request, response) => void this.#task(request, response))
    this.#taskServer = server
    await new Promise<void>((resolve) => server.listen(Path.join(this.root, ".sprite/api.sock"), resolve))
  }

  async #task(request: Http.IncomingMessage, response: Http.ServerResponse): Promise<void> {
    const chunks: Array<Buffer> = []
    for await (const chunk of request) chunks.push(chunk)
    const body: unknown = JSON.parse(Buffer.concat(chunks).toString() || "{}")
    const told = typeof body === "object" && body !== null && "name" in body ? String(body.name) : ""
    const name = decodeURIComponent((request.url ?? "").replace(/^\/v1\/tasks\/?/, "")) || told
    if (request.method === "PUT" && !this.tasks.has(name)) {
      // It renews; whether it makes one as well is not documented.
      response.writeHead(404).end()
      return
    }
    if (request.method === "DELETE") this.tasks.delete(name)
    else {
      const expire = typeof body === "object" && body !== null && "expire" in body ? String(body.expire) : "1h"
      const millis = Math.min(durationOf(expire), 3_600_000)
      this.tasks.set(name, this.world.now() + millis)
      this.renewals++
    }
    this.#rest()
    response.writeHead(204).end()
  }

  /** How many requests and connections hold it awake. */
  get busy(): number {
    return this.#busy
  }

  /** While `use` runs, nothing idles. Wakes what sleeps. */
  async held<A>(use: () => Promise<A>): Promise<A> {
    const release = this.hold()
    try {
      return await use()
    } finally {
      release()
    }
  }

  /** Activity that lasts: an attached command. */
  hold(): () => void {
    this.#busy++
    this.#cancelIdle?.()
    this.#cancelIdle = undefined
    this.wake()
    let held = true
    return () => {
      if (!held) return
      held = false
      this.#busy--
      this.#rest()
    }
  }

  wake(): void {
    if (this.status === "warm") signal(this.processes(), "SIGCONT")
    if (this.status === "cold") this.boots++
    this.status = "running"
  }

  /** Begins the time of idling, if nothing holds it awake. */
  #rest(): void {
    this.#cancelIdle?.()
    this.#cancelIdle = undefined
    if (this.#busy > 0 || this.status !== "running" || !this.world.sprites.has(this.name)) return
    const now = this.world.now()
    const until = Math.max(now, ...this.tasks.values())
    this.#cancelIdle = this.world.after(until - now + idle, () => this.#suspend())
  }

  #suspend(): void {
    this.tasks.clear()
    this.status = "warm"
    signal(this.processes(), "SIGSTOP")
    this.#cancelIdle = this.world.after(this.world.options.coldAfter, () => void this.cool())
  }

  /** The memory is dropped; the disk stays. */
  async cool(): Promise<void> {
    this.#cancelIdle?.()
    this.#cancelIdle = undefined
    this.status = "cold"
    this.tasks.clear()
    await this.kill()
  }

  processes(): ReadonlyArray<number> {
    return processesOf(this.root)
  }

  /** Every process, and every connection to one. */
  async kill(): Promise<void> {
    for (const session of this.sessions.values()) session.cut()
    for (let attempt = 0; attempt < 600; attempt++) {
      const found = this.processes()
      if (found.length === 0) return
      signal(found, "SIGKILL")
      await delay(5)
    }
    throw new Error(`processes survived: ${this.processes().join(", ")}`)
  }

  async end(): Promise<void> {
    this.world.sprites.delete(this.name)
    this.#cancelIdle?.()
    await this.kill()
    const server = this.#taskServer
    server?.closeAllConnections()
    if (server !== undefined) await new Promise((resolve) => server.close(resolve))
    await FsPromises.rm(this.root, { recursive: true, force: true, maxRetries: 3 })
    for (const { directory } of this.checkpoints) await FsPromises.rm(directory, { recursive: true, force: true })
  }

  async save(comment: string | undefined, auto = false): Promise<CheckpointState> {
    const id = auto ? `auto-${this.checkpoints.length}` : `v${this.#nextCheckpoint++}`
    const directory = Path.join(this.world.directory, `${Path.basename(this.root)}-${id}`)
    await FsPromises.mkdir(directory)
    await Promise.all(["home", "var"].map((part) => copyTree(Path.join(this.root, part), directory)))
    const checkpoint = { id, createdAt: this.world.now(), comment, auto, directory }
    this.checkpoints.push(checkpoint)
    return checkpoint
  }

  async restore({ directory }: CheckpointState): Promise<void> {
    await this.kill()
    for (const part of ["home", "var"]) {
      await FsPromises.rm(Path.join(this.root, part), { recursive: true, force: true, maxRetries: 3 })
      await copyTree(Path.join(directory, part), this.root)
    }
    this.unready = this.world.options.unready
    this.boots++
  }
}

export const spriteOf = (world: World, name: string | undefined): Sprite =>
  world.sprites.get(name ?? "") ?? refuse(404, "sprite not found")
