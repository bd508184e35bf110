/** Skill packages that would leave their folders are no skill packages. */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { recordedLimit } from "../../src/model/Skill.ts"
import * as SandboxConfig from "../../src/model/SandboxConfig.ts"

const file = (path: string, contentBase64 = "YQ==") => ({ path, contentBase64 })
const issue = (skills: unknown): string => {
  const result = SandboxConfig.decode({ skills })
  return Result.isFailure(result) ? result.failure.message : "it decoded"
}

describe("skills of a config", () => {
  it("may have any names within their folders", () => {
    const skills = [
      { name: "pdf", files: [file("SKILL.md"), file("deep/er/-x y.sh"), file("..."), file("empty", "")] },
      { name: ".системный навык", files: [file("a"), file("ab/c")] }
    ]
    const config = Result.getOrThrow(SandboxConfig.decode({ skills }))
    assert.deepStrictEqual(SandboxConfig.toStored(config).skills, skills)
    assert.deepStrictEqual(SandboxConfig.fromStored(SandboxConfig.toStored(config), {}).skills, skills)
  })

  it.each(["", ".", "..", "a/b", "/a", "a\\b", "a\0b", "a\nb", "x".repeat(256)])("refuse the name %j", (name) => {
    assert.include(issue([{ name, files: [file("a")] }]), "skills[0].name: expected the name of a folder")
  })

  it.each(["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\\..\\b", "a\0", "./a", "a\tb"])(
    "refuse the path %j",
    (path) => {
      assert.include(
        issue([{ name: "a", files: [file("fine"), file(path)] }]),
        "skills[0].files[1].path: expected a path within the skill's folder"
      )
    }
  )

  it("refuse what is there twice, what is a file and a folder, and a skill of nothing", () => {
    assert.include(issue([{ name: "a", files: [file("x"), file("x")] }]), "x is there twice")
    assert.include(issue([{ name: "a", files: [file("x/y"), file("x")] }]), "x is a file and a folder")
    assert.include(
      issue([
        { name: "a", files: [file("x")] },
        { name: "a", files: [file("y")] }
      ]),
      "skills[1].name: a is there twice"
    )
    assert.include(issue([{ name: "a", files: [] }]), "a skill has files")
  })

  it.each(["YQ", "Y", "YQ=", "a-_=", "=", "YQ==YQ==", "Y*==", "ö==="])("refuse the content %j", (content) => {
    const text = issue([{ name: "a", files: [file("x", content)] }])
    assert.include(text, "skills[0].files[0].contentBase64: expected base64")
    assert.notInclude(text, content === "Y" || content === "=" ? "\0" : content)
  })

  it("are bounded, because the record keeps them", () => {
    const half = "A".repeat(recordedLimit / 2)
    const all = [
      { name: "a", files: [file("x", half)] },
      { name: "b", files: [file("x", half)] }
    ]
    assert.strictEqual(issue(all), "it decoded")
    assert.include(issue([...all, { name: "c", files: [file("x")] }]), "skills: at most")
  })

  it("of older records decode, whatever they are", () => {
    assert.isTrue(
      Result.isSuccess(
        Result.try(() => SandboxConfig.differences({ skills: [{ name: "..", files: [] }] }, { skills: [] }))
      )
    )
  })
})
