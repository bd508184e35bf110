/** What can go wrong, where and when: plain data. */
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import type * as Option from "effect/Option"
import type { SandboxErrorReason } from "../../errors.ts"
import { RateLimited, Store, Unavailable } from "../../errors.ts"
import type { ProcessLog } from "../../services/ProcessLog.ts"
import type {
  Machine,
  MachineProcess,
  MachineRef,
  ProviderCheckpoints,
  SandboxProvider,
  StartCommand
} from "../../services/SandboxProvider.ts"
import type { SandboxStore } from "../../services/SandboxStore.ts"

/** Calls of a provider. `boot` is a `connect` that may boot; `delete` is a `stop` that takes the disk, the machine's own too. */
export const providerOperations = [
  "resolve",
  "create",
  "connect",
  "boot",
  "find",
  "list",
  "stop",
  "delete",
  "listCheckpoints",
  "restoreCheckpoint",
  "deleteCheckpoint"
] as const

/** Calls of a machine. `fileSystem` is each operation of its own file system, with the method's name as the first argument. */
export const machineOperations = [
  "start",
  "findProcess",
  "resume",
  "readFile",
  "writeFiles",
  "fileSystem",
  "createCheckpoint",
  "portUrl",
  "extendTimeout"
] as const

/** Calls of a process. */
export const processOperations = ["output", "exit", "stdin", "write", "closeInput", "signal", "release"] as const

/** Calls of a `SandboxStore`. */
export const storeOperations = [
  "namespace",
  "insertSandbox",
  "getSandbox",
  "listSandboxes",
  "updateSandbox",
  "deleteSandbox",
  "acquireSandboxLease",
  "renewSandboxLease",
  "releaseSandboxLease",
  "insertProcess",
  "getProcess",
  "listProcesses",
  "updateProcess",
  "deleteProcess",
  "acquireProcessLease",
  "renewProcessLease",
  "releaseProcessLease"
] as const satisfies ReadonlyArray<keyof SandboxStore["Service"]>

/** Calls of a `ProcessLog`. */
export const logOperations = ["append", "read", "lastPosition", "findKey"] as const satisfies ReadonlyArray<
  keyof ProcessLog["Service"]
>

export type ProviderOperation = (typeof providerOperations)[number]
export type MachineOperation = (typeof machineOperations)[number]
export type ProcessOperation = (typeof processOperations)[number]
export type StoreOperation = (typeof storeOperations)[number]
export type LogOperation = (typeof logOperations)[number]

/** The name of a call that a fault can be tied to. */
export type Operation = ProviderOperation | MachineOperation | ProcessOperation | StoreOperation | LogOperation

/** The operations that yield a stream. */
export type StreamOperation =
  | "find"
  | "list"
  | "listCheckpoints"
  | "readFile"
  | "output"
  | "listSandboxes"
  | "listProcesses"
  | "read"

/** The operations at a machine that is known by then. */
export type AtMachine = MachineOperation | ProcessOperation | "connect" | "boot" | "stop" | "delete"

type Unwrapped<F> = F extends Option.Option<infer A> ? A : F
type Args<F> = Unwrapped<Exclude<F, undefined>> extends (...args: infer A) => unknown ? Readonly<A> : readonly []

/** What an operation is called with. */
export type Arguments<O extends Operation> = O extends "stop" | "delete"
  ? readonly [ref: MachineRef]
  : O extends "fileSystem"
    ? readonly [method: string, ...args: ReadonlyArray<unknown>]
    : O extends "boot"
      ? Args<SandboxProvider["connect"]>
      : O extends "listCheckpoints"
        ? Args<ProviderCheckpoints["list"]>
        : O extends "restoreCheckpoint"
          ? Args<ProviderCheckpoints["restore"]>
          : O extends "deleteCheckpoint"
            ? Args<ProviderCheckpoints["remove"]>
            : O extends keyof SandboxProvider
              ? Args<SandboxProvider[O]>
              : O extends keyof Machine
                ? Args<Machine[O]>
                : O extends keyof MachineProcess
                  ? Args<MachineProcess[O]>
                  : O extends keyof SandboxStore["Service"]
                    ? Args<SandboxStore["Service"][O]>
                    : O extends keyof ProcessLog["Service"]
                      ? Args<ProcessLog["Service"][O]>
                      : never

/** One call, as a rule sees it. */
export interface Call<O extends Operation = Operation> {
  readonly operation: O
  /** The number of this call among those of its operation, from 1. */
  readonly count: number
  /** The registered name of the provider, or the kind of the store or log. */
  readonly target: string
  readonly sandboxId?: string
  readonly processId?: string
  /** Of a call of a process: how it was started, unless it was resumed. */
  readonly command?: StartCommand
  readonly args: Arguments<O>
}

/** A reason, or what makes a fresh one for each call. */
export type Reason = SandboxErrorReason | ((call: Call) => SandboxErrorReason)

/** A place in a stream: after so many bytes (of one of the two outputs, or of all), or before an item, from 1. */
export type Position =
  | { readonly byte: number; readonly stream?: "stdout" | "stderr" | "any" | undefined }
  | { readonly item: number }

/** What goes wrong; made by the functions of `Faults`. */
export type Fault = Data.TaggedEnum<{
  Fail: { readonly reason: Reason }
  LoseAnswer: { readonly reason: Reason }
  Vanish: {}
  Hang: {}
  Delay: { readonly by: Duration.Duration }
  Kill: { readonly when: "before" | "after" }
  At: { readonly position: Position; readonly fault: Anywhere }
  Duplicate: { readonly item: number }
  Split: { readonly bytes: number }
}>
export const Fault = Data.taggedEnum<Fault>()

type Tagged<T extends Fault["_tag"]> = Data.TaggedEnum.Value<Fault, T>

/** The faults that can also happen in the middle of a stream. */
export type Anywhere = Tagged<"Fail" | "Vanish" | "Hang" | "Delay" | "Kill">

/** The faults that an operation can have. */
export type FaultOf<O extends Operation> =
  | Tagged<"Fail" | "Hang" | "Delay" | "Kill">
  | (O extends AtMachine ? Tagged<"Vanish"> : never)
  | (O extends StreamOperation ? Tagged<"At"> : O extends "stdin" ? never : Tagged<"LoseAnswer">)
  | (O extends "output" | "readFile" ? Tagged<"Split"> : never)
  | (O extends "output" ? Tagged<"Duplicate"> : never)

/** When a rule applies; all given conditions must hold. */
export interface When<O extends Operation = Operation> {
  /** From this call on, counted from 1 over the calls that the rule matches, since it was added. The default is 1. */
  readonly call?: number | undefined
  /** So many times in a row; `Infinity` for every call. The default is 1. */
  readonly times?: number | undefined
  /** Only calls for which this holds, only they are counted. */
  readonly when?: ((call: Call<O>) => boolean) | undefined
}

/** One fault and the calls it belongs to; made by {@link on}. */
export interface Rule {
  readonly _tag: "Rule"
  readonly operations: ReadonlyArray<Operation>
  readonly fault: Fault
  readonly call: number
  readonly times: number
  readonly when: (call: Call) => boolean
}

/** How likely each fault is, from 0 to 1 a call; those that an operation cannot have do not happen to it. */
export interface Rates {
  readonly fail?: number | undefined
  readonly rateLimited?: number | undefined
  readonly loseAnswer?: number | undefined
  readonly vanish?: number | undefined
  readonly delay?: number | undefined
  readonly cut?: number | undefined
  readonly duplicate?: number | undefined
}

export interface SeededOptions {
  readonly seed: string | number
  readonly rates: Rates
  /** The default are all calls of providers and machines but `resolve`, and the `output` of processes. */
  readonly operations?: ReadonlyArray<Operation> | undefined
  /** A delay is shorter than this; the default is 1 second. */
  readonly maxDelay?: Duration.Input | undefined
  /** A cut comes before this byte; the default is 4096. */
  readonly maxByte?: number | undefined
}

/** Faults by chance, the same for the same seed; made by {@link seeded}. */
export interface Seeded {
  readonly _tag: "Seeded"
  readonly seed: string
  readonly rates: Rates
  readonly operations: ReadonlyArray<Operation>
  readonly maxDelay: Duration.Duration
  readonly maxByte: number
}

/** A script of faults. */
export type Plan = ReadonlyArray<Rule | Seeded>

/** Ties a fault to an operation, or to several that are counted together. */
export const on = <O extends Operation>(
  operation: O | ReadonlyArray<O>,
  fault: FaultOf<NoInfer<O>>,
  when: When<NoInfer<O>> = {}
): Rule => ({
  _tag: "Rule",
  operations: typeof operation === "string" ? [operation] : operation,
  fault,
  call: when.call ?? 1,
  times: when.times ?? 1,
  // A rule is only asked about calls of its own operations.
  when: (when.when ?? (() => true)) as (call: Call) => boolean
})

const withOutput: ReadonlyArray<Operation> = [...providerOperations, ...machineOperations, "output"]

/**
 * Faults by chance: what happens to the nth call of an operation depends on the seed, the operation and n alone, so that a run
 * repeats itself whatever comes in between.
 */
export const seeded = (options: SeededOptions): Seeded => ({
  _tag: "Seeded",
  seed: String(options.seed),
  rates: options.rates,
  operations: options.operations ?? withOutput.filter((operation) => operation !== "resolve"),
  maxDelay: Duration.fromInputUnsafe(options.maxDelay ?? Duration.seconds(1)),
  maxByte: options.maxByte ?? 4096
})

const isOf = (operations: ReadonlyArray<Operation>, operation: Operation) => operations.includes(operation)

/** A store or log is asked, not a vendor. */
export const isStored = (operation: Operation): boolean =>
  isOf(storeOperations, operation) || isOf(logOperations, operation)

/** True where a machine is known. */
export const isAtMachine = (operation: Operation): boolean =>
  isOf(machineOperations, operation) ||
  isOf(processOperations, operation) ||
  isOf(["connect", "boot", "stop", "delete"], operation)

/** True for the operations that yield a stream. */
export const isStream = (operation: Operation): boolean =>
  isOf(["find", "list", "listCheckpoints", "readFile", "output", "listSandboxes", "listProcesses", "read"], operation)

const transient =
  (accepted: "no" | "unknown"): Reason =>
  ({ operation }) =>
    isStored(operation)
      ? new Store({ kind: "Unavailable", detail: "injected" })
      : new Unavailable({ accepted, detail: "injected" })

/** The call fails and nothing has happened; the default reason is a transient one that says so. */
export const fail = (reason: Reason = transient("no")): Tagged<"Fail"> => Fault.Fail({ reason })

/** The call takes effect, and then fails; the default reason is a transient one that cannot know. A failure stays what it is. */
export const loseAnswer = (reason: Reason = transient("unknown")): Tagged<"LoseAnswer"> => Fault.LoseAnswer({ reason })

/** The vendor refuses the call for now. A burst is `on(operation, rateLimited(…), { times: 3 })`. */
export const rateLimited = (options: { readonly retryAfter?: Duration.Input | undefined } = {}): Tagged<"Fail"> =>
  Fault.Fail({
    reason: () =>
      new RateLimited({
        detail: "injected",
        ...(options.retryAfter === undefined ? {} : { retryAfter: Duration.fromInputUnsafe(options.retryAfter) })
      })
  })

/** The machine is deleted at the vendor right before the call, which then gets the vendor's own answer. */
export const vanish: Tagged<"Vanish"> = Fault.Vanish()

/**
 * The call never answers; it can be interrupted.
 *
 * **Gotchas**: it hangs above the provider's deadlines. For a request that hangs until its deadline, `fail` with a `Timeout`.
 */
export const hang: Tagged<"Hang"> = Fault.Hang()

/** The call, or what comes from there on, takes this much longer, by the Effect Clock. */
export const delay = (by: Duration.Input): Tagged<"Delay"> => Fault.Delay({ by: Duration.fromInputUnsafe(by) })

/** The service dies right before or right after the call takes effect. See `Faults` for what that means. */
export const kill = (when: "before" | "after"): Tagged<"Kill"> => Fault.Kill({ when })

/** The fault happens in the middle of a stream. `Kill` means the same with `before` and `after`. */
export const at = (position: Position, fault: Anywhere): Tagged<"At"> => Fault.At({ position, fault })

/**
 * The stream fails after exactly so many bytes, which splits the chunk that crosses them; an event of a log is not split but
 * held back. The default reason is a transient one that cannot know.
 */
export const cut = (options: {
  readonly atByte: number
  readonly stream?: "stdout" | "stderr" | "any" | undefined
  readonly reason?: Reason | undefined
}): Tagged<"At"> => at({ byte: options.atByte, stream: options.stream }, fail(options.reason ?? transient("unknown")))

/**
 * This chunk of an output, from 1, comes twice, with the same offset.
 *
 * **Gotchas**: no provider may do that, see `MachineProcess.output`. A log holds the chunk once all the same; a plain command, which
 * nothing is compared for, gives it twice.
 */
export const duplicate = (chunk: number): Tagged<"Duplicate"> => Fault.Duplicate({ item: chunk })

/** No chunk is larger than this. */
export const split = (bytes: number): Tagged<"Split"> => Fault.Split({ bytes })
