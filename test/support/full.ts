/**
 * Some suites are run over more layers than a change needs every time, each of which is slow: `npm run test:full` runs them over
 * all, `npm test` over those that have no other run.
 */
// @effect-diagnostics-next-line processEnv:off -- known before any test is registered
export const full = process.env["SANDBOX_SUITES"] === "full"
