/**
 * What the layers above see of the emulated CPU memory manager (spec/gpusvm.md section 2).
 *
 * `gpusvm` and `pagemap` are written against these interfaces alone, so that recorded kernel behaviour can be replayed
 * on a modelled process as well as on the real `mm`.
 */
import type { Errno } from "../base/errno.ts";
import type { IntervalTreeNode } from "../base/interval-tree.ts";
import type { RwSemaphore } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Pfn, Va } from "../base/addr.ts";

/** What changed in the CPU mapping. @kernel mmu_notifier_event */
export const MMU_NOTIFY_UNMAP = 0;
export const MMU_NOTIFY_CLEAR = 1;
export const MMU_NOTIFY_PROTECTION_VMA = 2;
export const MMU_NOTIFY_PROTECTION_PAGE = 3;
export const MMU_NOTIFY_SOFT_DIRTY = 4;
export const MMU_NOTIFY_RELEASE = 5;
export const MMU_NOTIFY_MIGRATE = 6;
export const MMU_NOTIFY_EXCLUSIVE = 7;

/** One announced change, `[start, end)` bytes. @kernel mmu_notifier_range */
export interface MmuNotifierRange {
  readonly start: Va;
  readonly end: Va;
  readonly event: number;
  /** Callbacks may wait. @kernel mmu_notifier_range_blockable */
  readonly blockable: boolean;
  /** `pgmap_owner` of the migration for MIGRATE and EXCLUSIVE, else null. */
  readonly owner: unknown;
}

/** An interval of an mm whose owner is told before its mapping changes. @kernel mmu_interval_notifier */
export interface MmuIntervalNotifier extends IntervalTreeNode {
  /** Last invalidation sequence that hit it, or the insertion's. @kernel invalidate_seq */
  invalidateSeq: number;
  /** @kernel mmu_interval_notifier_ops.invalidate. False refuses a non-blockable range. */
  invalidate(range: MmuNotifierRange, curSeq: number): MaybePromise<boolean>;
}

/** What an mm tells of a VMA. `[start, end)` bytes. @kernel vm_area_struct */
export interface VmaView {
  readonly start: Va;
  readonly end: Va;
  readonly readable: boolean;
  readonly writable: boolean;
  /** No vm_ops: private anonymous memory. @kernel vma_is_anonymous */
  readonly anonymous: boolean;
  readonly hugetlb: boolean;
  /** VM_IO or VM_PFNMAP. */
  readonly special: boolean;
}

/** Bits of `HmmRange.flags`. @kernel HMM_PFN_VALID, HMM_PFN_WRITE, HMM_PFN_ERROR */
export const HMM_PFN_VALID = 1;
export const HMM_PFN_WRITE = 2;
export const HMM_PFN_ERROR = 4;
/** Request bits alias the result bits. @kernel HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE */
export const HMM_PFN_REQ_FAULT = HMM_PFN_VALID;
export const HMM_PFN_REQ_WRITE = HMM_PFN_WRITE;
/** Retry budget of a look-up, milliseconds. @kernel HMM_RANGE_DEFAULT_TIMEOUT */
export const HMM_RANGE_DEFAULT_TIMEOUT = 1000;

/** A look-up of the CPU pages of `[start, end)`; the arrays have one slot per 4 KiB page. @kernel hmm_range */
export interface HmmRange {
  readonly notifier: MmuIntervalNotifier;
  notifierSeq: number;
  readonly start: Va;
  readonly end: Va;
  readonly pfns: Float64Array;
  readonly flags: Uint8Array;
  /** CPU mapping order of each page (order of the whole CPU mapping that contains it). */
  readonly orders: Uint8Array;
  /** Requested for every page: 0, REQ_FAULT or REQ_FAULT | REQ_WRITE. */
  readonly defaultFlags: number;
  /** Device pages of this owner are reported as they are; null: every device page is foreign. */
  readonly devPrivateOwner: unknown;
}

/** Frame properties by pfn. @kernel struct page */
export interface PageInfo {
  /** @kernel is_zone_device_page */
  isZoneDevice(pfn: Pfn): boolean;
  /** @kernel is_device_private_page */
  isDevicePrivate(pfn: Pfn): boolean;
  /** @kernel is_device_coherent_page */
  isDeviceCoherent(pfn: Pfn): boolean;
  /** The run of device frames the page belongs to. Only for zone-device pages. @kernel page_pgmap */
  pgmapOf(pfn: Pfn): DevPagemap;
  /** @kernel page->zone_device_data */
  zoneDeviceData(pfn: Pfn): unknown;
}

/** A run of device page frames. @kernel dev_pagemap */
export interface DevPagemap {
  readonly type: "private" | "coherent";
  /** First frame number and number of frames; assigned by the mm when the run is registered. */
  firstPfn: Pfn;
  readonly npages: number;
  /** Token compared with the owner of a look-up or migration. */
  readonly owner: unknown;
  readonly ops: DevPagemapOps;
}

/** @kernel dev_pagemap_ops */
export interface DevPagemapOps {
  /** The frame's last reference is gone. Must not block. @kernel folio_free */
  folioFree(pfn: Pfn): void;
  /** A large folio became single pages: `tail`, one of them, now holds what the folio held of its owner. @kernel folio_split */
  folioSplit?(head: Pfn, tail: Pfn): void;
  /** The CPU touched a device-private entry. The faulting page is locked and has one extra reference. @kernel migrate_to_ram */
  migrateToRam(vmf: VmFault): MaybePromise<0 | typeof VM_FAULT_SIGBUS>;
}

export const VM_FAULT_SIGBUS = 2;
export const VM_FAULT_SIGSEGV = 64;
export const VM_FAULT_OOM = 1;
export const VM_FAULT_RETRY = 1024;

/** @kernel vm_fault */
export interface VmFault {
  readonly mm: MigrateMm;
  readonly vma: VmaView;
  readonly address: Va;
  readonly pfn: Pfn;
  readonly write: boolean;
}

/** The part of an mm that gpusvm needs. */
export interface SvmMm {
  /** Take a user reference; false when the last one is gone. @kernel mmget_not_zero */
  mmget(): boolean;
  /** @kernel mmput */
  mmput(): void;
  /** @kernel mmput_async */
  mmputAsync(): void;
  /** @kernel mmgrab, mmdrop: the structure, not the address space. */
  mmgrab(): void;
  mmdrop(): void;
  /** @kernel mmap_lock */
  readonly mmapLock: RwSemaphore;
  /** The VMA that contains `addr`. Needs mmapLock. @kernel vma_lookup */
  vmaLookup(addr: Va): VmaView | null;
  /** The first VMA that intersects `[start, end)`. Needs mmapLock. @kernel find_vma_intersection */
  findVmaIntersection(start: Va, end: Va): VmaView | null;
  /** Registers `ni` over `[ni.start, ni.last]`; the first one of an mm takes mmapLock for write. @kernel mmu_interval_notifier_insert */
  intervalNotifierInsert(ni: MmuIntervalNotifier): MaybePromise<0 | Errno>;
  /** Resolves when no callback of `ni` runs or will run. Not from a callback. @kernel mmu_interval_notifier_remove */
  intervalNotifierRemove(ni: MmuIntervalNotifier): MaybePromise<void>;
  /** @kernel mmu_interval_read_begin */
  readBegin(ni: MmuIntervalNotifier): MaybePromise<number>;
  /** True when an invalidation has hit `ni` since `seq`. Under the lock its callback takes. @kernel mmu_interval_read_retry, mmu_interval_check_retry */
  readRetry(ni: MmuIntervalNotifier, seq: number): boolean;
  /** @kernel mmu_interval_set_seq */
  setSeq(ni: MmuIntervalNotifier, curSeq: number): void;
  /** mmapLock held for read throughout. 0, -EBUSY, -EFAULT, -EPERM, -ENOMEM. @kernel hmm_range_fault */
  hmmRangeFault(range: HmmRange): MaybePromise<0 | Errno>;
  readonly pages: PageInfo;
}

/** `src` and `dst` words: pfn in bits 6 and up. @kernel MIGRATE_PFN_VALID, MIGRATE_PFN_MIGRATE, MIGRATE_PFN_WRITE, MIGRATE_PFN_COMPOUND */
export const MIGRATE_PFN_VALID = 1;
export const MIGRATE_PFN_MIGRATE = 2;
export const MIGRATE_PFN_WRITE = 8;
export const MIGRATE_PFN_COMPOUND = 16;
export const MIGRATE_PFN_SHIFT = 6;
/** What a migration collects. @kernel MIGRATE_VMA_SELECT_SYSTEM, MIGRATE_VMA_SELECT_DEVICE_PRIVATE, MIGRATE_VMA_SELECT_DEVICE_COHERENT */
export const MIGRATE_VMA_SELECT_SYSTEM = 1;
export const MIGRATE_VMA_SELECT_DEVICE_PRIVATE = 2;
export const MIGRATE_VMA_SELECT_DEVICE_COHERENT = 4;
/** Huge entries and 2 MiB holes are one word, with COMPOUND, followed by 511 of 0; without it they are split. @kernel MIGRATE_VMA_SELECT_COMPOUND */
export const MIGRATE_VMA_SELECT_COMPOUND = 8;

/** @kernel migrate_pfn */
export function migratePfn(pfn: Pfn): number {
  return ((pfn << MIGRATE_PFN_SHIFT) | MIGRATE_PFN_VALID) >>> 0;
}
/** The frame of a word, or -1 unless VALID. @kernel migrate_pfn_to_page */
export function migratePfnToPage(word: number): Pfn {
  return (word & MIGRATE_PFN_VALID) === 0 ? -1 : word >>> MIGRATE_PFN_SHIFT;
}

/** A migration of `[start, end)` of one VMA; arrays have one word per page. @kernel migrate_vma */
export interface MigrateVma {
  readonly vma: VmaView;
  readonly start: Va;
  readonly end: Va;
  readonly src: Uint32Array;
  readonly dst: Uint32Array;
  readonly flags: number;
  readonly pgmapOwner: unknown;
  /** The locked device page whose CPU fault this serves, or -1. */
  readonly faultPage: Pfn;
  /** Collected entries still migrating. */
  cpages: number;
}

/** The part of an mm that pagemap needs on top. */
export interface MigrateMm extends SvmMm {
  readonly phys: PhysMem;
  /** The device frame mapped at the page of `addr`, or -1. A probe: changes nothing. */
  devicePfnAt(addr: Va): Pfn;
  /** The first page of `[start, end)` that lies in device memory; `end` if there is none. A probe. */
  nextDevicePage(start: Va, end: Va): Va;
  /**
   * How many pages of `[addr, end)` from `addr` on, which lies in device memory, are in frames one behind the other of one
   * allocation: at least 1, perhaps fewer than there are. A probe.
   */
  deviceRunLength(addr: Va, end: Va): number;
  /** Whether a store to a page of `[start, end)`, which is private and may be written, would first have to make it its own. A probe. */
  mustUnshare(start: Va, end: Va): boolean;
  /**
   * Bytes of the file that is mapped at `addr`, where the page lies wholly beyond its end: an access of the CPU is a bus error
   * until the file grows or the area changes. Else null. A probe.
   */
  fileSizeBefore(addr: Va): number | null;
  /**
   * Makes the pages of `[start, end)` present in RAM, as accesses of the CPU do: what is swapped out comes in, what lies on a
   * device comes home, and for a write what is common becomes the process's own. Takes the mmap lock for read. 0; -EFAULT: one
   * of them cannot be had so; -ENOMEM.
   */
  faultinPages(start: Va, end: Va, access: "read" | "write"): MaybePromise<0 | Errno>;
  /** mmapLock held for read. 0 or -EINVAL. @kernel migrate_vma_setup */
  migrateVmaSetup(m: MigrateVma): MaybePromise<0 | Errno>;
  /** @kernel migrate_vma_pages */
  migrateVmaPages(m: MigrateVma): MaybePromise<void>;
  /** @kernel migrate_vma_finalize */
  migrateVmaFinalize(m: MigrateVma): void;
}

/** Page frames of the whole machine: RAM and device frames in one pfn space. pfn 0 is never used. */
export interface PhysMem extends PageInfo {
  /** RAM bytes; frame `pfn` is `[pfn * 4096, +4096)`. Backed by a SharedArrayBuffer where there is one. */
  readonly ram: Uint8Array;
  readonly ramPages: number;
  /** Assigns `pgmap.firstPfn`. @kernel memremap_pages */
  addPagemap(pgmap: DevPagemap): void;
  removePagemap(pgmap: DevPagemap): void;
  /**
   * Sets `zone_device_data`, refcount 1, and locks the page. Order 9: the 512 pages from `pfn`, as one folio, whose
   * owner hears of `folioFree` once. @kernel zone_device_page_init
   */
  zoneDevicePageInit(pfn: Pfn, data: unknown, order?: 0 | 9): void;
  /** A RAM frame that is about to be overwritten as a whole (not zeroed), refcount 1; -ENOMEM when RAM is used up. */
  allocPage(): Pfn | Errno;
  /** `count` frames as by `allocPage` into `out[0..count)`, in as few runs as there can be; all, or none and -ENOMEM. */
  allocPages(out: Uint32Array, count: number): 0 | Errno;
  /** The head of a 2 MiB folio that is about to be overwritten as a whole, each frame with one reference; -ENOMEM. */
  allocHuge(): Pfn | Errno;
  getPage(pfn: Pfn): void;
  /** Drops a reference; the last one frees the frame. @kernel put_page */
  putPage(pfn: Pfn): void;
  refcount(pfn: Pfn): number;
  tryLockPage(pfn: Pfn): boolean;
  lockPage(pfn: Pfn): MaybePromise<void>;
  unlockPage(pfn: Pfn): void;
  /** `src` holds raw pfns on entry, migrate words after. No mmapLock needed. @kernel migrate_device_pfns */
  migrateDevicePfns(src: Uint32Array): MaybePromise<void>;
  /** @kernel migrate_device_pages */
  migrateDevicePages(src: Uint32Array, dst: Uint32Array): void;
  /** @kernel migrate_device_finalize */
  migrateDeviceFinalize(src: Uint32Array, dst: Uint32Array): void;
}
