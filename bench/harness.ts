/** Measuring: rounds that take turns, their median ratio, resident memory, and what a figure is. */
import * as Effect from "effect/Effect"

/** One measured figure against its target. */
export interface Figure {
  readonly name: string
  readonly value: number
  readonly unit: string
  /** Such as `<= 1.3`. */
  readonly target: string
  readonly ok: boolean
  /** For people: what was compared with what, and how far the rounds lie apart. */
  readonly note: string
}

/** A benchmark yields all of its figures or fails. */
export type Bench = Effect.Effect<ReadonlyArray<Figure>, unknown>

interface Measured {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly note: string
}

export const atMost = (limit: number, measured: Measured): Figure => ({
  ...measured,
  target: `<= ${limit}`,
  ok: measured.value <= limit
})

export const atLeast = (limit: number, measured: Measured): Figure => ({
  ...measured,
  target: `>= ${limit}`,
  ok: measured.value >= limit
})

export const below = (limit: number, measured: Measured): Figure => ({
  ...measured,
  target: `< ${limit}`,
  ok: measured.value < limit
})

/** The middle of an odd number of values; the lower of both middles of an even one. */
export const median = (values: ReadonlyArray<number>): number => {
  const middle = [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)]
  if (middle === undefined) throw new RangeError("the median of nothing")
  return middle
}

/** Collects garbage where node was started with `--expose-gc`, so that no round pays for the one before. */
export const collectGarbage = Effect.sync(() => globalThis.gc?.())

/** How long an effect takes, in ms. */
export const timed = <E, R>(effect: Effect.Effect<unknown, E, R>): Effect.Effect<number, E, R> =>
  Effect.gen(function* () {
    yield* collectGarbage
    const from = performance.now()
    yield* effect
    return performance.now() - from
  })

/** The ms of every contestant in every round. */
export type Rounds<Name extends string> = ReadonlyArray<Readonly<Record<Name, number>>>

/**
 * Runs the contestants in turn, a new order each round, so that what else the machine does hits all of them alike. Rounds of
 * the warm-up are not reported. A contestant yields its own ms.
 */
export const interleave = <Name extends string, E, R>(
  contestants: Readonly<Record<Name, Effect.Effect<number, E, R>>>,
  options: { readonly warmUp?: number; readonly rounds?: number } = {}
): Effect.Effect<Rounds<Name>, E, R> =>
  Effect.gen(function* () {
    const { rounds = 7, warmUp = 1 } = options
    // `keys` of a record are its names.
    const names = Object.keys(contestants) as Array<Name>
    const all: Array<Record<Name, number>> = []
    for (let round = 0; round < warmUp + rounds; round++) {
      const first = round % names.length
      const order = [...names.slice(first), ...names.slice(0, first)]
      // Filled below: every name is in the order once.
      const times = {} as Record<Name, number>
      for (const name of order) times[name] = yield* contestants[name]
      if (round >= warmUp) all.push(times)
    }
    return all
  })

/** The median of the rounds' ratios, and how far they lie apart. */
export const ratio = <Name extends string>(rounds: Rounds<Name>, over: Name, under: Name) => {
  const ratios = rounds.map((round) => round[over] / round[under])
  const show = (name: Name) => `${name} ${format(median(rounds.map((round) => round[name])))} ms`
  return {
    value: median(ratios),
    note: `${show(over)}, ${show(under)}; rounds ${format(Math.min(...ratios))} to ${format(Math.max(...ratios))}`
  }
}

const mebi = 1024 * 1024

/** By how many MiB resident memory grows at most, above what it was before, while an effect runs. */
export const residentGrowth = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.gen(function* () {
    yield* collectGarbage
    const before = process.memoryUsage.rss()
    let peak = before
    const timer = setInterval(() => {
      peak = Math.max(peak, process.memoryUsage.rss())
    }, 10)
    yield* Effect.ensuring(
      effect,
      Effect.sync(() => clearInterval(timer))
    )
    return (Math.max(peak, process.memoryUsage.rss()) - before) / mebi
  })

/** 1 when a target is missed, or when a benchmark failed (`undefined`) or measured nothing. */
export const exitCodeOf = (results: ReadonlyArray<ReadonlyArray<Figure> | undefined>): 0 | 1 =>
  results.every((figures) => figures !== undefined && figures.length > 0 && figures.every(({ ok }) => ok)) ? 0 : 1

/** Three significant digits, or whole numbers. */
export const format = (value: number): string =>
  Number.isInteger(value) || value >= 1000 ? value.toFixed(0) : value.toPrecision(3)

/** The figures as people read them. */
export const table = (figures: ReadonlyArray<Figure>): string => {
  const rows = figures.map((figure) => [
    figure.ok ? "ok" : "MISSED",
    figure.name,
    `${format(figure.value)} ${figure.unit}`.trim(),
    figure.target,
    figure.note
  ])
  const widths = [0, 1, 2, 3].map((column) => Math.max(0, ...rows.map((row) => row[column]?.length ?? 0)))
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd()
    )
    .join("\n")
}
