/**
 * An app out of a git repository: with real git over a local repository on `local`, and with a stand-in for it in memory; package
 * manager and Instant's CLI are stand-ins.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer } from "effect"
import { Base64 } from "effect/encoding"
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import * as Http from "node:http"
import { createOrUpdateApp } from "../../src/programs/createOrUpdateApp.ts"
import type { Options } from "../../src/programs/createOrUpdateApp.ts"
import { settings } from "../support/embedded.ts"
import { absent, commandLines, listening, recorded, shown } from "../support/planted.ts"
import { withTools } from "../support/tools.ts"
import { Commands, worlds } from "../support/worlds.ts"

const instantToken = "pl4nted-instant-token"
const gitToken = "pl4nted-git-token"
const adminToken = "pl4nted-admin-token"
const appId = "11111111-2222-4333-8444-555555555555"
const provided = Effect.provide(settings({ INSTANT_PERSONAL_ACCESS_TOKEN: instantToken, GIT_TOKEN: gitToken }))

/** Both say what they are called with; a file for a word makes them fail. */
const tools = {
  pnpm: `echo "pnpm $*" >>$said
[ ! -e $said.fail-$1 ] || { echo "$1 is broken" >&2; exit 5; }`,
  npx: `echo "npx $*" >>$said
[ ! -e $said.fail-$3-$4 ] || { echo "refused $INSTANT_CLI_AUTH_TOKEN" >&2; exit 6; }
[ "$(printf %s "$INSTANT_CLI_AUTH_TOKEN" | wc -c | tr -d ' ')" = ${instantToken.length} ] && echo has >>$said
if [ $3 = init-without-files ]; then
  [ ! -e $said.fail-init ] || { printf '{\\n  "app": null,\\n  "error": {\\n    "message": "no credit"\\n  }\\n}\\n'; exit 1; }
  echo '{"app":{"appId":"${appId}","adminToken":"${adminToken}"},"error":null}'
fi`,
  // What little of it is asked for.
  fakeGit: `case $1 in
clone)
  for d do r=$p p=$d; done
  mkdir -p "$d/.git" && echo "$r" >"$d/.git/origin"
  echo one >"$d/README"
  ;;
-C) case $3 in config) cat "$2/.git/origin" ;; rev-parse) echo 0123 ;; esac ;;
symbolic-ref) echo main ;;
merge) echo two >README ;;
esac`
}

const cli = ["npx -y instant-cli@1", "has"] as const
const pushes = [
  `${cli[0]} push schema --app ${appId} --yes`,
  cli[1],
  `${cli[0]} push perms --app ${appId} --yes`,
  cli[1]
]

/** A repository of this host with one commit. */
const repository = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "effect-sandbox-git-" })
  const git = (...args: ReadonlyArray<string>) =>
    execFileSync("git", ["-C", `${folder}/work`, "-c", "user.name=t", "-c", "user.email=t@t", ...args], {
      stdio: "pipe",
      env: { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: folder }
    }).toString()
  yield* fs.makeDirectory(`${folder}/work`)
  git("init", "-q", "-b", "main")
  const commit = (content: string) =>
    Effect.map(fs.writeFileString(`${folder}/work/README`, `${content}\n`), () => {
      git("add", "-A")
      git("commit", "-q", "-m", content)
      return git("rev-parse", "HEAD").trim()
    })
  const first = yield* commit("one")
  return { url: `${folder}/work`, folder, git, commit, first }
})

for (const world of worlds) {
  const isReal = world.name === "local"
  layer(world.layer, { excludeTestServices: true, timeout: "60 seconds" })(
    `createOrUpdateApp on ${world.name}`,
    (it) => {
      const start = Effect.gen(function* () {
        const origin = yield* repository
        const { fakeGit, ...others } = tools
        const guest = yield* withTools({ ...others, ...(isReal ? {} : { git: fakeGit }) })
        const make = (options: Partial<Options> = {}) =>
          createOrUpdateApp(guest.sandboxId, { repository: origin.url, appDir: "the app", ...options })
        return { ...guest, origin, make }
      })

      it.effect("takes each step as a recorded process, and goes on where it was when it is run again", () => {
        const { heard, layer } = listening()
        return Effect.gen(function* () {
          const { make, origin, said, sandboxes, secretFiles, sh } = yield* start
          const made = yield* make()
          assert.deepInclude(made, { outcome: "created", instantAppId: appId })
          assert.isTrue(made.appDir.endsWith("/the app"))
          assert.deepStrictEqual(
            made.steps.map(({ step }) => step),
            ["clone", "install", "build", "create-instant-app", "push-schema", "push-perms"]
          )
          for (const { process, step } of made.steps) {
            const { metadata, status } = yield* sandboxes.getProcessSnapshot(process.processId)
            assert.deepStrictEqual(
              { status, metadata },
              {
                status: "exited",
                metadata: { program: "createOrUpdateApp", step }
              }
            )
          }
          assert.deepStrictEqual(yield* said, [
            "pnpm install",
            "pnpm run build",
            `${cli[0]} init-without-files --title work`,
            cli[1],
            ...pushes
          ])
          assert.strictEqual(yield* sh("stat -c %a 'the app/.git/effect-sandbox-instant.json'"), "600\n")

          const next = isReal ? yield* origin.commit("two") : "0123"
          const again = yield* make()
          assert.deepInclude(again, { outcome: "updated", instantAppId: appId, commit: next })
          assert.deepStrictEqual(
            again.steps.map(({ step }) => step),
            ["update", "install", "build", "push-schema", "push-perms"]
          )
          assert.strictEqual(yield* sh("cat 'the app/README'"), "two\n")
          assert.strictEqual(yield* secretFiles, 0)
          const texts = {
            commands: (yield* Commands)(),
            lines: yield* commandLines,
            records: yield* recorded,
            result: shown([made, again]),
            heard: heard()
          }
          absent(instantToken, texts)
          absent(adminToken, texts)
        }).pipe(Effect.scoped, provided, Effect.provide(layer))
      })

      it.effect("stops at the step that fails, says which, and keeps its token from the error", () =>
        Effect.gen(function* () {
          const { folder, make, said, sandboxes, sh } = yield* start
          const failing = Effect.fnUntraced(function* (file: string, options: Partial<Options> = {}) {
            yield* sh(`touch ${folder}/said.${file}`)
            const before = (yield* said).length
            const error = yield* Effect.flip(make(options))
            yield* sh(`rm ${folder}/said.${file}`)
            assert.strictEqual(error.reason._tag, "StepFailed")
            absent(instantToken, { error: shown(error) })
            return { error, said: (yield* said).slice(before) }
          })
          const build = yield* failing("fail-run", { instantAppId: appId })
          assert.include(build.error.message, "the step build failed with code 5: run is broken")
          assert.deepStrictEqual(build.said, ["pnpm install", "pnpm run build"])
          if (build.error.reason._tag === "StepFailed") {
            const process = yield* sandboxes.getProcessSnapshot(build.error.reason.processId ?? "")
            assert.deepInclude(process.metadata, { step: "build" })
          }
          const perms = yield* failing("fail-push-perms", { instantAppId: appId })
          assert.include(perms.error.message, "the step push-perms failed with code 6: refused <redacted>")
          const create = yield* failing("fail-init")
          assert.include(create.error.message, 'the step create-instant-app failed with code 1: "no credit"')
          assert.strictEqual(yield* sh("ls 'the app/.git' | grep -c effect-sandbox"), "0\n")
          const missing = yield* Effect.flip(make({ packageManager: "yarn" }))
          assert.include(missing.message, "the step install failed")
        }).pipe(Effect.scoped, provided)
      )

      it.effect(
        "refuses what would leave a token in a record or send it in the clear, and a clone of something else",
        () =>
          Effect.gen(function* () {
            const { make, said, sh } = yield* start
            const refused = (options: Partial<Options>) =>
              Effect.map(Effect.flip(make(options)), ({ message, reason }) => {
                assert.strictEqual(reason._tag, "InvalidArgument", message)
                return message
              })
            const withCredentials = yield* refused({ repository: "https://user:pl4nted-password@example.com/a.git" })
            absent("pl4nted-password", { withCredentials })
            yield* refused({ repository: "http://example.com/a.git", gitTokenEnvName: "GIT_TOKEN" })
            yield* refused({ repository: "--upload-pack=touch x" })
            yield* refused({ repository: "https://" })
            yield* refused({ branch: "-x" })
            yield* refused({ instantAppId: "--yes" })
            yield* refused({ title: "--temp" })
            yield* refused({ appDir: "" })
            const nowhere = yield* Effect.flip(make({ gitTokenEnvName: "NO_SUCH_TOKEN" }))
            assert.deepInclude(nowhere.reason, { _tag: "MissingSetting", names: ["NO_SUCH_TOKEN"] })
            assert.deepStrictEqual(yield* said, [])
            yield* sh(
              isReal
                ? "git init -q 'the app' && git -C 'the app' remote add origin /another"
                : "mkdir -p 'the app/.git' && echo /another >'the app/.git/origin'"
            )
            assert.include(yield* refused({}), "clone of something else")
            assert.deepStrictEqual(yield* said, [])
          }).pipe(Effect.scoped, provided)
      )
    }
  )
}

describe("with real git", () => {
  const [, local] = worlds
  if (local === undefined) throw new Error("there is no local world")

  it.live("a token opens a repository, and is in no command line, remote, file or record", () =>
    Effect.gen(function* () {
      const { folder, git, url } = yield* repository
      git("clone", "-q", "--bare", url, `${folder}/served.git`)
      git("--git-dir", `${folder}/served.git`, "update-server-info")
      const header = `Basic ${Base64.encode(`x-access-token:${gitToken}`)}`
      let lines = ""
      const { served, origin } = yield* Effect.acquireRelease(
        Effect.callback<{ served: Http.Server; origin: string }>((resume) => {
          const served = Http.createServer((request, response) => {
            const path = `${folder}${new URL(request.url ?? "/", "http://x").pathname}`
            if (request.headers.authorization !== header) return void response.writeHead(401).end()
            // Whoever asks is at work now.
            if (lines === "") lines = execFileSync("ps", ["-axo", "args="]).toString()
            if (!existsSync(path)) return void response.writeHead(404).end()
            response.end(readFileSync(path))
          }).listen(0, "127.0.0.1", () => {
            const address = served.address()
            const port = typeof address === "object" && address !== null ? address.port : 0
            resume(Effect.succeed({ served, origin: `http://127.0.0.1:${port}` }))
          })
        }),
        ({ served }) => Effect.callback<void>((resume) => void served.close(() => resume(Effect.void)))
      )
      assert.isTrue(served.listening)
      const { fakeGit: _, ...others } = tools
      const guest = yield* withTools(others)
      const options = { repository: `${origin}/served.git`, appDir: "app", instantAppId: appId }
      // GitHub's token is for GitHub.
      const shut = yield* Effect.flip(
        createOrUpdateApp(guest.sandboxId, options).pipe(
          Effect.provide(settings({ INSTANT_PERSONAL_ACCESS_TOKEN: instantToken, GITHUB_TOKEN: gitToken }))
        )
      )
      assert.include(shut.message, "the step clone failed with code 128")
      assert.strictEqual(lines, "")
      const made = yield* createOrUpdateApp(guest.sandboxId, { ...options, gitTokenEnvName: "GIT_TOKEN" })
      assert.strictEqual(made.outcome, "created")
      yield* createOrUpdateApp(guest.sandboxId, { ...options, gitTokenEnvName: "GIT_TOKEN" })
      assert.include(lines, "git")
      const texts = {
        lines,
        records: yield* recorded,
        files: yield* guest.sh("cat app/.git/config app/.git/FETCH_HEAD; ls -AR app/.git; git -C app config --list"),
        result: shown(made)
      }
      absent(gitToken, texts)
      absent(header, texts)
    }).pipe(Effect.scoped, provided, Effect.provide(local.layer))
  )

  it.live("an update takes another branch, finishes a clone that was cut off, and throws no work away", () =>
    Effect.gen(function* () {
      const { commit, git, url } = yield* repository
      const { fakeGit: _, ...others } = tools
      const guest = yield* withTools(others)
      const make = (branch?: string) =>
        createOrUpdateApp(guest.sandboxId, { repository: url, appDir: "app", instantAppId: appId, branch })
      // What a clone leaves that was killed: it has its remote, and nothing else yet.
      yield* guest.sh(`git init -q -b main app && git -C app remote add origin '${url}'`)
      assert.strictEqual((yield* make("main")).outcome, "updated")
      assert.strictEqual(yield* guest.sh("cat app/README"), "one\n")
      git("checkout", "-q", "-b", "other")
      const other = yield* commit("other")
      assert.strictEqual((yield* make("other")).commit, other)
      assert.strictEqual((yield* make()).commit, other)

      yield* guest.sh(
        "cd app && echo mine >README && git -c user.name=t -c user.email=t@t commit -q -a -m mine && echo more >more"
      )
      yield* commit("theirs")
      const error = yield* Effect.flip(make())
      assert.strictEqual(error.reason._tag, "StepFailed")
      assert.include(error.message, "the step update failed")
      assert.strictEqual(yield* guest.sh("cat app/README app/more"), "mine\nmore\n")
      const none = yield* Effect.flip(make("no-such-branch"))
      assert.include(none.message, "the step update failed")
    }).pipe(Effect.scoped, provided, Effect.provide(Layer.fresh(local.layer)))
  )
})
