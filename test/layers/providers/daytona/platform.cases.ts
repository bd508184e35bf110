/** The platform suite over Daytona. */
import { platformOver } from "../support/platform.ts"
import { service } from "./support.ts"

platformOver("daytona", service())
