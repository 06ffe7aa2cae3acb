import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe system allocator, many-large-malloc-prefetch: prefetch to VRAM before every store, the CPU reads after it",
  tags: ["prefetch", "migrate"],
};

const RECORDS = 128;

export default async function (s: Scenario): Promise<void> {
  const bytes = 2 << 20;
  const stride = bytes / RECORDS;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: bytes });
  await p.fill(a, bytes, 0x05);
  const expected = new Uint8Array(bytes).fill(0x05);
  const words = new DataView(expected.buffer);
  let wrong = 0;
  let faults = 0;
  let notMoved = 0;
  for (let i = 0; i < RECORDS; i++) {
    const offset = i * stride + 152;
    const value = s.random();
    if ((await m.prefetch(a, bytes, "DEV")) === 0) notMoved += 1;
    s.mark();
    await m.gst(a + offset, value);
    faults += s.delta(m).gpuFault;
    words.setUint32(offset, value, true);
    if ((await p.ld(a + offset)) !== value) wrong += 1;
  }
  s.must(wrong === 0, `the CPU reads every record after its store (${wrong} are wrong)`);
  s.must(notMoved === 0, "every prefetch moves what the CPU has taken back");
  s.cfg(faults === 0, `a store right after a prefetch takes no GPU fault (${faults} do)`);
  s.must(s.same(await p.read(a, bytes), expected), "all other bytes are as they were");
}
