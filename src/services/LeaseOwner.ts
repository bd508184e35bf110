/** Who holds leases, and who is known to hold none any more. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as SecureRandom from "effect/crypto/SecureRandom"

/** How this service names itself as a holder of leases, and judges other holders. */
export interface Owner {
  /** A new name for one build of the service. */
  readonly name: Effect.Effect<string>
  /**
   * True if that owner is surely gone, so that its lease need not expire first. The default never knows; one machine's services
   * can (`Embedded`). A wrong `true` loses nothing, as epochs fence the old owner off, but stops it in its work.
   */
  readonly isDead: (owner: string) => Effect.Effect<boolean>
}

/** Read once, when `SandboxService.layer` is built. */
export const LeaseOwner: Context.Reference<Owner> = Context.Reference("effect-sandbox/services/LeaseOwner", {
  defaultValue: (): Owner => ({
    name: Effect.sync(() => `service:${SecureRandom.uuidV4Unsafe()}`),
    isDead: () => Effect.succeed(false)
  })
})
