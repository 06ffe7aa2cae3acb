import type { Advice } from "../mm/madvise.ts";
import type { Prot } from "../mm/vma.ts";

/**
 * What a schedule runs, as data: an operation means the same whatever came before it, so a program stays one when
 * operations are taken out of it, and a failing one can be made short.
 *
 * Pages count from the start of the one area that every program has; `who` is a process (0, or 1 for its child), `vm` a
 * GPU address space of process 0. An operation for a process or an address space that is not there does nothing.
 */
export type Op =
  /** One word of one page, by the CPU. */
  | { readonly op: "read" | "write"; readonly who: number; readonly page: number; readonly word: number }
  /** One kernel launch, an item per page; `streamed`: it says that the pages are what its items walk through. */
  | {
      readonly op: "gread" | "gwrite";
      readonly vm: number;
      readonly page: number;
      readonly pages: number;
      readonly word: number;
      readonly streamed?: boolean;
    }
  /** `remap` maps fresh memory over the pages; `mremap` moves them elsewhere, and on the second time back. */
  | { readonly op: "munmap" | "remap" | "mremap"; readonly who: number; readonly page: number; readonly pages: number }
  | {
      readonly op: "mprotect";
      readonly who: number;
      readonly page: number;
      readonly pages: number;
      readonly prot: Prot;
    }
  | {
      readonly op: "madvise";
      readonly who: number;
      readonly page: number;
      readonly pages: number;
      readonly advice: Advice;
    }
  /** Stores the same byte all over the pages. */
  | { readonly op: "fill"; readonly who: number; readonly page: number; readonly pages: number }
  | { readonly op: "fork" | "unbind" | "compact" }
  | { readonly op: "exit"; readonly who: number }
  /** Holds the pages, as I/O does, for `points` yield points. */
  | { readonly op: "pin"; readonly who: number; readonly page: number; readonly pages: number; readonly points: number }
  | { readonly op: "exclusive"; readonly who: number; readonly page: number }
  | { readonly op: "prefetch" | "toVram" | "toSys"; readonly vm: number; readonly page: number; readonly pages: number }
  /** One migration to VRAM whose pages stay for `slice` milliseconds. */
  | {
      readonly op: "migrate";
      readonly vm: number;
      readonly page: number;
      readonly pages: number;
      readonly slice: number;
    }
  | { readonly op: "evict"; readonly pages: number }
  | { readonly op: "close"; readonly vm: number }
  /** Passes yield points. */
  | { readonly op: "pause"; readonly points: number };

/** Which copies of the device fail; each by its number among those of its direction, from 1. */
export interface CopyFailures {
  readonly toDevice: readonly number[];
  readonly toRam: readonly number[];
}

export interface Program {
  /** Pages of the area, at most 64 without `huge`: behind them is where `mremap` moves pages to. */
  readonly pages: number;
  /** Place of its first page in its 2 MiB. */
  readonly inHuge: number;
  /** GPU address spaces of process 0. */
  readonly vms: number;
  /** Pages of VRAM for data. */
  readonly vram: number;
  /** The machine has room for 2 MiB pages, and the area wants them. */
  readonly huge?: boolean;
  /** A GPU fault moves pages to VRAM. */
  readonly migrate: boolean;
  readonly failures: CopyFailures;
  /** Run one after the other before the race. */
  readonly setup: readonly Op[];
  readonly activities: readonly (readonly Op[])[];
}

export const NO_FAILURES: CopyFailures = { toDevice: [], toRam: [] };

/** One operation as a line: `gwrite vm=0 page=3 pages=2 word=1`. */
export function describeOp(op: Op): string {
  const fields = Object.entries(op).filter(([key]) => key !== "op");
  return [op.op, ...fields.map(([key, value]) => `${key}=${String(value)}`)].join(" ");
}

/** The program for people: a line per operation. */
export function describeProgram(program: Program): string {
  const { pages, inHuge, vms, vram, huge = false, migrate, failures, setup, activities } = program;
  const failing = [...failures.toDevice.map((n) => `to-device ${n}`), ...failures.toRam.map((n) => `to-ram ${n}`)];
  const head = `pages=${pages} inHuge=${inHuge} vms=${vms} vram=${vram} huge=${huge} migrate=${migrate}`;
  const lines = [failing.length === 0 ? head : `${head} failing copies: ${failing.join(", ")}`];
  for (const op of setup) lines.push(`  setup       ${describeOp(op)}`);
  activities.forEach((ops, i) => {
    for (const op of ops) lines.push(`  activity ${i}  ${describeOp(op)}`);
  });
  return lines.join("\n");
}
