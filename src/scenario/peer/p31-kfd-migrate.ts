import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "KFD SVM migrate: two buffers prefetched back and forth, copied by the GPU, eight rounds",
  tags: ["prefetch", "migrate", "copy"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 16 << 20;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: 2 << 20 });
  const b = await p.mmap(bytes, { align: 2 << 20 });
  const words = new Uint32Array(bytes / 4);
  for (let round = 0; round < 8; round++) {
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 0x9e3779b1 + 2 * round);
    await p.write(a, words);
    await m.prefetch(a, bytes, "DEV");
    await m.prefetch(b, bytes, "DEV");
    s.cfg(
      s.where(p, a, bytes).every((place) => place === d),
      `round ${round}: A is in VRAM`,
    );
    await m.gcpy(b, a, bytes);
    await m.prefetch(a, bytes, "SYS");
    await m.prefetch(b, bytes, "SYS");
    s.cfg(
      s.where(p, b, bytes).every((place) => place === "SYS"),
      `round ${round}: B is in system memory`,
    );
    s.must(s.same(await p.read(b, bytes), words), `round ${round}: B equals A`);
  }
}
