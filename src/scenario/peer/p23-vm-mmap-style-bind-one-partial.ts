import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "VM mmap-style bind, one-partial: an object bound over the middle of another",
  tags: ["gpuva"],
};

export default async function (s: Scenario): Promise<void> {
  const base = 0x1a00000;
  const page = s.pages(1);
  const d = s.device();
  const m = d.vm(s.proc(), { mirror: false });
  const [b0, b1] = [await s.bo(d, 4 * page, "VRAM"), await s.bo(d, 4 * page, "VRAM")];
  await m.bind(base, 4 * page, b0);
  for (let i = 0; i < 4; i++) await m.gst(base + i * page, 1 + i);
  await m.bind(base + page, 2 * page, b1, page);
  for (let i = 0; i < 4; i++) await m.gst(base + i * page, 10 + i);

  const read = async (b: typeof b0) => [await b.ld(0), await b.ld(page), await b.ld(2 * page), await b.ld(3 * page)];
  s.must((await read(b0)).join() === "10,2,3,13", "pages 0 and 3 write to the first object, at offsets 0 and 3");
  s.must((await read(b1)).join() === "0,11,12,0", "pages 1 and 2 to the second, at 1 and 2");
  const vas = s
    .vas(m)
    .map((va) => [(va.start - base) / page, (va.end - base) / page, va.bo === b0 ? 0 : 1, va.off / page]);
  s.must(JSON.stringify(vas) === "[[0,1,0,0],[1,3,1,1],[3,4,0,3]]", "three mappings are there");
}
