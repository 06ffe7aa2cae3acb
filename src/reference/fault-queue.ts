import { fromHiLo } from "../base/addr.ts";
import { FAULT_FATAL, FAULT_RECORD_WORDS, encodeFault, faultKey } from "../abi/fault.ts";
import type { RoundResult } from "../hal/gpu.ts";
import type { Translation } from "./translate-model.ts";

/** Slots of the dedup table at least, per record of the queue, and how many of them a key may try (spec/device.md 3.6). */
const DEDUP_SLOTS_MIN = 4096;
const DEDUP_SLOTS_PER_RECORD = 4;
const PROBES = 4;

/** One access, and who made it. */
export interface Access {
  readonly asid: number;
  readonly vaLo: number;
  readonly vaHi: number;
  /** ACCESS_*. */
  readonly access: number;
  readonly prefetch: boolean;
  readonly engineClass: number;
  readonly engineInstance: number;
  readonly work: number;
}

/** The fault queue of spec/device.md 3.5 with its dedup table, for one producer. */
export class FaultQueue {
  readonly capacity: number;
  readonly #records: Uint32Array;
  readonly #dedup: Uint32Array;
  #count = 0;
  #dropped = 0;
  #dedupHits = 0;
  #fatal = 0;
  #epoch = 1;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#records = new Uint32Array(capacity * FAULT_RECORD_WORDS);
    this.#dedup = new Uint32Array(Math.max(DEDUP_SLOTS_MIN, capacity * DEDUP_SLOTS_PER_RECORD));
  }

  /** True for the first fault of its page, access and ASID in this epoch; false counts a duplicate. */
  isFirst(a: Access): boolean {
    const key = faultKey(pageOf(a), a.asid, a.access, a.prefetch);
    for (let i = 0; i < PROBES; i++) {
      const slot = (key + i) % this.#dedup.length;
      if (this.#dedup[slot] === key) {
        this.#dedupHits += 1;
        return false;
      }
      if (this.#dedup[slot] === 0) {
        this.#dedup[slot] = key;
        return true;
      }
    }
    // All slots taken by others: recording twice is harmless, losing a fault is not.
    return true;
  }

  /** Counts a fatal fault, unless it was a hint: a hint must not kill a job. */
  countFatal(t: Translation, a: Access): void {
    if (t.faultType === FAULT_FATAL && !a.prefetch) this.#fatal += 1;
  }

  /** Appends the record of a translation that failed, or counts it as dropped. */
  write(t: Translation, a: Access): void {
    if (this.#count === this.capacity) return this.drop();
    const words = encodeFault({
      va: pageOf(a),
      asid: a.asid,
      access: a.access,
      type: t.faultType,
      level: t.level,
      reason: t.reason,
      prefetch: a.prefetch,
      engineClass: a.engineClass,
      engineInstance: a.engineInstance,
      work: a.work,
      epoch: this.#epoch,
    });
    words[4]! |= a.vaLo & 0xfff;
    this.#records.set(words, this.#count * FAULT_RECORD_WORDS);
    this.#count += 1;
  }

  /** A fault that found no room. */
  drop(): void {
    this.#dropped += 1;
  }

  /** What has been recorded since the last reset. */
  read(remaining: number): RoundResult {
    return {
      remaining,
      dropped: this.#dropped,
      dedupHits: this.#dedupHits,
      fatal: this.#fatal,
      count: this.#count,
      records: this.#records.slice(0, this.#count * FAULT_RECORD_WORDS),
    };
  }

  /** An empty queue, an empty dedup table, a new epoch. */
  reset(): void {
    if (this.#count + this.#dropped + this.#dedupHits > 0) this.#dedup.fill(0);
    this.#count = this.#dropped = this.#dedupHits = this.#fatal = 0;
    this.#epoch = (this.#epoch + 1) >>> 0;
  }
}

/** Page addresses have at most 52 significant bits: exact, whatever 64-bit address a request named. */
function pageOf(a: Access): number {
  return fromHiLo(a.vaHi, (a.vaLo & 0xfffff000) >>> 0);
}
