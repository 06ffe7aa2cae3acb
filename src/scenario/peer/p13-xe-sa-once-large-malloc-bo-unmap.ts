import type { Scenario } from "../verbs.ts";

export const meta = {
  title:
    "Xe system allocator, once-large-malloc-bo-unmap: a buffer object where memory is, and the mirror over it again",
  tags: ["gpuva", "fault", "range"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 2 << 20;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: bytes });
  await p.fill(a, bytes, 0x05);

  const b = await s.bo(d, bytes, "VRAM");
  await m.bind(a, bytes, b);
  await m.gst(a + 152, 0xb0);
  s.must((await b.ld(152)) === 0xb0, "while the buffer object is bound the GPU stores into it");
  s.must((await p.ld(a + 152)) === 0x05050505, "and not into the process's memory");
  await m.mirrorBind(a, bytes);
  await b.close();

  await m.gst(a + 152, 0xcafe);
  s.must((await p.ld(a + 152)) === 0xcafe, "under the mirror the CPU sees the GPU's store");
  s.must((await p.ld(a + 156)) === 0x05050505, "and what it wrote itself beside it");
  s.must(
    s.vas(m).every((va) => va.bo === null && va.kind === "mirror"),
    "no GPU VA of the buffer object is left",
  );
  await m.toSys(a, bytes);
  await s.settle();
  s.must(s.vram(d) === 0, "nor any memory of it");
}
