/**
 * What users import in tests: the suites that certify a provider, a store or a log of their own. Peers: `vitest` and
 * `@effect/vitest`.
 */
export * as LogSuite from "./LogSuite.ts"
export * as PlatformSuite from "./PlatformSuite.ts"
export * as ProviderSuite from "./ProviderSuite.ts"
export * as StoreSuite from "./StoreSuite.ts"
