/** The files of a guest. */
import * as FileSystem from "effect/FileSystem"
import type { Machine } from "../SandboxProvider.ts"

/** The file system of a machine. */
export const derive = (machine: Machine): FileSystem.FileSystem => FileSystem.makeNoop(machine.fileSystem)
