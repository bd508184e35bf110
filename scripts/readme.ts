/**
 * The README's tables, made from the code. `node scripts/readme.ts` writes them; `--check` fails when they are out of date, which
 * is also a test.
 */
import { Effect, Redacted } from "effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Daytona from "../src/layers/providers/Daytona.ts"
import * as Fake from "../src/layers/providers/Fake.ts"
import * as Local from "../src/layers/providers/Local.ts"
import * as Sprites from "../src/layers/providers/Sprites.ts"
import * as Vercel from "../src/layers/providers/Vercel.ts"
import * as InstantDb from "../src/layers/stores/InstantDb.ts"
import * as Postgres from "../src/layers/stores/Postgres.ts"
import type { SandboxProvider } from "../src/services/SandboxProvider.ts"
import { methodReasons } from "../src/services/SandboxService.ts"
import * as SandboxSettings from "../src/services/SandboxSettings.ts"
import * as Faults from "../src/testing/Faults.ts"

const row = (cells: ReadonlyArray<string>): string => `| ${cells.join(" | ")} |`
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [row(head), `|${"---|".repeat(head.length)}`, ...rows.map(row)].join("\n")

/** Every setting of the core, the stores and the providers. */
export const allSettings = [
  ...SandboxSettings.all,
  ...InstantDb.settings,
  ...Postgres.settings,
  ...Vercel.settings,
  ...Daytona.settings,
  ...Sprites.settings
]

const settings = (): string =>
  table(
    ["setting", "default", "meaning"],
    allSettings.map((setting) => [`\`${setting.name}\``, setting.fallback, setting.description])
  )

/** What every method that reaches a machine can fail with; the others are told as what they have besides. */
const ofMachine = Object.values(methodReasons)
  .map((tags): ReadonlyArray<string> => tags)
  .filter((tags) => tags.includes("Superseded"))
  .reduce((common, tags) => common.filter((tag) => tags.includes(tag)))

const methods = (): string =>
  table(
    ["method", "reasons"],
    Object.entries(methodReasons).map(([method, tags]: readonly [string, ReadonlyArray<string>]) => {
      const reaches = ofMachine.every((tag) => tags.includes(tag))
      const own = tags.filter((tag) => !reaches || !ofMachine.includes(tag)).toSorted()
      return [`\`${method}\``, [...(reaches ? ["*machine*"] : []), ...own].join(" ")]
    })
  )

/** The reasons with what their docstrings say first. */
const reasons = async (): Promise<string> => {
  const source = await readFile(fileURLToPath(new URL("../src/errors.ts", import.meta.url)), "utf8")
  const classes = /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\nexport class (\w+) extends Schema\.TaggedError<\2>([\s\S]*?)\n}\n/g
  const tags: ReadonlySet<string> = new Set(Object.values(methodReasons).flat())
  const rows = [...source.matchAll(classes)].flatMap(([, comment = "", tag = "", body = ""]) => {
    if (!tags.has(tag)) return []
    const text = comment
      .replace(/^\s*\* ?/gm, " ")
      .replace(/\{@link (\w+)\}/g, "`$1`")
      .replace(/\s+/g, " ")
      .trim()
    const retryable = /isRetryable = (true|false)/.exec(body)?.[1]
    return [[`\`${tag}\``, retryable === undefined ? "at times" : retryable === "true" ? "yes" : "no", text]]
  })
  if (rows.length !== tags.size) throw new Error("a reason has no docstring in src/errors.ts")
  return `*machine*: ${ofMachine.toSorted().join(" ")}\n\n${methods()}\n\nWhat they mean:\n\n${table(["reason", "retryable", "meaning"], rows)}`
}

const yes = (value: boolean): string => (value ? "yes" : "no")

/** What is not as on Node. */
const filesOf = ({ files }: SandboxProvider["capabilities"]): string => {
  const names = {
    openSurvivesRename: "open files",
    atomicExclusiveCreate: "exclusive creation",
    watchEvents: "watching",
    inodes: "inodes",
    subSecondTimes: "times"
  } as const satisfies Record<keyof typeof files, string>
  const differ = Object.entries(names).flatMap(([flag, name]) =>
    Object.entries(files).some(([key, value]) => key === flag && !value) ? [name] : []
  )
  return differ.length === 0 ? "yes" : `but for ${differ.join(", ")}`
}

const column = ({ capabilities }: SandboxProvider): ReadonlyArray<string> => [
  yes(capabilities.processes.recorded),
  yes(capabilities.processes.stdin),
  yes(capabilities.processes.additionalFds),
  filesOf(capabilities),
  yes(capabilities.processes.signalsObservable),
  capabilities.ports === 0 ? "no" : Number.isFinite(capabilities.ports) ? `up to ${capabilities.ports}` : "any",
  capabilities.checkpoints === false
    ? "no"
    : capabilities.checkpoints.stopsProcesses
      ? "yes, ends the processes"
      : "yes, processes go on",
  yes(capabilities.extendTimeout),
  yes(capabilities.persistent)
]

const providers = async (): Promise<string> => {
  const root = await mkdtemp(join(tmpdir(), "effect-sandbox-readme-"))
  try {
    const local = await Effect.runPromise(Effect.scoped(Local.make({ root, isolation: "none" })))
    const names = [
      "recorded processes survive the service",
      "live stdin",
      "file descriptors above 2",
      "files exactly as Node's",
      "a death by signal is told apart",
      "ports",
      "checkpoints",
      "`extendTimeout`",
      "disk outlives a stop"
    ]
    const vercel = await Effect.runPromise(
      Effect.scoped(Vercel.make({ token: Redacted.make(""), teamId: "", projectId: "" }))
    )
    const daytona = await Effect.runPromise(Effect.scoped(Daytona.make({ apiKey: Redacted.make(""), apiUrl: "" })))
    const sprites = await Effect.runPromise(
      Effect.provide(Sprites.make({ token: Redacted.make("") }), FetchHttpClient.layer)
    )
    const all = [local, vercel, daytona, sprites, await Effect.runPromise(Fake.make())]
    return table(
      ["what it can do", ...all.map((provider) => `\`${provider.name}\``)],
      names.map((name, index) => [name, ...all.map((provider) => column(provider)[index] ?? "")])
    )
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}

const stores = (): string =>
  table(
    ["store", "survives the process", "shared by several processes"],
    [
      ["`Memory.layer`", "no", "no"],
      ["`Sql.layerSqlite`", "yes", "yes, one file on one machine"],
      ["`Postgres.layer`", "yes", "yes, from anywhere"],
      ["`InstantDb.layer`", "yes", "yes, from anywhere"]
    ]
  )

const operations = (): string =>
  table(
    ["calls of", "operations"],
    (
      [
        ["a provider", Faults.providerOperations],
        ["a machine", Faults.machineOperations],
        ["a process", Faults.processOperations],
        ["a store", Faults.storeOperations],
        ["a log", Faults.logOperations]
      ] as const
    ).map(([owner, names]) => [owner, names.map((name) => `\`${name}\``).join(" ")])
  )

const fill = (text: string, name: string, content: string): string => {
  const begin = `<!-- begin:${name} -->`
  const end = `<!-- end:${name} -->`
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  if (from < 0 || to < from) throw new Error(`README.md has no section ${name}`)
  return `${text.slice(0, from + begin.length)}\n${content}\n${text.slice(to)}`
}

export const path = fileURLToPath(new URL("../README.md", import.meta.url))

/** The README as it should be. */
export const render = async (text: string): Promise<string> =>
  fill(
    fill(fill(fill(text, "settings", settings()), "reasons", await reasons()), "operations", operations()),
    "providers",
    `${await providers()}\n\n${stores()}`
  )

if (import.meta.main) {
  const current = await readFile(path, "utf8")
  const wanted = await render(current)
  if (process.argv.includes("--check")) {
    if (current !== wanted) throw new Error("README.md is out of date: run node scripts/readme.ts")
  } else if (current !== wanted) await writeFile(path, wanted)
}
