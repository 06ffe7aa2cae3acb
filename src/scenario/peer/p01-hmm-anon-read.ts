import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM anon_read: the GPU reads 4 MiB of which two pages are untouched and read-only",
  tags: ["fault", "mm"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 4 << 20;
  const head = s.pages(2);
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: 2 << 20 });
  const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => (i * 4 < head ? 0 : i));
  await p.write(a + head, words.subarray(head / 4));
  await p.mprotect(a, head, "R");

  s.mark();
  s.must(s.same(await m.gread(a, bytes), words), "the untouched pages read 0, every other word what the CPU wrote");
  const [faults, ranges] = [s.delta(m).gpuFault, s.ranges(m, a, a + bytes).length];
  s.cfg(faults <= ranges, `no more than one fault per range (${faults} for ${ranges})`);
  s.mark();
  s.must(s.same(await m.gread(a, bytes), words), "and again");
  s.cfg(s.delta(m).gpuFault === 0, "without another fault");
  const b = await p.mmap(2 << 20, { align: 2 << 20, populate: true });
  s.mark();
  await m.gread(b, 2 << 20);
  s.cfg(s.delta(m).gpuFault === 1, "memory of one range costs one fault, however many pages of it are read at once");
  const leafs = await s.leafs(m, a, a + head);
  s.must(
    leafs.every((leaf) => !leaf.write),
    "no page of the read-only part is writable for the GPU",
  );
  await s.fails(m.gst(a, 1), "GPUFAULT", "a GPU store to the read-only part fails");
  s.must((await p.ld(a)) === 0, "and stores nothing");
}
