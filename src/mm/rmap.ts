import { assert } from "../base/assert.ts";
import type { Pfn } from "../base/addr.ts";
import { type FrameTable, PG_RMAP_MORE } from "./frame-table.ts";

/** One page-table entry that names a frame. */
export interface Mapping {
  /** Number of the mm; see `PhysMemory.mmById`. */
  readonly mm: number;
  /** Virtual page number. */
  readonly vpn: number;
}

/**
 * Reverse map: from a frame to every page-table entry that names it, in any mm.
 *
 * It holds present, device-private and migration entries: the last so that the end of a migration finds what it has to
 * replace. Nearly every frame has one mapping, which lies in the frame table; those of fork come to the side table.
 * @kernel rmap_walk
 */
export class Rmap {
  readonly #frames: FrameTable;
  readonly #more = new Map<Pfn, Mapping[]>();

  constructor(frames: FrameTable) {
    this.#frames = frames;
  }

  add(pfn: Pfn, mm: number, vpn: number): void {
    const f = this.#frames;
    if (f.rmapMm[pfn] === 0) {
      f.rmapMm[pfn] = mm;
      f.rmapVpn[pfn] = vpn;
      return;
    }
    const more = this.#more.get(pfn);
    if (more === undefined) this.#more.set(pfn, [{ mm, vpn }]);
    else more.push({ mm, vpn });
    f.flags[pfn]! |= PG_RMAP_MORE;
  }

  remove(pfn: Pfn, mm: number, vpn: number): void {
    const f = this.#frames;
    const first = f.rmapMm[pfn] === mm && f.rmapVpn[pfn] === vpn;
    if ((f.flags[pfn]! & PG_RMAP_MORE) === 0) {
      assert(first, () => `page ${pfn} is not mapped at page ${vpn} of mm ${mm}`);
      f.rmapMm[pfn] = 0;
      return;
    }
    const more = this.#more.get(pfn)!;
    if (first) {
      const next = more.pop()!;
      f.rmapMm[pfn] = next.mm;
      f.rmapVpn[pfn] = next.vpn;
    } else {
      const index = more.findIndex((m) => m.mm === mm && m.vpn === vpn);
      assert(index >= 0, () => `page ${pfn} is not mapped at page ${vpn} of mm ${mm}`);
      more.splice(index, 1);
    }
    if (more.length === 0) {
      this.#more.delete(pfn);
      f.flags[pfn]! &= ~PG_RMAP_MORE;
    }
  }

  /** All mappings now, copied: the caller may change them while it goes through. */
  list(pfn: Pfn): Mapping[] {
    const f = this.#frames;
    if (f.rmapMm[pfn] === 0) return [];
    return [{ mm: f.rmapMm[pfn]!, vpn: f.rmapVpn[pfn]! }, ...(this.#more.get(pfn) ?? [])];
  }
}
