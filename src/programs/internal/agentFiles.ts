/** Files of a model, over the file system of the sandbox: in parts that fit an answer, and exactly. */
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as PlatformError from "effect/PlatformError"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import { isSandboxError } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import { concat, openHead, openTail } from "../../services/internal/capped.ts"
import { outOfPlatform } from "../../services/internal/platformErrors.ts"
import type { SandboxService } from "../../services/SandboxService.ts"
import type { ToolFailure } from "./agentFailure.ts"
import { refuse } from "./agentFailure.ts"
import { cut, textOf } from "./agentText.ts"
import type { ListFilesResult, ReadFileResult, SearchCursor, SearchFilesResult, SearchMatch } from "./agentTools.ts"

type Failure = SandboxError | PlatformError.PlatformError | ToolFailure
type Service = SandboxService["Service"]

/** What is not there, or not allowed, is told by the name that the model has for it. */
const calledBy =
  (path: string) =>
  (error: Failure): Failure => {
    if (error._tag !== "PlatformError") return error
    switch (error.reason._tag) {
      case "NotFound":
        return refuse("NotFound", `${path}: there is no such file or directory`)
      case "PermissionDenied":
        return refuse("PermissionDenied", `${path}: permission denied`)
      case "BadResource":
        return refuse(
          "BadResource",
          `${path}: it, or what it is in, is a file where a directory is needed, or the reverse`
        )
      default:
        return error
    }
  }

/** Runs it inside of the sandbox. */
const within = <A>(
  service: Service,
  id: SandboxId,
  path: string,
  effect: Effect.Effect<A, Failure, FileSystem.FileSystem>
) =>
  // What refuses it otherwise says where on its own machine the sandbox is.
  path.includes("\0")
    ? Effect.fail(refuse("BadArgument", "path contains a NUL character"))
    : Effect.scoped(
        Effect.flatMap(Layer.build(service.platform(id)), (platform) => Effect.provideContext(effect, platform))
      ).pipe(Effect.mapError(calledBy(path)))

const quoted = (path: string) => JSON.stringify(path)

const collect = <E, R>(stream: Stream.Stream<Uint8Array, E, R>) =>
  Effect.map(Stream.runCollect(stream), (chunks) =>
    concat(
      chunks,
      chunks.reduce((sum, { length }) => sum + length, 0)
    )
  )

const notText = (path: string) =>
  refuse(
    "NotText",
    `${path} is no UTF-8 text: sandbox_read_file with path ${quoted(path)}, encoding "base64" gives its bytes`
  )

/** What is opened by mistake, such as a pipe that nobody writes to, would never be read to its end. */
const statFile = Effect.fnUntraced(function* (fs: FileSystem.FileSystem, path: string) {
  const info = yield* fs.stat(path)
  if (info.type === "Directory") {
    return yield* refuse("IsDirectory", `${path} is a directory: sandbox_list_files with path ${quoted(path)} lists it`)
  }
  return info.type === "File" || info.type === "CharacterDevice"
    ? info
    : yield* refuse("NotAFile", `${path} is no regular file`)
})

export interface ReadFile {
  readonly path: string
  readonly offset?: number
  readonly maxBytes?: number
  readonly encoding?: "utf8" | "base64"
}

/** Text up to the end of its last whole line, or of its last whole character if it has no line end. */
const wholeText = (page: Uint8Array): Uint8Array => {
  const line = page.lastIndexOf(10)
  return page.subarray(0, line >= 0 ? line + 1 : page.length - openTail(page))
}

export const read = (service: Service, defaultBytes: number, id: SandboxId, options: ReadFile) =>
  within(
    service,
    id,
    options.path,
    Effect.gen(function* (): Effect.fn.Return<ReadFileResult, Failure, FileSystem.FileSystem> {
      const { encoding = "utf8", maxBytes = defaultBytes, offset = 0, path } = options
      const fs = yield* FileSystem.FileSystem
      const { size } = yield* statFile(fs, path)
      // One more, to see whether there is more: what the system makes up has no size.
      const got = yield* collect(fs.stream(path, { offset, bytesToRead: maxBytes + 1 }))
      const isCut = got.length > maxBytes
      const page = isCut ? got.subarray(0, maxBytes) : got
      const bytes = isCut && encoding === "utf8" ? wholeText(page) : page
      const text = encoding === "utf8" ? textOf(bytes) : undefined
      if (encoding === "utf8" && text === undefined) {
        return yield* offset > 0 && openHead(bytes) > 0
          ? refuse(
              "NotText",
              `the offset ${offset} of ${path} is not at the border of a character: take next of an answer`
            )
          : notText(path)
      }
      const next = offset + bytes.length
      return {
        path,
        sizeBytes: Number(size),
        offset,
        bytes: bytes.length,
        ...(text === undefined ? { base64: Base64.encode(bytes) } : { text }),
        ...(isCut
          ? { next, note: `there is more: sandbox_read_file with path ${quoted(path)}, offset ${next} reads on` }
          : {})
      }
    })
  )

export interface WriteFile {
  readonly path: string
  readonly content: string
  readonly encoding?: "utf8" | "base64"
  readonly executable?: boolean
}

const utf8 = new TextEncoder()

/** Half of a character, which JSON can hold, would become another one in the file, and as a piece to find cut one in two. */
const halved = (texts: Readonly<Record<string, string>>) => {
  const name = Object.keys(texts).find((one) => texts[one]?.isWellFormed() === false)
  return name === undefined
    ? Effect.void
    : Effect.fail(refuse("InvalidArgument", `${name} is no well-formed text: it contains half of a surrogate pair`))
}

export const write = Effect.fnUntraced(function* (service: Service, id: SandboxId, options: WriteFile) {
  const { content, encoding = "utf8", executable, path } = options
  yield* halved({ content })
  const decoded = encoding === "utf8" ? Result.succeed(utf8.encode(content)) : Base64.decode(content)
  if (Result.isFailure(decoded)) return yield* refuse("InvalidArgument", "content is not well-formed base64")
  const bytes = decoded.success
  yield* service
    .writeFiles(id, [
      { path, content: bytes, ...(executable === undefined ? {} : { mode: executable ? 0o755 : 0o644 }) }
    ])
    .pipe(Effect.mapError(calledBy(path)))
  return { path, sizeBytes: bytes.length }
})

/** Edits hold the whole file. */
const maxEdited = 4 << 20

export interface EditFile {
  readonly path: string
  readonly oldText: string
  readonly newText: string
  readonly replaceAll?: boolean
}

const startsOf = (text: string, piece: string, step: number): ReadonlyArray<number> => {
  const found: Array<number> = []
  for (let at = text.indexOf(piece); at >= 0; at = text.indexOf(piece, at + step)) found.push(at)
  return found
}

const lineOf = (text: string, at: number): number => text.slice(0, at).split("\n").length

/** What a model got wrong most likely. */
const nearMiss = (text: string, oldText: string): string => {
  const spaceless = (one: string) => one.replaceAll(/\s+/g, " ").trim()
  if (spaceless(oldText) !== "" && spaceless(text).includes(spaceless(oldText))) {
    const detail = text.includes("\r\n") && !oldText.includes("\r\n") ? ", here that its lines end with \\r\\n" : ""
    return ` as it stands; with other spaces or line ends it is${detail}`
  }
  return ""
}

export const edit = Effect.fnUntraced(function* (
  service: Service,
  id: SandboxId,
  { newText, oldText, path, replaceAll = false }: EditFile
) {
  yield* halved({ oldText, newText })
  const reread = `read it with sandbox_read_file with path ${quoted(path)} and copy the piece exactly`
  const { mode, text } = yield* within(
    service,
    id,
    path,
    Effect.gen(function* (): Effect.fn.Return<{ mode: number; text: string }, Failure, FileSystem.FileSystem> {
      const fs = yield* FileSystem.FileSystem
      const info = yield* statFile(fs, path)
      const bytes = yield* collect(fs.stream(path, { bytesToRead: maxEdited + 1 }))
      if (bytes.length > maxEdited) {
        return yield* refuse(
          "TooLarge",
          `${path} is larger than ${maxEdited} bytes: edit it with a program, such as sed, by sandbox_run_command`
        )
      }
      const content = textOf(bytes)
      return content === undefined ? yield* notText(path) : { mode: info.mode & 0o7777, text: content }
    })
  )
  // Those that overlap are several too, but are not all replaced.
  const starts = startsOf(text, oldText, replaceAll ? oldText.length : 1)
  const [first] = starts
  if (first === undefined) {
    return yield* refuse("NoMatch", `oldText is not in ${path}${nearMiss(text, oldText)}: ${reread}`)
  }
  if (starts.length > 1 && !replaceAll) {
    const lines = starts.slice(0, 10).map((at) => lineOf(text, at))
    return yield* refuse(
      "ManyMatches",
      `oldText is ${starts.length} times in ${path} (lines ${lines.join(", ")}${starts.length > 10 ? ", …" : ""}): ` +
        "give more of the lines around the one that you mean, or replaceAll true for all of them"
    )
  }
  const edited = text.split(oldText).join(newText)
  const bytes = utf8.encode(edited)
  yield* service.writeFiles(id, [{ path, content: bytes, mode }]).pipe(Effect.mapError(calledBy(path)))
  return { path, sizeBytes: bytes.length, replacements: starts.length, line: lineOf(text, first) }
})

/** Large, and never what one looks for. */
const unvisited: ReadonlySet<string> = new Set([".git", "node_modules"])

interface Entry {
  /** Relative to where the walk began. */
  readonly path: string
  readonly type: FileSystem.File.Type
}

const byName = (a: { readonly name: string }, b: { readonly name: string }) =>
  a.name < b.name ? -1 : a.name > b.name ? 1 : 0

/** The order of a walk: each directory before what is in it, and that before the next name. */
const compare = (a: string, b: string): number => {
  const [left, right] = [a.split("/"), b.split("/")]
  for (const [index, name] of left.entries()) {
    const other = right[index]
    if (other === undefined) return 1
    if (name !== other) return name < other ? -1 : 1
  }
  return left.length - right.length
}

/** What went away meanwhile, or may not be read, or cannot; a failure of the sandbox is no such thing. */
const isUnreadable = (error: PlatformError.PlatformError): boolean => !isSandboxError(outOfPlatform(error))

/**
 * Everything below a directory in the order of {@link compare}, from behind `after` on; directories are read as it gets to
 * them.
 */
const walk = (
  fs: FileSystem.FileSystem,
  root: string,
  after: string,
  recursive: boolean
): Stream.Stream<Entry, PlatformError.PlatformError> => {
  const entriesOf = (directory: string) =>
    directory === ""
      ? fs.readDirectoryEntries(root)
      : Effect.catchIf(fs.readDirectoryEntries(`${root}/${directory}`), isUnreadable, () => Effect.succeed([]))
  const below = (directory: string): Stream.Stream<Entry, PlatformError.PlatformError> =>
    Stream.unwrap(
      Effect.map(entriesOf(directory), (entries) =>
        Stream.flatMap(Stream.fromIterable([...entries].sort(byName)), ({ name, type }) => {
          const path = directory === "" ? name : `${directory}/${name}`
          const isNew = after === "" || compare(path, after) > 0
          // Behind it, or the directory that it is in.
          const isAhead = isNew || after === path || after.startsWith(`${path}/`)
          const inside =
            recursive && type === "Directory" && isAhead && !unvisited.has(name) ? below(path) : Stream.empty
          return isNew ? Stream.concat(Stream.succeed({ path, type }), inside) : inside
        })
      )
    )
  return below("")
}

export interface ListFiles {
  readonly path?: string
  readonly recursive?: boolean
  readonly after?: string
  readonly limit?: number
}

export const list = (service: Service, id: SandboxId, options: ListFiles) =>
  within(
    service,
    id,
    options.path ?? ".",
    Effect.gen(function* (): Effect.fn.Return<ListFilesResult, Failure, FileSystem.FileSystem> {
      const { after = "", limit = 200, path = ".", recursive = false } = options
      const fs = yield* FileSystem.FileSystem
      const found = yield* Stream.runCollect(
        Stream.take(walk(fs, path, after.replace(/\/$/, ""), recursive), limit + 1)
      )
      const entries = found.slice(0, limit).map((entry) => (entry.type === "Directory" ? `${entry.path}/` : entry.path))
      const next = found.length > limit ? entries.at(-1) : undefined
      return {
        path,
        entries,
        ...(next === undefined
          ? {}
          : {
              next,
              note:
                `there are more: sandbox_list_files with path ${quoted(path)}` +
                `${recursive ? ", recursive true" : ""}, after ${quoted(next)} lists them`
            })
      }
    })
  )

export interface SearchFiles {
  readonly query: string
  readonly path?: string
  readonly name?: string
  readonly ignoreCase?: boolean
  readonly after?: SearchCursor
  readonly limit?: number
}

/** Of a line without an end only so much is held at once, and of one that is shown so much is shown. */
const maxLine = 1 << 16
const maxShown = 300
/** After so many files an answer is given, whatever was found. */
const maxFiles = 2000
/** How many files are read at once. */
const readers = 8

/** `*` and `?`, nothing else: what a model writes must not be able to keep this program busy. */
const matchesName = (pattern: string, name: string): boolean => {
  let [at, from, star, retry] = [0, 0, -1, 0]
  while (from < name.length) {
    if (pattern[at] === "*") {
      star = at++
      retry = from
    } else if (at < pattern.length && (pattern[at] === "?" || pattern[at] === name[from])) {
      at++
      from++
    } else if (star >= 0) {
      at = star + 1
      from = ++retry
    } else return false
  }
  while (pattern[at] === "*") at++
  return at === pattern.length
}

/** Finds the lines with a text in chunks of a file, in bounded memory. */
class Scanner {
  readonly matches: Array<Omit<SearchMatch, "path">> = []
  private readonly decoder = new TextDecoder("utf-8", { ignoreBOM: true })
  private line = 1
  private held = ""
  private isFound = false
  private readonly fold: (text: string) => string
  private readonly query: string
  private readonly from: number
  private readonly limit: number

  constructor(query: string, ignoreCase: boolean, from: number, limit: number) {
    this.fold = ignoreCase ? (text) => text.toLowerCase() : (text) => text
    this.query = this.fold(query)
    this.from = from
    this.limit = limit
  }

  /** False once it has found enough. */
  push(chunk: Uint8Array): boolean {
    return this.scan(this.decoder.decode(chunk, { stream: true }), false)
  }

  end(): void {
    this.scan(this.decoder.decode(), true)
  }

  private scan(text: string, isEnd: boolean): boolean {
    let start = 0
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", start)) {
      this.held += text.slice(start, at)
      this.look()
      this.held = ""
      this.isFound = false
      this.line++
      start = at + 1
      if (this.matches.length >= this.limit) return false
    }
    this.held += text.slice(start)
    if (isEnd || this.held.length > maxLine) {
      this.look()
      // A match may begin in what was held and end in what follows.
      this.held = this.held.slice(Math.max(0, this.held.length - this.query.length + 1))
    }
    return this.matches.length < this.limit
  }

  private look(): void {
    if (this.isFound || this.line <= this.from) return
    const at = this.fold(this.held).indexOf(this.query)
    if (at < 0) return
    this.isFound = true
    const line = this.held.replace(/\r$/, "")
    const start = line.length <= maxShown ? 0 : Math.max(0, at - Math.floor((maxShown - this.query.length) / 2))
    const text = line.length <= maxShown ? line : cut(line, start, start + Math.max(maxShown, this.query.length))
    this.matches.push({
      line: this.line,
      text: `${start > 0 ? "…" : ""}${text}${start + text.length < line.length ? "…" : ""}`
    })
  }
}

export const search = (service: Service, id: SandboxId, options: SearchFiles) =>
  within(
    service,
    id,
    options.path ?? ".",
    Effect.gen(function* (): Effect.fn.Return<SearchFilesResult, Failure, FileSystem.FileSystem> {
      const { after, ignoreCase = false, limit = 100, name = "*", path = ".", query } = options
      const fs = yield* FileSystem.FileSystem
      /** Undefined for what is no text, or went away, or may not be read. */
      const inFile = (file: string, at: string) => {
        const scanner = new Scanner(query, ignoreCase, after?.path === file ? (after.line ?? 0) : 0, limit + 1)
        let isBinary = false
        return fs.stream(at).pipe(
          Stream.runForEachWhile((chunk) =>
            Effect.sync(() => {
              isBinary = chunk.includes(0)
              return !isBinary && scanner.push(chunk)
            })
          ),
          Effect.map(() => {
            if (!isBinary && scanner.matches.length <= limit) scanner.end()
            return isBinary ? undefined : scanner.matches.map((match) => ({ path: file, ...match }))
          }),
          Effect.catchIf(isUnreadable, () => Effect.undefined),
          Effect.map((matches) => ({ file, matches }))
        )
      }
      const { type } = yield* fs.stat(path)
      if (type !== "Directory") yield* statFile(fs, path)
      const isDone = after !== undefined && after.line === undefined
      const files =
        type === "Directory"
          ? Stream.concat(
              // The file of the cursor may have more.
              after === undefined || isDone
                ? Stream.empty
                : Stream.fromEffect(
                    fs.stat(`${path}/${after.path}`).pipe(
                      Effect.map(({ type }): Entry => ({ path: after.path, type })),
                      Effect.catchIf(isUnreadable, () => Effect.succeed<Entry>({ path: after.path, type: "Unknown" }))
                    )
                  ),
              walk(fs, path, after?.path ?? "", true)
            ).pipe(
              Stream.filter(
                (entry) => entry.type === "File" && matchesName(name, entry.path.slice(entry.path.lastIndexOf("/") + 1))
              ),
              Stream.map((entry) => ({ file: entry.path, at: `${path}/${entry.path}` }))
            )
          : isDone
            ? Stream.empty
            : Stream.succeed({ file: path, at: path })
      const matches: Array<SearchMatch> = []
      let [searched, skipped] = [0, 0]
      let next: SearchCursor | undefined
      let last = ""
      yield* Stream.mapEffect(files, ({ at, file }) => inFile(file, at), { concurrency: readers }).pipe(
        Stream.runForEachWhile((found) =>
          Effect.sync(() => {
            if (searched + skipped === maxFiles) {
              next = { path: last }
              return false
            }
            last = found.file
            if (found.matches === undefined) skipped++
            else searched++
            for (const match of found.matches ?? []) {
              if (matches.length === limit) {
                const end = matches.at(-1)
                next = end === undefined ? undefined : { path: end.path, line: end.line }
                return false
              }
              matches.push(match)
            }
            return true
          })
        )
      )
      return {
        path,
        matches,
        searched,
        skipped,
        ...(next === undefined
          ? {}
          : {
              next,
              note: `there may be more: sandbox_search_files with the same parameters and after ${JSON.stringify(next)} goes on`
            })
      }
    })
  )
