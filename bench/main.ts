/**
 * `npm run bench [-- <name>] [-- --json]`: measures each figure against its target and ends with 1 when one is missed. Every
 * benchmark runs in a fresh process, so that none warms up the next or leaves it its memory.
 */
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { cases } from "./cases.ts"
import type { Figure } from "./harness.ts"
import { exitCodeOf, table } from "./harness.ts"

const usage = `usage: npm run bench [-- [<name>] [--json]]; there are:\n${cases
  .map(({ about, name }) => `  ${name.padEnd(16)}${about}`)
  .join("\n")}`

const stop = (message: string): never => {
  console.error(`${message}\n${usage}`)
  process.exit(2)
}

const parse = () => {
  try {
    const { positionals, values } = parseArgs({
      allowPositionals: true,
      options: { json: { type: "boolean", default: false } }
    })
    return { names: positionals, json: values.json }
  } catch (error) {
    return stop(error instanceof Error ? error.message : String(error))
  }
}

const { json, names } = parse()
if (names.length > 1) stop("one name at a time")
const chosen = names.length === 0 ? cases : cases.filter(({ name }) => names.includes(name))
if (chosen.length === 0) stop(`no such benchmark: ${names.join(" ")}`)

/** The figures of one benchmark out of a process of its own; undefined when it failed, which it has said on stderr. */
const measure = (name: string) =>
  new Promise<ReadonlyArray<Figure> | undefined>((resolve, reject) => {
    const script = fileURLToPath(new URL("case.ts", import.meta.url))
    const child = spawn(process.execPath, ["--expose-gc", script, name], { stdio: ["ignore", "pipe", "inherit"] })
    let output = ""
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString()
    })
    child.on("error", reject)
    child.on("close", (code) => resolve(code === 0 ? JSON.parse(output) : undefined))
  })

const results: Array<ReadonlyArray<Figure> | undefined> = []
for (const { about, name } of chosen) {
  if (!json) console.log(`\n${name}: ${about}`)
  const figures = await measure(name)
  results.push(figures)
  if (figures === undefined) console.error(`${name} failed`)
  else if (!json) console.log(table(figures))
}
const figures = results.flatMap((result) => result ?? [])
if (json) {
  console.log(
    JSON.stringify(
      figures.map(({ name, ok, target, unit, value }) => ({ name, value, unit, target, ok })),
      null,
      2
    )
  )
} else if (chosen.length > 1) {
  const missed = figures.filter(({ ok }) => !ok)
  console.log(`\n${figures.length - missed.length} of ${figures.length} targets met`)
  if (missed.length > 0) console.log(`missed: ${missed.map(({ name }) => name).join(", ")}`)
}
process.exitCode = exitCodeOf(results)
