/**
 * What the store `InstantDb` keeps in an app, for the schema of that app. Runs in browsers; needs `@instantdb/core`, which every
 * SDK of Instant's brings along.
 *
 * ```ts
 * export default i.schema({
 *   entities: { ...sandboxDomain.entities, ...yours },
 *   links: { ...sandboxDomain.links, ...yourLinks },
 *   rooms: {}
 * })
 * ```
 *
 * **Gotchas**: spread yours behind it when you declare `$users` or `$streams` too.
 */
import * as Schema from "./instantdb/schema.ts"
import * as SchemaFile from "./instantdb/schemaFile.ts"

/** Entities, links and rooms: what `i.schema` and `domain(…).schema` take. */
export const sandboxDomain = Schema.sandboxDomain

/** The schema of an app that holds nothing else. */
export const schema = Schema.schema

/** The text of `instant.schema.ts` for such an app; `npx effect-sandbox-instantdb-schema` prints it. */
export const schemaFile: () => string = SchemaFile.schemaFile
