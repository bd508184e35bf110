/** Bytes behind URLs: of streams and of `$files`. Whoever has the URL may read them. */
import * as Crypto from "node:crypto"
import type { App } from "./app.ts"
import { type Call, fields, invalid, isString, json, refuse, type Reply } from "./http.ts"

export interface StoredFile {
  readonly bytes: Buffer
  readonly type: string
}

export class Files {
  readonly #all = new Map<string, StoredFile>()
  readonly #app: App

  constructor(app: App) {
    this.#app = app
    app.changed.add(() => this.#sweep())
  }

  add(bytes: Buffer, type: string): string {
    const id = Crypto.randomUUID()
    this.#all.set(id, { bytes, type })
    return id
  }

  remove(id: string): void {
    this.#all.delete(id)
  }

  /** How many there are, of streams and of `$files` together. */
  get size(): number {
    return this.#all.size
  }

  url(id: string): string {
    return `${this.#app.origin}/files/${id}?signature=${id.slice(0, 8)}`
  }

  readonly download = ({ param }: Call): Reply => {
    const file = this.#all.get(param)
    if (file === undefined) return refuse(404, "not-found", "There is no such file")
    return { _tag: "Bytes", ...file }
  }

  /** At a path where there is a file it replaces the content, and the record keeps its id. */
  readonly upload = ({ bytes, headers }: Call): Reply => {
    const { path } = headers
    if (!isString(path) || path === "") {
      return refuse(400, "param-missing", "Missing parameter: path", { in: ["headers", "path"] })
    }
    const type = headers["content-type"] ?? "application/octet-stream"
    const before = this.#find(path)
    const id = before ?? Crypto.randomUUID()
    if (before !== undefined) this.#forget(before)
    const location = this.add(bytes, type)
    this.#locations.set(id, location)
    this.#app.write(() => {
      const row = {
        id,
        path,
        size: bytes.length,
        "content-type": type,
        "content-disposition": headers["content-disposition"] ?? "inline",
        "location-id": location,
        "key-version": 1,
        url: this.url(location)
      }
      for (const [label, value] of Object.entries(row)) this.#app.put("$files", id, label, value)
    })
    return json({ data: { id } })
  }

  readonly list = (): Reply =>
    json({
      data: (this.#app.queries.run({ $files: {} }, false).data.$files ?? []).map(({ path, size }) => ({
        key: `${this.#app.credentials.appId}/${String(path)}`,
        name: path,
        size,
        etag: "",
        last_modified: 0
      }))
    })

  readonly delete = ({ query }: Call): Reply => json({ data: { id: this.#delete(query.get("filename") ?? "") } })

  readonly deleteMany = ({ json: body }: Call): Reply => {
    const { filenames } = fields(body)
    if (!Array.isArray(filenames)) return invalid("filenames", filenames, "filenames must be a list")
    return json({ data: { ids: filenames.flatMap((path: unknown) => this.#delete(String(path)) ?? []) } })
  }

  readonly downloadUrl = ({ query }: Call): Reply => {
    const id = this.#find(query.get("filename") ?? "")
    const location = id === undefined ? undefined : this.#locations.get(id)
    return location === undefined
      ? refuse(400, "record-not-found", "Record not found: app-file", { "record-type": "app-file" })
      : json({ data: this.url(location) })
  }

  readonly #locations = new Map<string, string>()

  #find(path: string): string | undefined {
    const attr = this.#app.catalog.forward("$files", "path")
    return attr === undefined ? undefined : [...this.#app.data.having(attr, path).keys()][0]
  }

  #delete(path: string): string | null {
    const id = this.#find(path)
    if (id === undefined) return null
    this.#app.transact({ steps: [["delete", "$files", id, null]], strict: true })
    return id
  }

  #forget(id: string): void {
    const location = this.#locations.get(id)
    if (location !== undefined) this.remove(location)
    this.#locations.delete(id)
  }

  /** What a transaction deleted has no bytes any more. */
  #sweep(): void {
    const attr = this.#app.catalog.id("$files")
    if (attr === undefined) return
    for (const id of this.#locations.keys()) if (this.#app.data.one(id, attr) === undefined) this.#forget(id)
  }
}
