/** Data directories for tests of the local provider, which prove that nothing was left behind. */
import { assert } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import type * as Local from "../../../../src/layers/providers/Local.ts"
import type { OnStep } from "../../../../src/layers/providers/local/checkpoints.ts"
import { findByCookie, isRunning } from "../../../../src/layers/providers/local/os.ts"
import { make } from "../../../../src/layers/providers/local/provider.ts"
import { rootTag, supervisorPaths } from "../../../../src/layers/providers/local/wire.ts"
import type { SandboxId } from "../../../../src/model/Ids.ts"
import type { SandboxConfig } from "../../../../src/model/SandboxConfig.ts"
import type { MachineRef, SandboxProvider } from "../../../../src/services/SandboxProvider.ts"
import { newSandboxId, request } from "../../../../src/testing/internal/providers.ts"

/** The pid of the supervisor that runs in a data directory. */
export const supervisorPid = (root: string): number | undefined => {
  try {
    const info: unknown = JSON.parse(Fs.readFileSync(supervisorPaths(root).info, "utf8"))
    return typeof info === "object" &&
      info !== null &&
      "pid" in info &&
      typeof info.pid === "number" &&
      "startTime" in info &&
      typeof info.startTime === "string" &&
      isRunning({ pid: info.pid, startTime: info.startTime })
      ? info.pid
      : undefined
  } catch {
    return undefined
  }
}

const patience = Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(500)])

/** Waits until something holds; the last answer is the test's. */
export const eventually = (what: string, holds: () => boolean) =>
  Effect.sync(holds).pipe(
    Effect.repeat({ until: (is) => is, schedule: patience }),
    Effect.andThen(Effect.sync(() => assert.isTrue(holds(), what)))
  )

/** What is alive there. */
export const processesOf = (root: string) => findByCookie((cookie) => cookie.root === rootTag(root))

/** Of all programs of this host: also of a supervisor that has not come up yet. */
const commandLines = (): string => ChildProcess.execFileSync("ps", ["-axo", "args="]).toString()

/** A data directory that goes with the Scope; by then no process and no supervisor of it may be there. */
export const localRoot = Effect.acquireRelease(
  Effect.sync(() => Fs.realpathSync(Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-local-")))),
  (root) =>
    Effect.gen(function* () {
      yield* eventually("the supervisor rests", () => supervisorPid(root) === undefined)
      yield* eventually("no program is at work on it", () => !commandLines().includes(root))
      const left = processesOf(root).map(({ pid }) => pid)
      for (const pid of left) process.kill(pid, "SIGKILL")
      assert.deepStrictEqual(left, [], "processes were left behind")
      Fs.rmSync(root, { recursive: true, force: true })
    })
)

/** The options that most tests use: everything waits briefly. */
export const brief = { isolation: "none", killGrace: "300 millis", supervisorIdle: "200 millis" } as const

/** A provider over a data directory. */
export const provider = (root: string, options: Partial<Local.Options> = {}, onStep?: OnStep) =>
  make({ ...brief, root, ...options }, onStep)

/** A new machine; the test deletes it, or its data directory. */
export const create = Effect.fnUntraced(function* (
  local: SandboxProvider,
  config: SandboxConfig = {},
  sandboxId: SandboxId = newSandboxId()
) {
  const created = yield* request(local, config, "tests", { sandboxId })
  return { created, sandboxId, machine: yield* local.create(created) }
})

/** The directory of a sandbox. */
export const directoryOf = (root: string, sandboxId: SandboxId): string => Path.join(root, "sandboxes", sandboxId)

/** The fixture `localService.ts`; killed with the Scope. */
export const service = (root: string, ref: MachineRef, ...rest: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const script = fileURLToPath(new URL("../../../fixtures/localService.ts", import.meta.url))
      const sandboxId = ref.externalId.slice("local:".length)
      return ChildProcess.spawn(
        process.execPath,
        ["--disable-warning=ExperimentalWarning", script, root, sandboxId, ref.incarnation, ...rest],
        { stdio: ["ignore", "pipe", "inherit"] }
      )
    }),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.kill("SIGKILL")
      })
  )

type Service = Effect.Success<ReturnType<typeof service>>

/** Waits for its line `ready`. */
export const ready = (child: Service) =>
  Effect.callback<void>((resume) => {
    child.stdout.on("data", (bytes: Buffer) => {
      if (bytes.toString().includes("ready")) resume(Effect.void)
    })
    child.once("exit", (code) => resume(Effect.die(new Error(`the service ended early with ${code}`))))
  })

/** How it ended. */
export const ended = (child: Service) =>
  Effect.callback<{ readonly code: number | null; readonly signal: string | null }>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) {
      return resume(Effect.succeed({ code: child.exitCode, signal: child.signalCode }))
    }
    child.once("exit", (code, signal) => resume(Effect.succeed({ code, signal })))
  })

/** A data directory, a provider over it, and a machine. */
export const fresh = Effect.gen(function* () {
  const root = yield* localRoot
  const local = yield* provider(root)
  return { root, local, ...(yield* create(local)) }
})
