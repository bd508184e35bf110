/** The platform suite's cases about files, over the disk of a fake machine itself. */
import { assert, layer as sharedLayer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path, PlatformError } from "effect"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import * as Fake from "../../../src/layers/providers/Fake.ts"
import type { Options } from "../../../src/testing/internal/platform.ts"
import * as FilesContents from "../../../src/testing/internal/platformFilesContents.ts"
import * as FilesErrors from "../../../src/testing/internal/platformFilesErrors.ts"
import * as FilesInfo from "../../../src/testing/internal/platformFilesInfo.ts"
import * as FilesNames from "../../../src/testing/internal/platformFilesNames.ts"
import * as FilesOpen from "../../../src/testing/internal/platformFilesOpen.ts"
import * as FilesTree from "../../../src/testing/internal/platformFilesTree.ts"
import * as FilesWatch from "../../../src/testing/internal/platformFilesWatch.ts"
import { request } from "../../../src/testing/internal/providers.ts"

const options: Options = {
  files: {
    openSurvivesRename: true,
    atomicExclusiveCreate: true,
    watchEvents: true,
    inodes: true,
    subSecondTimes: true
  },
  realProcesses: false,
  additionalFds: false,
  signalsObservable: true,
  stdin: true,
  inheritsStdio: false,
  redactedArguments: true,
  specialFiles: false,
  sparseFiles: false,
  chown: true
}

const files = Layer.effect(
  FileSystem.FileSystem,
  Effect.gen(function* () {
    const provider = yield* Fake.make()
    const machine = yield* Effect.flatMap(request(provider, {}, "files"), provider.create)
    return FileSystem.makeNoop(machine.fileSystem)
  })
)

/** No case about files starts a program. */
const spawner = Layer.succeed(
  ChildProcessSpawner.ChildProcessSpawner,
  ChildProcessSpawner.make(() =>
    Effect.fail(
      PlatformError.badArgument({ module: "ChildProcess", method: "spawn", description: "there are only files here" })
    )
  )
)

/** These need programs beside the files, or a `Path` whose working directory is the sandbox's: the platform has both. */
const elsewhere = [
  "stat: inodes, devices and numbers of links are those of the files",
  "stat: the time of a change is about now, by the guest's own clock",
  "what a command writes is read, and what is written a command reads",
  "open: the umask of the guest is taken off the mode",
  "what one writes another reads at once",
  "readDirectory: several hundred names",
  "names: relative paths start at the working directory",
  "names: temporary ones in a relative directory have relative paths"
]

sharedLayer(Layer.mergeAll(files, spawner, Path.layer), { excludeTestServices: true })(
  "Platform files: fake",
  (all) => {
    const left: Array<unknown> = []
    const effect = new Proxy(all.effect, {
      apply: (target, self, args) =>
        elsewhere.includes(args[0]) ? void left.push(args[0]) : Reflect.apply(target, self, args)
    })
    const it: typeof all = new Proxy(all, {
      get: (target, key, receiver) => (key === "effect" ? effect : Reflect.get(target, key, receiver))
    })
    FilesInfo.register(it, options)
    FilesContents.register(it, options)
    FilesOpen.register(it, options)
    FilesTree.register(it, options)
    FilesNames.register(it, options)
    FilesErrors.register(it, options)
    FilesWatch.register(it, options)
    all.effect("only those that are named are left to the platform", () =>
      Effect.sync(() => assert.deepStrictEqual(left, elsewhere))
    )
  }
)
