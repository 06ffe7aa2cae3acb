/**
 * What an address space holds, without frames, page tables or devices: every page of a window of each process, flat.
 *
 * A private page has its own bytes once it has been stored to, and until then those of its file, or zeros; fork copies
 * them. The bytes of shared memory are those of its file, which all who map it see.
 */
import { EACCES, EFAULT, EINVAL, ENOMEM } from "../../src/base/errno.ts";
import type { Advice } from "../../src/mm/madvise.ts";
import type { Prot } from "../../src/mm/vma.ts";

export const PAGE = 4096;
export const HUGE_PAGES = 512;
const ZEROS = new Uint8Array(PAGE);

/** A file, or the object behind shared anonymous memory. */
export class FlatFile {
  size: number;
  /** Whole pages; what lies beyond `size` in the last one can be stored to through a mapping. */
  bytes: Uint8Array;

  constructor(size: number) {
    this.size = size;
    this.bytes = new Uint8Array(wholePages(size));
  }

  page(index: number): Uint8Array {
    return this.bytes.subarray(index * PAGE, (index + 1) * PAGE);
  }

  hasPage(index: number): boolean {
    return index * PAGE < this.size;
  }

  /** What was stored beyond the end comes to light nowhere. */
  truncate(size: number): void {
    const old = this.size;
    if (size > old) this.bytes.fill(0, old);
    this.#resize(size);
    if (size < old) this.bytes.fill(0, size);
  }

  write(at: number, data: Uint8Array): void {
    if (at > this.size) this.bytes.fill(0, this.size);
    if (at + data.length > this.size) this.#resize(at + data.length);
    this.bytes.set(data, at);
  }

  #resize(size: number): void {
    const old = this.bytes;
    this.bytes = new Uint8Array(wholePages(size));
    this.bytes.set(old.subarray(0, this.bytes.length));
    this.size = size;
  }
}

function wholePages(size: number): number {
  return Math.ceil(size / PAGE) * PAGE;
}

/** One mapped page. */
export interface FlatPage {
  readonly prot: Prot;
  readonly shared: boolean;
  readonly file: FlatFile | null;
  /** Page of the file. */
  readonly index: number;
  readonly huge: boolean;
  readonly locked: boolean;
  readonly thp: "default" | "always" | "never";
  /** Of a private page that has been stored to. */
  own: Uint8Array | null;
}

/** True when the second page continues the area of the first. */
function isOneArea(a: FlatPage, b: FlatPage): boolean {
  return (
    a.prot === b.prot &&
    a.shared === b.shared &&
    a.file === b.file &&
    (a.file === null || a.index + 1 === b.index) &&
    a.huge === b.huge &&
    a.locked === b.locked &&
    a.thp === b.thp
  );
}

export type AccessKind = "read" | "write";
/** What an access to a page comes to. */
export type Verdict = "OK" | "SEGV" | "BUS";

/** Pages; `to` null: it stays where it is. */
export interface Remap {
  readonly page: number;
  readonly pages: number;
  readonly newPages: number;
  readonly to: number | null;
  readonly dontunmap: boolean;
}

/** The window of one process: page `i` of it is an address that only the runner knows. */
export class FlatProcess {
  readonly pages: (FlatPage | null)[];

  constructor(pages: (FlatPage | null)[]) {
    this.pages = pages;
  }

  static empty(count: number): FlatProcess {
    return new FlatProcess(new Array<FlatPage | null>(count).fill(null));
  }

  fork(): FlatProcess {
    return new FlatProcess(
      this.pages.map((p) => (p === null ? null : { ...p, locked: false, own: p.own === null ? null : p.own.slice() })),
    );
  }

  // Contents

  verdict(page: number, access: AccessKind): Verdict {
    const p = this.pages[page] ?? null;
    if (p === null || p.prot === "NONE" || (access === "write" && p.prot !== "RW")) return "SEGV";
    return p.own === null && p.file !== null && !p.file.hasPage(p.index) ? "BUS" : "OK";
  }

  /** The bytes of a page that can be read. */
  bytes(page: number): Uint8Array {
    const p = this.pages[page]!;
    return p.own ?? (p.file === null ? ZEROS : p.file.page(p.index));
  }

  /** Bytes of `[from, from + length)` that the access reaches before it fails, and how it fails. */
  reach(from: number, length: number, access: AccessKind): { bytes: number; verdict: Verdict } {
    for (let at = from; at < from + length; at = (Math.floor(at / PAGE) + 1) * PAGE) {
      const verdict = this.verdict(Math.floor(at / PAGE), access);
      if (verdict !== "OK") return { bytes: at - from, verdict };
    }
    return { bytes: length, verdict: "OK" };
  }

  read(from: number, length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const at = from + done;
      const n = Math.min(length - done, PAGE - (at % PAGE));
      out.set(this.bytes(Math.floor(at / PAGE)).subarray(at % PAGE, (at % PAGE) + n), done);
      done += n;
    }
    return out;
  }

  /** Stores where the access is permitted. */
  write(from: number, data: Uint8Array): void {
    for (let done = 0; done < data.length;) {
      const at = from + done;
      const n = Math.min(data.length - done, PAGE - (at % PAGE));
      const p = this.pages[Math.floor(at / PAGE)]!;
      if (!p.shared) p.own ??= this.bytes(Math.floor(at / PAGE)).slice();
      this.bytes(Math.floor(at / PAGE)).set(data.subarray(done, done + n), at % PAGE);
      done += n;
    }
  }

  // Areas

  isMapped(page: number, count: number): boolean {
    for (let i = page; i < page + count; i++) if ((this.pages[i] ?? null) === null) return false;
    return true;
  }

  /** First page after the area that contains `page`. */
  areaEnd(page: number): number {
    let end = page + 1;
    while (end < this.pages.length && this.pages[end] !== null && isOneArea(this.pages[end - 1]!, this.pages[end]!)) {
      end += 1;
    }
    return end;
  }

  /** The areas as `[first page, page after the last]`. */
  areas(): [number, number][] {
    const list: [number, number][] = [];
    for (let page = 0; page < this.pages.length;) {
      if (this.pages[page] === null) {
        page += 1;
        continue;
      }
      const end = this.areaEnd(page);
      list.push([page, end]);
      page = end;
    }
    return list;
  }

  /** True where a border at `page`, of which `offset` is the page number in its 2 MiB, would cut a hugetlb page. */
  cutsHuge(page: number, inHuge: (page: number) => boolean): boolean {
    return !inHuge(page) && this.pages[page]?.huge === true;
  }

  /** mlock wants every page; one beyond the end of its file cannot be had. */
  lockError(page: number, pages: number): number {
    for (let i = page; i < page + pages; i++) {
      const p = this.pages[i]!;
      const wantsWrite = p.prot === "RW" && !p.shared;
      if (this.verdict(i, wantsWrite ? "write" : "read") !== "OK") return ENOMEM;
    }
    return 0;
  }

  setLocked(page: number, pages: number, locked: boolean): void {
    for (let i = page; i < page + pages; i++) if (!this.pages[i]!.huge) this.change(i, 1, { locked });
  }

  /** What a successful mremap does. */
  remap({ page, pages, newPages, to, dontunmap }: Remap): void {
    const source = this.pages[page]!;
    const moved = this.pages.slice(page, page + Math.min(pages, newPages));
    const fresh = (i: number): FlatPage => ({
      ...source,
      index: source.file === null ? 0 : source.index + i,
      own: null,
    });
    if (to === null) {
      if (newPages < pages) this.set(page + newPages, pages - newPages, () => null);
      else this.set(page + pages, newPages - pages, (i) => fresh(pages + i));
      return;
    }
    const old = this.pages.slice(page, page + pages);
    this.set(to, newPages, (i) => moved[i] ?? fresh(i));
    this.set(page, pages, (i) => (dontunmap ? { ...old[i]!, own: null, locked: false } : null));
  }

  set(page: number, count: number, make: (i: number) => FlatPage | null): void {
    for (let i = 0; i < count; i++) this.pages[page + i] = make(i);
  }

  change(page: number, count: number, change: Partial<Pick<FlatPage, "prot" | "locked" | "thp">>): void {
    for (let i = page; i < page + count; i++) this.pages[i] = { ...this.pages[i]!, ...change };
  }

  /** The pages lose what was stored to them. */
  discard(page: number, count: number): void {
    for (let i = page; i < page + count; i++) {
      const p = this.pages[i]!;
      if (p.own !== null) p.own = null;
    }
  }
}

/** Why advice is refused for the area of a page; 0 where it is not. */
export function adviceError(p: FlatPage, advice: Advice): number {
  const anonymous = p.file === null && !p.huge;
  switch (advice) {
    case "dontneed":
      return p.locked ? EINVAL : 0;
    case "free":
      return p.locked || !anonymous ? EINVAL : 0;
    case "remove":
      if (p.locked || p.file === null) return EINVAL;
      return p.shared && p.prot === "RW" ? 0 : EACCES;
    case "populate-read":
      return p.prot === "NONE" ? EINVAL : 0;
    case "populate-write":
      return p.prot === "RW" ? 0 : EINVAL;
    case "hugepage":
    case "nohugepage":
      return p.huge ? EINVAL : 0;
    case "collapse":
      return anonymous ? 0 : EINVAL;
    case "pageout":
    case "cold":
      return p.huge || p.locked ? EINVAL : 0;
  }
}

/** Why `mremap` is refused before anything is tried; 0 where it is not. Pages; `to` null: not to a fixed place. */
export function mremapError(of: FlatProcess, m: Remap, isHugeAligned: (page: number) => boolean): number {
  const { page, pages, newPages, to } = m;
  if (m.dontunmap && pages !== newPages) return EINVAL;
  if (to !== null && to < page + Math.max(pages, 1) && page < to + newPages) return EINVAL;
  const first = of.pages[page] ?? null;
  if (first === null) return EFAULT;
  if (pages === 0 && !first.shared) return EINVAL;
  if (page + pages > of.areaEnd(page)) return EFAULT;
  if (first.huge) {
    const whole = [page, page + pages, ...(to === null ? [] : [to])].every(isHugeAligned);
    if (!whole || newPages % HUGE_PAGES !== 0 || newPages > pages) return EINVAL;
  }
  if (to !== null && (of.cutsHuge(to, isHugeAligned) || of.cutsHuge(to + newPages, isHugeAligned))) return EINVAL;
  return 0;
}

/** Bytes that tell their place. */
export function dataOf(length: number, byte: number, step: number): Uint8Array {
  const data = new Uint8Array(length);
  for (let i = 0; i < length; i++) data[i] = byte + step * (i + (i >>> 8));
  return data;
}

/** Adds to a word that may be stored to; the old value. */
export function addFlat(flat: FlatProcess, at: number, by: number): number {
  const word = new DataView(flat.read(at, 4).buffer);
  const old = word.getUint32(0, true);
  word.setUint32(0, old + by, true);
  flat.write(at, new Uint8Array(word.buffer));
  return old;
}

export { EACCES, EFAULT, EINVAL, ENOMEM };
