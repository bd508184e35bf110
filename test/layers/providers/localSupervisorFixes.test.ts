/** The supervisor and its clients under what goes wrong around them: full disks, stray files, frozen processes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as P from "../../../src/testing/internal/providers.ts"
import { create, localRoot, provider } from "./support/local.ts"

const fresh = Effect.gen(function* () {
  const root = yield* localRoot
  const local = yield* provider(root)
  return { root, local, ...(yield* create(local)) }
})

describe("local: supervisor, hardened", () => {
  it.live("who follows a process goes on following it when another one stops", () =>
    Effect.gen(function* () {
      const { machine } = yield* fresh
      const processId = P.newProcessId()
      const script = "while read line; do echo $line; done; exit 3"
      const first = yield* P.startSh(machine, script, { processId, lifetime: "recorded", stdin: true })
      const seen = yield* P.observe(first)
      yield* first.write(Buffer.from("one\n"))
      yield* seen.until(() => seen.stdout() === "one\n")
      const external = yield* P.power(yield* machine.findProcess(processId))
      // Two more come and go, on the same connection.
      for (const text of ["two\n", "three\n"]) {
        yield* Effect.scoped(
          Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), (process) =>
            process.write(Buffer.from(text))
          )
        )
      }
      yield* seen.until(() => seen.stdout() === "one\ntwo\nthree\n")
      yield* Effect.scoped(
        Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), (process) => process.closeInput)
      )
      assert.deepStrictEqual(yield* first.exit, P.exited(3))
    }).pipe(Effect.timeout("15 seconds"))
  )
})
