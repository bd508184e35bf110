/** Which request is which endpoint. */
import type { App } from "./app.ts"
import type { Endpoint } from "./faults.ts"
import { type Call, fields, json, type Reply } from "./http.ts"

export interface Route {
  readonly endpoint: Endpoint
  readonly method: string
  readonly path: RegExp
  /** Who may call it: the admin, or anybody who knows the URL or a token in the body. */
  readonly open: boolean
  readonly handler: (call: Call) => Reply | Promise<Reply>
}

export const routes = (app: App): ReadonlyArray<Route> => {
  const route = (
    endpoint: Endpoint,
    method: string,
    path: string,
    handler: Route["handler"],
    options: { readonly open?: boolean } = {}
  ): Route => ({
    endpoint,
    method,
    path: new RegExp(`^${path.replaceAll("*", "([^/]+)")}$`),
    open: options.open ?? false,
    handler
  })
  return [
    route("query", "POST", "/admin/query", ({ json: body }) => {
      const { query, "inference?": inference } = fields(body)
      // Cursors and counts are dropped here, as the server's handler does; subscriptions have them.
      return json(app.queries.run(query, inference === true).data)
    }),
    route("transact", "POST", "/admin/transact", async ({ json: body }) => {
      const { steps, "throw-on-missing-attrs?": strict } = fields(body)
      return json({ "tx-id": await app.submit({ steps, strict: strict === true }) })
    })
  ]
}
