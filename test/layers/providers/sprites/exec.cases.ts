/** One command on one connection, below the launcher: how it ends, what refuses it, and that nothing is left of it. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Redacted, Stream } from "effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import { TestClock } from "effect/testing"
import * as ChildProcess from "node:child_process"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import { type Api, make as makeApi, type Question } from "../../../../src/layers/providers/sprites/api.ts"
import * as Exec from "../../../../src/layers/providers/sprites/exec.ts"
import * as Fault from "../../../emulators/sprites/faults.ts"
import * as Emulator from "../../../emulators/sprites/server.ts"
import { until } from "./waiting.ts"

const apiOf = (origin: string, token: string): Effect.Effect<Api> =>
  Effect.map(HttpClient.HttpClient, (client) =>
    makeApi({
      name: "sprites",
      token: Redacted.make(token),
      baseUrl: `${origin}/`,
      client,
      requestTimeout: Duration.seconds(5)
    })
  ).pipe(Effect.provide(FetchHttpClient.layer))

const world = Effect.fnUntraced(function* (options: Emulator.Options = {}) {
  const emulator = yield* Emulator.make({ linger: 60_000, ...options })
  const api = yield* apiOf(emulator.origin, emulator.token)
  yield* Effect.promise(() =>
    fetch(`${emulator.origin}/v1/sprites`, {
      method: "POST",
      headers: { authorization: `Bearer ${emulator.token}` },
      body: '{"name":"box"}'
    })
  )
  return { emulator, api, sprite: emulator.sprite("box") }
})

const question = (effects: boolean): Question => ({ operation: "test", about: "guest", id: "box", effects })

const command = (script: string): Exec.Command => ({
  text: `exec ${Exec.quoted(["sh", "-c", script])}\n`,
  afterDisconnect: "1s"
})

describe("a command of a sprite", () => {
  it.live("ends with the binary exit, at once, however long the connection would stay", () =>
    Effect.gen(function* () {
      const { api, emulator } = yield* world()
      const long = "x".repeat(100_000)
      const said = yield* Exec.toEnd(
        api,
        "box",
        {
          text: `exec ${Exec.quoted(["sh", "-c", 'printf %s "$1" | wc -c; echo err >&2; exit 7', "sh", long])}\n`,
          afterDisconnect: "1s"
        },
        question(true)
      )
      assert.deepStrictEqual(said, { exitCode: 7, stdout: "100000\n", stderr: "err\n" })
      const [request] = emulator.requests.of("exec")
      assert.isBelow(request?.url.length ?? 0, 200)
      yield* until("the connection is closed", () => emulator.sprite("box").busy === 0)
    })
  )

  it.live("keeps what the image has for an environment, and what comes behind the text exit", () =>
    Effect.gen(function* () {
      const { api, sprite } = yield* world()
      const said = yield* Exec.toEnd(
        api,
        "box",
        command(`printf %s "$HOME"; (sleep 0.2; echo late) & exit 3`),
        question(true)
      )
      assert.deepStrictEqual(said, { exitCode: 3, stdout: `${sprite.home}late\n`, stderr: "" })
    })
  )

  for (const [name, fault, effects, outcome] of [
    ["without the binary exit has the one of the text", Fault.textExit, true, 7],
    ["whose exit has no byte has the one of the text", Fault.emptyExit, true, 7],
    ["without an exit is OutcomeUnknown", Fault.noExit, true, "OutcomeUnknown"],
    ["without any frame is OutcomeUnknown", Fault.closeEarly, true, "OutcomeUnknown"],
    ["whose connection drops is OutcomeUnknown", Fault.drop(1), true, "OutcomeUnknown"],
    ["without an exit, which only asked, can be asked again", Fault.noExit, false, "Unavailable"]
  ] as const) {
    it.live(`${name}`, () =>
      Effect.gen(function* () {
        const { api, emulator } = yield* world()
        emulator.faults.inject("exec", fault)
        const ended = yield* Effect.result(
          Exec.toEnd(api, "box", command("echo one; sleep 0.05; echo two; exit 7"), question(effects))
        )
        assert.strictEqual(ended._tag === "Success" ? ended.success.exitCode : ended.failure.reason._tag, outcome)
        // It ran, and is not run again.
        assert.strictEqual(emulator.requests.count("exec"), 1)
      }).pipe(Effect.andThen(Effect.void))
    )
  }

  it.live("that is refused keeps status, time to wait and words, and neither token nor command", () =>
    Effect.gen(function* () {
      const { api, emulator } = yield* world()
      emulator.faults.inject(
        "exec",
        Fault.notReady(3),
        Fault.limited("concurrent_sprite_limit_exceeded", 4),
        Fault.echoing
      )
      const refused = () => Effect.flip(Exec.toEnd(api, "box", command("echo s3cret-word"), question(true)))
      const first = yield* refused()
      assert.deepStrictEqual([first.reason._tag, first.retryAfter], ["Unavailable", Duration.seconds(3)])
      assert.include(first.message, "process not ready")
      assert.isTrue(first.provesNotAccepted)
      const second = yield* refused()
      assert.deepStrictEqual([second.reason._tag, second.retryAfter], ["RateLimited", Duration.seconds(4)])
      assert.include(second.message, "concurrent_sprite_limit_exceeded")
      const third = yield* refused()
      assert.strictEqual(third.reason._tag, "Permission")
      for (const error of [first, second, third]) {
        assert.notInclude(JSON.stringify(error), emulator.token)
        assert.notInclude(JSON.stringify(error), "s3cret-word")
      }
      assert.deepStrictEqual(emulator.requests.find("s3cret-word"), [])
    })
  )

  it("does not run when only a part of it arrived", () => {
    const text = Exec.braced(`[ -e / ] || exit 97\necho first\nexec ${Exec.quoted(["echo", "second", "it's", ""])}\n`)
    for (let length = 0; length <= text.length; length++) {
      const { stdout } = ChildProcess.spawnSync("sh", ["-c", `eval "$(cat)"`], { input: text.slice(0, length) })
      // The end of the last line is not missed.
      assert.strictEqual(
        stdout.toString(),
        length < text.length - 1 ? "" : "first\nsecond it's \n",
        text.slice(0, length)
      )
    }
  })

  it.live("is told from one that never reached anybody", () =>
    Effect.gen(function* () {
      const server = Http.createServer()
      const origin = yield* Effect.promise(
        () =>
          new Promise<string>((resolve) =>
            server.listen(0, "127.0.0.1", () => {
              const address: AddressInfo | string | null = server.address()
              resolve(`http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`)
            })
          )
      )
      yield* Effect.promise(() => new Promise((resolve) => server.close(resolve)))
      const api = yield* apiOf(origin, "t")
      const error = yield* Effect.flip(Exec.toEnd(api, "box", command("true"), question(true)))
      assert.deepStrictEqual([error.reason._tag, error.provesNotAccepted], ["Unavailable", true])
    })
  )

  it.live("is held back by who does not read, and nothing of it is lost", () =>
    Effect.gen(function* () {
      const { api, sprite } = yield* world()
      const size = 32 << 20
      const output = Exec.run(api, "box", command(`head -c ${size} /dev/zero`), question(true))
      let total = 0
      const pull = yield* Stream.toPull(output)
      const take = Effect.map(pull, (frames) => {
        for (const frame of frames) if (frame._tag === "Output") total += frame.bytes.length
      })
      yield* take
      const [session] = sprite.sessions.values()
      // It stands still with most of it unsent: what is under way lies in the kernel's buffers.
      let before = -1
      yield* until("the command waits", () => {
        const now = session?.sent() ?? 0
        const stands = now === before
        before = now
        return stands && now > 0
      })
      assert.isBelow(session?.sent() ?? size, size / 2)
      assert.strictEqual(sprite.sessions.size, 1)
      yield* take.pipe(
        Effect.forever,
        Effect.catchTag("Done", () => Effect.void)
      )
      assert.strictEqual(total, size)
    }).pipe(Effect.scoped)
  )

  it.effect("may be silent for hours, because its connection answers pings", () =>
    Effect.gen(function* () {
      const { api, sprite } = yield* world()
      const fiber = yield* Effect.forkChild(
        Exec.run(
          api,
          "box",
          command("echo up; while [ ! -e go ]; do sleep 0.01; done; echo down"),
          question(true)
        ).pipe(Stream.runCollect)
      )
      yield* until("it runs", () => [...sprite.sessions.values()].some((session) => session.sent() > 0))
      const [session] = sprite.sessions.values()
      for (let asked = 0; asked < 360; asked++) {
        yield* TestClock.adjust("30 seconds")
        yield* until("a ping arrived", () => (session?.pings() ?? 0) > asked)
      }
      // Three hours.
      yield* Effect.promise(() => import("node:fs/promises").then((fs) => fs.writeFile(`${sprite.home}/go`, "")))
      const frames = yield* Fiber.join(fiber)
      assert.deepStrictEqual(frames.at(-1), { _tag: "Exit", code: 0 })
    })
  )

  it.effect("that says something lives, however long its answers to pings take behind that", () =>
    Effect.gen(function* () {
      const { api, sprite } = yield* world({ pongs: false })
      let bytes = 0
      const fiber = yield* Effect.forkChild(
        Stream.runForEach(
          Exec.run(api, "box", command("while [ ! -e go ]; do echo up; sleep 0.005; done; exit 3"), question(true)),
          (frame) => Effect.sync(() => (bytes += frame._tag === "Output" ? frame.bytes.length : 0))
        )
      )
      for (let asked = 0; asked < 5; asked++) {
        const before = bytes
        yield* until("it says something", () => bytes > before)
        yield* TestClock.adjust("30 seconds")
      }
      yield* Effect.promise(() => import("node:fs/promises").then((fs) => fs.writeFile(`${sprite.home}/go`, "")))
      yield* Fiber.join(fiber)
    })
  )

  it.effect("whose connection answers nothing is given up, and one that never opens", () =>
    Effect.gen(function* () {
      const { api, emulator } = yield* world()
      emulator.faults.inject("exec", Fault.deaf, Fault.hang)
      for (const [seconds, reason] of [
        [120, "OutcomeUnknown"],
        [61, "Timeout"]
      ] as const) {
        const before = emulator.requests.count("exec")
        const fiber = yield* Effect.forkChild(
          Effect.flip(Stream.runDrain(Exec.run(api, "box", command("sleep 5"), question(true))))
        )
        yield* until("it was asked", () => emulator.requests.count("exec") > before)
        // The connection is open once the first question about it is under way.
        if (reason === "OutcomeUnknown") yield* until("open", () => emulator.sprite("box").sessions.size > 0)
        yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 50)))
        yield* TestClock.adjust(Duration.seconds(seconds))
        assert.strictEqual((yield* Fiber.join(fiber)).reason._tag, reason)
      }
    })
  )

  it.live("leaves no connection and no process when it is interrupted", () =>
    Effect.gen(function* () {
      const { api, emulator, sprite } = yield* world()
      const fiber = yield* Effect.forkChild(
        Stream.runDrain(Exec.run(api, "box", command("echo up; exec sleep 100"), question(true)))
      )
      yield* until("it runs", () => [...sprite.sessions.values()].some((session) => session.sent() > 0))
      yield* Fiber.interrupt(fiber)
      yield* until("nothing holds the sprite", () => sprite.busy === 0)
      yield* until("the command is ended", () => sprite.sessions.size === 0)
      assert.strictEqual(emulator.requests.count("exec"), 1)
    })
  )
})
