/**
 * The bodies that the API takes, strictly: a key that the documentation does not know is refused, so that a mistake of the
 * caller shows here and is not ignored as the vendor's own server may ignore it.
 */
import { Result, Schema } from "effect"
import { badRequest } from "./http.ts"

const optional = Schema.optionalKey
const Text = Schema.String
const PositiveInt = Schema.Int.check(Schema.isGreaterThan(0))
const day = 86_400_000

/** 1 or an even number up to 32: what the vendor sells. */
const Vcpus = Schema.Int.check(
  Schema.makeFilter((n) => n === 1 || (n >= 2 && n <= 32 && n % 2 === 0), { expected: "vcpus: 1 or even, at most 32" })
)
/** 0 keeps a snapshot for ever; anything else is at least a day. */
export const Expiration = Schema.Int.check(
  Schema.makeFilter((n) => n === 0 || n >= day, { expected: "expiration: 0 or at least 86400000" })
)
const Ports = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))).check(
  Schema.isMaxLength(15)
)
const Tags = Schema.Record(Text, Text).check(
  Schema.makeFilter((tags) => Object.keys(tags).length <= 5, { expected: "at most 5 tags" })
)
const Name = Text.check(Schema.isPattern(/^[A-Za-z0-9_-]{1,128}$/))
const KeepLast = Schema.Struct({
  count: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10 })),
  expiration: optional(Expiration),
  deleteEvicted: optional(Schema.Boolean)
})
const Mounts = Schema.Record(
  Text,
  Schema.Struct({ drive: Text, mode: optional(Schema.Literals(["snapshot", "read-write", "read-only"])) })
)

const Matcher = Schema.Struct({ exact: optional(Text), startsWith: optional(Text), regex: optional(Text) })
const KeyValue = Schema.Struct({ key: optional(Matcher), value: optional(Matcher) })
const Match = Schema.Struct({
  path: optional(Matcher),
  method: optional(Schema.Array(Text)),
  queryString: optional(Schema.Array(KeyValue)),
  headers: optional(Schema.Array(KeyValue))
})
const Rule = Schema.Struct({
  match: optional(Match),
  transform: optional(Schema.Array(Schema.Struct({ headers: optional(Schema.Record(Text, Text)) }))),
  forwardURL: optional(Text),
  response: optional(
    Schema.Struct({
      statusCode: Schema.Int.check(Schema.isBetween({ minimum: 200, maximum: 599 })),
      headers: optional(Schema.Record(Text, Text)),
      body: optional(Text),
      contentType: optional(Text)
    })
  )
}).check(
  Schema.makeFilter(
    ({ forwardURL, response, transform }) =>
      [transform, forwardURL, response].filter((part) => part !== undefined).length === 1,
    { expected: "exactly one of transform, forwardURL and response" }
  )
)

export const NetworkPolicy = Schema.Union([
  Schema.Struct({ mode: Schema.Literals(["allow-all", "deny-all"]) }),
  Schema.Struct({
    allow: optional(Schema.Union([Schema.Array(Text), Schema.Record(Text, Schema.Array(Rule))])),
    subnets: optional(Schema.Struct({ allow: optional(Schema.Array(Text)), deny: optional(Schema.Array(Text)) }))
  })
])
export type NetworkPolicy = typeof NetworkPolicy.Type

const settings = {
  ports: optional(Ports),
  timeout: optional(Schema.Number),
  resources: optional(Schema.Struct({ vcpus: optional(Vcpus) })),
  name: optional(Name),
  persistent: optional(Schema.Boolean),
  networkPolicy: optional(NetworkPolicy),
  networkId: optional(Text),
  env: optional(Schema.Record(Text, Text)),
  tags: optional(Tags),
  snapshotExpiration: optional(Expiration),
  keepLastSnapshots: optional(KeepLast),
  region: optional(Text),
  failoverRegions: optional(Schema.Array(Text))
}

export const Fork = Schema.Struct({ ...settings, image: optional(Text) })

const create = {
  ...settings,
  projectId: Text,
  mounts: optional(Mounts),
  source: optional(
    Schema.Union([
      Schema.Struct({ type: Schema.Literal("snapshot"), snapshotId: Text }),
      Schema.Struct({ type: Schema.Literal("tarball"), url: Text }),
      Schema.Struct({
        type: Schema.Literal("git"),
        url: Text,
        depth: optional(Schema.Int),
        revision: optional(Text),
        username: optional(Text),
        password: optional(Text)
      })
    ])
  )
}
/** The SDK takes v2 exactly when a `runtime` is given. */
export const CreateV2 = Schema.Struct({
  ...create,
  runtime: Schema.Literals(["node22", "node24", "node26", "python3.13"])
})
export const CreateV3 = Schema.Struct({ ...create, image: optional(Text) })
export type Settings = typeof Fork.Type & Partial<Pick<typeof CreateV2.Type, "runtime" | "mounts" | "source">>

export const Update = Schema.Struct({
  persistent: optional(Schema.Boolean),
  resources: optional(Schema.Struct({ vcpus: Vcpus, memory: PositiveInt })),
  timeout: optional(Schema.Number),
  networkPolicy: optional(NetworkPolicy),
  networkId: optional(Schema.NullOr(Text)),
  tags: optional(Tags),
  ports: optional(Ports),
  snapshotExpiration: optional(Expiration),
  keepLastSnapshots: optional(Schema.NullOr(KeepLast)),
  currentSnapshotId: optional(Text),
  region: optional(Text),
  failoverRegions: optional(Schema.Array(Text)),
  mounts: optional(Mounts)
})

export const RunCommand = Schema.Struct({
  command: Text.check(Schema.isMinLength(1)),
  args: Schema.Array(Text),
  cwd: optional(Text),
  env: optional(Schema.Record(Text, Text)),
  sudo: optional(Schema.Boolean),
  wait: optional(Schema.Literal(true)),
  logs: optional(Schema.Literal(true)),
  timeout: optional(Schema.Int.check(Schema.isGreaterThanOrEqualTo(100)))
})
export const Kill = Schema.Struct({ signal: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 })) })
export const Extend = Schema.Struct({ duration: Schema.Number })
export const Snapshot = Schema.Struct({ expiration: optional(Expiration) })
export const FilePath = Schema.Struct({ path: Text.check(Schema.isMinLength(1)), cwd: optional(Text) })

/** What the body says, or the vendor's 400. */
export const decode = <A>(schema: Schema.Codec<A, unknown>, input: unknown): A =>
  Result.getOrElse(Schema.decodeUnknownResult(schema, { onExcessProperty: "error" })(input), (error) =>
    badRequest(`Invalid request: ${error.message.slice(0, 500)}`)
  )

const isNames = (allow: unknown): allow is ReadonlyArray<string> => Array.isArray(allow)

/**
 * A policy as the API tells it: another shape than the one that it takes, and without the values of injected headers. What is
 * sent back in the shape of the request fails the SDK's validation.
 */
export const policyAnswer = (policy: NetworkPolicy) => {
  if ("mode" in policy) return policy
  const { allow, subnets } = policy
  const byDomain: ReadonlyArray<readonly [domain: string, rules: ReadonlyArray<typeof Rule.Type>]> = isNames(allow)
    ? allow.map((domain) => [domain, []])
    : Object.entries(allow ?? {})
  const all = byDomain.flatMap(([domain, rules]) => rules.map((rule) => ({ domain, rule })))
  const matched = (rule: typeof Rule.Type) => (rule.match === undefined ? {} : { match: rule.match })
  const injectionRules = all.flatMap(({ domain, rule }) =>
    rule.transform === undefined
      ? []
      : [{ domain, headerNames: rule.transform.flatMap(({ headers }) => Object.keys(headers ?? {})), ...matched(rule) }]
  )
  const forwardRules = all.flatMap(({ domain, rule }) =>
    rule.forwardURL === undefined ? [] : [{ domain, forwardURL: rule.forwardURL, ...matched(rule) }]
  )
  return {
    mode: "custom",
    ...(allow === undefined ? {} : { allowedDomains: byDomain.map(([domain]) => domain) }),
    ...(subnets?.allow === undefined ? {} : { allowedCIDRs: subnets.allow }),
    ...(subnets?.deny === undefined ? {} : { deniedCIDRs: subnets.deny }),
    ...(injectionRules.length === 0 ? {} : { injectionRules }),
    ...(forwardRules.length === 0 ? {} : { forwardRules })
  }
}
