/**
 * A sandbox of Vercel asks InstantDB as one user, whose token it never has: the vendor's emulator holds the policy, a proxy of the test
 * does with it what the vendor's does, and the emulated server takes the requests. What users may see is the real server's to say.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { i, init } from "@instantdb/admin"
import { Duration, Effect, Layer, Option, Redacted, Schema } from "effect"
import * as Http from "node:http"
import * as VercelConfig from "../../src/model/VercelConfig.ts"
import { refused } from "../../src/programs/internal/instantRefusals.ts"
import * as InstantAccess from "../../src/programs/instantAccess.ts"
import { SandboxSecrets } from "../../src/services/SandboxSecrets.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import * as Testing from "../../src/testing/Testing.ts"
import * as Fault from "../emulators/instantdb/faults.ts"
import * as Instant from "../emulators/instantdb/server.ts"
import * as VercelWorld from "../layers/providers/vercel/support.ts"
import { settings } from "../support/embedded.ts"
import { absent, commandLines, listening, recorded, shown } from "../support/planted.ts"

const schema = i.schema({
  entities: {
    $users: i.entity({ email: i.string().unique().indexed().optional() }),
    todos: i.entity({ title: i.string().indexed() })
  }
})

const rule = Schema.Struct({
  match: Schema.optionalKey(Schema.Struct({ path: Schema.Struct({ exact: Schema.String }), method: Schema.Json })),
  transform: Schema.Array(Schema.Struct({ headers: Schema.Record(Schema.String, Schema.String) }))
})
const allowed = Schema.decodeUnknownSync(Schema.Struct({ allow: Schema.Record(Schema.String, Schema.Array(rule)) }))

interface Passed {
  readonly path: string
  readonly token: string | undefined
  readonly status: number
}

/** What stands between a sandbox and the world: it adds what the policy says, and lets nothing out that it does not name. */
const outward = (policy: () => unknown) =>
  Effect.acquireRelease(
    Effect.callback<{ readonly server: Http.Server; readonly url: string; readonly passed: Array<Passed> }>(
      (resume) => {
        const passed: Array<Passed> = []
        const server = Http.createServer((request, response) => {
          const url = new URL(request.url ?? "")
          const rules = allowed(policy()).allow[url.hostname]
          if (rules === undefined) return void response.writeHead(403).end()
          const matching = rules.filter(({ match }) => match === undefined || match.path.exact === url.pathname)
          const token = request.headers["as-token"]
          const headers = {
            ...request.headers,
            ...Object.assign({}, ...matching.flatMap(({ transform }) => transform.map((one) => one.headers)))
          }
          const out = Http.request(url, { method: request.method ?? "GET", headers }, (answer) => {
            passed.push({
              path: url.pathname,
              token: typeof token === "string" ? token : undefined,
              status: answer.statusCode ?? 0
            })
            response.writeHead(answer.statusCode ?? 500, answer.headers)
            answer.pipe(response)
          })
          out.on("error", () => response.destroy())
          request.pipe(out)
        }).listen(0, "127.0.0.1", () => {
          const address = server.address()
          const port = typeof address === "object" && address !== null ? address.port : 0
          resume(Effect.succeed({ server, passed, url: `http://127.0.0.1:${port}` }))
        })
      }
    ),
    ({ server }) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )

const tokens = new Map<string, Redacted.Redacted<string>>()
const secrets = Layer.succeed(SandboxSecrets, (_, name) => Effect.succeed(Option.fromUndefinedOr(tokens.get(name))))

const start = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const vendor = yield* VercelWorld.Vendor
  const instant = yield* Instant.make({ schema })
  instant.transact([["update", "todos", crypto.randomUUID(), { title: "first" }]])
  const db = init(instant.config)
  const token = yield* Effect.promise(() => db.auth.createToken({ email: "user@example.test" }))
  const userId = String(instant.query({ $users: {} })["$users"]?.[0]?.id)
  const policyOf = (name: string) => vendor.sandbox(name).sessions.at(-1)?.networkPolicy
  const proxy = yield* outward(() => vendor.sandboxes().at(-1)?.sessions.at(-1)?.networkPolicy)
  const access = {
    appId: instant.credentials.appId,
    apiUri: instant.origin,
    userId,
    token: Redacted.make(token)
  }
  const config = { persistent: false, env: { http_proxy: proxy.url, no_proxy: "" } } as const
  return { sandboxes, vendor, instant, token, userId, policyOf, proxy, access, config }
})

layer(VercelWorld.service().pipe(Layer.provide(secrets)), { excludeTestServices: true, timeout: "60 seconds" })(
  "instantAccess on vercel",
  (it) => {
    it.effect("a sandbox asks as its user, whose token is with the vendor and never inside", () => {
      const { heard, layer } = listening()
      return Effect.gen(function* () {
        const { access, config, instant, policyOf, proxy, sandboxes, token, userId, vendor } = yield* start
        vendor.requests.reset()
        const { ref, sandboxId } = yield* InstantAccess.createSandbox(access, { ...config, params: { mine: 1 } })
        const name = ref.externalSandboxId ?? ""
        assert.deepStrictEqual<unknown>(policyOf(name), {
          allow: {
            "127.0.0.1": [
              {
                match: { path: { exact: "/admin/query" }, method: ["POST"] },
                transform: [{ headers: { "as-token": token } }]
              }
            ],
            "*": []
          }
        })
        const record = yield* sandboxes.getSandbox(sandboxId)
        assert.strictEqual(record.sandboxUserId, userId)
        assert.deepInclude(record.params, { mine: 1 })
        assert.include(JSON.stringify(record), InstantAccess.secretName(userId))

        instant.requests.reset()
        const answer = yield* InstantAccess.query(sandboxId, { todos: { $: { where: { title: "first" } } } })
        assert.deepInclude(Object(answer)["todos"][0], { title: "first" })
        const Todos = Schema.Struct({ todos: Schema.Array(Schema.Struct({ title: Schema.String })) })
        assert.deepStrictEqual(yield* InstantAccess.queryAs(Todos)(sandboxId, { todos: {} }), {
          todos: [{ title: "first" }]
        })
        // What the sandbox sent had no token; what arrived did.
        assert.deepStrictEqual(
          proxy.passed.map(({ token }) => token),
          [undefined, undefined]
        )
        for (const { headers } of instant.requests.of("query")) {
          assert.deepInclude(headers, { "as-token": token, "app-id": access.appId })
          assert.isUndefined(headers.authorization)
        }
        // Whoever works in there has the helper and the manifest.
        const byHand = yield* sandboxes.runCommand(sandboxId, "sh", [".instant/query.sh", '{"todos":{}}'])
        assert.match(byHand.stdout, /"first".*\n200\n$/)
        const manifest = new TextDecoder().decode(yield* sandboxes.readFile(sandboxId, ".instant/manifest.json"))
        assert.deepStrictEqual(JSON.parse(manifest), {
          version: 1,
          appId: access.appId,
          apiUri: instant.origin,
          userId
        })

        const inside = yield* sandboxes.runCommand(sandboxId, "sh", [
          "-c",
          "env; find . -type f -exec cat {} +; cat /proc/self/environ"
        ])
        assert.include(inside.stdout, "/admin/query")
        assert.deepStrictEqual(vendor.requests.find(token), ["sandbox.create body"])
        absent(token, {
          inside: inside.stdout,
          lines: yield* commandLines,
          records: yield* recorded,
          result: shown([ref, answer]),
          heard: heard()
        })
        // A query that may be asked is all that the token is added to.
        const write = ["-sS", "-X", "POST", "-H", `app-id: ${access.appId}`, "-H", "content-type: application/json"]
        const target = `${instant.origin}/admin/transact`
        const refused = yield* sandboxes.runCommand(sandboxId, "curl", [...write, "-d", '{"steps":[]}', target])
        assert.include(refused.stdout, "authorization")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped, Effect.provide(layer))
    })

    it.effect("one that is made anew has the token of SandboxSecrets, and its helper again", () =>
      Effect.gen(function* () {
        const { access, config, policyOf, sandboxes, token, userId, vendor } = yield* start
        const { ref, sandboxId } = yield* InstantAccess.createSandbox({ ...access, transact: true }, config)
        yield* vendor.vanish(ref.externalSandboxId ?? "")
        tokens.set(InstantAccess.secretName(userId), access.token)
        assert.property(yield* InstantAccess.query(sandboxId, { todos: {} }), "todos")
        const { externalSandboxId = "" } = yield* sandboxes.getSandbox(sandboxId)
        assert.notStrictEqual(externalSandboxId, ref.externalSandboxId)
        assert.lengthOf(JSON.stringify(policyOf(externalSandboxId)).split(token), 3, "for queries and transactions")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped)
    )

    it.effect("is one user's: by its id nobody else gets it", () =>
      Effect.gen(function* () {
        const { access, config, sandboxes, userId } = yield* start
        const sandboxId = crypto.randomUUID()
        yield* InstantAccess.createSandbox(access, config, { sandboxId })
        assert.strictEqual((yield* InstantAccess.createSandbox(access, config, { sandboxId })).outcome, "resumed")
        const theirs = { ...access, userId: crypto.randomUUID() }
        const error = yield* Effect.flip(InstantAccess.createSandbox(theirs, config, { sandboxId }))
        assert.strictEqual(error.reason._tag, "ConfigMismatch")
        assert.include(error.message, "sandboxUserId")
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).sandboxUserId, userId)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped)
    )

    it.effect("what goes wrong is told by its reason", () =>
      Effect.gen(function* () {
        const { access, config, instant, sandboxes } = yield* start
        const { sandboxId } = yield* InstantAccess.createSandbox(access, config)
        const reason = <A, E extends { readonly reason: object }, R>(query: Effect.Effect<A, E, R>) =>
          Effect.map(Effect.flip(query), (error): E["reason"] => error.reason)
        const ask = (query: Parameters<typeof InstantAccess.query>[1] = { todos: {} }, id = sandboxId) =>
          InstantAccess.query(id, query)
        instant.faults.inject("query", Fault.status(429, "rate-limited", { hint: { "retry-after": 7 } }))
        assert.deepInclude(yield* reason(ask()), { _tag: "RateLimited", retryAfter: Duration.seconds(7) })
        instant.faults.inject("query", Fault.resetBefore)
        assert.strictEqual((yield* reason(ask()))._tag, "Unavailable")
        const Wrong = Schema.Struct({ todos: Schema.Array(Schema.Struct({ done: Schema.Boolean })) })
        const decoded = yield* reason(InstantAccess.queryAs(Wrong)(sandboxId, { todos: {} }))
        assert.deepInclude(decoded, { _tag: "Unknown" })
        assert.include(JSON.stringify(decoded), "todos[0].done")
        // A caller without types.
        assert.strictEqual((yield* reason(ask(JSON.parse("[]"))))._tag, "InvalidArgument")
        const plain = yield* sandboxes.createSandbox(config)
        assert.strictEqual((yield* reason(ask({ todos: {} }, plain.sandboxId)))._tag, "InvalidArgument")
        for (const id of [plain.sandboxId, sandboxId]) yield* sandboxes.stopSandbox(id, { delete: true })
      }).pipe(Effect.scoped)
    )

    it.effect("what is no binding is refused before the vendor is asked, and no token is repeated", () =>
      Effect.gen(function* () {
        const { access, config, vendor } = yield* start
        vendor.requests.reset()
        const planted = "pl4nted\ntoken"
        for (const more of [
          { appId: "app" },
          { userId: "user" },
          { apiUri: "http://api.example.com" },
          { apiUri: "https://api.example.com/path" },
          { apiUri: "nonsense" },
          { token: Redacted.make(planted) }
        ]) {
          const error = yield* Effect.flip(InstantAccess.createSandbox({ ...access, ...more }, config))
          assert.strictEqual(error.reason._tag, "InvalidArgument")
          absent("pl4nted", { error: shown(error) })
        }
        assert.strictEqual(vendor.requests.count("sandbox.create"), 0)
      }).pipe(Effect.scoped)
    )
  }
)

describe("instantAccess elsewhere", () => {
  it.live("is not supported: not to make one, nor to ask from one", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const access = {
        appId: crypto.randomUUID(),
        userId: crypto.randomUUID(),
        token: Redacted.make("token")
      }
      const made = yield* Effect.flip(InstantAccess.createSandbox(access))
      assert.deepInclude(made.reason, { _tag: "UnsupportedCapability", capability: "instantAccess" })
      const { sandboxId } = yield* sandboxes.createSandbox()
      const asked = yield* Effect.flip(InstantAccess.query(sandboxId, { todos: {} }))
      assert.strictEqual(asked.reason._tag, "UnsupportedCapability")
    }).pipe(Effect.provide(Layer.merge(Testing.layer(), settings())))
  )
})

describe("an answer that is none", () => {
  it.each([
    [429, { type: "rate-limited", message: "m", hint: null }, "RateLimited"],
    [503, undefined, "Unavailable"],
    [500, { type: "sql-exception", message: "m" }, "Unavailable"],
    [400, { type: "permission-denied", message: "m" }, "Permission"],
    [403, { message: "m" }, "Permission"],
    [401, undefined, "Authentication"],
    [400, { type: "record-not-found", message: "t0ken", hint: { "record-type": "app-user" } }, "Authentication"],
    [400, { type: "record-not-found", message: "m", hint: { "record-type": "attr" } }, "Unknown"],
    [400, { type: "validation-failed", message: "m", hint: { input: "t0ken" } }, "InvalidArgument"],
    [400, { type: "param-malformed", message: "m", hint: { "original-input": "t0ken" } }, "InvalidArgument"],
    [404, { message: "m" }, "Unknown"],
    [0, undefined, "Unknown"]
  ] as const)("%s %j is %s, and repeats no token", (status, body, tag) => {
    const reason = refused(status, body === undefined ? "<html>" : JSON.stringify(body))
    assert.strictEqual(reason._tag, tag)
    absent("t0ken", { reason: shown(reason) })
  })
})

describe("rules in a network policy", () => {
  const rules = [{ transform: [{ headers: { a: "b" } }] }]
  const other = [{ forwardURL: "https://other.test" }]
  it.each([
    [undefined, { allow: { h: rules, "*": [] } }],
    ["allow-all", { allow: { h: rules, "*": [] } }],
    ["deny-all", { allow: { h: rules } }],
    [{ allow: ["x", "h"] }, { allow: { x: [], h: rules } }],
    [
      { allow: { x: [], h: other }, subnets: { deny: ["10.0.0.0/8"] } },
      { allow: { x: [], h: [...rules, ...other] }, subnets: { deny: ["10.0.0.0/8"] } }
    ],
    [{ subnets: { allow: ["10.0.0.0/8"] } }, { allow: { h: rules }, subnets: { allow: ["10.0.0.0/8"] } }]
  ] as ReadonlyArray<readonly [VercelConfig.NetworkPolicy | undefined, VercelConfig.NetworkPolicy]>)(
    "leave what can be reached besides as it is: %j",
    (policy, expected) => {
      assert.deepStrictEqual(VercelConfig.withRules(policy, "h", rules), expected)
    }
  )
})
