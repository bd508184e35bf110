/** The suites of stores and logs, over InstantDB's real SDK and an emulator of its server. */
import * as LogSuite from "../../../src/testing/LogSuite.ts"
import * as StoreSuite from "../../../src/testing/StoreSuite.ts"
import { instance, store } from "./instantDbSupport.ts"
import { plant } from "./support.ts"

StoreSuite.suite("InstantDB", store(), { plant, otherNamespace: instance({ namespace: "another" }) })
LogSuite.suite("InstantDB", store())
