/**
 * What we keep of a sandbox at the vendor: labels, which are all that a sprite has room for. By them it is found again, and they
 * say what the vendor has no notion of: whether it was stopped, how long its lease is, which boot of ours this is.
 */
import * as Crypto from "node:crypto"
import type { SandboxId } from "../../../model/Ids.ts"

const prefix = "effect-sandbox-"

/** What the labels of a sprite say. */
export interface Tags {
  /** Absent on a sprite that is not ours. */
  readonly sandboxId: SandboxId | undefined
  /** Who is about to take over a sprite that was there before: it is not ours yet, and is given back where that fails. */
  readonly claim: SandboxId | undefined
  /** Of the namespace: see {@link namespaceTag}. */
  readonly namespace: string | undefined
  /** Counts what is a new machine to us although the vendor's sprite is the same: a start after a stop, a restored disk. */
  readonly generation: number
  /** Somebody stopped it; it sleeps, and we act as if it was off. */
  readonly stopped: boolean
  /** Its creation is not finished: it lacks its network policy or its environment. */
  readonly pending: boolean
  /** Its disk ends with a stop. */
  readonly ephemeral: boolean
  /** In ms: how long a boot may live, and when this one ends. */
  readonly lease: { readonly duration: number; readonly end: number } | undefined
  readonly port: number | undefined
  /** The user's own. */
  readonly others: ReadonlyArray<string>
}

/** True for a label that only we give. */
export const isOurs = (label: string): boolean => label.startsWith(prefix)

/** A namespace may be any text, a label may not. */
export const namespaceTag = (namespace: string): string =>
  Crypto.createHash("sha256").update(namespace).digest("hex").slice(0, 24)

const isUuid = (text: string): text is SandboxId =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(text)

/** What these labels say. One that does not read says nothing. */
export const read = (labels: ReadonlyArray<string>): Tags => {
  const of = (name: string, pattern: RegExp): RegExpExecArray | undefined => {
    const start = `${prefix}${name}`
    for (const label of labels) {
      const match = label.startsWith(start) ? pattern.exec(label.slice(start.length)) : null
      if (match !== null) return match
    }
    return undefined
  }
  const idIn = (text: string | undefined) => (text !== undefined && isUuid(text) ? text : undefined)
  const lease = of("lease-", /^(\d{1,14})-(\d{1,15})$/)
  const port = of("port-", /^\d{1,5}$/)?.[0]
  return {
    sandboxId: idIn(of("id-", /^.*$/)?.[0]),
    claim: idIn(of("claim-", /^.*$/)?.[0]),
    namespace: of("ns-", /^[0-9a-f]+$/)?.[0],
    generation: Number(of("generation-", /^\d{1,9}$/)?.[0] ?? "1"),
    stopped: of("stopped", /^$/) !== undefined,
    pending: of("pending", /^$/) !== undefined,
    ephemeral: of("ephemeral", /^$/) !== undefined,
    lease: lease === undefined ? undefined : { duration: Number(lease[1]), end: Number(lease[2]) },
    port: port === undefined ? undefined : Number(port),
    others: labels.filter((label) => !isOurs(label))
  }
}

/** The labels that say this. */
export const write = (tags: Tags): ReadonlyArray<string> => {
  const { claim, ephemeral, generation, lease, namespace, others, pending, port, sandboxId, stopped } = tags
  const own = [
    ...(sandboxId === undefined ? [] : [`id-${sandboxId}`]),
    ...(claim === undefined ? [] : [`claim-${claim}`]),
    ...(namespace === undefined ? [] : [`ns-${namespace}`]),
    `generation-${generation}`,
    ...(stopped ? ["stopped"] : []),
    ...(pending ? ["pending"] : []),
    ...(ephemeral ? ["ephemeral"] : []),
    ...(lease === undefined ? [] : [`lease-${Math.ceil(lease.duration)}-${Math.ceil(lease.end)}`]),
    ...(port === undefined ? [] : [`port-${port}`])
  ]
  return [...others, ...own.map((label) => `${prefix}${label}`)]
}
