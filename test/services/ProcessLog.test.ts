import * as LogSuite from "../../src/testing/LogSuite.ts"
import { memory, sqlite, sqliteReopened } from "../layers/stores/support.ts"

LogSuite.suite("memory", memory)
LogSuite.suite("SQLite", sqlite)
LogSuite.suite("SQLite, a file opened again", sqliteReopened)
