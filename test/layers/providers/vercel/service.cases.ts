/** What a user gets on Vercel: the service over the real SDK and the emulator, and how many requests it takes. */
import { assert, describe, it, layer } from "@effect/vitest"
import { inspect } from "node:util"
import { vi } from "vitest"
import { Effect, Exit, Fiber, FileSystem, Option, Redacted, Stream } from "effect"
import * as Vercel from "../../../../src/layers/providers/Vercel.ts"
import * as Sandbox from "../../../../src/services/Sandbox.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import { newSandboxId } from "../../../../src/testing/internal/stores.ts"
import * as Fault from "../../../emulators/vercel/faults.ts"
import { Counts } from "../../../support/counting.ts"
import { optionsFor, service, Vendor } from "./support.ts"

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const secret = "planted-vercel-secret"

const world = Effect.gen(function* () {
  return { vendor: yield* Vendor, sandboxes: yield* SandboxService, counts: yield* Counts }
})

layer(service(), { excludeTestServices: true, timeout: "60 seconds" })("Vercel", (test) => {
  describe("requests", () => {
    test.effect("a creation is one, a warm command two and no read of a record, a stop at most two", () =>
      Effect.gen(function* () {
        const { counts, sandboxes, vendor } = yield* world
        vendor.requests.reset()
        const { sandboxId } = yield* sandboxes.createSandbox()
        assert.deepStrictEqual(
          vendor.requests.all.map((request) => request.endpoint),
          ["sandbox.create"]
        )
        yield* sandboxes.runCommand(sandboxId, "true")
        vendor.requests.reset()
        counts.reset()
        const { exitCode, stdout } = yield* sandboxes.runCommand(sandboxId, "echo", ["warm"])
        assert.deepStrictEqual([exitCode, stdout], [0, "warm\n"])
        assert.deepStrictEqual(
          vendor.requests.all.map((request) => request.endpoint),
          ["command.start", "command.logs"]
        )
        assert.strictEqual(counts.reads() + counts.writes(), 0)
        vendor.requests.reset()
        yield* sandboxes.stopSandbox(sandboxId)
        assert.isAtMost(vendor.requests.count(), 2)
        assert.deepStrictEqual(vendor.sandboxes(), [])
      })
    )

    test.effect("a creation with reuse is two, and so is the next one of that name", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const config = { persistent: true, vercel: { name: "reused" } }
        vendor.requests.reset()
        const first = yield* sandboxes.createSandbox(config)
        assert.deepStrictEqual(
          vendor.requests.all.map((request) => request.endpoint),
          ["sandbox.get", "sandbox.create"]
        )
        const second = yield* sandboxes.createSandbox(config)
        assert.deepStrictEqual(
          [first.outcome, second.outcome, second.sandboxId],
          ["created", "resumed", first.sandboxId]
        )
        assert.strictEqual(vendor.requests.count("sandbox.create"), 1)
        yield* sandboxes.stopSandbox(first.sandboxId, { delete: true })
      })
    )
  })

  describe("a sandbox", () => {
    test.effect("is what its profile says", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ purpose: "Codex", vercel: { name: "agent" } })
        const record = yield* sandboxes.getSandbox(sandboxId)
        assert.deepInclude(record, {
          persistent: true,
          deleteOnStop: false,
          vcpus: 2,
          timeout: 1_200_000,
          externalSandboxId: "agent"
        })
        const made = vendor.sandbox("agent")
        assert.strictEqual(made.settings.tags?.["sandbox-id"], sandboxId)
        assert.strictEqual(made.settings.tags?.["sandbox-namespace"], "tests")
        assert.strictEqual(made.settings.snapshotExpiration, 7 * 24 * 3_600_000)
        yield* sandboxes.stopSandbox(sandboxId)
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "shutdown")
        assert.strictEqual(vendor.sandboxes().length, 1, "a persistent one is only stopped")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        assert.deepStrictEqual(vendor.sandboxes(), [])
      })
    )

    test.effect("whose lease ended is resumed by its next use, with its disk and without its processes", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true, vercel: { name: "resumed" } })
        yield* sandboxes.writeFiles(sandboxId, [{ path: "kept", content: "here" }])
        const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["300"])
        yield* vendor.expire("resumed")
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "kept")), "here")
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "lost")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("that is stopped is not booted by anything but a reconnect", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true, vercel: { name: "stopped" } })
        yield* sandboxes.stopSandbox(sandboxId)
        vendor.requests.reset()
        const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
        assert.strictEqual(error.reason._tag, "Stopped")
        yield* sandboxes.stopSandbox(sandboxId)
        assert.strictEqual(vendor.requests.count("sandbox.resume"), 0)
        assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Resumed")
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("that does not persist is made anew, and never resumed from what it was made of", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox()
        // A checkpoint boots it from that snapshot: the vendor would resume it silently from then on.
        yield* sandboxes.writeFiles(sandboxId, [{ path: "old", content: "x" }])
        yield* sandboxes.createCheckpoint(sandboxId)
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "old")), "x")
        yield* vendor.expire(ref.externalSandboxId ?? "")
        const error = yield* Effect.flip(sandboxes.readFile(sandboxId, "old"))
        assert.strictEqual(`${error._tag}.${error.reason._tag}`, "PlatformError.NotFound")
        const record = yield* sandboxes.getSandbox(sandboxId)
        assert.notStrictEqual(record.externalSandboxId, ref.externalSandboxId)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("that does not persist is made anew under a name of its own, too, and keeps its checkpoints", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ vercel: { name: "brief" } })
        const { id } = yield* sandboxes.createCheckpoint(sandboxId)
        yield* vendor.expire("brief")
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.include(
          listed.map((checkpoint) => checkpoint.id),
          id
        )
        yield* sandboxes.stopSandbox(sandboxId)
        assert.notInclude(
          vendor.sandboxes().map(({ name }) => name),
          "brief"
        )
      })
    )

    for (const how of ["at once", "after a stop"] as const) {
      test.effect(`that was made anew takes the machine before it along when it is deleted ${how}`, () =>
        Effect.gen(function* () {
          const { sandboxes, vendor } = yield* world
          const { ref, sandboxId } = yield* sandboxes.createSandbox({ deleteOnStop: false })
          yield* vendor.expire(ref.externalSandboxId ?? "")
          assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
          const own = () => vendor.sandboxes().filter(({ settings }) => settings.tags?.["sandbox-id"] === sandboxId)
          assert.strictEqual(own().length, 2)
          if (how === "after a stop") yield* sandboxes.stopSandbox(sandboxId)
          yield* sandboxes.stopSandbox(sandboxId, { delete: true })
          assert.deepStrictEqual(own(), [])
        })
      )
    }

    for (const [whose, tags, taken] of [
      ["nobody's", undefined, true],
      ["an earlier one's of ours", { "sandbox-id": newSandboxId(), "sandbox-namespace": "tests" }, true],
      ["another deployment's", { "sandbox-id": newSandboxId(), "sandbox-namespace": "production" }, false]
    ] as const) {
      test.effect(`of a name whose machine is spent and ${whose} is ${taken ? "made anew" : "refused"}`, () =>
        Effect.gen(function* () {
          const { sandboxes, vendor } = yield* world
          yield* Effect.promise(async () => {
            const { Sandbox } = await import("@vercel/sandbox")
            return Sandbox.create({
              ...vendor.credentials,
              fetch: vendor.fetch,
              name: "spent",
              persistent: false,
              ...(tags === undefined ? {} : { tags })
            })
          })
          yield* vendor.expire("spent")
          const before = vendor.sandbox("spent").sessions.at(-1)?.id
          const made = yield* Effect.result(
            sandboxes.createSandbox({ vercel: { name: "spent", reuse: true, vcpus: 2 } })
          )
          if (taken) {
            assert.isTrue(made._tag === "Success")
            const id = made._tag === "Success" ? made.success.sandboxId : ""
            assert.strictEqual((yield* sandboxes.runCommand(id, "true")).exitCode, 0)
            yield* sandboxes.stopSandbox(id, { delete: true })
          } else {
            assert.isTrue(made._tag === "Failure" && made.failure.reason._tag === "NameInUse")
            assert.strictEqual(vendor.sandbox("spent").sessions.at(-1)?.id, before)
            yield* vendor.vanish("spent")
          }
        })
      )
    }

    test.effect("of a name that another namespace has is refused, and left alone", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const foreign = yield* Vercel.make(optionsFor(vendor))
        const config = { persistent: true, vercel: { name: "taken" } }
        const resolved = yield* foreign.resolve(config)
        const owner = newSandboxId()
        const made = yield* foreign.create({
          // The namespace of another deployment, with a sandbox that we know nothing of.
          sandboxId: owner,
          version: 1,
          namespace: "production",
          config,
          resolved
        })
        const error = yield* Effect.flip(sandboxes.createSandbox(config))
        assert.strictEqual(error.reason._tag, "NameInUse")
        assert.strictEqual(vendor.sandbox("taken").settings.tags?.["sandbox-id"], owner)
        yield* made.stop("delete")
      })
    )

    for (const tagged of [true, false]) {
      test.effect(
        `whose name ${tagged ? "another deployment" : "somebody else"} has by now is gone, and theirs stays`,
        () =>
          Effect.gen(function* () {
            const { sandboxes, vendor } = yield* world
            const config = { persistent: true, vercel: { name: "theirs" } }
            const { sandboxId } = yield* sandboxes.createSandbox(config)
            yield* vendor.vanish("theirs")
            const tags = { "sandbox-id": newSandboxId(), "sandbox-namespace": "production" }
            yield* Effect.promise(async () => {
              const { Sandbox } = await import("@vercel/sandbox")
              return Sandbox.create({
                ...vendor.credentials,
                fetch: vendor.fetch,
                name: "theirs",
                persistent: true,
                ...(tagged ? { tags } : {})
              })
            })
            const session = vendor.sandbox("theirs").sessions.at(-1)
            const before = { id: session?.id, commands: session?.commands.size }
            if (!tagged) {
              const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
              assert.strictEqual(error.reason._tag, "Gone")
            }
            yield* sandboxes.stopSandbox(sandboxId, { delete: true })
            const after = vendor.sandbox("theirs").sessions.at(-1)
            assert.deepStrictEqual({ id: after?.id, commands: after?.commands.size }, before)
            assert.strictEqual(after?.status, "running")
            const ref = { externalId: "theirs", incarnation: after?.id ?? "" }
            yield* (yield* Vercel.make(optionsFor(vendor))).stop(ref, "delete")
          })
      )
    }

    test.effect("that was booted by somebody else meanwhile is still the one that is deleted", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true, vercel: { name: "booted" } })
        yield* vendor.expire("booted")
        yield* Effect.promise(async () => {
          const { Sandbox } = await import("@vercel/sandbox")
          return Sandbox.get({ ...vendor.credentials, fetch: vendor.fetch, name: "booted", resume: true })
        })
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        assert.notInclude(
          vendor.sandboxes().map(({ name }) => name),
          "booted"
        )
      })
    )

    test.effect("that nobody's record owns is adopted by its name, if it is what is asked for", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const config = { persistent: true, ports: [3000], vercel: { name: "adopted" } }
        yield* Effect.promise(async () => {
          const { Sandbox } = await import("@vercel/sandbox")
          return Sandbox.create({
            ...vendor.credentials,
            fetch: vendor.fetch,
            name: "adopted",
            ports: [3000],
            resources: { vcpus: 1 },
            persistent: true
          })
        })
        const mismatch = yield* Effect.flip(sandboxes.createSandbox({ ...config, ports: [3001] }))
        assert.isTrue(mismatch.reason._tag === "ConfigMismatch" && mismatch.reason.fields.includes("ports"))
        const { outcome, sandboxId } = yield* sandboxes.createSandbox({ ...config, purpose: "second try" })
        assert.strictEqual(outcome, "created")
        assert.strictEqual(vendor.sandbox("adopted").settings.tags?.["sandbox-id"], sandboxId)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("that differs in anything that the vendor tells is not adopted, and left alone", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        yield* Effect.promise(async () => {
          const { Sandbox } = await import("@vercel/sandbox")
          return Sandbox.create({
            ...vendor.credentials,
            fetch: vendor.fetch,
            name: "other",
            resources: { vcpus: 1 },
            persistent: true,
            region: "sfo1",
            runtime: "node22",
            timeout: 600_000,
            snapshotExpiration: 2 * 86_400_000
          })
        })
        const same = { name: "other", region: "sfo1", snapshotExpiration: "2 days" } as const
        const config = { persistent: true, runtime: "node22", timeout: "10 minutes" } as const
        for (const [field, more] of [
          ["vercel.region", { vercel: { ...same, region: "iad1" } }],
          ["vercel.snapshotExpiration", { vercel: { ...same, snapshotExpiration: "3 days" } }],
          ["vercel.vcpus", { vercel: { ...same, vcpus: 4 } }],
          ["timeout", { vercel: same, timeout: "11 minutes" }],
          ["runtime", { vercel: same, runtime: "node24" }],
          ["ports", { vercel: same, ports: [80] }],
          ["persistent", { vercel: { ...same, reuse: true }, persistent: false }]
        ] as const) {
          const error = yield* Effect.flip(sandboxes.createSandbox({ ...config, ...more }))
          assert.deepStrictEqual(error.reason._tag === "ConfigMismatch" && error.reason.fields, [field])
        }
        assert.isUndefined(vendor.sandbox("other").settings.tags)
        // The environment is not told: it stays what it was made with.
        const { sandboxId } = yield* sandboxes.createSandbox({ ...config, vercel: same, env: { LATE: "1" } })
        const { stdout } = yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "echo $LATE"])
        assert.strictEqual(stdout, "\n")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    for (const how of ["at once", "although answers are lost", "one just after the other"]) {
      test.effect(`that two deployments adopt ${how} is one's, and the other is told`, () =>
        Effect.gen(function* () {
          const { vendor } = yield* world
          yield* Effect.promise(async () => {
            const { Sandbox } = await import("@vercel/sandbox")
            return Sandbox.create({
              ...vendor.credentials,
              fetch: vendor.fetch,
              name: "contested",
              resources: { vcpus: 1 },
              persistent: true
            })
          })
          vendor.faults.clear()
          vendor.requests.reset()
          if (how === "although answers are lost") vendor.faults.inject("sandbox.update", Fault.resetAfter)
          // Both have looked at it before one of them writes.
          const both = Promise.withResolvers<void>()
          const turn = Promise.withResolvers<void>()
          vendor.faults.inject("sandbox.update", Fault.gate({ before: both.promise }))
          vendor.faults.inject("sandbox.update", Fault.gate({ before: turn.promise }))
          const adopt = Effect.fnUntraced(function* (namespace: string) {
            const provider = yield* Vercel.make(optionsFor(vendor))
            const sandboxId = newSandboxId()
            const config = { persistent: true, vercel: { name: "contested" } }
            const resolved = yield* provider.resolve(config)
            const request = { sandboxId, version: 1, namespace, config, resolved }
            return { sandboxId, outcome: yield* Effect.result(provider.create(request)) }
          })
          const fiber = yield* Effect.forkChild(Effect.all([adopt("staging"), adopt("production")], { concurrency: 2 }))
          while (vendor.requests.count("sandbox.update") < 2) yield* Effect.promise(() => new Promise(setImmediate))
          both.resolve()
          if (how === "one just after the other") {
            // Whoever looked at once would find its own tags.
            const [first] = vendor.requests.of("sandbox.update")
            for (let turns = 0; turns < 20_000; turns += first?.status === undefined ? 0 : 1) {
              yield* Effect.promise(() => new Promise(setImmediate))
            }
          }
          turn.resolve()
          const results = yield* Fiber.join(fiber)
          const winners = results.filter(({ outcome }) => outcome._tag === "Success")
          assert.strictEqual(winners.length, 1)
          assert.strictEqual(vendor.sandbox("contested").settings.tags?.["sandbox-id"], winners[0]?.sandboxId)
          const loser = results.find(({ outcome }) => outcome._tag === "Failure")
          assert.isTrue(loser?.outcome._tag === "Failure" && loser.outcome.failure.reason._tag === "NameInUse")
          for (const { outcome } of winners) if (outcome._tag === "Success") yield* outcome.success.stop("delete")
        })
      )
    }

    test.effect("that is adopted gets the network policy that was asked for", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        yield* Effect.promise(async () => {
          const { Sandbox } = await import("@vercel/sandbox")
          return Sandbox.create({
            ...vendor.credentials,
            fetch: vendor.fetch,
            name: "open",
            resources: { vcpus: 1 },
            persistent: true
          })
        })
        const { sandboxId } = yield* sandboxes.createSandbox({
          persistent: true,
          vercel: { name: "open", networkPolicy: "deny-all" }
        })
        const deny = { mode: "deny-all" }
        assert.deepStrictEqual<unknown>(vendor.sandbox("open").settings.networkPolicy, deny)
        assert.deepStrictEqual<unknown>(vendor.sandbox("open").sessions.at(-1)?.networkPolicy, deny)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("is one, when two create its name at once", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const config = { persistent: true, vercel: { name: "raced" } }
        const results = yield* Effect.all([sandboxes.createSandbox(config), sandboxes.createSandbox(config)], {
          concurrency: 2
        })
        assert.strictEqual(new Set(results.map(({ sandboxId }) => sandboxId)).size, 1)
        assert.strictEqual(vendor.sandboxes().filter(({ name }) => name === "raced").length, 1)
        yield* sandboxes.stopSandbox(results[0].sandboxId, { delete: true })
      })
    )
  })

  describe("checkpoints", () => {
    test.effect("end processes only when they may, and keep their comments", () =>
      Effect.gen(function* () {
        const { sandboxes } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "one" }])
        const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["300"])
        const refused = yield* Effect.flip(sandboxes.createCheckpoint(sandboxId))
        assert.strictEqual(refused.reason._tag, "ProcessesRunning")
        const checkpoint = yield* sandboxes.createCheckpoint(sandboxId, { comment: "mine", stopProcesses: true })
        assert.strictEqual(checkpoint.comment, "mine")
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "lost")
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "two" }])
        const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.strictEqual(listed.find(({ id }) => id === checkpoint.id)?.comment, "mine")
        const ref = yield* sandboxes.restoreCheckpoint(sandboxId, checkpoint.id)
        assert.strictEqual(ref.sandboxId, sandboxId)
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "f")), "one")
        yield* sandboxes.deleteCheckpoint(sandboxId, checkpoint.id)
        const again = yield* Effect.flip(sandboxes.restoreCheckpoint(sandboxId, checkpoint.id))
        assert.strictEqual(again.reason._tag, "NotFound")
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "f")), "one", "a failed restore changes nothing")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("come back into a sandbox whose name is gone", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox({ persistent: true, recovery: "restore" })
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "saved" }])
        yield* sandboxes.createCheckpoint(sandboxId)
        yield* vendor.vanish(ref.externalSandboxId ?? "")
        const outcome = yield* sandboxes.reconnectToSandbox(sandboxId)
        assert.strictEqual(outcome._tag, "Restored")
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "f")), "saved")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )
  })

  describe("checkpoints of a name that is gone", () => {
    test.effect("are listed, restored and deleted under the next one", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox({ persistent: true, recovery: "restore" })
        const ids = Effect.map(Stream.runCollect(sandboxes.listCheckpoints(sandboxId)), (all) =>
          all.map(({ id }) => id)
        )
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "first" }])
        const first = yield* sandboxes.createCheckpoint(sandboxId)
        yield* sandboxes.writeFiles(sandboxId, [{ path: "f", content: "second" }])
        const second = yield* sandboxes.createCheckpoint(sandboxId)
        yield* vendor.vanish(ref.externalSandboxId ?? "")
        const outcome = yield* sandboxes.reconnectToSandbox(sandboxId)
        assert.isTrue(outcome._tag === "Restored" && outcome.checkpointId === second.id)
        assert.notStrictEqual(outcome.ref.externalSandboxId, ref.externalSandboxId)
        const third = yield* sandboxes.createCheckpoint(sandboxId)
        assert.deepStrictEqual(yield* ids, [third.id, second.id, first.id])
        yield* sandboxes.restoreCheckpoint(sandboxId, first.id)
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "f")), "first")
        yield* sandboxes.deleteCheckpoint(sandboxId, first.id)
        assert.notInclude(yield* ids, first.id)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )
  })

  describe("secrets", () => {
    test.effect("of the network policy reach the vendor's proxy and nobody else", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        vendor.requests.reset()
        const { ref, sandboxId } = yield* sandboxes.createSandbox({
          vercel: {
            networkPolicy: {
              allow: {
                "api.example.com": [{ transform: [{ headers: { authorization: Redacted.make(`Bearer ${secret}`) } }] }]
              }
            }
          }
        })
        assert.include(
          JSON.stringify(vendor.sandbox(ref.externalSandboxId ?? "").settings.networkPolicy),
          "api.example.com"
        )
        assert.deepStrictEqual(vendor.requests.find(secret), ["sandbox.create body"])
        const record = yield* sandboxes.getSandbox(sandboxId)
        assert.notInclude(JSON.stringify(record), secret)
        assert.include(JSON.stringify(record), "network:api.example.com[0.0]:authorization")
        const inside = yield* sandboxes.runCommand(sandboxId, "sh", [
          "-c",
          "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c emulator"
        ])
        assert.notInclude(inside.stdout, secret)
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("of a creation that is refused with them are in no error and no record", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        for (const status of [400, 403, 500]) {
          vendor.faults.inject("sandbox.create", Fault.status(status, "bad_request", `no such value: ${secret}`))
          const sandboxId = crypto.randomUUID()
          const error = yield* Effect.flip(
            sandboxes.createSandbox(
              status === 403
                ? {
                    vercel: {
                      networkPolicy: { allow: { a: [{ transform: [{ headers: { x: Redacted.make(secret) } }] }] } }
                    }
                  }
                : { env: { TOKEN: Redacted.make(secret) } },
              { sandboxId }
            )
          ).pipe(Effect.orElseSucceed(() => undefined))
          const record = yield* sandboxes.getSandbox(sandboxId)
          assert.notInclude(`${error?.message} ${JSON.stringify(error)} ${JSON.stringify(record)}`, secret)
          assert.isTrue(error === undefined || inspect(error, { depth: 9 }).includes(secret) === false)
          yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        }
        vendor.faults.clear()
      })
    )

    test.effect("of a command travel in a file, never in a request's text or a process list", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox()
        vendor.requests.reset()
        const { stdout } = yield* sandboxes.runCommand(sandboxId, "sh", ["-c", 'printf %s "$TOKEN"'], {
          env: { TOKEN: Redacted.make(secret) }
        })
        assert.strictEqual(stdout, secret)
        assert.deepStrictEqual(vendor.requests.find(secret), [])
        assert.include(
          vendor.requests.all.map((request) => request.endpoint),
          "file.write"
        )
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )
  })

  test.effect("the SDK's own object is there, of this sandbox only", () =>
    Effect.gen(function* () {
      const { sandboxes } = yield* world
      const client = yield* Vercel.VercelClient
      const { ref, sandboxId } = yield* sandboxes.createSandbox()
      const machine = { externalId: ref.externalSandboxId ?? "", incarnation: "" }
      const native = yield* client.native(machine, sandboxId)
      assert.strictEqual(native.name, machine.externalId)
      const error = yield* Effect.flip(client.native(machine, newSandboxId()))
      assert.strictEqual(error.reason._tag, "Gone")
      yield* sandboxes.stopSandbox(sandboxId)
    })
  )

  test.effect("a program that knows nothing of sandboxes runs inside", () =>
    Effect.gen(function* () {
      const sandbox = yield* Sandbox.scoped()
      const content = yield* Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        yield* fs.makeDirectory("a/b", { recursive: true })
        yield* fs.writeFileString("a/b/c", "content")
        yield* fs.rename("a/b/c", "a/d")
        return yield* fs.readFileString("a/d")
      }).pipe(Effect.provide(sandbox.platform))
      assert.strictEqual(content, "content")
    }).pipe(Effect.scoped)
  )
})

describe("without a record", () => {
  it.live("a sandbox is made, used by exact bytes, and deleted with its Scope", () =>
    Effect.gen(function* () {
      const vendor = yield* Vendor
      const exit = yield* Effect.gen(function* () {
        const sandbox = yield* Vercel.createVercelSandbox({
          creds: { ...vendor.credentials, token: Redacted.make(vendor.credentials.token) },
          fetch: vendor.fetch
        })
        assert.deepStrictEqual([sandbox.vcpus, sandbox.runtime], [2, "node22"])
        const options = { guestDirectory: "../tmp/.effect-sandbox" }
        const bytes = yield* Vercel.runCommandInSandbox(sandbox, "printf", ["\\000\\377é"], options)
        assert.deepStrictEqual([...bytes.stdout], [0, 255, 0xc3, 0xa9])
        const failed = yield* Vercel.runCommandInSandbox(sandbox, "sh", ["-c", 'echo "$X" >&2; exit 3'], {
          ...options,
          cwd: "/",
          env: { X: "y" }
        })
        assert.deepStrictEqual([failed.exitCode, text(failed.stderr)], [3, "y\n"])
        const missing = yield* Effect.flip(Vercel.runCommandInSandbox(sandbox, "no-such-program", [], options))
        assert.strictEqual(missing.reason._tag, "NotFound")
        const late = yield* Effect.timeoutOption(
          Vercel.runCommandInSandbox(sandbox, "sleep", ["30471"], options),
          "300 millis"
        )
        assert.isTrue(Option.isNone(late))
        const left = yield* Vercel.runCommandInSandbox(
          sandbox,
          "sh",
          ["-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done | grep -c '^sleep 30471'"],
          options
        )
        assert.strictEqual(text(left.stdout), "0\n", "interrupting it kills")
        assert.strictEqual(vendor.sandboxes().length, 1)
      }).pipe(Effect.scoped, Effect.exit)
      assert.deepStrictEqual(exit, Exit.void)
      assert.deepStrictEqual(vendor.sandboxes(), [])
    }).pipe(Effect.provide(service()), Effect.scoped)
  )

  it.live("a command runs in a sandbox of the SDK's own, too, and what becomes of that is told", () =>
    Effect.gen(function* () {
      const vendor = yield* Vendor
      const options = { guestDirectory: "../tmp/.effect-sandbox" }
      const sandbox = yield* Effect.promise(async () => {
        const { Sandbox } = await import("@vercel/sandbox")
        return Sandbox.create({ ...vendor.credentials, fetch: vendor.fetch, name: "foreign", env: { OF: "sandbox" } })
      })
      vendor.requests.reset()
      const result = yield* Vercel.runCommandInSandbox(sandbox, "sh", ["-c", 'printf "$OF\\000\\377"; exit 4'], options)
      assert.deepStrictEqual([result.exitCode, ...result.stdout], [4, ...Buffer.from("sandbox"), 0, 255])
      assert.deepStrictEqual(
        vendor.requests.all.map(({ endpoint }) => endpoint),
        ["command.start", "command.logs"]
      )
      // Our fetch is not in its way: what was lost the SDK sends again, and it still runs once.
      vendor.faults.inject("command.start", Fault.resetAfter)
      const counted = ["-c", "echo run >>runs; wc -l <runs"]
      assert.strictEqual(text((yield* Vercel.runCommandInSandbox(sandbox, "sh", counted, options)).stdout).trim(), "1")
      vendor.faults.inject("command.logs", Fault.torn(20))
      assert.strictEqual(text((yield* Vercel.runCommandInSandbox(sandbox, "sh", counted, options)).stdout).trim(), "2")
      yield* vendor.expire("foreign")
      const error = yield* Effect.flip(Vercel.runCommandInSandbox(sandbox, "true", [], options))
      assert.strictEqual(error.reason._tag, "NotRunning")
      assert.strictEqual(vendor.requests.count("sandbox.resume"), 0)
    }).pipe(Effect.provide(service()), Effect.scoped)
  )

  it.live("an ambient OIDC token does not take the place of the one that was given", () =>
    Effect.gen(function* () {
      const jwt = (owner: string) =>
        ["e30", Buffer.from(JSON.stringify({ owner_id: owner, project_id: "x" })).toString("base64url"), "s"].join(".")
      vi.stubEnv("VERCEL_OIDC_TOKEN", jwt("ambient"))
      yield* Effect.addFinalizer(() => Effect.sync(() => vi.unstubAllEnvs()))
      const credentials = { token: jwt("given"), teamId: "team_given", projectId: "prj_given" }
      yield* Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox()
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        yield* sandboxes.stopSandbox(sandboxId)
        for (const request of vendor.requests.all) {
          assert.strictEqual(request.headers.authorization, `Bearer ${credentials.token}`)
          assert.strictEqual(request.query["teamId"], "team_given")
        }
      }).pipe(Effect.provide(service({ credentials })))
    }).pipe(Effect.scoped)
  )

  it.live("a set of credentials that is refused is said as such, and not echoed", () =>
    Effect.gen(function* () {
      const { sandboxes } = yield* world
      const error = yield* Effect.flip(sandboxes.createSandbox())
      assert.include(["Authentication", "Permission"], error.reason._tag)
      assert.notInclude(`${error} ${JSON.stringify(error)}`, secret)
    }).pipe(Effect.provide(service({}, { token: Redacted.make(secret) })), Effect.scoped)
  )
})
