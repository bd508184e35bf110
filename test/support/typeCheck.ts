/** What the compiler says to code that stands outside of this repository's own project. */
import { execFile } from "node:child_process"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const tsc = fileURLToPath(new URL("../../node_modules/typescript/bin/tsc", import.meta.url))

/** Compiles the files of a folder as a careful user would, and yields how that went. */
export const typeCheck = async (
  folder: string,
  options: { readonly skipLibCheck: boolean; readonly types: ReadonlyArray<string> },
  files: ReadonlyArray<string>
): Promise<{ readonly code: number; readonly stdout: string }> => {
  await writeFile(
    join(folder, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        strict: true,
        exactOptionalPropertyTypes: true,
        module: "NodeNext",
        target: "ESNext",
        lib: ["ESNext", "DOM"],
        noEmit: true,
        ...options
      },
      files
    })
  )
  return promisify(execFile)(process.execPath, [tsc, "-p", folder]).then(
    ({ stdout }) => ({ code: 0, stdout }),
    ({ code, stdout }: { readonly code: number; readonly stdout: string }) => ({ code, stdout })
  )
}

export const passed = { code: 0, stdout: "" }
