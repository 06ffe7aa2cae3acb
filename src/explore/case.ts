import type { Random } from "../base/random.ts";
import { NO_FAILURES, type Op, type Program } from "./program.ts";

/** A race to explore: each seed is a program and an order of its steps. */
export interface Case {
  readonly name: string;
  /** What races with what. */
  readonly about: string;
  readonly program: (random: Random) => Program;
  /** Among other cases only every so many seeds run it, because it takes as many times longer. Default 1. */
  readonly every?: number;
}

// What cases are made of.

export const DEFAULTS = { pages: 16, inHuge: 0, vms: 1, vram: 32, migrate: true, failures: NO_FAILURES } as const;

/** The CPU fills the first so many pages. */
export const fillOf = (pages: number): Op => ({ op: "fill", who: 0, page: 0, pages });
/** All of an area of the default size. */
export const FILL = fillOf(DEFAULTS.pages);
/** All of it in VRAM and mapped. */
export const TO_GPU: Op = { op: "gread", vm: 0, page: 0, pages: 16, word: 0 };
export const GPU_WRITES: Op = { op: "gwrite", vm: 0, page: 0, pages: 16, word: 1 };
export const EVICT: Op = { op: "evict", pages: 32 };

export const read = (page: number, who = 0): Op => ({ op: "read", who, page, word: 1 });
export const write = (page: number, word = 2, who = 0): Op => ({ op: "write", who, page, word });
export const gread = (page: number, pages = 1, vm = 0): Op => ({ op: "gread", vm, page, pages, word: 2 });
export const gwrite = (page: number, pages = 1, vm = 0): Op => ({ op: "gwrite", vm, page, pages, word: 1 });
export const munmap = (page: number, pages: number, who = 0): Op => ({ op: "munmap", who, page, pages });
export const dontneed = (page: number, pages: number, who = 0): Op => advise("dontneed", page, pages, who);
export const pageout = (page: number, pages: number, who = 0): Op => advise("pageout", page, pages, who);
export const remove = (page: number, pages: number, who = 0): Op => advise("remove", page, pages, who);
export const pause = (random: Random, most = 24): Op => ({ op: "pause", points: random.below(most) });

function advise(advice: "dontneed" | "pageout" | "remove", page: number, pages: number, who: number): Op {
  return { op: "madvise", who, page, pages, advice };
}

/** So many pages, in order, by a launch that says so. */
export const streamed = (op: "gread" | "gwrite", pages: number, vm = 0): Op => ({
  op,
  vm,
  page: 0,
  pages,
  word: 1,
  streamed: true,
});

/** What takes memory away from a launch that is ahead of its faults, from the first so many pages. */
export function changeOfStreamed(random: Random, pages = 44): Op {
  const page = random.below(pages);
  switch (random.below(5)) {
    case 0:
      return munmap(page, 4);
    case 1:
      return { op: "mprotect", who: 0, page, pages: 4, prot: "R" };
    case 2:
      return { op: "mremap", who: 0, page, pages: 4 };
    case 3:
      return { op: "fork" };
    default:
      return { op: "pin", who: 0, page, pages: 3, points: 24 };
  }
}
