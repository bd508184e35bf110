/** Unpacks what `fs/write` sends: gzip over tar (ustar, with PAX headers for long names). */
import { unpackTar } from "modern-tar"
import { promisify } from "node:util"
import { gunzip } from "node:zlib"
import { badRequest } from "./http.ts"

export interface TarFile {
  /** Relative to the header `x-cwd`; never leaves it. */
  readonly name: string
  readonly mode: number
  readonly content: Uint8Array
}

const unzip = promisify(gunzip)

export const filesOf = async (body: Buffer): Promise<ReadonlyArray<TarFile>> => {
  const entries = await unzip(body)
    .then((archive) => unpackTar(archive, { strict: true }))
    .catch((error: unknown) => badRequest(`The body is no tar.gz: ${String(error)}`))
  return entries.map(({ data, header }) => {
    const { name, type = "file" } = header
    if (type !== "file") return badRequest(`Only files can be written, ${name} is a ${type}.`)
    if (name === "" || name.startsWith("/") || name.split("/").includes("..")) {
      return badRequest(`The name ${JSON.stringify(name)} is not inside x-cwd.`)
    }
    return { name, mode: header.mode ?? 0o644, content: data ?? new Uint8Array() }
  })
}
