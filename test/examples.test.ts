/** The examples do what they say, and the demo's proofs can fail. */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { hashTree, LogProof, numberedLines, table } from "../examples/demo/proofs.ts"

const run = promisify(execFile)
const example = (name: string) => fileURLToPath(new URL(`../examples/${name}`, import.meta.url))
const bytes = (text: string) => new TextEncoder().encode(text)

describe("examples", () => {
  it("the demo proves its claims", async () => {
    // Its own limit is for a machine that does nothing else.
    const { stdout } = await run(process.execPath, [example("demo.ts"), "--seconds", "120"])
    assert.notInclude(stdout, "FAIL")
    assert.isAtLeast(stdout.split("\n").filter((line) => line.startsWith("ok  ")).length, 18)
  }, 150_000)

  const uuid = "[0-9a-f-]{36}"
  const orphan = `OrphanMachine \\(delete\\)  local  sandbox ${uuid}: there is no record of it`
  const says: ReadonlyArray<readonly [name: string, output: string]> = [
    ["quickstart.ts", "ada\ngrace\nthere is no such program\n"],
    ["previewServer.ts", "<h1>Hello</h1>\n<h1>Hello, preview</h1>\nthe server ended with Signalled\n"],
    [
      "nightlyReconcile.ts",
      `1 steps, none of them taken, 0 failures\nplanned  ${orphan}\n1 steps, 0 failures\ndone  ${orphan}\n0 steps, 0 failures\nin use\n`
    ],
    [
      "processEvents.ts",
      `step 1\nstep 2\nstep 3\n-- the connection breaks\n-- nobody reads, and the process is running
step 4\nstep 5\nstep 6\n-- all of it\n-- once more: 204, another process: 404\n`
    ]
  ]
  it.each(says)("%s runs", async (name, output) => {
    const directory = await mkdtemp(join(tmpdir(), "effect-sandbox-example-"))
    try {
      const { stdout } = await run(process.execPath, [example(name), directory])
      assert.match(stdout, new RegExp(`^${output}$`))
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  })
})

describe("the demo's proofs", () => {
  it("tell trees apart by content, path and number of files", () => {
    const tree = [
      { path: "a", content: bytes("x") },
      { path: "b", content: bytes("y") }
    ]
    assert.strictEqual(hashTree(tree), hashTree(tree.toReversed()))
    for (const other of [
      tree.slice(1),
      [
        { path: "a", content: bytes("z") },
        { path: "b", content: bytes("y") }
      ],
      [
        { path: "c", content: bytes("x") },
        { path: "b", content: bytes("y") }
      ]
    ])
      assert.notStrictEqual(hashTree(tree), hashTree(other))
  })

  it("see a missing byte, a double byte and a gap in the log", () => {
    const verdict = (events: ReadonlyArray<{ seq: number; offset: number; bytes: Uint8Array }>) => {
      const proof = new LogProof()
      for (const event of events) proof.add(event)
      return proof.verdict(numberedLines(2))
    }
    const one = { seq: 1, offset: 0, bytes: bytes("line 0\n") }
    const two = { seq: 2, offset: 7, bytes: bytes("line 1\n") }
    assert.isUndefined(verdict([one, two]))
    assert.isDefined(verdict([one]))
    assert.isDefined(verdict([one, one, two]))
    assert.isDefined(verdict([one, { ...two, seq: 3 }]))
    assert.isDefined(verdict([one, { ...two, offset: 6 }]))
    assert.isDefined(verdict([one, { ...two, bytes: bytes("line 2\n") }]))
  })

  it("show a failure in the table", () => {
    assert.include(
      table([
        { name: "a", figure: "1", ok: true },
        { name: "b", figure: "2", ok: false }
      ]),
      "FAIL  b"
    )
  })
})
