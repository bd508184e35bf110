/**
 * A transaction as the SDK sends it, with a signal: its own `transact` takes none, so that a request without an answer would outlive
 * its deadline, and keep the program from its end.
 */
import * as Predicate from "effect/Predicate"
import type * as Core from "@instantdb/core"
import type { AppClient } from "./open.ts"

/** What the SDK itself makes a transaction with. */
export type CorePackage = Pick<typeof Core, "getOps" | "validateTransactions" | "version">

/** Of a chunk that `tx` builds; its type speaks of one schema. */
export type Chunk = Parameters<typeof Core.getOps>[0]

/** What the SDK sends for a client of a user's. */
const impersonating = (as: AppClient["impersonationOpts"]): { readonly [name: string]: string } => {
  if (as === undefined) return {}
  if ("email" in as) return { "as-email": as.email }
  return "token" in as ? { "as-token": as.token } : { "as-guest": "true" }
}

/** What the SDK sends with every request. */
export const headersOf = ({ config, impersonationOpts }: AppClient): { readonly [name: string]: string } => ({
  "app-id": config.appId,
  ...(config.adminToken === undefined ? {} : { authorization: `Bearer ${config.adminToken}` }),
  ...impersonating(impersonationOpts)
})

/** Of the shape that the SDK throws; an answer that is no JSON is the message. */
const refusal = (status: number, text: string): Error => {
  const told = (body: unknown, message: string) =>
    Object.assign(new Error(message), { name: "InstantAPIError", status, body })
  try {
    const body: unknown = JSON.parse(text)
    const message = Predicate.hasProperty(body, "message") ? String(body.message) : `API Error (${status})`
    return told(body, message)
  } catch {
    return told({ message: text }, text)
  }
}

/** Rejects with what the SDK rejects with, or throws: its check of the schema included. */
export const transact =
  (
    core: CorePackage,
    fetch: typeof globalThis.fetch,
    app: AppClient,
    schema: Parameters<CorePackage["validateTransactions"]>[1]
  ) =>
  async (chunks: ReadonlyArray<Chunk>, signal: AbortSignal): Promise<unknown> => {
    core.validateTransactions([...chunks], schema)
    const response = await fetch(`${app.config.apiURI}/admin/transact?app_id=${app.config.appId}`, {
      method: "POST",
      // Some versions of a framework keep answers of its `fetch`.
      cache: "no-store",
      headers: {
        "content-type": "application/json",
        ...headersOf(app),
        "Instant-Admin-Version": core.version,
        "Instant-Core-Version": core.version
      },
      body: JSON.stringify({ steps: chunks.flatMap(core.getOps), "throw-on-missing-attrs?": true }),
      signal
    })
    if (response.status === 200) return response.json()
    throw refusal(response.status, await response.text())
  }
