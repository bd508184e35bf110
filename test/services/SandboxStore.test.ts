import * as StoreSuite from "../../src/testing/StoreSuite.ts"
import { full } from "../support/full.ts"
import { memory, otherNamespace, plant, sqlite, sqliteReopened } from "../layers/stores/support.ts"

/** Their conflicts grow with the square. */
const increments = full ? 200 : 60

StoreSuite.suite("memory", memory, { plant })
StoreSuite.suite("SQLite", sqlite, { plant, otherNamespace, increments })
StoreSuite.suite("SQLite, a file opened again", sqliteReopened, { plant, otherNamespace, increments })
