/**
 * The section `vercel` of a config. What is a secret in it (values of headers that the network policy injects) is `Redacted` as a
 * user writes it and the name of a secret as a record keeps it.
 */
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { NoNul, RedactedText, SaneDuration, SaneDurationOrZero, SecretName } from "./Common.ts"

const Matcher = Schema.Union([
  Schema.Struct({ exact: Schema.String }),
  Schema.Struct({ startsWith: Schema.String }),
  Schema.Struct({ regex: Schema.String })
])

const KeyValueMatcher = Schema.Struct({ key: Schema.optionalKey(Matcher), value: Schema.optionalKey(Matcher) })

const Match = Schema.Struct({
  path: Schema.optionalKey(Matcher),
  method: Schema.optionalKey(Schema.Array(Schema.String)),
  queryString: Schema.optionalKey(Schema.Array(KeyValueMatcher)),
  headers: Schema.optionalKey(Schema.Array(KeyValueMatcher))
})

const response = Schema.Struct({
  statusCode: Schema.Int.check(Schema.isBetween({ minimum: 200, maximum: 599 })),
  headers: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  body: Schema.optionalKey(Schema.String),
  contentType: Schema.optionalKey(Schema.String)
})

const match = { match: Schema.optionalKey(Match) }

const rule = <S extends Schema.Top>(header: S) =>
  Schema.Union([
    Schema.Struct({
      ...match,
      /** Headers that the vendor's proxy sets on matching requests: a secret among them is never inside the sandbox. */
      transform: Schema.Array(Schema.Struct({ headers: Schema.Record(Schema.String, header) }))
    }),
    Schema.Struct({ ...match, forwardURL: Schema.String }),
    Schema.Struct({ ...match, response })
  ])

const subnets = Schema.Struct({
  allow: Schema.optionalKey(Schema.Array(Schema.String)),
  deny: Schema.optionalKey(Schema.Array(Schema.String))
})

const policy = <S extends Schema.Top>(header: S) =>
  Schema.Union([
    Schema.Literals(["allow-all", "deny-all"]),
    Schema.Struct({
      /** Domains that can be reached, by `*.` prefix too; with rules for requests to each, or none. */
      allow: Schema.optionalKey(
        Schema.Union([Schema.Array(Schema.String), Schema.Record(Schema.String, Schema.Array(rule(header)))])
      ),
      subnets: Schema.optionalKey(subnets)
    })
  ])

/** What the sandbox can reach; the vendor's own shape, but for `Redacted` values of injected headers. */
export const NetworkPolicy = policy(
  Schema.Union([NoNul, RedactedText]).annotate({ expected: "text without NUL, or Redacted text" })
)
export type NetworkPolicy = typeof NetworkPolicy.Type

const StoredPolicy = policy(Schema.Union([Schema.String, SecretName]))
type StoredPolicy = typeof StoredPolicy.Type

const fields = {
  /** What the other fields default to: `ephemeral` or `coding-agent`. */
  profile: Schema.optionalKey(Schema.Literals(["ephemeral", "coding-agent"])),
  /** The vendor's name, unique in a project; the default is made of the sandbox's id. */
  name: Schema.optionalKey(Schema.String),
  /**
   * Whether creating the name again returns the sandbox that has it. The default is true for a persistent named one.
   *
   * **Gotchas** A sandbox that no record knows is adopted when vCPUs, persistence, ports, timeout, runtime, image, region and snapshot
   * expiration are what is asked for. The vendor does not tell the environment: it stays the one that the sandbox was made with.
   */
  reuse: Schema.optionalKey(Schema.Boolean),
  persistent: Schema.optionalKey(Schema.Boolean),
  deleteOnStop: Schema.optionalKey(Schema.Boolean),
  timeout: Schema.optionalKey(SaneDuration),
  vcpus: Schema.optionalKey(Schema.Finite),
  /** How long snapshots live after their last use; zero is for ever, anything else at least a day. */
  snapshotExpiration: Schema.optionalKey(SaneDurationOrZero),
  /** At most 3 of the user's. */
  tags: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  /** An image of the vendor's registry; not together with `runtime`. */
  image: Schema.optionalKey(Schema.String),
  region: Schema.optionalKey(Schema.String)
}

/** The section as a user writes it. */
export const VercelConfig = Schema.Struct({ ...fields, networkPolicy: Schema.optionalKey(NetworkPolicy) })
export type VercelConfig = typeof VercelConfig.Type

/** The section as a record keeps it. */
export const StoredVercelConfig = Schema.Struct({ ...fields, networkPolicy: Schema.optionalKey(StoredPolicy) })
export type StoredVercelConfig = typeof StoredVercelConfig.Type

type Header = string | Redacted.Redacted<string>
type StoredHeader = string | SecretName

/** Goes through the values of all injected headers, leaving out those of none; `name` is what a secret of that place is called. */
const mapHeaders = <A, B>(policy: PolicyOf<A>, f: (value: A, name: string) => B | undefined): PolicyOf<B> => {
  if (Predicate.isString(policy)) return policy
  const { allow, ...rest } = policy
  if (allow === undefined) return rest
  if (isList(allow)) return { ...rest, allow }
  return {
    ...rest,
    allow: Object.fromEntries(
      Object.entries(allow).map(([domain, rules]) => [
        domain,
        rules.map((rule, ruleIndex) =>
          "transform" in rule
            ? {
                ...rule,
                transform: rule.transform.map(({ headers }, index) => ({
                  headers: Object.fromEntries(
                    Object.entries(headers).flatMap(([header, value]) => {
                      const mapped = f(value, `network:${domain}[${ruleIndex}.${index}]:${header}`)
                      return mapped === undefined ? [] : [[header, mapped]]
                    })
                  )
                }))
              }
            : rule
        )
      ])
    )
  }
}

const isList = (allow: ReadonlyArray<string> | object): allow is ReadonlyArray<string> => Array.isArray(allow)

type Plain = Exclude<NetworkPolicy, string>
type Allow = NonNullable<Plain["allow"]>
type Rules = Exclude<Allow, ReadonlyArray<string>>
type OtherRule = Exclude<Rules[string][number], { readonly transform: unknown }>
type TransformRule = Extract<Rules[string][number], { readonly transform: unknown }>

/** A policy whose injected headers have values of this type. */
type PolicyOf<A> =
  | Extract<NetworkPolicy, string>
  | (Omit<Plain, "allow"> & {
      readonly allow?:
        | ReadonlyArray<string>
        | {
            readonly [domain: string]: ReadonlyArray<
              | OtherRule
              | (Omit<TransformRule, "transform"> & {
                  readonly transform: ReadonlyArray<{ readonly headers: { readonly [name: string]: A } }>
                })
            >
          }
    })

/** The name that the user gave a secret by its label, else that of its place. */
const nameOf = (value: Redacted.Redacted<string>, place: string): string => value.label ?? place

/** The secrets of a section with the names that they have in a record. */
export const secretsOf = ({
  networkPolicy
}: VercelConfig): ReadonlyArray<readonly [string, Redacted.Redacted<string>]> => {
  const found: Array<readonly [string, Redacted.Redacted<string>]> = []
  if (networkPolicy !== undefined) {
    mapHeaders<Header, void>(networkPolicy, (value, place) => {
      if (Redacted.isRedacted(value)) found.push([nameOf(value, place), value])
    })
  }
  return found
}

/** The section without the values of secrets but with their names. */
export const toStored = ({ networkPolicy, ...rest }: VercelConfig): StoredVercelConfig =>
  networkPolicy === undefined
    ? rest
    : {
        ...rest,
        networkPolicy: mapHeaders<Header, StoredHeader>(networkPolicy, (value, place) =>
          Redacted.isRedacted(value) ? { secret: nameOf(value, place) } : value
        )
      }

/** The names of the secrets that a stored section needs. */
export const secretNames = ({ networkPolicy }: StoredVercelConfig): ReadonlyArray<string> => {
  const names: Array<string> = []
  if (networkPolicy !== undefined) {
    mapHeaders<StoredHeader, void>(networkPolicy, (value) => {
      if (!Predicate.isString(value)) names.push(value.secret)
    })
  }
  return names
}

/** The section with the values of its secrets; a name that was not supplied injects nothing. */
export const fromStored = (
  { networkPolicy, ...rest }: StoredVercelConfig,
  secrets: Readonly<Record<string, Redacted.Redacted<string>>>
): VercelConfig =>
  networkPolicy === undefined
    ? rest
    : {
        ...rest,
        networkPolicy: mapHeaders<StoredHeader, Header>(networkPolicy, (value) =>
          Predicate.isString(value) ? value : secrets[value.secret]
        )
      }

/** A rule of requests to a domain. */
export type NetworkRule = Rules[string][number]

/**
 * The policy with these rules, before others, for requests to a domain, which can be reached by it; what else can be reached stays as
 * it is.
 */
export const withRules = (
  policy: NetworkPolicy | undefined,
  domain: string,
  rules: ReadonlyArray<NetworkRule>
): NetworkPolicy => {
  if (policy === "deny-all") return { allow: { [domain]: rules } }
  // Everything else, in the form that has rules.
  if (policy === undefined || policy === "allow-all") return { allow: { [domain]: rules, "*": [] } }
  const { allow = {}, ...rest } = policy
  const others = isList(allow) ? Object.fromEntries(allow.map((name) => [name, []])) : allow
  return { ...rest, allow: { ...others, [domain]: [...rules, ...(others[domain] ?? [])] } }
}

/** The policy as the vendor takes it, with its secrets. For the request and nothing else. */
export const reveal = (policy: NetworkPolicy): PolicyOf<string> =>
  mapHeaders<Header, string>(policy, (value) => (Redacted.isRedacted(value) ? Redacted.value(value) : value))
