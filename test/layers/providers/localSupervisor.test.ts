/** The supervisor: what it keeps while no service runs, and what is left when it dies itself. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Option, Stream } from "effect"
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { wallClock } from "../../../src/layers/providers/local/os.ts"
import { supervisorPaths } from "../../../src/layers/providers/local/wire.ts"
import type { Machine } from "../../../src/services/SandboxProvider.ts"
import * as P from "../../../src/testing/internal/providers.ts"
import {
  create,
  directoryOf,
  eventually,
  fresh,
  localRoot,
  processesOf,
  provider,
  ready,
  service,
  supervisorPid
} from "./support/local.ts"

const kill = (pid: number | undefined) => Effect.sync(() => process.kill(pid ?? NaN, "SIGKILL"))

const resumed = Effect.fnUntraced(function* (machine: Machine, processId: ReturnType<typeof P.newProcessId>) {
  const external = yield* P.power(yield* machine.findProcess(processId))
  return yield* machine.resume(external, { stdout: 0, stderr: 0 })
})

/** Ends a recorded process that runs for ever. */
const finish = Effect.fnUntraced(function* (machine: Machine, processId: ReturnType<typeof P.newProcessId>) {
  const process = yield* resumed(machine, processId)
  yield* process.signal("SIGKILL")
  return yield* process.exit
})

describe("local: supervisor", () => {
  it.live("a recorded process outlives a service that was killed", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* fresh
      const processId = P.newProcessId()
      yield* Effect.scoped(Effect.flatMap(service(root, machine.ref, "recorded", processId), ready))
      assert.lengthOf(
        processesOf(root)
          .filter(({ cookie }) => cookie.processId === processId)
          .slice(0, 1),
        1
      )
      const seen = yield* P.observe(yield* resumed(machine, processId))
      yield* seen.until(() => seen.stdout() === "ready\n")
      assert.strictEqual((yield* finish(machine, processId)).code, 137)
    })
  )

  it.live("a lease ends on time with no service there; what is not persistent is gone then", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const config = { timeout: Duration.seconds(5) }
      const [kept, lost] = yield* Effect.scoped(
        Effect.gen(function* () {
          const local = yield* provider(root)
          const one = yield* create(local, { ...config, persistent: true })
          yield* Effect.scoped(
            P.startSh(one.machine, "trap '' TERM; while :; do sleep 0.02; done", { lifetime: "recorded" })
          )
          return [one, yield* create(local, { ...config, persistent: false })] as const
        })
      )
      assert.isNotEmpty(processesOf(root))
      yield* eventually("the processes were ended", () => processesOf(root).length === 0)
      const ended = ({ sandboxId }: typeof kept) =>
        JSON.parse(Fs.readFileSync(Path.join(directoryOf(root, sandboxId), "sandbox.json"), "utf8")).ended
      for (const one of [kept, lost])
        yield* eventually("its end is written down", () => ended(one)?.reason === "timeout")
      const local = yield* provider(root)
      const connect = ({ machine, sandboxId }: typeof kept, boot: boolean) =>
        local.connect(machine.ref, { sandboxId, boot })
      assert.strictEqual(yield* P.reason(connect(kept, false)), P.tag("NotRunning"))
      assert.strictEqual(yield* P.reason(connect(lost, true)), P.tag("Gone"))
      const booted = yield* connect(kept, true)
      assert.deepStrictEqual((yield* P.run(booted, "true")).exit, P.exited(0))
      yield* booted.stop("stop")
    })
  )

  it.live("a lease that is extended ends later", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const local = yield* provider(root)
      const { machine, sandboxId } = yield* create(local, { timeout: Duration.seconds(5) })
      yield* (yield* P.power(machine.extendTimeout))(Duration.seconds(60))
      // Another that began after it, and is not extended.
      const other = yield* create(local, { timeout: Duration.seconds(5) })
      yield* eventually("that one ended", () => !Fs.existsSync(Path.join(directoryOf(root, other.sandboxId), "run")))
      assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
      yield* (yield* P.power(machine.extendTimeout))(Duration.millis(100))
      yield* eventually("it ended", () => !Fs.existsSync(Path.join(directoryOf(root, sandboxId), "run")))
      assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("NotRunning"))
    })
  )

  it.live("when the supervisor dies, its processes are ended and lost: the output stays, the outcome is unknown", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* fresh
      const processId = P.newProcessId()
      const script = "printf before; trap '' TERM; while :; do sleep 0.02; done"
      const seen = yield* P.observe(yield* P.startSh(machine, script, { processId, lifetime: "recorded" }))
      yield* seen.until(() => seen.stdout() === "before")
      const first = supervisorPid(root)
      yield* kill(first)
      const error = yield* Effect.flip(seen.process.exit)
      assert.strictEqual(P.reasonOf(error), P.tag("OutcomeUnknown"))
      if (error._tag === "SandboxError" && error.reason._tag === "OutcomeUnknown") {
        assert.deepStrictEqual(error.reason.position, { stdout: 6, stderr: 0 })
        assert.isAbove(error.reason.startedAt ?? 0, 0)
      }
      assert.deepStrictEqual(processesOf(root), [])
      assert.notStrictEqual(supervisorPid(root), first)
      // And later again, from the files alone.
      const again = yield* resumed(machine, processId)
      const chunks = yield* Stream.runCollect(again.output)
      assert.strictEqual(Buffer.concat(chunks.map((chunk) => chunk.bytes)).toString(), "before")
      assert.strictEqual(yield* P.reason(again.exit), P.tag("OutcomeUnknown"))
      assert.strictEqual(yield* P.reason(again.signal("SIGTERM")), P.tag("ProcessEnded"))
      // The next one works as if nothing had been.
      assert.deepStrictEqual((yield* P.sh(machine, "exit 3", { lifetime: "recorded" })).exit, P.exited(3))
    })
  )

  it.live("service and supervisor dead, deadline and lease past: the next connect settles all of it", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const local = yield* provider(root)
      const { machine, sandboxId } = yield* create(local)
      const processId = P.newProcessId()
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* ready(yield* service(root, machine.ref, "recorded", processId))
          yield* ready(yield* service(root, machine.ref, "scoped"))
          yield* (yield* P.power(machine.extendTimeout))(Duration.seconds(2))
          yield* kill(supervisorPid(root))
        })
      )
      assert.isAtLeast(processesOf(root).length, 3)
      yield* eventually("the lease is past", () => {
        const state: unknown = JSON.parse(
          Fs.readFileSync(Path.join(directoryOf(root, sandboxId), "sandbox.json"), "utf8")
        )
        return (
          typeof state === "object" && state !== null && "deadline" in state && Number(state.deadline) < wallClock()
        )
      })
      const next = yield* provider(root)
      assert.strictEqual(yield* P.reason(next.connect(machine.ref, { sandboxId, boot: false })), P.tag("NotRunning"))
      assert.deepStrictEqual(processesOf(root), [])
      const booted = yield* next.connect(machine.ref, { sandboxId, boot: true })
      const process = yield* resumed(booted, processId)
      assert.strictEqual(yield* P.reason(process.exit), P.tag("OutcomeUnknown"))
      yield* booted.stop("stop")
    })
  )

  it.live("many services that start one at once get one", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const locals = yield* Effect.all(Array.from({ length: 4 }, () => provider(root)))
      const machines = yield* Effect.forEach(locals, (local) => Effect.map(create(local), (made) => made.machine))
      const parents = yield* Effect.forEach(
        machines,
        (machine) => P.sh(machine, "echo $PPID", { lifetime: "recorded" }),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(new Set(parents.map((result) => result.stdout.toString())), 1)
      assert.strictEqual(Number(parents[0]?.stdout.toString()), supervisorPid(root))
    })
  )

  it.live("it ends when there is nothing to do, and leaves only its log and lock", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { machine } = yield* create(yield* provider(root))
          yield* P.sh(machine, "true", { lifetime: "recorded" })
          assert.isDefined(supervisorPid(root))
        })
      )
      yield* eventually("it rests", () => supervisorPid(root) === undefined)
      const left = () =>
        [...Fs.readdirSync(supervisorPaths(root).directory), ...Fs.readdirSync(Path.join(root, "pipes"))].sort()
      yield* Effect.exit(eventually("nothing is left", () => left().join() === "lock.sqlite,log"))
      assert.deepStrictEqual(left(), ["lock.sqlite", "log"])
      assert.strictEqual(Fs.readFileSync(supervisorPaths(root).log, "utf8"), "")
    })
  )

  it.live("it works below a path that is too long for a socket", () =>
    Effect.gen(function* () {
      const root = Path.join(yield* localRoot, "x".repeat(120))
      const local = yield* provider(root)
      const { machine } = yield* create(local)
      assert.deepStrictEqual((yield* P.sh(machine, "exit 2", { lifetime: "recorded" })).exit, P.exited(2))
      yield* Effect.addFinalizer(() => eventually("it rests", () => supervisorPid(root) === undefined))
    }).pipe(Effect.scoped)
  )

  it.live("a connection that talks nonsense is refused where it can be told, dropped otherwise, and harms nobody", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* fresh
      const seen = yield* P.observe(
        yield* P.startSh(machine, "echo up; read -r x; echo $x", { lifetime: "recorded", stdin: true })
      )
      yield* seen.until(() => seen.stdout() === "up\n")
      const info: { socket: string } = JSON.parse(Fs.readFileSync(supervisorPaths(root).info, "utf8"))
      const id = P.newSandboxId()
      const bad = [
        "nonsense\n",
        `{"id":1}\n`,
        `{"id":1,"op":"watch","sandboxId":"../..","processId":"x"}\n`,
        `{"id":1,"op":"start","sandboxId":"${id}","processId":"${id}","command":"a\\u0000"}\n`,
        "x".repeat(9 << 20)
      ]
      for (const line of bad) {
        const answer = yield* Effect.callback<string>((resume) => {
          const socket = Net.connect(info.socket, () => socket.write(line))
          let text = ""
          socket.on("error", () => {})
          socket.on("data", (bytes) => {
            text += bytes.toString()
            if (text.endsWith("\n")) socket.destroy()
          })
          socket.on("close", () => resume(Effect.succeed(text)))
        })
        if (line.startsWith("{")) assert.include(answer, `{"id":1,"failure":{"type":"bad request"`)
        else assert.strictEqual(answer, "")
      }
      yield* seen.process.write(new TextEncoder().encode("still here\n"))
      yield* seen.until(() => seen.stdout() === "up\nstill here\n")
    })
  )

  it.live("secrets go over the socket and nowhere else", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* fresh
      const result = yield* P.sh(machine, 'printf %s "$TOKEN" | wc -c', {
        lifetime: "recorded",
        env: { TOKEN: "pl4nted" }
      })
      assert.strictEqual(result.stdout.toString().trim(), "7")
      const found = ChildProcess.spawnSync("grep", ["-rl", "pl4nted", root]).stdout.toString()
      assert.strictEqual(found, "")
      const commandLine = Fs.existsSync("/proc") ? Fs.readFileSync(`/proc/${supervisorPid(root)}/cmdline`, "utf8") : ""
      assert.notInclude(commandLine, "pl4nted")
    })
  )
})

describe("local: spools", () => {
  it.live("at the quota the command waits, until what it wrote was stored elsewhere", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      // Spools are freed file by file, 64 MiB each.
      const quota = 65 << 20
      const { machine, sandboxId } = yield* create(yield* provider(root, { spoolQuota: quota }))
      const processId = P.newProcessId()
      const size = 200 << 20
      const process = yield* P.startSh(machine, `head -c ${size} /dev/zero; : > done`, {
        processId,
        lifetime: "recorded"
      })
      const directory = Path.join(directoryOf(root, sandboxId), "processes", processId)
      const bytes = () =>
        Fs.readdirSync(directory)
          .filter((name) => name.startsWith("out."))
          .reduce((sum, name) => sum + Fs.statSync(Path.join(directory, name)).size, 0)
      yield* eventually("it stands at the quota", () => bytes() >= quota)
      // While it could write all of it once more.
      assert.strictEqual(
        (yield* P.sh(machine, `head -c ${size} /dev/zero | wc -c`)).stdout.toString().trim(),
        String(size)
      )
      // One read more at most.
      assert.isBelow(bytes(), quota + (2 << 20))
      assert.isFalse(Fs.existsSync(Path.join(machine.workspaceRoot, "done")))
      const release = yield* P.power(Option.fromUndefinedOr(process.release))
      let read = 0
      const hash = Crypto.createHash("sha256")
      yield* Stream.runForEach(process.output, (chunk) => {
        hash.update(chunk.bytes)
        read += chunk.bytes.length
        assert.isBelow(bytes(), quota + (2 << 20))
        return release({ stdout: read, stderr: 0 })
      })
      assert.deepStrictEqual(yield* process.exit, P.exited(0))
      assert.strictEqual(hash.digest("hex"), P.sha256(new Uint8Array(size)))
      // All of it is stored: the spool goes, the exit stays.
      yield* release({ stdout: read, stderr: 0 })
      assert.deepStrictEqual(Fs.readdirSync(directory).sort(), ["exit.json", "process.json"])
      const again = yield* machine.resume(process.external, { stdout: read, stderr: 0 })
      assert.deepStrictEqual(yield* Stream.runCollect(again.output), [])
      assert.deepStrictEqual(yield* again.exit, P.exited(0))
    })
  )

  it.live("a stop ends recorded processes, and says why", () =>
    Effect.gen(function* () {
      const { machine } = yield* fresh
      const seen = yield* P.observe(
        yield* P.startSh(machine, "trap '' TERM; echo up; while :; do sleep 0.02; done", { lifetime: "recorded" })
      )
      yield* seen.until(() => seen.stdout() === "up\n")
      yield* machine.stop("stop")
      assert.deepInclude(yield* seen.process.exit, { code: 137, reason: "stop" })
    })
  )
})
