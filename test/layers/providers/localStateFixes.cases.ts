/** What an attack on the local provider's own files found, each with the proof that it is over. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Stream } from "effect"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Os from "node:os"
import * as Util from "node:util"
import * as ChildProcess from "node:child_process"
import { platformError, reasonOf } from "../../../src/layers/providers/local/failures.ts"
import { release, tryAcquire } from "../../../src/layers/providers/local/lockfile.ts"
import { identity } from "../../../src/layers/providers/local/os.ts"
import * as P from "../../../src/testing/internal/providers.ts"
import { create, directoryOf, eventually, localRoot, processesOf, provider, supervisorPid } from "./support/local.ts"

const disk = new URL("../../../src/layers/providers/local/disk.ts", import.meta.url).href

const put = (path: string): void => {
  Fs.mkdirSync(Path.dirname(path), { recursive: true })
  Fs.writeFileSync(path, "precious")
}

describe("local: the data directory", () => {
  it.live("one that holds something else is refused and left as it is", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      put(Path.join(root, "scratch", "2023.taxes", "x.txt"))
      assert.strictEqual(yield* P.reason(Effect.scoped(provider(root))), P.tag("InvalidArgument"))
      assert.deepStrictEqual(Fs.readdirSync(root, { recursive: true }).map(String).sort(), [
        "scratch",
        "scratch/2023.taxes",
        "scratch/2023.taxes/x.txt"
      ])
      // A file of that name is no marker.
      put(Path.join(root, "root.json"))
      assert.strictEqual(yield* P.reason(Effect.scoped(provider(root))), P.tag("InvalidArgument"))
      assert.deepStrictEqual(Fs.readdirSync(root).sort(), ["root.json", "scratch"])
    })
  )

  it.live("two services make one at the same time", () =>
    Effect.gen(function* () {
      const root = Path.join(yield* localRoot, "new")
      yield* Effect.scoped(Effect.all([provider(root), provider(root), provider(root)], { concurrency: 3 }))
      assert.isTrue(Fs.existsSync(Path.join(root, "root.json")))
    })
  )

  it.live("sweeping takes what dead services left, and nothing that only looks like it", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      yield* Effect.scoped(provider(root))
      const { startTime } = identity()
      const name = () => `4194999.${startTime}.${Crypto.randomUUID()}`
      const foreign = [
        "scratch/2023.taxes/x.txt",
        "pipes/2024.report/data.txt",
        "pipes/notes.txt",
        `scratch/${name()}/thesis.txt`,
        `pipes/${name()}/thesis.txt`,
        `pipes/${name()}/${Crypto.randomUUID()}`
      ].map((path) => Path.join(root, path))
      foreign.forEach(put)
      const half = Path.join(root, "scratch", name())
      for (const file of ["workspace/a", "tmp/b", "lock", `lock.${Crypto.randomUUID()}`, "sandbox.json"]) {
        put(Path.join(half, file))
      }
      const stock = Path.join(root, "pipes", name())
      Fs.mkdirSync(stock)
      ChildProcess.execFileSync("mkfifo", [Path.join(stock, Crypto.randomUUID())])
      const living = Path.join(
        root,
        "scratch",
        `${identity().pid}.${startTime}.${Crypto.randomUUID()}`,
        "workspace",
        "a"
      )
      put(living)
      yield* Effect.scoped(provider(root))
      for (const path of [...foreign, living]) assert.strictEqual(Fs.readFileSync(path, "utf8"), "precious", path)
      assert.isFalse(Fs.existsSync(half))
      assert.isFalse(Fs.existsSync(stock))
    })
  )

  it.live("a tree that is deeper than a path can be goes, and keeps no service from starting", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const local = yield* provider(root)
      const dig = "for (let n = 0; n < 30; n++) { fs.mkdirSync('d'.repeat(200)); process.chdir('d'.repeat(200)) }"
      const deep = Effect.gen(function* () {
        const made = yield* create(local)
        assert.deepStrictEqual((yield* P.run(made.machine, process.execPath, ["-e", dig])).exit, P.exited(0))
        return made
      })
      const { machine } = yield* deep
      yield* machine.stop("delete")
      // As a service leaves it that is killed while it deletes one.
      const { sandboxId } = yield* deep
      const { startTime } = identity()
      const scratch = Path.join(root, "scratch")
      Fs.renameSync(directoryOf(root, sandboxId), Path.join(scratch, `4194999.${startTime}.${Crypto.randomUUID()}`))
      yield* Effect.scoped(provider(root))
      assert.deepStrictEqual(Fs.readdirSync(scratch), [])
    })
  )

  it.live("a directory that its command has locked goes, also when a name in it is no UTF-8", () =>
    Effect.gen(function* () {
      const path = yield* Effect.acquireRelease(
        Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-locked-"))),
        (made) => Effect.sync(() => Fs.rmSync(made, { recursive: true, force: true }))
      )
      const script = `mkdir -p tree/locked; cd tree/locked; mkdir "$(printf 'd\\377')"; chmod 000 . "$(printf 'd\\377')"`
      ChildProcess.execFileSync("sh", ["-c", script], { cwd: path })
      const isRoot = process.getuid?.() === 0
      // Nothing is locked for root, so that somebody else has to try.
      if (isRoot) ChildProcess.execFileSync("chown", ["-R", "65534:65534", path])
      const program = `
        ${isRoot ? "process.setgid(65534); process.setuid(65534)" : ""}
        const { removeTree } = await import(${JSON.stringify(disk)})
        await removeTree(${JSON.stringify(Path.join(path, "tree"))})`
      ChildProcess.execFileSync(process.execPath, ["--input-type=module", "-e", program], { stdio: "pipe" })
      assert.deepStrictEqual(Fs.readdirSync(path), [])
    })
  )
})

describe("local: secrets", () => {
  const secret = "Zx9SeCrEtVaLuE77"
  const shows = (value: unknown): boolean =>
    Util.inspect(value, { depth: 20, showHidden: true }).includes(secret) || JSON.stringify(value).includes(secret)

  it.live("a variable that no program can be given is refused by its name alone", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const local = yield* provider(root)
      const { created, machine, sandboxId } = yield* create(local, {})
      const env = { TOKEN: Redacted.make(`${secret}\0`) }
      const resolved = yield* Effect.flip(local.resolve({ env }))
      const made = yield* Effect.flip(
        local.create({ ...created, sandboxId: P.newSandboxId(), config: { ...created.config, env } })
      )
      const starts = [
        yield* Effect.flip(P.run(machine, "true", [], { env })),
        yield* Effect.flip(P.run(machine, "true", [], { env, lifetime: "recorded" }))
      ]
      // As an older version may have stored it.
      Fs.writeFileSync(Path.join(directoryOf(root, sandboxId), "env.json"), JSON.stringify({ TOKEN: `${secret}\0` }))
      const again = yield* local.connect(machine.ref, { sandboxId, boot: true })
      starts.push(yield* Effect.flip(P.run(again, "true")))
      starts.push(yield* Effect.flip(P.run(again, "true", [], { lifetime: "recorded" })))
      for (const error of [resolved, made, ...starts]) {
        assert.isFalse(shows(error))
        assert.include(error.message, "TOKEN")
      }
      assert.strictEqual(yield* P.reason(Effect.fail(made)), P.tag("InvalidConfig"))
      for (const error of starts) assert.strictEqual(yield* P.reason(Effect.fail(error)), "BadArgument")
    })
  )

  it("an error of Node that repeats a value is not kept", () => {
    let error: unknown
    try {
      ChildProcess.spawn("true", [], { env: { TOKEN: `${secret}\0` } })
    } catch (thrown) {
      error = thrown
    }
    assert.isTrue(shows(error))
    assert.isFalse(shows(platformError("ChildProcess", "spawn", "true", error)))
    assert.isFalse(shows(reasonOf(error)))
  })
})

describe("local: writing files", () => {
  it.live("what is no file is not replaced by one, however it was reached", () =>
    Effect.gen(function* () {
      const { machine } = yield* create(yield* provider(yield* localRoot))
      yield* P.text(machine, "mkfifo fifo; ln -s fifo link; mknod null c 1 3 2>/dev/null; true")
      const special = ["fifo", "link", "null"].filter((name) => Fs.existsSync(Path.join(machine.workspaceRoot, name)))
      const types = () => special.map((name) => Fs.statSync(Path.join(machine.workspaceRoot, name)).isFile())
      const failures = yield* machine.writeFiles(special.map((path) => ({ path, content: Buffer.from("text") })))
      assert.deepStrictEqual(
        types(),
        special.map(() => false)
      )
      for (const failure of failures) {
        assert.strictEqual(yield* P.reason(Effect.fail(failure.error)), "BadResource", failure.path)
      }
      assert.deepStrictEqual(
        failures.map(({ path }) => path),
        special
      )
      yield* machine.stop("delete")
    })
  )
})

describe("local: a file for its owner only", () => {
  it.live("is nobody else's while it is incomplete", () =>
    Effect.gen(function* () {
      const { machine } = yield* create(yield* provider(yield* localRoot))
      const folder = Path.join(machine.workspaceRoot, "codex")
      const modes: Array<number> = []
      const content = Stream.make("a ", "secret").pipe(
        Stream.rechunk(1),
        Stream.tap(() =>
          Effect.sync(() => {
            for (const name of Fs.readdirSync(folder)) modes.push(Fs.statSync(Path.join(folder, name)).mode & 0o777)
          })
        ),
        Stream.map((text) => Buffer.from(text))
      )
      assert.deepStrictEqual(yield* machine.writeFiles([{ path: "codex/auth.json", content, mode: 0o600 }]), [])
      // Also one that was for its owner only and is overwritten.
      assert.deepStrictEqual(yield* machine.writeFiles([{ path: "codex/auth.json", content }]), [])
      assert.deepStrictEqual([...new Set(modes)], [0o600])
      assert.isAtLeast(modes.length, 4)
      assert.strictEqual(Fs.statSync(Path.join(folder, "auth.json")).mode & 0o777, 0o600)
      yield* machine.stop("delete")
    })
  )
})

describe("local: the lock", () => {
  const directory = Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-lock-"))),
    (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
  )
  const dead = (token: string): string => `${token}.4194999.AAAAAAAAAAAA`

  it.live("a dead owner's lock has one heir at a time, also when heirs die while they take over", () =>
    Effect.gen(function* () {
      const lock = Path.join(yield* directory, "lock")
      let inside = 0
      let wins = 0
      let together = 0
      const worker = Effect.gen(function* () {
        while (wins < 300) {
          const token = Crypto.randomUUID()
          if (!(yield* Effect.promise(() => tryAcquire(lock, token)))) {
            yield* Effect.yieldNow
            continue
          }
          const n = ++wins
          if (++inside > 1) together++
          yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
          inside--
          if (n % 4 === 0) {
            yield* Effect.promise(() => release(lock, token))
            continue
          }
          // It dies here, with a lock that is torn, or with one whose heir died as well.
          const torn = n % 7 === 0
          if (!torn && n % 2 === 0) Fs.symlinkSync(dead(Crypto.randomUUID()), `${lock}.dead.${token}`)
          if (n % 14 === 0) Fs.writeFileSync(`${lock}.x`, "no link")
          else Fs.symlinkSync(torn ? `torn ${token}` : dead(token), `${lock}.x`)
          Fs.renameSync(`${lock}.x`, lock)
        }
      })
      yield* Effect.all(
        Array.from({ length: 6 }, () => worker),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(together, 0)
      assert.isAtLeast(wins, 300)
      const last = Crypto.randomUUID()
      assert.isTrue(yield* Effect.promise(() => tryAcquire(lock, last)))
      yield* Effect.promise(() => release(lock, last))
      assert.deepStrictEqual(Fs.readdirSync(Path.dirname(lock)), [])
    })
  )

  it.live("a living owner's lock is nobody's", () =>
    Effect.gen(function* () {
      const lock = Path.join(yield* directory, "lock")
      assert.isTrue(yield* Effect.promise(() => tryAcquire(lock, "a")))
      assert.isFalse(yield* Effect.promise(() => tryAcquire(lock, "b")))
      yield* Effect.promise(() => release(lock, "b"))
      assert.isFalse(yield* Effect.promise(() => tryAcquire(lock, "b")))
      yield* Effect.promise(() => release(lock, "a"))
      assert.isTrue(yield* Effect.promise(() => tryAcquire(lock, "b")))
    })
  )
})

describe("local: a supervisor that is frozen", () => {
  it.live(
    "does not keep a stop from ending the processes",
    () =>
      Effect.gen(function* () {
        const root = yield* localRoot
        const local = yield* provider(root)
        const { machine, sandboxId } = yield* create(local)
        yield* P.start(machine, "sleep", ["300"], { lifetime: "recorded" })
        const supervisor = supervisorPid(root)
        if (supervisor === undefined) return assert.fail("no supervisor runs")
        yield* Effect.acquireUseRelease(
          Effect.sync(() => process.kill(supervisor, "SIGSTOP")),
          () => local.stop(machine.ref, "stop"),
          () => Effect.sync(() => process.kill(supervisor, "SIGCONT"))
        )
        assert.deepStrictEqual(
          processesOf(root).filter(({ cookie }) => cookie.sandboxId === sandboxId),
          []
        )
        // What it had not answered it writes down now.
        const directory = Path.join(directoryOf(root, sandboxId), "processes")
        yield* eventually("the process has an end on disk", () =>
          Fs.readdirSync(directory).every((name) => Fs.existsSync(Path.join(directory, name, "exit.json")))
        )
      }),
    30_000
  )
})
