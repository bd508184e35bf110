/** What the SDK throws, as a table, and that no secret gets through. */
import { init, InstantAPIError } from "@instantdb/admin"
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Context, Duration, Effect, Layer, Logger, Stream } from "effect"
import { inspect } from "node:util"
import type { StoreFailure } from "../../../src/errors.ts"
import * as Embedded from "../../../src/Embedded.ts"
import { classify, scrubOf, toSandboxError } from "../../../src/layers/stores/instantdb/errors.ts"
import * as InstantDb from "../../../src/layers/stores/InstantDb.ts"
import { schema } from "../../../src/layers/stores/InstantDbSchema.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { chunk, failure, leasedProcess, sandboxRecord } from "../../../src/testing/internal/stores.ts"
import * as Faults from "../../emulators/instantdb/faults.ts"
import * as Emulator from "../../emulators/instantdb/server.ts"

const token = "5ec2e7aa-bbbb-4ccc-8ddd-5ec2e75ec2e7"
const scrub = scrubOf(token)

const answer = (status: number, type?: string, hint?: unknown, message = type ?? "<html>") =>
  new InstantAPIError({ status, body: { type, message, hint } as InstantAPIError["body"] })

const network = (code?: string, message = "fetch failed", syscall?: string) =>
  Object.assign(
    new TypeError(message),
    code === undefined ? {} : { cause: Object.assign(new Error(code), { code, syscall }) }
  )

const named = (name: string, message = name) => Object.assign(new Error(message), { name })

type Row = readonly [kind: typeof StoreFailure.Type, written: "no" | "unknown", name: string, error: unknown]

const step = (message: string) =>
  answer(400, "validation-failed", { "data-type": "tx-step", errors: [{ message }] }, `Validation failed: ${message}`)

const table: ReadonlyArray<Row> = [
  // Retryable.
  ["Unavailable", "no", "refused connection", network("ECONNREFUSED")],
  ["Unavailable", "no", "unknown host", network("ENOTFOUND")],
  ["Unavailable", "no", "no time to connect", network("UND_ERR_CONNECT_TIMEOUT")],
  ["Unavailable", "no", "no way to the host", network("EHOSTUNREACH", undefined, "connect")],
  ["Unavailable", "unknown", "no way to it any more, in a connection", network("EHOSTUNREACH", undefined, "read")],
  ["Unavailable", "unknown", "reset", network("ECONNRESET")],
  ["Unavailable", "unknown", "closed socket", network("UND_ERR_SOCKET")],
  ["Unavailable", "unknown", "a network failure without a code", network()],
  ["Unavailable", "unknown", "an answer cut off", network(undefined, "terminated")],
  ["Unavailable", "unknown", "an answer that is no JSON", new SyntaxError("Unexpected token <")],
  ["Unavailable", "unknown", "aborted", new DOMException("aborted", "AbortError")],
  ["Unavailable", "unknown", "timed out", new DOMException("timed out", "TimeoutError")],
  ["Unavailable", "no", "rate limited by rules", answer(429, "rate-limited", { "retry-after": 3 })],
  ["Unavailable", "no", "rate limited as an app", answer(429, "rate-limited", null)],
  ["Unavailable", "no", "429 without a type", answer(429)],
  ["Unavailable", "no", "a statement that took 30 s", answer(429, "timeout", null)],
  ["Unavailable", "unknown", "500", answer(500, "unknown", {})],
  ["Unavailable", "unknown", "operation-timed-out", answer(500, "operation-timed-out", {})],
  ["Unavailable", "unknown", "a proxy's 502", answer(502)],
  ["Unavailable", "unknown", "503", answer(503)],
  ["Unavailable", "unknown", "408", answer(408)],
  ["Unavailable", "unknown", "201", answer(201)],
  ["Locked", "unknown", "a deadlock", answer(500, "sql-exception", { "debug-uri": "x" })],
  // Conflicts.
  ["AlreadyExists", "no", "not unique", answer(400, "record-not-unique", { etype: "sandbox_claims", label: "key" })],
  ["AlreadyExists", "no", "a create of what is there", step("Creating entities that exist: [1]")],
  ["Conflict", "no", "an update of what is not there", step("Updating entities that don't exist: [1]")],
  ["Conflict", "no", "an update by a key that has passed", answer(400, "validation-failed", { "data-type": "lookup" })],
  // Configuration.
  ["Misconfigured", "no", "no token", answer(400, "param-missing", { in: ["headers", "authorization"] })],
  ["Misconfigured", "no", "no UUID", answer(400, "param-malformed", { "original-input": `Bearer ${token}` })],
  ["Misconfigured", "no", "a wrong token", answer(400, "record-not-found", { "record-type": "app-admin-token" })],
  ["Misconfigured", "no", "401", answer(401, "unauthorized", {})],
  ["Misconfigured", "no", "403", answer(403)],
  ["Misconfigured", "no", "a wrong address", answer(404)],
  ["Misconfigured", "no", "a client without a token", new Error("Admin token required. To run this operation …")],
  [
    "SchemaMissing",
    "no",
    "attributes that were not pushed",
    answer(400, "validation-failed", { "data-type": "steps", errors: [{ hint: { attributes: ["a.b"] } }] })
  ],
  // An app that takes nothing.
  ["ReadOnly", "no", "read-only", answer(400, "app-read-only", {})],
  ["ReadOnly", "no", "disabled", answer(400, "app-disabled", {})],
  ["ReadOnly", "no", "sign-ups closed", answer(400, "signups-closed", {})],
  ["ReadOnly", "no", "no new apps", answer(400, "app-creation-disabled", {})],
  ["ReadOnly", "no", "rules, for a client of a user", answer(400, "permission-denied", {})],
  // Defects, ours or theirs.
  ["Unknown", "no", "steps that are none", answer(400, "validation-failed", { "data-type": "steps", errors: [] })],
  ["Unknown", "no", "a value that is too large", answer(400, "validation-failed", { "value-too-large?": true })],
  ["Unknown", "no", "too many parameters", answer(400, "parameter-limit-exceeded", {})],
  ["Unknown", "no", "another record", answer(400, "record-not-found", { "record-type": "app-user" })],
  ["Unknown", "no", "400 without a type", answer(400)],
  ["Unknown", "no", "a hint that is null", answer(400, "validation-failed", null)],
  ["Unknown", "no", "the SDK's check of a transaction", named("TransactionValidationError")],
  ["Unknown", "no", "the SDK's check of a query", named("QueryValidationError")],
  ["Unknown", "unknown", "a defect", new TypeError("x is not a function")],
  ["Unknown", "unknown", "an error of streams", named("InstantError")],
  ["Unknown", "unknown", "a string", "boom"],
  ["Unknown", "unknown", "nothing", undefined],
  ["Unknown", "unknown", "null", null]
]

describe("the classifier of InstantDB's errors", () => {
  it.each(table)("%s, written %s: %s", (kind, written, _name, error) => {
    const verdict = classify(error, scrub)
    assert.deepStrictEqual([verdict.kind, verdict.written], [kind, written])
    assert.isAtMost(verdict.detail.length, 500)
    const told = toSandboxError("x", {}, verdict)
    assert.notInclude(inspect(told, { depth: 20, showHidden: true }), token)
    assert.notInclude(JSON.stringify(told), token)
  })

  it("keeps what a caller acts on: whose value was taken, what is missing, how long to wait", () => {
    const [, , , taken] = table.find(([, , name]) => name === "not unique") ?? []
    assert.strictEqual(classify(taken, scrub).taken, "sandbox_claims.key")
    const [, , , missing] = table.find(([kind]) => kind === "SchemaMissing") ?? []
    assert.deepStrictEqual(classify(missing, scrub).missing, ["a.b"])
    const limited = toSandboxError("x", {}, classify(answer(429, "rate-limited", { "retry-after": 3 }), scrub))
    assert.deepStrictEqual(limited.retryAfter, Duration.seconds(3))
    assert.isTrue(limited.isRetryable)
  })

  it("shows no page of a proxy's", () => {
    assert.strictEqual(classify(answer(502, undefined, undefined, "<html>secret</html>"), scrub).detail, "502")
  })

  it("takes a secret out in every form in which it may stand", () => {
    const odd = 'a"b\\c d/ü'
    const clean = scrubOf(odd)
    for (const form of [odd, JSON.stringify({ odd }), `https://x/?t=${encodeURIComponent(odd)}`]) {
      assert.notInclude(clean(form), "c d/ü")
      assert.include(clean(form), "<redacted>")
      assert.notInclude(clean(form), encodeURIComponent(odd))
    }
    assert.strictEqual(scrubOf("admin's", undefined, "user's")("of admin's and user's"), "of <redacted> and <redacted>")
    assert.strictEqual(scrubOf(undefined)("text"), "text")
    assert.strictEqual(scrubOf("")("text"), "text")
  })
})

describe("the admin token", () => {
  it.live(
    "is in no error, no log and no request but its header, whatever the server repeats",
    () =>
      Effect.gen(function* () {
        const emulator = yield* Emulator.make({ schema, credentials: { adminToken: token } })
        const lines: Array<string> = []
        const logger = Logger.make(({ cause, message }) => {
          lines.push(inspect(message, { depth: 20 }), Cause.pretty(cause))
        })
        const told: Array<unknown> = []
        const keep = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
          Effect.map(Effect.exit(effect), (exit) => {
            assert.strictEqual(exit._tag, "Failure")
            told.push(exit)
            if (exit._tag === "Failure") lines.push(Cause.pretty(exit.cause))
          })
        yield* Effect.gen(function* () {
          const store = yield* SandboxStore
          const log = yield* ProcessLog
          const { id } = yield* store.insertSandbox(sandboxRecord())
          const process = yield* store.insertProcess(leasedProcess())
          for (const fault of [
            Faults.status(400, "record-not-found", { echoToken: true, hint: { "record-type": "app-admin-token" } }),
            Faults.status(400, "param-malformed", { echoToken: true }),
            Faults.status(400, "validation-failed", { echoToken: true }),
            Faults.status(403, undefined, { echoToken: true }),
            Faults.status(418, token, { echoToken: true }),
            Faults.raw(400, JSON.stringify({ type: token, message: token, hint: { etype: token, label: token } }))
          ]) {
            emulator.faults.choose(() => fault)
            yield* keep(store.getSandbox(id))
            yield* keep(store.updateSandbox(id, 1, { purpose: "x" }))
            yield* keep(store.insertSandbox(sandboxRecord()))
            yield* keep(Stream.runDrain(store.listSandboxes()))
            yield* keep(log.append(process.id, 1, [chunk(process, 1, "a")]))
            yield* keep(Stream.runDrain(log.read(process.id)))
            // The mirror has its own way to the server.
            emulator.faults.choose((endpoint) => (endpoint === "sse" || endpoint === "sse.push" ? fault : undefined))
            yield* log.append(process.id, 1, [], { streamAbortReason: "x" })
          }
          emulator.faults.clear()
        }).pipe(
          Effect.provide(
            InstantDb.layer({ db: { config: emulator.config }, mirror: true, requestTimeout: "2 seconds" }).pipe(
              Layer.provideMerge(Logger.layer([logger]))
            )
          )
        )
        const all = [...lines, inspect(told, { depth: 30, showHidden: true }), JSON.stringify(told)].join("\n")
        assert.notInclude(all, token)
        assert.include(all, "<redacted>")
        assert.deepStrictEqual(emulator.requests.find(token), [])
      }),
    30_000
  )

  it.live("that is wrong is Misconfigured, and not shown", () =>
    Effect.gen(function* () {
      const emulator = yield* Emulator.make({ schema })
      for (const adminToken of [token, "no-uuid-but-secret"]) {
        const config = { ...emulator.config, adminToken }
        const error = yield* Effect.flip(Layer.build(InstantDb.layer({ db: { config } })))
        assert.deepInclude(error.reason, { _tag: "Store", kind: "Misconfigured" })
        assert.notInclude(inspect(error, { depth: 20, showHidden: true }), adminToken)
      }
      const { appId, apiURI } = emulator.config
      const db = { config: { appId, apiURI } }
      for (const options of [
        { db },
        { db: { ...db, impersonationOpts: { email: "a@example.test" } } },
        // Rules may admit a guest to the records; what a stream is written with is the app's.
        { db: { ...db, impersonationOpts: { guest: true } }, mirror: true }
      ]) {
        const none = yield* Effect.flip(Layer.build(InstantDb.layer(options)))
        assert.deepInclude(none.reason, { _tag: "Store", kind: "Misconfigured" })
        assert.include(none.message, "admin token")
      }
    })
  )
})

describe("a client of a user's", () => {
  it.live("asks and writes as that user, as the SDK does", () =>
    Effect.gen(function* () {
      const { config, faults, requests } = yield* Emulator.make({ schema })
      const { appId, apiURI } = config
      const own = ["app-id", "content-type", "instant-admin-version", "instant-core-version"]
      for (const [db, headers] of [
        [init(config), { authorization: `Bearer ${config.adminToken}` }],
        [
          init(config).asUser({ email: "a@example.test" }),
          { authorization: `Bearer ${config.adminToken}`, "as-email": "a@example.test" }
        ],
        [init({ appId, apiURI }).asUser({ token: "users-secret" }), { "as-token": "users-secret" }],
        [init({ appId, apiURI }).asUser({ guest: true }), { "as-guest": "true" }]
      ] as const) {
        requests.reset()
        yield* Effect.ignore(
          Effect.flatMap(SandboxStore, (store) => store.insertSandbox(sandboxRecord())).pipe(
            Effect.provide(Layer.fresh(InstantDb.layer({ db, namespace: "x" })))
          )
        )
        yield* Effect.ignore(Effect.tryPromise(() => db.transact([])))
        const [ours, theirs] = requests.of("transact").map(({ headers, query }) => ({
          query,
          headers: Object.fromEntries(
            Object.entries(headers).filter(
              ([name]) => own.includes(name) || name === "authorization" || name.startsWith("as-")
            )
          )
        }))
        assert.deepStrictEqual(ours, theirs)
        faults.choose(() => Faults.status(400, "param-malformed", { message: "no token: users-secret" }))
        const refused = yield* Effect.flip(
          Effect.flatMap(SandboxStore, (store) => store.insertSandbox(sandboxRecord())).pipe(
            Effect.provide(Layer.fresh(InstantDb.layer({ db, namespace: "x" })))
          )
        )
        faults.choose(undefined)
        assert.include(refused.message, "no token")
        if ("as-token" in headers) assert.notInclude(inspect(refused, { depth: 20, showHidden: true }), "users-secret")
        assert.deepInclude(ours?.headers, headers)
      }
    })
  )
})

describe("settings", () => {
  const env = (values: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromUnknown(values))
  const opened = (values: Record<string, string>) =>
    Effect.map(Layer.build(Layer.fresh(InstantDb.layerConfig()).pipe(Layer.provide(env(values)))), (context) =>
      Context.get(context, SandboxStore)
    )

  it.live("INSTANT_APP_ID, INSTANT_APP_ADMIN_TOKEN, INSTANT_API_URI and SANDBOX_NAMESPACE make layerConfig", () =>
    Effect.gen(function* () {
      const { config, requests } = yield* Emulator.make({ schema })
      const rest = { INSTANT_APP_ADMIN_TOKEN: config.adminToken, INSTANT_API_URI: `${config.apiURI}/` }
      const store = yield* opened({ ...rest, INSTANT_APP_ID: ` ${config.appId} `, SANDBOX_NAMESPACE: "staging" })
      assert.strictEqual(yield* store.namespace, "staging")
      assert.strictEqual(requests.count(), 0, "with a namespace there is nothing to ask")
      const next = yield* opened({ ...rest, INSTANT_APP_ID: " ", NEXT_PUBLIC_INSTANT_APP_ID: config.appId })
      assert.match(yield* next.namespace, /^[0-9a-f-]{36}$/)
      assert.strictEqual(requests.all[0]?.path, "/admin/query")
    })
  )

  it.effect("a missing one is named, and no secret is shown", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(opened({ INSTANT_APP_ADMIN_TOKEN: token }))
      assert.deepInclude(error.reason, { _tag: "MissingSetting", names: ["INSTANT_APP_ID"] })
      assert.strictEqual(
        yield* failure(opened({ INSTANT_APP_ID: "11111111-2222-4333-8444-555555555555" })),
        "MissingSetting"
      )
      assert.notInclude(inspect(error, { depth: 20 }), token)
    })
  )

  it.live("SANDBOX_STORE=instantdb is what the embedded service keeps its records in", () =>
    Effect.gen(function* () {
      const { config, query } = yield* Emulator.make({ schema })
      const values = {
        SANDBOX_STORE: "InstantDB",
        INSTANT_APP_ID: config.appId,
        INSTANT_APP_ADMIN_TOKEN: config.adminToken,
        INSTANT_API_URI: config.apiURI
      }
      const record = sandboxRecord()
      yield* Effect.flatMap(SandboxStore, (store) => store.insertSandbox(record)).pipe(
        Effect.provide(Layer.fresh(Embedded.layerConfig).pipe(Layer.provide(env(values))))
      )
      assert.deepStrictEqual(
        query({ sandbox_sandboxes: {} })["sandbox_sandboxes"]?.map(({ id }) => id),
        [record.id]
      )
    })
  )
})
