/**
 * Boots, stops, snapshots, resumes and deletes. A sandbox is a record with a name, a session one boot of its machine; its disk
 * comes back from the current snapshot, at the same path.
 */
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import { badRequest, notFound, refuse } from "./http.ts"
import { copyTree, Machine, sizeOf } from "./machine.ts"
import type { Settings } from "./schemas.ts"
import {
  currentSession,
  ids,
  isUsable,
  routesOf,
  type SandboxState,
  type SessionState,
  type SnapshotState,
  type Status,
  type World
} from "./state.ts"

/** Why a session ends. Only `crash` and `delete` lose what a persistent sandbox has not snapshotted. */
export type Ending = "stop" | "timeout" | "snapshot" | "crash" | "delete"

const thirtyDays = 30 * 86_400_000

export class Lifecycle {
  readonly #world: World
  readonly #held = new Map<Status, Promise<void>>()

  constructor(world: World) {
    this.#world = world
  }

  /** Sessions that come into this status stay there until the promise is settled. */
  hold(status: "stopping" | "snapshotting", until: Promise<void>): void {
    this.#held.set(status, until)
    void until.then(() => this.#held.get(status) === until && this.#held.delete(status))
  }

  checkTimeout(timeout: number): void {
    const { maxTimeout } = this.#world
    if (!Number.isInteger(timeout) || timeout < 1 || timeout > maxTimeout) {
      refuse(400, "sandbox_timeout_invalid", `The timeout must be an integer from 1 to ${maxTimeout} milliseconds.`)
    }
  }

  /** The snapshot, or why it cannot be booted: never known, or gone. */
  snapshot(id: string): SnapshotState {
    const snapshot = this.#world.snapshots.get(id)
    if (snapshot === undefined) return notFound("Snapshot")
    return isUsable(snapshot, this.#world.now())
      ? snapshot
      : refuse(410, "snapshot_not_found", "The snapshot expired or was deleted.")
  }

  async create(settings: Settings, from?: SandboxState): Promise<SandboxState> {
    const world = this.#world
    const { name = ids.name(), source, ...rest } = settings
    if (world.sandboxes.has(name)) badRequest(`A sandbox named ${name} already exists in this project.`)
    const timeout = rest.timeout ?? world.defaultTimeout
    this.checkTimeout(timeout)
    if (source !== undefined && source.type !== "snapshot") {
      refuse(400, "emulator_unsupported", `The emulator has no source of type ${source.type}.`)
    }
    const snapshotId = source?.type === "snapshot" ? source.snapshotId : from?.currentSnapshotId
    const snapshot = snapshotId === undefined ? undefined : this.snapshot(snapshotId)
    const root = Path.join(world.directory, ids.directory())
    const now = world.now()
    const sandbox: SandboxState = {
      name,
      seq: world.nextSeq(),
      machine: new Machine(root, world.path),
      createdAt: now,
      updatedAt: now,
      statusUpdatedAt: now,
      sessions: [],
      settings: rest,
      persistent: rest.persistent ?? true,
      vcpus: rest.resources?.vcpus ?? 2,
      timeout,
      currentSnapshotId: snapshotId,
      routes: routesOf(rest.ports ?? []),
      resuming: undefined
    }
    // The name is taken before the disk is ready, so that of two creators only one succeeds.
    world.sandboxes.set(name, sandbox)
    await this.#boot(sandbox, snapshot).catch((error: unknown) => {
      world.sandboxes.delete(name)
      throw error
    })
    return sandbox
  }

  async #boot(sandbox: SandboxState, from: SnapshotState | undefined): Promise<void> {
    const world = this.#world
    await sandbox.machine.boot(from?.path)
    const now = world.now()
    if (from !== undefined) from.lastUsedAt = now
    const session: SessionState = {
      id: ids.session(),
      seq: world.nextSeq(),
      sandbox,
      createdAt: now,
      updatedAt: now,
      sourceSnapshotId: from?.id,
      vcpus: sandbox.vcpus,
      region: sandbox.settings.region ?? "iad1",
      commands: new Map(),
      status: "running",
      timeout: sandbox.timeout,
      requestedStopAt: undefined,
      stoppedAt: undefined,
      abortedAt: undefined,
      snapshottedAt: undefined,
      networkPolicy: sandbox.settings.networkPolicy ?? { mode: "allow-all" },
      transition: undefined,
      timer: undefined
    }
    sandbox.sessions.push(session)
    sandbox.statusUpdatedAt = now
    world.sessions.set(session.id, session)
    this.schedule(session)
  }

  /** The lifetime runs on the emulator's Clock: from the session's start, whatever happens in it. */
  schedule(session: SessionState): void {
    session.timer?.()
    const remaining = Math.max(0, session.createdAt + session.timeout - this.#world.now())
    session.timer = this.#world.after(remaining, () => void this.end(session, "timeout"))
  }

  /** Ends a session; a second call while it ends waits for the first. */
  end(session: SessionState, why: Ending, expiration?: number): Promise<SnapshotState | undefined> {
    if (session.transition !== undefined) return session.transition
    if (session.status !== "running") return Promise.resolve(undefined)
    session.status = why === "snapshot" ? "snapshotting" : "stopping"
    session.requestedStopAt = this.#world.now()
    this.#touch(session)
    session.timer?.()
    const done = this.#end(session, why, expiration).finally(() => {
      session.transition = undefined
    })
    session.transition = done
    return done
  }

  async #end(session: SessionState, why: Ending, expiration?: number): Promise<SnapshotState | undefined> {
    const { sandbox } = session
    await sandbox.machine.halt({ code: "sandbox_stream_closed", message: "Sandbox is stopped" })
    await this.#held.get(session.status)
    const keeps = why === "snapshot" || (sandbox.persistent && why !== "crash" && why !== "delete")
    const snapshot = keeps ? await this.#takeSnapshot(session, expiration) : undefined
    await Promise.all([...session.commands.values()].map(({ running }) => running.exited))
    await sandbox.machine.forget()
    await sandbox.machine.wipe()
    const now = this.#world.now()
    if (why === "crash") {
      session.status = "aborted"
      session.abortedAt = now
    } else {
      session.status = "stopped"
      session.stoppedAt = now
    }
    this.#touch(session)
    return snapshot
  }

  #touch(session: SessionState): void {
    session.updatedAt = this.#world.now()
    session.sandbox.statusUpdatedAt = session.updatedAt
  }

  async #takeSnapshot(session: SessionState, expiration: number | undefined): Promise<SnapshotState> {
    const { sandbox } = session
    const { keepLastSnapshots: retention, snapshotExpiration } = sandbox.settings
    const id = ids.snapshot()
    const path = Path.join(this.#world.directory, "snapshots", id)
    await copyTree(sandbox.machine.root, path)
    const now = this.#world.now()
    const snapshot: SnapshotState = {
      id,
      seq: this.#world.nextSeq(),
      sourceSessionId: session.id,
      sandboxName: sandbox.name,
      parentId: session.sourceSnapshotId,
      path,
      region: session.region,
      sizeBytes: await sizeOf(path),
      createdAt: now,
      lastUsedAt: now,
      ttl: expiration ?? retention?.expiration ?? snapshotExpiration ?? thirtyDays,
      status: "created"
    }
    this.#world.snapshots.set(id, snapshot)
    session.snapshottedAt = now
    sandbox.currentSnapshotId = id
    if (retention !== undefined && retention.deleteEvicted !== false) {
      const own = [...this.#world.snapshots.values()].filter(
        ({ sandboxName, status }) => sandboxName === sandbox.name && status === "created"
      )
      for (const evicted of own.slice(0, -retention.count)) await this.deleteSnapshot(evicted)
    }
    return snapshot
  }

  async deleteSnapshot(snapshot: SnapshotState): Promise<void> {
    snapshot.status = "deleted"
    await FsPromises.rm(snapshot.path, { recursive: true, force: true })
  }

  /**
   * Boots a new session where none runs; true when it did. While the old one stops it waits for that (the vendor's own answer in
   * that moment is not known). Without any snapshot it is 400, with one that is gone 410, both `snapshot_not_found`.
   */
  async resume(sandbox: SandboxState): Promise<boolean> {
    const session = currentSession(sandbox)
    await session.transition
    if (currentSession(sandbox).status === "running") return false
    sandbox.resuming ??= this.#resume(sandbox).finally(() => {
      sandbox.resuming = undefined
    })
    return sandbox.resuming
  }

  async #resume(sandbox: SandboxState): Promise<boolean> {
    const id = sandbox.currentSnapshotId
    if (id === undefined) return refuse(400, "snapshot_not_found", "The sandbox has no snapshot to resume from.")
    await this.#boot(sandbox, this.snapshot(id))
    return true
  }

  /** The record and its sessions go; snapshots stay, unless they are to go and no other sandbox uses them. */
  async delete(sandbox: SandboxState, orphans: boolean): Promise<void> {
    const { sandboxes, sessions, snapshots } = this.#world
    const session = currentSession(sandbox)
    await session.transition
    await this.end(session, "delete")
    sandboxes.delete(sandbox.name)
    for (const { id } of sandbox.sessions) sessions.delete(id)
    if (!orphans) return
    const used = new Set([...sandboxes.values()].map(({ currentSnapshotId }) => currentSnapshotId))
    for (const snapshot of snapshots.values()) {
      if (snapshot.sandboxName === sandbox.name && !used.has(snapshot.id)) await this.deleteSnapshot(snapshot)
    }
  }
}
