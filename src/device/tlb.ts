import { hi32, lo32 } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ASID_LEVELS_POS, AsidEntry, Ctl, CtlHeader, InvalRequest, NASID } from "../abi/tables.ts";
import { INVAL_CAP, TLB_ENTRIES, tlbSeqnoNext } from "../abi/tlb.ts";
import { ASID_FAULT_MODE, ASID_SCRATCH } from "../hal/gpu.ts";
import type { GpuCounters } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { Pipelines } from "./pipelines.ts";

const REQUEST_WORDS = InvalRequest.size / 4;
const ASID_WORDS = AsidEntry.size / 4;

/**
 * The ASID table and TLB invalidation (spec/device.md 0.3, 3.7).
 *
 * Invalidations collect and go out together before the next translation or submission: until then nothing looks at the
 * TLB. The order [translate] -> [fill] -> entries -> invalidate -> sequence number -> later work is kept by that.
 */
export class Tlb {
  readonly #commands: Commands;
  readonly #pipelines: Pipelines;
  readonly #counters: GpuCounters;
  readonly #ctl: GPUBuffer;
  readonly #tables: GPUBindGroup;
  /** Host copy of the ASID table. */
  readonly #asids = new Uint32Array(NASID * ASID_WORDS);
  readonly #queue = new Uint32Array(INVAL_CAP * REQUEST_WORDS);
  #queued = 0;
  #seqno = 0;
  /** False until the first fill: an empty TLB needs no scan, only the sequence number. */
  #mayHold = false;
  /** See `Gpu.dropTlbInvalidations`. */
  drop = false;

  constructor(commands: Commands, pipelines: Pipelines, counters: GpuCounters, ctl: GPUBuffer, tables: GPUBindGroup) {
    this.#commands = commands;
    this.#pipelines = pipelines;
    this.#counters = counters;
    this.#ctl = ctl;
    this.#tables = tables;
  }

  /** Levels of the address space. A space that was never set has 4, under which nothing is present. */
  levels(asid: number): number {
    const flags = this.#asids[asid * ASID_WORDS] ?? 0;
    return (flags >>> ASID_LEVELS_POS) & 15 || 4;
  }

  /** See `Gpu.asidSet`. Flags without a level count mean 4 levels. */
  asidSet(asid: number, root: number, flags: number): void {
    assert(asid > 0 && asid < NASID, () => `there is no ASID ${asid}`);
    assert((flags & (ASID_SCRATCH | ASID_FAULT_MODE)) !== (ASID_SCRATCH | ASID_FAULT_MODE), "scratch never faults");
    const at = asid * ASID_WORDS;
    this.#asids[at + AsidEntry.word.flags] = flags >>> ASID_LEVELS_POS === 0 ? flags | (4 << ASID_LEVELS_POS) : flags;
    this.#asids[at + AsidEntry.word.root_lo] = lo32(root);
    this.#asids[at + AsidEntry.word.root_hi] = hi32(root);
    this.#writeAsid(asid);
  }

  invalidate(asid: number, start: number, last: number): number {
    this.#seqno = tlbSeqnoNext(this.#seqno);
    this.#counters.tlbInvalidations += 1;
    if (this.drop) return this.#seqno;
    if (this.#queued === INVAL_CAP) this.emit();
    const request = [asid, lo32(start), hi32(start), lo32(last), hi32(last), this.#seqno, 0, 0];
    this.#queue.set(request, this.#queued * REQUEST_WORDS);
    this.#queued += 1;
    return this.#seqno;
  }

  /** By the generation: entries of older ones match nothing, so no scan is needed. */
  invalidateAsid(asid: number): number {
    this.emit();
    this.#seqno = tlbSeqnoNext(this.#seqno);
    this.#counters.tlbInvalidations += 1;
    if (this.drop) return this.#seqno;
    const at = asid * ASID_WORDS + AsidEntry.word.generation;
    this.#asids[at] = this.#asids[at]! + 1;
    this.#writeAsid(asid);
    this.#writeSeqno(this.#seqno);
    return this.#seqno;
  }

  /** Records what is pending. */
  emit(): void {
    if (this.#queued === 0) return;
    const requests = this.#queue.slice(0, this.#queued * REQUEST_WORDS);
    const count = this.#queued;
    this.#queued = 0;
    if (!this.#mayHold) {
      this.#writeSeqno(requests[(count - 1) * REQUEST_WORDS + InvalRequest.word.seqno]!);
      return;
    }
    const words = new Uint32Array(4 + requests.length);
    words[0] = count;
    words.set(requests, 4);
    this.#commands.write(this.#ctl, Ctl.offset.inval_count, words);
    const pass = this.#commands.pass();
    pass.setBindGroup(0, this.#tables);
    pass.setPipeline(this.#pipelines.tlbInvalidate);
    pass.dispatchWorkgroups(TLB_ENTRIES / 64);
    pass.setPipeline(this.#pipelines.tlbInvalidateDone);
    pass.dispatchWorkgroups(1);
  }

  /** Behind a translating dispatch, in the same pass: takes over what it logged, if it did. */
  fill(pass: GPUComputePassEncoder, hasLogged: boolean): void {
    if (hasLogged) {
      this.#mayHold = true;
      pass.setPipeline(this.#pipelines.tlbFill);
      pass.dispatchWorkgroups(7);
    }
    pass.setPipeline(this.#pipelines.tlbFillDone);
    pass.dispatchWorkgroups(1);
  }

  destroy(): void {
    this.#ctl.destroy();
  }

  #writeAsid(asid: number): void {
    const words = this.#asids.subarray(asid * ASID_WORDS, (asid + 1) * ASID_WORDS);
    this.#commands.write(this.#ctl, Ctl.offset.asids + asid * AsidEntry.size, words);
  }

  #writeSeqno(seqno: number): void {
    this.#commands.write(this.#ctl, CtlHeader.offset.tlb_seq_recv, new Uint32Array([seqno]));
  }
}
