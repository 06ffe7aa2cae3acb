import fc from "fast-check";
import { expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { LruBulkMove, LruLink, LruList, removeFromLru } from "../../src/vram/lru.ts";

class Item extends LruLink {
  readonly id: number;
  constructor(id: number) {
    super(true);
    this.id = id;
  }
}

const listOf = (n: number): { list: LruList<Item>; items: Item[] } => {
  const list = new LruList<Item>();
  const items = Array.from({ length: n }, (_, i) => new Item(i));
  for (const item of items) list.add(item);
  return { list, items };
};
const ids = (list: LruList<Item>): number[] => [...list.walk()].map((item) => item.id);

test("an item is on one list at most, and off it once", () => {
  const { list, items } = listOf(1);
  expect(() => list.add(items[0]!)).toThrow(InvariantError);
  removeFromLru(items[0]!);
  expect(list.isEmpty).toBe(true);
  expect(() => removeFromLru(items[0]!)).toThrow(InvariantError);
});

test("a walk meets what comes to the tail, and not what has gone", () => {
  const { list, items } = listOf(4);
  const seen: number[] = [];
  for (const item of list.walk()) {
    seen.push(item.id);
    if (item.id === 1) {
      removeFromLru(item);
      removeFromLru(items[2]!);
      list.add(items[2]!);
    }
    if (item.id === 3) list.moveToTail(items[0]!);
    if (seen.length > 9) break;
  }
  expect(seen).toEqual([0, 1, 3, 2, 0]);
});

test("a walk that stands within a bulk goes on behind the bulk's old place when that moves", () => {
  const { list, items } = listOf(5);
  const bulk = new LruBulkMove();
  for (const item of items.slice(1, 4)) bulk.add(list, item);
  const seen: number[] = [];
  for (const item of list.walk()) {
    seen.push(item.id);
    if (seen.length === 3) bulk.moveToTail();
  }
  // Without the correction it would have gone to the tail with the bulk and missed 4.
  expect(seen).toEqual([0, 1, 2, 4, 1, 2, 3]);
});

test("walks that were left early leave nothing behind", () => {
  const { list, items } = listOf(3);
  for (const item of list.walk()) if (item.id === 1) break;
  for (const item of items) removeFromLru(item);
  expect(list.isEmpty).toBe(true);
});

test("lists and bulks behave as arrays of which slices are moved", () => {
  const step = fc.record({
    what: fc.constantFrom("join", "leave", "touch", "remove", "add", "bulk", "walk"),
    pick: fc.nat({ max: 11 }),
    bulk: fc.nat({ max: 1 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120, size: "max" }), (steps) => {
      const list = new LruList<Item>();
      const items = Array.from({ length: 12 }, (_, i) => new Item(i));
      const bulks = [new LruBulkMove(), new LruBulkMove()];
      let order: Item[] = [];
      const walks: Generator<Item>[] = [];
      const without = (item: Item): Item[] => order.filter((other) => other !== item);
      const lastOf = (bulk: LruBulkMove, among: Item[]): number => among.findLastIndex((other) => other.bulk === bulk);
      for (const s of steps) {
        const item = items[s.pick]!;
        const bulk = bulks[s.bulk]!;
        const isOn = order.includes(item);
        if (s.what === "add" && !isOn) {
          list.add(item);
          order.push(item);
        } else if (s.what === "remove" && isOn && item.bulk === null) {
          removeFromLru(item);
          order = without(item);
        } else if (s.what === "join" && isOn && item.bulk === null) {
          const rest = without(item);
          const at = lastOf(bulk, rest);
          if (at >= 0) order = rest.toSpliced(at + 1, 0, item);
          bulk.add(list, item);
        } else if (s.what === "leave" && item.bulk !== null) {
          const own = item.bulk;
          const members = order.filter((other) => other.bulk === own);
          own.remove(list, item);
          if (item !== members[0] && item !== members.at(-1)) {
            const rest = without(item);
            order = rest.toSpliced(lastOf(own, rest) + 1, 0, item);
          }
        } else if (s.what === "touch" && isOn) {
          if (item.bulk === null) list.moveToTail(item);
          else item.bulk.touch(list, item);
          const rest = without(item);
          const at = item.bulk === null ? rest.length : lastOf(item.bulk, rest) + 1;
          order = at === 0 ? order : rest.toSpliced(at, 0, item);
        } else if (s.what === "bulk") {
          bulk.moveToTail();
          order = [...order.filter((other) => other.bulk !== bulk), ...order.filter((other) => other.bulk === bulk)];
        } else if (s.what === "walk") {
          // Walks under way stand between the members all the time.
          if (walks.length < 3) walks.push(list.walk());
          const walk = walks[s.pick % walks.length]!;
          if (walk.next().done === true) walks.splice(walks.indexOf(walk), 1);
        }
        expect(ids(list)).toEqual(order.map((other) => other.id));
      }
    }),
    { numRuns: 300 },
  );
});
