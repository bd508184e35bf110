/** What goes wrong at Daytona, one switch of the emulator after the other, and what the user gets. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option, Redacted, type Scope, Stream } from "effect"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { inspect } from "node:util"
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import * as Daytona from "../../../../src/layers/providers/Daytona.ts"
import { ProviderRegistry } from "../../../../src/services/ProviderRegistry.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import * as P from "../../../../src/testing/internal/providers.ts"
import { newSandboxId } from "../../../../src/testing/internal/stores.ts"
import * as Fault from "../../../emulators/daytona/faults.ts"
import * as Emulator from "../../../emulators/daytona/server.ts"
import { full } from "../../../support/full.ts"
import { optionsFor, service, Vendor } from "./support.ts"

const world = Effect.gen(function* () {
  return { vendor: yield* Vendor, sandboxes: yield* SandboxService }
})

/** A sandbox that is warm, and its id at the vendor. */
const box = Effect.gen(function* () {
  const { sandboxes, vendor } = yield* world
  const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true, deleteOnStop: true })
  yield* sandboxes.runCommand(sandboxId, "true")
  vendor.requests.reset()
  return { sandboxes, sandboxId, vendor, id: vendor.sandboxes()[0]?.id ?? "" }
})

/** A name that begins with this is for `npm run test:full`: a case like another one. */
const later = "[full] "

const live = (
  name: string,
  body: () => Effect.Effect<void, unknown, SandboxService | ProviderRegistry | Vendor | Scope.Scope>
) => {
  if (full || !name.startsWith(later)) {
    it.live(name.replace(later, ""), () => Effect.scoped(Effect.provide(body(), service())), 60_000)
  }
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

/** A command that tells in the sandbox how often it ran. */
const counted = ["-c", "echo run >>runs; echo out; echo err >&2; exit 3"]
const runs = (sandboxes: SandboxService["Service"], sandboxId: string) =>
  Effect.map(sandboxes.readFile(sandboxId, "runs"), text)

const whole = { exitCode: 3, stdout: "out\n", stderr: "err\n" }

describe("Daytona: a creation", () => {
  for (const [name, endpoint, fault, times] of [
    ["whose connection is reset before it is taken up", "sandbox.create", Fault.resetBefore, 1],
    ["whose connection is reset after it was taken up", "sandbox.create", Fault.resetAfter, 1],
    ["[full] whose answer a proxy loses", "sandbox.create", Fault.badGateway({ executed: true }), 1],
    ["[full] that meets 429", "sandbox.create", Fault.rateLimited(0), 1],
    ["that meets a bad poll", "sandbox.get", Fault.badGateway(), 3],
    ["[full] whose polls meet 429", "sandbox.get", Fault.rateLimited(0), 2],
    ["[full] whose polls are slow to tell", "sandbox.get", { _tag: "Stale", state: "starting" }, 2],
    ["whose toolbox comes up later", "toolbox.execute", Fault.status(400, "Is the Sandbox started?"), 2],
    ["[full] whose label cannot be read back", "toolbox.execute", Fault.badGateway({ executed: true }), 1]
  ] as const) {
    live(`${name} makes one sandbox`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        vendor.faults.inject(endpoint, fault, { times })
        const { sandboxId } = yield* sandboxes.createSandbox()
        assert.strictEqual(vendor.sandboxes().length, 1)
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        assert.strictEqual(vendor.faults.pending, 0)
      })
    )
  }

  live("that succeeds only after we gave up is the one that the next attempt finds", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const gate = Promise.withResolvers<void>()
      vendor.faults.inject("sandbox.create", Fault.gate({ before: gate.promise }))
      const sandboxId = crypto.randomUUID()
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox({}, { sandboxId }))
      while (vendor.requests.count("sandbox.create") === 0) yield* Effect.sleep("5 millis")
      // The caller goes; the vendor makes it all the same.
      yield* Fiber.interrupt(fiber)
      gate.resolve()
      while (vendor.sandboxes().length === 0) yield* Effect.sleep("5 millis")
      yield* sandboxes.createSandbox({}, { sandboxId })
      assert.strictEqual(vendor.sandboxes().length, 1)
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    })
  )

  for (const [state, tag] of [
    ["error", "Unknown"],
    ["build_failed", "InvalidConfig"]
  ] as const) {
    live(`that comes to ${state} says why and leaves nothing`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        vendor.faults.inject("sandbox.create", Fault.becomes(state, "no such base"))
        const error = yield* Effect.flip(sandboxes.createSandbox())
        assert.strictEqual(error.reason._tag, tag)
        assert.include(error.message, "no such base")
        assert.deepStrictEqual(vendor.alive(), [])
      })
    )
  }

  live("that is refused is asked once", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("sandbox.create", Fault.status(403, "Organization is suspended"))
      assert.strictEqual((yield* Effect.flip(sandboxes.createSandbox())).reason._tag, "Permission")
      assert.strictEqual(vendor.requests.count("sandbox.create"), 1)
    })
  )

  for (const [whose, labels] of [
    ["of the same id, in another namespace,", { "sandbox-namespace": "production" }],
    ["[full] that nobody's record owns", {}]
  ] as const) {
    const name = `whose name a sandbox ${whose.replace(later, "")} has is refused, and that is neither taken nor deleted`
    live(`${whose.startsWith(later) ? later : ""}${name}`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const sandboxId = newSandboxId()
        const own = "sandbox-namespace" in labels ? { ...labels, "sandbox-id": sandboxId } : labels
        const theirs = vendor.world.create({ name: `sbx-${sandboxId}-1`, labels: own }, "started", "")
        const error = yield* Effect.flip(sandboxes.createSandbox({}, { sandboxId }))
        assert.strictEqual(error.reason._tag, "NameInUse")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        assert.deepStrictEqual(
          vendor.alive().map(({ id, labels }) => [id, labels]),
          [[theirs.id, own]]
        )
      })
    )
  }

  live("whose volume another one makes at the same time takes that", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      vendor.faults.inject("volume.getByName", Fault.status(404, "no"))
      vendor.faults.inject("volume.create", Fault.status(400, "Volume already exists", { executed: true }))
      yield* sandboxes.createSandbox({ daytona: { volumes: [{ volumeName: "v", mountPath: "/v" }] } })
      assert.strictEqual(vendor.volumes().length, 1)
      assert.strictEqual(vendor.faults.pending, 0)
    })
  )
})

describe("Daytona: a command", () => {
  for (const [name, fault] of [
    ["[full] whose start is reset before it is taken up", Fault.resetBefore],
    ["whose start is reset after it was taken up", Fault.resetAfter],
    ["[full] whose start meets 429", Fault.rateLimited(0)],
    ["[full] whose start meets a proxy that loses the answer", Fault.badGateway({ executed: true })],
    ["[full] whose start meets a server error", Fault.status(500, "Internal Server Error")],
    ["[full] whose start times out at a gateway", Fault.status(504, "Gateway Timeout", { executed: true })],
    ["whose start meets a proxy that does not find the sandbox", Fault.status(400, "Is the Sandbox started?")]
  ] as const) {
    live(`${name} runs once`, () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes, vendor } = yield* box
        vendor.faults.inject("toolbox.execute", fault)
        assert.deepInclude(yield* sandboxes.runCommand(sandboxId, "sh", counted), whole)
        assert.isAtLeast(vendor.requests.count("toolbox.execute"), 2)
        assert.strictEqual(yield* runs(sandboxes, sandboxId), "run\n")
      })
    )
  }

  live("whose connection breaks in the middle goes on at the byte", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      vendor.faults.inject("toolbox.execute", Fault.resetAfter, { skip: 1, times: 2 })
      vendor.faults.inject("toolbox.execute", Fault.badGateway({ executed: true }), { skip: 1 })
      const script =
        "i=0; while [ $i -lt 5 ]; do seq $((i * 1000 + 1)) $((i * 1000 + 1000)); sleep 0.3; i=$((i + 1)); done; exit 4"
      const run = yield* sandboxes.runCommandWithProcessStream(sandboxId, "sh", ["-c", script])
      assert.strictEqual(run.result?.exitCode, 4)
      const log = yield* sandboxes.readProcessStream(run.processId).pipe(Stream.runCollect)
      const out = Buffer.concat(log.flatMap((event) => (event._tag === "stdout" ? [event.bytes] : []))).toString()
      assert.strictEqual(out, Array.from({ length: 5000 }, (_, index) => `${index + 1}\n`).join(""))
      assert.strictEqual(vendor.faults.pending, 0)
    })
  )

  live("whose sandbox is stopped in the middle has an unknown outcome, never an exit", () =>
    Effect.gen(function* () {
      const { id, sandboxId, sandboxes, vendor } = yield* box
      const first = Promise.withResolvers<void>()
      const fiber = yield* sandboxes.streamCommand(sandboxId, "sh", ["-c", "echo begun; sleep 300"]).pipe(
        Stream.tap(() => Effect.sync(() => first.resolve())),
        Stream.runCollect,
        Effect.flip,
        Effect.forkChild
      )
      yield* Effect.promise(() => first.promise)
      vendor.stop(id)
      assert.strictEqual((yield* Fiber.join(fiber)).reason._tag, "OutcomeUnknown")
    })
  )

  live("that is interrupted is killed there, with its group", () =>
    Effect.gen(function* () {
      const { id, sandboxId, sandboxes, vendor } = yield* box
      const seen = Promise.withResolvers<string>()
      const fiber = yield* sandboxes.streamCommand(sandboxId, "sh", ["-c", "sleep 301 & echo $!; wait"]).pipe(
        Stream.runForEach((event) =>
          Effect.sync(() => event._tag === "stdout" && seen.resolve(text(event.bytes).trim()))
        ),
        Effect.forkChild
      )
      const pid = Number(yield* Effect.promise(() => seen.promise))
      assert.include(vendor.processes(id), pid)
      yield* Fiber.interrupt(fiber)
      assert.notInclude(vendor.processes(id), pid)
    })
  )

  live("on a sandbox that is destroyed says Gone, or makes a stateless one anew", () =>
    Effect.gen(function* () {
      const { id, sandboxId, sandboxes, vendor } = yield* box
      // One of the same id is another deployment's, and no successor.
      const labels = { "sandbox-id": sandboxId, "sandbox-namespace": "production" }
      const foreign = vendor.world.create({ labels }, "started", "")
      vendor.world.delete(vendor.world.find(id))
      const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
      assert.strictEqual(error.reason._tag, "Gone")
      const stateless = yield* sandboxes.createSandbox()
      const ours = () => vendor.alive().find(({ id }) => id !== foreign.id)
      const second = ours()
      vendor.world.delete(vendor.world.find(second?.id ?? ""))
      assert.deepInclude(yield* sandboxes.runCommand(stateless.sandboxId, "sh", counted), whole)
      assert.notStrictEqual(ours()?.id, second?.id)
      assert.deepStrictEqual(foreign.labels, labels)
      assert.include(vendor.alive(), foreign)
    })
  )
})

/** Garbage that is not collected yet would hide what is held. */
const collectGarbage = (() => {
  V8.setFlagsFromString("--expose-gc")
  return Vm.runInNewContext("gc")
})()

describe("Daytona: files", () => {
  for (const [name, fault, tag] of [
    ["is refused", Fault.status(400, JSON.stringify({ errors: ["disk full"] })), "InvalidArgument"],
    ["breaks off", Fault.resetBefore, "Unavailable"],
    ["is cut and told as a success", Fault.cut(3), "Unavailable"],
    ["[full] is told as a success and is not there", Fault.status(200, "no"), "Unavailable"]
  ] as const) {
    live(
      `${name.startsWith(later) ? later : ""}an upload that ${name.replace(later, "")} is no success, and leaves the file as it was`,
      () =>
        Effect.gen(function* () {
          const { sandboxId, sandboxes, vendor } = yield* box
          const left = Effect.map(
            sandboxes.runCommand(sandboxId, "sh", ["-c", "ls ../tmp/.effect-sandbox | grep up- || :"]),
            ({ stdout }) => stdout
          )
          yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "before" }])
          vendor.faults.inject("toolbox.upload", fault, { times: 99 })
          const error = yield* Effect.flip(sandboxes.writeFiles(sandboxId, [{ path: "f", content: "after" }]))
          assert.strictEqual(error.reason._tag, tag)
          assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "f")), "before")
          assert.strictEqual(yield* left, "", "no upload is left")
          vendor.faults.clear()
          if (tag === "InvalidArgument") return
          vendor.faults.inject("toolbox.upload", fault)
          yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "after" }])
          assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "f")), "after")
        })
    )
  }

  live("a download that is cut is no file, and a whole one is exact", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      const content = Crypto.randomBytes(600_000)
      yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content }])
      vendor.faults.inject("toolbox.download", Fault.cut(300_000), { times: 99 })
      const failed = yield* Effect.result(sandboxes.readFile(sandboxId, "f"))
      assert.strictEqual(failed._tag === "Failure" ? failed.failure.reason._tag : "", "Unavailable")
      vendor.faults.clear()
      vendor.faults.inject("toolbox.download", Fault.cut(300_000))
      assert.isTrue(Buffer.from(yield* sandboxes.readFile(sandboxId, "f")).equals(content))
    })
  )

  live("each file that cannot be written is told by itself", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes } = yield* box
      yield* sandboxes.runCommand(sandboxId, "mkdir", ["directory"])
      const error = yield* Effect.flip(
        sandboxes.writeFiles(sandboxId, [
          { path: "good", content: "good" },
          { path: "directory", content: "x" }
        ])
      )
      const { reason } = error
      assert.deepStrictEqual(reason._tag === "WriteFailed" ? reason.files.map(({ path }) => path) : reason, [
        "directory"
      ])
      assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "good")), "good")
    })
  )

  it.live("a file on a volume, which knows neither rename nor modes, is written all the same", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bin = yield* Effect.acquireRelease(
          Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-volume-"))),
          (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
        )
        const program = (name: string, script: string) =>
          Fs.writeFileSync(Path.join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
        program("mv", 'case $* in */v/*) exit 1 ;; esac; exec /bin/mv "$@"')
        program("stat", "case $1 in -f) echo fuseblk ;; *) exit 1 ;; esac")
        yield* Effect.gen(function* () {
          const { sandboxId, sandboxes } = yield* box
          yield* sandboxes.writeFiles(sandboxId, [{ path: "v/f", content: "one" }])
          yield* sandboxes.writeFiles(sandboxId, [{ path: "v/f", content: "second" }])
          assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "v/f")), "second")
          assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "ls", ["-A", "v"])).stdout, "f\n")
        }).pipe(Effect.provide(service({ bin })))
      })
    )
  )

  live("[full] large ones go up and come down in bounded memory", () =>
    Effect.gen(function* () {
      const vendor = yield* Vendor
      const provider = yield* Effect.flatMap(ProviderRegistry, (registry) => registry.get("daytona"))
      const machine = yield* provider.create(yield* P.request(provider, {}, "ns"))
      const piece = new Uint8Array(1024 * 1024).fill(7)
      /** Writes a file of so many pieces and reads it, and yields the most bytes that were held in buffers, the emulator's with them. */
      const mostOf = (pieces: number) =>
        Effect.gen(function* () {
          let most = 0
          let bytes = 0
          let seen = 0
          /** Every sixteen mebibytes. */
          const look = (at: number) =>
            Effect.sync(() => {
              if (at < seen) return
              seen = at + 16 * piece.length
              collectGarbage()
              // The buffers go with the second one.
              collectGarbage()
              most = Math.max(most, process.memoryUsage().arrayBuffers)
            })
          const content = Stream.make(piece).pipe(
            Stream.forever,
            Stream.take(pieces),
            Stream.tap(() => look((bytes += piece.length)))
          )
          assert.deepStrictEqual(yield* machine.writeFiles([{ path: "large", content }]), [])
          bytes = 0
          seen = 0
          yield* machine.readFile("large").pipe(
            Stream.runForEach((chunk) => {
              bytes += chunk.length
              // The first holds the rest back for a while, in which whoever reads ahead would read much of it.
              return Effect.andThen(bytes === chunk.length ? Effect.sleep("300 millis") : Effect.void, look(bytes))
            })
          )
          assert.strictEqual(bytes, pieces * piece.length)
          return most
        })
      // Eight of them are the emulator's.
      assert.isBelow((yield* mostOf(64)) / piece.length, 24)
      assert.strictEqual(vendor.requests.count("toolbox.download"), 1)
      yield* machine.stop("delete")
    })
  )
})

describe("Daytona: a checkpoint", () => {
  for (const [name, endpoint, fault] of [
    ["whose answer is lost", "sandbox.snapshot", Fault.resetAfter],
    ["[full] whose answer a proxy loses", "sandbox.snapshot", Fault.badGateway({ executed: true })],
    ["[full] that meets another change", "sandbox.snapshot", Fault.status(409, "Sandbox state change in progress")],
    ["that appears later than its sandbox goes on", "snapshot.get", Fault.status(404, "not yet")]
  ] as const) {
    live(`${name} is there, once`, () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes, vendor } = yield* box
        vendor.faults.inject(endpoint, fault)
        const { id } = yield* sandboxes.createCheckpoint(sandboxId)
        const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.deepStrictEqual(
          listed.map((checkpoint) => checkpoint.id),
          [id]
        )
        assert.strictEqual(vendor.snapshots().length, 1)
      })
    )
  }

  live("that fails although its sandbox goes on is an error, and is not listed", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes, vendor } = yield* box
      vendor.faults.inject("sandbox.snapshot", Fault.becomes("error", "push failed"))
      const error = yield* Effect.flip(sandboxes.createCheckpoint(sandboxId))
      assert.include(error.message, "push failed")
      assert.deepStrictEqual(yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId)), [])
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    })
  )
})

describe("Daytona: a restore", () => {
  live("makes no sandbox without the secrets of its environment", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { sandboxId } = yield* sandboxes.createSandbox({ env: { TOKEN: Redacted.make("t") } })
      const { id } = yield* sandboxes.createCheckpoint(sandboxId)
      const before = vendor.alive()
      const provider = yield* Effect.flatMap(ProviderRegistry, (registry) => registry.get("daytona"))
      const { restore } = Option.getOrThrow(provider.checkpoints)
      const resolved = yield* provider.resolve({})
      const request = { sandboxId, version: 2, namespace: "tests", config: {}, resolved, missingSecrets: ["env:TOKEN"] }
      const error = yield* Effect.flip(restore(id, request, Option.none()))
      assert.deepInclude(error.reason, { _tag: "SecretsRequired", names: ["env:TOKEN"] })
      assert.deepStrictEqual(vendor.alive(), before)
    })
  )
})

describe("Daytona: a stop", () => {
  live("that fails is StopIncomplete, and is finished by the next", () =>
    Effect.gen(function* () {
      const { id, sandboxId, sandboxes, vendor } = yield* box
      vendor.faults.inject("sandbox.delete", Fault.status(403, "no"))
      const error = yield* Effect.flip(sandboxes.stopSandbox(sandboxId))
      assert.strictEqual(error.reason._tag, "StopIncomplete")
      const record = yield* sandboxes.getSandbox(sandboxId)
      assert.deepInclude(record, { status: "shutdown", stopPending: "delete", externalSandboxId: id })
      yield* sandboxes.stopSandbox(sandboxId)
      assert.deepStrictEqual(vendor.alive(), [])
    })
  )

  for (const [name, fault] of [
    ["whose answer is lost", Fault.resetAfter],
    ["that meets another change", Fault.status(409, "Sandbox state change in progress")],
    ["[full] that somebody else has made", Fault.status(400, "Sandbox is not started", { executed: true })],
    ["[full] that meets a server error", Fault.status(500, "no")]
  ] as const) {
    live(`${name} is a stop`, () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
        vendor.faults.inject("sandbox.stop", fault)
        vendor.faults.inject("sandbox.get", { _tag: "Stale", state: "started" }, { skip: 1 })
        yield* sandboxes.stopSandbox(sandboxId)
        assert.strictEqual(vendor.sandboxes()[0]?.state, "stopped")
        assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Resumed")
      })
    )
  }
})

describe("Daytona: what is told", () => {
  live("holds no key, whatever the vendor repeats, and no secret of a creation", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const secret = "planted-daytona-secret"
      const told = `refused ${vendor.apiKey} ${secret}`
      const config = { env: { TOKEN: Redacted.make(secret) } }
      for (const fault of [Fault.status(403, told), Fault.status(400, told), Fault.becomes("error", told)]) {
        vendor.faults.inject("sandbox.create", fault)
        const error = yield* Effect.flip(sandboxes.createSandbox(config))
        for (const text of [error.message, JSON.stringify(error), inspect(error, { depth: 20 })]) {
          assert.notInclude(text, vendor.apiKey)
          assert.notInclude(text, secret)
        }
      }
    })
  )

  live("of a list that lags behind is what there is", () =>
    Effect.gen(function* () {
      const { id, sandboxId, sandboxes, vendor } = yield* box
      const provider = yield* Effect.flatMap(ProviderRegistry, (registry) => registry.get("daytona"))
      const record = yield* sandboxes.getSandbox(sandboxId)
      vendor.world.delete(vendor.world.find(id))
      while (vendor.sandboxes()[0]?.state !== "destroyed") yield* Effect.sleep("5 millis")
      vendor.faults.inject("sandbox.list", { _tag: "Ghosts" })
      assert.deepStrictEqual(yield* Stream.runCollect(provider.find(record.id)), [])
    })
  )

  it.live("of pages is all of them, or an error", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make({ pageSize: 2 })
        const provider = yield* Daytona.make(optionsFor(emulator))
        for (let index = 0; index < 5; index++) {
          emulator.world.create({ labels: { "sandbox-namespace": index === 2 ? "other" : "ns" } }, "started", "")
        }
        assert.strictEqual((yield* Stream.runCollect(provider.list("ns"))).length, 4)
        assert.strictEqual(emulator.requests.count("sandbox.list"), 2)
        emulator.faults.inject("sandbox.list", Fault.status(403, "no"), { skip: 1 })
        const error = yield* Effect.flip(Stream.runCollect(provider.list("ns")))
        assert.strictEqual(error.reason._tag, "Permission")
      })
    )
  )

  it.live("by a token names its organization, and one that is not known is Authentication", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make()
        const provider = yield* Daytona.make({
          apiUrl: emulator.apiUrl,
          jwtToken: Redacted.make("a-token"),
          organizationId: "an-organization"
        })
        const error = yield* Effect.flip(Stream.runCollect(provider.list("ns")))
        assert.strictEqual(error.reason._tag, "Authentication")
        assert.deepInclude(emulator.requests.all[0]?.headers, {
          authorization: "Bearer a-token",
          "x-daytona-organization-id": "an-organization"
        })
      })
    )
  )
})
