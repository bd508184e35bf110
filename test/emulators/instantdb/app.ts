/** The app behind the endpoints: its credentials, its data, and how transactions meet each other. */
import type { IncomingHttpHeaders } from "node:http"
import { Catalog } from "./attrs.ts"
import { Data } from "./data.ts"
import { isUuid, refuse } from "./http.ts"
import { Queries } from "./query.ts"
import { commit, type Prepared, type Request, Transaction } from "./transact.ts"

export interface Credentials {
  readonly appId: string
  readonly adminToken: string
}

/** `read-only` refuses transactions, `disabled` everything. */
export type AppState = "open" | "read-only" | "disabled"

interface Waiting {
  readonly request: Request
  readonly settle: (outcome: () => number) => void
}

export class App {
  readonly credentials: Credentials
  readonly catalog = new Catalog()
  readonly data = new Data()
  readonly queries = new Queries(this.data, this.catalog)
  readonly now: () => number
  /** Whether refusals of a token repeat it, as the server does. */
  readonly echoToken: boolean
  state: AppState = "open"
  /** Where the server listens; files have URLs there. */
  origin = ""
  /** Told after every transaction that changed something. */
  readonly changed = new Set<() => void>()
  /** Of users, by their refresh tokens. */
  readonly tokens = new Map<string, string>()
  #txId = 0
  #overlap: { readonly size: number; readonly waiting: Array<Waiting> } | undefined

  constructor(options: { readonly credentials: Credentials; readonly now: () => number; readonly echoToken: boolean }) {
    this.credentials = options.credentials
    this.now = options.now
    this.echoToken = options.echoToken
  }

  /**
   * Every request but those of users, who come with `as-token` or `as-guest`. Their permissions are not emulated: everybody sees and
   * does everything.
   */
  authorize(headers: IncomingHttpHeaders, query: URLSearchParams): void {
    const appId = headers["app-id"] ?? query.get("app_id")
    if (appId === null || appId === undefined)
      refuse(400, "param-missing", "Missing parameter: app-id", { in: ["headers", "app-id"] })
    if (!isUuid(appId)) {
      refuse(400, "param-malformed", "Malformed parameter: app-id", {
        in: ["headers", "app-id"],
        "original-input": appId
      })
    }
    const isUser = headers["as-guest"] !== undefined || headers["as-token"] !== undefined
    if (isUser && appId === this.credentials.appId) {
      const token = headers["as-token"]
      if (token !== undefined && !this.tokens.has(String(token))) {
        refuse(400, "record-not-found", "Record not found: app-user", { "record-type": "app-user", args: [] })
      }
    } else this.#checkToken(String(appId), headers.authorization)
    if (this.state === "disabled") refuse(400, "app-disabled", "This app is disabled.")
  }

  #checkToken(appId: string, authorization: string | undefined): void {
    const where = { in: ["headers", "authorization"] }
    if (authorization === undefined) return refuse(400, "param-missing", "Missing parameter: authorization", where)
    const [scheme, token] = authorization.split(" ")
    const echo = (told: unknown) => (this.echoToken ? told : "[redacted]")
    if (scheme?.toLowerCase() !== "bearer" || !isUuid(token)) {
      return refuse(400, "param-malformed", "Malformed parameter: authorization", {
        ...where,
        "original-input": echo(authorization)
      })
    }
    if (appId !== this.credentials.appId || token !== this.credentials.adminToken) {
      refuse(400, "record-not-found", "Record not found: app-admin-token", {
        "record-type": "app-admin-token",
        args: [{ "app-id": appId, token: echo(token) }]
      })
    }
  }

  /** The next transactions, so many of them, wait for each other and all read what was there before the first. */
  overlap(size: number): void {
    this.#overlap = { size, waiting: [] }
  }

  /** Of the app itself, where a request of a client would be {@link submit}. */
  transact(request: Request): number {
    if (this.state === "read-only") refuse(400, "app-read-only", "This app is read-only.")
    const now = this.now()
    this.data.attempt(() => new Transaction(this.data, this.catalog, now, request.steps).run(request))
    return this.#committed()
  }

  submit(request: Request): Promise<number> {
    const overlap = this.#overlap
    if (overlap === undefined) return Promise.resolve().then(() => this.transact(request))
    return new Promise((resolve) => {
      overlap.waiting.push({ request, settle: (outcome) => resolve(Promise.resolve().then(outcome)) })
      if (overlap.waiting.length < overlap.size) return
      this.#overlap = undefined
      this.#together(overlap.waiting)
    })
  }

  /** What every one of them would do alone, then all of it one after the other, each with what it read in the beginning. */
  #together(waiting: ReadonlyArray<Waiting>): void {
    const now = this.now()
    const prepared = waiting.map(({ request }): (() => Prepared) => {
      const { steps } = request
      return outcomeOf(() => {
        if (this.state === "read-only") refuse(400, "app-read-only", "This app is read-only.")
        return this.data.attempt(
          () => new Transaction(this.data, this.catalog, now, steps).run(request),
          () => false
        )
      })
    })
    for (const [index, { settle }] of waiting.entries()) {
      settle(
        outcomeOf(() => {
          const ready = prepared[index]?.()
          if (ready === undefined) throw new Error("every transaction was prepared")
          this.data.attempt(() => commit(this.data, this.catalog, ready, now))
          return this.#committed()
        })
      )
    }
  }

  /** Of the number that every transaction gets. */
  get txId(): number {
    return this.#txId
  }

  /** What the server itself changes, for {@link put}. */
  write(work: () => void): void {
    work()
    this.#committed()
  }

  put(etype: string, id: string, label: string, value: unknown): void {
    const attr = this.catalog.forward(etype, label)
    if (attr !== undefined) this.data.put(id, attr, value, this.now())
  }

  #committed(): number {
    this.#txId += 1
    for (const tell of this.changed) tell()
    return this.#txId
  }
}

/** Done now, told later: the value or the failure. */
const outcomeOf = <A>(work: () => A): (() => A) => {
  try {
    const value = work()
    return () => value
  } catch (error) {
    return () => {
      throw error
    }
  }
}
