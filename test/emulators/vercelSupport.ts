/** What the tests of the emulator share: the real SDK, pointed at it. */
import { assert } from "@effect/vitest"
import { Sandbox } from "@vercel/sandbox"
import { Effect } from "effect"
import { make, type Options } from "./vercel/server.ts"

type CreateOptions = NonNullable<Parameters<typeof Sandbox.create>[0]>

/** A promise of the SDK. Its failure is a defect where the test did not ask for it. */
export const sdk = <A>(call: () => PromiseLike<A>) => Effect.promise(async () => await call())

/** How the SDK told a failure. The classes are not looked at: they differ between its two builds. */
export interface Failure {
  readonly name: string
  readonly message: string
  readonly status: number | undefined
  /** Of the API's error body, of a `StreamError` or of the network. */
  readonly code: string | undefined
}

const field = (value: unknown, ...path: ReadonlyArray<string>): unknown =>
  path.reduce<unknown>(
    (found, key) => (typeof found === "object" && found !== null ? Reflect.get(found, key) : undefined),
    value
  )

const firstString = (...values: ReadonlyArray<unknown>): string | undefined =>
  values.find((value): value is string => typeof value === "string")

const failureOf = (error: unknown): Failure => {
  const status = field(error, "response", "status")
  return {
    name: firstString(field(error, "name")) ?? typeof error,
    message: firstString(field(error, "message"), error) ?? "",
    status: typeof status === "number" ? status : undefined,
    code: firstString(field(error, "json", "error", "code"), field(error, "code"), field(error, "cause", "code"))
  }
}

/** The failure of a promise of the SDK; its success fails the test. */
export const failing = <A>(call: () => PromiseLike<A>) =>
  Effect.tryPromise({ try: async () => await call(), catch: failureOf }).pipe(
    Effect.flip,
    Effect.catch(() => Effect.die(new Error("the SDK succeeded")))
  )

export const refused = Effect.fnUntraced(function* <A>(status: number, code: string, call: () => PromiseLike<A>) {
  const failure = yield* failing(call)
  assert.deepStrictEqual({ status: failure.status, code: failure.code }, { status, code }, failure.message)
  return failure
})

/** An emulator, the SDK's options that lead to it, and short ways to what most tests do. */
export const emulated = Effect.fnUntraced(function* (options?: Options) {
  const emulator = yield* make(options)
  const access = { ...emulator.credentials, fetch: emulator.fetch }
  return {
    emulator,
    access,
    create: (more: CreateOptions = {}) => sdk(() => Sandbox.create({ ...access, ...more })),
    get: (name: string, more: { readonly resume?: boolean } = {}) =>
      sdk(() => Sandbox.get({ ...access, name, ...more }))
  }
})

export const sh = (script: string) => ({ cmd: "sh", args: ["-c", script] })

/** Of a detached command, from its beginning: resolves with what was written when the text is there. */
export const until = (command: { readonly logs: Awaited<ReturnType<Sandbox["getCommand"]>>["logs"] }, text: string) =>
  sdk(async () => {
    const logs = command.logs()
    let seen = ""
    for await (const { data } of logs) {
      seen += data
      if (seen.includes(text)) break
    }
    // Leaving the loop does not end the request; this does.
    logs.close()
    assert.include(seen, text)
    return seen
  })

/** Waits for what another part of this process brings about, turn by turn of its event loop. */
export const spin = (holds: () => boolean) =>
  sdk(async () => {
    while (!holds()) await new Promise(setImmediate)
  })
