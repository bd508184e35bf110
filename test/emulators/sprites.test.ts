/** The emulator under the vendor's own client: what each endpoint does, and how that client takes it. */
import { assert, describe, it } from "@effect/vitest"
import { SpritesClient, type Sprite, type SpriteCommand } from "@fly/sprites"
import * as NodeWS from "@effect/platform-node/NodeWS"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Net from "node:net"
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

  it.live("commands run over plain HTTP and over the control socket, with their input, output and code", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sprite = yield* create("one")
      const post = (query: string, input = "") =>
        sdk(async () => {
          const response = await fetch(`${emulator.origin}/v1/sprites/one/exec?${query}`, {
            method: "POST",
            headers: { authorization: `Bearer ${emulator.token}` },
            body: input
          })
          return [response.status, Buffer.from(await response.arrayBuffer()).toString("latin1")] as const
        })
      const script = encodeURIComponent('printf %s "$(cat)$A"; exit 42')
      // Frames without lengths: the client tells them apart by where chunks end, which gets lost, so that it is given but one.
      assert.deepStrictEqual(yield* post(`cmd=sh&cmd=-c&cmd=${script}&stdin=true&env=A%3Db&env=PATH%3D/bin`, "in"), [
        200,
        "\u0001inb\u0003*"
      ])
      assert.strictEqual((yield* post("cmd=true&tty=true"))[0], 400)
      assert.strictEqual((yield* sdk(() => sprite.execFileHTTP("true"))).exitCode, 0)
      assert.include((yield* failing(() => sprite.execFileHTTP("sh", ["-c", "exit 42"]))).message, "42")
      // What runs ends with its request.
      const fiber = yield* Effect.forkChild(
        Effect.promise((signal) => sprite.execFileHTTP("sleep", ["1000"], { signal }))
      )
      yield* settled(() => emulator.sprite("one").processes().length > 0)
      yield* Fiber.interrupt(fiber)
      yield* settled(() => emulator.sprite("one").processes().length === 0 && emulator.sprite("one").busy === 0)

      const controlled = new SpritesClient(emulator.token, { baseURL: emulator.origin, controlMode: true }).sprite(
        "one"
      )
      const said = yield* sdk(() => controlled.execFile("sh", ["-c", "pwd; echo err >&2"]))
      assert.deepStrictEqual([said.stdout, said.stderr], [`${emulator.sprite("one").home}\n`, "err\n"])
      assert.strictEqual((yield* sdk(() => controlled.execFile("echo", ["again"]))).stdout, "again\n")
      // One socket, and no command beside it.
      assert.deepStrictEqual(
        ["control", "exec"].map((name) => emulator.requests.names.filter((one) => one === name).length),
        [1, 0]
      )
      // The client does not survive the loss of one that idles.
      controlled.closeControlConnection()
      yield* settled(() => emulator.sprite("one").busy === 0)
    })
  )

  it.live("a port is reached through the proxy, and files are watched", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sprite = yield* create("one")
      const server = yield* Effect.acquireRelease(
        sdk(
          () =>
            new Promise<Net.Server>((resolve) => {
              const made: Net.Server = Net.createServer((socket) => socket.pipe(socket))
              made.listen(0, "127.0.0.1", () => resolve(made))
            })
        ),
        (made) => Effect.sync(() => made.close())
      )
      const portOf = (made: Net.Server | null) => {
        const address = made?.address()
        return typeof address === "object" && address !== null && address !== undefined ? address.port : 0
      }
      const session = yield* sdk(() => sprite.proxyPort(0, portOf(server)))
      const local = Number(/:(\d+)$/.exec(session.localAddr() ?? "")?.[1])
      const echoed = yield* sdk(
        () =>
          new Promise<string>((resolve) => {
            const socket: Net.Socket = Net.connect(local, "localhost", () => socket.write("there and back"))
            socket.once("data", (bytes) => {
              resolve(bytes.toString())
              socket.end()
            })
          })
      )
      assert.strictEqual(echoed, "there and back")
      session.close()
      // The client waits ten seconds for a word where there is none: how it is closed says it.
      const closed = yield* sdk(
        () =>
          new Promise<number>((resolve) => {
            const socket = new NodeWS.WebSocket(`${emulator.origin.replace("http", "ws")}/v1/sprites/one/proxy`, {
              headers: { authorization: `Bearer ${emulator.token}` }
            })
            socket.once("open", () => socket.send(JSON.stringify({ host: "localhost", port: 1 })))
            socket.once("close", resolve)
          })
      )
      assert.strictEqual(closed, 1011)

      const watcher = yield* sdk(() => sprite.filesystem(emulator.sprite("one").home).watch("."))
      assert.strictEqual((yield* sdk(() => watcher.next()))?.type, "subscribed")
      Fs.writeFileSync(Path.join(emulator.sprite("one").home, "new"), "x")
      const event = yield* sdk(() => watcher.next())
      assert.deepInclude(event, { type: "event", event: "create", path: Path.join(emulator.sprite("one").home, "new") })
      watcher.close()
      yield* settled(() => emulator.sprite("one").busy === 0)
    }).pipe(Effect.scoped)
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
