/** The files of a machine without isolation: this host's own, by Effect's Node layer. */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as PlatformError from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../../errors.ts"
import { delegate } from "../../../services/internal/fileSystems.ts"
import { inPlatform } from "../../../services/internal/platformErrors.ts"
import type { Place } from "./substrate.ts"

/** Node's file system, for all machines of a provider. */
export const make: Effect.Effect<FileSystem.FileSystem, never, Scope.Scope> = Effect.map(
  Layer.build(NodeFileSystem.layer),
  Context.get(FileSystem.FileSystem)
)

/** The file system of one incarnation: `checked` fails once it is not this machine's any more, or its disk is gone. */
export const of = (
  node: FileSystem.FileSystem,
  place: Place,
  checked: <A, E, R>(method: string, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | SandboxError, R>
): FileSystem.FileSystem => {
  // What the host would put into its own temporary directory goes into the sandbox's.
  const fs: FileSystem.FileSystem = {
    ...node,
    makeTempDirectory: (options) => node.makeTempDirectory({ directory: place.temporary, ...options }),
    makeTempDirectoryScoped: (options) => node.makeTempDirectoryScoped({ directory: place.temporary, ...options }),
    makeTempFile: (options) => node.makeTempFile({ directory: place.temporary, ...options }),
    makeTempFileScoped: (options) => node.makeTempFileScoped({ directory: place.temporary, ...options })
  }
  const guard = <A, R>(method: string, effect: Effect.Effect<A, PlatformError.PlatformError, R>) =>
    Effect.mapError(checked(method, effect), inPlatform("FileSystem", method))
  return delegate({
    run: (method, use) => guard(method, use(fs)),
    runScoped: (method, use) => guard(method, use(fs)),
    runLazy: (method, use) => guard(method, use(fs)),
    path: (path) => path,
    made: (path) => path,
    root: place.workspaceRoot
  })
}
