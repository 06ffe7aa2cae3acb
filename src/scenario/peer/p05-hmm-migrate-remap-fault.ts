import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM migrate_remap_fault: a piece of 2 MiB is moved before or after its migration, and the CPU reads it",
  tags: ["mm", "migrate", "fault"],
};

const BYTES = 2 << 20;
const PIECE = 1 << 20;
const WORDS = Uint32Array.from({ length: BYTES / 4 }, (_, i) => i);

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  for (const when of ["before", "after"] as const) {
    for (const dontunmap of [false, true]) {
      for (const thp of [false, true]) {
        for (const offset of [0, 512 << 10, 1 << 20]) await remap(s, d, { when, dontunmap, thp, offset });
      }
    }
  }
}

async function remap(
  s: Scenario,
  d: ReturnType<Scenario["device"]>,
  o: { when: "before" | "after"; dontunmap: boolean; thp: boolean; offset: number },
): Promise<void> {
  const { when, dontunmap, thp, offset } = o;
  const name = `${when} the migration, dontunmap ${dontunmap}, THP ${thp}, offset ${offset >> 10} KiB`;
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(BYTES, { align: BYTES, thp });
  await p.write(a, WORDS);
  const piece = WORDS.subarray(offset / 4, (offset + PIECE) / 4);
  const rest = WORDS.slice();

  let to = 0;
  if (when === "before") to = await p.mremap(a + offset, PIECE, null, { dontunmap });
  const moved = await toVram(m, when === "before" ? pieces(a, offset, to) : [[a, BYTES]]);
  s.must(moved === BYTES / 4096, `${name}: all 512 pages move to VRAM (${moved})`);
  if (when === "after") to = await p.mremap(a + offset, PIECE, null, { dontunmap });

  s.must(s.same(await p.read(to, PIECE), piece), `${name}: the CPU reads the piece at its new place`);
  if (dontunmap) rest.fill(0, offset / 4, (offset + PIECE) / 4);
  else await s.fails(p.ld(a + offset), "SEGV", `${name}: the old place faults`);
  for (const [at, length] of dontunmap ? [[a, BYTES] as const] : outside(a, offset)) {
    const expected = rest.subarray((at - a) / 4, (at - a + length) / 4);
    s.must(s.same(await p.read(at, length), expected), `${name}: and the rest at the old one`);
  }
  s.must(s.same(await m.gread(to, PIECE), piece), `${name}: the GPU reads the piece at its new place`);
  await p.exit();
}

/** What lies in one area each: the moved piece, and what stays. */
function pieces(a: number, offset: number, to: number): [number, number][] {
  return [[to, PIECE], ...outside(a, offset)];
}

function outside(a: number, offset: number): [number, number][] {
  const parts: [number, number][] = [
    [a, offset],
    [a + offset + PIECE, BYTES - offset - PIECE],
  ];
  return parts.filter(([, length]) => length > 0);
}

async function toVram(m: ReturnType<ReturnType<Scenario["device"]>["vm"]>, areas: [number, number][]): Promise<number> {
  let moved = 0;
  for (const [at, length] of areas) moved += await m.toVram(at, length);
  return moved;
}
