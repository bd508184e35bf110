/** What the stores do alike with records: how a patch is applied, and which fields are filtered and ordered by. */
import type * as Schema from "effect/Schema"
import type { Row, RowPatch } from "../../services/SandboxStore.ts"

/** The row after the patch: `undefined` removes a field. */
export const applyPatch = (row: Row, patch: RowPatch): Row => {
  const fields: { [field: string]: Schema.Json | undefined } = { ...row }
  for (const [field, value] of Object.entries(patch)) {
    if (value === undefined) delete fields[field]
    else fields[field] = value
  }
  return { ...fields, id: row.id, version: patch.version }
}

/** A field's text, null where there is none: what a column holds. */
export const textField = (row: Row, field: string): string | null => {
  const value = row[field]
  return typeof value === "string" ? value : null
}

/** A field's number, 0 where there is none. */
export const numberField = (row: Row, field: string): number => {
  const value = row[field]
  return typeof value === "number" ? value : 0
}

/** The epoch of the row's lease; 0 for a row that never had one. */
export const leaseEpoch = (row: Row): number => {
  const lease = row.lease
  return typeof lease === "object" && lease !== null && "epoch" in lease && typeof lease.epoch === "number"
    ? lease.epoch
    : 0
}
