/** A device whose memory is a plain array, and a driver's buffers in it: what the tests of pagemap and gpusvm move pages to. */
import { expect } from "vitest";
import { EIO, type Errno } from "../../src/base/errno.ts";
import type { MaybePromise } from "../../src/base/maybe-promise.ts";
import { newActivity } from "../../src/base/lock-order.ts";
import { Scheduler } from "../../src/base/scheduler.ts";
import { AccessFault } from "../../src/mm/access.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { PhysMemory } from "../../src/mm/phys-mem.ts";
import type { DevPagemap } from "../../src/mm/types.ts";
import { DrmPagemapDevmem, type DrmPagemapDevmemOps } from "../../src/pagemap/devmem.ts";
import { type DrmPagemapMigrateDetails, drmPagemapMigrateToDevmem } from "../../src/pagemap/migrate-to-devmem.ts";
import { drmPagemapPagemapOpsGet } from "../../src/pagemap/migrate-to-ram.ts";
import { DrmPagemap, type DrmPagemapDevice } from "../../src/pagemap/pagemap.ts";

export const PAGE = 4096;
export const KB64 = 65536;
export const MB2 = 2 << 20;
/** What freed device memory reads as: a page shown to a process before it was written or zeroed would show it. */
export const STALE = 0xab;

/** A scheduler whose clock stands at `time` unless a sleep moves it. */
export class TestClock {
  time = 0;
  readonly scheduler = new Scheduler({
    turn: () => new Promise((resume) => setImmediate(resume)),
    now: () => this.time,
    sleep: (ms) => {
      this.time += ms;
      return new Promise((resume) => setImmediate(resume));
    },
  });
}

/** What a peer's device uses to reach a page of this memory: its frame number times 4096, on a bus of its own. */
export const PROTO_PEER = 2;
const PROTO_LOCAL = 1;

/** The device behind each run of frames, as the bus between them knows it. */
const onTheBus = new WeakMap<DevPagemap, ArrayVram>();

/** One buffer of the driver; `freed` when the last reference, its own or the pages', is gone. */
export class Bo extends DrmPagemapDevmem {
  readonly vram: ArrayVram;
  /** Page number of the first page in the device's memory. */
  readonly firstPage: number;
  refs = 1;

  constructor(vram: ArrayVram, mm: Mm, firstPage: number, size: number) {
    super({ mm, ops: vram.ops, dpagemap: vram.dpagemap, size });
    this.vram = vram;
    this.firstPage = firstPage;
  }

  put(): void {
    expect(this.refs).toBeGreaterThan(0);
    this.refs -= 1;
    if (this.refs === 0) this.vram.free(this);
  }
}

export class ArrayVram {
  readonly phys: PhysMemory;
  readonly memory: Uint8Array;
  readonly pagemap: DevPagemap;
  readonly dpagemap: DrmPagemap;
  readonly live = new Set<Bo>();
  /** Calls so far. */
  releases = 0;
  copiesIn = 0;
  copiesOut = 0;
  destroyed = 0;
  /** Pages of this memory that are mapped for a peer now. */
  peerMappings = 0;
  /** Buffers of 2 MiB begin anywhere. */
  unaligned = false;
  /** Maps for a peer fail. */
  refusePeers = false;
  /** Fences that the copies were given, in order. */
  readonly fences: unknown[] = [];
  /** Error of the next call of each, then 0 again. */
  failPopulate: Errno | 0 = 0;
  failCopyToDevmem: Errno | 0 = 0;
  failCopyToRam: Errno | 0 = 0;
  /** Runs inside the copy, before a byte is moved. */
  /** What others do meanwhile: an activity of its own. */
  duringCopyToDevmem: (() => void | Promise<void>) | null = null;
  duringCopyToRam: (() => void | Promise<void>) | null = null;
  /** Page 0 is never handed out: address 0 means none. */
  #next = 1;

  constructor(phys: PhysMemory, npages = 4096, options: { owner?: unknown; device?: DrmPagemapDevice } = {}) {
    this.phys = phys;
    this.memory = new Uint8Array(npages * PAGE).fill(STALE);
    const ops = drmPagemapPagemapOpsGet(phys);
    this.pagemap = { type: "private", firstPfn: 0, npages, owner: options.owner ?? this, ops };
    phys.addPagemap(this.pagemap);
    onTheBus.set(this.pagemap, this);
    this.dpagemap = new DrmPagemap({
      pagemap: this.pagemap,
      drm: this,
      ...(options.device === undefined ? {} : { device: options.device }),
      scheduler: phys.sched,
      ops: {
        deviceMap: (dpagemap, dev, pfn, order, dir, out) => {
          const isPeer = dev instanceof ArrayVram && dev !== this;
          if (isPeer && this.refusePeers) return EIO;
          if (isPeer) this.peerMappings += 1;
          const addr = isPeer ? pfn * PAGE : (pfn - dpagemap.pagemap.firstPfn) * PAGE;
          out.push(addr, isPeer ? PROTO_PEER : PROTO_LOCAL, order, dir);
          return 0;
        },
        deviceUnmap: (_dpagemap, _dev, addrs, index) => {
          if (addrs.proto(index) === PROTO_PEER) this.peerMappings -= 1;
        },
        populateMm: (_dpagemap, start, end, mm, timesliceMs) => this.migrate(mm as Mm, start, end, timesliceMs),
        destroy: () => {
          this.destroyed += 1;
        },
      },
    });
  }

  readonly ops: DrmPagemapDevmemOps = {
    devmemRelease: (devmem) => {
      this.releases += 1;
      (devmem as Bo).put();
    },
    populateDevmemPfn: (devmem, npages, pfns) => {
      const err = this.failPopulate;
      this.failPopulate = 0;
      for (let i = 0; i < npages; i++) pfns[i] = this.pagemap.firstPfn + (devmem as Bo).firstPage + i;
      return err;
    },
    copyToDevmem: (_devmem, pages, addrs, npages, fence, protos) => {
      this.copiesIn += 1;
      this.fences.push(fence);
      const wait = this.duringCopyToDevmem === null ? null : newActivity(this.duringCopyToDevmem);
      const copy = () => this.#copyIn(pages, addrs, npages, protos);
      return wait instanceof Promise ? wait.then(copy) : copy();
    },
    copyToRam: (_devmem, pages, addrs, npages, fence, protos) => {
      this.copiesOut += 1;
      this.fences.push(fence);
      const wait = this.duringCopyToRam === null ? null : newActivity(this.duringCopyToRam);
      const copy = () => this.#copyOut(pages, addrs, npages, protos);
      return wait instanceof Promise ? wait.then(copy) : copy();
    },
  };

  #copyIn(pages: Uint32Array, addrs: Float64Array, npages: number, protos: Uint32Array | null): 0 | Errno {
    const err = this.failCopyToDevmem;
    this.failCopyToDevmem = 0;
    if (err !== 0) return err;
    for (let i = 0; i < npages; i++) {
      if (pages[i] === 0) continue;
      const page = this.bytesOf(pages[i]);
      if (addrs[i] === 0) page.fill(0);
      else page.set(this.#otherEnd(addrs[i], protos?.[i] ?? 0));
    }
    return 0;
  }

  #copyOut(pages: Uint32Array, addrs: Float64Array, npages: number, protos: Uint32Array | null): 0 | Errno {
    const err = this.failCopyToRam;
    this.failCopyToRam = 0;
    if (err !== 0) return err;
    for (let i = 0; i < npages; i++) {
      if (pages[i] !== 0 && addrs[i] !== 0) this.#otherEnd(addrs[i], protos?.[i] ?? 0).set(this.bytesOf(pages[i]));
    }
    return 0;
  }

  /** The page behind an address of a copy. */
  #otherEnd(addr: number, proto: number): Uint8Array {
    if (proto === 0) return this.phys.ram.subarray(addr, addr + PAGE);
    if (proto === PROTO_LOCAL) return this.memory.subarray(addr, addr + PAGE);
    const pfn = addr / PAGE;
    return onTheBus.get(this.phys.pgmapOf(pfn))!.bytesOf(pfn);
  }

  /** Bytes of a device frame. */
  bytesOf(pfn: number): Uint8Array {
    const page = pfn - this.pagemap.firstPfn;
    return this.memory.subarray(page * PAGE, (page + 1) * PAGE);
  }

  /** A buffer with one reference, the caller's. Pages are reused as late as possible, so that a stale one shows. */
  alloc(mm: Mm, size: number): Bo {
    const npages = size / PAGE;
    const overlaps = (page: number) =>
      [...this.live].some((bo) => bo.firstPage < page + npages && page < bo.firstPage + bo.size / PAGE);
    // As a buddy allocator does: 2 MiB begin at a multiple of 2 MiB, unless a test wants them elsewhere.
    const align = npages === 512 && !this.unaligned ? 512 : 1;
    let page = Math.ceil(this.#next / align) * align;
    for (let tries = 0; page + npages > this.pagemap.npages || overlaps(page); tries++) {
      expect(tries, "the device's memory is used up").toBeLessThan(this.pagemap.npages);
      page = page + npages > this.pagemap.npages ? align : page + align;
    }
    this.#next = page + npages;
    const bo = new Bo(this, mm, page, size);
    this.live.add(bo);
    return bo;
  }

  free(bo: Bo): void {
    for (let i = 0; i < bo.size / PAGE; i++) {
      const pfn = this.pagemap.firstPfn + bo.firstPage + i;
      expect(this.phys.refcount(pfn), "a device page outlived its buffer").toBe(0);
    }
    this.memory.fill(STALE, bo.firstPage * PAGE, bo.firstPage * PAGE + bo.size);
    this.live.delete(bo);
  }

  /** As a driver's populate_mm: the migration gets the buffer's only reference. The mmap lock is held. */
  migrate(
    mm: Mm,
    start: number,
    end: number,
    timesliceMs = 0,
    size = end - start,
    details: Partial<DrmPagemapMigrateDetails> = {},
  ): MaybePromise<0 | Errno> {
    return drmPagemapMigrateToDevmem(this.alloc(mm, size), mm, start, end, { timesliceMs, ...details });
  }

  /** The same with a buffer that the caller has made. */
  migrateBo(bo: Bo, start: number, end: number): MaybePromise<0 | Errno> {
    return drmPagemapMigrateToDevmem(bo, bo.mm, start, end, { timesliceMs: 0 });
  }
}

export interface Machine {
  readonly clock: TestClock;
  readonly phys: PhysMemory;
  readonly mm: Mm;
  readonly vram: ArrayVram;
}

export function machine(ramPages = 4096, vramPages = 4096): Machine {
  const clock = new TestClock();
  const ram = new Uint8Array(ramPages * PAGE);
  const phys = new PhysMemory({ ram, sched: clock.scheduler, poisonFreed: true });
  const mm = new Mm({ phys });
  return { clock, phys, mm, vram: new ArrayVram(phys, vramPages) };
}

/** Everything is given back: pages, buffers, references on the mm and the page map. The process ends. */
export async function expectBalanced({ phys, mm, vram }: Machine): Promise<void> {
  await phys.sched.settle();
  checkQuiescent(phys);
  await mm.exit();
  expect(mm.exited.isDone, "somebody still holds a user reference of the mm").toBe(true);
  expect(phys.mms, "somebody still holds the mm").toEqual([]);
  expect(phys.freePages, "RAM pages are lost").toBe(phys.ramPages - 2);
  expect(vram.live.size, "buffers are left").toBe(0);
  expect(vram.dpagemap.refcount, "references on the page map are left").toBe(1);
  checkQuiescent(phys);
}

/** A mapping with bytes that differ from page to page. */
export async function filled(mm: Mm, length: number, at?: number): Promise<{ start: number; bytes: Uint8Array }> {
  const start = await mm.mmap(length, at === undefined ? {} : { at });
  expect(start).toBeGreaterThan(0);
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i += 4) bytes[i] = (i / 4) % 251;
  for (let p = 0; p < length; p += PAGE) bytes[p + 1] = 1 + ((p / PAGE) % 255);
  expect(await mm.write(start, bytes)).toBeUndefined();
  return { start, bytes };
}

export async function readOk(mm: Mm, addr: number, length: number): Promise<Uint8Array> {
  const bytes = await mm.read(addr, length);
  if (bytes instanceof AccessFault) throw new Error(`${bytes.code} at ${bytes.addr}`);
  return bytes;
}

/** The comparison of the test runner takes seconds for a megabyte. */
export function expectBytes(actual: Uint8Array, expected: Uint8Array): void {
  expect(actual.length).toBe(expected.length);
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  if (at >= 0) expect.fail(`byte ${at} is ${actual[at]}, not ${expected[at]}`);
}

/** Kinds of the pages of an interval: how many of each. */
export function kinds(mm: Mm, start: number, end: number): Record<string, number> {
  const count: Record<string, number> = {};
  for (let a = start; a < end; a += PAGE) {
    const { kind } = mm.pageAt(a);
    count[kind] = (count[kind] ?? 0) + 1;
  }
  return count;
}

/** Runs a migration with the mmap lock held. */
export async function migrateIn(
  { mm, vram }: Machine,
  start: number,
  end: number,
  timesliceMs = 0,
): Promise<0 | Errno> {
  const guard = await mm.mmapLock.read();
  try {
    return await vram.migrate(mm, start, end, timesliceMs);
  } finally {
    guard.release();
  }
}
