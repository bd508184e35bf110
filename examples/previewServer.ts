/**
 * A preview of what is being worked on: a dev server in a sandbox, as a recorded process, and the address at which a browser gets to
 * it. `node examples/previewServer.ts [directory]`
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import { FetchHttpClient, HttpClient } from "effect/http"
import { once } from "node:events"
import { createServer } from "node:net"
import * as Embedded from "../src/Embedded.ts"
import * as Sandbox from "../src/services/Sandbox.ts"

/** On this machine a sandbox has the host's own ports; at a vendor any port would do. */
const freePort = Effect.promise(async () => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  return typeof address === "object" && address !== null ? address.port : 0
})

/** Reads the page anew for each request, as a dev server does. */
const devServer = `
const { createServer } = require("node:http")
const { readFileSync } = require("node:fs")
createServer((request, response) => response.end(readFileSync("index.html"))).listen(process.argv[2], "127.0.0.1")
`

const program = Effect.gen(function* () {
  const port = yield* freePort
  // Stopped with its Scope, and deleted: whatever happens in between, no server stays behind.
  const sandbox = yield* Sandbox.scoped({ purpose: "preview", ports: [port], persistent: false })
  yield* sandbox.writeFiles([
    { path: "server.cjs", content: devServer },
    { path: "index.html", content: "<h1>Hello</h1>" }
  ])
  const server = yield* sandbox.runCommandProcess("node", ["server.cjs", String(port)], { kind: "dev-server" })

  // Waits until something answers there. Some vendors guard their addresses: then these headers belong to each request.
  const { headers, url } = yield* sandbox.getPortUrl(port, { ready: true })
  yield* Console.error(`the preview is at ${url}, with ${Object.keys(headers).length} headers`)
  const page = Effect.flatMap(HttpClient.get(url), (response) => response.text)
  yield* Console.log(yield* page)

  // The agent, or whoever works on it, changes a file.
  yield* sandbox.writeFiles([{ path: "index.html", content: "<h1>Hello, preview</h1>" }])
  yield* Console.log(yield* page)

  yield* server.signal("SIGTERM", { forceAfter: "2 seconds" })
  yield* Console.log("the server ended with", (yield* server.exit)._tag)
}).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

NodeRuntime.runMain(Effect.provide(program, Embedded.layer({ directory: process.argv[2] ?? ".effect-sandbox" })))
