/** Where credentials are looked for, in which order, and what is refused. The CLI is a program of the test's. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Option, Path, Redacted, type Scope, Stream } from "effect"
import * as ChildProcess from "effect/process/ChildProcess"
import * as Spawner from "effect/process/ChildProcessSpawner"
import { TestClock } from "effect/testing"
import { inspect } from "node:util"
import * as Provider from "../../../../src/layers/providers/vercel/provider.ts"
import * as Fault from "../../../emulators/vercel/faults.ts"
import * as Emulator from "../../../emulators/vercel/server.ts"
import { optionsFor } from "./support.ts"
import {
  fromSettings,
  linked,
  linkedSource,
  required,
  type LinkedOptions
} from "../../../../src/layers/providers/vercel/credentials.ts"

const settings = (values: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromUnknown(values))

const own = { SANDBOX_VERCEL_TOKEN: "own", SANDBOX_VERCEL_TEAM_ID: "team", SANDBOX_VERCEL_PROJECT_ID: "project" }

const jwt = (claims: object) =>
  ["header", Buffer.from(JSON.stringify(claims)).toString("base64url"), "signature"].join(".")

const oidc = jwt({ owner_id: "owner", project_id: "oidc-project", exp: 4_102_444_800 })
const expired = jwt({ owner_id: "owner", project_id: "oidc-project", exp: 1 })

/** A directory with a link below which one looks, and a CLI on the PATH that writes what it was told to. */
const world = Effect.fnUntraced(function* (options: { readonly link?: string; readonly cli?: string }) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const root = yield* fs.makeTempDirectoryScoped()
  const cwd = path.join(root, "a/b/c")
  const bin = path.join(root, "bin")
  yield* fs.makeDirectory(cwd, { recursive: true })
  yield* fs.makeDirectory(bin)
  if (options.link !== undefined) {
    yield* fs.makeDirectory(path.join(root, "a/.vercel"))
    yield* fs.writeFileString(path.join(root, "a/.vercel/project.json"), options.link)
  }
  if (options.cli !== undefined) {
    yield* fs.writeFileString(path.join(bin, "vercel"), `#!/bin/sh\n${options.cli}\n`, { mode: 0o755 })
  }
  return { root, cwd, bin }
})

type Place = { readonly cwd: string; readonly bin: string }

/** Looks there, with nothing of the machine's own settings and only that CLI. */
const look = (place: Place, values: Record<string, string>, options: LinkedOptions = {}) =>
  there(place, values, linked({ cwd: place.cwd, ...options }))

const there = Effect.fnUntraced(function* <A, E, R>(
  place: Place,
  values: Record<string, string>,
  effect: Effect.Effect<A, E, R>
) {
  const spawner = yield* Spawner.ChildProcessSpawner
  const onPath = Spawner.make((command) =>
    ChildProcess.isStandardCommand(command)
      ? spawner.spawn(
          ChildProcess.make(command.command, command.args, {
            ...command.options,
            env: { PATH: `${place.bin}:/usr/bin:/bin` }
          })
        )
      : assert.fail("one command")
  )
  return yield* effect.pipe(
    Effect.provideService(Spawner.ChildProcessSpawner, onPath),
    Effect.provide(settings(values))
  )
})

const link = JSON.stringify({ projectId: "linked-project", orgId: "linked-team" })

const shown = (credentials: { readonly token: Redacted.Redacted<string>; teamId: string; projectId: string }) =>
  [Redacted.value(credentials.token), credentials.teamId, credentials.projectId].join(" ")

const run = <A, E>(effect: Effect.Effect<A, E, NodeServices.NodeServices | Scope.Scope>) =>
  Effect.provide(Effect.scoped(effect), NodeServices.layer)

describe("credentials of Vercel", () => {
  it.effect("are three settings, all or none", () =>
    Effect.gen(function* () {
      assert.isTrue(Option.isNone(yield* Effect.provide(fromSettings, settings({ VERCEL_TOKEN: "ambient" }))))
      const all = yield* Effect.provide(required, settings(own))
      assert.strictEqual(shown(all), "own team project")
      for (const absent of Object.keys(own)) {
        const error = yield* Effect.flip(Effect.provide(fromSettings, settings({ ...own, [absent]: "  " })))
        assert.strictEqual(error.reason._tag, "MissingSetting")
        assert.include(error.message, absent)
        assert.notInclude(error.message, "own")
      }
      const none = yield* Effect.flip(Effect.provide(required, settings({})))
      for (const name of Object.keys(own)) assert.include(none.message, name)
    })
  )

  it.effect("linked: ours come first", () =>
    run(
      Effect.gen(function* () {
        const place = yield* world({ link })
        const found = yield* look(place, { ...own, VERCEL_TOKEN: "ambient", VERCEL_OIDC_TOKEN: oidc })
        assert.strictEqual(shown(found), "own team project")
      })
    )
  )

  it.effect("linked: half of ours is not covered up by something else", () =>
    run(
      Effect.gen(function* () {
        const place = yield* world({ link })
        const error = yield* Effect.flip(look(place, { SANDBOX_VERCEL_TOKEN: "own", VERCEL_OIDC_TOKEN: oidc }))
        assert.include(error.message, "SANDBOX_VERCEL_TEAM_ID")
        assert.include(error.message, "SANDBOX_VERCEL_PROJECT_ID")
      })
    )
  )

  it.effect("linked: VERCEL_TOKEN, with the link for what is not set", () =>
    run(
      Effect.gen(function* () {
        const place = yield* world({ link })
        const alone = yield* look(place, { VERCEL_TOKEN: "ambient" })
        assert.strictEqual(shown(alone), "ambient linked-team linked-project")
        const partly = yield* look(place, { VERCEL_TOKEN: "ambient", VERCEL_PROJECT_ID: "p", VERCEL_ORG_ID: "o" })
        assert.strictEqual(shown(partly), "ambient o p")
        const nowhere = yield* world({})
        const error = yield* Effect.flip(look(nowhere, { VERCEL_TOKEN: "ambient", VERCEL_TEAM_ID: "t" }))
        assert.include(error.message, "VERCEL_PROJECT_ID")
        assert.notInclude(error.message, "VERCEL_TEAM_ID")
      })
    )
  )

  it.live("linked: an OIDC token speaks for itself while it is valid", () =>
    run(
      Effect.gen(function* () {
        const place = yield* world({})
        const found = yield* look(place, { VERCEL_OIDC_TOKEN: oidc, VERCEL_PROJECT_ID: "of the deployment" })
        assert.strictEqual(shown(found), `${oidc} owner oidc-project`)
        for (const bad of [expired, "opaque", "a.b.c", jwt({ owner_id: "x" })]) {
          const error = yield* Effect.flip(look(place, { VERCEL_OIDC_TOKEN: bad }))
          assert.strictEqual(error.reason._tag, "MissingSetting")
          assert.notInclude(error.message, bad)
        }
      })
    )
  )

  it.live("linked: the CLI is asked for a token, in the linked directory", () =>
    run(
      Effect.gen(function* () {
        const place = yield* world({
          link,
          cli: `printf '%s\\n' "$PWD" "$@" >"$(dirname "$0")/asked"; echo "VERCEL_OIDC_TOKEN=\\"${oidc}\\"" >"$3"`
        })
        const fs = yield* FileSystem.FileSystem
        const found = yield* look(place, { VERCEL_OIDC_TOKEN: expired }, { scope: "my-team", environment: "preview" })
        assert.strictEqual(shown(found), `${oidc} owner oidc-project`)
        const [directory, env, pull, file, ...rest] = (yield* fs.readFileString(`${place.bin}/asked`))
          .trim()
          .split("\n")
        assert.strictEqual(directory, yield* fs.realPath(`${place.root}/a`))
        assert.deepStrictEqual([env, pull], ["env", "pull"])
        assert.deepStrictEqual(rest, ["--yes", "--environment", "preview", "--scope", "my-team"])
        assert.isFalse(yield* fs.exists(file ?? ""), "the file with the token was left behind")
      })
    )
  )

  it.live("linked: a CLI that is missing or fails is said", () =>
    run(
      Effect.gen(function* () {
        const missing = yield* Effect.flip(look(yield* world({ link }), {}))
        assert.include(missing.message, "VERCEL_OIDC_TOKEN")
        const failing = yield* Effect.flip(look(yield* world({ link, cli: "echo planted-output >&2; exit 3" }), {}))
        assert.include(failing.message, "ended with 3")
        assert.notInclude(failing.message, "planted-output")
        const silent = yield* Effect.flip(look(yield* world({ link, cli: "exit 0" }), {}))
        assert.include(silent.message, "wrote no file")
        const none = yield* Effect.flip(look(yield* world({ link: "{}", cli: "exit 3" }), {}))
        assert.include(none.message, "no .vercel/project.json")
      })
    )
  )

  it.effect("linked: SANDBOX_VERCEL_CWD says where to look", () =>
    run(
      Effect.gen(function* () {
        const place = yield* world({ link })
        const found = yield* linked({}).pipe(
          Effect.provide(settings({ VERCEL_TOKEN: "ambient", SANDBOX_VERCEL_CWD: place.cwd }))
        )
        assert.strictEqual(shown(found), "ambient linked-team linked-project")
      })
    )
  )

  it.effect(
    "linked: an OIDC token is had anew before it expires, once for all that wait, and of the same project only",
    () =>
      run(
        Effect.gen(function* () {
          const fs = yield* FileSystem.FileSystem
          const place = yield* world({
            link,
            cli: 'echo x >>"$(dirname "$0")/asked"; cat "$(dirname "$0")/token" >"$3" || exit 3'
          })
          const until = (minutes: number, project = "linked-project") =>
            jwt({ owner_id: "linked-team", project_id: project, exp: minutes * 60 })
          const offer = (token: string) => fs.writeFileString(`${place.bin}/token`, `VERCEL_OIDC_TOKEN="${token}"\n`)
          const asked = Effect.map(fs.readFileString(`${place.bin}/asked`), (text) => text.split("\n").length - 1)

          yield* offer(until(60))
          const { credentials, token } = yield* there(place, {}, linkedSource({ cwd: place.cwd }))
          const now = Effect.map(token, Redacted.value)
          assert.strictEqual(shown(credentials), `${until(60)} linked-team linked-project`)
          yield* offer(until(120))
          assert.strictEqual(yield* now, until(60))
          assert.strictEqual(yield* asked, 1, "one that lasts is not replaced")
          yield* TestClock.adjust("59 minutes")
          const all = yield* Effect.all([now, now, now], { concurrency: 3 })
          assert.deepStrictEqual(all, [until(120), until(120), until(120)])
          assert.strictEqual(yield* asked, 2)

          // While the old one is good, a CLI that fails is no failure.
          yield* fs.remove(`${place.bin}/token`)
          yield* TestClock.adjust("60 minutes")
          assert.strictEqual(yield* now, until(120))
          yield* TestClock.adjust("2 minutes")
          const failed = yield* Effect.flip(token)
          assert.strictEqual(failed.reason._tag, "MissingSetting")
          yield* offer(until(600, "another-project"))
          const moved = yield* Effect.flip(token)
          assert.strictEqual(moved.reason._tag, "Authentication")
          yield* offer(until(600))
          assert.strictEqual(yield* now, until(600), "it is looked for again after a failure")
        })
      )
  )

  it.live("the token of a request is the one that is valid then, and none of them is in an error", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const emulator = yield* Emulator.make()
        let token = "the-stale-token"
        const { provider } = yield* Provider.make(
          { ...optionsFor(emulator), token: Redacted.make(token) },
          Effect.sync(() => Redacted.make(token))
        )
        const list = Stream.runDrain(provider.list("tests"))
        const refused = yield* Effect.flip(list)
        assert.include(["Authentication", "Permission"], refused.reason._tag)
        token = emulator.credentials.token
        yield* list
        emulator.faults.inject("sandbox.list", Fault.rejected(403, { echoToken: true }))
        const error = yield* Effect.flip(list)
        assert.notInclude(`${error.message} ${inspect(error, { depth: 20 })}`, token)
      })
    )
  )
})
