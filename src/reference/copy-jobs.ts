import { PAGE_SIZE, fromHiLo, hi32, lo32 } from "../base/addr.ts";
import { ACCESS_READ, ACCESS_WRITE } from "../abi/fault.ts";
import { STATUS_FAULT, STATUS_NULL, STATUS_WINDOW } from "../abi/tables.ts";
import { tileBase, tileOf } from "../abi/tiles.ts";
import {
  AP_VA,
  ENGINES,
  E_ALIGN,
  E_DST_RANGE,
  E_FAULT,
  E_LENGTH,
  E_OPCODE,
  E_OVERLAP,
  E_PTE,
  E_SRC_RANGE,
  JOB_COPY,
  JOB_COPY_SG,
  JOB_FENCE,
  JOB_FILL,
  JOB_FILL_SG,
  JOB_FLAG_CHECK_ONLY,
  JOB_NOP,
  JOB_OK,
  JOB_PT_WRITE,
  JOB_WORD,
  JOB_WORDS,
  PT_WRITE_MAX,
  VA_LIMIT,
  signalsFence,
} from "../hal/copy-job.ts";
import type { JobBatch } from "../hal/copy-job.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import type { GpuCounters } from "../hal/gpu.ts";
import type { ReferenceMemory } from "./memory.ts";
import type { Translation } from "./translate-model.ts";

/** What the jobs of a tile reach besides memory. */
export interface JobDevice {
  readonly memory: ReferenceMemory;
  readonly counters: GpuCounters;
  /** The engine table, 4 words each. */
  readonly engines: Uint32Array;
  /** One request of the batch translator, its fault recorded as the copy engine's; valid until the next. */
  translateForCopy(asid: number, vaLo: number, vaHi: number, access: number, work: number): Translation;
  /** Behind the requests of a job: the TLB takes over what they logged. */
  fillTlb(): void;
}

/** A range of one memory; memory null: a NULL page, which reads as zero and swallows stores. */
interface Place {
  readonly memory: Uint8Array | null;
  readonly at: number;
  readonly bytes: number;
}

/** One step of a job; source null: fill. */
interface Move {
  readonly source: Place | null;
  readonly target: Place;
}

/**
 * The jobs of the copy engine (spec/device.md 4), one after the other, as the oracle of the real one. Host memory is not
 * written at once: `stores` holds what the batch does to it, in order, and reads of the batch look there first.
 */
export class ReferenceJobs {
  readonly stores: { at: number; bytes: Uint8Array }[] = [];
  readonly status: number[] = [];
  readonly bytes: number[] = [];
  readonly #device: JobDevice;
  readonly #batch: JobBatch;
  readonly #ptBytes: number;
  readonly #writeTables: (pa: number, words: Uint32Array) => void;
  readonly #host: Uint8Array;

  /** `writeTables`: see `Gpu.ptWrite`. */
  constructor(
    device: JobDevice,
    batch: JobBatch,
    ptBytes: number,
    writeTables: (pa: number, words: Uint32Array) => void,
  ) {
    this.#device = device;
    this.#batch = batch;
    this.#ptBytes = ptBytes;
    this.#writeTables = writeTables;
    this.#host = device.memory.host;
  }

  run(): void {
    let firstError = 0;
    let firstFailed = 0;
    for (let i = 0; i < this.#batch.count; i++) {
      const at = i * JOB_WORDS;
      const words = this.#batch.words.subarray(at, at + JOB_WORDS);
      this.bytes.push(0);
      const status = this.#job(words, i);
      this.status.push(status);
      if (status !== JOB_OK && firstError === 0) [firstError, firstFailed] = [status, i];
      const engine = words[JOB_WORD.fenceEngine]!;
      if (!signalsFence(words, 0) || engine >= ENGINES) continue;
      this.#device.engines.set([words[JOB_WORD.fenceSeqno]!, firstError, firstFailed], engine * 4);
    }
  }

  #job(w: Uint32Array, index: number): number {
    const opcode = w[JOB_WORD.control]! & 255;
    if (opcode > JOB_FILL_SG) return E_OPCODE;
    if ((opcode === JOB_COPY || opcode === JOB_FILL) && w[JOB_WORD.sgCount]! > 0) return E_OPCODE;
    if (signalsFence(w, 0) && w[JOB_WORD.fenceEngine]! >= ENGINES) return E_DST_RANGE;
    if (opcode === JOB_NOP || opcode === JOB_FENCE) return JOB_OK;
    if (opcode === JOB_PT_WRITE) return this.#ptWrite(w, index);
    const moves =
      opcode === JOB_COPY || opcode === JOB_FILL ? this.#linear(w, opcode === JOB_FILL) : this.#scatter(w, opcode);
    if (typeof moves === "number") return moves;
    if (checkOnly(w)) return JOB_OK;
    for (const { source, target } of moves) this.#move(source, target, w[JOB_WORD.pattern]!);
    this.bytes[index] = moves.reduce((sum, { target }) => sum + target.bytes, 0);
    return JOB_OK;
  }

  #ptWrite(w: Uint32Array, index: number): number {
    const n = w[JOB_WORD.entries]!;
    const pa = fromHiLo(w[JOB_WORD.targetHi]!, w[JOB_WORD.targetLo]!);
    const first = fromHiLo(w[JOB_WORD.sourceHi]!, w[JOB_WORD.sourceLo]!);
    if (n === 0) return E_LENGTH;
    if (w[JOB_WORD.targetLo]! % 8 !== 0) return E_ALIGN;
    if (first + n * 2 > this.#batch.payloadWords) return E_SRC_RANGE;
    const vram = targetAperture(w) === AP_VRAM;
    const at = pa - tileBase(tileOf(pa));
    if (!vram || n > PT_WRITE_MAX || !this.#contains(AP_VRAM, pa, n * 8)) return E_PTE;
    if (at < 2 * PAGE_SIZE || at + n * 8 > this.#ptBytes) return E_PTE;
    if (checkOnly(w)) return JOB_OK;
    this.#writeTables(pa, this.#batch.payload.subarray(first, first + n * 2));
    this.bytes[index] = n * 8;
    return JOB_OK;
  }

  #linear(w: Uint32Array, fill: boolean): readonly Move[] | number {
    const [from, to] = [sourceAperture(w), targetAperture(w)];
    const source = fromHiLo(w[JOB_WORD.sourceHi]!, w[JOB_WORD.sourceLo]!);
    const target = fromHiLo(w[JOB_WORD.targetHi]!, w[JOB_WORD.targetLo]!);
    const bytes = w[JOB_WORD.bytes]!;
    if (bytes === 0) return E_LENGTH;
    if (w[JOB_WORD.targetLo]! % 4 !== 0 || bytes % 4 !== 0 || (!fill && w[JOB_WORD.sourceLo]! % 4 !== 0))
      return E_ALIGN;
    if (!fill && !this.#contains(from, source, bytes)) return E_SRC_RANGE;
    if (!this.#contains(to, target, bytes)) return E_DST_RANGE;
    if (!fill && from === to && source < target + bytes && target < source + bytes) return E_OVERLAP;
    const targets = this.#places(w, to, target, bytes, ACCESS_WRITE);
    const sources = fill ? [] : this.#places(w, from, source, bytes, ACCESS_READ);
    const virtual = to === AP_VA || (!fill && from === AP_VA);
    if (virtual) this.#device.fillTlb();
    if (targets === null || sources === null) return E_FAULT;
    const moves = fill ? targets.map((place) => ({ source: null, target: place })) : zip(sources, targets);
    return virtual && aliases(moves) ? E_OVERLAP : moves;
  }

  /** Where a range lies: in one piece, or page by page. Null when a page faults; all pages are asked for all the same. */
  #places(w: Uint32Array, aperture: number, address: number, bytes: number, access: number): Place[] | null {
    if (aperture !== AP_VA) return [this.#place(aperture, address, bytes)];
    const places: Place[] = [];
    let faulted = false;
    for (let at = address; at < address + bytes;) {
      const n = Math.min(address + bytes - at, PAGE_SIZE - (at % PAGE_SIZE));
      // The request is for the page: which of its words are wanted is not the translator's business.
      const page = at - (at % PAGE_SIZE);
      const t = this.#device.translateForCopy(w[JOB_WORD.asid]!, lo32(page), hi32(page), access, w[JOB_WORD.tag]!);
      if (t.status === STATUS_FAULT) faulted = true;
      const to = t.status === STATUS_WINDOW ? AP_WINDOW : AP_VRAM;
      const isHole = t.status === STATUS_NULL || t.status === STATUS_FAULT;
      places.push(isHole ? { memory: null, at: 0, bytes: n } : this.#place(to, t.pa + (at - page), n));
      at += n;
    }
    return faulted ? null : places;
  }

  #scatter(w: Uint32Array, opcode: number): readonly Move[] | number {
    const [first, count] = [w[JOB_WORD.sgIndex]!, w[JOB_WORD.sgCount]!];
    if (count === 0) return E_LENGTH;
    if (first + count > this.#batch.sgCount) return E_SRC_RANGE;
    const entries = Array.from({ length: count }, (_, i) => this.#entry(first + i, opcode));
    const total = entries.reduce((sum, entry) => sum + entry.bytes, 0);
    if (entries.some((entry) => entry.bytes === 0) || total >= 2 ** 32) return E_LENGTH;
    // Scatter entries know no VA.
    const exists = (ap: number, at: number, n: number) => ap !== AP_VA && this.#contains(ap, at, n);
    if (entries.some(({ fill, from, source, bytes }) => !fill && !exists(from, source, bytes))) return E_SRC_RANGE;
    if (entries.some(({ to, target, bytes }) => !exists(to, target, bytes))) return E_DST_RANGE;
    const moves = entries.map(({ fill, from, source, to, target, bytes }) => ({
      source: fill ? null : this.#place(from, source, bytes),
      target: this.#place(to, target, bytes),
    }));
    const written = new Map<Uint8Array | null, Set<number>>();
    for (const { target } of moves) {
      const pages = written.get(target.memory) ?? new Set();
      written.set(target.memory, pages);
      for (let at = target.at; at < target.at + target.bytes; at += PAGE_SIZE) pages.add(at);
    }
    for (const { source } of moves) {
      const pages = source === null ? undefined : written.get(source.memory);
      for (let at = source?.at ?? 0; pages !== undefined && at < source!.at + source!.bytes; at += PAGE_SIZE) {
        if (pages.has(at)) return E_OVERLAP;
      }
    }
    return moves;
  }

  #entry(index: number, opcode: number) {
    const [source, target, pages, flags] = this.#batch.sg.subarray(index * SG_STRIDE) as unknown as [
      number,
      number,
      number,
      number,
    ];
    return {
      from: source >>> 30,
      source: (source & 0x0fffffff) * PAGE_SIZE,
      to: target >>> 30,
      target: (target & 0x0fffffff) * PAGE_SIZE,
      bytes: pages * PAGE_SIZE,
      fill: opcode === JOB_FILL_SG || (opcode === JOB_COPY_SG && (flags & SG_CLEAR) !== 0),
    };
  }

  #move(source: Place | null, target: Place, pattern: number): void {
    const data = new Uint8Array(target.bytes);
    if (source === null) new Uint32Array(data.buffer).fill(pattern);
    else if (source.memory !== null) data.set(this.#read(source));
    const { counters } = this.#device;
    if (target.memory === this.#host) this.stores.push({ at: target.at, bytes: data });
    else target.memory?.set(data, target.at);
    if (source === null) counters.fillBytes += target.bytes;
    else if (target.memory === this.#host) counters.downloadBytes += target.bytes;
    else if (source.memory === this.#host) counters.uploadBytes += target.bytes;
  }

  /** Bytes as they stand at this point of the batch. */
  #read({ memory, at, bytes }: Place): Uint8Array {
    const data = memory!.slice(at, at + bytes);
    if (memory !== this.#host) return data;
    for (const store of this.stores) {
      const start = Math.max(at, store.at);
      const end = Math.min(at + bytes, store.at + store.bytes.length);
      if (start < end) data.set(store.bytes.subarray(start - store.at, end - store.at), start - at);
    }
    return data;
  }

  #memoryOf(aperture: number): Uint8Array {
    const { memory } = this.#device;
    return aperture === AP_VRAM ? memory.vram : aperture === AP_WINDOW ? memory.window : memory.host;
  }

  /** True when the range exists, of VRAM in one tile. */
  #contains(aperture: number, at: number, bytes: number): boolean {
    if (aperture === AP_VRAM) return this.#device.memory.space.contains(at, bytes);
    const size = aperture === AP_VA ? VA_LIMIT : aperture <= AP_HOST ? this.#memoryOf(aperture).length : -1;
    return at + bytes <= size;
  }

  /** Where a range that exists lies. */
  #place(aperture: number, at: number, bytes: number): Place {
    const { space } = this.#device.memory;
    return { memory: this.#memoryOf(aperture), at: aperture === AP_VRAM ? space.linear(at) : at, bytes };
  }
}

function sourceAperture(w: Uint32Array): number {
  return (w[JOB_WORD.control]! >>> 8) & 15;
}

function targetAperture(w: Uint32Array): number {
  return (w[JOB_WORD.control]! >>> 12) & 15;
}

function checkOnly(w: Uint32Array): boolean {
  return ((w[JOB_WORD.control]! >>> 16) & JOB_FLAG_CHECK_ONLY) !== 0;
}

/** Cuts both sides at each other's borders. */
function zip(sources: readonly Place[], targets: readonly Place[]): Move[] {
  const moves: Move[] = [];
  let [i, k, si, ti] = [0, 0, 0, 0];
  while (i < sources.length) {
    const [source, target] = [sources[i]!, targets[k]!];
    const bytes = Math.min(source.bytes - si, target.bytes - ti);
    moves.push({
      source: { memory: source.memory, at: source.at + si, bytes },
      target: { memory: target.memory, at: target.at + ti, bytes },
    });
    si += bytes;
    ti += bytes;
    if (si === source.bytes) [i, si] = [i + 1, 0];
    if (ti === target.bytes) [k, ti] = [k + 1, 0];
  }
  return moves;
}

/** True when two destinations, or a source and a destination, are the same bytes. */
function aliases(moves: readonly Move[]): boolean {
  return moves.some(({ target }, i) =>
    moves.some(
      ({ source, target: other }, k) => (source !== null && share(source, target)) || (i !== k && share(other, target)),
    ),
  );
}

function share(a: Place, b: Place): boolean {
  return a.memory !== null && a.memory === b.memory && a.at < b.at + b.bytes && b.at < a.at + a.bytes;
}
