/**
 * The output of one command, as NDJSON in a file: the vendor keeps it for the session's life and replays it from the beginning
 * to everyone who asks. A file, because the emulator shares the memory of the tests that measure memory.
 */
import * as FsPromises from "node:fs/promises"
import { errorLine } from "./http.ts"

/** A promise that is settled from outside. */
export const deferred = <A = void>() => Promise.withResolvers<A>()

export class CommandLog {
  #handle: FsPromises.FileHandle
  #size = 0
  #ended = false
  #tail: Promise<void> = Promise.resolve()
  #changed = deferred()

  private constructor(handle: FsPromises.FileHandle) {
    this.#handle = handle
  }

  static async open(path: string): Promise<CommandLog> {
    return new CommandLog(await FsPromises.open(path, "w+"))
  }

  get ended(): boolean {
    return this.#ended
  }

  #notify() {
    const changed = this.#changed
    this.#changed = deferred()
    changed.resolve()
  }

  #append(line: string): Promise<void> {
    this.#tail = this.#tail.then(async () => {
      const bytes = Buffer.from(line)
      await this.#handle.write(bytes, 0, bytes.length, this.#size)
      this.#size += bytes.length
      this.#notify()
    })
    return this.#tail
  }

  /** Resolves once it is on file; what waits for it holds the command back no more than that. */
  async write(stream: "stdout" | "stderr", data: string): Promise<void> {
    if (!this.#ended && data !== "") await this.#append(`${JSON.stringify({ stream, data })}\n`)
  }

  /** After this nothing is added. With a failure, readers get the vendor's in-band error as the last line. */
  async end(failure?: { readonly code: string; readonly message: string }): Promise<void> {
    if (this.#ended) return
    this.#ended = true
    await (failure === undefined ? this.#tail : this.#append(errorLine(failure.code, failure.message)))
    this.#notify()
  }

  /** Everything from the beginning, then what comes, until the end. */
  async *read(signal: AbortSignal): AsyncGenerator<Buffer> {
    signal.addEventListener("abort", () => this.#notify(), { once: true })
    let offset = 0
    while (!signal.aborted) {
      const changed = this.#changed.promise
      const ended = this.#ended
      if (offset < this.#size) {
        const { buffer, bytesRead } = await this.#handle.read(
          Buffer.alloc(Math.min(65_536, this.#size - offset)),
          0,
          undefined,
          offset
        )
        offset += bytesRead
        yield buffer.subarray(0, bytesRead)
      } else if (ended) {
        await this.#tail
        if (offset === this.#size) return
      } else {
        await changed
      }
    }
  }

  async close(): Promise<void> {
    await this.end()
    await this.#tail
    await this.#handle.close()
  }
}
