/** Decides what happens to each call and remembers what did. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import type { SandboxErrorReason } from "../../errors.ts"
import { SandboxError } from "../../errors.ts"
import * as Model from "./faultsModel.ts"

/** A fault that happened: plain data without ids, so that two runs can be compared. */
export interface Injected {
  readonly operation: Model.Operation
  /** The number of the call among those of its operation. */
  readonly count: number
  readonly target: string
  readonly kind: Model.Fault["_tag"]
  /** Where in the stream, for a fault in the middle of one. */
  readonly position?: Model.Position
}

/** The service that uses what was wrapped; a dead one gets no answer any more. */
export interface Life {
  dead: boolean
}

/** What a call is, before it is counted. */
export type Described = Omit<Model.Call, "count">

interface Counter {
  readonly rule: Model.Rule
  /** Calls that matched. */
  seen: number
  /** Times that it is still to be given to a call. */
  left: number
  injected: number
}

/** A fault that is due at a call. */
export interface Due {
  readonly fault: Model.Fault
  readonly call: Model.Call
  /** Says that it happened. */
  readonly injected: () => void
  /** Says that the call is over: if it has not happened, the next one gets it. */
  readonly giveBack: () => void
}

/** Of these a call has one at a time; another that is due waits for the next call. */
const isTerminal = ({ _tag }: Model.Fault): boolean =>
  _tag === "Fail" || _tag === "LoseAnswer" || _tag === "Hang" || _tag === "Kill"

export class State {
  readonly injected: Array<Injected> = []
  readonly counts = new Map<Model.Operation, number>()
  life: Life = { dead: false }
  /** What the dead leave open, until the test is over. */
  readonly scope: Scope.Scope
  readonly #rules: Array<Counter> = []
  readonly #seeded: Array<Model.Seeded> = []
  #news = Latch.makeUnsafe(false)

  constructor(scope: Scope.Scope) {
    this.scope = scope
  }

  readonly add = (plan: Model.Plan): void => {
    for (const rule of plan) {
      if (rule._tag === "Seeded") this.#seeded.push(rule)
      else this.#rules.push({ rule, seen: 0, left: rule.times, injected: 0 })
    }
  }

  readonly unused = (): ReadonlyArray<Model.Rule> =>
    this.#rules
      .filter(({ injected, rule }) => (rule.times === Infinity ? injected === 0 : injected < rule.times))
      .map(({ rule }) => rule)

  /** Waits until every rule was injected as often as it says. */
  readonly exhausted: Effect.Effect<void> = Effect.suspend(() =>
    this.unused().length === 0 ? Effect.void : Effect.andThen(this.#news.await, this.exhausted)
  )

  readonly kill = (life: Life): void => {
    life.dead = true
    // What is wrapped from now on belongs to the next service.
    if (this.life === life) this.life = { dead: false }
  }

  /** Counts a call and takes the faults that are due at it. */
  readonly take = (described: Described): Effect.Effect<ReadonlyArray<Due>> =>
    Effect.suspend(() => {
      const count = (this.counts.get(described.operation) ?? 0) + 1
      this.counts.set(described.operation, count)
      const call: Model.Call = { ...described, count }
      const due: Array<Due> = []
      let ends = false
      for (const counter of this.#rules) {
        const { rule } = counter
        if (!rule.operations.includes(call.operation) || !rule.when(call)) continue
        counter.seen++
        if (counter.left === 0 || counter.seen < rule.call) continue
        if (isTerminal(rule.fault)) {
          if (ends) continue
          ends = true
        }
        counter.left--
        let open = true
        due.push({
          fault: rule.fault,
          call,
          injected: () => {
            open = false
            counter.injected++
            this.#note(call, rule.fault)
          },
          giveBack: () => {
            if (open) counter.left++
            open = false
          }
        })
      }
      const chances = this.#seeded.filter(({ operations }) => operations.includes(call.operation))
      if (ends || chances.length === 0) return Effect.succeed(due)
      return Effect.map(
        Effect.forEach(chances, (one) => this.#draw(one, call)),
        (drawn) => [...due, ...drawn.flat()]
      )
    })

  readonly #note = (call: Model.Call, fault: Model.Fault): void => {
    const inner = fault._tag === "At" ? fault.fault : fault
    this.injected.push({
      operation: call.operation,
      count: call.count,
      target: call.target,
      kind: inner._tag,
      ...(fault._tag === "At" ? { position: fault.position } : {})
    })
    const news = this.#news
    this.#news = Latch.makeUnsafe(false)
    news.openUnsafe()
  }

  readonly #draw = (one: Model.Seeded, call: Model.Call): Effect.Effect<ReadonlyArray<Due>> =>
    Effect.all([Random.next, Random.next]).pipe(
      Random.withSeed(`${one.seed}/${call.operation}/${call.count}`),
      Effect.map(([chance, amount]) => {
        const fault = chosen(one, call.operation, chance, amount)
        return fault === undefined
          ? []
          : [{ fault, call, injected: () => this.#note(call, fault), giveBack: () => undefined }]
      })
    )
}

/** The fault that a number from 0 to 1 stands for, if any. */
const chosen = (
  { maxByte, maxDelay, rates }: Model.Seeded,
  operation: Model.Operation,
  chance: number,
  amount: number
): Model.Fault | undefined => {
  const isStream = Model.isStream(operation)
  const table: ReadonlyArray<readonly [rate: number | undefined, possible: boolean, fault: () => Model.Fault]> = [
    [rates.fail, true, () => Model.fail()],
    [rates.rateLimited, !Model.isStored(operation), () => Model.rateLimited({ retryAfter: maxDelay })],
    [rates.loseAnswer, !isStream && operation !== "stdin", () => Model.loseAnswer()],
    [rates.vanish, Model.isAtMachine(operation), () => Model.vanish],
    [rates.delay, true, () => Model.delay(Duration.millis(Math.ceil(amount * Duration.toMillis(maxDelay))))],
    [rates.cut, isStream, () => Model.cut({ atByte: Math.floor(amount * maxByte) })],
    [rates.duplicate, operation === "output", () => Model.duplicate(1 + Math.floor(amount * 4))]
  ]
  let upTo = 0
  for (const [rate, possible, fault] of table) {
    upTo += rate ?? 0
    if (chance < upTo) return possible ? fault() : undefined
  }
  return undefined
}

/** Makes the error of a fault as the wrapped thing would have made it. */
export const errorOf = (call: Model.Call, reason: Model.Reason): SandboxError => {
  const made: SandboxErrorReason = typeof reason === "function" ? reason(call) : reason
  const isLog = (Model.logOperations as ReadonlyArray<Model.Operation>).includes(call.operation)
  const stored = Model.isStored(call.operation)
  const owner = isLog ? "ProcessLog" : stored ? "SandboxStore" : call.target
  return new SandboxError({
    operation: `${owner}.${call.operation}`,
    ...(stored ? {} : { provider: call.target }),
    ...(call.sandboxId === undefined ? {} : { sandboxId: call.sandboxId }),
    ...(call.processId === undefined ? {} : { processId: call.processId }),
    reason: made
  })
}
