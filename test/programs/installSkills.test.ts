/** Skill packages get into the skills folder of Codex, and nowhere else. */
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { Base64 } from "effect/encoding"
import { installSkills } from "../../src/programs/installSkills.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { worlds } from "../support/worlds.ts"

const file = (path: string, content: string | Uint8Array = path) => ({ path, contentBase64: Base64.encode(content) })

const guest = Effect.fnUntraced(function* (env: Record<string, string> = {}) {
  const sandboxes = yield* SandboxService
  const { sandboxId } = yield* sandboxes.createSandbox({ env })
  const sh = (script: string) =>
    Effect.map(sandboxes.runCommand(sandboxId, "sh", ["-c", script]), ({ stdout }) => stdout)
  return { sandboxes, sandboxId, sh }
})

for (const world of worlds) {
  layer(world.layer, { excludeTestServices: true, timeout: "60 seconds" })(`installSkills on ${world.name}`, (it) => {
    it.effect("writes packages byte for byte, and again over what is there", () =>
      Effect.gen(function* () {
        const { sandboxes, sandboxId, sh } = yield* guest()
        const bytes = new Uint8Array([0, 255, 10, 195, 40])
        const many = Array.from({ length: 110 }, (_, index) => file(`many/${index}`))
        const skills = [
          { name: "pdf", files: [file("SKILL.md", "first\n"), file("scripts/deep/a b.bin", bytes), ...many] },
          { name: "-rf *", files: [file("$(touch x)")] }
        ]
        const { folder } = yield* installSkills(sandboxId, skills)
        assert.strictEqual(folder, `${yield* sh('printf %s "$HOME"')}/.codex/skills`)
        assert.deepStrictEqual(yield* sandboxes.readFile(sandboxId, `${folder}/pdf/scripts/deep/a b.bin`), bytes)
        assert.strictEqual(yield* sh('cd "$HOME/.codex/skills/pdf/many" && ls | wc -l | tr -d " "'), "110\n")
        assert.strictEqual(yield* sh('cat "$HOME/.codex/skills/-rf */\\$(touch x)"'), "$(touch x)")
        yield* installSkills(sandboxId, [{ name: "pdf", files: [file("SKILL.md", "second\n")] }])
        assert.strictEqual(yield* sh('cat "$HOME/.codex/skills/pdf/SKILL.md"'), "second\n")
        assert.deepStrictEqual(yield* installSkills(sandboxId, []), { folder })
      })
    )

    it.effect("finds the CODEX_HOME of the guest", () =>
      Effect.gen(function* () {
        const { sandboxId, sh } = yield* guest({ CODEX_HOME: "codex here" })
        yield* installSkills(sandboxId, [{ name: "a", files: [file("b")] }])
        assert.strictEqual(yield* sh("cat 'codex here/skills/a/b'"), "b")
      })
    )

    it.effect("refuses what leads elsewhere before anything is written", () =>
      Effect.gen(function* () {
        const { sandboxId, sh } = yield* guest()
        for (const files of [
          [file("fine"), file("../out")],
          [file("fine"), { path: "bad", contentBase64: "?" }]
        ]) {
          const error = yield* Effect.flip(installSkills(sandboxId, [{ name: "a", files }]))
          assert.strictEqual(error.reason._tag, "InvalidArgument")
          assert.include(error.message, "[0].files[1]")
        }
        assert.strictEqual(yield* sh('[ -e "$HOME/.codex" ] || echo none'), "none\n")
      })
    )

    it.effect("refuses what a symbolic link in the sandbox leads elsewhere, be it the skill, a folder or a file", () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const outside = yield* fs.makeTempDirectoryScoped()
        const { sandboxId, sh } = yield* guest()
        yield* sh(
          [
            `mkdir -p ${outside} elsewhere "$HOME/.codex/skills/b/c"`,
            `ln -s ${outside} "$HOME/.codex/skills/a"`,
            `ln -s ../../../../elsewhere "$HOME/.codex/skills/b/d"`,
            `ln -s ${outside}/e "$HOME/.codex/skills/b/c/e"`
          ].join(" && ")
        )
        for (const [name, path] of [
          ["a", "x"],
          ["b", "d/x"],
          ["b", "c/e"]
        ] as const) {
          const error = yield* Effect.flip(
            installSkills(sandboxId, [
              // So that one is beyond what is looked at in one go.
              { name: "fine", files: Array.from({ length: name === "a" ? 100 : 1 }, (_, index) => file(`${index}`)) },
              { name, files: [file("fine"), file(path)] }
            ])
          )
          assert.strictEqual(error.reason._tag, "InvalidArgument")
          assert.include(error.message, `${name}/`)
          assert.include(error.message, "symbolic link")
        }
        const written = `find ${outside} elsewhere "$HOME/.codex/skills" -type f | wc -l | tr -d ' '`
        assert.strictEqual(yield* sh(written), "0\n")
        // The folder itself may be one.
        yield* sh(`mv "$HOME/.codex/skills" moved && ln -s "$HOME/moved" "$HOME/.codex/skills"`)
        yield* installSkills(sandboxId, [{ name: "g", files: [file("h")] }])
        assert.strictEqual(yield* sh('cat "$HOME/.codex/skills/g/h"'), "h")
      }).pipe(Effect.scoped)
    )
  })
}
