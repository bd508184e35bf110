/** A service's way to the supervisor: one connection for all its processes, opened on demand, closed when it rests. */
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as RcRef from "effect/RcRef"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import type { SandboxError } from "../../../errors.ts"
import { OutcomeUnknown, StopIncomplete, Timeout, Unavailable, Unknown } from "../../../errors.ts"
import { failWith, ioSync, reasonOf } from "./failures.ts"
import { bootId, cookieName, hostVariables, isRunning } from "./os.ts"
import type { Root } from "./state.ts"
import type { Key, Request } from "./wire.ts"
import { lineReader, maxLine, protocolVersion, supervisorPaths } from "./wire.ts"

const Info = Schema.fromJsonString(
  Schema.Struct({
    version: Schema.Int,
    pid: Schema.Int,
    startTime: Schema.String,
    bootId: Schema.String,
    socket: Schema.String
  })
)

/** `exit.json`, as the supervisor writes it. */
export const ExitFile = Schema.Struct({
  version: Schema.Literal(1),
  end: Schema.Union([
    Schema.Struct({ type: Schema.Literal("exited"), code: Schema.Int }),
    Schema.Struct({ type: Schema.Literal("signalled"), signal: Schema.String, code: Schema.Int }),
    Schema.Struct({ type: Schema.Literal("lost") })
  ]),
  reason: Schema.optionalKey(Schema.Literals(["deadline", "timeout", "stop"])),
  out: Schema.Int,
  err: Schema.Int,
  endedAt: Schema.Number
})
export type ExitFile = typeof ExitFile.Type

const Push = Schema.Struct({
  push: Schema.Literal("state"),
  sandboxId: Schema.String,
  processId: Schema.String,
  out: Schema.Int,
  err: Schema.Int,
  exit: Schema.optionalKey(ExitFile)
})
/** How a process stands. */
export type Push = typeof Push.Type

const Failure = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("start"),
    code: Schema.String,
    syscall: Schema.String,
    message: Schema.String
  }),
  Schema.Struct({ type: Schema.Literal("ran"), message: Schema.String }),
  Schema.Struct({ type: Schema.Literals(["refused", "ended", "closed", "unknown process"]) }),
  Schema.Struct({ type: Schema.Literal("survivors"), pids: Schema.Array(Schema.Int) }),
  Schema.Struct({ type: Schema.Literal("bad request"), message: Schema.String }),
  Schema.Struct({ type: Schema.Literal("failed"), message: Schema.String, code: Schema.String })
])

const Message = Schema.fromJsonString(
  Schema.Union([
    Push,
    Schema.Struct({ id: Schema.Int, failure: Failure }),
    Schema.Struct({ id: Schema.Int, ok: Schema.Json })
  ])
)

const decodeInfo = Schema.decodeUnknownOption(Info)
const decodeMessage = Schema.decodeUnknownOption(Message)
const Hello = Schema.Struct({ version: Schema.Int })
const decodeHello = Schema.decodeUnknownOption(Hello)

/** The supervisor understood and says no. */
export class Refused extends Data.TaggedError("Refused")<{ readonly failure: typeof Failure.Type }> {}

/** One connection. */
export interface Connection {
  readonly isOpen: () => boolean
  readonly request: (request: Request) => Effect.Effect<unknown, Refused | SandboxError>
  /**
   * Calls with every state of a process, and with `undefined` once when the connection is gone. Several may listen to one
   * process: the supervisor is told to be silent about it when the last of them goes, so nobody else may say so.
   */
  readonly listen: (key: Key, listener: (push: Push | undefined) => void) => () => void
}

export interface Client {
  /** A living connection for the Scope; starts a supervisor when there is none. */
  readonly connection: Effect.Effect<Connection, SandboxError, Scope.Scope>
  /** One request on it. */
  readonly request: (request: Request) => Effect.Effect<unknown, Refused | SandboxError>
  /** The same, without starting a supervisor: none, when none runs. */
  readonly requestIfRunning: (request: Request) => Effect.Effect<Option.Option<unknown>, Refused | SandboxError>
}

const nameOf = (key: Key): string => `${key.sandboxId}/${key.processId}`

const unavailable = (accepted: "no" | "unknown", detail: string, cause?: unknown): SandboxError =>
  failWith("supervisor", new Unavailable({ accepted, detail, ...(cause === undefined ? {} : { cause }) }))

/** What a refusal is where the caller has no better word for it. */
export const toSandboxError =
  (operation: string, sandboxId: string) =>
  (error: Refused | SandboxError): SandboxError => {
    if (error._tag === "SandboxError") return error
    const { failure } = error
    switch (failure.type) {
      case "survivors":
        return failWith(
          operation,
          new StopIncomplete({ detail: `these processes survived SIGKILL: ${failure.pids.join(", ")}` }),
          sandboxId
        )
      case "failed":
        return failWith(
          operation,
          reasonOf(Object.assign(new Error(failure.message), { code: failure.code })),
          sandboxId
        )
      case "ran":
        return failWith(
          operation,
          new OutcomeUnknown({ detail: `it was started, and ended as it could not be watched: ${failure.message}` }),
          sandboxId
        )
      case "start":
      case "bad request":
        return failWith(operation, new Unknown({ detail: failure.message }), sandboxId)
      default:
        return failWith(operation, new Unknown({ detail: `the supervisor says: ${failure.type}` }), sandboxId)
    }
  }

/** The longest that a supervisor takes for what it does at once; one that takes longer is stopped or stuck. */
const patience = Duration.seconds(30)
const helloPatience = Duration.seconds(5)

/** When an answer counts as lost. None for a write: a program may read its input as late as it likes. */
const deadlineOf = (request: Request): Option.Option<Duration.Duration> => {
  switch (request.op) {
    case "write":
      return Option.none()
    case "hello":
      return Option.some(helloPatience)
    case "stop":
      return Option.some(Duration.sum(patience, Duration.millis(request.killGrace)))
    case "signal":
      return Option.some(Duration.sum(patience, Duration.millis(request.forceAfter ?? 0)))
    default:
      return Option.some(patience)
  }
}

/** The supervisor would cut the connection of all processes over such a line. */
const tooLarge = (request: Request): Refused =>
  new Refused({
    failure:
      request.op === "start"
        ? { type: "start", code: "E2BIG", syscall: "spawn", message: "spawn E2BIG" }
        : { type: "bad request", message: "the request is too large" }
  })

const open = (path: string): Effect.Effect<Connection, SandboxError, Scope.Scope> =>
  Effect.gen(function* () {
    const pending = new Map<number, (result: Effect.Effect<unknown, Refused | SandboxError>) => void>()
    const listeners = new Map<string, Set<(push: Push | undefined) => void>>()
    let nextId = 0
    let isOpen = true

    const socket = yield* Effect.acquireRelease(
      Effect.callback<Net.Socket, SandboxError>((resume) => {
        const connecting = Net.connect(path)
        connecting.on("error", (error) =>
          resume(Effect.fail(unavailable("no", "no answer from the supervisor", error)))
        )
        connecting.once("connect", () => resume(Effect.succeed(connecting)))
        return Effect.sync(() => connecting.destroy())
      }),
      (connected) => Effect.sync(() => connected.destroy())
    )
    const close = () => {
      isOpen = false
      const lost = Effect.fail(unavailable("unknown", "the connection to the supervisor was cut"))
      for (const resume of pending.values()) resume(lost)
      pending.clear()
      for (const set of listeners.values()) for (const listener of set) listener(undefined)
      listeners.clear()
      socket.destroy()
    }
    const read = lineReader((line) => {
      const message = decodeMessage(line)
      // What is not understood would leave somebody waiting for ever.
      if (Option.isNone(message)) return close()
      const { value } = message
      if ("push" in value) {
        for (const listener of listeners.get(nameOf(value)) ?? []) listener(value)
        return
      }
      const resume = pending.get(value.id)
      pending.delete(value.id)
      resume?.("failure" in value ? Effect.fail(new Refused({ failure: value.failure })) : Effect.succeed(value.ok))
    }, close)
    socket.on("data", read)
    socket.on("close", close)

    const ask = (request: Request) =>
      Effect.callback<unknown, Refused | SandboxError>((resume) => {
        if (!isOpen) return resume(Effect.fail(unavailable("no", "the connection to the supervisor was cut")))
        const id = nextId++
        const line = JSON.stringify({ id, ...request })
        if (Buffer.byteLength(line) > maxLine) return resume(Effect.fail(tooLarge(request)))
        pending.set(id, resume)
        socket.write(`${line}\n`)
        return Effect.sync(() => pending.delete(id))
      })

    const connection: Connection = {
      isOpen: () => isOpen,
      request: (request) =>
        Option.match(deadlineOf(request), {
          onNone: () => ask(request),
          onSome: (duration) =>
            Effect.timeoutOrElse(ask(request), {
              duration,
              orElse: () =>
                Effect.fail(failWith("supervisor", new Timeout({ clock: "request", duration, accepted: "unknown" })))
            })
        }),
      listen: (key, listener) => {
        const name = nameOf(key)
        const set = listeners.get(name) ?? new Set()
        listeners.set(name, set.add(listener))
        return () => {
          set.delete(listener)
          if (set.size > 0 || listeners.get(name) !== set) return
          listeners.delete(name)
          // Nobody waits for the answer: what is sent on this socket later is also read later.
          const request: Request = { op: "unwatch", sandboxId: key.sandboxId, processId: key.processId }
          if (isOpen) socket.write(`${JSON.stringify({ id: nextId++, ...request })}\n`)
        }
      }
    }
    const hello = yield* Effect.mapError(
      connection.request({ op: "hello", version: protocolVersion }),
      toSandboxError("supervisor", "")
    )
    const version = Option.getOrUndefined(Option.map(decodeHello(hello), (answer) => answer.version))
    if (version !== protocolVersion) {
      return yield* failWith(
        "supervisor",
        new Unknown({ detail: `the running supervisor speaks version ${String(version)}, not ${protocolVersion}` })
      )
    }
    return connection
  })

const maxLog = 1024 * 1024

const spawn = (root: Root, idleMillis: number): ChildProcess.ChildProcess => {
  const paths = supervisorPaths(root.path)
  Fs.mkdirSync(paths.directory, { recursive: true, mode: 0o700 })
  const size = Fs.statSync(paths.log, { throwIfNoEntry: false })?.size ?? 0
  const log = Fs.openSync(paths.log, size > maxLog ? "w" : "a", 0o600)
  try {
    // The program beside this file: `.ts` in the sources, `.js` in the package.
    const program = fileURLToPath(new URL(`./supervisor${Path.extname(import.meta.url)}`, import.meta.url))
    const child = ChildProcess.spawn(
      process.execPath,
      ["--disable-warning=ExperimentalWarning", program, root.path, String(idleMillis)],
      {
        cwd: "/",
        detached: true, // What the supervisor needs for itself; commands never see it.
        env: hostVariables("PATH", "TMPDIR", cookieName),
        stdio: ["ignore", log, log]
      }
    )
    // Without an executable there is no socket either, and that is what is waited for.
    child.on("error", () => {})
    child.unref()
    return child
  } finally {
    Fs.closeSync(log)
  }
}

/** The socket of the supervisor that runs, none when none does. */
const find = (root: Root): Option.Option<string> => {
  let text: string
  try {
    text = Fs.readFileSync(supervisorPaths(root.path).info, "utf8")
  } catch {
    return Option.none()
  }
  return Option.map(
    Option.filter(decodeInfo(text), (info) => info.bootId === bootId() && isRunning(info)),
    (info) => info.socket
  )
}

/** What the log says last: why a supervisor could not start. */
const lastWords = (root: Root): string => {
  const path = supervisorPaths(root.path).log
  try {
    // Its size is bounded, see `spawn`. A crash of Node ends with an indented stack and the version.
    const lines = Fs.readFileSync(path, "utf8").split("\n")
    return lines.findLast((line) => /^\S/.test(line) && !/^(Node\.js v|[{}]$)/.test(line)) ?? `see ${path}`
  } catch {
    return `see ${path}`
  }
}

/** Not `Unavailable`: who tries again for that would start it all over. */
const givenUp = (detail: string): SandboxError =>
  failWith("supervisor", new Unknown({ detail: `the supervisor does not start: ${detail}` }))

/** How often a supervisor may fail to start, each time after a longer pause, about three seconds in all. */
const maxStarts = 5
const pauseAfter = (starts: number): number => (starts === 0 ? 0 : Math.min(100 * 2 ** starts, 2_000))

const attempts = Schedule.max([Schedule.spaced(Duration.millis(10)), Schedule.recurs(1_000)])

/** Connects to the supervisor that runs, or to one that this starts. */
const connect = (root: Root, idleMillis: number): Effect.Effect<Connection, SandboxError, Scope.Scope> =>
  Effect.suspend(() => {
    let child: ChildProcess.ChildProcess | undefined
    let starts = 0
    let failures = 0
    let notBefore = 0
    const once = Effect.gen(function* () {
      const socket = find(root)
      if (Option.isSome(socket)) return yield* open(socket.value)
      const now = yield* Clock.currentTimeMillis
      if (child !== undefined && (child.exitCode !== null || child.signalCode !== null)) {
        // One that ends well has found another at work, which is about to come up.
        if (child.exitCode !== 0) failures++
        child = undefined
        notBefore = now + pauseAfter(starts)
        if (failures >= maxStarts) {
          return yield* givenUp(lastWords(root))
        }
      }
      if (child === undefined && now >= notBefore) {
        starts++
        child = yield* ioSync("supervisor", () => spawn(root, idleMillis))
      }
      return yield* unavailable("no", `no supervisor came up: ${lastWords(root)}`)
    })
    return Effect.retry(once, { schedule: attempts, while: (error) => error.reason._tag === "Unavailable" }).pipe(
      Effect.catchReason("SandboxError", "Unavailable", (reason) => Effect.fail(givenUp(reason.detail ?? "no answer")))
    )
  })

/** The client of one provider; the connection belongs to the Scope. */
export const make = (root: Root, options: { readonly idleMillis: number }): Effect.Effect<Client, never, Scope.Scope> =>
  Effect.gen(function* () {
    const shared = yield* RcRef.make({
      acquire: connect(root, options.idleMillis),
      idleTimeToLive: Duration.millis(options.idleMillis)
    })
    const connection: Client["connection"] = Effect.gen(function* () {
      const current = yield* RcRef.get(shared)
      if (current.isOpen()) return current
      yield* RcRef.invalidate(shared)
      return yield* RcRef.get(shared)
    })
    const request: Client["request"] = (message) =>
      Effect.scoped(Effect.flatMap(connection, (open) => open.request(message)))
    return {
      connection,
      request,
      requestIfRunning: (message) =>
        Effect.suspend(() => (Option.isSome(find(root)) ? Effect.asSome(request(message)) : Effect.succeedNone))
    }
  })
