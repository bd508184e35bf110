/**
 * What crashes left behind is cleared away every night: `node examples/nightlyReconcile.ts [directory] --nightly` stays, and does so
 * at three o'clock. Without it this leaves something behind itself, and shows what the job would do and what it does.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Schedule, Stream } from "effect"
import * as Embedded from "../src/Embedded.ts"
import * as Reconcile from "../src/programs/reconcile.ts"
import { SandboxService } from "../src/services/SandboxService.ts"
import { SandboxStore } from "../src/services/SandboxStore.ts"

const nightly = process.argv.includes("--nightly")
const [directory = ".effect-sandbox"] = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))

/** Logs of processes are kept for a month, records of sandboxes that have nothing left for a year. */
const retention = { keepProcesses: "30 days", keepSandboxes: "365 days" } as const

/** One night's work. A provider that cannot be reached is no reason to give up the night after. */
const job = Reconcile.run(retention).pipe(
  Effect.flatMap((report) => Effect.logInfo(Reconcile.format(report))),
  Effect.catch((error) => Effect.logError("reconcile failed", error))
)

const everyNight = Effect.asVoid(Effect.schedule(job, Schedule.cron("0 3 * * *"))).pipe(
  // The expression is right.
  Effect.catchTag("CronParseError", Effect.die)
)

const show = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const store = yield* SandboxStore
  const kept = yield* sandboxes.createSandbox({ purpose: "in use" })
  const lost = yield* sandboxes.createSandbox({ purpose: "forgotten" })
  // As if a backup of the database had been put back that is older than this sandbox: a machine that nobody has a record of.
  const { version = 0 } = yield* sandboxes.getSandbox(lost.sandboxId)
  yield* store.deleteSandbox(lost.sandboxId, version)

  // What is younger than `grace` may be somebody's who is at it; here nobody is.
  const options = { ...retention, grace: "1 millis" } as const
  yield* Console.log(Reconcile.format(yield* Reconcile.run({ ...options, dryRun: true })))
  yield* Console.log(Reconcile.format(yield* Reconcile.run(options)))
  yield* Console.log(Reconcile.format(yield* Reconcile.run(options)))

  const active = yield* Stream.runCollect(sandboxes.listSandboxes({ status: ["active"] }))
  yield* Console.log(active.map(({ purpose }) => purpose).join())
  yield* sandboxes.stopSandbox(kept.sandboxId, { delete: true })
})

NodeRuntime.runMain(Effect.provide(nightly ? everyNight : show, Embedded.layer({ directory })))
