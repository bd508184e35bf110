import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  ByteSize,
  Context,
  Deferred,
  Effect,
  Fiber,
  FileSystem,
  Layer,
  Option,
  PlatformError,
  Redacted,
  Schedule,
  Stream
} from "effect"
import { TestClock } from "effect/testing"
import { ChildProcessSpawner } from "effect/process"
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as NodePath from "node:path"
import { isSandboxError, SandboxError, Unavailable } from "../../src/errors.ts"
import { delegate } from "../../src/services/internal/fileSystems.ts"
import { derive } from "../../src/services/internal/guestFiles.ts"
import type { Machine, StartCommand } from "../../src/services/SandboxProvider.ts"
import { suite } from "../../src/testing/PlatformSuite.ts"
import { create, eventually, localRoot, provider } from "../layers/providers/support/local.ts"

const executable = (name: string): string | undefined =>
  (process.env["PATH"] ?? "")
    .split(":")
    .map((directory) => NodePath.join(directory, name))
    .find((path) => Fs.existsSync(path))

const temporary = Effect.acquireRelease(
  Effect.sync(() => Fs.realpathSync(Fs.mkdtempSync(NodePath.join(Os.tmpdir(), "effect-sandbox-tools-")))),
  (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true, force: true }))
)

/** A `PATH` on which busybox's applets come first, `sh` among them. */
const applets = (busybox: string) =>
  Effect.map(temporary, (directory) => {
    const names = ChildProcess.execFileSync(busybox, ["--list"]).toString().trim().split("\n")
    for (const name of names) Fs.symlinkSync(busybox, NodePath.join(directory, name))
    return `${directory}:${process.env["PATH"] ?? ""}`
  })

/** A machine of the local provider that counts what it is asked for. */
const counted = (path: string | undefined) =>
  Effect.gen(function* () {
    const local = yield* provider(yield* localRoot)
    const { machine } = yield* create(local, path === undefined ? {} : { env: { PATH: Redacted.make(path) } })
    const starts: Array<StartCommand> = []
    const counting: Machine = {
      ...machine,
      fileSystem: {},
      start: (command) =>
        Effect.andThen(
          Effect.sync(() => starts.push(command)),
          machine.start(command)
        )
    }
    /** How many commands an effect takes. */
    const trips = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.suspend(() => {
        const before = starts.length
        return Effect.map(effect, (value) => [starts.length - before, value] as const)
      })
    const at = (name: string) => `${machine.workspaceRoot}/${name}`
    return { machine: counting, fs: derive(counting), starts, trips, at }
  })

/** What resolves paths in front of the file system of a guest. */
const resolving = (fs: FileSystem.FileSystem): FileSystem.FileSystem => {
  const base = process.cwd()
  const resolve = (path: string) => (path === "" || path.startsWith("/") ? path : `${base}/${path}`)
  const resolved = delegate({
    run: (_, use) => use(fs),
    runScoped: (_, use) => use(fs),
    path: resolve,
    root: base
  })
  const back =
    (make: FileSystem.FileSystem["makeTempFile"]): FileSystem.FileSystem["makeTempFile"] =>
    (options) =>
      Effect.map(make(options), (path) =>
        options?.directory === undefined || options.directory.startsWith("/") ? path : NodePath.relative(base, path)
      )
  return {
    ...resolved,
    makeTempDirectory: back(resolved.makeTempDirectory),
    makeTempFile: back(resolved.makeTempFile)
  }
}

/** Node's platform with the files of a guest. */
const platform = <E>(path: Effect.Effect<string | undefined, E, import("effect").Scope.Scope>) =>
  Layer.effectContext(
    Effect.gen(function* () {
      const { fs } = yield* counted(yield* path)
      const node = yield* Layer.build(NodeServices.layer)
      return Context.add(node, FileSystem.FileSystem, resolving(fs))
    })
  )

const busybox = executable("busybox")

const options = {
  files: {
    openSurvivesRename: false,
    atomicExclusiveCreate: true,
    watchEvents: false,
    inodes: true,
    subSecondTimes: true
  },
  realProcesses: true,
  additionalFds: true,
  signalsObservable: true,
  stdin: true,
  inheritsStdio: false,
  redactedArguments: true,
  chown: process.getuid?.() === 0,
  timeout: 120_000
} as const

suite("files of a guest with GNU tools", platform(Effect.succeed(undefined)), options)

if (busybox === undefined) {
  describe.skip("Platform: files of a guest with busybox (there is no busybox on the PATH)", () => {
    it("is skipped", () => {})
  })
} else {
  suite("files of a guest with busybox", platform(applets(busybox)), {
    ...options,
    files: { ...options.files, subSecondTimes: false }
  })
}
