/** What the emulated account holds, and how the API tells it. */
import { Result, Schema } from "effect"
import * as Crypto from "node:crypto"
import { badRequest } from "./http.ts"
import type { KillScope, Machine, Running } from "./machine.ts"
import { type NetworkPolicy, policyAnswer, type Settings } from "./schemas.ts"

export type Status = "pending" | "running" | "stopping" | "stopped" | "failed" | "aborted" | "snapshotting"

export interface Credentials {
  readonly token: string
  readonly teamId: string
  readonly projectId: string
}

export interface CommandState {
  readonly id: string
  readonly name: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  /** As the request gave it, without the sandbox's. */
  readonly env: Readonly<Record<string, string>>
  readonly sudo: boolean
  readonly timeout: number | undefined
  readonly startedAt: number
  finishedAt: number | undefined
  readonly running: Running
}

export interface SessionState {
  readonly id: string
  readonly seq: number
  readonly sandbox: SandboxState
  readonly createdAt: number
  readonly sourceSnapshotId: string | undefined
  readonly vcpus: number
  readonly region: string
  readonly commands: Map<string, CommandState>
  status: Status
  timeout: number
  updatedAt: number
  requestedStopAt: number | undefined
  stoppedAt: number | undefined
  abortedAt: number | undefined
  snapshottedAt: number | undefined
  networkPolicy: NetworkPolicy
  /** There while it stops or is snapshotted. */
  transition: Promise<SnapshotState | undefined> | undefined
  /** Calls its timeout off. */
  timer: (() => void) | undefined
}

export interface SandboxState {
  readonly name: string
  readonly seq: number
  readonly machine: Machine
  readonly createdAt: number
  readonly sessions: Array<SessionState>
  /** The policy is here as it came, injected values included. */
  settings: Omit<Settings, "name" | "source">
  persistent: boolean
  vcpus: number
  timeout: number
  updatedAt: number
  statusUpdatedAt: number
  currentSnapshotId: string | undefined
  routes: ReadonlyArray<Route>
  resuming: Promise<boolean> | undefined
}

export interface Route {
  readonly url: string
  readonly subdomain: string
  readonly port: number
}

export interface SnapshotState {
  readonly id: string
  readonly seq: number
  readonly sourceSessionId: string
  readonly sandboxName: string
  readonly parentId: string | undefined
  readonly path: string
  readonly region: string
  readonly sizeBytes: number
  readonly createdAt: number
  /** 0 is for ever. */
  ttl: number
  lastUsedAt: number
  status: "created" | "deleted"
}

export interface World {
  readonly credentials: Credentials
  readonly sandboxes: Map<string, SandboxState>
  readonly sessions: Map<string, SessionState>
  readonly snapshots: Map<string, SnapshotState>
  readonly now: () => number
  /** Runs something later on the emulator's Clock; the answer calls it off. */
  readonly after: (millis: number, run: () => void) => () => void
  /** Numbers everything in the order of its creation. */
  readonly nextSeq: () => number
  readonly directory: string
  readonly path: string
  readonly killScope: KillScope
  readonly defaultTimeout: number
  readonly maxTimeout: number
  readonly pageSize: number
}

const random = (alphabet: string, length: number): string =>
  Array.from(Crypto.randomBytes(length), (byte) => alphabet.charAt(byte % alphabet.length)).join("")

const digits = "0123456789"
const lower = "abcdefghijklmnopqrstuvwxyz"
const base62 = digits + lower + lower.toUpperCase()

export const ids = {
  session: () => `sbx_${random(base62, 28)}`,
  command: () => `cmd_${random("0123456789abcdef", 28)}`,
  snapshot: () => `snap_${random(base62, 28)}`,
  subdomain: () => `sb-${random(digits + lower, 12)}`,
  /** The vendor's generated names are words; these are as good. */
  name: () => `sandbox-${random(digits + lower, 12)}`,
  /** All equally long: no directory's name is the beginning of another's. */
  directory: () => random(digits + lower, 12)
}

export const currentSession = (sandbox: SandboxState): SessionState => {
  const session = sandbox.sessions.at(-1)
  if (session === undefined) throw new Error(`${sandbox.name} was never booted`)
  return session
}

export const expiresAt = (snapshot: SnapshotState): number | undefined =>
  snapshot.ttl === 0 ? undefined : snapshot.lastUsedAt + snapshot.ttl

export const isUsable = (snapshot: SnapshotState, now: number): boolean =>
  snapshot.status === "created" && (expiresAt(snapshot) ?? Infinity) > now

export const routesOf = (ports: ReadonlyArray<number>, before: ReadonlyArray<Route> = []): ReadonlyArray<Route> =>
  ports.map((port) => {
    const kept = before.find((route) => route.port === port)
    if (kept !== undefined) return kept
    const subdomain = ids.subdomain()
    return { url: `https://${subdomain}.vercel.run`, subdomain, port }
  })

// What follows is the wire. `null` fails the SDK's validation, so what is absent is absent: JSON drops undefined.

export const sandboxAnswer = (sandbox: SandboxState) => {
  const session = currentSession(sandbox)
  const { networkPolicy, env: _env, ports: _ports, resources: _resources, ...settings } = sandbox.settings
  return {
    ...settings,
    name: sandbox.name,
    persistent: sandbox.persistent,
    region: sandbox.settings.region ?? "iad1",
    vcpus: sandbox.vcpus,
    memory: sandbox.vcpus * 2048,
    timeout: sandbox.timeout,
    networkPolicy: policyAnswer(networkPolicy ?? { mode: "allow-all" }),
    createdAt: sandbox.createdAt,
    updatedAt: sandbox.updatedAt,
    statusUpdatedAt: sandbox.statusUpdatedAt,
    currentSessionId: session.id,
    currentSnapshotId: sandbox.currentSnapshotId,
    status: session.status,
    cwd: sandbox.machine.cwd,
    expiresAt: session.status === "running" ? session.createdAt + session.timeout : undefined
  }
}

export const sessionAnswer = (session: SessionState) => {
  const ended = session.stoppedAt ?? session.abortedAt
  return {
    id: session.id,
    memory: session.vcpus * 2048,
    vcpus: session.vcpus,
    region: session.region,
    runtime: session.sandbox.settings.runtime,
    timeout: session.timeout,
    status: session.status,
    requestedAt: session.createdAt,
    startedAt: session.createdAt,
    createdAt: session.createdAt,
    updatedAt: session.updatedAt,
    requestedStopAt: session.requestedStopAt,
    stoppedAt: session.stoppedAt,
    abortedAt: session.abortedAt,
    snapshottedAt: session.snapshottedAt,
    sourceSnapshotId: session.sourceSnapshotId,
    cwd: session.sandbox.machine.cwd,
    networkPolicy: policyAnswer(session.networkPolicy),
    ...(ended === undefined
      ? {}
      : { duration: ended - session.createdAt, activeCpuDurationMs: 0, networkTransfer: { ingress: 0, egress: 0 } })
  }
}

export const commandAnswer = (session: SessionState, command: CommandState) => ({
  id: command.id,
  name: command.name,
  args: command.args,
  cwd: command.cwd,
  sessionId: session.id,
  exitCode: command.finishedAt === undefined ? null : command.running.exitCode(),
  startedAt: command.startedAt,
  durationMs: command.finishedAt === undefined ? undefined : command.finishedAt - command.startedAt
})

export const snapshotAnswer = (snapshot: SnapshotState) => ({
  id: snapshot.id,
  sourceSessionId: snapshot.sourceSessionId,
  region: snapshot.region,
  regions: [snapshot.region],
  status: snapshot.status,
  sizeBytes: snapshot.sizeBytes,
  expiresAt: expiresAt(snapshot),
  createdAt: snapshot.createdAt,
  updatedAt: snapshot.lastUsedAt,
  lastUsedAt: snapshot.lastUsedAt,
  parentId: snapshot.parentId
})

export const bootAnswer = (sandbox: SandboxState, resumed = false) => ({
  sandbox: sandboxAnswer(sandbox),
  session: sessionAnswer(currentSession(sandbox)),
  routes: sandbox.routes,
  resumed: resumed ? true : undefined
})

/**
 * One page of a list, newest first unless asked otherwise. The cursor is a position in the order and no item, so that deleting
 * while reading skips nothing.
 */
export const page = <A extends { readonly seq: number }>(
  items: ReadonlyArray<A>,
  by: (item: A) => number | string,
  query: URLSearchParams,
  pageSize: number
): {
  readonly items: ReadonlyArray<A>
  readonly pagination: { readonly count: number; readonly next: string | null }
} => {
  const limit = query.has("limit") ? Number(query.get("limit")) : pageSize
  if (!Number.isInteger(limit) || limit < 1 || limit > 100) badRequest("limit is a number from 1 to 100.")
  const order = query.get("sortOrder") ?? "desc"
  if (order !== "asc" && order !== "desc") badRequest("sortOrder is asc or desc.")
  const direction = order === "asc" ? 1 : -1
  type Position = readonly [value: number | string, seq: number]
  const position = (item: A): Position => [by(item), item.seq]
  const compare = (a: Position, b: Position) => direction * (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1])
  const cursor = query.get("cursor")
  const after = cursor === null ? undefined : decodePosition(cursor)
  const left = items
    .map((item) => ({ item, at: position(item) }))
    .filter(({ at }) => after === undefined || compare(at, after) > 0)
    .sort((a, b) => compare(a.at, b.at))
  const told = left.slice(0, limit)
  const last = told.at(-1)
  const next =
    last !== undefined && left.length > limit ? Buffer.from(JSON.stringify(last.at)).toString("base64url") : null
  return { items: told.map(({ item }) => item), pagination: { count: told.length, next } }
}

const Position = Schema.fromJsonString(Schema.Tuple([Schema.Union([Schema.Number, Schema.String]), Schema.Number]))

const decodePosition = (cursor: string) =>
  Result.getOrElse(Schema.decodeResult(Position)(Buffer.from(cursor, "base64url").toString()), () =>
    badRequest("The cursor is not known.")
  )
