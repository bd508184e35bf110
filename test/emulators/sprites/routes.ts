/** Which request is which endpoint. */

/** The endpoints by name, with the method and the path that make them; `WS` is an upgrade. */
const table = {
  "sprite.create": ["POST", "/v1/sprites"],
  "sprite.list": ["GET", "/v1/sprites"],
  "sprite.get": ["GET", "/v1/sprites/*"],
  "sprite.update": ["PUT", "/v1/sprites/*"],
  "sprite.delete": ["DELETE", "/v1/sprites/*"],
  "sprite.check": ["GET", "/v1/sprites/*/check"],
  "sprite.restart": ["POST", "/v1/sprites/*/restart"],
  exec: ["WS", "/v1/sprites/*/exec"],
  "exec.attach": ["WS", "/v1/sprites/*/exec/*"],
  "exec.http": ["POST", "/v1/sprites/*/exec"],
  control: ["WS", "/v1/sprites/*/control"],
  proxy: ["WS", "/v1/sprites/*/proxy"],
  "exec.list": ["GET", "/v1/sprites/*/exec"],
  "exec.kill": ["POST", "/v1/sprites/*/exec/*/kill"],
  "checkpoint.create": ["POST", "/v1/sprites/*/checkpoint"],
  "checkpoint.list": ["GET", "/v1/sprites/*/checkpoints"],
  "checkpoint.get": ["GET", "/v1/sprites/*/checkpoints/*"],
  "checkpoint.delete": ["DELETE", "/v1/sprites/*/checkpoints/*"],
  "checkpoint.restore": ["POST", "/v1/sprites/*/checkpoints/*/restore"],
  "fs.watch": ["WS", "/v1/sprites/*/fs/watch"],
  "fs.read": ["GET", "/v1/sprites/*/fs/read"],
  "fs.write": ["PUT", "/v1/sprites/*/fs/write"],
  "fs.list": ["GET", "/v1/sprites/*/fs/list"],
  "fs.delete": ["DELETE", "/v1/sprites/*/fs/delete"],
  "fs.rename": ["POST", "/v1/sprites/*/fs/rename"],
  "fs.copy": ["POST", "/v1/sprites/*/fs/copy"],
  "fs.chmod": ["POST", "/v1/sprites/*/fs/chmod"],
  "service.list": ["GET", "/v1/sprites/*/services"],
  "service.get": ["GET", "/v1/sprites/*/services/*"],
  "service.put": ["PUT", "/v1/sprites/*/services/*"],
  "service.delete": ["DELETE", "/v1/sprites/*/services/*"],
  "policy.get": ["GET", "/v1/sprites/*/policy/network"],
  "policy.set": ["POST", "/v1/sprites/*/policy/network"]
} as const

export type Endpoint = keyof typeof table

interface Route {
  readonly endpoint: Endpoint
  readonly method: string
  readonly path: RegExp
}

const isEndpoint = (name: string): name is Endpoint => Object.hasOwn(table, name)

const routes: ReadonlyArray<Route> = Object.keys(table)
  .filter(isEndpoint)
  .map((endpoint) => {
    const [method, path] = table[endpoint]
    return { endpoint, method, path: new RegExp(`^${path.replaceAll("*", "([^/]+)")}$`) }
  })

/** The endpoint of a request, and what its path's variables hold. */
export const routeOf = (method: string, path: string) => {
  for (const route of routes) {
    const match = route.method === method ? route.path.exec(path) : null
    if (match !== null) return { endpoint: route.endpoint, params: match.slice(1).map(decodeURIComponent) }
  }
  return undefined
}

/** Everything below a sprite goes into its machine and wakes it; the rest is the control plane's. */
export const isInGuest = (endpoint: Endpoint): boolean => !endpoint.startsWith("sprite.")
