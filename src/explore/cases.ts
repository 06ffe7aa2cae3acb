import { Random } from "../base/random.ts";
import {
  type Case,
  DEFAULTS,
  EVICT,
  FILL,
  GPU_WRITES,
  TO_GPU,
  changeOfStreamed,
  dontneed,
  gread,
  gwrite,
  pageout,
  pause,
  read,
  streamed,
  write,
} from "./case.ts";
import { CARDS_CASES } from "./cards-cases.ts";
import { MEMORY_CASES } from "./memory-cases.ts";
import { POLICY_CASES } from "./policy-cases.ts";
import type { Op, Program } from "./program.ts";
import { randomProgram } from "./random-program.ts";

/** The seed of a schedule gives the program too. */
export function programOf(of: Case, seed: number): Program {
  return of.program(new Random(Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995));
}

/** What breaks a 2 MiB page up, or shares it. */
function changeOfHuge(random: Random): Op {
  const page = random.below(500);
  switch (random.below(6)) {
    case 0:
      return { op: "fork" };
    case 1:
      return { op: "munmap", who: 0, page, pages: 8 };
    case 2:
      return { op: "mprotect", who: 0, page, pages: 8, prot: "R" };
    case 3:
      return { op: "mremap", who: 0, page: random.below(2) * page, pages: 512 };
    case 4:
      return { op: "pin", who: 0, page, pages: 2, points: 24 };
    default:
      return dontneed(page, 1 + random.below(12));
  }
}

/** The race catalogue (spec/gpusvm.md 4.10), and the pairs of concurrent activities. */
const RACES: readonly Case[] = [
  {
    name: "R1",
    about: "CPU faults fill holes while a migration of them is under way",
    program: (r) => ({
      ...DEFAULTS,
      setup: [{ op: "fill", who: 0, page: 0, pages: 1 + r.below(8) }],
      activities: [
        [{ op: "prefetch", vm: 0, page: 0, pages: 16 }, gwrite(0, 16)],
        [pause(r), write(8 + r.below(8)), write(8 + r.below(8)), read(r.below(16))],
        [pause(r), write(r.below(16), 3), read(8 + r.below(8))],
      ],
    }),
  },
  {
    name: "R2",
    about: "CPU accesses to pages that are being migrated",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL],
      activities: [
        [gwrite(0, 16), gread(0, 16)],
        [pause(r), read(r.below(16)), write(r.below(16)), read(r.below(16))],
        [pause(r), write(r.below(16), 3), read(r.below(16))],
      ],
    }),
  },
  {
    name: "R3",
    about: "two GPU address spaces of one process migrate the same pages",
    program: (r) => ({
      ...DEFAULTS,
      vms: 2,
      setup: [FILL],
      activities: [
        [gwrite(0, 16), gread(r.below(16), 4)],
        [pause(r, 8), gwrite(r.below(8), 8, 1), gread(0, 16, 1)],
        [{ op: "toVram", vm: r.below(2), page: 0, pages: 16 }],
      ],
    }),
  },
  {
    name: "R4",
    about: "munmap waits for a migration, or runs between its phases",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL],
      activities: [
        [gwrite(0, 16), gread(0, 16)],
        [pause(r), { op: "munmap", who: 0, page: r.below(12), pages: 1 + r.below(8) }],
        [{ op: "prefetch", vm: 0, page: 0, pages: 16 }],
      ],
    }),
  },
  {
    name: "R5",
    about: "an eviction and CPU faults bring the same allocation home",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL, GPU_WRITES],
      activities: [[EVICT], [pause(r), read(r.below(16)), write(r.below(16))], [pause(r), read(r.below(16)), EVICT]],
    }),
  },
  {
    name: "R6",
    about: "evictions between migration, look-up and bind (R7 too)",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL],
      activities: [
        [gwrite(0, 16), gread(0, 16)],
        [pause(r, 48), EVICT, EVICT],
        [pause(r, 48), EVICT],
      ],
    }),
  },
  {
    name: "R7",
    about: "evictions against two address spaces that look up and bind what the other has migrated",
    program: (r) => ({
      ...DEFAULTS,
      vms: 2,
      setup: [FILL, TO_GPU],
      activities: [
        [gread(0, 16, 1), gwrite(0, 8, 1)],
        [pause(r, 48), EVICT],
        [pause(r, 24), gread(0, 16), EVICT],
      ],
    }),
  },
  {
    name: "R8",
    about: "DONTNEED of what the GPU maps: it reads zeros afterwards, and never what was there before",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL, GPU_WRITES],
      activities: [
        [dontneed(r.below(12), 1 + r.below(12)), gread(0, 16)],
        [pause(r), gwrite(0, 16), gread(r.below(16), 3)],
        [pause(r), write(r.below(16)), EVICT],
      ],
    }),
  },
  {
    name: "R9",
    about: "fork over device memory; parent, child and GPU go on writing",
    program: (r) => ({
      ...DEFAULTS,
      setup: r.below(2) === 0 ? [FILL, GPU_WRITES] : [FILL, GPU_WRITES, { op: "fork" }],
      activities: [
        [{ op: "fork" }, write(r.below(16), 1, 1), read(r.below(16), 1), write(r.below(16), 2, 1)],
        [pause(r), gwrite(0, 16), gwrite(r.below(16), 2)],
        [pause(r), write(r.below(16)), pause(r), read(r.below(16), 1), EVICT],
      ],
    }),
  },
  {
    name: "R10",
    about: "pinned pages in the range: it stays in RAM",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL],
      activities: [
        [{ op: "pin", who: 0, page: r.below(14), pages: 2, points: 8 + r.below(60) }],
        [pause(r, 8), gwrite(0, 16), { op: "toVram", vm: 0, page: 0, pages: 16 }],
        [pause(r), write(r.below(16)), { op: "compact" }, read(r.below(16))],
      ],
    }),
  },
  {
    name: "R11",
    about: "a process exits while its memory is evicted and its kernels run",
    program: (r) => ({
      ...DEFAULTS,
      setup: r.below(2) === 0 ? [FILL, GPU_WRITES] : [FILL, GPU_WRITES, { op: "fork" }],
      activities: [
        [pause(r, 12), { op: "exit", who: 0 }],
        [EVICT, EVICT],
        [pause(r), gwrite(0, 16)],
        [pause(r), read(r.below(16), 1), { op: "exit", who: 1 }],
      ],
    }),
  },
  {
    name: "R12",
    about: "copies to the device fail: the pages stay as they were",
    program: (r) => ({
      ...DEFAULTS,
      failures: { toDevice: [1, 2 + r.below(3)], toRam: [] },
      setup: [FILL],
      activities: [
        [gwrite(0, 16), gread(0, 16)],
        [pause(r), read(r.below(16)), write(r.below(16))],
        [pause(r), { op: "toVram", vm: 0, page: 0, pages: 16 }],
      ],
    }),
  },
  {
    name: "R13",
    about: "copies to RAM fail: a bus error, or an eviction that tries again; nothing is lost",
    program: (r) => ({
      ...DEFAULTS,
      failures: { toDevice: [], toRam: [1, 2 + r.below(2)] },
      setup: [FILL, GPU_WRITES],
      activities: [
        [read(r.below(16)), pause(r), read(r.below(16))],
        [pause(r), write(r.below(16)), gread(0, 16)],
        [pause(r), EVICT],
      ],
    }),
  },
  {
    name: "R14",
    about: "pages go to swap before and while the range migrates",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL, pageout(r.below(12), 1 + r.below(4))],
      activities: [
        [gwrite(0, 16), gread(0, 16)],
        [pause(r), pageout(r.below(8), 1 + r.below(8)), read(r.below(16))],
        [pause(r), write(r.below(16)), pageout(r.below(12), 4)],
      ],
    }),
  },
  {
    name: "R15",
    about: "the CPU waits for the end of a time slice, the GPU goes on meanwhile",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL, { op: "migrate", vm: 0, page: 0, pages: 16, slice: 1 + r.below(9) }],
      activities: [
        [gwrite(0, 16), gread(0, 16)],
        [pause(r, 48), read(r.below(16)), write(r.below(16))],
        [pause(r, 48), write(r.below(16), 3)],
      ],
    }),
  },
  {
    name: "R16",
    about: "migrations of what is in place already, wholly or in part",
    program: (r) => ({
      ...DEFAULTS,
      vram: 64,
      setup: [FILL, { op: "toVram", vm: 0, page: 0, pages: r.below(2) === 0 ? 16 : 4 }],
      activities: [
        [{ op: "migrate", vm: 0, page: 0, pages: 16, slice: 0 }, gwrite(0, 16)],
        [pause(r), { op: "migrate", vm: 0, page: 0, pages: 16, slice: 0 }],
        [pause(r), read(r.below(16)), { op: "toVram", vm: 0, page: 0, pages: 16 }],
      ],
    }),
  },
  {
    name: "protect",
    about: "mprotect against GPU and CPU accesses",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL, GPU_WRITES],
      activities: [
        [
          { op: "mprotect", who: 0, page: r.below(12), pages: 1 + r.below(8), prot: r.below(3) === 0 ? "NONE" : "R" },
          pause(r),
          { op: "mprotect", who: 0, page: r.below(12), pages: 1 + r.below(8), prot: "RW" },
        ],
        [pause(r), gwrite(0, 16), gread(0, 16), gwrite(r.below(16))],
        [pause(r), write(r.below(16)), read(r.below(16)), write(r.below(16))],
      ],
    }),
  },
  {
    name: "move",
    about: "mremap of what the GPU uses and the CPU faults home",
    program: (r) => ({
      ...DEFAULTS,
      inHuge: r.below(2) === 0 ? 0 : 504,
      setup: [FILL, GPU_WRITES],
      activities: [
        [
          { op: "mremap", who: 0, page: r.below(12), pages: 1 + r.below(8) },
          pause(r),
          { op: "mremap", who: 0, page: r.below(12), pages: 1 + r.below(8) },
        ],
        [pause(r), gwrite(0, 16), gread(0, 16)],
        [pause(r), write(r.below(16)), read(r.below(16)), EVICT],
      ],
    }),
  },
  {
    name: "evict-change",
    about: "what is being evicted is unmapped, moved, discarded and shared",
    program: (r) => ({
      ...DEFAULTS,
      setup: [FILL, GPU_WRITES],
      activities: [
        [EVICT, gread(0, 16)],
        [
          pause(r, 12),
          { op: "mremap", who: 0, page: r.below(12), pages: 1 + r.below(8) },
          { op: "munmap", who: 0, page: r.below(12), pages: 2 },
        ],
        [pause(r, 12), dontneed(r.below(12), 4), r.below(2) === 0 ? { op: "fork" } : EVICT, dontneed(r.below(8), 8)],
      ],
    }),
  },
  {
    name: "system",
    about: "the GPU uses system memory in place while the CPU writes, discards, moves and shares it",
    program: (r) => ({
      ...DEFAULTS,
      migrate: false,
      setup: [FILL, TO_GPU],
      activities: [
        [gwrite(0, 16), gread(0, 16), gwrite(r.below(16), 4)],
        [
          pause(r),
          write(r.below(16)),
          r.below(2) === 0 ? { op: "fork" } : dontneed(r.below(12), 4),
          write(r.below(16), 1),
          read(r.below(16), r.below(2)),
        ],
        [pause(r), { op: "compact" }, read(r.below(16)), pageout(r.below(12), 4), { op: "compact" }],
      ],
    }),
  },
  {
    name: "exclusive",
    about: "device-exclusive access against CPU and GPU",
    program: (r) => ({
      ...DEFAULTS,
      migrate: r.below(2) === 0,
      setup: [FILL],
      activities: [
        [
          { op: "exclusive", who: 0, page: r.below(16) },
          { op: "exclusive", who: 0, page: r.below(16) },
        ],
        [pause(r), gwrite(0, 16), gread(0, 16)],
        [pause(r), write(r.below(16)), r.below(2) === 0 ? { op: "fork" } : read(r.below(16)), read(r.below(16), 1)],
      ],
    }),
  },
  {
    name: "pressure",
    about: "more pages than VRAM: eviction, refault and fresh memory of who was there before",
    program: (r) => ({
      ...DEFAULTS,
      pages: 24,
      vms: 2,
      vram: 16,
      setup: [FILL],
      activities: [
        [gwrite(0, 20), gread(r.below(16), 4)],
        [pause(r), gwrite(r.below(16), 8, 1), gread(16 + r.below(4), 4, 1)],
        [pause(r), write(r.below(24)), read(r.below(24)), dontneed(r.below(16), 8)],
      ],
    }),
  },
  {
    name: "holes",
    about: "memory that nobody has touched, migrated and read by the GPU where another's data was",
    program: (r) => ({
      ...DEFAULTS,
      pages: 24,
      vram: 16,
      setup: [{ op: "fill", who: 0, page: 0, pages: 16 }, GPU_WRITES, { op: "write", who: 0, page: 16, word: 0 }],
      activities: [
        [{ op: "toVram", vm: 0, page: 16, pages: 8 }, gread(16, 8)],
        [pause(r), { op: "remap", who: 0, page: r.below(8), pages: 8 }, { op: "toVram", vm: 0, page: 0, pages: 16 }],
        [pause(r), gread(r.below(16), 8), write(16 + r.below(8))],
      ],
    }),
  },
  {
    name: "huge",
    every: 16,
    about: "2 MiB pages are written, split, discarded, shared, moved and evicted",
    program: (r) => ({
      ...DEFAULTS,
      pages: 512,
      vram: 1024,
      huge: true,
      setup: [{ op: "fill", who: 0, page: 0, pages: 512 }, gwrite(r.below(500), 4)],
      activities: [
        [gwrite(r.below(500), 8), gread(r.below(500), 4)],
        [pause(r), changeOfHuge(r), write(r.below(512))],
        [pause(r), { op: "evict", pages: 512 }, read(r.below(512)), write(r.below(512), 1, r.below(2))],
      ],
    }),
  },
  {
    name: "close",
    about: "an address space closes while its kernels run and its memory is used by others",
    program: (r) => ({
      ...DEFAULTS,
      migrate: r.below(3) > 0,
      vms: 2,
      setup: [FILL, GPU_WRITES],
      activities: [
        [pause(r, 48), { op: "close", vm: 0 }],
        [gwrite(0, 16), gread(0, 16)],
        [pause(r), gwrite(0, 16, 1), { op: "munmap", who: 0, page: r.below(12), pages: 4 }],
        [pause(r), read(r.below(16)), EVICT, write(r.below(16))],
      ],
    }),
  },
  {
    name: "close-system",
    about: "an address space that maps system memory closes while that memory is written, unmapped and moved",
    program: (r) => ({
      ...DEFAULTS,
      vms: 2,
      migrate: false,
      setup: [{ op: "write", who: 0, page: 3, word: 0 }, GPU_WRITES, { ...GPU_WRITES, vm: 1 }],
      activities: [
        [pause(r, 12), { op: "close", vm: 0 }],
        [pause(r, 12), gwrite(0, 16), gwrite(0, 16)],
        [pause(r), { op: "munmap", who: 0, page: r.below(12), pages: 4 }, dontneed(0, 16)],
        [pause(r), read(r.below(16)), gwrite(0, 16, 1), write(r.below(16))],
      ],
    }),
  },
  {
    name: "in-place",
    about: "what the GPU wrote in place comes back for the CPU while the next submission waits and pages go",
    program: (r) => ({
      ...DEFAULTS,
      migrate: false,
      setup: [FILL, GPU_WRITES],
      activities: [
        [gwrite(0, 4), gwrite(4, 4), gwrite(0, 8), gwrite(8, 4)],
        [read(0), read(4), read(8), write(0), write(4), read(0), read(8)],
        [pause(r), dontneed(r.below(8), 4), dontneed(8, 4), { op: "munmap", who: 0, page: r.below(8), pages: 2 }],
      ],
    }),
  },
  {
    name: "remap",
    about: "fresh memory in the place of what the GPU is about to use: dead ranges make room",
    program: (r) => ({
      ...DEFAULTS,
      migrate: r.below(2) === 0,
      setup: [{ op: "fill", who: 0, page: 1, pages: 14 }, GPU_WRITES],
      activities: [
        [pause(r), { op: "remap", who: 0, page: r.below(8), pages: 8 }, { op: "remap", who: 0, page: 4, pages: 8 }],
        [gwrite(4), dontneed(4, 8), gwrite(4), gread(5), gwrite(6)],
        [pause(r), write(r.below(16)), gwrite(r.below(12), 4)],
      ],
    }),
  },
  {
    name: "unbind",
    about: "the device goes while it is used",
    program: (r) => ({
      ...DEFAULTS,
      migrate: r.below(3) > 0,
      vms: 2,
      setup: r.below(2) === 0 ? [FILL, GPU_WRITES] : [FILL, GPU_WRITES, { op: "fork" }],
      activities: [
        [pause(r, 48), { op: "unbind" }],
        [gwrite(0, 16), gread(0, 16)],
        [pause(r), gread(0, 16, 1), read(r.below(16)), write(r.below(16))],
        [pause(r), read(r.below(16), 1), write(r.below(16), 1, 1)],
      ],
    }),
  },
  {
    name: "streamed",
    about: "launches ahead of their faults through little VRAM, while the CPU writes, discards, moves and evicts",
    every: 6,
    program: (r) => ({
      ...DEFAULTS,
      pages: 48,
      vms: 2,
      vram: 32,
      setup: [{ op: "fill", who: 0, page: 0, pages: 48 }],
      activities: [
        [streamed("gwrite", 48), streamed("gread", 48), streamed("gwrite", 48)],
        [pause(r), write(r.below(48)), dontneed(r.below(44), 4), read(r.below(48)), EVICT],
        [pause(r), streamed("gread", 48, 1), changeOfStreamed(r), write(r.below(48), 3)],
      ],
    }),
  },
  {
    name: "streamed-in-place",
    about: "the same in system memory",
    program: (r) => ({
      ...DEFAULTS,
      pages: 64,
      migrate: false,
      setup: [{ op: "fill", who: 0, page: 0, pages: 64 }],
      activities: [
        [streamed("gwrite", 64), streamed("gread", 64), streamed("gwrite", 64)],
        [pause(r), read(r.below(64)), write(r.below(64)), dontneed(r.below(60), 4), read(r.below(64))],
        [pause(r), changeOfStreamed(r), gwrite(r.below(16), 8)],
      ],
    }),
  },
];

const RANDOM: readonly Case[] = [
  { name: "random", about: "any of it", program: (r) => randomProgram(r, "any") },
  { name: "random-map", about: "mappings change under GPU and CPU", program: (r) => randomProgram(r, "map") },
  { name: "random-move", about: "pages move to and fro", program: (r) => randomProgram(r, "move") },
  { name: "random-file", about: "files and shared memory", program: (r) => randomProgram(r, "file") },
];

export const CASES: readonly Case[] = [...RACES, ...POLICY_CASES, ...MEMORY_CASES, ...CARDS_CASES, ...RANDOM];
