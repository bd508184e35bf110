/** What the demo proves by: hashes of trees and logs, and a table that adds up. */
import { createHash } from "node:crypto"

/** A file of a tree: path relative to the tree, and its bytes. */
export interface File {
  readonly path: string
  readonly content: Uint8Array
}

/** One hash over the paths and contents of a tree, whatever order its files come in. */
export const hashTree = (files: ReadonlyArray<File>): string => {
  const hash = createHash("sha256")
  for (const { content, path } of files.toSorted((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))) {
    hash.update(`${path}\0${content.length}\0`).update(content)
  }
  return hash.digest("hex")
}

/** The program that says the same about the tree that it runs in, for `node -e`: the same lines, on the other side. */
export const hashTreeProgram = `
const { createHash } = require("node:crypto"), { readdirSync, readFileSync } = require("node:fs"), { join } = require("node:path")
const files = readdirSync(".", { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name)).sort()
const hash = createHash("sha256")
for (const path of files) {
  const content = readFileSync(path)
  hash.update(path + "\\0" + content.length + "\\0").update(content)
}
console.log(hash.digest("hex"))`

/** Numbered lines, the output of the long process. */
export const numberedLines = (count: number): string => Array.from({ length: count }, (_, i) => `line ${i}\n`).join("")

export const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex")

/** Follows the events of a log and says whether it is whole. */
export class LogProof {
  private readonly hash = createHash("sha256")
  private seq = 0
  private offset = 0
  private problem: string | undefined

  add(event: { readonly seq: number; readonly offset?: number; readonly bytes?: Uint8Array }): void {
    if (event.seq !== ++this.seq) this.problem ??= `seq ${event.seq} came where ${this.seq} was due`
    if (event.bytes === undefined) return
    if (event.offset !== this.offset) this.problem ??= `byte ${event.offset} came where ${this.offset} was due`
    this.offset += event.bytes.length
    this.hash.update(event.bytes)
  }

  /** Undefined when the log is gapless and its bytes are these; else what is wrong. */
  verdict(expected: string): string | undefined {
    return (
      this.problem ??
      (this.hash.digest("hex") === sha256(expected) ? undefined : "the bytes are not the ones that were written")
    )
  }
}

/** One line of the summary. */
export interface Proof {
  readonly name: string
  readonly figure: string
  readonly ok: boolean
}

export const table = (proofs: ReadonlyArray<Proof>): string => {
  const width = (of: (proof: Proof) => string) => Math.max(...proofs.map((proof) => of(proof).length))
  const [names, figures] = [width((proof) => proof.name), width((proof) => proof.figure)]
  return proofs
    .map(({ figure, name, ok }) =>
      `${ok ? "ok  " : "FAIL"}  ${name.padEnd(names)}  ${figure.padEnd(figures)}`.trimEnd()
    )
    .join("\n")
}
