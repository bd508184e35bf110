/** Runs one benchmark in this process, which ran nothing else, and prints its figures as JSON: `node bench/case.ts <name>`. */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import { cases } from "./cases.ts"

const found = cases.find(({ name }) => name === process.argv[2])
if (found === undefined) throw new Error(`no such benchmark: ${process.argv[2]}`)

NodeRuntime.runMain(Effect.flatMap(found.run, (figures) => Console.log(JSON.stringify(figures))))
