/** What else goes over a WebSocket: TCP to a port of the machine, and what happens to its files. */
import type { WebSocket } from "@effect/platform-node/NodeWS"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { iso, type Sprite } from "./state.ts"

const field = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined

const parse = (data: Buffer): unknown => {
  try {
    return JSON.parse(data.toString())
  } catch {
    return undefined
  }
}

/** One TCP connection. A target that cannot be reached is told by how the WebSocket closes, without any message. */
export const proxy = (sprite: Sprite, socket: WebSocket): void => {
  const release = sprite.hold()
  let tcp: Net.Socket | undefined
  socket.on("error", () => {})
  socket.once("close", () => {
    release()
    tcp?.destroy()
  })
  socket.on("message", (data: Buffer, isBinary: boolean) => {
    if (tcp !== undefined) {
      if (isBinary && !tcp.write(data)) {
        socket.pause()
        tcp.once("drain", () => socket.resume())
      }
      return
    }
    const init = isBinary ? undefined : parse(data)
    const port = field(init, "port")
    if (typeof port !== "number" || !Number.isInteger(port) || port < 1 || port > 65_535) {
      return socket.close(1003, "invalid init message")
    }
    // The machines share the host's network: nothing but loopback is theirs.
    const target = `127.0.0.1:${port}`
    const opened = (tcp = Net.connect(port, "127.0.0.1"))
    opened.once("connect", () => socket.send(JSON.stringify({ status: "connected", target })))
    opened.on("data", (bytes) => {
      opened.pause()
      socket.send(bytes, () => opened.resume())
    })
    opened.once("end", () => socket.close(1000))
    opened.once("error", (error) => socket.close(1011, error.message.slice(0, 100)))
  })
}

/** Tells of changes from the subscription on. */
export const watch = (sprite: Sprite, socket: WebSocket): void => {
  const release = sprite.hold()
  const watchers: Array<Fs.FSWatcher> = []
  const tell = (message: object) => socket.send(JSON.stringify(message))
  socket.on("error", () => {})
  socket.once("close", () => {
    release()
    for (const watcher of watchers) watcher.close()
  })
  socket.on("message", (data: Buffer) => {
    const message = parse(data)
    if (field(message, "type") !== "subscribe") return
    const given = field(message, "paths")
    const paths = (Array.isArray(given) ? given : []).map((path) =>
      Path.resolve(String(field(message, "workingDir") ?? "/"), String(path))
    )
    try {
      for (const path of paths) {
        const known = new Set(Fs.statSync(path).isDirectory() ? Fs.readdirSync(path) : [])
        const watcher = Fs.watch(path, { recursive: field(message, "recursive") === true }, (kind, name) => {
          const file = Path.join(path, name ?? "")
          const stat = Fs.statSync(file, { throwIfNoEntry: false })
          const isNew = stat !== undefined && kind === "rename" && !known.has(name ?? "")
          if (stat === undefined) known.delete(name ?? "")
          else known.add(name ?? "")
          tell({
            type: "event",
            path: file,
            event: stat === undefined ? "remove" : isNew ? "create" : "write",
            timestamp: iso(sprite.world.now()),
            ...(stat === undefined ? {} : { size: stat.size, isDir: stat.isDirectory() })
          })
        })
        watchers.push(watcher)
      }
      tell({ type: "subscribed", paths })
    } catch (error) {
      tell({ type: "error", message: String(error) })
    }
  })
}
