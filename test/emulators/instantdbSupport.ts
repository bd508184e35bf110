/** What the tests of the emulator share: the real SDK, pointed at it. */
import { assert } from "@effect/vitest"
import { i, init } from "@instantdb/admin"
import { Effect } from "effect"
import { type InstantDbEmulator, make, type Options } from "./instantdb/server.ts"

/** Of the tests: a little of everything that a schema can say. */
export const schema = i.schema({
  entities: {
    $users: i.entity({ email: i.string().unique().indexed().optional() }),
    sandboxes: i.entity({
      name: i.string().unique().indexed(),
      state: i.string().indexed(),
      version: i.number().indexed().optional(),
      params: i.json().optional(),
      note: i.string().optional(),
      seenAt: i.date().indexed().optional()
    }),
    processes: i.entity({
      command: i.string(),
      seq: i.number().indexed()
    }),
    claims: i.entity({ key: i.string().unique().indexed() })
  },
  links: {
    processSandbox: {
      forward: { on: "processes", label: "sandbox", has: "one", required: true, onDelete: "cascade" },
      reverse: { on: "sandboxes", label: "processes", has: "many" }
    },
    sandboxUser: {
      forward: { on: "sandboxes", label: "user", has: "one" },
      reverse: { on: "$users", label: "sandboxes", has: "many" }
    },
    sandboxParent: {
      forward: { on: "sandboxes", label: "parent", has: "one" },
      reverse: { on: "sandboxes", label: "child", has: "one" }
    }
  }
})

/** The steps of one record. Its type is read off `lookup`, since under every other key the SDK's types also allow nothing. */
export const row = <Chunk>(
  of: { readonly lookup: (label: never, value: never) => Chunk } | undefined,
  id: string
): Chunk =>
  // The SDK answers to every key with this.
  Reflect.get(Object(of), id) as Chunk

/** A promise of the SDK. Its failure is a defect where the test did not ask for it. The SDK may throw, too. */
export const sdk = <A>(call: () => PromiseLike<A>) => Effect.promise(async () => await call())

/** How the SDK told a failure. */
export interface Failure {
  readonly name: string
  readonly message: string
  readonly status: number | undefined
  readonly type: string | undefined
  readonly hint: unknown
  readonly error: unknown
}

export const at = (value: unknown, ...path: ReadonlyArray<string | number>): unknown =>
  path.reduce<unknown>(
    (found, key) => (typeof found === "object" && found !== null ? Reflect.get(found, key) : undefined),
    value
  )

const text = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

export const failureOf = (error: unknown): Failure => {
  const status = at(error, "status")
  return {
    name: text(at(error, "name")) ?? typeof error,
    message: text(at(error, "message")) ?? String(error),
    status: typeof status === "number" ? status : undefined,
    type: text(at(error, "body", "type")),
    hint: at(error, "hint"),
    error
  }
}

/** The failure of a promise of the SDK; its success fails the test. */
export const failing = <A>(call: () => PromiseLike<A>) =>
  Effect.tryPromise({ try: async () => await call(), catch: failureOf }).pipe(
    Effect.flip,
    Effect.catch(() => Effect.die(new Error("the SDK succeeded")))
  )

export const refused = Effect.fnUntraced(function* <A>(
  status: number,
  type: string | undefined,
  call: () => PromiseLike<A>
) {
  const failure = yield* failing(call)
  assert.deepStrictEqual({ status: failure.status, type: failure.type }, { status, type }, failure.message)
  return failure
})

/** An emulator to which the schema was pushed, the SDK with it and without it. */
export const emulated = Effect.fnUntraced(function* (options?: Options) {
  const emulator = yield* make({ schema, ...options })
  return { emulator, db: init({ ...emulator.config, schema }), loose: init(emulator.config) }
})

/** A request that the SDK would not make. */
export const posted = (
  emulator: InstantDbEmulator,
  path: string,
  body: unknown,
  headers: { readonly authorization: string | undefined } = {
    authorization: `Bearer ${emulator.credentials.adminToken}`
  }
) =>
  Effect.promise(async () => {
    const response = await fetch(`${emulator.origin}${path}`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "app-id": emulator.credentials.appId,
        ...(headers.authorization === undefined ? {} : { authorization: headers.authorization })
      },
      body: JSON.stringify(body)
    })
    const answer: unknown = await response.json()
    return { status: response.status, body: answer }
  })

/** A query that the SDK's types forbid, though its users may write it. */
export const untyped = (
  db: { readonly query: (query: never) => Promise<unknown> },
  query: Readonly<Record<string, object>>
): Promise<Readonly<Record<string, ReadonlyArray<Readonly<Record<string, unknown>>>>>> =>
  // Nothing else is answered to any query.
  db.query(query as never) as ReturnType<typeof untyped>

/** Waits for what another part of this process brings about, turn by turn of its event loop. */
export const spin = (holds: () => boolean) =>
  sdk(async () => {
    while (!holds()) await new Promise(setImmediate)
  })
