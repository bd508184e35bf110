/** What a user gets on Daytona: the service over the real SDK and the emulator, and how many requests it takes. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Clock, Context, Duration, Effect, Layer, Redacted, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { inspect } from "node:util"
import * as Daytona from "../../../../src/layers/providers/Daytona.ts"
import * as Memory from "../../../../src/layers/stores/Memory.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import { newProcessId, newSandboxId } from "../../../../src/testing/internal/stores.ts"
import * as P from "../../../../src/testing/internal/providers.ts"
import * as Fault from "../../../emulators/daytona/faults.ts"
import * as Emulator from "../../../emulators/daytona/server.ts"
import { Counts } from "../../../support/counting.ts"
import { optionsFor, service, Vendor } from "./support.ts"

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const secret = "planted-daytona-secret"

const world = Effect.gen(function* () {
  return { vendor: yield* Vendor, sandboxes: yield* SandboxService, counts: yield* Counts }
})

/** The sandbox of the last creation, and the JSON that made it. */
const last = (vendor: Emulator.DaytonaEmulator) => {
  const made = vendor.sandboxes().at(-1)
  return made === undefined ? assert.fail("there is none") : made
}

const patiently = Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(200)])

layer(service(), { excludeTestServices: true, timeout: "60 seconds" })("Daytona", (test) => {
  describe("requests", () => {
    test.effect("a creation is one, and one to look into it; a warm command is one, and reads no record", () =>
      Effect.gen(function* () {
        const { counts, sandboxes, vendor } = yield* world
        vendor.requests.reset()
        const { sandboxId } = yield* sandboxes.createSandbox()
        assert.deepStrictEqual(
          vendor.requests.endpoints.filter((endpoint) => endpoint !== "sandbox.get"),
          // The tests give directories that are relative to the working directory: that is the question for it.
          ["sandbox.create", "toolbox.workDir", "toolbox.execute"]
        )
        yield* sandboxes.runCommand(sandboxId, "true")
        const lengths: Array<number> = []
        for (let times = 0; times < 3; times++) {
          vendor.requests.reset()
          counts.reset()
          const { exitCode, stdout } = yield* sandboxes.runCommand(sandboxId, "echo", ["warm"])
          assert.deepStrictEqual([exitCode, stdout], [0, "warm\n"])
          assert.deepStrictEqual([...new Set(vendor.requests.endpoints)], ["toolbox.execute"])
          assert.strictEqual(counts.reads() + counts.writes(), 0)
          lengths.push(vendor.requests.all.length)
        }
        // One of them may have met a machine that is busy with other tests.
        assert.strictEqual(Math.min(...lengths), 1)
        vendor.requests.reset()
        yield* sandboxes.writeFiles(sandboxId, [
          { path: "a", content: "a" },
          { path: "b/c", content: "bc" }
        ])
        assert.deepStrictEqual(vendor.requests.endpoints, ["toolbox.upload", "toolbox.execute"])
        vendor.requests.reset()
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "b/c")), "bc")
        assert.deepStrictEqual(vendor.requests.endpoints, ["toolbox.execute"])
        vendor.requests.reset()
        yield* sandboxes.stopSandbox(sandboxId)
        assert.deepStrictEqual([...new Set(vendor.requests.endpoints)].toSorted(), ["sandbox.delete", "sandbox.get"])
        assert.deepStrictEqual(vendor.alive(), [])
      })
    )
  })

  describe("a creation", () => {
    test.effect("says what was asked for", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({
          runtime: "python3.12",
          timeout: "61 seconds",
          ports: [3000],
          env: { A: "a", B: Redacted.make(secret) },
          persistent: true,
          deleteOnStop: true,
          resources: { vcpus: 2 },
          daytona: {
            labels: { team: "x" },
            public: true,
            user: "daytona",
            autoArchiveInterval: "1 day",
            envVars: { C: "c" },
            image: { pythonVersion: "3.12", pipInstall: ["numpy"], workdir: "/work" }
          }
        })
        const { request } = last(vendor)
        const { buildInfo, labels, ...rest } = request
        assert.deepStrictEqual(rest, {
          name: `sbx-${sandboxId}-1`,
          env: { A: "a", B: secret, C: "c" },
          cpu: 2,
          user: "daytona",
          public: true,
          autoStopInterval: 0,
          autoArchiveInterval: 1440,
          ttlMinutes: 2
        })
        assert.deepInclude(labels, {
          team: "x",
          "sandbox-id": sandboxId,
          "sandbox-namespace": "tests",
          "sandbox-ports": "3000",
          "code-toolbox-language": "python"
        })
        const { dockerfileContent } = Object.assign({ dockerfileContent: "" }, buildInfo)
        assert.match(dockerfileContent, /^FROM python:3\.12/)
        assert.include(dockerfileContent, "numpy")
        assert.include(dockerfileContent, "WORKDIR /work")
        assert.strictEqual(
          (yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "echo $A $B $C"])).stdout,
          `a ${secret} c\n`
        )
        assert.notInclude(inspect(yield* sandboxes.getSandbox(sandboxId), { depth: 9 }), secret)
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("mounts volumes that it makes and waits for, or says what is wrong with one", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const daytona = { volumes: [{ volumeName: "cache", mountPath: "/cache", subpath: "x" }] }
        const { sandboxId } = yield* sandboxes.createSandbox({ daytona })
        const volume = vendor.volumes().find(({ name }) => name === "cache")
        assert.deepStrictEqual(last(vendor).request["volumes"], [
          { volumeId: volume?.id, mountPath: "/cache", subpath: "x" }
        ])
        yield* sandboxes.stopSandbox(sandboxId)
        vendor.faults.inject("volume.create", { _tag: "Becomes", state: "error", reason: "no bucket" })
        const broken = { volumes: [{ volumeName: "broken", mountPath: "/cache" }] }
        const error = yield* Effect.flip(sandboxes.createSandbox({ daytona: broken }))
        assert.deepInclude(error.reason, {
          _tag: "VolumeFailed",
          volume: "broken",
          state: "error",
          detail: "no bucket"
        })
        const missing = { volumes: [{ volumeId: "nowhere", mountPath: "/cache" }] }
        const absent = yield* Effect.flip(sandboxes.createSandbox({ daytona: missing }))
        assert.deepInclude(absent.reason, { _tag: "NotFound", kind: "volume", id: "nowhere" })
        assert.deepStrictEqual(vendor.alive(), [])
      })
    )
  })

  describe("a sandbox", () => {
    test.effect("whose idleness ended it is started by its next use, with its disk and without its processes", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
        const { id } = last(vendor)
        yield* sandboxes.writeFiles(sandboxId, [{ path: "kept", content: "here" }])
        const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["300"], { mode: "background" })
        vendor.stop(id)
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "kept")), "here")
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "lost")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("that somebody else stopped and started is another boot", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
        const made = last(vendor)
        const before = yield* sandboxes.getSandbox(sandboxId)
        const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["300"], { mode: "background" })
        vendor.stop(made.id)
        yield* Effect.repeat(
          Effect.sync(() => made.state),
          { until: (state) => state === "stopped", schedule: patiently }
        )
        vendor.start(made.id)
        yield* Effect.repeat(
          Effect.sync(() => made.state),
          { until: (state) => state === "started", schedule: patiently }
        )
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        const after = yield* sandboxes.getSandbox(sandboxId)
        assert.strictEqual(after.externalSandboxId, before.externalSandboxId)
        assert.notStrictEqual(after.incarnation, before.incarnation)
        assert.strictEqual(made.labels["sandbox-boot"], after.incarnation)
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "lost")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("is reconnected to from wherever the vendor has put it", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
        const made = last(vendor)
        const comesTo = (state: string) =>
          Effect.repeat(
            Effect.sync(() => made.state),
            { until: (now) => now === state, schedule: patiently }
          )
        yield* sandboxes.writeFiles(sandboxId, [{ path: "kept", content: "here" }])
        vendor.stop(made.id)
        yield* comesTo("stopped")
        vendor.world.archive(made)
        assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Resumed")
        Object.assign(made, { state: "error", recoverable: true, errorReason: "a runner was lost" })
        assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Resumed")
        assert.strictEqual(vendor.requests.count("sandbox.recover"), 1)
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "kept")), "here")
        Object.assign(made, { state: "error", recoverable: false, errorReason: "a disk was lost" })
        const error = yield* Effect.flip(sandboxes.reconnectToSandbox(sandboxId))
        assert.include(error.message, "a disk was lost")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("refuses a recorded process whose deadline the vendor does not let it reach", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ timeout: "10 minutes" })
        vendor.requests.reset()
        vendor.faults.inject("sandbox.ttl", Fault.status(400, "ttlMinutes must not exceed the organization's limit"))
        const error = yield* Effect.flip(sandboxes.runCommandProcess(sandboxId, "true", [], { timeout: "1 hour" }))
        assert.strictEqual(error.reason._tag, "LeaseTooShort")
        assert.isFalse(
          vendor.requests.all.some(({ body }) => body.includes("run+")),
          "nothing was started"
        )
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("has ports with a token that a boot changes, and signed URLs", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ ports: [3000] })
        const made = last(vendor)
        const { headers, url } = yield* sandboxes.getPortUrl(sandboxId, 3000)
        assert.strictEqual(url, `https://3000-${made.id}.preview.test`)
        const token = headers["x-daytona-preview-token"]
        assert.strictEqual(token === undefined ? "" : Redacted.value(token), made.previewToken)
        assert.notInclude(inspect(headers), made.previewToken)
        const client = yield* Daytona.DaytonaClient
        const ref = { externalId: made.id, incarnation: "" }
        const signed = yield* client.signedPortUrl(ref, sandboxId, 3000, "10 minutes")
        assert.deepStrictEqual(signed.headers, {})
        assert.isAbove(signed.expiresAt ?? 0, (yield* Clock.currentTimeMillis) + 500_000)
        const refused = yield* Effect.flip(client.signedPortUrl(ref, sandboxId, 3001, "10 minutes"))
        assert.strictEqual(refused.reason._tag, "PortNotExposed")
        assert.strictEqual((yield* client.native(ref, sandboxId)).id, made.id)
        const foreign = yield* Effect.flip(client.native(ref, newSandboxId()))
        assert.strictEqual(foreign.reason._tag, "Gone")
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("goes on with its checkpoint under its own id", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox()
        const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["300"], { mode: "background" })
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "one" }])
        const { id } = yield* sandboxes.createCheckpoint(sandboxId, { comment: "mine" })
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "running")
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "two" }])
        const [listed] = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.deepInclude(listed, { id, comment: "mine" })
        yield* sandboxes.restoreCheckpoint(sandboxId, id)
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "f")), "one")
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "lost")
        assert.strictEqual(vendor.alive().length, 1)
        yield* sandboxes.deleteCheckpoint(sandboxId, id)
        assert.deepStrictEqual(vendor.snapshots(), [])
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )
  })

  describe("output", () => {
    test.effect("goes through whatever the vendor does to text", () =>
      Effect.gen(function* () {
        const { sandboxes } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox()
        const bytes = yield* sandboxes
          .streamCommand(sandboxId, "printf", ["\\000\\377\\303é€😀\\001\\001\\001"])
          .pipe(Stream.runCollect)
        const out = bytes.flatMap((event) => (event._tag === "stdout" ? [...event.bytes] : []))
        assert.deepStrictEqual(out, [0, 255, 0xc3, ...new TextEncoder().encode("é€😀"), 1, 1, 1])
        for (const [script, code] of [
          ["exit 3", 3],
          ["set -e; false; echo no", 1],
          ["kill -9 $$", 137]
        ] as const) {
          const { exitCode, stdout } = yield* sandboxes.runCommand(sandboxId, "sh", ["-c", script])
          assert.deepStrictEqual([exitCode, stdout], [code, ""])
        }
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )
  })
})

describe("Daytona: while nobody watches", () => {
  it.live("a recorded process is gone on with by the next service, at the byte", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make()
        const store = yield* Layer.build(Layer.fresh(Memory.layer({ namespace: "tests" })))
        // Each time a service of its own, which ends with the effect.
        const withService = <A, E>(use: (sandboxes: SandboxService["Service"]) => Effect.Effect<A, E>) =>
          Effect.scoped(
            Effect.flatMap(
              Layer.build(
                Layer.fresh(SandboxService.layer).pipe(
                  Layer.provide(Layer.fresh(Daytona.layer(optionsFor(emulator)))),
                  Layer.provide(Layer.succeedContext(store))
                )
              ),
              (context) => use(Context.get(context, SandboxService))
            )
          )
        const script = "seq 1 500; while [ ! -e go ]; do sleep 0.02; done; seq 501 1000; exit 5"
        const { processId, sandboxId } = yield* withService((sandboxes) =>
          Effect.gen(function* () {
            const { sandboxId } = yield* sandboxes.createSandbox()
            const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sh", ["-c", script], {
              mode: "background"
            })
            yield* sandboxes.readProcessStream(processId, { follow: true }).pipe(
              Stream.takeUntil((event) => event._tag === "stdout"),
              Stream.runDrain
            )
            return { processId, sandboxId }
          })
        )
        const told = yield* withService((sandboxes) =>
          Effect.gen(function* () {
            yield* sandboxes.attachProcess(processId)
            yield* sandboxes.writeFiles(sandboxId, [{ path: "go", content: "" }])
            const log = yield* Stream.runCollect(sandboxes.readProcessStream(processId, { follow: true }))
            const { exitCode } = yield* sandboxes.getProcessSnapshot(processId)
            return { log, exitCode }
          })
        )
        const out = Buffer.concat(
          told.log.flatMap((event) => (event._tag === "stdout" ? [event.bytes] : []))
        ).toString()
        assert.strictEqual(out, Array.from({ length: 1000 }, (_, index) => `${index + 1}\n`).join(""))
        assert.strictEqual(told.exitCode, 5)
      })
    )
  )

  it.live("a recorded process outlives the idleness and the lease that would end it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        // The vendor's time is virtual, the guest's and ours is not.
        const clock = yield* TestClock.make()
        const emulator = yield* Emulator.make({ transition: 0 }).pipe(Effect.provideService(Clock.Clock, clock))
        const provider = yield* Daytona.make(optionsFor(emulator))
        const request = yield* P.request(provider, { timeout: Duration.minutes(20) }, "ns")
        const machine = yield* provider.create(request)
        const [made] = emulator.sandboxes()
        const idle = yield* provider.create(yield* P.request(provider, { persistent: true }, "ns"))
        const processId = newProcessId()
        const now = yield* Clock.currentTimeMillis
        yield* Effect.scoped(
          P.startSh(idle, "while [ ! -e go ]; do sleep 0.02; done; echo end", {
            processId,
            lifetime: "recorded",
            deadline: now + 3_600_000
          })
        )
        assert.strictEqual(emulator.requests.count("sandbox.autostop"), 1)
        yield* Effect.scoped(
          P.startSh(machine, "exit 4", { processId: newProcessId(), lifetime: "recorded", deadline: now + 7_200_000 })
        )
        assert.strictEqual(emulator.requests.count("sandbox.ttl"), 1)
        // Past fifteen minutes of idleness, and past the lease as it was.
        yield* clock.adjust("59 minutes")
        assert.deepStrictEqual(
          emulator.sandboxes().map(({ state }) => state),
          ["started", "started"]
        )
        yield* P.writeFile(idle, "go", "")
        const found = yield* P.power(yield* idle.findProcess(processId))
        const result = yield* Effect.flatMap(idle.resume(found, { stdout: 0, stderr: 0 }), (process) =>
          P.collect(process)
        )
        assert.strictEqual(result.stdout.toString(), "end\n")
        assert.strictEqual(made?.autoStopInterval, 0)
        // And they do end what nobody holds.
        yield* clock.adjust("3 hours")
        const [, second] = emulator.sandboxes()
        assert.include(["destroying", "destroyed"], made?.state)
        assert.include(["stopping", "stopped"], second?.state)
      })
    )
  )
})

describe("Daytona: the SDK", () => {
  it.live(
    "loads at first use, takes nothing from the environment or files, and leaves nothing open",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const emulator = yield* Emulator.make()
          const directory = yield* Effect.acquireRelease(
            Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-dotenv-"))),
            (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
          )
          // And where the SDK believes to be serverless, it moves no files, or tells no failure to.
          const leaks = {
            VERCEL: "1",
            DAYTONA_TARGET: "leaked",
            DAYTONA_JWT_TOKEN: "leaked",
            DAYTONA_OTEL_ENABLED: "true"
          }
          Fs.writeFileSync(
            Path.join(directory, ".env"),
            Object.entries(leaks)
              .map(([name, value]) => `${name}=${value}\n`)
              .join("")
          )
          const source = fileURLToPath(new URL("../../../../", import.meta.url))
          const script = `
            import { registerHooks } from "node:module"
            const seen = []
            registerHooks({ load(url, context, next) { seen.push(url); return next(url, context) } })
            const { Effect, Redacted, Stream } = await import("${source}node_modules/effect/dist/index.js")
            const Daytona = await import("${source}src/layers/providers/Daytona.ts")
            const loaded = () => seen.some((url) => url.includes("@daytonaio/sdk"))
            const stray = []
            for (const event of ["unhandledRejection", "uncaughtException"]) process.on(event, (error) => stray.push(String(error)))
            const told = await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
              const provider = yield* Daytona.make({
                apiKey: Redacted.make("${emulator.apiKey}"), apiUrl: "${emulator.apiUrl}",
                guestDirectory: "../tmp/.effect-sandbox", bootDirectory: "../shm"
              })
              const before = loaded()
              const resolved = yield* provider.resolve({})
              const request = { sandboxId: "${newSandboxId()}", version: 1, namespace: "ns", config: {}, resolved }
              const machine = yield* provider.create(request)
              const process = yield* machine.start({ processId: "${newProcessId()}", command: "echo", args: ["hi"], lifetime: "scoped", stdin: false })
              const chunks = yield* Stream.runCollect(process.output)
              const large = Buffer.alloc(300_000, "x")
              yield* machine.writeFiles([{ path: "f", content: large }])
              const read = Buffer.concat(yield* Stream.runCollect(machine.readFile("f")))
              return { before, after: loaded(), same: read.equals(large), out: Buffer.concat(chunks.map(({ bytes }) => bytes)).toString() }
            })))
            console.log(JSON.stringify({ ...told, stray, sigterm: process.listenerCount("SIGTERM") }))
          `
          const { code, stderr, stdout } = yield* Effect.callback<{
            code: number | null
            stdout: string
            stderr: string
          }>((resume) => {
            const child = ChildProcess.spawn(process.execPath, ["--input-type=module", "-e", script], {
              cwd: directory,
              env: leaks,
              timeout: 30_000
            })
            let stdout = ""
            let stderr = ""
            child.stdout.on("data", (bytes: Buffer) => (stdout += bytes.toString()))
            child.stderr.on("data", (bytes: Buffer) => (stderr += bytes.toString()))
            child.once("close", (code) => resume(Effect.succeed({ code, stdout, stderr })))
          })
          assert.strictEqual(code, 0, stderr)
          assert.deepStrictEqual(JSON.parse(stdout), {
            before: false,
            after: true,
            same: true,
            out: "hi\n",
            stray: [],
            sigterm: 0
          })
          assert.notInclude(JSON.stringify(emulator.requests.all), "leaked")
        })
      ),
    60_000
  )

  it.live("asks where a toolbox is if the sandbox does not tell", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make({ tellsToolbox: false })
        const provider = yield* Daytona.make(optionsFor(emulator))
        const machine = yield* provider.create(yield* P.request(provider, {}, "ns"))
        assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
        assert.strictEqual(emulator.requests.count("sandbox.toolboxUrl"), 1)
      })
    )
  )

  it.live("leaves no listener and no socket when its Scope closes", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make()
        const listeners = () => process.eventNames().map((name) => [name, process.listenerCount(name)])
        const before = listeners()
        yield* Effect.scoped(
          Effect.gen(function* () {
            const provider = yield* Daytona.make(optionsFor(emulator))
            const machine = yield* provider.create(yield* P.request(provider, {}, "ns"))
            assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
            // One that is still waiting when everything ends.
            yield* P.startSh(machine, "sleep 300")
            yield* machine.stop("delete")
            assert.isAbove(emulator.connections(), 0)
          })
        )
        yield* Effect.repeat(
          Effect.sync(() => emulator.connections()),
          {
            until: (count) => count === 0,
            schedule: patiently
          }
        )
        assert.strictEqual(emulator.connections(), 0)
        assert.deepStrictEqual(listeners(), before)
      })
    )
  )
})
