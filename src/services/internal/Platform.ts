/** A sandbox as Effect's own platform: a program that knows nothing of sandboxes runs inside one. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import * as Scope from "effect/Scope"
import type { SandboxError } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { Machine } from "../SandboxProvider.ts"
import * as core from "./core.ts"
import { delegate } from "./fileSystems.ts"
import { derive } from "./guestFiles.ts"
import type { InUse } from "./Machines.ts"
import { inPlatform, outOfPlatform } from "./platformErrors.ts"
import type { make as makeSpawner } from "./spawner.ts"

/** What a platform is made of. */
export type PlatformServices = ChildProcessSpawner.ChildProcessSpawner | FileSystem.FileSystem | Path.Path

/** Paths of the guest, which are POSIX ones and start at its workspace, not at this program's working directory. */
const pathOf = (workspaceRoot: string) =>
  Effect.map(Path.Path, (posix) => {
    const resolve: Path.Path["resolve"] = (...segments) => posix.resolve(workspaceRoot, ...segments)
    return Path.make({
      ...posix,
      resolve,
      relative: (from, to) => posix.relative(resolve(from), resolve(to)),
      toFileUrl: (path) => posix.toFileUrl(path.endsWith("/") ? `${resolve(path)}/` : resolve(path))
    })
  }).pipe(Effect.provide(Path.layer))

/** An absolute path as the guest's system sees it: a `..` behind a symlink, a last slash and an empty path mean something. */
const absolute = (workspaceRoot: string) => (path: string) =>
  path === "" || path.startsWith("/") ? path : `${workspaceRoot}/${path}`

export const make = (machines: InUse, spawn: ReturnType<typeof makeSpawner>) => {
  /** One of each machine: what a derived one has found out about its guest holds for that machine only. */
  const known = new WeakMap<Machine, FileSystem.FileSystem>()
  const filesOf = (machine: Machine): FileSystem.FileSystem => {
    const found = known.get(machine)
    if (found !== undefined) return found
    const fs = derive(machine)
    known.set(machine, fs)
    return fs
  }

  /** The machine as long as it does what it is asked; only then is it found anew, and recovered. */
  const fileSystem = (id: SandboxId, connected: Machine, scope: Scope.Scope, path: Path.Path) => {
    let machine = connected
    const { workspaceRoot } = connected
    const at = absolute(workspaceRoot)
    const found = <A, R>(
      method: string,
      use: (fs: FileSystem.FileSystem) => Effect.Effect<A, PlatformError.PlatformError, R>
    ): Effect.Effect<A, PlatformError.PlatformError, R | Scope.Scope> =>
      Effect.mapError(
        machines.use(id, (connection) =>
          Effect.gen(function* () {
            if (connection.machine !== machine) {
              // Held from here on, as the first one was.
              machine = (yield* Scope.provide(machines.get(id), scope)).machine
            }
            // What a machine says about itself must reach `machines.use`, which recovers one that was found stale.
            return yield* Effect.mapError(use(filesOf(connection.machine)), outOfPlatform)
          })
        ),
        inPlatform("FileSystem", method)
      )
    const runScoped: typeof found = (method, use) =>
      Effect.catchIf(
        Effect.suspend(() => use(filesOf(machine))),
        (error) => {
          const failure = outOfPlatform(error)
          return core.isStale(failure) || core.mayRetryStart(failure)
        },
        () => found(method, use)
      )
    return delegate({
      run: (method, use) => Effect.scoped(runScoped(method, use)),
      runScoped,
      // Its failures come too late for anybody to look for the machine.
      runLazy: found,
      path: at,
      made: (made, directory) =>
        path.isAbsolute(directory) ? made : path.join(directory, made.slice(path.normalize(at(directory)).length)),
      root: workspaceRoot
    })
  }

  /** Connects at once, so that a sandbox that cannot be reached fails the layer and not its first user. */
  return (id: SandboxId): Effect.Effect<Context.Context<PlatformServices>, SandboxError, Scope.Scope> =>
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      const { machine } = yield* machines.get(id)
      const spawner = ChildProcessSpawner.make((command) =>
        Effect.mapError(spawn(id, command), inPlatform("ChildProcess", "spawn"))
      )
      const path = yield* pathOf(machine.workspaceRoot)
      return Context.make(ChildProcessSpawner.ChildProcessSpawner, spawner).pipe(
        Context.add(FileSystem.FileSystem, fileSystem(id, machine, scope, path)),
        Context.add(Path.Path, path)
      )
    })
}
