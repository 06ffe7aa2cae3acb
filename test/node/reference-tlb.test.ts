import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { SZ_1G, SZ_2M, SZ_4K, SZ_64K, fromHiLo, hi32, lo32 } from "../../src/base/addr.ts";
import { ACCESS_READ, FATAL_PHYS_RANGE, FAULT_FATAL } from "../../src/abi/fault.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_W, encodeDirectory, encodeLeaf, ptIndex } from "../../src/abi/pte.ts";
import { FILL_CAP, STATUS_FAULT, STATUS_VRAM } from "../../src/abi/tables.ts";
import { TLB_VALID, TLB_W, tlbSet } from "../../src/abi/tlb.ts";
import { ASID_FAULT_MODE, ASID_VALID } from "../../src/hal/gpu.ts";
import { TlbModel } from "../../src/reference/tlb-model.ts";
import { translateModel } from "../../src/reference/translate-model.ts";
import type { Translation, WalkerState } from "../../src/reference/translate-model.ts";

const ASID = 2;
const always = (generation: number) => (): number => generation;

/** Logs a 4 KiB page of ASID 2 at its own number as address. */
function log(tlb: TlbModel, va: number, flags = TLB_VALID, generation = 0): void {
  tlb.log(lo32(va), hi32(va), ASID, generation, flags, lo32(va), 0);
}
const has = (tlb: TlbModel, va: number, generation = 0): boolean =>
  tlb.lookup(lo32(va), hi32(va), ASID, generation) >= 0;

describe("the TLB", () => {
  /** Six pages of one set. */
  const set = tlbSet(0, ASID, 0);
  const pages: number[] = [];
  for (let page = 0; pages.length < 6; page++) if (tlbSet(page * SZ_4K, ASID, 0) === set) pages.push(page * SZ_4K);

  test("a set holds four pages; the fifth takes the place of the first", () => {
    const tlb = new TlbModel();
    for (const page of pages.slice(0, 5)) log(tlb, page);
    expect(has(tlb, pages[0]!)).toBe(false);
    tlb.fill(always(0));
    expect(pages.map((page) => has(tlb, page))).toEqual([false, true, true, true, true, false]);
    log(tlb, pages[5]!);
    tlb.fill(always(0));
    expect(pages.map((page) => has(tlb, page))).toEqual([false, false, true, true, true, true]);
  });

  test("a page that comes again overwrites its entry, so that a permission upgrade arrives", () => {
    const tlb = new TlbModel();
    log(tlb, pages[0]!);
    log(tlb, pages[0]!, TLB_VALID | TLB_W);
    tlb.fill(always(0));
    expect(tlb.flags(tlb.lookup(lo32(pages[0]!), 0, ASID, 0)) & TLB_W).toBe(TLB_W);
    log(tlb, pages[1]!);
    log(tlb, pages[2]!);
    log(tlb, pages[3]!);
    tlb.fill(always(0));
    expect(pages.slice(0, 4).every((page) => has(tlb, page))).toBe(true);
  });

  test("entries of an old generation do not answer, their candidates are ignored, their ways are taken first", () => {
    const tlb = new TlbModel();
    for (const page of pages.slice(0, 4)) log(tlb, page);
    tlb.fill(always(0));
    log(tlb, pages[4]!, TLB_VALID, 0);
    log(tlb, pages[5]!, TLB_VALID, 1);
    tlb.fill(always(1));
    expect(has(tlb, pages[0]!, 1)).toBe(false);
    expect(has(tlb, pages[4]!, 0)).toBe(false);
    expect(has(tlb, pages[5]!, 1)).toBe(true);
    expect(pages.slice(0, 4).map((page) => has(tlb, page, 0))).toEqual([false, true, true, true]);
  });

  test("a full log drops and counts", () => {
    const tlb = new TlbModel();
    for (let i = 0; i < FILL_CAP + 3; i++) log(tlb, i * SZ_4K);
    expect(tlb.dropped).toBe(3);
    tlb.fill(always(0));
    expect(tlb.dropped).toBe(0);
  });

  test.each([
    ["just below", -1, -1, true],
    ["its first byte", -1, 0, false],
    ["its last byte", SZ_4K - 1, SZ_4K, false],
    ["just above", SZ_4K, SZ_4K, true],
  ])("invalidating %s", (_name, start, last, stays) => {
    const tlb = new TlbModel();
    const va = 0x7f0000001000;
    log(tlb, va);
    tlb.fill(always(0));
    tlb.invalidate(ASID + 1, va, va);
    tlb.invalidate(ASID, va + start, va + last);
    expect(has(tlb, va)).toBe(stays);
  });
});

describe("a walker with a TLB", () => {
  const SIZE: readonly number[] = [SZ_4K, SZ_64K, SZ_2M, SZ_1G];
  const PT_BYTES = SZ_2M;
  const VRAM_BYTES = 16 * SZ_2M;
  const ROOT = 0x2000;
  const BASE = 0x7f0000000000;

  /** One 1 GiB, 2 MiB or 4 KiB area each, so that all sizes of leaves occur; L2 at 0x3000, L1 0x4000, L0 0x5000, compact 0x6000. */
  function fresh(): {
    state: WalkerState;
    bare: WalkerState;
    tlb: TlbModel;
    put: (table: number, index: number, words: Uint32Array) => void;
  } {
    const vram = new Uint32Array(PT_BYTES / 4);
    const put = (table: number, index: number, words: Uint32Array): void => vram.set(words, table / 4 + 2 * index);
    const asids = new Uint32Array(256 * 8);
    asids.set([ASID_VALID | ASID_FAULT_MODE | (4 << 4), ROOT, 0, 7], ASID * 8);
    put(ROOT, ptIndex(BASE, 3), encodeDirectory(0x3000));
    put(0x3000, 0, encodeDirectory(0x4000));
    put(0x4000, 0, encodeDirectory(0x5000));
    put(0x4000, 1, encodeDirectory(0x6000, true));
    const tlb = new TlbModel();
    const state: WalkerState = {
      vram,
      vramBytes: VRAM_BYTES,
      ptBytes: PT_BYTES,
      syswBytes: SZ_2M,
      asids,
      tlb,
      systemAtomics: false,
    };
    return { state, bare: { ...state, tlb: null }, tlb, put };
  }

  test("checks the physical range again on a hit in a leaf that sticks out of memory", () => {
    const { state, tlb, put } = fresh();
    put(0x3000, 1, encodeLeaf(0, PTE_DM | PTE_W, 2));
    const va = BASE + SZ_1G;
    const at = (offset: number): Translation =>
      translateModel(state, ASID, lo32(va + offset), hi32(va + offset), ACCESS_READ);
    expect(at(4)).toMatchObject({ status: STATUS_VRAM, pa: 4 });
    tlb.fill(always(7));
    expect(at(VRAM_BYTES - 4)).toMatchObject({ status: STATUS_VRAM, pa: VRAM_BYTES - 4 });
    expect(at(VRAM_BYTES)).toMatchObject({
      status: STATUS_FAULT,
      faultType: FAULT_FATAL,
      reason: FATAL_PHYS_RANGE,
      level: 2,
    });
  });

  test("answers as one without, as long as every change that needs an invalidation gets one", () => {
    const flags = fc.constantFrom(
      PTE_DM,
      PTE_DM | PTE_W,
      PTE_DM | PTE_W | PTE_AE,
      PTE_W,
      PTE_W | PTE_AE,
      PTE_NULL,
      PTE_NULL | PTE_W,
    );
    const change = fc.record({
      where: fc.integer({ min: 0, max: 3 }),
      index: fc.integer({ min: 0, max: 3 }),
      pa: fc.nat({ max: 63 }),
      flags,
      present: fc.boolean(),
    });
    const request = fc.record({
      where: fc.integer({ min: 0, max: 3 }),
      index: fc.integer({ min: 0, max: 3 }),
      offset: fc.nat(),
      access: fc.constantFrom(0, 1, 2),
    });
    /** Where the areas with 4 KiB, 64 KiB, 2 MiB and 1 GiB leaves begin. */
    const areas = [
      { table: 0x5000, first: 0, base: BASE, level: 0 },
      { table: 0x6000, first: 0, base: BASE + SZ_2M, level: 0 },
      { table: 0x4000, first: 2, base: BASE + 2 * SZ_2M, level: 1 },
      { table: 0x3000, first: 1, base: BASE + SZ_1G, level: 2 },
    ];
    fc.assert(
      fc.property(fc.array(fc.oneof(change, request, request, request), { maxLength: 150, size: "max" }), (steps) => {
        const { state, bare, tlb, put } = fresh();
        for (const s of steps) {
          const { table, first, base, level } = areas[s.where]!;
          const size = SIZE[s.where]!;
          const va = base + s.index * size;
          if ("pa" in s) {
            put(table, first + s.index, s.present ? encodeLeaf(s.pa * size, s.flags, level) : new Uint32Array(2));
            tlb.invalidate(ASID, va, va + size - 1);
          } else {
            const at = va + (s.offset % size);
            const words: [number, number] = [lo32(at), hi32(at)];
            const got = { ...translateModel(state, ASID, ...words, s.access) };
            const want = translateModel(bare, ASID, ...words, s.access);
            expect([got.status, got.pa, got.info]).toEqual([want.status, want.pa, want.info]);
            tlb.fill(always(7));
          }
        }
      }),
      { numRuns: 60 },
    );
  });

  test("walks five levels of a 57-bit space", () => {
    const { state, put } = fresh();
    state.asids[ASID * 8] = ASID_VALID | (5 << 4);
    const hi = 0x1012345;
    const lo = 0x6789abcc;
    const index = [
      (lo >>> 12) & 511,
      (lo >>> 21) & 511,
      ((lo >>> 30) | (hi << 2)) & 511,
      (hi >>> 7) & 511,
      (hi >>> 16) & 511,
    ];
    for (let level = 4; level > 0; level--)
      put(0x2000 + (4 - level) * 0x1000, index[level]!, encodeDirectory(0x3000 + (4 - level) * 0x1000));
    put(0x6000, index[0]!, encodeLeaf(0x300000, PTE_DM, 0));
    expect(translateModel(state, ASID, lo, hi, ACCESS_READ)).toMatchObject({ status: STATUS_VRAM, pa: 0x300bcc });
    expect(translateModel(state, ASID, lo, 0x2000000, ACCESS_READ).status).toBe(STATUS_FAULT);
    expect(fromHiLo(hi, lo)).toBeGreaterThan(2 ** 53);
  });
});
