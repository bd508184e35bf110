/**
 * The main job, end to end, on this repository and this machine: upload, run, serve, checkpoint, restore, lose the service and come
 * back, stop. Every claim is proved, by a hash where there are bytes; a failed one makes the exit code 1.
 *
 * `node examples/demo.ts [--seconds <n>]`: how long it may take, 30 seconds else. With `--service` it is the service that it kills.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Context, Deferred, Effect, FileSystem, Layer, Path, Stream } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createServer } from "node:net"
import { fileURLToPath } from "node:url"
import * as Embedded from "../src/Embedded.ts"
import { isOutput } from "../src/model/ProcessEvent.ts"
import { SandboxService } from "../src/services/SandboxService.ts"
import type { File, Proof } from "./demo/proofs.ts"
import { hashTree, hashTreeProgram, LogProof, numberedLines, sha256, table } from "./demo/proofs.ts"

const here = fileURLToPath(import.meta.url)
const lines = 20_000
const [mode, ...args] = process.argv.slice(2)
const limit = mode === "--seconds" ? Number(args[0]) : 30

/** Writes half of its lines, waits for the file `go-<id>`, and writes the other half. */
const longScript = (processId: string) => `
i=0; while [ $i -lt ${lines / 2} ]; do echo "line $i"; i=$((i+1)); done
until [ -e go-${processId} ]; do sleep 0.05; done
while [ $i -lt ${lines} ]; do echo "line $i"; i=$((i+1)); done`

// ── the service that is killed ───────────────────────────────────────────────────────────────────────────────────────

const service = ([directory = "", sandboxId = "", processId = ""]: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const sandboxes = yield* SandboxService
    const process = yield* sandboxes.runCommandProcess(sandboxId, "sh", ["-c", longScript(processId)], { processId })
    yield* process.events.pipe(Stream.filter(isOutput), Stream.runHead)
    yield* Console.log("the log has output")
    yield* process.exit
  }).pipe(Effect.provide(Embedded.layer({ directory })))

/** Starts it, waits until its log has output, and kills it. */
const killService = (signal: "SIGKILL" | "SIGTERM", args: ReadonlyArray<string>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => spawn(process.execPath, [here, "--service", ...args], { stdio: ["ignore", "pipe", "inherit"] })),
    (child) =>
      Effect.promise(async () => {
        const ended = once(child, "exit")
        await Promise.race([once(child.stdout, "data"), ended])
        child.kill(signal)
        await ended
      }),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

// ── the demo ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const freePort = Effect.promise(async () => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  return typeof address === "object" && address !== null ? address.port : 0
})

/** The sources of this repository. */
const readSources = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const root = path.join(path.dirname(here), "..")
  const files: Array<File> = []
  for (const folder of ["src", "test", "scripts", "examples"]) {
    for (const name of yield* fs.readDirectory(path.join(root, folder), { recursive: true })) {
      const file = path.join(folder, name)
      if ((yield* fs.stat(path.join(root, file))).type !== "File") continue
      files.push({ path: file, content: yield* fs.readFile(path.join(root, file)) })
    }
  }
  return files
})

/** Counts lines by folder, and between two folders waits for a word: what it has said by then must have arrived. */
const countScript = `
for folder in src test; do
  echo "$folder $(find $folder -name '*.ts' | xargs cat | wc -l)"
  read word
done`

const demo = Effect.gen(function* () {
  const startedAt = performance.now()
  const fs = yield* FileSystem.FileSystem
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-demo-" })
  const proofs: Array<Proof> = []
  const prove = (name: string, ok: boolean, figure: string) =>
    Effect.suspend(() => {
      proofs.push({ name, figure, ok })
      return Console.log(`${ok ? "ok  " : "FAIL"}  ${name}`)
    })
  // Two builds of this layer are two services over one store and one data directory.
  const startService = Effect.map(Layer.build(Layer.fresh(Embedded.layer({ directory }))), (context) =>
    Context.get(context, SandboxService)
  )
  const sandboxes = yield* startService
  const port = yield* freePort
  const { sandboxId } = yield* sandboxes.createSandbox({ purpose: "demo", ports: [port] })
  const treeHash = Effect.map(sandboxes.runCommand(sandboxId, process.execPath, ["-e", hashTreeProgram]), (result) =>
    result.stdout.trim()
  )

  const files = yield* readSources
  yield* sandboxes.writeFiles(sandboxId, files)
  const uploaded = hashTree(files)
  const bytes = files.reduce((sum, file) => sum + file.content.length, 0)
  yield* prove(
    "the sources are in the sandbox, byte for byte",
    (yield* treeHash) === uploaded,
    `${files.length} files, ${bytes} bytes`
  )

  // Each line is answered only once it is here, so a line that came late would be waited for for ever.
  const words = yield* Effect.forEach(["src", "test"], () => Deferred.make<void>())
  const answers = Stream.fromIterable(words).pipe(
    Stream.mapEffect((word) => Effect.as(Deferred.await(word), new TextEncoder().encode("go on\n")))
  )
  let told = 0
  yield* sandboxes.streamCommand(sandboxId, "sh", ["-c", countScript], { stdin: answers, timeout: "10 seconds" }).pipe(
    Stream.runForEach((event) => {
      const word = words[told]
      if (event._tag !== "stdout" || word === undefined) return Effect.void
      told++
      return Effect.andThen(
        Console.log(`      ${new TextDecoder().decode(event.bytes).trim()} lines`),
        Deferred.succeed(word, undefined)
      )
    })
  )
  yield* prove(
    "output arrives while the program runs",
    told === words.length,
    `${told} of ${words.length} lines answered`
  )

  const page = `<h1>${uploaded}</h1>`
  yield* sandboxes.writeFiles(sandboxId, [{ path: "page.html", content: page }])
  const server = yield* sandboxes.runCommandProcess(
    sandboxId,
    process.execPath,
    [
      "-e",
      `require("http").createServer((_, r) => r.end(require("fs").readFileSync("page.html"))).listen(${port}, "127.0.0.1")`
    ],
    { kind: "dev-server" }
  )
  const { url } = yield* sandboxes.getPortUrl(sandboxId, port, { ready: true })
  const fetched = yield* Effect.promise(() => fetch(url).then((response) => response.text()))
  yield* prove("a page is served on a port", fetched === page, url)

  const before = yield* treeHash
  const checkpoint = yield* sandboxes.createCheckpoint(sandboxId, { comment: "before the damage" })
  yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "rm -r src test; echo overwritten > page.html"])
  const damaged = yield* treeHash
  yield* sandboxes.restoreCheckpoint(sandboxId, checkpoint.id)
  const restored = yield* treeHash
  yield* prove("a checkpoint brings the files back", damaged !== before && restored === before, restored.slice(0, 16))
  yield* prove("a restore says that it ended the processes", (yield* server.snapshot).status === "lost", "status lost")

  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    const processId = crypto.randomUUID()
    yield* killService(signal, [directory, sandboxId, processId])
    const next = yield* startService
    const found = yield* next.attachProcess(processId)
    yield* next.writeFiles(sandboxId, [{ path: `go-${processId}`, content: "" }])
    const exit = yield* found.exit
    const log = new LogProof()
    yield* Stream.runForEach(found.events, (event) => Effect.sync(() => log.add(event)))
    const verdict = log.verdict(numberedLines(lines)) ?? (exit.code === 0 ? undefined : `exit code ${exit.code}`)
    yield* prove(
      `a process outlives its service's ${signal}, and its log is whole`,
      verdict === undefined,
      verdict ?? `${lines} lines, sha256 ${sha256(numberedLines(lines)).slice(0, 16)}`
    )
  }

  yield* sandboxes.stopSandbox(sandboxId, { delete: true })
  const record = yield* sandboxes.getSandbox(sandboxId)
  const gone = !(yield* fs.exists(`${directory}/local/sandboxes/${sandboxId}`))
  yield* prove(
    "stopping leaves nothing",
    record.status === "shutdown" && record.stopPending === undefined && gone,
    record.status
  )

  const seconds = (performance.now() - startedAt) / 1000
  yield* prove(`it took less than ${limit} seconds`, seconds < limit, `${seconds.toFixed(1)} s`)
  yield* Console.log(`\n${table(proofs)}`)
  if (proofs.some((proof) => !proof.ok)) return yield* Effect.die("a proof failed")
}).pipe(Effect.scoped, Effect.provide(NodeServices.layer))

NodeRuntime.runMain(mode === "--service" ? service(args) : demo)
