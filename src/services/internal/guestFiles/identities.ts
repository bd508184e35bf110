/**
 * Which file a handle is of. Where the file system tells when a file was made, that and the inode say it. Elsewhere an inode
 * may have passed to another file unseen, so it is the same only while nobody but us has written to it: what we write
 * through any handle or by a path is noted here, for all handles of the file, unless it was not there or not the same before.
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

/** A file that handles are of, and what it was like after the last operation of ours. */
interface Seen {
  readonly lock: Semaphore.Semaphore
  change: string | undefined
  /** When that was, by {@link Identities}' own count. */
  at: number
  handles: number
}

/** An operation by a path that is about to begin. */
export interface Noting {
  /** In which it must print what is there before and after it, see {@link Info.transition}; empty while nobody is interested. */
  readonly format: string
  /** What it printed at its end. */
  readonly note: (bytes: Uint8Array) => void
}

export interface Identities {
  /** Before a file is opened. */
  readonly opening: (toolbox: Toolbox) => Opening
  /** Before something is written by a path. */
  readonly noting: (subject: Subject) => Effect.Effect<Noting, PlatformError.PlatformError>
}

export interface Opening {
  /** As {@link Noting}'s. */
  readonly format: string
  /** Remembers the file, of which this was printed, as long as the Scope lasts. */
  readonly remember: (opened: Info.Transition) => Effect.Effect<Identity, never, Scope.Scope>
}

export const make = (shell: Shell): Identities => {
  const files = new Map<string, Seen>()
  let count = 0

  const see = (seen: Seen, change: string | undefined) => {
    seen.change = change
    seen.at = ++count
  }

  /** The file that was known, if this is still it: nothing has come in between that was not ours. */
  const known = ({ after, before }: Info.Transition, since: number): Seen | undefined => {
    const seen = files.get(after.key)
    if (seen === undefined) return undefined
    const was = before === "unknown" ? after : before
    if (was !== "nothing" && was.key === after.key) {
      if (seen.change === undefined || seen.change === was.change) {
        see(seen, after.change)
        return seen
      }
      if (seen.at > since) {
        // Another operation of ours was at work at the same time: which came last is not known.
        see(seen, undefined)
        return seen
      }
    }
    files.delete(after.key)
    return undefined
  }

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

  const byChange = (toolbox: Toolbox, opened: Info.Transition, since: number) => {
    const { change, key } = opened.after
    return Effect.map(
      Effect.acquireRelease(
        Effect.sync(() => {
          const seen = known(opened, since) ?? { lock: Semaphore.makeUnsafe(1), change, at: ++count, handles: 0 }
          seen.handles++
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
        saw: (parsed) => see(seen, parsed.change),
        doubt: () => see(seen, undefined),
        matches: (parsed) => parsed.key === key && (seen.change === undefined || seen.change === parsed.change)
      })
    )
  }

  return {
    opening: (toolbox) => {
      const since = count
      return {
        format: files.size === 0 ? "" : Info.format(toolbox),
        remember: (opened) =>
          opened.after.birth === undefined
            ? byChange(toolbox, opened, since)
            : Effect.succeed(byBirth(opened.after.key, opened.after.birth))
      }
    },
    noting: (subject) =>
      Effect.suspend(() => {
        const since = count
        const note = (bytes: Uint8Array) => {
          const transition = bytes.length === 0 ? undefined : Info.transition(Info.decode(bytes))
          if (transition !== undefined) known(transition, since)
        }
        return files.size === 0
          ? Effect.succeed({ format: "", note })
          : Effect.map(shell.toolbox(subject), (toolbox) => ({ format: Info.format(toolbox), note }))
      })
  }
}
