/** Which request is which endpoint, and what it may carry. What the SDK never sends is refused, so that a caller's mistake shows. */
import type { IncomingHttpHeaders } from "node:http"
import type { Endpoint } from "./faults.ts"
import { badRequest, refuse } from "./http.ts"
import type { Lifecycle } from "./lifecycle.ts"
import { type Handler, sandboxes } from "./sandboxes.ts"
import { sessions } from "./sessions.ts"
import type { World } from "./state.ts"

export interface Route {
  readonly endpoint: Endpoint
  readonly method: string
  readonly path: RegExp
  /** Beside `teamId`, which is everywhere. */
  readonly query: ReadonlyArray<string>
  readonly body: "json" | "optional" | "none" | "gzip"
  readonly handler: Handler
  /** Between two endpoints of one path. */
  readonly when?: (query: URLSearchParams, json: unknown) => boolean
}

const lists = ["project", "limit", "cursor", "sortOrder"]

export const routes = (world: World, lifecycle: Lifecycle): ReadonlyArray<Route> => {
  const records = sandboxes(world, lifecycle)
  const session = sessions(world, lifecycle)
  const route = (
    endpoint: Endpoint,
    method: string,
    path: string,
    handler: Handler,
    options: {
      readonly query?: ReadonlyArray<string>
      readonly body?: Route["body"]
      readonly when?: Route["when"]
    } = {}
  ): Route => ({
    endpoint,
    method,
    path: new RegExp(`^/api${path.replaceAll("*", "([^/]+)")}$`),
    query: options.query ?? [],
    body: options.body ?? "none",
    handler,
    ...(options.when === undefined ? {} : { when: options.when })
  })
  const onSession = (endpoint: Endpoint, path: string, handler: Handler, body: Route["body"] = "json"): Route =>
    route(endpoint, "POST", `/v2/sandboxes/sessions/*/${path}`, handler, { body })
  const waits = (_query: URLSearchParams, json: unknown) => typeof json === "object" && json !== null && "wait" in json
  const projectId = { query: ["projectId"] }
  return [
    route("sandbox.create", "POST", "/v3/sandboxes", records.createV3, { body: "json" }),
    route("sandbox.create", "POST", "/v2/sandboxes", records.createV2, { body: "json" }),
    route("sandbox.list", "GET", "/v2/sandboxes", records.list, { query: [...lists, "sortBy", "namePrefix", "tags"] }),
    route("session.list", "GET", "/v2/sandboxes/sessions", records.sessions, { query: [...lists, "name"] }),
    route("snapshot.list", "GET", "/v2/sandboxes/snapshots", records.snapshots, { query: [...lists, "name"] }),
    route("snapshot.tree", "GET", "/v2/sandboxes/snapshots/tree", unsupported("The snapshot tree"), {
      query: [...lists, "snapshotId"]
    }),
    route("snapshot.get", "GET", "/v2/sandboxes/snapshots/*", records.snapshot),
    route("snapshot.delete", "DELETE", "/v2/sandboxes/snapshots/*", records.deleteSnapshot),
    route("session.get", "GET", "/v2/sandboxes/sessions/*", session.get),
    { ...onSession("command.run", "cmd", session.run), when: waits },
    onSession("command.start", "cmd", session.run),
    route("command.wait", "GET", "/v2/sandboxes/sessions/*/cmd/*", session.command, {
      query: ["wait"],
      when: (query) => query.get("wait") === "true"
    }),
    route("command.get", "GET", "/v2/sandboxes/sessions/*/cmd/*", session.command),
    route("command.logs", "GET", "/v2/sandboxes/sessions/*/cmd/*/logs", session.logs),
    onSession("command.kill", "cmd/*/kill", session.kill),
    onSession("file.write", "fs/write", session.write, "gzip"),
    onSession("file.read", "fs/read", session.read),
    onSession("file.mkdir", "fs/mkdir", session.mkdir),
    onSession("session.stop", "stop", session.stop, "none"),
    onSession("session.snapshot", "snapshot", session.snapshot, "optional"),
    onSession("session.extendTimeout", "extend-timeout", session.extendTimeout),
    onSession("session.networkPolicy", "network-policy", session.networkPolicy),
    route("sandbox.resume", "GET", "/v2/sandboxes/*", records.get, {
      query: ["projectId", "resume"],
      when: (query) => query.get("resume") === "true"
    }),
    route("sandbox.get", "GET", "/v2/sandboxes/*", records.get, { query: ["projectId", "resume"] }),
    route("sandbox.update", "PATCH", "/v2/sandboxes/*", records.update, { ...projectId, body: "json" }),
    route("sandbox.delete", "DELETE", "/v2/sandboxes/*", records.remove, {
      query: ["projectId", "deleteOrphanSnapshots"]
    }),
    route("sandbox.fork", "POST", "/v2/sandboxes/*/fork", records.fork, { ...projectId, body: "json" })
  ]
}

const unsupported =
  (what: string): Handler =>
  () =>
    refuse(400, "emulator_unsupported", `${what} is not emulated.`)

/** Token and team, on every request. */
export const authorize = (world: World, headers: IncomingHttpHeaders, query: URLSearchParams): void => {
  const { teamId, token } = world.credentials
  if (headers.authorization === undefined) refuse(401, "unauthorized", "No token was given.")
  if (headers.authorization !== `Bearer ${token}`) refuse(403, "forbidden", "Not authorized")
  if (query.get("teamId") !== teamId) refuse(403, "forbidden", "The team is not the token's.")
}

/** The form of a request; its content is the endpoint's. */
export const checkForm = (route: Route, headers: IncomingHttpHeaders, query: URLSearchParams, bytes: Buffer): void => {
  const unknown = [...query.keys()].filter((key) => key !== "teamId" && !route.query.includes(key))
  if (unknown.length > 0) badRequest(`Unknown query: ${unknown.join(", ")}`)
  const type = route.body === "gzip" ? "application/gzip" : "application/json"
  if (headers["content-type"] !== type) badRequest(`The content-type must be ${type}.`)
  if (route.body === "none" && bytes.length > 0) badRequest("This endpoint takes no body.")
  if (route.body === "json" && bytes.length === 0) badRequest("A body is missing.")
}
