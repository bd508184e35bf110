/** A transaction's steps: their form, the attributes that they need, and the operations into which the server expands them. */
import { type Attr, blob, type Catalog, etypeOf, idAttr, isRef, nameOf, ref, targetOf } from "./attrs.ts"
import type { Data } from "./data.ts"
import { invalid, isRecord, isString, isUuid } from "./http.ts"

/** An entity by its id, or by a unique attribute's value. */
export type Entity = string | { readonly attr: Attr; readonly value: unknown }

export type Mode = "create" | "update" | undefined

/** In the order of the vendor's names, by which they are grouped: `add-triple` and so on. */
export type Op =
  | {
      readonly _tag: "Add"
      readonly etype: string
      readonly entity: Entity
      readonly attr: Attr
      /** Of a link an {@link Entity}. */
      readonly value: unknown
      readonly mode: Mode
    }
  | {
      readonly _tag: "Merge"
      readonly etype: string
      readonly entity: Entity
      readonly attr: Attr
      readonly value: unknown
    }
  | {
      readonly _tag: "Retract"
      readonly entity: Entity
      readonly attr: Attr
      readonly value: Entity
      readonly etype: string
    }
  | { readonly _tag: "Delete"; readonly etype: string; readonly entity: Entity }

type Lookup = readonly [label: string, value: unknown]

interface Step {
  readonly action: "create" | "update" | "merge" | "link" | "unlink" | "delete" | "ruleParams"
  readonly etype: string
  readonly entity: string | Lookup
  readonly args: Readonly<Record<string, unknown>>
  readonly upsert: boolean | undefined
}

const actions: ReadonlyArray<string> = ["create", "update", "merge", "link", "unlink", "delete", "ruleParams"]

const isAction = (value: unknown): value is Step["action"] => isString(value) && actions.includes(value)

/**
 * What the server does to every string of a transaction: what looks like a UUID becomes one, in lower case. A lone surrogate becomes a
 * question mark: that is what drivers of the JVM are believed to do, nobody saw it at the server.
 */
const coerce = (value: unknown, steps: unknown): unknown => {
  if (typeof value === "string") {
    if (value.includes("\u0000")) invalid("steps", steps, "null bytes are not allowed in strings")
    if (!value.isWellFormed()) return value.replace(loneSurrogates, "?")
    return isUuid(value) ? value.toLowerCase() : value
  }
  if (Array.isArray(value)) return value.map((item) => coerce(item, steps))
  if (!isRecord(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [String(coerceKey(key, steps)), coerce(item, steps)])
  )
}

const loneSurrogates = /\p{Surrogate}/gu

const coerceKey = (key: string, steps: unknown): string => {
  if (key.includes("\u0000")) invalid("steps", steps, "null bytes are not allowed in keys")
  return key.isWellFormed() ? key : key.replace(loneSurrogates, "?")
}

/** `["attr", value]`, `{ attr: value }` or the SDK's `lookup__attr__<json>`; undefined for what is none. */
const lookupOf = (value: unknown): Lookup | undefined => {
  if (Array.isArray(value)) return value.length === 2 && isString(value[0]) ? [value[0], value[1]] : undefined
  if (isRecord(value)) {
    const [entry, ...more] = Object.entries(value)
    return entry === undefined || more.length > 0 ? undefined : entry
  }
  if (!isString(value) || !value.startsWith("lookup__")) return undefined
  const [, label, ...rest] = value.split("__")
  if (label === undefined) return undefined
  try {
    const parsed: unknown = JSON.parse(rest.join("__"))
    return [label, parsed]
  } catch {
    return undefined
  }
}

const entityOf = (value: unknown, steps: unknown): string | Lookup => {
  if (isUuid(value)) return value
  return (
    lookupOf(value) ?? invalid("steps", steps, `Invalid entity id ${JSON.stringify(value)}. Entity ids must be UUIDs.`)
  )
}

export const parseSteps = (input: unknown): ReadonlyArray<Step> => {
  const bad = (index: number, at: number, expected: string): never =>
    invalid("steps", input, `The step ${index} is malformed`, { expected, in: [index, at] })
  if (!Array.isArray(input)) return invalid("steps", input, "steps must be a list", { expected: "coll?", in: [] })
  return input.map((raw: unknown, index): Step => {
    if (!Array.isArray(raw)) return bad(index, 0, "coll?")
    const step: ReadonlyArray<unknown> = raw.map((part) => coerce(part, input))
    const [action, etype, entity, args, options] = step
    if (!isAction(action)) return bad(index, 0, "supported-action")
    if (!isString(etype) || etype === "") return bad(index, 1, "string?")
    if (args !== null && args !== undefined && !isRecord(args)) return bad(index, 3, "map?")
    if (action !== "delete" && !isRecord(args)) return bad(index, 3, "map?")
    const upsert = isRecord(options) ? options.upsert : undefined
    // A key of this name is no attribute: the entity is named by the step.
    const { id: _id, ...rest } = args ?? {}
    return {
      action,
      etype,
      entity: entityOf(entity, input),
      args: rest,
      upsert: typeof upsert === "boolean" ? upsert : undefined
    }
  })
}

const targets = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [value])

/**
 * The attributes that the steps name and that are not there: invented, or all of them told at once. Invented data is untyped, and a
 * link's target is the namespace called like the link.
 */
export const supplyAttrs = (
  steps: ReadonlyArray<Step>,
  catalog: Catalog,
  data: Data,
  strict: boolean,
  input: unknown
): ReadonlyArray<Attr> => {
  const missing: Array<string> = []
  const invented: Array<Attr> = []
  const invent = (attr: Attr): void => {
    data.onRollback(catalog.add(attr))
    invented.push(attr)
  }
  const supply = (etype: string, label: string, attr: () => Attr): void => {
    if (catalog.forward(etype, label) !== undefined || catalog.link(etype, label) !== undefined) return
    if (strict) missing.push(`${etype}.${label}`)
    else invent(attr())
  }
  const supplyLookup = (etype: string, lookup: unknown): void => {
    const found = lookupOf(lookup)
    if (found !== undefined) supply(etype, found[0], () => blob(etype, found[0], { unique: true, index: true }))
  }
  for (const { action, args, entity, etype } of steps) {
    if (action === "ruleParams") continue
    supply(etype, "id", () => idAttr(etype))
    if (typeof entity !== "string") supplyLookup(etype, entity)
    for (const [label, value] of Object.entries(args)) {
      if (action === "link" || action === "unlink") {
        supply(etype, label, () => ref(etype, label, label, etype))
        const link = catalog.link(etype, label)
        if (link === undefined) continue
        if (!strict && catalog.id(link.etype) === undefined) invent(idAttr(link.etype))
        for (const target of targets(value)) if (!isUuid(target)) supplyLookup(link.etype, target)
      } else supply(etype, label, () => blob(etype, label))
    }
  }
  if (missing.length > 0) {
    const attributes = [...new Set(missing)]
    invalid("steps", input, `Attributes are missing in your schema: ${attributes.join(", ")}`, { hint: { attributes } })
  }
  return invented
}

const resolve = (entity: string | Lookup, etype: string, catalog: Catalog, input: unknown): Entity => {
  if (typeof entity === "string") return entity
  const [label, value] = entity
  const attr = catalog.forward(etype, label)
  if (attr?.["unique?"] !== true || isRef(attr)) {
    return invalid("lookup", input, `${label} is not a unique attribute on ${etype}`)
  }
  return label === "id" && isUuid(value) ? value : { attr, value }
}

export const expand = (steps: ReadonlyArray<Step>, catalog: Catalog, input: unknown): ReadonlyArray<Op> =>
  steps.flatMap((step): ReadonlyArray<Op> => {
    const { action, args, etype } = step
    if (action === "ruleParams") return []
    const entity = resolve(step.entity, etype, catalog, input)
    if (action === "delete") return [{ _tag: "Delete", etype, entity }]
    const id = catalog.id(etype) ?? invalid("steps", input, `${etype} has no id`)
    const mode: Mode = action === "create" ? "create" : step.upsert === false ? "update" : undefined
    const idFirst: Op = { _tag: "Add", etype, entity, attr: id, value: entity, mode }
    if (action === "link" || action === "unlink") {
      const ops = Object.entries(args).flatMap(([label, value]) => {
        const link = catalog.link(etype, label) ?? invalid("steps", input, `${etype}.${label} is not a link`)
        return targets(value).map((target): Op => {
          const other = resolve(entityOf(target, input), link.etype, catalog, input)
          const [from, to] = link.forward ? [entity, other] : [other, entity]
          const on = { etype: etypeOf(link.attr), attr: link.attr, entity: from, value: to }
          return action === "link" ? { _tag: "Add", mode: undefined, ...on } : { _tag: "Retract", ...on }
        })
      })
      return typeof entity === "string" ? ops : [idFirst, ...ops]
    }
    const attrs = Object.entries(args).map(([label, value]): Op => {
      const attr = catalog.forward(etype, label) ?? catalog.link(etype, label)?.attr
      if (attr === undefined || isRef(attr)) {
        const where = attr === undefined ? "unknown" : `a link to ${targetOf(attr)}`
        return invalid("steps", input, `${etype}.${label} is ${where}; use link`)
      }
      return action === "merge"
        ? { _tag: "Merge", etype, entity, attr, value }
        : { _tag: "Add", etype, entity, attr, value, mode }
    })
    return [idFirst, ...attrs]
  })

/** How the server calls it in its errors. */
export const describe = (entity: Entity): unknown =>
  typeof entity === "string" ? entity : [nameOf(entity.attr), entity.value]
