/** The embedded library over a store and a log that count what is asked of them. */
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Local from "../src/layers/providers/Local.ts"
import * as Sql from "../src/layers/stores/Sql.ts"
import * as ProviderRegistry from "../src/services/ProviderRegistry.ts"
import { SandboxService } from "../src/services/SandboxService.ts"
import { counting } from "../test/support/counting.ts"
import { temporary } from "./support.ts"

/** In a folder of its own; the machine's settings do not matter. */
export const countedServices = Layer.unwrap(
  Effect.map(temporary, (directory) =>
    SandboxService.layer.pipe(
      Layer.provide(ProviderRegistry.layer([Local.make({ root: `${directory}/local`, isolation: "none" })])),
      Layer.provideMerge(counting(Sql.layerSqlite({ file: `${directory}/sandboxes.sqlite` })))
    )
  )
).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))
