/** Machines and records in memory, in virtual time. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as Testing from "../../src/testing/Testing.ts"
import type { Options, Outcome } from "./chaos.ts"
import { Arena, lines, planOfFaults, run } from "./chaos.ts"

/** Says its lines one by one, in a time that depends on nothing else. */
const emit: Fake.Command = ({ args: [nonce = "", size = "0", pause = "0"] }) =>
  Stream.fromIterable(lines(nonce, Number(size))).pipe(
    Stream.mapEffect((line) => Effect.as(Effect.sleep(Number(pause)), Fake.stdout(line)))
  )

const maxDelay = "1 second"

const arena = Layer.effect(
  Arena,
  Effect.map(Fake.Cloud, (cloud) =>
    Arena.of({
      vanish: cloud.vanish,
      halt: cloud.halt,
      machines: Effect.sync(() => cloud.machines),
      readFile: (id, path) =>
        Effect.map(cloud.files(id), (files) => {
          const bytes = files[path]
          return bytes === undefined ? undefined : new TextDecoder().decode(bytes)
        }),
      emit: (nonce, size, pause) => ["emit", [nonce, String(size), String(pause)]],
      started: Effect.sync(() => {
        const started = new Map<string, number>()
        for (const { args, command, nested } of cloud.commands) {
          const [nonce] = args
          if (command === "emit" && !nested && nonce !== undefined) started.set(nonce, (started.get(nonce) ?? 0) + 1)
        }
        return started
      }),
      scaled: Duration.fromInputUnsafe,
      waitsForLeases: true,
      patience: Duration.hours(6),
      maxDelay
    })
  )
)

/** One run of a seed. Needs a `TestClock`. */
export const runOnFake = (options: Options): Effect.Effect<Outcome, unknown> =>
  Testing.passing(run(options), { limit: "365 days" }).pipe(
    Effect.scoped,
    Effect.provide(
      Layer.provideMerge(
        arena,
        Testing.layer({
          commands: { emit },
          // So that something else happens meanwhile.
          bootDelay: "10 seconds",
          faults: planOfFaults(String(options.seed), maxDelay)
        })
      )
    )
  )
