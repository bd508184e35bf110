/**
 * The options and the cloud as tests see it. What declares types for users is here, apart from what needs those of `just-bash`: they may
 * not be installed.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { NotFound, type SandboxError } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { RecoverySchedules } from "../../../services/RecoveryPolicy.ts"
import type { Call, CommandRecord, MachineView } from "./cloud.ts"
import { halt, State } from "./cloud.ts"
import type { Command } from "./command.ts"
import { failWith } from "./failures.ts"
import { workspaceRoot } from "./start.ts"
import type { Directory, Tree } from "./tree.ts"

/**
 * The vendor, which outlives every service: providers over one cloud see the same machines and the same recorded processes.
 * What happened is inspectable here, and what vendors do by themselves can be done.
 */
export class Cloud extends Context.Service<
  Cloud,
  {
    /** Every call that reached the vendor, in order. */
    readonly calls: ReadonlyArray<Call>
    /** Every command that was started, in order. */
    readonly commands: ReadonlyArray<CommandRecord>
    /** The machines that exist, running or not. */
    readonly machines: ReadonlyArray<MachineView>
    /** The regular files of the workspace, by path relative to it. */
    readonly files: (sandboxId: SandboxId) => Effect.Effect<Readonly<Record<string, Uint8Array>>, SandboxError>
    /** Deletes a machine behind the service's back. Its checkpoints stay. */
    readonly vanish: (sandboxId: SandboxId) => Effect.Effect<void, SandboxError>
    /** Stops a machine behind the service's back, as vendors do with idle ones. Its disk stays, persistent or not. */
    readonly halt: (sandboxId: SandboxId) => Effect.Effect<void, SandboxError>
    /** Forgets the calls and commands so far. */
    readonly forget: Effect.Effect<void>
    /** What only the provider looks into. */
    readonly [state]: State
  }
>()("effect-sandbox/layers/providers/Fake/Cloud") {}

/** Leads from a cloud to what the provider has in it. */
export const state = Symbol.for("effect-sandbox/layers/providers/Fake/State")

/** Options of {@link make}. */
export interface Options {
  /** The programs of the guest, by name. Everything else is what `just-bash` has. */
  readonly commands?: Readonly<Record<string, Command>> | undefined
  /** Where the machines are; a cloud of this provider's own when left out. */
  readonly cloud?: Cloud["Service"] | undefined
  /** The registered name; the default is `fake`. */
  readonly name?: string | undefined
  /** Schedules that override the layer's `RecoveryPolicy` for this provider. */
  readonly recovery?: Partial<RecoverySchedules> | undefined
  /** How long a boot takes; the default is no time at all. */
  readonly bootDelay?: Duration.Input | undefined
  /** Between TERM and KILL; 2 seconds. */
  readonly killGrace?: Duration.Input | undefined
  /** Whether a sandbox is persistent whose config does not say so; the default is true. */
  readonly persistent?: boolean | undefined
  /** Whether creating a checkpoint ends the processes; the default is false. */
  readonly stopsProcesses?: boolean | undefined
  /** The address of a port; the default is `http://fake.invalid:<port>`, at which nobody listens. */
  readonly portUrl?: ((port: number, sandboxId: SandboxId) => string) | undefined
}

const filesBelow = (tree: Tree, path: string): Readonly<Record<string, Uint8Array>> => {
  // Any name is one, `__proto__` too.
  const files = new Map<string, Uint8Array>()
  const visit = (directory: Directory, prefix: string) => {
    for (const [name, inode] of directory.entries) {
      if (inode.kind === "directory") visit(inode, `${prefix}${name}/`)
      else if (inode.kind === "file") files.set(prefix + name, inode.data.slice(0, inode.size))
    }
  }
  const root = tree.exists(path) ? tree.stat(path) : undefined
  if (root?.kind === "directory") visit(root, "")
  return Object.fromEntries(files)
}

/** A cloud without machines. */
export const makeCloud: Effect.Effect<Cloud["Service"]> = Effect.map(Clock.Clock, (clock) => {
  const own = new State()
  const machineOf = (operation: string, sandboxId: SandboxId) =>
    Effect.suspend(() => {
      const machine = own.bySandbox(sandboxId)
      return machine === undefined
        ? Effect.fail(failWith(operation, new NotFound({ kind: "machine", id: sandboxId }), sandboxId))
        : Effect.succeed(machine)
    })
  return Cloud.of({
    [state]: own,
    calls: own.calls,
    commands: own.commands,
    get machines() {
      const now = clock.currentTimeMillisUnsafe()
      return [...own.machines.values()].map((machine) => ({
        sandboxId: machine.sandboxId,
        externalId: machine.externalId,
        incarnation: machine.incarnation,
        namespace: machine.namespace,
        running:
          machine.running && machine.readyAt <= now && (machine.deadline === undefined || machine.deadline > now),
        persistent: machine.persistent,
        createdAt: machine.createdAt,
        ...(machine.deadline === undefined ? {} : { deadline: machine.deadline })
      }))
    },
    files: (sandboxId) => Effect.map(machineOf("files", sandboxId), ({ tree }) => filesBelow(tree, workspaceRoot)),
    vanish: (sandboxId) =>
      Effect.flatMap(machineOf("vanish", sandboxId), (machine) => {
        own.machines.delete(machine.externalId)
        return halt(machine, "stop")
      }),
    halt: (sandboxId) => Effect.flatMap(machineOf("halt", sandboxId), (machine) => halt(machine, "stop")),
    forget: Effect.sync(() => {
      own.calls.length = 0
      own.commands.length = 0
    })
  })
})
