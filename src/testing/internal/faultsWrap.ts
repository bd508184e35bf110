/** A provider, a store and a log whose every call passes the faults. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Predicate from "effect/Predicate"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import type { ProcessEvent } from "../../model/ProcessEvent.ts"
import { isOutput } from "../../model/ProcessEvent.ts"
import { ProcessLog } from "../../services/ProcessLog.ts"
import type {
  Machine,
  MachineFileSystem,
  MachineProcess,
  MachineRef,
  OutputChunk,
  ProviderCheckpoints,
  SandboxProvider
} from "../../services/SandboxProvider.ts"
import { inPlatform } from "../../services/internal/platformErrors.ts"
import { SandboxStore } from "../../services/SandboxStore.ts"
import type { Items, Site } from "./faultsCalls.ts"
import { alive, call, opening, owned, silent, stream, whole } from "./faultsCalls.ts"
import type { State } from "./faultsState.ts"

type Failure = SandboxError | PlatformError.PlatformError

const chunks: Items<OutputChunk> = {
  size: (chunk, side) => (side === "any" || side === chunk.stream ? chunk.bytes.length : 0),
  split: (chunk, at) => [
    { ...chunk, bytes: chunk.bytes.subarray(0, at) },
    { ...chunk, offset: chunk.offset + at, bytes: chunk.bytes.subarray(at) }
  ]
}

const bytes: Items<Uint8Array> = {
  size: (chunk, side) => (side === "any" ? chunk.length : 0),
  split: (chunk, at) => [chunk.subarray(0, at), chunk.subarray(at)]
}

const events: Items<ProcessEvent> = {
  size: (event, side) => (isOutput(event) && (side === "any" || side === event._tag) ? event.bytes.length : 0),
  split: () => undefined
}

/** What a service that is dead sends into a sink goes nowhere. */
const sink = <A, In, L, E, R>(self: Sink.Sink<A, In, L, E, R>, site: Site): Sink.Sink<A, In, L, E, R> =>
  Sink.mapInputArrayEffect(self, (input) => Effect.as(alive(site), input))

const wrapProcess = (outer: Site, process: MachineProcess): MachineProcess => {
  const site = { ...outer, processId: process.external.processId }
  const { additionalFds, release, unref } = process
  return {
    ...process,
    output: stream(site, "output", [], process.output, chunks),
    exit: call(site, "exit", [], process.exit),
    stdin: Sink.unwrap(Effect.as(opening(site, "stdin", []), sink(process.stdin, site))),
    write: (input) => call(site, "write", [input], process.write(input)),
    closeInput: call(site, "closeInput", [], process.closeInput),
    signal: (name, options) => call(site, "signal", [name, options], process.signal(name, options)),
    ...(release === undefined
      ? {}
      : { release: (position: Parameters<typeof release>[0]) => call(site, "release", [position], release(position)) }),
    ...(unref === undefined
      ? {}
      : {
          unref: silent(
            site,
            Effect.map(unref, (reref) => silent(site, reref))
          )
        }),
    ...(additionalFds === undefined
      ? {}
      : {
          additionalFds: new Map(
            [...additionalFds].map(([fd, ends]) => [
              fd,
              {
                ...(ends.sink === undefined ? {} : { sink: sink(ends.sink, site) }),
                ...(ends.stream === undefined
                  ? {}
                  : { stream: Stream.mapArrayEffect(ends.stream, (input) => Effect.as(alive(site), input)) })
              }
            ])
          )
        })
  }
}

/** What these open or make goes with their Scope. */
const scoped: ReadonlySet<string> = new Set(["open", "makeTempDirectoryScoped", "makeTempFileScoped"])

/** What it has is wrapped, what it lacks stays absent. */
const wrapFileSystem = (site: Site, files: MachineFileSystem): MachineFileSystem => {
  const entries = Object.entries(files).map(([method, operate]): readonly [string, unknown] => {
    // The type's own mark.
    if (!Predicate.isFunction(operate)) return [method, operate]
    const toPlatform = inPlatform("FileSystem", method)
    return [
      method,
      (...args: ReadonlyArray<unknown>): unknown => {
        const begun = Effect.mapError(opening(site, "fileSystem", [method, ...args]), toPlatform)
        // The members differ in what they take and give; what comes in goes on as it is, and so does what comes out.
        const result: unknown = Reflect.apply(operate, files, args)
        if (Stream.isStream(result)) return Stream.unwrap(Effect.as(begun, result))
        if (Sink.isSink(result)) return Sink.unwrap(Effect.as(begun, sink(result, site)))
        // What is neither stream nor sink is an effect, as all that the interface has.
        const effect = result as Effect.Effect<unknown, Failure>
        const called = call(site, "fileSystem", [method, ...args], scoped.has(method) ? owned(site, effect) : effect)
        return Effect.mapError(called, toPlatform)
      }
    ]
  })
  // The same names, and under each what takes and gives the same.
  return Object.fromEntries(entries) as unknown as MachineFileSystem
}

const deleting = (provider: SandboxProvider, ref: MachineRef) => provider.stop(ref, "delete")

const wrapMachine = (outer: Site, provider: SandboxProvider, machine: Machine): Machine => {
  const site: Site = { ...outer, vanish: deleting(provider, machine.ref) }
  return {
    ...machine,
    start: (command) => {
      const here = { ...site, processId: command.processId, command }
      return Effect.map(call(here, "start", [command], owned(here, machine.start(command))), (process) =>
        wrapProcess(here, process)
      )
    },
    findProcess: (processId) =>
      call({ ...site, processId }, "findProcess", [processId], machine.findProcess(processId)),
    resume: (process, from) =>
      Effect.map(
        call({ ...site, processId: process.processId }, "resume", [process, from], machine.resume(process, from)),
        (resumed) => wrapProcess(site, resumed)
      ),
    readFile: (path) => stream(site, "readFile", [path], machine.readFile(path), bytes),
    writeFiles: (entries) => call(site, "writeFiles", [entries], machine.writeFiles(entries)),
    fileSystem: wrapFileSystem(site, machine.fileSystem),
    createCheckpoint: Option.map(
      machine.createCheckpoint,
      (create) => (options) => call(site, "createCheckpoint", [options], create(options))
    ),
    portUrl: Option.map(machine.portUrl, (portUrl) => (port) => call(site, "portUrl", [port], portUrl(port))),
    extendTimeout: Option.map(
      machine.extendTimeout,
      (extend) => (duration) => call(site, "extendTimeout", [duration], extend(duration))
    ),
    stop: (mode) => call(site, mode, [machine.ref], machine.stop(mode))
  }
}

const wrapCheckpoints = (site: Site, provider: SandboxProvider, self: ProviderCheckpoints): ProviderCheckpoints => ({
  list: (sandboxId, ref) =>
    stream({ ...site, sandboxId }, "listCheckpoints", [sandboxId, ref], self.list(sandboxId, ref), whole),
  restore: (checkpointId, request, ref) => {
    const here = { ...site, sandboxId: request.sandboxId }
    return Effect.map(
      call(here, "restoreCheckpoint", [checkpointId, request, ref], self.restore(checkpointId, request, ref)),
      (machine) => wrapMachine(here, provider, machine)
    )
  },
  remove: (checkpointId, sandboxId, ref) =>
    call(
      { ...site, sandboxId },
      "deleteCheckpoint",
      [checkpointId, sandboxId, ref],
      self.remove(checkpointId, sandboxId, ref)
    )
})

export const wrapProvider = (state: State, provider: SandboxProvider): SandboxProvider => {
  const site: Site = { state, life: state.life, target: provider.name }
  return {
    ...provider,
    resolve: (config) => call(site, "resolve", [config], provider.resolve(config)),
    create: (request) => {
      const here = { ...site, sandboxId: request.sandboxId }
      return Effect.map(call(here, "create", [request], provider.create(request)), (machine) =>
        wrapMachine(here, provider, machine)
      )
    },
    connect: (ref, options) => {
      const here = { ...site, sandboxId: options.sandboxId, vanish: deleting(provider, ref) }
      return Effect.map(
        call(here, options.boot ? "boot" : "connect", [ref, options], provider.connect(ref, options)),
        (machine) => wrapMachine(here, provider, machine)
      )
    },
    find: (sandboxId, namespace) =>
      stream({ ...site, sandboxId }, "find", [sandboxId], provider.find(sandboxId, namespace), whole),
    list: (namespace) => stream(site, "list", [namespace], provider.list(namespace), whole),
    stop: (ref, mode) => call({ ...site, vanish: deleting(provider, ref) }, mode, [ref], provider.stop(ref, mode)),
    checkpoints: Option.map(provider.checkpoints, (checkpoints) => wrapCheckpoints(site, provider, checkpoints))
  }
}

export const wrapStore = (state: State, store: SandboxStore["Service"]): SandboxStore["Service"] => {
  const site: Site = { state, life: state.life, target: store.kind }
  const sandbox = (sandboxId: string): Site => ({ ...site, sandboxId })
  const process = (processId: string): Site => ({ ...site, processId })
  return SandboxStore.of({
    kind: store.kind,
    namespace: call(site, "namespace", [], store.namespace),
    insertSandbox: (record) => call(sandbox(record.id), "insertSandbox", [record], store.insertSandbox(record)),
    getSandbox: (id) => call(sandbox(id), "getSandbox", [id], store.getSandbox(id)),
    listSandboxes: (...args) => stream(site, "listSandboxes", args, store.listSandboxes(...args), whole),
    updateSandbox: (id, version, patch) =>
      call(sandbox(id), "updateSandbox", [id, version, patch], store.updateSandbox(id, version, patch)),
    deleteSandbox: (id, version) => call(sandbox(id), "deleteSandbox", [id, version], store.deleteSandbox(id, version)),
    acquireSandboxLease: (id, options) =>
      call(sandbox(id), "acquireSandboxLease", [id, options], store.acquireSandboxLease(id, options)),
    renewSandboxLease: (id, lease, ttl) =>
      call(sandbox(id), "renewSandboxLease", [id, lease, ttl], store.renewSandboxLease(id, lease, ttl)),
    releaseSandboxLease: (id, lease) =>
      call(sandbox(id), "releaseSandboxLease", [id, lease], store.releaseSandboxLease(id, lease)),
    insertProcess: (record) => call(process(record.id), "insertProcess", [record], store.insertProcess(record)),
    getProcess: (id) => call(process(id), "getProcess", [id], store.getProcess(id)),
    listProcesses: (...args) => stream(site, "listProcesses", args, store.listProcesses(...args), whole),
    updateProcess: (id, version, patch) =>
      call(process(id), "updateProcess", [id, version, patch], store.updateProcess(id, version, patch)),
    deleteProcess: (id, version) => call(process(id), "deleteProcess", [id, version], store.deleteProcess(id, version)),
    acquireProcessLease: (id, options) =>
      call(process(id), "acquireProcessLease", [id, options], store.acquireProcessLease(id, options)),
    renewProcessLease: (id, lease, ttl) =>
      call(process(id), "renewProcessLease", [id, lease, ttl], store.renewProcessLease(id, lease, ttl)),
    releaseProcessLease: (id, lease) =>
      call(process(id), "releaseProcessLease", [id, lease], store.releaseProcessLease(id, lease))
  })
}

export const wrapLog = (state: State, log: ProcessLog["Service"]): ProcessLog["Service"] => {
  const { life } = state
  const site = (processId: string): Site => ({ state, life, target: log.kind, processId })
  return ProcessLog.of({
    kind: log.kind,
    append: (id, epoch, all, patch) =>
      call(site(id), "append", [id, epoch, all, patch], log.append(id, epoch, all, patch)),
    read: (id, options) => stream(site(id), "read", [id, options], log.read(id, options), events),
    lastPosition: (id) => call(site(id), "lastPosition", [id], log.lastPosition(id)),
    findKey: (id, key) => call(site(id), "findKey", [id, key], log.findKey(id, key)),
    streamOf: log.streamOf
  })
}
