/** Which vendors' own servers a test run may talk to: `SANDBOX_LIVE=instantdb npm test`. */

const known = ["vercel", "daytona", "sprites", "instantdb"] as const

// @effect-diagnostics-next-line processEnv:off -- known before any test is registered
const names = (process.env["SANDBOX_LIVE"] ?? "")
  .split(",")
  .map((name) => name.trim().toLowerCase())
  .filter((name) => name !== "")

/** A name that nobody knows is a mistake, and a run that skips what was asked for would hide it. */
export const isLive = (vendor: (typeof known)[number]): boolean => {
  const unknown = names.filter((name) => !known.some((one) => one === name))
  if (unknown.length > 0) throw new Error(`SANDBOX_LIVE: ${unknown.join(", ")}; there are ${known.join(", ")}`)
  return names.includes(vendor)
}
