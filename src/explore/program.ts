import type { PolicyNames } from "../driver/policy/policy.ts";
import type { Advice } from "../mm/madvise.ts";
import type { Prot } from "../mm/vma.ts";
import type { Cards } from "./cards.ts";
import type { AreaKinds } from "./memory.ts";

/**
 * What a schedule runs, as data: an operation means the same whatever came before it, so a program stays one when
 * operations are taken out of it, and a failing one can be made short.
 *
 * Pages count from the start of the one area that every program has; `who` is a process (0, or 1 for its child), `vm` a
 * GPU address space of process 0; `device` and `tile` are 0 where none is named. An operation for a process or an address
 * space that is not there does nothing.
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
      readonly tile?: number;
    }
  /** `remap` maps memory of the area's kind afresh over the pages; `mremap` moves them elsewhere, and on the second time back. */
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
  /**
   * System calls on the file, past every mapping; nothing where the area is no shared file. `pread` reads one word, `pwrite`
   * stores from that word on to the end of the page.
   */
  | { readonly op: "pread"; readonly page: number; readonly word: number }
  | { readonly op: "pwrite"; readonly page: number; readonly word: number }
  /** `punch` takes the pages out of the file, `truncate` those from `page` on, which are then beyond its end; the same. */
  | { readonly op: "punch"; readonly page: number; readonly pages: number }
  | { readonly op: "truncate"; readonly page: number }
  /**
   * Another process maps the page of the file privately, stores to it, drops its copy, reads it, stores to it again `points`
   * yield points later, and ends; the same.
   */
  | { readonly op: "copy"; readonly page: number; readonly word: number; readonly points: number }
  /** Stores the same byte all over the pages. */
  | { readonly op: "fill"; readonly who: number; readonly page: number; readonly pages: number }
  | { readonly op: "fork" | "compact" }
  | { readonly op: "unbind"; readonly device?: number }
  | { readonly op: "exit"; readonly who: number }
  /** Holds the pages, as I/O does, for `points` yield points. */
  | { readonly op: "pin"; readonly who: number; readonly page: number; readonly pages: number; readonly points: number }
  | { readonly op: "exclusive"; readonly who: number; readonly page: number }
  /** `prefetchAdvised`: to where `prefer` has said. */
  | {
      readonly op: "prefetch" | "prefetchAdvised" | "toVram" | "toSys";
      readonly vm: number;
      readonly page: number;
      readonly pages: number;
      readonly tile?: number;
    }
  /** Advice where the pages had best lie: with the device that uses them, in RAM, or with one device by number. */
  | {
      readonly op: "prefer";
      readonly vm: number;
      readonly page: number;
      readonly pages: number;
      readonly loc: "device" | "system" | number;
      readonly tile?: number;
    }
  /** One migration to VRAM whose pages stay for `slice` milliseconds. */
  | {
      readonly op: "migrate";
      readonly vm: number;
      readonly page: number;
      readonly pages: number;
      readonly slice: number;
      readonly tile?: number;
    }
  | { readonly op: "evict"; readonly pages: number; readonly device?: number; readonly tile?: number }
  | { readonly op: "close"; readonly vm: number }
  /** Passes yield points. */
  | { readonly op: "pause"; readonly points: number };

export type OpOf<K extends Op["op"]> = Extract<Op, { readonly op: K }>;

/** Which copies of the device fail; each by its number among those of its direction, from 1. */
export interface CopyFailures {
  readonly toDevice: readonly number[];
  readonly toRam: readonly number[];
}

export type VmPolicyChoice = Partial<Omit<PolicyNames, "evict">>;

export interface Program extends AreaKinds {
  /** Pages of the area, at most 64 without `huge`: behind them is where `mremap` moves pages to. */
  readonly pages: number;
  /** Place of its first page in its 2 MiB. */
  readonly inHuge: number;
  /** Default: one device of one tile. */
  readonly cards?: Cards;
  /** GPU address spaces of process 0. */
  readonly vms: number;
  /** The device of each. Default: the first. */
  readonly vmDevices?: readonly number[];
  /** Pages of VRAM for data, on each device and tile. */
  readonly vram: number;
  /** The machine has room for 2 MiB pages, and the area wants them. */
  readonly huge?: boolean;
  /** A GPU fault moves pages to VRAM. */
  readonly migrate: boolean;
  /** Of its GPU address spaces; those not named are the default ones. Eviction is the device's. */
  readonly policies?: VmPolicyChoice;
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
  const { memory = "private", tail, policies = {}, cards = "one", vmDevices = [] } = program;
  const failing = [...failures.toDevice.map((n) => `to-device ${n}`), ...failures.toRam.map((n) => `to-ram ${n}`)];
  const chosen = Object.entries(policies).map(([question, name]) => ` ${question}:${name}`);
  const head =
    `pages=${pages} inHuge=${inHuge} vms=${vms} vram=${vram} huge=${huge} migrate=${migrate}` +
    ` memory=${memory}${tail === undefined ? "" : ` then ${tail.memory} from page ${tail.from}`}${chosen.join("")}` +
    (cards === "one" ? "" : ` cards=${cards} vmDevices=${vmDevices.join(",")}`);
  const lines = [failing.length === 0 ? head : `${head} failing copies: ${failing.join(", ")}`];
  for (const op of setup) lines.push(`  setup       ${describeOp(op)}`);
  activities.forEach((ops, i) => {
    for (const op of ops) lines.push(`  activity ${i}  ${describeOp(op)}`);
  });
  return lines.join("\n");
}
