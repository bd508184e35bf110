/**
 * Everything about Vercel but the suite of every provider. In one file, because each file of tests loads all of Effect and the
 * vendor's SDK anew, which costs more processor time than most of these do.
 */
import { full } from "../../../support/full.ts"

await import("./wire.cases.ts")
await import("./plan.cases.ts")
await import("./credentials.cases.ts")
await import("./processes.cases.ts")
await import("./machine.cases.ts")
await import("./adoption.cases.ts")
await import("./service.cases.ts")
await import("./faults.cases.ts")
// Files and programs are derived as they are over a local guest; here each of their commands costs a connection.
if (full) await import("./platform.cases.ts")
