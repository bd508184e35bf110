/** What the emulator was asked, for counting and for looking for secrets. */
import type { IncomingHttpHeaders } from "node:http"
import type { Endpoint } from "./routes.ts"

export interface Recorded {
  readonly endpoint: Endpoint | "unknown"
  readonly method: string
  /** With the query. */
  readonly url: string
  readonly headers: IncomingHttpHeaders
  /** The text of a JSON body; of a file only its size. */
  readonly body: string
  /** On the emulator's Clock. */
  readonly at: number
  /** Undefined while it is open, and for good where the connection was reset; 101 of an upgrade. */
  status: number | undefined
}

export class Requests {
  readonly #all: Array<Recorded> = []

  add(recorded: Recorded): void {
    this.#all.push(recorded)
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

  /** The endpoints in the order in which they were asked. */
  get names(): ReadonlyArray<string> {
    return this.#all.map(({ endpoint }) => endpoint)
  }

  reset(): void {
    this.#all.length = 0
  }

  /** Where a planted secret travelled. The `authorization` header is the place of the token and is left out. */
  find(text: string): ReadonlyArray<string> {
    return this.#all.flatMap(({ body, endpoint, headers, url }) => [
      ...([url, decodeURIComponent(url.replaceAll("+", " "))].some((part) => part.includes(text))
        ? [`${endpoint} url`]
        : []),
      ...Object.entries(headers).flatMap(([name, value]) =>
        name !== "authorization" && String(value).includes(text) ? [`${endpoint} header:${name}`] : []
      ),
      ...(body.includes(text) ? [`${endpoint} body`] : [])
    ])
  }
}
