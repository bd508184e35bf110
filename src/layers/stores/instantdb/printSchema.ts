#!/usr/bin/env node
/** Prints the schema file for the vendor's CLI: `npx effect-sandbox-instantdb-schema > instant.schema.ts`. */
import { schemaFile } from "./schemaFile.ts"

process.stdout.write(schemaFile())
