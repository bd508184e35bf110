/** Connections of server-sent events: one for each subscribed query, and one for all streams of a client. */
import * as Crypto from "node:crypto"
import type { ServerResponse } from "node:http"
import type { App } from "./app.ts"
import { type Call, errorBody, fields, json, refuse, Refusal, type Reply } from "./http.ts"

export interface Session {
  readonly id: string
  readonly token: string
  readonly kind: "subscribe" | "sse"
  readonly send: (message: Readonly<Record<string, unknown>>) => void
  readonly cut: () => void
}

/** What to do with the messages that a client pushes for its session. */
export interface Receiver {
  readonly receive: (session: Session, message: Readonly<Record<string, unknown>>) => void
  readonly closed: (session: Session) => void
}

const machineId = "00000000-0000-4000-8000-000000000001"

export class Sessions {
  readonly #app: App
  readonly #receiver: Receiver
  readonly #open = new Map<string, Session>()

  /** Whether messages for streams come in lists, as the server may send them. */
  readonly #lists: boolean

  constructor(app: App, receiver: Receiver, lists: boolean) {
    this.#app = app
    this.#receiver = receiver
    this.#lists = lists
  }

  of(kind?: Session["kind"]): ReadonlyArray<Session> {
    return [...this.#open.values()].filter((session) => kind === undefined || session.kind === kind)
  }

  readonly connect = (): Reply => ({
    _tag: "Events",
    open: (response) => void this.#start(response, "sse", (session) => this.#receiver.closed(session))
  })

  /** The result, and again whenever it became another one. */
  readonly subscribe = ({ json: body }: Call): Reply => {
    const { query, "inference?": inference } = fields(body)
    const evaluate = () => {
      const { aggregate, data, pageInfo } = this.#app.queries.run(query, inference === true)
      return { result: data, meta: { "page-info": pageInfo, aggregate } }
    }
    return {
      _tag: "Events",
      open: (response) => {
        let known: string | undefined
        let pending: NodeJS.Immediate | undefined
        const refresh = () => {
          pending = undefined
          try {
            const { meta, result } = evaluate()
            const text = JSON.stringify([result, meta])
            if (text === known) return
            session.send(
              known === undefined
                ? { op: "add-query-ok", q: query, result, "result-meta": meta, "processed-tx-id": this.#app.txId }
                : {
                    op: "refresh-ok",
                    computations: [{ "instaql-query": query, "instaql-result": result, "result-meta": meta }],
                    "processed-tx-id": this.#app.txId
                  }
            )
            known = text
          } catch (error) {
            session.send(errorMessage(error, { op: "add-query", q: query }))
          }
        }
        // Once for all transactions of a turn: the server is not faster.
        const changed = () => {
          pending ??= setImmediate(refresh)
        }
        const session = this.#start(response, "subscribe", () => {
          this.#app.changed.delete(changed)
          clearImmediate(pending)
        })
        this.#app.changed.add(changed)
        refresh()
      }
    }
  }

  readonly push = ({ json: body }: Call): Reply => {
    const { messages, session_id, sse_token } = fields(body)
    const session = this.#open.get(String(session_id))
    if (session === undefined || session.token !== sse_token) {
      return refuse(400, "session-missing", "The session does not exist.")
    }
    for (const message of Array.isArray(messages) ? messages : []) {
      try {
        this.#receiver.receive(session, fields(message))
      } catch (error) {
        session.send({ ...errorMessage(error, message), "client-event-id": fields(message)["client-event-id"] })
      }
    }
    return json({})
  }

  #start(response: ServerResponse, kind: Session["kind"], closed: (session: Session) => void): Session {
    const session: Session = {
      id: Crypto.randomUUID(),
      token: Crypto.randomUUID(),
      kind,
      send: (message) => {
        const told = kind === "sse" && this.#lists ? [message] : message
        response.write(`data: ${JSON.stringify(told)}\n\n`)
      },
      cut: () => response.destroy()
    }
    this.#open.set(session.id, session)
    response.once("close", () => {
      this.#open.delete(session.id)
      closed(session)
    })
    response.write("retry: 500\n\n")
    session.send({ op: "sse-init", "machine-id": machineId, "session-id": session.id, "sse-token": session.token })
    return session
  }
}

const errorMessage = (error: unknown, original: unknown) => {
  if (!(error instanceof Refusal)) throw error
  return {
    op: "error",
    status: error.status,
    ...errorBody(error.type, error.message, error.hint),
    "original-event": original
  }
}
