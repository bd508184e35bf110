/**
 * The stages of a recorded process at which its service dies. Its imports are of single modules: each process that a test starts
 * would load all of Effect otherwise.
 */
import { isTerminal } from "../../src/model/Process.ts"
import * as Faults from "../../src/testing/Faults.ts"

const lines = 3000
/** What {@link script} writes to stdout. */
export const text = Array.from({ length: lines }, (_, line) => `line ${line}\n`).join("")
/** Leaves a mark each time it is run, and says how it ends in its code and on both outputs. */
export const script = `echo run >> runs; i=0; while [ $i -lt ${lines} ]; do echo "line $i"; i=$((i+1)); done; echo done >&2; exit 7`

const isFinal: Faults.When<"append"> = {
  when: ({ args: [, , , patch] }) => patch?.status !== undefined && isTerminal(patch.status)
}
const inOutput = { byte: 9000, stream: "stdout" } as const

export interface Stage {
  readonly name: string
  readonly rule: Faults.Rule
  /** Whether it may be that nothing was run. */
  readonly neverStarted?: boolean
  /** The service ends as in a deployment (SIGTERM), once it has come there; otherwise it is dead there. */
  readonly closes?: boolean
}

export const stages: ReadonlyArray<Stage> = [
  { name: "before its record", rule: Faults.on("insertProcess", Faults.kill("before")), neverStarted: true },
  { name: "between its record and its start", rule: Faults.on("start", Faults.kill("before")), neverStarted: true },
  { name: "between its acceptance and its record", rule: Faults.on("start", Faults.kill("after")) },
  { name: "before the first write of its log", rule: Faults.on("append", Faults.kill("before")) },
  { name: "in mid-output", rule: Faults.on("output", Faults.at(inOutput, Faults.kill("before"))) },
  { name: "in mid-output, by a deployment", rule: Faults.on("output", Faults.at(inOutput, Faults.hang)), closes: true },
  { name: "between its exit and the final write", rule: Faults.on("append", Faults.kill("before"), isFinal) },
  {
    name: "between its exit and the final write, which gets no answer, by a deployment",
    rule: Faults.on("append", Faults.hang, isFinal),
    closes: true
  },
  { name: "after the final write", rule: Faults.on("append", Faults.kill("after"), isFinal) }
]
