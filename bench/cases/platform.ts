/** A sandbox as Effect's platform: files through it beside `tar` and Node's own `fs`, and what a derived file system asks for. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import * as ChildProcess from "effect/process/ChildProcess"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Stream from "effect/Stream"
import { randomUUID } from "node:crypto"
import * as NodeFs from "node:fs/promises"
import { ProcessId } from "../../src/model/Ids.ts"
import { derive } from "../../src/services/internal/guestFiles.ts"
import { ProviderRegistry } from "../../src/services/ProviderRegistry.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import type { Bench } from "../harness.ts"
import { atMost, below, interleave, ratio, residentGrowth, timed } from "../harness.ts"
import { sandbox, services, temporary } from "../support.ts"

const mebi = 1024 * 1024
const gibi = 1024 * mebi
const files = 5_000
const folders = 50

const nameOf = (index: number) => `d${index % folders}/file-${index}`
const contentOf = (index: number) => `${index}\n`.repeat(1 + (index % 64))

const run = (command: string, args: ReadonlyArray<string>) =>
  Effect.flatMap(
    ChildProcessSpawner.use((spawner) => spawner.exitCode(ChildProcess.make(command, args))),
    (code) => (code === 0 ? Effect.void : Effect.die(new Error(`${command} ended with ${code}`)))
  ).pipe(Effect.provide(NodeServices.layer))

/** The tree of small files, into a directory of the given file system. */
const writeTree = (directory: string) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    yield* Effect.forEach(
      Array.from({ length: folders }, (_, folder) => `${directory}/d${folder}`),
      (folder) => fs.makeDirectory(folder, { recursive: true }),
      { discard: true }
    )
    yield* Effect.forEach(
      Array.from({ length: files }, (_, index) => index),
      (index) => fs.writeFileString(`${directory}/${nameOf(index)}`, contentOf(index)),
      { concurrency: 16, discard: true }
    )
  })

export const smallFiles: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  const host = yield* temporary
  yield* Effect.provide(writeTree(`${host}/source`), NodeServices.layer)
  yield* run("tar", ["cf", `${host}/tree.tar`, "-C", `${host}/source`, "."])
  return yield* Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    let round = 0
    /** Each into a new directory, so that none overwrites; what it takes to remove it is nobody's time. */
    const fresh = (work: (directory: string) => Effect.Effect<unknown, unknown>, made: (name: string) => string) =>
      Effect.suspend(() => {
        const directory = made(`round-${round++}`)
        return Effect.ensuring(timed(work(directory)), Effect.ignore(fs.remove(directory, { recursive: true })))
      })
    const { workspaceRoot } = yield* sandboxes.getSandbox(sandboxId)
    const platform = yield* Effect.context<FileSystem.FileSystem>()
    const rounds = yield* interleave({
      platform: fresh(
        (directory) => Effect.provide(writeTree(directory), platform),
        (name) => name
      ),
      tar: fresh(
        (directory) =>
          Effect.andThen(run("mkdir", [directory]), run("tar", ["xf", `${host}/tree.tar`, "-C", directory])),
        (name) => `${workspaceRoot}/${name}`
      )
    })
    return [atMost(3, { name: "small-files", unit: "x", ...ratio(rounds, "platform", "tar") })]
  }).pipe(Effect.provide(sandboxes.platform(sandboxId)))
}).pipe(Effect.scoped, Effect.provide(services))

export const fileMemory: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  return yield* Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const write = (total: number) => {
      const piece = new Uint8Array(mebi).fill(120)
      return Stream.run(Stream.take(Stream.forever(Stream.succeed(piece)), total / mebi), fs.sink("big"))
    }
    const read = (total: number) =>
      Stream.runFold(
        fs.stream("big"),
        () => 0,
        (sum, chunk) => sum + chunk.length
      ).pipe(
        Effect.flatMap((sum) =>
          sum === total ? Effect.void : Effect.die(new Error(`${sum} bytes were read out of ${total}`))
        )
      )
    yield* Effect.andThen(write(gibi / 4), read(gibi / 4))
    const note = "1 GiB; peak above what a warm-up of 256 MiB left"
    return [
      below(64, { name: "file-memory/write", unit: "MiB", note, value: yield* residentGrowth(write(gibi)) }),
      below(64, { name: "file-memory/read", unit: "MiB", note, value: yield* residentGrowth(read(gibi)) })
    ]
  }).pipe(Effect.provide(sandboxes.platform(sandboxId)))
}).pipe(Effect.scoped, Effect.provide(services))

export const stat: Bench = Effect.gen(function* () {
  const { sandboxes, sandboxId } = yield* sandbox
  return yield* Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const names = Array.from({ length: 1_000 }, (_, index) => `file-${index}`)
    yield* Effect.forEach(names, (name) => fs.writeFileString(name, ""), { discard: true })
    const absolute = names.map((name) => path.resolve(name))
    const node = Effect.promise(async () => {
      for (const file of absolute) await NodeFs.stat(file)
    })
    const rounds = yield* interleave({
      platform: timed(Effect.forEach(names, fs.stat, { discard: true })),
      node: timed(node)
    })
    return [atMost(3, { name: "stat", unit: "x", ...ratio(rounds, "platform", "node") })]
  }).pipe(Effect.provide(sandboxes.platform(sandboxId)))
}).pipe(Effect.scoped, Effect.provide(services))

export const derivedListing: Bench = Effect.gen(function* () {
  const { sandboxId } = yield* sandbox
  const provider = yield* Effect.flatMap(ProviderRegistry, (registry) => registry.get("local"))
  const record = yield* Effect.flatMap(SandboxStore, (store) => store.getSandbox(sandboxId))
  const machine = yield* provider.connect(
    { externalId: record.externalSandboxId ?? "", incarnation: record.incarnation ?? "" },
    { sandboxId: record.id, boot: false }
  )
  let starts = 0
  const fs = derive({
    ...machine,
    fileSystem: {},
    start: (command) => Effect.suspend(() => (starts++, machine.start(command)))
  })
  const entries = 10_000
  const tree = yield* machine.start({
    processId: ProcessId.make(randomUUID()),
    command: "sh",
    args: [
      "-c",
      `mkdir tree; cd tree; for d in $(seq 100); do mkdir "$d"; (cd "$d"; seq ${entries / 100 - 1} | xargs touch); done`
    ],
    lifetime: "scoped",
    stdin: false
  })
  yield* tree.exit
  // The first operation of a machine also asks what tools it has.
  yield* fs.readDirectory(machine.workspaceRoot)
  starts = 0
  const names = yield* fs.readDirectory(`${machine.workspaceRoot}/tree`, { recursive: true })
  if (names.length !== entries) return yield* Effect.die(new Error(`${names.length} entries out of ${entries}`))
  return [
    atMost(1, {
      name: "derived-listing",
      value: starts,
      unit: "round trips",
      note: `a recursive readDirectory over ${entries} entries by commands of the guest`
    })
  ]
}).pipe(Effect.scoped, Effect.provide(services))
