import { ConfigError } from "../base/errors.ts";
import { EVICT_POLICIES } from "../driver/policy/policy.ts";
import type { EvictName, PolicyNames } from "../driver/policy/policy.ts";
import { presetOf, resolvePolicies } from "../driver/policy/presets.ts";
import type { PolicyChoice } from "../driver/policy/presets.ts";
import type { VmConfig } from "./machine.ts";

/** The names of a choice. Throws ConfigError for one that there is not. */
export function policyNames(choice: PolicyChoice): PolicyNames {
  const names = resolvePolicies(choice);
  if (typeof names === "string") throw new ConfigError("config.policy", names);
  return names;
}

/** `overrides` over `base`; a policy preset that comes with chunk sizes brings them, unless `overrides` has some. */
export function configOf(base: Readonly<VmConfig>, overrides: Partial<VmConfig>): VmConfig {
  const config = { ...base, ...overrides };
  policyNames(config.policy);
  const chunks = overrides.policy === undefined ? undefined : presetOf(overrides.policy)?.chunks;
  return chunks === undefined || overrides.chunks !== undefined ? config : { ...config, chunks: [...chunks] };
}

/** Throws ConfigError for a policy that there is not. */
export function checkEvict(name: EvictName): void {
  if (!EVICT_POLICIES.includes(name)) {
    throw new ConfigError("device.evict", `one of ${EVICT_POLICIES.join(", ")} is wanted, not ${String(name)}`);
  }
}
