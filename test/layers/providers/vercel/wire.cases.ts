/** What is put between the SDK and the vendor. */
import { assert, describe, it } from "@effect/vitest"
import { Redacted } from "effect"
import * as Wire from "../../../../src/layers/providers/vercel/wire.ts"

const api = "https://vercel.com/api"

/** A wire whose vendor answers with one line, and the authorization that each request went with. */
const wired = () => {
  const seen: Array<readonly [url: string, authorization: string | null]> = []
  const wire = Wire.make(
    () => Redacted.make("the-token"),
    async (input, init) => {
      const url = input instanceof Request ? input.url : String(input)
      seen.push([url, new Headers(init?.headers).get("authorization")])
      return new Response('{"stream":"stdout","data":"x"}\n', { headers: { "content-type": "application/x-ndjson" } })
    }
  )
  return { wire, seen }
}

describe("the fetch of the SDK", () => {
  it("puts the token on requests to the API, and on no other", async () => {
    const { seen, wire } = wired()
    const init = { headers: { authorization: "Bearer placeholder" } }
    for (const url of [
      `${api}/v2/sandboxes?teamId=t`,
      "https://vercel.com.example.org/api/v2/sandboxes",
      "https://user@example.org/https://vercel.com/api",
      "http://vercel.com/api/v2/sandboxes",
      "https://vercel.com:444/api/v2/sandboxes",
      "https://sb-1.vercel.run/",
      "/api/v2/sandboxes"
    ]) {
      await wire.fetch(url, init)
    }
    await wire.fetch(new URL(`${api}/v2/sandboxes`), init)
    await wire.fetch(new Request(`${api}/v2/sandboxes`), init)
    await wire.fetch(new Request("https://example.org/"), init)
    assert.deepStrictEqual(
      seen.map(([, authorization]) => authorization === "Bearer the-token"),
      [true, false, false, false, false, false, false, true, true, false]
    )
    assert.isTrue(seen.every(([, authorization]) => authorization?.startsWith("Bearer ")))
  })

  it("gives a log the gate that was made for it, and none that was given up before", async () => {
    const { wire } = wired()
    const url = `${api}/v2/sandboxes/sessions/sbx_1/cmd/cmd_1/logs?teamId=t`
    const given = wire.gateOf("cmd_1")
    given.forget()
    const gate = wire.gateOf("cmd_1")
    const read = (await wire.fetch(url)).text()
    let arrived = false
    void read.then(() => (arrived = true))
    await new Promise(setImmediate)
    assert.isFalse(arrived, "nothing is let through while nobody wants it")
    gate.open()
    assert.strictEqual(await read, '{"stream":"stdout","data":"x"}\n')
    // One that was used is not met again, nor does it take another with it.
    const next = wire.gateOf("cmd_1")
    gate.forget()
    next.open()
    assert.strictEqual(await (await wire.fetch(url)).text(), '{"stream":"stdout","data":"x"}\n')
  })
})
