/** Guests that can only run commands: machines of the local provider without a file system of their own. */
import { NodeServices } from "@effect/platform-node"
import { Context, Effect, FileSystem, Layer, Redacted } from "effect"
import type { Scope } from "effect"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as NodePath from "node:path"
import { delegate } from "../../src/services/internal/fileSystems.ts"
import { derive } from "../../src/services/internal/guestFiles.ts"
import type { Machine, StartCommand } from "../../src/services/SandboxProvider.ts"
import type { Options } from "../../src/testing/PlatformSuite.ts"
import { create, localRoot, provider } from "../layers/providers/support/local.ts"

/** What a shell of this host prints. */
const printed = (script: string): string => {
  const { stdout } = ChildProcess.spawnSync("sh", ["-c", script])
  return stdout.toString().trim()
}

export const temporary = Effect.acquireRelease(
  Effect.sync(() => Fs.realpathSync(Fs.mkdtempSync(NodePath.join(Os.tmpdir(), "effect-sandbox-tools-")))),
  (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true, force: true }))
)

/** This host's busybox; empty when there is none. */
export const busybox = printed("command -v busybox")

export type PathOf = Effect.Effect<string | undefined, never, Scope.Scope>

/** The `PATH` of this host. */
export const hostPath: PathOf = Effect.succeed(undefined)

/** A `PATH` on which busybox's applets come first, `sh` among them. */
export const applets: PathOf = Effect.map(temporary, (directory) => {
  const names = ChildProcess.execFileSync(busybox, ["--list"]).toString().trim().split("\n")
  for (const name of names) Fs.symlinkSync(busybox, NodePath.join(directory, name))
  return `${directory}:${printed('echo "$PATH"')}`
})

/** A guest that counts what it is asked for. */
export const guest = Effect.fnUntraced(function* (pathOf: PathOf = hostPath) {
  const path = yield* pathOf
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
      return Effect.map(effect, () => starts.length - before)
    })
  return {
    machine: counting,
    fs: derive(counting),
    starts,
    trips,
    at: (name: string) => `${machine.workspaceRoot}/${name}`
  }
})

/** What resolves paths in front of the file system of a guest. */
const resolving = (fs: FileSystem.FileSystem): FileSystem.FileSystem => {
  const base = process.cwd()
  return delegate({
    run: (_, use) => use(fs),
    runScoped: (_, use) => use(fs),
    runLazy: (_, use) => use(fs),
    path: (path) => (path === "" || path.startsWith("/") ? path : `${base}/${path}`),
    made: (path, directory) => (directory.startsWith("/") ? path : NodePath.relative(base, path)),
    root: base
  })
}

/** Node's platform with the files of a guest. */
export const platform = (pathOf: PathOf) =>
  Layer.effectContext(
    Effect.gen(function* () {
      const { fs } = yield* guest(pathOf)
      return Context.add(yield* Layer.build(NodeServices.layer), FileSystem.FileSystem, resolving(fs))
    })
  )

/** What the platform suite is told of a guest; times are whole seconds where busybox sets them. */
export const options = (subSecondTimes: boolean): Options => ({
  files: {
    openSurvivesRename: false,
    atomicExclusiveCreate: true,
    watchEvents: false,
    inodes: true,
    subSecondTimes
  },
  realProcesses: true,
  additionalFds: true,
  signalsObservable: true,
  stdin: true,
  inheritsStdio: false,
  redactedArguments: true,
  bindingModes: process.getuid?.() !== 0,
  chown: process.getuid?.() === 0,
  timeout: 120_000
})
