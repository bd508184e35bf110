/**
 * Runs the tests of a folder in a sandbox and streams what they write to the terminal, as it comes, each stream to its own.
 * The exit code is theirs, and whoever interrupts it ends them. The sandbox is gone at the end.
 *
 * `node examples/testRunner.ts <folder> <program> [argument…]`
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect, FileSystem, Path, Stdio, Stream } from "effect"
import * as Embedded from "../src/Embedded.ts"
import { isOutput } from "../src/model/ProcessEvent.ts"
import * as Sandbox from "../src/services/Sandbox.ts"

const [folder = ".", command = "true", ...args] = process.argv.slice(2)

/** The files of the folder, with what they are allowed; their content is read when it is written. */
const project = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const { join } = yield* Path.Path
  const paths = yield* fs.readDirectory(folder, { recursive: true })
  const entries = yield* Effect.forEach(paths, (path) =>
    Effect.map(fs.stat(join(folder, path)), ({ mode, type }) => ({ path, type, mode: mode & 0o777 }))
  )
  return entries
    .filter(({ type }) => type === "File")
    .map(({ mode, path }) => ({ path, mode, content: fs.stream(join(folder, path)) }))
})

const program = Effect.gen(function* () {
  const stdio = yield* Stdio.Stdio
  const fs = yield* FileSystem.FileSystem
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "test-runner-" })
  yield* Effect.gen(function* () {
    const sandbox = yield* Sandbox.scoped({ purpose: "tests" })
    yield* sandbox.writeFiles(yield* project)
    const tests = yield* sandbox.runCommandProcess(command, args, { kind: "test-runner" })
    yield* tests.events.pipe(
      Stream.filter(isOutput),
      Stream.runForEach(({ _tag, bytes }) => Stream.run(Stream.succeed(bytes), stdio[_tag]()))
    )
    process.exitCode = (yield* tests.exit).code
  }).pipe(Effect.scoped, Effect.provide(Embedded.layer({ directory })))
}).pipe(Effect.scoped, Effect.provide(NodeServices.layer))

NodeRuntime.runMain(program)
