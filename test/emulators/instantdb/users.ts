/** Users and their refresh tokens, as far as `db.auth` of the SDK goes without sending mail. */
import * as Crypto from "node:crypto"
import type { App } from "./app.ts"
import { type Call, fields, isString, json, refuse, type Reply } from "./http.ts"

interface User {
  readonly id: string
  readonly email: unknown
}

export class Users {
  readonly #app: App

  constructor(app: App) {
    this.#app = app
  }

  /** Makes the user if the email is new; an id must be known. */
  readonly createToken = ({ json: body }: Call): Reply => {
    const { email, id } = fields(body)
    const user = this.#find({ email, id }) ?? (isString(email) ? this.#create(email) : this.#missing({ email, id }))
    const token = Crypto.randomUUID()
    this.#app.tokens.set(token, user.id)
    return json({ user: this.#told(user, token) })
  }

  readonly verifyToken = ({ json: body }: Call): Reply => {
    const token = fields(body)["refresh-token"]
    const user = this.#find({ refresh_token: token }) ?? this.#missing({ "refresh-token": "[redacted]" })
    return json({ user: this.#told(user, String(token)) })
  }

  readonly get = ({ query }: Call): Reply => {
    const user = this.#find(Object.fromEntries(query))
    return json({ user: user === undefined ? null : this.#told(user) })
  }

  readonly delete = ({ query }: Call): Reply => {
    const user = this.#find(Object.fromEntries(query))
    if (user === undefined) return json({ deleted: null })
    this.#app.transact({ steps: [["delete", "$users", user.id, null]], strict: true })
    this.#forget(user.id)
    return json({ deleted: this.#told(user) })
  }

  readonly signOut = ({ json: body }: Call): Reply => {
    const user = this.#find(fields(body)) ?? this.#missing(body)
    this.#forget(user.id)
    return json({ ok: true })
  }

  #find(by: Readonly<Record<string, unknown>>): User | undefined {
    const id = isString(by.refresh_token) ? this.#app.tokens.get(by.refresh_token) : by.id
    const where = isString(id) ? { id } : isString(by.email) ? { email: by.email } : undefined
    if (where === undefined) return undefined
    const [row] = this.#app.queries.run({ $users: { $: { where } } }, false).data.$users ?? []
    return row === undefined ? undefined : { id: String(row.id), email: row.email ?? null }
  }

  #create(email: string): User {
    const id = Crypto.randomUUID()
    this.#app.write(() => {
      for (const [label, value] of Object.entries({ id, email, type: "user" }))
        this.#app.put("$users", id, label, value)
    })
    return { id, email }
  }

  #missing(args: unknown): never {
    return refuse(400, "record-not-found", "Record not found: app-user", { "record-type": "app-user", args: [args] })
  }

  #forget(id: string): void {
    for (const [token, user] of this.#app.tokens) if (user === id) this.#app.tokens.delete(token)
  }

  #told({ email, id }: User, token?: string) {
    return {
      id,
      app_id: this.#app.credentials.appId,
      email,
      type: "user",
      ...(token === undefined ? {} : { refresh_token: token })
    }
  }
}
