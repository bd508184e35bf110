/**
 * The tools as a model has them: called by name with JSON, read as JSON; the same over machines in memory and over this
 * machine.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Option, Queue, Redacted, Stream } from "effect"
import { Tool } from "effect/ai"
import { Base64 } from "effect/encoding"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as Memory from "../../src/layers/stores/Memory.ts"
import * as AgentToolkit from "../../src/programs/agentToolkit.ts"
import * as Sandbox from "../../src/services/Sandbox.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { advancing } from "../support/advancing.ts"
import { embedded, settings } from "../support/embedded.ts"

const { boundToolkit, toolkit } = AgentToolkit

/** What a model sees of a result: JSON, of which the tests say what is in it. */
// eslint-disable-next-line typescript/no-explicit-any -- a wrong guess fails the test
type Seen = Record<string, any>

const seen = <E, R>(
  handled: Effect.Effect<Stream.Stream<{ readonly encodedResult: unknown; readonly isFailure: boolean }, E, R>, E, R>
) =>
  handled.pipe(
    Stream.unwrap,
    Stream.runLast,
    Effect.flatMap(Effect.fromOption),
    Effect.map(({ encodedResult, isFailure }) => ({
      isFailure,
      result: JSON.parse(JSON.stringify(encodedResult)) as Seen
    }))
  )

const attempt = (name: keyof typeof toolkit.tools, params: object) =>
  Effect.flatMap(toolkit, ({ handle }) => seen(handle(name, params as never)))

/** A call that is to succeed. */
const call = (name: keyof typeof toolkit.tools, params: object) =>
  Effect.map(attempt(name, params), ({ isFailure, result }) => {
    assert.isFalse(isFailure, JSON.stringify(result))
    return result
  })

/** A call that is to fail. */
const refused = (name: keyof typeof toolkit.tools, params: object) =>
  Effect.map(attempt(name, params), ({ isFailure, result }) => {
    assert.isTrue(isFailure, JSON.stringify(result))
    assert.strictEqual(result["_tag"], "ToolFailure")
    return result as { reason: string; message: string; isRetryable: boolean; processId?: string }
  })

const utf8 = new TextEncoder()
const bytesOf = (chunk: Seen): Uint8Array =>
  "text" in chunk ? utf8.encode(chunk["text"]) : Option.getOrThrow(Option.getSuccess(Base64.decode(chunk["base64"])))
const joined = (chunks: ReadonlyArray<Uint8Array>) => Buffer.concat(chunks)

/** Reads a log as its answers say, to the end. */
const readLog = Effect.fnUntraced(function* (params: Seen) {
  const chunks: Array<Seen> = []
  let pages = 0
  for (let next: Seen | undefined = params; next !== undefined;) {
    const page: Seen = yield* call("sandbox_read_process_logs", { ...params, ...next })
    chunks.push(...page["output"])
    pages++
    assert.strictEqual(page["next"] === undefined, page["note"] === undefined)
    next = page["next"]
  }
  return { chunks, pages, bytes: joined(chunks.map(bytesOf)) }
})

/** The arguments that a note names for a tool. */
const named = (note: string, stream: string) => {
  const found = new RegExp(
    `sandbox_read_process_logs with processId "([^"]+)", stream "(${stream})", after (\\d+), skip (\\d+)`
  ).exec(note)
  assert.isNotNull(found, note)
  return { processId: found?.[1], stream: found?.[2], after: Number(found?.[3]), skip: Number(found?.[4]) }
}

const services = {
  fake: SandboxService.layer.pipe(
    Layer.provide(Layer.mergeAll(Fake.layer(), Memory.layer({ namespace: "test" }))),
    Layer.provide(settings())
  ),
  local: embedded
}

describe.each(["fake", "local"] as const)("the tools over %s", (provider) => {
  const layers = AgentToolkit.layer({
    maxOutputBytes: 1000,
    maxPageBytes: 1024,
    config: { purpose: "agent", env: { TOKEN: Redacted.make("s3cret-value"), FROM: "program" } }
  }).pipe(Layer.provideMerge(services[provider]))

  it.layer(layers, { excludeTestServices: true })((test) => {
    const sandbox = Effect.map(call("sandbox_create", {}), (made) => made["sandboxId"] as string)

    test.effect("create a sandbox once for one id, run programs in it, and stop it", () =>
      Effect.gen(function* () {
        const sandboxId = crypto.randomUUID()
        const params = { sandboxId, purpose: "a model's", ports: [3000], env: { MINE: "1" } }
        const made = yield* call("sandbox_create", params)
        assert.deepInclude(made, { sandboxId, outcome: "created", provider, ports: [3000] })
        assert.isString(made["workspaceRoot"])
        yield* call("sandbox_create", params)
        assert.strictEqual((yield* refused("sandbox_create", { ...params, ports: [] })).reason, "ConfigMismatch")

        const ran = yield* call("sandbox_run_command", {
          sandboxId,
          command: "sh",
          args: ["-c", 'echo "$FROM $MINE $GIVEN"; echo oops >&2; exit 3'],
          env: { GIVEN: "2" },
          kind: "test-runner",
          metadata: { step: 1 }
        })
        const { durationMs, processId, ...rest } = ran
        assert.deepStrictEqual(rest, {
          sandboxId,
          streamId: processId,
          streamClientId: `sandbox-process:${processId}`,
          success: false,
          exitCode: 3,
          output: "program 1 2\n",
          error: "oops\n",
          command: `sh -c 'echo "$FROM $MINE $GIVEN"; echo oops >&2; exit 3'`,
          status: "failed"
        })
        assert.isAtLeast(durationMs, 0)
        const record = yield* SandboxService.use((service) => service.getProcessSnapshot(processId))
        assert.deepInclude(record, { kind: "test-runner", metadata: { step: 1 } })

        // A reply that got lost: asked again by its id, it does not run again.
        const once = {
          sandboxId,
          command: "sh",
          args: ["-c", "echo run >> runs; cat runs"],
          processId: crypto.randomUUID()
        }
        assert.strictEqual((yield* call("sandbox_run_command", once))["output"], "run\n")
        assert.strictEqual((yield* call("sandbox_run_command", once))["output"], "run\n")

        assert.deepStrictEqual(yield* call("sandbox_stop", { sandboxId, delete: true }), {
          sandboxId,
          status: "shutdown"
        })
        const after = yield* refused("sandbox_run_command", { sandboxId, command: "true" })
        assert.strictEqual(after.reason, "Stopped")
        assert.notInclude(after.message, "reconnectToSandbox")
        const unknown = yield* refused("sandbox_list_files", { sandboxId: crypto.randomUUID() })
        assert.deepInclude(unknown, { reason: "NotFound", isRetryable: false })
        assert.include(unknown.message, "sandbox_create")
      })
    )

    test.effect("cut output in its middle, and what the note names reads the rest, byte for byte", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        // Two bytes a letter, so that a cut can split one.
        const script = 'i=0; while [ $i -lt 150 ]; do echo "öäü line $i"; echo "é$i" >&2; i=$((i+1)); done'
        const ran = yield* call("sandbox_run_command", { sandboxId, command: "sh", args: ["-c", script] })
        const lines = Array.from({ length: 150 }, (_, index) => index)
        const whole = {
          stdout: lines.map((i) => `öäü line ${i}\n`).join(""),
          stderr: lines.map((i) => `é${i}\n`).join("")
        }
        assert.isAbove(utf8.encode(whole.stdout).length, 2000)
        const [head = "", tail = ""] = ran["output"].split(/\n\[… \d+ bytes are left out here …\]\n/)
        assert.isTrue(whole.stdout.startsWith(head) && whole.stdout.endsWith(tail))
        assert.isAtMost(utf8.encode(head + tail).length, 1000)
        assert.isAtLeast(utf8.encode(head + tail).length, 990)
        const rest = yield* readLog({ sandboxId, ...named(ran["note"], "stdout") })
        assert.isAtLeast(rest.pages, 2)
        assert.strictEqual(head + rest.bytes.toString(), whole.stdout)
        // The other stream is within its cap, and read from its log alone, or with the other one.
        assert.strictEqual(ran["error"], whole.stderr)
        const { processId } = ran
        assert.strictEqual((yield* readLog({ sandboxId, processId, stream: "stderr" })).bytes.toString(), whole.stderr)
        const both = yield* readLog({ sandboxId, processId, maxBytes: 1024 })
        for (const stream of ["stdout", "stderr"] as const) {
          const own = both.chunks.filter((chunk) => chunk["stream"] === stream)
          assert.strictEqual(joined(own.map(bytesOf)).toString(), whole[stream])
        }
        assert.isTrue(both.chunks.every((chunk) => "text" in chunk && bytesOf(chunk).length <= 1024))
      })
    )

    test.effect("say of output that is no text that it is none, and give its bytes", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        yield* call("sandbox_write_file", {
          sandboxId,
          path: "bytes",
          content: Base64.encode(Uint8Array.of(0xff, 0, 0xc3, 65)),
          encoding: "base64"
        })
        const ran = yield* call("sandbox_run_command", { sandboxId, command: "cat", args: ["bytes"] })
        const rest = yield* readLog({ sandboxId, ...named(ran["note"], "stdout") })
        assert.deepStrictEqual([...rest.bytes], [0xff, 0, 0xc3, 65])
        assert.deepStrictEqual(Object.keys(rest.chunks[0] ?? {}), ["stream", "base64"])
      })
    )

    test.effect("say what to do about a command that does not start, or not end by itself", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        const line = yield* refused("sandbox_run_command", { sandboxId, command: "ls -la | wc" })
        assert.strictEqual(line.reason, "NotFound")
        assert.include(line.message, '"sh" with the arguments ["-c", line]')
        const nowhere = yield* refused("sandbox_run_command", { sandboxId, command: "ls", cwd: "no/where" })
        assert.include(nowhere.message, "no/where")
        const slow = yield* call("sandbox_run_command", {
          sandboxId,
          command: "sh",
          args: ["-c", "echo begun; sleep 60"],
          timeoutMs: 400
        })
        assert.deepInclude(slow, { success: false, status: "killed", output: "begun\n" })
        assert.include(slow["note"], "did not end by itself")
        // What a model writes is checked before anything happens, and answered as a result too.
        const { isFailure, result } = yield* attempt("sandbox_run_command", { sandboxId, args: [] })
        assert.isTrue(isFailure)
        assert.include(JSON.stringify(result), "command")
      })
    )

    test.effect("return at once in the background, show what is written since, and stop it", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        const started = yield* call("sandbox_run_command", {
          sandboxId,
          command: "sh",
          args: ["-c", "echo up; sleep 600"],
          mode: "background"
        })
        assert.deepInclude(started, { success: true, status: "running", output: "" })
        assert.notProperty(started, "exitCode")
        const { processId } = started
        const first = yield* call("sandbox_read_process_logs", { sandboxId, processId, waitMs: 20_000 })
        assert.deepStrictEqual(first["output"], [{ stream: "stdout", text: "up\n" }])
        // Nothing new: an empty page, from which one reads on.
        const second = yield* call("sandbox_read_process_logs", { sandboxId, processId, ...first["next"] })
        assert.deepStrictEqual([second["output"], second["next"]], [[], first["next"]])
        const stopped = yield* call("sandbox_stop_process", { sandboxId, processId })
        assert.strictEqual(stopped["status"], "killed")
        assert.strictEqual((yield* call("sandbox_stop_process", { sandboxId, processId }))["status"], "killed")
        const last = yield* call("sandbox_read_process_logs", { sandboxId, processId, ...first["next"] })
        assert.deepInclude(last, { status: "killed", output: [] })
        assert.notProperty(last, "next")
      })
    )

    test.effect("kill the command of a call that is given up, and tell of its output until then", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        const heard = yield* Queue.unbounded<AgentToolkit.CommandProgress>()
        const calling = yield* call("sandbox_run_command", {
          sandboxId,
          command: "sh",
          args: ["-c", "echo one; echo two; sleep 600"]
        }).pipe(
          Effect.provideService(AgentToolkit.Progress, (progress) => Effect.asVoid(Queue.offer(heard, progress))),
          Effect.forkChild
        )
        let progress = yield* Queue.take(heard)
        while (progress.bytes < 8) progress = yield* Queue.take(heard)
        assert.deepInclude(progress, { bytes: 8, line: "two" })
        assert.strictEqual(progress.sandboxId, sandboxId)
        yield* Fiber.interrupt(calling)
        const process = yield* SandboxService.use((service) => service.attachProcess(progress.processId))
        assert.strictEqual((yield* Effect.exit(process.exit))._tag, "Success")
        assert.strictEqual((yield* process.snapshot).status, "killed")
        const open = yield* SandboxService.use((service) =>
          Stream.runCollect(service.listProcesses(sandboxId, { status: ["starting", "running", "detached"] }))
        )
        assert.deepStrictEqual(open, [])
      })
    )

    test.effect("read files in parts that make the whole, and refuse what is no text", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        const write = (path: string, content: string) => call("sandbox_write_file", { sandboxId, path, content })
        const read = (params: Seen) => call("sandbox_read_file", { sandboxId, ...params })
        const wholeOf = Effect.fnUntraced(function* (params: Seen) {
          const parts: Array<Seen> = []
          for (let offset: number | undefined = 0; offset !== undefined;) {
            const part: Seen = yield* read({ ...params, offset })
            parts.push(part)
            if (part["next"] !== undefined) assert.include(part["note"], `offset ${part["next"]}`)
            offset = part["next"]
          }
          return { parts, bytes: joined(parts.map(bytesOf)) }
        })
        const text = Array.from({ length: 200 }, (_, index) => `${index}: ünïcödé ☃\r\n`).join("")
        assert.deepStrictEqual(yield* write("deep/er/text.txt", text), {
          path: "deep/er/text.txt",
          sizeBytes: utf8.encode(text).length
        })
        const lines = yield* wholeOf({ path: "deep/er/text.txt" })
        assert.strictEqual(lines.bytes.toString(), text)
        assert.isAtLeast(lines.parts.length, 3)
        // At line ends, where there are any; at characters in any case.
        assert.isTrue(lines.parts.every((part) => part["text"].endsWith("\r\n") && part["bytes"] <= 1024))
        yield* write("line", "☃".repeat(1000))
        assert.strictEqual((yield* wholeOf({ path: "line" })).bytes.toString(), "☃".repeat(1000))
        const inside = yield* refused("sandbox_read_file", { sandboxId, path: "line", offset: 1 })
        assert.include(inside.message, "border of a character")
        assert.deepInclude(yield* read({ path: "line", offset: 3000 }), { text: "", bytes: 0, sizeBytes: 3000 })

        const binary = Uint8Array.from({ length: 3000 }, (_, index) => index % 256)
        yield* call("sandbox_write_file", {
          sandboxId,
          path: "bin",
          content: Base64.encode(binary),
          encoding: "base64"
        })
        const garbage = yield* refused("sandbox_read_file", { sandboxId, path: "bin" })
        assert.strictEqual(garbage.reason, "NotText")
        assert.include(garbage.message, 'encoding "base64"')
        assert.deepStrictEqual((yield* wholeOf({ path: "bin", encoding: "base64" })).bytes, Buffer.from(binary))

        const missing = yield* refused("sandbox_read_file", { sandboxId, path: "no/such" })
        assert.deepInclude(missing, { reason: "NotFound", isRetryable: false })
        assert.include(missing.message, "no/such")
        assert.strictEqual((yield* refused("sandbox_read_file", { sandboxId, path: "deep" })).reason, "IsDirectory")
        const bad = yield* refused("sandbox_write_file", { sandboxId, path: "x", content: "%%%", encoding: "base64" })
        assert.strictEqual(bad.reason, "InvalidArgument")
      })
    )

    test.effect("edit exactly the one place that is meant, and say why where there is none", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        const read = Effect.map(call("sandbox_read_file", { sandboxId, path: "a.sh" }), ({ text }) => text as string)
        const edit = (oldText: string, newText: string, more: Seen = {}) => ({
          sandboxId,
          path: "a.sh",
          oldText,
          newText,
          ...more
        })
        yield* call("sandbox_write_file", {
          sandboxId,
          path: "a.sh",
          content: "#!/bin/sh\n\techo $1 $& one\necho two\necho two\n",
          executable: true
        })
        const done = yield* call("sandbox_edit_file", edit("$1 $& one", "$& $1 uno"))
        assert.deepInclude(done, { path: "a.sh", replacements: 1, line: 2 })
        assert.strictEqual(yield* read, "#!/bin/sh\n\techo $& $1 uno\necho two\necho two\n")
        // What it was allowed, it stays allowed.
        const { success } = yield* call("sandbox_run_command", {
          sandboxId,
          command: "sh",
          args: ["-c", "test -x a.sh"]
        })
        assert.isTrue(success)
        const many = yield* refused("sandbox_edit_file", edit("echo two", "echo three"))
        assert.strictEqual(many.reason, "ManyMatches")
        assert.include(many.message, "lines 3, 4")
        const none = yield* refused("sandbox_edit_file", edit("echo four", "five"))
        assert.strictEqual(none.reason, "NoMatch")
        assert.include(none.message, 'sandbox_read_file with path "a.sh"')
        assert.notInclude(none.message, "other spaces")
        assert.include((yield* refused("sandbox_edit_file", edit("    echo $&", ""))).message, "other spaces")
        assert.deepInclude(yield* call("sandbox_edit_file", edit("two", "2", { replaceAll: true })), {
          replacements: 2,
          line: 3
        })
        yield* call("sandbox_write_file", { sandboxId, path: "b", content: "0 1 2 3 4" })
        yield* Effect.forEach(
          [0, 1, 2, 3, 4],
          (n) => call("sandbox_edit_file", { sandboxId, path: "b", oldText: `${n}`, newText: `<${n}>` }),
          { concurrency: "unbounded" }
        )
        assert.strictEqual((yield* call("sandbox_read_file", { sandboxId, path: "b" }))["text"], "<0> <1> <2> <3> <4>")
        // Which of those that overlap?
        yield* call("sandbox_write_file", { sandboxId, path: "c", content: "}\n}\n}\n" })
        const overlapping = yield* refused("sandbox_edit_file", {
          sandboxId,
          path: "c",
          oldText: "}\n}\n",
          newText: "}\n"
        })
        assert.include(overlapping.message, "2 times in c (lines 1, 2)")
        // Half of a character would become another one.
        yield* call("sandbox_write_file", { sandboxId, path: "d", content: "😀" })
        for (const [tool, params] of [
          ["sandbox_edit_file", { oldText: "\ude00", newText: "x" }],
          ["sandbox_edit_file", { oldText: "😀", newText: "\ud83d" }],
          ["sandbox_write_file", { content: "a\ud83d" }]
        ] as const) {
          const half = yield* refused(tool, { sandboxId, path: "d", ...params })
          assert.strictEqual(half.reason, "InvalidArgument")
        }
        assert.strictEqual((yield* call("sandbox_read_file", { sandboxId, path: "d" }))["text"], "😀")
        const binary = { sandboxId, path: "bin", content: "/w==", encoding: "base64" }
        yield* call("sandbox_write_file", binary)
        assert.strictEqual(
          (yield* refused("sandbox_edit_file", { sandboxId, path: "bin", oldText: "a", newText: "b" })).reason,
          "NotText"
        )
      })
    )

    test.effect("list and search a tree in parts that make the whole", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        const files: Record<string, string> = {
          "src/a.ts": "const needle = 1\nnothing\nneedle()\n",
          "src/deep/b.ts": `${"x".repeat(70_000)}Needle${"y".repeat(1000)} needle\nneedle at the end`,
          "src.md": "needle in text\r\n",
          "node_modules/dep/index.js": "needle\n",
          ".git/HEAD": "needle\n",
          "z/empty": "",
          "z/bin": "needle\0"
        }
        yield* SandboxService.use((service) =>
          service.writeFiles(
            sandboxId,
            Object.entries(files).map(([path, content]) => ({ path: `tree/${path}`, content }))
          )
        )
        const list = (params: Seen) => call("sandbox_list_files", { sandboxId, path: "tree", ...params })
        assert.deepStrictEqual((yield* list({}))["entries"], [".git/", "node_modules/", "src/", "src.md", "z/"])
        const all = (yield* list({ recursive: true }))["entries"]
        const expected = [
          ".git/",
          "node_modules/",
          "src/",
          "src/a.ts",
          "src/deep/",
          "src/deep/b.ts",
          "src.md",
          "z/",
          "z/bin",
          "z/empty"
        ]
        assert.deepStrictEqual(all, expected)
        for (const limit of [1, 3]) {
          const entries: Array<string> = []
          for (let after: string | undefined = ""; after !== undefined;) {
            const page: Seen = yield* list({ recursive: true, limit, ...(after === "" ? {} : { after }) })
            entries.push(...page["entries"])
            after = page["next"]
            if (after !== undefined) assert.include(page["note"], `after ${JSON.stringify(after)}`)
          }
          assert.deepStrictEqual(entries, expected)
        }
        assert.strictEqual((yield* refused("sandbox_list_files", { sandboxId, path: "none" })).reason, "NotFound")
        const file = yield* refused("sandbox_list_files", { sandboxId, path: "tree/src.md" })
        assert.strictEqual(
          file.message,
          "tree/src.md: it, or what it is in, is a file where a directory is needed, or the reverse"
        )

        const search = (params: Seen) =>
          call("sandbox_search_files", { sandboxId, path: "tree", query: "needle", ...params })
        const found = yield* search({})
        assert.deepInclude(found, { searched: 4, skipped: 1 })
        const places = (matches: ReadonlyArray<Seen>) => matches.map(({ line, path }) => `${path}:${line}`)
        const wanted = ["src/a.ts:1", "src/a.ts:3", "src/deep/b.ts:1", "src/deep/b.ts:2", "src.md:1"]
        assert.deepStrictEqual(places(found["matches"]), wanted)
        assert.strictEqual(found["matches"][4].text, "needle in text")
        assert.isAtMost(found["matches"][2].text.length, 302)
        assert.include(found["matches"][2].text, "needle")
        for (const limit of [1, 2]) {
          const matches: Array<Seen> = []
          for (let after: Seen | undefined = {}; after !== undefined;) {
            const page: Seen = yield* search({ limit, ...("path" in after ? { after } : {}) })
            matches.push(...page["matches"])
            after = page["next"]
          }
          assert.deepStrictEqual(places(matches), wanted)
        }
        assert.deepStrictEqual(places((yield* search({ name: "*.md" }))["matches"]), ["src.md:1"])
        const folded = yield* search({ query: "NEEDLE", ignoreCase: true, name: "?.ts" })
        assert.strictEqual(folded["matches"].length, 4)
        assert.deepStrictEqual((yield* search({ query: "needle.*" }))["matches"], [])
        // In a directory that is named, and in a file.
        assert.strictEqual((yield* search({ path: "tree/node_modules" }))["matches"].length, 1)
        assert.deepInclude((yield* search({ path: "tree/src.md" }))["matches"][0], { path: "tree/src.md", line: 1 })
        // What is shown of a long line begins and ends with whole characters.
        for (const before of ["", "-"]) {
          const content = `${before}${"😀".repeat(500)}needle${"😀".repeat(500)}`
          yield* call("sandbox_write_file", { sandboxId, path: "tree/long", content })
          const [{ text }] = (yield* search({ path: "tree/long" }))["matches"]
          assert.isTrue(text.isWellFormed())
        }
        const outside = yield* refused("sandbox_search_files", { sandboxId, path: "a\0b", query: "needle" })
        assert.strictEqual(outside.message, "path contains a NUL character")
      })
    )

    test.effect.skipIf(provider === "fake")("wait for no pipe that nobody writes to", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        yield* call("sandbox_run_command", { sandboxId, command: "mkfifo", args: ["pipe"] })
        yield* call("sandbox_write_file", { sandboxId, path: "file", content: "needle" })
        const search = { sandboxId, query: "needle" }
        assert.strictEqual((yield* refused("sandbox_read_file", { sandboxId, path: "pipe" })).reason, "NotAFile")
        assert.strictEqual((yield* refused("sandbox_search_files", { ...search, path: "pipe" })).reason, "NotAFile")
        assert.deepInclude(yield* call("sandbox_search_files", search), { searched: 1, skipped: 0 })
        const after = { path: "pipe", line: 1 }
        assert.deepInclude(yield* call("sandbox_search_files", { ...search, after }), { matches: [], skipped: 0 })
      })
    )

    test.effect("save files and bring them back", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        const write = (content: string) => call("sandbox_write_file", { sandboxId, path: "f", content })
        yield* write("first")
        const saved = yield* call("sandbox_create_checkpoint", { sandboxId, comment: "before" })
        yield* call("sandbox_create_checkpoint", { sandboxId })
        const page = yield* call("sandbox_list_checkpoints", { sandboxId, limit: 1 })
        assert.strictEqual(page["checkpoints"].length, 1)
        const rest = yield* call("sandbox_list_checkpoints", { sandboxId, after: page["next"] })
        assert.deepStrictEqual(rest["checkpoints"], [saved])
        // One that is not there any more is no end.
        const lost = yield* refused("sandbox_list_checkpoints", { sandboxId, after: "none" })
        assert.strictEqual(lost.reason, "NotFound")
        assert.strictEqual(saved["comment"], "before")
        assert.match(saved["createdAt"], /^\d{4}-\d\d-\d\dT/)
        yield* write("second")
        const { checkpointId } = saved
        assert.deepStrictEqual(yield* call("sandbox_restore_checkpoint", { sandboxId, checkpointId }), {
          sandboxId,
          checkpointId
        })
        assert.strictEqual((yield* call("sandbox_read_file", { sandboxId, path: "f" }))["text"], "first")
        const none = yield* refused("sandbox_restore_checkpoint", { sandboxId, checkpointId: "none" })
        assert.strictEqual(none.reason, "NotFound")
        assert.include(none.message, "sandbox_list_checkpoints")
      })
    )

    test.effect("say where a port is", () =>
      Effect.gen(function* () {
        const { sandboxId } = yield* call("sandbox_create", { ports: [3000] })
        const found = yield* call("sandbox_get_port_url", { sandboxId, port: 3000 })
        assert.match(found["url"], /^https?:\/\//)
        const other = yield* refused("sandbox_get_port_url", { sandboxId, port: 3001 })
        assert.strictEqual(other.reason, "PortNotExposed")
        assert.include(other.message, "when a sandbox is created")
      })
    )

    test.effect("are bound to one sandbox: nothing of another one is reached", () =>
      Effect.gen(function* () {
        const other = yield* sandbox
        const { processId } = yield* call("sandbox_run_command", {
          sandboxId: other,
          command: "echo",
          args: ["other's"]
        })
        const own = yield* Sandbox.create({ purpose: "bound" })
        const bound = AgentToolkit.layerBound(own.id)
        yield* Effect.gen(function* () {
          const { handle } = yield* boundToolkit
          const ran = yield* seen(handle("sandbox_run_command", { command: "echo", args: ["mine"] }))
          assert.deepInclude(ran.result, { sandboxId: own.id, output: "mine\n" })
          for (const name of ["sandbox_read_process_logs", "sandbox_stop_process"] as const) {
            const { isFailure, result } = yield* seen(handle(name, { processId }))
            assert.isTrue(isFailure)
            assert.strictEqual(result["reason"], "NotFound")
          }
          const again = yield* seen(handle("sandbox_run_command", { command: "echo", args: ["other's"], processId }))
          assert.deepInclude(again.result, { reason: "ConfigMismatch" })
          // A parameter that the tools do not have changes nothing.
          const named = { path: ".", sandboxId: other }
          const listed = yield* seen(handle("sandbox_list_files", named))
          assert.deepStrictEqual(listed.result["entries"], [])
        }).pipe(Effect.provide(bound))
      })
    )

    test.effect("show no secret of the config", () =>
      Effect.gen(function* () {
        const sandboxId = yield* sandbox
        // The guest has it, so what prints it shows it; nothing else does.
        const ran = yield* call("sandbox_run_command", { sandboxId, command: "sh", args: ["-c", "echo ${#TOKEN}"] })
        assert.strictEqual(ran["output"], "12\n")
        const failed = yield* refused("sandbox_run_command", { sandboxId, command: "no-such" })
        assert.notInclude(JSON.stringify([ran, failed]), "s3cret-value")
      })
    )
  })
})

/** Numbers that are the same in every run. */
const numbers = (seed: number) => {
  let state = seed
  return (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % below
  }
}

describe("the tools", () => {
  const writes = { stdout: Fake.stdout, stderr: Fake.stderr }
  /** Writes what both streams are to be, in chunks of any size, which split characters, one after the other in any order. */
  const spew: Fake.Command = ({ args: [seed, kind] }) => {
    const next = numbers(Number(seed))
    const left = wholeOf(Number(seed), kind === "text")
    const events: Array<Fake.CommandEvent> = []
    while (left.stdout.length + left.stderr.length > 0) {
      const stream = next(2) === 0 ? ("stdout" as const) : ("stderr" as const)
      const size = next(4) === 0 ? next(3000) : next(7)
      events.push(writes[stream](left[stream].subarray(0, size)))
      left[stream] = left[stream].subarray(size)
    }
    return Stream.fromIterable(events)
  }
  const wholeOf = (seed: number, isText: boolean) => {
    const next = numbers(seed + 1000)
    const letters = ["a", "\n", "é", "☃", "😀"]
    const bytes = (count: number) =>
      isText
        ? utf8.encode(Array.from({ length: count }, () => letters[next(letters.length)]).join(""))
        : Uint8Array.from({ length: count }, () => next(256))
    return { stdout: bytes(4000), stderr: bytes(next(4000)) }
  }

  it.layer(
    AgentToolkit.layer({ maxOutputBytes: 1001, maxPageBytes: 1024 }).pipe(
      Layer.provide(SandboxService.layer),
      Layer.provide(Layer.mergeAll(Fake.layer({ commands: { spew } }), Memory.layer({ namespace: "test" }))),
      Layer.provide(settings())
    ),
    { excludeTestServices: true }
  )((test) => {
    test.effect("lose no byte of output, whatever its chunks are and wherever it is cut", () =>
      Effect.gen(function* () {
        const { sandboxId } = yield* call("sandbox_create", {})
        for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
          const isText = seed % 2 === 0
          const args = [`${seed}`, isText ? "text" : "bytes"]
          const { error, note, output, processId } = yield* call("sandbox_run_command", {
            sandboxId,
            command: "spew",
            args
          })
          const whole = wholeOf(seed, isText)
          for (const [stream, shown] of [
            ["stdout", output],
            ["stderr", error]
          ] as const) {
            const wanted = Buffer.from(whole[stream])
            const alone = yield* readLog({ sandboxId, processId, stream, maxBytes: 1024 + seed })
            assert.isTrue(alone.bytes.equals(wanted), `${seed} ${stream}`)
            const [head = "", omitted, tail = ""] = shown.split(/\n\[… (\d+) bytes are left out here …\]\n/)
            if (!isText || omitted === undefined) continue
            assert.strictEqual(Buffer.byteLength(head + tail) + Number(omitted), wanted.length)
            const rest = yield* readLog({ sandboxId, ...named(note, stream) })
            assert.isTrue(joined([utf8.encode(head), rest.bytes]).equals(wanted), `${seed} ${stream}, the rest`)
            assert.isTrue(rest.chunks.every((chunk) => "text" in chunk))
          }
          const both = yield* readLog({ sandboxId, processId })
          for (const stream of ["stdout", "stderr"] as const) {
            const own = both.chunks.filter((chunk) => chunk["stream"] === stream).map(bytesOf)
            assert.isTrue(joined(own).equals(Buffer.from(whole[stream])), `${seed} ${stream} of both`)
          }
        }
      })
    )
  })

  it.effect("say of a command whose machine is gone that its end is unknown, and still show what it wrote", () =>
    Effect.gen(function* () {
      const { sandboxId } = yield* call("sandbox_create", { persistent: false })
      const begun = yield* Deferred.make<AgentToolkit.CommandProgress>()
      const running = yield* refused("sandbox_run_command", { sandboxId, command: "work" }).pipe(
        Effect.provideService(AgentToolkit.Progress, (progress) => Effect.asVoid(Deferred.succeed(begun, progress))),
        Effect.forkChild
      )
      const { processId } = yield* advancing(Deferred.await(begun))
      yield* Fake.Cloud.use((cloud) => cloud.vanish(sandboxId))
      const failure = yield* advancing(Fiber.join(running))
      assert.deepInclude(failure, { reason: "OutcomeUnknown", processId })
      assert.include(failure.message, "before you do it again")
      assert.include(failure.message, `sandbox_read_process_logs with processId "${processId}"`)
      const log = yield* call("sandbox_read_process_logs", { sandboxId, processId })
      assert.deepInclude(log, { status: "lost", output: [{ stream: "stdout", text: "begun\n" }] })
    }).pipe(
      Effect.provide(
        AgentToolkit.layer().pipe(
          Layer.provideMerge(
            Testing.layer({
              commands: { work: () => Stream.concat(Stream.succeed(Fake.stdout("begun\n")), Stream.never) }
            })
          )
        )
      )
    )
  )
})

describe("a command whose call is cancelled", () => {
  it.effect("is killed, also by a vendor that does not answer at first", () =>
    Effect.gen(function* () {
      const { sandboxId } = yield* call("sandbox_create", {})
      const begun = yield* Deferred.make<AgentToolkit.CommandProgress>()
      const running = yield* call("sandbox_run_command", { sandboxId, command: "work" }).pipe(
        Effect.provideService(AgentToolkit.Progress, (progress) => Effect.asVoid(Deferred.succeed(begun, progress))),
        Effect.forkChild
      )
      const { processId } = yield* advancing(Deferred.await(begun))
      const faults = yield* Faults.Faults
      yield* faults.add(Faults.on("signal", Faults.fail(), { times: 2 }))
      yield* advancing(Fiber.interrupt(running))
      assert.strictEqual(faults.unused.length, 0)
      const log = call("sandbox_read_process_logs", { sandboxId, processId, waitMs: 60_000 })
      assert.strictEqual((yield* advancing(log))["status"], "killed")
    }).pipe(
      Effect.provide(
        AgentToolkit.layer().pipe(
          Layer.provideMerge(
            Testing.layer({
              commands: { work: () => Stream.concat(Stream.succeed(Fake.stdout("begun\n")), Stream.never) }
            })
          )
        )
      )
    )
  )
})

describe("the URL of a port", () => {
  it.effect("is told with the names of the headers that it needs, and without their values", () =>
    Effect.gen(function* () {
      const found = yield* call("sandbox_get_port_url", { sandboxId: crypto.randomUUID(), port: 3000 })
      assert.deepInclude(found, {
        url: "https://3000.example",
        requiredHeaders: ["x-preview-token"],
        expiresAt: "1970-01-01T00:00:01.000Z"
      })
      assert.notInclude(JSON.stringify(found), "s3cret-value")
    }).pipe(
      Effect.provide(
        AgentToolkit.layer().pipe(
          Layer.provide(
            Layer.mock(SandboxService)({
              platform: () => assert.fail("no file is asked for"),
              getPortUrl: (_, port) =>
                Effect.succeed({
                  port,
                  url: "https://3000.example",
                  headers: { "x-preview-token": Redacted.make("s3cret-value") },
                  expiresAt: 1000
                })
            })
          )
        )
      )
    )
  )
})

describe("the toolkits", () => {
  const marks = [
    [Tool.Readonly, "r"],
    [Tool.Destructive, "d"],
    [Tool.Idempotent, "i"],
    [Tool.OpenWorld, "o"]
  ] as const
  const hints = ({ annotations }: Tool.Any) =>
    marks.map(([hint, mark]) => (Context.get(annotations, hint) ? mark : "-")).join("")

  it("say of each tool what it may do: reads only, destroys, idempotent, open world", () => {
    const tools: ReadonlyArray<Tool.Any> = Object.values(toolkit.tools)
    assert.deepStrictEqual(Object.fromEntries(tools.map((tool) => [tool.name, hints(tool)])), {
      sandbox_create: "---o",
      sandbox_run_command: "-d-o",
      sandbox_read_process_logs: "r-i-",
      sandbox_stop_process: "-di-",
      sandbox_read_file: "r-i-",
      sandbox_write_file: "-di-",
      sandbox_edit_file: "-d--",
      sandbox_list_files: "r-i-",
      sandbox_search_files: "r-i-",
      sandbox_create_checkpoint: "-d--",
      sandbox_restore_checkpoint: "-di-",
      sandbox_list_checkpoints: "r-i-",
      sandbox_get_port_url: "r-i-",
      sandbox_stop: "-di-"
    })
    for (const tool of tools) {
      // Nothing is left to a default, which would say that it destroys.
      for (const hint of [Tool.Readonly, Tool.Destructive, Tool.Idempotent, Tool.OpenWorld, Tool.Title]) {
        assert.isTrue(tool.annotations.mapUnsafe.has(hint.key), `${tool.name} ${hint.key}`)
      }
      assert.strictEqual(tool.failureMode, "return")
      assert.isAbove(Tool.getDescription(tool)?.length ?? 0, 30)
    }
  })

  it("have parameters that a model is told about, and the bound one no sandbox among them", () => {
    const parameters = (tool: Tool.Any) => Tool.getJsonSchema(tool) as Seen
    for (const tool of Object.values<Tool.Any>(toolkit.tools)) {
      const { properties, type } = parameters(tool)
      assert.strictEqual(type, "object")
      if (tool.name !== "sandbox_create") assert.include(parameters(tool)["required"], "sandboxId")
      assert.isAbove(Object.keys(properties).length, 0)
    }
    const bound = Object.values<Tool.Any>(boundToolkit.tools)
    assert.deepStrictEqual(
      Object.keys(toolkit.tools).filter((name) => !bound.some((tool) => tool.name === name)),
      ["sandbox_create", "sandbox_stop"]
    )
    for (const tool of bound) assert.notProperty(parameters(tool)["properties"] ?? {}, "sandboxId")
  })

  it.effect("refuse sizes and ids that make no sense", () =>
    Effect.gen(function* () {
      for (const layer of [
        AgentToolkit.layer({ maxOutputBytes: -1 }),
        AgentToolkit.layer({ maxPageBytes: 1 }),
        AgentToolkit.layerBound("no id")
      ]) {
        const error = yield* Effect.flip(Effect.scoped(Layer.build(Layer.provide(layer, services.fake))))
        assert.strictEqual(error.reason._tag, "InvalidArgument")
      }
    })
  )
})
