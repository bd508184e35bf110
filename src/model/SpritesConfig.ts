/** The section `sprites` of a config. Nothing in it is a secret, so that a record keeps it as it is. */
import * as Schema from "effect/Schema"
import { NoNul } from "./Common.ts"

/** A host, or all below one (`*.example.com`), or all there is (`*`). */
const Domain = Schema.String.check(
  Schema.isPattern(/^(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*)$/, {
    expected: "a domain, *.domain or *"
  })
)

/**
 * What the sandbox can reach, by domain: the longest match decides. What neither list has is denied where `allow` is given, else
 * allowed.
 */
export const SpritesNetworkPolicy = Schema.Struct({
  allow: Schema.optionalKey(Schema.Array(Domain)),
  deny: Schema.optionalKey(Schema.Array(Domain)),
  /** Whether the vendor's own list of package registries and the like is allowed, too. */
  defaults: Schema.optionalKey(Schema.Boolean)
})
export type SpritesNetworkPolicy = typeof SpritesNetworkPolicy.Type

/** The section as a user writes it and as a record keeps it. */
export const SpritesConfig = Schema.Struct({
  /** The vendor's name, unique in an organization and a part of a host name; the default is made of the sandbox's id. */
  name: Schema.optionalKey(Schema.String),
  /** Whether creating the name again returns the sandbox that has it. The default is true for a persistent named one. */
  reuse: Schema.optionalKey(Schema.Boolean),
  /** Whether a creation waits until there is room for it (the default). */
  waitForCapacity: Schema.optionalKey(Schema.Boolean),
  urlSettings: Schema.optionalKey(
    Schema.Struct({
      /** Who may open the url: members of the organization (`sprite`, the default) or anybody (`public`). */
      auth: Schema.optionalKey(Schema.Literals(["sprite", "public"]))
    })
  ),
  /** Whether stopping deletes (the default) or leaves the sprite to sleep. */
  deleteOnStop: Schema.optionalKey(Schema.Boolean),
  /** Labels beside those of this library. */
  labels: Schema.optionalKey(Schema.Array(NoNul)),
  networkPolicy: Schema.optionalKey(SpritesNetworkPolicy)
})
export type SpritesConfig = typeof SpritesConfig.Type
