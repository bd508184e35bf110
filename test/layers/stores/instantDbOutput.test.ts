/** A large output through the whole service, while requests fail by chance. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Stream } from "effect"
import { createHash } from "node:crypto"
import * as Embedded from "../../../src/Embedded.ts"
import * as Fake from "../../../src/layers/providers/Fake.ts"
import * as ProcessEvent from "../../../src/model/ProcessEvent.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import * as ProviderRegistry from "../../../src/services/ProviderRegistry.ts"
import { SandboxService } from "../../../src/services/SandboxService.ts"
import * as Faults from "../../emulators/instantdb/faults.ts"
import { full } from "../../support/full.ts"
import { instance, Server, server } from "./instantDbSupport.ts"
import { temporaryDirectory } from "./support.ts"

const chunkBytes = 65_536
/** 50 MB of them, in short runs 20. */
const chunkCount = full ? 800 : 320

/** The same numbers each time (mulberry32). */
const random = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Text with characters cut between chunks, and every tenth chunk binary. */
const outputChunk = (index: number): Uint8Array => {
  const pattern =
    index % 10 === 9
      ? Uint8Array.from({ length: 256 }, (_, at) => (at * 31 + index) & 255)
      : new TextEncoder().encode(`${index} äöü\u{1F600} "quoted" \\ line of output\n`)
  const start = (index * 7) % pattern.length
  return new Uint8Array(Buffer.alloc(start + chunkBytes, pattern).subarray(start))
}

const kinds: ReadonlyArray<Faults.Fault> = [
  Faults.resetBefore,
  Faults.resetAfter,
  Faults.duplicated,
  Faults.deadlock,
  Faults.serverError(503),
  Faults.serverError(500, { executed: true }),
  Faults.html(502),
  Faults.invalidJson,
  Faults.rateLimited(),
  Faults.torn(40)
]

const service = SandboxService.layer.pipe(
  Layer.provide(
    ProviderRegistry.layer([
      Fake.make({
        commands: {
          flood: () => Stream.map(Stream.range(0, chunkCount - 1), (index) => Fake.stdout(outputChunk(index)))
        }
      })
    ])
  ),
  Layer.provideMerge(instance()),
  Layer.provideMerge(server)
)

describe("an embedded service on InstantDB", () => {
  it.live("leaves its process to the next one, which reads all of it", () =>
    Effect.gen(function* () {
      const { config } = yield* Server
      const directory = yield* temporaryDirectory
      const settings = ConfigProvider.layer(
        ConfigProvider.fromUnknown({
          SANDBOX_STORE: "instantdb",
          SANDBOX_LOCAL_ROOT: directory,
          INSTANT_APP_ID: config.appId,
          INSTANT_APP_ADMIN_TOKEN: config.adminToken,
          INSTANT_API_URI: config.apiURI
        })
      )
      const embedded = Layer.fresh(Embedded.layerConfig).pipe(Layer.provide(settings))
      const processId = yield* Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const { sandboxId } = yield* sandboxes.createSandbox()
        const script = "for i in 1 2 3; do echo step $i; sleep 0.2; done"
        const started = yield* sandboxes.runCommandProcess(sandboxId, "sh", ["-c", script], { mode: "background" })
        return started.processId
      }).pipe(Effect.provide(embedded))
      yield* Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const attached = yield* sandboxes.attachProcess(processId)
        const lines = yield* Stream.runCollect(ProcessEvent.lines(attached.events))
        assert.deepStrictEqual(lines, ["step 1", "step 2", "step 3"])
        assert.deepInclude(yield* attached.exit, { _tag: "Exited", code: 0 })
        const { sandboxId } = yield* attached.snapshot
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.provide(embedded))
    }).pipe(Effect.provide(server))
  )
})

describe("an output of many MB", () => {
  it.live(
    "arrives complete and in order after random failures of requests",
    () =>
      Effect.gen(function* () {
        const { faults, requests } = yield* Server
        const sandboxes = yield* SandboxService
        const { sandboxId } = yield* sandboxes.createSandbox({ provider: "fake" })
        const next = random(20261125)
        let injected = 0
        faults.choose((endpoint) => {
          if ((endpoint !== "query" && endpoint !== "transact") || next() > 0.35) return undefined
          injected++
          return kinds[Math.floor(next() * kinds.length)]
        })
        const { processId, result } = yield* sandboxes.runCommandWithProcessStream(sandboxId, "flood", [], {
          maxOutputBytes: 1000
        })
        assert.strictEqual(result?.exitCode, 0)
        faults.choose(undefined)

        // Read by a service that knows nothing of it yet.
        const hash = createHash("sha256")
        let bytes = 0
        let seq = 0
        const context = yield* Layer.build(Layer.fresh(instance()))
        const before = requests.count()
        yield* Effect.flatMap(ProcessLog, (log) =>
          Stream.runForEach(log.read(processId), (event) =>
            Effect.sync(() => {
              assert.strictEqual(event.seq, ++seq)
              if (!ProcessEvent.isOutput(event)) return
              assert.strictEqual(event.offset, bytes)
              bytes += event.bytes.length
              hash.update(event.bytes)
            })
          )
        ).pipe(Effect.provide(context))
        const expected = createHash("sha256")
        for (let index = 0; index < chunkCount; index++) expected.update(outputChunk(index))
        assert.strictEqual(bytes, chunkBytes * chunkCount)
        assert.strictEqual(hash.digest("hex"), expected.digest("hex"))
        assert.isAbove(injected, full ? 10 : 3)
        // A page is a MiB, and the last one says that it was the last.
        assert.isAtMost(requests.count() - before, 60)
      }).pipe(Effect.provide(service)),
    180_000
  )
})
