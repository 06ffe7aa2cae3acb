import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { listHomeward, listInward } from "../../src/driver/migration-list.ts";
import { AP_HOST, AP_VRAM, PageList, SG_STRIDE } from "../../src/hal/gpu.ts";
import { MigrationArrayPool } from "../../src/pagemap/migration-arrays.ts";
import { DMA_TO_DEVICE, PagemapAddrArray } from "../../src/pagemap/pagemap-addr.ts";

const ORIGIN = 100;

/** Slots of which neighbours mostly continue each other, at both ends or at one. */
const slots = fc.array(
  fc.record({
    page: fc.constantFrom("next", "next", "next", "next", "jump", "none"),
    addr: fc.constantFrom("next", "next", "next", "next", "jump", "none"),
    proto: fc.constantFrom(0, 0, 0, 0, 1),
  }),
  { minLength: 1, maxLength: 60 },
);

function arraysOf(list: { page: string; addr: string; proto: number }[]) {
  const pages = new Uint32Array(list.length);
  const addrs = new Float64Array(list.length);
  let [page, frame] = [1, 1];
  for (const [i, slot] of list.entries()) {
    page += slot.page === "jump" ? 7 : 1;
    frame += slot.addr === "jump" ? 5 : 1;
    if (slot.page !== "none") pages[i] = page;
    if (slot.addr !== "none") addrs[i] = frame * 4096;
  }
  return { pages, addrs, npages: list.length, origin: ORIGIN, protos: Uint32Array.from(list, ({ proto }) => proto) };
}

const entriesOf = (list: PageList) => Array.from(list.words.subarray(0, list.count * SG_STRIDE));

describe("the list of a migration", () => {
  test("inward is what pushing page by page gives (model)", () => {
    fc.assert(
      fc.property(slots, fc.boolean(), (list, hasPeers) => {
        const m = arraysOf(list);
        const expected = new PageList();
        for (let i = 0; i < m.npages; i++) {
          if (m.pages[i] === 0) continue;
          const page = ORIGIN + m.pages[i]!;
          const from = hasPeers && m.protos[i] !== 0 ? AP_VRAM : AP_HOST;
          if (m.addrs[i] === 0) expected.pushClear(AP_VRAM, page, 1);
          else expected.push(from, m.addrs[i]! / 4096, AP_VRAM, page, 1);
        }
        const got = listInward(m, hasPeers ? m.protos : null);
        expect(entriesOf(got)).toEqual(entriesOf(expected));
        expect(got.pages).toBe(expected.pages);
      }),
    );
  });

  test("homeward too, without the slots that lack an end (model)", () => {
    fc.assert(
      fc.property(slots, (list) => {
        const m = arraysOf(list);
        const expected = new PageList();
        for (let i = 0; i < m.npages; i++) {
          if (m.pages[i] === 0 || m.addrs[i] === 0) continue;
          expected.push(AP_VRAM, ORIGIN + m.pages[i]!, AP_HOST, m.addrs[i]! / 4096, 1);
        }
        const got = listHomeward(m);
        expect(entriesOf(got)).toEqual(entriesOf(expected));
        expect(got.pages).toBe(expected.pages);
      }),
    );
  });
});

describe("arrays of migrations", () => {
  test("come back empty, and two migrations never share them", () => {
    const pool = new MigrationArrayPool();
    const a = pool.take(16);
    const b = pool.take(16);
    expect(b).not.toBe(a);
    for (const array of [a.src, a.dst, a.pages, a.from, a.addrs]) array.fill(9);
    pool.give(a);
    expect(pool.take(8).src.length).toBe(8);
    const c = pool.take(16);
    expect(c).toBe(a);
    for (const array of [c.src, c.dst, c.pages, c.from, c.addrs]) expect([...array]).toEqual(new Array(16).fill(0));
    expect(pool.take(16)).not.toBe(c);
  });

  test("of addresses grow with their entries up to one per page", () => {
    const addrs = new PagemapAddrArray(100);
    expect([addrs.capacity, addrs.addr.length < 100]).toEqual([100, true]);
    for (let i = 0; i < 100; i++) addrs.push((i + 1) * 4096, i, i % 10, DMA_TO_DEVICE);
    for (let i = 0; i < 100; i++) {
      expect([addrs.addr[i], addrs.proto(i), addrs.order(i), addrs.dir(i)]).toEqual([(i + 1) * 4096, i, i % 10, 1]);
    }
    expect(() => addrs.push(4096, 0, 0, DMA_TO_DEVICE)).toThrow(/too many entries/);
  });
});
