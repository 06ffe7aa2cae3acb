import type { Random } from "../base/random.ts";
import {
  type Case,
  DEFAULTS,
  EVICT,
  FILL,
  GPU_WRITES,
  TO_GPU,
  changeOfStreamed,
  dontneed,
  fillOf,
  gread,
  gwrite,
  munmap,
  pageout,
  pause,
  read,
  remove,
  streamed,
  write,
} from "./case.ts";
import type { AreaKinds, Memory } from "./memory.ts";
import type { Op } from "./program.ts";

const pread = (page: number): Op => ({ op: "pread", page, word: 1 });
const pwrite = (page: number, word = 3): Op => ({ op: "pwrite", page, word });
const truncate = (page: number): Op => ({ op: "truncate", page });
const copy = (page: number): Op => ({ op: "copy", page, word: 1, points: 24 });
const protect = (page: number, pages: number, prot: "R" | "RW"): Op => ({ op: "mprotect", who: 0, page, pages, prot });
/** What is read while it may not be written is the file's page, in place; it stays mapped when it may. */
const READ_ONLY: readonly Op[] = [protect(0, 12, "R"), TO_GPU];
const FORK: Op = { op: "fork" };

/** The store meets the file's page. */
function readWrite(page: number): Op[] {
  return [read(page), write(page)];
}

/** What changes where the pages are, or whose. */
function change(random: Random): Op {
  const page = random.below(12);
  const pages = 1 + random.below(4);
  switch (random.below(7)) {
    case 0:
      return munmap(page, pages);
    case 1:
      return { op: "remap", who: 0, page, pages };
    case 2:
      return { op: "mremap", who: 0, page, pages };
    case 3:
      return protect(page, pages, either(random, "R", "RW"));
    case 4:
      return { op: "pin", who: 0, page, pages, points: 24 };
    case 5:
      return { op: "compact" };
    default:
      return FORK;
  }
}

function either<T>(random: Random, a: T, b: T): T {
  return random.below(2) === 0 ? a : b;
}

/** Half of the time the driver may try to move what it cannot. */
function of(memory: Memory, random: Random) {
  return { ...DEFAULTS, memory, migrate: random.below(2) === 0 };
}

/** Memory that moves on one side of page `from`, and on the other memory that does not. */
function border(random: Random, from: number): AreaKinds {
  const stays = either(random, "private-file", either(random, "shared-file", "shared"));
  return either<AreaKinds>(
    random,
    { tail: { from, memory: stays } },
    { memory: stays, tail: { from, memory: "private" } },
  );
}

/** Areas that are not private anonymous memory: the GPU reaches their pages in place. */
export const MEMORY_CASES: readonly Case[] = [
  {
    name: "shared",
    about: "parent, child and GPU store to the same pages of anonymous memory",
    program: (r) => ({
      ...of("shared", r),
      vms: 2,
      setup: either(r, [FILL, GPU_WRITES], [FORK]),
      activities: [
        [gwrite(0, 16), gread(0, 16), FORK, gwrite(r.below(16), 1, 1)],
        [pause(r), write(r.below(16), 1), write(r.below(16), 2, 1), read(r.below(16), 1)],
        [pause(r), FORK, write(r.below(16), 1, 1), read(r.below(16)), { op: "exit", who: r.below(2) }],
      ],
    }),
  },
  {
    name: "shared-change",
    about: "such memory is unmapped, moved, protected, taken out of its file and mapped anew by either process",
    program: (r) => ({
      ...of("shared", r),
      setup: either(r, [FILL, GPU_WRITES], [FILL, ...READ_ONLY, protect(0, 12, "RW"), FORK]),
      activities: [
        [gwrite(0, 16), gread(0, 16), gwrite(r.below(12), 4)],
        [pause(r), change(r), remove(r.below(12), 1 + r.below(4), r.below(2)), read(r.below(16), 1)],
        [pause(r), dontneed(r.below(12), 4), change(r), write(r.below(16), 2, r.below(2)), munmap(r.below(12), 4, 1)],
      ],
    }),
  },
  {
    name: "file",
    about: "private pages of a file: read in place, copied by stores of CPU and GPU, dropped and swapped",
    program: (r) => ({
      ...of("private-file", r),
      vms: 2,
      setup: either(r, READ_ONLY, either(r, [...READ_ONLY, protect(0, 8, "RW")], [gwrite(r.below(12), 4)])),
      activities: [
        [gread(0, 16), protect(r.below(8), 8, "RW"), gwrite(r.below(12), 4), gread(0, 16)],
        [pause(r), write(r.below(16)), dontneed(r.below(12), 1 + r.below(8)), gread(0, 16, 1), pageout(0, 16)],
        [pause(r), ...readWrite(12 + r.below(4)), pageout(r.below(8), 8), gwrite(r.below(16), 1, 1), dontneed(12, 4)],
      ],
    }),
  },
  {
    name: "file-change",
    about: "the same while the mapping is unmapped, moved, protected, shared and made anew",
    program: (r) => ({
      ...of("private-file", r),
      setup: either(r, [...READ_ONLY, protect(0, 16, "RW")], [gwrite(0, 8)]),
      activities: [
        [gwrite(r.below(8), 8), gread(0, 16), gwrite(r.below(16))],
        [pause(r), change(r), write(r.below(16)), change(r), read(r.below(16), 1)],
        [pause(r), dontneed(r.below(12), 4), write(r.below(16), 2, 1), dontneed(r.below(12), 4, 1), change(r)],
      ],
    }),
  },
  {
    name: "file-shared",
    about: "one file under the GPU, two processes, and who reads and writes it",
    program: (r) => ({
      ...of("shared-file", r),
      vms: 2,
      setup: either(r, [GPU_WRITES], [TO_GPU, FORK]),
      activities: [
        [gwrite(0, 16), gread(0, 16), gwrite(r.below(12), 4, 1)],
        [pause(r), pwrite(r.below(16)), pread(r.below(16)), write(r.below(16), 1), pread(r.below(16))],
        [
          pause(r),
          copy(r.below(16)),
          either(r, FORK, pwrite(r.below(16), 1)),
          copy(r.below(16)),
          write(r.below(16), 2, 1),
          read(r.below(16), r.below(2)),
        ],
      ],
    }),
  },
  {
    name: "file-shared-change",
    about: "the same while pages are taken out of the file, unmapped, moved, protected and mapped anew",
    program: (r) => ({
      ...of("shared-file", r),
      setup: either(r, [FILL, GPU_WRITES], [FORK]),
      activities: [
        [gwrite(0, 16), gread(0, 16), pread(r.below(16))],
        [pause(r), { op: "punch", page: r.below(12), pages: 1 + r.below(4) }, change(r), remove(r.below(12), 4)],
        [pause(r), change(r), pwrite(r.below(16), 1), dontneed(r.below(12), 4), write(r.below(16), 1, r.below(2))],
      ],
    }),
  },
  {
    name: "file-size",
    about: "the file is cut and grows again under the GPU and two processes: bus errors, and zeros afterwards",
    program: (r) => ({
      ...of("shared-file", r),
      setup: either(r, [FILL, GPU_WRITES], [GPU_WRITES, FORK]),
      activities: [
        [gwrite(0, 8), gread(0, 16), gwrite(r.below(12), 4)],
        [pause(r), truncate(r.below(16)), copy(r.below(16)), pwrite(8 + r.below(8)), truncate(r.below(16))],
        [pause(r), write(r.below(16), 1, r.below(2)), change(r), pread(r.below(16)), truncate(8 + r.below(8))],
      ],
    }),
  },
  {
    name: "file-in-place",
    about: "what the GPU wrote to a file comes back for readers of the file while the next submission waits",
    program: (r) => ({
      ...DEFAULTS,
      memory: either(r, "shared-file", "shared"),
      migrate: false,
      setup: [GPU_WRITES],
      activities: [
        [gwrite(0, 4), gwrite(4, 4), gwrite(0, 8), gwrite(8, 4)],
        [pread(0), read(4), copy(8), pwrite(0, 1), write(4), copy(0), read(8)],
        [pause(r), dontneed(r.below(8), 4), remove(r.below(8), 4), munmap(r.below(8), 2)],
      ],
    }),
  },
  {
    name: "border",
    about: "anonymous memory beside a file: what moves beside what stays, in one launch, with and without read-ahead",
    program: (r) => ({
      ...DEFAULTS,
      ...border(r, 8 + r.below(24)),
      pages: 40,
      vms: 2,
      policies: { prefetch: either(r, "none", either(r, "sequential", "density")) },
      setup: either(r, [], [fillOf(24), gwrite(0, 16)]),
      activities: [
        [gwrite(0, 24), gread(r.below(16), 24), gwrite(16, 16, 1)],
        [pause(r), changeOfStreamed(r, 36), write(r.below(40)), dontneed(r.below(36), 4), read(r.below(40), 1)],
        [pause(r), EVICT, { op: "toVram", vm: 0, page: r.below(16), pages: 24 }, changeOfStreamed(r, 36)],
      ],
    }),
  },
  {
    name: "border-streamed",
    about: "streamed launches across the border of such memory, through little VRAM",
    every: 4,
    program: (r) => ({
      ...DEFAULTS,
      ...border(r, 16 + r.below(24)),
      pages: 48,
      vram: 16,
      policies: { prefetch: either(r, "none", "sequential"), migrate: either(r, "fault", "write") },
      setup: [fillOf(48)],
      activities: [
        [streamed("gwrite", 48), streamed("gread", 48), streamed("gwrite", 48)],
        [pause(r), read(r.below(48)), write(r.below(48)), dontneed(r.below(44), 4), EVICT],
        [pause(r), changeOfStreamed(r), gwrite(r.below(32), 16), write(r.below(48), 3)],
      ],
    }),
  },
  {
    name: "file-streamed",
    about: "streamed launches over memory that never moves, with and without read-ahead",
    program: (r) => ({
      ...of(either(r, "private-file", either(r, "shared-file", "shared")), r),
      pages: 48,
      policies: r.below(2) === 0 ? { prefetch: "sequential" } : {},
      setup: either(r, [], [fillOf(32)]),
      activities: [
        [streamed("gwrite", 48), streamed("gread", 48), streamed("gwrite", 48)],
        [pause(r), read(r.below(48)), write(r.below(48)), dontneed(r.below(44), 4), read(r.below(48))],
        [pause(r), changeOfStreamed(r), gwrite(r.below(16), 8), write(r.below(48), 3)],
      ],
    }),
  },
  {
    name: "file-end",
    about: "an address space, a process or the device goes while such memory is used",
    program: (r) => ({
      ...of(either(r, "private-file", either(r, "shared-file", "shared")), r),
      vms: 2,
      setup: either(r, [FILL, GPU_WRITES], [GPU_WRITES, FORK]),
      activities: [
        [pause(r, 48), either<Op>(r, { op: "close", vm: 0 }, either<Op>(r, { op: "exit", who: 0 }, { op: "unbind" }))],
        [gwrite(0, 16), gread(0, 16)],
        [pause(r), gwrite(0, 16, 1), change(r), write(r.below(16), 1, 1)],
        [pause(r), read(r.below(16)), EVICT, write(r.below(16)), { op: "exit", who: 1 }],
      ],
    }),
  },
];
