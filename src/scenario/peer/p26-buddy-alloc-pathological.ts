import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Buddy alloc_pathological: every second page is free, and no two of them make a pair",
  tags: ["buddy"],
};

export default async function (s: Scenario): Promise<void> {
  const page = s.pages(1);
  const u = s.buddy(s.pages(8), { maxOrder: 3 });
  const singles = Array.from({ length: 8 }, () => u.alloc(page));
  s.must(singles.every((blocks) => blocks.length === 1 && blocks[0]!.size === page) && u.avail === 0, "8 single pages");
  s.must(new Set(singles.map(([block]) => block!.off)).size === 8, "no two of them the same");
  await s.fails(() => u.alloc(page), "ENOSPC", "a ninth is not to be had");
  const byOffset = singles.flat().sort((a, b) => a.off - b.off);
  u.free(byOffset.filter((_, i) => i % 2 === 1));
  s.must(u.avail === s.pages(4), "4 pages are free");
  await s.fails(() => u.alloc(s.pages(2), { min: s.pages(2) }), "ENOSPC", "a block of order 1 is not to be had");
  s.must(u.avail === s.pages(4), "which leaves them free");
  u.free(byOffset.filter((_, i) => i % 2 === 0));
  s.must(u.alloc(s.pages(8), { min: s.pages(8) }).length === 1, "with all free the largest block is there again");
}
