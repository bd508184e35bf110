/**
 * A backend that streams a process to a browser as server-sent events. Each event has the `seq` of the log as its id, so that a browser
 * that comes back says with `Last-Event-ID` what it has seen, and gets the rest: nothing twice, nothing left out.
 *
 * `node examples/processEvents.ts [directory]` starts the server and is its own browser, which loses its connection in the middle; with
 * `--serve` it stays, for a real one.
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Option, Stream, SubscriptionRef } from "effect"
import { Sse } from "effect/encoding"
import {
  FetchHttpClient,
  Headers,
  HttpClient,
  HttpRouter,
  HttpServer,
  type HttpServerRequest,
  HttpServerResponse
} from "effect/http"
import { createServer } from "node:http"
import * as Embedded from "../src/Embedded.ts"
import * as ProcessEvent from "../src/model/ProcessEvent.ts"
import { isTerminal } from "../src/model/Process.ts"
import * as Sandbox from "../src/services/Sandbox.ts"
import { SandboxService } from "../src/services/SandboxService.ts"

const serve = process.argv.includes("--serve")
const [directory = ".effect-sandbox"] = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))

// ── the backend ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** A comment, which browsers ignore: it keeps proxies from closing what is quiet, and finds out about a client that has gone. */
const heartbeat = ": heartbeat\n\n"

const toSse = (event: ProcessEvent.ProcessEvent): string =>
  // All of them `message`s: an event called `error` would be taken for one of the connection.
  Sse.encoder.write({
    _tag: "Event",
    id: String(event.seq),
    event: "message",
    data: JSON.stringify(ProcessEvent.encode(event))
  })

/** How many clients follow a process: to show that they leave nothing behind. */
const readers = Effect.runSync(SubscriptionRef.make(0))

const follow = (request: HttpServerRequest.HttpServerRequest) =>
  Effect.gen(function* () {
    const sandboxes = yield* SandboxService
    const { processId = "" } = yield* HttpRouter.params
    const after = Number(Option.getOrElse(Headers.get(request.headers, "last-event-id"), () => "0"))
    // From any service, also one that has not started it: attaching goes on with its log if nobody does.
    const process = yield* sandboxes.attachProcess(processId, { after })
    const { status } = yield* process.snapshot
    if (isTerminal(status)) {
      // "No content" is what tells a browser that has it all not to come again.
      const rest = yield* Stream.runHead(process.events)
      if (Option.isNone(rest)) return HttpServerResponse.empty({ status: 204 })
    }
    const body = process.events.pipe(
      Stream.map(toSse),
      Stream.merge(Stream.as(Stream.tick("15 seconds"), heartbeat), { haltStrategy: "left" }),
      Stream.encodeText,
      Stream.onStart(SubscriptionRef.update(readers, (count) => count + 1)),
      // A client that goes away interrupts its reader. The process does not notice.
      Stream.ensuring(SubscriptionRef.update(readers, (count) => count - 1))
    )
    return HttpServerResponse.stream(body, {
      contentType: "text/event-stream",
      headers: { "cache-control": "no-cache", "x-accel-buffering": "no" }
    })
  }).pipe(
    Effect.catchReasons("SandboxError", {
      NotFound: ({ message }) => Effect.succeed(HttpServerResponse.text(message, { status: 404 })),
      InvalidArgument: ({ message }) => Effect.succeed(HttpServerResponse.text(message, { status: 400 }))
    })
  )

const page = HttpServerResponse.html(`<!doctype html><title>process</title><pre></pre><script>
  const source = new EventSource("/processes/" + location.hash.slice(1) + "/events")
  source.onmessage = ({ data }) => {
    const event = JSON.parse(data)
    if (event.data?.text) document.querySelector("pre").append(event.data.text)
    if (event.type === "exit") source.close()
  }
</script>`)

const routes = Layer.mergeAll(
  HttpRouter.add("GET", "/", page),
  HttpRouter.add("GET", "/processes/:processId/events", follow)
)

const server = HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
  Layer.provideMerge(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0 }))
)

// ── a browser ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What `EventSource` does: asks with the id of the last event that it has seen. */
const connect = (url: string, lastEventId?: string) =>
  HttpClient.get(url, { headers: lastEventId === undefined ? {} : { "last-event-id": lastEventId } }).pipe(
    Effect.map((response) => response.stream.pipe(Stream.decodeText, Stream.pipeThroughChannel(Sse.decode()))),
    Stream.unwrap
  )

const textOf = ({ data }: { readonly data: string }): string => JSON.parse(data).data?.text ?? ""

const script = `
for i in 1 2 3; do echo "step $i"; done
until [ -e go ]; do sleep 0.05; done
for i in 4 5 6; do echo "step $i"; done`

const program = Effect.gen(function* () {
  const { address } = yield* HttpServer.HttpServer
  const sandbox = yield* Sandbox.scoped({ purpose: "server-sent events", persistent: false })
  const process = yield* sandbox.runCommandProcess("sh", ["-c", script])
  const base = `http://127.0.0.1:${address._tag === "UnixPathAddress" ? 0 : address.port}`
  const url = `${base}/processes/${process.processId}/events`
  if (serve) {
    yield* Console.log(`open ${base}/#${process.processId} and then: touch ${sandbox.ref.workspaceRoot}/go`)
    return yield* Effect.never
  }

  // It reads until it has seen the third step, and loses its connection.
  let seen = ""
  let lastEventId: string | undefined
  yield* connect(url).pipe(
    Stream.takeUntil((event) => {
      seen += textOf(event)
      lastEventId = event.id
      return seen.endsWith("step 3\n")
    }),
    Stream.runDrain
  )
  yield* Console.log(`${seen}-- the connection breaks`)

  yield* Stream.runDrain(Stream.takeUntil(SubscriptionRef.changes(readers), (count) => count === 0))
  const { status } = yield* process.snapshot
  yield* Console.log(`-- nobody reads, and the process is ${status}`)
  yield* sandbox.writeFiles([{ path: "go", content: "" }])

  const rest = yield* Stream.runCollect(connect(url, lastEventId))
  yield* Console.log(`${rest.map(textOf).join("")}-- all of it`)
  const again = yield* HttpClient.get(url, { headers: { "last-event-id": rest.at(-1)?.id ?? "" } })
  const unknown = yield* HttpClient.get(url.replace(process.processId, crypto.randomUUID()))
  yield* Console.log(`-- once more: ${again.status}, another process: ${unknown.status}`)
}).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

NodeRuntime.runMain(Effect.provide(program, server.pipe(Layer.provideMerge(Embedded.layer({ directory })))))
