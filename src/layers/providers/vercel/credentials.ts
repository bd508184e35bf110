/** Where credentials come from. Every source but the first is looked at by `layerLinked` only. */
import * as Clock from "effect/Clock"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Base64Url from "effect/encoding/Base64Url"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import * as ChildProcess from "effect/process/ChildProcess"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import type { SandboxError } from "../../../errors.ts"
import * as errors from "../../../errors.ts"
import { Authentication, MissingSetting } from "../../../errors.ts"
import * as Settings from "../../../services/SandboxSettings.ts"
import * as own from "./settings.ts"

/** Whose sandboxes, and the right to them. */
export interface Credentials {
  readonly token: Redacted.Redacted<string>
  readonly teamId: string
  readonly projectId: string
}

/** What a source has of them. */
interface Found {
  readonly token: Option.Option<Credentials["token"]>
  readonly teamId: Option.Option<string>
  readonly projectId: Option.Option<string>
}

const missing = (names: ReadonlyArray<string>, detail?: string): SandboxError =>
  errors.fail(
    "vercel.credentials",
    new MissingSetting({ names: [...names], ...(detail === undefined ? {} : { detail }) }),
    { provider: "vercel" }
  )

const settings = {
  token: own.token,
  teamId: own.teamId,
  projectId: own.projectId
} as const

/** All of a set or none of it: half a set is a mistake that must not be covered up by another source. */
const complete = (found: Found, names: Readonly<Record<keyof Credentials, string>>) =>
  Effect.gen(function* () {
    const { projectId, teamId, token } = found
    if (Option.isSome(token) && Option.isSome(teamId) && Option.isSome(projectId)) {
      return Option.some<Credentials>({ token: token.value, teamId: teamId.value, projectId: projectId.value })
    }
    const absent = [
      ...(Option.isNone(token) ? [names.token] : []),
      ...(Option.isNone(teamId) ? [names.teamId] : []),
      ...(Option.isNone(projectId) ? [names.projectId] : [])
    ]
    return absent.length === 3
      ? Option.none<Credentials>()
      : yield* missing(absent, "the others are set: set all of them, or none")
  })

/** `SANDBOX_VERCEL_TOKEN`, `_TEAM_ID`, `_PROJECT_ID`; a part of them is refused, naming what is missing. */
export const fromSettings: Effect.Effect<Option.Option<Credentials>, SandboxError> = Effect.gen(function* () {
  const found = {
    token: yield* Settings.get(settings.token),
    teamId: yield* Settings.get(settings.teamId),
    projectId: yield* Settings.get(settings.projectId)
  }
  return yield* complete(found, {
    token: settings.token.name,
    teamId: settings.teamId.name,
    projectId: settings.projectId.name
  })
})

/** The same, which must be there. */
export const required: Effect.Effect<Credentials, SandboxError> = Effect.flatMap(fromSettings, (found) =>
  Option.isSome(found)
    ? Effect.succeed(found.value)
    : Effect.fail(missing([settings.token.name, settings.teamId.name, settings.projectId.name]))
)

/** Where `layerLinked` looks. */
export interface LinkedOptions {
  /** Where to look for `.vercel/project.json`, upward; else `SANDBOX_VERCEL_CWD`, else the working directory. */
  readonly cwd?: string | undefined
  /** `--scope` of `vercel env pull`. */
  readonly scope?: string | undefined
  /** `--environment` of `vercel env pull`; `development`. */
  readonly environment?: string | undefined
}

const ambient = {
  token: Settings.secret({ name: "VERCEL_TOKEN", fallback: "none", description: "An access token" }),
  teamId: Settings.text({
    name: "VERCEL_TEAM_ID",
    aliases: ["VERCEL_ORG_ID"],
    fallback: "none",
    description: "The team"
  }),
  projectId: Settings.text({ name: "VERCEL_PROJECT_ID", fallback: "none", description: "The project" }),
  oidc: Settings.secret({ name: "VERCEL_OIDC_TOKEN", fallback: "none", description: "An OIDC token" })
} as const

const Claims = Schema.Struct({
  owner_id: Schema.String,
  project_id: Schema.String,
  exp: Schema.optionalKey(Schema.Number)
})
const decodeClaims = Schema.decodeUnknownOption(Schema.fromJsonString(Claims))

/** What an OIDC token says of itself. The vendor checks it, not we. */
const claimsOf = (token: Redacted.Redacted<string>): Option.Option<typeof Claims.Type> =>
  decodeClaims(Result.getOrElse(Base64Url.decodeString(Redacted.value(token).split(".")[1] ?? ""), () => ""))

/** The credentials that an OIDC token names; none when it is no such token or has expired. */
const fromOidc = (found: Option.Option<Redacted.Redacted<string>>): Effect.Effect<Option.Option<Credentials>> =>
  Effect.map(Clock.currentTimeMillis, (now) =>
    Option.flatMap(found, (token) =>
      Option.flatMap(claimsOf(token), (claims) =>
        claims.exp !== undefined && claims.exp * 1_000 <= now
          ? Option.none()
          : Option.some({ token, teamId: claims.owner_id, projectId: claims.project_id })
      )
    )
  )

const Project = Schema.Struct({ projectId: Schema.String, orgId: Schema.String })
type Project = typeof Project.Type
const decodeProject = Schema.decodeUnknownOption(Schema.fromJsonString(Project))

/** `.vercel/project.json` of a directory or the nearest above it that has one. */
const findProject = (
  from: string
): Effect.Effect<
  Option.Option<{ readonly directory: string; readonly project: Project }>,
  never,
  FileSystem.FileSystem | Path.Path
> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    let directory = path.resolve(from)
    for (;;) {
      // One that cannot be read, or is none, is as good as not there.
      const file = yield* Effect.option(fs.readFileString(path.join(directory, ".vercel", "project.json")))
      const project = Option.flatMap(file, decodeProject)
      if (Option.isSome(project)) return Option.some({ directory, project: project.value })
      const parent = path.dirname(directory)
      if (parent === directory) return Option.none()
      directory = parent
    }
  })

/**
 * The OIDC token that `vercel env pull` writes into a file, which goes at once; none where that CLI is not installed. What the
 * CLI prints is not kept: it may name more than we know to hide.
 */
const pull = (
  directory: string,
  options: LinkedOptions
): Effect.Effect<
  Option.Option<Redacted.Redacted<string>>,
  SandboxError,
  FileSystem.FileSystem | Path.Path | ChildProcessSpawner
> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const spawner = yield* ChildProcessSpawner
    const failed = (detail: string) => missing([ambient.oidc.name], `vercel env pull ${detail}`)
    const temporary = yield* Effect.mapError(fs.makeTempDirectoryScoped(), () => failed("has no temporary directory"))
    const file = path.join(temporary, "env")
    const code = yield* spawner
      .exitCode(
        ChildProcess.make(
          "vercel",
          [
            "env",
            "pull",
            file,
            "--yes",
            "--environment",
            options.environment ?? "development",
            ...(options.scope === undefined ? [] : ["--scope", options.scope])
          ],
          { cwd: directory, stdin: "ignore", stdout: "ignore", stderr: "ignore" }
        )
      )
      .pipe(
        Effect.map(Option.some),
        Effect.catchIf(
          (error) => error.reason._tag === "NotFound" && error.reason.module === "ChildProcess",
          () => Effect.succeedNone
        ),
        Effect.mapError(() => failed("could not be run"))
      )
    if (Option.isNone(code)) return Option.none()
    if (code.value !== 0) return yield* failed(`ended with ${code.value}`)
    const text = yield* Effect.mapError(fs.readFileString(file), () => failed("wrote no file"))
    return yield* Settings.get(ambient.oidc).pipe(
      Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromDotEnvContents(text))
    )
  }).pipe(Effect.scoped)

/**
 * The first of: `SANDBOX_VERCEL_*`; `VERCEL_TOKEN` with `VERCEL_TEAM_ID` and `VERCEL_PROJECT_ID`, of which the linked project
 * supplies those that are not set; a valid `VERCEL_OIDC_TOKEN`; one that `vercel env pull` fetches for the linked project.
 */
export const linked = (
  options: LinkedOptions
): Effect.Effect<Credentials, SandboxError, FileSystem.FileSystem | Path.Path | ChildProcessSpawner> =>
  Effect.gen(function* () {
    const explicit = yield* fromSettings
    if (Option.isSome(explicit)) return explicit.value

    const cwd = options.cwd ?? Option.getOrElse(yield* Settings.get(own.cwd), () => ".")
    const link = yield* findProject(cwd)
    const token = yield* Settings.get(ambient.token)
    if (Option.isSome(token)) {
      const found = yield* complete(
        {
          token,
          teamId: Option.orElse(yield* Settings.get(ambient.teamId), () =>
            Option.map(link, ({ project }) => project.orgId)
          ),
          projectId: Option.orElse(yield* Settings.get(ambient.projectId), () =>
            Option.map(link, ({ project }) => project.projectId)
          )
        },
        { token: ambient.token.name, teamId: ambient.teamId.name, projectId: ambient.projectId.name }
      )
      if (Option.isSome(found)) return found.value
    }

    const oidc = yield* fromOidc(yield* Settings.get(ambient.oidc))
    if (Option.isSome(oidc)) return oidc.value

    if (Option.isSome(link)) {
      const valid = yield* fromOidc(yield* pull(link.value.directory, options))
      if (Option.isSome(valid)) return valid.value
    }
    return yield* missing(
      [own.token.name, ambient.token.name, ambient.oidc.name],
      Option.isSome(link)
        ? "none of them is set to something valid, and `vercel env pull` brought none"
        : "none of them is set to something valid, and no .vercel/project.json was found"
    )
  })

/** Credentials, and the token that is valid when it is asked for. */
export interface Source {
  readonly credentials: Credentials
  readonly token: Effect.Effect<Credentials["token"], SandboxError>
}

/** A token that has no more left than this is replaced. */
const margin = Duration.minutes(1)

/** When a token expires, in ms since the epoch; undefined for one that does not say so. */
const expiryOf = (token: Credentials["token"]): number | undefined => {
  const { exp } = Option.getOrElse(claimsOf(token), (): { readonly exp?: number } => ({}))
  return exp === undefined ? undefined : exp * 1_000
}

/** {@link linked}, looked through again when the token is about to expire: by one, and the others wait for that. */
export const linkedSource = (
  options: LinkedOptions
): Effect.Effect<Source, SandboxError, FileSystem.FileSystem | Path.Path | ChildProcessSpawner> =>
  Effect.gen(function* () {
    const services = yield* Effect.context<FileSystem.FileSystem | Path.Path | ChildProcessSpawner>()
    const credentials = yield* linked(options)
    const looking = yield* Semaphore.make(1)
    let current = credentials.token
    const renew = Effect.gen(function* () {
      const next = yield* linked(options)
      if (next.teamId !== credentials.teamId || next.projectId !== credentials.projectId) {
        return yield* errors.fail(
          "vercel.credentials",
          new Authentication({ detail: "the token has expired, and those that are there now are of another project" }),
          { provider: "vercel" }
        )
      }
      current = next.token
      return current
    }).pipe(Effect.provideContext(services))
    const token = looking.withPermit(
      Effect.gen(function* () {
        const expiry = expiryOf(current)
        const now = yield* Clock.currentTimeMillis
        if (expiry === undefined || expiry - Duration.toMillis(margin) > now) return current
        // Until it has expired it is good enough where there is no other.
        return yield* expiry > now ? Effect.orElseSucceed(renew, () => current) : renew
      })
    )
    return { credentials, token }
  })
