/** Page tables on the reference engine with a flat model beside them: what every page of 2 GiB must translate to. */
import fc from "fast-check";
import { PAGE_SIZE, SZ_1G, SZ_2M, SZ_64K, hi32, lo32 } from "../../src/base/addr.ts";
import { assert } from "../../src/base/assert.ts";
import { ENOMEM, isErr } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { Random } from "../../src/base/random.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_P, PTE_PS, PTE_W } from "../../src/abi/pte.ts";
import { INFO_AE, INFO_W, STATUS_FAULT, STATUS_NULL, STATUS_VRAM, STATUS_WINDOW } from "../../src/abi/tables.ts";
import { ASID_FAULT_MODE, ASID_SCRATCH, ASID_VALID } from "../../src/hal/gpu.ts";
import type { Gpu } from "../../src/hal/gpu.ts";
import { GpuPageTables } from "../../src/driver/page-tables.ts";
import type { PageTableOptions } from "../../src/driver/page-tables.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { ASID_WORDS, newTranslation, translateModel } from "../../src/reference/translate-model.ts";
import type { WalkerState } from "../../src/reference/translate-model.ts";

export const ASID = 3;
export const PT_BYTES = 1 << 20;
export const ALL_SIZES = [PAGE_SIZE, SZ_64K, SZ_2M, SZ_1G];
/** More memory than any PA of the tests, so that every one of them exists. */
const PLENTY = 2 ** 46;
/** Size of the leaf by size class. */
export const CLASS_SIZE = [PAGE_SIZE, SZ_64K, SZ_2M, SZ_1G];

export function referenceGpu(): Gpu {
  const hostMemory = new Uint8Array(PAGE_SIZE);
  return createReferenceGpu({
    vramBytes: 4 * SZ_2M,
    ptBytes: PT_BYTES,
    syswBytes: 0,
    faultQueueCapacity: 64,
    hostMemory,
  });
}

export type TableEvent =
  | { readonly kind: "write"; readonly pa: number; readonly words: Uint32Array }
  | { readonly kind: "alloc" | "free"; readonly pa: number }
  | { readonly kind: "invalidate"; readonly start: number; readonly end: number };

/** One address space: what its tables do to the GPU and to the allocator is recorded in order. */
export class TableSpace {
  readonly tables: GpuPageTables;
  readonly events: TableEvent[] = [];
  /** The aperture as the writes left it. */
  readonly vram = new Uint32Array(PT_BYTES / 4);
  readonly gpu: Gpu;
  readonly levels: number;
  /** Pages that `alloc` still gives before it fails once; -1: it never fails. */
  failAt = -1;
  readonly #free: number[] = [];
  readonly #used = new Set<number>();

  constructor(
    leafSizes: readonly number[] = ALL_SIZES,
    options: PageTableOptions = {},
    gpu = referenceGpu(),
    also?: Gpu,
  ) {
    for (let pa = PT_BYTES - PAGE_SIZE; pa >= 2 * PAGE_SIZE; pa -= PAGE_SIZE) this.#free.push(pa);
    this.gpu = gpu;
    const ptWrite = (pa: number, words: Uint32Array): void => {
      gpu.ptWrite(pa, words);
      also?.ptWrite(pa, words);
      assert(words.length > 0 && words.length <= 1024, "a write is 1 to 512 entries");
      this.vram.set(words, pa / 4);
      this.events.push({ kind: "write", pa, words: words.slice() });
    };
    const recording = new Proxy(gpu, {
      get: (target, name) => (name === "ptWrite" ? ptWrite : Reflect.get(target, name)),
    });
    const tables = GpuPageTables.create(
      recording,
      { alloc: () => this.#alloc(), free: (pa) => this.#release(pa) },
      leafSizes,
      options,
    );
    assert(!isErr(tables), "there is room for a root");
    this.tables = tables;
    this.levels = tables.levels;
    for (const g of also === undefined ? [gpu] : [gpu, also]) {
      const mode = options.scratch === true ? ASID_SCRATCH : ASID_FAULT_MODE;
      g.asidSet(ASID, tables.root, ASID_VALID | mode | (tables.levels << 4));
    }
  }

  get used(): number {
    return this.#used.size;
  }

  #alloc(): number | Errno {
    if (this.failAt === 0) {
      this.failAt = -1;
      return ENOMEM;
    }
    if (this.failAt > 0) this.failAt -= 1;
    // The page freed last comes first: what is still pointed to would be overwritten at once.
    const pa = this.#free.pop();
    if (pa === undefined) return ENOMEM;
    this.#used.add(pa);
    this.events.push({ kind: "alloc", pa });
    return pa;
  }

  #release(pa: number): void {
    assert(this.#used.delete(pa), "a page is freed once");
    this.#free.push(pa);
    this.events.push({ kind: "free", pa });
    // Nothing may look into a freed page any more; a walk that did would find it malformed.
    const garbage = new Uint32Array(1024).fill(0xffffffff);
    this.gpu.ptWrite(pa, garbage);
    this.vram.set(garbage, pa / 4);
  }

  flush(): void {
    this.tables.flush((start, end) => this.events.push({ kind: "invalidate", start, end }));
  }

  /** The events since the last call. */
  take(): TableEvent[] {
    return this.events.splice(0);
  }

  /** Runs `update`, flushes, and gives what it did. */
  done(update: () => unknown): {
    writes: { pa: number; entries: number }[];
    flushed: string | null;
    events: TableEvent[];
  } {
    this.take();
    update();
    this.flush();
    const events = this.take();
    const writes = events.flatMap((e) => (e.kind === "write" ? [{ pa: e.pa, entries: e.words.length / 2 }] : []));
    const flushes = events.flatMap((e) =>
      e.kind === "invalidate" ? [`${e.start.toString(16)}-${e.end.toString(16)}`] : [],
    );
    assert(flushes.length <= 1, "one invalidation at most");
    return { writes, flushed: flushes[0] ?? null, events };
  }

  /** Tables that a walk reaches, by PA. */
  reachable(): Set<number> {
    const found = new Set<number>([this.tables.root]);
    const visit = (pa: number, level: number): void => {
      for (let at = pa / 4; level > 0 && at < (pa + PAGE_SIZE) / 4; at += 2) {
        const lo = this.vram[at]!;
        if ((lo & PTE_P) === 0 || (lo & PTE_PS) !== 0) continue;
        const child = (lo & 0xfffff000) >>> 0;
        assert(!found.has(child), "a table has one parent");
        found.add(child);
        visit(child, level - 1);
      }
    };
    visit(this.tables.root, this.levels - 1);
    return found;
  }

  /** The reference engine's walker over the VRAM of the GPU. */
  async walker(): Promise<(va: number) => PageState> {
    const bytes = await this.gpu.readVram(0, PT_BYTES);
    const asids = new Uint32Array(16 * ASID_WORDS);
    asids.set([ASID_VALID | (this.levels << 4), lo32(this.tables.root), hi32(this.tables.root)], ASID * ASID_WORDS);
    const vram = new Uint32Array(bytes.buffer, bytes.byteOffset, PT_BYTES / 4);
    const state: WalkerState = {
      vram,
      vramBytes: PLENTY,
      ptBytes: PT_BYTES,
      syswBytes: PLENTY,
      asids,
      tlb: null,
      systemAtomics: true,
    };
    const t = newTranslation();
    return (va) => {
      translateModel(state, ASID, lo32(va), hi32(va), 0, t);
      if (t.status === STATUS_FAULT) {
        assert(
          t.faultType === 0,
          () => `fault ${t.faultType}, reason ${t.reason}, level ${t.level} at ${va.toString(16)}`,
        );
        return { present: false, pa: 0, flags: 0, size: 0, reason: t.reason };
      }
      const memory = t.status === STATUS_VRAM ? PTE_DM : t.status === STATUS_NULL ? PTE_NULL : 0;
      const flags = memory | ((t.info & INFO_W) !== 0 ? PTE_W : 0) | ((t.info & INFO_AE) !== 0 ? PTE_AE : 0);
      assert([STATUS_NULL, STATUS_VRAM, STATUS_WINDOW].includes(t.status), "a page is NULL or has memory");
      return { present: true, pa: t.pa, flags, size: CLASS_SIZE[t.info & 3]!, reason: 0 };
    };
  }
}

export interface PageState {
  present: boolean;
  pa: number;
  flags: number;
  /** Bytes of the leaf. */
  size: number;
  reason: number;
}

/** What each page of `[base, base + 2 GiB)` must be. */
export class FlatModel {
  static readonly PAGES = (2 * SZ_1G) / PAGE_SIZE;
  readonly base: number;
  /** PA of each page, -1 where nothing is mapped. */
  readonly pas = new Float64Array(FlatModel.PAGES).fill(-1);
  readonly flags = new Uint32Array(FlatModel.PAGES);
  readonly reasons = new Uint8Array(FlatModel.PAGES);

  constructor(base: number) {
    this.base = base;
  }

  va(page: number): number {
    return this.base + page * PAGE_SIZE;
  }

  map(first: number, pas: Float64Array, flags: Uint32Array): void {
    for (let i = 0; i < pas.length; i++) {
      const isNull = (flags[i]! & PTE_NULL) !== 0;
      this.pas[first + i] = isNull ? 0 : pas[i]!;
      this.flags[first + i] = isNull ? flags[i]! & (PTE_NULL | PTE_W) : flags[i]!;
    }
    this.reasons.fill(0, first, first + pas.length);
  }

  zap(first: number, pages: number, reason: number): void {
    for (let i = first; i < first + pages; i++) if (this.pas[i] !== -1) this.reasons[i] = reason;
    this.pas.fill(-1, first, first + pages);
  }

  unmap(first: number, pages: number): void {
    this.pas.fill(-1, first, first + pages);
    this.reasons.fill(0, first, first + pages);
  }

  /** What is wrong with what the walker says of a page, or null. A reason may be lost, never invented. */
  difference(page: number, found: PageState): string | null {
    const pa = this.pas[page]!;
    const ok = found.present
      ? found.pa === pa && found.flags === this.flags[page]
      : pa === -1 && (found.reason === 0 || found.reason === this.reasons[page]);
    if (ok) return null;
    return `page ${page}: ${JSON.stringify(found)} instead of ${pa}, ${this.flags[page]}, ${this.reasons[page]}`;
  }
}

/** Pages around the middle, where a 1 GiB leaf ends and the next begins: each of them is looked at after each step. */
export const DETAIL = { first: FlatModel.PAGES / 2 - 512, pages: 1024 };

const STYLES = ["1G", "2M", "64K", "4K", "pieces", "scatter", "mixed", "null"] as const;
export type Op =
  | {
      kind: "map";
      first: number;
      pages: number;
      style: (typeof STYLES)[number];
      flags: number;
      seed: number;
      flush: boolean;
    }
  | { kind: "zap" | "unmap" | "split" | "collapse"; first: number; pages: number; flush: boolean };

const region = fc.oneof(
  { weight: 4, arbitrary: part(1, 70) },
  { weight: 4, arbitrary: part(16, 40) },
  {
    weight: 4,
    arbitrary: fc
      .record({ first: fc.integer({ min: -2, max: 3 }), count: fc.integer({ min: 1, max: 2 }) })
      .map(({ first, count }) => ({ first: DETAIL.first + first * 512, pages: count * 512 })),
  },
  { weight: 1, arbitrary: fc.nat(1).map((i) => ({ first: i * 262144, pages: 262144 })) },
);

function part(unit: number, most: number): fc.Arbitrary<{ first: number; pages: number }> {
  const units = DETAIL.pages / unit;
  return fc.record({ at: fc.nat(units - 1), count: fc.integer({ min: 1, max: most }) }).map(({ at, count }) => ({
    first: DETAIL.first + at * unit,
    pages: Math.min(count, units - at) * unit,
  }));
}

const flush = fc.integer({ min: 0, max: 3 }).map((n) => n > 0);
const flags = fc.constantFrom(
  PTE_W | PTE_AE | PTE_DM,
  PTE_W | PTE_DM,
  PTE_AE | PTE_DM,
  PTE_DM,
  PTE_W,
  PTE_W | PTE_AE,
  0,
);

export const anyOp: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(
        region,
        fc.record({
          kind: fc.constant("map" as const),
          style: fc.constantFrom(...STYLES),
          flags,
          seed: fc.nat(7),
          flush,
        }),
      )
      .map(([r, o]) => ({ ...r, ...o })),
  },
  {
    weight: 5,
    arbitrary: fc
      .tuple(region, fc.record({ kind: fc.constantFrom("zap", "unmap", "split", "collapse"), flush }))
      .map(([r, o]) => ({ ...r, ...o }) as Op),
  },
);

const made = new WeakMap<Op, { pas: Float64Array; flags: Uint32Array }>();

/** The pages of a map step, made once however often it is tried. */
function pagesOf(op: Op & { kind: "map" }, limit?: number): { pas: Float64Array; flags: Uint32Array } {
  const known = made.get(op) ?? makePages(op, limit);
  made.set(op, known);
  return known;
}

/** Equal seeds give equal addresses, so that pieces join and rebinding changes nothing. */
function makePages(op: Op & { kind: "map" }, limit = 2 ** 38): { pas: Float64Array; flags: Uint32Array } {
  const pas = new Float64Array(op.pages);
  const words = new Uint32Array(op.pages).fill(op.style === "null" ? op.flags | PTE_NULL : op.flags);
  const random = new Random(op.seed);
  const unit = { "1G": 262144, "2M": 512, "64K": 16, "4K": 1, null: 1, pieces: 16, scatter: 1, mixed: 40 }[op.style];
  const whole = op.style !== "pieces" && op.style !== "scatter" && op.style !== "mixed";
  // Pages from an aligned place; what is cut into pieces has a place for each.
  const place = (): number =>
    random.below(Math.max(1, Math.floor(limit / PAGE_SIZE / unit) - Math.ceil(524288 / unit))) * unit;
  let base = whole ? place() : 0;
  if (op.style === "64K" && base % 512 === 0) base += 16;
  for (let i = 0; i < op.pages; i++) {
    const page = op.first + i;
    if (whole) pas[i] = ((base + page) % Math.max(unit, limit / PAGE_SIZE)) * PAGE_SIZE;
    else {
      if (i === 0 || page % unit === 0) base = place();
      pas[i] = (base + (page % unit)) * PAGE_SIZE;
      if (op.style === "mixed" && page % unit > 20) words[i] = op.flags ^ PTE_W;
    }
  }
  return { pas, flags: words };
}

/** Carries a step out on tables and model; -ENOMEM: on neither. Cuts first where a leaf could stick out. */
export function applyOp(tables: GpuPageTables, model: FlatModel, op: Op, limit?: number): 0 | Errno {
  const [start, end] = [model.va(op.first), model.va(op.first + op.pages)];
  switch (op.kind) {
    case "map": {
      const pages = pagesOf(op, limit);
      const ret = tables.map(start, op.pages, pages.pas, pages.flags);
      if (ret === 0) model.map(op.first, pages.pas, pages.flags);
      return ret;
    }
    case "split":
      return tables.split(start, end);
    case "collapse":
      return tables.collapse(start, end);
    case "zap":
    case "unmap": {
      const ret = tables.split(start, end);
      if (isErr(ret)) return ret;
      if (op.kind === "zap") {
        tables.zap(start, end, 2);
        model.zap(op.first, op.pages, 2);
      } else {
        tables.unmap(start, end);
        model.unmap(op.first, op.pages);
      }
      return 0;
    }
  }
}
