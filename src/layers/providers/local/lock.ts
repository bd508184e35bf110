/** One writer at a time for the life of a sandbox: boot, stop, checkpoint and restore, across processes. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Crypto from "node:crypto"
import * as FsPromises from "node:fs/promises"
import type { SandboxError } from "../../../errors.ts"
import { Busy, Gone } from "../../../errors.ts"
import { codeOf, failWith, io } from "./failures.ts"
import { bootId, identity, isRunning } from "./os.ts"
import type { Paths } from "./state.ts"

const Holder = Schema.fromJsonString(
  Schema.Struct({ token: Schema.String, pid: Schema.Int, startTime: Schema.String, bootId: Schema.String })
)
const decode = Schema.decodeUnknownOption(Holder)
const encode = Schema.encodeSync(Holder)

const optional = async <A>(evaluate: () => Promise<A>): Promise<A | undefined> => {
  try {
    return await evaluate()
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined
    throw error
  }
}

/** True if the lock was free and is ours now. A lock whose owner is dead is taken aside first. */
const tryAcquire = async (path: string, token: string): Promise<boolean> => {
  const mine = `${path}.${token}`
  await FsPromises.writeFile(mine, encode({ token, bootId: bootId(), ...identity() }), { mode: 0o600 })
  try {
    for (let attempts = 0; attempts < 3; attempts++) {
      try {
        // A link appears whole or not at all.
        await FsPromises.link(mine, path)
        return true
      } catch (error) {
        if (codeOf(error) !== "EEXIST") throw error
      }
      const text = await optional(() => FsPromises.readFile(path, "utf8"))
      if (text === undefined) continue
      const holder = decode(text)
      if (Option.isSome(holder) && holder.value.bootId === bootId() && isRunning(holder.value)) return false
      const aside = `${path}.dead.${token}`
      await optional(() => FsPromises.rename(path, aside))
      const taken = await optional(() => FsPromises.readFile(aside, "utf8"))
      // Somebody was faster and this is a living lock: put it back, unless there is another already.
      if (taken !== undefined && taken !== text) {
        await FsPromises.link(aside, path).catch((error: unknown) => {
          if (codeOf(error) !== "EEXIST") throw error
        })
      }
      await FsPromises.rm(aside, { force: true })
    }
    return false
  } finally {
    await FsPromises.rm(mine, { force: true })
  }
}

const release = async (path: string, token: string): Promise<void> => {
  const text = await optional(() => FsPromises.readFile(path, "utf8"))
  const holder = text === undefined ? Option.none() : decode(text)
  if (Option.isSome(holder) && holder.value.token === token) await FsPromises.rm(path, { force: true })
}

const poll = Schedule.spaced(Duration.millis(25))

/** Runs the effect while nobody else, in this or another process, does the same for this sandbox. Waits for its turn. */
export const withLock = (operation: string, paths: Paths) => <A, R>(
  effect: Effect.Effect<A, SandboxError, R>
): Effect.Effect<A, SandboxError, R> =>
  Effect.suspend(() => {
    const token = Crypto.randomUUID()
    const acquire = io(operation, () => tryAcquire(paths.lock, token)).pipe(
      Effect.catchReason("SandboxError", "Unknown", (reason) =>
        Effect.fail(failWith(
          operation,
          codeOf(reason.cause) === "ENOENT" ? new Gone({ evidence: `${paths.directory} does not exist` }) : reason
        ))),
      Effect.filterOrFail((won) => won, () => failWith(operation, new Busy({ owner: "another operation on this sandbox" })))
    )
    return Effect.acquireUseRelease(
      Effect.interruptible(Effect.retry(acquire, { schedule: poll, while: (error) => error.reason._tag === "Busy" })),
      () => effect,
      () => Effect.ignore(io(operation, () => release(paths.lock, token)))
    )
  })
