/**
 * Some suites are run over more layers than a change needs every time, each of which is slow: `npm run test:full` runs them over
 * all, `npm test` over those that have no other run.
 */
export const full = process.env["SANDBOX_SUITES"] === "full"
