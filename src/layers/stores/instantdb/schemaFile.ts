/** The schema as a file for the vendor's CLI. */
import { attributesOf, sandboxDomain } from "./schema.ts"

const definition = (entity: string, name: string): string | undefined => {
  const attribute = attributesOf(entity).get(name)
  if (attribute === undefined) return undefined
  return [
    `i.${attribute.type}()`,
    ...(attribute.unique ? ["unique()"] : []),
    ...(attribute.indexed ? ["indexed()"] : []),
    ...(attribute.required ? [] : ["optional()"])
  ].join(".")
}

/** How an attribute, given as `entity.name`, is declared: what is to be pushed when it is missing. */
export const declaration = (path: string): string => {
  const dot = path.indexOf(".")
  const [entity, name] = [path.slice(0, dot), path.slice(dot + 1)]
  const link = Object.entries(sandboxDomain.links).find(
    ([, { forward, reverse }]) =>
      (forward.on === entity && forward.label === name) || (reverse.on === entity && reverse.label === name)
  )
  const declared = definition(entity, name) ?? (link === undefined ? undefined : `the link ${link[0]}`)
  return declared === undefined ? path : `${path}: ${declared}`
}

/** The whole schema, for `instant-cli push schema` of an app that has nothing else. */
export const schemaFile = (): string => {
  const entities = Object.keys(sandboxDomain.entities).map((entity) => {
    const attributes = [...attributesOf(entity).keys()].map((name) => `      ${name}: ${definition(entity, name)}`)
    return `    ${JSON.stringify(entity)}: i.entity({\n${attributes.join(",\n")}\n    })`
  })
  const links = Object.entries(sandboxDomain.links).map(
    ([name, { forward, reverse }]) =>
      `    ${name}: {\n      forward: ${JSON.stringify(forward)},\n      reverse: ${JSON.stringify(reverse)}\n    }`
  )
  return `// The entities of effect-sandbox's InstantDB store. Push them: npx instant-cli@latest push schema
// An app with a schema of its own spreads them into it instead:
//   import { sandboxDomain } from "effect-sandbox/layers/stores/InstantDbSchema"
import { i } from "@instantdb/core"

const _schema = i.schema({
  entities: {
${entities.join(",\n")}
  },
  links: {
${links.join(",\n")}
  },
  rooms: {}
})

type _AppSchema = typeof _schema
interface AppSchema extends _AppSchema {}
const schema: AppSchema = _schema

export type { AppSchema }
export default schema
`
}
