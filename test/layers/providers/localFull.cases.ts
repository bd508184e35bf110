/** The local provider on a full disk: a small file system of its own, where this user may mount one. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Option } from "effect"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as P from "../../../src/testing/internal/providers.ts"
import { create, directoryOf, eventually, localRoot, processesOf, provider } from "./support/local.ts"

const mount = (path: string): void =>
  void ChildProcess.execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m", "none", path], { stdio: "ignore" })
const unmount = (path: string): void => void ChildProcess.execFileSync("umount", ["-l", path])

const mountable = ((): boolean => {
  const path = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-mount-"))
  try {
    mount(path)
    unmount(path)
    return true
  } catch {
    return false
  } finally {
    Fs.rmdirSync(path)
  }
})()

/** A data directory on a disk of 4 MiB. */
const small = Effect.gen(function* () {
  const root = Path.join(yield* localRoot, "small")
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      Fs.mkdirSync(root)
      mount(root)
    }),
    () => Effect.sync(() => unmount(root))
  )
  return root
})

const fill = "{ cat /dev/zero > filler; dd if=/dev/zero of=rest bs=1 count=65536; } 2>/dev/null; true"

describe.skipIf(!mountable)("local: on a full disk", () => {
  it.live("a stop ends the processes, and a delete gives the room back", () =>
    Effect.gen(function* () {
      const root = yield* small
      const local = yield* provider(root)
      const { machine, sandboxId } = yield* create(local)
      yield* P.startSh(machine, "sleep 1000", { lifetime: "recorded" })
      yield* P.text(machine, fill)
      // What it has come to cannot be written down.
      assert.strictEqual(yield* P.reason(machine.stop("stop")), P.tag("Quota"))
      assert.deepStrictEqual(processesOf(root), [])
      yield* machine.stop("delete")
      assert.isFalse(Fs.existsSync(directoryOf(root, sandboxId)))
    }).pipe(Effect.timeout("15 seconds"))
  )

  it.live("the exit of a process is written down as soon as it can be, and known until then", () =>
    Effect.gen(function* () {
      const root = yield* small
      const local = yield* provider(root)
      const { machine } = yield* create(local)
      const processId = P.newProcessId()
      const started = yield* P.startSh(machine, "read line; exit 3", { processId, lifetime: "recorded", stdin: true })
      yield* P.text(machine, fill)
      yield* started.closeInput
      assert.deepStrictEqual(yield* started.exit, P.exited(3))
      const again = Effect.gen(function* () {
        const external = yield* P.power(yield* machine.findProcess(processId))
        return yield* Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), ({ exit }) => exit)
      }).pipe(Effect.scoped)
      assert.deepStrictEqual(yield* again, P.exited(3))
      Fs.rmSync(Path.join(machine.workspaceRoot, "filler"))
      const file = Path.join(root, "sandboxes", machine.ref.externalId.slice(6), "processes", processId, "exit.json")
      yield* eventually("it is on the disk", () => Fs.existsSync(file))
      assert.deepStrictEqual(yield* again, P.exited(3))
      yield* machine.stop("delete")
    }).pipe(Effect.timeout("15 seconds"))
  )

  it.live("a restore that has no room leaves none of its copy, and the machine as it was", () =>
    Effect.gen(function* () {
      const root = yield* small
      const local = yield* provider(root)
      const { created, machine, sandboxId } = yield* create(local)
      yield* P.text(machine, "head -c 1500000 /dev/urandom > data")
      yield* Effect.flatMap(P.power(machine.createCheckpoint), (checkpoint) => checkpoint({ id: "one" }))
      yield* P.text(machine, "echo now > now")
      const checkpoints = yield* P.power(local.checkpoints)
      const restore = checkpoints.restore("one", { ...created, version: 2 }, Option.some(machine.ref))
      assert.strictEqual(yield* P.reason(restore), P.tag("Quota"))
      assert.isFalse(Fs.existsSync(Path.join(directoryOf(root, sandboxId), "restore")))
      const again = yield* local.connect(machine.ref, { sandboxId, boot: true })
      assert.strictEqual(yield* P.text(again, "cat now"), "now\n")
      yield* again.stop("delete")
    }).pipe(Effect.timeout("15 seconds"))
  )

  it.live("a lease ends", () =>
    Effect.gen(function* () {
      const root = yield* small
      const local = yield* provider(root)
      const { machine, sandboxId } = yield* create(local, { timeout: Duration.seconds(5) })
      yield* P.startSh(machine, "sleep 1000", { lifetime: "recorded" })
      yield* P.text(machine, fill)
      yield* eventually("its processes are ended", () => processesOf(root).length === 0)
      const locks = () => Fs.readdirSync(directoryOf(root, sandboxId)).filter((name) => name.startsWith("lock"))
      yield* eventually("no lock is left", () => locks().length === 0)
      yield* machine.stop("delete")
    }).pipe(Effect.timeout("15 seconds"))
  )
})
