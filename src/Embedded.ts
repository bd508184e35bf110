/**
 * Everything on this machine, nothing to configure: the local provider without isolation and an SQLite file.
 *
 * **Gotchas**: `isolation: "none"` is no security boundary: a command can do whatever this user can. It is the default here and
 * nowhere else.
 */
import { readlinkSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type { SandboxError } from "./errors.ts"
import * as Local from "./layers/providers/Local.ts"
import * as Os from "./layers/providers/local/os.ts"
import * as InstantDb from "./layers/stores/InstantDb.ts"
import * as Memory from "./layers/stores/Memory.ts"
import * as Postgres from "./layers/stores/Postgres.ts"
import * as Sql from "./layers/stores/Sql.ts"
import * as core from "./services/internal/core.ts"
import * as LeaseOwner from "./services/LeaseOwner.ts"
import type { ProcessLog } from "./services/ProcessLog.ts"
import * as ProviderRegistry from "./services/ProviderRegistry.ts"
import { SandboxService } from "./services/SandboxService.ts"
import * as SandboxSettings from "./services/SandboxSettings.ts"
import type { SandboxStore } from "./services/SandboxStore.ts"

/** Where things are kept; the default is `.effect-sandbox` below the working directory. */
export interface Options {
  readonly directory?: string | undefined
  /** Options of the local provider. */
  readonly local?: Partial<Omit<Local.Options, "root">> | undefined
}

/** What an embedded layer provides: the service and, for tools, what it stands on. */
export type Services = SandboxService | SandboxStore | ProcessLog | ProviderRegistry.ProviderRegistry

/** Two containers of one host share a boot id but not their pids. */
const hostId = (): string => {
  try {
    return `${Os.bootId()}/${readlinkSync("/proc/self/ns/pid")}`
  } catch {
    return Os.bootId()
  }
}

/**
 * Services of one machine can see whether another is dead, so that its processes are taken over at once and not when its lease
 * expires.
 */
const ownerOfHost: LeaseOwner.Owner = {
  name: Effect.sync(() => {
    const { pid, startTime } = Os.identity()
    return ["service", crypto.randomUUID(), pid, encodeURIComponent(startTime), hostId()].join(":")
  }),
  isDead: (owner) =>
    Effect.sync(() => {
      const [kind, , pid, startTime, ...host] = owner.split(":")
      // Another host's services, and those before a reboot of this one, are judged by their lease alone.
      return (
        kind === "service" &&
        pid !== undefined &&
        startTime !== undefined &&
        host.join(":") === hostId() &&
        !Os.isRunning({ pid: Number(pid), startTime: decodeURIComponent(startTime) })
      )
    })
}

const assemble = <E, R>(
  registry: Layer.Layer<ProviderRegistry.ProviderRegistry, E, R>,
  store: Layer.Layer<SandboxStore | ProcessLog, SandboxError>
): Layer.Layer<Services, SandboxError | E, R> =>
  SandboxService.layer.pipe(
    Layer.provide(Layer.succeed(LeaseOwner.LeaseOwner, ownerOfHost)),
    Layer.provideMerge(registry),
    Layer.provideMerge(store)
  )

const local = (root: string, options: Options["local"]) =>
  ProviderRegistry.layer([Local.make({ isolation: "none", ...options, root })], { default: "local" })

/** The local provider and an SQLite file in one directory. */
export const layer = (options: Options = {}): Layer.Layer<Services, SandboxError> => {
  const directory = options.directory ?? ".effect-sandbox"
  return Layer.unwrap(
    Effect.as(
      core.onlyKnown("Embedded.layer", options, { directory: true, local: true }),
      assemble(local(`${directory}/local`, options.local), Sql.layerSqlite({ file: `${directory}/sandboxes.sqlite` }))
    )
  )
}

const storeConfig: Layer.Layer<SandboxStore | ProcessLog, SandboxError> = Layer.unwrap(
  Effect.gen(function* () {
    const store = yield* SandboxSettings.get(SandboxSettings.store)
    const file = yield* SandboxSettings.get(SandboxSettings.sqliteFile)
    const namespace = Option.getOrUndefined(yield* SandboxSettings.get(SandboxSettings.namespace))
    const stores = {
      sqlite: () =>
        Sql.layerSqlite({ file: Option.getOrElse(file, () => ".effect-sandbox/sandboxes.sqlite"), namespace }),
      memory: () => Memory.layer({ namespace }),
      instantdb: () => InstantDb.layerConfig(),
      postgres: () => Postgres.layerConfig()
    }
    return stores[Option.getOrElse(store, () => "sqlite" as const)]()
  })
)

/** Like {@link layerConfig}, over these providers in the place of the local one: `Embedded.layerConfigOver(Vercel.layerConfig())`. */
export const layerConfigOver = <E, R>(
  registry: Layer.Layer<ProviderRegistry.ProviderRegistry, E, R>
): Layer.Layer<Services, SandboxError | E, R> => assemble(registry, storeConfig)

/**
 * The same by settings: `SANDBOX_STORE` (`sqlite`, `memory`, `instantdb` or `postgres`), `SANDBOX_SQLITE_FILE`, `SANDBOX_LOCAL_ROOT`,
 * `SANDBOX_NAMESPACE`, `SANDBOX_POSTGRES_URL`, and those of InstantDB.
 */
export const layerConfig: Layer.Layer<Services, SandboxError> = layerConfigOver(
  Layer.unwrap(
    Effect.map(SandboxSettings.get(SandboxSettings.localRoot), (root) =>
      local(
        Option.getOrElse(root, () => ".effect-sandbox/local"),
        undefined
      )
    )
  )
)
