/**
 * Everything that can be said about the sources without running them. `node scripts/check.ts` does all parts beside each other,
 * `node scripts/check.ts types lint` only those.
 */
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
/** The programs of packages are run by this very Node: a shim might find another one. */
const bins = {
  tsc: "node_modules/typescript/bin/tsc",
  tsgo: "node_modules/@effect/tsgo/dist/effect-tsgo.cjs",
  oxlint: "node_modules/oxlint/bin/oxlint",
  oxfmt: "node_modules/oxfmt/bin/oxfmt"
}
const sources = ["src", "test", "scripts", "bench", "examples", "vitest.config.ts"].filter((path) =>
  existsSync(`${root}/${path}`)
)

const parts: ReadonlyArray<readonly [name: string, args: ReadonlyArray<string>]> = [
  ["types", [bins.tsc, "--noEmit", "-p", "tsconfig.json"]],
  ["effect", [bins.tsgo, "diagnostics", "--project", "tsconfig.json", "--strict", "--severity", "error,warning"]],
  ["lint", [bins.oxlint, "--deny-warnings", ...sources]],
  ["format", [bins.oxfmt, "--check", ...sources]],
  ["imports", ["scripts/importGraph.ts"]]
]

interface Result {
  readonly name: string
  readonly code: number
  readonly output: string
}

const run = (name: string, args: ReadonlyArray<string>): Promise<Result> =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] })
    let output = ""
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => (output += text))
    }
    child.on("error", (error) => resolve({ name, code: 1, output: String(error) }))
    child.on("close", (code) => resolve({ name, code: code ?? 1, output }))
  })

const wanted = process.argv.slice(2)
for (const name of wanted) {
  if (!parts.some(([part]) => part === name)) {
    throw new Error(`no part ${name}; there are ${parts.map(([part]) => part).join(", ")}`)
  }
}
const chosen = parts.filter(([name]) => wanted.length === 0 || wanted.includes(name))
const results = await Promise.all(chosen.map(([name, args]) => run(name, args)))
for (const { code, name, output } of results) {
  console.log(`${code === 0 ? "ok  " : "FAIL"} ${name}`)
  if (code !== 0) console.log(output)
}
process.exitCode = results.some(({ code }) => code !== 0) ? 1 : 0
