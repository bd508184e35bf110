/** Every benchmark, in the order in which they run. */
import { runCommand, runProcess, storeWrites } from "./cases/commands.ts"
import { importing } from "./cases/importing.ts"
import { burst, durableLog } from "./cases/log.ts"
import { page } from "./cases/page.ts"
import { streamGibibyte, streamMemory } from "./cases/streams.ts"
import type { Case } from "./harness.ts"

export const cases: ReadonlyArray<Case> = [
  runCommand,
  runProcess,
  storeWrites,
  streamGibibyte,
  streamMemory,
  durableLog,
  burst,
  page,
  importing
]
