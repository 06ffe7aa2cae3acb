import type { Bo } from "../../machine/bo.ts";
import type { Va, VaOp } from "../../machine/bind.ts";
import type { Vm } from "../../machine/vm.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "GPUVM split/merge table: one mapping, one request, the steps and the mappings that come of it",
  tags: ["gpuva"],
};

const BASE = 0x40000000;
/** Pages of the old mapping, whose offset in its object is its page number. */
const OLD = [4, 8] as const;
const BO_PAGES = 16;

/** In pages: the request, and what of the old mapping stays before and behind it. */
interface Row {
  readonly name: string;
  readonly request: readonly [start: number, end: number];
  readonly prev?: readonly [start: number, end: number];
  readonly next?: readonly [start: number, end: number];
}

const ROWS: readonly Row[] = [
  { name: "the same place", request: [4, 8] },
  { name: "left-aligned and longer", request: [4, 10] },
  { name: "right-aligned and longer", request: [2, 8] },
  { name: "containing the old mapping", request: [2, 10] },
  { name: "left-aligned and shorter", request: [4, 6], next: [6, 8] },
  { name: "right-aligned and shorter", request: [6, 8], prev: [4, 6] },
  { name: "over the end", request: [6, 10], prev: [4, 6] },
  { name: "in the middle", request: [5, 7], prev: [4, 5], next: [7, 8] },
  { name: "over the start", request: [2, 6], next: [6, 8] },
];

/** What the request maps: the object of the old mapping as it lies there, the same further on, another object, nothing. */
const KINDS = ["same", "other offset", "other BO", "unmap"] as const;

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  const m = d.vm(s.proc(), { mirror: false });
  const objects = [await s.bo(d, s.pages(BO_PAGES), "VRAM"), await s.bo(d, s.pages(BO_PAGES), "VRAM")] as const;
  for (const row of ROWS) for (const kind of KINDS) await check(s, m, objects, row, kind);
}

async function check(
  s: Scenario,
  m: Vm,
  [old, other]: readonly [Bo, Bo],
  row: Row,
  kind: (typeof KINDS)[number],
): Promise<void> {
  const page = s.pages(1);
  const va = (bo: Bo, start: number, end: number, off: number): Va => {
    return { start: BASE + start * page, end: BASE + end * page, kind: "bo", bo, off: off * page };
  };
  const kept = (piece: Row["prev"]): Va | null => (piece === undefined ? null : va(old, ...piece, piece[0]));
  const [start, end] = row.request;
  const off = kind === "other offset" ? start + 4 : start;
  const fresh = va(kind === "other BO" ? other : old, start, end, off);
  const was = va(old, ...OLD, OLD[0]);
  const [prev, next] = [kept(row.prev), kept(row.next)];

  await m.bind(was.start, was.end - was.start, old, was.off);
  const at = fresh.start;
  const length = fresh.end - fresh.start;
  const ops = kind === "unmap" ? await m.unbind(at, length) : await m.bind(at, length, fresh.bo!, fresh.off);

  const keep = kind === "same";
  const expected: VaOp[] = [
    prev === null && next === null ? { op: "unmap", va: was, keep } : { op: "remap", va: was, prev, next, keep },
  ];
  if (kind !== "unmap") expected.push({ op: "map", va: fresh });
  const name = `${row.name}, ${kind}`;
  s.must(show(ops) === show(expected), `${name}: ${show(ops)}`);
  const left = [prev, kind === "unmap" ? null : fresh, next].filter((piece) => piece !== null);
  s.must(
    s.vas(m).map(showVa).join() === left.map(showVa).join() && s.vas(m).every((piece, i) => piece.bo === left[i]!.bo),
    `${name}: leaves ${left.length} mappings`,
  );
  const remaps = ops.filter(({ op }) => op === "remap").length;
  s.must(remaps <= 2 && ops.filter(({ op }) => op === "map").length <= 1, `${name}: two remaps and one map at most`);
  await m.unbind(BASE, s.pages(BO_PAGES));
}

function show(ops: readonly VaOp[]): string {
  return ops
    .map((op) => {
      if (op.op === "map") return `map ${showVa(op.va)}`;
      const keep = op.keep ? ", keep" : "";
      if (op.op === "unmap") return `unmap ${showVa(op.va)}${keep}`;
      const prev = op.prev === null ? "" : ` prev ${showVa(op.prev)}`;
      const next = op.next === null ? "" : ` next ${showVa(op.next)}`;
      return `remap ${showVa(op.va)}${prev}${next}${keep}`;
    })
    .join("; ");
}

/** In pages. */
function showVa({ start, end, off, kind, bo }: Va): string {
  return `[${(start - BASE) / 4096}, ${(end - BASE) / 4096}) ${kind} ${bo?.driver.handle ?? 0} off ${off / 4096}`;
}
