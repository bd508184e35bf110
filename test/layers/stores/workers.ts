/** Processes of their own that work on one store, and what they must leave behind. */
import { assert } from "@effect/vitest"
import { Cause, Effect, Queue, Stream } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { isOutput } from "../../../src/model/ProcessEvent.ts"
import type { ProcessRecord } from "../../../src/model/Process.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"

const fixture = fileURLToPath(new URL("../../fixtures/storeWorker.ts", import.meta.url))

export interface Worker {
  readonly child: ChildProcess
  /** The next line that it prints; fails with how it ended, and what it said on stderr, when there is none. */
  readonly line: Effect.Effect<string, Error>
  /** Everything that it printed on stderr. */
  readonly stderr: () => string
  /** It has ended, and everything that it printed is here. */
  readonly exit: Promise<unknown>
}

/** `node storeWorker.ts …`, killed with the scope. */
export const worker = (...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const lines = yield* Queue.unbounded<string, Error>()
      const child = spawn(process.execPath, [fixture, ...args], { stdio: ["ignore", "pipe", "pipe"] })
      let rest = ""
      let stderr = ""
      child.stdout.on("data", (data: Buffer) => {
        const parts = (rest + data.toString()).split("\n")
        rest = parts.pop() ?? ""
        for (const part of parts) Queue.offerUnsafe(lines, part)
      })
      child.stderr.on("data", (data: Buffer) => (stderr += data.toString()))
      child.once("close", (code, signal) => {
        const how = `the worker \`${args[0]}\` ended with ${code ?? signal}:\n${stderr}`
        Queue.failCauseUnsafe(lines, Cause.fail(new Error(how)))
      })
      return { child, line: Queue.take(lines), stderr: () => stderr, exit: once(child, "close") } satisfies Worker
    }),
    ({ child, exit }) =>
      Effect.promise(async () => {
        if (child.exitCode === null && child.signalCode === null) {
          child.kill("SIGKILL")
          await exit
        }
      })
  )

/** Waits for its end, which must be a good one. */
export const finished = (one: Worker) =>
  Effect.gen(function* () {
    yield* Effect.promise(() => one.exit)
    assert.strictEqual(one.child.exitCode, 0, one.stderr())
  })

/** The log has pairs of events without a gap, and the record counts as many pairs. */
export const verifyPairs = (process: ProcessRecord) =>
  Effect.gen(function* () {
    const log = yield* ProcessLog
    const record = yield* (yield* SandboxStore).getProcess(process.id)
    let seq = 0
    let offset = 0
    yield* Stream.runForEach(log.read(process.id), (event) =>
      Effect.sync(() => {
        assert.strictEqual(event.seq, ++seq)
        if (!isOutput(event)) return assert.fail("only output was written")
        assert.strictEqual(event.offset, offset)
        offset += event.bytes.length
      })
    )
    assert.strictEqual(seq % 2, 0, "both of a pair or none")
    assert.strictEqual(record.metadata?.["pairs"], seq / 2)
    assert.strictEqual(record.version, 1 + seq / 2)
    assert.deepStrictEqual(yield* log.lastPosition(process.id), { seq, stdout: offset, stderr: 0 })
    return seq
  })
