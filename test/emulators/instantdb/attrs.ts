/** The attributes of an app: those of every app, those that were pushed, those that were invented by transactions. */
import type { InstantDBAttr } from "@instantdb/core"
import * as Crypto from "node:crypto"

export type Attr = InstantDBAttr

/** As much of a schema built with `i` as a push needs. */
export interface PushedSchema {
  readonly entities: Readonly<
    Record<
      string,
      {
        readonly attrs: Readonly<
          Record<
            string,
            {
              readonly valueType: string
              readonly required: boolean
              readonly config: { readonly indexed: boolean; readonly unique: boolean }
            }
          >
        >
      }
    >
  >
  readonly links: Readonly<
    Record<string, { readonly forward: PushedLink; readonly reverse: Omit<PushedLink, "required"> }>
  >
}

interface PushedLink {
  // Of a schema's type these may be keys of a mapped type, which TypeScript does not know to be strings.
  readonly on: PropertyKey
  readonly label: string
  readonly has: "one" | "many"
  readonly required?: boolean | undefined
  readonly onDelete?: "cascade" | undefined
}

export const etypeOf = (attr: Attr): string => attr["forward-identity"][1]
export const labelOf = (attr: Attr): string => attr["forward-identity"][2]
/** The namespace to which a link leads. */
export const targetOf = (attr: Attr): string | undefined => attr["reverse-identity"]?.[1]
export const isRef = (attr: Attr): boolean => attr["value-type"] === "ref"
export const nameOf = (attr: Attr): string => `${etypeOf(attr)}.${labelOf(attr)}`

/** A link as it is named from one of its ends. */
export interface Link {
  readonly attr: Attr
  readonly forward: boolean
  readonly etype: string
  readonly singular: boolean
}

const key = (etype: string, label: string) => `${etype}\u0000${label}`

const checked = (valueType: string): Attr["checked-data-type"] =>
  valueType === "string" || valueType === "number" || valueType === "boolean" || valueType === "date" ? valueType : null

export const blob = (
  etype: string,
  label: string,
  options: {
    readonly unique?: boolean
    readonly index?: boolean
    readonly required?: boolean
    readonly type?: Attr["checked-data-type"]
    readonly system?: boolean
  } = {}
): Attr => ({
  id: Crypto.randomUUID(),
  "value-type": "blob",
  cardinality: "one",
  "forward-identity": [Crypto.randomUUID(), etype, label],
  "reverse-identity": null,
  "unique?": options.unique ?? false,
  "index?": options.index ?? false,
  "required?": options.required ?? false,
  "inferred-types": null,
  catalog: options.system === true ? "system" : "user",
  "checked-data-type": options.type ?? null
})

export const idAttr = (etype: string, system = false): Attr =>
  blob(etype, "id", { unique: true, index: true, required: true, system })

const system: ReadonlyArray<Attr> = [
  idAttr("$users", true),
  blob("$users", "email", { unique: true, index: true, type: "string", system: true }),
  blob("$users", "type", { type: "string", system: true }),
  blob("$users", "imageURL", { type: "string", system: true }),
  idAttr("$files", true),
  blob("$files", "path", { unique: true, index: true, required: true, type: "string", system: true }),
  blob("$files", "size", { index: true, type: "number", system: true }),
  blob("$files", "content-type", { index: true, type: "string", system: true }),
  blob("$files", "content-disposition", { index: true, type: "string", system: true }),
  blob("$files", "location-id", { unique: true, index: true, type: "string", system: true }),
  blob("$files", "key-version", { type: "number", system: true }),
  blob("$files", "url", { type: "string", system: true }),
  idAttr("$streams", true),
  blob("$streams", "clientId", { unique: true, index: true, type: "string", system: true }),
  blob("$streams", "done", { index: true, type: "boolean", system: true }),
  blob("$streams", "size", { index: true, type: "number", system: true }),
  blob("$streams", "abortReason", { type: "string", system: true })
]

export class Catalog {
  readonly #all = new Map<string, Attr>()
  readonly #forward = new Map<string, Attr>()
  readonly #reverse = new Map<string, Attr>()
  readonly #ofEtype = new Map<string, Set<Attr>>()

  constructor() {
    for (const attr of system) this.add(attr)
  }

  get all(): ReadonlyArray<Attr> {
    return [...this.#all.values()]
  }

  get(id: string): Attr | undefined {
    return this.#all.get(id)
  }

  forward(etype: string, label: string): Attr | undefined {
    return this.#forward.get(key(etype, label))
  }

  id(etype: string): Attr | undefined {
    return this.forward(etype, "id")
  }

  link(etype: string, label: string): Link | undefined {
    const forward = this.forward(etype, label)
    const target = forward === undefined ? undefined : targetOf(forward)
    if (forward !== undefined) {
      if (target === undefined) return undefined
      return { attr: forward, forward: true, etype: target, singular: forward.cardinality === "one" }
    }
    const reverse = this.#reverse.get(key(etype, label))
    if (reverse === undefined) return undefined
    return { attr: reverse, forward: false, etype: etypeOf(reverse), singular: reverse["unique?"] === true }
  }

  /** The attributes of a namespace, its forward links among them. */
  of(etype: string): Iterable<Attr> {
    return this.#ofEtype.get(etype) ?? []
  }

  /** Answers how to take it back. */
  add(attr: Attr): () => void {
    const [, etype, label] = attr["forward-identity"]
    const reverse = attr["reverse-identity"]
    this.#all.set(attr.id, attr)
    this.#forward.set(key(etype, label), attr)
    if (reverse) this.#reverse.set(key(reverse[1], reverse[2]), attr)
    const ofEtype = this.#ofEtype.get(etype) ?? new Set()
    this.#ofEtype.set(etype, ofEtype.add(attr))
    return () => {
      this.#all.delete(attr.id)
      this.#forward.delete(key(etype, label))
      if (reverse) this.#reverse.delete(key(reverse[1], reverse[2]))
      ofEtype.delete(attr)
    }
  }

  /** What `instant-cli push schema` does. What is there already stays as it is. */
  push(schema: PushedSchema): void {
    for (const [etype, { attrs }] of Object.entries(schema.entities)) {
      if (this.id(etype) === undefined) this.add(idAttr(etype))
      for (const [label, { config, required, valueType }] of Object.entries(attrs)) {
        if (this.forward(etype, label) !== undefined) continue
        this.add(
          blob(etype, label, { unique: config.unique, index: config.indexed, required, type: checked(valueType) })
        )
      }
    }
    for (const { forward, reverse } of Object.values(schema.links)) {
      const [on, to] = [String(forward.on), String(reverse.on)]
      if (this.forward(on, forward.label) !== undefined) continue
      this.add({
        ...ref(on, forward.label, to, reverse.label),
        cardinality: forward.has,
        "unique?": reverse.has === "one",
        "required?": forward.required ?? false,
        "on-delete": forward.onDelete ?? null,
        "on-delete-reverse": reverse.onDelete ?? null
      })
    }
  }
}

/** A many-to-many link. */
export const ref = (etype: string, label: string, target: string, reverseLabel: string): Attr => ({
  id: Crypto.randomUUID(),
  "value-type": "ref",
  cardinality: "many",
  "forward-identity": [Crypto.randomUUID(), etype, label],
  "reverse-identity": [Crypto.randomUUID(), target, reverseLabel],
  "unique?": false,
  "index?": false,
  "required?": false,
  "inferred-types": null,
  catalog: "user"
})
