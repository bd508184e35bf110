/**
 * What every platform promises, as tests: Effect's own `ChildProcessSpawner`, `FileSystem` and `Path`, as Node's layer has
 * them. Call {@link suite} in a test file of yours with a layer of them. Peers: `vitest` and `@effect/vitest`.
 *
 * The tests touch nothing but a directory that each case makes for itself, through the layer. They tell time by the real
 * clock: what they wait for is an event.
 */
import { layer as sharedLayer } from "@effect/vitest"
import type * as Layer from "effect/Layer"
import type * as Platform from "./internal/platform.ts"
import * as FilesContents from "./internal/platformFilesContents.ts"
import * as FilesErrors from "./internal/platformFilesErrors.ts"
import * as FilesInfo from "./internal/platformFilesInfo.ts"
import * as FilesNames from "./internal/platformFilesNames.ts"
import * as FilesOpen from "./internal/platformFilesOpen.ts"
import * as FilesTree from "./internal/platformFilesTree.ts"
import * as FilesWatch from "./internal/platformFilesWatch.ts"
import * as Paths from "./internal/platformPaths.ts"
import * as ProcessesEnds from "./internal/platformProcessesEnds.ts"
import * as ProcessesPipes from "./internal/platformProcessesPipes.ts"
import * as ProcessesStart from "./internal/platformProcessesStart.ts"
import * as ProcessesStreams from "./internal/platformProcessesStreams.ts"

/** What the platform is expected to be; see the fields. */
export type Options = Platform.Options

/** Registers the tests under `name`. */
export const suite = <E>(name: string, layer: Layer.Layer<Platform.Services, E>, options: Options): void => {
  const parts = options.parts ?? ["files", "programs"]
  sharedLayer(layer, { excludeTestServices: true })(`Platform: ${name}`, (it) => {
    if (parts.includes("files")) {
      FilesInfo.register(it, options)
      FilesContents.register(it, options)
      FilesOpen.register(it, options)
      FilesTree.register(it, options)
      FilesNames.register(it, options)
      FilesErrors.register(it, options)
      FilesWatch.register(it, options)
    }
    if (parts.includes("programs")) {
      Paths.register(it, options)
      ProcessesStart.register(it, options)
      ProcessesStreams.register(it, options)
      ProcessesEnds.register(it, options)
      ProcessesPipes.register(it, options)
    }
  })
}
