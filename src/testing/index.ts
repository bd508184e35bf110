/**
 * What users import in tests: the library over machines of a test, faults for what their program stands on, and the suites that
 * certify a provider, a store or a log of their own. Peers: `vitest` and `@effect/vitest`.
 */
export * as Faults from "./Faults.ts"
export * as LogSuite from "./LogSuite.ts"
export * as PlatformSuite from "./PlatformSuite.ts"
export * as ProviderSuite from "./ProviderSuite.ts"
export * as StoreSuite from "./StoreSuite.ts"
export * as Testing from "./Testing.ts"
