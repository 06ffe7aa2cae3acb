import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe system allocator, many-stride-malloc: 128 GPU stores spread over 5 MiB",
  tags: ["fault", "chunk", "range"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 5 << 20;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: 2 << 20 });
  await p.fill(a, bytes, 0x05);

  const expected = new Uint8Array(bytes).fill(0x05);
  const words = new DataView(expected.buffer);
  for (let i = 0; i < 128; i++) {
    const offset = i * 40_960 + 152;
    const value = s.random();
    await m.gst(a + offset, value);
    words.setUint32(offset, value, true);
  }

  const ranges = s.ranges(m, a, a + bytes);
  const sizes = ranges.map((r) => r.end - r.start);
  s.cfg(ranges.length === 18, "18 ranges");
  s.cfg(sizes.filter((size) => size === 2 << 20).length === 2, "2 ranges of 2 MiB");
  s.cfg(sizes.filter((size) => size === 64 << 10).length === 16, "16 ranges of 64 KiB");
  s.must(s.same(await p.read(a, bytes), expected), "all stored words are right, every other byte is 0x05");
}
