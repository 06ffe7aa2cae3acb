import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_W } from "../../src/abi/pte.ts";
import { REQUEST_NO_RECORD } from "../../src/abi/tables.ts";
import { TLB_SETS, tlbSet } from "../../src/abi/tlb.ts";
import type { TlbSetting } from "../../src/device/tlb-use.ts";
import { fromHiLo } from "../../src/base/addr.ts";
import { MIB, TestTables, bootGpu, requestWords } from "./support.ts";
import type { TestGpu } from "./support.ts";

const RW = PTE_W | PTE_AE | PTE_DM;
const BASE = 0x7f00_0000_0000;
const HEAP = MIB;

let t: TestGpu;
let asid = 0;
let tables: TestTables;

beforeAll(async () => {
  t = await bootGpu();
});
beforeEach(() => {
  asid += 1;
  tables = new TestTables(t.gpu, asid, 2 + (asid - 1) * 8);
});
afterAll(() => t.gpu.destroy());

/** PA of each address, or -1 where it faults. */
async function translate(vas: number[], access = 0, space = asid): Promise<number[]> {
  const out = await t.gpu.translate(
    requestWords(vas.map((va) => ({ asid: space, va, access, flags: REQUEST_NO_RECORD }))),
  );
  return vas.map((_, i) => (out[i * 4] === 3 ? -1 : fromHiLo(out[i * 4 + 2]!, out[i * 4 + 1]!)));
}

describe("a missing TLB invalidation is caught", () => {
  test("without it the old page is still seen, with it the new one", async () => {
    tables.map(BASE, HEAP, RW);
    expect(await translate([BASE])).toEqual([HEAP]);

    t.gpu.dropTlbInvalidations = true;
    tables.map(BASE, HEAP + 4096, RW);
    t.gpu.tlbInvalidate(asid, BASE, BASE + 4095);
    const stale = await translate([BASE]);
    t.gpu.dropTlbInvalidations = false;
    expect(stale).toEqual([HEAP]);

    t.gpu.tlbInvalidate(asid, BASE, BASE + 4095);
    expect(await translate([BASE])).toEqual([HEAP + 4096]);
  });

  test("the same for a page that is gone, and for all of an address space", async () => {
    tables.map(BASE, HEAP, RW);
    await translate([BASE]);
    t.gpu.dropTlbInvalidations = true;
    tables.unmap(BASE);
    t.gpu.tlbInvalidateAsid(asid);
    const stale = await translate([BASE]);
    t.gpu.dropTlbInvalidations = false;
    expect(stale).toEqual([HEAP]);
    t.gpu.tlbInvalidateAsid(asid);
    expect(await translate([BASE])).toEqual([-1]);
  });

  test("a fill that came before the invalidation does not bring the old entry back", async () => {
    tables.map(BASE, HEAP, RW);
    const early = translate([BASE]);
    tables.unmap(BASE);
    t.gpu.tlbInvalidate(asid, BASE, BASE + 4095);
    const late = translate([BASE]);
    expect(await early).toEqual([HEAP]);
    expect(await late).toEqual([-1]);
    // The fill behind that translation must not have met the old log again.
    expect(await translate([BASE])).toEqual([-1]);
  });
});

describe("what an invalidation hits", () => {
  const LEAF = BASE + 2 ** 30;
  /** A 2 MiB leaf is cached, its entry replaced, one range invalidated: -1 when the range reached the entry. */
  async function afterInvalidation(start: number, last: number): Promise<number> {
    tables.map(LEAF, 2 * MIB, RW, 1);
    await translate([LEAF]);
    tables.unmap(LEAF, 0, 1);
    t.gpu.tlbInvalidate(asid, start, last);
    return (await translate([LEAF]))[0]!;
  }

  test.each([
    ["its first byte", 0, 0, -1],
    ["its last byte", 2 * MIB - 1, 2 * MIB - 1, -1],
    ["a page inside it", 0x5000, 0x5fff, -1],
    ["a range around it", -4096, 4 * MIB, -1],
    ["the byte before it", -4096, -1, 2 * MIB],
    ["the byte behind it", 2 * MIB, 2 * MIB + 4095, 2 * MIB],
  ])("a 2 MiB entry by a range over %s", async (_name, from, to, expected) => {
    expect(await afterInvalidation(LEAF + from, LEAF + to)).toBe(expected);
  });

  test("only its own address space", async () => {
    const other = tables;
    other.map(BASE, HEAP, RW);
    await translate([BASE]);
    other.unmap(BASE);
    t.gpu.tlbInvalidate(asid + 100, BASE, BASE + 4095);
    t.gpu.tlbInvalidateAsid(asid + 100);
    expect(await translate([BASE])).toEqual([HEAP]);
  });

  test("more requests at once than the invalidation queue holds", async () => {
    const vas = Array.from({ length: 150 }, (_, i) => BASE + i * 4096);
    for (const va of vas) tables.map(va, HEAP, RW);
    expect(new Set(await translate(vas))).toEqual(new Set([HEAP]));
    for (const va of vas) {
      tables.unmap(va);
      t.gpu.tlbInvalidate(asid, va, va + 4095);
    }
    expect(new Set(await translate(vas))).toEqual(new Set([-1]));
  });
});

describe("what a hit gives", () => {
  test("a missing permission walks again, so that an upgrade needs no invalidation", async () => {
    tables.map(BASE, HEAP, PTE_DM);
    expect(await translate([BASE])).toEqual([HEAP]);
    expect(await translate([BASE], 1)).toEqual([-1]);
    tables.map(BASE, HEAP, RW);
    expect(await translate([BASE], 1)).toEqual([HEAP]);
    // The walk replaced the weaker entry: now a write hits, even when the table says otherwise.
    tables.map(BASE, HEAP, PTE_DM);
    expect(await translate([BASE], 1)).toEqual([HEAP]);
  });

  test("a big leaf that sticks out of VRAM faults beyond its end, on a hit too", async () => {
    const leaf = BASE + 2 ** 31;
    tables.map(leaf, 0, RW, 2);
    expect(await translate([leaf + 4 * MIB])).toEqual([4 * MIB]);
    expect(await translate([leaf + 15 * MIB, leaf + 16 * MIB, leaf + 900 * MIB])).toEqual([15 * MIB, -1, -1]);
  });

  test("NULL stays NULL, with no address", async () => {
    tables.map(BASE, 0x123000, PTE_NULL | PTE_W);
    const words = requestWords([{ asid, va: BASE + 4, access: 1 }]);
    expect([...(await t.gpu.translate(words))]).toEqual([2, 0, 0, 4]);
    expect([...(await t.gpu.translate(words))]).toEqual([2, 0, 0, 4]);
  });

  test("nine pages of one set of four ways are all translated right, again and again", async () => {
    const set = tlbSet(BASE, asid, 0);
    const vas: number[] = [];
    for (let va = BASE; vas.length < 9; va += 4096) if (tlbSet(va, asid, 0) === set) vas.push(va);
    vas.forEach((va, i) => tables.map(va, HEAP + i * 4096, RW));
    const expected = vas.map((_, i) => HEAP + i * 4096);
    for (let pass = 0; pass < 3; pass++) expect(await translate(vas)).toEqual(expected);
    expect((await cachedAfterUnmap(vas)).length).toBe(4);
  });

  test("the ways of a full set are replaced in turn", async () => {
    const set = tlbSet(BASE, asid, 0);
    const vas: number[] = [];
    for (let va = BASE; vas.length < 9; va += 4096) if (tlbSet(va, asid, 0) === set) vas.push(va);
    t.gpu.tlbInvalidateAsid(asid);
    for (const va of vas) {
      tables.map(va, HEAP, RW);
      await translate([va]);
    }
    expect(await cachedAfterUnmap(vas)).toEqual(vas.slice(5));
  });

  test("what was forgotten with its address space is cached anew, in whichever way of its set it was", async () => {
    const set = tlbSet(BASE, asid, 0);
    const vas: number[] = [];
    for (let va = BASE; vas.length < 3; va += 4096) if (tlbSet(va, asid, 0) === set) vas.push(va);
    vas.forEach((va, i) => tables.map(va, HEAP + i * 4096, RW));
    for (const va of vas) await translate([va]);
    t.gpu.tlbInvalidateAsid(asid);
    // The last goes to the first way; its old entry, with the same tag, stands behind it.
    const last = vas.at(-1)!;
    await translate([last]);
    // Not invalidated: who still sees the old page has it from the TLB.
    tables.map(last, HEAP + 8 * 4096, RW);
    expect(await translate([last])).toEqual([HEAP + 2 * 4096]);
    t.gpu.tlbInvalidateAsid(asid);
    expect(await translate([last])).toEqual([HEAP + 8 * 4096]);
  });

  test("two pages of one set whose addresses differ in their high halves only", async () => {
    const set = tlbSet(BASE, asid, 0);
    let other = BASE + 2 ** 32;
    while (tlbSet(other, asid, 0) !== set) other += 2 ** 32;
    for (const [i, va] of [BASE, other].entries()) {
      tables.map(va, HEAP + i * 4096, RW);
      await translate([va]);
    }
    for (const va of [BASE, other]) tables.map(va, HEAP + 8 * 4096, RW);
    expect(await translate([BASE, other])).toEqual([HEAP, HEAP + 4096]);
    t.gpu.tlbInvalidateAsid(asid);
    expect(await translate([BASE, other])).toEqual([HEAP + 8 * 4096, HEAP + 8 * 4096]);
  });

  test.each([4, 5])("more misses than the fill log holds, %i levels: what is cached is right", async (levels) => {
    const pages = 8192;
    tables = new TestTables(t.gpu, asid, 2 + (asid - 1) * 8, levels);
    const vas = Array.from({ length: pages }, (_, i) => BASE + i * 4096);
    for (const [i, va] of vas.entries()) tables.map(va, HEAP + (i % 3000) * 4096, RW);
    const expected = vas.map((_, i) => HEAP + (i % 3000) * 4096);
    expect(await translate(vas)).toEqual(expected);
    expect(await translate(vas)).toEqual(expected);
    const cached = await cachedAfterUnmap(vas);
    expect(cached.length).toBeGreaterThan(0);
    expect(cached.length).toBeLessThanOrEqual(TLB_SETS[0]! * 4);
  });
});

/** Clears the entries without an invalidation: what still translates was cached. */
async function cachedAfterUnmap(vas: number[]): Promise<number[]> {
  for (const va of vas) tables.unmap(va);
  const found = await translate(vas);
  t.gpu.tlbInvalidateAsid(asid);
  return vas.filter((_, i) => found[i]! >= 0);
}

describe("whether big batches look into the TLB", () => {
  const PAGES = 4096;
  const vas = Array.from({ length: PAGES }, (_, i) => BASE + i * 4096);
  const hot = vas[7]!;
  const few = Array.from({ length: PAGES }, (_, i) => vas[i % 64]!);
  let own: TestGpu;

  /** Caches one page, maps it elsewhere without an invalidation, and has a batch say what it sees. */
  async function seenBy(batch: number[]): Promise<"TLB" | "tables"> {
    tables.map(hot, HEAP, RW);
    t.gpu.tlbInvalidateAsid(asid);
    await translate([hot]);
    await translate([hot]);
    tables.map(hot, HEAP + 4096, RW);
    const at = (await translate(batch))[batch.indexOf(hot)];
    return at === HEAP ? "TLB" : "tables";
  }

  async function boot(tlb: TlbSetting): Promise<void> {
    own = t;
    t = await bootGpu({}, { tlb });
    tables = new TestTables(t.gpu, asid, 2);
    for (const va of vas) tables.map(va, HEAP, RW);
  }
  afterEach(() => {
    t.gpu.destroy();
    t = own;
  });

  test("on: always", async () => {
    await boot("on");
    for (let i = 0; i < 4; i++) await translate(vas);
    expect(await seenBy(vas)).toBe("TLB");
  });

  test("off: never", async () => {
    await boot("off");
    expect(await seenBy(vas)).toBe("tables");
    expect(await seenBy([hot])).toBe("tables");
  });

  test("auto: not while they miss, small ones always", async () => {
    await boot("auto");
    expect(await seenBy(few)).toBe("TLB");
    for (let i = 0; i < 2; i++) await translate(vas);
    expect(await seenBy(few)).toBe("tables");
    expect(await seenBy([hot])).toBe("TLB");
    for (let i = 0; i < 8; i++) await translate(few);
    expect(await seenBy(few)).toBe("TLB");
  });
});
