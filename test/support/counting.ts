/** A store and a log that count what is asked of them. */
import { Context, Effect, Layer, Stream } from "effect"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"

export class Counts extends Context.Service<
  Counts,
  {
    /** Calls by method, such as `getSandbox` or `append`. */
    readonly calls: Map<string, number>
    readonly reads: () => number
    readonly writes: () => number
    readonly reset: () => void
  }
>()("test/Counts") {}

const isWrite = (method: string) => /^(insert|update|acquire|renew|release|append)/.test(method)

const counted = <S extends object>(service: S, calls: Map<string, number>): S =>
  new Proxy(service, {
    get(target, key, receiver) {
      const value: unknown = Reflect.get(target, key, receiver)
      if (typeof value !== "function" || typeof key !== "string") return value
      return (...args: ReadonlyArray<unknown>) => {
        const count = () => {
          calls.set(key, (calls.get(key) ?? 0) + 1)
        }
        const result: unknown = Reflect.apply(value, target, args)
        if (Stream.isStream(result)) return Stream.unwrap(Effect.as(Effect.sync(count), result))
        return Effect.isEffect(result) ? Effect.andThen(Effect.sync(count), result) : result
      }
    }
  })

/** Wraps the layer's store and log. */
export const counting = <E, R>(
  layer: Layer.Layer<SandboxStore | ProcessLog, E, R>
): Layer.Layer<SandboxStore | ProcessLog | Counts, E, R> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const calls = new Map<string, number>()
      const sum = (of: (method: string) => boolean) =>
        [...calls].reduce((total, [method, count]) => total + (of(method) ? count : 0), 0)
      return Context.make(SandboxStore, counted(yield* SandboxStore, calls)).pipe(
        Context.add(ProcessLog, counted(yield* ProcessLog, calls)),
        Context.add(Counts, {
          calls,
          reads: () => sum((method) => !isWrite(method)),
          writes: () => sum(isWrite),
          reset: () => calls.clear()
        })
      )
    })
  ).pipe(Layer.provide(layer))
