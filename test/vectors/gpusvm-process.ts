/**
 * The process that the gpusvm vectors were recorded over, as an `SvmMm`: areas, present pages and a page look-up that
 * follow the vectors' own description, not our mm. Frame numbers carry the kind of page above bit 40, because runs of
 * different kinds may reuse the same numbers.
 */
import { EBUSY, EFAULT, EPERM, type Errno } from "../../src/base/errno.ts";
import { RwSemaphore } from "../../src/base/locks.ts";
import { type MaybePromise, isPromise } from "../../src/base/maybe-promise.ts";
import { Scheduler } from "../../src/base/scheduler.ts";
import {
  type DevPagemap,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  type HmmRange,
  type MigrateMm,
  type MmuIntervalNotifier,
  type MmuNotifierRange,
  type PageInfo,
  type SvmMm,
  type VmaView,
} from "../../src/mm/types.ts";
import { DrmPagemapDevmem } from "../../src/pagemap/devmem.ts";
import { DrmPagemap, type DrmPagemapOps } from "../../src/pagemap/pagemap.ts";
import { Zdd } from "../../src/pagemap/zdd.ts";

export type PageType = "sys" | "priv" | "coh" | "zone";
/** `[start, end, type, order, w, pfn, zdd, pagemap]` */
export type PageRun = readonly [string, string, PageType, number, number, string, number, number];
/** `[start, end, kind]` */
export type AreaSpec = readonly [string, string, string];

const PAGE = 4096;
const KIND_UNIT = 2 ** 40;
/** The owner of pagemaps 0 to 2; 3 is somebody else's. */
export const OWN = "own";
const FIRST_FOREIGN_PAGEMAP = 3;

/** A value where nothing may wait: the recorded runs had one thread. */
export function now<T>(x: MaybePromise<T>): T {
  if (isPromise(x)) throw new Error("something waited in a run with one activity");
  return x;
}

/** A recorded address. Only what a double holds exactly is accepted. */
export function address(text: string): number {
  const value = Number(BigInt(text));
  if (BigInt(value) !== BigInt(text)) throw new Error(`address ${text} is not exact in a double`);
  return value;
}

/** The upper end of an interval that is only compared with: beyond 2^53 it bounds nothing. */
export function bound(text: string): number {
  return Number(BigInt(text));
}

export const hexOf = (x: number): string => `0x${BigInt.asUintN(64, BigInt(x)).toString(16)}`;

export const neverWaits = new Scheduler({
  turn: () => Promise.reject(new Error("the model has no event loop")),
  now: () => 0,
  sleep: () => Promise.reject(new Error("the model does not sleep")),
});

class Area implements VmaView {
  readonly readable = true;
  readonly special = false;
  start: number;
  end: number;
  writable: boolean;
  readonly anonymous: boolean;
  readonly hugetlb: boolean;

  constructor(start: number, end: number, writable: boolean, anonymous: boolean, hugetlb: boolean) {
    this.start = start;
    this.end = end;
    this.writable = writable;
    this.anonymous = anonymous;
    this.hugetlb = hugetlb;
  }

  static parse([start, end, kind]: AreaSpec): Area {
    const rest = kind.slice(kind.startsWith("rw") ? 2 : 1);
    return new Area(address(start), address(end), kind.startsWith("rw"), !rest.includes("f"), rest.includes("h"));
  }

  cutFrom(start: number, end: number): Area {
    return new Area(start, end, this.writable, this.anonymous, this.hugetlb);
  }
}

interface ModelPage {
  readonly kind: number;
  readonly pfn: number;
  order: number;
  writable: boolean;
}

interface Kind {
  readonly type: PageType;
  readonly pagemap: DevPagemap | null;
  readonly zdd: Zdd | null;
}

/** One call of the device's mapping functions counted, in the order of the vectors' `dma_calls`. */
export class CallCounter {
  dmaMap = 0;
  dmaUnmap = 0;
  deviceMap = 0;
  deviceUnmap = 0;
  /** The mapping call with this number fails; 0 none. */
  failMap = 0;

  reset(failMap = 0): void {
    this.dmaMap = this.dmaUnmap = this.deviceMap = this.deviceUnmap = 0;
    this.failMap = failMap;
  }
  get list(): number[] {
    return [this.dmaMap, this.dmaUnmap, this.deviceMap, this.deviceUnmap];
  }
  /** True when the call just counted is the one to fail. */
  get failsNow(): boolean {
    return this.dmaMap + this.deviceMap === this.failMap;
  }
}

export const frameOf = (pfn: number): number => pfn % KIND_UNIT;

export class ModelProcess implements SvmMm {
  readonly mmapLock = new RwSemaphore("mmap", "mmap");
  readonly calls = new CallCounter();
  alive = true;
  /** Look-ups with a fault request since the last reset, and those that shall still report a collision. */
  faultLookups = 0;
  busy = 0;
  /** Intervals looked up without a fault request. */
  checked: [string, string][] = [];
  /** Called after look-up number n has succeeded. */
  afterLookup: ((n: number) => void) | null = null;
  #areas: Area[] = [];
  readonly #present = new Map<number, ModelPage>();
  readonly #kinds: Kind[] = [{ type: "sys", pagemap: null, zdd: null }];
  readonly #kindNumbers = new Map<string, number>([["sys", 0]]);
  readonly #pagemaps = new Map<number, DrmPagemap>();
  readonly #notifiers = new Set<MmuIntervalNotifier>();
  #seq = 2;

  constructor(areas: readonly AreaSpec[], pages: readonly PageRun[]) {
    for (const area of areas) this.mmap(area);
    for (const run of pages) this.populate(run);
  }

  // What a process does.

  mmap(spec: AreaSpec): void {
    this.#areas.push(Area.parse(spec));
    this.#areas.sort((a, b) => a.start - b.start);
  }

  /** Removes areas and pages. */
  unmap(start: number, end: number): void {
    this.#cutAreas(start);
    this.#cutAreas(end);
    this.#areas = this.#areas.filter((area) => area.end <= start || area.start >= end);
    this.drop(start, end);
  }

  /** Removes present pages. */
  drop(start: number, end: number): void {
    this.#forPages(start, end, (vpn) => this.#present.delete(vpn));
  }

  protect(start: number, end: number, write: boolean): void {
    this.#cutAreas(start);
    this.#cutAreas(end);
    const area = this.#areas.find((a) => a.start === start);
    if (area === undefined) return;
    area.writable = write;
    if (!write) {
      this.#forPages(area.start, area.end, (vpn) => {
        this.#present.get(vpn)!.writable = false;
      });
    }
  }

  populate([startText, endText, type, order, w, pfn, zdd, pagemap]: PageRun): void {
    const start = address(startText);
    const end = address(endText);
    this.drop(start, end);
    const kind = this.#kindNumber(type, zdd, pagemap);
    const first = address(pfn);
    for (let a = start; a < end; a += PAGE) {
      this.#present.set(a / PAGE, { kind, pfn: first + (a - start) / PAGE, order, writable: w === 1 });
    }
  }

  /** Announces a change to every notifier that it hits, by address. Returns those that were told and agreed. */
  invalidate(range: MmuNotifierRange): { hit: MmuIntervalNotifier[]; refused: number } {
    const told = [...this.#notifiers]
      .filter((ni) => ni.start < range.end && ni.last >= range.start)
      .sort((a, b) => a.start - b.start);
    if (told.length > 0) this.#seq += 1;
    const hit = told.filter((ni) => now(ni.invalidate(range, this.#seq)));
    if (told.length > 0) this.#seq += 1;
    return { hit, refused: told.length - hit.length };
  }

  /** The device memory region with this number. */
  pagemap(index: number): DevPagemap {
    return this.#dpagemap(index).pagemap;
  }

  get notifierCount(): number {
    return this.#notifiers.size;
  }

  // SvmMm.

  mmget(): boolean {
    return this.alive;
  }
  mmput(): void {}
  mmputAsync(): void {}
  mmgrab(): void {}
  mmdrop(): void {}

  vmaLookup(addr: number): VmaView | null {
    return this.#areas.find((area) => area.start <= addr && addr < area.end) ?? null;
  }
  findVmaIntersection(start: number, end: number): VmaView | null {
    return this.#areas.find((area) => area.start < end && start < area.end) ?? null;
  }

  intervalNotifierInsert(ni: MmuIntervalNotifier): 0 {
    ni.invalidateSeq = this.#seq - 1;
    this.#notifiers.add(ni);
    return 0;
  }
  intervalNotifierRemove(ni: MmuIntervalNotifier): void {
    this.#notifiers.delete(ni);
  }
  readBegin(ni: MmuIntervalNotifier): number {
    return ni.invalidateSeq;
  }
  readRetry(ni: MmuIntervalNotifier, seq: number): boolean {
    return ni.invalidateSeq !== seq;
  }
  setSeq(ni: MmuIntervalNotifier, curSeq: number): void {
    ni.invalidateSeq = curSeq;
  }

  hmmRangeFault(range: HmmRange): 0 | Errno {
    if (range.defaultFlags === 0) {
      this.checked.push([hexOf(range.start), hexOf(range.end)]);
      return this.#lookUp(range);
    }
    this.faultLookups += 1;
    if (this.busy > 0) {
      this.busy -= 1;
      return EBUSY;
    }
    const err = this.#lookUp(range);
    if (err === 0) this.afterLookup?.(this.faultLookups);
    return err;
  }

  readonly pages: PageInfo = {
    isZoneDevice: (pfn) => this.#kindOf(pfn).type !== "sys",
    isDevicePrivate: (pfn) => this.#kindOf(pfn).type === "priv",
    isDeviceCoherent: (pfn) => this.#kindOf(pfn).type === "coh",
    pgmapOf: (pfn) => this.#kindOf(pfn).pagemap!,
    zoneDeviceData: (pfn) => this.#kindOf(pfn).zdd,
  };

  #lookUp(range: HmmRange): 0 | Errno {
    const wantFault = (range.defaultFlags & HMM_PFN_VALID) !== 0;
    const wantWrite = (range.defaultFlags & HMM_PFN_WRITE) !== 0;
    for (let i = 0, a = range.start; a < range.end; i++, a += PAGE) {
      const area = this.vmaLookup(a);
      if (area === null) {
        if (wantFault) return EFAULT;
        range.flags[i] = 0;
        continue;
      }
      let page = this.#present.get(a / PAGE);
      if (!this.#acceptable(page, wantWrite)) {
        if (!wantFault) {
          range.flags[i] = 0;
          continue;
        }
        if (wantWrite && !area.writable) return EPERM;
        page = this.#faultIn(a, page, area);
      }
      range.pfns[i] = page!.kind * KIND_UNIT + page!.pfn;
      range.orders[i] = page!.order;
      range.flags[i] = page!.writable ? HMM_PFN_VALID | HMM_PFN_WRITE : HMM_PFN_VALID;
    }
    return 0;
  }

  #acceptable(page: ModelPage | undefined, wantWrite: boolean): boolean {
    if (page === undefined) return false;
    const kind = this.#kinds[page.kind];
    if (kind.type === "priv") return kind.pagemap!.owner === OWN;
    return page.writable || !wantWrite;
  }

  #faultIn(a: number, old: ModelPage | undefined, area: VmaView): ModelPage {
    this.#split(a);
    this.#split(a + PAGE);
    const keeps = old !== undefined && this.#kinds[old.kind].type !== "priv";
    const pfn = keeps ? old.pfn : 0x10000000 + a / PAGE;
    const page = { kind: 0, pfn, order: 0, writable: area.writable };
    this.#present.set(a / PAGE, page);
    return page;
  }

  /** Cutting a huge mapping anywhere inside makes all of it small. */
  #split(a: number): void {
    const order = this.#present.get(a / PAGE)?.order ?? 0;
    const block = 2 ** order;
    const first = Math.floor(a / PAGE / block) * block;
    if (order === 0 || first === a / PAGE) return;
    for (let vpn = first; vpn < first + block; vpn++) {
      const page = this.#present.get(vpn);
      if (page !== undefined) page.order = 0;
    }
  }

  #forPages(start: number, end: number, f: (vpn: number) => void): void {
    this.#split(start);
    this.#split(end);
    for (const vpn of [...this.#present.keys()]) if (vpn * PAGE >= start && vpn * PAGE < end) f(vpn);
  }

  #cutAreas(at: number): void {
    const index = this.#areas.findIndex((area) => area.start < at && at < area.end);
    if (index < 0) return;
    const area = this.#areas[index];
    this.#areas.splice(index, 1, area.cutFrom(area.start, at), area.cutFrom(at, area.end));
  }

  #kindOf(pfn: number): Kind {
    return this.#kinds[Math.floor(pfn / KIND_UNIT)];
  }

  #kindNumber(type: PageType, zdd: number, pagemap: number): number {
    const key = type === "sys" ? "sys" : `${type}:${zdd}:${pagemap}`;
    let number = this.#kindNumbers.get(key);
    if (number === undefined) {
      const dpagemap = this.#dpagemap(pagemap);
      const size = PAGE;
      const ops = { populateDevmemPfn: never, copyToDevmem: never, copyToRam: never };
      // The allocation behind a model page is never migrated; it only carries its page map.
      const devmem = new DrmPagemapDevmem({ mm: this as unknown as MigrateMm, ops, dpagemap, size });
      number = this.#kinds.push({ type, pagemap: dpagemap.pagemap, zdd: new Zdd(devmem) }) - 1;
      this.#kindNumbers.set(key, number);
    }
    return number;
  }

  #dpagemap(index: number): DrmPagemap {
    let dpagemap = this.#pagemaps.get(index);
    if (dpagemap === undefined) {
      const owner = index < FIRST_FOREIGN_PAGEMAP ? OWN : "somebody else";
      const ops = { folioFree: never, migrateToRam: never };
      const pagemap: DevPagemap = { type: "private", firstPfn: 0, npages: 0, owner, ops };
      dpagemap = new DrmPagemap({ pagemap, drm: null, ops: this.#pagemapOps, scheduler: neverWaits });
      this.#pagemaps.set(index, dpagemap);
    }
    return dpagemap;
  }

  readonly #pagemapOps: DrmPagemapOps = {
    deviceMap: (_dpagemap, _dev, pfn, order, dir, out) => {
      this.calls.deviceMap += 1;
      if (this.calls.failsNow) return EFAULT;
      out.push(frameOf(pfn) * PAGE, 1, order, dir);
      return 0;
    },
    deviceUnmap: () => {
      this.calls.deviceUnmap += 1;
    },
    populateMm: never,
  };
}

function never(): never {
  throw new Error("the modelled process has no device memory that moves");
}
