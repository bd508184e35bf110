/**
 * Everything about Sprites but the suites of every provider. In one file, because each file of tests loads all of Effect and of this
 * library anew, which costs more processor time than most of these do.
 */
await import("./plan.cases.ts")
await import("./exec.cases.ts")
await import("./service.cases.ts")
await import("./adoption.cases.ts")
await import("./faults.cases.ts")
