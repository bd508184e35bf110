/** What a machine of Vercel's does besides running processes: the lease, files, ports. */
import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { Duration, Effect, Option, type Scope, Stream } from "effect"
import type { SandboxConfig } from "../../../../src/model/SandboxConfig.ts"
import { newProcessId, newSandboxId } from "../../../../src/testing/internal/stores.ts"
import type * as Emulator from "../../../emulators/vercel/server.ts"
import * as Fault from "../../../emulators/vercel/faults.ts"
import * as Full from "../../../support/full.ts"
import { metered, provider } from "./support.ts"

const world = Effect.fnUntraced(function* (
  config: SandboxConfig = {},
  options?: Emulator.Options,
  ...more: ReadonlyArray<Parameters<typeof provider>[1]>
) {
  const made = yield* provider(options, ...more)
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

/** For `npm run test:full`. */
const full: typeof live = (name, body) => it.live.runIf(Full.full)(name, () => Effect.scoped(body()), 60_000)

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

  live("come down at the pace of whoever reads", () =>
    Effect.gen(function* () {
      const meter = metered()
      const { machine, vendor } = yield* world({}, {}, (emulator) => ({ fetch: meter.of(emulator.fetch) }))
      const size = 12 * 1024 * 1024
      const file = Path.join(vendor.sandbox("box").machine.cwd, "large")
      Fs.writeFileSync(file, "")
      Fs.truncateSync(file, size)
      let bytes = 0
      yield* machine.readFile("large").pipe(
        Stream.runForEach((chunk) =>
          Effect.gen(function* () {
            if (bytes === 0) {
              yield* meter.still
              assert.isBelow(meter.taken(), size / 3)
            }
            bytes += chunk.length
          })
        )
      )
      assert.strictEqual(bytes, size)
    })
  )

  full("come down at the pace of whoever reads, in bounded memory", () =>
    Effect.gen(function* () {
      const { machine, vendor } = yield* world()
      const mebibyte = 1024 * 1024
      /** Reads a file of this size, its first bytes for so many ms, and yields the most memory that this process had. */
      const peakOf = (mebibytes: number, hold: number) =>
        Effect.gen(function* () {
          const file = Path.join(vendor.sandbox("box").machine.cwd, "large")
          Fs.writeFileSync(file, "")
          Fs.truncateSync(file, mebibytes * mebibyte)
          let bytes = 0
          let peak = 0
          yield* machine.readFile("large").pipe(
            Stream.runForEach((chunk) =>
              Effect.promise(async () => {
                // The first holds the rest back for a while, in which whoever reads ahead would read all of it.
                if (bytes === 0) await new Promise((resolve) => setTimeout(resolve, hold))
                bytes += chunk.length
                peak = Math.max(peak, process.memoryUsage.rss())
              })
            )
          )
          assert.strictEqual(bytes, mebibytes * mebibyte)
          return peak
        })
      // What the first megabytes take is the garbage that a heap grows to: of the emulator, which is in this process, too.
      const before = yield* peakOf(64, 0)
      assert.isBelow(((yield* peakOf(256, 1_000)) - before) / mebibyte, 96)
    })
  )
})

describe("Vercel: ports", () => {
  live("that were exposed at its creation have an address each, and no other has one", () =>
    Effect.gen(function* () {
      const { machine, provider, sandboxId, vendor } = yield* world({ ports: [3000, 8080] })
      const portUrl = Option.getOrThrow(machine.portUrl)
      const { routes } = vendor.sandbox("box")
      for (const { port, subdomain } of routes) {
        assert.deepStrictEqual(yield* portUrl(port), { port, url: `https://${subdomain}.vercel.run`, headers: {} })
      }
      const { message, reason } = yield* Effect.flip(portUrl(5000))
      assert.isTrue(reason._tag === "PortNotExposed" && reason.exposed.join() === "3000,8080")
      assert.include(message, "5000")
      assert.strictEqual(vendor.requests.count(), 0, "the address is known from the start")
      // Found again, it has the same addresses.
      const again = yield* provider.connect(machine.ref, { boot: false, sandboxId })
      assert.deepStrictEqual(yield* Option.getOrThrow(again.portUrl)(3000), yield* portUrl(3000))
    })
  )

  live("are none where none were exposed, and at most fifteen", () =>
    Effect.gen(function* () {
      const { machine, provider } = yield* world()
      const { reason } = yield* Effect.flip(Option.getOrThrow(machine.portUrl)(80))
      assert.isTrue(reason._tag === "PortNotExposed" && reason.exposed.length === 0)
      const many = Array.from({ length: 16 }, (_, index) => 3000 + index)
      const refused = yield* Effect.flip(provider.resolve({ ports: many }))
      assert.isTrue(refused.reason._tag === "InvalidConfig" && refused.reason.issue.includes("at most 15"))
    })
  )
})

describe("Vercel: checkpoints", () => {
  live("are listed newest first over all pages, with their sizes and expirations, without those that are gone", () =>
    Effect.gen(function* () {
      const { machine, provider, sandboxId, vendor } = yield* world(
        { persistent: true, vercel: { snapshotExpiration: Duration.days(2) } },
        { pageSize: 2 }
      )
      const checkpoints = Option.getOrThrow(provider.checkpoints)
      const made = []
      let current = machine
      for (let count = 0; count < 5; count++) {
        yield* current.writeFiles([{ path: `f${count}`, content: new Uint8Array(1_000) }])
        made.push(yield* Option.getOrThrow(current.createCheckpoint)({}))
        current = yield* provider.connect(machine.ref, { boot: true, sandboxId })
      }
      const listed = Stream.runCollect(checkpoints.list(sandboxId, Option.some(machine.ref)))
      vendor.requests.reset()
      const all = yield* listed
      assert.deepStrictEqual(
        all.map(({ id }) => id),
        made.map(({ id }) => id).toReversed()
      )
      assert.strictEqual(vendor.requests.count("snapshot.list"), 3)
      for (const { createdAt, expiresAt, sizeBytes = 0 } of all) {
        // The vendor counts from the last use.
        assert.isAtLeast(expiresAt ?? 0, createdAt + 2 * 86_400_000)
        assert.isAtLeast(sizeBytes, 1_000)
      }
      const [newest, second] = all
      vendor.expireSnapshot(newest?.id ?? "")
      yield* checkpoints.remove(second?.id ?? "", sandboxId, Option.some(machine.ref))
      assert.deepStrictEqual(
        (yield* listed).map(({ id }) => id),
        all.slice(2).map(({ id }) => id)
      )
      // A page that cannot be had is no shorter list.
      vendor.faults.inject("snapshot.list", Fault.serverError(500), { skip: 1, times: 100 })
      const error = yield* Effect.flip(listed)
      assert.strictEqual(error.reason._tag, "Unavailable")
    })
  )
})
