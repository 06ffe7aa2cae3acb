import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM migrate_fault: to VRAM, half of it faulted back by the CPU, and to VRAM again",
  tags: ["migrate", "fault"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 4 << 20;
  const half = bytes / 2;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: 2 << 20 });
  const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => i);
  await p.write(a, words);

  s.must((await m.toVram(a, bytes)) === 1024, "1024 pages move to VRAM");
  s.must(
    s.where(p, a, bytes).every((place) => place === d),
    "every page is on the device",
  );
  s.must(s.same(await m.gread(a, bytes), words), "the GPU reads what the CPU wrote");

  s.must(s.same(await p.read(a, half), words.subarray(0, half / 4)), "the CPU faults the first half back and reads it");
  s.must(
    s.where(p, a, half).every((place) => place === "SYS"),
    "the first half is in system memory",
  );

  await m.toVram(a, bytes);
  s.must(
    s.where(p, a, bytes).every((place) => place === d),
    "all 1024 pages are on the device again",
  );
  s.must(s.same(await m.gread(a, bytes), words), "the GPU reads equal");
  s.must(s.same(await p.read(a, bytes), words), "the CPU reads equal");
}
