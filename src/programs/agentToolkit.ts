/**
 * Sandboxes as tools of an agent: toolkits of `effect/ai` for any language model, and for the MCP server of `programs/mcpServer`.
 *
 * {@link toolkit} lets the model make sandboxes and say in each call which one it means; {@link boundToolkit} works in one that
 * the program chose, and its model can neither name another one nor end it. Everything goes through `SandboxService`, so the
 * tools work on every provider.
 *
 * - Failures are results of type {@link ToolFailure}: the model reads them and goes on.
 * - Output, files, listings and matches are cut to a size that fits a model's context. Whatever is cut has a `note` with the
 *   tool and the arguments that read the rest, and a `next` for programs; what is read so is exact.
 * - What is no text is never shown as if it were: files are refused unless base64 is asked for, logs give base64 by
 *   themselves. Only the output of `sandbox_run_command` is decoded all the same, with a note.
 * - A command is a recorded process. A tool call that is interrupted kills it; one in the background stays.
 *
 * **Gotchas**: with {@link toolkit} a model can use every sandbox of the store whose id it knows. The tools of both toolkits
 * have the same names, and so have their handlers: provide one of the two layers, not both.
 */
import type * as Tool from "effect/ai/Tool"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as PlatformError from "effect/PlatformError"
import * as RcMap from "effect/RcMap"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { InvalidArgument, SandboxError } from "../errors.ts"
import type { Checkpoint } from "../model/Checkpoint.ts"
import type { SandboxId } from "../model/Ids.ts"
import type { SandboxConfigInput } from "../model/SandboxConfig.ts"
import * as core from "../services/internal/core.ts"
import { SandboxService } from "../services/SandboxService.ts"
import * as Commands from "./internal/agentCommands.ts"
import { refuse, ToolFailure, toFailure } from "./internal/agentFailure.ts"
import * as Files from "./internal/agentFiles.ts"
import * as Tools from "./internal/agentTools.ts"

export { ToolFailure }

/** What {@link Progress} is told: the ids, the bytes of both streams so far, and the last line of the newest output. */
export type CommandProgress = Commands.CommandProgress

/**
 * A function that hears of the output of `sandbox_run_command` while it comes, about 40 times a second at most, and is waited
 * for. Provide it to what calls the tools. The default is `undefined`: nobody hears of it.
 */
export const Progress = Commands.Progress

/** Every tool, each with the `sandboxId` that it works in: the model makes sandboxes and chooses between them. */
export const toolkit = Tools.unbound()

/** The tools of one sandbox, which none of them takes as a parameter; without `sandbox_create` and `sandbox_stop`. */
export const boundToolkit = Tools.bound()

/** Options of the handlers. */
export interface Options {
  /** How many bytes of each stream a command's result shows, half of them from its end; the default is 16384. */
  readonly maxOutputBytes?: number | undefined
  /** How many bytes of a file or a log one answer holds if the model asks for no other size; the default is 32768. */
  readonly maxPageBytes?: number | undefined
}

/** Options of {@link layer}. */
export interface ToolkitOptions extends Options {
  /** The config of sandboxes that the model makes; what it asks for comes over this. */
  readonly config?: SandboxConfigInput | undefined
}

type Failure = SandboxError | PlatformError.PlatformError | ToolFailure

const operation = "agentToolkit.layer"

const byteCount = (argument: string, value: number, minimum: number, maximum: number) =>
  Number.isSafeInteger(value) && value >= minimum && value <= maximum
    ? Effect.succeed(value)
    : Effect.fail(
        new SandboxError({
          operation,
          reason: new InvalidArgument({ argument, problem: `expected a number of bytes from ${minimum} to ${maximum}` })
        })
      )

const isoTime = (at: number) => DateTime.formatIso(DateTime.makeUnsafe(at))

const checkpointInfo = ({ comment, createdAt, id, sizeBytes }: Checkpoint) => ({
  checkpointId: id,
  ...(comment === undefined ? {} : { comment }),
  createdAt: isoTime(createdAt),
  ...(sizeBytes === undefined ? {} : { sizeBytes })
})

const failing = <A, E extends Failure, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, ToolFailure, R> =>
  Effect.mapError(effect, toFailure)

/** What the tools do, whichever way they learn of their sandbox. */
const make = Effect.fnUntraced(function* (options: Options) {
  const service = yield* SandboxService
  const maxOutputBytes = yield* byteCount("maxOutputBytes", options.maxOutputBytes ?? 1 << 14, 256, Tools.maxPage)
  const maxPageBytes = yield* byteCount("maxPageBytes", options.maxPageBytes ?? 1 << 15, 1024, Tools.maxPage)
  const locks = yield* RcMap.make({ lookup: (_: SandboxId) => Semaphore.make(1) })
  /** Changes of files happen one at a time in a sandbox: a model asks for several edits of one file at once. */
  const exclusively = <A, E>(id: SandboxId, effect: Effect.Effect<A, E>) =>
    Effect.scoped(Effect.flatMap(RcMap.get(locks, id), (lock) => lock.withPermit(effect)))
  return {
    runCommand: (id: SandboxId, params: Commands.RunCommand) =>
      failing(Commands.run(service, maxOutputBytes, id, params)),
    readProcessLogs: (id: SandboxId, params: Commands.ReadLogs) =>
      failing(Commands.readLogs(service, maxPageBytes, id, params)),
    stopProcess: (id: SandboxId, { processId }: Pick<Commands.ReadLogs, "processId">) =>
      failing(Commands.stopProcess(service, id, processId)),
    readFile: (id: SandboxId, params: Files.ReadFile) => failing(Files.read(service, maxPageBytes, id, params)),
    writeFile: (id: SandboxId, params: Files.WriteFile) => failing(exclusively(id, Files.write(service, id, params))),
    editFile: (id: SandboxId, params: Files.EditFile) => failing(exclusively(id, Files.edit(service, id, params))),
    listFiles: (id: SandboxId, params: Files.ListFiles) => failing(Files.list(service, id, params)),
    searchFiles: (id: SandboxId, params: Files.SearchFiles) => failing(Files.search(service, id, params)),
    createCheckpoint: (id: SandboxId, params: { readonly comment?: string; readonly stopProcesses?: boolean }) =>
      failing(Effect.map(service.createCheckpoint(id, params), checkpointInfo)),
    restoreCheckpoint: (id: SandboxId, { checkpointId }: { readonly checkpointId: string }) =>
      failing(Effect.as(service.restoreCheckpoint(id, checkpointId), { sandboxId: id, checkpointId })),
    listCheckpoints: (id: SandboxId, { after, limit = 50 }: { readonly after?: string; readonly limit?: number }) =>
      failing(
        Effect.gen(function* () {
          const all = service.listCheckpoints(id)
          const from = after === undefined ? all : Stream.dropWhile(all, (one) => one.id !== after)
          const taken = yield* Stream.runCollect(Stream.take(from, limit + (after === undefined ? 1 : 2)))
          // An empty answer would look like the end of the list.
          if (after !== undefined && taken.length === 0) {
            return yield* refuse("NotFound", `there is no checkpoint ${after} any more: list anew, without after`)
          }
          const found = after === undefined ? taken : taken.slice(1)
          const checkpoints = found.slice(0, limit).map(checkpointInfo)
          const next = found.length > limit ? checkpoints.at(-1)?.checkpointId : undefined
          return {
            checkpoints,
            ...(next === undefined
              ? {}
              : {
                  next,
                  note: `there are more: sandbox_list_checkpoints with after ${JSON.stringify(next)} lists them`
                })
          }
        })
      ),
    getPortUrl: (id: SandboxId, params: { readonly port: number; readonly waitUntilReady?: boolean }) =>
      failing(
        Effect.map(service.getPortUrl(id, params.port, { ready: params.waitUntilReady }), (found) => {
          // Their values are secrets of the program's.
          const requiredHeaders = Object.keys(found.headers)
          return {
            port: found.port,
            url: found.url,
            ...(found.expiresAt === undefined ? {} : { expiresAt: isoTime(found.expiresAt) }),
            ...(requiredHeaders.length === 0
              ? {}
              : {
                  requiredHeaders,
                  note: "requests need these headers, whose values only the program has that runs you"
                })
          }
        })
      )
  }
})

/** The handlers of {@link toolkit}. Fails `InvalidArgument` for sizes out of range. */
export const layer = (
  options: ToolkitOptions = {}
): Layer.Layer<Tool.HandlersFor<typeof toolkit.tools>, SandboxError, SandboxService> =>
  toolkit.toLayer(
    Effect.gen(function* () {
      const service = yield* SandboxService
      const handlers = yield* make(options)
      return toolkit.of({
        sandbox_create: ({ sandboxId, timeoutMs, ...wanted }) =>
          failing(
            Effect.map(
              service.createSandbox(
                {
                  ...options.config,
                  ...wanted,
                  ...(wanted.env === undefined ? {} : { env: { ...options.config?.env, ...wanted.env } }),
                  ...(timeoutMs === undefined ? {} : { timeout: timeoutMs })
                },
                { sandboxId }
              ),
              ({ outcome, ref, ...made }) => ({
                sandboxId: made.sandboxId,
                outcome,
                ...(ref.provider === undefined ? {} : { provider: ref.provider }),
                ...(ref.workspaceRoot === undefined ? {} : { workspaceRoot: ref.workspaceRoot }),
                ...(ref.ports === undefined ? {} : { ports: ref.ports })
              })
            )
          ),
        sandbox_run_command: ({ sandboxId, ...params }) => handlers.runCommand(sandboxId, params),
        sandbox_read_process_logs: ({ sandboxId, ...params }) => handlers.readProcessLogs(sandboxId, params),
        sandbox_stop_process: ({ sandboxId, ...params }) => handlers.stopProcess(sandboxId, params),
        sandbox_read_file: ({ sandboxId, ...params }) => handlers.readFile(sandboxId, params),
        sandbox_write_file: ({ sandboxId, ...params }) => handlers.writeFile(sandboxId, params),
        sandbox_edit_file: ({ sandboxId, ...params }) => handlers.editFile(sandboxId, params),
        sandbox_list_files: ({ sandboxId, ...params }) => handlers.listFiles(sandboxId, params),
        sandbox_search_files: ({ sandboxId, ...params }) => handlers.searchFiles(sandboxId, params),
        sandbox_create_checkpoint: ({ sandboxId, ...params }) => handlers.createCheckpoint(sandboxId, params),
        sandbox_restore_checkpoint: ({ sandboxId, ...params }) => handlers.restoreCheckpoint(sandboxId, params),
        sandbox_list_checkpoints: ({ sandboxId, ...params }) => handlers.listCheckpoints(sandboxId, params),
        sandbox_get_port_url: ({ sandboxId, ...params }) => handlers.getPortUrl(sandboxId, params),
        sandbox_stop: (params) =>
          failing(
            Effect.as(service.stopSandbox(params.sandboxId, { delete: params.delete }), {
              sandboxId: params.sandboxId,
              status: "shutdown" as const
            })
          )
      })
    })
  )

/**
 * The handlers of {@link boundToolkit}, which work in the sandbox of this id and reach no other one and no process of another
 * one. Asks nobody for it: one that is not there shows at the first call. Fails `InvalidArgument` for what is no id, or sizes
 * out of range.
 */
export const layerBound = (
  sandboxId: string,
  options: Options = {}
): Layer.Layer<Tool.HandlersFor<typeof boundToolkit.tools>, SandboxError, SandboxService> =>
  boundToolkit.toLayer(
    Effect.gen(function* () {
      const id = yield* core.toSandboxId("agentToolkit.layerBound", sandboxId)
      const handlers = yield* make(options)
      return boundToolkit.of({
        sandbox_run_command: (params) => handlers.runCommand(id, params),
        sandbox_read_process_logs: (params) => handlers.readProcessLogs(id, params),
        sandbox_stop_process: (params) => handlers.stopProcess(id, params),
        sandbox_read_file: (params) => handlers.readFile(id, params),
        sandbox_write_file: (params) => handlers.writeFile(id, params),
        sandbox_edit_file: (params) => handlers.editFile(id, params),
        sandbox_list_files: (params) => handlers.listFiles(id, params),
        sandbox_search_files: (params) => handlers.searchFiles(id, params),
        sandbox_create_checkpoint: (params) => handlers.createCheckpoint(id, params),
        sandbox_restore_checkpoint: (params) => handlers.restoreCheckpoint(id, params),
        sandbox_list_checkpoints: (params) => handlers.listCheckpoints(id, params),
        sandbox_get_port_url: (params) => handlers.getPortUrl(id, params)
      })
    })
  )
