import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Partial unmap: a hole in the middle of a range",
  tags: ["gc", "range", "chunk"],
};

export default async function (s: Scenario): Promise<void> {
  const size = 2 << 20;
  const hole = { at: 512 << 10, bytes: 1 << 20 };
  const d = s.device({ vram: 16 << 20 });
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(size, { align: size });
  await p.fill(a, size, 0x05);
  await m.gst(a + 152, 1);
  s.cfg(s.ranges(m, a, a + size).length === 1, "one 2 MiB range");

  await p.munmap(a + hole.at, hole.bytes);
  await s.settle();
  s.must(
    s.ranges(m, a, a + size).every((r) => !r.unmapped),
    "the collector has removed the dead range",
  );

  await m.gst(a + 160, 2);
  await m.gst(a + hole.at + hole.bytes + 160, 3);
  const ranges = s.ranges(m, a, a + size);
  s.cfg(ranges.length === 2 && ranges.every((r) => r.end - r.start < size), "smaller ranges took its place");
  await s.fails(m.gst(a + hole.at, 4), "GPUFAULT", "the GPU faults in the hole");
  await s.fails(p.ld(a + hole.at), "SEGV", "and so does the CPU");

  s.must((await p.ld(a + 152)) === 1 && (await p.ld(a + 160)) === 2, "what lay before the hole is intact");
  s.must((await p.ld(a + hole.at + hole.bytes + 160)) === 3, "and what lay behind it");
  s.must((await p.ld(a + 4096)) === 0x05050505, "bytes nobody stored to are as they were");
}
