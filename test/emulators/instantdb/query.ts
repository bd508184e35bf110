/**
 * Queries: the vendor's own engine from `@instantdb/core` decides what matches, in which order, and makes the tree. Around it is what
 * the server does otherwise than that engine: its refusals, the first operator only, pages at the top level only, cursors, null for an
 * absent link.
 */
import { FrameworkClient, setInstantWarningsEnabled } from "@instantdb/core"
import { type Attr, type Catalog, etypeOf, isRef, labelOf, type Link, targetOf } from "./attrs.ts"
import { type Data, type Triple } from "./data.ts"
import { fields, invalid, isRecord, isString, isUuid } from "./http.ts"

// The engine warns of nested limits, which it never gets from here.
setInstantWarningsEnabled(false)

type Json = Readonly<Record<string, unknown>>
type Row = Record<string, unknown>

export type Cursor = readonly [entity: string, attr: string, value: unknown, createdAt: number]

export interface PageInfo {
  readonly "start-cursor": Cursor | null
  readonly "end-cursor": Cursor | null
  readonly "has-next-page?": boolean
  readonly "has-previous-page?": boolean
}

export interface Result {
  readonly data: Readonly<Record<string, ReadonlyArray<Row>>>
  readonly pageInfo: Readonly<Record<string, PageInfo>>
  readonly aggregate: Readonly<Record<string, unknown>>
}

const pageKeys = ["limit", "first", "last", "offset", "after", "before"]
const operators = ["$in", "in", "$ne", "$not", "$isNull", "$gt", "$gte", "$lt", "$lte", "$like", "$ilike"]
const comparisons = ["$gt", "$gte", "$lt", "$lte", "$like", "$ilike"]

/** One namespace of a query, made ready for the engine. */
interface Plan {
  readonly etype: string
  readonly form: Json
  readonly options: Json
  readonly seen: Seen
}

/** What of the schema a query needs: the engine gets the triples of nothing else. */
interface Seen {
  /** How often each namespace is come to. */
  readonly etypes: Map<string, number>
  readonly links: Set<Attr>
}

export class Queries {
  readonly #data: Data
  readonly #catalog: Catalog

  constructor(data: Data, catalog: Catalog) {
    this.#data = data
    this.#catalog = catalog
  }

  run(query: unknown, inference: boolean): Result {
    if (!isRecord(query)) return invalid("query", query, "The query must be an object")
    const data: Record<string, ReadonlyArray<Row>> = {}
    const pageInfo: Record<string, PageInfo> = {}
    const aggregate: Record<string, unknown> = {}
    for (const [etype, form] of Object.entries(query)) {
      if (etype === "$$ruleParams") continue
      const plan = this.#plan(etype, form, query)
      const rows = this.#evaluate(plan, inference)
      if (plan.options.aggregate !== undefined) aggregate[etype] = { count: rows.length }
      else {
        const page = this.#page(plan, rows, inference)
        data[etype] = page.rows.map((row) => this.#finish(row, etype, plan.form, inference))
        if (page.info !== undefined) pageInfo[etype] = page.info
      }
    }
    return { data, pageInfo, aggregate }
  }

  #plan(etype: string, form: unknown, query: unknown): Plan {
    const seen: Seen = { etypes: new Map(), links: new Set() }
    const clean = this.#form(etype, form, query, seen)
    const options = fields(fields(form).$)
    if (pageKeys.slice(0, 3).filter((key) => options[key] !== undefined).length > 1) {
      invalid("query", query, "Only one of limit, first and last can be used")
    }
    return { etype, form: clean, options, seen }
  }

  /**
   * Without what the server ignores, and refused where it refuses. A namespace, attribute or link that is not there is left to the
   * engine, which finds nothing; what the server does with one is not known.
   */
  #form(etype: string, form: unknown, query: unknown, seen: Seen): Json {
    seen.etypes.set(etype, (seen.etypes.get(etype) ?? 0) + 1)
    const clean: Record<string, unknown> = {}
    for (const [label, child] of Object.entries(fields(form))) {
      if (label === "$") {
        const { fields: wanted, order, where } = fields(child)
        if (order !== undefined) this.#checkOrder(etype, order, query)
        clean.$ = {
          ...(where === undefined ? {} : { where: this.#where(etype, where, query, seen) }),
          ...(order === undefined ? {} : { order }),
          ...(wanted === undefined ? {} : { fields: wanted })
        }
      } else {
        const link = this.#catalog.link(etype, label)
        if (link !== undefined) seen.links.add(link.attr)
        clean[label] = link === undefined ? {} : this.#form(link.etype, child, query, seen)
      }
    }
    return clean
  }

  #checkOrder(etype: string, order: unknown, query: unknown): void {
    const [entry, ...more] = Object.entries(fields(order))
    if (entry === undefined || more.length > 0 || (entry[1] !== "asc" && entry[1] !== "desc")) {
      return invalid("query", query, "order must be one attribute with asc or desc")
    }
    const [label] = entry
    if (label === "serverCreatedAt") return
    const attr = this.#catalog.forward(etype, label)
    if (attr?.["index?"] !== true || !attr["checked-data-type"]) {
      invalid(
        "query",
        query,
        `The \`${etype}.${label}\` attribute is not indexed and typed. Only indexed and typed attributes can be used to order by.`
      )
    }
  }

  #where(etype: string, where: unknown, query: unknown, seen: Seen): Json {
    if (!isRecord(where)) return invalid("query", query, "where must be an object")
    return Object.fromEntries(
      Object.entries(where).map(([path, condition]) => {
        if ((path === "or" || path === "and") && Array.isArray(condition)) {
          return [path, condition.map((item: unknown) => this.#where(etype, item, query, seen))]
        }
        return [path, this.#condition(etype, path, condition, query, seen)]
      })
    )
  }

  #condition(etype: string, path: string, condition: unknown, query: unknown, seen: Seen): unknown {
    const labels = path.split(".")
    const last = labels.pop() ?? ""
    let at = etype
    for (const label of labels) {
      const link = this.#catalog.link(at, label)
      if (link === undefined) continue
      at = link.etype
      seen.links.add(link.attr)
      seen.etypes.set(at, (seen.etypes.get(at) ?? 0) + 1)
    }
    const link = this.#catalog.link(at, last)
    if (link !== undefined) seen.links.add(link.attr)
    if (condition === null) return invalid("query", query, `null is no value for ${path}; use $isNull`)
    if (Array.isArray(condition)) return invalid("query", query, `A list is no value for ${path}; use $in`)
    if (!isRecord(condition)) return lowerUuid(condition)
    // The server takes the first operator and drops the others without a word.
    const [entry] = Object.entries(condition)
    if (entry === undefined || !operators.includes(entry[0])) {
      return invalid("query", query, `Unknown operator for ${path}: ${entry?.[0]}`)
    }
    const [operator, value] = entry
    const attr = this.#catalog.forward(at, last)
    if (comparisons.includes(operator) && attr !== undefined) {
      const type = attr["checked-data-type"]
      if (attr["index?"] !== true) {
        invalid("query", query, `The \`${at}.${last}\` attribute must be indexed to use comparison operators.`)
      }
      if (!type) {
        invalid(
          "query",
          query,
          `The \`${at}.${last}\` attribute must have an enforced type to use comparison operators.`
        )
      }
      if (type !== "date" && typeof value !== type) {
        const told = JSON.stringify(value)
        invalid("query", query, `The data type of \`${at}.${last}\` is \`${type}\`, but the query got value ${told}.`)
      }
    }
    return { [operator]: Array.isArray(value) ? value.map(lowerUuid) : lowerUuid(value) }
  }

  #evaluate({ etype, form, seen }: Plan, inference: boolean, pageInfo?: Json, options: Json = {}): ReadonlyArray<Row> {
    const only = seen.etypes.get(etype) === 1 ? this.#candidates(etype, fields(form.$).where) : undefined
    const attrs = this.#catalog.all.filter((attr) =>
      isRef(attr) ? seen.links.has(attr) : seen.etypes.has(etypeOf(attr))
    )
    const triples = attrs.flatMap((attr) =>
      only !== undefined && etypeOf(attr) === etype
        ? only.flatMap((entity) => [...this.#data.values(entity, attr)])
        : [...this.#data.ofAttr(attr)]
    )
    const { data } = engine(this.#catalog, inference).completeIsomorphic(
      { [etype]: { ...form, $: { ...fields(form.$), ...options } } },
      // Ours, not copies: the engine writes into them only to make date objects.
      triples,
      attrs,
      pageInfo === undefined ? undefined : { [etype]: pageInfo }
    )
    return data[etype] ?? []
  }

  /**
   * The entities that simple conditions leave, so that the engine, to which every triple is a cost, sees only theirs. It decides again.
   * Undefined where there are no such conditions.
   */
  #candidates(etype: string, where: unknown): ReadonlyArray<string> | undefined {
    const conditions = conjunction(where).flatMap(([path, condition]) => {
      const [label = "", id, ...more] = path.split(".")
      const found = this.#catalog.forward(etype, path)
      // The id behind a link is the link's own value.
      const attr = found ?? (id === "id" && more.length === 0 ? this.#catalog.forward(etype, label) : undefined)
      return attr === undefined ? [] : [{ attr, condition }]
    })
    const equality = conditions.find(
      ({ attr, condition }) =>
        !isRecord(condition) && (isRef(attr) || attr["unique?"] === true || attr["index?"] === true)
    )
    if (equality === undefined) return undefined
    return [...this.#data.having(equality.attr, equality.condition).keys()].filter((entity) =>
      conditions.every(({ attr, condition }) => {
        const [operator, bound] = Object.entries(fields(condition))[0] ?? []
        const value = this.#data.one(entity, attr)?.[2]
        if (typeof bound !== "number" || typeof value !== "number") return true
        if (operator === "$gt" || operator === "$gte") return value >= bound
        return operator === "$lt" || operator === "$lte" ? value <= bound : true
      })
    )
  }

  #page(
    plan: Plan,
    all: ReadonlyArray<Row>,
    inference: boolean
  ): { readonly rows: ReadonlyArray<Row>; readonly info: PageInfo | undefined } {
    const { options } = plan
    const { after, afterInclusive, before, beforeInclusive, first, last, limit } = options
    const bounded =
      after === undefined && before === undefined
        ? all
        : this.#between(plan, all, inference, { after, afterInclusive, before, beforeInclusive })
    const offset = count(options.offset) ?? 0
    const skipped = bounded.slice(offset)
    const size = count(limit) ?? count(first)
    const fromEnd = count(last)
    const rows = fromEnd === undefined ? skipped.slice(0, size) : skipped.slice(Math.max(0, skipped.length - fromEnd))
    const sorted = resort(plan.form, rows)
    // Which queries the server tells of pages, and how it knows of rows before a page, is not known: here it is what there is.
    if (pageKeys.every((key) => options[key] === undefined) && options.order === undefined) {
      return { rows: sorted, info: undefined }
    }
    const at = (row: Row | undefined): number => (row === undefined ? -1 : all.findIndex(({ id }) => id === row.id))
    const [start, end] = [rows.at(0), rows.at(-1)]
    return {
      rows: sorted,
      info: {
        "start-cursor": start === undefined ? null : this.#cursor(plan, start),
        "end-cursor": end === undefined ? null : this.#cursor(plan, end),
        "has-next-page?": end !== undefined && at(end) < all.length - 1,
        "has-previous-page?": start !== undefined && at(start) > 0
      }
    }
  }

  /** By the engine's comparison with cursors. It includes both ends, and wants to be told the first one. */
  #between(plan: Plan, all: ReadonlyArray<Row>, inference: boolean, bounds: Json): ReadonlyArray<Row> {
    const [firstRow] = all
    if (firstRow === undefined) return []
    const [after, before] = [cursorOf(bounds.after), cursorOf(bounds.before)]
    const rows = this.#evaluate(
      plan,
      inference,
      {
        "start-cursor": after ?? this.#cursor(plan, firstRow),
        ...(before === undefined ? {} : { "end-cursor": before })
      },
      { after: true }
    )
    return rows.filter(
      ({ id }) =>
        !(id === after?.[0] && bounds.afterInclusive !== true) &&
        !(id === before?.[0] && bounds.beforeInclusive !== true)
    )
  }

  #cursor({ etype, options }: Plan, row: Row): Cursor {
    const [label] = Object.keys(fields(options.order))
    const id = String(row.id)
    const idAttr = this.#catalog.id(etype)
    const attr = label === undefined || label === "serverCreatedAt" ? idAttr : this.#catalog.forward(etype, label)
    const createdAt = (idAttr === undefined ? undefined : this.#data.one(id, idAttr))?.[3] ?? 0
    if (attr === undefined) return [id, "", id, createdAt]
    const triple: Triple | undefined = this.#data.one(id, attr)
    return [id, attr.id, triple?.[2] ?? null, triple?.[3] ?? createdAt]
  }

  /** Absent links are null, and nested lists are sorted again too. */
  #finish(row: Row, etype: string, form: Json, inference: boolean): Row {
    const finished: Row = { ...row }
    for (const [label, child] of Object.entries(form)) {
      if (label === "$") continue
      const link: Link | undefined = this.#catalog.link(etype, label)
      const value = row[label]
      if (Array.isArray(value)) {
        finished[label] = resort(fields(child), value.filter(isRow)).map((item) =>
          link === undefined ? item : this.#finish(item, link.etype, fields(child), inference)
        )
      } else if (isRow(value) && link !== undefined) {
        finished[label] = this.#finish(value, link.etype, fields(child), inference)
      } else finished[label] = inference && link?.singular === true ? null : []
    }
    return finished
  }
}

/** Conditions that all hold, those of `and` among them. */
const conjunction = (where: unknown): ReadonlyArray<readonly [label: string, condition: unknown]> =>
  Object.entries(fields(where)).flatMap(([label, condition]) => {
    if (label === "and" && Array.isArray(condition)) return condition.flatMap(conjunction)
    return label === "or" ? [] : [[label, condition] as const]
  })

const isRow = (value: unknown): value is Row => isRecord(value)

/** The server sorts what it found again, by what the objects have: without the attribute of the order only the id is left. */
const resort = (form: Json, rows: ReadonlyArray<Row>): ReadonlyArray<Row> => {
  const { fields: wanted, order } = fields(form.$)
  const [entry] = Object.entries(fields(order))
  if (!Array.isArray(wanted) || entry === undefined || entry[0] === "serverCreatedAt" || wanted.includes(entry[0])) {
    return rows
  }
  const sign = entry[1] === "desc" ? -1 : 1
  return rows.toSorted((a, b) => sign * (String(a.id) < String(b.id) ? -1 : 1))
}

const lowerUuid = (value: unknown): unknown => (isUuid(value) ? value.toLowerCase() : value)

const count = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined)

const cursorOf = (value: unknown): Cursor | undefined =>
  Array.isArray(value) && isString(value[0]) && isString(value[1]) && typeof value[3] === "number"
    ? [value[0], value[1], value[2], value[3]]
    : undefined

/** As it is used by the vendor on servers, without a database behind it: of that it reads only this. */
export const engine = (catalog: Catalog, inference: boolean): FrameworkClient => {
  const links = Object.fromEntries(
    catalog.all.filter(isRef).map((attr) => [
      attr.id,
      {
        forward: { on: etypeOf(attr), label: labelOf(attr), has: attr.cardinality },
        reverse: {
          on: targetOf(attr),
          label: attr["reverse-identity"]?.[2],
          has: attr["unique?"] === true ? "one" : "many"
        }
      }
    ])
  )
  const db = { _reactor: { config: { schema: { links }, cardinalityInference: inference, useDateObjects: false } } }
  // The client is typed for a whole database.
  return new FrameworkClient({ db: db as unknown as ConstructorParameters<typeof FrameworkClient>[0]["db"] })
}
