/** The settings of the store: those that an app of Instant's has anyway. */
import type { Setting } from "../../../services/SandboxSettings.ts"
import * as Settings from "../../../services/SandboxSettings.ts"

export const appId = Settings.text({
  name: "INSTANT_APP_ID",
  aliases: ["NEXT_PUBLIC_INSTANT_APP_ID"],
  fallback: "none",
  description: "The Instant app of `InstantDb.layerConfig`; or `NEXT_PUBLIC_INSTANT_APP_ID`"
})

export const adminToken = Settings.secret({
  name: "INSTANT_APP_ADMIN_TOKEN",
  fallback: "none",
  description: "The admin token of that app"
})

export const apiUri = Settings.text({
  name: "INSTANT_API_URI",
  fallback: "`https://api.instantdb.com`",
  description: "The server of that app, when it is one of your own"
})

export const all: ReadonlyArray<Setting<unknown>> = [appId, adminToken, apiUri]
