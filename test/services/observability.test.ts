import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Metric, Redacted, Tracer } from "effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Http from "node:http"
import * as Memory from "../../src/layers/stores/Memory.ts"
import * as Registry from "../../src/services/ProviderRegistry.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { scripted } from "../support/scripted.ts"

const recorded = () => {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, tracer }
}

const service = (vendor: ReturnType<typeof scripted>) =>
  SandboxService.layer.pipe(
    Layer.provide(Registry.layer([Effect.succeed(vendor.provider)])),
    Layer.provide(Memory.layer({ namespace: "test" })),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({})))
  )

describe("observability", () => {
  it.effect("spans stand at the contracts, of kind client where somebody is asked, inside the method's", () => {
    const { spans, tracer } = recorded()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* sandboxes.runCommand(sandboxId, "true")
      const byName = (name: string) => spans.find((span) => span.name === name) ?? assert.fail(`no span ${name}`)
      for (const name of ["SandboxStore.insertSandbox", "SandboxProvider.create", "SandboxProvider.connect"]) {
        assert.strictEqual(byName(name).kind, "client", name)
      }
      const run = byName("SandboxService.runCommand")
      assert.strictEqual(run.attributes.get("sandbox.id"), sandboxId)
      assert.strictEqual(byName("SandboxProvider.create").attributes.get("sandbox.provider"), "scripted")
      const parents = (span: Tracer.AnySpan | undefined): ReadonlyArray<string> =>
        span === undefined || span._tag === "ExternalSpan"
          ? []
          : [span.name, ...parents(span.parent._tag === "Some" ? span.parent.value : undefined)]
      assert.include(parents(byName("SandboxProvider.create")), "SandboxService.createSandbox")
      assert.include(parents(byName("SandboxProvider.connect")), "SandboxService.runCommand")
    }).pipe(Effect.provide(service(scripted())), Effect.withTracer(tracer))
  })

  it.live("the headers of a port are in no span, and a redirection of its service is not followed with them", () => {
    const { spans, tracer } = recorded()
    const vendor = scripted()
    return Effect.gen(function* () {
      const requests: Array<string | undefined> = []
      const server = Http.createServer((request, response) => {
        requests.push(request.url)
        response.writeHead(302, { location: "/elsewhere" }).end()
      })
      yield* Effect.acquireRelease(
        Effect.callback<void>((resume) => {
          server.listen(0, "127.0.0.1", () => resume(Effect.void))
        }),
        () => Effect.sync(() => server.close())
      )
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : assert.fail("no address")
      vendor.portHeaders["x-preview-token"] = Redacted.make("hush")
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ ports: [port] })
      yield* sandboxes.getPortUrl(sandboxId, port, { ready: true })
      assert.deepStrictEqual(requests, ["/"])
      const attributes = spans.flatMap((span) => [...span.attributes])
      assert.deepInclude(attributes, ["http.request.header.x-preview-token", "<redacted>"])
      assert.notInclude(JSON.stringify(attributes), "hush")
    }).pipe(
      Effect.scoped,
      Effect.provide(service(vendor)),
      Effect.withTracer(tracer),
      Effect.provideService(HttpClient.TracerHeaderFilter, () => true)
    )
  })

  it.effect("metrics count commands and recoveries by outcome", () => {
    const vendor = scripted()
    const count = (id: string, attributes: Record<string, string>) =>
      Effect.map(Metric.snapshot, (all) =>
        all.reduce((sum, metric) => {
          const wanted =
            metric.id === id && Object.entries(attributes).every(([key, value]) => metric.attributes?.[key] === value)
          return wanted && metric.type === "Counter" ? sum + Number(metric.state.count) : sum
        }, 0)
      )
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const commands = { mode: "plain", outcome: "exit" }
      const before = [
        yield* count("sandbox_commands_total", commands),
        yield* count("sandbox_recoveries_total", { outcome: "Recreated" })
      ]
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* sandboxes.runCommand(sandboxId, "true")
      vendor.vanish()
      yield* sandboxes.runCommand(sandboxId, "true")
      assert.strictEqual(yield* count("sandbox_commands_total", commands), (before[0] ?? 0) + 2)
      assert.strictEqual(yield* count("sandbox_recoveries_total", { outcome: "Recreated" }), (before[1] ?? 0) + 1)
    }).pipe(Effect.provide(service(vendor)))
  })
})
