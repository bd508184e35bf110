/** Streams: text that one writer appends and many read, in files as far as it is flushed. Offsets are bytes of UTF-8. */
import * as Crypto from "node:crypto"
import type { App } from "./app.ts"
import type { Files } from "./files.ts"
import { invalid, isString, refuse } from "./http.ts"
import type { Receiver, Session } from "./sessions.ts"

type Message = Readonly<Record<string, unknown>>

interface Reader {
  readonly session: Session
  readonly eventId: unknown
}

export interface StreamState {
  readonly id: string
  readonly clientId: string
  readonly reconnectToken: string
  readonly files: Array<{ readonly id: string; readonly size: number }>
  /** How much is in files. */
  flushed: number
  /** What is not, and is lost when the writer starts again. */
  readonly buffer: Array<Buffer>
  done: boolean
  abortReason: string | undefined
  writer: Session | undefined
  readonly readers: Set<Reader>
}

/** A file is made when so much is held. */
const flushBytes = 1_048_576

const held = ({ buffer, flushed }: StreamState): number => buffer.reduce((sum, { length }) => sum + length, flushed)

/** The server's strings have a question mark where JavaScript's has a lone surrogate, so it counts one byte where the SDK counts three. */
const encode = (chunk: unknown): Buffer => Buffer.from(String(chunk).replace(/\p{Surrogate}/gu, "?"))

export class Streams implements Receiver {
  readonly #app: App
  readonly #files: Files
  readonly #all = new Map<string, StreamState>()
  #held: Array<() => void> | undefined
  #failures = 0

  constructor(app: App, files: Files) {
    this.#app = app
    this.#files = files
    app.changed.add(() => this.#sweep())
  }

  get all(): ReadonlyArray<StreamState> {
    return [...this.#all.values()]
  }

  /** Acknowledgements of flushes wait until the answer is called. */
  holdFlushes(): () => void {
    const held: Array<() => void> = (this.#held ??= [])
    return () => {
      this.#held = undefined
      for (const send of held.splice(0)) send()
    }
  }

  /** The next flushes fail: what was to be flushed is gone, and the writer is told to start again. */
  failFlushes(times: number): void {
    this.#failures = times
  }

  /** As to a reader that is too far behind. */
  resubscribeReaders(): void {
    for (const stream of this.#all.values()) {
      for (const { eventId, session } of stream.readers) {
        session.send({
          op: "stream-append",
          "stream-id": stream.id,
          "client-id": stream.clientId,
          "client-event-id": eventId,
          offset: held(stream),
          error: "The reader is too far behind",
          retry: true
        })
      }
      stream.readers.clear()
    }
  }

  receive(session: Session, message: Message): void {
    switch (message.op) {
      case "start-stream":
        return this.#start(session, message)
      case "append-stream":
        return this.#append(session, message)
      case "subscribe-stream":
        return this.#subscribe(session, message)
      case "unsubscribe-stream":
        for (const { readers } of this.#all.values()) {
          for (const reader of readers) if (reader.eventId === message["subscribe-event-id"]) readers.delete(reader)
        }
        return
      default:
        return invalid("message", message, `Unknown op ${String(message.op)}`)
    }
  }

  closed(session: Session): void {
    for (const stream of this.#all.values()) {
      for (const reader of stream.readers) if (reader.session === session) stream.readers.delete(reader)
      if (stream.writer !== session) continue
      stream.writer = undefined
      // What a writer leaves behind is kept, but the stream is not done, and readers hear nothing of it.
      this.#flush(stream)
    }
  }

  #start(session: Session, message: Message): void {
    const { "client-event-id": eventId, "client-id": clientId, "reconnect-token": token } = message
    if (!isString(clientId) || !isString(token))
      return invalid("start-stream", message, "client-id and reconnect-token")
    let stream = this.all.find((stream) => stream.clientId === clientId)
    if (stream === undefined) {
      stream = {
        id: Crypto.randomUUID(),
        clientId,
        reconnectToken: token,
        files: [],
        flushed: 0,
        buffer: [],
        done: false,
        abortReason: undefined,
        writer: undefined,
        readers: new Set()
      }
      this.#all.set(stream.id, stream)
      this.#record(stream, { id: stream.id, clientId, done: false, size: 0 })
    } else if (stream.reconnectToken !== token) {
      invalid("start-stream", message, "A stream with this client id already exists")
    } else if (stream.done) invalid("start-stream", message, "Stream is closed")
    stream.buffer.length = 0
    stream.writer = session
    session.send({
      op: "start-stream-ok",
      "client-event-id": eventId,
      "client-id": clientId,
      "stream-id": stream.id,
      offset: stream.flushed
    })
  }

  #append(session: Session, message: Message): void {
    const { "abort-reason": reason, chunks, done, offset } = message
    const stream = this.#all.get(String(message["stream-id"])) ?? this.#missing(message)
    if (stream.done) return invalid("append-stream", message, "Stream is closed")
    if (stream.writer !== session) return invalid("append-stream", message, "Another writer has this stream")
    const start = held(stream)
    if (offset !== start) return invalid("append-stream", message, `The offset is ${start}`)
    const bytes = Buffer.concat((Array.isArray(chunks) ? chunks : []).map(encode))
    if (bytes.length > 0) stream.buffer.push(bytes)
    if (done === true) {
      stream.done = true
      // An Error as a reason is sent by the SDK as {}.
      stream.abortReason = reason === undefined ? undefined : isString(reason) ? reason : JSON.stringify(reason)
    }
    for (const { eventId, session } of stream.readers) {
      session.send({ ...this.#told(stream, eventId, start), content: bytes.toString() })
    }
    if (stream.done) stream.readers.clear()
    if (stream.done || start + bytes.length - stream.flushed >= flushBytes) this.#flush(stream)
  }

  #subscribe(session: Session, message: Message): void {
    const { "client-event-id": eventId, "client-id": clientId, offset = 0, "stream-id": streamId } = message
    const stream =
      (isString(streamId) ? this.#all.get(streamId) : this.all.find((candidate) => candidate.clientId === clientId)) ??
      this.#missing(message)
    const from = Number(offset)
    let at = 0
    let start: number | undefined
    const files: Array<{ readonly id: string; readonly url: string; readonly size: number }> = []
    for (const { id, size } of stream.files) {
      if (at + size > from) {
        start ??= at
        files.push({ id, url: this.#files.url(id), size })
      }
      at += size
    }
    const content = Buffer.concat(stream.buffer).toString()
    session.send({
      ...this.#told(stream, eventId, start ?? stream.flushed),
      ...(files.length === 0 ? {} : { files }),
      ...(content === "" ? {} : { content })
    })
    if (!stream.done) stream.readers.add({ session, eventId })
  }

  #told({ abortReason, clientId, done, id }: StreamState, eventId: unknown, offset: number): Message {
    return {
      op: "stream-append",
      "stream-id": id,
      "client-id": clientId,
      "client-event-id": eventId,
      offset,
      ...(done ? { done } : {}),
      ...(abortReason === undefined ? {} : { "abort-reason": abortReason })
    }
  }

  #flush(stream: StreamState): void {
    const { buffer, id, writer } = stream
    if (this.#failures > 0) {
      this.#failures -= 1
      buffer.length = 0
      stream.done = false
      stream.abortReason = undefined
      writer?.send({ op: "append-failed", "stream-id": id })
      return
    }
    const bytes = Buffer.concat(buffer.splice(0))
    if (bytes.length > 0) {
      stream.files.push({ id: this.#files.add(bytes, "application/octet-stream"), size: bytes.length })
      stream.flushed += bytes.length
    }
    const { abortReason, done, flushed } = stream
    this.#record(stream, { done, size: flushed, ...(abortReason === undefined ? {} : { abortReason }) })
    const acknowledge = () => writer?.send({ op: "stream-flushed", "stream-id": id, offset: flushed, done })
    if (this.#held === undefined) acknowledge()
    else this.#held.push(acknowledge)
  }

  #record({ id }: StreamState, values: Message): void {
    this.#app.write(() => {
      for (const [label, value] of Object.entries(values)) this.#app.put("$streams", id, label, value)
    })
  }

  #missing(message: Message): never {
    return refuse(400, "record-not-found", "Record not found: stream", {
      "record-type": "stream",
      args: [{ "stream-id": message["stream-id"] ?? null, "client-id": message["client-id"] ?? null }]
    })
  }

  /** A row that a transaction deleted takes its stream and its files along. */
  #sweep(): void {
    const attr = this.#app.catalog.id("$streams")
    for (const [id, { files }] of this.#all) {
      if (attr === undefined || this.#app.data.one(id, attr) !== undefined) continue
      for (const file of files) this.#files.remove(file.id)
      this.#all.delete(id)
    }
  }
}
