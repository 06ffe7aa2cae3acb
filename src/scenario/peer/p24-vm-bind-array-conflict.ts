import type { BatchOp } from "../../machine/bind.ts";
import type { Bo } from "../../machine/bo.ts";
import type { Vm } from "../../machine/vm.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "VM bind-array-conflict: three maps and an unmap through them, as one batch and one by one",
  tags: ["gpuva"],
};

const BASE = 0x1a00000;
const MIB = 1 << 20;

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  const states: string[] = [];
  for (const mode of ["batch", "one by one"] as const) {
    const m = d.vm(s.proc(), { mirror: false });
    const b = await s.bo(d, 8 * MIB, "VRAM");
    const map = (from: number, to: number): BatchOp => {
      return { op: "map", va: BASE + from * MIB, len: (to - from) * MIB, obj: b, off: from * MIB };
    };
    const ops = [map(0, 1), map(1, 3), map(3, 6), { op: "unmap", va: BASE + MIB, len: 4 * MIB } as const];
    if (mode === "batch") await m.batch(ops);
    else for (const op of ops) await m.batch([op]);
    states.push(await check(s, m, b, mode));
    await m.close();
    await b.close();
  }
  s.must(states[0] === states[1], "the same state comes of both");
}

/** What is mapped, as text. */
async function check(s: Scenario, m: Vm, b: Bo, mode: string): Promise<string> {
  const offsets = [0, MIB / 2, MIB / 4, 5 * MIB];
  for (const [i, off] of offsets.entries()) await m.gst(BASE + off, 1000 + i);
  const stored = await Promise.all(offsets.map((off) => b.ld(off)));
  s.must(stored.join() === "1000,1001,1002,1003", `${mode}: writes land in the object at the same offset`);
  await s.fails(m.gst(BASE + 2 * MIB, 7), "GPUFAULT", `${mode}: a write at 2 MiB fails`);
  s.must((await b.ld(2 * MIB)) === 0, `${mode}: and changes nothing`);
  const vas = JSON.stringify(s.vas(m).map((va) => [(va.start - BASE) / MIB, (va.end - BASE) / MIB, va.off / MIB]));
  s.must(vas === "[[0,1,0],[5,6,5]]", `${mode}: [0, 1M) and [5M, 6M) are left (${vas})`);
  const leafs = await s.leafs(m);
  return vas + JSON.stringify(leafs.map(({ va, size, write }) => [va, size, write]));
}
