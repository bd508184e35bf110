/** Waiting for what happens by itself in a machine, and looking at what runs there. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import * as Fs from "node:fs"
import * as Path from "node:path"

/** In real time. */
export const until = (what: string, holds: () => boolean) =>
  Effect.promise(async () => {
    for (let times = 0; times < 1_000 && !holds(); times++) await new Promise((resolve) => setTimeout(resolve, 10))
    assert.isTrue(holds(), what)
  })

/** The arguments of a process of this host, each followed by a NUL. */
export const commandOf = (pid: number): string => {
  try {
    return Fs.readFileSync(`/proc/${pid}/cmdline`, "latin1")
  } catch {
    return ""
  }
}

/** The deadline of the one recorded process of a machine. */
export const deadlineIn = (root: string) =>
  Effect.sync(() => {
    const directory = Path.join(root, "var/.effect-sandbox")
    const name = Fs.readdirSync(directory).find((one) => one.startsWith("r-")) ?? ""
    return Number(Fs.readFileSync(Path.join(directory, name, "deadline"), "utf8"))
  })
