/** The provider suite: machines, their files, ports and checkpoints. */
import type { Vitest } from "@effect/vitest"
import { assert } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Crypto from "node:crypto"
import { SandboxError, Unavailable } from "../../errors.ts"
import type { SandboxId } from "../../model/Ids.ts"
import type { Machine, MachineRef, SandboxProvider } from "../../services/SandboxProvider.ts"
import type { Options } from "./providers.ts"
import * as P from "./providers.ts"

type It = Vitest.MethodsNonLive<P.Subject>

const bytes = (text: string) => new TextEncoder().encode(text)

/** What a stream of content may fail with. */
const brokenSource = new SandboxError({
  operation: "suite",
  reason: new Unavailable({ accepted: "no", detail: "the source of the content broke" })
})

export const registerFiles = (it: It, options: Options): void => {
  const test = <A, E>(name: string, body: (machine: Machine) => Effect.Effect<A, E, P.Subject | Scope.Scope>) =>
    P.register(options, `files: ${name}`, (name) =>
      it.effect(name, () => Effect.flatMap(P.Subject, (subject) => body(subject.machine)), options.timeout ?? 30_000)
    )

  test("any bytes under any name, parents made", (machine) =>
    Effect.gen(function* () {
      const base = P.fresh("names")
      const files = [
        "plain",
        "-rf",
        "--",
        " ",
        "a b",
        "line\nbreak",
        "'\"`$x*?",
        "é\u{1F600}",
        ".hidden",
        "\\",
        "#"
      ].map((name) => ({
        path: `${base}/deep/${name}`,
        content: Crypto.randomBytes(1000)
      }))
      assert.deepStrictEqual(yield* machine.writeFiles(files), [])
      for (const { content, path } of files) {
        assert.isTrue((yield* P.readFile(machine, path)).equals(content))
        assert.isTrue((yield* P.readFile(machine, `${machine.workspaceRoot}/${path}`)).equals(content))
      }
      const seen = yield* P.sh(
        machine,
        `cat -- "$@"`,
        {},
        files.map(({ path }) => `./${path}`)
      )
      assert.strictEqual(P.sha256(seen.stdout), P.sha256(Buffer.concat(files.map(({ content }) => content))))
    }))

  test("empty, large and streamed content", (machine) =>
    Effect.gen(function* () {
      const base = P.fresh("sizes")
      const large = Crypto.randomBytes(5 << 20)
      const parts = Stream.fromIterable(
        Array.from({ length: 5 }, (_, index) => large.subarray(index << 20, (index + 1) << 20))
      )
      const failures = yield* machine.writeFiles([
        { path: `${base}/empty`, content: new Uint8Array(0) },
        { path: `${base}/large`, content: large },
        { path: `${base}/streamed`, content: parts }
      ])
      assert.deepStrictEqual(failures, [])
      assert.strictEqual((yield* P.readFile(machine, `${base}/empty`)).length, 0)
      assert.strictEqual(P.sha256(yield* P.readFile(machine, `${base}/large`)), P.sha256(large))
      assert.strictEqual(P.sha256(yield* P.readFile(machine, `${base}/streamed`)), P.sha256(large))
    }))

  test("modes: the given one, the one it had, the system's", (machine) =>
    Effect.gen(function* () {
      const path = P.fresh("mode")
      const modeOf = Effect.map(P.text(machine, `ls -l "$1"`, [path]), (line) => line.slice(0, 10))
      yield* machine.writeFiles([{ path, content: bytes("1"), mode: 0o750 }])
      assert.strictEqual(yield* modeOf, "-rwxr-x---")
      yield* machine.writeFiles([{ path, content: bytes("2") }])
      assert.strictEqual(yield* modeOf, "-rwxr-x---")
      assert.strictEqual((yield* P.readFile(machine, path)).toString(), "2")
    }))

  test("one that fails is whole as it was, and the others are written", (machine) =>
    Effect.gen(function* () {
      const base = P.fresh("failing")
      yield* P.writeFile(machine, `${base}/old`, "old")
      yield* P.text(machine, `mkdir "$1/directory"`, [base])
      const torn = Stream.concat(Stream.succeed(bytes("half")), Stream.fail(brokenSource))
      const failures = yield* machine.writeFiles([
        { path: `${base}/old`, content: torn },
        { path: `${base}/directory`, content: bytes("x") },
        { path: `${base}/old/below`, content: bytes("x") },
        { path: `${base}/nul\0`, content: bytes("x") },
        { path: `${base}/good`, content: bytes("good") }
      ])
      assert.deepStrictEqual(
        failures.map((failure) => [failure.path, P.reasonOf(failure.error)]),
        [
          [`${base}/old`, P.reasonOf(brokenSource)],
          [`${base}/directory`, "BadResource"],
          [`${base}/old/below`, "BadResource"],
          [`${base}/nul\0`, "BadArgument"]
        ]
      )
      assert.strictEqual((yield* P.readFile(machine, `${base}/old`)).toString(), "old")
      assert.strictEqual((yield* P.readFile(machine, `${base}/good`)).toString(), "good")
      // No half of anything is left beside them.
      assert.strictEqual(yield* P.text(machine, `ls -A "$1"`, [base]), "directory\ngood\nold\n")
    }))

  test("a missing file, a directory and a bad name are errors", (machine) =>
    Effect.gen(function* () {
      assert.strictEqual(yield* P.reason(P.readFile(machine, P.fresh("missing"))), "NotFound")
      assert.strictEqual(yield* P.reason(P.readFile(machine, "")), "NotFound")
      assert.strictEqual(yield* P.reason(P.readFile(machine, machine.workspaceRoot)), "BadResource")
      assert.strictEqual(yield* P.reason(P.readFile(machine, "a\0b")), "BadArgument")
      const file = P.fresh("file")
      yield* P.writeFile(machine, file, "x")
      assert.strictEqual(yield* P.reason(P.readFile(machine, `${file}/below`)), "BadResource")
    }))

  test("a write goes through a symlink", (machine) =>
    Effect.gen(function* () {
      const base = P.fresh("link")
      yield* P.text(machine, `mkdir "$1"; echo old > "$1/target"; ln -s target "$1/link"; ln -s new "$1/dangling"`, [
        base
      ])
      yield* P.writeFile(machine, `${base}/link`, "through")
      yield* P.writeFile(machine, `${base}/dangling`, "created")
      assert.strictEqual((yield* P.readFile(machine, `${base}/target`)).toString(), "through")
      assert.strictEqual((yield* P.readFile(machine, `${base}/new`)).toString(), "created")
    }))
}

/** The machine after a checkpoint: where that ends the processes, it is the next boot. */
const afterCheckpoint = (provider: SandboxProvider, machine: Machine, sandboxId: SandboxId) =>
  provider.capabilities.checkpoints !== false && provider.capabilities.checkpoints.stopsProcesses
    ? provider.connect(machine.ref, { sandboxId, boot: true })
    : Effect.succeed(machine)

export const registerLife = (it: It, options: Options): void => {
  const { capabilities } = options
  const test = <A, E>(name: string, body: () => Effect.Effect<A, E, P.Subject | Scope.Scope>) =>
    P.register(options, name, (name) => it.effect(name, body, options.timeout ?? 60_000))

  test("the capabilities are what they are expected to be", () =>
    Effect.gen(function* () {
      const { machine, provider } = yield* P.Subject
      assert.deepStrictEqual(provider.capabilities, capabilities)
      assert.strictEqual(Option.isSome(provider.checkpoints), capabilities.checkpoints !== false)
      assert.strictEqual(Option.isSome(machine.createCheckpoint), capabilities.checkpoints !== false)
      assert.strictEqual(Option.isSome(machine.extendTimeout), capabilities.extendTimeout)
      assert.strictEqual(Option.isSome(machine.portUrl), capabilities.ports > 0)
    }))

  test("a machine is found by its tag and its namespace, and not by others", () =>
    Effect.gen(function* () {
      const { created, machine, provider } = yield* P.machineFor()
      const found = yield* Stream.runCollect(provider.find(created.sandboxId))
      assert.deepStrictEqual(
        found.map((info) => [info.ref, info.sandboxId, info.running]),
        [[machine.ref, created.sandboxId, true]]
      )
      const listed = yield* Stream.runCollect(provider.list(created.namespace))
      assert.isTrue(listed.some((info) => info.ref.externalId === machine.ref.externalId))
      assert.deepStrictEqual(yield* Stream.runCollect(provider.list(P.fresh("other"))), [])
      assert.deepStrictEqual(yield* Stream.runCollect(provider.find(P.newSandboxId())), [])
    }))

  test("connect yields the same running machine", () =>
    Effect.gen(function* () {
      const { created, machine, provider } = yield* P.machineFor()
      yield* P.writeFile(machine, "kept", "here")
      const again = yield* provider.connect(machine.ref, { sandboxId: created.sandboxId, boot: false })
      assert.deepStrictEqual(again.ref, machine.ref)
      assert.strictEqual((yield* P.readFile(again, "kept")).toString(), "here")
    }))

  test("a machine that never was is Gone", () =>
    Effect.gen(function* () {
      const { created, machine, provider } = yield* P.machineFor()
      yield* provider.stop(machine.ref, "delete")
      for (const boot of [false, true]) {
        assert.strictEqual(
          yield* P.reason(provider.connect(machine.ref, { sandboxId: created.sandboxId, boot })),
          P.tag("Gone")
        )
      }
    }))

  if (capabilities.persistent) {
    test("stop ends the processes, keeps the disk, and can be repeated; a boot is a new incarnation", () =>
      Effect.gen(function* () {
        const { created, machine, provider } = yield* P.machineFor({ persistent: true })
        const { sandboxId } = created
        yield* P.writeFile(machine, "kept", "here")
        const seen = yield* P.observe(yield* P.startSh(machine, P.staying(options)))
        yield* seen.until(() => seen.stdout().endsWith("\n"))
        yield* machine.stop("stop")
        yield* machine.stop("stop")
        yield* provider.stop(machine.ref, "stop")
        yield* Effect.exit(seen.process.exit)
        assert.strictEqual(
          yield* P.reason(provider.connect(machine.ref, { sandboxId, boot: false })),
          P.tag("NotRunning")
        )
        assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("NotRunning"))
        const [stopped] = yield* Stream.runCollect(provider.find(sandboxId))
        assert.strictEqual(stopped?.running, false)

        const booted = yield* provider.connect(machine.ref, { sandboxId, boot: true })
        assert.notStrictEqual(booted.ref.incarnation, machine.ref.incarnation)
        assert.strictEqual((yield* P.readFile(booted, "kept")).toString(), "here")
        yield* P.assertGone(booted, seen.stdout().trim().split(" "))

        // The old handle must not touch the new machine.
        const old: ReadonlyArray<Effect.Effect<unknown, P.Failure, Scope.Scope>> = [
          P.run(machine, "true"),
          P.run(machine, "true", [], { lifetime: "recorded" }),
          P.readFile(machine, "kept"),
          machine.writeFiles([{ path: "kept", content: bytes("overwritten") }]),
          machine.findProcess(P.newProcessId()),
          machine.stop("delete")
        ]
        for (const operation of old) assert.strictEqual(yield* P.reason(Effect.scoped(operation)), P.tag("Superseded"))
        assert.strictEqual((yield* P.readFile(booted, "kept")).toString(), "here")
        assert.strictEqual(
          yield* P.reason(provider.connect(machine.ref, { sandboxId, boot: false })),
          P.tag("Superseded")
        )
      }))
  }

  test("deleting is for good, and can be repeated", () =>
    Effect.gen(function* () {
      const { created, machine, provider } = yield* P.machineFor()
      yield* machine.stop("delete")
      yield* machine.stop("delete")
      yield* provider.stop(machine.ref, "delete")
      assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("Gone"))
      assert.deepStrictEqual(yield* Stream.runCollect(provider.find(created.sandboxId)), [])
    }))

  test("one that is not persistent is gone after its stop, and can be made again under its id", () =>
    Effect.gen(function* () {
      const { created, machine, provider } = yield* P.machineFor({ persistent: false })
      const { sandboxId } = created
      yield* P.writeFile(machine, "lost", "x")
      yield* machine.stop("stop")
      assert.strictEqual(yield* P.reason(provider.connect(machine.ref, { sandboxId, boot: true })), P.tag("Gone"))
      const next = yield* provider.create({ ...created, version: created.version + 1 })
      yield* Effect.addFinalizer(() => Effect.orDie(provider.stop(next.ref, "delete")))
      assert.notStrictEqual(next.ref.incarnation, machine.ref.incarnation)
      assert.strictEqual(yield* P.reason(P.readFile(next, "lost")), "NotFound")
      assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("Superseded"))
    }))

  if (capabilities.ports > 0) {
    test("only the ports of the config have a url", () =>
      Effect.gen(function* () {
        const { machine } = yield* P.machineFor({ ports: [8080] })
        const portUrl = yield* P.power(machine.portUrl)
        const { port, url } = yield* portUrl(8080)
        assert.strictEqual(port, 8080)
        assert.match(url, /^https?:\/\//)
        assert.strictEqual(yield* P.reason(portUrl(8081)), P.tag("PortNotExposed"))
      }))
  }

  if (capabilities.extendTimeout) {
    test("a lease is set to end that much later than now", () =>
      Effect.gen(function* () {
        const { machine } = yield* P.machineFor({ timeout: Duration.minutes(5) })
        const extend = yield* P.power(machine.extendTimeout)
        const before = yield* Clock.currentTimeMillis
        const end = yield* extend(Duration.minutes(10))
        assert.isAtLeast(end, before + 600_000)
        assert.isAtMost(end, (yield* Clock.currentTimeMillis) + 605_000)
        assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
      }))
  }

  if (capabilities.checkpoints !== false) registerCheckpoints(test, options, capabilities.checkpoints)
}

type Test = <A, E>(name: string, body: () => Effect.Effect<A, E, P.Subject | Scope.Scope>) => void

/** Names, kinds, modes, targets and contents of everything in the workspace. */
const fingerprint = (machine: Machine) =>
  P.text(
    machine,
    `find . | LC_ALL=C sort | while read -r f; do ls -ld -- "$f" | cut -c1-10; echo "$f"; [ -f "$f" ] && cat -- "$f"; [ -L "$f" ] && readlink "$f"; done; :`
  )

const registerCheckpoints = (test: Test, options: Options, flags: { readonly comments: boolean }): void => {
  test("checkpoints bring files back as they were", () =>
    Effect.gen(function* () {
      const { created, machine: original, provider } = yield* P.machineFor()
      const { sandboxId } = created
      const checkpoints = yield* P.power(provider.checkpoints)
      const made: Array<string> = []
      /** A vendor may list what it saves of its own accord, too. */
      const listed = (ref: MachineRef) =>
        Effect.map(Stream.runCollect(checkpoints.list(sandboxId, Option.some(ref))), (all) =>
          all.filter((checkpoint) => made.includes(checkpoint.id))
        )
      const save = Effect.fnUntraced(function* (machine: Machine, comment?: string) {
        const create = yield* P.power(machine.createCheckpoint)
        const checkpoint = yield* create(comment === undefined ? {} : { comment })
        made.push(checkpoint.id)
        return { checkpoint, machine: yield* afterCheckpoint(provider, machine, sandboxId) }
      })
      yield* P.text(
        original,
        `mkdir -p d/e; echo one > d/e/f; chmod 750 d; chmod 640 d/e/f; ln -s e/f d/link; printf 'a\\000b' > 'odd name'; : > empty`
      )
      const before = yield* fingerprint(original)
      const { checkpoint: first, machine: after } = yield* save(original, "first")
      assert.strictEqual(yield* fingerprint(after), before)
      yield* P.text(after, "echo two > d/e/f; rm d/link empty; echo new > new; mkdir other")
      const { checkpoint: second, machine } = yield* save(after)
      const both = yield* listed(machine.ref)
      assert.deepStrictEqual(
        both.map((checkpoint) => checkpoint.id),
        [second.id, first.id]
      )
      if (flags.comments) assert.strictEqual(both[1]?.comment, "first")
      assert.strictEqual(first.sandboxId, sandboxId)

      const restored = yield* checkpoints.restore(first.id, { ...created, version: 2 }, Option.some(machine.ref))
      assert.notStrictEqual(restored.ref.incarnation, machine.ref.incarnation)
      assert.strictEqual(yield* fingerprint(restored), before)
      assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("Superseded"))

      // What was restored can be changed without changing what was saved.
      yield* P.text(restored, "echo changed > d/e/f")
      const again = yield* checkpoints.restore(first.id, { ...created, version: 3 }, Option.some(restored.ref))
      assert.strictEqual(yield* fingerprint(again), before)
      const later = yield* checkpoints.restore(second.id, { ...created, version: 4 }, Option.some(again.ref))
      assert.strictEqual((yield* P.readFile(later, "d/e/f")).toString(), "two\n")

      yield* checkpoints.remove(first.id, sandboxId, Option.some(later.ref))
      assert.deepStrictEqual(
        (yield* listed(later.ref)).map((checkpoint) => checkpoint.id),
        [second.id]
      )
      const missing = [
        checkpoints.remove(first.id, sandboxId, Option.some(later.ref)),
        checkpoints.restore(first.id, { ...created, version: 5 }, Option.some(later.ref)),
        checkpoints.restore("../..", { ...created, version: 5 }, Option.some(later.ref))
      ]
      for (const attempt of missing) assert.strictEqual(yield* P.reason(attempt), P.tag("NotFound"))
      // A restore that was refused has stopped nothing.
      assert.deepStrictEqual((yield* P.run(later, "true")).exit, P.exited(0))
    }))

  test("a restore ends the processes", () =>
    Effect.gen(function* () {
      const { created, machine: original, provider } = yield* P.machineFor()
      const checkpoints = yield* P.power(provider.checkpoints)
      const checkpoint = yield* (yield* P.power(original.createCheckpoint))({})
      const machine = yield* afterCheckpoint(provider, original, created.sandboxId)
      const seen = yield* P.observe(yield* P.startSh(machine, P.staying(options)))
      yield* seen.until(() => seen.stdout().endsWith("\n"))
      const restored = yield* checkpoints.restore(checkpoint.id, { ...created, version: 2 }, Option.some(machine.ref))
      yield* P.assertGone(restored, seen.stdout().trim().split(" "))
    }))
}
