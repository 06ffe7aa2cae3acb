/** What a round of faults shows of the memory that the items of a launch walk through, and what the driver makes of it. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { ACCESS_READ, ACCESS_WRITE, ENGINE_COMPUTE, FAULT_NOT_PRESENT, encodeFault } from "../../src/abi/fault.ts";
import { parseFaults } from "../../src/driver/fault-record.ts";
import { itemStreams } from "../../src/driver/item-streams.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { VmConfig } from "../../src/machine/index.ts";

const MIB = 1 << 20;
const A = 0x7f00_0000_0000;
const B = 0x7f10_0000_0000;
const ITEMS = 4096;
const AREAS = [A, B].map((start) => ({ start, end: start + 64 * MIB }));
const areaOf = (addr: number) => AREAS.find(({ start, end }) => addr >= start && addr < end) ?? null;

interface Miss {
  item: number;
  addr: number;
  access?: number;
  hint?: boolean;
  asid?: number;
}

function streamsOf(misses: readonly Miss[], items = ITEMS) {
  const records = misses.flatMap(({ item, addr, access = ACCESS_READ, hint = false, asid = 1 }) => [
    ...encodeFault({
      asid,
      access,
      type: FAULT_NOT_PRESENT,
      level: 0,
      reason: 0,
      prefetch: hint,
      engineClass: ENGINE_COMPUTE,
      engineInstance: 0,
      epoch: 1,
      va: addr,
      work: item,
    }),
  ]);
  return itemStreams(parseFaults(Uint32Array.from(records), misses.length), 1, items, areaOf);
}

/** Items from 0 in steps of `by`, each at its place of a walk. */
const walk = (base: number, step: number, by = 7, more: Partial<Miss> = {}): Miss[] =>
  Array.from({ length: 100 }, (_, k) => ({ item: k * by, addr: base + k * by * step, ...more }));

describe("what faults show", () => {
  test("a line is a stream, from the first item to the last, whatever the order of arrival", () => {
    const misses = walk(A, PAGE_SIZE).reverse();
    expect(streamsOf(misses)).toEqual([{ at: A, bytes: ITEMS * PAGE_SIZE, access: ACCESS_READ }]);
    expect(streamsOf(misses.slice(0, 50))).toEqual([{ at: A, bytes: ITEMS * PAGE_SIZE, access: ACCESS_READ }]);
  });

  test("what hints show of a second area belongs to it, with its own step and access", () => {
    const misses = [...walk(A, PAGE_SIZE), ...walk(B + 8, 64, 70, { access: ACCESS_WRITE, hint: true })];
    expect(streamsOf(misses, 7000)).toEqual([
      { at: A, bytes: 7000 * PAGE_SIZE, access: ACCESS_READ },
      { at: B + 8, bytes: 7000 * 64, access: ACCESS_WRITE },
    ]);
  });

  test("areas that have grown together are told apart by what is a hint, and by the access", () => {
    const misses = [
      ...walk(A, PAGE_SIZE),
      ...walk(A + 32 * MIB, PAGE_SIZE, 7, { hint: true }),
      ...walk(A + 50 * MIB, 4, 41, { hint: true, access: ACCESS_WRITE }),
    ];
    expect(streamsOf(misses).map(({ at, bytes }) => [at - A, bytes])).toEqual([
      [0, ITEMS * PAGE_SIZE],
      [32 * MIB, ITEMS * PAGE_SIZE],
      [50 * MIB, ITEMS * 4],
    ]);
  });

  test("items that have no work behind the end of an area leave the others their parts", () => {
    const [stream] = streamsOf(walk(A + 60 * MIB, PAGE_SIZE));
    expect(stream).toEqual({ at: A + 60 * MIB, bytes: ITEMS * PAGE_SIZE, access: ACCESS_READ });
  });

  test.each<[string, Miss[]]>([
    ["nothing", []],
    ["one fault", walk(A, PAGE_SIZE).slice(0, 1)],
    ["two, through which there is always a line", walk(A, PAGE_SIZE).slice(0, 2)],
    ["hints alone", walk(A, PAGE_SIZE, 7, { hint: true })],
    ["a walk backwards", walk(A, PAGE_SIZE).map((miss) => ({ ...miss, item: 1000 - miss.item }))],
    ["one address for all", walk(A, 0)],
    ["one item for all", walk(A, PAGE_SIZE).map((miss) => ({ ...miss, item: 5 }))],
    ["another address space's faults", walk(A, PAGE_SIZE, 7, { asid: 2 })],
    ["faults where nothing is mapped", walk(A - 1024 * MIB, PAGE_SIZE)],
    ["places at random", walk(A, PAGE_SIZE).map((miss, k) => ({ ...miss, addr: A + ((k * 7919) % 4096) * PAGE_SIZE }))],
    [
      "a line, and as many faults elsewhere that make none",
      [...walk(A, PAGE_SIZE), ...walk(B, 0).map((miss, k) => ({ ...miss, addr: B + ((k * 7919) % 4096) * PAGE_SIZE }))],
    ],
  ])("no stream: %s", (_, misses) => {
    expect(streamsOf(misses)).toEqual([]);
  });

  test("any walk is found by what any of its items have missed, and holds all that they work on", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 4, max: 3 * PAGE_SIZE }),
        fc.integer({ min: 0, max: 12 * MIB }),
        fc.uniqueArray(fc.integer({ min: 0, max: ITEMS - 1 }), { minLength: 64, maxLength: 300 }),
        (step, offset, items) => {
          const misses = items.map((item) => ({ item, addr: A + offset + item * step }));
          const pages = new Set(misses.map(({ addr }) => Math.floor(addr / PAGE_SIZE)));
          fc.pre(pages.size >= 8);
          const [stream] = streamsOf(misses);
          expect(stream!.at).toBeLessThanOrEqual(A + offset + step);
          expect(stream!.at).toBeGreaterThanOrEqual(A + offset - PAGE_SIZE);
          const end = A + offset + ITEMS * step;
          expect(Math.abs(stream!.at + stream!.bytes - end)).toBeLessThanOrEqual(2 * PAGE_SIZE);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("a launch whose data is larger than memory, with the policy for sequential access", () => {
  const bytes = 16 * MIB;
  const items = bytes / PAGE_SIZE;

  /** `idle`: items behind the last that has work. */
  async function run(policy: VmConfig["policy"], pageOf: (item: number) => number, idle = 0) {
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 48 * MIB, config: { policy } });
    const vm = machine.createDevice({ vram: 4 * MIB, window: 4 * MIB }).vm(machine.createProcess());
    const { process } = vm;
    const x = await process.mmap(bytes, { align: 2 * MIB });
    const y = await process.mmap(items * 4);
    await process.write(
      x,
      Uint32Array.from({ length: bytes / 4 }, (_, i) => i * 3),
    );
    await vm.kernel("", {
      items: items + idle,
      reference(item, c) {
        if (item >= items) return;
        const from = c.translate(x + pageOf(item) * PAGE_SIZE + 40, 0);
        const to = c.translate(y + item * 4, 1);
        if (!c.missed) c.store(to, c.load(from) + 1);
      },
    });
    const words = new Uint32Array((await process.read(y, items * 4)).slice().buffer);
    expect(words.findIndex((word, item) => word !== (pageOf(item) * 1024 + 10) * 3 + 1)).toBe(-1);
    const passes = vm.stats.get("wgsvm_stream_pass_count");
    const { rounds } = vm.counters;
    await machine.close();
    return { passes, rounds };
  }

  test.each([
    ["migrating", { prefetch: "sequential" }],
    ["in place", { prefetch: "sequential", migrate: "write" }],
  ] as const)("a walk, %s: the first round shows it, and the next one is the last", async (_, policy) => {
    const { passes, rounds } = await run(policy, (item) => item);
    expect({ passes, rounds }).toEqual({ passes: bytes / (2 * MIB) - 1, rounds: 2 });
  });

  test("items that have no work behind the last page do not shift the pieces", async () => {
    const { passes, rounds } = await run({ prefetch: "sequential", migrate: "write" }, (item) => item, 200);
    expect(passes).toBeGreaterThanOrEqual(bytes / (2 * MIB) - 1);
    expect(rounds).toBe(2);
  });

  test("other accesses are served by their faults", async () => {
    const { passes } = await run({ prefetch: "sequential", migrate: "write" }, (item) => (item * 1237) % items);
    expect(passes).toBe(0);
  });

  test("other policies leave it to the faults", async () => {
    expect((await run({ migrate: "write" }, (item) => item)).passes).toBe(0);
  });
});
