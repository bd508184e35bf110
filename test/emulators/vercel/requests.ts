/** What the emulator was asked, for counting and for looking for secrets. */
import type { IncomingHttpHeaders } from "node:http"
import type { Endpoint } from "./faults.ts"

export interface Recorded {
  readonly endpoint: Endpoint | "unknown"
  readonly method: string
  /** Without the query. */
  readonly path: string
  readonly query: Readonly<Record<string, string>>
  readonly headers: IncomingHttpHeaders
  /** The JSON text; of an upload only its size. */
  readonly body: string
  /** On the emulator's Clock. */
  readonly at: number
  /** Whether an endpoint acted on it, whatever it answered; a fault may prevent that. */
  executed: boolean
  /** Undefined while it is open, and for good where the connection was reset. */
  status: number | undefined
}

export class Requests {
  readonly #all: Array<Recorded> = []
  #changed = Promise.withResolvers<void>()

  add(recorded: Recorded): void {
    this.#all.push(recorded)
    this.#changed.resolve()
    this.#changed = Promise.withResolvers<void>()
  }

  /** Resolves once so many of an endpoint have come since the last reset, or at once. */
  async arrived(endpoint: Recorded["endpoint"], count = 1): Promise<void> {
    while (this.count(endpoint) < count) await this.#changed.promise
  }

  get all(): ReadonlyArray<Recorded> {
    return this.#all
  }

  of(endpoint: Recorded["endpoint"]): ReadonlyArray<Recorded> {
    return this.#all.filter((recorded) => recorded.endpoint === endpoint)
  }

  /** Of one endpoint, or of all. */
  count(endpoint?: Recorded["endpoint"]): number {
    return (endpoint === undefined ? this.#all : this.of(endpoint)).length
  }

  reset(): void {
    this.#all.length = 0
  }

  /**
   * Where a planted secret travelled: `url`, `header:<name>` or `body`, after the endpoint. The `authorization` header is the place
   * of the token and is left out; so is the content of uploaded files, which is where secrets may be.
   */
  find(text: string): ReadonlyArray<string> {
    return this.#all.flatMap(({ body, endpoint, headers, path, query }) => [
      ...([path, ...Object.entries(query).flat()].some((part) => part.includes(text)) ? [`${endpoint} url`] : []),
      ...Object.entries(headers).flatMap(([name, value]) =>
        name !== "authorization" && String(value).includes(text) ? [`${endpoint} header:${name}`] : []
      ),
      ...(body.includes(text) || body.includes(JSON.stringify(text).slice(1, -1)) ? [`${endpoint} body`] : [])
    ])
  }
}
