/** Which file may import which: dependencies point one way, `programs → services ← layers`, with `model` and `errors` below all. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, normalize, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { parseSync } from "oxc-parser"

/** Imports by file, all paths relative to `src`; a bare specifier stays as it is. */
export type Graph = ReadonlyMap<string, ReadonlyArray<string>>

/** What a file imports, types too: a type is a dependency as well. */
export const importsOf = (file: string, code: string): ReadonlyArray<string> => {
  const { errors, module } = parseSync(file, code)
  if (errors.length > 0) throw new Error(`${file}: ${errors[0]?.message}`)
  const literal = (start: number, end: number) => code.slice(start, end).replace(/^["'`]|["'`]$/g, "")
  const specifiers = [
    ...module.staticImports.map((one) => one.moduleRequest.value),
    ...module.staticExports.flatMap((one) => one.entries.flatMap((entry) => entry.moduleRequest?.value ?? [])),
    ...module.dynamicImports.map((one) => literal(one.moduleRequest.start, one.moduleRequest.end))
  ]
  return [
    ...new Set(
      specifiers.map((specifier) =>
        specifier.startsWith(".") ? normalize(join(dirname(file), specifier)).replaceAll("\\", "/") : specifier
      )
    )
  ]
}

/** The area that a file belongs to. */
const areaOf = (file: string): string => (file.includes("/") ? file.slice(0, file.indexOf("/")) : file)

const packageOf = (specifier: string): string =>
  specifier.startsWith("@") ? specifier.split("/").slice(0, 2).join("/") : (specifier.split("/")[0] ?? specifier)

const isLocal = (specifier: string, graph: Graph): boolean => graph.has(specifier)

/** A layer's private parts: `layers/internal`, and the folder that is called like the file in lower case. */
const isPrivateTo = (from: string, to: string): boolean => {
  const home = dirname(from)
  const own = join(
    home,
    from
      .slice(home.length + 1)
      .replace(/\.ts$/, "")
      .toLowerCase()
  )
  return (
    to.startsWith("layers/internal/") || dirname(to) === own || (home === dirname(to) && home.split("/").length > 2)
  )
}

const mayImport: Record<string, ReadonlyArray<string>> = {
  "errors.ts": [],
  model: ["errors.ts"],
  services: ["errors.ts", "model"],
  layers: ["errors.ts", "model", "services"],
  programs: ["errors.ts", "model", "services"],
  testing: ["errors.ts", "model", "services", "layers", "index.ts"],
  "index.ts": ["errors.ts", "model", "services"],
  "Embedded.ts": ["errors.ts", "model", "services", "layers"]
}

/** Every edge that should not be there, with the rule it breaks. */
export const violations = (graph: Graph): ReadonlyArray<string> => {
  const found: Array<string> = []
  const folders = new Map<string, Set<string>>()
  for (const [file, imports] of graph) {
    const area = areaOf(file)
    const allowed = mayImport[area]
    if (allowed === undefined) {
      found.push(`${file}: no rule says where this belongs`)
      continue
    }
    for (const to of imports) {
      if (to.startsWith("node:")) {
        if (["errors.ts", "model", "services", "index.ts"].includes(area)) {
          found.push(`${file} → ${to}: ${area} runs everywhere, so nothing of Node's`)
        }
        continue
      }
      if (!isLocal(to, graph)) {
        if (to.startsWith(".") || to.endsWith(".ts")) {
          found.push(`${file} → ${to}: there is no such file`)
          continue
        }
        const name = packageOf(to)
        if (name === "effect") continue
        if (["errors.ts", "model", "services", "index.ts"].includes(area)) {
          found.push(`${file} → ${to}: ${area} imports effect only`)
        }
        folders.set(name, (folders.get(name) ?? new Set()).add(dirname(file)))
        continue
      }
      const target = areaOf(to)
      if (target === area) {
        if (area === "layers" && !isPrivateTo(file, to)) found.push(`${file} → ${to}: a layer imports no other layer`)
        continue
      }
      if (!allowed.includes(target)) found.push(`${file} → ${to}: ${area} may not import ${target}`)
    }
  }
  for (const [name, from] of folders) {
    if (from.size > 1)
      found.push(`${name}: imported by ${[...from].sort().join(", ")}; a package belongs to one folder`)
  }
  return found
}

/** The graph of a folder of sources. */
export const readGraph = (src: string): Graph =>
  new Map(
    readdirSync(src, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
      .map((entry) => {
        const path = join(entry.parentPath, entry.name)
        const file = relative(src, path).replaceAll("\\", "/")
        return [file, importsOf(file, readFileSync(path, "utf8"))] as const
      })
  )

export const src = fileURLToPath(new URL("../src", import.meta.url))

if (import.meta.main) {
  const found = violations(readGraph(src))
  for (const violation of found) console.error(violation)
  process.exitCode = found.length === 0 ? 0 : 1
}
