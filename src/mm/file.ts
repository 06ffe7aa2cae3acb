import { assert } from "../base/assert.ts";
import { PAGE_SIZE, type Pfn, alignDown, alignUp } from "../base/addr.ts";
import { EINVAL, ENOMEM, EPERM, type Errno } from "../base/errno.ts";
import { Mutex } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { unmapMapping } from "./file-unmap.ts";
import { PG_DEVICE_WRITTEN, PG_FILE, PG_LRU, PG_SLOT } from "./frame-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Steps, run, wait } from "./steps.ts";
import type { Vma } from "./vma.ts";

export interface MemFileOptions {
  /** Bytes; they read as zeros. */
  readonly size: number;
  readonly name?: string;
  /** Refuses changes and shared mappings that could be written. @kernel F_SEAL_WRITE */
  readonly readOnly?: boolean;
}

/**
 * A file that lives in RAM. Its bytes are the frames of its page cache; areas that map it have those very frames in
 * their page tables, so a store through a shared mapping, a `write` and the GPU's stores all reach the same bytes.
 *
 *     #cache     page number in the file -> frame. Each holds one reference of its frame, which is PG_FILE. A page that
 *                is missing reads as zeros; whoever has to map it or to write it makes it.
 *     #areas     who maps it, in any mm
 *
 * The frames go when the file is closed and no area maps it any more. Shared anonymous memory is a file that is closed
 * from the start.
 *
 * Locking. One change of the file at a time, under a lock that is outside of every mmap lock. Faults take none: they look
 * at the size and the cache and map the page between two awaits. So what a change takes away is first put out of their
 * reach, then announced, unmapped, and only then dropped.
 * @kernel address_space, shmem
 */
export class MemFile {
  readonly phys: PhysMemory;
  readonly name: string;
  readonly readOnly: boolean;
  #size: number;
  /** While a truncation unmaps what it takes away; else 0. */
  #sizeBefore = 0;
  /** Whoever made it, until it closes it, and who holds it besides. */
  #users = 1;
  #open = true;
  readonly #cache = new Map<number, Pfn>();
  readonly #areas = new Set<Vma>();
  /** @kernel i_rwsem */
  readonly #lock: Mutex;

  constructor(phys: PhysMemory, options: MemFileOptions) {
    assert(isOffset(options.size), "the size of a file is a whole number of bytes");
    this.phys = phys;
    this.name = options.name ?? "";
    this.readOnly = options.readOnly ?? false;
    this.#size = options.size;
    this.#lock = new Mutex(`file ${this.name}`, "file");
  }

  /** Bytes. @kernel i_size_read */
  get size(): number {
    return this.#size;
  }
  get isOpen(): boolean {
    return this.#open;
  }
  /** Number of areas that map some of it. @kernel mapping_mapped */
  get mapped(): number {
    return this.#areas.size;
  }
  /** Bytes whose pages may be mapped: while a truncation takes pages away, the size before it. */
  get mappedSize(): number {
    return Math.max(this.#size, this.#sizeBefore);
  }
  /** Number of its pages that are in RAM. @kernel nrpages */
  get cachedPages(): number {
    return this.#cache.size;
  }

  /** A copy of `[offset, offset + length)`, cut at the end of the file. @kernel read */
  read(offset: number, length: number): MaybePromise<Uint8Array | Errno> {
    return run(this.#read(offset, length));
  }

  *#read(offset: number, length: number): Steps<Uint8Array | Errno> {
    if (!isOffset(offset) || !isOffset(length)) return EINVAL;
    yield* this.#syncForCpu(offset, Math.min(offset + length, this.#size));
    const end = Math.min(offset + length, this.#size);
    const bytes = new Uint8Array(Math.max(0, end - offset));
    for (let at = offset; at < end;) {
      const next = Math.min(end, alignDown(at, PAGE_SIZE) + PAGE_SIZE);
      const from = this.#ramOffset(at);
      if (from >= 0) bytes.set(this.phys.ram.subarray(from, from + (next - at)), at - offset);
      at = next;
    }
    return bytes;
  }

  /**
   * Stores `data` at `offset`; the file grows if need be. The number of bytes; -EINVAL, -EPERM (read-only) or -ENOMEM,
   * and then nothing is stored. @kernel write
   */
  write(offset: number, data: Uint8Array): MaybePromise<number | Errno> {
    return run(this.#locked(this.#write(offset, data)));
  }

  *#write(offset: number, data: Uint8Array): Steps<number | Errno> {
    const end = offset + data.length;
    if (!isOffset(offset) || !isOffset(end)) return EINVAL;
    if (this.readOnly) return EPERM;
    // The last page's bytes beyond the end may have been stored to through a mapping; they are not the file's.
    if (offset > this.#size) yield* this.#zero(this.#size, alignUp(this.#size, PAGE_SIZE));
    yield* this.#syncForCpu(offset, end);
    if (!this.#makePages(offset, end)) return ENOMEM;
    for (let at = offset; at < end;) {
      const next = Math.min(end, alignDown(at, PAGE_SIZE) + PAGE_SIZE);
      this.phys.ram.set(data.subarray(at - offset, next - offset), this.#ramOffset(at));
      this.#changed(at);
      at = next;
    }
    this.#size = Math.max(this.#size, end);
    return data.length;
  }

  /**
   * Sets the size. Pages beyond it leave every address space that maps them, announced as CLEAR there, private copies
   * too; an access to them is a bus error from now on. 0, -EINVAL or -EPERM (read-only). @kernel ftruncate, truncate_setsize
   */
  truncate(size: number): MaybePromise<0 | Errno> {
    return run(this.#locked(this.#truncate(size)));
  }

  *#truncate(size: number): Steps<0 | Errno> {
    if (!isOffset(size)) return EINVAL;
    if (this.readOnly) return EPERM;
    yield* wait(this.phys.sched.point("mm:truncate"));
    const old = this.#size;
    // First, so that no fault brings back what is unmapped next.
    this.#size = size;
    if (size >= old) {
      yield* this.#zero(old, Math.min(size, alignUp(old, PAGE_SIZE)));
      return 0;
    }
    this.#sizeBefore = old;
    yield* unmapMapping(this, alignUp(size, PAGE_SIZE), Infinity, "all");
    this.#sizeBefore = 0;
    this.#dropPages(alignUp(size, PAGE_SIZE) / PAGE_SIZE, Infinity);
    yield* this.#zero(size, alignUp(size, PAGE_SIZE));
    return 0;
  }

  /**
   * Zeroes `[offset, offset + length)` and gives the frames of whole pages back, announced as CLEAR in every address
   * space that maps them; private copies stay. 0, -EINVAL or -EPERM. @kernel fallocate FALLOC_FL_PUNCH_HOLE
   */
  punchHole(offset: number, length: number): MaybePromise<0 | Errno> {
    return run(this.#locked(this.#punchHole(offset, length)));
  }

  *#punchHole(offset: number, length: number): Steps<0 | Errno> {
    const end = offset + length;
    if (!isOffset(offset) || !isOffset(end) || length <= 0) return EINVAL;
    if (this.readOnly) return EPERM;
    yield* wait(this.phys.sched.point("mm:punch-hole"));
    const first = alignUp(offset, PAGE_SIZE);
    const last = alignDown(end, PAGE_SIZE);
    if (first > last) {
      yield* this.#zero(offset, end);
      return 0;
    }
    // None between the two ends of a hole over a page border.
    if (first < last) {
      yield* unmapMapping(this, first, last, "cached");
      this.#dropPages(first / PAGE_SIZE, last / PAGE_SIZE);
    }
    yield* this.#zero(offset, first);
    yield* this.#zero(last, end);
    return 0;
  }

  *#locked<T>(change: Steps<T>): Steps<T> {
    const guard = yield* wait(this.#lock.lock());
    const result = yield* change;
    guard.release();
    return result;
  }

  /** Nobody can map it any more; its frames go with the last area that does. @kernel close */
  close(): void {
    assert(this.#open, "a file was closed twice");
    this.#open = false;
    this.release();
  }

  /** Keeps its bytes until `release`. @kernel get_file */
  hold(): void {
    this.#users += 1;
  }

  /** @kernel fput */
  release(): void {
    assert(this.#users > 0, "a file was released more often than held");
    this.#users -= 1;
    this.#dropIfUnused();
  }

  // For areas and faults

  /** An area maps it, from now on. @kernel vma_link_file */
  attach(vma: Vma): void {
    assert(this.#users > 0 || this.#areas.size > 0, "a file is mapped after its end");
    this.#areas.add(vma);
  }

  /** @kernel unlink_file_vma */
  detach(vma: Vma): void {
    const was = this.#areas.delete(vma);
    assert(was, "an area leaves a file that it does not map");
    this.#dropIfUnused();
  }

  /** The areas that map it now. @kernel i_mmap */
  get areas(): ReadonlySet<Vma> {
    return this.#areas;
  }

  /** The frame of page `index` of the file, or 0 where it has none. @kernel filemap_get_folio */
  cachedPage(index: number): Pfn {
    return this.#cache.get(index) ?? 0;
  }

  /** As `cachedPage`, making the page; -ENOMEM. The caller takes a reference of its own. @kernel shmem_get_folio */
  page(index: number): Pfn | Errno {
    const cached = this.#cache.get(index);
    if (cached !== undefined) return cached;
    const pfn = this.phys.allocZeroedPage();
    if (pfn > 0) this.#add(index, pfn);
    return pfn;
  }

  #add(index: number, pfn: Pfn): void {
    this.#cache.set(index, pfn);
    this.phys.frames.flags[pfn]! |= PG_FILE | PG_LRU;
  }

  /** Makes the missing pages of `[offset, end)`, which is about to be overwritten; all of them or none. */
  #makePages(offset: number, end: number): boolean {
    const made: number[] = [];
    this.phys.wantRun((alignUp(end, PAGE_SIZE) - alignDown(offset, PAGE_SIZE)) / PAGE_SIZE);
    for (let at = alignDown(offset, PAGE_SIZE); at < end; at += PAGE_SIZE) {
      const index = at / PAGE_SIZE;
      if (this.#cache.has(index)) continue;
      const isWhole = at >= offset && at + PAGE_SIZE <= end;
      const pfn = isWhole ? this.phys.allocPage() : this.phys.allocZeroedPage();
      if (pfn < 0) {
        for (const back of made) this.#drop(back, this.#cache.get(back)!);
        return false;
      }
      this.#add(index, pfn);
      made.push(index);
    }
    return true;
  }

  /** Zeroes what is in RAM of `[offset, end)`, which lies in one page. */
  *#zero(offset: number, end: number): Steps<void> {
    if (offset >= end) return;
    yield* this.#syncForCpu(offset, end);
    const at = this.#ramOffset(offset);
    if (at < 0) return;
    this.phys.ram.fill(0, at, at + (end - offset));
    this.#changed(offset);
  }

  /** Offset in RAM of the file's byte `at`, or -1 where it has no page. */
  #ramOffset(at: number): number {
    const pfn = this.#cache.get(Math.floor(at / PAGE_SIZE));
    return pfn === undefined ? -1 : pfn * PAGE_SIZE + (at % PAGE_SIZE);
  }

  /** The page of byte `at` was stored to: what devices have of it is out of date. */
  #changed(at: number): void {
    const pfn = this.#cache.get(Math.floor(at / PAGE_SIZE))!;
    if ((this.phys.frames.flags[pfn]! & PG_SLOT) !== 0) this.phys.slotsBecomeStale(pfn, null);
  }

  /** Returns when RAM has the newest bytes of `[offset, end)`. */
  *#syncForCpu(offset: number, end: number): Steps<void> {
    for (;;) {
      const waits: Promise<void>[] = [];
      for (let at = alignDown(offset, PAGE_SIZE); at < end; at += PAGE_SIZE) {
        const pfn = this.cachedPage(at / PAGE_SIZE);
        if (pfn === 0 || (this.phys.frames.flags[pfn]! & PG_DEVICE_WRITTEN) === 0) continue;
        const home = this.phys.syncForCpu(pfn);
        if (home !== undefined) waits.push(home);
      }
      if (waits.length === 0) return;
      yield Promise.all(waits);
    }
  }

  /** Pages `[first, end)` leave the cache. @kernel truncate_inode_pages_range */
  #dropPages(first: number, end: number): void {
    if (end - first > this.#cache.size) {
      for (const [index, pfn] of this.#cache) if (index >= first && index < end) this.#drop(index, pfn);
    } else {
      for (let index = first; index < end; index++) {
        const pfn = this.#cache.get(index);
        if (pfn !== undefined) this.#drop(index, pfn);
      }
    }
  }

  #drop(index: number, pfn: Pfn): void {
    this.#cache.delete(index);
    this.phys.frames.flags[pfn]! &= ~PG_FILE;
    this.phys.putPage(pfn);
  }

  #dropIfUnused(): void {
    if (this.#users === 0 && this.#areas.size === 0) this.#dropPages(0, Infinity);
  }
}

function isOffset(x: number): boolean {
  return Number.isSafeInteger(x) && x >= 0;
}
