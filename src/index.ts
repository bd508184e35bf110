/**
 * `effect-sandbox`: durable sandboxes as Effect services. Namespaces of the model, the services and the errors; providers and
 * stores are imported by their own paths (`effect-sandbox/layers/…`), so that nothing here loads an SDK.
 */
export * as errors from "./errors.ts"
export * as Checkpoint from "./model/Checkpoint.ts"
export * as Ids from "./model/Ids.ts"
export * as Lease from "./model/Lease.ts"
export * as Process from "./model/Process.ts"
export * as ProcessEvent from "./model/ProcessEvent.ts"
export * as SandboxConfig from "./model/SandboxConfig.ts"
export * as SandboxRecord from "./model/SandboxRecord.ts"
export * as SandboxRef from "./model/SandboxRef.ts"
export * as LeaseOwner from "./services/LeaseOwner.ts"
export * as ProcessLog from "./services/ProcessLog.ts"
export * as ProviderRegistry from "./services/ProviderRegistry.ts"
export * as RecoveryPolicy from "./services/RecoveryPolicy.ts"
export * as Sandbox from "./services/Sandbox.ts"
export * as SandboxProvider from "./services/SandboxProvider.ts"
export * as SandboxSecrets from "./services/SandboxSecrets.ts"
export * as SandboxService from "./services/SandboxService.ts"
export * as SandboxSettings from "./services/SandboxSettings.ts"
export * as SandboxStore from "./services/SandboxStore.ts"
