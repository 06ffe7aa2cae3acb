/**
 * A driver as small as the one in the header of src/gpusvm/gpusvm.ts, over the real mm and an array for device memory.
 * Its GPU has a page table that is a map, and reads and writes bytes through it.
 */
import { expect } from "vitest";
import { EAGAIN, EFAULT, EOPNOTSUPP, EPERM, type Errno, isErr } from "../../src/base/errno.ts";
import { type Guard, RwSemaphore } from "../../src/base/locks.ts";
import type { MaybePromise } from "../../src/base/maybe-promise.ts";
import type { GpuSvmCompat } from "../../src/gpusvm/compat.ts";
import { type GpuSvmCtx, gpuSvmCtx } from "../../src/gpusvm/ctx.ts";
import { GpuSvm } from "../../src/gpusvm/gpusvm.ts";
import type { GpuSvmNotifier } from "../../src/gpusvm/notifier.ts";
import type { GpuSvmPages } from "../../src/gpusvm/pages.ts";
import { GpuSvmRange } from "../../src/gpusvm/range.ts";
import { MMU_NOTIFY_UNMAP, type MmuNotifierRange } from "../../src/mm/types.ts";
import { DRM_INTERCONNECT_SYSTEM } from "../../src/pagemap/pagemap-addr.ts";
import { drmPagemapPopulateMm } from "../../src/pagemap/pagemap.ts";
import { KB64, MB2, type Machine, PAGE } from "./pagemap-array-vram.ts";

/** Rounds after which a fault that makes no progress is a bug of the test. */
const MAX_ROUNDS = 200;

/** How the device reaches RAM: the identity, counted, with failures and slow unmapping on demand. */
export class TestDma {
  maps = 0;
  unmaps = 0;
  /** Addresses mapped now, and how often. */
  readonly live = new Map<number, number>();
  readonly dirs: number[] = [];
  /** The mapping with this number fails; 0 none. */
  failMap = 0;
  /** Awaited by every unmapping. */
  slowUnmap: (() => MaybePromise<void>) | null = null;

  dmaMapPage(pfn: number, order: number, dir: number): number | Errno {
    this.maps += 1;
    if (this.maps === this.failMap) return EFAULT;
    const addr = pfn * PAGE;
    this.live.set(addr, (this.live.get(addr) ?? 0) + 1);
    this.dirs.push(dir);
    expect(order).toBe(0);
    return addr;
  }

  dmaUnmapPage(addr: number): MaybePromise<void> {
    this.unmaps += 1;
    const count = this.live.get(addr) ?? 0;
    expect(count, "an address that is not mapped was unmapped").toBeGreaterThan(0);
    if (count === 1) this.live.delete(addr);
    else this.live.set(addr, count - 1);
    return this.slowUnmap?.();
  }
}

export class DriverRange extends GpuSvmRange {
  bound = false;
}

export class Driver {
  readonly machine: Machine;
  readonly dma = new TestDma();
  readonly svm: GpuSvm<DriverRange>;
  readonly lock = new RwSemaphore("driver", "driverVm");
  /** By virtual page: what a GPU entry holds. */
  readonly gpuPt = new Map<number, { addr: number; proto: number }>();
  readonly garbage = new Set<DriverRange>();
  readonly rangesAlive = new Set<DriverRange>();
  readonly ctx: GpuSvmCtx;
  /** Migrates anonymous ranges on a fault. */
  migrates = true;
  rounds = 0;
  /** For a test that makes the calls of a fault itself. */
  lockHeld: Guard | null = null;
  invalidations: MmuNotifierRange[] = [];

  constructor(machine: Machine, changes: Partial<GpuSvmCtx> = {}, compat?: GpuSvmCompat) {
    this.machine = machine;
    const owner = machine.vram.pagemap.owner;
    this.ctx = gpuSvmCtx({
      devmemPossible: true,
      checkPagesThreshold: KB64,
      devicePrivatePageOwner: owner,
      ...changes,
    });
    this.svm = new GpuSvm<DriverRange>({
      name: "test",
      drm: this.dma,
      mm: machine.mm,
      mmStart: 0,
      mmRange: 2 ** 47,
      notifierSize: 512 << 20,
      chunkSizes: [MB2, KB64, PAGE],
      ops: {
        invalidate: (_svm, notifier, mmuRange) => this.#invalidate(notifier, mmuRange),
        rangeAlloc: (svm) => {
          const range = new DriverRange(svm as unknown as GpuSvm);
          this.rangesAlive.add(range);
          return range;
        },
        rangeFree: (range) => void expect(this.rangesAlive.delete(range), "a range was freed twice").toBe(true),
        notifierFree: (notifier) => {
          expect(notifier.rangeCount).toBe(0);
        },
      },
      scheduler: machine.phys.sched,
      ...(compat === undefined ? {} : { compat }),
    });
    this.svm.driverSetLock(this.lock);
  }

  /** The page fault handler: 0, or why the fault cannot be served. */
  async fault(addr: number, gpuva: readonly [number, number] = [0, 2 ** 47]): Promise<0 | Errno> {
    const { svm, ctx, machine } = this;
    const guard = await this.lock.write();
    try {
      let mayMigrate = this.migrates;
      for (let round = 0; round < MAX_ROUNDS; round++) {
        this.rounds += 1;
        await this.collect();
        const range = await svm.rangeFindOrInsert(addr, gpuva[0], gpuva[1], ctx);
        if (isErr(range)) return range;
        if (mayMigrate && range.migrateDevmem && !range.hasDevmemPages) {
          await drmPagemapPopulateMm(machine.vram.dpagemap, range.start, range.end, machine.mm, ctx.timesliceMs);
        }
        let err = await svm.rangeGetPages(range, ctx);
        if (err === EOPNOTSUPP) {
          await svm.rangeEvict(range);
          mayMigrate = false;
        }
        if (err === EPERM) await this.#remove(range);
        if (err === 0) err = await this.bind(range);
        if (err === EAGAIN || err === EOPNOTSUPP || err === EFAULT || err === EPERM) continue;
        return err;
      }
      throw new Error(`the fault at ${addr} makes no progress`);
    } finally {
      guard.release();
    }
  }

  /** Writes the GPU's entries under the notifier lock, if the pages are still the ones to map. */
  async bind(range: DriverRange): Promise<0 | Errno> {
    const held = await this.svm.notifierLock.read();
    const valid = this.svm.rangePagesValid(range);
    if (valid) {
      const addrs = range.pages.dmaAddr!;
      for (let j = 0, a = range.start; a < range.end; j++) {
        for (let k = 0; k < 2 ** addrs.order(j); k++, a += PAGE) {
          this.gpuPt.set(a / PAGE, { addr: addrs.addr[j] + k * PAGE, proto: addrs.proto(j) });
        }
      }
      range.bound = true;
    }
    held.release();
    return valid ? 0 : EAGAIN;
  }

  async #invalidate(notifier: GpuSvmNotifier<DriverRange>, mmuRange: MmuNotifierRange): Promise<void> {
    const { start, end, event } = mmuRange;
    this.invalidations.push(mmuRange);
    for (const range of notifier.forEachRange(start, end)) this.#unbind(range);
    await this.machine.phys.sched.point("test:invalidate:zapped");
    for (const range of notifier.forEachRange(start, end)) {
      await this.svm.rangeUnmapPages(range, IN_NOTIFIER);
      if (event !== MMU_NOTIFY_UNMAP) continue;
      this.svm.rangeSetUnmapped(range, mmuRange);
      this.garbage.add(range);
    }
  }

  /** Removes dead ranges. The driver's lock is held. */
  async collect(): Promise<void> {
    for (const range of this.garbage) {
      this.garbage.delete(range);
      await this.#remove(range);
    }
  }

  async #remove(range: DriverRange): Promise<void> {
    this.#unbind(range);
    await this.svm.rangeRemove(range);
  }

  #unbind(range: DriverRange): void {
    for (let a = range.start; a < range.end; a += PAGE) this.gpuPt.delete(a / PAGE);
    range.bound = false;
  }

  /** Where the GPU finds the byte, or null for a fault. */
  #translate(addr: number): { memory: Uint8Array; at: number } | null {
    const entry = this.gpuPt.get(Math.floor(addr / PAGE));
    if (entry === undefined) return null;
    const memory = entry.proto === DRM_INTERCONNECT_SYSTEM ? this.machine.phys.ram : this.machine.vram.memory;
    return { memory, at: entry.addr + (addr % PAGE) };
  }

  /** A byte as the GPU reads it, serving faults. */
  async gpuRead(addr: number): Promise<number> {
    for (;;) {
      const place = this.#translate(addr);
      if (place !== null) return place.memory[place.at];
      const err = await this.fault(addr);
      if (err !== 0) throw new Error(`GPU fault at ${addr}: ${err}`);
    }
  }

  async gpuWrite(addr: number, value: number): Promise<void> {
    for (;;) {
      const place = this.#translate(addr);
      if (place !== null) {
        place.memory[place.at] = value;
        return;
      }
      const err = await this.fault(addr);
      if (err !== 0) throw new Error(`GPU fault at ${addr}: ${err}`);
    }
  }

  rangeAt(addr: number): DriverRange | null {
    return this.svm.notifierFind(addr, addr + 1)?.rangeFind(addr, addr + 1) ?? null;
  }

  *ranges(): Generator<DriverRange> {
    for (const notifier of this.svm.forEachNotifier(0, Number.MAX_SAFE_INTEGER))
      yield* notifier.forEachRange(0, Number.MAX_SAFE_INTEGER);
  }

  /**
   * What must hold at any moment at which no callback is running: the mappings and the GPU's entries name exactly the
   * pages that the CPU has there now (I7, I8, I11, I13 to I16, I18, I20).
   */
  checkInvariants(): void {
    const { svm } = this;
    for (const notifier of svm.forEachNotifier(0, Number.MAX_SAFE_INTEGER)) {
      let end = notifier.start;
      for (const range of notifier.forEachRange(0, Number.MAX_SAFE_INTEGER)) {
        expect(range.start).toBeGreaterThanOrEqual(end);
        expect(range.end).toBeLessThanOrEqual(notifier.end);
        end = range.end;
      }
    }
    if (svm.notifierLock.isWriteHeld) return;
    const bound = new Set<number>();
    for (const range of this.ranges()) {
      const pages = range.pagesIfAny;
      expect(pages !== null && pages.dpagemap !== null).toBe(range.hasDevmemPages);
      expect(range.unmapped && range.hasDmaMapping, "a dead range is mapped").toBe(false);
      if (range.bound) expect(range.hasDmaMapping, "the GPU has entries of a range without mappings").toBe(true);
      if (pages === null || !range.hasDmaMapping) continue;
      this.#checkMapping(range, pages, bound);
    }
    for (const vpn of this.gpuPt.keys()) expect(bound.has(vpn), "a GPU entry of no valid range").toBe(true);
    // Everything live belongs to a range; what is being mapped right now has no await before its flags are set.
    let entries = 0;
    for (const range of this.ranges()) {
      const addrs = range.pagesIfAny?.dmaAddr;
      if (!range.hasDmaMapping || addrs == null) continue;
      for (let j = 0; j < addrs.count; j++) if (addrs.proto(j) === DRM_INTERCONNECT_SYSTEM) entries += 1;
    }
    expect([...this.dma.live.values()].reduce((a, b) => a + b, 0)).toBe(entries);
  }

  #checkMapping(range: DriverRange, pages: GpuSvmPages, bound: Set<number>): void {
    const { mm, vram } = this.machine;
    const addrs = pages.dmaAddr!;
    let a = range.start;
    for (let j = 0; j < addrs.count; j++) {
      for (let k = 0; k < 2 ** addrs.order(j); k++, a += PAGE) {
        const { kind, pfn } = mm.pageAt(a);
        const addr = addrs.addr[j] + k * PAGE;
        if (addrs.proto(j) === DRM_INTERCONNECT_SYSTEM) expect([kind, pfn * PAGE]).toEqual(["present", addr]);
        else expect([kind, (pfn - vram.pagemap.firstPfn) * PAGE]).toEqual(["device-private", addr]);
        if (range.bound) {
          expect(this.gpuPt.get(a / PAGE)?.addr).toBe(addr);
          bound.add(a / PAGE);
        }
      }
    }
    expect(a).toBe(range.end);
  }

  /** Tears down as at VM close, and checks that nothing of it is left. */
  async close(): Promise<void> {
    const guard = await this.lock.write();
    this.gpuPt.clear();
    await this.svm.fini();
    guard.release();
    expect(this.svm.notifierCount).toBe(0);
    expect(this.rangesAlive.size, "ranges are left").toBe(0);
    expect(this.dma.live.size, "DMA mappings are left").toBe(0);
  }
}

export const IN_NOTIFIER = gpuSvmCtx({ inNotifier: true });
