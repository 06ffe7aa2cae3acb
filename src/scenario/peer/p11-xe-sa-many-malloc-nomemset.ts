import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe system allocator, many-malloc-nomemset: 128 GPU stores to memory the CPU never touched",
  tags: ["fault", "chunk"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 24 << 10;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes);

  const expected = new Uint8Array(bytes);
  const words = new DataView(expected.buffer);
  s.mark();
  for (let i = 0; i < 128; i++) {
    const offset = i * 160 + 152;
    const value = s.random();
    await m.gst(a + offset, value);
    words.setUint32(offset, value, true);
  }
  const ranges = s.ranges(m, a, a + bytes);
  s.cfg(ranges.length === 5 && ranges.every((r) => r.end - r.start === 4096), "five ranges of 4 KiB");
  s.cfg(s.delta(m).gpuFault === 5, "five faults");
  s.must(s.same(await p.read(a, bytes), expected), "stored words are right, everything else is 0");
}
