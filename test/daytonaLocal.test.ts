/** The script for a deployment of one's own, over a repository of the test and a `docker` that only says what it was told. */
import { assert, describe, it } from "@effect/vitest"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const script = Path.join(root, "scripts/daytona-local.sh")

const world = () => {
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
    const { status, stderr, stdout } = ChildProcess.spawnSync("sh", [script, ...args], {
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
    home,
    run,
    docker: () => Fs.readFileSync(Path.join(base, "docker.log"), "utf8").trim().split("\n"),
    [Symbol.dispose]: () => Fs.rmSync(base, { recursive: true, force: true })
  }
}

describe("scripts/daytona-local.sh", () => {
  it("clones, starts, tells, stops and deletes", () => {
    using it = world()
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
})
