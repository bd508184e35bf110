/** The provider put together. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { SandboxError } from "../../../errors.ts"
import type { SandboxProvider } from "../../../services/SandboxProvider.ts"
import * as Provider from "../../../services/SandboxProvider.ts"
import * as SandboxSettings from "../../../services/SandboxSettings.ts"
import type { Load } from "./bash.ts"
import * as Bash from "./bash.ts"
import * as Machines from "./machines.ts"
import type { Options } from "./provider.ts"
import { makeCloud, state } from "./provider.ts"

/** `load` is where a test takes the interpreter away; everybody else leaves it out. */
export const make = (options: Options = {}, load: Load = Bash.load): Effect.Effect<SandboxProvider, SandboxError> =>
  Effect.gen(function* () {
    const cloud = options.cloud ?? (yield* makeCloud)
    const requestTimeout = yield* SandboxSettings.get(SandboxSettings.requestTimeout)
    return Provider.make({
      ...Machines.primitives({
        state: cloud[state],
        name: options.name,
        recovery: options.recovery,
        commands: new Map(Object.entries(options.commands ?? {})),
        load,
        bootDelay: Duration.fromInputUnsafe(options.bootDelay ?? Duration.zero),
        killGrace: Duration.fromInputUnsafe(options.killGrace ?? Duration.seconds(2)),
        stopsProcesses: options.stopsProcesses ?? false,
        persistent: options.persistent ?? true,
        portUrl: options.portUrl ?? ((port) => `http://fake.invalid:${port}`)
      }),
      requestTimeout: Option.getOrUndefined(requestTimeout)
    })
  })
