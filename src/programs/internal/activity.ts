/** How a method becomes an activity: its input is checked, its ids are derived, its result and its errors are schemas. */
import type * as Brand from "effect/Brand"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Activity from "effect/workflow/Activity"
import type { WorkflowEngine } from "effect/workflow/WorkflowEngine"
import { WorkflowInstance } from "effect/workflow/WorkflowEngine"
import type { SandboxError } from "../../errors.ts"
import { issueText } from "../../model/Common.ts"
import * as core from "../../services/internal/core.ts"
import { uuidV5 } from "../../services/internal/uuidV5.ts"
import { SandboxService } from "../../services/SandboxService.ts"

/**
 * How an input is written: ids as text, durations in any form that `Duration.Input` has, and `undefined` for what is not said.
 */
export type InputOf<A> = A extends Duration.Duration
  ? Duration.Input
  : A extends string & Brand.Brand<string>
    ? string
    : A extends string | number | boolean | null | undefined | ReadonlyArray<unknown>
      ? A
      : string extends keyof A
        ? A
        : { readonly [K in keyof A]: {} extends Pick<A, K> ? InputOf<A[K]> | undefined : InputOf<A[K]> }

/** A schema that needs nothing to encode or decode. */
type Codec = Schema.Codec<unknown, unknown>

/** An activity of each name and input; and the schemas of what goes in and what comes out, for payloads and results of workflows. */
export interface Action<Input extends Codec, Success extends Codec, Error extends Codec, R = never> {
  (name: string, input: InputOf<Input["Type"]>): Activity.Activity<Success, Error, SandboxService | R>
  readonly input: Input
  readonly success: Success
  readonly error: Error
}

/** What the ids of an activity are made of, with the executions' ids; never to be changed. */
const namespace = "6f9e1f7c-3c0f-4f0a-9d0e-5b1f6a5d2c41"

/**
 * The id (UUIDv5) that stands for an activity of this workflow's execution: what `createSandbox` takes for the sandbox and
 * `createCheckpoint` for its mark. For activities of your own that call the service with a `sandboxId` or `processId`.
 */
export const idOf = (name: string): Effect.Effect<string, never, WorkflowInstance> =>
  Effect.flatMap(WorkflowInstance, ({ executionId }) => uuidV5(namespace, `${executionId}/${name}`))

/** Where a secret's value is, of callers without types. */
const findRedacted = (value: unknown, path: string): string | undefined => {
  if (Redacted.isRedacted(value)) return path
  if (!Predicate.isObjectKeyword(value)) return undefined
  for (const [key, nested] of Object.entries(value)) {
    const found = findRedacted(nested, path === "" ? key : `${path}.${key}`)
    if (found !== undefined) return found
  }
  return undefined
}

/** An input without the fields that are `undefined`. */
const withoutUndefined = (value: unknown): unknown =>
  Predicate.isObject(value) && Object.getPrototypeOf(value) === Object.prototype
    ? Object.fromEntries(
        Object.entries(value).flatMap(([key, nested]: [string, unknown]) =>
          nested === undefined ? [] : [[key, withoutUndefined(nested)]]
        )
      )
    : value

/** The input, decoded; no issue echoes a value. */
const checked = <Input extends Codec>(
  operation: string,
  schema: Input,
  input: unknown
): Effect.Effect<Input["Type"], SandboxError> =>
  Effect.suspend(() => {
    const secret = findRedacted(input, "")
    if (secret !== undefined) {
      return Effect.fail(
        core.invalid(operation, secret, "the value of a secret must not be in an input; name it instead")
      )
    }
    return Schema.decodeUnknownEffect(schema, { onExcessProperty: "error" })(withoutUndefined(input)).pipe(
      Effect.mapError((error) => core.invalid(operation, "input", issueText(error.issue)))
    )
  })

/** What an activity knows of itself. */
export interface Run {
  /** The name of the method, for errors. */
  readonly operation: string
  readonly name: string
  readonly sandboxes: SandboxService["Service"]
}

/** Makes the activities of a method. Whatever their error is, a wrong input must be one too. */
export const action = <Input extends Codec, Success extends Codec, Error extends Codec, R = never>(
  method: string,
  schemas: { readonly input: Input; readonly success: Success; readonly error: Error & Fallible<Error> },
  execute: (
    input: Input["Type"],
    run: Run
  ) => Effect.Effect<Success["Type"], Error["Type"] | SandboxError, WorkflowInstance | R>
): Action<Input, Success, Error, Exclude<R, WorkflowInstance | WorkflowEngine | Scope.Scope>> => {
  const operation = `activities.${method}`
  return Object.assign(
    (name: string, input: InputOf<Input["Type"]>) =>
      Activity.make({
        name,
        success: schemas.success,
        error: schemas.error,
        execute: Effect.gen(function* () {
          const sandboxes = yield* SandboxService
          return yield* execute(yield* checked(operation, schemas.input, input), { operation, name, sandboxes })
        })
      }),
    schemas
  )
}

type Fallible<Error extends Codec> = SandboxError extends Error["Type"] ? unknown : never
