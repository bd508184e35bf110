/** How files get to their places in a guest, where a vendor can upload and run a command: the scripts themselves, in this host's shell. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Schedule, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import * as Contents from "../../../src/layers/internal/guestContents.ts"
import * as DaytonaFiles from "../../../src/layers/providers/daytona/files.ts"

const secret = "a secret"

interface Kind {
  readonly name: string
  readonly script: string
  /** Where the upload is in its folder, and how often the script reads it. */
  readonly upload: string
  readonly reads: number
  readonly args: (stage: string, target: string) => ReadonlyArray<string>
}

const kinds: ReadonlyArray<Kind> = [
  {
    name: "uploads in parts",
    script: Contents.placeScript,
    upload: "0.00000000",
    reads: 1,
    args: (stage, target) => [stage, "0", "600", target]
  },
  {
    name: "one upload",
    script: DaytonaFiles.placeScript,
    upload: "up-1",
    reads: 2,
    args: (stage, target) => [
      `${stage}/up-1`,
      String(secret.length),
      "1",
      "0",
      "600",
      target,
      "0",
      String(secret.length)
    ]
  }
]

describe("files that are put in place", () => {
  for (const { args, name, reads, script, upload } of kinds) {
    it.live(`${name}: a file for its owner only is nobody else's while it is incomplete`, () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
        const base = yield* fs.makeTempDirectoryScoped()
        const [stage, place] = [`${base}/stage`, `${base}/place`]
        yield* fs.makeDirectory(stage)
        yield* fs.makeDirectory(place)
        // An upload that does not end, so that the script can be looked at in the middle of it.
        yield* spawner.exitCode(ChildProcess.make("mkfifo", [`${stage}/${upload}`]))
        const feed = spawner.exitCode(
          ChildProcess.make("sh", ["-c", 'printf %s "$1" >"$2"', "sh", secret, `${stage}/${upload}`])
        )
        const placing = yield* spawner.spawn(
          ChildProcess.make("sh", ["-c", script, "sh", ...args(stage, `${place}/auth.json`)])
        )
        for (let read = 1; read < reads; read++) yield* feed
        const [part = ""] = yield* fs.readDirectory(place).pipe(
          Effect.repeat({
            until: (names) => names.length > 0,
            schedule: Schedule.max([Schedule.spaced("10 millis"), Schedule.recurs(2000)])
          })
        )
        assert.strictEqual((yield* fs.stat(`${place}/${part}`)).mode & 0o777, 0o600)
        yield* feed
        assert.include(yield* Stream.mkString(Stream.decodeText(placing.stdout)), "ok\n")
        assert.strictEqual((yield* fs.stat(`${place}/auth.json`)).mode & 0o777, 0o600)
        assert.strictEqual(yield* fs.readFileString(`${place}/auth.json`), secret)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
    )
  }
})
