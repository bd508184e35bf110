import * as StoreSuite from "../../src/testing/StoreSuite.ts"
import { memory, otherNamespace, plant, sqlite, sqliteReopened } from "../layers/stores/support.ts"

StoreSuite.suite("memory", memory, { plant })
StoreSuite.suite("SQLite", sqlite, { plant, otherNamespace })
StoreSuite.suite("SQLite, a file opened again", sqliteReopened, { plant, otherNamespace })
