/** Snapshots as the vendor lists them: by the name of their sandbox, each with the session whose end it is. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { Snapshot } from "@vercel/sandbox"
import type { SandboxError } from "../../../errors.ts"
import type { SandboxId } from "../../../model/Ids.ts"
import type { Sdk } from "./sdk.ts"

/** One of a list. */
export type Listed = Awaited<ReturnType<typeof Snapshot.list>>["snapshots"][number]

/** The snapshots of a name that can be booted from, newest first; none of a name that is gone. */
export const ofName = (
  sdk: Sdk,
  operation: string,
  name: string,
  sandboxId: SandboxId
): Stream.Stream<Listed, SandboxError> =>
  Stream.paginate(undefined as string | undefined, (cursor) =>
    sdk
      .use({ operation, about: "sandbox", id: name, effects: false, sandboxId }, (access, signal, { Snapshot }) =>
        Snapshot.list({
          ...access,
          name,
          sortOrder: "desc",
          ...(cursor === undefined ? {} : { cursor }),
          signal
        })
      )
      .pipe(
        Effect.flatMap(({ pagination, snapshots }) =>
          Effect.map(Clock.currentTimeMillis, (now) => {
            const usable = snapshots.filter(
              ({ expiresAt, status }) => status === "created" && (expiresAt === undefined || expiresAt > now)
            )
            return [usable, Option.fromNullOr(pagination.next)] as const
          })
        ),
        Effect.catch((error) => Effect.flatMap(sdk.unlessNoProject(error), Effect.fail)),
        Effect.catchIf(
          (error) => error.reason._tag === "Gone" && cursor === undefined,
          () => Effect.succeed([[], Option.none<string>()] as const)
        )
      )
  )

/** The disk of a session as it was at its end, if it was saved: with the snapshot a session ends, so that nothing came after it. */
export const ofSession = (
  sdk: Sdk,
  operation: string,
  name: string,
  sessionId: string,
  sandboxId: SandboxId
): Effect.Effect<Option.Option<Listed>, SandboxError> =>
  ofName(sdk, operation, name, sandboxId).pipe(
    Stream.filter(({ sourceSessionId }) => sourceSessionId === sessionId),
    Stream.runHead
  )
