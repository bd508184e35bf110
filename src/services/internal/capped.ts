/** Keeps the first and the last half of a stream within a cap, cut at character borders. */

/** The number of bytes at the end of `bytes` that begin a UTF-8 character without completing it. */
export const openTail = (bytes: Uint8Array): number => {
  for (let back = 1; back <= Math.min(4, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0
    if ((byte & 0b1100_0000) === 0b1000_0000) continue
    const width = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1
    return width > back ? back : 0
  }
  return 0
}

/** The number of bytes at the start of `bytes` that continue a UTF-8 character. */
export const openHead = (bytes: Uint8Array): number => {
  let count = 0
  while (count < Math.min(3, bytes.length) && ((bytes[count] ?? 0) & 0b1100_0000) === 0b1000_0000) count++
  return count
}

/** The two halves that were kept, cut at character borders; `head` is all of it while nothing is `omitted` between them. */
export interface Halves {
  readonly head: Uint8Array
  readonly tail: Uint8Array
  readonly omitted: number
}

/** What was kept: text, and how many bytes are missing between its two halves. */
export interface Kept {
  readonly text: string
  readonly truncated: number
}

/** Collects one stream in bounded memory: at most the cap and one chunk. */
export class Capped {
  private readonly headCap: number
  private readonly tailCap: number
  private readonly head: Array<Uint8Array> = []
  private headSize = 0
  private tail: Array<Uint8Array> = []
  private tailSize = 0
  private total = 0

  constructor(cap: number) {
    this.headCap = Math.ceil(cap / 2)
    this.tailCap = cap - this.headCap
  }

  push(bytes: Uint8Array): void {
    this.total += bytes.length
    let rest = bytes
    if (this.headSize < this.headCap) {
      const taken = rest.subarray(0, this.headCap - this.headSize)
      this.head.push(taken)
      this.headSize += taken.length
      rest = rest.subarray(taken.length)
    }
    if (rest.length === 0) return
    this.tail.push(rest)
    this.tailSize += rest.length
    while (this.tail.length > 1 && this.tailSize - (this.tail[0]?.length ?? 0) >= this.tailCap) {
      this.tailSize -= this.tail.shift()?.length ?? 0
    }
  }

  halves(): Halves {
    const head = concat(this.head, this.headSize)
    const tail = concat(this.tail, this.tailSize)
    if (this.headSize + this.tailSize <= this.headCap + this.tailCap && this.total === this.headSize + this.tailSize) {
      return { head: concat([head, tail], this.total), tail: tail.subarray(tail.length), omitted: 0 }
    }
    const start = head.subarray(0, head.length - openTail(head))
    const last = tail.subarray(Math.max(0, tail.length - this.tailCap))
    const end = last.subarray(openHead(last))
    return { head: start, tail: end, omitted: this.total - start.length - end.length }
  }

  finish(): Kept {
    const { head, omitted, tail } = this.halves()
    return { text: decode(head) + decode(tail), truncated: omitted }
  }
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
const decode = (bytes: Uint8Array): string => decoder.decode(bytes)

export const concat = (chunks: ReadonlyArray<Uint8Array>, size: number): Uint8Array => {
  const only = chunks[0]
  if (chunks.length === 1 && only !== undefined) return only
  const all = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    all.set(chunk, at)
    at += chunk.length
  }
  return all
}
