/** Checkpoints on this machine: exact copies, and a crash at every step. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Stream } from "effect"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { copyByHand, manifest } from "../../../src/layers/providers/local/tree.ts"
import type { Machine, SandboxProvider } from "../../../src/services/SandboxProvider.ts"
import * as P from "../../../src/testing/internal/providers.ts"
import { some } from "../../support/full.ts"
import { create, directoryOf, ended, localRoot, processesOf, provider, service } from "./support/local.ts"

const never = new AbortController().signal

/** Names (as bytes), types, modes, times, targets, hard links and hashes. */
const fingerprint = (root: string) =>
  Effect.promise(async () => {
    const lines: Array<string> = []
    for await (const entry of manifest(root, never)) lines.push(JSON.stringify(entry))
    return lines
  })

/** Everything that a copy can get wrong. */
const hard = `
  mkdir -p d/e locked; printf one > d/e/f; ln d/e/f d/hard; ln -s e/f d/link; ln -s /nowhere d/dangling; mkfifo d/fifo
  printf x > "$(printf 'not\\377utf8')"; printf x > 'line
break'; printf x > "$(printf 'separator\\342\\200\\250')"; : > -rf
  chmod 4751 d/e/f; chmod 700 locked; printf s > locked/secret; chmod 400 locked/secret
  truncate -s 4M hole; printf data | dd of=hole bs=1 seek=2000000 conv=notrunc 2>/dev/null
  printf t > "$TMPDIR/kept"; touch -d '2001-02-03 04:05:06.123456789' d/e/f locked d`

const blocks = (path: string) => Fs.statSync(path).blocks

const prepared = Effect.gen(function* () {
  const root = yield* localRoot
  const local = yield* provider(root)
  const made = yield* create(local)
  yield* P.text(made.machine, hard)
  return { root, local, ...made }
})

const save = (machine: Machine, id: string) =>
  Effect.flatMap(P.power(machine.createCheckpoint), (checkpoint) => checkpoint({ id }))

const ids = (local: SandboxProvider, sandboxId: ReturnType<typeof P.newSandboxId>) =>
  Effect.flatMap(P.power(local.checkpoints), ({ list }) =>
    Effect.map(Stream.runCollect(list(sandboxId, Option.none())), (all) => all.map(({ id }) => id))
  )

describe("local: checkpoints", () => {
  it.live("hard links, symlinks, FIFOs, modes, times, odd names and holes survive; sockets are left out", () =>
    Effect.gen(function* () {
      const { created, local, machine, root, sandboxId } = yield* prepared
      const before = yield* fingerprint(machine.workspaceRoot)
      const server = Net.createServer()
      const socket = Path.join(machine.workspaceRoot, "socket")
      yield* Effect.callback<void>((resume) => {
        server.listen(socket, () => resume(Effect.void))
      })
      yield* Effect.addFinalizer(() =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
        })
      )
      yield* save(machine, "one")
      const file: { skipped: ReadonlyArray<string> } = JSON.parse(
        Fs.readFileSync(Path.join(directoryOf(root, sandboxId), "checkpoints/one/checkpoint.json"), "utf8")
      )
      assert.deepStrictEqual(file.skipped, ["workspace/socket"])
      assert.isTrue(Fs.existsSync(socket))
      yield* P.text(machine, 'rm -rf -- * d; echo other > hole; rm "$TMPDIR/kept"')
      const checkpoints = yield* P.power(local.checkpoints)
      const restored = yield* checkpoints.restore("one", { ...created, version: 2 }, Option.some(machine.ref))
      assert.deepStrictEqual(yield* fingerprint(restored.workspaceRoot), before)
      assert.isBelow(blocks(Path.join(restored.workspaceRoot, "hole")) * 512, 1 << 20)
      assert.strictEqual(yield* P.text(restored, `cat "$TMPDIR/kept"`), "t")
    })
  )

  it.live("the copy without cp is as exact, but for times below the µs and holes", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* prepared
      yield* P.text(machine, "touch -d '2001-02-03 04:05:06.123456' d/e/f locked d")
      const target = Path.join(root, "copy")
      yield* Effect.promise(() => copyByHand(machine.workspaceRoot, target, never))
      const rounded = (lines: ReadonlyArray<string>) =>
        lines.map((line) =>
          line.replace(/"mtime":"(\d+)"/, (_, ns: string) => `"mtime":${Math.round(Number(ns) / 10_000)}`)
        )
      assert.deepStrictEqual(rounded(yield* fingerprint(target)), rounded(yield* fingerprint(machine.workspaceRoot)))
    })
  )

  it.live("processes stand still while it is made, and go on", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const states: Array<string> = []
      const stateOf = (pid: number) => Fs.readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.charAt(0) ?? ""
      const local = yield* provider(root, {}, (step) =>
        Effect.sync(() => {
          if (step === "create:frozen") states.push(...processesOf(root).map(({ pid }) => stateOf(pid)))
        })
      )
      const { machine } = yield* create(local)
      const seen = yield* P.observe(
        yield* P.startSh(machine, "echo up; trap 'echo on; exit 0' USR1; while :; do sleep 0.02; done")
      )
      yield* seen.until(() => seen.stdout() === "up\n")
      yield* save(machine, "one")
      if (Fs.existsSync("/proc/self/stat")) {
        assert.isNotEmpty(states)
        assert.deepStrictEqual([...new Set(states)], ["T"])
      }
      yield* seen.process.signal("SIGUSR1")
      assert.deepStrictEqual(yield* seen.process.exit, P.exited(0))
    })
  )

  it.live("a damaged checkpoint is noticed before anything of the machine is changed", () =>
    Effect.gen(function* () {
      const { created, local, machine, root, sandboxId } = yield* prepared
      yield* save(machine, "one")
      const before = yield* fingerprint(machine.workspaceRoot)
      Fs.appendFileSync(Path.join(directoryOf(root, sandboxId), "checkpoints/one/files/workspace/hole"), "x")
      const checkpoints = yield* P.power(local.checkpoints)
      const error = yield* Effect.flip(checkpoints.restore("one", { ...created, version: 2 }, Option.some(machine.ref)))
      assert.match(error.message, /damaged/)
      const again = yield* local.connect(machine.ref, { sandboxId, boot: true })
      assert.deepStrictEqual(yield* fingerprint(again.workspaceRoot), before)
    })
  )

  it.live("ids are names, not paths; the same id is made once", () =>
    Effect.gen(function* () {
      const { local, machine, sandboxId } = yield* prepared
      for (const id of ["../x", "", ".hidden", "a/b", "x.tmp"]) {
        assert.strictEqual(yield* P.reason(save(machine, id)), P.tag("InvalidArgument"))
      }
      const one = yield* save(machine, "one")
      assert.deepStrictEqual(yield* save(machine, "one"), one)
      assert.deepStrictEqual(yield* ids(local, sandboxId), ["one"])
    })
  )
})

const createSteps = some(["frozen", "copied", "renamed"], ["aside", "manifest", "synced"])

const restoreSteps = some(
  ["stopped", "out:workspace", "swapped"],
  ["built", "prepared", "in:workspace", "out:tmp", "in:tmp", "state", "done"]
)

describe("local: killed while", () => {
  it.live.each(createSteps)("creating a checkpoint, at %s", (step) =>
    Effect.gen(function* () {
      const { local, machine, root, sandboxId } = yield* prepared
      const before = yield* fingerprint(machine.workspaceRoot)
      const seen = yield* P.observe(yield* P.startSh(machine, "echo up; read -r x; echo $x", { stdin: true }))
      yield* seen.until(() => seen.stdout() === "up\n")
      const { signal } = yield* ended(yield* service(root, machine.ref, "checkpoint", "one", `create:${step}`))
      assert.strictEqual(signal, "SIGKILL")
      const again = yield* local.connect(machine.ref, { sandboxId, boot: false })
      // What was frozen goes on.
      yield* seen.process.write(new TextEncoder().encode("on\n"))
      yield* seen.until(() => seen.stdout() === "up\non\n")
      assert.deepStrictEqual(yield* fingerprint(again.workspaceRoot), before)
      assert.deepStrictEqual(yield* ids(local, sandboxId), step === "renamed" ? ["one"] : [])
      yield* save(again, "one")
      yield* save(again, "two")
      assert.deepStrictEqual(yield* ids(local, sandboxId), ["two", "one"])
      assert.deepStrictEqual(Fs.readdirSync(Path.join(directoryOf(root, sandboxId), "checkpoints")).sort(), [
        "one",
        "two"
      ])
      for (const id of ["one", "two"]) {
        const saved = Path.join(directoryOf(root, sandboxId), "checkpoints", id, "files/workspace")
        assert.deepStrictEqual(yield* fingerprint(saved), before)
      }
    })
  )

  it.live.each(restoreSteps)("restoring one, at %s", (step) =>
    Effect.gen(function* () {
      const { local, machine, root, sandboxId } = yield* prepared
      const saved = yield* fingerprint(machine.workspaceRoot)
      yield* save(machine, "one")
      yield* P.text(machine, "rm -rf d; echo changed > new")
      const changed = yield* fingerprint(machine.workspaceRoot)
      const { signal } = yield* ended(yield* service(root, machine.ref, "restore", "one", `restore:${step}`))
      assert.strictEqual(signal, "SIGKILL")
      // Somebody who looks in between does not take it for gone.
      assert.notStrictEqual(yield* P.reason(local.connect(machine.ref, { sandboxId, boot: false })), P.tag("Gone"))
      const again = yield* local.connect(machine.ref, { sandboxId, boot: true })
      assert.deepStrictEqual(
        yield* fingerprint(again.workspaceRoot),
        step === "stopped" || step === "built" ? changed : saved
      )
      assert.notStrictEqual(again.ref.incarnation, machine.ref.incarnation)
      assert.isFalse(Fs.existsSync(Path.join(directoryOf(root, sandboxId), "restore")))
      assert.deepStrictEqual((yield* P.run(again, "true")).exit, P.exited(0))
      assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("Superseded"))
      assert.deepStrictEqual(yield* ids(local, sandboxId), ["one"])
    })
  )
})
