import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe system allocator, evict-malloc: 72 MiB of allocations under 64 MiB of VRAM",
  tags: ["evict", "fault"],
};

export default async function (s: Scenario): Promise<void> {
  const vram = 64 << 20;
  const size = 8 << 20;
  const d = s.device({ vram });
  const p = s.proc();
  const m = d.vm(p);
  let highest = 0;
  const unwatch = s.watch(() => {
    highest = Math.max(highest, s.vram(d));
  });

  const stored: { at: number; value: number }[] = [];
  for (let i = 0; i < 9; i++) {
    const a = await p.mmap(size, { align: 2 << 20 });
    for (let offset = 0; offset < size; offset += 1 << 20) {
      const value = s.random();
      await m.gst(a + offset, value);
      stored.push({ at: a + offset, value });
      highest = Math.max(highest, s.vram(d));
    }
  }
  let right = 0;
  for (const { at, value } of stored) if ((await p.ld(at)) === value) right += 1;
  unwatch();
  s.must(stored.length === 72 && right === 72, `all 72 words are right by CPU (${right})`);
  s.must(highest <= vram, `VRAM use stayed within 64 MiB (highest ${highest / 1048576} MiB)`);
  s.cfg(s.cnt(m).evict > 0, "something had to be evicted");
}
