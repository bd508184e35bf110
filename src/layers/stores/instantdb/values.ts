/**
 * Records as InstantDB keeps them. The server refuses NUL, replaces lone surrogates, writes UUIDs in lower case wherever they stand, and
 * indexes no long values. What it would not give back as it was stands in the attribute `exact` as well, as JSON text, which it leaves
 * alone; the attribute itself then holds what is nearest.
 */
import * as Predicate from "effect/Predicate"
import type * as Schema from "effect/Schema"
import type { Row } from "../../../services/SandboxStore.ts"
import type { Attribute } from "./schema.ts"

/** Attributes as they are written; null takes one away. */
export type Attrs = { readonly [name: string]: unknown }

/** An entity as a query yields it. */
export type Entity = { readonly [name: string]: unknown } & { readonly id: string }

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** Far below the 1,024 bytes that the server indexes, whatever the characters. */
const indexedLength = 200

const cleanText = (text: string): string => {
  const clean = text.toWellFormed().replaceAll("\u0000", "\uFFFD")
  return uuid.test(clean) ? clean.toLowerCase() : clean
}

const cut = (text: string): string =>
  text.length <= indexedLength ? text : text.slice(0, indexedLength).toWellFormed()

const cleanJson = (value: unknown): unknown => {
  if (typeof value === "string") return cleanText(value)
  if (Array.isArray(value)) return value.map(cleanJson)
  if (!Predicate.isObject(value)) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [cleanText(key), cleanJson(inner)]))
}

const sameJson = (a: unknown, b: unknown): boolean => a === b || JSON.stringify(a) === JSON.stringify(b)

/** What stands in for a value that an attribute must have and whose type is another. */
const placeholder: { readonly [type: string]: unknown } = { string: "", number: 0, boolean: false, json: null }

/** The value as the server keeps it. */
export const nearest = (value: unknown, attribute: Pick<Attribute, "type" | "indexed" | "required">): unknown => {
  if (value === undefined || value === null) return null
  if (attribute.type === "json") return cleanJson(value)
  if (typeof value !== attribute.type) return attribute.required ? placeholder[attribute.type] : null
  if (typeof value !== "string") return value
  const clean = cleanText(value)
  return attribute.indexed ? cut(clean) : clean
}

/** The text that a filter compares an indexed attribute with; rows whose real value differs are sorted out by the reader. */
export const indexedText = (value: string): string => cut(cleanText(value))

/** The attributes of a row, those that are the store's own aside. Absent fields are null, so that they are taken away. */
export const toAttrs = (row: Row, attributes: ReadonlyMap<string, Attribute>): Attrs => {
  const attrs: { [name: string]: unknown } = {}
  const exact: { [name: string]: unknown } = {}
  for (const [name, attribute] of attributes) {
    const value = row[name]
    attrs[name] = nearest(value, attribute)
    if (value !== undefined && !sameJson(attrs[name], value)) exact[name] = value
  }
  for (const [name, value] of Object.entries(row)) {
    // Of a newer version of this library.
    if (name !== "id" && value !== undefined && !attributes.has(name)) exact[name] = value
  }
  return { ...attrs, exact: Object.keys(exact).length === 0 ? null : JSON.stringify(exact) }
}

const parseExact = (text: unknown): { readonly [name: string]: Schema.Json } => {
  if (typeof text !== "string") return {}
  try {
    // What this module wrote; the store above decodes the row through its schema.
    return JSON.parse(text)
  } catch {
    return {}
  }
}

const isJson = (value: unknown): value is Schema.Json => value !== undefined

/** The row of an entity. */
export const toRow = (entity: Entity, attributes: ReadonlyMap<string, Attribute>): Row => {
  const fields: { [name: string]: Schema.Json } = {}
  for (const name of attributes.keys()) {
    const value = entity[name]
    if (value !== null && isJson(value)) fields[name] = value
  }
  Object.assign(fields, parseExact(entity["exact"]))
  const id = typeof entity["recordId"] === "string" ? entity["recordId"] : entity.id
  const version = typeof fields["version"] === "number" ? fields["version"] : 0
  return { ...fields, id, version }
}

/** Only the attributes that differ. */
export const changedAttrs = (before: Attrs, after: Attrs): Attrs =>
  Object.fromEntries(Object.entries(after).filter(([name, value]) => !sameJson(before[name], value)))
