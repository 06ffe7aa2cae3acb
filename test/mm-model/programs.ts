/**
 * Random programs of system calls and accesses, as data: an operation means the same whatever came before it, so a program
 * stays one when operations are taken out of it, and a failing one can be made short.
 */
import { Random } from "../../src/base/random.ts";
import type { Advice } from "../../src/mm/madvise.ts";
import type { Prot } from "../../src/mm/vma.ts";
import { HUGE_PAGES, PAGE } from "./flat-model.ts";

export type MapKind = "anon" | "shanon" | "file-private" | "file-shared" | "huge2m";

/** Pages count from the start of the window; `who` is a process, modulo how many there are. */
export type Op =
  | {
      op: "mmap";
      who: number;
      page: number;
      pages: number;
      prot: Prot;
      kind: MapKind;
      file: number;
      index: number;
      populate: boolean;
    }
  | { op: "munmap"; who: number; page: number; pages: number }
  | { op: "mlock"; who: number; page: number; pages: number }
  | { op: "munlock"; who: number; page: number; pages: number }
  | { op: "mprotect"; who: number; page: number; pages: number; prot: Prot }
  | { op: "madvise"; who: number; page: number; pages: number; advice: Advice }
  | { op: "mremap"; who: number; page: number; pages: number; newPages: number; to: number | null; dontunmap: boolean }
  | { op: "fork" | "exit" | "spawn" | "release" | "compact"; who: number }
  | { op: "pin"; who: number; page: number; pages: number; write: boolean }
  | { op: "exclusive"; who: number; page: number }
  | { op: "read" | "write" | "fill"; who: number; at: number; length: number; byte: number }
  | { op: "gread" | "gwrite"; who: number; at: number; length: number; byte: number }
  | { op: "add" | "gadd"; who: number; at: number; by: number }
  | { op: "toVram" | "toSys" | "prefetch"; who: number; page: number; pages: number }
  | { op: "truncate"; file: number; size: number }
  | { op: "punch" | "fwrite" | "fread"; file: number; at: number; length: number; byte: number };

/** How large a program's world is. */
export interface World {
  /** Pages of each process's window. */
  readonly pages: number;
  /** Place of the window's first page in its 2 MiB. */
  readonly inHuge: number;
  readonly ram: number;
  /** Bytes of the window through which the GPU reaches what does not migrate. */
  readonly window: number;
  /** Areas of 2 MiB and parts of them occur. */
  readonly huge: boolean;
}

/** Twenty-four pages over a 2 MiB border: small enough that operations meet. */
export const SMALL: World = { pages: 24, inHuge: HUGE_PAGES - 12, ram: 4 << 20, window: 1 << 20, huge: false };
/** Two and a half times 2 MiB, of which two are aligned. */
export const HUGE: World = { pages: 1280, inHuge: HUGE_PAGES - 128, ram: 64 << 20, window: 16 << 20, huge: true };

export const FILES = 2;
export const MAX_PROCESSES = 3;
export const FILE_PAGES = 12;

const ADVICE: readonly Advice[] = [
  "dontneed",
  "dontneed",
  "free",
  "remove",
  "populate-read",
  "populate-write",
  "hugepage",
  "nohugepage",
  "collapse",
  "pageout",
  "pageout",
  "cold",
];
const PROTS: readonly Prot[] = ["RW", "RW", "RW", "RW", "R", "NONE"];

export function randomProgram(seed: number, length: number, world: World): Op[] {
  const draw = new Draw(new Random(seed), world);
  return Array.from({ length }, () => draw.op());
}

/** How often each operation is drawn. */
const WEIGHTS: readonly [number, (d: Draw) => Op][] = [
  [13, (d) => d.mmap()],
  [5, (d) => ({ op: "munmap", ...d.interval() })],
  [6, (d) => ({ op: "mprotect", ...d.interval(), prot: d.pick(PROTS) })],
  [10, (d) => ({ op: "madvise", ...d.interval(), advice: d.pick(ADVICE) })],
  [7, (d) => d.mremap()],
  [2, (d) => ({ op: "mlock", ...d.interval() })],
  [2, (d) => ({ op: "munlock", ...d.interval() })],
  [4, (d) => ({ op: "fork", who: d.who() })],
  [2, (d) => ({ op: "exit", who: d.who() })],
  [1, (d) => ({ op: "spawn", who: d.who() })],
  [2, (d) => ({ op: "pin", ...d.interval(), write: d.chance(0.5) })],
  [2, (d) => ({ op: "release", who: d.who() })],
  [2, (d) => ({ op: "compact", who: d.who() })],
  [2, (d) => ({ op: "exclusive", who: d.who(), page: d.page() })],
  [8, (d) => d.access("read")],
  [14, (d) => d.access("write")],
  [3, (d) => d.access("fill")],
  [4, (d) => d.add("add")],
  [3, (d) => d.access("gread")],
  [5, (d) => d.access("gwrite")],
  [3, (d) => d.add("gadd")],
  [4, (d) => ({ op: "toVram", ...d.interval() })],
  [2, (d) => ({ op: "toSys", ...d.interval() })],
  [1, (d) => ({ op: "prefetch", ...d.interval() })],
  [2, (d) => ({ op: "truncate", file: d.below(FILES), size: d.fileSize() })],
  [2, (d) => d.file("punch")],
  [3, (d) => d.file("fwrite")],
  [2, (d) => d.file("fread")],
];
const TOTAL = WEIGHTS.reduce((sum, [weight]) => sum + weight, 0);

class Draw {
  readonly #random: Random;
  readonly #world: World;

  constructor(random: Random, world: World) {
    this.#random = random;
    this.#world = world;
  }

  op(): Op {
    let at = this.below(TOTAL);
    for (const [weight, make] of WEIGHTS) {
      if (at < weight) return make(this);
      at -= weight;
    }
    throw new Error("the weights do not add up");
  }

  below(n: number): number {
    return this.#random.below(n);
  }
  chance(p: number): boolean {
    return this.#random.u32() < p * 2 ** 32;
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }
  who(): number {
    return this.below(MAX_PROCESSES);
  }

  page(): number {
    const { huge, pages, inHuge } = this.#world;
    if (huge && this.chance(0.5)) return this.below(2) * HUGE_PAGES + (HUGE_PAGES - inHuge);
    return this.below(pages);
  }

  /** Whole pages inside the window. */
  interval(): { who: number; page: number; pages: number } {
    const page = this.page();
    return { who: this.who(), page, pages: Math.min(this.pages(), this.#world.pages - page) };
  }

  pages(): number {
    if (this.#world.huge) return this.pick([1, 7, 128, HUGE_PAGES, HUGE_PAGES, 2 * HUGE_PAGES]);
    return 1 + this.below(10);
  }

  mmap(): Op {
    const { huge } = this.#world;
    const kinds: MapKind[] = ["anon", "anon", "anon", "anon", "shanon", "file-private", "file-shared"];
    const kind = this.pick(huge ? [...kinds, "huge2m" as const] : kinds);
    const where = this.interval();
    return {
      op: "mmap",
      ...where,
      prot: this.pick(PROTS),
      kind,
      file: this.below(FILES),
      index: this.below(FILE_PAGES),
      populate: this.chance(0.2),
    };
  }

  mremap(): Op {
    const from = this.interval();
    const dontunmap = this.chance(0.2);
    const same = dontunmap || this.chance(0.5);
    const newPages = same ? from.pages : this.pages();
    const pages = this.chance(0.05) ? 0 : from.pages;
    const fixed = dontunmap || this.chance(0.8);
    const to = fixed ? Math.max(0, Math.min(this.page(), this.#world.pages - newPages)) : null;
    return { op: "mremap", ...from, pages, newPages, to, dontunmap };
  }

  access(op: "read" | "write" | "fill" | "gread" | "gwrite"): Op {
    const page = this.page();
    const at = page * PAGE + (this.chance(0.5) ? 0 : this.below(PAGE));
    const length = this.chance(0.3) ? 1 + this.below(64) : 1 + this.below(3 * PAGE);
    const end = this.#world.pages * PAGE;
    return { op, who: this.who(), at, length: Math.min(length, end - at), byte: this.below(256) };
  }

  add(op: "add" | "gadd"): Op {
    return { op, who: this.who(), at: this.page() * PAGE + 4 * this.below(PAGE / 4), by: this.#random.u32() };
  }

  fileSize(): number {
    return this.below(FILE_PAGES + 1) * PAGE + (this.chance(0.5) ? 0 : this.below(PAGE));
  }

  file(op: "punch" | "fwrite" | "fread"): Op {
    const at = this.below(FILE_PAGES) * PAGE + (this.chance(0.5) ? 0 : this.below(PAGE));
    return { op, file: this.below(FILES), at, length: 1 + this.below(3 * PAGE), byte: this.below(256) };
  }
}

/**
 * The shortest part of `program` for which `fails` still holds, by taking out ever smaller runs of operations. `tries`
 * bounds the work.
 */
export async function shrink(
  program: readonly Op[],
  fails: (part: readonly Op[]) => Promise<boolean>,
  tries = 400,
): Promise<readonly Op[]> {
  let best = program;
  let left = tries;
  for (let size = Math.ceil(best.length / 2); size >= 1;) {
    let shortened = false;
    for (let at = 0; at < best.length && left > 0;) {
      const part = [...best.slice(0, at), ...best.slice(at + size)];
      left -= 1;
      if (await fails(part)) {
        best = part;
        shortened = true;
      } else {
        at += size;
      }
    }
    if (left <= 0) break;
    if (size === 1 && !shortened) break;
    size = size === 1 ? 1 : Math.ceil(size / 2);
  }
  return best;
}

/** Whether an operation is about a process's own memory alone, which no other process can change. */
export function isOwn(op: Op): op is Exclude<Op, { op: "truncate" | "punch" | "fwrite" | "fread" }> {
  if (op.op === "mmap") return op.kind === "anon";
  return !["fork", "exit", "spawn", "truncate", "punch", "fwrite", "fread"].includes(op.op);
}
