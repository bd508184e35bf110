/**
 * Runs against the vendors themselves, which cost money: `SANDBOX_LIVE=vercel npm test`; several names are separated by commas.
 * Nothing is contacted without it.
 */
const known = ["vercel", "instantdb"] as const

/** A vendor that `SANDBOX_LIVE` can name. */
export type Vendor = (typeof known)[number]

/** The vendors of such a list; one that is misspelt must not look like a run that passed. */
export const vendorsOf = (list: string): ReadonlySet<Vendor> => {
  const names = list
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "")
  return new Set(
    names.map((name) => {
      const vendor = known.find((one) => one === name)
      if (vendor === undefined) throw new Error(`SANDBOX_LIVE: ${name} is none of ${known.join(", ")}`)
      return vendor
    })
  )
}

/** Why a vendor is not run against, or undefined where it is; `settings` are those without which it cannot be. */
export const skipped = (
  vendor: Vendor,
  settings: ReadonlyArray<string>,
  // Known before any test is registered.
  environment: Readonly<Record<string, string | undefined>> = process.env
): string | undefined => {
  if (!vendorsOf(environment["SANDBOX_LIVE"] ?? "").has(vendor)) return `SANDBOX_LIVE does not name ${vendor}`
  const missing = settings.filter((name) => (environment[name] ?? "").trim() === "")
  return missing.length === 0 ? undefined : `${missing.join(", ")} not set`
}
