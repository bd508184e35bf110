/** What a machine of Vercel's does besides running processes: the lease, files, ports. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Option, type Scope, Stream } from "effect"
import type { SandboxConfig } from "../../../../src/model/SandboxConfig.ts"
import { newProcessId, newSandboxId } from "../../../../src/testing/internal/stores.ts"
import * as Fault from "../../../emulators/vercel/faults.ts"
import { provider } from "./support.ts"

const world = Effect.fnUntraced(function* (config: SandboxConfig = {}) {
  const made = yield* provider()
  const sandboxId = newSandboxId()
  const named = { ...config, vercel: { name: "box", timeout: Duration.minutes(10), ...config.vercel } }
  const resolved = yield* made.provider.resolve(named)
  const request = { sandboxId, version: 1, namespace: "tests", config: named, resolved }
  const machine = yield* made.provider.create(request)
  made.emulator.requests.reset()
  return { vendor: made.emulator, provider: made.provider, machine, sandboxId }
})

const live = (name: string, body: () => Effect.Effect<void, unknown, Scope.Scope>) =>
  it.live(name, () => Effect.scoped(body()), 60_000)

const extend = (machine: Effect.Success<ReturnType<typeof world>>["machine"], minutes: number) =>
  Option.getOrThrow(machine.extendTimeout)(Duration.minutes(minutes))

describe("Vercel: the lease", () => {
  live("is as long as the longest of several that want it at once, not as their sum", () =>
    Effect.gen(function* () {
      const { machine, provider, sandboxId, vendor } = yield* world()
      const other = yield* provider.connect(machine.ref, { boot: false, sandboxId })
      const ends = yield* Effect.all([extend(machine, 60), extend(machine, 60), extend(machine, 30)], {
        concurrency: 3
      })
      const session = vendor.sandbox("box").sessions.at(-1)
      const end = () => (session?.createdAt ?? 0) + (session?.timeout ?? 0)
      assert.isBelow(end(), Date.now() + 61 * 60_000)
      assert.strictEqual(Math.max(...ends), end())
      // A handle that knows the lease as it was.
      const before = end()
      yield* extend(other, 60)
      assert.isBelow(end() - before, 60_000)
      // One that is long enough is not asked for.
      vendor.requests.reset()
      yield* extend(other, 20)
      assert.strictEqual(vendor.requests.count(), 0)
    })
  )

  live("that was extended although the answer was lost is not extended twice", () =>
    Effect.gen(function* () {
      const { machine, vendor } = yield* world()
      vendor.faults.inject("session.extendTimeout", Fault.resetAfter)
      const error = yield* Effect.flip(extend(machine, 60))
      assert.strictEqual(error.reason._tag, "Unavailable")
      yield* extend(machine, 60)
      const session = vendor.sandbox("box").sessions.at(-1)
      assert.isBelow(session?.timeout ?? 0, 61 * 60_000)
    })
  )
})

describe("Vercel: files", () => {
  live("have the mode that was asked for, or keep theirs, and belong to the user that runs commands", () =>
    Effect.gen(function* () {
      const { machine, vendor } = yield* world()
      const content = new TextEncoder().encode("x")
      yield* machine.writeFiles([
        { path: "plain", content },
        { path: "program", content, mode: 0o755 },
        { path: "kept", content, mode: 0o640 }
      ])
      yield* machine.writeFiles([{ path: "kept", content }])
      const process = yield* machine.start({
        processId: newProcessId(),
        command: "sh",
        args: ["-c", 'id -u; stat -c "%a %u" plain program kept'],
        lifetime: "scoped",
        stdin: false
      })
      const output = yield* Stream.runFold(
        process.output,
        () => "",
        (text, { bytes }) => text + new TextDecoder().decode(bytes)
      )
      const [user, ...files] = output.trim().split("\n")
      assert.deepStrictEqual(files, [`644 ${user}`, `755 ${user}`, `640 ${user}`])
      assert.strictEqual(vendor.requests.count("file.write"), 2)
    })
  )
})
