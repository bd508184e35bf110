/** A `FileSystem` that hands every operation to another one, which is found anew each time. */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import type { PlatformError } from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"

type Fs = FileSystem.FileSystem

/** Where operations go. */
export interface Delegate {
  /** Runs one operation to its end. */
  readonly run: <A>(method: string, use: (fs: Fs) => Effect.Effect<A, PlatformError>) => Effect.Effect<A, PlatformError>
  /** Runs one whose result lives as long as its Scope: an open file, a stream, a temporary directory. */
  readonly runScoped: <A, R>(
    method: string,
    use: (fs: Fs) => Effect.Effect<A, PlatformError, R>
  ) => Effect.Effect<A, PlatformError, R | Scope.Scope>
  /** Runs one that only begins when its result is run: a stream, a sink. */
  readonly runLazy: Delegate["runScoped"]
  /** What a path of the caller's is for the other one; the target of a symlink is left as it is. */
  readonly path: (path: string) => string
  /** The path of what was made below a directory of the caller's, as the caller would write it. */
  readonly made: (path: string, directory: string) => string
  /** Where a glob without a root starts. */
  readonly root: string
}

/** Every operation, by delegation: derived ones too, so that what the other one does better is not lost. */
export const delegate = ({ made, path: at, root, run, runLazy, runScoped }: Delegate): Fs => {
  const temporary =
    (options: { readonly directory?: string | undefined } | undefined) =>
    <E, R>(effect: Effect.Effect<string, E, R>): Effect.Effect<string, E, R> => {
      const directory = options?.directory
      return directory === undefined ? effect : Effect.map(effect, (path) => made(path, directory))
    }
  const below = <O extends { readonly directory?: string | undefined }>(options: O | undefined): O | undefined =>
    options?.directory === undefined ? options : { ...options, directory: at(options.directory) }
  return FileSystem.FileSystem.of({
    "~effect/FileSystem": "~effect/FileSystem",
    access: (path, options) => run("access", (fs) => fs.access(at(path), options)),
    chmod: (path, mode) => run("chmod", (fs) => fs.chmod(at(path), mode)),
    chown: (path, uid, gid) => run("chown", (fs) => fs.chown(at(path), uid, gid)),
    copy: (from, to, options) => run("copy", (fs) => fs.copy(at(from), at(to), options)),
    copyFile: (from, to) => run("copyFile", (fs) => fs.copyFile(at(from), at(to))),
    // By `access`, whose `NotFound` the delegate may know to be a machine that is gone.
    exists: (path) =>
      run("access", (fs) => fs.access(at(path))).pipe(
        Effect.as(true),
        Effect.catchIf(
          (error) => error.reason._tag === "NotFound",
          () => Effect.succeed(false)
        )
      ),
    glob: (pattern, options) =>
      run("glob", (fs) =>
        fs.glob(pattern, { ...options, root: options?.root === undefined ? root : at(options.root) })
      ),
    link: (from, to) => run("link", (fs) => fs.link(at(from), at(to))),
    lstat: (path) => run("lstat", (fs) => fs.lstat(at(path))),
    makeDirectory: (path, options) => run("makeDirectory", (fs) => fs.makeDirectory(at(path), options)),
    makeTempDirectory: (options) =>
      temporary(options)(run("makeTempDirectory", (fs) => fs.makeTempDirectory(below(options)))),
    makeTempDirectoryScoped: (options) =>
      temporary(options)(runScoped("makeTempDirectoryScoped", (fs) => fs.makeTempDirectoryScoped(below(options)))),
    makeTempFile: (options) => temporary(options)(run("makeTempFile", (fs) => fs.makeTempFile(below(options)))),
    makeTempFileScoped: (options) =>
      temporary(options)(runScoped("makeTempFileScoped", (fs) => fs.makeTempFileScoped(below(options)))),
    open: (path, options) => runScoped("open", (fs) => fs.open(at(path), options)),
    readDirectory: (path, options) => run("readDirectory", (fs) => fs.readDirectory(at(path), options)),
    readDirectoryEntries: (path) => run("readDirectoryEntries", (fs) => fs.readDirectoryEntries(at(path))),
    readFile: (path) => run("readFile", (fs) => fs.readFile(at(path))),
    readFileString: (path, encoding) => run("readFileString", (fs) => fs.readFileString(at(path), encoding)),
    readLink: (path) => run("readLink", (fs) => fs.readLink(at(path))),
    realPath: (path) => run("realPath", (fs) => fs.realPath(at(path))),
    remove: (path, options) => run("remove", (fs) => fs.remove(at(path), options)),
    rename: (from, to) => run("rename", (fs) => fs.rename(at(from), at(to))),
    sink: (path, options) => Sink.unwrap(runLazy("sink", (fs) => Effect.succeed(fs.sink(at(path), options)))),
    stat: (path) => run("stat", (fs) => fs.stat(at(path))),
    stream: (path, options) => Stream.unwrap(runLazy("stream", (fs) => Effect.succeed(fs.stream(at(path), options)))),
    symlink: (target, path) => run("symlink", (fs) => fs.symlink(target, at(path))),
    truncate: (path, length) => run("truncate", (fs) => fs.truncate(at(path), length)),
    utimes: (path, atime, mtime) => run("utimes", (fs) => fs.utimes(at(path), atime, mtime)),
    watch: (path, options) => Stream.unwrap(runLazy("watch", (fs) => Effect.succeed(fs.watch(at(path), options)))),
    writeFile: (path, data, options) => run("writeFile", (fs) => fs.writeFile(at(path), data, options)),
    writeFileString: (path, data, options) =>
      run("writeFileString", (fs) => fs.writeFileString(at(path), data, options))
  })
}
