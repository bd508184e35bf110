/** The triples of an app, with the indexes that transactions and queries need, and a journal to take changes back. */
import { type Attr, isRef } from "./attrs.ts"

export type Triple = readonly [entity: string, attr: string, value: unknown, createdAt: number]

/** By the value for links that may be many; what has one value has it under one key, however long it is. */
type Values = Map<string, Triple>

/** A change by itself, to be done again on other data: a value is put, one is removed, or whatever there is. */
export type Write =
  | { readonly _tag: "Put" | "Remove"; readonly entity: string; readonly attr: Attr; readonly value: unknown }
  | { readonly _tag: "Clear"; readonly entity: string; readonly attr: Attr }

export const keyOf = (value: unknown): string => (typeof value === "string" ? value : `\u0000${JSON.stringify(value)}`)

const slot = (attr: Attr, value: unknown): string => (attr.cardinality === "many" ? keyOf(value) : "")

const isIndexed = (attr: Attr): boolean => isRef(attr) || attr["unique?"] === true || attr["index?"] === true

const none: ReadonlyMap<string, Triple> = new Map()

export class Data {
  readonly #eav = new Map<string, Map<string, Values>>()
  /** Shares its inner maps with `#eav`. */
  readonly #aev = new Map<string, Map<string, Values>>()
  readonly #ave = new Map<string, Map<string, Map<string, Triple>>>()
  #journal: Array<() => void> | undefined

  values(entity: string, attr: Attr): Iterable<Triple> {
    return this.#eav.get(entity)?.get(attr.id)?.values() ?? []
  }

  one(entity: string, attr: Attr): Triple | undefined {
    for (const triple of this.values(entity, attr)) return triple
    return undefined
  }

  /** The attributes that an entity has, in whichever namespace. */
  attrs(entity: string): ReadonlyArray<string> {
    return [...(this.#eav.get(entity)?.keys() ?? [])]
  }

  *ofAttr(attr: Attr): Generator<Triple> {
    for (const values of this.#aev.get(attr.id)?.values() ?? []) yield* values.values()
  }

  /** The entities with this value of an indexed attribute. */
  having(attr: Attr, value: unknown): ReadonlyMap<string, Triple> {
    return this.#ave.get(attr.id)?.get(keyOf(value)) ?? none
  }

  put(entity: string, attr: Attr, value: unknown, now: number): void {
    const key = slot(attr, value)
    const before = this.#eav.get(entity)?.get(attr.id)?.get(key)
    this.#set(entity, attr, key, [entity, attr.id, value, before?.[3] ?? now])
    this.#journal?.push(() => this.#set(entity, attr, key, before))
  }

  remove(entity: string, attr: Attr, value: unknown): void {
    const key = slot(attr, value)
    const before = this.#eav.get(entity)?.get(attr.id)?.get(key)
    if (before === undefined || keyOf(before[2]) !== keyOf(value)) return
    this.#set(entity, attr, key, undefined)
    this.#journal?.push(() => this.#set(entity, attr, key, before))
  }

  clear(entity: string, attr: Attr): void {
    for (const [, , value] of [...this.values(entity, attr)]) this.remove(entity, attr, value)
  }

  /** Something else that is taken back together with the changes. */
  onRollback(undo: () => void): void {
    this.#journal?.push(undo)
  }

  /** Its changes are kept only if `keep` says so of what it answers, and not if it throws. */
  attempt<A>(work: () => A, keep: (result: A) => boolean = () => true): A {
    const journal: Array<() => void> = []
    this.#journal = journal
    let kept = false
    try {
      const result = work()
      kept = keep(result)
      return result
    } finally {
      this.#journal = undefined
      if (!kept) for (const undo of journal.toReversed()) undo()
    }
  }

  #set(entity: string, attr: Attr, key: string, triple: Triple | undefined): void {
    const byAttr = this.#eav.get(entity) ?? new Map<string, Values>()
    const values = byAttr.get(attr.id) ?? new Map<string, Triple>()
    const before = values.get(key)
    if (isIndexed(attr)) {
      const byValue = this.#ave.get(attr.id) ?? new Map<string, Map<string, Triple>>()
      if (before !== undefined) {
        const holders = byValue.get(keyOf(before[2]))
        holders?.delete(entity)
        if (holders?.size === 0) byValue.delete(keyOf(before[2]))
      }
      if (triple !== undefined) {
        const holders = byValue.get(keyOf(triple[2])) ?? new Map<string, Triple>()
        byValue.set(keyOf(triple[2]), holders.set(entity, triple))
      }
      this.#ave.set(attr.id, byValue)
    }
    if (triple === undefined) values.delete(key)
    else values.set(key, triple)
    const byEntity = this.#aev.get(attr.id) ?? new Map<string, Values>()
    if (values.size === 0) {
      byAttr.delete(attr.id)
      byEntity.delete(entity)
    } else {
      byAttr.set(attr.id, values)
      byEntity.set(entity, values)
    }
    this.#aev.set(attr.id, byEntity)
    if (byAttr.size === 0) this.#eav.delete(entity)
    else this.#eav.set(entity, byAttr)
  }
}
