/**
 * What the operating system tells about processes, and how they are ended: identity that survives the reuse of a pid, the
 * sandbox cookie, process groups with verified deaths, and atomic files.
 *
 * Imports `node:*` only, because the supervisor does too. Time here is native time, also under a `TestClock`: the kernel's
 * processes live in it, and a kill that waits for a virtual clock is no kill. Effect's own spawner does the same.
 */
// This file is where the host is asked; it runs in the supervisor too, which has no Clock and no Config.
// @effect-diagnostics processEnv:off globalDate:off
import { execFileSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Os from "node:os"
import * as Path from "node:path"
import { setTimeout as delay } from "node:timers/promises"

/** The variable that every process of a sandbox carries; see {@link formatCookie}. */
export const cookieName = "EFFECT_SANDBOX_COOKIE"

/** A process that cannot be mistaken for a later one with the same pid. */
export interface Identity {
  readonly pid: number
  readonly startTime: string
}

/**
 * Who a process belongs to. `root` tells apart data directories that hold the same sandbox id, `owner` is the service or the
 * supervisor that started it.
 */
export interface Cookie {
  readonly root: string
  readonly sandboxId: string
  readonly owner: Identity
  readonly lifetime: "scoped" | "recorded"
  readonly processId: string
}

const isLinux = process.platform === "linux"

const readText = (path: string): string | undefined => {
  try {
    return Fs.readFileSync(path, "latin1")
  } catch {
    // A process that is gone or foreign has nothing to read; both are "no answer" here.
    return undefined
  }
}

const run = (command: string, args: ReadonlyArray<string>): string | undefined => {
  try {
    return execFileSync(command, [...args], {
      encoding: "latin1",
      stdio: ["ignore", "pipe", "ignore"],
      maxBuffer: 1 << 28
    })
  } catch {
    return undefined
  }
}

let knownBootId: string | undefined

const readBootId = (): string => {
  if (!isLinux) return run("sysctl", ["-n", "kern.bootsessionuuid"])?.trim() ?? "unknown"
  const boot = readText("/proc/sys/kernel/random/boot_id")?.trim() ?? "unknown"
  try {
    // A container that is started anew is a new host: none of its processes outlives it, and their numbers begin again.
    return `${boot}/${Fs.readlinkSync("/proc/self/ns/pid")}`
  } catch {
    return boot
  }
}

/** Differs between two boots of this host. */
export const bootId = (): string => (knownBootId ??= readBootId())

interface Stat {
  readonly state: string
  readonly group: number
  readonly startTime: string
}

const parseStat = (text: string | undefined): Stat | undefined => {
  if (text === undefined) return undefined
  // The command's name is in parentheses and may hold anything, so the fields count from the last one.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
  const [state, , group] = fields
  const startTime = fields[19]
  return state === undefined || group === undefined || startTime === undefined
    ? undefined
    : { state, group: Number(group), startTime }
}

const statOf = (pid: number): Stat | undefined => {
  if (isLinux) return parseStat(readText(`/proc/${pid}/stat`))
  const line = run("ps", ["-o", "stat=,pgid=,lstart=", "-p", String(pid)])?.trim()
  const parts = line === undefined ? null : /^(\S+)\s+(\d+)\s+(.+)$/.exec(line)
  return parts === null ? undefined : { state: parts[1] ?? "", group: Number(parts[2]), startTime: parts[3] ?? "" }
}

const isDead = (state: string): boolean => state.startsWith("Z") || state.startsWith("X")

/** The host's own clock: what the supervisor, and so every absolute time on disk, goes by. */
export const wallClock = (): number => Date.now()

/** Variables of the host, those of these names that are set. */
export const hostVariables = (...names: ReadonlyArray<string>): Record<string, string> => {
  const env: Record<string, string> = {}
  for (const name of names) {
    // oxlint-disable-next-line node/no-process-env -- what is handed on is the host's environment, no setting of ours
    const value = process.env[name]
    if (value !== undefined) env[name] = value
  }
  return env
}

/** When the process with this pid started, in the system's own words; `undefined` when there is none. */
export const startTimeOf = (pid: number): string | undefined => statOf(pid)?.startTime.replaceAll(" ", "_")

let self: Identity | undefined

/** This process. */
export const identity = (): Identity =>
  (self ??= { pid: process.pid, startTime: startTimeOf(process.pid) ?? "unknown" })

/** True while that very process runs, not one that got its pid later. */
export const isRunning = (who: Identity): boolean => {
  const stat = statOf(who.pid)
  return stat !== undefined && !isDead(stat.state) && stat.startTime.replaceAll(" ", "_") === who.startTime
}

/** The text of a cookie, followed by those that this process was given. */
export const formatCookie = (cookie: Cookie): string => {
  const { lifetime, owner, processId, root, sandboxId } = cookie
  const own = `${root}:${sandboxId}:${owner.pid}.${owner.startTime}:${lifetime}:${processId}`
  // A sandbox inside a sandbox ends with the outer one.
  const outer = hostVariables(cookieName)[cookieName]
  return outer === undefined ? own : `${own},${outer}`
}

const cookiePattern = /^([^:]+):([^:]+):(\d+)\.(.*):(scoped|recorded):([^:]+)$/

const parseCookie = (text: string): Cookie | undefined => {
  const match = cookiePattern.exec(text)
  if (match === null) return undefined
  const [, root = "", sandboxId = "", pid, startTime = "", lifetime, processId = ""] = match
  return {
    root,
    sandboxId,
    owner: { pid: Number(pid), startTime },
    lifetime: lifetime === "scoped" ? "scoped" : "recorded",
    processId
  }
}

/** A process that carries a cookie. */
export interface Found {
  readonly pid: number
  readonly cookie: Cookie
}

const cookiesIn = (environment: string, separator: string): ReadonlyArray<string> =>
  environment
    .split(separator)
    .filter((entry) => entry.startsWith(`${cookieName}=`))
    .flatMap((entry) => entry.slice(cookieName.length + 1).split(","))

/**
 * The living processes whose cookie matches, wherever they moved to: `setsid` and a new group keep the environment. A
 * program that wipes its own environment is not found; only namespaces could do that.
 */
export const findByCookie = (matches: (cookie: Cookie) => boolean): ReadonlyArray<Found> => {
  const found: Array<Found> = []
  const add = (pid: number, cookies: ReadonlyArray<string>) => {
    for (const text of cookies) {
      const cookie = parseCookie(text)
      if (cookie !== undefined && pid !== process.pid && matches(cookie)) {
        found.push({ pid, cookie })
        return
      }
    }
  }
  if (isLinux) {
    for (const name of Fs.readdirSync("/proc")) {
      if (!/^\d+$/.test(name)) continue
      const environment = readText(`/proc/${name}/environ`)
      if (environment?.includes(cookieName) !== true) continue
      const stat = parseStat(readText(`/proc/${name}/stat`))
      if (stat !== undefined && !isDead(stat.state)) add(Number(name), cookiesIn(environment, "\0"))
    }
  } else {
    for (const line of (run("ps", ["-Eww", "-ax", "-o", "pid=,stat=,command="]) ?? "").split("\n")) {
      const match = /^\s*(\d+)\s+(\S+)\s+(.*)$/.exec(line)
      if (match !== null && !isDead(match[2] ?? "")) add(Number(match[1]), cookiesIn(match[3] ?? "", " "))
    }
  }
  return found
}

/** The code of a system error, such as `ENOENT`. */
export const errorCode = (error: unknown): unknown =>
  typeof error === "object" && error !== null && "code" in error ? error.code : undefined

/** Sends a signal to a pid, or with a negative one to a group; false when there is nobody. `0` only asks. */
export const send = (target: number, signal: NodeJS.Signals | 0): boolean => {
  try {
    process.kill(target, signal)
    return true
  } catch (error) {
    // EPERM on macOS: nothing but zombies is left; on Linux somebody of another user, who is not ours to signal.
    if (errorCode(error) === "ESRCH" || errorCode(error) === "EPERM") return false
    throw error
  }
}

/** True while the group has a member that is no zombie: where nobody reaps orphans, zombies keep a group for ever. */
export const isGroupAlive = (group: number): boolean => {
  if (!send(-group, 0)) return false
  if (!isLinux) return true
  const leader = statOf(group)
  if (leader !== undefined && leader.group === group && !isDead(leader.state)) return true
  return Fs.readdirSync("/proc").some((name) => {
    if (!/^\d+$/.test(name)) return false
    const stat = parseStat(readText(`/proc/${name}/stat`))
    return stat !== undefined && stat.group === group && !isDead(stat.state)
  })
}

/** How long a KILL may take until its target counts as a survivor. */
const killPatience = 5_000

/** Asks with growing pauses (native time, see above) until it is so or the time is over. */
export const until = async (done: () => boolean, millis: number): Promise<boolean> => {
  const end = performance.now() + millis
  let pause = 2
  for (;;) {
    if (done()) return true
    const left = end - performance.now()
    if (left <= 0) return false
    await delay(Math.min(pause, left))
    pause = Math.min(pause * 1.5, 50)
  }
}

/**
 * TERM (or what was sent already: `first` false), grace, KILL, and the proof: false when the group is still there after all
 * that.
 */
export const killGroup = async (group: number, graceMillis: number, first = true): Promise<boolean> => {
  if (!isGroupAlive(group)) return true
  if (first) send(-group, "SIGTERM")
  // A stopped process gets the TERM only when it goes on.
  send(-group, "SIGCONT")
  if (await until(() => !isGroupAlive(group), graceMillis)) return true
  send(-group, "SIGKILL")
  return until(() => !isGroupAlive(group), killPatience)
}

/**
 * Two looks in a row: while a process is between two programs (`exec`) its environment cannot be read, and it is missing from
 * what {@link findByCookie} finds.
 */
const twice = (holds: () => boolean): (() => boolean) => {
  let inARow = 0
  return () => {
    inARow = holds() ? inARow + 1 : 0
    return inARow > 1
  }
}

/** The same for all processes that a cookie identifies; yields the pids that are still there. */
export const killByCookie = async (
  matches: (cookie: Cookie) => boolean,
  graceMillis: number
): Promise<ReadonlyArray<number>> => {
  const asked = new Set<number>()
  let left: ReadonlyArray<Found> = []
  const areGone = (force: boolean) =>
    twice(() => {
      left = findByCookie(matches)
      for (const { pid } of left) {
        if (force) send(pid, "SIGKILL")
        else if (!asked.has(pid)) {
          asked.add(pid)
          send(pid, "SIGTERM")
          send(pid, "SIGCONT")
        }
      }
      return left.length === 0
    })
  if (!(await until(areGone(false), graceMillis))) await until(areGone(true), killPatience)
  return left.map(({ pid }) => pid)
}

/** A process that {@link freeze} stopped. */
export type Frozen = Identity

/**
 * Stops the processes that a cookie identifies until none of them runs; those that stood still already are not ours to
 * continue. `about` is told of each before it is stopped, so that a crash leaves a list.
 */
export const freeze = async (
  matches: (cookie: Cookie) => boolean,
  about: (more: ReadonlyArray<Frozen>) => Promise<void>
): Promise<void> => {
  const known = new Map<number, Frozen>()
  const end = performance.now() + killPatience
  // What does not stand still yet may still fork: only a look that finds everything standing counts.
  let standing = 0
  while (standing < 2) {
    if (performance.now() > end) throw new Error("the processes of the sandbox do not stand still")
    const moving = findByCookie(matches).flatMap(({ pid }) => {
      const stat = statOf(pid)
      return stat === undefined || isDead(stat.state) || stat.state.startsWith("T")
        ? []
        : [{ pid, startTime: stat.startTime.replaceAll(" ", "_") }]
    })
    const more = moving.filter(({ pid }) => !known.has(pid))
    for (const one of more) known.set(one.pid, one)
    if (more.length > 0) await about(more)
    for (const one of more) if (isRunning(one)) send(one.pid, "SIGSTOP")
    standing = moving.length === 0 ? standing + 1 : 0
    await delay(2)
  }
}

/** Lets them go on. */
export const thaw = (frozen: ReadonlyArray<Frozen>): void => {
  for (const one of frozen) if (isRunning(one)) send(one.pid, "SIGCONT")
}

/** The number of a signal, `undefined` for a name that this system does not know. */
export const signalNumber = (name: string): number | undefined =>
  Object.entries(Os.constants.signals).find(([known]) => known === name)?.[1]

/** A name such as `SIGTERM` or `TERM` as the system's type. */
export const toSignal = (name: string): NodeJS.Signals | undefined => {
  const full = name.startsWith("SIG") ? name : `SIG${name}`
  return Object.keys(Os.constants.signals).find((known): known is NodeJS.Signals => known === full)
}

const syncDirectory = async (path: string): Promise<void> => {
  const handle = await FsPromises.open(path, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Replaces a file so that a crash at any point leaves the old or the new one, whole. */
export const writeAtomic = async (path: string, content: string, mode = 0o600): Promise<void> => {
  const temporary = `${path}.${randomUUID()}.tmp`
  try {
    const handle = await FsPromises.open(temporary, "wx", mode)
    try {
      await handle.writeFile(content)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await FsPromises.rename(temporary, path)
  } catch (error) {
    await FsPromises.rm(temporary, { force: true })
    throw error
  }
  await syncDirectory(Path.dirname(path))
}
