#!/usr/bin/env node
/**
 * The MCP server as a program: `npx effect-sandbox-mcp [--sandbox <id>]`. The provider is that of `SANDBOX_PROVIDER`, which
 * is `local` without isolation where it is not set; the store is that of `SANDBOX_STORE`.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Embedded from "../Embedded.ts"
import * as Daytona from "../layers/providers/Daytona.ts"
import * as Sprites from "../layers/providers/Sprites.ts"
import * as Vercel from "../layers/providers/Vercel.ts"
import { ProviderNotSelected, SandboxError } from "../errors.ts"
import * as SandboxSettings from "../services/SandboxSettings.ts"
import * as McpServer from "./mcpServer.ts"

/** What can be served. */
const served = {
  local: () => Embedded.layerConfig,
  vercel: () => Embedded.layerConfigOver(Vercel.layerConfig()),
  daytona: () => Embedded.layerConfigOver(Daytona.layerConfig()),
  sprites: () => Embedded.layerConfigOver(Layer.provide(Sprites.layerConfig(), FetchHttpClient.layer))
}
const isServed = (name: string): name is keyof typeof served => Object.hasOwn(served, name)

const services = Layer.unwrap(
  Effect.gen(function* () {
    const provider = yield* SandboxSettings.get(SandboxSettings.provider)
    const name = Option.getOrElse(provider, () => "local")
    if (!isServed(name)) {
      // Here and not at the first call, which a model would have to understand.
      return yield* new SandboxError({
        operation: "effect-sandbox-mcp",
        reason: new ProviderNotSelected({ registered: Object.keys(served), requested: name })
      })
    }
    if (Option.isNone(provider)) {
      yield* Effect.logWarning(
        "commands run on this machine, without isolation: a model can do with them whatever you can"
      )
    }
    return served[name]()
  })
)

const sandbox = Flag.String("sandbox").pipe(
  Flag.withDescription("Serve the tools of this sandbox alone, by its id"),
  Flag.optional
)

Command.make("effect-sandbox-mcp", { sandbox }, (flags) =>
  Effect.provide(McpServer.serve({ sandboxId: Option.getOrUndefined(flags.sandbox) }), services)
).pipe(
  Command.withDescription("Serves sandboxes as tools of the Model Context Protocol over standard input and output"),
  Command.run({ version: McpServer.version }),
  Effect.provide(NodeServices.layer),
  // The standard output is the protocol's.
  Effect.tapCause((cause) => (Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError(cause))),
  Effect.provideService(Logger.LogToStderr, true),
  (program) =>
    NodeRuntime.runMain(program, {
      disableErrorReporting: true,
      teardown: (exit, onExit) =>
        Runtime.defaultTeardown(exit, (code) => {
          // Nothing but what a client did not take in time can keep this program from its end.
          setTimeout(() => process.exit(code), 1000).unref()
          onExit(code)
        })
    })
)
