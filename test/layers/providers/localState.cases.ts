/** What only the local provider has: its directory on disk, its cookies, its refusals. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Redacted, Stream } from "effect"
import * as ChildProcess from "effect/process/ChildProcess"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Vm from "node:vm"
import * as Local from "../../../src/layers/providers/Local.ts"
import * as State from "../../../src/layers/providers/local/state.ts"
import { ProviderRegistry } from "../../../src/services/ProviderRegistry.ts"
import * as P from "../../../src/testing/internal/providers.ts"
import {
  brief,
  create,
  directoryOf,
  eventually,
  fresh,
  localRoot,
  processesOf,
  provider,
  ready,
  service
} from "./support/local.ts"

const json = (path: string): Record<string, unknown> => JSON.parse(Fs.readFileSync(path, "utf8"))

describe("local: state", () => {
  it.live("everything on disk is this user's alone", () =>
    Effect.gen(function* () {
      const { created, local, root, sandboxId } = yield* fresh
      const secret = yield* create(local, { env: { PLAIN: "p", TOKEN: Redacted.make("s3cret") } })
      const env = Path.join(directoryOf(root, secret.sandboxId), "env.json")
      assert.strictEqual(Fs.statSync(env).mode & 0o777, 0o600)
      assert.deepStrictEqual(json(env), { PLAIN: "p", TOKEN: "s3cret" })
      for (const path of [root, directoryOf(root, sandboxId), Path.join(directoryOf(root, sandboxId), "workspace")]) {
        assert.strictEqual(Fs.statSync(path).mode & 0o777, 0o700, path)
      }
      // The secret is in the one file that is the vendor's storage here, and nowhere else.
      const state = Fs.readFileSync(Path.join(directoryOf(root, secret.sandboxId), "sandbox.json"), "utf8")
      assert.notInclude(state, "s3cret")
      assert.strictEqual(json(Path.join(directoryOf(root, sandboxId), "sandbox.json")).namespace, created.namespace)
    })
  )

  it.live("whoever is killed by the end of a lease learns that, before and after it is written down", () =>
    Effect.gen(function* () {
      const { root, sandboxId } = yield* fresh
      const directory = directoryOf(root, sandboxId)
      const state = json(Path.join(directory, "sandbox.json"))
      const paths = State.inside(directory)
      const end = (incarnation: string, fields: object) => {
        Fs.writeFileSync(paths.state, JSON.stringify({ ...state, ...fields }))
        return State.endOf(paths, incarnation)
      }
      const incarnation = String(state.incarnation)
      assert.strictEqual(end(incarnation, { deadline: 1 }), undefined)
      Fs.rmSync(paths.run, { recursive: true })
      assert.strictEqual(end(incarnation, { deadline: 1 }), "timeout")
      assert.strictEqual(end(incarnation, { deadline: 2 ** 52 }), "stop")
      assert.strictEqual(end(incarnation, { ended: { at: 1, reason: "timeout" } }), "timeout")
      assert.strictEqual(end(incarnation, { ended: { at: 1, reason: "stop" } }), "stop")
      assert.strictEqual(end("another", { deadline: 1 }), "stop")
    })
  )

  it.live("an isolation that nobody has chosen is refused, also without types", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      for (const isolation of [undefined, "nonsense"]) {
        // What JavaScript can pass.
        const error = yield* Effect.flip(Local.make({ root, isolation: isolation as "none" }))
        assert.strictEqual(error.reason._tag, "InvalidArgument")
        assert.include(error.message, "isolation")
      }
    })
  )

  it.live("the environment of a command is clean", () =>
    Effect.gen(function* () {
      const { machine } = yield* fresh
      const names = (yield* P.run(machine, "env")).stdout
        .toString()
        .split("\n")
        .map((line) => line.split("=")[0])
        .sort()
      const allowed = ["EFFECT_SANDBOX_COOKIE", "HOME", "LANG", "PATH", "TERM", "TMPDIR"]
      for (const name of names) if (name !== "") assert.include(allowed, name)
      const only = yield* P.run(machine, "/usr/bin/env", [], { env: { A: "b" }, extendEnv: false })
      assert.match(only.stdout.toString(), /^(A=b\nEFFECT_SANDBOX_COOKIE=.*\n|EFFECT_SANDBOX_COOKIE=.*\nA=b\n)$/)
      const home = yield* P.text(machine, `printf '%s %s' "$HOME" "$TMPDIR"; : > "$TMPDIR/x"`)
      assert.strictEqual(home, `${machine.workspaceRoot} ${Path.join(machine.workspaceRoot, "../tmp")}`)
    })
  )

  it.live("what cannot be started has the reason that Effect's own spawner gives", () =>
    Effect.gen(function* () {
      const { machine } = yield* fresh
      yield* P.text(machine, ": > plain; mkdir directory")
      const commands: ReadonlyArray<readonly [string, string | undefined]> = [
        ["no-such-program", undefined],
        ["/no/such/program", undefined],
        [`${machine.workspaceRoot}/plain`, undefined],
        [`${machine.workspaceRoot}/directory`, undefined],
        ["true", `${machine.workspaceRoot}/missing`]
      ]
      for (const [command, cwd] of commands) {
        const theirs = yield* P.reason(
          Effect.scoped(ChildProcess.make(command, [], cwd === undefined ? {} : { cwd })).pipe(
            Effect.provide(NodeServices.layer)
          )
        )
        const fields = cwd === undefined ? {} : { cwd }
        assert.strictEqual(yield* P.reason(P.run(machine, command, [], fields)), theirs)
        assert.strictEqual(yield* P.reason(P.run(machine, command, [], { ...fields, lifetime: "recorded" })), theirs)
      }
    })
  )

  it.live("a workspace that vanished is Gone, a data directory that vanished is not", () =>
    Effect.gen(function* () {
      const { local, machine, root, sandboxId } = yield* fresh
      const connect = local.connect(machine.ref, { sandboxId, boot: true })
      const moved = `${root}.moved`
      Fs.renameSync(root, moved)
      assert.strictEqual(yield* P.reason(connect), P.tag("Unavailable"))
      assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("Unavailable"))
      Fs.rmSync(root, { recursive: true, force: true })
      Fs.renameSync(moved, root)
      assert.deepStrictEqual((yield* P.run(machine, "true")).exit, P.exited(0))
      Fs.rmSync(machine.workspaceRoot, { recursive: true })
      assert.strictEqual(yield* P.reason(connect), P.tag("Gone"))
      assert.strictEqual(yield* P.reason(P.run(machine, "true")), P.tag("Gone"))
    })
  )

  it.live("a create over a machine that stands changes nothing", () =>
    Effect.gen(function* () {
      const { created, local, machine } = yield* fresh
      yield* P.writeFile(machine, "kept", "x")
      assert.strictEqual(yield* P.reason(local.create(created)), P.tag("NameInUse"))
      assert.strictEqual((yield* P.readFile(machine, "kept")).toString(), "x")
    })
  )

  it.live("a directory without our marker is never touched", () =>
    Effect.gen(function* () {
      const { created, local, root } = yield* fresh
      const sandboxId = P.newSandboxId()
      const directory = directoryOf(root, sandboxId)
      Fs.mkdirSync(directory)
      Fs.writeFileSync(Path.join(directory, "precious"), "x")
      assert.strictEqual(yield* P.reason(local.create({ ...created, sandboxId })), P.tag("NameInUse"))
      yield* local.stop({ externalId: `local:${sandboxId}`, incarnation: "x" }, "delete")
      assert.deepStrictEqual(Fs.readdirSync(directory), ["precious"])
      assert.deepStrictEqual(yield* Stream.runCollect(local.find(sandboxId)), [])
    })
  )

  it.live("deleting follows no symlink and gets past modes", () =>
    Effect.gen(function* () {
      const { machine, root, sandboxId } = yield* fresh
      const outside = Path.join(root, "outside")
      Fs.mkdirSync(outside)
      Fs.writeFileSync(Path.join(outside, "precious"), "x")
      yield* P.text(
        machine,
        `ln -s "$1" link; mkdir -p locked/deep; : > locked/deep/file; chmod 000 locked/deep locked`,
        [outside]
      )
      yield* machine.stop("delete")
      assert.isFalse(Fs.existsSync(directoryOf(root, sandboxId)))
      assert.deepStrictEqual(Fs.readdirSync(outside), ["precious"])
      assert.deepStrictEqual(Fs.readdirSync(Path.join(root, "scratch")), [])
    })
  )

  it.live("a listing fails rather than leave out what it cannot read", () =>
    Effect.gen(function* () {
      const { created, local, root, sandboxId } = yield* fresh
      yield* create(local)
      Fs.writeFileSync(Path.join(root, "sandboxes", "not-an-id"), "x")
      assert.lengthOf(yield* Stream.runCollect(local.list(created.namespace)), 2)
      Fs.writeFileSync(Path.join(directoryOf(root, sandboxId), "sandbox.json"), `{"kind":`)
      const error = yield* Effect.flip(Stream.runCollect(local.list(created.namespace)))
      assert.deepInclude(error.reason, { _tag: "Store", kind: "Malformed" })
    })
  )

  it.live("an id of somebody else's is NotFound, not Gone", () =>
    Effect.gen(function* () {
      const { local, machine, sandboxId } = yield* fresh
      const connect = (externalId: string) =>
        P.reason(local.connect({ ...machine.ref, externalId }, { sandboxId, boot: true }))
      for (const id of ["vercel-name", "local:../..", `local:${P.newSandboxId()}`]) {
        assert.strictEqual(yield* connect(id), P.tag("NotFound"))
      }
    })
  )

  it.live("two that boot at once get the same machine", () =>
    Effect.gen(function* () {
      const { local, machine, root, sandboxId } = yield* fresh
      const other = yield* provider(root)
      yield* machine.stop("stop")
      const [one, two] = yield* Effect.all(
        [local, other].map((each) => each.connect(machine.ref, { sandboxId, boot: true })),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(one?.ref, two?.ref)
      assert.lengthOf(Fs.readdirSync(Path.join(directoryOf(root, sandboxId), "run")), 1)
    })
  )

  it.live("a lock whose owner is dead holds nobody up", () =>
    Effect.gen(function* () {
      const { machine, root, sandboxId } = yield* fresh
      Fs.symlinkSync("token.4194999.AAAAAAAAAAAA", Path.join(directoryOf(root, sandboxId), "lock"))
      yield* machine.stop("stop")
      assert.isFalse(Fs.existsSync(Path.join(directoryOf(root, sandboxId), "lock")))
    })
  )

  it.live("resolve refuses what it cannot give", () =>
    Effect.gen(function* () {
      const { local } = yield* fresh
      const refused = (config: Parameters<typeof local.resolve>[0]) => P.reason(local.resolve(config))
      assert.strictEqual(yield* refused({ resources: { vcpus: 10_000 } }), P.tag("InvalidConfig"))
      assert.strictEqual(yield* refused({ local: { isolation: "bubblewrap" } }), P.tag("UnsupportedCapability"))
      assert.strictEqual(yield* refused({ local: { network: "none" } }), P.tag("UnsupportedCapability"))
      assert.strictEqual(yield* refused({ local: { readOnlyPaths: ["/opt"] } }), P.tag("UnsupportedCapability"))
      assert.deepStrictEqual(
        yield* local.resolve({ runtime: "node24", local: { isolation: "auto", network: "host" } }),
        {
          persistent: true,
          deleteOnStop: false,
          ports: [],
          runtime: "node24"
        }
      )
      assert.deepInclude(yield* local.resolve({ persistent: false }), { persistent: false, deleteOnStop: true })
    })
  )

  it.live("an isolation that is not there is refused; auto takes what is there and says so", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      assert.strictEqual(yield* P.reason(Local.make({ root, isolation: "bubblewrap" })), P.tag("UnsupportedCapability"))
      const { machine } = yield* create(yield* Local.make({ ...brief, root, isolation: "auto" }))
      assert.deepStrictEqual(machine.metadata, { isolation: "none" })
    })
  )

  it.live("layerConfig reads its root from SANDBOX_LOCAL_ROOT", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const settings = ConfigProvider.layer(ConfigProvider.fromUnknown({ SANDBOX_LOCAL_ROOT: `  ${root}  ` }))
      yield* Effect.gen(function* () {
        const { get, names } = yield* ProviderRegistry
        assert.deepStrictEqual(names, ["mine"])
        const { sandboxId } = yield* create(yield* get("mine"))
        assert.isTrue(Fs.existsSync(directoryOf(root, sandboxId)))
      }).pipe(Effect.provide(Layer.provide(Local.layerConfig({ isolation: "none", name: "mine" }), settings)))
    })
  )

  it.live("redacted arguments need to be allowed", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const { machine } = yield* create(yield* provider(root, { allowSecretArguments: true }))
      for (const lifetime of ["scoped", "recorded"] as const) {
        const result = yield* P.run(machine, "printf", ["%s", Redacted.make("hush")], { lifetime })
        assert.strictEqual(result.stdout.toString(), "hush")
      }
      const error = yield* Effect.flip(P.run(machine, "/no/such/program", [Redacted.make("hush")]))
      assert.notInclude(JSON.stringify(error), "hush")
      // Node's own error is the cause, and it has a copy of the arguments.
      assert.notInclude(Os.EOL + String(Object.values(error.cause ?? {})), "hush")
    })
  )
})

describe("local: processes", () => {
  it.live("what left its group is ended by the stop", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* fresh
      yield* P.text(
        machine,
        `setsid sh -c 'trap "" TERM; : > left; while :; do sleep 0.02; done' >/dev/null 2>&1 &
         while [ ! -e left ]; do sleep 0.02; done`
      )
      yield* eventually("it runs", () => processesOf(root).length > 0)
      yield* machine.stop("stop")
      assert.deepStrictEqual(processesOf(root), [])
    })
  )

  for (const lifetime of ["scoped", "recorded"] as const) {
    it.live(`a stop during a start: nobody knows what came of it, and nothing is left (${lifetime})`, () =>
      Effect.gen(function* () {
        const root = yield* localRoot
        const other = yield* provider(root)
        let stop: Effect.Effect<void> = Effect.void
        const local = yield* provider(root, {}, (step) => (step === "start:started" ? stop : Effect.void))
        const { machine } = yield* create(local)
        stop = Effect.orDie(other.stop(machine.ref, "stop"))
        // It proves by no means that nothing was started: whoever hears of it must not start it anew.
        assert.strictEqual(
          yield* P.reason(Effect.scoped(P.startSh(machine, "sleep 100", { lifetime }))),
          P.tag("OutcomeUnknown")
        )
        yield* eventually("nothing runs", () => processesOf(root).length === 0)
      })
    )
  }

  it.live("a service that was killed leaks nothing: the next connect ends its scoped processes", () =>
    Effect.gen(function* () {
      const { local, machine, root, sandboxId } = yield* fresh
      yield* Effect.scoped(Effect.flatMap(service(root, machine.ref, "scoped"), ready))
      assert.isAtLeast(processesOf(root).length, 3)
      // One of a living service is left alone.
      const mine = yield* P.observe(yield* P.startSh(machine, "echo up; sleep 300"))
      yield* mine.until(() => mine.stdout() === "up\n")
      yield* local.connect(machine.ref, { sandboxId, boot: false })
      const left = processesOf(root)
      assert.isNotEmpty(left)
      for (const { cookie } of left) assert.strictEqual(cookie.owner.pid, process.pid)
    })
  )

  it.live("buffers of output that nobody keeps go at once, in a program that shows no collector", () =>
    Effect.gen(function* () {
      const { machine } = yield* fresh
      const gc = globalThis.gc
      const mebi = 1024 * 1024
      const before = process.memoryUsage().arrayBuffers
      let bytes = 0
      let most = 0
      yield* Effect.scoped(
        Effect.flatMap(P.start(machine, "dd", ["if=/dev/zero", "bs=1M", "count=256"]), ({ output }) =>
          Stream.runForEach(output, (chunk) =>
            Effect.sync(() => {
              if (chunk.stream === "stdout") bytes += chunk.bytes.length
              most = Math.max(most, process.memoryUsage().arrayBuffers - before)
            })
          )
        )
      )
      assert.strictEqual(bytes, 256 * mebi)
      // V8 lets 64 MiB and what comes during a collection lie about.
      assert.isBelow(most, 40 * mebi)
      assert.strictEqual(globalThis.gc, gc)
      assert.strictEqual(Vm.runInNewContext("typeof gc"), typeof gc)
    })
  )

  it.live("closing the provider leaves no descriptor, socket or timer", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const use = Effect.scoped(
        Effect.gen(function* () {
          const { machine } = yield* create(yield* provider(root))
          yield* P.sh(machine, "cat; echo x >&2", { stdin: false })
          yield* P.sh(machine, "echo x", { lifetime: "recorded" })
          const process = yield* P.start(machine, "cat", [], { stdin: true })
          yield* process.write(new Uint8Array(10))
          yield* Effect.flip(P.run(machine, "no-such-program"))
          yield* Stream.runHead(process.output)
          yield* Effect.scoped(P.startSh(machine, "yes"))
          yield* P.writeFile(machine, "file", "x")
          yield* Stream.runHead(machine.readFile("file"))
        })
      )
      // What is open besides: of this process, by kind.
      const count = () => ({
        descriptors: Fs.readdirSync("/dev/fd").length,
        handles: process.getActiveResourcesInfo().filter((kind) => /Pipe|Process|TCP/.test(kind)).length
      })
      yield* use
      const before = count()
      for (let times = 0; times < 3; times++) yield* use
      yield* eventually(
        "the same is open as before",
        () => count().descriptors <= before.descriptors && count().handles <= before.handles
      )
    })
  )
})
