import { assert, describe, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Effect, Fiber, Redacted, Schedule, Stream } from "effect"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { Decoder, parse } from "../../../src/layers/internal/launcher/frames.ts"
import { evaluate, script } from "../../../src/layers/internal/launcher/script.ts"
import type { MachineProcess, StartCommand } from "../../../src/services/SandboxProvider.ts"
import { newProcessId } from "../../../src/testing/internal/stores.ts"
import type { Fault, Loopback } from "../../support/loopback.ts"
import { full, some } from "../../support/full.ts"
import { commandLineOf, eventually, guests, isInstalled, loopback, unavailable } from "../../support/loopback.ts"

const guest = guests.find(isInstalled)
if (guest === undefined) throw new Error("no shell is installed")

const collect = Effect.fnUntraced(function* (process: MachineProcess) {
  const parts: Record<"stdout" | "stderr", Array<Uint8Array>> = { stdout: [], stderr: [] }
  const next = { stdout: 0, stderr: 0 }
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

const start = (guest: Loopback, script: string, fields: Partial<StartCommand> = {}) =>
  guest.launcher.start({
    processId: newProcessId(),
    lifetime: "scoped",
    stdin: false,
    ...fields,
    command: "sh",
    args: ["-c", script]
  })

const sh = (guest: Loopback, script: string, fields: Partial<StartCommand> = {}) =>
  Effect.scoped(Effect.flatMap(start(guest, script, fields), (process) => collect(process)))

const reasonOf = (error: { readonly reason: { readonly _tag: string } }): string => error.reason._tag

const linesOf = (guest: Loopback, name: string): ReadonlyArray<string> => {
  const path = Path.join(guest.work, name)
  return Fs.existsSync(path) ? Fs.readFileSync(path, "utf8").split("\n").slice(0, -1) : []
}

const test = <A, E>(
  name: string,
  body: (guest: Loopback) => Effect.Effect<A, E, Scope.Scope>,
  given: Parameters<typeof loopback>[1] = {}
) => it.live(name, () => Effect.scoped(Effect.flatMap(loopback(guest, given), body)), 60_000)

/** A generator of numbers below 1 with a seed, so that a failure can be seen again. */
const seeded = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}

const everything = (stream: Parameters<Fault>[0]) =>
  Effect.map(Stream.runCollect(stream), (pieces) => Buffer.concat(pieces).toString("latin1"))

describe("a transport with faults", () => {
  const shared = { cut: Number.POSITIVE_INFINITY, length: 0 }
  test(
    `cut at every ${full ? "" : "third "}byte, it delivers every byte once, of a command that ran once`,
    (guest) =>
      Effect.gen(function* () {
        const script = "echo x >>count; printf abc; printf de >&2; exit 3"
        yield* sh(guest, script)
        const { length } = shared
        assert.isAbove(length, 50)
        const cuts = Array.from({ length: length + 1 }, (_, cut) => cut).filter((cut) => full || cut % 3 === length % 3)
        for (const cut of cuts) {
          shared.cut = cut
          const result = yield* sh(guest, script)
          assert.strictEqual(`${result.stdout.toString()} ${result.stderr.toString()}`, "abc de", `cut at ${cut}`)
          assert.deepStrictEqual(result.exit, { _tag: "Exited", code: 3 })
        }
        assert.strictEqual(linesOf(guest, "count").length, 1 + cuts.length)
      }),
    {
      fault: (stream, _index, argv) => {
        if (!argv.includes("run")) return stream
        const { cut } = shared
        shared.cut = Number.POSITIVE_INFINITY
        return Stream.unwrap(
          Effect.map(everything(stream), (text) => {
            shared.length = text.length
            const rest = cut > text.length ? Stream.empty : Stream.fail(unavailable())
            return Stream.concat(Stream.make(text.slice(0, cut)), rest)
          })
        )
      }
    }
  )

  for (const seed of some([1, 2], [3, 4, 5, 6])) {
    const random = seeded(seed)
    let history = ""
    test(
      `replayed, doubled, torn, bitten and cut, seed ${seed}: every byte arrives once`,
      (guest) =>
        Effect.gen(function* () {
          const bytes = Crypto.createHash("shake256", { outputLength: 300_000 }).update(String(seed)).digest()
          Fs.writeFileSync(Path.join(guest.work, "bytes"), bytes)
          const result = yield* sh(guest, "cat bytes; cat bytes >&2; exit 7")
          assert.isTrue(result.stdout.equals(bytes))
          assert.isTrue(result.stderr.equals(bytes))
          assert.deepStrictEqual(result.exit, { _tag: "Exited", code: 7 })
          assert.isAbove(guest.counts.stream, 1)
        }),
      {
        fault: (stream, index) =>
          Stream.unwrap(
            Effect.map(everything(stream), (text) => {
              const lines = text.split("\n").flatMap((line) => (random() < 0.3 ? [line, line] : [line]))
              let sent = history + lines.join("\n")
              history += text
              if (index < 12) {
                if (random() < 0.7) {
                  const at = Math.floor(random() * sent.length)
                  sent = sent.slice(0, at) + sent.slice(at + 1 + Math.floor(random() * 5_000))
                }
                sent = sent.slice(0, Math.floor(random() * sent.length * 1.2))
              }
              const pieces: Array<Uint8Array> = []
              for (let at = 0; at < sent.length;) {
                const size = 1 + Math.floor(random() * (random() < 0.1 ? 5 : 20_000))
                pieces.push(Buffer.from(sent.slice(at, at + size), "latin1"))
                at += size
              }
              return Stream.fromIterable(pieces)
            })
          )
      }
    )
  }

  test(
    "a start whose answer was lost is not started again",
    (guest) =>
      Effect.gen(function* () {
        for (const lifetime of ["scoped", "recorded"] as const) {
          const result = yield* sh(guest, "echo x >>count; echo out; exit 5", { lifetime })
          assert.strictEqual(result.stdout.toString(), "out\n")
          assert.deepStrictEqual(result.exit, { _tag: "Exited", code: 5 })
        }
        assert.strictEqual(linesOf(guest, "count").length, 2)
        // Sent twice, the scoped one may come a third time: it stays, so that nothing starts then.
        yield* guest.launcher.cleanUp
        assert.strictEqual(guest.left().length, 2)
      }),
    {
      fault: (stream, index) =>
        index % 2 === 0 ? Stream.concat(Stream.drain(stream), Stream.fail(unavailable())) : stream
    }
  )

  test(
    "a start that never arrived is started by the next attempt",
    (guest) =>
      Effect.gen(function* () {
        const env = { SECRET: Redacted.make("s") }
        const result = yield* sh(guest, `echo x >>count; printf %s "$SECRET"`, { env })
        assert.strictEqual(result.stdout.toString(), "s")
        assert.strictEqual(linesOf(guest, "count").length, 1)
      }),
    { fault: (stream, index) => (index < 3 ? Stream.fail(unavailable(index === 0 ? "unknown" : "no")) : stream) }
  )

  test(
    "a start of which nothing can be learned is OutcomeUnknown; one that was surely not taken is that failure",
    (guest) =>
      Effect.gen(function* () {
        const recorded = { lifetime: "recorded", env: { SECRET: Redacted.make("s") } } as const
        assert.strictEqual(reasonOf(yield* Effect.flip(sh(guest, "true", { lifetime: "recorded" }))), "OutcomeUnknown")
        sure = true
        assert.strictEqual(reasonOf(yield* Effect.flip(sh(guest, "true", recorded))), "Unavailable")
        assert.deepStrictEqual(guest.left(), [], "the secrets of a start that was not taken are gone")
      }),
    {
      options: { retry: Schedule.recurs(2) },
      fault: () => Stream.suspend(() => Stream.fail(unavailable(sure ? "no" : "unknown")))
    }
  )
  let sure = false

  let late: Parameters<Fault>[0] = Stream.empty
  test(
    "a start that is interrupted before it arrives never starts, however late it arrives",
    (guest) =>
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(sh(guest, "echo x >>count", { env: { SECRET: Redacted.make("s") } }))
        yield* eventually("it was sent", () => guest.counts.stream === 1)
        yield* Fiber.interrupt(fiber)
        const text = yield* everything(late)
        assert.match(text, / fail cancel - \.\n$/)
        assert.deepStrictEqual(linesOf(guest, "count"), [])
        assert.deepStrictEqual(
          guest.left().filter((name) => name.includes("secret")),
          []
        )
      }),
    {
      fault: (stream) => {
        late = stream
        return Stream.never
      }
    }
  )

  test(
    "a start that is interrupted while its answer is lost is killed",
    (guest) =>
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(sh(guest, "echo $$ >>pid; sleep 300"))
        yield* eventually("it runs", () => linesOf(guest, "pid").length === 1)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(commandLineOf(linesOf(guest, "pid")[0] ?? ""), "")
      }),
    { fault: (stream) => Stream.concat(Stream.drain(stream), Stream.never) }
  )

  test(
    "a silent process is asked for as often as the transport is cut",
    (guest) =>
      Effect.gen(function* () {
        const process = yield* start(guest, "while [ ! -e go ]; do sleep 0.05; done; echo x >>count; exit 6")
        yield* eventually("it was cut more often than failures are borne", () => guest.counts.stream === 4)
        Fs.writeFileSync(Path.join(guest.work, "go"), "")
        assert.deepStrictEqual((yield* collect(process)).exit, { _tag: "Exited", code: 6 })
        assert.strictEqual(linesOf(guest, "count").length, 1)
      }),
    {
      options: { retry: Schedule.recurs(1) },
      fault: (stream, index) =>
        index === 3
          ? stream
          : Stream.concat(
              Stream.takeUntil(stream, (piece) => Buffer.from(piece).includes("start")),
              Stream.fail(unavailable())
            )
    }
  )

  const heard: Array<string> = []
  test(
    "of a quiet process something is heard, so that a connection that has died can be told",
    (guest) =>
      Effect.gen(function* () {
        const process = yield* start(guest, "while [ ! -e go ]; do sleep 0.05; done; exit 6")
        yield* eventually("it says so again and again", () => heard.join("").split(" on .\n").length > 2)
        Fs.writeFileSync(Path.join(guest.work, "go"), "")
        assert.deepStrictEqual((yield* collect(process)).exit, { _tag: "Exited", code: 6 })
      }),
    {
      // Every other look at its directory, instead of every twelve seconds.
      options: { program: { boot: evaluate, text: script.replace("$_beat -ge 40", "$_beat -ge 2") } },
      fault: (stream) => Stream.tap(stream, (piece) => Effect.sync(() => heard.push(Buffer.from(piece).toString())))
    }
  )

  test("the end is seen also by who reads no output, if there is little", (guest) =>
    Effect.gen(function* () {
      const process = yield* start(guest, "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.05; done; exit 8")
      assert.deepStrictEqual(yield* process.exit, { _tag: "Exited", code: 8 })
      assert.strictEqual((yield* collect(process)).stdout.toString(), "1\n2\n3\n4\n5\n6\n7\n8\n")
    }))

  test(
    "what the vendor must be told while a recorded process is open is told until it ends",
    (guest) =>
      Effect.gen(function* () {
        const process = yield* start(guest, "while [ ! -e go ]; do sleep 0.05; done", { lifetime: "recorded" })
        yield* eventually("it was told twice", () => linesOf(guest, "awake").length >= 2)
        Fs.writeFileSync(Path.join(guest.work, "go"), "")
        assert.deepStrictEqual(yield* process.exit, { _tag: "Exited", code: 0 })
        assert.deepStrictEqual([...new Set(linesOf(guest, "awake"))], ["it's"])
      }),
    { options: { keepAwake: { argv: ["sh", "-c", `echo "$1" >>awake`, "sh", "it's"], everySeconds: 1 } } }
  )
})

describe("frames", () => {
  const whole = 'n 1 0 YWJj 3\nnoise\nn 2 5 ZA== 6\nn exit {"code":0,"out":3,"err":6} .\n'

  it("are the same however the transport cuts them", () => {
    const expected = new Decoder("n").push(whole)
    assert.deepStrictEqual(
      expected.map((frame) => frame.type),
      ["output", "output", "exit"]
    )
    for (let at = 0; at <= whole.length; at++) {
      const decoder = new Decoder("n")
      assert.deepStrictEqual(
        [...decoder.push(whole.slice(0, at)), ...decoder.push(Buffer.from(whole.slice(at)))],
        expected
      )
    }
  })

  it("that are not whole are none", () => {
    for (const line of whole.split("\n")) {
      for (let at = 0; at < line.length; at++) assert.isUndefined(parse("n", line.slice(0, at)), line.slice(0, at))
    }
    for (const line of [
      "x 1 0 YWJj 3",
      "n 1 0 YWJj 4",
      "n 1 0 Y*Jj 3",
      "n 1 1 YWJj 3",
      "n 1 0 YWJj 3 4",
      "n in x .",
      ""
    ]) {
      assert.isUndefined(parse("n", line), line)
    }
  })

  it("of no end are not kept", () => {
    const decoder = new Decoder("n")
    for (let times = 0; times < 5; times++) assert.deepStrictEqual(decoder.push("x".repeat(1_000_000)), [])
    assert.deepStrictEqual(decoder.push(`\n${whole}`).length, 3)
  })
})
