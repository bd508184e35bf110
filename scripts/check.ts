/** Everything that can be said about the sources without running them; the parts run beside each other. */
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const bin = (name: string) => `node_modules/.bin/${name}`
const folders = ["src", "test", "scripts", "bench", "examples"]

const parts: ReadonlyArray<readonly [name: string, command: string, args: ReadonlyArray<string>]> = [
  ["types", process.execPath, ["node_modules/typescript/bin/tsc", "--noEmit", "-p", "tsconfig.json"]],
  [
    "effect",
    bin("effect-tsgo"),
    ["diagnostics", "--project", "tsconfig.json", "--strict", "--severity", "error,warning"]
  ],
  ["lint", bin("oxlint"), ["--deny-warnings", ...folders]],
  ["format", bin("oxfmt"), ["--check", ...folders]],
  ["imports", process.execPath, ["scripts/importGraph.ts"]]
]

const wanted = process.argv.slice(2)
const chosen = parts.filter(([name]) => wanted.length === 0 || wanted.includes(name))
if (chosen.length === 0) throw new Error(`no such part; there are ${parts.map(([name]) => name).join(", ")}`)

const results = await Promise.all(
  chosen.map(
    ([name, command, args]) =>
      new Promise<{ readonly name: string; readonly code: number; readonly output: string }>((resolve) => {
        const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] })
        let output = ""
        for (const stream of [child.stdout, child.stderr])
          stream.on("data", (chunk: Buffer) => (output += chunk.toString()))
        child.on("error", (error) => resolve({ name, code: 1, output: String(error) }))
        child.on("close", (code) => resolve({ name, code: code ?? 1, output }))
      })
  )
)
for (const { code, name, output } of results) {
  console.log(`${code === 0 ? "ok  " : "FAIL"} ${name}`)
  if (code !== 0) console.log(output)
}
process.exitCode = results.some(({ code }) => code !== 0) ? 1 : 0
