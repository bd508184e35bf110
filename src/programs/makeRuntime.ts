/**
 * `SandboxService` for backends without Effect: the same methods, as promises and async iterables.
 *
 * ```ts
 * await using sandboxes = makeRuntime(Embedded.layer())
 * const { sandboxId } = await sandboxes.createSandbox()
 * const { stdout } = await sandboxes.runCommand(sandboxId, "date", [], { signal: AbortSignal.timeout(5000) })
 * ```
 *
 * Promises reject with the errors themselves: `error instanceof SandboxError`, `error.reason._tag`; files and program starts with
 * Effect's `PlatformError`. A `signal` goes into the last argument, whatever else is in it; aborting interrupts, as an Effect would
 * be, and rejects with the signal's own reason once everything is cleaned up.
 *
 * **Gotchas**: an async iterable holds what it needs from its first `next` on until it ends or is left (`break`, `return()`). After
 * {@link SandboxRuntime.dispose} everything rejects with {@link RuntimeDisposed}.
 */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Predicate from "effect/Predicate"
import * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import { SandboxError, Unknown } from "../errors.ts"
import type { FileEntry, PortOptions, SandboxProcess, SandboxProcessHandle } from "../services/SandboxService.ts"
import { methodReasons, SandboxService } from "../services/SandboxService.ts"

type Service = SandboxService["Service"]

/** What every call takes in its last argument. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined
}

/** What everything rejects with after `dispose`, also what was under way. */
export class RuntimeDisposed extends Data.TaggedError("RuntimeDisposed") {
  override get message() {
    return "the runtime of the sandboxes was disposed"
  }
}

type Bytes = AsyncIterable<Uint8Array>

/** Streams may be async iterables and effects promises in what goes in, too. */
type Given<T> =
  T extends ReadonlyArray<FileEntry>
    ? ReadonlyArray<Omit<FileEntry, "content"> & { readonly content: FileEntry["content"] | Bytes }>
    : "stdin" extends keyof T
      ? Omit<T, "stdin"> & { readonly stdin?: T["stdin" & keyof T] | Bytes }
      : "ready" extends keyof T
        ? Omit<PortOptions, "ready"> & {
            readonly ready?: boolean | ((url: PortAddress) => PromiseLike<unknown>) | undefined
          }
        : T

type PortAddress = Effect.Success<ReturnType<Service["getPortUrl"]>>

/** An options object has nothing that must be in it; a duration, which can be text, is none. */
type IsOptions<T> = [Extract<T, string | number>] extends [never] ? ({} extends T ? true : false) : false

/** The parameters, with a `signal` in the options at their end, or in options of its own. */
type Parameters_<Args extends ReadonlyArray<unknown>> =
  Required<Args> extends readonly [...infer _, infer Last]
    ? IsOptions<Last> extends true
      ? {
          [K in keyof Args]: Exclude<Args[K], undefined> extends Last
            ? IsOptions<Exclude<Args[K], undefined>> extends true
              ? Given<Exclude<Args[K], undefined>> & CallOptions
              : Given<Args[K]>
            : Given<Args[K]>
        }
      : [...{ [K in keyof Args]: Given<Args[K]> }, options?: CallOptions]
    : [options?: CallOptions]

/** A process as promises: effects are methods, streams async iterables, and an input takes text, bytes or an async iterable. */
export type PromisedHandle<H> = {
  readonly [K in keyof H as K extends string ? K : never]: H[K] extends Effect.Effect<infer A, infer _E, infer _R>
    ? (options?: CallOptions) => Promise<A>
    : H[K] extends (...args: infer Args) => infer Out
      ? (...args: Parameters_<Args>) => Promised<Out>
      : Promised<H[K]>
}

type Promised<Out> =
  Out extends Effect.Effect<infer A, infer _E, infer _R>
    ? Promise<
        A extends SandboxProcess
          ? PromisedHandle<SandboxProcess>
          : A extends SandboxProcessHandle
            ? PromisedHandle<SandboxProcessHandle> & AsyncDisposable
            : A
      >
    : Out extends Stream.Stream<infer A, infer _E, infer _R>
      ? AsyncIterable<A>
      : Out extends Sink.Sink<infer A, infer _In, infer _L, infer _E, infer _R>
        ? (input: string | Uint8Array | Bytes, options?: CallOptions) => Promise<A>
        : Out

/** The methods of `SandboxService`, but for `platform`, which only Effect programs can use. */
export type PromisedService = {
  readonly [K in Exclude<keyof Service, "platform">]: Service[K] extends (...args: infer Args) => infer Out
    ? (...args: Parameters_<Args>) => Promised<Out>
    : Promised<Service[K]>
}

/** The service as promises. */
export interface SandboxRuntime<R> extends PromisedService, AsyncDisposable {
  /** Runs an effect over the service, such as a program that is provided with the `platform` of a sandbox. */
  readonly run: <A, E>(effect: Effect.Effect<A, E, SandboxService | R>, options?: CallOptions) => Promise<A>
  /**
   * Interrupts what is under way and lets the layer go. Recorded processes go on: another service attaches to them. Once more it is the
   * same.
   */
  readonly dispose: () => Promise<void>
}

/** The methods that yield streams. */
const streams: Record<StreamMethod, true> = {
  listSandboxes: true,
  streamCommand: true,
  readProcessStream: true,
  listProcesses: true,
  listCheckpoints: true
}
type StreamMethod = {
  [K in keyof Service]: Service[K] extends (...args: infer _) => Stream.Stream<infer _A, infer _E> ? K : never
}[keyof Service]

const isStreamMethod = (name: string): name is StreamMethod => Object.hasOwn(streams, name)

const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  Predicate.hasProperty(value, Symbol.asyncIterator)

// What the service gives needs nothing but what the service has.
const isEffect = (u: unknown): u is Effect.Effect<unknown, unknown> => Effect.isEffect(u)
const isStream = (u: unknown): u is Stream.Stream<unknown, unknown> => Stream.isStream(u)
const isSink = (u: unknown): u is Sink.Sink<unknown, unknown, unknown, unknown> => Sink.isSink(u)

/** The bytes of an async iterable; what it throws ends what reads them. */
const fromIterable = (iterable: AsyncIterable<unknown>): Stream.Stream<Uint8Array, SandboxError> =>
  Stream.fromAsyncIterable(iterable, (cause) => inputFailed("the input failed", cause)).pipe(
    Stream.mapEffect((chunk) =>
      chunk instanceof Uint8Array
        ? Effect.succeed(chunk)
        : Effect.fail(inputFailed("the input yielded something else than bytes"))
    )
  )

const inputFailed = (detail: string, cause?: unknown) =>
  new SandboxError({
    operation: "makeRuntime.input",
    reason: new Unknown({ detail, ...(cause === undefined ? {} : { cause }) })
  })

const inputOf = (value: unknown): unknown =>
  isAsyncIterable(value) && !Stream.isStream(value) ? fromIterable(value) : value

/** Files and options as the service takes them. */
const givenOf = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(givenOf)
  // Only what is written as an object literal: a command, a Stream or bytes are values of their own.
  if (!Predicate.isObject(value) || Object.getPrototypeOf(value) !== Object.prototype) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, part]: [string, unknown]) => {
      if (key === "stdin" || key === "content") return [key, inputOf(part)]
      if (key === "ready" && Predicate.isFunction(part)) {
        return [key, (url: unknown) => Effect.tryPromise(async () => part(url))]
      }
      return [key, part]
    })
  )
}

/** Takes the signal out of the last argument. */
const withoutSignal = (
  args: ReadonlyArray<unknown>
): { readonly args: ReadonlyArray<unknown>; readonly signal: AbortSignal | undefined } => {
  const last = args.at(-1)
  if (!Predicate.hasProperty(last, "signal") || !Object.hasOwn(last, "signal")) {
    return { args: args.map(givenOf), signal: undefined }
  }
  const { signal, ...rest } = last
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw new TypeError("signal: expected an AbortSignal")
  return { args: [...args.slice(0, -1), rest].map(givenOf), signal }
}

/**
 * The promises over a layer that provides `SandboxService`. The layer is built with the first call; if that fails, each call
 * rejects with its error. `memoMap` shares layers with other runtimes.
 */
export const makeRuntime = <R, E>(
  layer: Layer.Layer<SandboxService | R, E>,
  options: { readonly memoMap?: Layer.MemoMap | undefined } = {}
): SandboxRuntime<R> => {
  const runtime = ManagedRuntime.make(layer, options)
  /** What is to end before the layer goes. */
  const open = new Set<(error: unknown) => Promise<unknown>>()
  let disposing: Promise<void> | undefined

  const run: SandboxRuntime<R>["run"] = async (effect, { signal } = {}) => {
    if (disposing !== undefined) throw new RuntimeDisposed()
    signal?.throwIfAborted()
    const exit = await runtime.runPromiseExit(effect, { signal })
    if (Exit.isSuccess(exit)) return exit.value
    if (Cause.hasInterruptsOnly(exit.cause)) {
      signal?.throwIfAborted()
      if (disposing !== undefined) throw new RuntimeDisposed()
    }
    throw Cause.squash(exit.cause)
  }

  /** Each iteration is a run of the stream of its own. */
  const iterable = <A>(
    stream: Stream.Stream<A, unknown, SandboxService | R>,
    signal?: AbortSignal
  ): AsyncIterable<A> => ({
    [Symbol.asyncIterator]() {
      let begun: Promise<AsyncIterator<A>> | undefined
      let stopped: { readonly error: unknown; readonly closed: Promise<unknown> } | undefined
      let ended = false
      /** Ends the wait for the layer, which may never be built. */
      const opening = new AbortController()
      const onAbort = () => void stop(signal?.reason)
      const end = () => {
        ended = true
        open.delete(stop)
        signal?.removeEventListener("abort", onAbort)
      }
      /** Closes it, also under whoever waits for its next element, who is told the error. */
      const stop = (error: unknown): Promise<unknown> => {
        opening.abort(error)
        stopped ??= {
          error,
          closed: Promise.resolve(begun?.then((iterator) => iterator.return?.())).catch(() => undefined)
        }
        return stopped.closed
      }
      const begin = () => {
        open.add(stop)
        signal?.addEventListener("abort", onAbort)
        return run(Effect.context<SandboxService | R>(), { signal: opening.signal }).then((context) =>
          Stream.toAsyncIterableWith(stream, context)[Symbol.asyncIterator]()
        )
      }
      const step = async (): Promise<IteratorResult<A>> => {
        if (ended) return { done: true, value: undefined }
        try {
          if (disposing !== undefined) await stop(new RuntimeDisposed())
          if (signal?.aborted === true) await stop(signal.reason)
          if (stopped === undefined) {
            begun ??= begin()
            const result = await (await begun).next()
            if (result.done !== true) return result
          }
        } catch (error) {
          // Left meanwhile: whoever has left does not want to hear of it.
          if (ended) return { done: true, value: undefined }
          end()
          throw stopped === undefined ? error : stopped.error
        }
        end()
        if (stopped === undefined) return { done: true, value: undefined }
        await stopped.closed
        throw stopped.error
      }
      /** One after another, also for who does not wait: two at once would take elements from each other. */
      let last: Promise<unknown> = Promise.resolve()
      return {
        next() {
          const result = last.then(step)
          last = result.catch(() => undefined)
          return result
        },
        async return() {
          end()
          opening.abort()
          const iterator = await begun?.catch(() => undefined)
          await iterator?.return?.()
          return { done: true, value: undefined }
        }
      }
    }
  })

  /** A member of a handle. */
  const promised = (value: unknown): unknown => {
    if (isStream(value)) return iterable(value)
    if (isSink(value)) {
      return (input: unknown, options?: CallOptions) => {
        const source = typeof input === "string" ? new TextEncoder().encode(input) : inputOf(input)
        return run(Stream.run(isStream(source) ? source : Stream.succeed(source), value), options)
      }
    }
    if (isEffect(value)) return (options?: CallOptions) => run(value, options)
    if (!Predicate.isFunction(value)) return value
    return (...given: ReadonlyArray<unknown>) => {
      const { args, signal } = withoutSignal(given)
      const result: unknown = value(...args)
      return isEffect(result) ? run(result, { signal }) : isStream(result) ? iterable(result, signal) : promised(result)
    }
  }
  const handleOf = (handle: object) =>
    Object.fromEntries(Object.entries(handle).map(([key, value]: [string, unknown]) => [key, promised(value)]))

  /** Its scope is the caller's to close, by `await using`. */
  const spawned = (
    effect: Effect.Effect<object, unknown, SandboxService | Scope.Scope>,
    signal: AbortSignal | undefined
  ) =>
    run(
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const handle = yield* restore(Scope.provide(effect, scope)).pipe(
            Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
          )
          return { handle, scope }
        })
      ),
      { signal }
    ).then(({ handle, scope }) => {
      const close = () => {
        open.delete(close)
        return Effect.runPromise(Scope.close(scope, Exit.void))
      }
      open.add(close)
      // It came to be just as everything ended.
      if (disposing !== undefined) {
        return close().then(() => {
          throw new RuntimeDisposed()
        })
      }
      return { ...handleOf(handle), [Symbol.asyncDispose]: close }
    })

  const methodOf = (name: Exclude<keyof typeof methodReasons, "platform" | "recoveries">) => {
    const call = (service: Service, args: ReadonlyArray<unknown>): unknown =>
      // The types of the arguments are those of the runtime's own method.
      (service[name] as (...args: ReadonlyArray<unknown>) => unknown)(...args)
    // So are those of what comes out; which methods give streams, `streams` says.
    type AnyStream = Stream.Stream<unknown, unknown, SandboxService>
    type AnyEffect = Effect.Effect<object, unknown, SandboxService>
    if (isStreamMethod(name)) {
      return (...given: ReadonlyArray<unknown>) => {
        const { args, signal } = withoutSignal(given)
        return iterable(Stream.unwrap(SandboxService.useSync((service) => call(service, args) as AnyStream)), signal)
      }
    }
    return async (...given: ReadonlyArray<unknown>) => {
      const { args, signal } = withoutSignal(given)
      const effect = SandboxService.use((service) => call(service, args) as AnyEffect)
      if (name === "spawn") return spawned(effect, signal)
      const value = await run(effect, { signal })
      return name === "runCommandProcess" || name === "attachProcess" ? handleOf(value) : value
    }
  }

  const { platform: _, recoveries: __, ...names } = methodReasons
  const methods = Object.fromEntries(
    // Its keys are what the types say that they are.
    (Object.keys(names) as Array<keyof typeof names>).map((name) => [name, methodOf(name)])
  )

  const dispose = (): Promise<void> => {
    disposing ??= Promise.all([...open].map((close) => close(new RuntimeDisposed()).catch(() => undefined))).then(() =>
      runtime.dispose()
    )
    return disposing
  }

  const made = {
    ...methods,
    recoveries: iterable(Stream.unwrap(SandboxService.useSync(({ recoveries }) => recoveries))),
    run,
    dispose,
    [Symbol.asyncDispose]: dispose
  }
  // Methods that were made by name; a test goes through all of them.
  return made as unknown as SandboxRuntime<R>
}
