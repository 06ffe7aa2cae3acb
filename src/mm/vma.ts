import { assert } from "../base/assert.ts";
import { SZ_2M, type Va, alignUp, isAligned } from "../base/addr.ts";
import { IntervalTree, IntervalTreeNode } from "../base/interval-tree.ts";
import type { DeviceMemory } from "./device-memory.ts";
import type { MemFile } from "./file.ts";
import type { Mm } from "./mm.ts";
import type { VmaView } from "./types.ts";

export type Prot = "NONE" | "R" | "RW";

/** First address that no process can map. @kernel TASK_SIZE */
export const TASK_SIZE = 2 ** 47 - 4096;
/** Mappings without a fixed address lie above. @kernel mmap_base */
export const MMAP_BASE = 2 ** 32;

/** What is the same in a whole area. Neighbours that agree in all of it are one area. @kernel vm_flags */
export interface VmaTraits {
  readonly prot: Prot;
  /** Stores reach everybody who maps the same bytes. Shared anonymous memory is a file without a name. @kernel VM_SHARED */
  readonly shared: boolean;
  readonly file: MemFile | null;
  /** Shows memory of a device. @kernel VM_PFNMAP */
  readonly device: DeviceMemory | null;
  /** Made of whole 2 MiB pages only. @kernel VM_HUGETLB */
  readonly hugetlb: boolean;
  /** @kernel VM_LOCKED */
  readonly locked: boolean;
  /** Advice about transparent huge pages. @kernel VM_HUGEPAGE, VM_NOHUGEPAGE */
  readonly thp: "default" | "always" | "never";
  /** Bytes on either side that no address is chosen from. @kernel stack_guard_gap */
  readonly guard: number;
}

export const ANONYMOUS: VmaTraits = {
  prot: "RW",
  shared: false,
  file: null,
  device: null,
  hugetlb: false,
  locked: false,
  thp: "default",
  guard: 0,
};

/** What a system call may change in a mapped area. */
export type VmaChange = Partial<Pick<VmaTraits, "prot" | "locked" | "thp">>;

/** `[start, end)` bytes of an address space, mapped alike. @kernel vm_area_struct */
export class Vma extends IntervalTreeNode implements VmaView, VmaTraits {
  readonly mm: Mm;
  prot: Prot;
  readonly shared: boolean;
  readonly file: MemFile | null;
  readonly device: DeviceMemory | null;
  /** Byte of the file, or of the device's memory, at `start`; 0 without one. @kernel vm_pgoff */
  offset: number;
  readonly hugetlb: boolean;
  locked: boolean;
  thp: VmaTraits["thp"];
  readonly guard: number;

  constructor(mm: Mm, start: Va, end: Va, traits: VmaTraits, offset: number) {
    super(start, end - 1);
    this.mm = mm;
    this.prot = traits.prot;
    this.shared = traits.shared;
    this.file = traits.file;
    this.device = traits.device;
    this.offset = offset;
    this.hugetlb = traits.hugetlb;
    this.locked = traits.locked;
    this.thp = traits.thp;
    this.guard = traits.guard;
  }

  get end(): Va {
    return this.last + 1;
  }
  get readable(): boolean {
    return this.prot !== "NONE";
  }
  get writable(): boolean {
    return this.prot === "RW";
  }
  get anonymous(): boolean {
    return this.file === null && this.device === null && !this.hugetlb;
  }
  get special(): boolean {
    return this.device !== null;
  }

  get traits(): VmaTraits {
    const { prot, shared, file, device, hugetlb, locked, thp, guard } = this;
    return { prot, shared, file, device, hugetlb, locked, thp, guard };
  }

  /** The byte of the file, or of the device's memory, at `addr`, which lies in the area or at its end. */
  offsetOf(addr: Va): number {
    return this.file === null && this.device === null ? 0 : this.offset + (addr - this.start);
  }
}

/** True when `before` ends where `after` starts and nothing tells them apart. @kernel can_vma_merge_after */
export function canMerge(before: Vma, after: Vma): boolean {
  return (
    before.end === after.start &&
    before.prot === after.prot &&
    before.shared === after.shared &&
    before.file === after.file &&
    before.device === after.device &&
    before.offsetOf(before.end) === after.offset &&
    before.hugetlb === after.hugetlb &&
    before.locked === after.locked &&
    before.thp === after.thp &&
    before.guard === after.guard
  );
}

/** The areas of one mm: disjoint, and no two neighbours that could be one. Under the mmap lock. */
export class VmaTree {
  readonly #mm: Mm;
  readonly #tree = new IntervalTree<Vma>();
  // Faults come in runs to one area.
  #lastFound: Vma | null = null;
  /** No area has ever had a wider guard. */
  #widestGuard = 0;

  constructor(mm: Mm) {
    this.#mm = mm;
  }

  /** @kernel vma_lookup */
  lookup(addr: Va): Vma | null {
    const last = this.#lastFound;
    if (last !== null && last.start <= addr && addr <= last.last) return last;
    const found = this.#tree.iterFirst(addr, addr);
    if (found !== null) this.#lastFound = found;
    return found;
  }

  /** The first area that intersects `[start, end)`. @kernel find_vma_intersection */
  findIntersection(start: Va, end: Va): Vma | null {
    return start < end ? this.#tree.iterFirst(start, end - 1) : null;
  }

  /** The areas that intersect `[start, end)`, in order. Copied: they may be changed meanwhile. */
  within(start: Va, end: Va): Vma[] {
    const list: Vma[] = [];
    for (let v = this.findIntersection(start, end); v !== null; v = this.#tree.iterNext(v, start, end - 1))
      list.push(v);
    return list;
  }

  /** True when every byte of `[start, end)` is mapped. */
  covers(start: Va, end: Va): boolean {
    let at = start;
    for (const vma of this.within(start, end)) {
      if (vma.start > at) return false;
      at = vma.end;
    }
    return at >= end;
  }

  /** False where a border would cut a 2 MiB page that cannot be split. @kernel hugetlb_vm_op_split */
  canCut(start: Va, end: Va): boolean {
    return !this.#cutsHugetlb(start) && !this.#cutsHugetlb(end);
  }

  #cutsHugetlb(at: Va): boolean {
    return !isAligned(at, SZ_2M) && this.lookup(at)?.hugetlb === true;
  }

  /** The lowest aligned gap of `length` bytes with its guards from `MMAP_BASE` up, or -1. @kernel vm_unmapped_area */
  findGap(length: number, align: number, guard = 0): Va {
    let start = alignUp(MMAP_BASE + guard, align);
    while (start + length <= TASK_SIZE) {
      const inTheWay = this.#conflict(start, start + length, guard);
      if (inTheWay === null) return start;
      start = alignUp(inTheWay.end + Math.max(guard, inTheWay.guard), align);
    }
    return -1;
  }

  /** True when `[start, end)` and its guards are clear of all areas and theirs. */
  isFree(start: Va, end: Va, guard: number): boolean {
    return this.#conflict(start, end, guard) === null;
  }

  /** The first area that touches `[start, end)` or comes closer than the wider of the two guards. */
  #conflict(start: Va, end: Va, guard: number): Vma | null {
    const reach = Math.max(guard, this.#widestGuard);
    if (reach === 0) return this.findIntersection(start, end);
    const first = Math.max(0, start - reach);
    const last = end + reach - 1;
    for (let v = this.#tree.iterFirst(first, last); v !== null; v = this.#tree.iterNext(v, first, last)) {
      const apart = Math.max(guard, v.guard);
      if (v.start < end + apart && v.end + apart > start) return v;
    }
    return null;
  }

  /** Adds an area where there is none, merging it with what it continues. `offset`: byte of the file at `start`. */
  insert(start: Va, end: Va, traits: VmaTraits, offset = 0): void {
    assert(this.findIntersection(start, end) === null, "an area over another");
    const vma = new Vma(this.#mm, start, end, traits, traits.file === null && traits.device === null ? 0 : offset);
    this.#widestGuard = Math.max(this.#widestGuard, vma.guard);
    this.#add(vma);
    this.#merge(vma);
  }

  /** Splits areas so that none crosses `start` or `end`, then takes what lies between them out. */
  remove(start: Va, end: Va): void {
    this.#splitAt(start);
    this.#splitAt(end);
    for (const vma of this.within(start, end)) this.#take(vma);
  }

  /** Changes `[start, end)`, which lies in one area, splitting and merging. */
  change(start: Va, end: Va, change: VmaChange): void {
    this.#splitAt(start);
    this.#splitAt(end);
    const vma = this.lookup(start);
    assert(vma !== null && vma.start === start && vma.end === end, "the interval is not part of one area");
    vma.prot = change.prot ?? vma.prot;
    vma.locked = change.locked ?? vma.locked;
    vma.thp = change.thp ?? vma.thp;
    this.#merge(vma);
  }

  #splitAt(at: Va): void {
    const vma = this.lookup(at);
    if (vma === null || vma.start === at) return;
    const upper = new Vma(this.#mm, at, vma.end, vma, vma.offsetOf(at));
    this.#resize(vma, vma.start, at, vma.offset);
    this.#add(upper);
  }

  #merge(vma: Vma): void {
    const before = vma.start === 0 ? null : this.#tree.iterFirst(vma.start - 1, vma.start - 1);
    const after = this.#tree.iterFirst(vma.end, vma.end);
    const lower = before !== null && canMerge(before, vma) ? before : vma;
    const upper = after !== null && canMerge(vma, after) ? after : vma;
    if (lower === upper) return;
    if (lower !== vma) this.#tree.remove(lower);
    if (upper !== vma) this.#tree.remove(upper);
    this.#resize(vma, lower.start, upper.end, lower.offset);
    // Last, so that the file is never without an area.
    for (const gone of [lower, upper]) if (gone !== vma) detach(gone);
  }

  #add(vma: Vma): void {
    this.#tree.insert(vma);
    vma.file?.attach(vma);
    vma.device?.attach();
  }

  #take(vma: Vma): void {
    this.#tree.remove(vma);
    detach(vma);
    this.#lastFound = null;
  }

  #resize(vma: Vma, start: Va, end: Va, offset: number): void {
    this.#tree.remove(vma);
    vma.start = start;
    vma.last = end - 1;
    vma.offset = offset;
    this.#tree.insert(vma);
    this.#lastFound = null;
  }

  /** All areas in order. */
  all(): Vma[] {
    return this.within(0, TASK_SIZE);
  }
}

function detach(vma: Vma): void {
  vma.file?.detach(vma);
  vma.device?.detach();
}
