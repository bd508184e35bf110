/** No isolation: commands are plain processes of this host. A private directory and a clean environment, no boundary. */
import * as Effect from "effect/Effect"
import type { LocalSubstrate } from "./substrate.ts"

export const substrate: LocalSubstrate = {
  isolation: "none",
  argumentsVisible: true,
  open: (paths) =>
    Effect.succeed({
      workspaceRoot: paths.workspace,
      temporary: paths.tmp,
      enter: (launch) => launch
    })
}
