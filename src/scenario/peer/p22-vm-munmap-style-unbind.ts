import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "VM munmap-style unbind: pages taken out of bindings, and put back",
  tags: ["gpuva", "err"],
};

const BASE = 0x1a00000;
const PAGES = 4;

/** Pages: of how many bindings the object is bound in, what is unbound, and what is left (offset = first page). */
const ROWS = [
  {
    name: "one-partial",
    binds: 1,
    unbind: [1, 2],
    left: [
      [0, 1],
      [3, 4],
    ],
  },
  {
    name: "either-side-partial",
    binds: 2,
    unbind: [1, 2],
    left: [
      [0, 1],
      [3, 4],
    ],
  },
  { name: "end", binds: 2, unbind: [0, 3], left: [[3, 4]] },
  { name: "front", binds: 2, unbind: [1, 3], left: [[0, 1]] },
] as const;

export default async function (s: Scenario): Promise<void> {
  const page = s.pages(1);
  const d = s.device();
  for (const row of ROWS) {
    const m = d.vm(s.proc(), { mirror: false });
    const b = await s.bo(d, PAGES * page, "VRAM");
    const each = (PAGES / row.binds) * page;
    for (let at = 0; at < PAGES * page; at += each) await m.bind(BASE + at, each, b, at);
    for (let i = 0; i < PAGES; i++) await m.gst(BASE + i * page + 8, 100 + i);
    s.must((await words(s, b)).join() === "100,101,102,103", `${row.name}: every page is written`);

    const [first, count] = row.unbind;
    await m.unbind(BASE + first * page, count * page);
    const left = s.vas(m).map((va) => [(va.start - BASE) / page, (va.end - BASE) / page, va.off / page]);
    const expected = row.left.map(([start, end]) => [start, end, start]);
    s.must(JSON.stringify(left) === JSON.stringify(expected), `${row.name}: what is left is ${JSON.stringify(left)}`);
    const isHole = (i: number) => i >= first && i < first + count;
    for (let i = 0; i < PAGES; i++) {
      const store = m.gst(BASE + i * page + 8, 200 + i);
      if (isHole(i)) await s.fails(store, "GPUFAULT", `${row.name}: a write to page ${i}, a hole, fails`);
      else await store;
    }
    const after = Array.from({ length: PAGES }, (_, i) => (isHole(i) ? 100 + i : 200 + i));
    s.must(
      (await words(s, b)).join() === after.join(),
      `${row.name}: writes to remaining pages land, those to the hole do not`,
    );

    await m.bind(BASE + first * page, count * page, b, first * page);
    for (let i = 0; i < PAGES; i++) await m.gst(BASE + i * page + 8, 300 + i);
    s.must((await words(s, b)).join() === "300,301,302,303", `${row.name}: with the hole bound again every page is`);
    await m.close();
    await b.close();
  }
}

async function words(s: Scenario, b: Awaited<ReturnType<Scenario["bo"]>>): Promise<number[]> {
  const found: number[] = [];
  for (let i = 0; i < PAGES; i++) found.push(await b.ld(s.pages(i) + 8));
  return found;
}
