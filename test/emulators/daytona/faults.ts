/** Scripted misbehaviour: by endpoint and number of requests. What the provider makes of each is in its `faults.test.ts`. */

/** Every endpoint by name; those of the toolbox begin with `toolbox`. */
export const endpoints = [
  "sandbox.create",
  "sandbox.get",
  "sandbox.list",
  "sandbox.start",
  "sandbox.stop",
  "sandbox.recover",
  "sandbox.archive",
  "sandbox.delete",
  "sandbox.snapshot",
  "sandbox.labels",
  "sandbox.ttl",
  "sandbox.autostop",
  "sandbox.previewUrl",
  "sandbox.toolboxUrl",
  "sandbox.signedPreviewUrl",
  "snapshot.list",
  "snapshot.get",
  "snapshot.delete",
  "volume.list",
  "volume.create",
  "volume.get",
  "volume.getByName",
  "volume.delete",
  "toolbox.execute",
  "toolbox.upload",
  "toolbox.download",
  "toolbox.deleteFile",
  "toolbox.workDir",
  "toolbox.processes",
  "toolbox.processStart",
  "toolbox.processLogs",
  "toolbox.processSignal",
  "toolbox.processDelete"
] as const
export type Endpoint = (typeof endpoints)[number]

export type Fault =
  /** The connection is reset, before the request is executed or after. The SDK repeats it only for GET, PUT and DELETE. */
  | { readonly _tag: "Reset"; readonly executed: boolean }
  | {
      readonly _tag: "Answer"
      readonly executed: boolean
      readonly status: number
      readonly headers: Readonly<Record<string, string>>
      readonly body: string
    }
  /** Waits for promises of the test, before or after it is executed. */
  | { readonly _tag: "Gate"; readonly before?: Promise<void> | undefined; readonly after?: Promise<void> | undefined }
  /** What is made comes to this state instead: for creations, snapshots and volumes. `hold` leaves it on its way. */
  | { readonly _tag: "Becomes"; readonly state: "error" | "build_failed" | "hold"; readonly reason: string }
  /**
   * Of an upload, a download or a process's events only so many bytes: stored and told as a success, or sent before the connection is
   * cut.
   */
  | { readonly _tag: "Cut"; readonly bytes: number }
  /** The list still has what was destroyed, as if it ran. */
  | { readonly _tag: "Ghosts" }
  /** An answer of before: the vendor keeps them for a moment. */
  | { readonly _tag: "Stale"; readonly state: string }

export const resetBefore: Fault = { _tag: "Reset", executed: false }
export const resetAfter: Fault = { _tag: "Reset", executed: true }

/** An error in the API's shape. */
export const status = (
  status: number,
  message: string,
  options: { readonly executed?: boolean; readonly headers?: Readonly<Record<string, string>> } = {}
): Fault => ({
  _tag: "Answer",
  executed: options.executed ?? false,
  status,
  headers: { "content-type": "application/json", ...options.headers },
  body: JSON.stringify({ statusCode: status, message })
})

/** 429 as the vendor sends it: the header has the name of the limit behind it. */
export const rateLimited = (seconds: number, scope = "authenticated"): Fault =>
  status(429, "ThrottlerException: Too Many Requests", { headers: { [`Retry-After-${scope}`]: String(seconds) } })

/** A proxy's page where JSON belongs; with `executed` it lost the answer of what was done. */
export const badGateway = (options: { readonly executed?: boolean } = {}): Fault => ({
  _tag: "Answer",
  executed: options.executed ?? false,
  status: 502,
  headers: { "content-type": "text/html" },
  body: "<!doctype html><title>Bad Gateway</title>"
})

export const gate = (gates: { readonly before?: Promise<void>; readonly after?: Promise<void> }): Fault => ({
  _tag: "Gate",
  ...gates
})

export const becomes = (state: "error" | "build_failed" | "hold", reason = "the emulator says so"): Fault => ({
  _tag: "Becomes",
  state,
  reason
})

export const cut = (bytes: number): Fault => ({ _tag: "Cut", bytes })

interface Script {
  readonly endpoint: Endpoint
  readonly fault: Fault
  skip: number
  times: number
}

/** The scripts in the order in which they were given; a request meets the first that wants it. */
export class Faults {
  readonly #scripts: Array<Script> = []

  inject(
    endpoint: Endpoint,
    fault: Fault,
    options: { readonly times?: number | undefined; readonly skip?: number | undefined } = {}
  ): void {
    this.#scripts.push({ endpoint, fault, skip: options.skip ?? 0, times: options.times ?? 1 })
  }

  take(endpoint: Endpoint): Fault | undefined {
    for (const script of this.#scripts) {
      if (script.times === 0 || script.endpoint !== endpoint) continue
      if (script.skip > 0) {
        script.skip -= 1
        continue
      }
      script.times -= 1
      return script.fault
    }
    return undefined
  }

  clear(): void {
    this.#scripts.length = 0
  }

  /** How many requests would still meet a fault: 0 when the script was played to its end. */
  get pending(): number {
    return this.#scripts.reduce((sum, { times }) => sum + times, 0)
  }
}
