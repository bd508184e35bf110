import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Redacted, Scope, Stream } from "effect"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { install } from "../../../src/layers/internal/launcher/launcher.ts"
import type { MachineProcess, StartCommand } from "../../../src/services/SandboxProvider.ts"
import { newProcessId } from "../../../src/testing/internal/stores.ts"
import { full } from "../../support/full.ts"
import type { Guest, Loopback } from "../../support/loopback.ts"
import { allProcesses, commandLineOf, eventually, guests, isInstalled, loopback } from "../../support/loopback.ts"

const collect = Effect.fnUntraced(function* (process: MachineProcess, from = { stdout: 0, stderr: 0 }) {
  const parts: Record<"stdout" | "stderr", Array<Uint8Array>> = { stdout: [], stderr: [] }
  const next = { ...from }
  yield* Stream.runForEach(process.output, (chunk) =>
    Effect.sync(() => {
      assert.strictEqual(chunk.offset, next[chunk.stream])
      next[chunk.stream] += chunk.bytes.length
      parts[chunk.stream].push(chunk.bytes)
    })
  )
  const exit = yield* process.exit
  return { stdout: Buffer.concat(parts.stdout), stderr: Buffer.concat(parts.stderr), exit }
})

const start = (guest: Loopback, command: string, args: StartCommand["args"], fields: Partial<StartCommand> = {}) =>
  guest.launcher.start({ processId: newProcessId(), lifetime: "scoped", stdin: false, ...fields, command, args })

const run = (guest: Loopback, command: string, args: StartCommand["args"] = [], fields: Partial<StartCommand> = {}) =>
  Effect.scoped(Effect.flatMap(start(guest, command, args, fields), (process) => collect(process)))

const startSh = (
  guest: Loopback,
  script: string,
  fields: Partial<StartCommand> = {},
  args: StartCommand["args"] = []
) => start(guest, "sh", ["-c", script, "sh", ...args], fields)

const sh = (guest: Loopback, script: string, fields: Partial<StartCommand> = {}, args: StartCommand["args"] = []) =>
  run(guest, "sh", ["-c", script, "sh", ...args], fields)

const exited = (code: number) => ({ _tag: "Exited", code })

const sha = (bytes: Uint8Array) => Crypto.createHash("sha256").update(bytes).digest("hex")

const reasonOf = (error: { readonly reason: { readonly _tag: string } }): string => error.reason._tag

const text = (guest: Loopback, name: string) => Fs.readFileSync(Path.join(guest.work, name), "utf8")

/** A line that the command writes when it has come so far. */
const written = (guest: Loopback, name: string) =>
  Effect.andThen(
    eventually(
      `${name} is written`,
      () => Fs.existsSync(Path.join(guest.work, name)) && text(guest, name).endsWith("\n")
    ),
    Effect.sync(() => text(guest, name).trim())
  )

const isAlive = (pid: string): boolean => commandLineOf(pid) !== ""

const suite = (guest: Guest) => {
  const missing = !isInstalled(guest)
  describe.skipIf(missing)(`launcher on ${guest.name}${missing ? " (not installed here)" : ""}`, () => {
    const test = <A, E>(
      name: string,
      body: (guest: Loopback) => Effect.Effect<A, E, Scope.Scope>,
      given: Parameters<typeof loopback>[1] = {}
    ) => it.live(name, () => Effect.scoped(Effect.flatMap(loopback(guest, given), body)), 60_000)
    /** Of what the tools and the shell have less of a say in, short runs have one guest. */
    const once = full || guest.name.startsWith("dash") ? test : () => {}

    test("runs a command in one request and leaves nothing but its directory, which goes with the next", (guest) =>
      Effect.gen(function* () {
        const first = yield* sh(guest, "printf 'a\\000\\377'; printf b >&2; exit 3")
        assert.deepStrictEqual([...first.stdout], [0x61, 0, 0xff])
        assert.strictEqual(first.stderr.toString(), "b")
        assert.deepStrictEqual(first.exit, exited(3))
        assert.deepStrictEqual((yield* run(guest, "true")).exit, exited(0))
        assert.deepStrictEqual(guest.counts, { exec: 0, stream: 2, upload: 0 })
        assert.strictEqual(guest.left().length, 1)
        yield* eventually("everything has ended", () => guest.remaining().length === 0)
        yield* guest.launcher.cleanUp
        assert.deepStrictEqual(guest.left(), [])
      }))

    test("arguments and variables arrive as they are", (guest) =>
      Effect.gen(function* () {
        const args = ["", " a  b ", "*", "$x `y` \\", 'it\'s "q"', "l1\nl2\n", "-n", "--", "\u{1F600}é", "\x01\x7f"]
        const show = `printf '[%s]' "$@"`
        const expected = args.map((argument) => `[${argument}]`).join("")
        assert.strictEqual((yield* sh(guest, show, {}, args)).stdout.toString(), expected)
        const secret = [...args.slice(1), Redacted.make("hush\n'x'")]
        const all = `${args
          .slice(1)
          .map((argument) => `[${argument}]`)
          .join("")}[hush\n'x']`
        assert.strictEqual((yield* sh(guest, show, {}, secret)).stdout.toString(), all)
        const large = "x".repeat(100_000)
        assert.strictEqual((yield* sh(guest, show, {}, [large, "'"])).stdout.toString(), `[${large}][']`)
        // No shell is between: some drop the variables that it could not name.
        const env = { "od.d-name": "1\n2", "A B": "", PLAIN: "p" }
        const odd = (yield* run(guest, "env", [], { env, extendEnv: false })).stdout.toString()
        assert.deepStrictEqual(odd.trimEnd().split("\n").sort(), ["2", "A B=", "PLAIN=p", "od.d-name=1"])
        const mixed = { ...env, SECRET: Redacted.make("s'\n\\") }
        const both = (yield* run(guest, "env", [], { env: mixed, extendEnv: false })).stdout.toString()
        assert.deepStrictEqual(
          both
            .trimEnd()
            .split("\n")
            .filter((line) => !line.startsWith("_="))
            .sort(),
          ["2", "A B=", "PLAIN=p", "SECRET=s'", "\\", "od.d-name=1"].sort()
        )
        const none = yield* sh(guest, `printf %s "\${HOME-unset}|$A"`, { env: { HOME: undefined, A: "a" } })
        assert.strictEqual(none.stdout.toString(), "unset|a")
        assert.deepStrictEqual(
          guest.left().filter((name) => /secret|params/.test(name)),
          []
        )
      }))

    test("says why a command was not started, as Node's layer does", (guest) =>
      Effect.gen(function* () {
        const fails = Effect.fnUntraced(function* (command: string, fields: Partial<StartCommand> = {}) {
          const error = yield* Effect.flip(run(guest, command, [], fields))
          assert.strictEqual(error._tag, "PlatformError")
          return `${reasonOf(error)} ${"module" in error.reason ? error.reason.module : ""}`
        })
        Fs.writeFileSync(Path.join(guest.work, "file"), "#!/bin/sh\n", { mode: 0o644 })
        Fs.mkdirSync(Path.join(guest.work, "own"))
        Fs.writeFileSync(Path.join(guest.work, "own/hello"), "#!/bin/sh\necho hello\n", { mode: 0o755 })
        assert.strictEqual(yield* fails("no-such-program"), "NotFound ChildProcess")
        assert.strictEqual(yield* fails("/no/such/program"), "NotFound ChildProcess")
        assert.strictEqual(yield* fails("./file/x"), "BadResource ChildProcess")
        assert.strictEqual(yield* fails("./file"), "PermissionDenied ChildProcess")
        assert.strictEqual(yield* fails(guest.work), "PermissionDenied ChildProcess")
        assert.strictEqual(yield* fails("true", { cwd: "missing" }), "NotFound FileSystem")
        assert.strictEqual(yield* fails("true", { cwd: "file" }), "BadResource ChildProcess")
        assert.strictEqual(yield* fails("true", { cwd: "file/x" }), "BadResource FileSystem")
        for (const bad of ["", "a=b", "a\0b"]) {
          assert.strictEqual(yield* fails(bad), "BadArgument ChildProcess")
        }
        assert.strictEqual(
          yield* fails("true", { additionalFds: [{ fd: 3, type: "input" }] }),
          "BadArgument ChildProcess"
        )
        assert.strictEqual(
          yield* fails("true", { env: { "a.b": Redacted.make("hidden") } }),
          "BadArgument ChildProcess"
        )
        // The PATH of the command, and programs beside the working directory.
        const path = { PATH: `${guest.work}/own:/usr/bin:/bin:${guest.bin}` }
        assert.strictEqual((yield* run(guest, "hello", [], { env: path })).stdout.toString(), "hello\n")
        assert.strictEqual((yield* run(guest, "./hello", [], { cwd: "own" })).stdout.toString(), "hello\n")
        assert.strictEqual(yield* fails("hello"), "NotFound ChildProcess")
      }))

    once("the streams can be opened by name in mid-output, and hold nothing else open", (guest) =>
      Effect.gen(function* () {
        const result = yield* sh(
          guest,
          `echo a; echo b >/dev/stdout; echo c; echo d >/proc/self/fd/1; echo x >/dev/stderr; echo y >&2
           for fd in 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$fd ] || echo open $fd; done`
        )
        assert.strictEqual(result.stdout.toString(), "a\nb\nc\nd\n")
        assert.strictEqual(result.stderr.toString(), "x\ny\n")
      })
    )

    test("signals reach the command, which ignores none from birth", (guest) =>
      Effect.gen(function* () {
        const status = (yield* run(guest, "cat", ["/proc/self/status"])).stdout.toString()
        assert.match(status, /^SigIgn:\s0+$/m)
        const result = yield* sh(guest, "kill -INT $$; echo survived")
        assert.strictEqual(result.stdout.toString(), "")
        assert.deepStrictEqual(result.exit, exited(130))
        const process = yield* startSh(guest, "trap '' TERM; sleep 300 & echo $! $$ >pids; wait; wait; sleep 300")
        const pids = (yield* written(guest, "pids")).split(" ")
        yield* process.signal("SIGTERM", { forceAfter: "100 millis" })
        const exit = yield* process.exit
        assert.deepStrictEqual(exit, { _tag: "Signalled", signal: "SIGKILL", code: 137 })
        assert.deepStrictEqual(pids.filter(isAlive), [])
        assert.strictEqual(reasonOf(yield* Effect.flip(process.signal("TERM"))), "ProcessEnded")
        assert.strictEqual(reasonOf(yield* Effect.flip(process.signal("SIGNOTHING"))), "InvalidArgument")
      }))

    once("the end of the Scope and interruption kill the group; nothing is left", (guest) =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        yield* Scope.provide(startSh(guest, "trap '' TERM; sleep 300 & echo $! $$ >pids; wait; sleep 300"), scope)
        const pids = (yield* written(guest, "pids")).split(" ")
        assert.strictEqual(pids.filter(isAlive).length, 2)
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(pids.filter(isAlive), [])
        let running = false
        const script = "sleep 300 & echo $! $$ >more; wait"
        const fiber = yield* startSh(guest, script).pipe(
          Effect.tap(() => Effect.sync(() => (running = true))),
          Effect.flatMap((process) => collect(process)),
          Effect.scoped,
          Effect.forkChild
        )
        // Before that its directory would stay, lest it started later.
        yield* eventually("it is known to run", () => running)
        const more = (yield* written(guest, "more")).split(" ")
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(more.filter(isAlive), [])
        assert.deepStrictEqual(guest.left(), [])
      })
    )

    once("whoever holds the handle still is told how the end of the Scope ended it", (guest) =>
      Effect.gen(function* () {
        const ended = Effect.suspend(() =>
          Effect.flatMap(Effect.scoped(start(guest, "sleep", ["300"])), ({ exit }) => exit)
        )
        // Between the end of the group and what tells of it is a moment, which several at once do meet.
        for (const { code } of yield* Effect.all(
          Array.from({ length: 12 }, () => ended),
          { concurrency: 4 }
        )) {
          assert.include([137, 143], code)
        }
      })
    )

    test("output that a descendant holds open ends soon after the exit, and the descendant with the Scope", (guest) =>
      Effect.gen(function* () {
        const result = yield* sh(guest, "sleep 300 & echo $!")
        assert.deepStrictEqual(result.exit, exited(0))
        assert.isFalse(isAlive(result.stdout.toString().trim()))
      }))

    test("a deadline holds while nobody reads, and its group is gone before it is told", (guest) =>
      Effect.gen(function* () {
        const processId = newProcessId()
        yield* Effect.scoped(
          startSh(
            guest,
            `(trap '' TERM; while :; do sleep 0.1; done) & echo $! $$ >pids; trap '' TERM; while :; do sleep 0.1; done`,
            { processId, lifetime: "recorded", deadline: Date.now() + 700 }
          )
        )
        for (const reader of guest.readers) reader.kill("SIGKILL")
        const pids = (yield* written(guest, "pids")).split(" ")
        yield* eventually("its end is written", () => Fs.existsSync(`${guest.directory}/r-${processId}/exit`))
        assert.deepStrictEqual(pids.filter(isAlive), [])
        const external = yield* guest.launcher.findProcess(processId)
        const process = yield* guest.launcher.resume(Option.getOrThrow(external), { stdout: 0, stderr: 0 })
        const exit = yield* process.exit
        assert.deepStrictEqual(exit, { _tag: "Signalled", signal: "SIGKILL", code: 137, reason: "deadline" })
      }))

    once("a deadline can be moved", (guest) =>
      Effect.gen(function* () {
        const processId = newProcessId()
        const process = yield* startSh(guest, "sleep 300", {
          processId,
          lifetime: "recorded",
          deadline: Date.now() + 200_000
        })
        yield* guest.launcher.setDeadline(processId, Date.now())
        const exit = yield* process.exit
        assert.strictEqual(exit.reason, "deadline")
        assert.strictEqual(exit.code, 143)
      })
    )

    test("goes on without a service and is resumed at the byte, more than once", (guest) =>
      Effect.gen(function* () {
        const processId = newProcessId()
        const script =
          "printf 0123; printf ab >&2; while [ ! -e go ]; do sleep 0.05; done; printf 456789; printf cd >&2"
        yield* Effect.scoped(
          Effect.gen(function* () {
            const process = yield* startSh(guest, script, { processId, lifetime: "recorded" })
            yield* Stream.runCollect(Stream.take(process.output, 1))
          })
        )
        const external = Option.getOrThrow(yield* guest.launcher.findProcess(processId))
        assert.strictEqual(external.processId, processId)
        const resume = Effect.scoped(
          Effect.flatMap(guest.launcher.resume(external, { stdout: 3, stderr: 1 }), (process) =>
            collect(process, { stdout: 3, stderr: 1 })
          )
        )
        const live = yield* Effect.forkChild(resume)
        yield* eventually("it is being followed", () => guest.counts.stream === 2)
        Fs.writeFileSync(Path.join(guest.work, "go"), "")
        for (const result of [yield* Fiber.join(live), yield* resume]) {
          assert.strictEqual(result.stdout.toString(), "3456789")
          assert.strictEqual(result.stderr.toString(), "bcd")
          assert.deepStrictEqual(result.exit, exited(0))
        }
        assert.isTrue(Option.isNone(yield* guest.launcher.findProcess(newProcessId())))
        const unknown = { ...external, processId: newProcessId() }
        const error = yield* Effect.flip(Effect.scoped(guest.launcher.resume(unknown, { stdout: 0, stderr: 0 })))
        assert.strictEqual(reasonOf(error), "NotFound")
        const process = yield* guest.launcher.resume(external, { stdout: 10, stderr: 4 })
        assert.strictEqual((yield* collect(process, { stdout: 10, stderr: 4 })).stdout.length, 0)
        yield* process.release?.({ stdout: 10, stderr: 4 }) ?? Effect.die("no release")
        assert.deepStrictEqual(
          Fs.readdirSync(`${guest.directory}/r-${processId}`).filter((name) => /^[12]\.\d/.test(name)),
          []
        )
        assert.isTrue(Option.isSome(yield* guest.launcher.findProcess(processId)))
      }))

    once("a second start of the same id starts nothing, also at once", (guest) =>
      Effect.gen(function* () {
        const processId = newProcessId()
        const once = sh(guest, "echo x >>count; cat count", { processId, lifetime: "recorded" })
        const results = yield* Effect.all([once, once, once], { concurrency: "unbounded" })
        for (const result of [...results, yield* once]) assert.strictEqual(result.stdout.toString(), "x\n")
        assert.strictEqual(Fs.readFileSync(Path.join(guest.work, "count"), "utf8"), "x\n")
      })
    )

    test("input is live, line by line, and ends", (guest) =>
      Effect.gen(function* () {
        const process = yield* startSh(guest, `while read -r l; do printf '<%s>' "$l"; done; printf end`, {
          stdin: true
        })
        const pull = yield* Stream.toPull(process.output)
        let seen = ""
        for (const line of ["one", "$two", "three"]) {
          yield* process.write(new TextEncoder().encode(`${line}\n`))
          const expected = `${seen}<${line}>`
          while (seen !== expected) {
            seen += Buffer.concat((yield* pull).map(({ bytes }) => bytes)).toString()
            assert.isTrue(expected.startsWith(seen))
          }
        }
        yield* process.closeInput
        assert.strictEqual(Buffer.concat((yield* pull).map(({ bytes }) => bytes)).toString(), "end")
        assert.deepStrictEqual(yield* process.exit, exited(0))
        assert.strictEqual(reasonOf(yield* Effect.flip(process.write(new Uint8Array(1)))), "ProcessEnded")
      }))

    once("input: 6 MiB of anything, and opened by name after its end", (guest) =>
      Effect.gen(function* () {
        const part = Crypto.randomBytes(1 << 20)
        const process = yield* startSh(
          guest,
          "cat; echo >done; while [ ! -e go ]; do sleep 0.05; done; cat /dev/stdin",
          {
            stdin: true
          }
        )
        const writing = yield* Effect.forkChild(
          Stream.run(Stream.fromIterable(Array.from({ length: 6 }, () => part)), process.stdin)
        )
        yield* Effect.forkChild(
          Effect.andThen(
            written(guest, "done"),
            Effect.sync(() => Fs.writeFileSync(Path.join(guest.work, "go"), ""))
          )
        )
        const result = yield* collect(process)
        yield* Fiber.join(writing)
        assert.strictEqual(sha(result.stdout), sha(Buffer.concat(Array.from({ length: 6 }, () => part))))
        assert.deepStrictEqual(result.exit, exited(0))
      })
    )

    once("input: who never reads holds the writer back; who ends early ends it", (guest) =>
      Effect.gen(function* () {
        const deaf = yield* startSh(guest, "sleep 300", { stdin: true })
        const writing = yield* Effect.forkChild(deaf.write(new Uint8Array(8 << 20)))
        // Eight unread, and what fits into the pipe of those that were taken.
        yield* eventually("the guest holds its share", () => guest.counts.upload > 0)
        assert.strictEqual((yield* Effect.timeoutOption(Fiber.join(writing), "500 millis"))._tag, "None")
        assert.isBelow(guest.counts.upload, 4)
        const early = yield* startSh(guest, "read -r l; exit 4", { stdin: true })
        const error = yield* Effect.flip(
          Stream.run(Stream.forever(Stream.succeed(new TextEncoder().encode("line\n".repeat(10_000)))), early.stdin)
        )
        assert.strictEqual(reasonOf(error), "ProcessEnded")
        assert.deepStrictEqual(yield* early.exit, exited(4))
      })
    )

    test("input stays open when the service goes, and is written by the next", (guest) =>
      Effect.gen(function* () {
        const processId = newProcessId()
        const fields = { processId, lifetime: "recorded", stdin: true } as const
        yield* Effect.scoped(
          Effect.flatMap(
            startSh(guest, `while read -r l; do printf '<%s>' "$l"; done; printf end`, fields),
            (process) => process.write(new TextEncoder().encode("one\n"))
          )
        )
        const external = Option.getOrThrow(yield* guest.launcher.findProcess(processId))
        const process = yield* guest.launcher.resume(external, { stdout: 0, stderr: 0 })
        yield* process.write(new TextEncoder().encode("two\n"))
        yield* process.closeInput
        assert.strictEqual(reasonOf(yield* Effect.flip(process.write(new Uint8Array(1)))), "InvalidArgument")
        assert.strictEqual((yield* collect(process)).stdout.toString(), "<one><two>end")
      }))

    once("32 MiB arrive", (guest) =>
      Effect.gen(function* () {
        const size = 32 << 20
        const process = yield* startSh(guest, `head -c ${size} /dev/zero`)
        const hash = Crypto.createHash("sha256")
        let offset = 0
        yield* Stream.runForEach(process.output, (chunk) =>
          Effect.sync(() => {
            assert.strictEqual(chunk.offset, offset)
            offset += chunk.bytes.length
            hash.update(chunk.bytes)
          })
        )
        assert.strictEqual(offset, size)
        assert.strictEqual(hash.digest("hex"), sha(Buffer.alloc(size)))
      })
    )

    test(
      "at the quota the command is held back until somebody releases",
      (guest) =>
        Effect.gen(function* () {
          const size = 5_000_000
          const processId = newProcessId()
          const process = yield* startSh(guest, `head -c ${size} /dev/zero; : >done`, {
            processId,
            lifetime: "recorded"
          })
          const directory = `${guest.directory}/r-${processId}`
          yield* eventually("the spool is full", () => Fs.existsSync(`${directory}/1.held`))
          const spooled = () =>
            Fs.readdirSync(directory)
              .filter((name) => /^1\.\d+$/.test(name))
              .reduce((sum, name) => sum + Fs.statSync(`${directory}/${name}`).size, 0)
          assert.isAtMost(spooled(), 1 << 20)
          assert.isFalse(Fs.existsSync(Path.join(guest.work, "done")))
          let read = 0
          yield* Stream.runForEach(process.output, (chunk) => {
            read += chunk.bytes.length
            assert.isAtMost(spooled(), 1 << 20)
            return process.release?.({ stdout: read, stderr: 0 }) ?? Effect.die("no release")
          })
          assert.strictEqual(read, size)
          assert.deepStrictEqual(yield* process.exit, exited(0))
          // A scoped one has nobody else to release it.
          assert.strictEqual((yield* sh(guest, `head -c ${size} /dev/zero`)).stdout.length, size)
        }),
      { options: { spoolQuota: 1 << 20 } }
    )

    once("a killed runner is a lost process, never an exit; a killed reader is replaced", (guest) =>
      Effect.gen(function* () {
        const processId = newProcessId()
        const process = yield* startSh(guest, "echo up; sleep 300", { processId, lifetime: "recorded" })
        guest.readers[0]?.kill("SIGKILL")
        yield* eventually("somebody reads again", () => guest.counts.stream === 2)
        const [runner = ""] = guest.read(`r-${processId}/runner`).split(" ")
        globalThis.process.kill(Number(runner), "SIGKILL")
        const error = yield* Effect.flip(process.exit)
        assert.strictEqual(reasonOf(error), "OutcomeUnknown")
        const external = Option.getOrThrow(yield* guest.launcher.findProcess(processId))
        const resumed = yield* guest.launcher.resume(external, { stdout: 0, stderr: 0 })
        assert.strictEqual(reasonOf(yield* Effect.flip(resumed.exit)), "OutcomeUnknown")
        assert.strictEqual(
          Buffer.concat((yield* Stream.runCollect(resumed.output)).map(({ bytes }) => bytes)).toString(),
          "up\n"
        )
        yield* resumed.signal("SIGKILL", { forceAfter: "0 millis" })
        const scoped = yield* Scope.make()
        const id = newProcessId()
        yield* Scope.provide(startSh(guest, "echo $$ >pid; sleep 300", { processId: id }), scoped)
        const pid = yield* written(guest, "pid")
        globalThis.process.kill(Number(guest.read(`s-${id}/runner`).split(" ")[0]), "SIGKILL")
        yield* Scope.close(scoped, Exit.void)
        assert.isFalse(isAlive(pid))
      })
    )

    once("a record of another boot is lost, and its numbers are nobody's", (guest) =>
      Effect.gen(function* () {
        const processId = newProcessId()
        const process = yield* startSh(guest, "sleep 300", { processId, lifetime: "recorded" })
        const directory = `${guest.directory}/r-${processId}`
        const records = ["pid", "runner"].map((name) => [name, guest.read(`r-${processId}/${name}`)] as const)
        for (const [name, text] of records)
          Fs.writeFileSync(`${directory}/${name}`, text.replace(/ \S+\n$/, " other\n"))
        assert.strictEqual(reasonOf(yield* Effect.flip(process.signal("SIGKILL"))), "ProcessEnded")
        assert.strictEqual(reasonOf(yield* Effect.flip(process.exit)), "OutcomeUnknown")
        for (const [name, text] of records) Fs.writeFileSync(`${directory}/${name}`, text)
        yield* process.signal("SIGKILL")
        yield* eventually("its end is written", () => Fs.existsSync(`${directory}/exit`))
      })
    )

    test("a secret is in no command line but that of the program that gets it", (guest) =>
      Effect.gen(function* () {
        const secret = Crypto.randomUUID()
        // Every tool tells what it was called with.
        const log = Path.join(guest.root, "log")
        for (const tool of ["env", "setsid", "cat", "rm", "mkdir", "mkfifo", "dd", "base64", "sleep", "ls"]) {
          const real = [guest.bin, "/usr/bin", "/bin"]
            .map((dir) => `${dir}/${tool}`)
            .find((path) => Fs.existsSync(path))
          const target = real === undefined ? "" : Fs.realpathSync(real)
          Fs.rmSync(Path.join(guest.bin, tool), { force: true })
          const applet = target.endsWith("busybox") ? `${target} ${tool}` : target
          const text = `#!/bin/sh\nprintf '%s\\n' "${tool} $*" >>${log}\nexec ${applet} "$@"\n`
          Fs.writeFileSync(Path.join(guest.bin, tool), text, { mode: 0o755 })
        }
        const seen = new Set<string>()
        const watching = yield* Effect.sync(() => {
          for (const pid of allProcesses()) {
            const line = commandLineOf(pid)
            if (line.includes(secret)) seen.add(line.split("\0")[0] ?? "")
          }
        }).pipe(Effect.andThen(Effect.sleep("1 millis")), Effect.forever, Effect.forkChild)
        const env = { SECRET: Redacted.make(secret), PLAIN: "1" }
        const script = `printf %s "$SECRET"; ls "$1"`
        for (const extendEnv of [true, false]) {
          const path = extendEnv ? {} : { PATH: "/usr/bin:/bin" }
          const result = yield* sh(guest, script, { env: { ...env, ...path }, extendEnv }, [guest.directory])
          assert.isTrue(result.stdout.toString().startsWith(secret), result.stderr.toString())
          assert.notInclude(result.stdout.toString(), "secret")
        }
        assert.deepStrictEqual([...seen], [])
        const argument = yield* run(guest, "printf", ["%s", Redacted.make(secret)], { env: { A: "b" } })
        assert.strictEqual(argument.stdout.toString(), secret)
        yield* Fiber.interrupt(watching)
        const calls = Fs.readFileSync(log, "utf8")
        assert.include(calls, "setsid ")
        assert.include(calls, "PLAIN=1")
        assert.notInclude(calls, secret)
      }))

    test("can be installed, and says what is missing", (guest) =>
      Effect.gen(function* () {
        const program = yield* install(guest.transport, { provider: "loopback", directory: guest.directory })
        assert.isTrue(Fs.existsSync(program.text))
        const { make } = yield* Effect.promise(() => import("../../../src/layers/internal/launcher/launcher.ts"))
        const launcher = yield* make(guest.transport, { ...guest.options, program })
        const result = yield* run({ ...guest, launcher }, "sh", ["-c", "echo installed"])
        assert.strictEqual(result.stdout.toString(), "installed\n")
        const lacking: typeof guest.transport = {
          ...guest.transport,
          exec: (argv) => guest.transport.exec(["env", "PATH=/nowhere", "/bin/sh", ...argv.slice(1)])
        }
        const error = yield* Effect.flip(install(lacking, { provider: "loopback", directory: guest.directory }))
        assert.strictEqual(reasonOf(error), "UnsupportedCapability")
        assert.include(error.message, "setsid")
      }))
  })
}

// The shell of the vendors' images and the smallest there is; the emulators' suites run on the first of them too.
for (const guest of guests) if (full || guest.name !== "bash with the tools of this machine") suite(guest)
