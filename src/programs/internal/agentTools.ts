/** The tools: what a model is told of each, and the schemas of what goes in and out. */
import * as Tool from "effect/ai/Tool"
import * as Toolkit from "effect/ai/Toolkit"
import * as Context from "effect/Context"
import * as Schema from "effect/Schema"
import { Count, JsonObject, Port } from "../../model/Common.ts"
import { ProcessId, SandboxId } from "../../model/Ids.ts"
import { ProcessKind, ProcessMode, ProcessStatus } from "../../model/Process.ts"
import { ToolFailure } from "./agentFailure.ts"

const described = <S extends Schema.Top>(schema: S, description: string) => schema.annotate({ description })
const optional = <S extends Schema.Top>(schema: S, description: string) =>
  Schema.optionalKey(schema.annotate({ description }))
const upTo = (maximum: number, minimum = 1) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

/** What a caller may want of one answer, at most. */
export const maxPage = 1 << 18

const text = Schema.String
const filePath = described(text, "Absolute, or relative to the workspace.")
const pageBytes = optional(upTo(maxPage, 1024), "At most so many bytes in this answer.")
const note = optional(text, "What to know about this answer, such as how to read what was left out.")

/** Whether a call changes nothing, may destroy something, does no more when repeated, and reaches beyond the sandbox. */
const hintsOf =
  (strict: boolean | undefined) =>
  (
    title: string,
    is: {
      readonly readOnly?: boolean
      readonly destructive?: boolean
      readonly idempotent?: boolean
      readonly openWorld?: boolean
    }
  ) =>
    Context.make(Tool.Title, title).pipe(
      Context.add(Tool.Readonly, is.readOnly ?? false),
      Context.add(Tool.Destructive, is.destructive ?? false),
      Context.add(Tool.Idempotent, is.idempotent ?? false),
      Context.add(Tool.OpenWorld, is.openWorld ?? false),
      Context.add(Tool.Strict, strict)
    )

/** Failures are results: a model reads them and goes on. */
const failing = { failure: ToolFailure, failureMode: "return" } as const

/** A place in the log of a process: what comes after the event `after`, less its first `skip` bytes. */
export const LogCursor = Schema.Struct({ after: Count, skip: Count })
export type LogCursor = typeof LogCursor.Type

export const RunCommandResult = Schema.Struct({
  sandboxId: SandboxId,
  processId: ProcessId,
  streamId: text,
  streamClientId: text,
  success: described(Schema.Boolean, "Exit code 0; in the background, that it was started."),
  exitCode: optional(Schema.Int, "Absent in the background."),
  output: described(text, "Standard output. Empty in the background."),
  error: described(text, "Standard error. Empty in the background."),
  command: described(text, "The command line."),
  status: ProcessStatus,
  durationMs: Schema.Int,
  note
})
export type RunCommandResult = typeof RunCommandResult.Type

const LogChunk = Schema.Struct({
  stream: Schema.Literals(["stdout", "stderr"]),
  text: Schema.optionalKey(text),
  base64: optional(text, "Instead of text, of bytes that are none.")
})

export const ProcessLogsResult = Schema.Struct({
  processId: ProcessId,
  command: text,
  status: ProcessStatus,
  exitCode: Schema.optionalKey(Schema.Int),
  abortReason: optional(text, "Why it did not end by itself."),
  output: described(Schema.Array(LogChunk), "In the order in which it came."),
  next: Schema.optionalKey(LogCursor),
  note
})
export type ProcessLogsResult = typeof ProcessLogsResult.Type

export const ReadFileResult = Schema.Struct({
  path: text,
  sizeBytes: Schema.Number,
  offset: Count,
  bytes: described(Count, "How many bytes this answer holds."),
  text: Schema.optionalKey(text),
  base64: Schema.optionalKey(text),
  next: optional(Count, "The offset of what follows; absent at the end of the file."),
  note
})
export type ReadFileResult = typeof ReadFileResult.Type

export const ListFilesResult = Schema.Struct({
  path: text,
  entries: described(Schema.Array(text), "Relative to path; a directory ends with a slash."),
  next: optional(text, "Pass it as after for what follows; absent at the end."),
  note
})
export type ListFilesResult = typeof ListFilesResult.Type

/** A place in the order in which files are searched: behind this line of this file, or behind the file. */
export const SearchCursor = Schema.Struct({ path: text, line: Schema.optionalKey(Count) })
export type SearchCursor = typeof SearchCursor.Type

export const SearchMatch = Schema.Struct({
  path: described(text, "Relative to the path that was searched."),
  line: described(Count, "From 1."),
  text: described(text, "The line, or the part of a long one around the match.")
})
export type SearchMatch = typeof SearchMatch.Type

export const SearchFilesResult = Schema.Struct({
  path: text,
  matches: Schema.Array(SearchMatch),
  searched: described(Count, "Files of text that were searched."),
  skipped: described(Count, "Files that are binary or cannot be read."),
  next: Schema.optionalKey(SearchCursor),
  note
})
export type SearchFilesResult = typeof SearchFilesResult.Type

const CheckpointInfo = Schema.Struct({
  checkpointId: text,
  comment: Schema.optionalKey(text),
  createdAt: described(text, "ISO 8601."),
  sizeBytes: Schema.optionalKey(Count)
})

/** The tools that work in a sandbox; `where` is the parameter that says in which, or nothing. */
const inSandbox = <const Where extends Schema.Struct.Fields>(where: Where, strict: boolean | undefined) => {
  const hints = hintsOf(strict)
  return {
    runCommand: Tool.make("sandbox_run_command", {
      description:
        "Runs a program in the sandbox and gives its output. It is a program with arguments, not a shell line: for pipes and " +
        'redirections run "sh" with the arguments ["-c", "…"]. Mode "foreground" (the default) waits for the end; "background" returns at once, ' +
        "for servers and watchers, whose output sandbox_read_process_logs reads and which sandbox_stop_process ends. A non-zero exit " +
        "code is a result with success false. Long output is cut in the middle; the note says how to read the rest.",
      parameters: Schema.Struct({
        ...where,
        command: described(text, "The program."),
        args: optional(Schema.Array(text), "Its arguments, each as it is: nothing is split or expanded."),
        cwd: optional(text, "The working directory; the default is the workspace."),
        env: optional(
          Schema.Record(Schema.String, Schema.String),
          "Environment variables besides those of the sandbox."
        ),
        kind: optional(ProcessKind, "A label for people."),
        mode: optional(ProcessMode, "The default is foreground."),
        timeoutMs: optional(upTo(366 * 24 * 3_600_000), "The command is killed after so long."),
        processId: optional(
          ProcessId,
          "A UUID in lower case of your own. The same id with the same command runs it once and gives the same result."
        ),
        metadata: optional(JsonObject, "Kept in the record of the process.")
      }),
      success: RunCommandResult,
      ...failing
    }).annotateMerge(hints("Run a command", { destructive: true, openWorld: true })),

    readProcessLogs: Tool.make("sandbox_read_process_logs", {
      description:
        "Reads what a process has written, page by page, also while it runs and after it has ended. Pass the next of an answer " +
        "(after and skip) to read on.",
      parameters: Schema.Struct({
        ...where,
        processId: described(ProcessId, "From sandbox_run_command."),
        after: optional(Count, "Only what comes after this event of the log; the default is its beginning."),
        skip: optional(Count, "Bytes of the first event that were read already."),
        stream: optional(Schema.Literals(["stdout", "stderr"]), "Only this one; the default is both."),
        maxBytes: pageBytes,
        waitMs: optional(upTo(60_000, 0), "Waits so long for new output where there is none yet.")
      }),
      success: ProcessLogsResult,
      ...failing
    }).annotateMerge(hints("Read process logs", { readOnly: true, idempotent: true })),

    stopProcess: Tool.make("sandbox_stop_process", {
      description: "Ends a process with all its children: asks it to, and kills what is left after 5 seconds.",
      parameters: Schema.Struct({ ...where, processId: described(ProcessId, "From sandbox_run_command.") }),
      success: Schema.Struct({ processId: ProcessId, status: ProcessStatus, exitCode: Schema.optionalKey(Schema.Int) }),
      ...failing
    }).annotateMerge(hints("Stop a process", { destructive: true, idempotent: true })),

    readFile: Tool.make("sandbox_read_file", {
      description:
        "Reads a file, or a part of it. Text is cut at the end of a line where there is one. A file that is no text is refused: read " +
        'it with encoding "base64".',
      parameters: Schema.Struct({
        ...where,
        path: filePath,
        offset: optional(Count, "In bytes, such as next of the last answer; the default is 0."),
        maxBytes: pageBytes,
        encoding: optional(Schema.Literals(["utf8", "base64"]), "The default is utf8.")
      }),
      success: ReadFileResult,
      ...failing
    }).annotateMerge(hints("Read a file", { readOnly: true, idempotent: true })),

    writeFile: Tool.make("sandbox_write_file", {
      description:
        "Writes a whole file, in the place of one that is there, and makes the directories above it. To change a part of a file use " +
        "sandbox_edit_file.",
      parameters: Schema.Struct({
        ...where,
        path: filePath,
        content: described(text, "All of it."),
        encoding: optional(Schema.Literals(["utf8", "base64"]), "What content is; the default is utf8."),
        executable: optional(
          Schema.Boolean,
          "Mode 755, or 644 for false. The default is what an existing file has, else 644."
        )
      }),
      success: Schema.Struct({ path: text, sizeBytes: Count }),
      ...failing
    }).annotateMerge(hints("Write a file", { destructive: true, idempotent: true })),

    editFile: Tool.make("sandbox_edit_file", {
      description:
        "Replaces a piece of a text file. oldText must be in the file exactly once, character for character, with its spaces and line " +
        "ends: take enough of the lines around it. With replaceAll it may be there more often.",
      parameters: Schema.Struct({
        ...where,
        path: filePath,
        oldText: described(Schema.String.check(Schema.isNonEmpty()), "What is there."),
        newText: described(text, "What is to be there; empty to delete it."),
        replaceAll: optional(Schema.Boolean, "Every occurrence; the default is false.")
      }),
      success: Schema.Struct({
        path: text,
        sizeBytes: Count,
        replacements: Count,
        line: described(Count, "Where the first one begins, from 1.")
      }),
      ...failing
    }).annotateMerge(hints("Edit a file", { destructive: true })),

    listFiles: Tool.make("sandbox_list_files", {
      description:
        "Lists a directory, sorted by name. With recursive also what is below it; but of .git and node_modules only their names: list " +
        "those by their own path.",
      parameters: Schema.Struct({
        ...where,
        path: optional(text, "The default is the workspace."),
        recursive: optional(Schema.Boolean, "The default is false."),
        after: optional(text, "The next of the last answer."),
        limit: optional(upTo(2000), "At most so many entries; the default is 200.")
      }),
      success: ListFilesResult,
      ...failing
    }).annotateMerge(hints("List files", { readOnly: true, idempotent: true })),

    searchFiles: Tool.make("sandbox_search_files", {
      description:
        "Finds the lines that contain a text in the files below a directory, or in one file. The text is literal: for regular " +
        "expressions run grep with sandbox_run_command. Binary files, symlinks, .git and node_modules are left out.",
      parameters: Schema.Struct({
        ...where,
        query: described(
          Schema.String.check(
            Schema.isMaxLength(1000),
            Schema.isPattern(/^[^\r\n]+$/, { expected: "a text of one line" })
          ),
          "A text of one line."
        ),
        path: optional(text, "The default is the workspace."),
        name: optional(text, 'Only files with such a name: "*.ts"; * is any text, ? one character.'),
        ignoreCase: optional(Schema.Boolean, "The default is false."),
        after: optional(SearchCursor, "The next of the last answer."),
        limit: optional(upTo(1000), "At most so many lines; the default is 100.")
      }),
      success: SearchFilesResult,
      ...failing
    }).annotateMerge(hints("Search files", { readOnly: true, idempotent: true })),

    createCheckpoint: Tool.make("sandbox_create_checkpoint", {
      description: "Saves the files of the sandbox, to bring them back later with sandbox_restore_checkpoint.",
      parameters: Schema.Struct({
        ...where,
        comment: optional(text, "What state this is."),
        stopProcesses: optional(Schema.Boolean, "Allows that processes end, which some providers cannot avoid.")
      }),
      success: CheckpointInfo,
      ...failing
      // Some providers end the processes for it.
    }).annotateMerge(hints("Create a checkpoint", { destructive: true })),

    restoreCheckpoint: Tool.make("sandbox_restore_checkpoint", {
      description:
        "Brings back the files as a checkpoint has them. What was changed since is lost, and all processes of the sandbox end.",
      parameters: Schema.Struct({
        ...where,
        checkpointId: described(text, "From sandbox_create_checkpoint or sandbox_list_checkpoints.")
      }),
      success: Schema.Struct({ sandboxId: SandboxId, checkpointId: text }),
      ...failing
    }).annotateMerge(hints("Restore a checkpoint", { destructive: true, idempotent: true })),

    listCheckpoints: Tool.make("sandbox_list_checkpoints", {
      description: "Lists the checkpoints of the sandbox, newest first.",
      parameters: Schema.Struct({
        ...where,
        after: optional(text, "The checkpointId that next of the last answer was."),
        limit: optional(upTo(500), "At most so many; the default is 50.")
      }),
      success: Schema.Struct({
        checkpoints: Schema.Array(CheckpointInfo),
        next: optional(text, "Pass it as after for what follows; absent at the end."),
        note
      }),
      ...failing
    }).annotateMerge(hints("List checkpoints", { readOnly: true, idempotent: true })),

    getPortUrl: Tool.make("sandbox_get_port_url", {
      description: "Says at which URL a port of the sandbox can be reached from outside.",
      parameters: Schema.Struct({
        ...where,
        port: described(Port, "One of the ports that the sandbox was created with."),
        waitUntilReady: optional(Schema.Boolean, "Waits until it answers HTTP; the default is false.")
      }),
      success: Schema.Struct({
        port: Port,
        url: text,
        requiredHeaders: optional(Schema.Array(text), "Names of headers that requests need."),
        expiresAt: optional(text, "ISO 8601."),
        note
      }),
      ...failing
    }).annotateMerge(hints("Get the URL of a port", { readOnly: true, idempotent: true }))
  }
}

/** The tools by which a model has sandboxes of its own. */
const ofSandboxes = (strict: boolean | undefined) => {
  const hints = hintsOf(strict)
  return {
    create: Tool.make("sandbox_create", {
      description:
        "Creates a sandbox, a computer with a workspace of its own. The sandboxId is what every other tool takes. Stop it " +
        "with sandbox_stop when it is not needed any more.",
      parameters: Schema.Struct({
        purpose: optional(text, "What it is for, for people."),
        runtime: optional(text, "What the provider offers, such as node24."),
        timeoutMs: optional(
          upTo(366 * 24 * 3_600_000),
          "The sandbox ends by itself after so long, where the provider does that."
        ),
        ports: optional(Schema.Array(Port), "The ports that sandbox_get_port_url can be asked for."),
        env: optional(Schema.Record(Schema.String, Schema.String), "Environment of every command."),
        persistent: optional(Schema.Boolean, "Whether the files outlive a stop."),
        sandboxId: optional(
          SandboxId,
          "A UUID in lower case of your own. The same id with the same parameters gives the same sandbox."
        )
      }),
      success: Schema.Struct({
        sandboxId: SandboxId,
        outcome: Schema.Literals(["created", "resumed"]),
        provider: Schema.optionalKey(text),
        workspaceRoot: optional(text, "The directory in which commands run and relative paths begin."),
        ports: Schema.optionalKey(Schema.Array(Port))
      }),
      ...failing
      // It asks a vendor for a machine, which may reach the internet.
    }).annotateMerge(hints("Create a sandbox", { openWorld: true })),

    stop: Tool.make("sandbox_stop", {
      description:
        "Stops a sandbox and all its processes. Its files are lost, unless it was created persistent and delete is not given.",
      parameters: Schema.Struct({
        sandboxId: SandboxId,
        delete: optional(Schema.Boolean, "Deletes the files of a persistent one too.")
      }),
      success: Schema.Struct({ sandboxId: SandboxId, status: Schema.Literal("shutdown") }),
      ...failing
    }).annotateMerge(hints("Stop a sandbox", { destructive: true, idempotent: true }))
  }
}

/** The tools that work in a sandbox, with what says in which. */
const toolkitIn = <const Where extends Schema.Struct.Fields>(where: Where, strict: boolean | undefined) => {
  const tools = inSandbox(where, strict)
  return Toolkit.make(
    tools.runCommand,
    tools.readProcessLogs,
    tools.stopProcess,
    tools.readFile,
    tools.writeFile,
    tools.editFile,
    tools.listFiles,
    tools.searchFiles,
    tools.createCheckpoint,
    tools.restoreCheckpoint,
    tools.listCheckpoints,
    tools.getPortUrl
  )
}

/**
 * All tools, each with the `sandboxId` that it works in. `strict` refuses parameters that a tool does not have, for callers
 * that can be told so; a language model's provider takes it for a mode of its own, which must not be forced on it.
 */
export const unbound = (strict?: boolean) => {
  const own = ofSandboxes(strict)
  const where = { sandboxId: SandboxId.annotate({ description: "Which sandbox, from sandbox_create." }) }
  return Toolkit.merge(Toolkit.make(own.create), toolkitIn(where, strict), Toolkit.make(own.stop))
}

/** The tools of one sandbox, which none of them takes as a parameter. */
export const bound = (strict?: boolean) => toolkitIn({}, strict)
