/** A guest on this machine that can do no more than run a command and show its text: real shells over the launcher's port. */
import * as NodeStream from "@effect/platform-node/NodeStream"
import { assert } from "@effect/vitest"
import { Effect, Schedule, Stream } from "effect"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { SandboxError, Unavailable, Unknown } from "../../src/errors.ts"
import { inline, make } from "../../src/layers/internal/launcher/launcher.ts"
import type { GuestOptions, GuestResult, GuestTransport } from "../../src/layers/internal/launcher/transport.ts"

/** A shell and its tools. */
export interface Guest {
  readonly name: string
  /** The value of PATH in which `sh` is that shell; undefined where it is not installed. */
  readonly path: (directory: string) => string | undefined
}

const which = (name: string): string | undefined =>
  ["/usr/local/bin", "/usr/bin", "/bin"].map((directory) => `${directory}/${name}`).find((path) => Fs.existsSync(path))

const withShell = (shell: string): Guest => ({
  name: `${shell} with the tools of this machine`,
  path: (directory) => {
    const found = which(shell)
    if (found === undefined) return undefined
    Fs.symlinkSync(found, Path.join(directory, "sh"))
    return `${directory}:/usr/local/bin:/usr/bin:/bin`
  }
})

const busybox: Guest = {
  name: "busybox and nothing else",
  path: (directory) => {
    const found = which("busybox")
    if (found === undefined) return undefined
    for (const applet of ChildProcess.execFileSync(found, ["--list"]).toString().trim().split("\n")) {
      Fs.symlinkSync(found, Path.join(directory, applet))
    }
    return directory
  }
}

/** Those that the launcher promises to run on. */
export const guests: ReadonlyArray<Guest> = [withShell("dash"), withShell("bash"), busybox]

export const isInstalled = (guest: Guest): boolean =>
  guest === busybox ? which("busybox") !== undefined : which(guest.name.slice(0, 4)) !== undefined

/** What a transport does to the n-th stream (from 0). */
export type Fault = (
  stream: Stream.Stream<Uint8Array, SandboxError>,
  index: number,
  argv: ReadonlyArray<string>
) => Stream.Stream<Uint8Array | string, SandboxError>

export const unavailable = (accepted: "no" | "unknown" = "unknown"): SandboxError =>
  new SandboxError({ operation: "loopback.test", reason: new Unavailable({ accepted, detail: "a fault of the test" }) })

const marker = "LOOPBACK_ROOT"

const processes = (): ReadonlyArray<string> => Fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))

/** What is alive of a guest: everything that has its root in its environment. */
export const processesOf = (root: string): ReadonlyArray<string> =>
  processes().filter((pid) => {
    try {
      if (!Fs.readFileSync(`/proc/${pid}/environ`, "latin1").split("\0").includes(`${marker}=${root}`)) return false
      return !/^\d+ \(.*\) [ZX] /s.test(Fs.readFileSync(`/proc/${pid}/stat`, "latin1"))
    } catch {
      // It ended while we looked.
      return false
    }
  })

export const commandLineOf = (pid: string): string => {
  try {
    return Fs.readFileSync(`/proc/${pid}/cmdline`, "latin1")
  } catch {
    return ""
  }
}

export const allProcesses = processes

const patience = Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(1_000)])

/** Waits until something holds. */
export const eventually = (what: string, holds: () => boolean) =>
  Effect.sync(holds).pipe(
    Effect.repeat({ until: (is) => is, schedule: patience }),
    Effect.andThen(Effect.sync(() => assert.isTrue(holds(), what)))
  )

/** A guest that goes with the Scope, and by then holds no process, and only what the test says of files. */
export const loopback = Effect.fnUntraced(function* (
  guest: Guest,
  given: { readonly options?: Partial<GuestOptions>; readonly fault?: Fault } = {}
) {
  const root = yield* Effect.acquireRelease(
    Effect.sync(() => Fs.realpathSync(Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-guest-")))),
    (root) =>
      Effect.gen(function* () {
        const patient = Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(250)])
        yield* Effect.sync(() => processesOf(root).length).pipe(
          Effect.repeat({ until: (count) => count === 0, schedule: patient })
        )
        const left = processesOf(root)
        const lines = left.map((pid) =>
          commandLineOf(pid)
            .replaceAll("\0", " ")
            .replace(/unset IFS.*esac/s, "<script>")
        )
        for (const pid of left) process.kill(Number(pid), "SIGKILL")
        Fs.rmSync(root, { recursive: true, force: true })
        assert.deepStrictEqual(lines, [], "processes were left behind")
      })
  )
  const bin = Path.join(root, "bin")
  const work = Path.join(root, "work")
  const directory = Path.join(root, "launcher")
  Fs.mkdirSync(bin)
  Fs.mkdirSync(work)
  const path = guest.path(bin)
  if (path === undefined) throw new Error(`${guest.name} is not installed`)
  const env = { PATH: path, HOME: root, [marker]: root }
  const counts = { exec: 0, stream: 0, upload: 0 }
  const readers: Array<ChildProcess.ChildProcess> = []

  const spawn = ([command = "", ...args]: ReadonlyArray<string>, stderr: "pipe" | "ignore") =>
    ChildProcess.spawn(command, args, { cwd: "/", env, detached: true, stdio: ["ignore", "pipe", stderr] })

  const transport: GuestTransport = {
    exec: (argv) =>
      Effect.callback<GuestResult, SandboxError>((resume) => {
        counts.exec++
        const child = spawn(argv, "pipe")
        let stdout = ""
        let stderr = ""
        child.stdout?.on("data", (bytes: Buffer) => (stdout += bytes.toString("latin1")))
        child.stderr?.on("data", (bytes: Buffer) => (stderr += bytes.toString("latin1")))
        child.once("close", (code) => resume(Effect.succeed({ exitCode: code ?? -1, stdout, stderr })))
      }),
    stream: (argv) => {
      const index = counts.stream
      const real = Stream.suspend(() => {
        const child = spawn(argv, "ignore")
        readers.push(child)
        // As at a vendor: whoever stops listening does not end the command.
        return NodeStream.fromReadable<Uint8Array, SandboxError>({
          evaluate: () => child.stdout ?? assert.fail("no pipe"),
          onError: () => unavailable()
        })
      })
      return Stream.suspend(() => {
        counts.stream++
        return given.fault?.(real, index, argv) ?? real
      })
    },
    upload: (files) =>
      Effect.sync(() => {
        counts.upload++
        for (const { bytes, mode, path } of files) {
          Fs.mkdirSync(Path.dirname(path), { recursive: true })
          Fs.writeFileSync(path, bytes, { mode })
        }
      })
  }
  const options: GuestOptions = {
    provider: "loopback",
    incarnation: "one",
    directory,
    workspaceRoot: work,
    program: inline,
    killGrace: "300 millis",
    retry: Schedule.max([Schedule.spaced("10 millis"), Schedule.recurs(100)]),
    ...given.options
  }
  const launcher = yield* make(transport, options)
  return {
    root,
    bin,
    work,
    directory,
    transport,
    options,
    launcher,
    counts,
    readers,
    failure: (operation: string) => new SandboxError({ operation, reason: new Unknown({}) }),
    /** What lies in the launcher's directory. */
    left: () => (Fs.existsSync(directory) ? Fs.readdirSync(directory) : []),
    read: (name: string) => Fs.readFileSync(Path.join(directory, name), "utf8"),
    remaining: () => processesOf(root)
  }
})

export type Loopback = Effect.Success<ReturnType<typeof loopback>>
