/**
 * Scripts as the interpreter is given them: each command whose output is the script's own is redirected to a file of ours, which
 * takes it as the command ends and in the encoding that it says it has. What pipes, substitutions and redirections
 * take stays theirs.
 */
import * as Predicate from "effect/Predicate"
import type { CommandNode, PipelineNode, SimpleCommandNode, StatementNode, TransformPlugin, WordNode } from "just-bash"

type Redirection = SimpleCommandNode["redirections"][number]

/** Where the output of a script goes. */
interface Target {
  readonly out: string
  readonly err: string
}

const mark = "effect-sandbox"
const main = "effect_sandbox_main"

/** Where the guest has its shell, whatever PATH says. */
export const shell = "/usr/bin/sh"

/**
 * What the interpreter is asked to run. The `--help` of its `sh` would win over an argument of that name: then a function takes
 * the arguments. `rest` begins with `$0`.
 */
export const invocation = (
  target: Target,
  script: string,
  rest: ReadonlyArray<string>
): { readonly line: string; readonly args: ReadonlyArray<string> } => {
  const head = `: ${mark} ${target.out} ${target.err}; `
  const [, ...own] = rest
  return rest.includes("--help")
    ? { line: `${main}() { ${head}${script}\n}\n${main}`, args: own }
    : { line: shell, args: ["-c", head + script, ...rest] }
}

const literal = (word: WordNode | null | undefined): string | undefined => {
  const [part, ...more] = word?.parts ?? []
  return part?.type === "Literal" && more.length === 0 ? part.value : undefined
}

const append = (fd: number | null, path: string): Redirection => ({
  type: "Redirection",
  fd,
  operator: ">>",
  target: { type: "Word", parts: [{ type: "Literal", value: path }] }
})

/** They act on the shell and write nothing, or nothing that cannot wait for the end. */
const silent = new Set(
  ": true false exit return break continue cd export unset set shift local declare typeset readonly read mapfile readarray getopts let shopt wait exec".split(
    " "
  )
)

const redirectSimple = (command: SimpleCommandNode, target: Target): void => {
  const name = literal(command.name)
  if (command.name === null || name === main || (name !== undefined && silent.has(name))) return
  // In front, so that what the script says itself comes later and wins.
  command.redirections.unshift(append(null, target.out), append(2, target.err))
}

const redirectCommand = (command: CommandNode, target: Target): void => {
  switch (command.type) {
    case "SimpleCommand":
      return redirectSimple(command, target)
    case "FunctionDef":
      // Others are called from who knows where, also from inside of a pipe.
      if (command.name === main) redirectCommand(command.body, target)
      return
    case "ArithmeticCommand":
    case "ConditionalCommand":
      return
    default:
      if (command.redirections.length > 0) return
  }
  switch (command.type) {
    case "If":
      for (const clause of command.clauses) {
        redirectAll(clause.condition, target)
        redirectAll(clause.body, target)
      }
      return redirectAll(command.elseBody ?? [], target)
    case "While":
    case "Until":
      redirectAll(command.condition, target)
      return redirectAll(command.body, target)
    case "Case":
      for (const item of command.items) redirectAll(item.body, target)
      return
    default:
      return redirectAll(command.body, target)
  }
}

/**
 * The last command of a pipeline. The errors of the others are left to the end: the interpreter refuses a command in a pipe
 * that writes bytes and errors both, and has the errors redirected.
 */
const redirectPipeline = (pipeline: PipelineNode, target: Target): void => {
  const last = pipeline.commands.at(-1)
  if (last !== undefined) redirectCommand(last, target)
}

const redirectAll = (statements: ReadonlyArray<StatementNode>, target: Target): void => {
  for (const statement of statements) for (const pipeline of statement.pipelines) redirectPipeline(pipeline, target)
}

const visit = (node: unknown, edit: (node: object) => void): void => {
  if (typeof node !== "object" || node === null) return
  edit(node)
  for (const child of Object.values(node)) visit(child, edit)
}

const isType = (node: object, type: string): boolean => "type" in node && node.type === type

const isNoRedirection = (node: unknown): boolean =>
  Predicate.hasProperty(node, "operator") &&
  (node.operator === ">" || node.operator === ">>") &&
  Predicate.hasProperty(node, "fd") &&
  (node.fd === null || node.fd === 1) &&
  Predicate.hasProperty(node, "target") &&
  JSON.stringify(node.target).includes('"parts":[{"type":"Literal","value":"/dev/stdout"}]')

/** Whether a script redirects itself, which ours would undo. */
const redirectsItself = (statements: ReadonlyArray<StatementNode>): boolean => {
  let found = false
  visit(statements, (node) => {
    found ||=
      isType(node, "SimpleCommand") &&
      JSON.stringify("name" in node ? node.name : null).includes('"value":"exec"') &&
      "redirections" in node &&
      Array.isArray(node.redirections) &&
      node.redirections.length > 0
  })
  return found
}

/** The target that {@link invocation} wrote into the script's first command. */
const targetOf = (statements: ReadonlyArray<StatementNode>): Target | undefined => {
  const command = statements[0]?.pipelines[0]?.commands[0]
  if (command?.type === "FunctionDef" && command.name === main && command.body.type === "Group") {
    return targetOf(command.body.body)
  }
  if (command?.type !== "SimpleCommand" || literal(command.name) !== ":") return undefined
  const [first, out, err] = command.args.map(literal)
  return first === mark && out !== undefined && err !== undefined ? { out, err } : undefined
}

/**
 * The change itself. It also repairs two things, everywhere: a loop without words loses the arguments that are blank, and
 * `>/dev/stdout`, which should change nothing, goes past the redirections of the script.
 */
export const plugin: TransformPlugin = {
  name: mark,
  transform: ({ ast }) => {
    visit(ast, (node) => {
      if (isType(node, "For") && "words" in node && node.words === null) {
        node.words = [
          {
            type: "Word",
            parts: [{ type: "DoubleQuoted", parts: [{ type: "ParameterExpansion", parameter: "@", operation: null }] }]
          }
        ]
      }
      if ("redirections" in node && Array.isArray(node.redirections)) {
        node.redirections = node.redirections.filter((one) => !isNoRedirection(one))
      }
    })
    const target = targetOf(ast.statements)
    if (target !== undefined && !redirectsItself(ast.statements)) redirectAll(ast.statements, target)
    return { ast }
  }
}
