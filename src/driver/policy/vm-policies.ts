import { migratePolicy } from "./migrate.ts";
import type { MigratePolicy, PolicyNames, PrefetchPolicy, ThrashPolicy } from "./policy.ts";
import { prefetchPolicy } from "./prefetch.ts";
import { PRESETS } from "./presets.ts";
import { thrashPolicy } from "./thrash.ts";

/** The policies of one address space. Eviction is the device's. */
export class VmPolicies {
  readonly migrate: MigratePolicy;
  readonly prefetch: PrefetchPolicy;
  readonly thrash: ThrashPolicy;

  constructor(names: PolicyNames = PRESETS.default) {
    this.migrate = migratePolicy(names.migrate);
    this.prefetch = prefetchPolicy(names.prefetch);
    this.thrash = thrashPolicy(names.thrash);
  }
}
