/**
 * The `fetch` that the SDK is given. The SDK re-submits whatever it got no good answer for, also a command or a creation that was
 * taken up; reads the output of a command faster than anybody consumes it, and breaks characters that arrive in two pieces. All
 * of that ends here:
 *
 * - The real token is put in here, and the SDK is given another one: to a token that looks like one of OIDC it would prefer
 *   whatever it finds in the environment. It goes to the vendor's API and nowhere else.
 * - 429, 5xx and a lost connection become one answer that the SDK does not retry ({@link madeUp}); retrying is the schedules'.
 * - The body of a log is read only while somebody waits for more of it ({@link Gate}), in whole characters, and one that breaks
 *   off ends, with its failure in the gate: an error in it the SDK would print to the console.
 */
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import { madeUp, networkCode, unanswered } from "../../internal/vercelErrors.ts"

type Fetch = typeof globalThis.fetch

/** Where the SDK's API is; the SDK has no setting for it. */
const apiOrigin = "https://vercel.com"

/** Lets a log through, piece by piece. */
export interface Gate {
  /** Something is wanted: reading may go on. */
  readonly open: () => void
  readonly shut: () => void
  /** Why the log broke off, or undefined. */
  readonly failure: () => unknown
  /** The log will not be asked for, or no more: no later one meets this gate. */
  readonly forget: () => void
}

/** The way to the vendor. */
export interface Wire {
  readonly fetch: Fetch
  /** The gate of the next log that is asked for of this command. */
  readonly gateOf: (commandId: string) => Gate
}

interface Doorman extends Gate {
  readonly passed: Promise<void>
  readonly fail: (error: unknown) => void
}

const makeGate = (forget: () => void): Doorman => {
  let failure: unknown
  let release: (() => void) | undefined
  let passed: Promise<void> | undefined
  return {
    open: () => {
      passed = Promise.resolve()
      release?.()
      release = undefined
    },
    shut: () => {
      passed = undefined
    },
    failure: () => failure,
    forget,
    fail: (error) => {
      failure = error
    },
    get passed() {
      return (passed ??= new Promise<void>((resolve) => {
        release = resolve
      }))
    }
  }
}

/** The body in whole characters, read only while the gate is open. */
const guarded = (body: ReadableStream<Uint8Array>, gate: Doorman | undefined): ReadableStream<Uint8Array> => {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  const encoder = new TextEncoder()
  return new ReadableStream<Uint8Array>(
    {
      pull: async (controller) => {
        for (;;) {
          if (gate !== undefined) await gate.passed
          try {
            const { done, value } = await reader.read()
            const text = done ? decoder.decode() : decoder.decode(value, { stream: true })
            if (text !== "") controller.enqueue(encoder.encode(text))
            if (done) return controller.close()
            if (text !== "") return
          } catch (error) {
            if (gate === undefined) return controller.error(error)
            gate.fail(error)
            return controller.close()
          }
        }
      },
      cancel: (reason) => reader.cancel(reason)
    },
    // Nothing is read ahead of what is asked for.
    { highWaterMark: 0 }
  )
}

/** An answer that the SDK takes as final. */
const answer = (status: number, code: string | undefined, message: string, headers: Headers): Response =>
  new Response(JSON.stringify({ error: { ...(code === undefined ? {} : { code }), message, [madeUp]: status } }), {
    status: 499,
    headers
  })

/** Only what tells how long to wait: the rest of the headers is about a body that is not passed on. */
const waiting = (headers: Headers): Headers => {
  const kept = new Headers({ "content-type": "application/json" })
  const wait = headers.get("retry-after")
  if (wait !== null) kept.set("retry-after", wait)
  return kept
}

const errorOf = (text: string): { readonly code?: string; readonly message?: string } => {
  try {
    const body: unknown = JSON.parse(text)
    const error = Predicate.hasProperty(body, "error") ? body.error : undefined
    return {
      ...(Predicate.hasProperty(error, "code") && Predicate.isString(error.code) ? { code: error.code } : {}),
      ...(Predicate.hasProperty(error, "message") && Predicate.isString(error.message)
        ? { message: error.message }
        : {})
    }
  } catch {
    return {}
  }
}

const isAbort = (error: unknown, signal: AbortSignal | null | undefined): boolean =>
  signal?.aborted === true || (Predicate.hasProperty(error, "name") && error.name === "AbortError")

const isOfApi = (url: string): boolean => URL.canParse(url) && new URL(url).origin === apiOrigin

/** The way to the vendor over this `fetch`, with the rights that each request is given then. */
export const make = (token: () => Redacted.Redacted<string>, fetch: Fetch): Wire => {
  const gates = new Map<string, Array<Doorman>>()

  const takeGate = (url: string): Doorman | undefined => {
    const commandId = /\/cmd\/([^/?]+)\/logs(?:\?|$)/.exec(url)?.[1]
    const waitingFor = commandId === undefined ? undefined : gates.get(commandId)
    const gate = waitingFor?.shift()
    if (commandId !== undefined && waitingFor?.length === 0) gates.delete(commandId)
    return gate
  }

  const guardedFetch: Fetch = async (input, init) => {
    const url = String(input instanceof Request ? input.url : input)
    const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined))
    if (isOfApi(url)) headers.set("authorization", `Bearer ${Redacted.value(token())}`)
    const gate = takeGate(url)
    let response: Response
    try {
      response = await fetch(input, { ...init, headers })
    } catch (error) {
      if (isAbort(error, init?.signal)) throw error
      return answer(0, unanswered, networkCode(error) ?? "the connection was lost", waiting(new Headers()))
    }
    if (response.status === 429 || response.status >= 500) {
      const { code, message } = errorOf(await response.text().catch(() => ""))
      return answer(response.status, code, message ?? response.statusText, waiting(response.headers))
    }
    if (response.body === null || response.headers.get("content-type") !== "application/x-ndjson") return response
    return new Response(guarded(response.body, gate), { status: response.status, headers: response.headers })
  }

  return {
    fetch: guardedFetch,
    gateOf: (commandId) => {
      const gate: Doorman = makeGate(() => {
        const waitingFor = gates.get(commandId)?.filter((other) => other !== gate) ?? []
        if (waitingFor.length === 0) gates.delete(commandId)
        else gates.set(commandId, waitingFor)
      })
      const waitingFor = gates.get(commandId)
      if (waitingFor === undefined) gates.set(commandId, [gate])
      else waitingFor.push(gate)
      return gate
    }
  }
}
