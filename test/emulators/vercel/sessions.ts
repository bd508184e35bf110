/** The endpoints of a session: commands, files, stop, snapshot, timeout, network policy. */
import * as Fs from "node:fs"
import * as FsPromises from "node:fs/promises"
import * as Path from "node:path"
import { badRequest, type Call, json, notFound, refuse, type Reply } from "./http.ts"
import type { Lifecycle } from "./lifecycle.ts"
import type { Handler } from "./sandboxes.ts"
import * as Schemas from "./schemas.ts"
import {
  commandAnswer,
  type CommandState,
  ids,
  sandboxAnswer,
  sessionAnswer,
  type SessionState,
  snapshotAnswer,
  type World
} from "./state.ts"
import { filesOf } from "./tar.ts"

const fileError = (error: NodeJS.ErrnoException): never => refuse(400, "file_error", error.message)

const line = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value)}\n`)

export const sessions = (world: World, lifecycle: Lifecycle) => {
  const known = ({ params }: Call): SessionState => world.sessions.get(params[0] ?? "") ?? notFound("Session")

  /** Only a running session is operated on; it is never booted here. */
  const alive = (call: Call): SessionState => {
    const session = known(call)
    if (session.status === "stopping") refuse(422, "sandbox_stopping", "Sandbox is stopping")
    if (session.status === "snapshotting") refuse(422, "sandbox_snapshotting", "Sandbox is snapshotting")
    if (session.status !== "running") refuse(410, "sandbox_stopped", "Sandbox is stopped")
    return session
  }

  const commandOf = (call: Call): readonly [SessionState, CommandState] => {
    const session = alive(call)
    return [session, session.commands.get(call.params[1] ?? "") ?? notFound("Command")]
  }

  const start = async (call: Call): Promise<readonly [SessionState, CommandState, wait: boolean]> => {
    const session = alive(call)
    const { machine, settings } = session.sandbox
    const { args, command, cwd, env = {}, sudo = false, timeout, wait } = Schemas.decode(Schemas.RunCommand, call.json)
    const id = ids.command()
    const directory = machine.resolve(cwd ?? "")
    const running = await machine.start({
      command,
      args,
      cwd: directory,
      env: { ...machine.baseEnv, ...settings.env, ...env },
      logPath: Path.join(world.directory, "logs", id),
      killScope: world.killScope
    })
    if (session.status !== "running") {
      // The session ended while the program started: nothing may be left of it.
      running.signal(9)
      await running.exited
      await running.log.close()
      alive(call)
    }
    const started: CommandState = {
      id,
      name: command,
      args,
      cwd: directory,
      env,
      sudo,
      timeout,
      startedAt: world.now(),
      finishedAt: undefined,
      running
    }
    session.commands.set(id, started)
    const deadline = timeout === undefined ? undefined : world.after(timeout, () => running.signal(9))
    void running.exited.then(() => {
      deadline?.()
      started.finishedAt = world.now()
    })
    return [session, started, wait === true]
  }

  const run: Handler = async (call) => {
    const [session, command, wait] = await start(call)
    if (!wait) return json({ command: commandAnswer(session, command) })
    const { exited, log } = command.running
    return {
      _tag: "Lines",
      lines: async function* (signal) {
        yield line({ command: { ...commandAnswer(session, command), exitCode: null } })
        yield* log.read(signal)
        if (signal.aborted || session.status !== "running") return
        await exited
        yield line({ command: commandAnswer(session, command) })
      }
    }
  }

  const command: Handler = async (call) => {
    const [session, found] = commandOf(call)
    if (call.query.get("wait") === "true") {
      await found.running.exited
      await session.transition
      alive(call)
    }
    return json({ command: commandAnswer(session, found) })
  }

  const logs: Handler = (call): Reply => {
    const [, found] = commandOf(call)
    return { _tag: "Lines", lines: (signal) => found.running.log.read(signal) }
  }

  const kill: Handler = (call) => {
    const [session, found] = commandOf(call)
    const { signal } = Schemas.decode(Schemas.Kill, call.json)
    const answer = commandAnswer(session, found)
    found.running.signal(signal)
    return json({ command: answer })
  }

  const write: Handler = async (call) => {
    const { machine } = alive(call).sandbox
    const base = call.headers["x-cwd"]
    if (typeof base !== "string" || !base.startsWith("/")) return badRequest("x-cwd is an absolute path.")
    for (const { content, mode, name } of await filesOf(call.bytes)) {
      const path = machine.resolveOwn(Path.join(base, name))
      await writeTo(path, content, mode).catch(fileError)
    }
    return json({})
  }

  const read: Handler = async (call) => {
    const { machine } = alive(call).sandbox
    const { cwd, path } = Schemas.decode(Schemas.FilePath, call.json)
    const resolved = machine.resolve(path, cwd)
    const stat = await FsPromises.stat(resolved).catch((error: NodeJS.ErrnoException) =>
      error.code === "ENOENT" || error.code === "ENOTDIR"
        ? refuse(404, "not_found", "File not found.")
        : fileError(error)
    )
    if (!stat.isFile()) return refuse(400, "file_error", `${resolved} is not a file.`)
    return { _tag: "Bytes", stream: Fs.createReadStream(resolved) }
  }

  const mkdir: Handler = async (call) => {
    const { machine } = alive(call).sandbox
    const { cwd, path } = Schemas.decode(Schemas.FilePath, call.json)
    await FsPromises.mkdir(machine.resolveOwn(machine.resolve(path, cwd))).catch(fileError)
    return json({})
  }

  const stop: Handler = async (call) => {
    const session = known(call)
    if (session.status === "snapshotting") alive(call)
    const snapshot = await lifecycle.end(session, "stop")
    return json({
      session: sessionAnswer(session),
      sandbox: sandboxAnswer(session.sandbox),
      snapshot: snapshot === undefined ? undefined : snapshotAnswer(snapshot)
    })
  }

  const snapshot: Handler = async (call) => {
    const session = alive(call)
    const { expiration } = call.json === undefined ? {} : Schemas.decode(Schemas.Snapshot, call.json)
    const made = await lifecycle.end(session, "snapshot", expiration)
    if (made === undefined) throw new Error("a running session was not snapshotted")
    // The answer still says `snapshotting`, and so does the SDK's handle from then on.
    return json({ snapshot: snapshotAnswer(made), session: { ...sessionAnswer(session), status: "snapshotting" } }, 201)
  }

  const extendTimeout: Handler = (call) => {
    const session = alive(call)
    const { duration } = Schemas.decode(Schemas.Extend, call.json)
    lifecycle.checkTimeout(duration)
    lifecycle.checkTimeout(session.timeout + duration)
    session.timeout += duration
    session.updatedAt = world.now()
    lifecycle.schedule(session)
    return json({ session: sessionAnswer(session) })
  }

  const networkPolicy: Handler = (call) => {
    const session = alive(call)
    session.networkPolicy = Schemas.decode(Schemas.NetworkPolicy, call.json)
    session.updatedAt = world.now()
    return json({ session: sessionAnswer(session) })
  }

  return {
    get: ((call) =>
      json({ session: sessionAnswer(known(call)), routes: known(call).sandbox.routes })) satisfies Handler,
    run,
    command,
    logs,
    kill,
    write,
    read,
    mkdir,
    stop,
    snapshot,
    extendTimeout,
    networkPolicy
  }
}

/** By the open file: whoever waits for it in the guest may take it away as soon as it is whole. */
const writeTo = async (path: string, content: Uint8Array, mode: number): Promise<void> => {
  await FsPromises.mkdir(Path.dirname(path), { recursive: true })
  const handle = await FsPromises.open(path, "w", mode)
  try {
    await handle.chmod(mode)
    await handle.writeFile(content)
  } finally {
    await handle.close()
  }
}
