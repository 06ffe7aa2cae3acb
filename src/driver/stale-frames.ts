import type { Pfn } from "../base/addr.ts";
import { PG_STALE } from "../mm/frame-table.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";

/**
 * RAM frames whose newest bytes went with a lost device; they hold those of an earlier copy. A frame is listed until it
 * is freed: the flag goes with its life, so a frame that is handed out again is not taken for the old one.
 */
export class StaleFrames {
  readonly #phys: PhysMemory;
  readonly #rounds = new Map<Pfn, number | null>();

  constructor(phys: PhysMemory) {
    this.#phys = phys;
  }

  /** The frame's bytes are those after `round` of the device; null: nobody counted. */
  add(pfn: Pfn, round: number | null): void {
    this.#phys.frames.flags[pfn]! |= PG_STALE;
    this.#rounds.set(pfn, round);
  }

  has(pfn: Pfn): boolean {
    if (!this.#rounds.has(pfn)) return false;
    if ((this.#phys.frames.flags[pfn]! & PG_STALE) !== 0) return true;
    this.#rounds.delete(pfn);
    return false;
  }

  /** Of a frame that is listed. */
  roundOf(pfn: Pfn): number | null {
    return this.#rounds.get(pfn) ?? null;
  }
}
