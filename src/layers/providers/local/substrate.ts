/** The seam for isolation: how a command of a sandbox becomes a program that this host starts. */
import type * as Effect from "effect/Effect"
import type { SandboxError } from "../../../errors.ts"
import type { Paths, SandboxState } from "./state.ts"

/** A program to start: no shell, the complete environment, an absolute cwd. */
export interface Launch {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
}

/** A sandbox's place to run commands in. */
export interface Place {
  /** Where commands see the workspace. */
  readonly workspaceRoot: string
  /** Where they see their temporary directory. */
  readonly temporary: string
  /** Turns a command as the sandbox sees it into one of this host's. Pure and cheap: it is on the path of every start. */
  readonly enter: (launch: Launch) => Launch
}

/** One way to isolate. */
export interface LocalSubstrate {
  readonly isolation: "none" | "bubblewrap"
  /** Whether a program's arguments can be read by the host's other processes. */
  readonly argumentsVisible: boolean
  /** The place of a running machine. What it holds belongs to the Scope that the substrate was made in. */
  readonly open: (paths: Paths, state: SandboxState) => Effect.Effect<Place, SandboxError>
}
