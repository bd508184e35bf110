/** The last line of CI: how many tests passed and failed, by vitest's own JSON report. `node scripts/countTests.ts report.json` */
import { readFileSync } from "node:fs"

/** The part of the report that is read. */
export interface Report {
  readonly success: boolean
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly numPendingTests: number
  readonly numTodoTests: number
  readonly testResults: ReadonlyArray<{
    readonly status: string
    readonly assertionResults: ReadonlyArray<{ readonly status: string }>
  }>
}

/** A file that failed without a failed test (it does not load, or a hook broke) counts as one failure, or it would not show. */
export const count = (report: Report) => {
  const broken = report.testResults.filter(
    (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed")
  )
  const failed = report.numFailedTests + broken.length
  return {
    passed: report.numPassedTests,
    failed: failed === 0 && !report.success ? 1 : failed,
    skipped: report.numPendingTests + report.numTodoTests
  }
}

if (import.meta.main) {
  const [file = ""] = process.argv.slice(2)
  const { failed, passed, skipped } = count(JSON.parse(readFileSync(file, "utf8")))
  if (skipped > 0) console.log(`${skipped} skipped`)
  console.log(`${passed} passed, ${failed} failed`)
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1
}
