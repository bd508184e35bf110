/** The platform suite over Sprites. */
import { platformOver } from "../support/platform.ts"
import { service } from "./support.ts"

platformOver("sprites", service())
