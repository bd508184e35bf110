/** The emulator under the vendor's own client: what each endpoint does, and how that client takes it. */
import { assert, describe, it } from "@effect/vitest"
import { SpritesClient, type Sprite, type SpriteCommand } from "@fly/sprites"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { make, type Options } from "./sprites/server.ts"
import * as Fault from "./sprites/faults.ts"

/** A promise of the client; its failure is a defect where the test did not ask for it. */
const sdk = <A>(call: () => PromiseLike<A>) => Effect.promise(async () => await call())

/** What a call failed with. */
const failing = (call: () => PromiseLike<unknown>) =>
  Effect.promise(async (): Promise<Record<string, unknown>> =>
    call().then(
      () => assert.fail("it succeeded"),
      (error: Error) => ({ ...error, message: error.message })
    )
  )

const emulated = Effect.fnUntraced(function* (options?: Options) {
  const emulator = yield* make(options)
  const client = new SpritesClient(emulator.token, { baseURL: `${emulator.origin}/` })
  const create = (name: string): Effect.Effect<Sprite> => sdk(() => client.createSprite(name))
  return { emulator, client, create }
})

interface End {
  readonly code: number
  readonly out: string
}

/** What a command said, and how it ended; listening begins at once. A failure of it nobody listens to is thrown by the client. */
const endOf = (command: SpriteCommand): Promise<End> =>
  new Promise((resolve) => {
    let out = ""
    command.stdout.on("data", (bytes: Buffer) => (out += bytes.toString()))
    command.on("error", () => {})
    command.on("exit", (code: number) => resolve({ code, out }))
  })

const ended = (command: SpriteCommand) => sdk(() => endOf(command))

const opened = (command: SpriteCommand) =>
  sdk(() => new Promise<void>((resolve) => command.once("spawn", () => resolve())))

const said = (command: SpriteCommand, text: string) =>
  sdk(
    () =>
      new Promise<void>((resolve) => {
        let out = ""
        command.stdout.on("data", (bytes: Buffer) => {
          out += bytes.toString()
          if (out.includes(text)) resolve()
        })
      })
  )

const settled = (holds: () => boolean) =>
  Effect.promise(async () => {
    for (let times = 0; times < 400 && !holds(); times++) await new Promise((resolve) => setTimeout(resolve, 5))
    assert.isTrue(holds())
  })

describe("sprites emulator", () => {
  it.live("sprites are made, told, listed page by page, changed and deleted", () =>
    Effect.gen(function* () {
      const { client, create, emulator } = yield* emulated()
      const made = yield* sdk(() => client.createSprite("one", { waitForCapacity: true, labels: ["a"] } as never))
      assert.strictEqual(made.name, "one")
      assert.include(emulator.requests.of("sprite.create")[0]?.body, '"wait_for_capacity":true')
      for (const name of ["two", "three"]) yield* create(name)
      const found = yield* sdk(() => client.getSprite("one"))
      assert.strictEqual(found.status, "cold")
      const page = yield* sdk(() => client.listSprites({ maxResults: 2 }))
      assert.deepStrictEqual([page.sprites.length, page.hasMore], [2, true])
      assert.strictEqual((yield* sdk(() => client.listAllSprites("t"))).length, 2)
      yield* sdk(() => client.updateSprite("one", { labels: ["b"] }))
      assert.deepStrictEqual(emulator.sprite("one").labels, ["b"])
      assert.strictEqual((yield* failing(() => client.createSprite("one"))).statusCode, 409)
      assert.strictEqual((yield* failing(() => client.createSprite("Not A Label"))).statusCode, 400)
      yield* sdk(() => client.deleteSprite("one"))
      assert.include((yield* failing(() => client.getSprite("one"))).message, "not found")
      const stranger = new SpritesClient("another", { baseURL: emulator.origin })
      assert.include((yield* failing(() => stranger.getSprite("two"))).message, "authentication failed")
    })
  )

  it.live("a command has its output, its code, its input, and an environment instead of the image's", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sprite = yield* create("one")
      const done = yield* sdk(() => sprite.execFile("sh", ["-c", "printf 'a  b'; echo err >&2; pwd"]))
      assert.include(done.stdout, "a  b")
      assert.include(done.stdout, "/home/sprite")
      assert.strictEqual(done.stderr, "err\n")
      assert.strictEqual((yield* failing(() => sprite.execFile("sh", ["-c", "exit 42"]))).exitCode, undefined)
      assert.strictEqual((yield* ended(sprite.spawn("sh", ["-c", "exit 42"]))).code, 42)
      const env = yield* sdk(() => sprite.execFile("/usr/bin/env", [], { env: { A: "b=c" } }))
      assert.strictEqual(env.stdout, "A=b=c\n")
      const cat = sprite.spawn("cat")
      yield* opened(cat)
      const end = endOf(cat)
      cat.stdin.end("in and out")
      const { code, out } = yield* sdk(() => end)
      assert.deepStrictEqual([code, out], [0, "in and out"])
    })
  )

  it.live("bytes are exact, many commands run at once, and a signal ends one", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sprite = yield* create("one")
      const bytes = Crypto.randomBytes(1 << 20)
      Fs.writeFileSync(Path.join(emulator.sprite("one").home, "random"), bytes)
      const read = yield* sdk(() => sprite.execFile("cat", ["random"], { encoding: "buffer" } as never))
      assert.isTrue(Buffer.from(read.stdout).equals(bytes))
      const all = yield* sdk(() =>
        Promise.all(Array.from({ length: 8 }, (_, index) => sprite.execFile("echo", [String(index)])))
      )
      assert.deepStrictEqual(
        all.map(({ stdout }) => stdout),
        Array.from({ length: 8 }, (_, index) => `${index}\n`)
      )
      const sleeping = sprite.spawn("sleep", ["60"])
      yield* opened(sleeping)
      sleeping.kill("SIGTERM")
      assert.strictEqual((yield* ended(sleeping)).code, 143)
    })
  )

  it.live(
    "sessions are listed, attached to and killed; one that loses its connection goes on for the time it was given",
    () =>
      Effect.gen(function* () {
        const { create, emulator } = yield* emulated()
        const sprite = yield* create("one")
        const command = sprite.spawn("sh", ["-c", "echo up; exec sleep 60"], { detachable: true } as never)
        yield* said(command, "up\n")
        const [session] = yield* sdk(() => sprite.listSessions())
        assert.include(session?.command, "echo up")
        const attached = sprite.attachSession(session?.id ?? "")
        yield* said(attached, "up\n")
        const end = endOf(attached)
        const kill = yield* sdk(() => sprite.killSession(session?.id ?? "", "SIGKILL"))
        yield* sdk(() => kill.processAll(() => {}))
        const { code } = yield* sdk(() => end)
        assert.strictEqual(code, 137)
        assert.include((yield* failing(() => sprite.killSession("1"))).message, "session not found")
        assert.strictEqual(emulator.sprite("one").sessions.size, 0)
      })
  )

  it.live("files are written, read, told, moved and removed, and what fails says so by its code", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sprite = yield* create("one")
      const fs = sprite.filesystem(emulator.sprite("one").home)
      const bytes = Crypto.randomBytes(100_000)
      yield* sdk(() => fs.writeFile("deep/er/file", bytes, { mode: 0o600 }))
      assert.isTrue(bytes.equals(Buffer.from(yield* sdk(() => fs.readFile("deep/er/file")))))
      assert.strictEqual((yield* sdk(() => fs.stat("deep/er/file"))).mode, 0o600)
      yield* sdk(() => fs.chmod("deep/er/file", 0o640))
      yield* sdk(() => fs.rename("deep/er/file", "moved"))
      yield* sdk(() => fs.copyFile("moved", "copied"))
      assert.deepStrictEqual((yield* sdk(() => fs.readdir("."))).toSorted(), ["copied", "deep", "moved"])
      assert.strictEqual((yield* failing(() => fs.readFile("none"))).code, "ENOENT")
      assert.strictEqual((yield* failing(() => fs.readFile("deep"))).code, "EISDIR")
      assert.strictEqual((yield* failing(() => fs.writeFile("moved/below", "x"))).code, "ENOTDIR")
      yield* sdk(() => fs.rm("none", { force: true }))
      yield* sdk(() => fs.rm("deep", { recursive: true }))
    })
  )

  it.live("checkpoints are made, listed and restored with what runs; restored files are those of then", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated({ unready: 0 })
      const sprite = yield* create("one")
      const file = Path.join(emulator.sprite("one").home, "file")
      Fs.writeFileSync(file, "then")
      const messages: Array<string> = []
      yield* sdk(async () =>
        (await sprite.createCheckpoint("why")).processAll((message) => {
          messages.push(message.type)
        })
      )
      assert.deepStrictEqual(messages, ["info", "info", "complete"])
      const list = yield* sdk(() => sprite.listCheckpoints())
      assert.deepStrictEqual(
        list.map(({ id }) => id),
        ["v0", "Current"]
      )
      assert.strictEqual((yield* sdk(() => sprite.getCheckpoint("v0"))).comment, "why")
      Fs.writeFileSync(file, "now")
      const sleeping = sprite.spawn("sleep", ["60"])
      yield* opened(sleeping)
      const end = endOf(sleeping)
      yield* sdk(async () => (await sprite.restoreCheckpoint("v0")).processAll(() => {}))
      assert.strictEqual(Fs.readFileSync(file, "utf8"), "then")
      yield* sdk(() => end)
      assert.include((yield* failing(() => sprite.restoreCheckpoint("v9"))).message, "404")
      // A list of nothing is null, which the client does not take.
      const bare = yield* create("two")
      assert.isString((yield* failing(() => bare.listCheckpoints())).message)
    })
  )

  it.live("services and policies are kept, in the answers that the client insists on", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sprite = yield* create("one")
      yield* sdk(async () => (await sprite.createService("web", { cmd: "node", httpPort: 3000 })).processAll(() => {}))
      const [service] = yield* sdk(() => sprite.listServices())
      assert.strictEqual(service?.httpPort, 3000)
      assert.include(
        (yield* failing(() => sprite.createService("b", { cmd: "x", httpPort: 4000 }))).message,
        "conflict"
      )
      yield* sdk(() => sprite.deleteService("web"))
      const rules = [{ domain: "a.com", action: "allow" as const }]
      yield* sdk(() => sprite.updateNetworkPolicy({ rules }))
      assert.deepStrictEqual((yield* sdk(() => sprite.getNetworkPolicy())).rules, rules)
    })
  )

  it.live("faults of a connection are those that the client is known to fall for", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sprite = yield* create("one")
      // The status of a refused upgrade is lost, and the query with it told.
      emulator.faults.inject("exec", Fault.notReady(1))
      const refused = yield* failing(() => sprite.execFile("true", ["told"]))
      assert.include(refused.message, "cmd=told")
      for (const fault of [Fault.closeEarly, Fault.textExit, Fault.noExit]) {
        emulator.faults.inject("exec", fault)
        assert.strictEqual((yield* ended(sprite.spawn("sh", ["-c", "exit 7"]))).code, -1)
      }
      emulator.faults.inject("exec", Fault.emptyExit)
      assert.strictEqual((yield* ended(sprite.spawn("sh", ["-c", "exit 7"]))).code, 0)
      emulator.faults.inject("exec", Fault.drop(1))
      const { code, out } = yield* ended(sprite.spawn("sh", ["-c", "echo one; sleep 0.1; echo two"]))
      assert.deepStrictEqual([code, out], [-1, "one\n"])
      emulator.faults.inject("checkpoint.create", Fault.cutLines(1))
      const types: Array<string> = []
      yield* sdk(async () =>
        (await sprite.createCheckpoint())
          .processAll((message) => {
            types.push(message.type)
          })
          .catch(() => {})
      )
      assert.deepStrictEqual(types, ["info"])
      assert.strictEqual(emulator.faults.pending, 0)
    })
  )

  it.effect("a machine that idles is suspended, then loses its memory; a task or an attached command holds it", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated({ linger: 0 })
      const sprite = yield* create("one")
      const state = emulator.sprite("one")
      const attached = sprite.spawn("sh", ["-c", "echo up; exec sleep 1000"], { maxRunAfterDisconnect: "0" } as never)
      attached.on("error", () => {})
      yield* said(attached, "up\n")
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(state.status, "running")
      const [pid = 0] = state.processes()
      const stateOf = () => /\) (\S)/.exec(Fs.readFileSync(`/proc/${pid}/stat`, "latin1"))?.[1]
      for (const session of state.sessions.values()) session.cut()
      yield* settled(() => state.busy === 0)
      const task = (...args: ReadonlyArray<string>) =>
        sdk(
          () =>
            new Promise<void>((resolve) =>
              ChildProcess.execFile(
                "curl",
                ["-s", "--unix-socket", Path.join(state.root, ".sprite/api.sock"), ...args],
                () => resolve()
              )
            )
        )
      yield* task("-X", "PUT", "-d", '{"expire":"5m"}', "http://sprite/v1/tasks/t")
      assert.strictEqual(state.tasks.size, 0)
      yield* task("-X", "POST", "-d", '{"name":"t","expire":"1m"}', "http://sprite/v1/tasks")
      yield* task("-X", "PUT", "-d", '{"expire":"5m"}', "http://sprite/v1/tasks/t")
      assert.strictEqual(state.tasks.size, 1)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual(state.status, "running")
      yield* TestClock.adjust("31 seconds")
      assert.strictEqual(state.status, "warm")
      yield* settled(() => stateOf() === "T")
      // Any request into it wakes it, with what runs there.
      yield* sdk(() => sprite.listSessions())
      assert.strictEqual(state.status, "running")
      yield* settled(() => stateOf() === "S")
      yield* TestClock.adjust("31 seconds")
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(state.status, "cold")
      yield* settled(() => state.processes().length === 0)
      yield* sdk(() => sprite.execFile("true"))
      assert.deepStrictEqual([state.status, state.boots], ["running", 2])
    })
  )
})
