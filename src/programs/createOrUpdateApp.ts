/** An app out of a git repository, in a sandbox: fetched, built, and its Instant app brought to its schema and permissions. */
import * as Base64 from "effect/encoding/Base64"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { isSandboxError, SandboxError, StepFailed, Unknown } from "../errors.ts"
import type { ProcessRunResult } from "../model/Process.ts"
import { insideOf } from "../services/internal/inside.ts"
import * as core from "../services/internal/core.ts"
import { SandboxService } from "../services/SandboxService.ts"
import * as Guest from "./internal/guestProcess.ts"

/** What the app is made of, where, and with what. */
export interface Options extends Guest.ProcessOptions {
  /** What `git clone` takes: a URL without credentials, or a path of the sandbox. */
  readonly repository: string
  /** The default is the repository's own, and later the one that is checked out. */
  readonly branch?: string | undefined
  /** The name of the setting of this machine that has the token of the repository; for GitHub's `GITHUB_TOKEN`, if there is one. */
  readonly gitTokenEnvName?: string | undefined
  /** Where the app is: absolute, or relative to the workspace. The default is `/workspace/ekairos-app`. */
  readonly appDir?: string | undefined
  /** The one that installs and builds; `pnpm`. */
  readonly packageManager?: Guest.PackageManager | undefined
  /** The app at Instant; without one it is made, once. */
  readonly instantAppId?: string | undefined
  /** The title of an app that is made; the default is the name of the repository. */
  readonly title?: string | undefined
  /** The name of the setting of this machine that has the token for Instant; `INSTANT_PERSONAL_ACCESS_TOKEN`. */
  readonly instantTokenEnvName?: string | undefined
}

/** What is done, in this order; `clone` or `update`, and `create-instant-app` only where there is none. */
export type Step = "clone" | "update" | "install" | "build" | "create-instant-app" | "push-schema" | "push-perms"

/** What {@link createOrUpdateApp} did. */
export interface Made {
  readonly outcome: "created" | "updated"
  /** Absolute. */
  readonly appDir: string
  /** The commit that was built. */
  readonly commit: string
  readonly instantAppId: string
  /** Each of them with its recorded process. */
  readonly steps: ReadonlyArray<{ readonly step: Step; readonly process: ProcessRunResult }>
}

const operation = "createOrUpdateApp"

/** In the folder of git, which is in no commit. */
const instantFile = ".git/effect-sandbox-instant.json"

/** Says where things are, whether there is a clone, and with 3 that it is one of something else. */
const lookScript = `${Guest.absoluteFirst}
d=\${d%/}
${Guest.sayTempDirectory}
printf %s "$d"
[ -d "$d/.git" ] || exit 4
r=$(git -C "$d" config --get remote.origin.url)
c=$?
[ $c -ne 127 ] || exit 1
[ $c -eq 0 ] && [ "$r" = "$2" ] || exit 3`

/** Takes what is new, and nothing that was changed here: where both were, it fails. */
const updateScript = `cd "$1" || exit 1
b=$2
[ -n "$b" ] || b=$(git symbolic-ref --quiet --short HEAD) || { echo "no branch is checked out: say which" >&2; exit 1; }
git fetch origin "$b" || exit 1
if [ "$(git symbolic-ref --quiet --short HEAD)" != "$b" ]; then
  git checkout -q "$b" -- 2>/dev/null || git checkout -q -b "$b" FETCH_HEAD || exit 1
fi
git merge --ff-only FETCH_HEAD`

/** Keeps what the CLI says, an admin token in it, from the log. */
const createScript = `o=$1
shift
: >"$o.part" && chmod 600 "$o.part" || exit 1
if (exec "$@") >"$o.part"; then mv "$o.part" "$o"; else
  c=$?
  sed -n 's/.*"message": *//p' "$o.part" >&2
  rm -f "$o.part"
  exit $c
fi`

const decodeInstant = Schema.decodeUnknownOption(
  Schema.fromJsonString(Schema.Struct({ app: Schema.Struct({ appId: Schema.String.check(Schema.isUUID()) }) }))
)

const isLoopback = ({ hostname }: URL): boolean => ["127.0.0.1", "localhost", "[::1]"].includes(hostname)

const checkedRepository = Effect.fnUntraced(function* (repository: string, hasToken: boolean) {
  const invalid = (problem: string) => core.invalid(operation, "repository", problem)
  // eslint-disable-next-line no-control-regex -- a NUL or a line of its own is what must not be there
  if (repository === "" || repository.startsWith("-") || /[\u0000-\u001f\u007f]/.test(repository)) {
    return yield* invalid("expected a URL or a path")
  }
  if (!/^[a-z+]+:\/\//i.test(repository)) return undefined
  const url = yield* Effect.fromResult(Result.try(() => new URL(repository))).pipe(
    Effect.mapError(() => invalid("it is no URL"))
  )
  if (url.protocol !== "https:" && url.protocol !== "http:") return undefined
  if (url.username !== "" || url.password !== "") {
    return yield* invalid("credentials in a URL are kept in records: pass the token by gitTokenEnvName")
  }
  if (hasToken && url.protocol === "http:" && !isLoopback(url)) return yield* invalid("a token only goes over https")
  return url
})

const checkedBranch = (branch: string | undefined) =>
  branch === undefined || (/^[^-\s~^:?*[\\][^\s~^:?*[\\]*$/.test(branch) && !branch.includes(".."))
    ? Effect.succeed(branch)
    : Effect.fail(core.invalid(operation, "branch", "expected the name of a branch"))

/** The token for requests to this host, by git's configuration out of the environment: nothing of it stays. */
const gitSecrets = (url: URL | undefined, token: Option.Option<Redacted.Redacted<string>>) =>
  url === undefined || Option.isNone(token)
    ? {}
    : {
        GIT_CONFIG_COUNT: Redacted.make("1"),
        GIT_CONFIG_KEY_0: Redacted.make(`http.${url.origin}/.extraHeader`),
        GIT_CONFIG_VALUE_0: Redacted.make(
          `Authorization: Basic ${Base64.encode(`x-access-token:${Redacted.value(token.value)}`)}`
        )
      }

/** The end of what a process said. */
const lastWords = (said: string, secrets: ReadonlyArray<Redacted.Redacted<string>>): string =>
  secrets
    .map(Redacted.value)
    .filter((secret) => secret.length > 3)
    .reduce((text, secret) => text.replaceAll(secret, "<redacted>"), said)
    .trim()
    .slice(-300)

/**
 * Clones a repository, or takes what is new of it into the clone that there is, installs, builds, makes the app at Instant when
 * none is given, and pushes schema and permissions with Instant's own CLI (`npx -y instant-cli@1`). Each step is a recorded process
 * with its name in `metadata.step`; one that fails is `StepFailed` with that name, and those after it are not taken. Run again, it
 * goes on: the clone is updated, and the app at Instant is the one that was made before.
 *
 * Tokens are settings of this machine; they go in by files for their owner only, which are gone before a program starts, and are
 * then in the environment of that program alone: git's in its configuration for the one host (needs git 2.31), never in a remote or
 * a file of git's; Instant's in `INSTANT_CLI_AUTH_TOKEN`.
 *
 * **Gotchas**: an update only goes forward; local commits, or changes in its way, make it fail. `--yes` is said to the CLI: what the
 * schema no longer has is deleted there, as the CLI does. What it said of an app that it made, the admin token with it, is in
 * `.git/effect-sandbox-instant.json` of the clone, for its owner only. Dependencies and the build are the repository's own code.
 */
export const createOrUpdateApp = Effect.fnUntraced(function* (
  sandboxId: string,
  options: Options
): Effect.fn.Return<Made, SandboxError | PlatformError.PlatformError, SandboxService> {
  const sandboxes = yield* SandboxService
  const { maxOutputBytes, repository, timeout } = options
  const asked = options.appDir ?? "/workspace/ekairos-app"
  if (asked === "") return yield* core.invalid(operation, "appDir", "expected a path")
  const packageManager = yield* Guest.checkedPackageManager(operation, options.packageManager)
  const url = yield* checkedRepository(repository, options.gitTokenEnvName !== undefined)
  const gitToken =
    options.gitTokenEnvName !== undefined
      ? Option.some(yield* Guest.requiredSecret(operation, "gitTokenEnvName", options.gitTokenEnvName))
      : // It is GitHub's, and nobody else gets it unasked.
        url?.origin === "https://github.com"
        ? yield* Guest.secretSetting(operation, "gitTokenEnvName", "GITHUB_TOKEN")
        : Option.none()
  const instantToken = yield* Guest.requiredSecret(
    operation,
    "instantTokenEnvName",
    options.instantTokenEnvName ?? "INSTANT_PERSONAL_ACCESS_TOKEN"
  )
  const branch = yield* checkedBranch(options.branch)
  const given = options.instantAppId
  if (given !== undefined && !/^[0-9a-f-]{36}$/i.test(given)) {
    return yield* core.invalid(operation, "instantAppId", "expected a UUID")
  }
  const title = options.title ?? /([^/]+?)(\.git)?\/*$/.exec(repository)?.[1] ?? "app"
  if (title === "" || title.startsWith("-")) return yield* core.invalid(operation, "title", "expected a title")

  const failure = (detail: string) => new SandboxError({ operation, sandboxId, reason: new Unknown({ detail }) })
  const looked = yield* insideOf(sandboxes, sandboxId).run(lookScript, [asked, repository])
  const [directory, appDir] = Guest.firstLine(looked.stdout)
  if (looked.exitCode === 3) return yield* core.invalid(operation, "appDir", `${appDir} is a clone of something else`)
  if (looked.exitCode !== 0 && looked.exitCode !== 4) return yield* failure(looked.stderr.trim())
  const isThere = looked.exitCode === 0

  const steps: Array<Made["steps"][number]> = []
  const take = Effect.fnUntraced(function* (
    step: Step,
    command: string,
    args: ReadonlyArray<string>,
    more: Partial<Pick<Guest.Wanted, "cwd" | "env" | "secrets">> = {}
  ) {
    const secrets = more.secrets ?? {}
    const failed = (how: Partial<Pick<StepFailed, "exitCode" | "processId" | "detail" | "cause">>) =>
      new SandboxError({ operation, sandboxId, reason: new StepFailed({ step, ...how }) })
    const process = yield* Guest.run(sandboxId, {
      ...more,
      command,
      args,
      secrets,
      directory,
      metadata: { program: operation, step },
      timeout,
      maxOutputBytes
    }).pipe(
      Effect.mapError((error) =>
        isSandboxError(error)
          ? // What it is stays what it is; which step it was is in its name.
            core.named(`${operation}.${step}`, { sandboxId })(error)
          : failed({ detail: error.message, cause: error })
      )
    )
    steps.push({ step, process })
    const { result } = process
    if (result === undefined || result.exitCode === 0) return
    const said = result.stderr.trim() === "" ? result.stdout : result.stderr
    return yield* failed({
      processId: process.processId,
      exitCode: result.exitCode,
      detail: lastWords(said, [instantToken, ...Option.toArray(gitToken), ...Object.values(secrets)])
    })
  })

  const git = { env: { GIT_TERMINAL_PROMPT: "0" }, secrets: gitSecrets(url, gitToken) }
  yield* isThere
    ? take("update", "sh", ["-c", updateScript, "sh", appDir, branch ?? ""], git)
    : take(
        "clone",
        "git",
        ["clone", ...(branch === undefined ? [] : ["--branch", branch]), "--", repository, appDir],
        git
      )
  const inApp = { cwd: appDir }
  yield* take("install", packageManager, ["install"], inApp)
  yield* take("build", packageManager, ["run", "build"], inApp)

  const cli = ["-y", "instant-cli@1"]
  const withToken = { ...inApp, secrets: { INSTANT_CLI_AUTH_TOKEN: instantToken } }
  const known = sandboxes.readFile(sandboxId, `${appDir}/${instantFile}`).pipe(
    Effect.map((bytes) => Option.map(decodeInstant(new TextDecoder().decode(bytes)), ({ app }) => app.appId)),
    Effect.catchIf(
      (error) => error.reason._tag === "NotFound" && !isSandboxError(error),
      () => Effect.succeedNone
    )
  )
  let instantAppId = given === undefined ? yield* known : Option.some(given)
  if (Option.isNone(instantAppId)) {
    const create = ["npx", ...cli, "init-without-files", "--title", title]
    yield* take("create-instant-app", "sh", ["-c", createScript, "sh", instantFile, ...create], withToken)
    instantAppId = yield* known
    if (Option.isNone(instantAppId)) return yield* failure(`the CLI named no app in ${instantFile}`)
  }
  for (const part of ["schema", "perms"] as const) {
    yield* take(`push-${part}`, "npx", [...cli, "push", part, "--app", instantAppId.value, "--yes"], withToken)
  }
  const head = yield* sandboxes.runCommand(sandboxId, "git", ["-C", appDir, "rev-parse", "HEAD"])
  if (head.exitCode !== 0) return yield* failure(head.stderr.trim())
  return {
    outcome: isThere ? "updated" : "created",
    appDir,
    commit: head.stdout.trim(),
    instantAppId: instantAppId.value,
    steps
  }
})
