import type { Random } from "../base/random.ts";
import { MIGRATE_POLICIES, PREFETCH_POLICIES, THRASH_POLICIES } from "../driver/policy/policy.ts";
import type { Advice } from "../mm/madvise.ts";
import type { Prot } from "../mm/vma.ts";
import { type AreaKinds, MEMORIES } from "./memory.ts";
import { WORDS } from "./oracle.ts";
import { NO_FAILURES, type Op, type Program, type VmPolicyChoice } from "./program.ts";

/** What may occur: everything, mostly changes of mappings, mostly movements of pages, or what files are asked for. */
export type Mix = "any" | "map" | "move" | "file";

type Kind = Op["op"];

const ACCESSES: readonly Kind[] = ["read", "write", "gread", "gwrite", "gread", "gwrite"];
const MAPPINGS: readonly Kind[] = ["munmap", "remap", "mremap", "mprotect", "madvise", "madvise", "fork"];
const MOVES: readonly Kind[] = ["prefetch", "toVram", "toSys", "evict", "madvise", "pin", "exclusive", "compact"];
const FILES: readonly Kind[] = ["pread", "pwrite", "punch", "truncate", "copy", "remap", "munmap", "madvise"];
const ENDS: readonly Kind[] = ["exit", "close", "unbind"];
const MIXES: Readonly<Record<Mix, readonly Kind[]>> = {
  any: [...ACCESSES, ...ACCESSES, ...MAPPINGS, ...MOVES, ...ENDS, "pause"],
  map: [...ACCESSES, ...MAPPINGS, ...MAPPINGS, "evict", "pause"],
  move: [...ACCESSES, ...MOVES, ...MOVES, "fork", "pause"],
  file: [...ACCESSES, ...FILES, ...MAPPINGS, "evict", "compact", "pin", "pause"],
};
const PROTS: readonly Prot[] = ["RW", "RW", "R", "NONE"];
const ADVICE: readonly Advice[] = ["dontneed", "free", "pageout", "populate-read", "populate-write", "cold"];
const FILE_ADVICE: readonly Advice[] = ["dontneed", "dontneed", "remove", "pageout", "populate-write", "free"];

/** Two to four activities of a few operations each, on an area in or across 2 MiB, with much VRAM or little. */
export function randomProgram(random: Random, mix: Mix): Program {
  const pages = 16 + 8 * random.below(3);
  const vms = 1 + random.below(2);
  const draw = new Draw(random, pages, vms, mix === "file" ? FILE_ADVICE : ADVICE);
  const setup: Op[] = [];
  if (random.below(4) > 0) setup.push({ op: "fill", who: 0, page: 0, pages: 1 + random.below(pages) });
  if (random.below(2) > 0) setup.push(draw.op("gwrite"));
  const program: Program = {
    pages,
    inHuge: random.below(3) === 0 ? 512 - 8 * (1 + random.below(2)) : 16 * random.below(2),
    vms,
    vram: 16 * (1 + random.below(3)),
    migrate: random.below(5) > 0,
    failures: NO_FAILURES,
    setup,
    activities: Array.from({ length: 2 + random.below(3) }, () =>
      Array.from({ length: 1 + random.below(4) }, () => draw.op(draw.one(MIXES[mix]))),
    ),
  };
  // Last, so that a seed means the same program with and without them.
  return {
    ...program,
    ...randomKinds(draw, random, mix),
    ...(random.below(2) === 0 ? {} : { policies: randomPolicies(random) }),
  };
}

/** Mostly all of it private anonymous memory, where the mix is not that of files. */
function randomKinds(draw: Draw, random: Random, mix: Mix): AreaKinds {
  if (mix !== "file" && random.below(4) > 0) return {};
  const memory = draw.one(MEMORIES);
  const from = 1 + random.below(15);
  return random.below(3) > 0 ? { memory } : { memory, tail: { from, memory: draw.one(MEMORIES) } };
}

export function randomPolicies(random: Random): VmPolicyChoice {
  const one = <T>(of: readonly T[]): T => of[random.below(of.length)]!;
  return { prefetch: one(PREFETCH_POLICIES), migrate: one(MIGRATE_POLICIES), thrash: one(THRASH_POLICIES) };
}

class Draw {
  readonly #random: Random;
  readonly #pages: number;
  readonly #vms: number;
  readonly #advice: readonly Advice[];

  constructor(random: Random, pages: number, vms: number, advice: readonly Advice[]) {
    this.#random = random;
    this.#pages = pages;
    this.#vms = vms;
    this.#advice = advice;
  }

  one<T>(of: readonly T[]): T {
    return of[this.#random.below(of.length)]!;
  }

  op(op: Kind): Op {
    const random = this.#random;
    const page = random.below(this.#pages);
    const pages = 1 + random.below(Math.min(16, this.#pages - page));
    const who = random.below(4) === 0 ? 1 : 0;
    const vm = random.below(this.#vms);
    const word = random.below(WORDS);
    switch (op) {
      case "read":
      case "write":
        return { op, who, page, word };
      case "gread":
      case "gwrite":
        return { op, vm, page, pages, word };
      case "munmap":
      case "remap":
      case "mremap":
      case "fill":
        return { op, who, page, pages: Math.min(pages, 8) };
      case "mprotect":
        return { op, who, page, pages: Math.min(pages, 8), prot: this.one(PROTS) };
      case "madvise":
        return { op, who, page, pages, advice: this.one(this.#advice) };
      case "pread":
      case "pwrite":
        return { op, page, word };
      case "copy":
        return { op, page, word, points: random.below(32) };
      case "punch":
        return { op, page, pages: Math.min(pages, 8) };
      case "truncate":
        return { op, page };
      case "fork":
      case "unbind":
      case "compact":
        return { op };
      case "exit":
        return { op, who: 1 };
      case "exclusive":
        return { op, who, page };
      case "pin":
        return { op, who, page, pages: Math.min(pages, 4), points: random.below(32) };
      case "prefetch":
      case "prefetchAdvised":
      case "toVram":
      case "toSys":
        return { op, vm, page, pages };
      case "prefer":
        return { op, vm, page, pages, loc: this.one(["device", "system", 0] as const) };
      case "migrate":
        return { op, vm, page, pages, slice: random.below(4) };
      case "evict":
        return { op, pages };
      case "close":
        return { op, vm };
      case "pause":
        return { op, points: random.below(32) };
    }
  }
}
