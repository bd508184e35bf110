/** The platform suite over Vercel. */
import { platformOver } from "../support/platform.ts"
import { service } from "./support.ts"

platformOver("vercel", service())
