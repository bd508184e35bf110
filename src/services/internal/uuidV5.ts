/** Ids that are made of names: the same name has the same id, everywhere. */
import * as Effect from "effect/Effect"
import * as Digest from "effect/crypto/Digest"
import * as Hex from "effect/encoding/Hex"

/** UUIDv5 (RFC 9562, section 5.5) of a name in a namespace, which is a UUID itself; in lower case. */
export const uuidV5 = (namespace: string, name: string): Effect.Effect<string> =>
  Effect.gen(function* () {
    const { digest } = yield* Digest.Digest
    const space = Uint8Array.from(namespace.replaceAll("-", "").match(/../g) ?? [], (byte) => Number.parseInt(byte, 16))
    const text = new TextEncoder().encode(name)
    const data = new Uint8Array(space.length + text.length)
    data.set(space)
    data.set(text, space.length)
    const bytes = (yield* digest(Digest.sha1, data)).slice(0, 16)
    bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x50
    bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
    return Hex.encode(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-")
  }).pipe(Effect.provide(Digest.layerWebCrypto))
