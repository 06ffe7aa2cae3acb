import type { ScenarioModule } from "./run.ts";
import type { Scenario } from "./verbs.ts";
import * as p01 from "./peer/p01-hmm-anon-read.ts";
import * as p02 from "./peer/p02-hmm-anon-read-prot.ts";
import * as p03 from "./peer/p03-hmm-compound.ts";
import * as p04 from "./peer/p04-hmm-migrate-fault.ts";
import * as p05 from "./peer/p05-hmm-migrate-remap-fault.ts";
import * as p06 from "./peer/p06-hmm-anon-write-child-shared.ts";
import * as p08 from "./peer/p08-hmm-double-map.ts";
import * as p09 from "./peer/p09-hmm-migrate-shared.ts";
import * as p10 from "./peer/p10-xe-sa-many-stride-malloc.ts";
import * as p11 from "./peer/p11-xe-sa-many-malloc-nomemset.ts";
import * as p12 from "./peer/p12-xe-sa-twice-malloc-fork-read-after.ts";
import * as p15 from "./peer/p15-xe-sa-evict-malloc.ts";
import * as p31 from "./peer/p31-kfd-migrate.ts";
import * as p32 from "./peer/p32-uvmb-stream-oversub-125.ts";
import * as firstLight from "./tour/first-light.ts";
import * as partialUnmap from "./tour/partial-unmap.ts";
import * as pingPong from "./tour/ping-pong.ts";

/** A scenario that comes with the project. */
export interface BuiltinScenario {
  readonly id: string;
  readonly title: string;
  /** What to watch for, in a sentence or two. */
  readonly description: string;
  readonly module: ScenarioModule;
  run(s: Scenario): Promise<void>;
}

function builtin(id: string, module: ScenarioModule, description: string): BuiltinScenario {
  return { id, title: module.meta?.title ?? id, description, module, run: (s) => module.default(s) };
}

export const BUILTIN_SCENARIOS: readonly BuiltinScenario[] = [
  builtin(
    "first-light",
    firstLight,
    "One store of the GPU: fault, range, migration, bind, replay; then the CPU takes the page back.",
  ),
  builtin("ping-pong", pingPong, "CPU and GPU count in one word in turns. Watch 2 MiB cross the bus for every turn."),
  builtin(
    "partial-unmap",
    partialUnmap,
    "A hole is cut into a 2 MiB range: the range dies as a whole, and smaller ones take its place.",
  ),
  builtin("p01", p01, "The GPU reads memory of which a part is read-only: it gets no right that the CPU has not."),
  builtin("p02", p02, "Memory without access faults for the GPU too, until the CPU gives the access."),
  builtin("p03", p03, "A page of 2 MiB is one to the device as well."),
  builtin("p04", p04, "Migrate, fault half of it back by the CPU, migrate again."),
  builtin(
    "p05",
    p05,
    "Memory that lies in VRAM is moved to another address without moving a byte; the CPU reads it there.",
  ),
  builtin("p06", p06, "A forked child's GPU writes shared memory; the parent reads what it wrote."),
  builtin("p08", p08, "Two GPUs read the same pages, wherever they lie."),
  builtin("p09", p09, "Shared memory does not migrate: the GPU works on it where it lies."),
  builtin(
    "p10",
    p10,
    "Scattered stores make ranges of the largest chunk that fits: 2 MiB in the middle, 64 KiB at the end.",
  ),
  builtin("p11", p11, "Memory that the CPU never touched is taken page by page: five faults, five ranges of 4 KiB."),
  builtin("p12", p12, "fork beside GPU stores: every child keeps what was there when it was born."),
  builtin("p15", p15, "More allocations than VRAM: the oldest buffers go home to make room."),
  builtin("p31", p31, "Explicit placement: prefetch to VRAM, copy on the GPU, prefetch back."),
  builtin("p32", p32, "One pass over more data than VRAM: every chunk comes in once and leaves once."),
];
