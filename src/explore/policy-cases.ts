import type { Random } from "../base/random.ts";
import {
  type Case,
  DEFAULTS,
  EVICT,
  FILL,
  GPU_WRITES,
  changeOfStreamed,
  dontneed,
  fillOf,
  gread,
  gwrite,
  munmap,
  pause,
  read,
  streamed,
  write,
} from "./case.ts";
import type { Op } from "./program.ts";
import { randomPolicies } from "./random-program.ts";

/** Three chunks of 64 KiB, of which the faults of two bring the third. */
const AHEAD = { ...DEFAULTS, pages: 48, vram: 64, setup: [fillOf(48)] } as const;

/** What happens to memory that is being brought without having been asked for. */
function changeOfAhead(random: Random): Op {
  const page = 24 + random.below(20);
  switch (random.below(6)) {
    case 0:
      return munmap(page, 4);
    case 1:
      return { op: "mprotect", who: 0, page, pages: 4, prot: random.below(2) === 0 ? "R" : "NONE" };
    case 2:
      return dontneed(page, 4);
    case 3:
      return { op: "remap", who: 0, page, pages: 4 };
    case 4:
      return { op: "pin", who: 0, page, pages: 3, points: 24 };
    default:
      return { op: "evict", pages: 48 };
  }
}

/** Address spaces whose policies are not the default ones. */
export const POLICY_CASES: readonly Case[] = [
  {
    name: "ahead",
    about: "sequential read-ahead of what is unmapped, protected, discarded and evicted meanwhile",
    program: (r) => ({
      ...AHEAD,
      setup: [fillOf(16 + r.below(33))],
      policies: { prefetch: "sequential" },
      activities: [
        [gwrite(0, 16), gread(16, 16), gwrite(32, 16)],
        [pause(r, 48), changeOfAhead(r), write(24 + r.below(24)), changeOfAhead(r)],
        [pause(r, 48), read(32 + r.below(16)), write(32 + r.below(16)), EVICT],
      ],
    }),
  },
  {
    name: "ahead-pieces",
    about: "the same where chunks are pages: rows and fronts of them, with gaps",
    program: (r) => ({
      ...DEFAULTS,
      inHuge: 8,
      pages: 24,
      vms: 2,
      setup: [fillOf(24)],
      policies: { prefetch: r.below(2) === 0 ? "sequential" : "density" },
      activities: [
        [gread(r.below(4)), gwrite(r.below(4), 2), gread(4 + r.below(4), 4)],
        [pause(r), { op: "mprotect", who: 0, page: r.below(20), pages: 2, prot: "R" }, gwrite(r.below(16), 4, 1)],
        [pause(r), munmap(r.below(20), 2), write(r.below(24)), r.below(2) === 0 ? { op: "fork" } : EVICT],
      ],
    }),
  },
  {
    name: "ahead-density",
    about: "the density prefetcher, of what is unmapped, protected, discarded and evicted meanwhile",
    program: (r) => ({
      ...AHEAD,
      vms: 2,
      policies: { prefetch: "density", ...(r.below(2) === 0 ? { migrate: "write" } : {}) },
      activities: [
        [gwrite(0, 16), gwrite(16 + r.below(8), 2), gread(0, 48)],
        [pause(r, 48), changeOfAhead(r), gwrite(32, 8, 1)],
        [pause(r, 48), changeOfAhead(r), read(r.below(48)), write(24 + r.below(24))],
      ],
    }),
  },
  {
    name: "ahead-streamed",
    about: "faults that turn out to be a stream larger than VRAM, beside launches that say so",
    every: 6,
    program: (r) => ({
      ...AHEAD,
      vms: 2,
      vram: 32,
      policies: { prefetch: "sequential" },
      activities: [
        [gwrite(0, 48), streamed("gread", 48), gread(0, 48)],
        [pause(r), write(r.below(48)), dontneed(r.below(44), 4), gwrite(r.below(16), 32, 1)],
        [pause(r), changeOfStreamed(r), read(r.below(48)), EVICT, write(r.below(48), 3)],
      ],
    }),
  },
  {
    name: "on-write",
    about: "reads map in place and writes move: both at once, from two address spaces and the CPU",
    program: (r) => ({
      ...DEFAULTS,
      vms: 2,
      setup: [FILL],
      policies: { migrate: "write" },
      activities: [
        [gread(0, 16), gwrite(r.below(16), 1), gread(0, 16)],
        [pause(r), gread(r.below(8), 8, 1), gwrite(r.below(12), 4, 1)],
        [pause(r), write(r.below(16)), read(r.below(16)), r.below(2) === 0 ? EVICT : dontneed(r.below(12), 4)],
      ],
    }),
  },
  {
    name: "on-write-change",
    about: "the same while memory is shared, protected, moved and unmapped",
    program: (r) => ({
      ...DEFAULTS,
      setup: r.below(2) === 0 ? [FILL] : [FILL, GPU_WRITES],
      policies: { migrate: "write", ...(r.below(2) === 0 ? { prefetch: "sequential" } : {}) },
      activities: [
        [gread(0, 16), gwrite(0, 8), gread(0, 16)],
        [pause(r), changeOfStreamed(r, 12), write(r.below(16)), read(r.below(16), 1)],
        [pause(r), { op: "prefetch", vm: 0, page: r.below(8), pages: 8 }, changeOfStreamed(r, 12), write(r.below(16))],
      ],
    }),
  },
  {
    name: "on-write-streamed",
    about: "streamed launches that read in place and move what they write",
    every: 6,
    program: (r) => ({
      ...AHEAD,
      vms: 2,
      vram: 32,
      policies: { migrate: "write", ...(r.below(2) === 0 ? { prefetch: "sequential" } : {}) },
      activities: [
        [streamed("gread", 48), streamed("gwrite", 48), streamed("gread", 48)],
        [pause(r), write(r.below(48)), streamed("gwrite", 32, 1), read(r.below(48))],
        [pause(r), changeOfStreamed(r), write(r.below(48), 3), EVICT],
      ],
    }),
  },
  {
    name: "turns-slice",
    about: "CPU and GPU take turns; each turn of the GPU lasts longer than the one before",
    program: (r) => ({
      ...DEFAULTS,
      policies: { thrash: "timeslice" },
      setup: [FILL, gwrite(0, 4), write(0)],
      activities: [
        [gwrite(0, 4), gread(0, 16), gwrite(r.below(16))],
        [pause(r, 48), write(r.below(4)), read(r.below(16)), write(r.below(4))],
        [pause(r, 48), read(r.below(4)), { op: "pause", points: 48 }, gwrite(0, 2)],
      ],
    }),
  },
  {
    name: "turns-slice-change",
    about: "the same with evictions, discards, moves and a second address space inside the turns",
    program: (r) => ({
      ...DEFAULTS,
      vms: 2,
      policies: { thrash: "timeslice", ...(r.below(2) === 0 ? { migrate: "write" } : {}) },
      setup: [FILL, gwrite(0, 4), write(0)],
      activities: [
        [gwrite(0, 4), gread(0, 16), gwrite(r.below(16), 1, 1)],
        [pause(r), changeOfStreamed(r, 12), write(r.below(4)), gwrite(0, 4, 1)],
        [pause(r), r.below(2) === 0 ? EVICT : dontneed(r.below(12), 4), write(r.below(16)), changeOfStreamed(r, 12)],
      ],
    }),
  },
  {
    name: "turns-pin",
    about: "what has bounced too often stays in RAM, for CPU and GPU, while it is requested, evicted and moved",
    program: (r) => ({
      ...DEFAULTS,
      vms: 2,
      policies: { thrash: "pin" },
      setup: [FILL, gwrite(0, 4), write(0), gwrite(0, 4), write(1)],
      activities: [
        [gwrite(0, 4), gwrite(0, 16), gread(0, 16)],
        [pause(r), write(r.below(4)), { op: "toVram", vm: r.below(2), page: 0, pages: 16 }, write(r.below(16))],
        [pause(r), gwrite(0, 4, 1), r.below(2) === 0 ? EVICT : changeOfStreamed(r, 12), read(r.below(16))],
      ],
    }),
  },
  {
    name: "turns-pin-end",
    about: "the pin of such memory runs out, and what is mapped in place is dropped",
    every: 8,
    program: (r) => ({
      ...DEFAULTS,
      // Chunks are pages, each with a pin of its own.
      inHuge: 8,
      policies: { thrash: "pin" },
      setup: [FILL, ...turns(4), ...faults(17)],
      activities: [
        [EVICT, gread(1, 15), gread(0, 16), gwrite(0, 4)],
        [pause(r, 48), write(r.below(16)), gread(r.below(8), 8), read(0)],
        [pause(r, 48), changeOfStreamed(r, 12), gwrite(0), write(0)],
      ],
    }),
  },
  {
    name: "turns-streamed",
    about: "streamed launches through little VRAM over memory that the CPU keeps taking back",
    every: 6,
    program: (r) => ({
      ...AHEAD,
      vram: 32,
      policies: {
        thrash: r.below(2) === 0 ? "pin" : "timeslice",
        ...(r.below(2) === 0 ? { prefetch: "sequential" } : {}),
      },
      setup: [fillOf(48), gwrite(0, 4), write(0), gwrite(0, 4), write(0)],
      activities: [
        [streamed("gwrite", 48), streamed("gread", 48), streamed("gwrite", 48)],
        [pause(r), write(r.below(16)), read(r.below(48)), write(r.below(16)), write(r.below(48))],
        [pause(r), changeOfStreamed(r), write(r.below(16), 3), gwrite(0, 16)],
      ],
    }),
  },
  {
    name: "policies",
    about: "all of them, with little VRAM",
    program: (r) => ({
      ...DEFAULTS,
      pages: 32,
      vms: 2,
      vram: 16 * (1 + r.below(3)),
      policies: randomPolicies(r),
      setup: [fillOf(32), gwrite(0, 4), write(0)],
      activities: [
        [gwrite(0, 16), r.below(2) === 0 ? streamed("gread", 32) : gread(16, 16), gwrite(0, 8)],
        [pause(r), write(r.below(16)), gwrite(r.below(16), 16, 1), changeOfStreamed(r, 28)],
        [pause(r), read(r.below(32)), EVICT, write(r.below(32)), read(r.below(4))],
      ],
    }),
  },
];

/** The GPU and the CPU take the first page from each other so many times. */
function turns(count: number): Op[] {
  return Array.from({ length: count }, () => [gwrite(0), write(0)]).flat();
}

/** GPU faults on all other pages, so many each. */
function faults(count: number): Op[] {
  return Array.from({ length: count }, () => [EVICT, gread(1, 15)]).flat();
}
