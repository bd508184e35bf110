/** Calls and streams with the faults that are due at them. Without one, what comes is the very value that came. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { SandboxError } from "../../errors.ts"
import type * as Model from "./faultsModel.ts"
import type { Described, Due, Life, State } from "./faultsState.ts"
import { errorOf } from "./faultsState.ts"

/** Where a call is made. */
export interface Site extends Pick<Described, "target" | "sandboxId" | "processId" | "command"> {
  readonly state: State
  readonly life: Life
  /** Deletes the machine at the vendor; absent where there is none. */
  readonly vanish?: Effect.Effect<void, SandboxError>
}

const take = <O extends Model.Operation>(site: Site, operation: O, args: Model.Arguments<O>) =>
  site.state.take({
    operation,
    // The arguments of one operation are among those of all.
    args: args as Model.Arguments<Model.Operation>,
    target: site.target,
    ...(site.sandboxId === undefined ? {} : { sandboxId: site.sandboxId }),
    ...(site.processId === undefined ? {} : { processId: site.processId }),
    ...(site.command === undefined ? {} : { command: site.command })
  })

/** Lets a fault happen here and now. What is due to end the call does not return. */
const happen = (site: Site, due: Due, fault: Model.Anywhere): Effect.Effect<void, SandboxError> =>
  Effect.suspend(() => {
    // It cannot happen where there is no machine, and counts as unused.
    if (fault._tag === "Vanish" && site.vanish === undefined) return Effect.void
    due.injected()
    switch (fault._tag) {
      case "Fail":
        return Effect.fail(errorOf(due.call, fault.reason))
      case "Vanish":
        return site.vanish ?? Effect.void
      case "Hang":
        return Effect.never
      case "Delay":
        return Effect.sleep(fault.by)
      case "Kill":
        site.state.kill(site.life)
        return Effect.interrupt
    }
  })

/** A call that ends too early leaves its faults to the next. */
const givingBack =
  (all: ReadonlyArray<Due>) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.onError(effect, () =>
      Effect.sync(() => {
        for (const due of all) due.giveBack()
      })
    )

/** What goes before a call: first what changes the world or takes time, then what ends it. */
const before = (site: Site, all: ReadonlyArray<Due>): Effect.Effect<void, SandboxError> =>
  Effect.gen(function* () {
    let end: Effect.Effect<void, SandboxError> = Effect.void
    for (const due of all) {
      const { fault } = due
      switch (fault._tag) {
        case "Delay":
        case "Vanish":
          yield* happen(site, due, fault)
          break
        case "Fail":
        case "Hang":
          end = happen(site, due, fault)
          break
        case "Kill":
          if (fault.when === "before") end = happen(site, due, fault)
          break
        case "LoseAnswer":
        case "At":
        case "Duplicate":
        case "Split":
      }
    }
    yield* end
  }).pipe(givingBack(all))

/** What goes after a call. */
const answered = <A, E, R>(
  site: Site,
  all: ReadonlyArray<Due>,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | SandboxError, R> => {
  for (const due of all) {
    const { fault } = due
    if (fault._tag === "Kill" && fault.when === "after") {
      return Effect.flatMap(givingBack([due])(Effect.exit(effect)), () =>
        Effect.andThen(happen(site, due, fault), Effect.interrupt)
      )
    }
    if (fault._tag === "LoseAnswer") {
      return effect.pipe(
        givingBack([due]),
        Effect.flatMap(() => {
          due.injected()
          return Effect.fail(errorOf(due.call, fault.reason))
        })
      )
    }
  }
  return effect
}

/** Of a dead service nobody asks, and nobody is there to hear the answer. */
const living =
  (life: Life) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() =>
      life.dead
        ? Effect.interrupt
        : Effect.flatMap(Effect.exit(effect), (exit) => (life.dead ? Effect.interrupt : exit))
    )

/** An effect as a call. */
export const call = <O extends Model.Operation, A, E, R>(
  site: Site,
  operation: O,
  args: Model.Arguments<O>,
  effect: Effect.Effect<A, E | SandboxError, R>
): Effect.Effect<A, E | SandboxError, R> =>
  Effect.suspend(() => {
    const { life } = site
    if (life.dead) return Effect.interrupt
    return Effect.flatMap(take(site, operation, args), (due) =>
      due.length === 0
        ? living(life)(effect)
        : Effect.andThen(living(life)(before(site, due)), living(life)(answered(site, due, effect)))
    )
  })

/** A call that only begins here: what it gave is silent once the service is dead. */
export const opening = <O extends Model.Operation>(
  site: Site,
  operation: O,
  args: Model.Arguments<O>
): Effect.Effect<void, SandboxError> => call(site, operation, args, Effect.void)

/** A part of a call that nothing is injected into: it neither happens nor is heard of once the service is dead. */
export const silent = <A, E, R>(site: Site, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  living(site.life)(effect)

/** What a call opens ends with the caller's Scope, but not with that of a dead one: the finalizers of the dead do nothing. */
export const owned = <A, E, R>(site: Site, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.gen(function* () {
    const inner = yield* Effect.acquireRelease(Scope.fork(site.state.scope), (inner, exit) =>
      site.life.dead ? Effect.void : Scope.close(inner, exit)
    )
    return yield* Effect.provideService(effect, Scope.Scope, inner)
  })

/** Passes while the service is alive. */
export const alive = (site: Site): Effect.Effect<void> =>
  Effect.suspend(() => (site.life.dead ? Effect.interrupt : Effect.void))

type Side = "stdout" | "stderr" | "any"

/** What a stream is made of: how many bytes an item has, and its two parts, where it has parts. */
export interface Items<A> {
  readonly size: (item: A, side: Side) => number
  readonly split: (item: A, at: number) => readonly [A, A] | undefined
}

/** Records: no bytes, no parts. */
export const whole = { size: () => 0, split: () => undefined }

/** A stream as a call. */
export const stream = <O extends Model.StreamOperation, A, E, R>(
  site: Site,
  operation: O,
  args: Model.Arguments<O>,
  source: Stream.Stream<A, E | SandboxError, R>,
  items: Items<A>
): Stream.Stream<A, E | SandboxError, R> =>
  Stream.unwrap(
    Effect.suspend(() =>
      site.life.dead
        ? Effect.interrupt
        : Effect.map(
            Effect.tap(take(site, operation, args), (due) => living(site.life)(before(site, due))),
            (due) =>
              Stream.transformPull(source, (pull) =>
                Effect.sync(() => ended(site, due, living(site.life)(altered(site, due, items, pull))))
              )
          )
    )
  )

type NonEmpty<A> = readonly [A, ...Array<A>]

/** A death that comes instead of the stream's end. */
const ended = <A, E>(
  site: Site,
  all: ReadonlyArray<Due>,
  pull: Pull.Pull<A, E | SandboxError>
): Pull.Pull<A, E | SandboxError> => {
  for (const due of all) {
    const { fault } = due
    if (fault._tag === "Kill" && fault.when === "after") {
      return Effect.flatMap(Effect.exit(pull), (exit): Pull.Pull<A, E | SandboxError> =>
        Exit.isFailure(exit) && Pull.isDoneCause(exit.cause)
          ? Effect.andThen(happen(site, due, fault), Effect.interrupt)
          : exit
      )
    }
  }
  return pull
}

/** The stream with what is due in its middle. */
const altered = <A, E>(
  site: Site,
  all: ReadonlyArray<Due>,
  items: Items<A>,
  pull: Pull.Pull<NonEmpty<A>, E>
): Pull.Pull<NonEmpty<A>, E | SandboxError> => {
  const places = all.flatMap((due) =>
    due.fault._tag === "At" ? [{ due, fault: due.fault.fault, position: due.fault.position }] : []
  )
  const doubles = all.flatMap((due) => (due.fault._tag === "Duplicate" ? [{ due, item: due.fault.item }] : []))
  const splits = all.flatMap((due) =>
    due.fault._tag === "Split" ? [{ due, bytes: due.fault.bytes, noted: false }] : []
  )
  if (places.length + doubles.length + splits.length === 0) return pull

  const passed = { stdout: 0, stderr: 0, any: 0 }
  let given = 0
  let waiting: Array<A> = []

  /** How many bytes of this item lie before the place; all of it if the place lies behind it. */
  const room = (position: Model.Position, item: A): number => {
    if (!("byte" in position)) return Infinity
    const side = position.stream ?? "any"
    const left = position.byte - passed[side]
    return items.size(item, side) > left ? left : Infinity
  }
  const isReached = (position: Model.Position): boolean =>
    "byte" in position ? passed[position.stream ?? "any"] >= position.byte : given + 1 >= position.item
  const reach = (place: (typeof places)[number]): Pull.Pull<NonEmpty<A>, E | SandboxError> => {
    places.splice(places.indexOf(place), 1)
    return Effect.andThen(happen(site, place.due, place.fault), next)
  }

  const give = (item: A): NonEmpty<A> => {
    given++
    for (const side of ["stdout", "stderr", "any"] as const) passed[side] += items.size(item, side)
    const double = doubles.find(({ item }) => item === given)
    if (double === undefined) return [item]
    doubles.splice(doubles.indexOf(double), 1)
    double.due.injected()
    return [item, item]
  }

  const next: Pull.Pull<NonEmpty<A>, E | SandboxError> = Effect.suspend(() => {
    const place = places.find(({ position }) => isReached(position))
    if (place !== undefined) return reach(place)
    const item = waiting.shift()
    if (item === undefined) {
      return Effect.flatMap(pull, (more) => {
        waiting = [...more]
        return next
      })
    }
    const size = items.size(item, "any")
    const limit = splits.find(({ bytes }) => bytes < size)
    const nearest = places.reduce(
      (least, { position }) => Math.min(least, room(position, item)),
      Math.max(1, limit?.bytes ?? size)
    )
    if (nearest >= size) return Effect.succeed(give(item))
    const parts = items.split(item, nearest)
    if (parts === undefined) {
      const held = places.find(({ position }) => room(position, item) <= nearest)
      if (held === undefined) return Effect.succeed(give(item))
      waiting.unshift(item)
      return reach(held)
    }
    if (limit !== undefined && nearest === limit.bytes && !limit.noted) {
      limit.noted = true
      limit.due.injected()
    }
    waiting.unshift(parts[1])
    return Effect.succeed(give(parts[0]))
  })
  return next
}
