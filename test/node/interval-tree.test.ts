import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { IntervalTree, IntervalTreeNode, KeyedIntervalTree } from "../../src/base/interval-tree.ts";
import { Random } from "../../src/base/random.ts";

/** The answers by looking at everything: order by start, equal starts in order of insertion. */
class BruteForce {
  readonly nodes: IntervalTreeNode[] = [];

  insert(node: IntervalTreeNode): void {
    const at = this.nodes.findIndex((n) => n.start > node.start);
    this.nodes.splice(at < 0 ? this.nodes.length : at, 0, node);
  }

  remove(node: IntervalTreeNode): void {
    this.nodes.splice(this.nodes.indexOf(node), 1);
  }

  intersecting(start: number, last: number): IntervalTreeNode[] {
    return this.nodes.filter((n) => n.start <= last && start <= n.last);
  }
}

function walk(tree: IntervalTree<IntervalTreeNode>, start: number, last: number): IntervalTreeNode[] {
  const found = [];
  for (let n = tree.iterFirst(start, last); n !== null; n = tree.iterNext(n, start, last)) found.push(n);
  return found;
}

function expectSame(tree: IntervalTree<IntervalTreeNode>, model: BruteForce): void {
  expect(tree.size).toBe(model.nodes.length);
  expect([...tree]).toEqual(model.nodes);
  expect(tree.first()).toBe(model.nodes[0] ?? null);
  expect(tree.lastNode()).toBe(model.nodes.at(-1) ?? null);
  const backwards = [];
  for (let n = tree.lastNode(); n !== null; n = tree.prev(n)) backwards.push(n);
  expect(backwards.reverse()).toEqual(model.nodes);
}

type Step =
  | { kind: "insert"; start: number; length: number }
  | { kind: "remove"; index: number }
  | { kind: "find"; start: number; length: number };

function stepArbitrary(space: number, longest: number): fc.Arbitrary<Step> {
  const start = fc.nat(space);
  const length = fc.integer({ min: 1, max: longest });
  return fc.oneof(
    { arbitrary: fc.record({ kind: fc.constant("insert" as const), start, length }), weight: 5 },
    { arbitrary: fc.record({ kind: fc.constant("remove" as const), index: fc.nat(10000) }), weight: 3 },
    { arbitrary: fc.record({ kind: fc.constant("find" as const), start, length }), weight: 2 },
  );
}

function runSteps(steps: readonly Step[]): void {
  const tree = new IntervalTree<IntervalTreeNode>();
  const model = new BruteForce();
  for (const step of steps) {
    if (step.kind === "insert") {
      const node = new IntervalTreeNode(step.start, step.start + step.length - 1);
      tree.insert(node);
      model.insert(node);
    } else if (step.kind === "remove") {
      if (model.nodes.length === 0) continue;
      const node = model.nodes[step.index % model.nodes.length];
      tree.remove(node);
      model.remove(node);
    } else {
      const last = step.start + step.length - 1;
      expect(walk(tree, step.start, last)).toEqual(model.intersecting(step.start, last));
    }
  }
  expectSame(tree, model);
}

describe("IntervalTree", () => {
  test.each([
    ["dense with much overlap", 60, 30],
    ["many equal starts", 4, 8],
    ["sparse", 2 ** 40, 65536],
  ])("finds, walks and steps as brute force does: %s", (_name, space, longest) => {
    const steps = fc.array(stepArbitrary(space, longest), { maxLength: 400, size: "max" });
    fc.assert(fc.property(steps, runSteps), { numRuns: 150 });
  });

  test.each([1, 2, 3])("stays right over many levels of growing and shrinking, seed %i", (seed) => {
    const random = new Random(seed);
    const tree = new IntervalTree<IntervalTreeNode>();
    const model = new BruteForce();
    for (const target of [5000, 40, 3000, 0, 500]) {
      while (model.nodes.length !== target) {
        if (model.nodes.length < target) {
          const start = random.below(1000000);
          const node = new IntervalTreeNode(start, start + random.below(random.below(50) === 0 ? 100000 : 300));
          tree.insert(node);
          model.insert(node);
        } else {
          const node = model.nodes[random.below(model.nodes.length)];
          tree.remove(node);
          model.remove(node);
        }
        if (random.below(20) === 0) {
          const start = random.below(1000000);
          expect(walk(tree, start, start + 500)).toEqual(model.intersecting(start, start + 500));
        }
      }
      expectSame(tree, model);
    }
  });

  test("disjoint entries: looking up, filling gaps and removing around one place gives the same as brute force", () => {
    const cell = fc.record({
      at: fc.nat(150),
      move: fc.integer({ min: -2, max: 2 }),
      width: fc.integer({ min: 1, max: 9 }),
    });
    fc.assert(
      fc.property(fc.array(cell, { maxLength: 600, size: "max" }), (cells) => {
        const tree = new IntervalTree<IntervalTreeNode>();
        const model = new BruteForce();
        for (const { at, move, width } of cells) {
          for (const start of [at * 10, (at + move) * 10]) {
            const found = tree.iterFirst(start, start + width - 1);
            expect(found).toBe(model.intersecting(start, start + width - 1)[0] ?? null);
            const node = found ?? new IntervalTreeNode(start, start + width - 1);
            if (found === null) tree.insert(node);
            else tree.remove(node);
            if (found === null) model.insert(node);
            else model.remove(node);
          }
        }
        expectSame(tree, model);
      }),
      { numRuns: 100 },
    );
  });

  test.each([
    ["ascending", (i: number) => i],
    ["descending", (i: number) => 9999 - i],
  ])("takes 10,000 entries in %s order and gives them up in the same order", (_name, position) => {
    const tree = new IntervalTree<IntervalTreeNode>();
    const nodes: IntervalTreeNode[] = [];
    for (let i = 0; i < 10000; i++) {
      const node = new IntervalTreeNode(position(i) * 10, position(i) * 10 + 4);
      nodes.push(node);
      tree.insert(node);
    }
    for (const node of nodes) {
      expect(tree.iterFirst(node.start + 4, node.start + 9)).toBe(node);
      expect(tree.iterFirst(node.start + 5, node.start + 9)).toBeNull();
      tree.remove(node);
    }
    expect(tree.size).toBe(0);
    expect(tree.first()).toBeNull();
  });

  test("iteration goes on when the body removes the entry it was given", () => {
    const tree = new IntervalTree<IntervalTreeNode>();
    for (let i = 0; i < 500; i++) tree.insert(new IntervalTreeNode(i * 2, i * 2 + 5));
    const seen = [];
    for (const node of tree) {
      seen.push(node.start);
      tree.remove(node);
    }
    expect(seen).toEqual(Array.from({ length: 500 }, (_, i) => i * 2));
    expect(tree.size).toBe(0);
  });

  test("an entry of another tree is refused even if one with equal bounds is inside", () => {
    const tree = new IntervalTree<IntervalTreeNode>();
    tree.insert(new IntervalTreeNode(10, 19));
    const foreign = new IntervalTreeNode(10, 19);
    expect(() => tree.remove(foreign)).toThrow(InvariantError);
    expect(() => tree.next(foreign)).toThrow(InvariantError);
    expect(tree.size).toBe(1);
  });

  test("the bigint form is exact up to 2^64 - 1", () => {
    const tree = new KeyedIntervalTree<bigint, { start: bigint; last: bigint }>(
      (n) => new BigUint64Array(n),
      2n ** 64n - 1n,
    );
    const top = 2n ** 64n - 1n;
    const high = { start: top - 1n, last: top };
    const below = { start: top - 3n, last: top - 2n };
    tree.insert(high);
    tree.insert(below);
    expect(tree.iterFirst(top, top)).toBe(high);
    expect(tree.iterFirst(top - 2n, top)).toBe(below);
    expect(tree.iterFirst(0n, top - 4n)).toBeNull();
    expect(tree.next(below)).toBe(high);
  });
});
