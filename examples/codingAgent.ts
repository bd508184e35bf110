/**
 * A coding agent's tool loop: it runs the tests, reads, edits and runs them again, in a sandbox that its program chose. The
 * model here is a script, so that this runs without an account; any `LanguageModel` of `effect/ai` takes its place, and the
 * rest stays as it is.
 *
 * `node examples/codingAgent.ts [directory]`
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Stream } from "effect"
import type { Prompt, Response } from "effect/ai"
import { Chat, LanguageModel } from "effect/ai"
import * as Embedded from "../src/Embedded.ts"
import * as AgentToolkit from "../src/programs/agentToolkit.ts"
import * as Sandbox from "../src/services/Sandbox.ts"

// ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────

type Results = ReadonlyArray<{ readonly name: string; readonly result: Record<string, unknown> }>

/** What the tools have answered so far, as a model finds it in its prompt. */
const resultsOf = (prompt: Prompt.Prompt): Results =>
  prompt.content.flatMap((message) =>
    message.role === "tool"
      ? message.content.flatMap((part) =>
          part.type === "tool-result" && typeof part.result === "object" && part.result !== null
            ? [{ name: part.name, result: { ...part.result } }]
            : []
        )
      : []
  )

type Next =
  | { readonly tool: keyof typeof AgentToolkit.boundToolkit.tools; readonly params: unknown }
  | { readonly text: string }

/** Looks at the last answer and decides, as a model would. */
const decide = (results: Results): Next => {
  const test: Next = { tool: "sandbox_run_command", params: { command: "sh", args: ["test.sh"], kind: "test-runner" } }
  const last = results.at(-1)
  switch (last?.name) {
    case undefined:
      return test
    case "sandbox_run_command":
      if (last.result["success"] === true) return { text: `All tests pass after ${results.length} calls.` }
      return { tool: "sandbox_search_files", params: { query: "helo" } }
    case "sandbox_search_files": {
      const [found] = Array.isArray(last.result["matches"]) ? last.result["matches"] : []
      return {
        tool: "sandbox_edit_file",
        params: { path: found.path, oldText: found.text, newText: String(found.text).replace("helo", "hello") }
      }
    }
    default:
      return test
  }
}

const usage = {
  inputTokens: { uncached: undefined, total: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: undefined, text: undefined, reasoning: undefined }
}

const answer = (prompt: Prompt.Prompt): Array<Response.PartEncoded> => {
  const results = resultsOf(prompt)
  const next = decide(results)
  return "text" in next
    ? [
        { type: "text", text: next.text },
        { type: "finish", reason: "stop", usage }
      ]
    : [
        { type: "tool-call", id: `call-${results.length + 1}`, name: next.tool, params: next.params },
        { type: "finish", reason: "tool-calls", usage }
      ]
}

const scripted = Layer.effect(
  LanguageModel.LanguageModel,
  LanguageModel.make({
    generateText: ({ prompt }) => Effect.succeed(answer(prompt)),
    streamText: () => Stream.die("this example does not stream")
  })
)

// ── the agent ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** An answer for people, without the ids. */
const shown = (result: object) =>
  JSON.stringify(Object.fromEntries(Object.entries(result).filter(([key]) => !key.endsWith("Id"))))

/** Goes on until the model has nothing more to call. */
const agent = Effect.fnUntraced(function* (task: string) {
  const tools = yield* AgentToolkit.boundToolkit
  const chat = yield* Chat.fromPrompt([{ role: "system", content: "You fix programs until their tests pass." }])
  let prompt: Prompt.RawInput = task
  while (true) {
    const response = yield* chat.generateText({ prompt, toolkit: tools })
    for (const { name, params } of response.toolCalls) yield* Console.log(`→ ${name} ${JSON.stringify(params)}`)
    for (const { isFailure, result } of response.toolResults) {
      yield* Console.log(`← ${isFailure ? "failed: " : ""}${shown(result)}`)
    }
    if (response.toolCalls.length === 0) return response.text
    prompt = []
  }
})

const program = Effect.gen(function* () {
  const sandbox = yield* Sandbox.scoped({ purpose: "coding agent" })
  yield* sandbox.writeFiles([
    { path: "greet.sh", content: 'echo "helo $1"\n' },
    {
      path: "test.sh",
      content: 'got=$(sh greet.sh ada)\n[ "$got" = "hello ada" ] || { echo "not ok: $got" >&2; exit 1; }\necho ok\n'
    }
  ])
  const text = yield* agent("Make the tests pass.").pipe(
    Effect.provide([AgentToolkit.layerBound(sandbox.id), scripted])
  )
  yield* Console.log(text)
}).pipe(Effect.scoped)

NodeRuntime.runMain(Effect.provide(program, Embedded.layer({ directory: process.argv[2] ?? ".effect-sandbox" })))
