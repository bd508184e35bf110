import { assert, describe, it } from "@effect/vitest"
import { NodeServices } from "@effect/platform-node"
import {
  Duration,
  Effect,
  Exit,
  FileSystem,
  Layer,
  Option,
  type Path,
  PlatformError,
  Redacted,
  Schedule,
  Schema,
  type Scope,
  Stream
} from "effect"
import { Activity, Workflow, WorkflowEngine } from "effect/workflow"
import { SandboxError, Unavailable } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import { isOutput } from "../../src/model/ProcessEvent.ts"
import * as Activities from "../../src/programs/activities.ts"
import { uuidV5 } from "../../src/services/internal/uuidV5.ts"
import { SandboxSecrets } from "../../src/services/SandboxSecrets.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { settings } from "../support/embedded.ts"

const Job = Workflow.make("Job", { payload: { key: Schema.String }, idempotencyKey: ({ key }) => key })

type InWorkflow =
  | FileSystem.FileSystem
  | Path.Path
  | SandboxService
  | WorkflowEngine.WorkflowEngine
  | WorkflowEngine.WorkflowInstance
  | Scope.Scope

/** Runs the body as a workflow, by an engine that knows of no earlier run: every activity of a second one is run once more. */
const asWorkflow = <A, E>(body: Effect.Effect<A, E, InWorkflow>, key = "job 1") =>
  Effect.suspend(() => {
    let exit: Exit.Exit<A, E> = Exit.die("not run")
    const handler = Job.toLayer(() =>
      Effect.map(Effect.exit(body), (made) => {
        exit = made
      })
    )
    const engine = Layer.fresh(WorkflowEngine.layerMemory)
    return Job.execute({ key }).pipe(
      Effect.provide(handler.pipe(Layer.provideMerge(engine))),
      Effect.andThen(Effect.suspend(() => exit))
    )
  })

const secrets = (values: Record<string, string>) =>
  Effect.provideService(SandboxSecrets, (_, name) =>
    Effect.succeed(Option.map(Option.fromNullishOr(values[name]), (value) => Redacted.make(value)))
  )

describe("uuidV5", () => {
  it.live("makes the id of RFC 9562's example", () =>
    Effect.gen(function* () {
      assert.strictEqual(
        yield* uuidV5("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "www.example.com"),
        "2ed6657d-e927-568b-95e1-2665a8aea6a2"
      )
    })
  )
})

const vault = { TOKEN: "pl4nted-5ecret-value" }

/** The workflow's own attempts are what is looked at. */
const once = Schedule.recurs(0).pipe(Schedule.setInputType<SandboxError>())

const guest = Layer.merge(
  NodeServices.layer,
  Testing.layer({
    recovery: { recreate: once, start: once },
    commands: { build: Fake.constant({ stdout: "a\nb\nc\n", stderr: "warned\n", code: 1 }) }
  })
)

describe("activities", () => {
  it.live("do once what is replayed from its beginning, and yield the same again", () =>
    Effect.gen(function* () {
      const cloud = yield* Fake.Cloud
      const sandboxes = yield* SandboxService
      const body = Effect.gen(function* () {
        const created = yield* Activities.createSandbox("sandbox", {
          config: {
            ports: [3000],
            timeout: "20 minutes",
            env: { MODE: "test" },
            secretEnv: ["TOKEN"],
            local: undefined,
            vercel: { profile: undefined }
          },
          sandboxId: undefined
        })
        const { sandboxId } = created
        yield* Activities.writeFiles("files", {
          sandboxId,
          files: [
            { path: "words", content: "b\na\n" },
            { path: "bytes", content: { base64: "AP8=" }, mode: 0o600 },
            { path: "secret", content: { secret: "TOKEN" } }
          ]
        })
        const sort = yield* Activities.runCommand("sort", {
          sandboxId,
          command: "sh",
          args: ["-c", "echo once >> runs; sort words; exit 3"]
        })
        const build = yield* Activities.runCommandProcess("build", {
          sandboxId,
          command: "build",
          args: ["--key", { secret: "TOKEN" }],
          kind: "test-runner",
          mode: "foreground",
          metadata: { of: "me" }
        })
        const log = yield* Activities.readProcessStream("log", { processId: build.processId, follow: true })
        const observed = yield* Activities.startObservedProcess("watch", { sandboxId, command: "watch" })
        const processId = observed.id
        const output = { processId, type: "stdout", data: { base64: "AP8=" } } as const
        const said = yield* Activities.appendObservedProcessChunk("said", output)
        const noted = yield* Activities.appendObservedProcessChunk("noted", { ...output, type: "metadata" })
        const ended = yield* Activities.finishObservedProcess("ended", { processId, exitCode: 2, errorText: "no" })
        const checkpoint = yield* Activities.createCheckpoint("saved", { sandboxId, comment: "before" })
        const bytes = yield* Activities.readFile("bytes", { sandboxId, path: "bytes" })
        const runs = yield* Activities.readFile("runs", { sandboxId, path: "runs" })
        const address = yield* Activities.getPortUrl("port", { sandboxId, port: 3000 })
        const { durationMs: _, ...sorted } = sort
        return { address, build, bytes, checkpoint, created, ended, log, noted, runs, said, sorted }
      }).pipe(secrets(vault))
      const first = yield* asWorkflow(body)
      assert.deepStrictEqual(yield* asWorkflow(body), first)

      const { address, bytes, checkpoint, created, log, noted, runs, said, sorted } = first
      assert.strictEqual(created.outcome, "created")
      assert.deepStrictEqual([sorted.exitCode, sorted.stdout], [3, "a\nb\n"])
      assert.deepStrictEqual(bytes, new Uint8Array([0, 255]))
      assert.strictEqual(new TextDecoder().decode(runs), "once\n")
      assert.strictEqual(checkpoint.comment, "before")
      assert.deepStrictEqual([address.port, address.headerNames], [3000, []])
      assert.deepStrictEqual([said._tag, "bytes" in said && said.bytes], ["stdout", new Uint8Array([0, 255])])
      assert.deepStrictEqual("metadata" in noted && noted.metadata, { base64: "AP8=" })
      assert.deepStrictEqual(
        log.chunks
          .filter(isOutput)
          .map((event) => new TextDecoder().decode(event.bytes))
          .sort(),
        ["a\nb\nc\n", "warned\n"]
      )
      assert.strictEqual(log.nextSeq, log.chunks.length + 1)

      assert.deepStrictEqual(
        cloud.commands.map(({ command }) => command),
        ["sh", "build"]
      )
      assert.strictEqual(cloud.machines.length, 1)
      const { sandboxId } = created
      assert.strictEqual((yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))).length, 1)
      const secret = yield* sandboxes.readFile(sandboxId, "secret")
      assert.strictEqual(new TextDecoder().decode(secret), vault.TOKEN)
      // Another key is another execution.
      const other = yield* asWorkflow(body, "job 2")
      assert.notStrictEqual(other.created.sandboxId, sandboxId)
      assert.notStrictEqual(other.build.processId, first.build.processId)
    }).pipe(Effect.provide(guest))
  )

  it.live("fail with the errors themselves, after the engine has stored them too", () =>
    Effect.gen(function* () {
      const activity = Activity.make({
        name: "fails",
        error: Activities.Failure,
        execute: Effect.fail(
          new SandboxError({
            operation: "test",
            sandboxId: "some",
            reason: new Unavailable({ accepted: "no", retryAfter: Duration.seconds(2), cause: new Error("wire") })
          })
        )
      })
      const platform = Activity.make({
        name: "has no file",
        error: Activities.Failure,
        execute: Effect.fail(
          PlatformError.systemError({
            _tag: "NotFound",
            module: "FileSystem",
            method: "open",
            pathOrDescriptor: "/none",
            syscall: "open",
            cause: new Error("ENOENT")
          })
        )
      })
      const argument = Activity.make({
        name: "is wrong",
        error: Activities.Failure,
        execute: Effect.fail(PlatformError.badArgument({ module: "FileSystem", method: "open" }))
      })
      const body = Effect.gen(function* () {
        const failure = yield* Effect.flip(activity)
        assert.instanceOf(failure, SandboxError)
        assert.instanceOf(failure.reason, Unavailable)
        assert.deepStrictEqual([failure.isRetryable, failure.retryAfter], [true, Duration.seconds(2)])
        assert.strictEqual(failure.message, "test (some): temporarily unavailable")
        assert.strictEqual((failure.reason.cause as Error).message, "wire")
        assert.strictEqual(
          yield* Effect.catchReason(activity, "SandboxError", "Unavailable", ({ accepted }) =>
            Effect.succeed(accepted)
          ),
          "no"
        )
        const missing = yield* Effect.flip(platform)
        assert.instanceOf(missing, PlatformError.PlatformError)
        assert.strictEqual(missing.message, "NotFound: FileSystem.open (/none)")
        assert.strictEqual((missing.cause as Error).message, "ENOENT")
        assert.strictEqual(
          yield* Effect.catchReason(platform, "PlatformError", "NotFound", ({ module }) => Effect.succeed(module)),
          "FileSystem"
        )
        const wrong = yield* Effect.flip(argument)
        assert.deepStrictEqual([wrong.reason._tag, wrong.message], ["BadArgument", "FileSystem.open"])
        assert.isFalse("cause" in wrong.reason)
      })
      yield* asWorkflow(body)
    }).pipe(Effect.provide(guest))
  )

  it.live("try again what was never done: the same sandbox, and a process under another id", () =>
    Effect.gen(function* () {
      const cloud = yield* Fake.Cloud
      const faults = yield* Faults.Faults
      yield* faults.add(Faults.on("create", Faults.fail()), Faults.on("start", Faults.fail()))
      const body = Effect.gen(function* () {
        const { sandboxId } = yield* Activities.createSandbox("sandbox", {}).pipe(
          Activity.retry({ times: 1, while: ({ isRetryable }) => isRetryable })
        )
        const built = yield* Activities.runCommand("build", { sandboxId, command: "build" }).pipe(
          Activity.retry({ times: 1, while: (error) => error._tag === "SandboxError" && error.isRetryable })
        )
        return { built, sandboxId }
      })
      const { built, sandboxId } = yield* asWorkflow(body)
      assert.strictEqual(built.exitCode, 1)
      const sandboxes = yield* SandboxService
      const records = yield* Stream.runCollect(sandboxes.listSandboxes())
      assert.deepStrictEqual(
        records.map(({ id, status }) => [id, status]),
        [[sandboxId, "active"]]
      )
      const processes = yield* Stream.runCollect(sandboxes.listProcesses(sandboxId))
      assert.sameDeepMembers(
        processes.map(({ exitCode, status }) => [status, exitCode]),
        [
          ["failed", undefined],
          ["failed", 1]
        ]
      )
      assert.deepStrictEqual([cloud.machines.length, cloud.commands.length], [1, 1])
      // What did run is found by a replay, which starts nothing.
      assert.strictEqual((yield* asWorkflow(body)).built.processId, built.processId)
      assert.strictEqual(cloud.commands.length, 1)
    }).pipe(Effect.provide(guest))
  )

  it.live("do not run again what may have run", () =>
    Effect.gen(function* () {
      const cloud = yield* Fake.Cloud
      const body = Effect.gen(function* () {
        const { sandboxId } = yield* Activities.createSandbox("sandbox", { config: { persistent: false } })
        const { processId } = yield* Activities.runCommandProcess("sleep", {
          sandboxId,
          command: "sleep",
          args: ["1000"]
        })
        yield* cloud.vanish(sandboxId)
        return { processId, sandboxId }
      })
      const { sandboxId } = yield* asWorkflow(body)
      const wait = Activities.runCommand("sleep", { sandboxId, command: "sleep", args: ["1000"] })
      for (const _ of [1, 2]) {
        const error = yield* asWorkflow(Effect.flip(wait))
        assert.strictEqual(error.reason._tag, "OutcomeUnknown")
      }
      assert.strictEqual(cloud.commands.length, 1)
    }).pipe(Effect.provide(guest))
  )

  it.live("find a checkpoint again whose answer got lost", () =>
    Effect.gen(function* () {
      const faults = yield* Faults.Faults
      const body = Effect.gen(function* () {
        const { sandboxId } = yield* Activities.createSandbox("sandbox", {})
        yield* faults.add(Faults.on("createCheckpoint", Faults.loseAnswer()))
        const checkpoint = yield* Activities.createCheckpoint("saved", { sandboxId })
        const all = yield* SandboxService.use((sandboxes) => Stream.runCollect(sandboxes.listCheckpoints(sandboxId)))
        assert.deepStrictEqual(
          all.map(({ id }) => id),
          [checkpoint.id]
        )
        assert.isUndefined(checkpoint.comment)
        yield* Activities.stopSandbox("stop", { sandboxId, delete: true })
        const { status } = yield* Activities.getSandbox("stopped", { sandboxId })
        assert.strictEqual(status, "shutdown")
      })
      yield* asWorkflow(body)
    }).pipe(Effect.provide(guest))
  )

  it.live("install the credentials of Codex, and make an app once", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const cloud = yield* Fake.Cloud
      const codexHome = yield* fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-codex-" })
      yield* fs.writeFileString(`${codexHome}/auth.json`, vault.TOKEN)
      const body = Effect.gen(function* () {
        const { sandboxId } = yield* Activities.createSandbox("sandbox", {
          config: { env: { PATH: "/tools:/usr/bin:/bin" } }
        })
        const npx = '#!/bin/sh\necho made >>made\nmkdir -p "$4"\ntouch "$4/package.json"\necho "$TOKEN" | wc -c\n'
        yield* Activities.writeFiles("npx", { sandboxId, files: [{ path: "/tools/npx", content: npx, mode: 0o755 }] })
        const installed = yield* Activities.installCodexAuth("codex", { sandboxId, codexHome })
        const app = yield* Activities.createEkairosApp("app", {
          sandboxId,
          appDir: "app",
          instantTokenEnvName: "TOKEN"
        })
        const made = yield* Activities.readFile("made", { sandboxId, path: "made" })
        const { durationMs: _, ...result } = app.result ?? { durationMs: 0 }
        return { app: { ...app, result }, installed, made: new TextDecoder().decode(made) }
      }).pipe(Effect.provide(settings(vault)))
      const first = yield* asWorkflow(body)
      assert.deepStrictEqual(yield* asWorkflow(body), first)
      assert.deepStrictEqual(first.installed, { authJson: true, credentialsJson: false, configToml: false })
      assert.deepInclude(first.app.result, { exitCode: 0, stdout: `${vault.TOKEN.length + 1}\n` })
      assert.strictEqual(first.made, "made\n")
      assert.strictEqual(cloud.machines.length, 1)
      assert.notInclude(JSON.stringify([first, cloud.commands]), vault.TOKEN)
    }).pipe(Effect.scoped, Effect.provide(guest))
  )

  it.live("read a log in pages that are the whole", () =>
    Effect.gen(function* () {
      const body = Effect.gen(function* () {
        const { sandboxId } = yield* Activities.createSandbox("sandbox", {})
        const { processId } = yield* Activities.runCommandProcess("build", {
          sandboxId,
          command: "build",
          mode: "foreground"
        })
        const whole = yield* Activities.readProcessStream("whole", { processId })
        const pages: Array<typeof whole> = []
        let next: { readonly nextSeq: number; readonly byteOffset: number } = { nextSeq: 1, byteOffset: 0 }
        while (pages.length < 20) {
          const { byteOffset, nextSeq } = next
          const page = yield* Activities.readProcessStream(`page ${nextSeq}`, {
            processId,
            nextSeq,
            byteOffset,
            maxBytes: 10
          })
          if (page.chunks.length === 0) break
          pages.push(page)
          next = page
        }
        assert.deepStrictEqual(
          pages.flatMap(({ chunks }) => chunks),
          whole.chunks
        )
        assert.isAbove(pages.length, 2)
        assert.deepStrictEqual([next.nextSeq, next.byteOffset], [whole.nextSeq, whole.byteOffset])
      })
      yield* asWorkflow(body)
    }).pipe(Effect.provide(guest))
  )

  it.live("take no secret but by its name", () =>
    Effect.gen(function* () {
      const cloud = yield* Fake.Cloud
      const secret = Redacted.make(vault.TOKEN)
      const sandboxId = "11111111-1111-4111-8111-111111111111"
      const command = { sandboxId, command: "build" }
      const problemOf = (name: string, activity: Effect.Effect<unknown, Activities.Failure, InWorkflow>) =>
        asWorkflow(
          Effect.map(Effect.flip(activity), ({ message, reason }) => {
            assert.notInclude(message, vault.TOKEN)
            return [name, reason._tag, message]
          }),
          name
        )
      const refused = "the value of a secret must not be in an input; name it instead"
      const problems = yield* Effect.all([
        // @ts-expect-error a secret is named
        problemOf("env", Activities.runCommand("1", { ...command, env: { TOKEN: secret } })),
        // @ts-expect-error a secret is named
        problemOf("args", Activities.runCommandProcess("1", { ...command, args: [secret] })),
        // @ts-expect-error a secret is named
        problemOf("config", Activities.createSandbox("1", { config: { env: { TOKEN: secret } } })),
        // @ts-expect-error a secret is named
        problemOf("files", Activities.writeFiles("1", { sandboxId, files: [{ path: "a", content: secret }] })),
        // @ts-expect-error a misspelt field must not be without effect
        problemOf("field", Activities.runCommand("1", { ...command, timeoutMs: 5 })),
        problemOf("id", Activities.getSandbox("1", { sandboxId: "none" })),
        problemOf("unknown", Activities.runCommand("1", { ...command, secretEnv: ["NONE"] })),
        problemOf("base64", Activities.writeFiles("1", { sandboxId, files: [{ path: "a", content: { base64: "?" } }] }))
      ])
      assert.deepStrictEqual(problems, [
        ["env", "InvalidArgument", `activities.runCommand: env.TOKEN: ${refused}`],
        ["args", "InvalidArgument", `activities.runCommandProcess: args.0: ${refused}`],
        ["config", "InvalidArgument", `activities.createSandbox: config.env.TOKEN: ${refused}`],
        ["files", "InvalidArgument", `activities.writeFiles: files.0.content: ${refused}`],
        ["field", "InvalidArgument", "activities.runCommand: input: timeoutMs: there is no such field"],
        ["id", "InvalidArgument", "activities.getSandbox: input: sandboxId: expected a UUID in lower case"],
        ["unknown", "SecretsRequired", `activities.runCommand (${sandboxId}): secret values are needed for NONE`],
        ["base64", "InvalidArgument", "activities.writeFiles: files[0].content: malformed base64"]
      ])
      assert.deepStrictEqual(cloud.calls, [])
    }).pipe(Effect.provide(guest))
  )

  it("have inputs that workflows can have as payloads", () => {
    const sandboxId = "11111111-1111-4111-8111-111111111111"
    const config = { timeout: Duration.minutes(5), secretEnv: ["TOKEN"], vercel: { timeout: Duration.hours(1) } }
    const redacted = { env: { TOKEN: Redacted.make(vault.TOKEN) } }
    assert.throws(
      // @ts-expect-error a secret is named
      () => Activities.createSandbox.input.make({ config: redacted }),
      /Schema validation failed/
    )
    const there = Schema.encodeUnknownSync(Schema.toCodecJson(Activities.createSandbox.input))({ config })
    assert.deepStrictEqual(there, {
      config: { timeout: 300_000, secretEnv: ["TOKEN"], vercel: { timeout: 3_600_000 } }
    })
    const back = Schema.decodeUnknownSync(Schema.toCodecJson(Activities.createSandbox.input))(there)
    assert.deepStrictEqual(back, { config })
    const command = { sandboxId, command: "sh", args: ["a", { secret: "B" }], timeout: Duration.seconds(1) }
    const json = Schema.toCodecJson(Activities.runCommand.input)
    assert.deepStrictEqual(
      Schema.decodeUnknownSync(json)(JSON.parse(JSON.stringify(Schema.encodeUnknownSync(json)(command)))),
      command as never
    )
  })
})
