import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compose } from "../../src/abi/compose.ts";
import { decodeFault, encodeFault, faultKey, isFaultStamped } from "../../src/abi/fault.ts";
import { arrayOf, at, struct } from "../../src/abi/layout.ts";
import { mix32 } from "../../src/abi/mix32.ts";
import * as pte from "../../src/abi/pte.ts";
import { Ctl, FAULTQ_WORD, faultQueueType } from "../../src/abi/tables.ts";
import {
  TLB_CLASS_BASE,
  TLB_ENTRIES,
  TLB_SETS,
  TLB_WAYS,
  tlbSeqnoNext,
  tlbSeqnoPast,
  tlbSet,
} from "../../src/abi/tlb.ts";

const VA = 0x7f1234567abc;

describe("check values of the specification", () => {
  test("mix32", () => {
    expect(mix32(1)).toBe(0x688990c0);
    expect(mix32(0x12345678)).toBe(0xf5e71c96);
  });

  test("table indices of an address", () => {
    expect([0, 1, 2, 3, 4].map((level) => pte.ptIndex(VA, level))).toEqual([359, 418, 72, 254, 0]);
    expect(pte.ptIndex(VA, 0, true)).toBe(22);
  });

  test("TLB sets of an address for two address spaces", () => {
    expect([0, 1, 2, 3].map((c) => tlbSet(VA, 2, c))).toEqual([91, 53, 2, 14]);
    expect([0, 1, 2, 3].map((c) => tlbSet(VA, 3, c))).toEqual([218, 33, 26, 7]);
  });

  test("sequence numbers of invalidations compare across the wrap", () => {
    expect(tlbSeqnoPast(5, 4)).toBe(false);
    expect(tlbSeqnoPast(5, 5)).toBe(true);
    expect(tlbSeqnoPast(1, 0xfffff)).toBe(false);
    expect(tlbSeqnoPast(0xfffff, 1)).toBe(true);
    expect(tlbSeqnoNext(0xfffff)).toBe(1);
  });

  test("word offsets of ctl and faultq", () => {
    expect(Ctl.word).toMatchObject({
      header: 0,
      engines: 64,
      asids: 128,
      tlb: 4096,
      fill_count: 20480,
      fill_log: 20484,
    });
    expect(Ctl.word).toMatchObject({ inval_count: 65536, inval_queue: 65540 });
    expect(Ctl.size).toBe(1 << 20);
    expect(FAULTQ_WORD).toEqual({
      head: 0,
      tail: 1,
      cap: 2,
      dropped: 3,
      dedup_hits: 4,
      epoch: 5,
      remaining: 6,
      fatal: 7,
      next_x: 8,
      next_y: 9,
      next_z: 10,
      miss_head: 11,
      next_items: 12,
    });
    expect(faultQueueType(4096, 4096).word).toMatchObject({ dedup: 16, records: 4112, misses: 4112 + 4096 * 8 });
  });

  test("TLB geometry adds up to 1600 entries", () => {
    const ends = TLB_SETS.map((sets, c) => TLB_CLASS_BASE[c]! + sets * TLB_WAYS);
    expect(ends).toEqual([...TLB_CLASS_BASE.slice(1), TLB_ENTRIES]);
  });
});

describe("page-table entries", () => {
  const leafFlags = fc.subarray([pte.PTE_W, pte.PTE_AE, pte.PTE_DM]);

  test.each([
    [0, 12, pte.CLASS_4K],
    [1, 21, pte.CLASS_2M],
    [2, 30, pte.CLASS_1G],
  ])("a leaf at level %i decodes to what was encoded", (level, shift, sizeClass) => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** (46 - shift) - 1 }), leafFlags, (frame, flags) => {
        const pa = frame * 2 ** shift;
        const [lo, hi] = pte.encodeLeaf(
          pa,
          flags.reduce((a, b) => a | b, 0),
          level,
        );
        expect(pte.decodePte(lo!, hi!, level, false, VA)).toEqual({
          kind: "leaf",
          sizeClass,
          pa,
          w: flags.includes(pte.PTE_W),
          ae: flags.includes(pte.PTE_AE),
          vram: flags.includes(pte.PTE_DM),
          isNull: false,
        });
      }),
    );
  });

  test("a 64 KiB hint carries the address of its own 4 KiB page", () => {
    const [lo, hi] = pte.encodeLeaf(0x47000, pte.PTE_PS64 | pte.PTE_DM, 0);
    expect(pte.decodePte(lo!, hi!, 0, false, 0x7000)).toMatchObject({
      kind: "leaf",
      sizeClass: pte.CLASS_64K,
      pa: 0x40000,
    });
    expect(pte.decodePte(lo!, hi!, 0, false, 0x6000)).toEqual({ kind: "malformed" });
  });

  test("a directory decodes to its table, and only level 1 may say compact", () => {
    const [lo, hi] = pte.encodeDirectory(0x5000, true);
    expect(pte.decodePte(lo!, hi!, 1, false, 0)).toEqual({ kind: "directory", table: 0x5000, compact: true });
    expect(pte.decodePte(lo!, hi!, 2, false, 0)).toEqual({ kind: "malformed" });
  });

  test.each([
    ["bit 2 of a 4 KiB leaf", 0, false, 0x005, 0],
    ["bit 5 of a 4 KiB leaf", 0, false, 0x021, 0],
    ["bit 6 of a 4 KiB leaf", 0, false, 0x041, 0],
    ["bit 8 of a compact leaf", 0, true, 0x101, 0],
    ["bit 8 of a 2 MiB leaf", 1, false, 0x181, 0],
    ["NULL in a directory", 1, false, 0x201, 0],
    ["AE in a directory", 2, false, 0x401, 0],
    ["PS at level 3", 3, false, 0x081, 0],
    ["address bit 46", 0, false, 0x001, 0x4000],
    ["bit 63", 0, false, 0x001, 0x80000000],
    ["an unaligned 2 MiB leaf", 1, false, 0x1081, 0],
    ["an unaligned compact leaf", 0, true, 0x1001, 0],
  ])("%s is malformed", (_name, level, compact, lo, hi) => {
    expect(pte.decodePte(lo, hi, level, compact, 0)).toEqual({ kind: "malformed" });
  });

  test("software bits and PAT are ignored", () => {
    expect(pte.decodePte(0x1019, 0x7ff00000, 0, false, 0)).toMatchObject({ kind: "leaf", pa: 0x1000 });
  });

  test("a not-present entry gives its reason", () => {
    const [lo, hi] = pte.encodeNotPresent(pte.REASON_ZAPPED);
    expect(pte.decodePte(lo!, hi!, 0, false, 0)).toEqual({ kind: "not-present", reason: 2 });
  });
});

describe("fault records", () => {
  test("decode to what was encoded, and carry the stamp of their epoch", () => {
    fc.assert(
      fc.property(
        fc.record({
          va: fc.nat(2 ** 48 - 1),
          asid: fc.nat(2 ** 20 - 1),
          access: fc.nat(2),
          type: fc.nat(3),
          level: fc.nat(7),
          reason: fc.nat(15),
          prefetch: fc.boolean(),
          engineClass: fc.nat(7),
          engineInstance: fc.nat(63),
          work: fc.nat(0xffffffff),
          epoch: fc.nat(0xffffffff),
        }),
        (fields) => {
          const words = encodeFault(fields);
          expect(decodeFault(words)).toEqual(fields);
          expect(isFaultStamped(words)).toBe(true);
        },
      ),
    );
  });

  test("have the layout of the Xe message in words 0 to 3", () => {
    const words = encodeFault({
      va: 0x7f12_3456_7abc,
      asid: 0x12345,
      access: 2,
      type: 1,
      level: 3,
      reason: 0,
      prefetch: false,
      engineClass: 4,
      engineInstance: 5,
      work: 9,
      epoch: 0x1ff,
    });
    const expected = [
      3 | (5 << 19) | (4 << 25),
      0x12345000,
      0x34567000 | (1 << 2) | 2,
      0x7f12,
      0xabc,
      9,
      0x1ff,
      0x464c54ff,
    ];
    expect([...words]).toEqual(expected);
  });

  test("the dedup key tells page, ASID, access and prefetch apart, and never is 0", () => {
    const base = faultKey(VA, 2, 0, false);
    expect(faultKey(VA + 0x100, 2, 0, false)).toBe(base);
    const others = [
      faultKey(VA + 4096, 2, 0, false),
      faultKey(VA, 3, 0, false),
      faultKey(VA, 2, 1, false),
      faultKey(VA, 2, 0, true),
    ];
    expect(new Set([base, ...others]).size).toBe(5);
    expect(base).not.toBe(0);
  });
});

describe("layouts", () => {
  test("follow WGSL's rules of alignment", () => {
    const inner = struct("Inner", { a: "u32", b: "vec2u" });
    expect(inner.offset).toEqual({ a: 0, b: 8 });
    expect(inner.size).toBe(16);
    const outer = struct("Outer", { x: "u32", in: arrayOf(inner, 3), v: "vec4u", y: at(128, "u32") });
    expect(outer.offset).toEqual({ x: 0, in: 8, v: 64, y: 128 });
    expect(outer.size).toBe(144);
  });

  test("refuse a field that would overlap the one before", () => {
    expect(() => struct("Bad", { a: "vec4u", b: at(8, "u32") })).toThrow(/Bad\.b/);
  });
});

describe("composed shaders", () => {
  test("a line leads back to its part and its line there", () => {
    const shader = compose([
      { file: "a.wgsl", text: "one\ntwo" },
      { file: "b.wgsl", text: "three\nfour\n" },
      { file: "c.wgsl", text: "five" },
    ]);
    expect(shader.code).toBe("one\ntwo\nthree\nfour\nfive\n");
    const places = [1, 2, 3, 4, 5].map((line) => shader.locate(line));
    expect(places.map((p) => `${p.file}:${p.line}`)).toEqual([
      "a.wgsl:1",
      "a.wgsl:2",
      "b.wgsl:1",
      "b.wgsl:2",
      "c.wgsl:1",
    ]);
  });
});
