/** Multipart bodies as the vendor's file endpoints take and give them. */

export interface Part {
  readonly name: string
  readonly filename: string | undefined
  readonly content: Buffer
}

/** The parts of a whole body. */
export const parse = (body: Buffer, contentType: string): ReadonlyArray<Part> => {
  const boundary = /boundary="?([^";]+)"?/.exec(contentType)?.[1]
  if (boundary === undefined) throw new Error(`no boundary in ${contentType}`)
  const mark = Buffer.from(`--${boundary}`)
  const parts: Array<Part> = []
  let at = body.indexOf(mark)
  while (at >= 0) {
    const begin = at + mark.length + 2
    const next = body.indexOf(Buffer.concat([Buffer.from("\r\n"), mark]), begin)
    if (next < 0) break
    const head = body.indexOf("\r\n\r\n", begin)
    const headers = body.subarray(begin, head).toString()
    parts.push({
      name: /[; ]name="([^"]*)"/.exec(headers)?.[1] ?? "",
      filename: /filename="([^"]*)"/.exec(headers)?.[1],
      content: body.subarray(head + 4, next)
    })
    at = next + 2
  }
  return parts
}

/** What comes before the content of a part of a download. */
export const partHead = (boundary: string, name: "file" | "error", path: string, length: number): string =>
  [
    `--${boundary}`,
    `Content-Disposition: form-data; name="${name}"; filename="${path.replaceAll('"', '\\"')}"; filename*=utf-8''${encodeURIComponent(path)}`,
    `Content-Type: ${name === "file" ? "application/octet-stream" : "application/json"}`,
    `Content-Length: ${length}`,
    "",
    ""
  ].join("\r\n")
