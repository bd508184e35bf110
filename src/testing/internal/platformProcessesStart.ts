/** The platform suite: what a program is started with, and what keeps it from starting. */
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as ChildProcess from "effect/process/ChildProcess"
import * as Redacted from "effect/Redacted"
import type { It, Options } from "./platform.ts"
import * as P from "./platform.ts"
import { argumentLists, hazards, printArguments } from "./providerProcesses.ts"

const echoes = (args: ReadonlyArray<string>) =>
  Effect.map(P.run(P.sh(printArguments, args)), ({ code, stdout }) => {
    assert.strictEqual(code, 0)
    assert.strictEqual(stdout, args.map((argument) => `${argument}\0`).join(""))
  })

const program = (fs: FileSystem.FileSystem, path: string, script: string, mode = 0o755) =>
  fs.writeFileString(path, script, { mode })

export const register = (it: It, options: Options): void => {
  const test = P.tester(it, options)

  test("arguments arrive byte for byte: what shells trip over", () => echoes(hazards))

  it.effect.prop(
    "arguments arrive byte for byte: anything",
    { args: argumentLists },
    ({ args }) => Effect.scoped(echoes(args)),
    {
      timeout: options.timeout ?? 60_000,
      arbitrary: { seed: "argv", runs: options.propertyRuns ?? 20, maxShrinks: 20 }
    }
  )

  test("arguments: none, and no shell looks at them", ({ spawner }) =>
    Effect.gen(function* () {
      assert.strictEqual(yield* spawner.string(ChildProcess.make("echo")), "\n")
      assert.strictEqual(
        yield* spawner.string(ChildProcess.make("echo", ["$HOME", "*", "a  b"], { shell: false })),
        "$HOME * a  b\n"
      )
      const name = "a b"
      assert.strictEqual(yield* spawner.string(ChildProcess.make`echo ${name} ${["c", "d  e"]}`), "a b c d  e\n")
    }))

  registerPrograms(test, options)
  registerDirectories(test, options)
  registerEnvironment(test, options)
  registerShells(test, options)
  registerSecrets(test, options)
}

const registerPrograms = (test: P.Test, options: Options): void => {
  test("a program is found by its path, relative to where it will run, or by PATH", ({ at, directory, fs, spawner }) =>
    Effect.gen(function* () {
      yield* program(fs, at("hello"), `#!/bin/sh\nprintf '%s|' hello "$@"`)
      const said = (command: string, options?: ChildProcess.CommandOptions) =>
        spawner.string(ChildProcess.make(command, ["x y"], options))
      assert.strictEqual(yield* said(at("hello")), "hello|x y|")
      assert.strictEqual(yield* said("./hello", { cwd: directory }), "hello|x y|")
      assert.strictEqual(yield* said("hello", { env: { PATH: directory } }), "hello|x y|")
      yield* P.fails(said("hello", { cwd: directory, env: P.usualPath }), "NotFound")
    }))

  for (const name of ["a b", "-x", "$HOME'\"", "line\nbreak", "*", "caf\u00e9 \u{1F600}"]) {
    test(`a program may be called ${P.shown(name)}`, ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        yield* program(fs, at(name), "#!/bin/sh\necho ran")
        assert.strictEqual(yield* spawner.string(ChildProcess.make(at(name))), "ran\n")
      }))
  }

  test("what cannot be started says why", ({ at, directory, fs, spawner }) =>
    Effect.gen(function* () {
      yield* program(fs, at("plain"), "#!/bin/sh\n", 0o644)
      yield* program(fs, at("odd"), "#!/no/such/interpreter\n")
      const env = P.usualPath
      for (const [command, tag] of [
        ["suite-no-such-program", "NotFound"],
        ["/no/such/program", "NotFound"],
        [at("missing"), "NotFound"],
        ...((options.interpreters ?? true) ? ([[at("odd"), "NotFound"]] as const) : []),
        [at("plain"), "PermissionDenied"],
        [directory, "PermissionDenied"]
      ] as const) {
        const error = yield* Effect.flip(Effect.scoped(spawner.spawn(ChildProcess.make(command, ["arg"], { env }))))
        assert.deepInclude(error.reason, { _tag: tag, module: "ChildProcess", method: "spawn" }, command)
        assert.include(error.message, command)
        yield* P.fails(spawner.exitCode(ChildProcess.make(command, [], { env })), tag)
        yield* P.fails(spawner.string(ChildProcess.make(command, [], { env })), tag)
      }
      if (options.interpreters === false) assert.strictEqual(yield* spawner.exitCode(ChildProcess.make(at("odd"))), 127)
    }))

  if (options.bindingModes === true) {
    test("a program in a directory that may not be entered is PermissionDenied", ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        yield* fs.makeDirectory(at("locked"))
        yield* program(fs, at("locked/program"), "#!/bin/sh\n")
        yield* Effect.acquireRelease(fs.chmod(at("locked"), 0o000), () => Effect.orDie(fs.chmod(at("locked"), 0o700)))
        yield* P.fails(spawner.exitCode(ChildProcess.make(at("locked/program"))), "PermissionDenied")
        yield* P.fails(spawner.exitCode(ChildProcess.make("true", [], { cwd: at("locked") })), "PermissionDenied")
      }))
  }

  test("NUL is BadArgument, and what it was in is not echoed", ({ spawner }) =>
    Effect.gen(function* () {
      for (const command of [
        ChildProcess.make("hidden\0"),
        ChildProcess.make("true", ["ok", "hidden\0"]),
        ChildProcess.make("true", [Redacted.make("hidden\0")]),
        ChildProcess.make("true", [], { env: { NAME: "hidden\0" } }),
        ChildProcess.make("true", [], { env: { NAME: Redacted.make("hidden\0") } })
      ]) {
        const error = yield* Effect.flip(Effect.scoped(spawner.spawn(command)))
        assert.strictEqual(error.reason._tag, "BadArgument")
        assert.notInclude(error.message + JSON.stringify(error), "hidden")
      }
      yield* P.fails(spawner.exitCode(ChildProcess.make("true", [], { cwd: "a\0b" })), "BadArgument")
    }))

  const odd: ReadonlyArray<
    readonly [
      what: string,
      tag: PlatformError.PlatformError["reason"]["_tag"],
      command: (at: (name: string) => string) => ChildProcess.Command
    ]
  > = [
    ["an empty command", "BadArgument", () => ChildProcess.make("")],
    ["NUL in the name of a variable", "BadArgument", () => ChildProcess.make("true", [], { env: { "A\0": "x" } })],
    ["a working directory that is a file", "BadResource", (at) => ChildProcess.make("true", [], { cwd: at("file") })],
    ["a program whose path leads through a file", "BadResource", (at) => ChildProcess.make(at("file/program"))],
    ["a program whose name is too long", "Unknown", (at) => ChildProcess.make(at("n".repeat(300)))],
    ["an argument that is too long", "Unknown", () => ChildProcess.make("true", ["x".repeat(4 << 20)])]
  ]
  for (const [what, tag, command] of odd) {
    // A guest without processes has no limit to what it is started with.
    if (tag === "Unknown" && !options.realProcesses) continue
    test(`${what} does not start`, ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        yield* fs.writeFileString(at("file"), "")
        const exit = yield* Effect.exit(Effect.scoped(spawner.spawn(command(at))))
        if (!Exit.isFailure(exit)) return assert.fail("it started")
        const error = Cause.findErrorOption(exit.cause)
        if (options.startErrorsTyped ?? true) assert.strictEqual(Option.getOrThrow(error).reason._tag, tag)
        else assert.isTrue(Cause.hasDies(exit.cause))
      }))
  }
}

const registerDirectories = (test: P.Test, options: Options): void => {
  test("the working directory: the platform's own, a relative and an absolute one", ({ at, directory, fs, path }) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(at("sub dir"))
      const real = yield* fs.realPath(directory)
      const own = path.resolve(".")
      const relative = path.relative(own, directory)
      assert.strictEqual(yield* P.output("pwd -P"), `${yield* fs.realPath(own)}\n`)
      for (const cwd of [directory, relative, `${directory}/`, `./${relative}/.`]) {
        assert.strictEqual(yield* P.output("pwd -P", [], { cwd }), `${real}\n`, cwd)
      }
      assert.strictEqual(yield* P.output("pwd -P", [], { cwd: at("sub dir") }), `${real}/sub dir\n`)
    }))

  test("the working directory may have an odd name", ({ at, fs }) =>
    Effect.gen(function* () {
      for (const name of P.oddNames) {
        yield* fs.makeDirectory(at(name))
        yield* P.output(`: > here`, [], { cwd: at(name) })
        assert.deepStrictEqual(yield* fs.readDirectory(at(name)), ["here"])
      }
    }))

  test("a working directory that is not there says so, whatever the program", ({ at, fs, spawner }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("file"), "")
      yield* fs.symlink("gone", at("dangling"))
      for (const [cwd, tag] of [
        [at("missing"), "NotFound"],
        [at("dangling"), "NotFound"],
        ["", "NotFound"],
        [at("file/x"), "BadResource"]
      ] as const) {
        yield* P.fails(spawner.exitCode(ChildProcess.make("true", [], { cwd })), tag)
        yield* P.fails(spawner.exitCode(ChildProcess.make("suite-no-such-program", [], { cwd })), tag)
      }
    }))

  if (!options.stdin) return

  test("setCwd and setEnv reach every program of a pipeline", ({ at, fs, spawner }) =>
    Effect.gen(function* () {
      yield* fs.writeFileString(at("here"), "")
      const command = P.sh(`ls; echo "$WHO"`).pipe(
        ChildProcess.pipeTo(P.sh(`cat; ls; echo "$WHO"`)),
        ChildProcess.setCwd(at(".")),
        ChildProcess.setEnv({ WHO: "me", PATH: (yield* P.output("echo $PATH")).trim() })
      )
      assert.strictEqual(yield* spawner.string(command), "here\nme\nhere\nme\n")
    }))
}

const registerEnvironment = (test: P.Test, options: Options): void => {
  /** What a program finds, less what the platform gives every one. */
  const environment = (spawner: P.Subject["spawner"], env: NonNullable<ChildProcess.CommandOptions["env"]>) =>
    Effect.map(spawner.lines(ChildProcess.make("env", [], { env })), (lines) =>
      lines.filter((line) => !(options.ownVariables ?? []).some((name) => line.startsWith(`${name}=`)))
    )

  test("the environment: without `extendEnv` exactly what is given", ({ spawner }) =>
    Effect.gen(function* () {
      const env = { PLAIN: "a b", EMPTY: "", GONE: undefined, SECRET: Redacted.make("s3cret'\"") }
      assert.sameMembers(yield* environment(spawner, env), ["PLAIN=a b", "EMPTY=", "SECRET=s3cret'\""])
      assert.deepStrictEqual(yield* environment(spawner, {}), [])
      assert.deepStrictEqual(yield* environment(spawner, { GONE: undefined }), [])
    }))

  test("the environment: without PATH programs are found in the usual places, with another one only there", ({
    spawner
  }) =>
    Effect.gen(function* () {
      assert.strictEqual(yield* spawner.exitCode(ChildProcess.make("true", [], { env: { A: "1" } })), 0)
      for (const PATH of ["/nowhere", ""]) {
        yield* P.fails(spawner.exitCode(ChildProcess.make("true", [], { env: { PATH } })), "NotFound")
      }
    }))

  test("the environment: with `extendEnv`, or without `env`, the platform's own", ({ spawner }) =>
    Effect.gen(function* () {
      const own = yield* spawner.lines(ChildProcess.make("env"))
      const path = own.find((line) => line.startsWith("PATH="))
      assert.isDefined(path)
      const extended = yield* spawner.lines(
        ChildProcess.make("env", [], { env: { SUITE: "x", PATH: undefined }, extendEnv: true })
      )
      assert.include(extended, "SUITE=x")
      assert.isFalse(extended.some((line) => line.startsWith("PATH=")))
      const replaced = ChildProcess.make(`echo "$PATH"`, [], { env: { PATH: "/a:/b" }, extendEnv: true, shell: true })
      assert.strictEqual(yield* spawner.string(replaced), "/a:/b\n")
    }))

  test("the environment: values are data", () =>
    Effect.gen(function* () {
      for (const value of [
        "line\nbreak\n",
        "$HOME `id` $(id)",
        "'\"\\",
        "caf\u00e9 \u{1F600}",
        " ",
        "a=b",
        "-n",
        "\u0001"
      ]) {
        for (const VALUE of [value, Redacted.make(value)]) {
          assert.strictEqual(yield* P.output(`printf %s "$VALUE"`, [], { env: { VALUE }, extendEnv: true }), value)
        }
      }
    }))

  test("the environment: names that a shell could not assign arrive", ({ spawner }) =>
    Effect.gen(function* () {
      const lines = yield* environment(spawner, { "a.b-c": "1", "with space": "2", "9": "3" })
      assert.sameMembers(lines, ["a.b-c=1", "with space=2", "9=3"])
    }))
}

const registerShells = (test: P.Test, options: Options): void => {
  test("shell: true and sh run the command as a script", ({ spawner }) =>
    Effect.gen(function* () {
      for (const shell of [true, "sh", "/bin/sh"]) {
        const script = (text: string) => ChildProcess.make(text, [], { shell, env: { A: "b c" }, extendEnv: true })
        assert.strictEqual(yield* spawner.string(script(`echo "$A" $A $# | cat; echo 'x  y'`)), "b c b c 0\nx  y\n")
        assert.strictEqual(yield* spawner.exitCode(script("exit 3")), 3)
        assert.strictEqual(yield* spawner.exitCode(script("suite-no-such-program 2>/dev/null")), 127)
      }
    }))

  test("shell: arguments beside a script are BadArgument, which says why", ({ spawner }) =>
    Effect.gen(function* () {
      for (const shell of [true, "sh"]) {
        const error = yield* Effect.flip(spawner.exitCode(ChildProcess.make("echo", ["x"], { shell })))
        assert.strictEqual(error.reason._tag, "BadArgument")
        assert.match(error.message, /shell.+arguments/)
      }
    }))

  if (options.shells ?? true) {
    test("shell: any program that takes -c and a script", ({ at, fs, spawner }) =>
      Effect.gen(function* () {
        yield* program(fs, at("my shell"), `#!/bin/sh\nprintf '%s|' "$@"`)
        assert.strictEqual(
          yield* spawner.string(ChildProcess.make("a  b 'c'", [], { shell: at("my shell") })),
          "-c|a  b 'c'|"
        )
        yield* P.fails(spawner.exitCode(ChildProcess.make("true", [], { shell: at("missing") })), "NotFound")
      }))
  } else {
    test("shell: another one is BadArgument", ({ spawner }) =>
      P.fails(spawner.exitCode(ChildProcess.make("true", [], { shell: "/bin/suite-no-such-shell" })), "BadArgument"))
  }
}

const registerSecrets = (test: P.Test, options: Options): void => {
  if (options.redactedArguments) {
    test("a redacted argument arrives", ({ spawner }) =>
      Effect.map(spawner.string(ChildProcess.make("echo", [Redacted.make("hush $HOME"), "x"])), (text) =>
        assert.strictEqual(text, "hush $HOME x\n")
      ))
  } else {
    test("a redacted argument is BadArgument, which says why", ({ spawner }) =>
      Effect.map(Effect.flip(spawner.string(ChildProcess.make("echo", [Redacted.make("hush")]))), (error) => {
        assert.strictEqual(error.reason._tag, "BadArgument")
        assert.match(error.message, /[Rr]edacted|secret/)
      }))
  }

  test("what is redacted shows in no error", ({ spawner }) =>
    Effect.gen(function* () {
      const secret = Redacted.make("hush-hush")
      for (const command of [
        ChildProcess.make("suite-no-such-program", [secret]),
        ChildProcess.make("suite-no-such-program", [], { env: { SECRET: secret } }),
        ChildProcess.make("true", [secret], { cwd: "/no/such/directory", env: { SECRET: secret } })
      ]) {
        const error = yield* Effect.flip(Effect.scoped(spawner.spawn(command)))
        const { cause } = error.reason
        const own =
          cause instanceof Error ? Object.entries(cause).flat().map(String).join() + String(cause) : String(cause)
        assert.notInclude(error.message + JSON.stringify(error) + JSON.stringify(cause) + own, "hush-hush")
      }
    }))
}
