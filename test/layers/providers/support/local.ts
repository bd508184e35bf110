/** Data directories for tests of the local provider, which prove that nothing was left behind. */
import { assert } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { findByCookie, isRunning } from "../../../../src/layers/providers/local/os.ts"
import { rootTag, supervisorPaths } from "../../../../src/layers/providers/local/wire.ts"

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

const processesOf = (root: string) => findByCookie((cookie) => cookie.root === rootTag(root))

/** A data directory that goes with the Scope; by then no process and no supervisor of it may be there. */
export const localRoot = Effect.acquireRelease(
  Effect.sync(() => Fs.realpathSync(Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-local-")))),
  (root) =>
    Effect.gen(function* () {
      yield* eventually("the supervisor rests", () => supervisorPid(root) === undefined)
      const left = processesOf(root).map(({ pid }) => pid)
      for (const pid of left) process.kill(pid, "SIGKILL")
      assert.deepStrictEqual(left, [], "processes were left behind")
      Fs.rmSync(root, { recursive: true, force: true })
    })
)
