/** The script for a deployment of one's own, over a repository of the test and a `docker` that only says what it was told. */
import { assert, describe, it } from "@effect/vitest"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { full } from "./support/full.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
const script = Path.join(root, "scripts/daytona-local.sh")

/** `shell` is what runs the script. */
const world = (shell: ReadonlyArray<string> = ["sh"]) => {
  const base = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-sandbox-oss-"))
  const bin = Path.join(base, "bin")
  const origin = Path.join(base, "origin")
  const home = Path.join(base, "home of it")
  Fs.mkdirSync(bin)
  Fs.writeFileSync(Path.join(bin, "docker"), `#!/bin/sh\necho "$*" >>"${base}/docker.log"\n`, { mode: 0o755 })
  const git = (...args: ReadonlyArray<string>) =>
    ChildProcess.execFileSync("git", ["-C", origin, "-c", "user.name=x", "-c", "user.email=x@example.test", ...args])
  Fs.mkdirSync(Path.join(origin, "docker"), { recursive: true })
  Fs.writeFileSync(Path.join(origin, "docker/docker-compose.yaml"), "services: {}\n")
  git("init", "--quiet")
  git("add", ".")
  git("commit", "--quiet", "-m", "x")
  git("tag", "v0.190.0")
  const run = (args: ReadonlyArray<string>, env: Record<string, string> = {}) => {
    const [program = "sh", ...before] = shell
    const { status, stderr, stdout } = ChildProcess.spawnSync(program, [...before, script, ...args], {
      cwd: base,
      env: {
        PATH: `${bin}:/usr/local/bin:/usr/bin:/bin`,
        HOME: base,
        DAYTONA_OSS_HOME: home,
        DAYTONA_OSS_REPOSITORY: `file://${origin}`,
        ...env
      },
      encoding: "utf8"
    })
    return { status, text: `${stdout}${stderr}` }
  }
  return {
    base,
    home,
    run,
    docker: () => Fs.readFileSync(Path.join(base, "docker.log"), "utf8").trim().split("\n"),
    [Symbol.dispose]: () => Fs.rmSync(base, { recursive: true, force: true })
  }
}

describe("scripts/daytona-local.sh", () => {
  for (const shell of [["dash"], ["busybox", "sh"], ["bash", "--posix"]]) {
    const isInstalled = ChildProcess.spawnSync(shell[0] ?? "", ["-c", ":"]).error === undefined
    // The strictest two are enough for short runs.
    if (!isInstalled || (shell[0] === "bash" && !full)) continue
    it(`clones, starts, tells, stops and deletes: ${shell[0]}`, () => {
      using it = world(shell)
      assert.include(it.run(["up"]).text, "run init first")
      for (let times = 0; times < 2; times++) {
        const { status, text } = it.run(["init"])
        assert.strictEqual(status, 0, text)
      }
      for (const command of ["up", "status", "down", "clean", "clean"]) {
        const { status, text } = it.run([command])
        assert.strictEqual(status, 0, text)
      }
      assert.deepStrictEqual(
        it.docker().map((line) => line.replace(/^.*docker-compose\.yaml /, "")),
        ["up --detach", "ps", "down", "down --volumes --remove-orphans"]
      )
      assert.isFalse(Fs.existsSync(it.home))
    })
  }

  it("keeps out of this repository, and deletes nothing that it has not made", () => {
    using it = world()
    assert.include(it.run(["init"], { DAYTONA_OSS_HOME: Path.join(root, "daytona") }).text, "must be outside")
    Fs.mkdirSync(it.home)
    Fs.writeFileSync(Path.join(it.home, "mine"), "")
    assert.include(it.run(["init"]).text, "is not empty")
    assert.strictEqual(it.run(["clean"]).status, 0)
    assert.isTrue(Fs.existsSync(Path.join(it.home, "mine")))
    assert.strictEqual(it.run([]).status, 2)
  })

  it("sees this repository behind links and dots", () => {
    using it = world()
    Fs.symlinkSync(root, Path.join(it.base, "link"))
    const there = Path.basename(Path.resolve(root))
    for (const home of [
      `${it.base}/link/daytona`,
      "link/daytona/x",
      `${root}/../${there}/daytona`,
      `${it.base}/link/test/../daytona`
    ]) {
      assert.include(it.run(["init"], { DAYTONA_OSS_HOME: home }).text, "must be outside", home)
    }
    assert.include(it.run(["init"], { DAYTONA_OSS_HOME: "nothing/../x" }).text, "what is not there")
    assert.isFalse(Fs.existsSync(Path.join(root, "daytona")))
  })

  it("says what it lacks, and goes on when that is there", () => {
    using it = world()
    assert.include(it.run(["init"], { DAYTONA_OSS_REF: "v0" }).text, "has no v0")
    assert.include(it.run(["init"], { DAYTONA_OSS_REF: "--upload-pack=x" }).text, "is no reference")
    const { status, text } = it.run(["init"])
    assert.strictEqual(status, 0, text)
    const path = Path.join(it.base, "git only")
    Fs.mkdirSync(path)
    for (const name of ["sh", "git", "dirname", "basename", "ls", "rm"])
      Fs.symlinkSync(`/usr/bin/${name}`, Path.join(path, name))
    assert.include(it.run(["up"], { PATH: path }).text, "docker is not installed")
    Fs.writeFileSync(Path.join(it.base, "bin/docker"), "#!/bin/sh\necho no daemon >&2; exit 1\n")
    const failed = it.run(["clean"])
    assert.include(failed.text, "no daemon")
    assert.strictEqual(failed.status, 1)
    assert.isTrue(Fs.existsSync(it.home), "what may still run keeps its files")
    assert.strictEqual(it.run(["clean"], { PATH: path }).status, 0)
    assert.isFalse(Fs.existsSync(it.home))
  })

  it("overwrites and deletes nothing that somebody has put into the clone", () => {
    using it = world()
    // A repository around it, and one that git is told of, are none of its business.
    ChildProcess.execFileSync("git", ["init", "--quiet", it.base])
    const elsewhere = { GIT_DIR: Path.join(it.base, ".git") }
    const first = it.run(["init"], elsewhere)
    assert.strictEqual(first.status, 0, first.text)
    const compose = Path.join(it.home, "docker/docker-compose.yaml")
    Fs.writeFileSync(compose, "mine\n")
    assert.include(it.run(["init"]).text, "would overwrite")
    assert.include(it.run(["clean"]).text, "docker-compose.yaml")
    assert.strictEqual(Fs.readFileSync(compose, "utf8"), "mine\n")
    ChildProcess.execFileSync("git", ["-C", it.home, "checkout", "--quiet", "."])
    Fs.writeFileSync(Path.join(it.home, "notes"), "")
    assert.strictEqual(it.run(["init"]).status, 0)
    assert.include(it.run(["clean"]).text, "notes")
    Fs.rmSync(Path.join(it.home, ".git/HEAD"))
    assert.include(it.run(["init"]).text, "git cannot read")
    assert.strictEqual(it.run(["clean"]).status, 1)
    assert.isTrue(Fs.existsSync(Path.join(it.home, "notes")))
    assert.strictEqual(it.run(["clean", "--force"]).status, 0)
    assert.isFalse(Fs.existsSync(it.home))
    assert.isTrue(Fs.existsSync(Path.join(it.base, ".git")))
  })
})
