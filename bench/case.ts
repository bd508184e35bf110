/** Runs one benchmark in this process, which ran nothing else, and prints its figures as JSON: `node bench/case.ts <name>`. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { cases } from "./cases.ts"

const found = cases.find(({ name }) => name === process.argv[2])
if (found === undefined) throw new Error(`no such benchmark: ${process.argv[2]}`)

const run = Effect.flatten(Effect.promise(found.load))
NodeRuntime.runMain(Effect.flatMap(run, (figures) => Console.log(JSON.stringify(figures))))
