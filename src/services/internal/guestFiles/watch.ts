/** Watches by looking once a second: what comes and goes in between is not seen. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as PlatformError from "effect/PlatformError"
import * as Stream from "effect/Stream"
import * as Info from "./info.ts"
import * as Scripts from "./scripts.ts"
import type { Shell } from "./shell.ts"
import { checked } from "./shell.ts"

const interval = Duration.seconds(1)

type Survey = ReadonlyMap<string, Info.Surveyed>

/** What has happened between two looks, in the words of Node: another file under a name is a new one. */
const changes = (before: Survey, after: Survey, nameOf: (path: string) => string): Array<FileSystem.WatchEvent> => {
  const events: Array<FileSystem.WatchEvent> = []
  for (const path of before.keys()) if (!after.has(path)) events.push({ _tag: "Remove", path: nameOf(path) })
  for (const [path, { file, state }] of after) {
    const old = before.get(path)
    if (old?.file !== file) events.push({ _tag: "Create", path: nameOf(path) })
    else if (old.state !== state) events.push({ _tag: "Update", path: nameOf(path) })
  }
  return events
}

const nothing: Survey = new Map()

export const make =
  (shell: Shell): FileSystem.FileSystem["watch"] =>
  (path, options) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const subject = { method: "watch", path }
        yield* checked(subject)
        const look = Effect.map(
          shell.run(subject, Scripts.survey, [path, options?.recursive === true ? "1" : ""]),
          Info.surveyed
        )
        const base = path.replace(/\/+$/, "").replace(/^.*\//s, "")
        // A file that is watched by itself is told of under its name.
        const nameOf = (entry: string) => (entry === "" ? base : entry)
        const first = yield* look
        options?.onReady?.()
        return Stream.flattenIterable(
          Stream.unfold(first, (before) =>
            Effect.sleep(interval).pipe(
              Effect.andThen(look),
              // What is watched is gone: all that was in it is, and it may come back.
              Effect.catchIf(
                (error: PlatformError.PlatformError) =>
                  error.reason._tag === "NotFound" || error.reason._tag === "BadResource",
                () => Effect.succeed(nothing)
              ),
              Effect.map((after) => [changes(before, after, nameOf), after] as const)
            )
          )
        )
      })
    )
