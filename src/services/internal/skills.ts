/** Skill packages in the skills folder of Codex: what `createSandbox` and the program `installSkills` share. */
import * as Base64 from "effect/encoding/Base64"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { InvalidArgument, SandboxError, Unknown } from "../../errors.ts"
import { issueText } from "../../model/Common.ts"
import { Skills } from "../../model/Skill.ts"
import type { FileEntry } from "./Files.ts"
import type { Inside } from "./inside.ts"
import { inCodexHome } from "./inside.ts"

/** How many paths one run of the script looks at: its arguments must fit a command line. */
const pathsPerRun = 100

/**
 * Says which of the paths lead through a symbolic link below the skills folder, by their numbers on one line, and then where the home
 * of Codex is. The folder itself may be one: that is its owner's choice.
 */
const lookScript = `n=0
for p do
  n=$((n + 1)) q=$c/skills r=$p
  while :; do
    q=$q/\${r%%/*}
    if [ -L "$q" ]; then printf '%s ' "$n"; break; fi
    case $r in */*) r=\${r#*/} ;; *) break ;; esac
  done
done
printf '\\n%s' "$c"`

const decode = Schema.decodeUnknownResult(Skills, { onExcessProperty: "error" })

/** Writes the packages and yields the skills folder; before anything is written all of it is checked, and what is there too. */
export const install = Effect.fnUntraced(function* (inside: Inside, operation: string, input: unknown) {
  const fail = (problem: string) =>
    new SandboxError({ operation, reason: new InvalidArgument({ argument: "skills", problem }) })
  const decoded = decode(input)
  if (Result.isFailure(decoded)) return yield* fail(issueText(decoded.failure.issue))
  const files = decoded.success.flatMap(({ files, name }) =>
    files.map(({ contentBase64, path }) => ({ path: `${name}/${path}`, contentBase64 }))
  )
  let home = ""
  // Also without any file: the caller is told where they would be.
  for (let at = 0; at === 0 || at < files.length; at += pathsPerRun) {
    const paths = files.slice(at, at + pathsPerRun).map(({ path }) => path)
    const answer = yield* inCodexHome(inside, operation, lookScript, paths)
    const end = answer.indexOf("\n")
    if (end < 0) return yield* new SandboxError({ operation, reason: new Unknown({ detail: "no answer" }) })
    const [first] = answer.slice(0, end).split(" ")
    if (first !== undefined && first !== "") {
      return yield* fail(`${paths[Number(first) - 1] ?? ""} would be written through a symbolic link of the sandbox`)
    }
    home = answer.slice(end + 1)
  }
  const folder = `${home}/skills`
  const entries = files.map(({ contentBase64, path }): FileEntry => ({
    path: `${folder}/${path}`,
    content: Result.getOrThrow(Base64.decode(contentBase64))
  }))
  if (entries.length > 0) yield* inside.write(entries)
  return folder
})
