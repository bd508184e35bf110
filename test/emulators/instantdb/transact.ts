/**
 * One transaction on the triples, by the server's rules: grouped by operation, all or nothing. A transaction can be prepared on one
 * state and committed on another, which is how READ COMMITTED loses updates: what was checked or merged was read before.
 */
import * as Crypto from "node:crypto"
import { type Attr, type Catalog, etypeOf, isRef, labelOf, nameOf, targetOf } from "./attrs.ts"
import { type Data, keyOf, type Write } from "./data.ts"
import { invalid, isRecord, refuse } from "./http.ts"
import { describe, type Entity, expand, type Op, parseSteps, supplyAttrs } from "./steps.ts"

export interface Request {
  readonly steps: unknown
  /** `throw-on-missing-attrs?`: what the SDK sends when it was given a schema. */
  readonly strict: boolean
}

/** What a transaction wants to change, after it read what it had to read. */
export interface Prepared {
  /** Attributes that it made. */
  readonly invented: ReadonlyArray<Attr>
  readonly writes: ReadonlyArray<Write>
  /** With their namespaces: their required attributes are checked when all is written. */
  readonly touched: ReadonlyMap<string, ReadonlySet<string>>
  readonly input: unknown
}

/** In bytes, of an indexed value as PostgreSQL stores it: 12 bytes are its own. */
const maxIndexed = 1_024 - 12

const merged = (base: unknown, patch: unknown): unknown => {
  if (!isRecord(base) || !isRecord(patch)) return patch
  const result = new Map(Object.entries(base))
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) result.delete(key)
    else result.set(key, merged(result.get(key), value))
  }
  return Object.fromEntries(result)
}

const typeOf = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "array" : typeof value === "object" ? "object" : typeof value

const fits = (type: Attr["checked-data-type"], value: unknown): boolean => {
  if (value === null || !type) return true
  if (type !== "date") return typeof value === type
  return typeof value === "number" || (typeof value === "string" && !Number.isNaN(Date.parse(value)))
}

/** The attributes of the namespaces of the system that a transaction may not set. */
const isReadOnly = (attr: Attr): boolean =>
  attr.catalog === "system" &&
  (etypeOf(attr) === "$streams" || (etypeOf(attr) === "$files" && labelOf(attr) !== "path"))

export class Transaction {
  readonly #data: Data
  readonly #catalog: Catalog
  readonly #now: number
  readonly #input: unknown
  readonly #writes: Array<Write> = []
  readonly #touched = new Map<string, Set<string>>()
  /** Entities that were made because nothing had the value that a step looked up. */
  readonly #made = new Map<string, string>()

  constructor(data: Data, catalog: Catalog, now: number, input: unknown) {
    this.#data = data
    this.#catalog = catalog
    this.#now = now
    this.#input = input
  }

  /** Runs on the data as they are; the caller decides whether the changes are kept. */
  run({ strict, steps }: Request): Prepared {
    const parsed = parseSteps(steps)
    const invented = supplyAttrs(parsed, this.#catalog, this.#data, strict, steps)
    const ops = expand(parsed, this.#catalog, steps)
    for (const op of ops) this.#check(op)
    for (const tag of new Set(ops.map(({ _tag }) => _tag))) {
      const group = ops.filter(({ _tag }) => _tag === tag)
      // Of the whole group before anything of it is written: two creations of one id in one transaction pass.
      this.#checkGroup(group)
      for (const op of group) this.#apply(op)
    }
    const prepared = { invented, writes: this.#writes, touched: this.#touched, input: steps }
    checkRequired(this.#data, this.#catalog, prepared)
    return prepared
  }

  #check(op: Op): void {
    if (op._tag === "Delete" || op._tag === "Retract") return
    const { attr, value } = op
    if (isRef(attr)) return
    if (labelOf(attr) === "id") return
    if (isReadOnly(attr)) invalid("tx-step", this.#input, `${nameOf(attr)} is a system attribute and cannot be changed`)
    const type = attr["checked-data-type"]
    if (!fits(type, value)) {
      invalid(
        "tx-step",
        this.#input,
        `Invalid value type for ${nameOf(attr)}. Value must be a ${type} but the provided value type is ${typeOf(value)}.`,
        { hint: { value, "checked-data-type": type, "attr-id": attr.id } }
      )
    }
    if (attr["unique?"] === true || attr["index?"] === true) {
      const text = typeof value === "string" ? value : JSON.stringify(value)
      if (Buffer.byteLength(text) > maxIndexed) {
        invalid("tx-step", this.#input, `Value is too large for an indexed attribute: ${nameOf(attr)}`, {
          hint: { "value-too-large?": true, "attr-id": attr.id }
        })
      }
    }
  }

  #checkGroup(group: ReadonlyArray<Op>): void {
    const wrong: Readonly<Record<"create" | "update", Array<unknown>>> = { create: [], update: [] }
    for (const op of group) {
      if (op._tag !== "Add") continue
      const lookup = typeof op.entity === "string" ? undefined : op.entity
      if (lookup?.attr === op.attr && keyOf(op.value) !== keyOf(lookup.value) && this.#find(lookup) === undefined) {
        invalid(
          "lookup",
          this.#input,
          "Updates with lookups can only update the lookup attribute if an entity with the unique attribute value already exists."
        )
      }
      if (op.mode === undefined || labelOf(op.attr) !== "id") continue
      const id = this.#find(op.entity)
      const exists = id !== undefined && this.#exists(id, op.etype)
      if (op.mode === "create" ? exists : !exists) wrong[op.mode].push([op.etype, describe(op.entity)])
    }
    if (wrong.create.length > 0) {
      invalid("tx-step", this.#input, `Creating entities that exist: ${JSON.stringify(wrong.create)}`)
    }
    if (wrong.update.length > 0) {
      invalid("tx-step", this.#input, `Updating entities that don't exist: ${JSON.stringify(wrong.update)}`)
    }
  }

  /** Any attribute of the namespace will do, a link that somebody set from here too. */
  #exists(id: string, etype: string): boolean {
    return this.#data.attrs(id).some((attr) => {
      const found = this.#catalog.get(attr)
      return found !== undefined && etypeOf(found) === etype
    })
  }

  #find(entity: Entity): string | undefined {
    if (typeof entity === "string") return entity
    for (const id of this.#data.having(entity.attr, entity.value).keys()) return id
    return this.#made.get(madeKey(entity))
  }

  #findOrMake(entity: Entity): string {
    const found = this.#find(entity)
    if (found !== undefined || typeof entity === "string") return found ?? String(entity)
    const id = Crypto.randomUUID()
    this.#made.set(madeKey(entity), id)
    const idAttr = this.#catalog.id(etypeOf(entity.attr))
    if (idAttr !== undefined) this.#put(id, idAttr, id)
    this.#put(id, entity.attr, entity.value)
    return id
  }

  #apply(op: Op): void {
    if (op._tag === "Delete") {
      const id = this.#find(op.entity)
      if (id !== undefined) this.#delete(id, op.etype)
      return
    }
    if (op._tag === "Retract") {
      const [from, to] = [this.#findOrMake(op.entity), this.#find(op.value)]
      if (to !== undefined) this.#remove(from, op.attr, to)
      return
    }
    if (op._tag === "Merge") {
      const id = this.#findOrMake(op.entity)
      this.#put(id, op.attr, merged(this.#data.one(id, op.attr)?.[2], op.value))
      return
    }
    const id = this.#findOrMake(op.entity)
    if (labelOf(op.attr) === "id") {
      if ((op.etype === "$streams" || op.etype === "$files") && !this.#exists(id, op.etype)) {
        invalid("tx-step", this.#input, `Entities of ${op.etype} cannot be created by a transaction`)
      }
      this.#put(id, op.attr, id)
    } else if (isRef(op.attr)) this.#put(id, op.attr, this.#target(op.value))
    else this.#put(id, op.attr, op.value)
  }

  /**
   * Of a link: there must be one if it was looked up; an id is taken as it is, and may dangle. A row that this transaction has made is
   * found: whether the server finds it is not known.
   */
  #target(value: unknown): string {
    if (typeof value === "string") return value
    // `expand` puts nothing else into the value of a link.
    const entity = value as Exclude<Entity, string>
    return (
      this.#find(entity) ??
      invalid("lookup", this.#input, `There is no ${nameOf(entity.attr)} = ${JSON.stringify(entity.value)} to link`)
    )
  }

  #delete(id: string, etype: string): void {
    for (const attrId of this.#data.attrs(id)) {
      const attr = this.#catalog.get(attrId)
      if (attr === undefined || etypeOf(attr) !== etype) continue
      const values = [...this.#data.values(id, attr)].map(([, , value]) => value)
      this.#write({ _tag: "Clear", entity: id, attr })
      const target = targetOf(attr)
      if (attr["on-delete-reverse"] !== "cascade" || target === undefined) continue
      for (const value of values) this.#delete(String(value), target)
    }
    for (const attr of this.#catalog.all) {
      if (!isRef(attr) || targetOf(attr) !== etype) continue
      for (const from of [...this.#data.having(attr, id).keys()]) {
        this.#remove(from, attr, id)
        if (attr["on-delete"] === "cascade") this.#delete(from, etypeOf(attr))
      }
    }
  }

  #touch(id: string, attr: Attr): void {
    const etypes = this.#touched.get(id) ?? new Set()
    this.#touched.set(id, etypes.add(etypeOf(attr)))
  }

  #put(entity: string, attr: Attr, value: unknown): void {
    this.#write({ _tag: "Put", entity, attr, value })
  }

  #remove(entity: string, attr: Attr, value: unknown): void {
    this.#write({ _tag: "Remove", entity, attr, value })
  }

  #write(change: Write): void {
    write(this.#data, change, this.#now)
    this.#writes.push(change)
    this.#touch(change.entity, change.attr)
  }
}

const madeKey = ({ attr, value }: Exclude<Entity, string>): string => `${attr.id} ${keyOf(value)}`

const write = (data: Data, change: Write, now: number): void => {
  const { attr, entity } = change
  if (change._tag === "Clear") return data.clear(entity, attr)
  const { value } = change
  if (change._tag === "Remove") return data.remove(entity, attr, value)
  if (attr["unique?"] === true && value !== null) {
    for (const holder of data.having(attr, value).keys()) {
      if (holder === entity) continue
      const [etype, label] = [etypeOf(attr), labelOf(attr)]
      refuse(
        400,
        "record-not-unique",
        `\`${label}\` is a unique attribute on \`${etype}\` and an entity already exists with \`${etype}.${label}\` = ${JSON.stringify(value)}`,
        { "record-type": "triple", "attr-id": attr.id, etype, label, value: JSON.stringify(value) }
      )
    }
  }
  data.put(entity, attr, value, now)
}

/** Of every record that was touched and is there, also of one that lost a link because the other end was deleted. */
const checkRequired = (data: Data, catalog: Catalog, { input, touched }: Prepared): void => {
  const records: Array<{ readonly etype: string; readonly id: string; readonly missing: ReadonlyArray<string> }> = []
  for (const [id, etypes] of touched) {
    for (const etype of etypes) {
      const idAttr = catalog.id(etype)
      if (idAttr === undefined || data.one(id, idAttr) === undefined) continue
      const missing = [...catalog.of(etype)]
        .filter((attr) => attr["required?"] === true && (data.one(id, attr)?.[2] ?? null) === null)
        .map(nameOf)
      if (missing.length > 0) records.push({ etype, id, missing })
    }
  }
  if (records.length === 0) return
  const names = [...new Set(records.flatMap(({ missing }) => missing))].join(", ")
  refuse(400, "validation-failed", `Validation failed for tx-steps: Missing required attributes: ${names}`, {
    "data-type": "tx-steps",
    input,
    errors: [{ message: `Missing required attributes: ${names}`, hint: { records } }],
    records
  })
}

/**
 * Does again what a transaction did elsewhere; uniqueness and required attributes hold here and now. Of two that invent the same
 * attribute the second is refused: that such transactions collide is known, how is not.
 */
export const commit = (data: Data, catalog: Catalog, prepared: Prepared, now: number): void => {
  for (const attr of prepared.invented) {
    const [etype, label] = [etypeOf(attr), labelOf(attr)]
    if (catalog.forward(etype, label) !== undefined) {
      refuse(400, "record-not-unique", `Record not unique: attr`, { "record-type": "attr", etype, label })
    }
    data.onRollback(catalog.add(attr))
  }
  for (const change of prepared.writes) write(data, change, now)
  checkRequired(data, catalog, prepared)
}
