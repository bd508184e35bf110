/** The suites of stores and logs over a real Postgres, and what only a server can do. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Fiber, Layer, Queue, Redacted, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import { inspect } from "node:util"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Embedded from "../../../src/Embedded.ts"
import type { SandboxError } from "../../../src/errors.ts"
import { fromPostgresText, toPostgresText } from "../../../src/layers/internal/sqlDialect.ts"
import * as Postgres from "../../../src/layers/stores/Postgres.ts"
import * as Sql from "../../../src/layers/stores/Sql.ts"
import type { ProcessRecord } from "../../../src/model/Process.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { chunk, chunks, failure, leasedProcess, sandboxRecord } from "../../../src/testing/internal/stores.ts"
import * as LogSuite from "../../../src/testing/LogSuite.ts"
import * as StoreSuite from "../../../src/testing/StoreSuite.ts"
import { type Database, postgresServer, proxy } from "../../support/postgres.ts"
import { Backend, derived, plant } from "./support.ts"
import * as Local from "../../../src/layers/providers/Local.ts"
import { crashes, ofStores } from "../../support/crashMatrix.ts"
import { brief, localRoot } from "../providers/support/local.ts"
import { finished, verifyPairs, worker } from "./workers.ts"

const server = postgresServer()

/** A store, its log and its backend on a database. */
const on = (url: Redacted.Redacted, options: Postgres.ConfigOptions = {}) =>
  Layer.fresh(Layer.effectContext(Effect.map(Postgres.primitives({ url, ...options }), derived)))

/** Where the store of a suite is. */
class Url extends Context.Service<Url, Redacted.Redacted>()("test/postgres/Url") {}

const own = Layer.unwrap(Effect.map(server.database, ({ url }) => Layer.merge(on(url), Layer.succeed(Url, url))))

StoreSuite.suite("Postgres", own, {
  plant,
  otherNamespace: Layer.unwrap(Effect.map(Url, (url) => on(url, { namespace: "another" }))),
  increments: 40
})
LogSuite.suite("Postgres", own, { quickAppends: 60, racingAppends: 40 })

describe("a service that dies at any stage of a recorded process loses and doubles nothing", () => {
  const local = Effect.flatMap(localRoot, (root) => Local.make({ ...brief, root }))
  crashes("over Postgres", local, own, ofStores)
})

/** One of several backends on a database. */
const backend = (url: Redacted.Redacted, options: Postgres.ConfigOptions = {}) =>
  Effect.map(Layer.build(on(url, options)), (context) => ({
    context,
    store: Context.get(context, SandboxStore),
    log: Context.get(context, ProcessLog),
    primitives: Context.get(context, Backend)
  }))

const openFailure = (url: Redacted.Redacted, options: Postgres.ConfigOptions = {}) =>
  Effect.flip(Effect.scoped(Layer.build(on(url, options))))

const isConflict = ({ reason }: SandboxError) => reason._tag === "Store" && reason.kind === "Conflict"
const isLogConflict = ({ reason }: SandboxError) => reason._tag === "Store" && reason.kind === "LogConflict"

const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.repeat(condition, { until: (met) => met, schedule: Schedule.spaced("5 millis") })

/** What a follower has read, as it reads it. */
const followed = (log: ProcessLog["Service"], process: ProcessRecord) =>
  Effect.gen(function* () {
    const seen = yield* Queue.unbounded<number>()
    const fiber = yield* Effect.forkScoped(
      Stream.runForEach(log.read(process.id, { follow: true }), ({ seq }) => Queue.offer(seen, seq)),
      { startImmediately: true }
    )
    return { seen, fiber }
  })

/** The sessions that listen, past the stores. */
const listeners = (database: Database) =>
  Effect.map(server.client(database), (sql) =>
    Effect.map(
      sql<{
        pid: number
      }>`SELECT pid FROM pg_stat_activity WHERE datname = ${database.name} AND query LIKE 'LISTEN%'`,
      (rows) => rows.map(({ pid }) => pid)
    )
  )

describe("followers of a log in Postgres", () => {
  it.effect("are told of another backend's appends at once: no time passes here", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const here = yield* backend(database.url)
      const there = yield* backend(database.url)
      const process = yield* there.store.insertProcess(leasedProcess())
      const sessions = yield* listeners(database)
      yield* Stream.runDrain(here.log.read(process.id))
      assert.deepStrictEqual(yield* sessions, [], "who does not follow needs no session")
      const followers = yield* Effect.all([followed(here.log, process), followed(here.log, process)])
      for (const seq of [1, 2, 3, 4, 5]) {
        yield* there.log.append(process.id, 1, [chunk(process, seq, "x", seq - 1)])
        for (const { seen } of followers) assert.strictEqual(yield* Queue.take(seen), seq)
      }
      assert.strictEqual((yield* sessions).length, 1, "one for all of a layer")
      // Its own appends come the same way.
      yield* here.log.append(process.id, 1, [chunk(process, 6, "x", 5)], { status: "exited" })
      for (const { fiber, seen } of followers) {
        assert.strictEqual(yield* Queue.take(seen), 6)
        yield* Fiber.join(fiber)
      }
    })
  )

  it.effect("have a new session when theirs is ended, and read what came meanwhile", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const here = yield* backend(database.url)
      const there = yield* backend(database.url)
      const process = yield* there.store.insertProcess(leasedProcess())
      const { seen } = yield* followed(here.log, process)
      yield* there.log.append(process.id, 1, [chunk(process, 1, "x")])
      assert.strictEqual(yield* Queue.take(seen), 1)
      const sessions = yield* listeners(database)
      const sql = yield* server.client(database)
      for (const seq of [2, 4]) {
        const [pid = 0] = yield* sessions
        yield* sql`SELECT pg_terminate_backend(${pid})`
        yield* there.log.append(process.id, 1, [chunk(process, seq, "x", seq - 1)])
        while ((yield* Effect.map(sessions, (pids) => pids.filter((one) => one !== pid))).length === 0) {
          yield* TestClock.adjust("100 millis")
        }
        assert.strictEqual(yield* Queue.take(seen), seq)
        yield* there.log.append(process.id, 1, [chunk(process, seq + 1, "x", seq)])
        assert.strictEqual(yield* Queue.take(seen), seq + 1)
      }
    })
  )

  it.effect("read by themselves after 5 seconds when the news is lost", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const { log, store } = yield* backend(database.url)
      const process = yield* store.insertProcess(leasedProcess())
      yield* log.append(process.id, 1, [chunk(process, 1, "x")])
      const { seen } = yield* followed(log, process)
      assert.strictEqual(yield* Queue.take(seen), 1)
      const sql = yield* server.client(database)
      yield* sql`INSERT INTO sandbox_process_events (namespace, process_id, seq, type, at, size, byte_offset, bytes)
        SELECT namespace, process_id, 2, type, at, size, 1, bytes FROM sandbox_process_events`
      // Nobody is told of that. A read that is under way now may still find it, or else the next one.
      const passing = Effect.forever(Effect.andThen(TestClock.adjust("5 seconds"), TestClock.withLive(Effect.sleep(5))))
      assert.strictEqual(yield* Effect.raceFirst(Queue.take(seen), passing), 2)
    })
  )
})

describe("Sql.layer over a client of the user's", () => {
  it.live("keeps the same records, unprepared too, and its followers poll", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const there = yield* backend(database.url)
      const client = PgClient.layer({ url: database.url, prepare: false })
      const context = yield* Layer.build(Layer.fresh(Sql.layer()).pipe(Layer.provide(client)))
      const log = Context.get(context, ProcessLog)
      const process = yield* Context.get(context, SandboxStore).insertProcess(leasedProcess())
      const { fiber, seen } = yield* followed(log, process)
      yield* there.log.append(process.id, 1, [chunk(process, 1, "x")])
      assert.strictEqual(yield* Queue.take(seen), 1)
      yield* log.append(process.id, 1, [chunk(process, 2, "x", 1)], { status: "exited" })
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* Effect.flatten(listeners(database)), [])
    })
  )
})

describe("several backends on one Postgres database", () => {
  it.live("that start on it at once make its tables once and agree on the namespace", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const names = yield* Effect.forEach(
        Array.from({ length: 8 }),
        () =>
          Effect.scoped(Effect.flatMap(backend(database.url, { maxConnections: 1 }), ({ store }) => store.namespace)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(new Set(names).size, 1)
      const sql = yield* server.client(database)
      assert.lengthOf(yield* sql`SELECT * FROM sandbox_migrations`, 1)
    })
  )

  it.live("never have two winners of a compare-and-set, nor of a lease, and fence the loser", () =>
    Effect.gen(function* () {
      const { url } = yield* server.database
      const backends = yield* Effect.all([backend(url), backend(url), backend(url), backend(url)])
      const [one, two] = backends
      const sandbox = yield* one.store.insertSandbox(sandboxRecord())
      for (const version of [1, 2, 3, 4, 5]) {
        const won = yield* Effect.forEach(
          backends,
          ({ store }, index) => Effect.exit(store.updateSandbox(sandbox.id, version, { purpose: `${index}` })),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(
          won.filter(({ _tag }) => _tag === "Success"),
          1
        )
      }
      const process = yield* one.store.insertProcess({
        ...leasedProcess(),
        lease: { owner: "", epoch: 0, expiresAt: 0 }
      })
      const leases = yield* Effect.forEach(
        backends,
        ({ store }, index) =>
          Effect.exit(store.acquireProcessLease(process.id, { owner: `${index}`, ttl: "1 minute" })),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(
        leases.filter(({ _tag }) => _tag === "Success"),
        1
      )
      yield* two.store.acquireProcessLease(process.id, { owner: "successor", ttl: "1 minute", steal: true })
      const late = one.log.append(process.id, 1, [chunk(process, 1, "late")])
      assert.strictEqual(yield* failure(late), "Store(LeaseLost)")
      yield* two.log.append(process.id, 2, [chunk(process, 1, "right")])
    })
  )

  it.live(
    "and processes of their own lose no update and no append",
    () =>
      Effect.gen(function* () {
        const { url } = yield* server.database
        const { context, log, store } = yield* backend(url)
        const sandbox = yield* store.insertSandbox(sandboxRecord({ vcpus: 0 }))
        const process = yield* store.insertProcess(leasedProcess())
        const workers = yield* Effect.forEach(["increment", "append"], (job) =>
          worker(job, Redacted.value(url), job === "increment" ? sandbox.id : process.id, "40")
        )
        const increment = Effect.gen(function* () {
          const { vcpus = 0, version = 0 } = yield* store.getSandbox(sandbox.id)
          yield* store.updateSandbox(sandbox.id, version, { vcpus: vcpus + 1 })
        }).pipe(Effect.retry({ while: isConflict }))
        const pair = Effect.gen(function* () {
          const { seq, stdout } = yield* log.lastPosition(process.id)
          const events = [chunk(process, seq + 1, "<here>", stdout), chunk(process, seq + 2, "<here>", stdout + 6)]
          yield* log.append(process.id, 1, events, { metadata: { pairs: (seq + 2) / 2 } })
        }).pipe(Effect.retry({ while: isLogConflict }))
        const rival = Effect.forever(Effect.all([increment, pair, Effect.sleep("20 millis")]))
        yield* Effect.raceFirst(Effect.forEach(workers, finished), rival)
        const { vcpus = 0, version } = yield* store.getSandbox(sandbox.id)
        assert.isAbove(vcpus, 40)
        assert.strictEqual(version, vcpus + 1)
        assert.isAbove(yield* Effect.provide(verifyPairs(process), context), 80)
      }),
    60_000
  )

  it.live("lose nothing where transactions are serializable by default", () =>
    Effect.gen(function* () {
      const { name } = yield* server.database
      const url = server.url({ database: name, query: "options=-c%20default_transaction_isolation%3Dserializable" })
      const backends = yield* Effect.all([backend(url), backend(url)])
      const sandbox = yield* backends[0].store.insertSandbox(sandboxRecord({ vcpus: 0 }))
      const process = yield* backends[0].store.insertProcess(leasedProcess())
      yield* Effect.forEach(
        backends.flatMap((one) => Array.from({ length: 8 }, () => one)),
        ({ log, store }, index) =>
          Effect.gen(function* () {
            yield* Effect.gen(function* () {
              const { vcpus = 0, version = 0 } = yield* store.getSandbox(sandbox.id)
              yield* store.updateSandbox(sandbox.id, version, { vcpus: vcpus + 1 })
            }).pipe(Effect.retry({ while: isConflict }))
            yield* Effect.gen(function* () {
              const { seq, stdout } = yield* log.lastPosition(process.id)
              yield* log.append(process.id, 1, [chunk(process, seq + 1, `<${index}>`, stdout)])
            }).pipe(Effect.retry({ while: ({ reason }) => reason._tag === "Store" && reason.kind === "LogConflict" }))
          }),
        { concurrency: 8 }
      )
      assert.strictEqual((yield* backends[1].store.getSandbox(sandbox.id)).vcpus, 16)
      assert.strictEqual((yield* backends[1].log.lastPosition(process.id)).seq, 16)
    })
  )

  it.live("wait for a row that another holds, for the busy timeout, and hold none for longer themselves", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const { log, store } = yield* backend(database.url, { busyTimeout: "1 second" })
      const process = yield* store.insertProcess(leasedProcess())
      const sql = yield* server.client(database)
      const append = log.append(process.id, 1, [chunk(process, 1, "x")])
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SELECT 1 FROM sandbox_processes FOR UPDATE`
          assert.strictEqual(yield* failure(append), "Store(Locked)")
          assert.strictEqual((yield* log.lastPosition(process.id)).seq, 0)
        })
      )
      yield* sql`CREATE TABLE seen (value TEXT)`
      yield* sql.unsafe(`CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO seen VALUES (current_setting('idle_in_transaction_session_timeout')); RETURN NULL; END $$`)
      yield* sql`CREATE TRIGGER see AFTER UPDATE ON sandbox_processes EXECUTE FUNCTION see()`
      yield* append
      assert.deepStrictEqual(yield* sql`SELECT value FROM seen`, [{ value: "1s" }])
    })
  )
})

describe("a write to Postgres whose answer is lost", () => {
  it.live("after its COMMIT is found to have happened, and happens once", () =>
    Effect.gen(function* () {
      const { name } = yield* server.database
      const between = yield* proxy(server.port())
      const { log, store } = yield* backend(server.url({ database: name, port: between.port }))
      const process = yield* store.insertProcess(leasedProcess())
      const cut = <A>(write: Effect.Effect<A, SandboxError>) =>
        Effect.suspend(() => {
          between.mode = "cut"
          return write
        })
      const sandbox = yield* cut(store.insertSandbox(sandboxRecord()))
      assert.deepInclude(yield* cut(store.updateSandbox(sandbox.id, 1, { purpose: "x" })), { version: 2 })
      yield* cut(log.append(process.id, 1, [chunk(process, 1, "once")], { status: "detached" }))
      assert.strictEqual(between.cuts(), 3)
      assert.deepInclude(yield* store.getSandbox(sandbox.id), { version: 2, purpose: "x" })
      assert.deepInclude(yield* store.getProcess(process.id), { version: 2, status: "detached" })
      assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 1)
    })
  )

  it.live("together with the server is OutcomeUnknown", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const between = yield* proxy(server.port())
      const url = server.url({ database: database.name, port: between.port })
      const { store } = yield* backend(url, { busyTimeout: "1 second" })
      const sandbox = yield* store.insertSandbox(sandboxRecord())
      between.mode = "mute"
      const error = yield* Effect.flip(store.updateSandbox(sandbox.id, 1, { purpose: "x" }))
      assert.deepInclude(error.reason, { _tag: "Store", kind: "OutcomeUnknown" })
      assert.strictEqual(yield* failure(store.getSandbox(sandbox.id)), "Store(Unavailable)")
      const direct = yield* backend(database.url)
      assert.deepInclude(yield* direct.store.getSandbox(sandbox.id), { version: 2, purpose: "x" })
    })
  )

  it.live("before its COMMIT is written again, once the session is known to have been rolled back", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const { log, store } = yield* backend(database.url, { busyTimeout: "2 seconds" })
      const sandbox = yield* store.insertSandbox(sandboxRecord())
      const process = yield* store.insertProcess(leasedProcess())
      const sql = yield* server.client(database)
      // A sequence counts what a rollback takes back.
      yield* sql`CREATE SEQUENCE commits`
      yield* sql.unsafe(`CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('commits') <= TG_ARGV[0]::int THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(1); END IF;
        RETURN NULL; END $$`)
      const dying = (table: string, times: number) =>
        sql.unsafe(`CREATE CONSTRAINT TRIGGER die AFTER INSERT OR UPDATE ON ${table} DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION die('${times}')`)
      const commits = Effect.map(sql<{ last_value: bigint }>`SELECT last_value FROM commits`, ([row]) =>
        Number(row?.last_value)
      )
      yield* dying("sandbox_sandboxes", 2)
      assert.deepInclude(yield* store.updateSandbox(sandbox.id, 1, { purpose: "x" }), { version: 2 })
      assert.strictEqual(yield* commits, 3)
      yield* dying("sandbox_process_events", 4)
      yield* log.append(process.id, 1, [chunk(process, 1, "once")])
      assert.strictEqual(yield* commits, 5)
      assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 1)
    })
  )

  it.live("in the middle of its transaction is written again", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const { log, store } = yield* backend(database.url)
      const process = yield* store.insertProcess(leasedProcess())
      const sql = yield* server.client(database)
      const waiting = yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SELECT 1 FROM sandbox_processes FOR UPDATE`
          const fiber = yield* Effect.forkScoped(log.append(process.id, 1, [chunk(process, 1, "once")]))
          yield* until(
            Effect.map(
              sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = ${database.name} AND wait_event_type = 'Lock'`,
              (rows) => rows.length === 1
            )
          )
          return fiber
        })
      )
      yield* Fiber.join(waiting)
      assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 1)
    })
  )
})

describe("what Postgres refuses", () => {
  const { password } = server

  /** The kind, if the error says nothing secret. */
  const discreet = (error: SandboxError): string => {
    const shown = [inspect(error, { depth: 20 }), JSON.stringify(error), String(error), error.message].join("\n")
    assert.notInclude(shown, password)
    assert.notInclude(shown, encodeURIComponent(password))
    return error.reason._tag === "Store" ? error.reason.kind : error.reason._tag
  }

  it.live("is a typed error when the store is opened, and never shows the password", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const sql = yield* server.client(database)
      yield* sql`CREATE ROLE reader LOGIN PASSWORD ${sql.literal(`'${password}'`)}`
      yield* sql`CREATE ROLE crowd LOGIN CONNECTION LIMIT 0 PASSWORD ${sql.literal(`'${password}'`)}`
      const parts = { database: database.name }
      const gone = yield* Effect.scoped(Effect.map(proxy(server.port()), ({ port }) => port))
      const cases: ReadonlyArray<readonly [string, string, Redacted.Redacted]> = [
        ["Misconfigured", "28P01", server.url({ ...parts, password: `wrong ${password}` })],
        ["Misconfigured", "28P01", server.url({ ...parts, user: "nobody" })],
        ["Misconfigured", "3D000", server.url({ database: "nowhere" })],
        ["Misconfigured", "3F000", server.url({ ...parts, query: "options=-c%20search_path%3Dnowhere" })],
        ["Misconfigured", "the URL is not", Redacted.make(`postgres://u:${password}@[/x`)],
        [
          "Misconfigured",
          "the URL is not",
          Redacted.make(`postgres://u:%zz${encodeURIComponent(password)}@127.0.0.1/x`)
        ],
        ["Misconfigured", "the URL is not", Redacted.make(`mysql://u:${encodeURIComponent(password)}@127.0.0.1/x`)],
        ["Unavailable", "ECONNREFUSED", server.url({ ...parts, port: gone })],
        ["Unavailable", "53300", server.url({ ...parts, user: "crowd" })],
        ["ReadOnly", "42501", server.url({ ...parts, user: "reader" })]
      ]
      for (const [kind, detail, url] of cases) {
        const error = yield* openFailure(url)
        assert.strictEqual(discreet(error), kind, detail)
        assert.include(error.message, detail)
      }
    })
  )

  it.live("is a typed error of the operation, which leaves nothing behind", () =>
    Effect.gen(function* () {
      const database = yield* server.database
      const { log, store } = yield* backend(database.url)
      const sandbox = yield* store.insertSandbox(sandboxRecord())
      const process = yield* store.insertProcess(leasedProcess())
      const sql = yield* server.client(database)
      yield* sql.unsafe(`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$`)
      yield* sql`CREATE TRIGGER full_disk BEFORE UPDATE ON sandbox_processes EXECUTE FUNCTION full_disk()`
      const append = log.append(process.id, 1, chunks(process, 1, [new Uint8Array(10)]), { status: "exited" })
      assert.strictEqual(discreet(yield* Effect.flip(append)), "Full")
      assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 0)
      yield* sql`DROP TRIGGER full_disk ON sandbox_processes`
      yield* append
      const readOnly = yield* backend(
        server.url({ database: database.name, query: "options=-c%20default_transaction_read_only%3Don" })
      )
      assert.deepStrictEqual(yield* readOnly.store.getSandbox(sandbox.id), sandbox)
      const write = readOnly.store.updateSandbox(sandbox.id, 1, { purpose: "x" })
      assert.strictEqual(discreet(yield* Effect.flip(write)), "ReadOnly")
    })
  )

  it.live("as text is kept all the same: NUL, lone surrogates, any length", () =>
    Effect.gen(function* () {
      const { url } = yield* server.database
      const { log, store } = yield* backend(url, { namespace: "a\0b" })
      assert.strictEqual(yield* store.namespace, "a\0b")
      const long = Array.from({ length: 9000 }, (_, index) =>
        String.fromCharCode(0x4e00 + ((index * 7919) % 9000))
      ).join("")
      const texts = ["a\0b", "a\ud800b", "a\udc00b", "a\ufffdb", "\uE000", '\uE000"a"', `${long}1`, `${long}2`]
      for (const text of texts) assert.strictEqual(fromPostgresText(toPostgresText(text)), text)
      const records = yield* Effect.forEach(texts, (text) =>
        store.insertSandbox(sandboxRecord({ purpose: text, externalSandboxId: text, params: { [text]: text } }))
      )
      for (const record of records) {
        assert.deepStrictEqual(yield* store.getSandbox(record.id), record)
        const { purpose } = record
        assert.deepStrictEqual(yield* Stream.runCollect(store.listSandboxes({ purpose })), [record])
      }
      const taken = store.insertSandbox(sandboxRecord({ externalSandboxId: "a\ud800b" }))
      assert.strictEqual(yield* failure(taken), "Store(AlreadyExists)")
      const process = yield* store.insertProcess(leasedProcess())
      const keys = texts.slice(0, 6)
      const events = keys.map((key, index) => ({ ...chunk(process, index + 1, "x", index), key }))
      yield* log.append(process.id, 1, events)
      assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id)), events)
      for (const [index, key] of keys.entries()) {
        assert.deepInclude(yield* Effect.flatMap(log.findKey(process.id, key), Effect.fromOption), { seq: index + 1 })
      }
    })
  )
})

describe("SANDBOX_STORE=postgres", () => {
  const opened = (values: Record<string, string>) =>
    Layer.fresh(Embedded.layerConfig).pipe(
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ SANDBOX_STORE: "Postgres", ...values })))
    )

  it.live("is what the embedded service keeps its records in, at SANDBOX_POSTGRES_URL", () =>
    Effect.gen(function* () {
      const { url } = yield* server.database
      const record = sandboxRecord()
      const { kind, namespace } = yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        yield* store.insertSandbox(record)
        return { kind: store.kind, namespace: yield* store.namespace }
      }).pipe(
        Effect.provide(opened({ SANDBOX_POSTGRES_URL: ` ${Redacted.value(url)} `, SANDBOX_NAMESPACE: "staging" }))
      )
      assert.deepStrictEqual([kind, namespace], ["postgres", "staging"])
      const { store } = yield* backend(url, { namespace: "staging" })
      assert.strictEqual((yield* store.getSandbox(record.id)).id, record.id)
    })
  )

  it.live("names what is missing or wrong, and does not repeat it", () =>
    Effect.gen(function* () {
      const refused = (values: Record<string, string>) => Effect.flip(Effect.scoped(Layer.build(opened(values))))
      const names = ["SANDBOX_POSTGRES_URL"]
      assert.deepInclude((yield* refused({})).reason, { _tag: "MissingSetting", names })
      const error = yield* refused({ SANDBOX_POSTGRES_URL: "http://u:s3cret@host/x" })
      assert.deepInclude(error.reason, { _tag: "MissingSetting", names })
      assert.notInclude(inspect(error, { depth: 20 }), "s3cret")
    })
  )
})
