import { errnoName } from "../base/errno.ts";
import { EVENT_KINDS } from "../base/trace.ts";
import type { EventKind } from "../base/trace.ts";
import { bytes, count } from "./format.ts";

/** Families share a colour everywhere: in the event list, the maps and the chart. */
export type Family = "run" | "fault" | "in" | "out" | "gpu" | "inval" | "cpu";

export interface KindStyle {
  readonly family: Family;
  /** One sentence for the tooltip. */
  readonly meaning: string;
}

export const KINDS: Readonly<Record<EventKind, KindStyle>> = {
  launch: { family: "run", meaning: "A kernel was launched." },
  round: { family: "run", meaning: "One dispatch over the items not done yet, and one readback of its faults." },
  "gpu-fault": { family: "fault", meaning: "A GPU access found no valid translation." },
  "notifier-create": { family: "gpu", meaning: "An interval notifier begins to watch this part of the address space." },
  "range-create": { family: "gpu", meaning: "A GPU SVM range was created for a chunk of the VMA." },
  "migrate-decide": { family: "in", meaning: "The driver decided where the chunk should live." },
  "migrate-to-devmem": { family: "in", meaning: "Pages moved from system memory to VRAM." },
  "get-pages": { family: "gpu", meaning: "The pages of the range were looked up and mapped for the device." },
  bind: { family: "gpu", meaning: "GPU page-table entries were written." },
  retry: { family: "inval", meaning: "The mapping changed meanwhile: the step is done again." },
  invalidate: { family: "inval", meaning: "The CPU mapping is about to change: GPU entries are zapped first." },
  evict: { family: "out", meaning: "A range or object gave up its VRAM to make room." },
  "migrate-to-ram": { family: "out", meaning: "Pages moved from VRAM back to system memory." },
  "cpu-fault": { family: "cpu", meaning: "The CPU touched a page that was not there, or was in VRAM." },
  collect: { family: "inval", meaning: "The garbage collector removed a range that munmap had left." },
  "tlb-invalidate": { family: "inval", meaning: "Cached GPU translations were dropped." },
  mmap: { family: "cpu", meaning: "The process mapped memory." },
  munmap: { family: "cpu", meaning: "The process unmapped memory." },
  "launch-end": { family: "run", meaning: "All items of the kernel are done." },
  "fault-error": { family: "fault", meaning: "A GPU access that no service can repair." },
  prefetch: { family: "run", meaning: "The program asked to move memory." },
  "vm-close": { family: "run", meaning: "A GPU address space was closed; its data went home." },
  "write-back": { family: "out", meaning: "What kernels may have written in VRAM was copied to its shadow in RAM." },
  advise: { family: "run", meaning: "The program said where memory had best lie, or who does atomics on it." },
  vram: { family: "run", meaning: "How much of VRAM data holds." },
  mprotect: { family: "cpu", meaning: "The process changed what it may do with memory." },
  madvise: { family: "cpu", meaning: "The process advised about memory, as to discard what is there." },
  mremap: { family: "cpu", meaning: "The process moved, grew or cut a mapping." },
  fork: {
    family: "cpu",
    meaning: "The process got a child, with which it shares its memory until one of them writes.",
  },
  exit: { family: "cpu", meaning: "The process ended." },
  "window-reclaim": {
    family: "inval",
    meaning: "Memory reached in place gave way to other memory in the system window.",
  },
  "stream-pass": { family: "run", meaning: "Items ran whose memory was brought ahead of them." },
  "table-reclaim": {
    family: "inval",
    meaning: "A mapping gave its page tables to others; its pages stay where they are.",
  },
};

/** The order of the kinds by number, as events carry them. */
export const KIND_NAMES: readonly EventKind[] = EVENT_KINDS.map(([name]) => name);

/** By number. @kernel mmu_notifier_event */
const NOTIFY = ["unmap", "clear", "protection vma", "protection page", "soft dirty", "release", "migrate", "exclusive"];
const ACCESS = ["read", "write", "atomic"];

/** What the detail number of an event says, in words; empty where it says nothing. */
export function detailText(kind: EventKind, detail: number): string {
  switch (kind) {
    case "launch":
    case "stream-pass":
      return `${count(detail)} ${detail === 1 ? "item" : "items"}`;
    case "round":
      return `${count(detail)} ${detail === 1 ? "item" : "items"} to do`;
    case "launch-end":
      return `after ${count(detail)} ${detail === 1 ? "round" : "rounds"}`;
    case "gpu-fault":
      return ACCESS[detail] ?? "";
    case "cpu-fault":
      return ACCESS[detail] ?? "";
    case "migrate-decide":
    case "prefetch":
      return detail === 1 ? "to VRAM" : "stays";
    case "migrate-to-devmem":
    case "migrate-to-ram":
    case "evict":
    case "write-back":
    case "window-reclaim":
    case "table-reclaim":
      return `${count(detail)} ${detail === 1 ? "page" : "pages"}, ${bytes(detail * 4096)}`;
    case "bind":
      return `${count(detail)} ${detail === 1 ? "entry" : "entries"}`;
    case "get-pages":
      return detail === 0 ? "" : errnoName(detail);
    case "retry":
    case "fault-error":
      return errnoName(detail);
    case "invalidate":
      return NOTIFY[detail] ?? "";
    case "collect":
      return detail === 1 ? "partial unmap" : "";
    case "tlb-invalidate":
      return `seqno ${count(detail)}`;
    default:
      return "";
  }
}
