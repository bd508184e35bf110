/** The platform suite: watching files. Each change is waited for before the next, so that polling sees it too. */
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as FileSystem from "effect/FileSystem"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { It, Options, Subject } from "./platform.ts"
import * as P from "./platform.ts"

/** The events of a watch that has begun. `next` waits for one of that kind at that path; others are passed over. */
const watching = Effect.fnUntraced(function* ({ fs }: Subject, path: string, options?: FileSystem.WatchOptions) {
  const ready = yield* Deferred.make<void>()
  const events = yield* Queue.unbounded<FileSystem.WatchEvent>()
  const seen: Array<FileSystem.WatchEvent> = []
  yield* fs.watch(path, { ...options, onReady: () => Deferred.doneUnsafe(ready, Effect.void) }).pipe(
    Stream.runForEach((event) => Queue.offer(events, event)),
    Effect.forkScoped
  )
  yield* Deferred.await(ready)
  const next = (tag: FileSystem.WatchEvent["_tag"], at: string): Effect.Effect<FileSystem.WatchEvent> =>
    Queue.take(events).pipe(
      Effect.tap((event) => Effect.sync(() => seen.push(event))),
      Effect.repeat({ until: (event) => event._tag === tag && event.path === at })
    )
  return { next, seen }
})

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options, { concurrent: true })

  test("watch: what is created, changed, removed in a directory", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* fs.writeFileString(at("old"), "1")
      const { next } = yield* watching(subject, at("."))
      yield* fs.writeFileString(at("new"), "1")
      yield* next("Create", "new")
      yield* fs.writeFileString(at("old"), "longer")
      yield* next("Update", "old")
      yield* fs.makeDirectory(at("sub"))
      yield* next("Create", "sub")
      yield* fs.remove(at("new"))
      yield* next("Remove", "new")
      yield* fs.rename(at("old"), at("renamed"))
      yield* next("Create", "renamed")
    }))

  test("watch: odd names are names", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      const { next } = yield* watching(subject, at("."))
      for (const name of ["a b", "-n", "line\nbreak\n", "caf\u00e9", "*"]) {
        yield* fs.writeFileString(at(name), "x")
        yield* next("Create", name)
      }
    }))

  test("watch: not what is below a directory, unless it is asked for", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* fs.makeDirectory(at("sub"))
      const { next, seen } = yield* watching(subject, at("."))
      yield* fs.writeFileString(at("sub/below"), "x")
      yield* fs.writeFileString(at("beside"), "x")
      yield* next("Create", "beside")
      assert.isFalse(seen.some(({ path }) => path.includes("below")))
    }))

  test("watch: what is below a directory, with `recursive`", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* fs.makeDirectory(at("sub/deep"), { recursive: true })
      const { next } = yield* watching(subject, at("."), { recursive: true })
      yield* fs.writeFileString(at("sub/deep/new"), "x")
      yield* next("Create", "sub/deep/new")
      yield* fs.remove(at("sub/deep/new"))
      yield* next("Remove", "sub/deep/new")
    }))

  test("watch: a single file, under its name", (subject) =>
    Effect.gen(function* () {
      const { at, fs } = subject
      yield* fs.writeFileString(at("file"), "1")
      const { next } = yield* watching(subject, at("file"))
      yield* fs.writeFileString(at("file"), "longer")
      yield* next("Update", "file")
    }))

  if (options.files.watchEvents) {
    test("watch: what comes and goes at once is told of", (subject) =>
      Effect.gen(function* () {
        const { at, fs } = subject
        const { next } = yield* watching(subject, at("."))
        yield* fs.writeFileString(at("brief"), "x")
        yield* fs.remove(at("brief"))
        yield* next("Remove", "brief")
      }))
  } else {
    test("watch: it looks about once a second", (subject) =>
      Effect.gen(function* () {
        const { at, fs } = subject
        const { next } = yield* watching(subject, at("."))
        for (const name of ["one", "two", "three"]) {
          yield* fs.writeFileString(at(name), "x")
          const [elapsed] = yield* Effect.timed(next("Create", name))
          // A busy machine may take its time; one that looks once a minute is found out.
          assert.isBelow(Duration.toMillis(elapsed), 5_000)
        }
      }))
  }

  test("watch: it ends with whoever listens", ({ at, fs }) =>
    Effect.gen(function* () {
      const ready = yield* Deferred.make<void>()
      const fiber = yield* fs
        .watch(at("."), { onReady: () => Deferred.doneUnsafe(ready, Effect.void) })
        .pipe(Stream.take(1), Stream.runCollect, Effect.forkScoped)
      yield* Deferred.await(ready)
      yield* fs.writeFileString(at("one"), "x")
      const events = yield* Fiber.join(fiber)
      // The kernel tells of the name and of the contents: which is told of first is chance.
      assert.deepStrictEqual(
        events.map(({ path }) => path),
        ["one"]
      )
    }))
}
