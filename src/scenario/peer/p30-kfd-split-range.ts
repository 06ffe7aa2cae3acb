import type { Atomic, JobOp, Loc } from "../../machine/vm.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "KFD SplitRange: requests on parts of memory that was advised, or moved, as one",
  tags: ["madvise", "prefetch", "range", "err"],
};

/** Pages from A: A has 16 of an area that begins 4 pages before it. */
type Part = readonly [first: number, pages: number];

interface Split {
  readonly name: string;
  /** Pages of the area from A on. */
  readonly mapped: number;
  /** What is registered as one. */
  readonly registered: Part;
  readonly requests: readonly Part[];
  readonly unmap?: Part;
}

const BEFORE = 4;
const WHOLE: Part = [0, 16];

const SPLITS: readonly Split[] = [
  { name: "one page inside", mapped: 16, registered: WHOLE, requests: [[2, 1]] },
  { name: "from the second page to the end", mapped: 16, registered: WHOLE, requests: [[1, 15]] },
  { name: "beyond the end", mapped: 16, registered: WHOLE, requests: [[2, 16]] },
  { name: "a negative length", mapped: 16, registered: WHOLE, requests: [[0, -2]] },
  { name: "the identical area", mapped: 16, registered: WHOLE, requests: [WHOLE] },
  { name: "a superset", mapped: 20, registered: WHOLE, requests: [[-2, 20]] },
  {
    name: "two islands",
    mapped: 32,
    registered: [0, 32],
    requests: [
      [2, 1],
      [8, 1],
    ],
  },
  { name: "removal after munmap", mapped: 16, registered: WHOLE, requests: [[2, 4]], unmap: [6, 4] },
];

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  for (const place of ["SYS", d] as const) {
    for (const how of ["attribute", "prefetch"] as const) {
      for (const split of SPLITS) await check(s, d, split, how, place);
    }
  }
}

async function check(
  s: Scenario,
  d: ReturnType<Scenario["device"]>,
  split: Split,
  how: "attribute" | "prefetch",
  place: Loc,
): Promise<void> {
  const name = `${split.name}, by ${how}, pages in ${place === "SYS" ? "system memory" : "VRAM"}`;
  const page = s.pages(1);
  const p = s.proc();
  const m = d.vm(p);
  const total = BEFORE + split.mapped;
  const area = await p.mmap(total * page);
  const a = area + BEFORE * page;
  const words = Uint32Array.from({ length: (total * page) / 4 }, (_, i) => i);
  await p.write(area, words);
  if (place !== "SYS") await m.toVram(area, total * page);

  const values = Array.from({ length: total }, (): { loc: Loc; atomic: Atomic } => ({
    loc: "DEFAULT",
    atomic: "UNDEFINED",
  }));
  const note = ([first, pages]: Part, change: Partial<{ loc: Loc; atomic: Atomic }>): void => {
    for (let i = first; i < first + pages; i++) if (i < split.mapped) Object.assign(values[BEFORE + i]!, change);
  };
  const [first, pages] = split.registered;
  await m.attr(a + first * page, pages * page, { loc: place, atomic: "GLOBAL" });
  note(split.registered, { loc: place, atomic: "GLOBAL" });

  const other: Loc = place === "SYS" ? d : "SYS";
  for (const request of split.requests) {
    const [at, length] = [a + request[0] * page, request[1] * page];
    if (length < 0) {
      await s.fails(
        how === "attribute" ? m.attr(at, length, { loc: other }) : m.prefetch(at, length, "DEV"),
        "EINVAL",
        `${name}: refused`,
      );
    } else if (how === "attribute") {
      await m.attr(at, length, { loc: other });
      note(request, { loc: other });
    } else {
      await prefetch(s, name, split, request, async (from, bytes) =>
        m.prefetch(a + from * page, bytes, other === "SYS" ? "SYS" : "DEV"),
      );
    }
  }
  const hole = split.unmap;
  if (hole !== undefined) await p.munmap(a + hole[0] * page, hole[1] * page);

  const isHole = (i: number) => hole !== undefined && i >= BEFORE + hole[0] && i < BEFORE + hole[0] + hole[1];
  const stores: JobOp[] = [];
  for (let i = 0; i < total; i++) {
    const at = area + i * page + 8;
    if (isHole(i)) await s.fails(m.gst(at, 9), "GPUFAULT", `${name}: a write to the hole fails`);
    else stores.push(["st", at, 7000 + i]);
  }
  await m.job(stores);
  let failed = 0;
  for (let i = 0; i < total; i++) {
    if (isHole(i)) continue;
    const expected = words.slice((i * page) / 4, ((i + 1) * page) / 4);
    expected[2] = 7000 + i;
    if (!s.same(await p.read(area + i * page, page), expected)) failed += 1;
  }
  s.must(failed === 0, `${name}: GPU writes to all mapped pages land, beside what was there`);
  const tiles = m.attrs(area, total * page);
  const isTiled = tiles.every((tile, i) => tile.start === (i === 0 ? area : tiles[i - 1]!.end));
  s.must(isTiled && tiles.at(-1)!.end === area + total * page, `${name}: the attributes tile the area`);
  const wrong = values.filter(({ loc, atomic }, i) => {
    const tile = tiles.find(({ start, end }) => start <= area + i * page && area + i * page < end);
    return tile?.loc !== loc || tile.atomic !== atomic;
  });
  s.must(wrong.length === 0, `${name}: with the values that were set (${wrong.length} pages differ)`);
  await p.exit();
}

/** A prefetch over a hole is refused; then the part that is mapped counts. */
async function prefetch(
  s: Scenario,
  name: string,
  split: Split,
  [first, pages]: Part,
  move: (first: number, bytes: number) => Promise<number>,
): Promise<void> {
  const mapped = Math.min(pages, split.mapped - first);
  if (mapped < pages)
    await s.fails(move(first, s.pages(pages)), "ENOENT", `${name}: a prefetch over a hole is refused`);
  const moved = await move(first, s.pages(mapped));
  s.must(moved >= 0 && moved <= 4 + split.mapped, `${name}: the prefetch moves what is elsewhere (${moved} pages)`);
}
