/** The emulator under the vendor's own SDK: what each endpoint does, and how the SDK takes it. */
import { assert, describe, it } from "@effect/vitest"
import { Sandbox, Snapshot } from "@vercel/sandbox"
import { Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { copyTree, processesOf } from "./vercel/machine.ts"
import { make } from "./vercel/server.ts"
import { emulated, failing, refused, sdk, sh, spin, until } from "./vercelSupport.ts"

const day = 86_400_000

describe("vercel emulator: commands", () => {
  it.live("a waited command has its output, its code, its own environment over the sandbox's, and no stdin", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sandbox = yield* create({ env: { A: "sandbox", B: "sandbox" } })
      const script = 'printf "%s %s %s|" "$A" "$B" "$1"; pwd; cat; echo err >&2; exit 3'
      const done = yield* sdk(() =>
        sandbox.runCommand({ cmd: "sh", args: ["-c", script, "sh", "a  'b' $C"], env: { B: "command" } })
      )
      assert.strictEqual(done.exitCode, 3)
      assert.strictEqual(yield* sdk(() => done.stdout()), `sandbox command a  'b' $C|${sandbox.cwd}\n`)
      assert.strictEqual(yield* sdk(() => done.stderr()), "err\n")
      const names = yield* sdk(() => sandbox.runCommand("sh", ["-c", "env | cut -d= -f1 | sort | tr '\\n' ' '"]))
      assert.strictEqual(yield* sdk(() => names.stdout()), "A B HOME LANG PATH PWD TMPDIR USER ")
      assert.strictEqual(emulator.requests.count("command.run"), 2)
      assert.strictEqual(emulator.requests.count(), 3)
    })
  )

  it.live("a program or directory that is not there is 400, and no exit code", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sandbox = yield* create()
      yield* refused(400, "executable_not_found", () => sandbox.runCommand("no-such-program"))
      yield* refused(400, "executable_not_found", () => sandbox.runCommand({ cmd: "./none", detached: true }))
      yield* refused(400, "bad_request", () => sandbox.runCommand({ cmd: "true", cwd: "/no/such/directory" }))
      yield* refused(400, "bad_request", () => sandbox.runCommand({ cmd: "true", timeoutMs: 99 }))
    })
  )

  it.live("a detached command is followed live, replayed from the beginning, and waited for", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sandbox = yield* create()
      const command = yield* sdk(() =>
        sandbox.runCommand({
          ...sh("echo one; while [ ! -e go ]; do sleep 0.01; done; echo two >&2; exit 7"),
          detached: true
        })
      )
      assert.isNull(command.exitCode)
      assert.strictEqual(yield* until(command, "one\n"), "one\n")
      assert.isNull((yield* sdk(() => sandbox.getCommand(command.cmdId))).exitCode)
      yield* sdk(() => sandbox.writeFiles([{ path: "go", content: "" }]))
      assert.strictEqual((yield* sdk(() => command.wait())).exitCode, 7)
      assert.strictEqual((yield* sdk(() => sandbox.getCommand(command.cmdId))).exitCode, 7)
      assert.strictEqual(yield* sdk(() => command.output("both")), "one\ntwo\n")
      assert.strictEqual(yield* sdk(() => command.stdout()), "one\n")
      yield* refused(404, "not_found", () => sandbox.getCommand("cmd_0"))
    })
  )

  it.live(
    "signals: 128 + n, by name and by number; the answer to a kill has no code yet; the dead are not hit again",
    () =>
      Effect.gen(function* () {
        const { create, emulator } = yield* emulated()
        const sandbox = yield* create()
        for (const [signal, code] of [
          ["SIGTERM", 143],
          [9, 137],
          [10, 138]
        ] as const) {
          const command = yield* sdk(() => sandbox.runCommand({ cmd: "sleep", args: ["60"], detached: true }))
          yield* sdk(() => command.kill(signal))
          assert.strictEqual((yield* sdk(() => command.wait())).exitCode, code)
          yield* sdk(() => command.kill(signal))
        }
        assert.strictEqual(emulator.requests.count("command.kill"), 6)
      })
  )

  it.live("a kill hits the process only, or its group, as the test wants", () =>
    Effect.gen(function* () {
      for (const killScope of ["process", "group"] as const) {
        const { create, emulator } = yield* emulated({ killScope })
        const sandbox = yield* create()
        const command = yield* sdk(() => sandbox.runCommand({ ...sh("sleep 60 & echo up; wait"), detached: true }))
        yield* until(command, "up")
        yield* sdk(() => command.kill("SIGKILL"))
        assert.strictEqual((yield* sdk(() => command.wait())).exitCode, 137)
        assert.lengthOf(emulator.processes(sandbox.name), killScope === "process" ? 1 : 0)
      }
    })
  )

  it.effect("a command's timeout is SIGKILL, on the emulator's Clock", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sandbox = yield* create()
      const command = yield* sdk(() =>
        sandbox.runCommand({ cmd: "sleep", args: ["60"], timeoutMs: 5_000, detached: true })
      )
      yield* TestClock.adjust(4_999)
      assert.isNull((yield* sdk(() => sandbox.getCommand(command.cmdId))).exitCode)
      yield* TestClock.adjust(1)
      const done = yield* sdk(() => command.wait())
      assert.strictEqual(done.exitCode, 137)
      assert.strictEqual(done.durationMs, 5_000)
    })
  )

  it.live("output is text: bytes that are no UTF-8 are lost, large output is complete", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sandbox = yield* create()
      const lossy = yield* sdk(() => sandbox.runCommand(sh("printf 'a\\377\\000\\303\\244'")))
      assert.strictEqual(yield* sdk(() => lossy.stdout()), "a\uFFFD\0ä")
      const large = yield* sdk(() => sandbox.runCommand(sh("head -c 6000000 /dev/zero | tr '\\0' x")))
      assert.strictEqual((yield* sdk(() => large.stdout())).length, 6_000_000)
    })
  )

  it.live("aborting a waited command ends the request, not the program", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sandbox = yield* create()
      const running = yield* Effect.forkChild(
        Effect.promise((signal) => sandbox.runCommand({ cmd: "sleep", args: ["60"], signal }))
      )
      yield* spin(() => emulator.streams() === 1)
      yield* Fiber.interrupt(running)
      yield* spin(() => emulator.streams() === 0)
      assert.isNotEmpty(emulator.processes(sandbox.name))
    })
  )
})

describe("vercel emulator: files", () => {
  it.live("writes what the SDK packs, byte for byte, and reads it", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sandbox = yield* create()
      const bytes = Crypto.createHash("sha512").update("seed").digest()
      const long = `${"d".repeat(90)}/${"e".repeat(90)}/${"ü".repeat(40)} '\n.bin`
      yield* sdk(() =>
        sandbox.writeFiles([
          { path: long, content: bytes },
          { path: `${sandbox.cwd}/run.sh`, content: "#!/bin/sh\nexit 5\n", mode: 0o755 },
          { path: "empty", content: "" }
        ])
      )
      assert.deepStrictEqual(yield* sdk(() => sandbox.readFileToBuffer({ path: long })), bytes)
      assert.deepStrictEqual(yield* sdk(() => sandbox.readFileToBuffer({ path: "../vercel/empty" })), Buffer.alloc(0))
      assert.strictEqual((yield* sdk(() => sandbox.runCommand("./run.sh"))).exitCode, 5)
      assert.strictEqual(Fs.statSync(Path.join(sandbox.cwd, "empty")).mode & 0o777, 0o644)
      const elsewhere = yield* sdk(() => sandbox.readFileToBuffer({ path: "empty", cwd: "/" }))
      assert.isNull(elsewhere)
    })
  )

  it.live("a missing file is null; directories, existing ones and missing parents are 400 file_error", () =>
    Effect.gen(function* () {
      const { create } = yield* emulated()
      const sandbox = yield* create()
      assert.isNull(yield* sdk(() => sandbox.readFile({ path: "none" })))
      yield* refused(400, "file_error", () => sandbox.readFile({ path: "." }))
      yield* sdk(() => sandbox.mkDir("made"))
      yield* refused(400, "file_error", () => sandbox.mkDir("made"))
      yield* refused(400, "file_error", () => sandbox.mkDir("no/parent"))
      yield* refused(400, "file_error", () => sandbox.writeFiles([{ path: "made", content: "" }]))
      yield* refused(400, "file_error", () => sandbox.writeFiles([{ path: "/outside-of-the-sandbox", content: "" }]))
      assert.isFalse(Fs.existsSync("/outside-of-the-sandbox"))
    })
  )
})

describe("vercel emulator: sandboxes", () => {
  it.live("create tells what was asked and the defaults of the rest", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const plain = yield* create()
      assert.isTrue(plain.persistent)
      assert.deepStrictEqual([plain.vcpus, plain.memory, plain.timeout], [2, 4096, 300_000])
      assert.strictEqual(plain.status, "running")
      assert.match(plain.currentSession().sessionId, /^sbx_[0-9A-Za-z]{28}$/)
      assert.strictEqual(plain.networkPolicy, "allow-all")
      assert.throws(() => plain.domain(3000), /No route/)
      const full = yield* create({
        name: "full",
        ports: [3000, 4000],
        resources: { vcpus: 4 },
        timeout: 60_000,
        persistent: false,
        runtime: "node24",
        tags: { purpose: "test" },
        region: "fra1",
        snapshotExpiration: day
      })
      assert.strictEqual(full.name, "full")
      assert.deepStrictEqual([full.vcpus, full.currentSession().memory, full.timeout], [4, 8192, 60_000])
      assert.deepStrictEqual([full.runtime, full.region, full.persistent], ["node24", "fra1", false])
      assert.deepStrictEqual(full.tags, { purpose: "test" })
      const [route] = full.routes
      assert.match(full.domain(3000), /^https:\/\/sb-[0-9a-z]{12}\.vercel\.run$/)
      assert.strictEqual(full.domain(3000), route?.url)
      assert.deepStrictEqual(
        emulator.requests.of("sandbox.create").map(({ path }) => path),
        ["/api/v3/sandboxes", "/api/v2/sandboxes"]
      )
    })
  )

  it.live("create refuses what the vendor refuses, and keys that nobody knows", () =>
    Effect.gen(function* () {
      const { access, create, emulator } = yield* emulated()
      yield* create({ name: "taken" })
      const unknown = { ...access, __unknown: true }
      const wrong: ReadonlyArray<readonly [code: string, Parameters<typeof Sandbox.create>[0]]> = [
        ["bad_request", { ...access, name: "taken" }],
        ["bad_request", { ...access, name: "no spaces" }],
        ["bad_request", { ...access, resources: { vcpus: 3 } }],
        ["bad_request", { ...access, resources: { vcpus: 34 } }],
        ["bad_request", { ...access, ports: Array.from({ length: 16 }, (_, index) => 3000 + index) }],
        [
          "bad_request",
          { ...access, tags: Object.fromEntries(Array.from({ length: 6 }, (_, index) => [`t${index}`, ""])) }
        ],
        ["bad_request", { ...access, snapshotExpiration: 1_000 }],
        ["bad_request", { ...access, keepLastSnapshots: { count: 11 } }],
        ["sandbox_timeout_invalid", { ...access, timeout: day + 1 }],
        ["sandbox_timeout_invalid", { ...access, timeout: 0 }],
        ["emulator_unsupported", { ...access, source: { type: "tarball", url: "https://example.test/a.tgz" } }],
        ["not_found", { ...access, source: { type: "snapshot", snapshotId: "snap_none" } }],
        ["bad_request", unknown]
      ]
      for (const [code, params] of wrong) {
        yield* refused(code === "not_found" ? 404 : 400, code, () => Sandbox.create(params))
      }
      const twice = yield* failing(() => Sandbox.create({ ...access, name: "taken" }))
      assert.include(twice.message, "already exists")
      assert.lengthOf(emulator.sandboxes(), 1)
    })
  )

  it.live("token, team and project are checked, and nothing else is asked with them", () =>
    Effect.gen(function* () {
      const { access, create, emulator } = yield* emulated({ credentials: { token: "planted-token" } })
      const sandbox = yield* create({ name: "mine", env: { SECRET: "planted-env" } })
      yield* refused(403, "forbidden", () => Sandbox.get({ ...access, name: "mine", token: "other" }))
      yield* refused(401, "unauthorized", () => Sandbox.get({ ...access, name: "mine", token: "" }))
      yield* refused(403, "forbidden", () => Sandbox.get({ ...access, name: "mine", teamId: "team_other" }))
      yield* refused(404, "not_found", () => Sandbox.get({ ...access, name: "mine", projectId: "prj_other" }))
      yield* sdk(() => sandbox.runCommand("echo", ["planted-argument"]))
      assert.deepStrictEqual(emulator.requests.find("planted-token"), [])
      assert.deepStrictEqual(emulator.requests.find("planted-env"), ["sandbox.create body"])
      assert.deepStrictEqual(emulator.requests.find("planted-argument"), ["command.run body"])
      assert.deepStrictEqual(emulator.requests.find("team_other"), ["sandbox.get url"])
    })
  )

  it.live("update replaces, and tells a network policy without the values that it injects", () =>
    Effect.gen(function* () {
      const { create, emulator, get } = yield* emulated()
      const sandbox = yield* create({ name: "updated", tags: { a: "1" }, ports: [3000] })
      const before = sandbox.domain(3000)
      const transform = [{ headers: { authorization: "Bearer planted-header" } }]
      yield* sdk(() =>
        sandbox.update({
          tags: { b: "2" },
          ports: [3000, 4000],
          resources: { vcpus: 8 },
          timeout: 600_000,
          networkPolicy: { allow: { "api.test": [{ transform }], "*": [] }, subnets: { deny: ["10.0.0.0/8"] } }
        })
      )
      assert.strictEqual(sandbox.domain(3000), before)
      assert.notStrictEqual(sandbox.domain(4000), before)
      const again = yield* get("updated")
      assert.deepStrictEqual([again.tags, again.vcpus, again.memory, again.timeout], [{ b: "2" }, 8, 16_384, 600_000])
      assert.deepStrictEqual(again.networkPolicy, {
        allow: { "api.test": [{ transform: [{ headers: { authorization: "<redacted>" } }] }], "*": [] },
        subnets: { deny: ["10.0.0.0/8"] }
      })
      assert.strictEqual(again.currentSession().timeout, 600_000, "a longer timeout extends the session")
      const policy = emulator.sandbox("updated").sessions.at(-1)?.networkPolicy
      assert.include(JSON.stringify(policy), "planted-header")
      for (const endpoint of ["sandbox.update", "session.extendTimeout", "session.networkPolicy"] as const) {
        assert.strictEqual(emulator.requests.count(endpoint), 1, endpoint)
      }
    })
  )

  it.live("lists are pages, filtered by one tag or by a prefix where they are sorted by name", () =>
    Effect.gen(function* () {
      const { access, create, emulator } = yield* emulated({ pageSize: 2 })
      for (const name of ["b-1", "a-2", "b-3", "a-4", "b-5"]) yield* create({ name, tags: { group: name.slice(0, 1) } })
      const names = (params: Parameters<typeof Sandbox.list>[0]) =>
        sdk(async () => (await (await Sandbox.list({ ...access, ...params })).toArray()).map(({ name }) => name))
      assert.deepStrictEqual(yield* names({}), ["b-5", "a-4", "b-3", "a-2", "b-1"])
      assert.strictEqual(emulator.requests.count("sandbox.list"), 3)
      assert.deepStrictEqual(yield* names({ sortOrder: "asc", limit: 50 }), ["b-1", "a-2", "b-3", "a-4", "b-5"])
      assert.deepStrictEqual(yield* names({ sortBy: "name", namePrefix: "a-", sortOrder: "asc" }), ["a-2", "a-4"])
      assert.deepStrictEqual(yield* names({ tags: { group: "b" } }), ["b-5", "b-3", "b-1"])
      yield* refused(400, "bad_request", () => Sandbox.list({ ...access, namePrefix: "a-" }))
      const pages = yield* sdk(() => Sandbox.list(access))
      const seen: Array<string> = []
      yield* sdk(async () => {
        for await (const { name } of pages) {
          seen.push(name)
          await (await Sandbox.get({ ...access, name })).delete()
        }
      })
      assert.lengthOf(seen, 5, "deleting what was read skips nothing")
    })
  )

  it.live("a fork has the source's settings and its current snapshot's disk", () =>
    Effect.gen(function* () {
      const { access, create } = yield* emulated()
      const source = yield* create({ name: "source", env: { FROM: "source" }, resources: { vcpus: 4 } })
      yield* sdk(() => source.writeFiles([{ path: "kept", content: "disk" }]))
      yield* sdk(() => source.stop())
      const fork = yield* sdk(() => Sandbox.fork({ ...access, sourceSandbox: "source", name: "fork", timeout: 1_000 }))
      assert.deepStrictEqual([fork.name, fork.vcpus, fork.timeout], ["fork", 4, 1_000])
      assert.notStrictEqual(fork.cwd, source.cwd)
      const said = yield* sdk(() => fork.runCommand(sh('echo "$(cat kept) $FROM"')))
      assert.strictEqual(yield* sdk(() => said.stdout()), "disk source\n")
    })
  )
})

describe("vercel emulator: sessions", () => {
  it.live("a stopped persistent sandbox resumes in a new session on the same disk, without its processes", () =>
    Effect.gen(function* () {
      const { create, emulator, get } = yield* emulated()
      const sandbox = yield* create({ name: "persistent" })
      yield* sdk(() => sandbox.writeFiles([{ path: "kept", content: "disk" }]))
      const command = yield* sdk(() => sandbox.runCommand({ cmd: "sleep", args: ["60"], detached: true }))
      const first = sandbox.currentSession()
      const stopped = yield* sdk(() => sandbox.stop())
      assert.strictEqual(stopped.status, "stopped")
      assert.strictEqual(stopped.snapshot?.status, "created")
      assert.strictEqual(sandbox.currentSnapshotId, stopped.snapshot?.id)
      assert.isEmpty(emulator.processes("persistent"))
      assert.isUndefined((yield* sdk(() => sandbox.stop())).snapshot, "stopping twice is no error")

      assert.strictEqual((yield* get("persistent")).status, "stopped", "a get boots nothing")
      yield* refused(410, "sandbox_stopped", () => first.runCommand("true"))
      yield* refused(410, "sandbox_stopped", () => first.readFile({ path: "kept" }))
      yield* refused(410, "sandbox_stopped", () => command.wait())
      yield* refused(410, "sandbox_stopped", () => command.stdout())
      assert.strictEqual(emulator.requests.count("sandbox.resume"), 0)

      const read = yield* sdk(() => sandbox.readFileToBuffer({ path: "kept" }))
      assert.strictEqual(read?.toString(), "disk")
      assert.strictEqual(emulator.requests.count("sandbox.resume"), 1)
      assert.notStrictEqual(sandbox.currentSession().sessionId, first.sessionId)
      assert.strictEqual(sandbox.currentSession().sourceSnapshotId, stopped.snapshot?.id)
      yield* refused(404, "not_found", () => sandbox.getCommand(command.cmdId))
      const sessions = yield* sdk(() => sandbox.listSessions())
      assert.deepStrictEqual(
        sessions.sessions.map(({ status }) => status),
        ["running", "stopped"]
      )
    })
  )

  it.live("commands that meet a stopped sandbox at once boot one session", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sandbox = yield* create({ name: "one" })
      yield* sdk(() => sandbox.stop())
      const sessions = yield* sdk(() =>
        Promise.all(
          [1, 2, 3, 4].map(async () => {
            await sandbox.runCommand("true")
            return sandbox.currentSession().sessionId
          })
        )
      )
      assert.lengthOf(new Set(sessions), 1)
      assert.lengthOf(emulator.sandbox("one").sessions, 2)
    })
  )

  it.live("what is not persistent does not come back, unless it was made from a snapshot", () =>
    Effect.gen(function* () {
      const { access, create, get } = yield* emulated()
      const lost = yield* create({ name: "lost", persistent: false })
      assert.isUndefined((yield* sdk(() => lost.stop())).snapshot)
      yield* refused(400, "snapshot_not_found", () => lost.runCommand("true"))
      yield* refused(400, "snapshot_not_found", () => Sandbox.getOrCreate({ ...access, name: "lost", resume: true }))
      assert.strictEqual((yield* get("lost")).status, "stopped")

      const source = yield* create({ name: "source" })
      yield* sdk(() => source.writeFiles([{ path: "which", content: "source" }]))
      const snapshot = yield* sdk(() => source.snapshot())
      const copy = yield* create({ persistent: false, source: { type: "snapshot", snapshotId: snapshot.snapshotId } })
      assert.strictEqual(copy.sourceSnapshotId, snapshot.snapshotId)
      yield* sdk(() => copy.writeFiles([{ path: "which", content: "copy" }]))
      yield* sdk(() => copy.stop())
      const read = yield* sdk(() => copy.readFileToBuffer({ path: "which" }))
      assert.strictEqual(read?.toString(), "source", "it silently starts from its source again")
    })
  )

  it.live("a snapshot stops the session; the handle does not learn how it ended", () =>
    Effect.gen(function* () {
      const { access, create, emulator, get } = yield* emulated()
      const sandbox = yield* create({ name: "shot", persistent: false })
      yield* sdk(() => sandbox.writeFiles([{ path: "kept", content: "disk" }]))
      yield* refused(400, "bad_request", () => sandbox.snapshot({ expiration: day - 1 }))
      const forever = yield* sdk(() => sandbox.snapshot({ expiration: 0 }))
      assert.isUndefined(forever.expiresAt)
      assert.isAbove(forever.sizeBytes, 0)
      assert.strictEqual(emulator.requests.of("session.snapshot").at(-1)?.status, 201)
      assert.strictEqual(sandbox.status, "snapshotting")
      assert.isUndefined(sandbox.currentSnapshotId)
      const now = yield* get("shot")
      assert.deepStrictEqual([now.status, now.currentSnapshotId], ["stopped", forever.snapshotId])

      const short = yield* sdk(() => sandbox.snapshot({ expiration: day }))
      assert.strictEqual(emulator.requests.count("sandbox.resume"), 1, "it boots a machine to snapshot it")
      assert.strictEqual(short.expiresAt?.getTime(), short.createdAt.getTime() + day)
      const listed = yield* sdk(async () => (await Snapshot.list({ ...access, name: "shot", limit: 1 })).toArray())
      assert.deepStrictEqual(
        listed.map(({ id }) => id),
        [short.snapshotId, forever.snapshotId]
      )

      yield* sdk(() => forever.delete())
      assert.strictEqual(forever.status, "deleted")
      const deleted = { type: "snapshot", snapshotId: forever.snapshotId } as const
      yield* refused(410, "snapshot_not_found", () => Snapshot.get({ ...access, snapshotId: forever.snapshotId }))
      yield* refused(410, "snapshot_not_found", () => Sandbox.create({ ...access, source: deleted }))
      yield* refused(404, "not_found", () => Snapshot.get({ ...access, snapshotId: "snap_none" }))
      emulator.expireSnapshot(short.snapshotId)
      yield* refused(410, "snapshot_not_found", () => sandbox.runCommand("true"))
    })
  )

  it.live("getOrCreate deletes a record whose snapshot is gone, with all that refers to it", () =>
    Effect.gen(function* () {
      const { access, create, emulator } = yield* emulated()
      const sandbox = yield* create({ name: "again" })
      const { snapshot } = yield* sdk(() => sandbox.stop())
      emulator.expireSnapshot(snapshot?.id ?? "")
      const created = yield* sdk(() => Sandbox.getOrCreate({ ...access, name: "again", resume: true }))
      assert.strictEqual(created.status, "running")
      assert.strictEqual(emulator.requests.count("sandbox.delete"), 1)
      assert.strictEqual(emulator.requests.count("sandbox.create"), 2)
    })
  )

  it.live("while it stops or is snapshotted it is 422; the SDK resumes, and snapshots again", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sandbox = yield* create({ name: "busy" })
      const release = emulator.hold("stopping")
      const session = sandbox.currentSession()
      const stopping = session.stop()
      yield* spin(() => emulator.sandbox("busy").sessions[0]?.status === "stopping")
      yield* refused(422, "sandbox_stopping", () => session.runCommand("true"))
      const resumed = sandbox.runCommand("echo", ["up"])
      yield* spin(() => emulator.requests.count("sandbox.resume") === 1)
      release()
      yield* sdk(() => stopping)
      assert.strictEqual((yield* sdk(() => resumed)).exitCode, 0)

      emulator.requests.reset()
      const held = emulator.hold("snapshotting")
      const current = sandbox.currentSession()
      const first = current.snapshot()
      yield* spin(() => emulator.sandbox("busy").sessions[1]?.status === "snapshotting")
      yield* refused(422, "sandbox_snapshotting", () => current.runCommand("true"))
      const second = sandbox.snapshot()
      yield* spin(() => emulator.requests.count("sandbox.resume") === 1)
      held()
      const [one, two] = yield* sdk(() => Promise.all([first, second]))
      assert.notStrictEqual(one.snapshotId, two.snapshotId)
    })
  )

  it.effect("the lifetime runs in virtual time, from the session's start; activity does not prolong it", () =>
    Effect.gen(function* () {
      const { create, emulator, get } = yield* emulated()
      const sandbox = yield* create({ name: "timed", timeout: 60_000 })
      assert.strictEqual(sandbox.expiresAt?.getTime(), 60_000)
      yield* TestClock.adjust(59_000)
      yield* sdk(() => sandbox.runCommand("true"))
      yield* sdk(() => sandbox.extendTimeout(30_000))
      assert.strictEqual(sandbox.currentSession().timeout, 90_000)
      assert.strictEqual(sandbox.timeout, 60_000)
      yield* refused(400, "sandbox_timeout_invalid", () => sandbox.extendTimeout(day))
      yield* TestClock.adjust(30_999)
      assert.strictEqual((yield* get("timed")).status, "running")
      yield* TestClock.adjust(1)
      yield* sdk(async () => await emulator.sandbox("timed").sessions[0]?.transition)
      const ended = yield* get("timed")
      assert.strictEqual(ended.status, "stopped")
      assert.isString(ended.currentSnapshotId)
      yield* sdk(() => sandbox.runCommand("true"))
      assert.strictEqual(sandbox.currentSession().timeout, 60_000)
      assert.strictEqual(sandbox.expiresAt?.getTime(), 150_000)
    })
  )

  it.live("a session that ends in the middle of a command ends its streams with an error in band", () =>
    Effect.gen(function* () {
      const { create, emulator } = yield* emulated()
      const sandbox = yield* create({ name: "cut" })
      const command = yield* sdk(() => sandbox.runCommand({ ...sh("echo up; sleep 60"), detached: true }))
      yield* until(command, "up")
      const logs = failing(() => command.stdout())
      const waited = failing(() => sandbox.runCommand("sleep", ["60"]))
      const held = failing(() => command.wait())
      const open = spin(
        () =>
          emulator.requests.of("command.logs")[1]?.status === 200 &&
          emulator.requests.of("command.run")[0]?.status === 200 &&
          emulator.requests.count("command.wait") === 1
      )
      const ending = Effect.andThen(open, emulator.expire("cut"))
      const [fromLogs, fromRun, fromWait] = yield* Effect.all([logs, waited, held, ending], {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual([fromLogs.name, fromLogs.code], ["StreamError", "sandbox_stream_closed"])
      assert.deepStrictEqual([fromRun.name, fromRun.code], ["StreamError", "sandbox_stream_closed"])
      assert.deepStrictEqual([fromWait.status, fromWait.code], [410, "sandbox_stopped"])
      assert.strictEqual(emulator.requests.count("sandbox.resume"), 0, "a stream that dies resumes nothing")
    })
  )

  it.live("a crash loses what was not snapshotted; a vanished record is 404", () =>
    Effect.gen(function* () {
      const { access, create, emulator, get } = yield* emulated()
      const sandbox = yield* create({ name: "crashing" })
      yield* sdk(() => sandbox.writeFiles([{ path: "which", content: "kept" }]))
      yield* sdk(() => sandbox.stop())
      yield* sdk(() => sandbox.writeFiles([{ path: "which", content: "lost" }]))
      yield* emulator.crash("crashing")
      assert.strictEqual((yield* get("crashing")).status, "aborted")
      const read = yield* sdk(() => sandbox.readFileToBuffer({ path: "which" }))
      assert.strictEqual(read?.toString(), "kept")
      yield* emulator.vanish("crashing")
      yield* refused(404, "not_found", () => Sandbox.get({ ...access, name: "crashing" }))
      yield* refused(404, "not_found", () => sandbox.runCommand("true"))
      assert.isNull(yield* sdk(() => sandbox.readFile({ path: "which" })), "404 is a missing file for the SDK")
    })
  )

  it.live("snapshots outlive their sandbox unless orphans are to go; retention evicts the oldest", () =>
    Effect.gen(function* () {
      const { access, create, emulator } = yield* emulated()
      const shots = (name: string) =>
        emulator.snapshots().filter(({ sandboxName, status }) => sandboxName === name && status === "created")
      const kept = yield* create({ name: "kept", keepLastSnapshots: { count: 2 } })
      for (let index = 0; index < 3; index++) yield* sdk(() => kept.snapshot())
      assert.lengthOf(shots("kept"), 2)
      const [used, orphan] = shots("kept")
      const snapshotId = used?.id ?? ""
      yield* create({ name: "user", source: { type: "snapshot", snapshotId } })
      yield* sdk(() => kept.delete({ deleteOrphanSnapshots: true }))
      assert.deepStrictEqual(
        shots("kept").map(({ id }) => id),
        [snapshotId]
      )
      assert.strictEqual(orphan?.status, "deleted")
      yield* refused(404, "not_found", () => Sandbox.get({ ...access, name: "kept" }))
      yield* create({ name: "kept" })
    })
  )
})

describe("vercel emulator: a copy of a disk", () => {
  it.live("is made although files are taken away meanwhile, and not of a disk that is not there", () =>
    Effect.gen(function* () {
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-copy-"))),
        (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
      )
      const from = Path.join(directory, "from")
      Fs.mkdirSync(from)
      const names = Array.from({ length: 2_000 }, (_, index) => `f${index}`)
      for (const name of names) Fs.writeFileSync(Path.join(from, name), name)
      yield* sdk(async () => {
        const copied = copyTree(from, Path.join(directory, "to"))
        // The copy has read the directory by the time that its first file is there.
        while (!Fs.existsSync(Path.join(directory, "to"))) await new Promise(setImmediate)
        for (const name of names.slice(10)) Fs.rmSync(Path.join(from, name))
        await copied
      })
      const failure = yield* failing(() => copyTree(Path.join(directory, "none"), Path.join(directory, "other")))
      assert.include(failure.message, "none")
    }).pipe(Effect.scoped)
  )
})

describe("vercel emulator: scope", () => {
  it.live("nothing survives it: no process, wherever it hid, and no file", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const emulator = yield* Scope.provide(make(), scope)
      const sandbox = yield* sdk(() => Sandbox.create({ ...emulator.credentials, fetch: emulator.fetch }))
      const hidden = "mkfifo pipe; (cd / && exec setsid env -i PATH=/usr/bin:/bin sleep 61 >&3) 3<>pipe & echo up; wait"
      const command = yield* sdk(() => sandbox.runCommand({ ...sh(hidden), detached: true }))
      yield* until(command, "up")
      const { root } = emulator.sandbox(sandbox.name).machine
      yield* spin(() => processesOf(root).length >= 2)
      yield* Scope.close(scope, Exit.void)
      assert.isEmpty(processesOf(root))
      assert.isFalse(Fs.existsSync(Path.dirname(root)))
      const failure = yield* failing(() => emulator.fetch("https://vercel.com/api/v2/sandboxes"))
      assert.strictEqual(failure.code, "ECONNREFUSED")
    })
  )
})
