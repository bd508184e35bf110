/** The platform suite: what goes wrong with files, as Node's layer says it. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as PlatformError from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { It, Options, Subject } from "./platform.ts"
import * as P from "./platform.ts"

type Operation = (subject: Subject, path: string) => Effect.Effect<unknown, PlatformError.PlatformError, Scope.Scope>

const open =
  (flag: FileSystem.OpenFlag): Operation =>
  ({ fs }, path) =>
    fs.open(path, { flag })

const write =
  (flag: FileSystem.OpenFlag): Operation =>
  ({ fs }, path) =>
    fs.writeFile(path, P.bytes("x"), { flag })

/** Every way in which a path is handed over. The directory has `file`, `tree/leaf` and no `target`. */
const operations = {
  access: ({ fs }, path) => fs.access(path),
  exists: ({ fs }, path) => fs.exists(path),
  stat: ({ fs }, path) => fs.stat(path),
  lstat: ({ fs }, path) => fs.lstat(path),
  chmod: ({ fs }, path) => fs.chmod(path, 0o755),
  utimes: ({ fs }, path) => fs.utimes(path, 1, 1),
  truncate: ({ fs }, path) => fs.truncate(path),
  readFile: ({ fs }, path) => fs.readFile(path),
  readFileString: ({ fs }, path) => fs.readFileString(path),
  readLink: ({ fs }, path) => fs.readLink(path),
  realPath: ({ fs }, path) => fs.realPath(path),
  readDirectory: ({ fs }, path) => fs.readDirectory(path),
  readDirectoryRecursive: ({ fs }, path) => fs.readDirectory(path, { recursive: true }),
  readDirectoryEntries: ({ fs }, path) => fs.readDirectoryEntries(path),
  glob: ({ fs }, path) => fs.glob("*", { root: path }),
  open: open("r"),
  "open r+": open("r+"),
  "open w": open("w"),
  "open wx": open("wx"),
  "open a": open("a"),
  openNoFollow: ({ fs }, path) => fs.open(path, { noFollow: true }),
  writeFile: write("w"),
  "writeFile wx": write("wx"),
  "writeFile r+": write("r+"),
  "writeFile r": write("r"),
  writeFileString: ({ fs }, path) => fs.writeFileString(path, "x"),
  stream: ({ fs }, path) => Stream.runDrain(fs.stream(path)),
  sink: ({ fs }, path) => Stream.run(Stream.make(P.bytes("x")), fs.sink(path)),
  remove: ({ fs }, path) => fs.remove(path),
  removeForce: ({ fs }, path) => fs.remove(path, { force: true }),
  removeRecursive: ({ fs }, path) => fs.remove(path, { recursive: true }),
  removeBoth: ({ fs }, path) => fs.remove(path, { recursive: true, force: true }),
  makeDirectory: ({ fs }, path) => fs.makeDirectory(path),
  makeDirectoryRecursive: ({ fs }, path) => fs.makeDirectory(path, { recursive: true }),
  renameFrom: ({ at, fs }, path) => fs.rename(path, at("target")),
  renameTo: ({ at, fs }, path) => fs.rename(at("file"), path),
  renameTreeTo: ({ at, fs }, path) => fs.rename(at("tree"), path),
  copyFrom: ({ at, fs }, path) => fs.copy(path, at("target")),
  copyTo: ({ at, fs }, path) => fs.copy(at("file"), path),
  copyOver: ({ at, fs }, path) => fs.copy(at("file"), path, { overwrite: true }),
  copyTreeTo: ({ at, fs }, path) => fs.copy(at("tree"), path),
  copyTreeOver: ({ at, fs }, path) => fs.copy(at("tree"), path, { overwrite: true }),
  copyFileFrom: ({ at, fs }, path) => fs.copyFile(path, at("target")),
  copyFileTo: ({ at, fs }, path) => fs.copyFile(at("file"), path),
  linkFrom: ({ at, fs }, path) => fs.link(path, at("target")),
  linkTo: ({ at, fs }, path) => fs.link(at("file"), path),
  symlinkAt: ({ fs }, path) => fs.symlink("file", path),
  symlinkTo: ({ at, fs }, path) => fs.symlink(path, at("target")),
  makeTempDirectory: ({ fs }, path) => fs.makeTempDirectory({ directory: path }),
  makeTempFile: ({ fs }, path) => fs.makeTempFile({ directory: path }),
  watch: ({ fs }, path) => Stream.runDrain(fs.watch(path))
} satisfies Record<string, Operation>

type Name = keyof typeof operations

const isName = (name: string): name is Name => name in operations

const names = (list: string): ReadonlyArray<Name> =>
  list.split("|").map((name) => {
    const trimmed = name.trim()
    if (!isName(trimmed)) throw new Error(`no operation ${trimmed}`)
    return trimmed
  })

const everything = Object.keys(operations).filter(isName)

/** What all operations do but those of the list. */
const allBut = (list: string): string => {
  const without = names(list)
  return everything.filter((name) => !without.includes(name)).join("|")
}

interface Situation {
  readonly name: string
  readonly path: (subject: Subject) => string
  /** Separated by `|`. What is not here succeeds, or is a matter of its own. */
  readonly expected: Partial<Record<PlatformError.PlatformError["reason"]["_tag"], string>>
}

const reading =
  "access | stat | chmod | utimes | truncate | readFile | readFileString | readDirectory | readDirectoryRecursive | " +
  "readDirectoryEntries | open | open r+ | writeFile r+ | writeFile r | stream | copyFileFrom | makeTempDirectory | " +
  "makeTempFile | watch | realPath"

const ofAnEntry = "lstat | readLink | remove | removeRecursive | renameFrom | copyFrom | linkFrom | openNoFollow"

const creating = "open w | open wx | open a | writeFile | writeFileString | writeFile wx | sink"

const situations: ReadonlyArray<Situation> = [
  {
    name: "nothing there",
    path: ({ at }) => at("missing"),
    expected: { NotFound: `${reading} | ${ofAnEntry}` }
  },
  {
    name: "no directory to put it into",
    path: ({ at }) => at("no/such"),
    expected: {
      NotFound:
        `${reading} | ${ofAnEntry} | ${creating} | makeDirectory | renameTo | renameTreeTo | copyFileTo | linkTo | ` +
        "symlinkAt"
    }
  },
  {
    name: "nothing there, with a slash at the end",
    path: ({ at }) => at("missing/"),
    expected: {
      NotFound: `${reading} | ${ofAnEntry} | linkTo | symlinkAt`,
      BadResource: `${creating} | copyTo | copyOver | copyFileTo | renameTo`
    }
  },
  {
    name: "through a file",
    path: ({ at }) => at("plain/x"),
    expected: { BadResource: allBut("symlinkTo | glob") }
  },
  {
    // `realPath` takes the slash off before it looks.
    name: "a file with a slash at the end",
    path: ({ at }) => at("plain/"),
    expected: {
      BadResource: allBut("symlinkTo | glob | realPath | makeDirectory | linkTo | symlinkAt"),
      AlreadyExists: "makeDirectory | linkTo | symlinkAt"
    }
  },
  {
    name: "a file",
    path: ({ at }) => at("plain"),
    expected: {
      AlreadyExists: "open wx | writeFile wx | makeDirectory | makeDirectoryRecursive | linkTo | symlinkAt",
      BadResource:
        "readDirectory | readDirectoryRecursive | readDirectoryEntries | renameTreeTo | makeTempDirectory | makeTempFile",
      Unknown: "readLink | copyTreeTo | copyTreeOver | writeFile r"
    }
  },
  {
    name: "a directory",
    path: ({ at }) => at("full"),
    expected: {
      AlreadyExists: "open wx | writeFile wx | makeDirectory | linkTo | symlinkAt",
      BadResource:
        "truncate | readFile | readFileString | open w | open r+ | open a | writeFile | writeFileString | writeFile r+ | " +
        "stream | sink | renameTo | copyFileFrom | copyFileTo",
      PermissionDenied: "linkFrom",
      Unknown: "readLink | writeFile r | remove | removeForce | copyTo | copyOver | renameTreeTo"
    }
  },
  {
    name: "an empty directory",
    path: ({ at }) => at("empty"),
    expected: { Unknown: "remove | removeForce", AlreadyExists: "makeDirectory" }
  },
  {
    name: "a symlink to nothing",
    path: ({ at }) => at("dangling"),
    expected: {
      NotFound: `${reading} | makeDirectoryRecursive`,
      AlreadyExists: "open wx | writeFile wx | makeDirectory | linkTo | symlinkAt",
      BadResource: "openNoFollow | renameTreeTo",
      Unknown: "copyTreeTo | copyTreeOver"
    }
  },
  {
    name: "a symlink to itself",
    path: ({ at }) => at("loop"),
    expected: {
      BadResource:
        `${reading} | exists | open w | open a | writeFile | writeFileString | sink | openNoFollow | renameTreeTo | ` +
        "copyFileTo | makeDirectoryRecursive",
      AlreadyExists: "open wx | writeFile wx | makeDirectory | linkTo | symlinkAt",
      Unknown: "copyTreeTo | copyTreeOver"
    }
  },
  {
    name: "a symlink to a file",
    path: ({ at }) => at("link"),
    expected: {
      AlreadyExists: "open wx | writeFile wx | makeDirectory | makeDirectoryRecursive | linkTo | symlinkAt",
      BadResource:
        "openNoFollow | readDirectory | readDirectoryRecursive | readDirectoryEntries | renameTreeTo | makeTempDirectory | " +
        "makeTempFile",
      Unknown: "writeFile r | copyTreeTo | copyTreeOver"
    }
  },
  {
    // Not here: `realPath` and the directory of temporary files, which take it for the working directory.
    name: "the empty path",
    path: () => "",
    expected: {
      NotFound: allBut("exists | realPath | removeForce | removeBoth | makeTempDirectory | makeTempFile | glob")
    }
  },
  {
    // Not here: listings, of which Node says `Unknown`.
    name: "a path with NUL",
    path: ({ at }) => at("a\0b"),
    expected: {
      BadArgument: allBut("readDirectory | readDirectoryRecursive | readDirectoryEntries | glob")
    }
  },
  {
    name: "a name of 256 bytes",
    path: ({ at }) => at("n".repeat(256)),
    expected: { Unknown: allBut("symlinkTo") }
  },
  {
    name: "a name of 128 characters in 256 bytes",
    path: ({ at }) => at("é".repeat(128)),
    expected: { Unknown: "stat | writeFile | makeDirectory | readFile | exists" }
  },
  {
    name: "a path of more than 4096 bytes",
    path: ({ at }) => at(`${"x/".repeat(2200)}y`),
    expected: { Unknown: allBut("realPath | symlinkTo") }
  }
]

const prepare = ({ at, fs }: Subject) =>
  Effect.gen(function* () {
    for (const name of ["file", "plain"]) yield* fs.writeFileString(at(name), "data")
    for (const name of ["tree", "full", "empty"]) yield* fs.makeDirectory(at(name))
    for (const name of ["tree/leaf", "full/leaf"]) yield* fs.writeFileString(at(name), "leaf")
    for (const [target, name] of [
      ["gone", "dangling"],
      ["loop", "loop"],
      ["plain", "link"]
    ] as const) {
      yield* fs.symlink(target, at(name))
    }
  })

/** Checks every operation, or those of a share of three. */
const check = Effect.fnUntraced(function* (subject: Subject, { expected, path }: Situation, share: number | undefined) {
  const want: Record<string, string> = {}
  const got: Record<string, string> = {}
  for (const [tag, list] of Object.entries(expected)) {
    for (const name of names(list)) {
      if (share !== undefined && (everything.indexOf(name) + share) % 3 !== 0) continue
      want[name] = tag
      got[name] = yield* P.outcome(Effect.scoped(operations[name](subject, path(subject))))
    }
  }
  assert.deepStrictEqual(got, want)
})

/** For a user whom modes bind. */
const denied: ReadonlyArray<Situation> = [
  {
    name: "in a directory that may not be entered",
    path: ({ at }) => at("locked/leaf"),
    expected: { PermissionDenied: allBut("symlinkTo | glob") }
  },
  {
    name: "a directory that may not be entered",
    path: ({ at }) => at("locked"),
    expected: {
      PermissionDenied:
        "readDirectory | readDirectoryRecursive | readDirectoryEntries | glob | makeTempDirectory | makeTempFile | open"
    }
  },
  {
    name: "a file that may be neither read nor written",
    path: ({ at }) => at("secret"),
    expected: {
      PermissionDenied:
        "readFile | readFileString | open | open r+ | open w | open a | stream | sink | truncate | writeFile | " +
        "writeFileString | copyFileFrom | copyFileTo | copyFrom"
    }
  },
  {
    name: "a new name in a directory that may not be changed",
    path: ({ at }) => at("fixed/new"),
    expected: {
      PermissionDenied:
        "open w | open wx | open a | writeFile | writeFileString | writeFile wx | sink | makeDirectory | " +
        "makeDirectoryRecursive | renameTo | renameTreeTo | copyTo | copyTreeTo | copyFileTo | linkTo | symlinkAt"
    }
  },
  {
    name: "a name in a directory that may not be changed",
    path: ({ at }) => at("fixed/leaf"),
    expected: { PermissionDenied: "remove | removeForce | removeRecursive | renameFrom | renameTo" }
  }
]

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)

  const shareOf = (index: number) => (options.thorough === false ? index : undefined)

  for (const [index, situation] of situations.entries()) {
    test(`errors: ${situation.name}`, (subject) =>
      Effect.gen(function* () {
        yield* prepare(subject)
        yield* check(subject, situation, shareOf(index))
      }))
  }

  test("errors: what does not matter is none", ({ at, fs }) =>
    Effect.gen(function* () {
      for (const path of [at("missing"), at("no/such"), ""]) {
        assert.isFalse(yield* fs.exists(path))
        yield* fs.remove(path, { force: true })
        yield* fs.remove(path, { force: true, recursive: true })
      }
      assert.deepStrictEqual(yield* fs.glob("*", { root: at("missing") }), [])
      yield* fs.symlink("gone", at("dangling"))
      assert.isFalse(yield* fs.exists(at("dangling")))
    }))

  test("errors: a listing of a path with NUL fails", ({ at, fs }) =>
    Effect.gen(function* () {
      yield* P.fails(fs.readDirectory(at("a\0b")), "BadArgument", "Unknown")
      yield* P.fails(fs.readDirectoryEntries(at("a\0b")), "BadArgument", "Unknown")
    }))

  test("errors: they name the module, the method and the path", ({ at, fs }) =>
    Effect.gen(function* () {
      const path = at("missing")
      const attempts = {
        access: fs.access(path),
        stat: fs.stat(path),
        lstat: fs.lstat(path),
        chmod: fs.chmod(path, 0o600),
        truncate: fs.truncate(path),
        readFile: fs.readFile(path),
        readLink: fs.readLink(path),
        realPath: fs.realPath(path),
        readDirectory: fs.readDirectory(path),
        readDirectoryEntries: fs.readDirectoryEntries(path),
        open: fs.open(path),
        writeFile: fs.writeFile(path, P.bytes(""), { flag: "r+" }),
        remove: fs.remove(path),
        rename: fs.rename(path, at("target")),
        copy: fs.copy(path, at("target")),
        copyFile: fs.copyFile(path, at("target")),
        link: fs.link(path, at("target")),
        makeDirectory: fs.makeDirectory(`${path}/x`)
      }
      for (const [method, attempt] of Object.entries(attempts)) {
        const { message, reason } = yield* Effect.flip(Effect.scoped(attempt))
        assert.deepInclude(reason, { _tag: "NotFound", module: "FileSystem", method })
        assert.include(message, path)
      }
    }))

  if (options.bindingModes === true) {
    for (const [index, situation] of denied.entries()) {
      test(`errors: ${situation.name}`, (subject) =>
        Effect.gen(function* () {
          const { at, fs } = subject
          yield* prepare(subject)
          for (const name of ["locked", "fixed"]) {
            yield* fs.makeDirectory(at(name))
            yield* fs.writeFileString(at(`${name}/leaf`), "leaf")
          }
          yield* fs.writeFileString(at("secret"), "secret")
          yield* fs.chmod(at("secret"), 0o000)
          // Opened again so that the directory of the case can be removed.
          yield* Effect.acquireRelease(
            Effect.andThen(fs.chmod(at("locked"), 0o000), fs.chmod(at("fixed"), 0o555)),
            () => Effect.orDie(Effect.andThen(fs.chmod(at("locked"), 0o700), fs.chmod(at("fixed"), 0o700)))
          )
          yield* check(subject, situation, shareOf(index))
        }))
    }

    test("access tells what may be done", ({ at, fs }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("file"), "x")
        yield* fs.chmod(at("file"), 0o400)
        yield* fs.access(at("file"), { readable: true })
        yield* P.fails(fs.access(at("file"), { writable: true }), "PermissionDenied")
        yield* fs.chmod(at("file"), 0o200)
        yield* fs.access(at("file"), { writable: true })
        yield* P.fails(fs.access(at("file"), { readable: true }), "PermissionDenied")
        yield* P.fails(fs.access(at("file"), { readable: true, writable: true }), "PermissionDenied")
        yield* fs.access(at("file"))
      }))
  }
}
