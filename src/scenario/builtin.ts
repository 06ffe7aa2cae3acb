import type { ScenarioModule } from "./run.ts";
import type { Scenario } from "./verbs.ts";
import * as p01 from "./peer/p01-hmm-anon-read.ts";
import * as p02 from "./peer/p02-hmm-anon-read-prot.ts";
import * as p03 from "./peer/p03-hmm-compound.ts";
import * as p04 from "./peer/p04-hmm-migrate-fault.ts";
import * as p05 from "./peer/p05-hmm-migrate-remap-fault.ts";
import * as p06 from "./peer/p06-hmm-anon-write-child-shared.ts";
import * as p07 from "./peer/p07-hmm-anon-teardown.ts";
import * as p08 from "./peer/p08-hmm-double-map.ts";
import * as p09 from "./peer/p09-hmm-migrate-shared.ts";
import * as p10 from "./peer/p10-xe-sa-many-stride-malloc.ts";
import * as p11 from "./peer/p11-xe-sa-many-malloc-nomemset.ts";
import * as p12 from "./peer/p12-xe-sa-twice-malloc-fork-read-after.ts";
import * as p13 from "./peer/p13-xe-sa-once-large-malloc-bo-unmap.ts";
import * as p14 from "./peer/p14-xe-sa-partial-munmap-cpu-fault.ts";
import * as p15 from "./peer/p15-xe-sa-evict-malloc.ts";
import * as p16 from "./peer/p16-xe-sa-fault.ts";
import * as p17 from "./peer/p17-xe-sa-many-large-malloc-prefetch.ts";
import * as p18 from "./peer/p18-xe-sa-madvise-preferred-loc-sram-migrate-pages.ts";
import * as p19 from "./peer/p19-xe-madv-atomic-global.ts";
import * as p20 from "./peer/p20-xe-mgpu-concurrent-access-basic.ts";
import * as p21 from "./peer/p21-gpuvm-split-merge-table.ts";
import * as p22 from "./peer/p22-vm-munmap-style-unbind.ts";
import * as p23 from "./peer/p23-vm-mmap-style-bind-one-partial.ts";
import * as p24 from "./peer/p24-vm-bind-array-conflict.ts";
import * as p25 from "./peer/p25-xe-prl-boundary-split.ts";
import * as p26 from "./peer/p26-buddy-alloc-pathological.ts";
import * as p27 from "./peer/p27-buddy-alloc-range.ts";
import * as p28 from "./peer/p28-itree-intersection-range.ts";
import * as p29 from "./peer/p29-xek-migrate-sanity.ts";
import * as p30 from "./peer/p30-kfd-split-range.ts";
import * as p31 from "./peer/p31-kfd-migrate.ts";
import * as p32 from "./peer/p32-uvmb-stream-oversub-125.ts";
import * as evictPolicies from "./tour/evict-policies.ts";
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
  builtin(
    "evict-policies",
    evictPolicies,
    "Four evict policies on 125 % of VRAM, over and over: how often each has to bring a chunk, beside the optimum.",
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
  builtin("p07", p07, "A munmap beside a GPU read: what the GPU gets is right, or it is told where memory ended."),
  builtin("p08", p08, "Two GPUs read the same pages, wherever they lie."),
  builtin("p09", p09, "Shared memory does not migrate: the GPU works on it where it lies."),
  builtin(
    "p10",
    p10,
    "Scattered stores make ranges of the largest chunk that fits: 2 MiB in the middle, 64 KiB at the end.",
  ),
  builtin("p11", p11, "Memory that the CPU never touched is taken page by page: five faults, five ranges of 4 KiB."),
  builtin("p12", p12, "fork beside GPU stores: every child keeps what was there when it was born."),
  builtin("p13", p13, "A buffer object takes the place of mirrored memory, and gives it back."),
  builtin("p14", p14, "A range loses half of its memory: it dies, and a smaller one takes its place."),
  builtin("p15", p15, "More allocations than VRAM: the oldest buffers go home to make room."),
  builtin("p16", p16, "Accesses that nobody can serve: each is named, and the address space works on."),
  builtin(
    "p17",
    p17,
    "Prefetch before every store: the GPU never faults, though the CPU takes the memory back each time.",
  ),
  builtin("p18", p18, "Advice to stay in system memory: the next GPU access brings the pages home."),
  builtin("p19", p19, "CPU and GPU add to one word at the same time: nothing is lost in any order."),
  builtin("p20", p20, "Two GPUs add to one word at the same time: the page wanders, and nothing is lost."),
  builtin("p21", p21, "Every way in which a request can meet a mapping, and the steps that the GPU VA manager takes."),
  builtin("p22", p22, "Pages are taken out of bindings, from the middle and both ends."),
  builtin("p23", p23, "A buffer object over the middle of another: the outer pages stay where they were."),
  builtin("p24", p24, "Operations of one batch that get into each other's way, in order."),
  builtin("p25", p25, "How large the leaves are that map a buffer object."),
  builtin("p26", p26, "The buddy allocator at its worst: half is free, and nothing larger than a page."),
  builtin("p27", p27, "The buddy allocator asked for exact windows."),
  builtin("p28", p28, "The interval tree beside brute force."),
  builtin("p29", p29, "The copy engine alone: fills, copies both ways, and through page tables that it wrote."),
  builtin("p30", p30, "Advice and prefetches for parts of what was one: pieces keep their own values."),
  builtin("p31", p31, "Explicit placement: prefetch to VRAM, copy on the GPU, prefetch back."),
  builtin("p32", p32, "One pass over more data than VRAM: every chunk comes in once and leaves once."),
];
