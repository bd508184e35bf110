/** Which file may import which: dependencies point one way, `programs → services ← layers`, with `model` and `errors` below all. */
import { readdirSync, readFileSync } from "node:fs"
import { isBuiltin } from "node:module"
import { basename, dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { parseSync, Visitor } from "oxc-parser"

/**
 * Imports by file. Files are relative to `src`, and so are imports of files (`./services/Sandbox.ts`, with the dot); any other
 * specifier stays as it is.
 */
export type Graph = ReadonlyMap<string, ReadonlyArray<string>>

/** Stands for a specifier that only running the code would tell. */
export const computed = "import(…)"

/** What a file imports, types too: a type is a dependency as well. */
export const importsOf = (file: string, code: string): ReadonlyArray<string> => {
  const { errors, program } = parseSync(file, code)
  if (errors.length > 0) throw new Error(`${file}: ${errors[0]?.message}`)
  const specifiers = new Set<string>()
  new Visitor({
    ImportDeclaration: (node) => void specifiers.add(node.source.value),
    ExportAllDeclaration: (node) => void specifiers.add(node.source.value),
    ExportNamedDeclaration: (node) => {
      if (node.source !== null) specifiers.add(node.source.value)
    },
    ImportExpression: ({ source }) => {
      const literal = source.type === "Literal" && typeof source.value === "string"
      specifiers.add(literal ? String(source.value) : computed)
    },
    TSImportType: (node) => void specifiers.add(node.source.value)
  }).visit(program)
  return [...specifiers].map((specifier) => {
    if (!/^\.\.?(\/|$)/.test(specifier)) return specifier
    const path = join(dirname(file), specifier)
    return path.startsWith("..") ? path : `./${path}`
  })
}

/** The area that a file belongs to: its top folder, or the file itself. */
const areaOf = (file: string): string => (file.includes("/") ? file.slice(0, file.indexOf("/")) : file)

const packageOf = (specifier: string): string =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/")

const isWithin = (path: string, folder: string): boolean => path.startsWith(`${folder}/`)

/**
 * The folders that hold a layer's private parts: called like the layer beside it, in lower case (`Local.ts`, `local/`). A second
 * layer whose name begins with the first's has a share in them (`InstantDb.ts`, `InstantDbSchema.ts`, `instantdb/`).
 */
const ownFolders = (graph: Graph): ReadonlySet<string> =>
  new Set(
    [...graph.keys()]
      .filter((file) => areaOf(file) === "layers")
      .map((file) => join(dirname(file), basename(file, ".ts").toLowerCase()))
      .filter((folder) => [...graph.keys()].some((file) => isWithin(file, folder)))
  )

/** `InstantDbSchema.ts` is of `instantdb`, but `Localised.ts` is not of `local`: a further word begins with a capital. */
const isOfFamily = (file: string, folder: string): boolean => {
  const name = basename(file, ".ts")
  return name.toLowerCase().startsWith(folder) && /^([A-Z]|$)/.test(name.slice(folder.length))
}

/** Whether a layer may import a file of `layers`: an `internal` folder beside or above it, or its own folder. */
const isSharedWith = (from: string, to: string, own: ReadonlySet<string>): boolean => {
  const internal = /^(.*?)\/internal\//.exec(to)?.[1]
  if (internal !== undefined && isWithin(from, internal)) return true
  return [...own].some(
    (folder) =>
      isWithin(to, folder) &&
      (isWithin(from, folder) || (dirname(from) === dirname(folder) && isOfFamily(from, basename(folder))))
  )
}

const mayImport: Record<string, ReadonlyArray<string>> = {
  "errors.ts": [],
  model: ["errors.ts"],
  services: ["errors.ts", "model"],
  layers: ["errors.ts", "model", "services"],
  programs: ["errors.ts", "model", "services"],
  testing: ["errors.ts", "model", "services", "layers", "index.ts", "Embedded.ts"],
  "index.ts": ["errors.ts", "model", "services"],
  "Embedded.ts": ["errors.ts", "model", "services", "layers"]
}

/** The files that choose concrete layers for the programs: each is what a `bin` of the package runs. */
const mains: ReadonlyArray<string> = ["programs/main.ts", "programs/mcpMain.ts"]
const mainMayImport = ["errors.ts", "model", "services", "layers", "Embedded.ts"]

/** The peer that is always there, for whoever may import more than effect. */
const platform = "@effect/platform-node"

/** These run everywhere, so they import effect and nothing else. */
const neutral: ReadonlyArray<string> = ["errors.ts", "model", "services", "index.ts"]

/** Every edge that should not be there, with the rule it breaks. */
export const violations = (graph: Graph): ReadonlyArray<string> => {
  const found: Array<string> = []
  const own = ownFolders(graph)
  const importers = new Map<string, Set<string>>()
  for (const [file, imports] of graph) {
    const area = areaOf(file)
    const allowed = mains.includes(file) ? mainMayImport : mayImport[area]
    if (allowed === undefined) {
      found.push(`${file}: no rule says where this belongs`)
      continue
    }
    const refuse = (to: string, why: string) => found.push(`${file} → ${to}: ${why}`)
    for (const to of imports) {
      if (to === computed) refuse(to, "a specifier must be a literal")
      else if (isBuiltin(to)) {
        if (neutral.includes(area)) refuse(to, `${area} runs everywhere, so nothing of Node's`)
        if (!to.startsWith("node:")) refuse(to, "Node's own modules are written node:")
      } else if (to.startsWith("..")) refuse(to, "outside of src")
      else if (to.startsWith("./")) {
        const local = to.slice(2)
        const target = areaOf(local)
        if (!graph.has(local)) refuse(local, "there is no such file")
        else if (target !== area) {
          if (!allowed.includes(target)) refuse(local, `${area} may not import ${target}`)
        } else if (area === "layers" && !isSharedWith(file, local, own)) refuse(local, "a layer imports no other layer")
      } else {
        const name = packageOf(to)
        if (name === "effect") continue
        if (name === "effect-sandbox") refuse(to, "sources import each other by path")
        else if (neutral.includes(area)) refuse(to, `${area} imports effect only`)
        else if (name !== platform) importers.set(name, (importers.get(name) ?? new Set()).add(dirname(file)))
      }
    }
  }
  for (const [name, folders] of importers) {
    // A folder is one with what is below it; the root of `src` is not such a folder, or all would be one.
    const tops = [...folders].filter((one) => ![...folders].some((other) => other !== "." && isWithin(one, other)))
    if (tops.length > 1) found.push(`${name}: imported by ${tops.sort().join(", ")}; a package belongs to one folder`)
  }
  return [...found, ...layersReached(graph)]
}

/** The root import must pull no layer, by whatever way. */
const layersReached = (graph: Graph): ReadonlyArray<string> => {
  const ways = new Map<string, string>([["index.ts", "index.ts"]])
  for (const [file, way] of ways) {
    for (const to of graph.get(file) ?? []) {
      const local = to.slice(2)
      if (to.startsWith("./") && !ways.has(local)) ways.set(local, `${way} → ${local}`)
    }
  }
  return [...ways].filter(([file]) => areaOf(file) === "layers").map(([, way]) => `${way}: the root reaches a layer`)
}

/** The graph of a folder of sources. */
export const readGraph = (src: string): Graph =>
  new Map(
    readdirSync(src, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && /\.[cm]?[jt]sx?$/.test(entry.name))
      .map((entry) => {
        const path = join(entry.parentPath, entry.name)
        const file = relative(src, path)
        return [file, importsOf(file, readFileSync(path, "utf8"))] as const
      })
  )

export const src = fileURLToPath(new URL("../src", import.meta.url))

if (import.meta.main) {
  const graph = readGraph(src)
  const found = graph.size === 0 ? ["there are no sources"] : violations(graph)
  for (const violation of found) console.error(violation)
  console.log(`${graph.size} files, ${found.length} forbidden imports`)
  process.exitCode = found.length === 0 ? 0 : 1
}
