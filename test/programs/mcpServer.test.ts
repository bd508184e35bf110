/** The MCP server as its users have it: a program of its own, whose peer is the official client. */
import { afterAll, assert, beforeAll, describe, it, vi } from "@effect/vitest"
import { Client } from "@modelcontextprotocol/sdk/client/index.js"
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js"
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js"
import type { Cause } from "effect"
import { Deferred, Effect, Exit, Fiber, Queue, Sink, Stdio, Stream } from "effect"
import { McpTest } from "effect/ai"
import type { ChildProcessWithoutNullStreams } from "node:child_process"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as AgentToolkit from "../../src/programs/agentToolkit.ts"
import { maxMessage } from "../../src/programs/internal/mcpStdio.ts"
import { protocols, registrations, serve, version } from "../../src/programs/mcpServer.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { advancing } from "../support/advancing.ts"

const main = fileURLToPath(new URL("../../src/programs/mcpMain.ts", import.meta.url))

let folder = ""

interface Server {
  readonly client: Client
  readonly child: ChildProcessWithoutNullStreams
  /** What was on the standard output that is no message, and everything else that the transport or the client objects to. */
  readonly errors: Array<unknown>
  readonly stderr: string
  /** Its exit code and signal. */
  readonly ended: Promise<unknown>
}

const start = (args: ReadonlyArray<string> = [], env: Record<string, string> = {}) => {
  const child = spawn(process.execPath, [main, ...args], {
    cwd: folder,
    env: { PATH: "/usr/local/bin:/usr/bin:/bin", SANDBOX_PROVIDER: "local", ...env }
  })
  const ended = once(child, "close")
  let stderr = ""
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  return { child, ended, stderr: () => stderr }
}

const connect = async (args: ReadonlyArray<string> = []): Promise<Server> => {
  const { child, ended, stderr } = start(args)
  const client = new Client({ name: "test", version: "1" })
  const errors: Array<unknown> = []
  // eslint-disable-next-line unicorn/prefer-add-event-listener -- the client is no EventTarget
  client.onerror = (error) => errors.push(error)
  // The SDK's framing over any two streams: with it this test has the process, and its exit code, in hand.
  const transport = new StdioServerTransport(child.stdout, child.stdin)
  const connected = client.connect(transport)
  await Promise.race([
    connected,
    ended.then(([code]) => Promise.reject(new Error(`the server ended with ${code}: ${stderr()}`)))
  ])
  return {
    client,
    child,
    ended,
    errors,
    get stderr() {
      return stderr()
    }
  }
}

let server: Server
let sandboxId = ""

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "effect-sandbox-mcp-"))
  server = await connect()
  // The client checks structured content against the schemas that it has listed.
  await server.client.listTools()
  sandboxId = (await call("sandbox_create", {}))["sandboxId"]
})

afterAll(async () => {
  server.child.kill("SIGKILL")
  await rm(folder, { recursive: true, force: true, maxRetries: 5 })
})

// eslint-disable-next-line typescript/no-explicit-any -- a wrong guess fails the test
type Json = Record<string, any>

const callTool = async (name: string, args: Json, options?: Parameters<Client["callTool"]>[2], on = server) =>
  (await on.client.callTool({ name, arguments: args }, undefined, options)) as CallToolResult

const call = async (name: string, args: Json, options?: Parameters<Client["callTool"]>[2], on = server) => {
  const result = await callTool(name, args, options, on)
  assert.notStrictEqual(result.isError, true, JSON.stringify(result.content))
  return result.structuredContent as Json
}

const textOf = ({ content: [first] }: CallToolResult): string => (first?.type === "text" ? first.text : "")

/** The log of a process once it has ended. */
const ended = async (processId: string, on = server, own: Json = { sandboxId }) => {
  for (;;) {
    const page = await call("sandbox_read_process_logs", { ...own, processId, waitMs: 20_000 }, undefined, on)
    if (!["starting", "running", "detached"].includes(page["status"])) return page
  }
}

/** One that has ended and that nobody has reaped yet is dead. */
const isAlive = (pid: string): boolean =>
  !/^(Z.*)?$/.test(spawnSync("ps", ["-o", "stat=", "-p", pid], { encoding: "utf8" }).stdout.trim())

describe("the MCP server", () => {
  it("lists the tools with their hints and schemas", async () => {
    assert.deepInclude(server.client.getServerVersion(), { name: "effect-sandbox", version })
    assert.include(server.client.getInstructions(), "sandbox_create")
    const { tools } = await server.client.listTools()
    assert.deepStrictEqual(
      tools.map(({ name }) => name),
      Object.keys(AgentToolkit.toolkit.tools)
    )
    const run = tools.find(({ name }) => name === "sandbox_run_command")
    assert.deepStrictEqual(run?.annotations, {
      title: "Run a command",
      readOnlyHint: false,
      destructiveHint: true,
      idempotentHint: false,
      openWorldHint: true
    })
    assert.deepStrictEqual(run?.inputSchema.required, ["sandboxId", "command"])
    assert.includeMembers(Object.keys(run?.inputSchema.properties ?? {}), [
      "args",
      "cwd",
      "env",
      "kind",
      "mode",
      "metadata"
    ])
    assert.includeMembers(Object.keys(run?.outputSchema?.properties ?? {}), [
      "processId",
      "exitCode",
      "output",
      "error"
    ])
    const read = tools.find(({ name }) => name === "sandbox_read_file")
    assert.deepInclude(read?.annotations, { readOnlyHint: true, destructiveHint: false, openWorldHint: false })
  })

  it("has the version of the package", async () => {
    const { version: published } = JSON.parse(await readFile(new URL("../../package.json", import.meta.url), "utf8"))
    assert.strictEqual(version, published)
  })

  it("answers with structured content, and the same as text", async () => {
    const result = await callTool("sandbox_run_command", {
      sandboxId,
      command: "sh",
      args: ["-c", "printf 'ü\\n'; exit 2"],
      metadata: { deep: [1, { er: null }] }
    })
    assert.isFalse(result.isError ?? false)
    assert.deepInclude(result.structuredContent, {
      sandboxId,
      success: false,
      exitCode: 2,
      output: "ü\n",
      status: "failed"
    })
    assert.deepStrictEqual(JSON.parse(textOf(result)), result.structuredContent)
  })

  it("answers failures and wrong parameters as results that the model can read", async () => {
    const result = await callTool("sandbox_read_file", { sandboxId, path: "none" })
    assert.isTrue(result.isError)
    assert.notProperty(result, "structuredContent")
    assert.deepStrictEqual(JSON.parse(textOf(result)), {
      _tag: "ToolFailure",
      reason: "NotFound",
      message: "none: there is no such file or directory",
      isRetryable: false
    })
    for (const [args, problem] of [
      [{ sandboxId }, "path"],
      [{ sandboxId, path: "x", maxBytes: 1 }, "maxBytes"],
      [{ sandboxId: "x", path: "x" }, "sandboxId"],
      // A misspelt limit must not become none.
      [{ sandboxId, path: "x", maxbytes: 2000 }, "maxbytes"]
    ] as const) {
      const wrong = await callTool("sandbox_read_file", args)
      assert.isTrue(wrong.isError)
      assert.include(textOf(wrong), problem)
    }
    const unknown = await callTool("sandbox_format_disk", {}).then(
      (result) => assert.fail(JSON.stringify(result)),
      (error: { readonly code: number }) => error.code
    )
    assert.strictEqual(unknown, -32602)
  })

  it("tells of a command that is under way to whoever asks, and goes on with other calls meanwhile", async () => {
    const heard: Array<{ readonly progress: number; readonly message?: string }> = []
    const first = Promise.withResolvers<void>()
    const running = call(
      "sandbox_run_command",
      { sandboxId, command: "sh", args: ["-c", "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two"] },
      {
        onprogress: ({ message, progress }) => {
          heard.push({ progress, ...(message === undefined ? {} : { message }) })
          first.resolve()
        }
      }
    )
    await first.promise
    assert.strictEqual(heard[0]?.message, "one")
    await call("sandbox_write_file", { sandboxId, path: "go", content: "" })
    assert.strictEqual((await running)["output"], "one\ntwo\n")
    assert.isTrue(heard.every(({ progress }, index) => index === 0 || progress > (heard[index - 1]?.progress ?? 0)))
  })

  it("kills the command of a call that the client cancels", async () => {
    const processId = crypto.randomUUID()
    const controller = new AbortController()
    const running = callTool(
      "sandbox_run_command",
      { sandboxId, processId, command: "sh", args: ["-c", "sleep 600 & echo $$ $!; wait"] },
      { signal: controller.signal, onprogress: () => controller.abort() }
    )
    await running.then(
      (result) => assert.fail(JSON.stringify(result)),
      () => undefined
    )
    const { output, status } = await ended(processId)
    assert.strictEqual(status, "killed")
    // Neither it nor its child is left.
    const pids = output[0].text.trim().split(" ")
    assert.strictEqual(pids.length, 2)
    await vi.waitFor(() => assert.deepStrictEqual(pids.filter(isAlive), []), { timeout: 20_000 })
    // And the server goes on.
    assert.strictEqual(
      (await call("sandbox_run_command", { sandboxId, command: "echo", args: ["on"] }))["output"],
      "on\n"
    )
  })

  it("ends with its input, and with it the calls that hang; the next one goes on with what it has left", async () => {
    const background = await call("sandbox_run_command", {
      sandboxId,
      command: "sh",
      args: ["-c", "echo begun; while [ ! -e end ]; do sleep 0.05; done; echo done"],
      mode: "background"
    })
    const hanging = crypto.randomUUID()
    const begun = Promise.withResolvers<void>()
    void callTool(
      "sandbox_run_command",
      { sandboxId, processId: hanging, command: "sh", args: ["-c", "echo $$; sleep 600"] },
      { onprogress: () => begun.resolve() }
    ).catch(() => undefined)
    await begun.promise
    // Answers that the client does not take are no reason to stay.
    await call("sandbox_write_file", { sandboxId, path: "large", content: "x".repeat(1 << 18) })
    server.child.stdout.pause()
    for (let reading = 0; reading < 12; reading++) {
      void callTool("sandbox_read_file", { sandboxId, path: "large", maxBytes: 1 << 18 }).catch(() => undefined)
    }
    const exited = once(server.child, "exit")
    server.child.stdin.end()
    assert.deepStrictEqual(await exited, [0, null])
    server.child.stdout.resume()
    await server.ended
    assert.deepStrictEqual([server.errors, server.stderr], [[], ""])

    const next = await connect(["--sandbox", sandboxId])
    try {
      const { tools } = await next.client.listTools()
      assert.deepStrictEqual(
        tools.map(({ name }) => name),
        Object.keys(AgentToolkit.boundToolkit.tools)
      )
      assert.notInclude(next.client.getInstructions(), "sandbox_create")
      const killed = await ended(hanging, next, {})
      assert.strictEqual(killed["status"], "killed")
      assert.isFalse(isAlive(killed["output"][0].text.trim()))
      await call("sandbox_write_file", { path: "end", content: "" }, undefined, next)
      const { output, status } = await ended(background["processId"], next, {})
      assert.deepStrictEqual([status, output], ["exited", [{ stream: "stdout", text: "begun\ndone\n" }]])

      // The other way to end it.
      const running = Promise.withResolvers<string>()
      void callTool(
        "sandbox_run_command",
        { command: "sh", args: ["-c", "echo $$; exec sleep 600"] },
        { onprogress: ({ message = "" }) => running.resolve(message) },
        next
      ).catch(() => undefined)
      const pid = await running.promise
      next.child.kill("SIGTERM")
      assert.deepStrictEqual(await next.ended, [130, null])
      await vi.waitFor(() => assert.isFalse(isAlive(pid)), { timeout: 20_000 })
      assert.deepStrictEqual([next.errors, next.stderr], [[], ""])
    } finally {
      next.child.kill("SIGKILL")
    }
  })

  it("says on its standard error what it cannot serve, and that it serves this machine unasked", async () => {
    for (const [provider, code, said] of [
      ["vercel", 1, "SANDBOX_VERCEL_TOKEN"],
      ["docker", 1, "registered: local, vercel, daytona, sprites"],
      ["", 0, "without isolation"]
    ] as const) {
      const { child, ended, stderr } = start([], { SANDBOX_PROVIDER: provider, SANDBOX_STORE: "memory" })
      let stdout = ""
      child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
      child.stdin.end()
      assert.deepStrictEqual(await ended, [code, null])
      assert.strictEqual(stdout, "")
      assert.include(stderr(), said)
    }
  })
})

/** Of a server in this process: nothing comes in, and nothing goes out. */
const quietStdio = {
  args: Effect.succeed([]),
  stdinIsTerminal: Effect.succeed(false),
  stdoutIsTerminal: Effect.succeed(false),
  stderrIsTerminal: Effect.succeed(false),
  stdin: Stream.never,
  stdout: () => Sink.drain,
  stderr: () => Sink.drain
}

const hello =
  `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},` +
  `"clientInfo":{"name":"test","version":"1"}}}\n{"jsonrpc":"2.0","method":"notifications/initialized"}\n`
const ping = (id: string) => `{"jsonrpc":"2.0","id":"${id}","method":"ping"}\n`

describe("the MCP server over machines in memory", () => {
  it.effect.each(protocols.map(({ protocolVersion }) => protocolVersion))(
    "speaks the protocol of %s: results, failures, and progress for a quiet command too",
    (protocolVersion) =>
      Effect.gen(function* () {
        const client = yield* McpTest.makeClient(registrations(), { protocols, protocolVersion })
        const tool = (name: string, args: Json) =>
          client.callTool({ name, arguments: args, _meta: { progressToken: name } })
        const made = yield* tool("sandbox_create", {})
        const id = JSON.parse(textOf(made as CallToolResult)).sandboxId
        yield* Queue.clear(client.notifications)
        const ran = yield* advancing(tool("sandbox_run_command", { sandboxId: id, command: "quiet" }))
        const result = JSON.parse(textOf(ran as CallToolResult))
        assert.deepInclude(result, { success: true, output: "first\nlast\n" })
        // The oldest ones have no structured content.
        assert.deepStrictEqual(
          ran.structuredContent,
          ["2024-11-05", "2025-03-26"].includes(protocolVersion) ? undefined : result
        )
        const told = (yield* Queue.clear(client.notifications)).flatMap((notification) =>
          notification.method === "notifications/progress" ? [notification.payload as Json] : []
        )
        assert.isTrue(told.every(({ progressToken }) => progressToken === "sandbox_run_command"))
        assert.isTrue(told.every(({ progress }, index) => index === 0 || progress > told[index - 1]?.["progress"]))
        // Output as it comes, and signs of life while there is none; the oldest one has no place for what they say.
        const said = protocolVersion === "2024-11-05" ? [] : ["first", "last"]
        assert.deepStrictEqual(
          told.flatMap(({ message }) => (message === undefined ? [] : [message])),
          said
        )
        assert.isAtLeast(told.length, 4)
        const failed = yield* tool("sandbox_run_command", { sandboxId: id, command: "no-such" })
        assert.isTrue(failed.isError)
        assert.strictEqual(JSON.parse(textOf(failed as CallToolResult)).reason, "NotFound")
      }).pipe(
        Effect.provide(
          Testing.layer({
            commands: {
              quiet: () =>
                Stream.concat(
                  Stream.succeed(Fake.stdout("first\n")),
                  Stream.fromEffect(Effect.delay(Effect.succeed(Fake.stdout("last\n")), "25 seconds"))
                )
            }
          })
        )
      )
  )

  it.effect("answers whatever is a line, and what comes with it", () =>
    Effect.gen(function* () {
      const input = yield* Queue.unbounded<Uint8Array, Cause.Done>()
      const output = yield* Queue.unbounded<Json>()
      const stdio = Stdio.make({
        ...quietStdio,
        stdin: Stream.fromQueue(input),
        stdout: () => Sink.forEach((line) => Queue.offer(output, JSON.parse(String(line))))
      })
      const serving = yield* Effect.forkChild(Effect.provideService(serve(), Stdio.Stdio, stdio))
      const send = (...parts: ReadonlyArray<string | Uint8Array>) =>
        Queue.offer(input, Buffer.concat(parts.map(Buffer.from)))
      /** What it says of a line, without the words. */
      const answered = Effect.map(Queue.take(output), ({ error, id, result }) => [id, error?.code ?? result])
      yield* send(hello)
      assert.strictEqual((yield* Queue.take(output))["id"], 1)
      // No JSON, nothing at all, and a message that comes in two pieces.
      yield* send("{no json\n \r\n", ping("a"), Uint8Array.of(0x7b, 0xff, 10), ping("b"), ping("c").slice(0, 9))
      yield* send(ping("c").slice(9))
      const answers = [yield* answered, yield* answered, yield* answered, yield* answered, yield* answered]
      assert.sameDeepMembers(answers, [
        [null, -32700],
        ["a", {}],
        [null, -32700],
        ["b", {}],
        ["c", {}]
      ])
      // Too large, with the id at either end, or none.
      const large = Buffer.alloc(maxMessage, "x")
      yield* send(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"x":"`, large, `"}}\n`)
      assert.deepStrictEqual(yield* answered, [7, -32600])
      yield* send(`{"method":"tools/call","params":{"id":8,"x":"`)
      yield* send(large, `"},"jsonrpc":"2.0","id":"\\"9"}\n`, ping("d"))
      assert.sameDeepMembers(
        [yield* answered, yield* answered],
        [
          ['"9', -32600],
          ["d", {}]
        ]
      )
      yield* send(`{"method":"notifications/x","params":{"x":"`, large, `","id":10}}\n`, ping("e"))
      assert.sameDeepMembers(
        [yield* answered, yield* answered],
        [
          [null, -32600],
          ["e", {}]
        ]
      )
      yield* Queue.end(input)
      yield* advancing(Fiber.join(serving))
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("ends for who interrupts it, whether its client reads or not", () =>
    Effect.gen(function* () {
      const offered = yield* Deferred.make<void>()
      const requests = Array.from({ length: 50 }, (_, id) => `{"jsonrpc":"2.0","id":"${id}","method":"tools/list"}\n`)
      const stdio = Stdio.make({
        ...quietStdio,
        stdin: Stream.concat(Stream.succeed(Buffer.from(hello + requests.join(""))), Stream.never),
        stdout: () => Sink.forEach(() => Effect.andThen(Deferred.succeed(offered, undefined), Effect.never))
      })
      const serving = yield* Effect.forkChild(Effect.provideService(serve(), Stdio.Stdio, stdio))
      yield* Deferred.await(offered)
      assert.isTrue(
        Exit.hasInterrupts(yield* advancing(Effect.andThen(Fiber.interrupt(serving), Fiber.await(serving))))
      )
    }).pipe(Effect.provide(Testing.layer()))
  )
})
