/**
 * A provider whose machines are rows of a table that the test owns: made to fail, vanish and stop on command. It proves the
 * decisions of the service (who is asked, when, how often), never a vendor.
 */
import type { Redacted } from "effect"
import { Effect, Option, Sink, Stream } from "effect"
import type { SandboxErrorReason } from "../../src/errors.ts"
import { Gone, NotFound, NotRunning, SandboxError, Superseded } from "../../src/errors.ts"
import type { SandboxId } from "../../src/model/Ids.ts"
import type { ProcessExit } from "../../src/model/Process.ts"
import type { RecoverySchedules } from "../../src/services/RecoveryPolicy.ts"
import type {
  Machine,
  MachineProcess,
  MachineRef,
  ResolvedConfig,
  SandboxProvider
} from "../../src/services/SandboxProvider.ts"
import * as Provider from "../../src/services/SandboxProvider.ts"

interface Row {
  readonly sandboxId: SandboxId
  incarnation: string
  running: boolean
  readonly namespace: string
}

export interface Scripted {
  readonly provider: SandboxProvider
  /** Every call that reached the vendor, in order. */
  readonly calls: Array<string>
  readonly rows: Map<string, Row>
  /** What must go with every request to a port. */
  readonly portHeaders: Record<string, Redacted.Redacted<string>>
  /** The next calls of this operation fail with these reasons, one each. */
  readonly failNext: (operation: string, ...reasons: ReadonlyArray<SandboxErrorReason>) => void
  /** The next call of this operation takes effect and then fails with this reason. */
  readonly loseAnswer: (operation: string, reason: SandboxErrorReason) => void
  readonly vanish: () => void
  readonly halt: () => void
  readonly count: (operation: string) => number
}

export interface ScriptedOptions {
  readonly name?: string
  readonly persistent?: boolean
  readonly recovery?: Partial<RecoverySchedules>
  readonly named?: { readonly externalId: string; readonly reuse: boolean }
  readonly exit?: ProcessExit
  readonly output?: ReadonlyArray<string>
}

export const scripted = (options: ScriptedOptions = {}): Scripted => {
  const name = options.name ?? "scripted"
  const calls: Array<string> = []
  const rows = new Map<string, Row>()
  const portHeaders: Scripted["portHeaders"] = {}
  const failures = new Map<string, Array<SandboxErrorReason>>()
  const lost = new Map<string, SandboxErrorReason>()
  let boots = 0

  const fail = (operation: string, reason: SandboxErrorReason) =>
    Effect.fail(new SandboxError({ operation: `${name}.${operation}`, provider: name, reason }))

  const call = <A>(operation: string, effect: () => Effect.Effect<A, SandboxError>): Effect.Effect<A, SandboxError> =>
    Effect.suspend(() => {
      calls.push(operation)
      const failure = failures.get(operation)?.shift()
      if (failure !== undefined) return fail(operation, failure)
      const answer = lost.get(operation)
      lost.delete(operation)
      return answer === undefined ? effect() : Effect.andThen(effect(), fail(operation, answer))
    })

  const process = (ref: MachineRef, processId: MachineProcess["external"]["processId"]): MachineProcess => ({
    external: { processId, externalId: processId, incarnation: ref.incarnation },
    output: Stream.fromIterable(options.output ?? ["out"]).pipe(
      Stream.mapAccum(
        () => 0,
        (offset, text) => {
          const bytes = new TextEncoder().encode(text)
          return [offset + bytes.length, [{ stream: "stdout" as const, offset, bytes }]]
        }
      )
    ),
    exit: Effect.succeed(options.exit ?? { _tag: "Exited", code: 0 }),
    stdin: Sink.drain,
    write: () => Effect.void,
    closeInput: Effect.void,
    signal: () => Effect.void
  })

  const machine = (externalId: string, row: Row): Machine => {
    const ref = { externalId, incarnation: row.incarnation }
    const alive = Effect.suspend((): Effect.Effect<void, SandboxError> => {
      const current = rows.get(externalId)
      if (current === undefined) return fail("start", new Gone({ evidence: "no such row" }))
      if (current.incarnation !== ref.incarnation) {
        return fail("start", new Superseded({ incarnation: ref.incarnation }))
      }
      return current.running ? Effect.void : fail("start", new NotRunning({}))
    })
    return {
      ref,
      url: Option.none(),
      workspaceRoot: "/workspace",
      metadata: {},
      start: (command) =>
        Effect.andThen(
          alive,
          call("start", () => Effect.succeed(process(ref, command.processId)))
        ),
      findProcess: () => Effect.succeed(Option.none()),
      resume: (external) => fail("resume", new NotFound({ kind: "process", id: external.processId })),
      readFile: () => Stream.empty,
      writeFiles: () => Effect.succeed([]),
      fileSystem: {},
      createCheckpoint: Option.none(),
      portUrl: Option.some((port) => Effect.succeed({ port, url: `http://127.0.0.1:${port}`, headers: portHeaders })),
      extendTimeout: Option.none(),
      stop: () => Effect.void
    }
  }

  const provider = Provider.make({
    kind: "scripted",
    name,
    capabilities: {
      processes: { stdin: true, signalsObservable: true, recorded: false, additionalFds: false },
      files: {
        openSurvivesRename: false,
        atomicExclusiveCreate: false,
        watchEvents: false,
        inodes: false,
        subSecondTimes: false
      },
      ports: 10,
      checkpoints: false,
      extendTimeout: false,
      persistent: true
    },
    recovery: options.recovery,
    resolve: (config) => {
      const resolved: ResolvedConfig = {
        persistent: config.persistent ?? options.persistent ?? false,
        deleteOnStop: config.deleteOnStop ?? !(config.persistent ?? options.persistent ?? false),
        ports: config.ports ?? [],
        ...(options.named === undefined ? {} : { name: options.named })
      }
      return Effect.succeed(resolved)
    },
    create: (request) =>
      call("create", () =>
        Effect.sync(() => {
          const externalId = request.resolved.name?.externalId ?? `${name}:${request.sandboxId}`
          const row: Row = {
            sandboxId: request.sandboxId,
            incarnation: `boot-${++boots}`,
            running: true,
            namespace: request.namespace
          }
          rows.set(externalId, row)
          return machine(externalId, row)
        })
      ),
    connect: (ref, { boot }) =>
      call(boot ? "boot" : "connect", () =>
        Effect.suspend((): Effect.Effect<Machine, SandboxError> => {
          const row = rows.get(ref.externalId)
          if (row === undefined) return fail("connect", new Gone({ evidence: "no such row" }))
          if (!row.running) {
            if (!boot) return fail("connect", new NotRunning({}))
            row.running = true
            row.incarnation = `boot-${++boots}`
          }
          return Effect.succeed(machine(ref.externalId, row))
        })
      ),
    find: (id) =>
      Stream.unwrap(
        call("find", () =>
          Effect.succeed(
            Stream.fromIterable(
              [...rows]
                .filter(([, row]) => row.sandboxId === id)
                .map(([externalId, row]) => ({
                  ref: { externalId, incarnation: row.incarnation },
                  sandboxId: row.sandboxId,
                  running: row.running
                }))
            )
          )
        )
      ),
    list: () => Stream.empty,
    stop: (ref, mode) =>
      call(mode, () =>
        Effect.sync(() => {
          const row = rows.get(ref.externalId)
          if (row === undefined) return
          if (mode === "delete") rows.delete(ref.externalId)
          else row.running = false
        })
      ),
    checkpoints: Option.none()
  })

  return {
    provider,
    calls,
    rows,
    portHeaders,
    failNext: (operation, ...reasons) => {
      failures.set(operation, [...(failures.get(operation) ?? []), ...reasons])
    },
    loseAnswer: (operation, reason) => {
      lost.set(operation, reason)
    },
    vanish: () => rows.clear(),
    halt: () => {
      for (const row of rows.values()) row.running = false
    },
    count: (operation) => calls.filter((called) => called === operation).length
  }
}
