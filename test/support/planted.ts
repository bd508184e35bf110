/** A secret is planted, and then looked for everywhere it must not be. */
import { assert } from "@effect/vitest"
import { Effect, Layer, Logger, References, Stream, Tracer } from "effect"
import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import { inspect } from "node:util"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"

/** Every command line of this machine. */
export const commandLines = Effect.promise(async () => {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name))
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "")))
  return lines.join("\n")
})

/** The files below a directory that hold the value. */
export const filesWith = (directory: string, planted: string) =>
  Effect.promise(async () => {
    const entries = await readdir(directory, { recursive: true, withFileTypes: true })
    const found: Array<string> = []
    for (const entry of entries) {
      if (!entry.isFile()) continue
      const bytes = await readFile(join(entry.parentPath, entry.name))
      if (bytes.includes(planted)) found.push(entry.name)
    }
    return found
  })

/** What is logged and traced while it is provided. */
export const listening = () => {
  const said: Array<string> = []
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  const logger = Logger.make((entry) => {
    said.push(inspect(entry, { depth: 12 }))
  })
  return {
    said,
    spans,
    /** All of it, as text. */
    heard: () =>
      [
        ...said,
        ...spans.map(({ attributes, name, status }) => inspect([name, attributes, status], { depth: 20 }))
      ].join("\n"),
    layer: Layer.mergeAll(
      Logger.layer([logger]),
      Layer.succeed(References.MinimumLogLevel, "Trace"),
      Layer.succeed(Tracer.Tracer, tracer)
    )
  }
}

/** All that the store and the logs of processes have, as text. */
export const recorded = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const store = yield* SandboxStore
  const processes = yield* Stream.runCollect(store.listProcesses())
  const events = yield* Effect.forEach(processes, ({ id }) => Stream.runCollect(sandboxes.readProcessStream(id)))
  // Output is bytes: as text, or a needle would not be found in it.
  const text = (_: string, value: unknown) => (value instanceof Uint8Array ? new TextDecoder().decode(value) : value)
  return JSON.stringify([yield* Stream.runCollect(store.listSandboxes()), processes, events], text)
})

/** An exit, or anything else, in every form in which somebody may print it. */
export const shown = (value: unknown): string => inspect(value, { depth: 20 }) + JSON.stringify(value) + String(value)

/** Fails when the value is in one of these texts. */
export const absent = (planted: string, texts: Readonly<Record<string, string>>) => {
  for (const [where, text] of Object.entries(texts)) assert.notInclude(text, planted, where)
}
