/** The vendor: everything that outlives a service, and what a test may look at and do behind the service's back. */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { Checkpoint } from "../../../model/Checkpoint.ts"
import type { ProcessId, SandboxId } from "../../../model/Ids.ts"
import type { EndReason, ProcessExit } from "../../../model/Process.ts"
import type { Process } from "./process.ts"
import type { Tree } from "./tree.ts"

/** A call that reached the vendor. */
export interface Call {
  readonly operation: string
  readonly sandboxId?: SandboxId
  /** ms since the epoch, by the Clock of the caller. */
  readonly at: number
}

/** A command that was started, by the service or by a script. Redacted values are `<redacted>` wherever they would be. */
export interface CommandRecord {
  readonly sandboxId: SandboxId
  readonly processId: ProcessId
  readonly pid: number
  readonly lifetime: "scoped" | "recorded"
  /** Whether it was called from inside of a script of that process. */
  readonly nested: boolean
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  /** What it has read of its input, the first megabyte. */
  readonly stdin: Uint8Array
  readonly startedAt: number
  readonly endedAt?: number
  readonly exit?: ProcessExit
}

/** A machine as the vendor shows it. */
export interface MachineView {
  readonly sandboxId: SandboxId
  readonly externalId: string
  readonly incarnation: string
  readonly namespace: string
  readonly running: boolean
  readonly persistent: boolean
  readonly createdAt: number
  /** When its lease ends. */
  readonly deadline?: number
}

/** A machine, with everything on it. */
export interface MachineState {
  readonly externalId: string
  readonly sandboxId: SandboxId
  readonly namespace: string
  readonly createdAt: number
  readonly persistent: boolean
  readonly ports: ReadonlyArray<number>
  readonly timeout: number | undefined
  tree: Tree
  env: Readonly<Record<string, string>>
  /** Values that no record may show. */
  secrets: ReadonlySet<string>
  incarnation: string
  running: boolean
  /** Until then it boots. */
  readyAt: number
  deadline: number | undefined
  lease: Fiber.Fiber<void> | undefined
  /** What was put into `/usr/bin`. */
  readonly programs: Set<string>
  readonly processes: Map<ProcessId, Process>
  readonly byPid: Map<number, Process>
  pids: number
}

/** A checkpoint with what it holds. */
export interface Saved {
  readonly checkpoint: Checkpoint
  readonly tree: Tree
}

/** How much of an input a record keeps. */
const recordedInput = 1024 * 1024

/** All that the provider's parts share. */
export class State {
  readonly machines = new Map<string, MachineState>()
  readonly checkpoints: Array<Saved> = []
  readonly calls: Array<Call> = []
  readonly commands: Array<CommandRecord> = []
  private boots = 0
  private saves = 0

  nextIncarnation(): string {
    return `boot-${++this.boots}`
  }

  nextCheckpoint(): string {
    return `checkpoint-${++this.saves}`
  }

  bySandbox(sandboxId: SandboxId): MachineState | undefined {
    return [...this.machines.values()].find((machine) => machine.sandboxId === sandboxId)
  }

  call(operation: string, sandboxId?: SandboxId): Effect.Effect<void> {
    return Effect.map(
      Clock.currentTimeMillis,
      (at) => void this.calls.push({ operation, at, ...(sandboxId === undefined ? {} : { sandboxId }) })
    )
  }

  /** Adds a record and yields what changes it. */
  record(command: Omit<CommandRecord, "stdin">): {
    readonly read: (bytes: Uint8Array) => void
    readonly ended: (at: number, exit: ProcessExit) => void
  } {
    let current: CommandRecord = { ...command, stdin: new Uint8Array(0) }
    this.commands.push(current)
    const patch = (fields: Partial<CommandRecord>) => {
      // Not by its place, which is another's once somebody has forgotten the commands so far.
      const index = this.commands.indexOf(current)
      current = { ...current, ...fields }
      if (index >= 0) this.commands[index] = current
    }
    return {
      read: (bytes) => {
        const before = current.stdin
        if (before.length >= recordedInput) return
        const part = bytes.subarray(0, recordedInput - before.length)
        const stdin = new Uint8Array(before.length + part.length)
        stdin.set(before)
        stdin.set(part, before.length)
        patch({ stdin })
      },
      ended: (endedAt, exit) => patch({ endedAt, exit })
    }
  }
}

/** Ends every process of a machine at once. */
export const endAll = (machine: MachineState, reason: EndReason): Effect.Effect<void> =>
  Effect.forEach([...machine.byPid.values()], (process) => process.kill("SIGKILL", reason), { discard: true })

/** Ends a machine, which keeps its disk. */
export const halt = (machine: MachineState, reason: EndReason): Effect.Effect<void> =>
  Effect.suspend(() => {
    machine.running = false
    machine.deadline = undefined
    const { lease } = machine
    machine.lease = undefined
    // The lease ends itself when it is what halts the machine.
    if (reason !== "timeout") lease?.interruptUnsafe()
    return endAll(machine, reason)
  })

/** Makes a machine end at its deadline, by the Clock of whoever made or extended it. */
export const keepLease = (state: State, machine: MachineState): Effect.Effect<void> =>
  Effect.gen(function* () {
    machine.lease?.interruptUnsafe()
    machine.lease = undefined
    const { deadline, incarnation } = machine
    if (deadline === undefined) return
    const ready = yield* Deferred.make<void>()
    machine.lease = yield* Effect.forkDetach(
      Effect.gen(function* () {
        yield* Deferred.succeed(ready, undefined)
        yield* Effect.sleep(Math.max(0, deadline - (yield* Clock.currentTimeMillis)))
        if (machine.incarnation !== incarnation || machine.deadline !== deadline) return
        yield* expire(state, machine)
      }),
      { startImmediately: true }
    )
    yield* Deferred.await(ready)
  })

/** What happens when a lease has ended. */
export const expire = (state: State, machine: MachineState): Effect.Effect<void> =>
  Effect.suspend(() => {
    if (!machine.persistent) state.machines.delete(machine.externalId)
    return halt(machine, "timeout")
  })
