/**
 * What a guest does by itself is done by the same launcher at every vendor, and tested with it. In short runs one vendor has each of
 * these cases of the provider suite; `npm run test:full` has them all at each.
 */
import { full } from "./full.ts"

const ofTheGuest = [
  "output that a descendant holds open ends soon after the exit",
  "a signal can be trapped, and forced when it is ignored",
  "signals reach the whole group; afterwards there is nothing left to signal",
  "a deadline kills the group, also a child that ignores TERM",
  "the end of the Scope kills the group",
  "interruption kills the group",
  "recorded: keeps its deadline while nobody watches",
  "what is no time to wait is InvalidArgument, and nothing is sent",
  "exit codes are values",
  "the deadline of a process that was let go holds on",
  "recorded: can be signalled by whoever resumes it",
  "what cannot be started says why, as Node's layer does",
  "many at once do not disturb each other",
  "an unknown signal is InvalidArgument",
  "the working directory is the workspace, or what it is told relative to it"
]

const vendors = ["vercel", "daytona", "sprites"] as const

/** The cases that another vendor has. */
export const omitted = (vendor: (typeof vendors)[number]): ReadonlyArray<string> =>
  full ? [] : ofTheGuest.filter((_, index) => index % vendors.length !== vendors.indexOf(vendor))
