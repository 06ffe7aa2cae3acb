import { expect } from "vitest";
import { AccessFault } from "../../src/mm/access.ts";
import type { Mm } from "../../src/mm/mm.ts";
import { PhysMemory } from "../../src/mm/phys-mem.ts";
import { Scheduler } from "../../src/base/scheduler.ts";
import {
  type DevPagemap,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
  type MigrateVma,
  type MmuIntervalNotifier,
  type MmuNotifierRange,
  VM_FAULT_SIGBUS,
  type VmFault,
  migratePfn,
  migratePfnToPage,
} from "../../src/mm/types.ts";
import { IntervalTreeNode } from "../../src/base/interval-tree.ts";

export const PAGE = 4096;
export const MB = 1 << 20;

export function testScheduler(): Scheduler {
  return new Scheduler({
    turn: () => new Promise((resume) => setImmediate(resume)),
    now: () => 0,
    sleep: () => new Promise((resume) => setImmediate(resume)),
  });
}

export function testPhys(ramPages = 2048): PhysMemory {
  const ram = new Uint8Array(new SharedArrayBuffer(ramPages * PAGE));
  return new PhysMemory({ ram, sched: testScheduler(), poisonFreed: true });
}

/** The bytes of a read that must succeed. */
export async function readOk(mm: Mm, addr: number, length: number): Promise<Uint8Array> {
  const bytes = await mm.read(addr, length);
  if (bytes instanceof AccessFault) throw new Error(`${bytes.code} at ${bytes.addr}`);
  return bytes;
}

export async function mmapOk(mm: Mm, length: number, options: Parameters<Mm["mmap"]>[1] = {}): Promise<number> {
  const addr = await mm.mmap(length, options);
  expect(addr).toBeGreaterThanOrEqual(0);
  return addr;
}

/** `length` bytes that differ from page to page and from seed to seed. */
export function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + Math.floor(i / PAGE) * 7 + seed * 101) & 255;
  return bytes;
}

/** Equality of bytes; the comparison of the test runner takes seconds for a megabyte. */
export function expectBytes(actual: unknown, expected: Uint8Array): void {
  expect(actual).toBeInstanceOf(Uint8Array);
  const bytes = actual as Uint8Array;
  expect(bytes.length).toBe(expected.length);
  const at = bytes.findIndex((byte, i) => byte !== expected[i]);
  if (at >= 0) expect.fail(`byte ${at} is ${bytes[at]}, not ${expected[at]}`);
}

/** Records the announcements it gets; `check` runs inside each, before the change. */
export class RecordingNotifier extends IntervalTreeNode implements MmuIntervalNotifier {
  invalidateSeq = 0;
  readonly events: MmuNotifierRange[] = [];
  readonly #mm: Mm;
  check: ((range: MmuNotifierRange) => void | Promise<void>) | null = null;

  constructor(mm: Mm, start: number, end: number) {
    super(start, end - 1);
    this.#mm = mm;
  }

  invalidate(range: MmuNotifierRange, curSeq: number): boolean | Promise<boolean> {
    this.#mm.setSeq(this, curSeq);
    this.events.push(range);
    const checked = this.check?.(range);
    return checked instanceof Promise ? checked.then(() => true) : true;
  }

  /** Events as `[event, start, end]`, then forgotten. */
  take(): [number, number, number][] {
    return this.events.splice(0).map((e) => [e.event, e.start, e.end]);
  }
}

/** A device whose memory is a plain array: frame `i` of its run is page `i`. */
export class FakeDevice {
  readonly phys: PhysMemory;
  readonly memory: Uint8Array;
  readonly pgmap: DevPagemap;
  readonly freed: number[] = [];
  readonly #free: number[];
  /** Set to make the next CPU fault's copy fail. */
  failCopyToRam = false;
  /** Awaited between setup and pages. */
  duringMigration: (() => void | Promise<void>) | null = null;

  constructor(phys: PhysMemory, npages = 1024) {
    this.phys = phys;
    this.memory = new Uint8Array(npages * PAGE);
    this.#free = Array.from({ length: npages }, (_, i) => npages - 1 - i);
    this.pgmap = {
      type: "private",
      firstPfn: 0,
      npages,
      owner: this,
      ops: {
        folioFree: (pfn) => {
          expect(phys.zoneDeviceData(pfn)).toBe(this);
          this.freed.push(pfn);
          this.#free.push(pfn - this.pgmap.firstPfn);
        },
        migrateToRam: (vmf) => this.#migrateToRam(vmf),
      },
    };
    phys.addPagemap(this.pgmap);
  }

  get freePages(): number {
    return this.#free.length;
  }

  allocate(): number {
    const page = this.#free.pop()!;
    this.memory.fill(0, page * PAGE, (page + 1) * PAGE);
    return this.pgmap.firstPfn + page;
  }

  /** Bytes of a device frame. */
  bytesOf(pfn: number): Uint8Array {
    const page = pfn - this.pgmap.firstPfn;
    return this.memory.subarray(page * PAGE, (page + 1) * PAGE);
  }

  frame(pfn: number): Uint8Array {
    return this.phys.ram.subarray(pfn * PAGE, (pfn + 1) * PAGE);
  }

  /** Moves `[start, end)` here if it lies in one area; the number of pages that moved. */
  async migrate(mm: Mm, start: number, end: number): Promise<number> {
    const guard = await mm.mmapLock.read();
    const vma = mm.vmaLookup(start);
    if (vma === null || end > vma.end) {
      guard.release();
      return 0;
    }
    const m = migration(mm, start, end, MIGRATE_VMA_SELECT_SYSTEM, this);
    expect(await mm.migrateVmaSetup(m)).toBe(0);
    if (this.duringMigration !== null) await this.duringMigration();
    await mm.sched.point("test:migrate");
    for (let i = 0; i < m.src.length; i++) {
      if ((m.src[i]! & MIGRATE_PFN_MIGRATE) === 0) continue;
      const pfn = this.allocate();
      this.phys.zoneDevicePageInit(pfn, this);
      const from = migratePfnToPage(m.src[i]!);
      if (from >= 0) this.bytesOf(pfn).set(this.frame(from));
      m.dst[i] = migratePfn(pfn);
    }
    await mm.sched.point("test:migrate:copied");
    await mm.migrateVmaPages(m);
    await mm.sched.point("test:migrate:pages");
    const moved = m.src.filter((word) => (word & MIGRATE_PFN_MIGRATE) !== 0).length;
    mm.migrateVmaFinalize(m);
    guard.release();
    return moved;
  }

  /** Moves the frames to RAM without knowing who maps them; the number that moved. */
  async evict(pfns: readonly number[]): Promise<number> {
    const src = Uint32Array.from(pfns);
    const dst = new Uint32Array(src.length);
    await this.phys.migrateDevicePfns(src);
    await this.phys.sched.point("test:evict");
    this.#copyToRam(src, dst);
    await this.phys.sched.point("test:evict:copied");
    this.phys.migrateDevicePages(src, dst);
    const moved = src.filter((word) => (word & MIGRATE_PFN_MIGRATE) !== 0).length;
    this.phys.migrateDeviceFinalize(src, dst);
    return moved;
  }

  async #migrateToRam(vmf: VmFault): Promise<0 | typeof VM_FAULT_SIGBUS> {
    const { vma, address } = vmf;
    const mm = vmf.mm as Mm;
    const start = Math.max(vma.start, Math.floor(address / (2 * MB)) * 2 * MB);
    const end = Math.min(vma.end, start + 2 * MB);
    const m = migration(mm, start, end, MIGRATE_VMA_SELECT_DEVICE_PRIVATE, this, vmf.pfn);
    expect(await mm.migrateVmaSetup(m)).toBe(0);
    if (m.cpages === 0) return 0;
    await mm.sched.point("test:home");
    const fail = this.failCopyToRam;
    if (!fail) this.#copyToRam(m.src, m.dst);
    await mm.sched.point("test:home:copied");
    await mm.migrateVmaPages(m);
    mm.migrateVmaFinalize(m);
    return fail ? VM_FAULT_SIGBUS : 0;
  }

  #copyToRam(src: Uint32Array, dst: Uint32Array): void {
    for (let i = 0; i < src.length; i++) {
      const from = migratePfnToPage(src[i]!);
      if (from < 0) continue;
      const pfn = this.phys.allocPage();
      expect(pfn).toBeGreaterThan(0);
      expect(this.phys.tryLockPage(pfn)).toBe(true);
      this.frame(pfn).set(this.bytesOf(from));
      dst[i] = migratePfn(pfn);
    }
  }
}

export function migration(
  mm: Mm,
  start: number,
  end: number,
  flags: number,
  owner: unknown,
  faultPage = -1,
): MigrateVma {
  const npages = (end - start) / PAGE;
  return {
    vma: mm.vmaLookup(start)!,
    start,
    end,
    src: new Uint32Array(npages),
    dst: new Uint32Array(npages),
    flags,
    pgmapOwner: owner,
    faultPage,
    cpages: 0,
  };
}
