/**
 * The section `daytona` of a config. What is a secret in it (values of `envVars`) is `Redacted` as a user writes it and the name of
 * a secret as a record keeps it.
 */
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { NoNul, RedactedText, SaneDurationOrZero, SecretName } from "./Common.ts"

/**
 * An image that the vendor builds: of a base image, or of Debian with that Python (the default is the vendor's newest), with packages
 * of `pip` and a working directory.
 */
export const DeclarativeImage = Schema.Struct({
  base: Schema.optionalKey(NoNul),
  pythonVersion: Schema.optionalKey(Schema.Literals(["3.9", "3.10", "3.11", "3.12", "3.13"])),
  pipInstall: Schema.optionalKey(Schema.Array(NoNul)),
  workdir: Schema.optionalKey(NoNul)
})
export type DeclarativeImage = typeof DeclarativeImage.Type

/** A volume to mount, by its id or by its name; one that has this name is made when there is none. */
export const VolumeMount = Schema.Struct({
  volumeId: Schema.optionalKey(NoNul),
  volumeName: Schema.optionalKey(NoNul),
  /** Absolute, and outside of the system's own directories. */
  mountPath: NoNul,
  /** The part of the volume that is mounted. */
  subpath: Schema.optionalKey(NoNul)
})
export type VolumeMount = typeof VolumeMount.Type

const fields = {
  /** What the vendor's own `codeRun` runs; the default is told by `runtime`. */
  language: Schema.optionalKey(Schema.Literals(["python", "typescript", "javascript"])),
  /** A snapshot of the vendor's to start from; not together with `image` or `resources`. */
  snapshot: Schema.optionalKey(NoNul),
  /** An image by name, or one to build. */
  image: Schema.optionalKey(Schema.Union([NoNul, DeclarativeImage])),
  /** Labels of the user's, besides those by which a sandbox is found again. */
  labels: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  /** Whether its ports can be reached without a token. */
  public: Schema.optionalKey(Schema.Boolean),
  /** Whether it is deleted when it stops, for whatever reason; the opposite of `persistent`. */
  ephemeral: Schema.optionalKey(Schema.Boolean),
  /** Stops after so long without activity, in whole minutes; zero is never. */
  autoStopInterval: Schema.optionalKey(SaneDurationOrZero),
  /** Archives after having been stopped so long; zero is the vendor's maximum. */
  autoArchiveInterval: Schema.optionalKey(SaneDurationOrZero),
  /** Deletes after having been stopped so long; zero is at once. */
  autoDeleteInterval: Schema.optionalKey(SaneDurationOrZero),
  /** The user in the guest. */
  user: Schema.optionalKey(NoNul),
  volumes: Schema.optionalKey(Schema.Array(VolumeMount))
}

const envVars = <S extends Schema.Top>(value: S) => Schema.optionalKey(Schema.Record(Schema.String, value))

/** The section as a user writes it. `envVars` are merged over the config's `env`. */
export const DaytonaConfig = Schema.Struct({
  ...fields,
  envVars: envVars(Schema.Union([NoNul, RedactedText]).annotate({ expected: "text without NUL, or Redacted text" }))
})
export type DaytonaConfig = typeof DaytonaConfig.Type

/** The section as a record keeps it. */
export const StoredDaytonaConfig = Schema.Struct({
  ...fields,
  envVars: envVars(Schema.Union([Schema.String, SecretName]))
})
export type StoredDaytonaConfig = typeof StoredDaytonaConfig.Type

/** The name that the user gave a secret by its label, else that of its place. */
const nameOf = (value: Redacted.Redacted<string>, variable: string): string => value.label ?? `daytona:${variable}`

/** The secrets of a section with the names that they have in a record. */
export const secretsOf = ({
  envVars = {}
}: DaytonaConfig): ReadonlyArray<readonly [string, Redacted.Redacted<string>]> =>
  Object.entries(envVars).flatMap(([variable, value]) =>
    Redacted.isRedacted(value) ? [[nameOf(value, variable), value] as const] : []
  )

/** The section without the values of secrets but with their names. */
export const toStored = ({ envVars, ...rest }: DaytonaConfig): StoredDaytonaConfig =>
  envVars === undefined
    ? rest
    : {
        ...rest,
        envVars: Object.fromEntries(
          Object.entries(envVars).map(([variable, value]) => [
            variable,
            Redacted.isRedacted(value) ? { secret: nameOf(value, variable) } : value
          ])
        )
      }

/** The names of the secrets that a stored section needs. */
export const secretNames = ({ envVars = {} }: StoredDaytonaConfig): ReadonlyArray<string> =>
  Object.values(envVars).flatMap((value) => (typeof value === "string" ? [] : [value.secret]))

/** The section with the values of its secrets; a name that was not supplied sets no variable. */
export const fromStored = (
  { envVars, ...rest }: StoredDaytonaConfig,
  secrets: Readonly<Record<string, Redacted.Redacted<string>>>
): DaytonaConfig => {
  if (envVars === undefined) return rest
  const known = Object.entries(envVars).flatMap(([variable, value]) => {
    const supplied = typeof value === "string" ? value : secrets[value.secret]
    return supplied === undefined ? [] : [[variable, supplied] as const]
  })
  return { ...rest, envVars: Object.fromEntries(known) }
}
