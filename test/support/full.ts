/**
 * Some suites are run over more layers than a change needs every time, each of which is slow: `npm run test:full` runs them over
 * all, `npm test` over those that have no other run.
 */
// @effect-diagnostics-next-line processEnv:off -- known before any test is registered
export const full = process.env["SANDBOX_SUITES"] === "full"

/** All of them with `npm run test:full`, else those that no other case is like. */
export const some = <A>(always: ReadonlyArray<A>, more: ReadonlyArray<A>): ReadonlyArray<A> =>
  full ? [...always, ...more] : always
