import { fromHiLo } from "../base/addr.ts";
import { CLASS_SHIFT } from "../abi/pte.ts";
import { FILL_CAP } from "../abi/tables.ts";
import { TLB_CLASS_BASE, TLB_CLASS_POS, TLB_ENTRIES, TLB_SETS, TLB_VALID, TLB_WAYS, tlbSet } from "../abi/tlb.ts";

const WORDS = 8;
/** Word offsets in an entry; `SET` in a fill candidate only, `VICTIM` in way 0 only. */
const TAG = 0;
const VA_HI = 1;
const ASID = 2;
const GENERATION = 3;
const PA_LO = 4;
const PA_HI = 5;
const SET = 6;
const VICTIM = 7;
const CLASS_MASK = 3 << TLB_CLASS_POS;

/**
 * The TLB and its fill log (spec/device.md 3.3, 3.4), on words laid out as in `ctl`.
 *
 * Translations only read it and append candidates to the log; `fill` takes the log over at the dispatch boundary behind
 * them, so an invalidation can never be overtaken by an entry made from older tables.
 */
export class TlbModel {
  readonly words = new Uint32Array(TLB_ENTRIES * WORDS);
  readonly #log = new Uint32Array(FILL_CAP * WORDS);
  #logged = 0;
  /** Candidates that found the log full, since the last `fill`. */
  dropped = 0;

  /** Word offset of the entry that answers for a page, or -1. `page` is the address with its low 12 bits clear. */
  lookup(pageLo: number, hi: number, asid: number, generation: number): number {
    const w = this.words;
    for (let sizeClass = 0; sizeClass < TLB_SETS.length; sizeClass++) {
      const tag = this.#maskedVa(pageLo, sizeClass) | TLB_VALID | (sizeClass << TLB_CLASS_POS);
      const base = this.#setBase(pageLo, hi, asid, sizeClass) * WORDS;
      for (let at = base; at < base + TLB_WAYS * WORDS; at += WORDS) {
        if (
          this.#sameTag(at, tag) &&
          w[at + VA_HI] === hi &&
          w[at + ASID] === asid &&
          w[at + GENERATION] === generation
        ) {
          return at;
        }
      }
    }
    return -1;
  }

  /** Flags and class of an entry: the tag without the address. */
  flags(at: number): number {
    return this.words[at + TAG]! & 0xfff;
  }
  /** Base address of the entry's page. */
  pa(at: number): number {
    return fromHiLo(this.words[at + PA_HI]!, this.words[at + PA_LO]!);
  }

  /** Appends a candidate. `flags` has the bits of word 0 of an entry below the address. */
  log(pageLo: number, hi: number, asid: number, generation: number, flags: number, paLo: number, paHi: number): void {
    if (this.#logged === FILL_CAP) {
      this.dropped += 1;
      return;
    }
    const sizeClass = (flags & CLASS_MASK) >> TLB_CLASS_POS;
    const at = this.#logged * WORDS;
    this.#logged += 1;
    this.#log[at + TAG] = this.#maskedVa(pageLo, sizeClass) | flags;
    this.#log[at + VA_HI] = hi;
    this.#log[at + ASID] = asid;
    this.#log[at + GENERATION] = generation;
    this.#log[at + PA_LO] = paLo;
    this.#log[at + PA_HI] = paHi;
    this.#log[at + SET] = this.#setBase(pageLo, hi, asid, sizeClass);
  }

  /** Takes over the log in its order and empties it. `generationOf` gives the current generation of an ASID. */
  fill(generationOf: (asid: number) => number): void {
    const w = this.words;
    for (let from = 0; from < this.#logged * WORDS; from += WORDS) {
      const entry = this.#log.subarray(from, from + WORDS);
      const generation = generationOf(entry[ASID]!);
      if (entry[GENERATION] !== generation) continue;
      const to = this.#wayFor(entry, generationOf);
      for (let i = TAG; i <= PA_HI; i++) w[to + i] = entry[i]!;
    }
    this.#logged = 0;
    this.dropped = 0;
  }

  /** The same page again, else a free or outdated way, else the set's next victim. */
  #wayFor(entry: Uint32Array, generationOf: (asid: number) => number): number {
    const w = this.words;
    const base = entry[SET]! * WORDS;
    let free = -1;
    for (let at = base; at < base + TLB_WAYS * WORDS; at += WORDS) {
      const current = (w[at + TAG]! & TLB_VALID) !== 0 && w[at + GENERATION] === generationOf(w[at + ASID]!);
      if (!current) {
        if (free < 0) free = at;
      } else if (this.#sameTag(at, entry[TAG]!) && w[at + VA_HI] === entry[VA_HI] && w[at + ASID] === entry[ASID]) {
        return at;
      }
    }
    if (free >= 0) return free;
    const victim = w[base + VICTIM]! % TLB_WAYS;
    w[base + VICTIM] = victim + 1;
    return base + victim * WORDS;
  }

  /** Drops what intersects `[start, last]` of one ASID. */
  invalidate(asid: number, start: number, last: number): void {
    const w = this.words;
    for (let at = 0; at < w.length; at += WORDS) {
      if ((w[at + TAG]! & TLB_VALID) === 0 || w[at + ASID] !== asid) continue;
      const va = fromHiLo(w[at + VA_HI]!, (w[at + TAG]! & 0xfffff000) >>> 0);
      const size = 2 ** CLASS_SHIFT[(w[at + TAG]! & CLASS_MASK) >> TLB_CLASS_POS]!;
      if (va <= last && va + size - 1 >= start) w[at + TAG]! &= ~TLB_VALID;
    }
  }

  #sameTag(at: number, tag: number): boolean {
    return ((this.words[at + TAG]! ^ tag) & (0xfffff000 | CLASS_MASK | TLB_VALID)) === 0;
  }

  #maskedVa(pageLo: number, sizeClass: number): number {
    return (pageLo & (-1 << CLASS_SHIFT[sizeClass]!)) >>> 0;
  }

  /** Index of way 0 of the set. */
  #setBase(pageLo: number, hi: number, asid: number, sizeClass: number): number {
    return TLB_CLASS_BASE[sizeClass]! + TLB_WAYS * tlbSet(fromHiLo(hi, pageLo), asid, sizeClass);
  }
}
