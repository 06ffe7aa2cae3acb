import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "First light: the GPU stores through a CPU address",
  tags: ["fault", "migrate"],
};

export default async function (s: Scenario): Promise<void> {
  const d = s.device({ vram: 16 << 20 });
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(4 << 20, { align: 2 << 20 });
  await p.st(a, 7);
  s.must(s.where(p, a) === "SYS", "the page that the CPU wrote lies in system memory");

  s.must((await m.ginc(a)) === 7, "the GPU adds to the word at the same address and finds the CPU's value");
  s.must(s.where(p, a) === d, "its page has moved to VRAM");
  s.cfg(s.ranges(m, a, a + (4 << 20)).length === 1, "one 2 MiB range serves it");
  s.cfg(s.cnt(m).gpuFault === 1, "one fault was enough");

  s.must((await p.ld(a)) === 8, "the CPU reads the sum");
  s.must(s.where(p, a) === "SYS", "and its touch has brought the page back");

  await m.gst(a + (2 << 20), 9);
  s.must((await p.ld(a + (2 << 20))) === 9, "memory that nobody had touched works the same");
}
