/** What importing the library costs beside importing the modules of `effect` that it needs, and what it loads besides. */
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { promisify } from "node:util"
import type { Bench } from "../harness.ts"
import { atMost, interleave, ratio } from "../harness.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const run = promisify(execFile)

/** Below the repository, so that packages resolve as they do for the sources. */
const folder = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(root, ".bench-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true, force: true }))
)

/** The sources as they are now, compiled as they are published. */
const build = (path: string) => {
  const tsc = join(root, "node_modules/typescript/bin/tsc")
  const options = ["--outDir", path, "--declaration", "false", "--declarationMap", "false", "--sourceMap", "false"]
  return Effect.tryPromise(() => run(process.execPath, [tsc, "-p", join(root, "tsconfig.build.json"), ...options]))
}

const node = (script: string) =>
  Effect.tryPromise(() => run(process.execPath, [script])).pipe(Effect.map(({ stdout }) => stdout))

/** Prints the URLs that an import loads. */
const lister = (url: string) => `
import { registerHooks } from "node:module"
const urls = []
registerHooks({ load: (url, context, next) => { urls.push(url); return next(url, context) } })
await import(${JSON.stringify(url)})
console.log(JSON.stringify(urls))`

/** Prints the ms that an import takes in a process that has loaded nothing else. */
const stopwatch = (url: string) => `
const from = performance.now()
await import(${JSON.stringify(url)})
console.log(performance.now() - from)`

const packageOf = (url: string) => /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1]

export const importing: Bench = Effect.gen(function* () {
  const path = yield* folder
  yield* build(path)
  const write = (name: string, code: string) =>
    Effect.as(
      Effect.promise(() => writeFile(join(path, name), code)),
      join(path, name)
    )
  const index = pathToFileURL(join(path, "index.js")).href
  const loaded = (url: string) =>
    write("list.mjs", lister(url)).pipe(
      Effect.flatMap(node),
      Effect.map((output): ReadonlyArray<string> => JSON.parse(output))
    )
  const urls = yield* loaded(index)
  const effects = urls.filter((url) => packageOf(url) === "effect")
  const alone = yield* write("effect.mjs", effects.map((url) => `import ${JSON.stringify(url)}\n`).join(""))
  const packagesOf = (all: ReadonlyArray<string>) => new Set(all.flatMap((url) => packageOf(url) ?? []))
  // What `effect` itself depends on is no choice of ours.
  const needed = packagesOf(yield* loaded(pathToFileURL(alone).href))
  const foreign = [...packagesOf(urls)].filter((name) => !needed.has(name))
  const library = yield* write("library.mjs", stopwatch(index))
  const effect = yield* write("baseline.mjs", stopwatch(pathToFileURL(alone).href))
  const rounds = yield* interleave(
    { library: Effect.map(node(library), Number), effect: Effect.map(node(effect), Number) },
    { warmUp: 2 }
  )
  const { note, value } = ratio(rounds, "library", "effect")
  return [
    atMost(1.5, { name: "import/cost", value, unit: "x", note: `${effects.length} modules of effect; ${note}` }),
    atMost(0, {
      name: "import/sdks",
      value: foreign.length,
      unit: "packages",
      note: foreign.length === 0 ? `loads ${[...needed].join(", ")} and nothing else` : foreign.join(", ")
    })
  ]
}).pipe(Effect.scoped)
