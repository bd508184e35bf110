/** Skill packages of a coding agent: folders of files. */
import * as Base64 from "effect/encoding/Base64"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/** A skill package: its files in base64, by path relative to the skill's own folder. What a record holds; see {@link Skills}. */
export const Skill = Schema.Struct({
  name: Schema.String,
  files: Schema.Array(Schema.Struct({ path: Schema.String, contentBase64: Schema.String }))
})
export type Skill = typeof Skill.Type

/** One name of a file or folder that is nothing but that, on every system; control characters among the others. */
const isName = (text: string): boolean =>
  text !== "" &&
  text !== "." &&
  text !== ".." &&
  // eslint-disable-next-line no-control-regex -- these are what must not be there
  !/[\\/\u0000-\u001f\u007f]/.test(text) &&
  new TextEncoder().encode(text).length <= 255

interface Problem {
  readonly path: ReadonlyArray<PropertyKey>
  readonly issue: string
}

const problemsOfFiles = ({ files }: Skill): ReadonlyArray<Problem> => {
  const paths = new Set<string>()
  const folders = new Set(
    files.flatMap(({ path }) => {
      const parts = path.split("/")
      return parts.slice(1).map((_, index) => parts.slice(0, index + 1).join("/"))
    })
  )
  return files.flatMap(({ contentBase64, path }, index): ReadonlyArray<Problem> => {
    const at = (field: string, issue: string): ReadonlyArray<Problem> => [{ path: ["files", index, field], issue }]
    if (!path.split("/").every(isName)) {
      return at(
        "path",
        "expected a path within the skill's folder: names without \\ and control characters, never . or .."
      )
    }
    if (paths.has(path)) return at("path", `${path} is there twice`)
    paths.add(path)
    if (folders.has(path)) return at("path", `${path} is a file and a folder`)
    return Result.isSuccess(Base64.decode(contentBase64)) ? [] : at("contentBase64", "expected base64")
  })
}

const problemsOf = (skills: ReadonlyArray<Skill>): ReadonlyArray<Problem> =>
  skills.flatMap((skill, index) => {
    const at = (field: string, issue: string): ReadonlyArray<Problem> => [{ path: [index, field], issue }]
    if (!isName(skill.name))
      return at("name", "expected the name of a folder: no /, \\ or control character, not . or ..")
    if (skills.findIndex(({ name }) => name === skill.name) !== index) return at("name", `${skill.name} is there twice`)
    if (skill.files.length === 0) return at("files", "a skill has files")
    return problemsOfFiles(skill).map(({ issue, path }) => ({ path: [index, ...path], issue }))
  })

/**
 * Skill packages that stay within their folders: each name and each part of a path is one of a file or folder, nothing is there
 * twice, and all content is base64.
 */
export const Skills = Schema.Array(Skill).check(Schema.makeFilter(problemsOf))

/** How much content the skills of a config may have, in characters of base64: the record keeps them. */
export const recordedLimit = 1024 * 1024

/** Skills that fit a record. */
export const RecordedSkills = Skills.check(
  Schema.makeFilter((skills) =>
    skills.reduce((sum, { files }) => files.reduce((all, file) => all + file.contentBase64.length, sum), 0) <=
    recordedLimit
      ? undefined
      : `at most ${recordedLimit} characters of base64 in all: the record keeps them; installSkills takes more`
  )
)
