/**
 * InstantDB from inside of a sandbox, as one user and nobody else: the sandbox asks, and the vendor's network policy adds the user's
 * token on the way out. The token is never inside the sandbox. Vercel alone can do that; elsewhere this is `UnsupportedCapability`.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SandboxErrorReason } from "../errors.ts"
import { InvalidArgument, SandboxError, Unavailable, Unknown, UnsupportedCapability } from "../errors.ts"
import { issueText, JsonObject } from "../model/Common.ts"
import type { SandboxConfigInput } from "../model/SandboxConfig.ts"
import * as Config from "../model/SandboxConfig.ts"
import * as Vercel from "../model/VercelConfig.ts"
import * as core from "../services/internal/core.ts"
import { ProviderRegistry } from "../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../services/SandboxProvider.ts"
import type { Created } from "../services/SandboxService.ts"
import { SandboxService } from "../services/SandboxService.ts"
import * as Settings from "../services/SandboxSettings.ts"
import * as Guest from "./internal/guestProcess.ts"
import { refused } from "./internal/instantRefusals.ts"

type Failure = SandboxError | PlatformError.PlatformError

/** Whom a sandbox is bound to, and where. */
export interface Access {
  /** The app, a UUID. */
  readonly appId: string
  /** The server of the app; `https://api.instantdb.com`. */
  readonly apiUri?: string | undefined
  /** The id of the user in `$users`: the record's `sandboxUserId`, which the store of InstantDB links. */
  readonly userId: string
  /**
   * The user's refresh token, such as `db.auth.createToken({ id })` of the admin SDK yields: what it may see is what the app's
   * permission rules let this user see. Never an admin token.
   */
  readonly token: Redacted.Redacted<string>
  /** Lets the sandbox also write as the user; the default is false. */
  readonly transact?: boolean | undefined
}

/** What the record keeps of a binding, in `params.instantAccess`. */
const Binding = Schema.Struct({
  appId: Schema.String,
  apiUri: Schema.String,
  userId: Schema.String
})
type Binding = typeof Binding.Type

const decodeBinding = Schema.decodeUnknownOption(Schema.Struct({ instantAccess: Binding }))

/** The folder of the manifest and the helper, in the workspace. */
export const folder = ".instant"

/** The name by which `SandboxSecrets` is asked for the token when the sandbox is made anew. */
export const secretName = (userId: string): string => `instant-user-token:${userId}`

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

const supported = (operation: string, provider: SandboxProvider): Effect.Effect<void, SandboxError> =>
  provider.kind === "vercel"
    ? Effect.void
    : Effect.fail(
        new SandboxError({
          operation,
          provider: provider.name,
          reason: new UnsupportedCapability({
            capability: "instantAccess",
            detail: `the provider ${provider.name} cannot keep a token outside of the sandbox that uses it`
          })
        })
      )

/** Plain http is for tests on this machine: anywhere else it would show the token. */
const serverOf = (operation: string, apiUri: string): Effect.Effect<URL, SandboxError> => {
  const url = Option.getOrUndefined(Result.getSuccess(Result.try(() => new URL(apiUri))))
  const isPlain = url?.protocol === "http:" && (url.hostname === "127.0.0.1" || url.hostname === "localhost")
  return url !== undefined && (url.protocol === "https:" || isPlain) && url.origin === apiUri
    ? Effect.succeed(url)
    : Effect.fail(core.invalid(operation, "apiUri", "expected the https URL of a server and nothing after it"))
}

/** The one header by which the server takes a request for that of a user, on the requests that are for this. */
const rulesOf = ({ token, transact = false, userId }: Access): ReadonlyArray<Vercel.NetworkRule> =>
  ["/admin/query", ...(transact ? ["/admin/transact"] : [])].map((exact) => ({
    match: { path: { exact }, method: ["POST"] },
    transform: [{ headers: { "as-token": Redacted.make(Redacted.value(token), { label: secretName(userId) }) } }]
  }))

/** Asks with the InstaQL of its argument, or of its input, and prints the answer and, on a line of its own, its status. */
const helperOf = ({ apiUri, appId }: Binding): string => `#!/bin/sh
# Usage: sh ${folder}/query.sh '{"todos":{}}', or the query on the standard input. No token: it is added on the way out.
if [ $# -gt 0 ]; then q=$1; else q=$(cat); fi
printf '{"query":%s}' "$q" | exec curl -sS --max-time "\${INSTANT_QUERY_SECONDS:-30}" -X POST --data-binary @- \\
  -H 'content-type: application/json' -H ${Guest.quoted(`app-id: ${appId}`)} -w '\\n%{http_code}\\n' \\
  ${Guest.quoted(`${apiUri}/admin/query?app_id=${appId}`)}
`

const writeHelper = Effect.fnUntraced(function* (sandboxId: string, binding: Binding) {
  const sandboxes = yield* SandboxService
  yield* sandboxes.writeFiles(sandboxId, [
    { path: `${folder}/manifest.json`, content: `${JSON.stringify({ version: 1, ...binding }, null, 2)}\n` },
    { path: `${folder}/query.sh`, content: helperOf(binding), mode: 0o755 }
  ])
})

/**
 * Makes a sandbox that is bound to a user: `SandboxService.createSandbox`, with the user in its record, with a network policy that
 * adds the user's token to requests for queries (with `transact`, for transactions too) to the server, and with a manifest
 * (`.instant/manifest.json`: app, server, user) and a helper (`.instant/query.sh`) in its workspace. The rest of the config's own policy
 * stays; without one everything can be reached.
 *
 * **Gotchas**: a record keeps the token's name, never its value. When the sandbox is made anew `SandboxSecrets` is asked for
 * {@link secretName}; one that does not know it makes that fail `SecretsRequired`. A token that has been revoked, or is to be
 * another's, needs another sandbox. When only the files cannot be written it fails and the sandbox is there: the same `sandboxId` once more
 * finishes it. `params.instantAccess` of the config is taken for this.
 */
export const createSandbox = Effect.fnUntraced(function* (
  access: Access,
  input: SandboxConfigInput = {},
  options: { readonly sandboxId?: string | undefined } = {}
): Effect.fn.Return<Created, Failure, SandboxService | ProviderRegistry> {
  const operation = "instantAccess.createSandbox"
  const sandboxes = yield* SandboxService
  const registry = yield* ProviderRegistry
  const decoded = Config.decode(input)
  if (Result.isFailure(decoded)) return yield* new SandboxError({ operation, reason: decoded.failure })
  const config = decoded.success
  const fallback = yield* Settings.get(Settings.provider)
  const provider = yield* registry.select(config.provider ?? Option.getOrUndefined(fallback))
  yield* supported(operation, provider)
  const { appId, userId } = access
  if (!uuid.test(appId)) return yield* core.invalid(operation, "appId", "expected a UUID in lower case")
  if (!uuid.test(userId)) return yield* core.invalid(operation, "userId", "expected a UUID in lower case")
  const server = yield* serverOf(operation, access.apiUri ?? "https://api.instantdb.com")
  if (!/^[\x21-\x7e]+$/.test(Redacted.value(access.token))) {
    return yield* core.invalid(operation, "token", "expected what a header can have")
  }
  const binding: Binding = { appId, apiUri: server.origin, userId }
  const created = yield* sandboxes.createSandbox(
    {
      ...config,
      provider: provider.name,
      params: { ...config.params, instantAccess: binding },
      vercel: {
        ...config.vercel,
        networkPolicy: Vercel.withRules(config.vercel?.networkPolicy, server.hostname, rulesOf(access))
      }
    },
    { ...options, sandboxUserId: userId }
  )
  yield* writeHelper(created.sandboxId, binding)
  return created
})

/** How much of an answer is taken. */
const answerBytes = 16 * 1024 * 1024

const isJsonObject = Schema.is(JsonObject)
const decodeJson = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Unknown))

/** Runs the helper if it is there; with 90 it is not. */
const runHelper = `[ -r "$1" ] || exit 90
exec sh "$1"`

/**
 * Asks with InstaQL (`{ todos: { $: { where: { done: false } } } }`) from inside of the sandbox, as its user, and decodes the answer. A
 * helper that is gone, with the disk of a sandbox that was made anew, is written again.
 *
 * Fails `InvalidArgument` for a sandbox that is bound to nobody and a query that the server does not understand, `Authentication` for a token
 * that it does not take, `Permission`, `RateLimited` and `Unavailable` as it says, `Unknown` for an answer that does not decode, and
 * otherwise as `runCommand`.
 */
export const queryAs = <S extends Schema.Top>(schema: S) =>
  Effect.fnUntraced(function* (
    sandboxId: string,
    instaql: JsonObject
  ): Effect.fn.Return<S["Type"], Failure, SandboxService | ProviderRegistry | S["DecodingServices"]> {
    const operation = "instantAccess.query"
    const sandboxes = yield* SandboxService
    const registry = yield* ProviderRegistry
    if (!isJsonObject(instaql)) return yield* core.invalid(operation, "query", "expected a JSON object")
    const record = yield* sandboxes.getSandbox(sandboxId)
    const fail = (reason: SandboxErrorReason) =>
      new SandboxError({ operation, provider: record.provider, sandboxId, reason })
    yield* supported(operation, yield* registry.get(record.provider))
    const bound = decodeBinding(record.params)
    if (Option.isNone(bound)) {
      return yield* fail(new InvalidArgument({ argument: "sandboxId", problem: "it is bound to no user of an app" }))
    }
    const ask = sandboxes.runCommand(sandboxId, "sh", ["-c", runHelper, "sh", `${folder}/query.sh`], {
      stdin: JSON.stringify(instaql),
      maxOutputBytes: answerBytes
    })
    const first = yield* ask
    const { exitCode, stderr, stdout, truncated } =
      first.exitCode === 90 ? yield* Effect.andThen(writeHelper(sandboxId, bound.value.instantAccess), ask) : first
    if (exitCode === 127) return yield* fail(new UnsupportedCapability({ capability: "query", detail: stderr.trim() }))
    // What curl says of its way to the server; it is a question, and may be asked again.
    if (exitCode !== 0) return yield* fail(new Unavailable({ accepted: "unknown", detail: stderr.trim() }))
    if (truncated.stdout > 0) {
      return yield* fail(
        new InvalidArgument({
          argument: "query",
          problem: `its answer has more than ${answerBytes} bytes: ask for less`
        })
      )
    }
    const [, body = "", status = ""] = /^([^]*)\n(\d+)\n$/.exec(stdout) ?? []
    if (status !== "200") return yield* fail(refused(Number(status), body))
    const json = decodeJson(body)
    if (Result.isFailure(json)) return yield* fail(new Unknown({ detail: "the answer is no JSON" }))
    return yield* Schema.decodeUnknownEffect(schema)(json.success).pipe(
      Effect.mapError((error) => fail(new Unknown({ detail: `the answer does not decode: ${issueText(error.issue)}` })))
    )
  })

/** {@link queryAs} of any JSON. */
export const query = queryAs(JsonObject)
