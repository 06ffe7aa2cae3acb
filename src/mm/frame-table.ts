/**
 * State of every page frame, by frame number.
 *
 * Memory layout: parallel typed arrays, because a migration touches one or two of these fields of 512 frames in a row.
 * The arrays are replaced when device frames are added, so nobody keeps one across an `await`.
 *
 *     refcount   references; 0 = free. A page-table entry (present or device-private) is one.
 *     mapcount   present and device-private entries that map the frame. Migration entries do not count.
 *     flags      PG_* below
 *     pgmap      number of the run of device frames it belongs to, 0 for RAM
 *     rmapMm     the mm that maps it (number), 0 = none; further mappings are in `Rmap`
 *     rmapVpn    the virtual page number there
 *     pins       references of long-term users (`Pin`), which are among `refcount`
 *
 * Large folios. The 512 frames of a 2 MiB folio each keep their own counts, lock and flags; PG_COMPOUND says that they
 * belong together, and the frame that is a multiple of 512 is the head. The kernel counts at the head alone and pays for
 * it when a folio is split or freed in part; here a split clears flags and a part that is unmapped is free at once.
 */
export const PG_KIND = 3;
export const PG_SYSTEM = 0;
/** The shared read-only frame of zeros. */
export const PG_ZERO = 1;
export const PG_DEVICE_PRIVATE = 2;
export const PG_DEVICE_COHERENT = 3;
export const PG_LOCKED = 1 << 2;
/** Somebody waits for the page lock. */
export const PG_WAITERS = 1 << 3;
/** On the LRU: a system page that somebody maps and nobody has isolated. */
export const PG_LRU = 1 << 4;
/** Belongs to an anonymous mapping. A page without mapping cannot migrate. */
export const PG_ANON = 1 << 5;
/** Owned by exactly one process, which may write it without a copy. @kernel PageAnonExclusive */
export const PG_ANON_EXCLUSIVE = 1 << 6;
/** `Rmap` has more mappings of it than the one here. */
export const PG_RMAP_MORE = 1 << 7;
/** Some device's system window holds a copy: a CPU write makes it stale. */
export const PG_SLOT = 1 << 8;
/** Some device may have newer bytes: a CPU access waits for them. */
export const PG_DEVICE_WRITTEN = 1 << 9;
/** Part of a 2 MiB folio. @kernel PageCompound, folio_test_large */
export const PG_COMPOUND = 1 << 10;
/** In the page cache of a file, which holds one reference. @kernel folio->mapping */
export const PG_FILE = 1 << 11;
/** Its newest bytes went with a device; it holds older ones. */
export const PG_STALE = 1 << 15;

/** Frames of a large folio, and its order. @kernel HPAGE_PMD_NR, HPAGE_PMD_ORDER */
export const HPAGE_PAGES = 512;
export const HPAGE_ORDER = 9;

export class FrameTable {
  refcount = new Int32Array(0);
  mapcount = new Int32Array(0);
  flags = new Uint16Array(0);
  pgmap = new Uint8Array(0);
  rmapMm = new Uint16Array(0);
  rmapVpn = new Float64Array(0);
  pins = new Uint16Array(0);

  get length(): number {
    return this.refcount.length;
  }

  /** Makes room for frames below `length`; new ones are free system frames. */
  grow(length: number): void {
    if (length <= this.length) return;
    const { refcount, mapcount, flags, pgmap, rmapMm, rmapVpn, pins } = this;
    this.refcount = new Int32Array(length);
    this.refcount.set(refcount);
    this.mapcount = new Int32Array(length);
    this.mapcount.set(mapcount);
    this.flags = new Uint16Array(length);
    this.flags.set(flags);
    this.pgmap = new Uint8Array(length);
    this.pgmap.set(pgmap);
    this.rmapMm = new Uint16Array(length);
    this.rmapMm.set(rmapMm);
    this.rmapVpn = new Float64Array(length);
    this.rmapVpn.set(rmapVpn);
    this.pins = new Uint16Array(length);
    this.pins.set(pins);
  }
}
