/**
 * Which file a handle is of. Where the file system tells when a file was made, that and the inode say it. Elsewhere an inode
 * may have passed to another file unseen, so it is the same only while nobody but us has written to it: what we write
 * through any handle or by a path is noted here, for all handles of the file.
 */
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Info from "./info.ts"
import type { Toolbox } from "./scripts.ts"
import type { Shell, Subject } from "./shell.ts"

/** What a handle remembers. */
export interface Identity {
  /** Holds operations on the file back while one is at work. */
  readonly lock: Semaphore.Semaphore
  /** The format of `stat`, and what it must print. */
  readonly expected: () => readonly [format: string, text: string]
  /** What was seen after an operation of ours. */
  readonly saw: (parsed: Info.Parsed) => void
  /** An operation of ours may have been cut off in the middle. */
  readonly doubt: () => void
  /** Whether it is this file. */
  readonly matches: (parsed: Info.Parsed) => boolean
}

interface Seen {
  readonly lock: Semaphore.Semaphore
  change: string | undefined
  handles: number
}

export interface Identities {
  /** Remembers a file that was just opened, as long as the Scope lasts. */
  readonly remember: (toolbox: Toolbox, parsed: Info.Parsed) => Effect.Effect<Identity, never, Scope.Scope>
  /** The format in which a write by a path reports to {@link note}; empty while nobody is interested. */
  readonly noteFormat: (subject: Subject) => Effect.Effect<string, PlatformError.PlatformError>
  /** What a write by a path printed. */
  readonly note: (bytes: Uint8Array) => void
}

export const make = (shell: Shell): Identities => {
  const files = new Map<string, Seen>()

  const byBirth = (key: string, birth: string): Identity => {
    const text = `${key}:${birth}`
    return {
      lock: Semaphore.makeUnsafe(1),
      expected: () => [Info.birthFormat, text],
      saw: () => {},
      doubt: () => {},
      matches: (parsed) => `${parsed.key}:${parsed.birth}` === text
    }
  }

  const byChange = (toolbox: Toolbox, { change, key }: Info.Parsed) =>
    Effect.map(
      Effect.acquireRelease(
        Effect.sync(() => {
          const seen = files.get(key) ?? { lock: Semaphore.makeUnsafe(1), change: undefined, handles: 0 }
          seen.handles++
          seen.change = change
          files.set(key, seen)
          return seen
        }),
        (seen) =>
          Effect.sync(() => {
            seen.handles--
            if (seen.handles === 0 && files.get(key) === seen) files.delete(key)
          })
      ),
      (seen): Identity => ({
        lock: seen.lock,
        expected: () => (seen.change === undefined ? [Info.keyFormat, key] : [Info.changeFormat(toolbox), seen.change]),
        saw: (parsed) => {
          seen.change = parsed.change
        },
        doubt: () => {
          seen.change = undefined
        },
        matches: (parsed) => parsed.key === key && (seen.change === undefined || seen.change === parsed.change)
      })
    )

  return {
    remember: (toolbox, parsed) =>
      parsed.birth === undefined ? byChange(toolbox, parsed) : Effect.succeed(byBirth(parsed.key, parsed.birth)),
    noteFormat: (subject) =>
      Effect.suspend(() => (files.size === 0 ? Effect.succeed("") : Effect.map(shell.toolbox(subject), Info.format))),
    note: (bytes) => {
      const parsed = bytes.length === 0 ? undefined : Info.parse(Info.decode(bytes))
      const seen = parsed === undefined ? undefined : files.get(parsed.key)
      if (parsed !== undefined && seen !== undefined) seen.change = parsed.change
    }
  }
}
