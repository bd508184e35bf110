/** What a page costs in a small store and in a large one. */
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Sql from "../../src/layers/stores/Sql.ts"
import { ProcessId, SandboxId } from "../../src/model/Ids.ts"
import type { ProcessEvent } from "../../src/model/ProcessEvent.ts"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import type { Bench } from "../harness.ts"
import { atMost, interleave, ratio, timed } from "../harness.ts"
import { temporary } from "../support.ts"

const pageSize = 100
const small = 1_000
const large = 100_000

const toSandboxId = Schema.decodeUnknownSync(SandboxId)
const toProcessId = Schema.decodeUnknownSync(ProcessId)
const uuid = (n: number) => `00000000-0000-4000-8000-${n.toString(16).padStart(12, "0")}`

/** The sandbox that all of the asked-for processes belong to, and the process whose log is read. */
const sandboxId = toSandboxId(uuid(1))
const processId = toProcessId(uuid(1))

/**
 * A store with this many sandboxes and processes and one log of as many events. What a filter looks for is a page's worth,
 * spread evenly.
 */
const filled = Effect.fnUntraced(function* (count: number) {
  const directory = yield* temporary
  const context = yield* Layer.build(Layer.fresh(Sql.layerSqlite({ file: `${directory}/records.sqlite` })))
  const store = Context.get(context, SandboxStore)
  const log = Context.get(context, ProcessLog)
  const rare = count / pageSize
  for (let n = 1; n <= count; n++) {
    yield* store.insertSandbox({
      id: toSandboxId(uuid(n)),
      provider: "local",
      externalSandboxId: `local:${n}`,
      status: n % rare === 0 ? "error" : "active",
      purpose: n % rare === 0 ? "rare" : "common",
      createdAt: n
    })
    yield* store.insertProcess({
      id: toProcessId(uuid(n)),
      sandboxId: n % rare === 0 ? sandboxId : toSandboxId(uuid(n + large)),
      kind: "command",
      mode: "background",
      status: "running",
      provider: "local",
      command: "true",
      args: [],
      startedAt: n,
      lease: { owner: "bench", epoch: 1, expiresAt: 0 }
    })
  }
  const batch = 1_000
  for (let from = 0; from < count; from += batch) {
    const events = Array.from({ length: batch }, (_, index): ProcessEvent => {
      const seq = from + index + 1
      return {
        _tag: "stdout",
        seq,
        at: seq,
        sandboxId: toSandboxId(uuid(1 + large)),
        processId,
        offset: (seq - 1) * 64,
        bytes: new Uint8Array(64).fill(97)
      }
    })
    yield* log.append(processId, 1, events)
  }
  const exactly = <A, E>(stream: Stream.Stream<A, E>) =>
    Stream.take(stream, pageSize).pipe(
      Stream.runCount,
      Effect.flatMap((got) =>
        got === pageSize ? Effect.void : Effect.die(new Error(`a page has ${got} records out of ${pageSize}`))
      )
    )
  return {
    newest: exactly(store.listSandboxes()),
    middle: exactly(store.listSandboxes({ createdBefore: count / 2 })),
    filtered: Effect.andThen(
      exactly(store.listSandboxes({ status: ["error"] })),
      exactly(store.listSandboxes({ purpose: "rare" }))
    ),
    processes: exactly(store.listProcesses({ sandboxId })),
    log: exactly(log.read(processId, { after: count - pageSize }))
  }
})

export const page: Bench = Effect.gen(function* () {
  const few = yield* filled(small)
  const many = yield* filled(large)
  const pages = {
    newest: "the newest sandboxes",
    middle: "sandboxes from the middle on",
    filtered: "sandboxes by a status and by a purpose that 1 in 1000 has",
    processes: "the processes of one sandbox",
    log: "the end of a log"
  }
  const figures = []
  for (const [name, what] of Object.entries(pages) as ReadonlyArray<[keyof typeof pages, string]>) {
    const rounds = yield* interleave(
      {
        large: timed(Effect.replicateEffect(many[name], 50, { discard: true })),
        small: timed(Effect.replicateEffect(few[name], 50, { discard: true }))
      },
      { warmUp: 2 }
    )
    const { note, value } = ratio(rounds, "large", "small")
    figures.push(atMost(2, { name: `page/${name}`, value, unit: "x", note: `${what}; 50 pages each: ${note}` }))
  }
  return figures
}).pipe(Effect.scoped, Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))
