import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe page-table leaves, boundary-split and pde-vs-pd: the largest leaves that fit, and none after the unbind",
  tags: ["gpuva", "tlb"],
};

const SZ_2M = 2 << 20;
const SZ_64K = 64 << 10;
const BASE = (1 << 30) + (128 << 20);
/** The source's 128 MiB, scaled to the VRAM. */
const LARGE = 32 << 20;

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  const m = d.vm(s.proc(), { mirror: false });
  const b = await s.bo(d, LARGE + 4096, "VRAM", { contiguous: true });
  const sizes = async (): Promise<string> => {
    const count = new Map<number, number>();
    for (const { size } of await s.leafs(m)) count.set(size, (count.get(size) ?? 0) + 1);
    return JSON.stringify([...count].sort(([x], [y]) => y - x));
  };

  await m.bind(BASE, b.size, b);
  s.must((await sizes()) === `[[${SZ_2M},${LARGE / SZ_2M}],[4096,1]]`, "2 MiB leaves, and one of 4 KiB for the rest");
  await m.gst(BASE + LARGE, 1);
  await m.gst(BASE + LARGE - 4, 2);
  s.must((await b.ld(LARGE)) === 1 && (await b.ld(LARGE - 4)) === 2, "stores on both sides of the border land");
  await m.unbind(BASE, b.size);
  s.must((await sizes()) === "[]", "none after the unbind");

  for (let i = 0; i < 32; i++) await m.bind(BASE + i * SZ_64K, SZ_64K, b, i * SZ_64K);
  s.must(
    s.vas(m).length === 32 && (await sizes()) === `[[${SZ_64K},32]]`,
    "32 mappings of 64 KiB: as many leaves of 64 KiB",
  );
  await m.unbind(BASE, SZ_2M);
  s.must((await sizes()) === "[]", "none after the unbind");

  await m.bind(BASE, SZ_2M, b);
  s.must((await sizes()) === `[[${SZ_2M},1]]`, "one mapping of 2 MiB: one leaf");
  await m.unbind(BASE, SZ_2M);
  s.must((await sizes()) === "[]", "none after the unbind");
}
