/** Bytes as a model can read them: text where they are text, and never something that looks like it. */
import * as Base64 from "effect/encoding/Base64"

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const lossy = new TextDecoder("utf-8", { ignoreBOM: true })

/** Well-formed UTF-8 without NUL; undefined for anything else. */
export const textOf = (bytes: Uint8Array): string | undefined => {
  if (bytes.includes(0)) return undefined
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}

/** As text, malformed bytes replaced. */
export const shown = (bytes: Uint8Array): string => lossy.decode(bytes)

/** A part of a text; of a character that the cut goes through no half stays, which other programs than this cannot read. */
export const cut = (text: string, start: number, end?: number): string => text.slice(start, end).toWellFormed()

/** Exactly these bytes, in the form that fits them. */
export const encoded = (bytes: Uint8Array): { readonly text: string } | { readonly base64: string } => {
  const text = textOf(bytes)
  return text === undefined ? { base64: Base64.encode(bytes) } : { text }
}
