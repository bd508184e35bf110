/** The endpoints of the records: sandboxes by name, lists of sessions, snapshots. */
import { badRequest, type Call, json, notFound, type Reply } from "./http.ts"
import type { Lifecycle } from "./lifecycle.ts"
import * as Schemas from "./schemas.ts"
import {
  bootAnswer,
  page,
  routesOf,
  sandboxAnswer,
  type SandboxState,
  sessionAnswer,
  type SnapshotState,
  snapshotAnswer,
  type World
} from "./state.ts"

export type Handler = (call: Call) => Promise<Reply> | Reply

const inProject = (world: World, id: string | null): void => {
  if (id !== world.credentials.projectId) notFound("Project")
}

const booted = (world: World): ReadonlyArray<SandboxState> =>
  [...world.sandboxes.values()].filter(({ sessions }) => sessions.length > 0)

const named = (world: World, { params, query }: Call): SandboxState => {
  inProject(world, query.get("projectId"))
  const sandbox = world.sandboxes.get(params[0] ?? "")
  return sandbox === undefined || sandbox.sessions.length === 0 ? notFound("Sandbox") : sandbox
}

const snapshotNamed = (world: World, { params }: Call): SnapshotState =>
  world.snapshots.get(params[0] ?? "") ?? notFound("Snapshot")

export const sandboxes = (world: World, lifecycle: Lifecycle) => {
  const create = async ({ projectId, ...settings }: Schemas.Settings & { readonly projectId: string }) => {
    inProject(world, projectId)
    return json(bootAnswer(await lifecycle.create(settings)))
  }

  const list: Handler = ({ query }) => {
    inProject(world, query.get("project"))
    const sortBy = query.get("sortBy") ?? "createdAt"
    if (sortBy !== "createdAt" && sortBy !== "name" && sortBy !== "statusUpdatedAt")
      return badRequest("sortBy is unknown.")
    const prefix = query.get("namePrefix")
    if (prefix !== null && sortBy !== "name") badRequest("namePrefix requires sortBy=name.")
    const tags = query.getAll("tags")
    if (tags.length > 1) badRequest("Only one tag can be filtered by.")
    const [key = "", ...value] = tags.join().split(":")
    const found = booted(world).filter(
      (sandbox) =>
        (prefix === null || sandbox.name.startsWith(prefix)) &&
        (tags.length === 0 || sandbox.settings.tags?.[key] === value.join(":"))
    )
    const { items, pagination } = page(found, (sandbox) => sandbox[sortBy], query, world.pageSize)
    return json({ sandboxes: items.map(sandboxAnswer), pagination })
  }

  const get: Handler = async (call) => {
    const sandbox = named(world, call)
    const resume = call.query.get("resume")
    if (resume !== null && resume !== "true" && resume !== "false") badRequest("resume is true or false.")
    return json(bootAnswer(sandbox, resume === "true" && (await lifecycle.resume(sandbox))))
  }

  const update: Handler = (call) => {
    const sandbox = named(world, call)
    const { currentSnapshotId, keepLastSnapshots, networkId, persistent, resources, timeout, ...rest } = Schemas.decode(
      Schemas.Update,
      call.json
    )
    if (timeout !== undefined) lifecycle.checkTimeout(timeout)
    if (resources !== undefined && resources.memory !== resources.vcpus * 2048) badRequest("memory is 2048 per vCPU.")
    if (currentSnapshotId !== undefined) sandbox.currentSnapshotId = lifecycle.snapshot(currentSnapshotId).id
    const { keepLastSnapshots: retention, networkId: network, ...before } = sandbox.settings
    const kept = keepLastSnapshots === undefined ? retention : (keepLastSnapshots ?? undefined)
    const connected = networkId === undefined ? network : (networkId ?? undefined)
    sandbox.settings = {
      ...before,
      ...rest,
      ...(kept === undefined ? {} : { keepLastSnapshots: kept }),
      ...(connected === undefined ? {} : { networkId: connected })
    }
    sandbox.persistent = persistent ?? sandbox.persistent
    sandbox.vcpus = resources?.vcpus ?? sandbox.vcpus
    sandbox.timeout = timeout ?? sandbox.timeout
    sandbox.updatedAt = world.now()
    if (rest.ports !== undefined) sandbox.routes = routesOf(rest.ports, sandbox.routes)
    return json({ sandbox: sandboxAnswer(sandbox), routes: rest.ports === undefined ? undefined : sandbox.routes })
  }

  const remove: Handler = async (call) => {
    const sandbox = named(world, call)
    await lifecycle.delete(sandbox, call.query.get("deleteOrphanSnapshots") === "true")
    return json({ sandbox: sandboxAnswer(sandbox) })
  }

  const fork: Handler = async (call) => {
    const source = named(world, call)
    const overrides = Schemas.decode(Schemas.Fork, call.json)
    const { mounts: _mounts, ...settings } = source.settings
    const copied = {
      ...settings,
      persistent: source.persistent,
      timeout: source.timeout,
      resources: { vcpus: source.vcpus }
    }
    return json(bootAnswer(await lifecycle.create({ ...copied, ...overrides }, source)))
  }

  const sessions: Handler = ({ query }) => {
    inProject(world, query.get("project"))
    const name = query.get("name")
    const found = booted(world).filter((sandbox) => name === null || sandbox.name === name)
    const all = found.flatMap((sandbox) => sandbox.sessions)
    const { items, pagination } = page(all, ({ createdAt }) => createdAt, query, world.pageSize)
    return json({ sessions: items.map(sessionAnswer), pagination })
  }

  const snapshots: Handler = ({ query }) => {
    inProject(world, query.get("project"))
    const name = query.get("name")
    const found = [...world.snapshots.values()].filter(({ sandboxName }) => name === null || sandboxName === name)
    const { items, pagination } = page(found, ({ createdAt }) => createdAt, query, world.pageSize)
    return json({ snapshots: items.map(snapshotAnswer), pagination })
  }

  const deleteSnapshot: Handler = async (call) => {
    const snapshot = lifecycle.snapshot(snapshotNamed(world, call).id)
    await lifecycle.deleteSnapshot(snapshot)
    return json({ snapshot: snapshotAnswer(snapshot) })
  }

  return {
    createV2: ((call) => create(Schemas.decode(Schemas.CreateV2, call.json))) satisfies Handler,
    createV3: ((call) => create(Schemas.decode(Schemas.CreateV3, call.json))) satisfies Handler,
    list,
    get,
    update,
    remove,
    fork,
    sessions,
    snapshots,
    snapshot: ((call) =>
      json({ snapshot: snapshotAnswer(lifecycle.snapshot(snapshotNamed(world, call).id)) })) satisfies Handler,
    deleteSnapshot
  }
}
