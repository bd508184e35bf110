/** What each endpoint does. */
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import { overHttp, signalOf } from "./exec.ts"
import type { Fault } from "./faults.ts"
import {
  type Call,
  empty,
  invalid,
  json,
  lines,
  Refusal,
  refuse,
  refuseFile,
  refuseText,
  type Reply,
  text
} from "./http.ts"
import type { Endpoint } from "./routes.ts"
import { type CheckpointState, iso, Sprite, type World } from "./state.ts"

/** Of a call whose sprite is there. */
type Handler = (call: Call, sprite: Sprite, fault: Fault | undefined) => Promise<Reply> | Reply

const strings = (value: unknown): ReadonlyArray<string> => (Array.isArray(value) ? value.map(String) : [])
const field = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined
const string = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

export const create = async (world: World, { json: body }: Call): Promise<Reply> => {
  const name = string(body.name)
  if (name === undefined || !/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) return invalid("name is invalid")
  if (world.sprites.has(name)) return refuse(world.options.duplicate, "sprite name already exists")
  const sprite = new Sprite(world, name)
  world.sprites.set(name, sprite)
  await sprite.make()
  if (!world.options.plainCreate) settle(sprite, body)
  return json(sprite.told, 201)
}

const settle = (sprite: Sprite, body: Call["json"]): void => {
  if (body.labels !== undefined) sprite.labels = strings(body.labels)
  sprite.auth = string(field(body.url_settings, "auth")) ?? sprite.auth
}

export const list = (world: World, { query }: Call): Reply => {
  const prefix = query.get("prefix") ?? ""
  const size = Math.min(Number(query.get("max_results") ?? 50), 50)
  const all = [...world.sprites.values()].filter(({ name }) => name.startsWith(prefix))
  all.sort((a, b) => (a.name < b.name ? -1 : 1))
  const from = Number(query.get("continuation_token") ?? 0)
  const more = all.length > from + size
  return json({
    sprites: all
      .slice(from, from + size)
      .map((sprite) =>
        world.options.bareLists
          ? { name: sprite.name, org_slug: "emulator", updated_at: iso(world.now()) }
          : sprite.told
      ),
    has_more: more,
    next_continuation_token: more ? String(from + size) : null
  })
}

const rename = (body: Call["json"], name: "source" | "dest"): string =>
  Path.resolve(string(body.workingDir) ?? "/", string(body[name]) ?? "")

const ownPath = (sprite: Sprite, path: string): string => {
  // Only the sprite's own directory, because the rest is the host's.
  if (!path.startsWith(`${sprite.root}/`)) return refuseText(400, `the emulator writes only below ${sprite.root}`)
  return path
}

const pathOf = ({ query }: Call): string => {
  const directory = query.get("workingDir")
  if (directory === null) return refuseText(400, "workingDir is required")
  return Path.resolve(directory, query.get("path") ?? "")
}

const onFile = async (path: string, use: () => Promise<Reply>): Promise<Reply> =>
  use().catch((error: unknown) => {
    if (error instanceof Refusal) throw error
    return refuseFile(error, path)
  })

const told = ({ comment, createdAt, id }: CheckpointState) => ({
  id,
  create_time: iso(createdAt),
  ...(comment === undefined ? {} : { comment })
})

const checkpointOf = (sprite: Sprite, id: string | undefined): CheckpointState =>
  sprite.checkpoints.find((one) => one.id === id) ?? refuseText(404, "checkpoint not found")

export const handlers = {
  "sprite.get": (_, sprite) => json(sprite.told),
  "sprite.update": ({ json: body }, sprite) => {
    settle(sprite, body)
    return json(sprite.told)
  },
  "sprite.delete": async (_, sprite) => {
    await sprite.end()
    return empty
  },
  "sprite.check": (_, sprite) =>
    json({
      sprite_name: sprite.name,
      sprite_id: sprite.id,
      status: "ok",
      reason: "",
      checked_at: iso(sprite.world.now())
    }),
  "sprite.restart": async (_, sprite) => {
    await sprite.cool()
    sprite.wake()
    return json({ sprite_name: sprite.name, machine_id: sprite.id, message: "restarted" })
  },
  "exec.http": async ({ bytes, query }, sprite) => ({ _tag: "Bytes", stream: await overHttp(sprite, query, bytes) }),
  "exec.list": (_, sprite) =>
    json({
      count: sprite.sessions.size,
      sessions: [...sprite.sessions.values()].map(({ command, created, id, tty }) => ({
        id,
        command,
        workdir: sprite.home,
        created: iso(created),
        tty,
        is_active: true
      }))
    }),
  "exec.kill": ({ params, query }, sprite) => {
    const session = sprite.sessions.get(params[1] ?? "") ?? refuseText(404, `session not found: ${params[1]}`)
    const signal = signalOf(query.get("signal") ?? "TERM")
    return lines(async function* () {
      session.signal(signal)
      yield { type: "signal", message: `sent ${signal}`, signal, pid: Number(session.id) }
      const code = await session.exited
      yield { type: "exited", message: "exited", exit_code: code }
      yield { type: "complete", exit_code: code }
    })
  },
  "checkpoint.create": ({ json: body }, sprite, fault) =>
    lines(async function* () {
      const time = iso(sprite.world.now())
      yield { type: "info", data: "Creating checkpoint...", time }
      if (fault?._tag === "ErrorEvent") {
        yield { type: "error", error: fault.message, time }
        return
      }
      if (fault?._tag === "CutLines" && !fault.executed) return
      const { id } = await sprite.save(string(body.comment))
      yield { type: "info", data: "  Size: 1 MB", time }
      const words = fault?._tag === "OtherWords" ? "Done" : `Checkpoint ${id} created successfully`
      yield { type: "complete", data: words, time }
    }),
  "checkpoint.list": (_, sprite) => {
    const { checkpoints } = sprite
    if (checkpoints.length === 0) return json(null)
    return json([...checkpoints.map(told), { id: "Current", create_time: iso(sprite.world.now()) }])
  },
  "checkpoint.get": ({ params }, sprite) => json(told(checkpointOf(sprite, params[1]))),
  "checkpoint.delete": async ({ params }, sprite) => {
    const found = checkpointOf(sprite, params[1])
    sprite.checkpoints.splice(sprite.checkpoints.indexOf(found), 1)
    await FsPromises.rm(found.directory, { recursive: true, force: true })
    return empty
  },
  "checkpoint.restore": ({ params }, sprite, fault) => {
    const found = checkpointOf(sprite, params[1])
    return lines(async function* () {
      const time = iso(sprite.world.now())
      yield { type: "info", data: `Restoring from checkpoint ${found.id}...`, time }
      if (fault?._tag === "ErrorEvent") {
        yield { type: "error", error: fault.message, time }
        return
      }
      if (fault?._tag === "CutLines" && !fault.executed) return
      await sprite.restore(found)
      yield { type: "info", data: "Environment restarted", time }
      yield { type: "complete", data: `Restored from ${found.id}`, time }
    })
  },
  "fs.read": async (call) => {
    const path = pathOf(call)
    return onFile(path, async () => {
      const file = await FsPromises.open(path)
      if ((await file.stat()).isDirectory()) {
        await file.close()
        return refuseFile(Object.assign(new Error("is a directory"), { code: "EISDIR" }), path)
      }
      return { _tag: "Bytes", stream: file.createReadStream() }
    })
  },
  "fs.write": async (call, sprite) => {
    const path = ownPath(sprite, pathOf(call))
    const { bytes, query } = call
    const mode = Number.parseInt(query.get("mode") ?? "0644", 8)
    return onFile(path, async () => {
      if (query.get("mkdirParents") === "true") {
        await FsPromises.mkdir(Path.dirname(path), { recursive: true }).catch((error: NodeJS.ErrnoException) => {
          // As Go's own says it.
          throw error.code === "EEXIST" ? Object.assign(new Error("not a directory"), { code: "ENOTDIR" }) : error
        })
      }
      // By the open file: whoever waits for it may take it away as soon as it is complete.
      const file = await FsPromises.open(path, "w", mode)
      try {
        await file.chmod(mode)
        await file.writeFile(bytes)
      } finally {
        await file.close()
      }
      return json({ path, size: bytes.length, mode: query.get("mode") ?? "0644" })
    })
  },
  "fs.list": async (call) => {
    const path = pathOf(call)
    return onFile(path, async () => {
      const entryOf = (file: string) => {
        const stat = Fs.lstatSync(file)
        return {
          name: Path.basename(file),
          path: file,
          type: stat.isSymbolicLink() ? "symlink" : stat.isDirectory() ? "directory" : "file",
          size: stat.size,
          mode: (stat.mode & 0o777).toString(8),
          modTime: stat.mtime.toISOString(),
          isDir: stat.isDirectory()
        }
      }
      const stat = await FsPromises.stat(path)
      // What the service answers for a file nobody knows; the SDK's `stat` needs this.
      const names = stat.isDirectory() ? (await FsPromises.readdir(path)).map((name) => Path.join(path, name)) : [path]
      const entries = names.map(entryOf)
      return json({ path, count: entries.length, entries })
    })
  },
  "fs.delete": async (call, sprite) => {
    const path = ownPath(sprite, pathOf(call))
    return onFile(path, async () => {
      await FsPromises.lstat(path)
      await FsPromises.rm(path, { recursive: call.query.get("recursive") === "true" })
      return json({ deleted: [path], count: 1 })
    })
  },
  "fs.rename": async ({ json: body }, sprite) => {
    const source = ownPath(sprite, rename(body, "source"))
    const dest = ownPath(sprite, rename(body, "dest"))
    return onFile(source, async () => {
      await FsPromises.rename(source, dest)
      return json({ source, dest })
    })
  },
  "fs.copy": async ({ json: body }, sprite) => {
    const source = rename(body, "source")
    const dest = ownPath(sprite, rename(body, "dest"))
    return onFile(source, async () => {
      await FsPromises.cp(source, dest, { recursive: body.recursive === true, preserveTimestamps: true })
      return json({ copied: [dest], count: 1, totalBytes: 0 })
    })
  },
  "fs.chmod": async ({ json: body }, sprite) => {
    const path = ownPath(sprite, Path.resolve(string(body.workingDir) ?? "/", string(body.path) ?? ""))
    return onFile(path, async () => {
      await FsPromises.chmod(path, Number.parseInt(string(body.mode) ?? "", 8))
      return json({ affected: [path], count: 1 })
    })
  },
  "service.list": (_, sprite) => json([...sprite.services.values()]),
  "service.get": ({ params }, sprite) =>
    json(sprite.services.get(params[1] ?? "") ?? refuseText(404, "service not found")),
  "service.put": ({ json: body, params }, sprite) => {
    const name = params[1] ?? ""
    const other = [...sprite.services].find(([one, { http_port }]) => one !== name && http_port !== undefined)
    if (body.http_port !== undefined && other !== undefined) return refuseText(409, "another service has http_port")
    // Nothing is run: which service has the port is all that matters here.
    sprite.services.set(name, { name, ...body, state: { name, status: "running" } })
    return lines(async function* () {
      yield { type: "started", timestamp: sprite.world.now() }
      yield { type: "complete", timestamp: sprite.world.now(), log_files: {} }
    })
  },
  "service.delete": ({ params }, sprite) => {
    if (!sprite.services.delete(params[1] ?? "")) return refuseText(404, "service not found")
    return empty
  },
  "policy.get": (_, sprite) => json({ rules: sprite.rules }),
  "policy.set": ({ json: body }, sprite) => {
    const { rules } = body
    if (!Array.isArray(rules)) return text("invalid policy", 400)
    sprite.rules = rules
    return empty
  }
} as const satisfies Partial<Record<Endpoint, Handler>>

/** The handler of an endpoint that needs a sprite. */
export const handlerOf = (endpoint: Endpoint): Handler | undefined =>
  Object.entries<Handler>(handlers).find(([name]) => name === endpoint)?.[1]
