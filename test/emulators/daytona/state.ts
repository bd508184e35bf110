/** What the emulated organization holds, and how its states follow each other. */
import { DateTime } from "effect"
import * as Crypto from "node:crypto"
import * as Path from "node:path"
import { Guest } from "./guest.ts"

export type State =
  | "creating"
  | "starting"
  | "started"
  | "stopping"
  | "stopped"
  | "archiving"
  | "archived"
  | "restoring"
  | "snapshotting"
  | "destroying"
  | "destroyed"
  | "error"
  | "build_failed"

export interface SandboxState {
  readonly id: string
  readonly guest: Guest
  readonly createdAt: number
  /** As the creation gave it. */
  readonly request: Readonly<Record<string, unknown>>
  name: string
  labels: Record<string, string>
  env: Record<string, string>
  state: State
  errorReason: string | undefined
  recoverable: boolean
  autoStopInterval: number
  autoDeleteInterval: number
  autoDestroyAt: number | undefined
  lastActivityAt: number
  previewToken: string
  /** How often it was started. */
  boots: number
  idleTimer: (() => void) | undefined
  ttlTimer: (() => void) | undefined
}

export interface SnapshotState {
  readonly id: string
  readonly name: string
  readonly path: string
  readonly createdAt: number
  readonly sourceSandboxId: string
  state: "snapshotting" | "active" | "error"
  errorReason: string | null
}

export interface VolumeState {
  readonly id: string
  readonly name: string
  readonly createdAt: number
  state: "pending_create" | "creating" | "ready" | "pending_delete" | "deleted" | "error"
  errorReason: string | null
}

/** An answer in the API's error shape. */
export class Refusal extends Error {
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

/** A time as the API tells it. */
export const iso = (millis: number): string => DateTime.formatIso(DateTime.makeUnsafe(millis))

export const refuse = (status: number, message: string): never => {
  throw new Refusal(status, message)
}

export interface Options {
  readonly now: () => number
  /** Runs something later on the emulator's Clock; the answer calls it off. */
  readonly after: (millis: number, run: () => void) => () => void
  readonly directory: string
  readonly path: string
  /** How long a state lasts that is on the way to another. */
  readonly transition: number
  readonly toolboxUrl: () => string
  readonly tellsToolbox: boolean
}

const minute = 60_000

export class World {
  readonly sandboxes = new Map<string, SandboxState>()
  readonly snapshots = new Map<string, SnapshotState>()
  readonly volumes = new Map<string, VolumeState>()
  readonly #options: Options

  constructor(options: Options) {
    this.#options = options
  }

  get directory(): string {
    return this.#options.directory
  }

  toolboxUrl(): string {
    return this.#options.toolboxUrl()
  }

  now(): number {
    return this.#options.now()
  }

  find(idOrName: string): SandboxState {
    const found =
      this.sandboxes.get(idOrName) ??
      [...this.sandboxes.values()].find(({ name, state }) => name === idOrName && state !== "destroyed")
    if (found === undefined || found.state === "destroyed") {
      return refuse(404, `Sandbox with ID or name ${idOrName} not found`)
    }
    return found
  }

  /** Does something after the way to another state. What fails there would be a defect of the emulator. */
  later(then: () => void | Promise<void>): void {
    this.#options.after(this.#options.transition, () => void then())
  }

  create(
    request: Readonly<Record<string, unknown>>,
    becomes: "started" | "error" | "build_failed" | "hold",
    reason: string
  ) {
    const text = (key: string) => (typeof request[key] === "string" ? request[key] : undefined)
    const count = (key: string, fallback: number) => (typeof request[key] === "number" ? request[key] : fallback)
    const record = (key: string) => Object.fromEntries(Object.entries(request[key] ?? {}))
    const name = text("name") ?? Crypto.randomUUID()
    if ([...this.sandboxes.values()].some((other) => other.name === name && other.state !== "destroyed")) {
      return refuse(409, `Sandbox with name ${name} already exists`)
    }
    const from = text("snapshot")
    if (from !== undefined && (request["cpu"] !== undefined || request["buildInfo"] !== undefined)) {
      return refuse(400, "Cannot specify Sandbox resources when using a snapshot")
    }
    const snapshot = from === undefined ? undefined : this.snapshot(from)
    if (snapshot !== undefined && snapshot.state !== "active") return refuse(400, `Snapshot ${from} is not active`)
    for (const mount of Array.isArray(request["volumes"]) ? request["volumes"] : []) {
      if (this.volumes.get(String(mount.volumeId))?.state !== "ready") {
        return refuse(400, `Volume ${mount.volumeId} is not in a ready state`)
      }
    }
    const id = Crypto.randomUUID()
    const ttl = count("ttlMinutes", 0)
    const sandbox: SandboxState = {
      id,
      name,
      request,
      guest: new Guest(Path.join(this.directory, Crypto.randomBytes(6).toString("hex")), this.#options.path),
      createdAt: this.now(),
      labels: record("labels"),
      env: record("env"),
      state: "creating",
      errorReason: undefined,
      recoverable: false,
      autoStopInterval: count("autoStopInterval", 15),
      autoDeleteInterval: count("autoDeleteInterval", -1),
      autoDestroyAt: undefined,
      lastActivityAt: this.now(),
      previewToken: "",
      boots: 0,
      idleTimer: undefined,
      ttlTimer: undefined
    }
    this.sandboxes.set(id, sandbox)
    if (ttl > 0) this.setTtl(sandbox, ttl)
    if (becomes === "hold") return sandbox
    this.later(async () => {
      if (becomes !== "started") {
        sandbox.errorReason = reason
        sandbox.state = becomes
        return
      }
      await sandbox.guest.make(snapshot?.path)
      this.#started(sandbox)
    })
    return sandbox
  }

  #started(sandbox: SandboxState): void {
    sandbox.boots += 1
    sandbox.previewToken = Crypto.randomBytes(12).toString("hex")
    sandbox.state = "started"
    this.touch(sandbox)
  }

  /** Activity: what the vendor counts as such, which what runs inside is not. */
  touch(sandbox: SandboxState): void {
    sandbox.lastActivityAt = this.now()
    sandbox.idleTimer?.()
    sandbox.idleTimer = undefined
    if (sandbox.autoStopInterval > 0 && sandbox.state === "started") {
      sandbox.idleTimer = this.#options.after(sandbox.autoStopInterval * minute, () => {
        if (sandbox.state === "started") this.#end(sandbox)
      })
    }
  }

  setTtl(sandbox: SandboxState, minutes: number): void {
    sandbox.ttlTimer?.()
    sandbox.ttlTimer = undefined
    sandbox.autoDestroyAt = minutes === 0 ? undefined : this.now() + minutes * minute
    if (minutes > 0) sandbox.ttlTimer = this.#options.after(minutes * minute, () => this.#destroy(sandbox))
  }

  #settled(sandbox: SandboxState): void {
    if (!["started", "stopped", "archived", "error", "build_failed"].includes(sandbox.state)) {
      refuse(409, "Sandbox state change in progress")
    }
  }

  start(sandbox: SandboxState): void {
    if (sandbox.state === "started") return
    this.#settled(sandbox)
    if (sandbox.state === "error" || sandbox.state === "build_failed") refuse(400, "Sandbox is in an errored state")
    sandbox.state = sandbox.state === "archived" ? "restoring" : "starting"
    this.later(async () => {
      await sandbox.guest.boot()
      this.#started(sandbox)
    })
  }

  recover(sandbox: SandboxState): void {
    if (sandbox.state !== "error" || !sandbox.recoverable) refuse(400, "Sandbox is not recoverable")
    sandbox.state = "stopped"
    this.start(sandbox)
  }

  stop(sandbox: SandboxState): void {
    this.#settled(sandbox)
    if (sandbox.state !== "started") refuse(400, "Sandbox is not started")
    this.#end(sandbox)
  }

  #end(sandbox: SandboxState): void {
    sandbox.idleTimer?.()
    if (sandbox.autoDeleteInterval === 0) return this.#destroy(sandbox)
    sandbox.state = "stopping"
    this.later(async () => {
      await sandbox.guest.halt()
      sandbox.state = "stopped"
    })
  }

  archive(sandbox: SandboxState): void {
    this.#settled(sandbox)
    if (sandbox.state !== "stopped") refuse(400, "Sandbox is not stopped")
    sandbox.state = "archiving"
    this.later(() => {
      sandbox.state = "archived"
    })
  }

  delete(sandbox: SandboxState): void {
    if (sandbox.state === "destroying") refuse(409, "Sandbox state change in progress")
    this.#destroy(sandbox)
  }

  #destroy(sandbox: SandboxState): void {
    sandbox.idleTimer?.()
    sandbox.ttlTimer?.()
    sandbox.state = "destroying"
    // The vendor renames it, so that its name is free at once.
    sandbox.name = `DESTROYED_${sandbox.name}_${this.now()}`
    this.later(async () => {
      await sandbox.guest.halt()
      await sandbox.guest.wipe()
      sandbox.state = "destroyed"
    })
  }

  snapshot(idOrName: string): SnapshotState {
    const found = this.snapshots.get(idOrName) ?? [...this.snapshots.values()].find(({ name }) => name === idOrName)
    return found ?? refuse(404, `Snapshot ${idOrName} not found`)
  }

  /** The old state comes back whether it worked or not, and only the snapshot's own state tells. */
  takeSnapshot(sandbox: SandboxState, name: string, failure: string | undefined): void {
    if (sandbox.state !== "started" && sandbox.state !== "stopped") {
      this.#settled(sandbox)
      refuse(400, "Sandbox must be started or stopped")
    }
    if ([...this.snapshots.values()].some((other) => other.name === name)) refuse(409, `Snapshot ${name} exists`)
    const before = sandbox.state
    const snapshot: SnapshotState = {
      id: Crypto.randomUUID(),
      name,
      path: Path.join(this.directory, `snapshot-${Crypto.randomBytes(6).toString("hex")}`),
      createdAt: Math.max(this.now(), ...[...this.snapshots.values()].map(({ createdAt }) => createdAt + 1)),
      sourceSandboxId: sandbox.id,
      state: "snapshotting",
      errorReason: null
    }
    this.snapshots.set(snapshot.id, snapshot)
    sandbox.state = "snapshotting"
    this.later(async () => {
      if (failure === undefined) await sandbox.guest.save(snapshot.path)
      sandbox.state = before
      this.later(() => {
        snapshot.errorReason = failure ?? null
        snapshot.state = failure === undefined ? "active" : "error"
      })
    })
  }

  volume(name: string): VolumeState {
    const found = [...this.volumes.values()].find((volume) => volume.name === name && volume.state !== "deleted")
    return found ?? refuse(404, `Volume with name ${name} not found`)
  }

  createVolume(name: string, becomes: "ready" | "error" | "hold", reason: string): VolumeState {
    if ([...this.volumes.values()].some((volume) => volume.name === name && volume.state !== "deleted")) {
      return refuse(400, `Volume with name ${name} already exists`)
    }
    const volume: VolumeState = {
      id: Crypto.randomUUID(),
      name,
      createdAt: this.now(),
      state: "pending_create",
      errorReason: null
    }
    this.volumes.set(volume.id, volume)
    if (becomes !== "hold") {
      this.later(() => {
        volume.errorReason = becomes === "error" ? reason : null
        volume.state = becomes
      })
    }
    return volume
  }

  dto(sandbox: SandboxState, full = true) {
    const { request } = sandbox
    return {
      id: sandbox.id,
      organizationId: "org-emulator",
      name: sandbox.name,
      user: "daytona",
      labels: sandbox.labels,
      public: request["public"] === true,
      networkBlockAll: false,
      target: request["target"] ?? "us",
      cpu: request["cpu"] ?? 1,
      gpu: 0,
      memory: 1,
      disk: 3,
      state: sandbox.state,
      desiredState: sandbox.state,
      errorReason: sandbox.errorReason,
      recoverable: sandbox.recoverable,
      autoStopInterval: sandbox.autoStopInterval,
      autoDeleteInterval: sandbox.autoDeleteInterval,
      ...(sandbox.autoDestroyAt === undefined ? {} : { autoDestroyAt: iso(sandbox.autoDestroyAt) }),
      createdAt: iso(sandbox.createdAt),
      ...(this.#options.tellsToolbox ? { toolboxProxyUrl: this.toolboxUrl() } : {}),
      ...(full ? { env: sandbox.env, volumes: request["volumes"] ?? [], buildInfo: request["buildInfo"] } : {})
    }
  }
}
