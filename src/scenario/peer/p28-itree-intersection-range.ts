import type { TreeInterval } from "../structures.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Interval tree, intersection_range: random intervals and queries beside brute force",
  tags: ["range"],
};

const INTERVALS = 100;
const QUERIES = 100;
const SPACE = 10_000;

export default function (s: Scenario): Promise<void> {
  const t = s.itree();
  const nodes = Array.from({ length: INTERVALS }, () => t.insert(...random(s)));
  const compare = (left: readonly TreeInterval[]): number => {
    let wrong = 0;
    for (let i = 0; i < QUERIES; i++) {
      const [start, last] = i === 0 ? ([0, t.max] as const) : random(s);
      const found = t.query(start, last);
      const expected = left.filter((node) => node.start <= last && node.last >= start);
      const isAscending = found.every((node, k) => k === 0 || found[k - 1]!.start <= node.start);
      const isSame = new Set(found).size === expected.length && expected.every((node) => found.includes(node));
      if (!isAscending || !isSame || found.length !== expected.length) wrong += 1;
    }
    return wrong;
  };
  s.must(compare(nodes) === 0, "100 queries find what brute force finds, by ascending start");
  const left = nodes.filter((_, i) => i % 2 === 1);
  for (const node of nodes.filter((_, i) => i % 2 === 0)) t.remove(node);
  s.must(compare(left) === 0, "and so they do with half of the intervals removed");
  return Promise.resolve();
}

function random(s: Scenario): [start: number, last: number] {
  const [a, b] = [s.random() % SPACE, s.random() % SPACE];
  return [Math.min(a, b), Math.max(a, b)];
}
