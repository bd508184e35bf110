/** What the suites of stores and logs share. */
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import type { ReasonTag, SandboxError } from "../../errors.ts"
import { ProcessId, SandboxId } from "../../model/Ids.ts"
import type { ProcessRecord } from "../../model/Process.ts"
import type { OutputProcessEvent, ProcessEvent } from "../../model/ProcessEvent.ts"
import type { SandboxRecord } from "../../model/SandboxRecord.ts"

export const newSandboxId = (): SandboxId => SandboxId.make(SecureRandom.uuidV4Unsafe())
export const newProcessId = (): ProcessId => ProcessId.make(SecureRandom.uuidV4Unsafe())

/** Text that no other test uses: what keeps the tests of one store apart. */
export const unique = (prefix: string): string => `${prefix}-${SecureRandom.uuidV4Unsafe()}`

export const sandboxRecord = (fields: Partial<SandboxRecord> = {}): SandboxRecord => ({
  id: newSandboxId(),
  provider: "suite",
  status: "active",
  createdAt: 1000,
  ...fields
})

export const processRecord = (fields: Partial<ProcessRecord> = {}): ProcessRecord => ({
  id: newProcessId(),
  sandboxId: newSandboxId(),
  provider: "suite",
  kind: "command",
  mode: "foreground",
  status: "running",
  command: "true",
  args: [],
  startedAt: 1000,
  ...fields
})

/** A process whose log can be appended to with the epoch 1. */
export const leasedProcess = (fields: Partial<ProcessRecord> = {}): ProcessRecord =>
  processRecord({ lease: { owner: "writer", epoch: 1, expiresAt: 1e12 }, ...fields })

/** Numbers chunks of output from `from` on, the first at `offset`. */
export const chunks = (
  process: ProcessRecord,
  from: number,
  bytes: ReadonlyArray<Uint8Array>,
  offset = 0
): Array<ProcessEvent> => {
  let next = offset
  return bytes.map((chunk, index) => {
    const event: ProcessEvent = {
      _tag: "stdout",
      at: 5000 + from + index,
      seq: from + index,
      sandboxId: process.sandboxId,
      processId: process.id,
      offset: next,
      bytes: chunk
    }
    next += chunk.length
    return event
  })
}

/** One chunk of text. */
export const chunk = (process: ProcessRecord, seq: number, text: string, offset = 0): OutputProcessEvent => ({
  _tag: "stdout",
  at: 5000 + seq,
  seq,
  sandboxId: process.sandboxId,
  processId: process.id,
  offset,
  bytes: new TextEncoder().encode(text)
})

/** How an effect fails: the reason, with the kind of a `Store`. */
export const failure = <A, R>(
  effect: Effect.Effect<A, SandboxError, R>
): Effect.Effect<ReasonTag | `Store(${string})`, A, R> =>
  Effect.map(Effect.flip(effect), ({ reason }) =>
    reason._tag === "Store" ? (`Store(${reason.kind})` as const) : reason._tag
  )
