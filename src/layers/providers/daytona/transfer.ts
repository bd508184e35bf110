/**
 * Bodies of the toolbox's file endpoints. The SDK has them too, but refuses in whatever it takes for a serverless runtime, where its
 * other way hides that an upload failed; and a source that breaks ends its process. Here a body is a stream in both directions.
 */
import { randomUUID } from "node:crypto"
import { Readable } from "node:stream"
import type { Client, RequestOptions, Sandbox } from "./sdk.ts"

async function* form(path: string, content: AsyncIterable<Uint8Array>, boundary: string) {
  const part = (name: string, more = "") => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${more}\r\n`
  yield Buffer.from(`${part("files[0].path")}\r\n${path}\r\n`)
  yield Buffer.from(`${part("files[0].file", '; filename="content"')}Content-Type: application/octet-stream\r\n\r\n`)
  yield* content
  yield Buffer.from(`\r\n--${boundary}--\r\n`)
}

/** Uploads to a path; the content is pulled as fast as the connection takes it. */
export const upload = async (
  client: Client,
  sandbox: Sandbox,
  path: string,
  content: AsyncIterable<Uint8Array>,
  options: RequestOptions
): Promise<void> => {
  const boundary = `effect-sandbox-${randomUUID()}`
  const data = Readable.from(form(path, content, boundary), { objectMode: false })
  try {
    await client.filesOf(sandbox).uploadFiles({
      ...options,
      data,
      maxRedirects: 0,
      headers: { "Content-Type": `multipart/form-data; boundary=${boundary}` }
    })
  } finally {
    data.destroy()
  }
}

/** A download under way. */
export interface Download {
  readonly content: AsyncIterable<Uint8Array>
  /** Ends it wherever it is. */
  readonly close: () => void
}

const separator = Buffer.from("\r\n\r\n")

/** The content of the only part, which is complete when what ends it has come. */
async function* partOf(body: AsyncIterable<Buffer>, boundary: string): AsyncGenerator<Uint8Array> {
  const end = Buffer.from(`\r\n--${boundary}`)
  let rest: Buffer = Buffer.alloc(0)
  let isError: boolean | undefined
  const said: Array<Uint8Array> = []
  for await (const chunk of body) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    if (isError === undefined) {
      const at = rest.indexOf(separator)
      if (at < 0) continue
      isError = /[; ]name="?error"?/.test(rest.subarray(0, at).toString("latin1"))
      rest = rest.subarray(at + separator.length)
    }
    const at = rest.indexOf(end)
    const known = at >= 0 ? at : Math.max(0, rest.length - end.length)
    if (known > 0) {
      if (isError) said.push(rest.subarray(0, known))
      else yield rest.subarray(0, known)
      rest = rest.subarray(known)
    }
    if (at < 0) continue
    if (isError) throw refusalOf(Buffer.concat(said).toString())
    return
  }
  throw new Error("Unexpected end of form")
}

/** What the daemon says of a file that it cannot give, as the SDK's errors have it. */
const refusalOf = (text: string): Error => {
  const error = new Error(text)
  try {
    const told: unknown = JSON.parse(text)
    return Object.assign(error, { statusCode: 400 }, told)
  } catch {
    return Object.assign(error, { statusCode: 400 })
  }
}

/** Begins to download a file. */
export const download = async (
  client: Client,
  sandbox: Sandbox,
  path: string,
  options: RequestOptions
): Promise<Download> => {
  const response = await client
    .filesOf(sandbox)
    .downloadFiles({ paths: [path] }, { ...options, responseType: "stream" })
  // The types say the parsed form; with `responseType` it is what Node reads.
  const body: unknown = response.data
  const boundary = /boundary="?([^";]+)"?/.exec(String(response.headers["content-type"]))?.[1]
  if (!(body instanceof Readable)) throw new Error("Unexpected end of form")
  // Whoever is gone by then does not hear of it.
  body.on("error", () => {})
  if (boundary === undefined) {
    body.destroy()
    throw new Error("Unexpected end of form")
  }
  return { content: partOf(body, boundary), close: () => body.destroy() }
}
