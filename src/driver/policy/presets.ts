import { SZ_64K } from "../../base/addr.ts";
import { EVICT_POLICIES, MIGRATE_POLICIES, PREFETCH_POLICIES, THRASH_POLICIES } from "./policy.ts";
import type { PolicyNames } from "./policy.ts";

/** A set of policies with a name, and the chunk sizes that go with it. */
export interface Preset extends PolicyNames {
  /** Chunk sizes of ranges, bytes, where the driver's differ from the default. */
  readonly chunks?: readonly number[];
}

/** What is imitated of each driver, and what is not: docs/policies.md. */
export const PRESETS = {
  /** As without a policy. */
  default: { migrate: "fault", prefetch: "none", evict: "lru", thrash: "none" },
  /** Intel's discrete GPUs: a fault moves the largest chunk that fits. */
  xe: { migrate: "fault", prefetch: "none", evict: "lru", thrash: "none" },
  /** AMD's compute driver with XNACK: a fault moves its granule of 2 MiB. */
  amdkfd: { migrate: "fault", prefetch: "none", evict: "lru", thrash: "none", chunks: [2 << 20, 4096] },
  /** NVIDIA's UVM: small pieces, the density prefetcher, and pins for what thrashes. */
  "nvidia-uvm": { migrate: "fault", prefetch: "density", evict: "lru", thrash: "pin", chunks: [SZ_64K, 4096] },
  /** Nouveau: a fault maps in place; data moves on request only. */
  nouveau: { migrate: "never", prefetch: "none", evict: "lru", thrash: "none" },
} as const satisfies Record<string, Preset>;
export type PresetName = keyof typeof PRESETS;

/** A preset by name, or choices that differ from one: `{ preset: "xe", evict: "fifo" }`. */
export type PolicyChoice = PresetName | ({ readonly preset?: PresetName } & Partial<PolicyNames>);

const QUESTIONS = {
  migrate: MIGRATE_POLICIES,
  prefetch: PREFETCH_POLICIES,
  evict: EVICT_POLICIES,
  thrash: THRASH_POLICIES,
} as const;

/** The preset that a choice begins with; null: there is none of that name. */
export function presetOf(choice: PolicyChoice): Preset | null {
  const name = typeof choice === "string" ? choice : (choice.preset ?? "default");
  return Object.hasOwn(PRESETS, name) ? PRESETS[name] : null;
}

/** The names chosen, or a sentence that says which of them there is not. */
export function resolvePolicies(choice: PolicyChoice): PolicyNames | string {
  const preset = presetOf(choice);
  if (preset === null) {
    const name = typeof choice === "string" ? choice : choice.preset;
    return `there is no preset ${JSON.stringify(name)}; there are ${Object.keys(PRESETS).join(", ")}`;
  }
  const { migrate, prefetch, evict, thrash } = { ...preset, ...(typeof choice === "string" ? {} : choice) };
  const names: PolicyNames = { migrate, prefetch, evict, thrash };
  for (const [question, known] of Object.entries(QUESTIONS)) {
    const name = names[question as keyof PolicyNames];
    if (!(known as readonly string[]).includes(name)) {
      return `there is no ${question} policy ${JSON.stringify(name)}; there are ${known.join(", ")}`;
    }
  }
  return names;
}
