/** Which request is which endpoint. */
import type { App } from "./app.ts"
import type { Endpoint } from "./faults.ts"
import type { Files } from "./files.ts"
import { type Call, fields, json, type Reply } from "./http.ts"
import type { Sessions } from "./sessions.ts"
import { Users } from "./users.ts"

export interface Route {
  readonly endpoint: Endpoint
  readonly method: string
  readonly path: RegExp
  /** Who may call it: the admin, or anybody who knows the URL or a token in the body. */
  readonly open: boolean
  readonly handler: (call: Call) => Reply | Promise<Reply>
}

export const routes = (app: App, files: Files, sessions: Sessions): ReadonlyArray<Route> => {
  const users = new Users(app)
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
    }),
    route("subscribe", "POST", "/admin/subscribe-query", sessions.subscribe),
    route("sse", "POST", "/admin/sse", sessions.connect),
    route("sse.push", "POST", "/admin/sse/push", sessions.push, { open: true }),
    route("auth.createToken", "POST", "/admin/refresh_tokens", users.createToken),
    route("auth.verifyToken", "POST", "/runtime/auth/verify_refresh_token", users.verifyToken, { open: true }),
    route("auth.getUser", "GET", "/admin/users", users.get),
    route("auth.deleteUser", "DELETE", "/admin/users", users.delete),
    route("auth.signOut", "POST", "/admin/sign_out", users.signOut),
    route("storage.upload", "PUT", "/admin/storage/upload", files.upload),
    route("storage.list", "GET", "/admin/storage/files", files.list),
    route("storage.delete", "DELETE", "/admin/storage/files", files.delete),
    route("storage.deleteMany", "POST", "/admin/storage/files/delete", files.deleteMany),
    route("storage.downloadUrl", "GET", "/admin/storage/signed-download-url", files.downloadUrl),
    route("file.download", "GET", "/files/*", files.download, { open: true })
  ]
}
