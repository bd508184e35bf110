/** What a user gets on Sprites: the service over the API and the emulator, and how many requests it takes. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Effect, Layer, Option, Redacted, Schedule, Stream, Tracer } from "effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { inspect } from "node:util"
import * as Sprites from "../../../../src/layers/providers/Sprites.ts"
import * as Reconcile from "../../../../src/programs/reconcile.ts"
import { SandboxService } from "../../../../src/services/SandboxService.ts"
import { settings } from "../../../support/embedded.ts"
import { Counts } from "../../../support/counting.ts"
import { optionsFor, service, Vendor } from "./support.ts"
import { commandOf, deadlineIn, until } from "./waiting.ts"

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const secret = "planted-sprites-secret"

const world = Effect.gen(function* () {
  return { vendor: yield* Vendor, sandboxes: yield* SandboxService, counts: yield* Counts }
})

layer(service(), { excludeTestServices: true, timeout: "60 seconds" })("Sprites", (test) => {
  describe("requests", () => {
    test.effect("a creation is two, a warm command one and no read of a record, a stop two", () =>
      Effect.gen(function* () {
        const { counts, sandboxes, vendor } = yield* world
        vendor.requests.reset()
        const { sandboxId } = yield* sandboxes.createSandbox()
        assert.deepStrictEqual(vendor.requests.names, ["sprite.create", "exec"])
        yield* sandboxes.runCommand(sandboxId, "true")
        vendor.requests.reset()
        counts.reset()
        const { exitCode, stdout } = yield* sandboxes.runCommand(sandboxId, "echo", ["warm"])
        assert.deepStrictEqual([exitCode, stdout], [0, "warm\n"])
        assert.deepStrictEqual(vendor.requests.names, ["exec"])
        assert.strictEqual(counts.reads() + counts.writes(), 0)
        vendor.requests.reset()
        yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "x" }])
        assert.deepStrictEqual(vendor.requests.names, ["fs.write", "exec"])
        vendor.requests.reset()
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "file")), "x")
        assert.deepStrictEqual(vendor.requests.names, ["fs.read"])
        vendor.requests.reset()
        yield* sandboxes.stopSandbox(sandboxId)
        assert.deepStrictEqual(vendor.requests.names, ["sprite.get", "sprite.delete"])
        assert.deepStrictEqual(vendor.sprites(), [])
      })
    )
  })

  describe("a sandbox", () => {
    test.effect("is what its config says, and the record says what it has", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        vendor.requests.reset()
        const { sandboxId } = yield* sandboxes.createSandbox({
          resources: { vcpus: 2 },
          env: { PLAIN: "it's\n$plain", TOKEN: Redacted.make(secret) },
          sprites: {
            name: "box",
            waitForCapacity: false,
            urlSettings: { auth: "public" },
            deleteOnStop: false,
            labels: ["team-a"],
            networkPolicy: { allow: ["a.com"] }
          }
        })
        assert.deepStrictEqual(vendor.requests.names, [
          "sprite.get",
          "sprite.create",
          "policy.set",
          "exec",
          "fs.write",
          "sprite.update"
        ])
        const record = yield* sandboxes.getSandbox(sandboxId)
        assert.deepInclude(record, {
          persistent: true,
          deleteOnStop: false,
          vcpus: 8,
          externalSandboxId: "box",
          sandboxUrl: "https://box-emu1.sprites.app"
        })
        const made = vendor.sprite("box")
        assert.deepInclude(JSON.parse(vendor.requests.of("sprite.create")[0]?.body ?? ""), {
          name: "box",
          wait_for_capacity: false,
          url_settings: { auth: "public" }
        })
        assert.include(made.labels, "team-a")
        assert.include(made.labels, `effect-sandbox-id-${sandboxId}`)
        assert.deepStrictEqual(made.rules, [
          { domain: "a.com", action: "allow" },
          { domain: "*", action: "deny" }
        ])
        // Over the image's own, and below the command's.
        const { stdout } = yield* sandboxes.runCommand(
          sandboxId,
          "sh",
          ["-c", 'printf "%s|%s|%s|%s" "$PLAIN" "$TOKEN" "$HOME" "$MORE"'],
          { env: { MORE: "more" } }
        )
        assert.strictEqual(stdout, `it's\n$plain|${secret}|${made.home}|more`)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect("keeps a planted secret out of urls, messages and spans", () => {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      return Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        vendor.requests.reset()
        const { sandboxId } = yield* sandboxes.createSandbox({ env: { TOKEN: Redacted.make(secret) } })
        const ran = yield* sandboxes.runCommand(
          sandboxId,
          "sh",
          ["-c", 'printf %s "$A$1"', "sh", Redacted.make(secret)],
          {
            env: { A: Redacted.make(secret) }
          }
        )
        assert.strictEqual(ran.stdout, `${secret}${secret}`)
        // What is no secret is in no url either.
        yield* sandboxes.runCommand(sandboxId, "echo", ["plain-argument"], { env: { B: "plain-value" } })
        for (const planted of [secret, vendor.token, "plain-argument", "plain-value"]) {
          assert.deepStrictEqual(vendor.requests.find(planted), [])
        }
        const errors = yield* Effect.all([
          Effect.flip(sandboxes.runCommand(sandboxId, "no-such-program", [Redacted.make(secret)])),
          Effect.flip(sandboxes.runCommand(sandboxId, "true", [], { cwd: "none", env: { A: Redacted.make(secret) } })),
          Effect.flip(sandboxes.createSandbox({ env: { A: Redacted.make(secret) }, runtime: "node24" }))
        ])
        assert.notInclude(inspect(errors, { depth: 20 }), secret)
        yield* sandboxes.stopSandbox(sandboxId)
        assert.isAbove(spans.length, 10)
        const told = inspect(
          spans.map((span) => [span.name, [...span.attributes]]),
          { depth: 6 }
        )
        for (const planted of [secret, vendor.token]) assert.notInclude(told, planted)
      }).pipe(Effect.withTracer(tracer))
    })

    test.effect("has arguments longer than any url, and kills what is interrupted", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox()
        vendor.requests.reset()
        const args = Array.from({ length: 40 }, (_, index) => `${index}:${"x".repeat(5_000)}`)
        const { stdout } = yield* sandboxes.runCommand(sandboxId, "sh", ["-c", 'printf %s "$*" | wc -c', "sh", ...args])
        assert.strictEqual(Number(stdout), args.join(" ").length)
        assert.isBelow(Math.max(...vendor.requests.all.map(({ url }) => url.length)), 400)
        const up = yield* sandboxes
          .streamCommand(sandboxId, "sh", ["-c", "echo up; exec sleep 1000"])
          .pipe(Stream.runHead)
        assert.isTrue(Option.isSome(up))
        const sprite = vendor.sprite(ref.externalSandboxId ?? "")
        yield* until(
          "the command is ended",
          () => !sprite.processes().some((pid) => commandOf(pid).includes("sleep\u00001000"))
        )
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("with a name and reuse is found again, with its disk, asleep or stopped", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const config = { persistent: true, sprites: { name: "reused" } }
        vendor.requests.reset()
        const first = yield* sandboxes.createSandbox(config)
        assert.deepStrictEqual(vendor.requests.names, ["sprite.get", "sprite.create", "exec"])
        yield* sandboxes.writeFiles(first.sandboxId, [{ path: "kept", content: "here" }])
        yield* vendor.cool("reused")
        assert.strictEqual(text(yield* sandboxes.readFile(first.sandboxId, "kept")), "here")
        const again = yield* sandboxes.createSandbox(config)
        assert.deepStrictEqual([again.outcome, again.sandboxId], ["resumed", first.sandboxId])
        yield* sandboxes.stopSandbox(first.sandboxId)
        assert.strictEqual(vendor.sprites().length, 1, "a persistent one is only put to sleep")
        const stopped = yield* Effect.flip(sandboxes.runCommand(first.sandboxId, "true"))
        assert.strictEqual(stopped.reason._tag, "Stopped")
        yield* sandboxes.stopSandbox(first.sandboxId)
        assert.strictEqual((yield* sandboxes.reconnectToSandbox(first.sandboxId))._tag, "Resumed")
        assert.strictEqual(text(yield* sandboxes.readFile(first.sandboxId, "kept")), "here")
        const taken = yield* Effect.flip(
          sandboxes.createSandbox({ persistent: true, sprites: { name: "reused", reuse: false } })
        )
        assert.strictEqual(taken.reason._tag, "NameInUse")
        yield* sandboxes.stopSandbox(first.sandboxId, { delete: true })
        assert.deepStrictEqual(vendor.sprites(), [])
      })
    )

    test.effect("adopts a sprite that nobody owns, and not one of another deployment", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const make = (name: string, labels: ReadonlyArray<string>) =>
          Effect.promise(() =>
            fetch(`${vendor.origin}/v1/sprites`, {
              method: "POST",
              headers: { authorization: `Bearer ${vendor.token}` },
              body: JSON.stringify({ name, labels })
            })
          )
        yield* make("nobodys", ["theirs"])
        yield* make("others", [`effect-sandbox-id-${crypto.randomUUID()}`, "effect-sandbox-ns-abcdef"])
        const { sandboxId } = yield* sandboxes.createSandbox({
          sprites: { name: "nobodys", reuse: true, labels: ["ours"] }
        })
        assert.includeMembers(
          [...vendor.sprite("nobodys").labels],
          ["theirs", "ours", `effect-sandbox-id-${sandboxId}`]
        )
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        const error = yield* Effect.flip(sandboxes.createSandbox({ sprites: { name: "others", reuse: true } }))
        assert.strictEqual(error.reason._tag, "NameInUse")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        yield* vendor.vanish("others")
      })
    )

    test.effect("whose lease ends kills what runs in it, and is resumed by its next use", () =>
      Effect.gen(function* () {
        const { sandboxes } = yield* world
        const { sandboxId } = yield* sandboxes.createSandbox({ timeout: "5 seconds", persistent: true })
        yield* sandboxes.extendTimeout(sandboxId, "6 seconds")
        const process = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["300"])
        const exit = yield* process.exit
        assert.deepInclude(exit, { code: 143, reason: "timeout" })
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(process.processId)).status, "killed")
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )

    test.effect(
      "that is not to be kept goes with its lease once reconcile comes by, and its next use makes it anew",
      () =>
        Effect.gen(function* () {
          const { sandboxes, vendor } = yield* world
          const { ref, sandboxId } = yield* sandboxes.createSandbox({ timeout: "1 second", persistent: false })
          const name = ref.externalSandboxId ?? ""
          yield* vendor.cool(name)
          const steps = yield* Effect.map(Reconcile.run({ grace: "1 millis" }), (report) => {
            assert.deepStrictEqual(report.failures, [])
            return report.steps.filter(({ step }) => step.sandboxId === sandboxId).map(({ step }) => step._tag)
          }).pipe(Effect.repeat({ until: (found) => found.length > 0, schedule: Schedule.spaced("100 millis") }))
          assert.deepStrictEqual(steps, ["MachineGone"])
          assert.notInclude(
            vendor.sprites().map((sprite) => sprite.name),
            name
          )
          assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
          yield* sandboxes.stopSandbox(sandboxId)
        })
    )

    test.effect("that goes on longer takes what runs in it along", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox({ timeout: "1 hour" })
        const process = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["300"])
        const before = yield* deadlineIn(vendor.sprite(ref.externalSandboxId ?? "").root)
        yield* sandboxes.extendTimeout(sandboxId, "3 hours")
        const after = yield* deadlineIn(vendor.sprite(ref.externalSandboxId ?? "").root)
        assert.isAbove(after - before, 7_000_000)
        yield* process.signal("SIGKILL")
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("has one port: 8080, or the one of a service", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const plain = yield* sandboxes.createSandbox({ ports: [8080] })
        const { headers, url } = yield* sandboxes.getPortUrl(plain.sandboxId, 8080)
        assert.match(url, /^https:\/\/sbx-.*\.sprites\.app$/)
        assert.strictEqual(
          Redacted.value(headers["authorization"] ?? assert.fail("no header")),
          `Bearer ${vendor.token}`
        )
        const other = yield* sandboxes.createSandbox({ ports: [3000], sprites: { urlSettings: { auth: "public" } } })
        const error = yield* Effect.flip(sandboxes.getPortUrl(other.sandboxId, 3000))
        assert.strictEqual(error.reason._tag, "UnsupportedCapability")
        assert.include(error.message, "http_port")
        vendor.sprite(other.ref.externalSandboxId ?? "").services.set("web", { name: "web", http_port: 3000 })
        assert.deepStrictEqual((yield* sandboxes.getPortUrl(other.sandboxId, 3000)).headers, {})
        for (const { sandboxId } of [plain, other]) yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("has checkpoints under the vendor's numbers, with the user's words, and without what is none", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox()
        assert.deepStrictEqual(yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId)), [])
        const made = yield* sandboxes.createCheckpoint(sandboxId, { comment: "before the change" })
        const bare = yield* sandboxes.createCheckpoint(sandboxId)
        yield* Effect.promise(() => vendor.sprite(ref.externalSandboxId ?? "").save("by the vendor", true))
        const listed = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.deepStrictEqual([made.id, bare.id], ["v0", "v1"])
        assert.deepStrictEqual(listed.map(({ comment, id }) => [id, comment]).toSorted(), [
          ["auto-2", "by the vendor"],
          ["v0", "before the change"],
          ["v1", undefined]
        ])
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    test.effect("has the API itself for what is not wrapped", () =>
      Effect.gen(function* () {
        const { sandboxes, vendor } = yield* world
        const { ref, sandboxId } = yield* sandboxes.createSandbox()
        const record = yield* sandboxes.getSandbox(sandboxId)
        const context = yield* Layer.build(
          Sprites.layer(optionsFor(vendor)).pipe(Layer.provide(FetchHttpClient.layer), Layer.provide(settings()))
        )
        const { native } = Context.get(context, Sprites.SpritesClient)
        const machine = { externalId: ref.externalSandboxId ?? "", incarnation: record.incarnation ?? "" }
        const { client, sprite } = yield* native(machine, sandboxId)
        assert.strictEqual(sprite.name, ref.externalSandboxId)
        const response = yield* client.get("/check")
        assert.strictEqual(response.status, 200)
        yield* sandboxes.stopSandbox(sandboxId)
        assert.strictEqual((yield* Effect.flip(native(machine, sandboxId))).reason._tag, "Gone")
      }).pipe(Effect.scoped)
    )
  })
})

describe("Sprites, older servers", () => {
  it.live("that ignore labels and settings at a creation, list only names, and refuse a taken name with 400", () =>
    Effect.gen(function* () {
      const { sandboxes, vendor } = yield* world
      const { ref, sandboxId } = yield* sandboxes.createSandbox({
        ports: [8080],
        sprites: { urlSettings: { auth: "public" } }
      })
      const sprite = vendor.sprite(ref.externalSandboxId ?? "")
      assert.strictEqual(sprite.auth, "public")
      // Whoever is sent a public url is not sent the token.
      assert.deepStrictEqual((yield* sandboxes.getPortUrl(sandboxId, 8080)).headers, {})
      assert.include(sprite.labels, `effect-sandbox-id-${sandboxId}`)
      yield* Effect.promise(() =>
        fetch(`${vendor.origin}/v1/sprites`, {
          method: "POST",
          headers: { authorization: `Bearer ${vendor.token}` },
          body: '{"name":"taken"}'
        })
      )
      const error = yield* Effect.flip(sandboxes.createSandbox({ sprites: { name: "taken" } }))
      assert.strictEqual(error.reason._tag, "NameInUse")
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
      yield* sandboxes.stopSandbox(sandboxId)
    }).pipe(Effect.provide(service({ plainCreate: true, bareLists: true, duplicate: 400 })))
  )
})

describe("the layers of Sprites", () => {
  it.effect("need a token, and take it and the url from the settings", () =>
    Effect.gen(function* () {
      const build = (values: Record<string, string>) =>
        Layer.build(Sprites.layerConfig()).pipe(
          Effect.provide([FetchHttpClient.layer, settings(values)]),
          Effect.scoped
        )
      const error = yield* Effect.flip(build({}))
      assert.strictEqual(error.reason._tag, "MissingSetting")
      assert.include(error.message, "SPRITES_API_TOKEN")
      yield* build({ SPRITE_TOKEN: "t", SPRITES_API_URL: "http://there" })
      const malformed = yield* Effect.flip(build({ SPRITE_TOKEN: "t", SANDBOX_SPRITES_DELETE_ON_STOP: "maybe" }))
      assert.strictEqual(malformed.reason._tag, "MissingSetting")
      const nowhere = yield* Effect.flip(build({ SPRITE_TOKEN: "t", SPRITES_API_URL: "nowhere" }))
      assert.strictEqual(nowhere.reason._tag, "InvalidArgument")
    })
  )
})
