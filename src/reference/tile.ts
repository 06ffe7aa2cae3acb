import { PAGE_SIZE, hi32, lo32 } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ENGINE_COPY } from "../abi/fault.ts";
import { ASID_LEVELS_POS, NASID, REQUEST_NO_RECORD, REQUEST_PREFETCH, STATUS_FAULT } from "../abi/tables.ts";
import { tileBase } from "../abi/tiles.ts";
import { tlbSeqnoNext } from "../abi/tlb.ts";
import { ENGINES } from "../hal/copy-job.ts";
import { ASID_FAULT_MODE, ASID_SCRATCH, REQUEST_WORDS, RESULT_WORDS } from "../hal/gpu.ts";
import type { GpuConfig, GpuCounters, RoundResult } from "../hal/gpu.ts";
import type { JobDevice } from "./copy-jobs.ts";
import { FaultQueue } from "./fault-queue.ts";
import type { Access } from "./fault-queue.ts";
import type { LaunchDevice } from "./launch.ts";
import type { ReferenceMemory } from "./memory.ts";
import { TlbModel } from "./tlb-model.ts";
import { ASID_WORDS, newTranslation, translateModel } from "./translate-model.ts";
import type { Translation, WalkerState } from "./translate-model.ts";

export interface ReferenceOptions {
  /** Off: every translation walks. Default on. */
  readonly tlb?: boolean;
  /** Atomics on the system window are allowed. Default off. */
  readonly systemAtomics?: boolean;
}

/** The device that a tile is part of. */
export interface TileHost {
  readonly memory: ReferenceMemory;
  readonly counters: GpuCounters;
  /** Throws once the device is lost. */
  checkAlive(): void;
  /** One submission with a read-back. */
  answer<T>(value: T): Promise<T>;
}

/** One tile (spec/device.md 1.1): ASID table, TLB, fault queue and engine table, and the walker that goes by them. */
export class ReferenceTile implements LaunchDevice, JobDevice {
  readonly memory: ReferenceMemory;
  readonly counters: GpuCounters;
  readonly lean: WalkerState;
  readonly engines = new Uint32Array(ENGINES * 4);
  readonly #host: TileHost;
  readonly #full: WalkerState;
  readonly #base: number;
  readonly #ptBytes: number;
  readonly #vram: Uint32Array;
  readonly #tlb = new TlbModel();
  readonly #asids = new Uint32Array(NASID * ASID_WORDS);
  readonly #faults: FaultQueue;
  #misses: Access[] = [];
  #seqno = 0;

  constructor(host: TileHost, index: number, config: GpuConfig, options: ReferenceOptions) {
    const { ptBytes, syswBytes, faultQueueCapacity } = config;
    const { memory } = host;
    const { space } = memory;
    const start = space.starts[index]! / 4;
    this.memory = memory;
    this.counters = host.counters;
    this.#host = host;
    this.#base = tileBase(index);
    this.#ptBytes = ptBytes;
    this.#vram = memory.vramWords.subarray(start, start + space.tileBytes[index]! / 4);
    this.#faults = new FaultQueue(faultQueueCapacity);
    this.lean = {
      vram: this.#vram,
      vramBytes: space.tileBytes[index]!,
      ptBytes,
      tile: index,
      space,
      syswBytes,
      asids: this.#asids,
      tlb: null,
      systemAtomics: options.systemAtomics === true,
    };
    this.#full = { ...this.lean, tlb: options.tlb === false ? null : this.#tlb };
  }

  ptWrite(pa: number, words: Uint32Array): void {
    const at = pa - this.#base;
    assert(at % 8 === 0 && words.length % 2 === 0, "page-table writes are whole entries");
    assert(
      at >= 2 * PAGE_SIZE && at + words.length * 4 <= this.#ptBytes,
      () => `page-table write at ${pa} outside the aperture`,
    );
    this.#vram.set(words, at / 4);
    this.counters.pteWrites += words.length / 2;
  }

  asidSet(asid: number, root: number, flags: number): void {
    assert(asid > 0 && asid < NASID, () => `ASID ${asid}`);
    assert((flags & (ASID_SCRATCH | ASID_FAULT_MODE)) !== (ASID_SCRATCH | ASID_FAULT_MODE), "scratch never faults");
    const at = asid * ASID_WORDS;
    const levels = (flags >>> ASID_LEVELS_POS) & 15;
    this.#asids[at] = levels === 0 ? flags | (4 << ASID_LEVELS_POS) : flags;
    this.#asids[at + 1] = lo32(root);
    this.#asids[at + 2] = hi32(root);
  }

  /** `drop`: see `Gpu.dropTlbInvalidations`. */
  tlbInvalidate(asid: number, start: number, last: number, drop: boolean): number {
    if (!drop) this.#tlb.invalidate(asid, start, last);
    return this.#nextSeqno();
  }

  tlbInvalidateAsid(asid: number, drop: boolean): number {
    if (!drop) this.#asids[asid * ASID_WORDS + 3]! += 1;
    return this.#nextSeqno();
  }

  /** Of the last invalidation. */
  get seqno(): number {
    return this.#seqno;
  }

  #nextSeqno(): number {
    this.counters.tlbInvalidations += 1;
    this.#seqno = tlbSeqnoNext(this.#seqno);
    return this.#seqno;
  }

  translateForCopy(asid: number, vaLo: number, vaHi: number, access: number, work: number): Translation {
    const t = translateModel(this.#full, asid, vaLo, vaHi, access);
    if (t.status !== STATUS_FAULT) return t;
    const made = { asid, vaLo, vaHi, access, prefetch: false, engineClass: ENGINE_COPY, engineInstance: 0, work };
    this.#record(t, made);
    return t;
  }

  fillTlb(): void {
    this.#tlb.fill((asid) => this.#asids[asid * ASID_WORDS + 3]!);
  }

  reportMiss(miss: Access): void {
    if (!this.#faults.isFirst(miss)) return;
    if (this.#misses.length < this.#faults.capacity) this.#misses.push(miss);
    else this.#faults.drop();
  }

  beginRound(): void {
    this.#host.checkAlive();
    this.#faults.reset();
    this.counters.rounds += 1;
  }

  endRound(remaining: number): Promise<RoundResult> {
    const t = newTranslation();
    for (const miss of this.#misses) {
      translateModel(this.lean, miss.asid, miss.vaLo, miss.vaHi, miss.access, t);
      this.#faults.countFatal(t, miss);
      this.#faults.write(t, miss);
    }
    this.#misses = [];
    return this.#host.answer(this.#faults.read(remaining));
  }

  translate(requests: Uint32Array): Uint32Array {
    const count = requests.length / REQUEST_WORDS;
    const results = new Uint32Array(count * RESULT_WORDS);
    const t = newTranslation();
    for (let i = 0; i < count; i++) {
      const [asid, vaLo, vaHi, flags, engine, work] = requests.subarray(i * REQUEST_WORDS) as unknown as number[];
      const access = flags! & 3;
      translateModel(this.#full, asid!, vaLo!, vaHi!, access, t);
      results.set([t.status, lo32(t.pa), hi32(t.pa), t.info], i * RESULT_WORDS);
      if (t.status !== STATUS_FAULT || (flags! & REQUEST_NO_RECORD) !== 0) continue;
      this.#record(t, {
        asid: asid!,
        vaLo: vaLo!,
        vaHi: vaHi!,
        access,
        prefetch: (flags! & REQUEST_PREFETCH) !== 0,
        engineClass: engine! & 7,
        engineInstance: (engine! >>> 3) & 63,
        work: work!,
      });
    }
    this.fillTlb();
    return results;
  }

  drainFaults(): RoundResult {
    const result = this.#faults.read(0);
    this.#faults.reset();
    return result;
  }

  #record(t: Translation, made: Access): void {
    this.#faults.countFatal(t, made);
    if (this.#faults.isFirst(made)) this.#faults.write(t, made);
  }
}
