/**
 * What every platform promises, as tests: Effect's own `ChildProcessSpawner`, `FileSystem` and `Path`, as Node's layer has
 * them. Call {@link suite} in a test file of yours with a layer of them. Peers: `vitest` and `@effect/vitest`.
 *
 * The tests touch nothing but a directory that each case makes for itself, through the layer. They tell time by the real
 * clock: what they wait for is an event.
 */
import { layer as sharedLayer } from "@effect/vitest"
import type * as Layer from "effect/Layer"
import * as Platform from "./internal/platform.ts"
import * as FilesErrors from "./internal/platformFilesErrors.ts"

/** What the platform is expected to be; see the fields. */
export type Options = Platform.Options

/** Registers the tests under `name`. */
export const suite = <E>(name: string, layer: Layer.Layer<Platform.Services, E>, options: Options): void => {
  sharedLayer(layer, { excludeTestServices: true })(`Platform: ${name}`, (it) => {
    FilesErrors.register(it, options)
  })
}
