import { describe, expect, it } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { Random } from "../../src/base/random.ts";
import {
  ACCESS_ATOMIC,
  ACCESS_READ,
  ACCESS_WRITE,
  ENGINE_COMPUTE,
  FATAL_MALFORMED,
  FATAL_NONCANONICAL,
  FAULT_FATAL,
  FAULT_NOT_PRESENT,
  FAULT_WRITE_VIOLATION,
  encodeFault,
} from "../../src/abi/fault.ts";
import type { FaultFields } from "../../src/abi/fault.ts";
import { hintBatch, parseFaults } from "../../src/driver/fault-record.ts";
import type { MergedFault } from "../../src/driver/fault-record.ts";

const BASE = 0x7f00_0000_0000;

function record(fields: Partial<FaultFields> & { va: number; work: number }): FaultFields {
  return {
    asid: 1,
    access: ACCESS_READ,
    type: FAULT_NOT_PRESENT,
    level: 0,
    reason: 0,
    prefetch: false,
    engineClass: ENGINE_COMPUTE,
    engineInstance: 0,
    epoch: 1,
    ...fields,
  };
}

function parse(records: readonly FaultFields[], tile = 0) {
  return parseFaults(Uint32Array.from(records.flatMap((fields) => [...encodeFault(fields)])), records.length, tile);
}

function all(records: readonly FaultFields[]): MergedFault[] {
  const batch = parse(records);
  return Array.from({ length: batch.count }, (_, i) => batch.at(i));
}

/** What the merging rules say, record by record. */
function merged(records: readonly FaultFields[]): MergedFault[] {
  const byPage = new Map<string, FaultFields[]>();
  for (const fields of records) {
    if (fields.type === FAULT_FATAL) continue;
    const key = `${fields.asid} ${Math.floor(fields.va / PAGE_SIZE)}`;
    byPage.set(key, [...(byPage.get(key) ?? []), fields]);
  }
  const faults = [...byPage.values()].map((same): MergedFault => {
    const real = same.filter((fields) => !fields.prefetch);
    const counted = real.length > 0 ? real : same;
    const item = Math.min(...same.map((fields) => fields.work));
    const { va } = same.find((fields) => fields.work === item)!;
    return {
      asid: same[0]!.asid,
      tile: 0,
      addr: va,
      page: Math.floor(va / PAGE_SIZE) * PAGE_SIZE,
      access: Math.max(...counted.map((fields) => fields.access)),
      type: Math.max(...same.map((fields) => fields.type)),
      prefetch: real.length === 0,
      item,
      instances: same.length,
    };
  });
  return faults.sort((a, b) => a.item - b.item || a.page - b.page);
}

describe("merging of fault records (device.md 3.6)", () => {
  it("orders by item, then page", () => {
    const faults = all([
      record({ va: BASE + 5 * PAGE_SIZE, work: 7 }),
      record({ va: BASE + 3 * PAGE_SIZE, work: 2 }),
      record({ va: BASE + PAGE_SIZE, work: 7 }),
      record({ va: BASE + 2 * PAGE_SIZE, work: 0xffff_ffff }),
    ]);
    expect(faults.map(({ item, page }) => [item, (page - BASE) / PAGE_SIZE])).toEqual([
      [2, 3],
      [7, 1],
      [7, 5],
      [0xffff_ffff, 2],
    ]);
  });

  it("one entry per page and address space, with the strongest access, the worst type and the lowest item's address", () => {
    const page = BASE + 9 * PAGE_SIZE;
    const faults = all([
      record({ va: page + 8, work: 4 }),
      record({ va: page + 16, work: 3, access: ACCESS_WRITE, type: FAULT_WRITE_VIOLATION }),
      record({ va: page + 24, work: 5 }),
      record({ va: page, work: 1, asid: 2 }),
    ]);
    expect(faults).toHaveLength(2);
    expect(faults[1]).toMatchObject({ addr: page + 16, page, item: 3, access: ACCESS_WRITE, instances: 3, asid: 1 });
    expect(faults[1]!.type).toBe(FAULT_WRITE_VIOLATION);
  });

  it("a real access outweighs a hint, however strong", () => {
    const at = { va: BASE, work: 1 };
    const hint = record({ ...at, access: ACCESS_ATOMIC, prefetch: true });
    const read = record({ ...at, access: ACCESS_READ });
    for (const records of [
      [hint, read],
      [read, hint],
    ]) {
      expect(all(records)).toMatchObject([{ access: ACCESS_READ, prefetch: false, instances: 2 }]);
    }
    expect(all([hint])).toMatchObject([{ access: ACCESS_ATOMIC, prefetch: true }]);
  });

  it("agrees with the rules on random records", () => {
    const random = new Random(11);
    for (let round = 0; round < 40; round++) {
      const records = Array.from({ length: 1 + random.below(300) }, () =>
        record({
          va: BASE + random.below(round < 20 ? 60 : 1 << 20) * PAGE_SIZE + random.below(PAGE_SIZE),
          // Addresses of one item are as they were recorded first: equal ones make the choice the same.
          work: random.u32(),
          asid: 1 + random.below(3),
          access: random.below(3),
          type: random.below(3),
          prefetch: random.below(3) === 0,
        }),
      );
      expect(all(records)).toEqual(merged(records));
    }
  });

  it("orders many faults of few items, whatever their numbers", () => {
    const random = new Random(12);
    for (const items of [[5], [0, 0xffff_ffff], [255, 256, 65_535, 65_536, 0x0100_0000], [7, 8, 9]]) {
      // 7 and 600 have no divisor in common, so these are 600 different pages, up and down.
      const records = Array.from({ length: 600 }, (_, i) =>
        record({ va: BASE + ((i * 7) % 600) * PAGE_SIZE, work: items[random.below(items.length)]! }),
      );
      expect(all(records)).toEqual(merged(records));
      const descending = [...records].sort((a, b) => b.va - a.va);
      expect(all(descending)).toEqual(merged(records));
    }
  });

  it("finds items, the first real fault and the first fatal one", () => {
    const batch = parse(
      [
        record({ va: BASE, work: 10, prefetch: true }),
        record({ va: BASE + PAGE_SIZE, work: 20 }),
        record({ va: BASE + 2 * PAGE_SIZE, work: 30 }),
        record({ va: BASE + 12, work: 9, type: FAULT_FATAL, reason: FATAL_MALFORMED }),
        record({ va: BASE + 16, work: 8, type: FAULT_FATAL, reason: FATAL_NONCANONICAL, access: ACCESS_WRITE }),
        record({ va: BASE + 20, work: 7, type: FAULT_FATAL, reason: FATAL_MALFORMED, prefetch: true }),
      ],
      3,
    );
    expect(batch.count).toBe(3);
    expect(batch.first()).toMatchObject({ item: 20, tile: 3 });
    expect(batch.firstFatal()).toEqual({
      addr: BASE + 16,
      access: ACCESS_WRITE,
      item: 8,
      reason: FATAL_NONCANONICAL,
    });
    const intervals = [
      [0, 9],
      [0, 10],
      [11, 19],
      [11, 20],
      [25, 40],
      [31, 99],
    ] as const;
    expect(intervals.map(([from, to]) => batch.hasItemIn(from, to))).toEqual([false, true, false, true, true, false]);
    expect(parse([]).first()).toBeNull();
  });
});

describe("hints of the driver itself", () => {
  const about = { asid: 3, access: ACCESS_WRITE, item: 40, tile: 1 };
  const pagesOf = (batch: ReturnType<typeof hintBatch>) =>
    Array.from({ length: batch.count }, (_, i) => (batch.page(i) - BASE) / PAGE_SIZE);

  it("are ordered by page, whatever order they come in", () => {
    for (const order of [
      [0, 1, 2, 700],
      [700, 2, 1, 0],
      [2, 700, 0, 1],
    ]) {
      const pages = order.map((page) => BASE + page * PAGE_SIZE);
      expect(pagesOf(hintBatch(pages, about))).toEqual([0, 1, 2, 700]);
      expect(pagesOf(hintBatch(new Set(pages), about))).toEqual([0, 1, 2, 700]);
    }
  });

  it("say who is expected to want them, and are no faults", () => {
    const batch = hintBatch([BASE + 5 * PAGE_SIZE], about);
    expect(batch.at(0)).toEqual({
      asid: 3,
      tile: 1,
      addr: BASE + 5 * PAGE_SIZE,
      page: BASE + 5 * PAGE_SIZE,
      access: ACCESS_WRITE,
      type: FAULT_NOT_PRESENT,
      prefetch: true,
      item: 40,
      instances: 1,
    });
    expect(batch.tile).toBe(1);
    expect(batch.first()).toBeNull();
    expect(batch.firstFatal()).toBeNull();
    expect([batch.hasItemIn(0, 39), batch.hasItemIn(40, 40), batch.hasItemIn(41, 99)]).toEqual([false, true, false]);
  });

  it.each([ACCESS_READ, ACCESS_WRITE, ACCESS_ATOMIC])("carry access %i", (access) => {
    expect(hintBatch([BASE], { ...about, access }).access(0)).toBe(access);
  });

  it("of one page are one, addresses above 4 GiB included", () => {
    const batch = hintBatch([BASE + PAGE_SIZE, BASE + 8, BASE + 16, BASE + 2 ** 32, BASE + PAGE_SIZE + 4], about);
    expect(pagesOf(batch)).toEqual([0, 1, 2 ** 20]);
    expect(Array.from({ length: 3 }, (_, i) => batch.at(i).instances)).toEqual([2, 2, 1]);
    expect(batch.at(0).addr).toBe(BASE + 8);
  });

  it("may be none", () => {
    const batch = hintBatch([], about);
    expect([batch.count, batch.first(), batch.hasItemIn(0, 99)]).toEqual([0, null, false]);
  });
});
