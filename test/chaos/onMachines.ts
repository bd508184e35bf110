/**
 * Real processes and files over SQLite, in real time: those of this machine, of which nothing may be left afterwards, or of an
 * emulated vendor.
 */
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { findByCookie } from "../../src/layers/providers/local/os.ts"
import { rootTag } from "../../src/layers/providers/local/wire.ts"
import type { SandboxError } from "../../src/errors.ts"
import * as Local from "../../src/layers/providers/Local.ts"
import * as Sql from "../../src/layers/stores/Sql.ts"
import type { SandboxId } from "../../src/model/Ids.ts"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import * as RecoveryPolicy from "../../src/services/RecoveryPolicy.ts"
import type { SandboxProvider } from "../../src/services/SandboxProvider.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import * as Daytona from "../layers/providers/daytona/support.ts"
import * as Sprites from "../layers/providers/sprites/support.ts"
import * as Vercel from "../layers/providers/vercel/support.ts"
import type { Options, Outcome } from "./chaos.ts"
import { Arena, planOfFaults, run } from "./chaos.ts"

const maxDelay = "30 millis"

/** Leaves its nonce in a file of the run's, says its lines, and rests in the middle. */
const script = `echo "$1" >>"$4"; i=0
while [ $i -lt $2 ]; do echo "$1 line $i"; i=$((i+1)); [ $((i * 2)) -ne $2 ] || sleep "$3"; done`

const soon = Schedule.exponential("5 millis", 1.5).pipe(
  Schedule.jittered,
  Schedule.upTo({ times: 20 }),
  RecoveryPolicy.respectRetryAfter
)
const brief = Layer.succeed(RecoveryPolicy.RecoveryPolicy, {
  connect: soon,
  ready: Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: 1500 })),
  recreate: soon,
  start: soon,
  store: soon
})

/** Where machines of their own kind come from; their processes are this host's. */
export type Kind = "local" | "vercel" | "daytona" | "sprites"

const providerOf = (kind: Kind, root: string): Effect.Effect<SandboxProvider, SandboxError, Scope.Scope> =>
  Effect.suspend(() => {
    switch (kind) {
      case "local":
        return Local.make({
          root: Path.join(root, "local"),
          isolation: "none",
          killGrace: "300 millis",
          supervisorIdle: "200 millis"
        })
      case "vercel":
        return Effect.map(Vercel.provider(), ({ provider }) => provider)
      case "daytona":
        return Effect.map(Daytona.provider(), ({ provider }) => provider)
      case "sprites":
        return Effect.map(Sprites.provider(), ({ provider }) => provider)
    }
  })

const world = (kind: Kind, root: string) =>
  Layer.effect(
    Testing.World,
    Effect.gen(function* () {
      const file = Path.join(root, "sandboxes.sqlite")
      const records = yield* Layer.build(Layer.fresh(Sql.layerSqlite({ file, namespace: "chaos" })))
      return Testing.World.of({
        provider: yield* providerOf(kind, root),
        store: Context.get(records, SandboxStore),
        log: Context.get(records, ProcessLog)
      })
    })
  ).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))

const arena = (root: string) =>
  Layer.effect(
    Arena,
    Effect.map(Testing.World, ({ provider }) => {
      const marks = Path.join(root, "marks")
      Fs.writeFileSync(marks, "")
      const stop = (mode: "stop" | "delete") => (id: SandboxId) =>
        Stream.runForEach(provider.find(id, "chaos"), ({ ref }) => provider.stop(ref, mode))
      return Arena.of({
        vanish: stop("delete"),
        halt: stop("stop"),
        machines: Effect.map(Stream.runCollect(provider.list("chaos")), (infos) =>
          infos.flatMap(({ ref, running, sandboxId }) =>
            sandboxId === undefined ? [] : [{ ...ref, running, sandboxId }]
          )
        ),
        readFile: (id, path) =>
          Effect.gen(function* () {
            const info = yield* Stream.runHead(provider.find(id, "chaos"))
            if (Option.isNone(info)) return undefined
            const machine = yield* provider.connect(info.value.ref, { sandboxId: id, boot: true })
            return yield* machine.readFile(path).pipe(
              Stream.decodeText,
              Stream.mkString,
              Effect.catchTag("PlatformError", () => Effect.undefined)
            )
          }),
        emit: (nonce, size, pause) => [
          "sh",
          ["-c", script, "sh", nonce, String(size), String((size * pause) / 1_000_000), marks]
        ],
        started: Effect.sync(() => {
          const started = new Map<string, number>()
          for (const nonce of Fs.readFileSync(marks, "utf8").split("\n")) {
            started.set(nonce, (started.get(nonce) ?? 0) + 1)
          }
          return started
        }),
        scaled: (virtual) => Duration.millis(Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(virtual)) / 100_000)),
        waitsForLeases: false,
        patience: Duration.minutes(2),
        maxDelay
      })
    })
  )

/** What this program has open. */
const open = () => ({
  descriptors: Fs.existsSync("/proc/self/fd") ? Fs.readdirSync("/proc/self/fd").length : 0,
  handles: process.getActiveResourcesInfo().filter((kind) => /Pipe|Process|TCP|FSEvent/.test(kind)).length,
  listeners: process.eventNames().reduce((all, name) => all + process.listenerCount(name), 0)
})

const alive = (root: string) => findByCookie((cookie) => cookie.root === rootTag(Path.join(root, "local")))

/** Everything below a directory, but what stays for the next service: the marker, the lock and the directories themselves. */
const filesBelow = (directory: string): ReadonlyArray<string> =>
  Fs.existsSync(directory)
    ? Fs.readdirSync(directory, { recursive: true, withFileTypes: true })
        .filter((entry) => !entry.isDirectory())
        .map((entry) => Path.join(entry.parentPath, entry.name))
    : []

/** One run of a seed, in real time. */
export const runOnMachines = (kind: Kind, options: Options): Effect.Effect<Outcome, unknown> =>
  Effect.gen(function* () {
    const temporary = yield* Effect.acquireRelease(
      Effect.sync(() => Fs.realpathSync(Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-chaos-")))),
      (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true, force: true }))
    )
    const inside = <A, E>(
      name: string,
      plan: Faults.Plan,
      effect: Effect.Effect<A, E, Arena | Testing.World | Faults.Faults | SandboxService | Scope.Scope>
    ) => {
      const root = Path.join(temporary, name)
      Fs.mkdirSync(root)
      return effect.pipe(
        Effect.scoped,
        Effect.provide(
          Testing.service().pipe(
            Layer.provideMerge(arena(root)),
            Layer.provideMerge(world(kind, root)),
            Layer.provideMerge(Faults.layer(plan)),
            Layer.provideMerge(brief)
          )
        )
      )
    }
    // What is opened once and stays is open before the counting starts.
    yield* inside(
      "warm-up",
      [],
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const { sandboxId } = yield* sandboxes.createSandbox()
        yield* sandboxes.runCommandWithProcessStream(sandboxId, "true")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )
    const before = open()
    const outcome = yield* inside("run", planOfFaults(String(options.seed), maxDelay), run(options))
    const violations = [...outcome.violations]
    const root = Path.join(temporary, "run")
    // The supervisor rests a moment after its last process.
    const rested = Effect.sync(() => {
      const now = open()
      return alive(root).length === 0 && now.descriptors <= before.descriptors && now.handles <= before.handles
    })
    yield* Effect.repeat(rested, {
      until: (is) => is,
      schedule: Schedule.max([Schedule.spaced("50 millis"), Schedule.recurs(200)])
    })
    for (const { pid } of alive(root)) {
      violations.push(`the process ${pid} is left`)
      process.kill(pid, "SIGKILL")
    }
    const after = open()
    for (const kind of ["descriptors", "handles", "listeners"] as const) {
      if (after[kind] > before[kind]) violations.push(`${after[kind] - before[kind]} ${kind} are left open`)
    }
    for (const directory of ["sandboxes", "scratch", "pipes", "checkpoints"]) {
      for (const file of filesBelow(Path.join(root, "local", directory))) violations.push(`${file} is left`)
    }
    return { ...outcome, violations }
  }).pipe(Effect.scoped)
